"""The Airflow side: the operator, the drift sensor and its trigger, what the DAG files share."""
