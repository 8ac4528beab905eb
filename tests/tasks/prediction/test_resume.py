"""Kills, full disks and second calls: what is complete stays, and nothing is mixed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tasks.errors import RequestError, UnavailableError
from tasks.prediction import answers, destinations
from tasks.prediction.sources import Item
from tests.tasks.prediction.conftest import Predict, RunStage, files, packed
from tests.tasks.prediction.s3_server import S3Server
from tests.tasks.serving.samples import Store, picture
from tests.waiting import until

PARTS = 5  # images in each
# Of 13 images in parts of 5, of which the second has a failed file: the plan, 2 + 3 + 2 files of parts, the end.
PUTS = 9


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that went through the model or failed, call after call."""
    seen: list[str] = []
    work = answers._Work.answers

    def answered(self: Any, items: list[Item]) -> list[answers.Answer]:
        seen.extend(item.name for item in items)
        return work(self, items)

    monkeypatch.setattr(answers._Work, "answers", answered)
    return seen


def test_a_stage_killed_in_the_middle_goes_on_after_its_last_complete_part(
    tmp_path: Path, run_stage: RunStage, run_predict: Predict, passed: list[str]
) -> None:
    images, out = tmp_path / "many", tmp_path / "out"
    images.mkdir()
    for number in range(3000):
        (images / f"{number:04}.png").write_bytes(picture(number % 256))
    stage = run_stage(images, "killed", out=str(out), part_images=50)
    until(lambda: (out / "_parts/part-00007.json").exists() or stage.poll() is not None)
    os.kill(stage.pid, signal.SIGKILL)
    assert stage.wait(60) == -signal.SIGKILL, stage.communicate()[0]
    assert not (out / "_SUCCESS").exists()
    complete = len(list((out / "_parts").glob("*.json")))
    assert complete >= 8
    before = {path: path.stat().st_mtime_ns for path in (out / "predictions").glob("part-0000[0-7].parquet")}

    result = run_predict(images, out=str(out), part_images=50)
    assert (result.images, result.parts) == (3000, 60)
    assert sorted(passed) == sorted(path.name for path in images.iterdir())[complete * 50 :]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run_predict(images, out=str(tmp_path / "undisturbed"), part_images=50)
    assert files(out) == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("put", [1, 2, 4, PUTS])
def test_a_kill_at_a_write_is_survived(
    put: int, when: str, folder: Path, tmp_path: Path, run_stage: RunStage, run_predict: Predict
) -> None:
    out, marker = tmp_path / "out", tmp_path / "marker"
    fault = {"point": f"predict/put#{put}", "when": when, "action": "SIGKILL", "marker": str(marker)}
    stage = run_stage(folder, f"{when}-{put}", {"PIPELINE_FAULT": json.dumps(fault)}, out=str(out), part_images=PARTS)
    assert stage.wait(300) == -signal.SIGKILL, stage.communicate()[0]
    assert marker.exists()
    assert run_predict(folder, out=str(out), part_images=PARTS).images == 13
    run_predict(folder, out=str(tmp_path / "undisturbed"), part_images=PARTS)
    assert files(out) == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("put", range(1, PUTS + 1))
