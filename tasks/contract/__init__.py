"""What Airflow and a stage agree on: requests, results, the table of stages. May import pydantic and `tasks.errors`."""
