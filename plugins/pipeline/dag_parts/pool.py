"""The Airflow pool of the tasks that read and move `champion`: one slot, for all DAGs (docs/decisions/0006).

`python -m pipeline.dag_parts.pool` creates it; a scheduler never starts a task whose pool is missing.
`airflow dags test` and `make run` use no scheduler and need no pool.
"""

from __future__ import annotations

CHAMPION = "champion"


def make_pools() -> None:
    """Create the pool in Airflow's database, or reset it to its one slot."""
    from airflow.models.pool import Pool  # here, because DAG files need only the name

    description = "Tasks that move the alias champion: one at a time, so that two promotions cannot interleave."
    Pool.create_or_update_pool(CHAMPION, slots=1, description=description, include_deferred=False)


if __name__ == "__main__":
    make_pools()
