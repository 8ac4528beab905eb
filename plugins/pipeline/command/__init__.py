"""One DAG run from a shell, without a scheduler: what `make run` calls."""
