"""Replays a season of one model, period by period, through a running Airflow or as plain function calls."""
