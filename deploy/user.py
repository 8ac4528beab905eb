"""Make a user of Airflow and of MLflow with one role and one random password, printed once.

    python deploy/user.py NAME viewer|editor|admin [ENV_FILE]

    role     Airflow   MLflow: all experiments and registered models
    viewer   Viewer    READ     sees everything, changes nothing
    editor   User      EDIT     triggers, pauses, clears and deletes runs
    admin    Admin     MANAGE   connections, users and all the rest

Repeated, it sets role and password anew, in both programs: so a call that failed half way is simply made again.
Standard library only; addresses and the administrators' passwords come from `.env`.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from deploy.setup_env import seen_by_compose

ROLES = {"viewer": ("Viewer", "READ"), "editor": ("User", "EDIT"), "admin": ("Admin", "MANAGE")}
ADMINISTRATORS = {"admin"}  # made by `make up`; their passwords are those of .env
SHARED = ("experiment", "registered_model")
BAD_REQUEST, AWAY, REFUSED = 64, 69, 77  # as in tasks/errors.py and sysexits.h


class UserError(Exception):
    """The user cannot be made; says why in one line.

    Attributes:
        code: exit code of the program.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Server:
    """A program's REST API and the administrator's right to use it."""

    name: str
    url: str
    authorization: str = ""

    def ask(self, method: str, path: str, body: Mapping[str, Any], *, expected: int | None = None) -> dict[str, Any]:
        """Send a request and return the JSON answer; nothing when its status is the one `expected`.

        Raises:
            UserError: the server is away, or refuses.
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
                raise UserError(f"{self.name} refuses the administrator's password in .env", REFUSED) from None
            said = error.read().decode(errors="replace")[:300]
            raise UserError(f"{self.name} answers {error.code} to {method} {path}: {said}", REFUSED) from None
        except OSError as error:
            raise UserError(f"no {self.name} answers at {self.url} ({error}); run make up", AWAY) from None


def airflow(env: Mapping[str, str]) -> Server:
    """Log in to Airflow as its administrator."""
    url = f"http://127.0.0.1:{env.get('AIRFLOW_PORT') or 8080}"
    login = {"username": "admin", "password": env["AIRFLOW_ADMIN_PASSWORD"]}
    token = Server("Airflow", url).ask("POST", "/auth/token", login)["access_token"]
    return Server("Airflow", url, f"Bearer {token}")


def mlflow(env: Mapping[str, str]) -> Server:
    """Return MLflow with its administrator's login."""
    login = f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}"
    return Server(
        "MLflow",
        f"http://127.0.0.1:{env.get('MLFLOW_PORT') or 5000}",
        f"Basic {base64.b64encode(login.encode()).decode()}",
    )


def make_airflow_user(server: Server, name: str, role: str, password: str) -> None:
    """Make the user, or give the one there is this role and password."""
    person: dict[str, Any] = {"username": name, "email": f"{name}@localhost", "first_name": name, "last_name": "-"}
    person |= {"roles": [{"name": role}], "password": password}
    if not server.ask("POST", "/auth/fab/v1/users", person, expected=409):
        server.ask("PATCH", f"/auth/fab/v1/users/{name}?update_mask=roles,password", person)


def make_mlflow_user(server: Server, name: str, permission: str, password: str) -> None:
    """Make the user, or give the one there is this permission and password."""
    login = {"username": name, "password": password}
    if not server.ask("POST", "/api/2.0/mlflow/users/create", login, expected=400):
        server.ask("PATCH", "/api/2.0/mlflow/users/update-password", login)
    for kind in SHARED:
        grant = {"username": name, "resource_type": kind, "resource_id": "*"}  # models of tomorrow too
        server.ask("POST", "/api/3.0/mlflow/users/permissions/revoke", grant, expected=404)
        server.ask("POST", "/api/3.0/mlflow/users/permissions/grant", grant | {"permission": permission})


def make_user(name: str, role: str, env: Mapping[str, str]) -> str:
    """Make the user in both programs and return the password.

    Raises:
        UserError: name or role will not do, or a server is away or refuses.
    """
    if not re.fullmatch(r"[a-z][a-z0-9._-]{1,30}", name):
        raise UserError(f"NAME={name!r}: 2 to 31 of a-z, 0-9, dot, dash and underscore, a letter first", BAD_REQUEST)
    if role not in ROLES:
        raise UserError(f"ROLE={role!r}: choose one of {', '.join(ROLES)}", BAD_REQUEST)
    if name in ADMINISTRATORS | {env["MLFLOW_TRACKING_USERNAME"]}:
        raise UserError(f"NAME={name!r} is the administrator, whose passwords are in .env; choose another", BAD_REQUEST)
    password = secrets.token_urlsafe(18)
    in_airflow, in_mlflow = ROLES[role]
    make_airflow_user(airflow(env), name, in_airflow, password)
    make_mlflow_user(mlflow(env), name, in_mlflow, password)
    return password


def main(arguments: list[str]) -> int:
    """Make the user and print the password; a refusal is one line and an exit code."""
    if len(arguments) not in (2, 3) or not all(arguments):
        print("say who and what: make user NAME=ann ROLE=viewer|editor|admin", file=sys.stderr)
        return BAD_REQUEST
    name, role, *rest = arguments
    path = Path(rest[0] if rest else Path(__file__).resolve().parent.parent / ".env")
    if not path.is_file():
        print(f"there is no {path}; run make setup", file=sys.stderr)
        return 78
    try:
        password = make_user(name, role, seen_by_compose(path))
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.code
    print(f"{name} ({role}), in Airflow and MLflow; the password is shown this once: {password}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
