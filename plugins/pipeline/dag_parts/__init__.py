"""Tasks, pools and notifications that several DAGs share."""