@pytest.mark.parametrize("place", ["folder", "s3", "run"])
def test_a_write_that_fails_leaves_nothing_half_done(
    place: str,
    put: int,
    folder: Path,
    tmp_path: Path,
    run_predict: Predict,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a kill does, but quick: at every write, to every place."""
    kind: Any = {"folder": destinations.LocalFolder, "s3": destinations.S3Prefix, "run": destinations.RunArtifacts}[
        place
    ]
    given = {"folder": str(tmp_path / "out"), "s3": "s3://data/out", "run": None}[place]
    write, left = kind.put, [put]

    def breaking(self: Any, file: Path, name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise UnavailableError("the store is away")
        write(self, file, name)

    monkeypatch.setattr(kind, "put", breaking)
    again = {"day": f"again-{place}-{put}-{time.time_ns()}", "out": given, "part_images": PARTS}
    with pytest.raises(UnavailableError, match="the store is away"):
        run_predict(folder, **again)
    result = run_predict(folder, **again)
    assert (result.images, result.failed, result.parts) == (13, 1, 3)
    match place:
        case "folder":
            found = files(tmp_path / "out")
        case "s3":
            found = {key.removeprefix("out/"): data for key, data in s3.objects.items()}
        case _:
            got = mlflow.artifacts.download_artifacts(run_id=result.run_id, dst_path=str(tmp_path / "got"))
            found = files(Path(got))
    monkeypatch.undo()
    run_predict(folder, out=str(tmp_path / "undisturbed"), part_images=PARTS)
    assert found == files(tmp_path / "undisturbed")


def test_a_full_disk_is_one_line_and_the_next_try_goes_on(
    folder: Path, tmp_path: Path, run_predict: Predict, monkeypatch: pytest.MonkeyPatch, passed: list[str]
) -> None:
    out, copy, copies = tmp_path / "out", shutil.copyfileobj, []

    def full(source: Any, target: Any) -> None:
        copies.append(target)
        if len(copies) == 4:  # the second part's predictions: half of them are written
            target.write(source.read(20))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UnavailableError, match=r"out='.*/out': no space is left .* free some, then the run goes on"):
        run_predict(folder, out=str(out), part_images=PARTS)
    assert sorted(files(out)) == ["_parts/part-00000.json", "_plan.json", "predictions/part-00000.parquet"]
    passed.clear()
    assert run_predict(folder, out=str(out), part_images=PARTS).images == 13
    assert len(passed) == 13 - PARTS


def test_what_a_killed_write_left_is_removed(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    (tmp_path / "out/predictions").mkdir(parents=True)
    for name in ("predictions/.part-00000.parquet.abcd1234", "._plan.json.abcd1234", "predictions/.mine"):
        (tmp_path / "out" / name).touch()
    run_predict(folder, out=str(tmp_path / "out"))
    assert [name for name in files(tmp_path / "out") if "/." in f"/{name}"] == ["predictions/.mine"]


def test_a_wrong_bit_does_not_pass_for_another_plan(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    """As a store that is a folder may leave it: the plan of an empty `out`, a part's record, `_SUCCESS`."""
    out = tmp_path / "out"
    run_predict(folder, out=str(out), part_images=PARTS)
    whole = files(out)
    for name in ("_parts/part-00001.json", "_SUCCESS"):
        data = bytearray(whole[name])
        data[data.index(b'"failed": ') + 10] ^= 1
        (out / name).write_bytes(data)
        run_predict(folder, out=str(out), part_images=PARTS)
        assert files(out) == whole, name
    plan = whole["_plan.json"].replace(b"dark", b"bark")
    (out / "_plan.json").write_bytes(plan)
    with pytest.raises(RequestError, match=r"and a damaged _plan.json; give an out of its own"):
        run_predict(folder, out=str(out), part_images=PARTS)
    for name in files(out):
        (out / name).unlink()
    (out / "_plan.json").write_bytes(plan)
    run_predict(folder, out=str(out), part_images=PARTS)
    assert files(out) == whole


@pytest.mark.parametrize("packed_as", ["folder", "archive"])
def test_a_second_call_does_nothing(
    packed_as: str, folder: Path, tmp_path: Path, run_predict: Predict, passed: list[str]
) -> None:
    out, source = tmp_path / "out", folder
    if packed_as == "archive":
        source = packed(folder, tmp_path / "a.tar.gz")
    first = run_predict(source, out=str(out), part_images=PARTS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    passed.clear()
    second = run_predict(source, out=str(out), part_images=PARTS)
    assert (second.images, second.failed, second.parts) == (first.images, first.failed, first.parts)
    assert (second.images_per_second, passed) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "0/00.png").unlink(),
        lambda folder: (folder / "0/000.png").write_bytes(picture(1)),
        lambda folder: (folder / "1/11.png").write_bytes(picture(0)),
        lambda folder: (folder / "2.png").write_bytes(picture(0)),
    ],
    ids=["one less", "one more", "another content", "one more at the end"],
)
def test_a_source_that_changed_is_refused(change: Any, folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    out = tmp_path / "out"
    run_predict(folder, out=str(out), part_images=PARTS)
    before = files(out)
    change(folder)
    with pytest.raises(RequestError, match=r"images='.*/images' has (changed|grown) since .*; give another out"):
        run_predict(folder, out=str(out), part_images=PARTS)
    assert files(out) == before


def test_another_archive_of_the_same_name_is_refused(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    source = packed(folder, tmp_path / "a.tar.gz")
    run_predict(source, out=str(tmp_path / "out"))
    (folder / "0/00.png").write_bytes(picture(3))
    packed(folder, source)
    with pytest.raises(RequestError, match=r"holds predictions of another source; give another out"):
        run_predict(source, out=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"model_version": 2},
            r"holds predictions with version=1, not 2; give another out, or model_version=1 to go on",
        ),
        ({"output_format": "csv"}, r"holds predictions with output_format='parquet', not 'csv'; give another out"),
        ({"part_images": 6}, r"holds predictions with part_images=5, not 6; give another out"),
    ],
)
def test_another_plan_is_refused(
    fields: dict[str, Any], says: str, folder: Path, tmp_path: Path, run_predict: Predict
) -> None:
    run_predict(folder, out=str(tmp_path / "out"), part_images=PARTS)
    with pytest.raises(RequestError, match=says):
        run_predict(folder, **{"out": str(tmp_path / "out"), "part_images": PARTS, **fields})


def test_a_retry_keeps_the_version_when_the_champion_moves(
    folder: Path, tmp_path: Path, run_predict: Predict, store: Store
) -> None:
    day = f"moves-{time.time_ns()}"
    run_predict(folder, day, out=str(tmp_path / "out"))
    (tmp_path / "out/_SUCCESS").unlink()
    store.promote(2)
    assert run_predict(folder, day, out=str(tmp_path / "out")).version == 1
    with pytest.raises(RequestError, match="model_version=1 to go on"):
        run_predict(folder, out=str(tmp_path / "out"))


def test_a_part_that_was_cut_short_in_the_store_is_made_again(
    folder: Path, tmp_path: Path, run_predict: Predict, passed: list[str]
) -> None:
    out = tmp_path / "out"
    run_predict(folder, out=str(out), part_images=PARTS)
    whole = files(out)
    os.truncate(out / "predictions/part-00001.parquet", 10)
    passed.clear()
    run_predict(folder, out=str(out), part_images=PARTS)
    assert files(out) == whole
    assert len(passed) == 13 - PARTS
