"""What each user of MLflow may do, tried on the real server; docs/threat-model.md shows the table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tasks.settings import MLFLOW_REGISTRY_USER, MLFLOW_STAGES_USER

from . import role_tables
from .conftest import Stack
from .mlflow_world import API, PASSWORD, SERVING_USER, World, prepared

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def world(stack: Stack) -> World:
    return prepared(stack)


Asking = Callable[[World, str], requests.Response]
ACTIONS: dict[str, Asking] = {}
NUMBERS = itertools.count()


def action(text: str) -> Callable[[Asking], Asking]:
    """Add a row to the table: what is tried, in words."""

    def add(asking: Asking) -> Asking:
        ACTIONS[text] = asking
        return asking

    return add


@action("read a run of the pipeline")
def _read_run(world: World, user: str) -> requests.Response:
    return world.ask(user, "GET", f"{API}/runs/get?run_id={world.run()}")


@action("read its files")
def _read_file(world: World, user: str) -> requests.Response:
    return world.ask(user, "GET", world.file(world.run()))


@action("create a run there")
def _create_run(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/runs/create", json={"experiment_id": world.experiment, "start_time": 1})


@action("set a tag of a run, such as a digest")
def _set_tag(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/runs/set-tag", json={"run_id": world.run(), "key": "a", "value": "b"})


@action("change a file of a run")
def _change_file(world: World, user: str) -> requests.Response:
    return world.ask(user, "PUT", world.file(world.run()), data=b"other")


@action("delete a file of a run")
def _delete_file(world: World, user: str) -> requests.Response:
    return world.ask(user, "DELETE", world.file(world.run()))


@action("delete a run")
def _delete_run(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/runs/delete", json={"run_id": world.run()})


@action("delete the pipeline's experiment")
def _delete_experiment(world: World, user: str) -> requests.Response:
    answer = world.ask(user, "POST", f"{API}/experiments/delete", json={"experiment_id": world.experiment})
    if answer.ok:
        world.must("administrator", "POST", f"{API}/experiments/restore", json={"experiment_id": world.experiment})
    return answer


@action("read the ledger")
def _read_ledger(world: World, user: str) -> requests.Response:
    record = world.run(world.ledger, MLFLOW_REGISTRY_USER)
    return world.ask(user, "GET", f"{API}/runs/get?run_id={record}")


@action("write a record into the ledger")
def _write_ledger(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/runs/create", json={"experiment_id": world.ledger, "start_time": 1})


@action("change a record of the ledger")
def _change_ledger(world: World, user: str) -> requests.Response:
    record = world.run(world.ledger, MLFLOW_REGISTRY_USER)
    return world.ask(user, "POST", f"{API}/runs/set-tag", json={"run_id": record, "key": "ledger.by", "value": "me"})


@action("delete a record of the ledger")
def _delete_record(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/runs/delete", json={"run_id": world.run(world.ledger, MLFLOW_REGISTRY_USER)})


@action("read a version of a registered model")
def _read_version(world: World, user: str) -> requests.Response:
    return world.ask(user, "GET", f"{API}/model-versions/get?name={world.model}&version={world.version()}")


@action("create a registered model")
def _create_model(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/registered-models/create", json={"name": f"model-{next(NUMBERS)}"})


@action("create a version of one")
def _create_version(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/model-versions/create", json=world.new_version())


@action("set a tag of a version")
def _tag_version(world: World, user: str) -> requests.Response:
    body = {"name": world.model, "version": world.version(), "key": "a", "value": "b"}
    return world.ask(user, "POST", f"{API}/model-versions/set-tag", json=body)


@action("move the alias champion")
def _move_alias(world: World, user: str) -> requests.Response:
    body = {"name": world.model, "alias": "champion", "version": world.version()}
    return world.ask(user, "POST", f"{API}/registered-models/alias", json=body)


@action("delete the alias champion")
def _delete_alias(world: World, user: str) -> requests.Response:
    body = {"name": world.model, "alias": "champion", "version": world.version()}
    world.must(MLFLOW_REGISTRY_USER, "POST", f"{API}/registered-models/alias", json=body)
    return world.ask(user, "DELETE", f"{API}/registered-models/alias", json=body)


@action("delete a version")
def _delete_version(world: World, user: str) -> requests.Response:
    body = {"name": world.model, "version": world.version()}
    return world.ask(user, "DELETE", f"{API}/model-versions/delete", json=body)


@action("create an experiment")
def _create_experiment(world: World, user: str) -> requests.Response:
    return world.ask(user, "POST", f"{API}/experiments/create", json={"name": f"own-{next(NUMBERS)}"})


@action("create an experiment whose files are in another's folder")
def _take_over_folder(world: World, user: str) -> requests.Response:
    place = f"mlflow-artifacts:/{world.experiment}/{world.run()}/artifacts"
    # MLflow reads both spellings of the field.
    for field in ("artifact_location", "artifactLocation"):
        answer = world.ask(
            user, "POST", f"{API}/experiments/create", json={"name": f"own-{next(NUMBERS)}", field: place}
        )
    return answer


@action("give somebody a permission")
def _grant(world: World, user: str) -> requests.Response:
    body = {"username": "a-stranger", "resource_type": "experiment", "resource_id": world.experiment}
    answer = world.ask(user, "POST", "/api/3.0/mlflow/users/permissions/grant", json=body | {"permission": "READ"})
    if answer.ok:
        world.must("administrator", "POST", "/api/3.0/mlflow/users/permissions/revoke", json=body)
    return answer


@action("change its own password")
def _change_password(world: World, user: str) -> requests.Response:
    name, password = world.logins[user] or ("a-stranger", PASSWORD)
    path, other = f"{API}/users/update-password", f"{password}-new"
    body = {"username": name, "password": other, "current_password": password}
    answer = world.ask(user, "PATCH", path, json=body)
    if answer.ok:
        back = {"username": name, "password": password, "current_password": other}
        requests.patch(world.stack.mlflow_url + path, json=back, auth=(name, other), timeout=120).raise_for_status()
    return answer


@action("create a user")
def _create_user(world: World, user: str) -> requests.Response:
    body = {"username": f"new-{next(NUMBERS)}", "password": PASSWORD}
    return world.ask(user, "POST", f"{API}/users/create", json=body)


def rows(world: World) -> Iterator[tuple[str, dict[str, bool]]]:
    """Try every action as every user."""
    for text, asking in ACTIONS.items():
        allowed = {}
        for user in world.logins:
            answer = asking(world, user)
            assert answer.ok or answer.status_code in (401, 403), f"{user}: {text}: {answer.status_code} {answer.text}"
            allowed[user] = answer.ok
        yield text, allowed


def test_every_user_of_mlflow_can_do_what_the_document_says_and_no_more(world: World) -> None:
    role_tables.check("MLflow", [*world.logins], rows(world))


def test_an_experiment_that_a_stage_creates_is_open_to_all_programs(world: World) -> None:
    made = world.must(MLFLOW_STAGES_USER, "POST", f"{API}/experiments/create", json={"name": "of another day"})
    run = world.run(made["experiment_id"])
    body = {"run_id": run, "key": "a", "value": "b"}
    world.must(MLFLOW_REGISTRY_USER, "POST", f"{API}/runs/set-tag", json=body)
    assert world.ask("editor", "POST", f"{API}/runs/set-tag", json=body).status_code == 403
    assert world.ask(SERVING_USER, "POST", f"{API}/runs/set-tag", json=body).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{API}/registered-models/get?name=none", None),
        ("GET", f"{API}/registered-models/alias?name=none&alias=champion", None),
        ("GET", f"{API}/model-versions/get?name=none&version=1", None),
        ("GET", f"{API}/runs/get?run_id={'0' * 32}", None),
        ("POST", f"{API}/runs/set-tag", {"run_id": "0" * 32, "key": "a", "value": "b"}),
        ("GET", f"{API}/logged-models/m-{'0' * 32}", None),
    ],
)
def test_what_does_not_exist_is_404_to_who_may_read_all_and_403_to_strangers(
    world: World, method: str, path: str, body: dict[str, str] | None
) -> None:
    """A stage has to tell a first model, of which there is no champion, from a permission that it lacks."""
    for user in (MLFLOW_STAGES_USER, SERVING_USER, "viewer", "administrator"):
        assert world.ask(user, method, path, json=body).status_code == 404, user
    assert world.ask("stranger", method, path, json=body).status_code == 403


def test_the_pages_of_mlflow_open_for_a_viewer(world: World) -> None:
    """The server refuses every route that no rule allows; these are what a browser asks for."""
    run = world.run()
    for path in (
        "/",
        "/version",
        "/ajax-api/2.0/mlflow/users/current",
        f"/ajax-api/2.0/mlflow/runs/get?run_id={run}",
        f"/ajax-api/2.0/mlflow/artifacts/list?run_id={run}",
        f"/get-artifact?run_uuid={run}&path=file.txt",
        f"/ajax-api/2.0/mlflow/registered-models/get?name={world.model}",
    ):
        answer = world.ask("viewer", "GET", path)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}"


def test_a_restart_takes_back_what_earlier_releases_gave_and_applies_new_passwords(
    world: World, tmp_path: Path
) -> None:
    """Editors had EDIT on everything, and whoever created an experiment or a registered model first owned it."""
    world.must(
        MLFLOW_REGISTRY_USER,
        "POST",
        f"{API}/model-versions/set-tag",
        json={"name": world.model, "version": world.version(), "key": "pipeline.model_sha256", "value": "0"},
    )
    give = "/api/3.0/mlflow/users/permissions/grant"
    for kind, name, permission in (
        ("experiment", "*", "EDIT"),
        ("registered_model", "*", "EDIT"),
        ("experiment", world.ledger, "MANAGE"),
        ("registered_model", world.model, "MANAGE"),
    ):
        grant = {"username": "a-editor", "resource_type": kind, "resource_id": name}
        world.ask("administrator", "POST", give.replace("grant", "revoke"), json=grant)
        world.must("administrator", "POST", give, json=grant | {"permission": permission})
    tag = {"run_id": world.run(world.ledger, MLFLOW_REGISTRY_USER), "key": "ledger.by", "value": "me"}
    world.must("editor", "POST", f"{API}/runs/set-tag", json=tag)
    alias = {"name": world.model, "alias": "champion", "version": world.version()}
    world.must("editor", "POST", f"{API}/registered-models/alias", json=alias)

    changed = tmp_path / ".env"
    replaced = {"MLFLOW_STAGES_PASSWORD": "another-password-2", "MLFLOW_TRACKING_PASSWORD": "another-password-3"}
    lines = world.stack.env_file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in replaced]
    changed.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in replaced.items())]) + "\n")
    other = Stack(changed, world.stack.variables | replaced)
    try:
        other.start()
        new = World(other, world.logins | {MLFLOW_STAGES_USER: (MLFLOW_STAGES_USER, "another-password-2")})
        new.logins["administrator"] = other.login
        said = other.compose("logs", "mlflow")
        assert "a-editor may read every experiment and edit none" in said
        assert f"a-editor owned experiment {world.ledger}, which is the pipeline's" in said
        assert f"a-editor owned registered_model {world.model}, which is the pipeline's" in said
        assert new.ask("editor", "POST", f"{API}/runs/set-tag", json=tag).status_code == 403
        assert new.ask("editor", "POST", f"{API}/registered-models/alias", json=alias).status_code == 403
        assert new.ask("editor", "GET", f"{API}/runs/get?run_id={tag['run_id']}").ok
        search = f"{API}/experiments/search?max_results=1"
        assert new.ask(MLFLOW_STAGES_USER, "GET", search).ok
        assert new.ask("administrator", "GET", search).ok
        assert world.ask(MLFLOW_STAGES_USER, "GET", search).status_code == 401
        assert world.ask("administrator", "GET", search).status_code == 401
    finally:
        world.stack.start()
    assert world.ask("administrator", "GET", f"{API}/experiments/search?max_results=1").ok
