"""Images in, classifiers out, in plain numpy and torch. May import the contract; neither MLflow nor Airflow."""
