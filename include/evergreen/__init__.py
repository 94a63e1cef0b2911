"""The model lifecycle: steps, their contract and the services they stand on. Never imports airflow."""

__version__ = "0.1.0"
