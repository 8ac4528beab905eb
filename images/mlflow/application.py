"""MLflow's application with basic authentication, and rules that its permissions cannot express.

Administrators are bound by none of them.

- Who creates a registered model owns it, and what the pipeline registers there later. So only those who may change all
  registered models create one.
- An experiment's artifacts are where the server puts them. An address of the user's choice could be a folder of another
  experiment.
- The programs' users change no permission and no password, and neither rename nor delete an experiment, although they
  own the pipeline's.
- Who may read all runs, or all registered models, is told that one does not exist (404). MLflow says 403 to all but
  administrators, so that strangers learn nothing; a stage could not tell a wrong permission from a first model.

And one for all: a request that waited in vain for a connection to the database is answered 503, after which clients try
again. MLflow says 400, as if the request were wrong.

MLflow finds it by its name, `vision-mlops`, through the entry points beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import programs
from flask import Response, g, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.protos.service_pb2 import CreateExperiment
from mlflow.server import app, auth
from mlflow.server.auth.permissions import NO_PERMISSIONS, GrantLoadKey, Permission
from mlflow.server.handlers import _get_model_registry_store, _get_request_message, _get_tracking_store
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy.exc import TimeoutError  # of the pool

CREATE_MODEL = "/mlflow/registered-models/create"
CREATE_EXPERIMENT = "/mlflow/experiments/create"
ADMINISTRATION = ("/mlflow/experiments/delete", "/mlflow/experiments/update", "/mlflow/experiments/restore")
USERS = ("/mlflow/users/", "/mlflow/roles/", "/permissions/")
REGISTRY = ("/mlflow/registered-models/", "/mlflow/model-versions/")
NO_CONNECTION = "QueuePool limit of size"


def create_app() -> Any:
    """Return the application; `mlflow server` calls this in each of its workers."""
    application = auth.create_app()
    app.before_request(refusal)
    app.after_request(share)
    app.after_request(tell_of_missing)
    app.after_request(tell_of_load)
    app.register_error_handler(MlflowException, as_mlflow_says)
    app.register_error_handler(TimeoutError, no_connection)
    return application


def refusal() -> Response | None:
    """Return the answer to a request that a rule forbids; MLflow has authenticated its user by now."""
    user, rule = getattr(g, "mlflow_authenticated_user", None), _rule()
    if user is None or auth.sender_is_admin():
        return None
    if rule.endswith(CREATE_MODEL) and not _permission_on_all(user, programs.REGISTERED_MODEL).can_update:
        return _forbidden("registered models are created by the pipeline (register) and by administrators")
    if rule.endswith(CREATE_EXPERIMENT) and _get_request_message(CreateExperiment()).artifact_location:
        return _forbidden("leave artifact_location out: this server chooses where an experiment's artifacts are")
    if user in programs.PASSWORDS and (rule.endswith(ADMINISTRATION) or any(part in rule for part in USERS)):
        return _forbidden(f"{user} is a program of the pipeline; log in as an administrator")
    return None


def share(response: Response) -> Response:
    """Give the programs their permissions on an experiment that one of them created."""
    created = _rule().endswith(CREATE_EXPERIMENT) and response.status_code == 200
    if created and getattr(g, "mlflow_authenticated_user", None) in programs.PASSWORDS:
        programs.share_experiment(str(response.get_json(force=True)["experiment_id"]))
    return response


def tell_of_missing(response: Response) -> Response:
    """Turn MLflow's 403 into 404 where what was asked for does not exist, and the user may read all of its kind."""
    user = getattr(g, "mlflow_authenticated_user", None)
    if response.status_code != 403 or user is None or "refused" in g:
        return response
    run, model = _parameter("run_id"), _parameter("model_id")
    registered = _parameter("name") if any(part in _rule() for part in REGISTRY) else None
    try:
        if (run or model) and _permission_on_all(user, programs.EXPERIMENT).can_read:
            _get_tracking_store().get_run(run) if run else _get_tracking_store().get_logged_model(model)
        if registered and _permission_on_all(user, programs.REGISTERED_MODEL).can_read:
            _get_model_registry_store().get_registered_model(registered)
    except MlflowException as error:
        return as_mlflow_says(error)
    return response


def tell_of_load(response: Response) -> Response:
    """Turn MLflow's 400 for SQLAlchemy's timeout, which no request is to blame for, into 503."""
    timed_out = response.status_code == 400 and response.is_json and NO_CONNECTION in response.get_data(as_text=True)
    return no_connection() if timed_out else response


def no_connection(_: Exception | None = None) -> Response:
    """Return the answer to a request that got no connection to the database."""
    error = MlflowException("every connection to the database is in use; try again", TEMPORARILY_UNAVAILABLE)
    return Response(error.serialize_as_json(), 503, {"Retry-After": "1"}, mimetype="application/json")


def as_mlflow_says(error: MlflowException) -> Response:
    """Return the answer to a request whose permissions could not be looked up; by itself, Flask says 500."""
    return Response(error.serialize_as_json(), error.get_http_status_code(), mimetype="application/json")


def _parameter(name: str) -> str | None:
    """Return a parameter of the request, wherever a client may put it; None if it has none of this name."""
    body = request.get_json(silent=True)
    for given in (request.view_args, request.args, body):
        if isinstance(given, Mapping) and isinstance(given.get(name), str):
            return str(given[name])
    return None


def _rule() -> str:
    """Return the pattern of the route that the request takes; empty when there is none."""
    return str(request.url_rule.rule) if request.url_rule else ""


def _permission_on_all(user: str, kind: str) -> Permission:
    """Return what a user may do with every resource of a kind, future ones included."""
    found = auth.resolve_permissions(user, DEFAULT_WORKSPACE_NAME, [GrantLoadKey(kind, programs.ALL)])[0]
    return found or NO_PERMISSIONS


def _forbidden(why: str) -> Response:
    g.refused = True
    return Response(f"Permission denied: {why}", status=403)
