"""MLflow's server with an experiment, runs and versions as the pipeline leaves them, and somebody of each role."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import requests

from deploy.user import ROLES, Server, make_mlflow_user
from tasks.settings import MLFLOW_REGISTRY_USER, MLFLOW_STAGES_USER

from .conftest import Stack

PASSWORD = "a-long-password-1"
SERVING_USER = "pipeline-serving"
PEOPLE = ("stranger", "viewer", "editor", "admin")
API = "/api/2.0/mlflow"


@dataclass
class World:
    """The server, with an experiment, runs and versions as the pipeline leaves them."""

    stack: Stack
    logins: dict[str, tuple[str, str] | None]
    experiment: str = ""
    ledger: str = ""
    model: str = ""

    def ask(self, user: str, method: str, path: str, **given: Any) -> requests.Response:
        """Send a request as this user."""
        url = self.stack.mlflow_url + path
        return requests.request(method, url, auth=self.logins[user], timeout=120, **given)

    def must(self, user: str, method: str, path: str, **given: Any) -> Any:
        """Send a request that has to succeed."""
        answer = self.ask(user, method, path, **given)
        assert answer.ok, f"{user} {method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.text.startswith("{") else answer.text

    def run(self, experiment: str = "", user: str = MLFLOW_STAGES_USER) -> str:
        """Return a new run with a file."""
        body = {"experiment_id": experiment or self.experiment, "start_time": 1}
        made = self.must(user, "POST", f"{API}/runs/create", json=body)["run"]["info"]["run_id"]
        self.must(user, "PUT", self.file(made, experiment), data=b"bytes")
        return str(made)

    def file(self, run: str, experiment: str = "") -> str:
        """Return the path of the file of a run."""
        return f"/api/2.0/mlflow-artifacts/artifacts/{experiment or self.experiment}/{run}/artifacts/file.txt"

    def logged_model(self) -> str:
        """Return a new logged model."""
        body = {"experiment_id": self.experiment, "name": "model", "source_run_id": self.run()}
        made = self.must(MLFLOW_STAGES_USER, "POST", f"{API}/logged-models", json=body)
        return str(made["model"]["info"]["model_id"])

    def version(self) -> str:
        """Return a new version of the registered model."""
        made = self.must(MLFLOW_REGISTRY_USER, "POST", f"{API}/model-versions/create", json=self.new_version())
        return str(made["model_version"]["version"])

    def new_version(self) -> dict[str, str]:
        """Return what creates a version: of a logged model of its own."""
        model = self.logged_model()
        return {"name": self.model, "source": f"models:/{model}", "model_id": model}


def prepared(stack: Stack, model: str = "guarded") -> World:
    """Make somebody of each role, and a registered model."""
    administrator = base64.b64encode(":".join(stack.login).encode()).decode()
    server = Server("MLflow", stack.mlflow_url, f"Basic {administrator}")
    for person in PEOPLE:
        make_mlflow_user(server, f"a-{person}", ROLES[person][1] if person in ROLES else {}, PASSWORD)
    logins: dict[str, tuple[str, str] | None] = {"nobody": None}
    logins |= {person: (f"a-{person}", PASSWORD) for person in PEOPLE}
    logins |= {
        user: (user, stack.variables[f"MLFLOW_{user.removeprefix('pipeline-').upper()}_PASSWORD"])
        for user in (SERVING_USER, MLFLOW_STAGES_USER, MLFLOW_REGISTRY_USER)
    }
    made = World(stack, logins | {"administrator": stack.login}, model=model)
    for name in ("vision-mlops", "promotions"):
        found = made.must("administrator", "GET", f"{API}/experiments/get-by-name?experiment_name={name}")
        setattr(made, "ledger" if name == "promotions" else "experiment", found["experiment"]["experiment_id"])
    made.must(MLFLOW_REGISTRY_USER, "POST", f"{API}/registered-models/create", json={"name": made.model})
    return made
