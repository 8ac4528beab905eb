"""Images in, classifiers out, in plain numpy and torch. May import the gate and the contract; neither MLflow nor Airflow."""
