"""A real browser on the stack: log in, fill the form, trigger, watch, follow the link to MLflow.

Each picture is written to the test's own folder, or with PICTURES=FOLDER there (`make pictures`: docs/images).
A test that fails leaves `failure.png` and `trace.zip` (for `playwright show-trace`) in its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.chromium import chromium, window
from tests.stack.airflow_stack.conftest import DAG, MODEL, STAGES, User
from tests.stack.conftest import ROOT, Stack

pytestmark = pytest.mark.docker
PICTURES = os.environ.get("PICTURES")
RUN_ID = "from-the-form"
EPOCHS = 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@dataclass(frozen=True)
class Desk:
    """A window of the browser, and the folder for what is seen in it."""

    window: BrowserContext
    page: Page
    folder: Path

    def log_in(self, name: str, password: str) -> None:
        """Ask for the DAG's page; Airflow asks for the login first."""
        self.page.goto("/dags/daily_training")
        self.page.get_by_role("textbox", name="Username").fill(name)
        self.page.get_by_role("textbox", name="Password").fill(password)
        self.page.get_by_role("button", name="Sign In").click()
        expect(self.page.get_by_role("heading", name="daily_training")).to_be_visible()

    def picture(self, name: str, page: Page | None = None) -> None:
        folder = ROOT / PICTURES if PICTURES else self.folder
        path = folder / f"{name}.png"
        shot = Image.open(BytesIO((page or self.page).screenshot(animations="disabled")))
        shot.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # a third of the bytes, no loss seen
        assert path.stat().st_size < 200_000, path


@pytest.fixture
def desk(browser: Browser, airflow: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    name, password = airflow.login
    failed_before = request.session.testsfailed
    with window(
        browser,
        base_url=airflow.airflow_url,
        http_credentials={"username": name, "password": password, "origin": airflow.mlflow_url},
        viewport={"width": 1360, "height": 824},  # the run's table and the last shown field of the form are whole
        color_scheme="light",
        locale="en-US",
        timezone_id="UTC",
    ) as opened:
        opened.tracing.start(screenshots=True, snapshots=True)
        yield Desk(opened, opened.new_page(), tmp_path)
        if request.session.testsfailed > failed_before:
            opened.pages[-1].screenshot(path=tmp_path / "failure.png")
            opened.tracing.stop(path=tmp_path / "trace.zip")
            print(f"failure.png and trace.zip are in {tmp_path}")


def field(form: Locator, param: str) -> Locator:
    """The input of a Param; Airflow labels numbers, and names all of them."""
    return form.locator(f"input[name=element_{param}]")


@pytest.mark.long
def test_from_the_form_to_the_metrics(desk: Desk, airflow: Stack, admin: User) -> None:
    page = desk.page
    # Alone on its stack, for the pictures, the run may have the model that the service follows; here others count it.
    model, deployed = (MODEL, "Success") if PICTURES else ("in-browser", "Skipped")
    desk.log_in("admin", airflow.variables["AIRFLOW_ADMIN_PASSWORD"])

    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    form.get_by_role("button", name="Advanced Options").click()
    form.get_by_role("textbox", name="Run ID").fill(RUN_ID)
    form.get_by_role("button", name="Data", exact=True).click()
    field(form, "registered_model").fill(model)
    form.get_by_role("button", name="Training", exact=True).click()
    form.get_by_role("spinbutton", name="Epochs").fill(str(EPOCHS))
    expect(form.get_by_role("spinbutton", name="Batch Size")).to_have_value("")  # tuned, or the default
    form.get_by_role("button", name="Training", exact=True).evaluate("button => button.scrollIntoView()")
    desk.picture("airflow-form")
    form.get_by_role("button", name="Trigger", exact=True).click()

    page.wait_for_url(f"**/runs/{RUN_ID}")
    expect(page.get_by_role("heading", name=RUN_ID)).to_be_visible()
    expect(page.get_by_test_id("state-badge").first).to_have_text(re.compile("Success|Failed"))
    page.reload()
    for task in [*STAGES, "promoted"]:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=task, exact=True))
        expect(row).to_contain_text(deployed if task == "deploy" else "Success")
    expect(page.get_by_test_id("state-badge").first).to_have_text("Success")
    desk.picture("airflow-run")
    assert admin.ask("GET", f"{DAG}/dagRuns/{RUN_ID}").json()["conf"].items() >= {
        ("epochs", EPOCHS),
        ("registered_model", model),
    }

    page.get_by_role("table").get_by_role("link", name="train", exact=True).click()
    page.get_by_role("link", name="Details", exact=True).click()
    link = page.get_by_role("link", name="MLflow run")
    expect(link).to_be_visible()
    expect(page.get_by_role("row", name="Operator DockerStageOperator")).to_be_visible()
    desk.picture("airflow-task")
    with desk.window.expect_page() as opened:
        link.click()

    mlflow = opened.value
    run_id = mlflow.url.rpartition("/")[2]
    expect(mlflow.get_by_role("heading", name="train", exact=True)).to_be_visible()
    api = f"{airflow.mlflow_url}/api/2.0/mlflow/runs/get"
    run = requests.get(api, params={"run_id": run_id}, auth=airflow.login, timeout=120).json()["run"]
    assert ("pipeline.dag_run_id", RUN_ID) in {(tag["key"], tag["value"]) for tag in run["data"]["tags"]}
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    for name in ("best_validation_accuracy", "train_loss"):
        shown = mlflow.get_by_role("row").filter(has=mlflow.get_by_role("link", name=name, exact=True))
        expect(shown).to_be_visible()
        assert float(shown.get_by_role("cell").last.inner_text()) == metrics[name]
    expect(mlflow.get_by_role("row", name=f"epochs {EPOCHS}", exact=True)).to_be_visible()
    assistant = mlflow.get_by_role("button", name="Close", exact=True)
    if assistant.is_visible():
        assistant.click()
    mlflow.get_by_role("heading", name=re.compile("^Metrics")).scroll_into_view_if_needed()
    desk.picture("mlflow-run", mlflow)


def test_a_viewers_trigger_button_starts_nothing(desk: Desk, viewer: User, admin: User) -> None:
    """Airflow shows the button and the form to everyone, and refuses what comes of it."""
    desk.log_in(viewer.name, viewer.password)
    desk.page.get_by_role("button", name="Trigger Dag").click()
    form = desk.page.get_by_role("dialog")
    form.get_by_role("button", name="Advanced Options").click()
    form.get_by_role("textbox", name="Run ID").fill("by-a-viewer")
    with desk.page.expect_response("**/dagRuns") as answer:
        form.get_by_role("button", name="Trigger", exact=True).click()
    assert answer.value.status == 403
    expect(form.get_by_text("403 Forbidden")).to_be_visible()
    assert admin.ask("GET", f"{DAG}/dagRuns/by-a-viewer").status_code == 404


def test_a_wrong_password_stays_outside(desk: Desk, airflow: Stack) -> None:
    desk.page.goto("/dags/daily_training")
    desk.page.get_by_role("textbox", name="Username").fill("admin")
    desk.page.get_by_role("textbox", name="Password").fill("wrong")
    desk.page.get_by_role("button", name="Sign In").click()
    expect(desk.page.get_by_text("Invalid login")).to_be_visible()
    desk.page.goto("/dags/daily_training")
    expect(desk.page.get_by_role("button", name="Sign In")).to_be_visible()
