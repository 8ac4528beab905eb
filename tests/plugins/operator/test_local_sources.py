"""Which paths of a request a stage on Docker may read, and that others stop the run before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG

from pipeline.docker.operator import DockerStageOperator
from pipeline.operator.local_sources import in_container, root_of
from pipeline.operator.params import stage_params
from pipeline.operator.stage_operator import check_stages
from tasks.errors import RequestError, SettingsError
from tasks.settings import load_settings
from tests.stack.stub_stage import context

ROOTS = ["/data/images", "/mnt/a b/c", "/mnt/a b"]


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/data/images", "/data/images"),
        ("/data/images/x.tar.gz", "/data/images"),
        ("/data/images/ä/..b", "/data/images"),
        ("/mnt/a b/c/d", "/mnt/a b"),  # the outermost of two
    ],
)
def test_a_path_is_in_a_folder(path: str, root: str) -> None:
    assert root_of("source", path, ROOTS) == root
    assert in_container(path) == f"/sources{path}"


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/data", "/data/images2", "/etc/shadow", "data/images", "./data/images", "~/data/images"),
        *(
            "/data/images/..",
            "/data/images/../../etc",
            "/data/images/../images",
            "//data/images/x",
            "/DATA/images",
            "/mnt/a",
        ),
    ],
)
def test_every_other_path_is_in_none(path: str) -> None:
    with pytest.raises(RequestError, match="is not below a folder of PIPELINE_SOURCE_ROOTS=/data/images,"):
        root_of("source", path, ROOTS)


@pytest.mark.parametrize(
    ("given", "roots"),
    [("", []), (" , ", []), ("/data", ["/data"]), (" /data/ ,/mnt/a b", ["/data", "/mnt/a b"]), ("/a//", ["/a"])],
)
def test_roots_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, given: str, roots: list[str]) -> None:
    monkeypatch.setenv("PIPELINE_SOURCE_ROOTS", given)
    assert load_settings().source_roots == roots


@pytest.mark.parametrize("given", ["/", "//", "data", "~/data", "/data/../etc", "/data/.", "/a,/", "/a//b", "/a\x01b"])
def test_a_root_that_is_no_folder_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PIPELINE_SOURCE_ROOTS", given)
    with pytest.raises(SettingsError, match=r"PIPELINE_SOURCE_ROOTS.* is not a folder's absolute path"):
        load_settings()


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> DAG:
    values = {"TRACKING_URI": "http://127.0.0.1:5000", "TRACKING_USERNAME": "a", "TRACKING_PASSWORD": "v3ry-l0ng"}
    for name, value in values.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    monkeypatch.setenv("PIPELINE_RUNTIME", "docker")
    with DAG("d", params=stage_params("prepare")) as made:
        DockerStageOperator(task_id="prepare", stage="prepare")
    return made


def asked(dag: DAG, **conf: Any) -> dict[str, Any]:
    return {**dag.params.dump(), "dataset": "image_folder", **conf}


@pytest.mark.parametrize(
    ("conf", "line"),
    [
        (
            {"source": "/etc"},
            "source='/etc' is not below a folder of PIPELINE_SOURCE_ROOTS, which is not set; add its folder there "
            "(in .env, then `make up`), move the data below one, or give an s3:// URL",
        ),
        ({"source": "s3://b/a.zip", "corrections": "/x/fixed.csv"}, "corrections='/x/fixed.csv' is not below a folder"),
    ],
)
def test_a_path_outside_stops_the_run_before_anything_starts(dag: DAG, conf: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_stages(dag, asked(dag, **conf))
    assert str(refused.value).startswith(line)
    with pytest.raises(RequestError):
        dag.task_dict["prepare"].job(context(asked(dag, **conf)))


def test_predictions_are_not_written_into_a_container(monkeypatch: pytest.MonkeyPatch, dag: DAG) -> None:
    monkeypatch.setenv("PIPELINE_SOURCE_ROOTS", "/data")
    with DAG("p", params=stage_params("predict")) as made:
        DockerStageOperator(task_id="predict", stage="predict")
    params = {**made.params.dump(), "images": "/data/photos"}
    check_stages(made, params)
    check_stages(made, params | {"out": "s3://b/found/"})
    with pytest.raises(RequestError, match=r"out='/data/found' is a folder of this machine, .* give an s3:// prefix"):
        check_stages(made, params | {"out": "/data/found"})
    with pytest.raises(RequestError, match=r"images='/etc' is not below a folder of PIPELINE_SOURCE_ROOTS=/data"):
        check_stages(made, params | {"images": "/etc"})


def test_a_root_is_named_in_the_refusal_and_lets_others_pass(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_SOURCE_ROOTS", "/data, /mnt")
    check_stages(dag, asked(dag, source="/data/pets", corrections="/mnt/fixed.csv"))
    check_stages(dag, asked(dag, source="s3://bucket/pets.tar.gz"))
    with pytest.raises(RequestError, match=r"PIPELINE_SOURCE_ROOTS=/data,/mnt; add its folder there"):
        check_stages(dag, asked(dag, source="/data/../etc"))
