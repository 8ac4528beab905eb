"""The contract of Airflow and stages: requests, results, table of stages. May import pydantic and `tasks.errors`."""
