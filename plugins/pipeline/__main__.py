"""The command line for Airflow on this machine, without a scheduler: `python -m pipeline`.

Airflow takes seconds to import, so every command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import sys

import click

from tasks import GC_THRESHOLDS
from tasks.errors import exit_code_of


@click.group()
def commands() -> None:
    """Run DAGs on this machine, and prepare Airflow's database for them."""


@commands.command()
@click.argument("dag_id")
@click.argument("conf", default="{}")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Set one Param; it overrides CONF.")
@click.option("--anew", is_flag=True, help="Start a new run, even if an earlier one did not finish.")
def run(dag_id: str, conf: str, params: tuple[str, ...], anew: bool) -> None:
    """Run a DAG once. CONF is a JSON object of Params.

    Exit code: 0 when the run succeeded, 1 when it failed, otherwise one from tasks/errors.py with a line that says why.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    succeeded: list[bool] = []

    def work() -> None:
        from pipeline.command.conf import parse_conf
        from pipeline.command.run import run

        succeeded.append(run(dag_id, parse_conf(conf, params), anew=anew))

    sys.exit(exit_code_of(work) or int(not succeeded[0]))


@commands.command()
def pool() -> None:
    """Create the pool `champion`, which a scheduler needs."""
    from pipeline.dag_parts.pool import make_pools

    make_pools()


@commands.command()
def clean_database() -> None:
    """Remove from Airflow's database what ended longer ago than AIRFLOW_KEEP_DAYS."""

    def work() -> None:
        from pipeline.command.clean_database import clean
        from tasks.settings import load_settings

        clean(load_settings().airflow_keep_days)

    sys.exit(exit_code_of(work))


if __name__ == "__main__":
    commands(prog_name="python -m pipeline")
