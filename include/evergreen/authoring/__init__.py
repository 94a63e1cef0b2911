"""Authoring: a new model from templates, and everything that can be checked before it runs."""
