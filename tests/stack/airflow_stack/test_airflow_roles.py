"""What each role of Airflow may do, tried at its REST API; docs/threat-model.md shows the table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.stack import role_tables
from tests.stack.airflow_stack.conftest import DAG, DailyRun, User, log_in, user
from tests.stack.conftest import Stack

pytestmark = pytest.mark.docker
PAUSED = "/api/v2/dags/weekly_maintenance"  # its runs wait for ever, so that what is tried on them has no effect
TASK = f"{DAG}/dagRuns/by-hand/taskInstances/register"
USERS = "/auth/fab/v1/users"
NUMBERS = itertools.count()
Asking = Callable[["Airflow", User], requests.Response]
ACTIONS: dict[str, Asking] = {}
NOT_THERE = {"answer an approval", "delete all of a DAG"}  # tried on what is not there, so that nothing is lost


@dataclass(frozen=True)
class Airflow:
    """What the administrator makes for each try."""

    admin: User

    def run(self) -> str:
        """Return the path of a new run, which waits."""
        name = f"tried-{next(NUMBERS)}"
        body = {"dag_run_id": name, "logical_date": None}
        made = self.admin.ask("POST", f"{PAUSED}/dagRuns", body)
        assert made.status_code == 200, made.text
        return f"{PAUSED}/dagRuns/{name}"


def action(text: str) -> Callable[[Asking], Asking]:
    """Add a row to the table: what is tried, in words."""

    def add(asking: Asking) -> Asking:
        ACTIONS[text] = asking
        return asking

    return add


@action("see DAG runs")
def _see_runs(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", f"{DAG}/dagRuns")


@action("read a task's log")
def _read_log(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", f"{TASK}/logs/1?full_content=true")


@action("read what a task returned")
def _read_xcom(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", f"{TASK}/xcomEntries/return_value")


@action("read a DAG's code")
def _read_code(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", "/api/v2/dagSources/weekly_maintenance")


@action("start a run, and so containers")
def _trigger(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", f"{PAUSED}/dagRuns", {"dag_run_id": f"tried-{next(NUMBERS)}", "logical_date": None})


@action("pause a DAG")
def _pause(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("PATCH", PAUSED, {"is_paused": True})


@action("clear a task, which runs again")
def _clear(airflow: Airflow, who: User) -> requests.Response:
    run = airflow.run().rpartition("/")[2]
    return who.ask("POST", f"{PAUSED}/clearTaskInstances", {"dry_run": False, "dag_run_id": run, "only_failed": False})


@action("mark a run as successful")
def _mark(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("PATCH", airflow.run(), {"state": "success"})


@action("delete a run")
def _delete_run(airflow: Airflow, who: User) -> requests.Response:
    run = airflow.run()
    assert airflow.admin.ask("PATCH", run, {"state": "success"}).ok
    return who.ask("DELETE", run)


@action("answer an approval")
def _approve(airflow: Airflow, who: User) -> requests.Response:
    path = f"{DAG}/dagRuns/by-hand/taskInstances/approve/-1/hitlDetails"
    return who.ask("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})


@action("write what a task returned, and so an approval")
def _write_xcom(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", f"{TASK}/xcomEntries", {"key": f"tried-{next(NUMBERS)}", "value": "1", "map_index": -1})


@action("read connections")
def _read_connections(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", "/api/v2/connections")


@action("create a connection")
def _create_connection(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", "/api/v2/connections", {"connection_id": f"tried-{next(NUMBERS)}", "conn_type": "generic"})


@action("read variables")
def _read_variables(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", "/api/v2/variables")


@action("write a variable")
def _write_variable(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", "/api/v2/variables", {"key": f"tried-{next(NUMBERS)}", "value": "1"})


@action("create a pool")
def _create_pool(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", "/api/v2/pools", {"name": f"tried-{next(NUMBERS)}", "slots": 1})


@action("read the configuration")
def _read_configuration(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", "/api/v2/config")


@action("read who did what")
def _read_events(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", "/api/v2/eventLogs?limit=1")


@action("read users")
def _read_users(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("GET", USERS)


@action("create a user")
def _create_user(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("POST", USERS, person(f"tried-{next(NUMBERS)}", "Viewer", "a-long-password-1"))


@action("give itself the role Admin")
def _promote(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("PATCH", f"{USERS}/{who.name}?update_mask=roles", person(who.name, "Admin", who.password))


@action("delete all of a DAG")
def _delete_dag(airflow: Airflow, who: User) -> requests.Response:
    return who.ask("DELETE", "/api/v2/dags/no-such-dag")


def person(name: str, role: str, password: str) -> dict[str, Any]:
    """What creates a user."""
    about = {"username": name, "email": f"{name}@localhost", "first_name": name, "last_name": "-"}
    return {**about, "roles": [{"name": role}], "password": password}


@pytest.fixture(scope="module")
def people(airflow: Stack, admin: User, viewer: User, editor: User) -> dict[str, User]:
    """Somebody of each role; Op is one that only an administrator can give by hand."""
    password = "a-long-password-1"
    assert admin.ask("POST", USERS, person("the-op", "Op", password)).status_code in (200, 409)
    op = User("the-op", password, log_in("the-op", password).json()["access_token"])
    return {
        "nobody": User("nobody", "", ""),
        "viewer (Viewer)": viewer,
        "editor (User)": editor,
        "Op, made by hand": op,
        "admin (Admin)": user(airflow, "admin"),
    }


def rows(admin: User, people: dict[str, User]) -> Iterator[tuple[str, dict[str, bool]]]:
    """Try every action as everybody."""
    airflow = Airflow(admin)
    for text, asking in ACTIONS.items():
        allowed = {}
        for name, who in people.items():
            answer = asking(airflow, who)
            done = answer.ok or (text in NOT_THERE and answer.status_code == 404)
            assert done or answer.status_code in (401, 403), f"{name}: {text}: {answer.status_code} {answer.text}"
            allowed[name] = done
        yield text, allowed


def test_every_role_of_airflow_can_do_what_the_document_says_and_no_more(
    admin: User, people: dict[str, User], by_hand: DailyRun
) -> None:
    role_tables.check("Airflow", [*people], rows(admin, people))
