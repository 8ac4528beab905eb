"""Set up, start, watch, back up and stop the stack, on Docker or on Kubernetes: `python3 -m deploy COMMAND`.

Standard library only, so that it runs before anything is installed. The exceptions: `curl-line` needs the packages of
.venv, and `doctor` uses them where they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy import commands
from deploy.env_file import ENV_FILE, ROOT
from deploy.errors import DeployError
from deploy.kubernetes.cluster import NAMESPACE
from deploy.leftover_stages import DAYS
from deploy.nightly_backup import METRICS
from deploy.point_in_time import SECONDS as WAL_SECONDS
from deploy.restore_drill import METRICS as DRILL_METRICS
from deploy.restore_drill import SECONDS
from deploy.wal_shipping import METRICS as WAL_METRICS

INTERRUPTED = 130
ROTATE = "replace every secret by a new one, in .env and in the"

Add = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for a check that failed, else one of `deploy.errors`."""
    given = parser().parse_args(arguments)
    try:
        return int(given.run(given) or 0)
    except DeployError as error:
        for line in str(error).splitlines():
            print(f"{given.name}: {line}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(prog="python3 -m deploy", description="Operate the stack, on Docker or Kubernetes.")
    subparsers = whole.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int | None], help: str, *shared: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=shared)
        added.set_defaults(run=run)
        return added

    _add_compose(add)
    _add_local(add)
    _add_kubernetes(add)
    return whole


def _add_compose(add: Add) -> None:
    env, file, days = _env_file(), _file(), _days()
    one = add("setup", commands.run_setup, "write .env with fresh random secrets; an existing one keeps its values")
    one.add_argument("folder", nargs="?", type=Path, default=ROOT, help="default: the repository")
    one = add("up", commands.run_up, "start services and wait until they are healthy", env)
    one.add_argument("services", nargs="*", metavar="SERVICE", help="of docker-compose-mlops.yml; default: all")
    one.add_argument("--for-stages", action="store_true", help="only what stages started from this machine need")
    one = add("down", commands.run_down, "stop all services; data stay", env)
    one.add_argument("--volumes", action="store_true", help="delete the data as well")
    add("status", commands.run_status, "show a table of the services, their health and their addresses", env)
    one = add("logs", commands.run_logs, "follow the output of services", env)
    one.add_argument("services", nargs="*", metavar="SERVICE", help="default: all")
    one = add("user", commands.run_user, "create a user in Airflow and MLflow, or reset role and password", env)
    one.add_argument("user", metavar="NAME")
    one.add_argument("role", metavar="ROLE", help="viewer, editor or admin")
    _keep(add("rotate", commands.run_rotate, f"{ROTATE} running stack", env))
    text = "replace the release that runs by the one in this folder, or go back to it if that fails"
    one = add("upgrade", commands.run_upgrade, text, env)
    one.add_argument("--force", action="store_true", help="even if DAG runs are in progress")
    add("store-policies", commands.run_store_policies, "print what each key of the store may do, as policies", env)
    one = add("doctor", commands.run_doctor, "find what keeps the stack from working")
    one.add_argument("folder", nargs="?", type=Path, default=ROOT, help="default: the repository")
    add("backup", commands.run_backup, "save databases and bucket to a file", env, file)
    add("restore", commands.run_restore, "restore databases and bucket from a file", env, file, _restoring())
    one = add(
        "nightly-backup", commands.run_nightly_backup, "back up to the store that .env names, delete old ones", env
    )
    one.add_argument("--metrics", type=Path, default=METRICS, help="default: where node-exporter reads them")
    one = add("fetch-backup", commands.run_fetch_backup, "copy a backup from there to this machine", env)
    one.add_argument("backup", nargs="?", metavar="NAME", help="default: the newest")
    one = add(
        "restore-drill", commands.run_restore_drill, "restore into an empty second stack and ask its service", env
    )
    one.add_argument("--file", type=Path, help="default: the newest nightly backup")
    one.add_argument("--time", help="instead of a file the state at this time, from shipped WAL; or latest")
    one.add_argument("--metrics", type=Path, default=DRILL_METRICS, help="default: where node-exporter reads them")
    one.add_argument("--seconds", type=float, default=SECONDS, help="for the service to load (default: %(default)s)")
    one = add("ship-wal", commands.run_ship_wal, "bring Postgres' WAL to where backups are kept", env)
    one.add_argument("--metrics", type=Path, default=WAL_METRICS, help="default: where node-exporter reads them")
    one = add("restore-to", commands.run_restore_to, "bring the databases back to a point in time", env)
    one.add_argument("--time", help="such as 2026-03-01T14:05:00Z, or latest; without it those that are kept are shown")
    one.add_argument("--force", action="store_true", help="even if the present state cannot be shipped before")
    one.add_argument("--metrics", type=Path, default=WAL_METRICS, help="default: where node-exporter reads them")
    one.add_argument("--seconds", type=float, default=WAL_SECONDS, help="for reading the WAL (default: %(default)s)")
    one = add("decrypt-backup", commands.run_decrypt_backup, "write the tar in a backup to standard output", env)
    one.add_argument("--file", type=Path, required=True)
    add("leftover-containers", commands.run_leftover_containers, "list stage containers left behind", days)


