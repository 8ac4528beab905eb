"""What each command of `python3 -m deploy` does with its arguments; each returns an exit code, or nothing for 0."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from pathlib import Path

from deploy import (
    backup,
    backup_encryption,
    bucket_check,
    curl_line,
    doctor,
    engine,
    leftover_containers,
    leftover_stages,
    logs,
    nightly_backup,
    point_in_time,
    restore_drill,
    rotate,
    setup_env,
    status,
    ui,
    up,
    upgrade,
    user,
    wal_shipping,
)
from deploy.backup_stack import ComposeStack, Stack
from deploy.env_file import ROOT, read, read_as_compose
from deploy.kubernetes import airflow, forward, leftover_pods, verify
from deploy.kubernetes import up as cluster_up
from deploy.kubernetes.backup import ClusterStack
from deploy.kubernetes.cluster import NAMESPACE, Cluster
from deploy.kubernetes.roles import roles
from deploy.kubernetes.rotate import InCluster
from deploy.kubernetes.secret_manifests import manifest, secrets_of, settings_of
from deploy.store_policies import PURPOSES, user_policy


def run_setup(given: Namespace) -> None:
    """Write or complete `.env`."""
    setup_env.setup(given.folder)


def run_up(given: Namespace) -> None:
    """Start services and wait until they are healthy."""
    services = up.needed_by_stages(given.env_file) if given.for_stages else given.services
    up.start(ROOT, given.env_file, services)


def run_down(given: Namespace) -> int:
    """Stop all services."""
    return up.stop(given.env_file, volumes=given.volumes)


def run_status(given: Namespace) -> int:
    """Show a table of the services."""
    return status.show(given.env_file)


def run_logs(given: Namespace) -> int:
    """Follow the output of services."""
    return logs.follow(given.services, given.env_file)


def run_user(given: Namespace) -> None:
    """Create a user and print the password."""
    password = user.make_user(given.user, given.role, read_as_compose(given.env_file))
    print(f"{given.user} ({given.role}), in Airflow and MLflow; the password is shown only once: {password}")


def run_rotate(given: Namespace) -> None:
    """Replace every secret by a new one."""
    _say_rotated(given.env_file, rotate.rotate(rotate.Compose(given.env_file), given.env_file, given.keep.split()))


def run_upgrade(given: Namespace) -> None:
    """Replace the release that runs by the one in this folder."""
    print(upgrade.upgrade(given.env_file, force=given.force))


def run_store_policies(given: Namespace) -> None:
    """Print the policy of each purpose's key, by the variable that the key has."""
    bucket = read_as_compose(given.env_file).get("S3_BUCKET") or "mlflow"
    print(json.dumps({one.access_key: user_policy(one, bucket) for one in PURPOSES}, indent=2))


def run_doctor(given: Namespace) -> int:
    """Find what keeps the stack from working."""
    bucket_check.restart_in_venv(["doctor", str(given.folder)])
    return doctor.report(given.folder)


def run_backup(given: Namespace) -> None:
    """Save the stack's state."""
    backup.save_to(ComposeStack(given.env_file), given.file, backup_encryption.keys(read(given.env_file)))


def run_nightly_backup(given: Namespace) -> None:
    """Save the stack's state to where backups are kept, and delete old ones."""
    print("\n".join(nightly_backup.run(ComposeStack(given.env_file), read(given.env_file), given.metrics)))


def run_fetch_backup(given: Namespace) -> None:
    """Copy a backup from where backups are kept and print its path."""
    print(nightly_backup.fetch(ComposeStack(given.env_file), read(given.env_file), given.backup))


def run_ship_wal(given: Namespace) -> None:
    """Bring Postgres' WAL to where backups are kept."""
    print("\n".join(wal_shipping.run(ComposeStack(given.env_file), read(given.env_file), given.metrics)))


def run_restore_to(given: Namespace) -> None:
    """Bring the databases back to a point in time."""
    stack = ComposeStack(given.env_file)
    print(
        "\n".join(point_in_time.restore_to(stack, given.time, given.metrics, force=given.force, seconds=given.seconds))
    )


