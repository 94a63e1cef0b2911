"""The laptop: embedded services, their supervisor, and the season that is replayed on them."""