def _keep(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keep", default="", metavar="NAMES", help="secrets to leave as they are, between blanks")


def _add_local(add: Add) -> None:
    add("ui", commands.run_ui, "start Airflow and MLflow on this machine, after `. deploy/env.sh RUNTIME`")
    add("stop-ui", commands.run_stop_ui, "stop what `ui` started")
    one = add("curl-line", commands.run_curl_line, "show how to ask the service with curl")
    one.add_argument("dag", metavar="DAG_ID", help="the test image comes from its newest evaluation")


def _add_kubernetes(add: Add) -> None:
    env, file, namespace, overlay = _env_file(), _file(), _namespace(), _overlay()
    cluster = (namespace, env)
    add("kubernetes-up", commands.run_kubernetes_up, "apply an overlay and wait until it is healthy", overlay, *cluster)
    one = add("kubernetes-airflow", commands.run_kubernetes_airflow, "install Airflow by Helm", overlay, *cluster)
    one.add_argument("--repository", default="", help="Git address of the DAG files")
    one.add_argument("--ref", default="", help="its branch, tag or commit")
    one.add_argument("--chart", default="apache-airflow/airflow", help="name or file (default: %(default)s)")
    _keep(add("kubernetes-rotate", commands.run_kubernetes_rotate, f"{ROTATE} cluster", overlay, *cluster))
    add("kubernetes-verify", commands.run_kubernetes_verify, "check what runs in the cluster", *cluster)
    add(
        "kubernetes-secrets",
        commands.run_kubernetes_secrets,
        "print an overlay's Secrets",
        overlay,
        *cluster,
    )
    text = "print an overlay's roles on AWS: who may take each, and what it may do"
    one = add("kubernetes-roles", commands.run_kubernetes_roles, text, overlay, namespace)
    one.add_argument("--oidc-provider", required=True, metavar="ARN", help="of the cluster")
    add("kubernetes-backup", commands.run_kubernetes_backup, "save the cluster's state to a file", *cluster, file)
    add("kubernetes-restore", commands.run_kubernetes_restore, "restore it from a file", *cluster, file, _restoring())
    one = add("leftover-pods", commands.run_leftover_pods, "list stage pods left behind", _days())
    one.add_argument("--namespace", help=f"of the platform, default: NAMESPACE, or {NAMESPACE}")
    text = "run a command with the cluster's MLflow and service at 127.0.0.1"
    one = add("forward", commands.run_forward, text, namespace)
    one.add_argument("--store", action="store_true", help="the S3 store as well, where it is in the cluster")
    one.add_argument("command", nargs="+", metavar="COMMAND", help="after --")


def _env_file() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--env-file", type=Path, default=ENV_FILE, help="default: .env of the repository")
    return shared


def _file() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--file", type=Path, help="a backup's default: a new one in backups/")
    return shared


def _restoring() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--plain", action="store_true", help="take a file without encryption, of an earlier release")
    shared.add_argument("--force", action="store_true", help="replace the state of a stack that was used")
    return shared


def _days() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--days", type=float, default=DAYS, help="since they were created (default: %(default)g)")
    shared.add_argument("--apply", action="store_true", help="remove them, too")
    return shared


def _namespace() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--namespace", default=NAMESPACE, help="default: %(default)s")
    return shared


def _overlay() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--overlay", default="local", help="name, or folder of your own (default: %(default)s)")
    return shared


if __name__ == "__main__":
    sys.exit(main())
