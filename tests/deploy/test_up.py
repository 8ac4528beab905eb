"""What `make up` starts beside the stack, and that the stack does not depend on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import engine, up
from deploy.errors import DeployError
from deploy.up import EXPORT, FOR_STAGES, start, start_export
from images.third_party import third_party

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that writes down what it is asked, and fails where a file `broken` lies beside it."""
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ ! -e {tmp_path}/broken ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_export_is_started_and_not_waited_for(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_export(docker / ".env")
    [asked] = (docker / "asked").read_text().splitlines()
    assert asked.endswith(f"up --detach --no-deps --quiet-pull --scale {EXPORT}=1 {EXPORT}")
    assert engine.WORK in asked
    assert "--wait" not in asked
    assert capsys.readouterr().err == ""


def test_the_stack_is_up_even_if_the_export_cannot_start(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (docker / "broken").touch()
    start_export(docker / ".env")
    assert "export-onnx did not start, see above" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("services", "exports"),
    [([], True), ([FOR_STAGES], True), ([FOR_STAGES, "ray-worker"], True), (["airflow-scheduler"], False)],
)
def test_it_belongs_to_the_service(
    docker: Path, monkeypatch: pytest.MonkeyPatch, services: list[str], exports: bool
) -> None:
    monkeypatch.setattr(up, "before", lambda folder, env_file: [])
    monkeypatch.setattr(up, "after", lambda env_file: [])
    (docker / ".env").write_text("S3_ENDPOINT_URL=http://elsewhere:9000\n")
    start(ROOT, docker / ".env", services)
    started = [line for line in (docker / "asked").read_text().splitlines() if " up " in line]
    assert [engine.STATE in line for line in started] == [True, False, *([False] if exports else [])]
    assert (EXPORT in started[-1]) is exports


def test_images_of_others_are_fetched_by_digest_before_compose_starts_anything(docker: Path) -> None:
    [postgres] = [image for image in third_party().values() if image.variable == "POSTGRES_IMAGE"]
    (docker / "docker").write_text(
        f'#!/bin/sh\necho "$*" >>{docker}/asked\ncase "$*" in *"config --images postgres") '
        f"echo vision-mlops/mlflow:dev {postgres.name} ;; *inspect*) exit 1 ;; esac\n"
    )
    up.Project(engine.STATE, docker / ".env").up(["postgres"])
    asked = [line for line in (docker / "asked").read_text().splitlines() if " ps " not in line]
    assert asked[1:4] == [
        f"image inspect --format {{{{json .RepoDigests}}}} {postgres.name}",
        f"pull --quiet {postgres.name}@{postgres.digest}",
        f"tag {postgres.name}@{postgres.digest} {postgres.name}",
    ]
    assert [" up " in line for line in asked[4:]] == [True]


def test_an_image_that_cannot_be_fetched_stops_the_start(docker: Path) -> None:
    name = next(image.name for image in third_party().values() if image.digest)
    (docker / "docker").write_text(
        f'#!/bin/sh\necho "$*" >>{docker}/asked\ncase "$*" in *"config --images") echo {name} ;; '
        "*inspect*) exit 1 ;; pull*) echo 'no such host' >&2; exit 1 ;; esac\n"
    )
    with pytest.raises(DeployError, match=rf"^{name}@sha256:\w+: no such host$"):
        up.Project(engine.STATE, docker / ".env").up([])
    assert " up " not in (docker / "asked").read_text()
