"""Images, models and training: plain numpy and torch, neither MLflow nor Airflow."""
