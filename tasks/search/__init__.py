"""The search of the tune stage: trials on Ray, a run for each in MLflow, gone on with after a crash."""
