"""Who is told when something happens to a model: what happened, through which channels, and each matter once."""
