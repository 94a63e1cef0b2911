"""Monitoring: what has changed, and whether it proposes a retraining."""
