"""Create a user in Airflow and in MLflow with the same role and a random password, printed once.

    role     Airflow   MLflow: all experiments, all registered models
    viewer   Viewer    READ, READ       sees everything, changes nothing
    editor   User      READ, READ       triggers, pauses, clears and deletes runs; logs to experiments of their own
    admin    Admin     MANAGE, MANAGE   connections, users and everything else

Run again for the same name, it sets a new role and password in both programs; so a call that failed half way is simply
repeated. Standard library only; addresses and the administrators' passwords come from `.env`.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.errors import NO_PERMISSION, USAGE, DeployError

Grants = Mapping[str, str]  # permission by type of resource
ROLES: dict[str, tuple[str, Grants]] = {
    "viewer": ("Viewer", {"experiment": "READ", "registered_model": "READ"}),
    # What the gate trusts (runs, versions, aliases, the ledger) is written by the pipeline alone.
    "editor": ("User", {"experiment": "READ", "registered_model": "READ"}),
    "admin": ("Admin", {"experiment": "MANAGE", "registered_model": "MANAGE"}),
}
ADMINISTRATORS = {"admin"}  # created by `make up`, with the passwords in .env
PROGRAMS = re.compile("pipeline-.*")  # MLflow's users of the pipeline (images/mlflow/programs.py)


@dataclass(frozen=True)
class Server:
    """A program's REST API, with the administrator's credentials."""

    name: str
    url: str
    authorization: str = ""

    def ask(self, method: str, path: str, body: Mapping[str, Any], *, expected: int | None = None) -> dict[str, Any]:
        """Send a request and return the JSON answer; an empty one when the HTTP status is `expected`.

        Raises:
            DeployError: the server does not answer, or refuses.
        """
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        if self.authorization:
            request.add_header("Authorization", self.authorization)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            if error.code == expected:
                return {}
            if error.code == 401:
                raise DeployError(f"{self.name} refuses the administrator's password in .env", NO_PERMISSION) from None
            said = error.read().decode(errors="replace")[:300]
            raise DeployError(f"{self.name} answers {error.code} to {method} {path}: {said}", NO_PERMISSION) from None
        except OSError as error:
            raise DeployError(f"{self.name} does not answer at {self.url} ({error}); run make up") from None


def airflow(env: Mapping[str, str]) -> Server:
    """Log in to Airflow as its administrator."""
    url = f"http://127.0.0.1:{env.get('AIRFLOW_PORT') or 8080}"
    login = {"username": "admin", "password": env["AIRFLOW_ADMIN_PASSWORD"]}
    token = Server("Airflow", url).ask("POST", "/auth/token", login)["access_token"]
    return Server("Airflow", url, f"Bearer {token}")


def mlflow(env: Mapping[str, str]) -> Server:
    """Return MLflow's API with its administrator's login."""
    login = f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}"
    return Server(
        "MLflow",
        f"http://127.0.0.1:{env.get('MLFLOW_PORT') or 5000}",
        f"Basic {base64.b64encode(login.encode()).decode()}",
    )


def make_airflow_user(server: Server, name: str, role: str, password: str) -> None:
    """Create the user, or give an existing one this role and password."""
    person: dict[str, Any] = {"username": name, "email": f"{name}@localhost", "first_name": name, "last_name": "-"}
    person |= {"roles": [{"name": role}], "password": password}
    if not server.ask("POST", "/auth/fab/v1/users", person, expected=409):
        server.ask("PATCH", f"/auth/fab/v1/users/{name}?update_mask=roles,password", person)


def make_mlflow_user(server: Server, name: str, grants: Grants, password: str) -> None:
    """Create the user, or give an existing one these permissions and this password."""
    login = {"username": name, "password": password}
    if not server.ask("POST", "/api/2.0/mlflow/users/create", login, expected=400):
        server.ask("PATCH", "/api/2.0/mlflow/users/update-password", login)
    for kind, permission in grants.items():
        grant = {"username": name, "resource_type": kind, "resource_id": "*"}  # future ones too
        server.ask("POST", "/api/3.0/mlflow/users/permissions/revoke", grant, expected=404)
        server.ask("POST", "/api/3.0/mlflow/users/permissions/grant", grant | {"permission": permission})


def make_user(name: str, role: str, env: Mapping[str, str]) -> str:
    """Create the user in both programs and return the password.

    Raises:
        DeployError: the name or role is not valid, or a server does not answer or refuses.
    """
    if not name or not role:
        raise DeployError("give a name and a role: make user NAME=ann ROLE=viewer|editor|admin", USAGE)
    if not re.fullmatch(r"[a-z][a-z0-9._-]{1,30}", name):
        raise DeployError(
            f"NAME={name!r} is not valid; use 2 to 31 of a-z, 0-9, dot, dash and underscore, a letter first", USAGE
        )
    if role not in ROLES:
        raise DeployError(f"ROLE={role!r} is unknown; choose one of {', '.join(ROLES)}", USAGE)
    if name in ADMINISTRATORS | {env["MLFLOW_TRACKING_USERNAME"]}:
        raise DeployError(f"NAME={name!r} is the administrator, whose passwords are in .env; choose another", USAGE)
    if PROGRAMS.fullmatch(name):
        raise DeployError(f"NAME={name!r}: names with pipeline- in front are those of programs; choose another", USAGE)
    password = secrets.token_urlsafe(18)
    in_airflow, in_mlflow = ROLES[role]
    make_airflow_user(airflow(env), name, in_airflow, password)
    make_mlflow_user(mlflow(env), name, in_mlflow, password)
    return password
