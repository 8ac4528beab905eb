"""The commands for people, as click reads them; what they do is in the other modules of this package.

Those are imported when a command runs: MLflow takes seconds to import, and `--help` should not wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tasks.contract.promotion import RollbackRequest

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")
POSITIVE = click.IntRange(min=1)


@click.command()
@click.option("--registered-model", metavar="NAME", help="Only this registered model.")
@click.option("--limit", type=POSITIVE, default=50, show_default=True, help="Show at most this many records.")
@as_json
def history(registered_model: str | None, limit: int, as_json: bool) -> None:
    """Show who or what promoted, refused or rolled back which version, and why."""
    from tasks.cli import history

    history.show(registered_model, limit, as_json)


@click.command("rollback-champion")
@click.option("--reason", required=True, help="Why; shown in the history.")
@click.option("--version", help="Version to go back to; default: the champion before this one.")
@click.option(
    "--registered-model",
    metavar="NAME",
    default=RollbackRequest.model_fields["registered_model"].default,
    show_default=True,
)
def rollback_champion(reason: str, version: str | None, registered_model: str) -> None:
    """Make the previous champion the champion again, and wait until the service uses it."""
    from tasks.cli import rollback

    rollback.roll_back({"reason": reason, "version": version or None, "registered_model": registered_model})


@click.command("gc")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="Only what has been idle for this many days.",
)
@click.option("--apply", is_flag=True, help="Remove what is found, instead of only listing it.")
def collect_leftovers(days: float, apply: bool) -> None:
    """List or remove what failed and abandoned runs left in MLflow and in the storage of searches."""
    from tasks.cli import leftovers

    leftovers.collect(days, apply)


@click.command("tune-results")
@click.option("--run-id", help="MLflow run of the stage tune; default: the newest search.")
@click.option("--limit", type=POSITIVE, help="Show at most this many trials.")
@as_json
def tune_results(run_id: str | None, limit: int | None, as_json: bool) -> None:
    """Show the trials of a search, best first, also while it runs."""
    from tasks.cli import tune_results

    tune_results.show(run_id, limit, as_json)


@click.command()
@click.option("--source", required=True, help="Folder, archive or .parquet file, local or s3://.")
@click.option("--layout", default="auto", show_default=True, help="splits, classes, sheet, parquet or names.")
@click.option("--file-column", help="Column with the file names, or in Parquet with the images.")
@click.option("--label-column", help="Column with the labels.")
@click.option("--label-pattern", help="Regular expression for file names, with a group `label`.")
@click.option("--name-encoding", help="Encoding of the names in an archive.")
@click.option("--image-size", type=int, help="Side of the images in the sample grid, in pixels.")
@click.option("--max-left-out", type=float, help="Largest share of files that may be left out.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for left_out.csv and the grid.")
def inspect(out: Path | None, **fields: Any) -> None:
    """Show what prepare would make of a data set, and what it would leave out and why; trains nothing."""
    from tasks.cli import inspect

    inspect.show({name: value for name, value in fields.items() if value is not None}, out)


@click.command()
@click.argument("dag_id")
@click.option("--dag-run-id", help="DAG run; default: the newest; - reads it from standard input.")
def summary(dag_id: str, dag_run_id: str | None) -> None:
    """Show what each stage of a DAG run did."""
    from tasks.cli import summary

    summary.show(dag_id, dag_run_id)


@click.command()
@click.argument("dag_id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def sample(dag_id: str, file: Path) -> None:
    """Save a test image of a DAG's newest run to FILE, to try the service with."""
    from tasks.cli import sample
    from tasks.settings import load_settings

    file.write_bytes(sample.sample(dag_id, load_settings()))


@click.command()
@click.option("--model", required=True, help="Network of timm, by name.")
@click.option("--file", type=click.Path(path_type=Path), help="File with weights; default: from the hub.")
@click.option("--licence", help="Licence of the weights; default: as the hub's list states it.")
def weights(model: str, file: Path | None, licence: str | None) -> None:
    """Store pretrained weights of a network in MLflow, for trainings without internet."""
    from tasks.cli import weights

    weights.keep(model, file, licence)


@click.command()
@click.argument("file")
def policies(file: str) -> None:
    """Check the administrators' rules in FILE, and print them as one line of JSON, for the settings of a cluster."""
    from tasks.contract.policies_file import for_stage, load_policies
    from tasks.settings import Settings

    if (found := load_policies(Settings(pipeline_policies=file))) is not None:
        print(for_stage(found))


COMMANDS = {
    command.name or "": command
    for command in (
        *(history, rollback_champion, collect_leftovers, tune_results, inspect, summary, sample, weights, policies),
    )
}
