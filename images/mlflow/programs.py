"""The pipeline's programs as MLflow users: one for each part, with what that part needs and no more.

    user                pipeline's experiments   promotions   other experiments   registered models
    pipeline-stages     MANAGE                   READ         READ                READ
    pipeline-registry   MANAGE                   EDIT         READ                MANAGE
    pipeline-serving    READ                     READ         READ                READ

`prepare`, `tune`, `train`, `compress` and `evaluate` are `pipeline-stages`; `register`, `deploy`, `rollback` and
commands such as `make gc` are `pipeline-registry`, and `promotions` is their ledger. Both have to delete, which MLflow
allows only to owners: a search deletes the runs of trials that it repeats, `make gc` files. The service, which
strangers reach, is `pipeline-serving`.

`ensure` runs at every start of the server, before it answers: the passwords are then those of the environment, also the
administrator's, and nobody can take the experiments' names first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlflow.entities import ExperimentTag
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

STAGES, REGISTRY, SERVING = "pipeline-stages", "pipeline-registry", "pipeline-serving"
PASSWORDS = {
    STAGES: "MLFLOW_STAGES_PASSWORD",
    REGISTRY: "MLFLOW_REGISTRY_PASSWORD",
    SERVING: "MLFLOW_SERVING_PASSWORD",
}
EXPERIMENT, REGISTERED_MODEL, ALL = "experiment", "registered_model", "*"  # as MLflow names them in a grant
LEDGER = "promotions"
DEFAULT_EXPERIMENT = "vision-mlops"
# As in tasks/records/tracking.py: MLflow's pages open on training runs.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
OF_THE_PIPELINE = "tags.`pipeline.stage` LIKE '%'"  # its runs
BY_THE_PIPELINE = "tags.`pipeline.model_sha256` LIKE '%'"  # its model versions
OWNERS = (STAGES, REGISTRY)  # of the pipeline's experiments
ROOT = "mlflow-artifacts:/"  # where the server keeps artifacts, as its clients name it

Grants = dict[tuple[str, str], str]  # permission, by type and name of the resource


def ensure(environment: Mapping[str, str] = os.environ) -> None:
    """Give users and experiments the state that this module describes; prints what it takes from a person."""
    auth.store.init_db(environment["MLFLOW_AUTH_DATABASE_URI"])
    tracking = Tracking(environment["MLFLOW_BACKEND_STORE_URI"], ROOT)
    registry = Registry(environment["MLFLOW_BACKEND_STORE_URI"])
    people = [user for user in auth.store.list_users() if not user.is_admin and user.username not in PASSWORDS]
    owned = {
        pattern
        for user in people
        for (kind, pattern), permission in _found(user.id).items()
        if (kind, permission) == (EXPERIMENT, "MANAGE")
    }
    configured = _experiment(tracking, environment.get("PIPELINE_EXPERIMENT") or DEFAULT_EXPERIMENT)
    ledger = _experiment(tracking, LEDGER)
    own = ({configured} | (set(_used(tracking)) - owned)) - {ledger}

    administrator = environment["MLFLOW_AUTH_ADMIN_USERNAME"]
    _ensure_user(administrator, environment["MLFLOW_AUTH_ADMIN_PASSWORD"], is_admin=True)
    for name, variable in PASSWORDS.items():
        _ensure_user(name, environment[variable], is_admin=False)
        _set_grants(name, _grants(name, own, ledger))
    for user in people:
        for line in _restrict(user, {configured, ledger}, registry):
            print(f"mlflow: {line}", flush=True)
    tracking.engine.dispose()
    registry.engine.dispose()
    auth.store.engine.dispose()


def share_experiment(experiment_id: str) -> None:
    """Give the programs their permissions on an experiment that one of them has just created."""
    for name in OWNERS:
        auth.store.grant_user_permission(name, EXPERIMENT, experiment_id, "MANAGE")


def _experiment(tracking: Any, name: str) -> str:
    """Return the ID of an experiment, which is created if missing."""
    found = tracking.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    tags = [ExperimentTag(*tag) for tag in EXPERIMENT_TAGS.items()]
    return str(tracking.create_experiment(name, tags=tags))


def _used(tracking: Any) -> Iterator[str]:
    """Yield the experiments that have runs of the pipeline, also under another PIPELINE_EXPERIMENT than today's."""
    token = None
    while True:
        page = tracking.search_experiments(max_results=1000, page_token=token)  # limit: page by page, to the last one
        for found in page:
            # limit: one run is the answer
            if tracking.search_runs([found.experiment_id], OF_THE_PIPELINE, 1, max_results=1):
                yield str(found.experiment_id)
        token = page.token
        if not token:
            return


def _ensure_user(name: str, password: str, *, is_admin: bool) -> None:
    if not auth.store.has_user(name):
        auth.store.create_user(name, password, is_admin)
    elif not auth.store.authenticate_user(name, password):
        auth.store.update_user(name, password=password, is_admin=is_admin)


def _grants(name: str, own: Iterable[str], ledger: str) -> Grants:
    wanted = {(EXPERIMENT, ALL): "READ", (REGISTERED_MODEL, ALL): "MANAGE" if name == REGISTRY else "READ"}
    if name in OWNERS:
        wanted |= {(EXPERIMENT, one): "MANAGE" for one in own}
    if name == REGISTRY:
        wanted[EXPERIMENT, ledger] = "EDIT"
    return wanted


def _set_grants(name: str, wanted: Grants) -> None:
    found = _found(auth.store.get_user(name).id)
    for resource in found.keys() - wanted.keys():
        auth.store.revoke_user_resource_permission(name, *resource)
    for resource, permission in wanted.items():
        if found.get(resource) != permission:
            auth.store.grant_user_permission(name, *resource, permission)


def _found(user_id: int) -> Grants:
    kinds = {EXPERIMENT, REGISTERED_MODEL}
    rows = auth.store.list_grants(user_id, DEFAULT_WORKSPACE_NAME, kinds)
    return {(row.resource_type, row.resource_pattern): row.permission for row in rows if row.resource_type in kinds}


def _restrict(user: Any, experiments: set[str], registry: Any) -> Iterator[str]:
    """Take from a person what would let them write what the pipeline trusts; yield a line for each.

    An earlier release gave editors EDIT on everything, and whoever created an experiment or a registered model of the
    pipeline's before the pipeline did owns it. MANAGE on everything is an administrator's (`make user ROLE=admin`).
    """
    for (kind, pattern), permission in _found(user.id).items():
        if permission not in ("EDIT", "MANAGE"):
            continue
        if pattern == ALL:
            if permission == "EDIT":
                auth.store.grant_user_permission(user.username, kind, ALL, "READ")
                yield f"{user.username} may read every {kind} and edit none, as the role editor says"
        elif pattern in experiments if kind == EXPERIMENT else _is_ours(registry, pattern):
            try:
                auth.store.revoke_user_resource_permission(user.username, kind, pattern)
            except MlflowException as error:  # given by a role that an administrator made
                yield f"{user.username} may change {kind} {pattern}, which is the pipeline's: {error.message}"
            else:
                yield f"{user.username} owned {kind} {pattern}, which is the pipeline's; the permission was removed"


def _is_ours(registry: Any, model: str) -> bool:
    """Tell whether the pipeline registered a version of this model."""
    # limit: one version is the answer
    found = registry.search_model_versions(f"name = '{model}' AND {BY_THE_PIPELINE}", max_results=1)
    return bool(found)
