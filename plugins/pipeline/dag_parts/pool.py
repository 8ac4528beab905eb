"""The Airflow pool of the tasks that read and move `champion`: one slot, for all DAGs (docs/decisions/0006).

`python -m pipeline.dag_parts.pool` makes it; a scheduler starts no task whose pool is missing. `airflow dags test` and
`python -m pipeline.command.run` have no scheduler and need none.
"""

from __future__ import annotations

CHAMPION = "champion"


def make_pools() -> None:
    """Write the pool to Airflow's database, with its one slot, whatever it had before."""
    from airflow.models.pool import Pool  # not for DAG files, which need the name only

    description = "Tasks that move the alias champion: one at a time, or two promotions could pass each other."
    Pool.create_or_update_pool(CHAMPION, slots=1, description=description, include_deferred=False)


if __name__ == "__main__":
    make_pools()
