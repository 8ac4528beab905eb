"""Makes a trained classifier smaller: from its ONNX form, or from the classifier itself. Neither MLflow nor Airflow."""
