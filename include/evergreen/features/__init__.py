"""Features: Feast over the lake, its repository, training sets and the online store."""
