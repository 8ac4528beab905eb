"""The command line, `python -m tasks`: the entry point of every image, and the commands for people.

An image starts fast and holds only the code of its own stage, so every command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click

from tasks import GC_THRESHOLDS
from tasks.contract.stages import STAGES
from tasks.errors import exit_code_of
from tasks.runner.prewarmed import read_request
from tasks.runner.stage_process import RESULT_PATH, run_stage

# At INFO they log details of no interest in a task's log: credentials found, fonts built, migrations run.
LIBRARIES = ("alembic", "botocore", "matplotlib", "mlflow.store.db.utils", "onnx_ir", "onnxscript")


class Commands(click.Group):
    """The stages, the other programs of the images, and the commands for people where `tasks.cli` is installed."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name; None for an unknown one."""
        if cmd_name in STAGES:
            return stage_command(cmd_name)
        return PROGRAMS.get(cmd_name) or for_people().get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands, in the order of the help page."""
        return [*for_people(), *PROGRAMS, *STAGES]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help page's lists of commands."""
        groups: dict[str, Mapping[str, click.Command]] = {
            "Commands": for_people(),
            "Programs of the images": PROGRAMS,
            "Stages": {name: stage_command(name) for name in STAGES},
        }
        for title, commands in groups.items():
            if commands:
                with formatter.section(title):
                    formatter.write_dl([(name, one.get_short_help_str(100)) for name, one in commands.items()])

    def invoke(self, ctx: click.Context) -> None:
        """Run a command and end with the exit code of a known failure, if there is one."""
        ctx.exit(exit_code_of(partial(super().invoke, ctx)))


def stage_command(stage: str) -> click.Command:
    """Make the command that runs a stage."""
    return click.Command(
        stage,
        callback=partial(_run_stage, stage),
        params=[
            click.Option(["--request"], required=True, metavar="JSON", help="The request; - reads standard input."),
            click.Option(
                ["--result"],
                type=click.Path(path_type=Path),
                default=RESULT_PATH,
                show_default=True,
                help="File for the JSON result.",
            ),
        ],
        help=f"Run the stage {stage!r}, as an Airflow task does.",
    )


def for_people() -> Mapping[str, click.Command]:
    """Return the commands of `tasks.cli`; none in an image, which has no such package."""
    if importlib.util.find_spec("tasks.cli") is None or importlib.util.find_spec("tasks.cli.commands") is None:
        return {}
    from tasks.cli.commands import COMMANDS

    return COMMANDS


def _log_to_stdout() -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


def _run_stage(stage: str, request: str, result: Path) -> None:
    _log_to_stdout()
    text = read_request() if request == "-" else request
    click.get_current_context().exit(run_stage(stage, text, result))


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Start the prediction service, or end it with --stop."""
    # Not in this process: a running service is recognized by its command line (`tasks.serving.process`).
    os.execv(sys.executable, [sys.executable, "-m", "tasks.serving", *arguments])  # noqa: S606  # no shell


@click.command("ray-node")
@click.argument("role", type=click.Choice(["head", "worker"]))
def ray_node(role: str) -> None:
    """Become a node of the Ray cluster of the Compose profile `ray`."""
    from tasks.search import node

    node.become(role)


@click.command("export-onnx")
@click.option("--version", type=click.IntRange(min=1), help="Version to export; default: what SERVING_MODEL names.")
def export_onnx(version: int | None) -> None:
    """Export a version that an earlier release registered to ONNX, once, so that the service can run it."""
    from tasks.cli.export_onnx import export
    from tasks.settings import load_settings

    _log_to_stdout()
    print(export(load_settings(), version), flush=True)


PROGRAMS = {command.name or "": command for command in (serve, ray_node, export_onnx)}
commands = Commands("tasks", help="Run a stage of the pipeline, or look after the models it makes.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        commands(arguments, prog_name="python -m tasks")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    raise AssertionError("click always exits")


if __name__ == "__main__":
    gc.set_threshold(*GC_THRESHOLDS)
    code = main()
    # Skip interpreter shutdown: nothing is left to write, and torch's teardown costs most of a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
