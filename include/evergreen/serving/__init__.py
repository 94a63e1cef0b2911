"""Online predictions: the server, what it answers with, and the log of what it answered."""
