"""Images in, classifiers out, in numpy and torch. May import the gate and the contract, neither MLflow nor Airflow."""
