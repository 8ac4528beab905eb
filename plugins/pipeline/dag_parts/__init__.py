"""Tasks, pools and notifications that several DAGs share; imports `operator/` and `runtimes`."""
