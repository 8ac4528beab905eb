from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tasks.errors import ModelError, UnavailableError
from tasks.records import artifact_digest, registry
from tasks.serving.model_reference import Target, parse
from tasks.serving.resolution import resolve
from tests.tasks.serving.samples import MODEL, Store, load


def test_alias_version_and_stage_name_a_version(store: Store) -> None:
    client = MlflowClient()
    digest = client.get_model_version(MODEL, "1").tags[artifact_digest.TAG]
    client.set_model_version_tag(MODEL, "1", "pipeline.evaluate_run_id", "e" * 32)
    first = Target(f"models:/{MODEL}/1", MODEL, 1, store.run_ids[0], digest, "e" * 32)
    assert resolve(parse(None, MODEL)) == first
    assert resolve(parse("1", MODEL)) == first
    assert resolve(parse(f"models:/{MODEL}@champion", "other")) == first
    MlflowClient().transition_model_version_stage(MODEL, "2", "Production")
    assert resolve(parse("stage:Production", MODEL)).version == 2
    client.delete_model_version_tag(MODEL, "1", "pipeline.evaluate_run_id")
    assert resolve(parse("1", MODEL)) == Target(f"models:/{MODEL}/1", MODEL, 1, store.run_ids[0], digest)


def test_a_version_that_another_program_registered_has_no_digest(store: Store) -> None:
    made = registry.create_version(MODEL, f"runs:/{store.run_ids[0]}/model", store.run_ids[0], {}, "")
    target = resolve(parse(str(made.version), MODEL))
    assert (target.artifact_sha256, target.evaluate_run_id) == (None, None)
    MlflowClient().delete_model_version(MODEL, made.version)


def test_a_run_is_known_by_its_version_if_it_has_one(store: Store) -> None:
    run_id = store.run_ids[1]
    assert resolve(parse(run_id, MODEL)) == Target(f"runs:/{run_id}/model", MODEL, 2, run_id)
    assert resolve(parse(run_id, "another")) == Target(f"runs:/{run_id}/model", None, None, run_id)


def test_every_form_leads_to_files(store: Store) -> None:
    source = str(MlflowClient().get_model_version(MODEL, "2").source)
    for text in ("2", store.run_ids[1], f"runs:/{store.run_ids[1]}/model", source):
        model = load(resolve(parse(text, MODEL)))
        assert model.target.run_id == store.run_ids[1]
        assert model.classes == ("dark", "grey", "bright")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nobody", "has no 'nobody' yet"),
        ("99", "has no version 99"),
        ("0" * 32, "MLflow has no run"),
        (f"models:/m-{'0' * 32}", "MLflow has no logged model"),
        ("stage:Archived", "no version in stage 'Archived'"),
        ("models:/unknown@champion", "'unknown' has no 'champion' yet"),
    ],
)
def test_what_names_nothing(store: Store, text: str, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        resolve(parse(text, MODEL))


def test_does_not_make_a_database(store: Store, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(ModelError, match="no MLflow database"):
        resolve(parse(None, MODEL))
    assert not list(tmp_path.iterdir())


class Misled(BaseHTTPRequestHandler):
    """A connection that led elsewhere if it is the first: nobody there knows MLflow's paths. Others reach MLflow."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        self.first = self.connections == 1
        super().setup()

    def do_GET(self) -> None:
        version = {"model_version": {"name": MODEL, "version": "3", "run_id": "a" * 32}}
        body = b"" if self.first else json.dumps(version).encode()
        self.send_response(404 if self.first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def misled() -> Iterator[str]:
    """Address of a server whose first connection is to something else."""
    Misled.connections = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Misled) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_connection_that_led_to_something_else_is_not_kept(store: Store, misled: str) -> None:
    mlflow.set_tracking_uri(misled)
    mlflow.set_registry_uri(misled)
    with pytest.raises(UnavailableError, match=r"is not MLflow: .* error code 404"):
        resolve(parse(None, MODEL))
    assert resolve(parse(None, MODEL)).version == 3
    assert Misled.connections == 2
