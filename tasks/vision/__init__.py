"""Images, networks and their training: plain numpy and torch, no MLflow, no Airflow."""