def run_restore_drill(given: Namespace) -> None:
    """Restore a backup into an empty second stack and compare its champion's answers."""

    def drill(file: Path) -> list[str]:
        return restore_drill.run(given.env_file, file, given.metrics, seconds=given.seconds)

    stack = ComposeStack(given.env_file)
    if given.time:
        print("\n".join(point_in_time.save_newest(stack, given.time, drill)))
    else:
        print("\n".join(drill(given.file or nightly_backup.fetch(stack, read(given.env_file), None))))


def run_restore(given: Namespace) -> None:
    """Restore the stack's state."""
    _restore(ComposeStack(given.env_file), given)


def _restore(stack: Stack, given: Namespace) -> None:
    keys = backup_encryption.keys(read(given.env_file))
    backup.restore_from(stack, given.file, keys, force=given.force, plain=given.plain)


def run_decrypt_backup(given: Namespace) -> None:
    """Write the tar in a backup to standard output."""
    backup.decrypt(given.file, backup_encryption.keys(read(given.env_file)))


def run_leftover_containers(given: Namespace) -> None:
    """List or remove stage containers left behind."""
    network = os.environ.get("PIPELINE_DOCKER_NETWORK") or engine.NETWORK
    leftover_stages.clean(leftover_containers.place(network), given.days, apply=given.apply)


def run_ui(_: Namespace) -> None:
    """Start Airflow and MLflow on this machine."""
    ui.start()


def run_stop_ui(_: Namespace) -> None:
    """Stop them."""
    ui.stop()


def run_curl_line(given: Namespace) -> int:
    """Show how to ask the service with curl."""
    return curl_line.show(given.dag)


def run_kubernetes_up(given: Namespace) -> None:
    """Apply an overlay and wait until it is healthy."""
    began = time.monotonic()
    cluster_up.up(Cluster(given.namespace), given.overlay, read(given.env_file))
    print(f"{given.overlay} is up in namespace {given.namespace} after {time.monotonic() - began:.0f} s")


def run_kubernetes_airflow(given: Namespace) -> int:
    """Install or upgrade Airflow by its Helm chart."""
    values, settings = read(given.env_file), settings_of(given.overlay)
    airflow.require_roles(Cluster(given.namespace))
    source = {"repository": given.repository, "ref": given.ref, "chart": given.chart}
    return airflow.install(airflow.helm(values, settings, namespace=given.namespace, **source))


def run_kubernetes_rotate(given: Namespace) -> None:
    """Replace every secret by a new one."""
    place = InCluster(Cluster(given.namespace), given.overlay)
    _say_rotated(given.env_file, rotate.rotate(place, given.env_file, given.keep.split()))
    print("Airflow, where it runs in the cluster, needs them too: make kubernetes-airflow")


def _say_rotated(env_file: Path, changed: list[str]) -> None:
    print(f"new in {env_file}: {', '.join(changed)}")
    if rotate.API_KEY in changed:
        print(f"clients of the service need the new {rotate.API_KEY}")


def run_kubernetes_verify(given: Namespace) -> int:
    """Check what runs in the cluster."""
    return verify.report(Cluster(given.namespace), read(given.env_file))


def run_kubernetes_secrets(given: Namespace) -> None:
    """Print an overlay's Secrets."""
    print(manifest(secrets_of(read(given.env_file), settings_of(given.overlay)), given.namespace))


def run_kubernetes_roles(given: Namespace) -> None:
    """Print an overlay's roles on AWS."""
    print(json.dumps(roles(settings_of(given.overlay), given.namespace, given.oidc_provider), indent=2))


def run_kubernetes_backup(given: Namespace) -> None:
    """Save the cluster's state."""
    keys = backup_encryption.keys(read(given.env_file))
    backup.save_to(ClusterStack(Cluster(given.namespace)), given.file, keys)


def run_kubernetes_restore(given: Namespace) -> None:
    """Restore the cluster's state."""
    _restore(ClusterStack(Cluster(given.namespace)), given)


def run_leftover_pods(given: Namespace) -> None:
    """List or remove stage pods left behind."""
    namespace = given.namespace or os.environ.get("NAMESPACE") or NAMESPACE
    leftover_stages.clean(leftover_pods.place(Cluster(namespace)), given.days, apply=given.apply)


def run_forward(given: Namespace) -> int:
    """Run a command with the cluster's MLflow and service at 127.0.0.1."""
    return forward.forward(Cluster(given.namespace), given.command, os.environ, store=given.store)
