from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tasks.errors import ModelError
from tasks.serving.control import Control
from tasks.serving.http_errors import HttpError
from tasks.serving.model import PreparedModel, open_prepared
from tests.tasks.serving.samples import Store, log_reference_predictions


class Workers:
    """Stands in for the workers: opens the model as one would, or fails."""

    def __init__(self) -> None:
        self.served: list[PreparedModel] = []
        self.fail = False

    def serve(self, model: PreparedModel) -> None:
        if self.fail:
            raise ModelError("memory is short")
        assert open_prepared(model).classes == model.classes
        self.served.append(model)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def test_workers_get_a_model_with_its_reference_predictions_and_no_more_files_than_they_open(
    store: Store, tmp_path: Path
) -> None:
    log_reference_predictions(1)
    workers = Workers()
    control = Control(store.settings, workers, tmp_path)  # type: ignore[arg-type]
    control.follower.poll()
    assert control.follower.problem is None
    [served] = workers.served
    assert served.reference is not None
    assert control.model == dataclasses.replace(served, loaded_at=control.model.loaded_at)
    assert files(tmp_path) == {"model.onnx"}
    store.promote(2)
    control.follower.poll()
    assert control.model.target.version == 2
    assert files(tmp_path) == {"model.onnx"}
    assert [folder.name for folder in tmp_path.iterdir()] == ["1"]


def test_what_a_model_that_fails_leaves_is_deleted_and_the_old_one_kept(store: Store, tmp_path: Path) -> None:
    workers = Workers()
    control = Control(store.settings, workers, tmp_path)  # type: ignore[arg-type]
    control.follower.poll()
    workers.fail = True
    store.promote(2)
    control.follower.poll()
    assert (control.model.target.version, control.follower.problem) == (
        1,
        "vision-classifier version 2 cannot be served: memory is short",
    )
    assert workers.served[0].files.is_file()
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_model_the_reason_is_told(store: Store, tmp_path: Path) -> None:
    settings = store.settings.model_copy(update={"serving_registered_model": "nobody"})
    control = Control(settings, Workers(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(HttpError, match="it is being fetched"):
        control.model  # noqa: B018
    control.follower.poll()
    with pytest.raises(HttpError, match="'nobody' has no 'champion' yet"):
        control.model  # noqa: B018
