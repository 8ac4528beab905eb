"""One DAG run from a shell, without a scheduler: `python -m pipeline run`, which `make run` calls."""
