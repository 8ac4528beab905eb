"""The Airflow pool of the tasks that read and move the alias `champion`: one slot for all DAGs (docs/decisions/0006).

`python -m pipeline pool` creates it. A scheduler does not start a task whose pool is missing; `airflow dags test` and
`python -m pipeline run` work without a scheduler and need no pool.
"""

from __future__ import annotations

CHAMPION = "champion"


def make_pools() -> None:
    """Create the pool in Airflow's database, or set an existing one back to its single slot."""
    from airflow.models.pool import Pool  # imported here: DAG files need only the name

    description = "Tasks that move the alias champion: one at a time, or two promotions could pass each other."
    Pool.create_or_update_pool(CHAMPION, slots=1, description=description, include_deferred=False)
