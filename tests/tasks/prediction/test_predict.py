"""The stage predict: what it writes, for every kind of source and destination."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.tasks.prediction.conftest import Predict, asked, files, packed, table
from tests.tasks.prediction.s3_server import S3Server
from tests.tasks.serving.samples import CLASSES, MODEL, Service, Store, environment, picture

NAMES = [*(f"0/{n:02}.png" for n in range(0, 12, 2)), *(f"1/{n:02}.png" for n in range(1, 12, 2))]


def labels(names: list[str]) -> list[str]:
    """By brightness: 0.1, 0.5 and 0.9 are the centres."""
    return [CLASSES[int(np.abs(np.array([0.1, 0.5, 0.9]) - int(name[-6:-4]) * 20 / 255).argmin())] for name in names]


def test_a_folder_becomes_parts_with_label_probabilities_and_version(
    folder: Path, tmp_path: Path, run_predict: Predict
) -> None:
    out = tmp_path / "out"
    result = run_predict(folder, out=str(out), part_images=5, forward_images=2)
    assert (result.version, result.images, result.failed, result.parts) == (1, 13, 1, 3)
    found = table(out / "predictions").to_pydict()
    assert found["file"] == NAMES
    assert found["label"] == labels(NAMES)
    assert set(found["version"]) == {1}
    for row, best in zip(found["probabilities"], found["probability"], strict=True):
        assert sum(row) == pytest.approx(1, abs=1e-5)
        assert best == max(row)
    assert json.loads(pq.read_schema(out / "predictions/part-00000.parquet").metadata[b"classes"]) == CLASSES
    (failed,) = table(out / "failed").to_pylist()
    assert (failed["file"], failed["version"]) == ("0/broken.jpg", 1)
    assert "damaged or cut short" in failed["reason"]


def test_success_lists_all_parts_with_their_digests(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    out = tmp_path / "out"
    result = run_predict(folder, out=str(out), part_images=5)
    said = json.loads((out / "_SUCCESS").read_text())
    counts = {"images": 13, "predicted": 12, "failed": 1, "ignored": 1, "version": 1, "registered_model": MODEL}
    assert said | counts == said
    listed = {file["name"]: file["sha256"] for part in said["parts"] for file in part["files"]}
    there = {name: hashlib.sha256(data).hexdigest() for name, data in files(out).items() if not name.startswith("_")}
    assert listed == there
    run = MlflowClient().get_run(result.run_id).data
    assert run.metrics | {"images": 13, "failed": 1, "parts": 3, "ignored": 1} == run.metrics
    assert run.metrics["images_per_second"] > 0
    assert (run.tags["pipeline.version"], run.tags["pipeline.out"]) == ("1", str(out))
    assert run.tags["pipeline.images"] == str(folder)


def test_csv_has_a_column_for_each_class(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    out = tmp_path / "out"
    run_predict(folder, out=str(out), part_images=100, output_format="csv")
    with (out / "predictions/part-00000.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == NAMES
    assert [row["label"] for row in rows] == labels(NAMES)
    assert list(rows[0])[3:] == [*(f"probability {name}" for name in CLASSES), "version"]
    run_predict(folder, out=str(tmp_path / "parquet"))
    exact = table(tmp_path / "parquet/predictions").to_pydict()["probabilities"]
    read = [[np.float32(row[f"probability {name}"]) for name in CLASSES] for row in rows]
    assert np.array_equal(np.array(read), np.array(exact, np.float32))


def test_the_same_image_has_the_same_probabilities_as_from_the_service(
    service: Service, tmp_path: Path, run_predict: Predict
) -> None:
    """Of every format, size and orientation that decoding treats in a way of its own."""
    random, images = np.random.default_rng(0), tmp_path / "images"
    images.mkdir()
    shapes = {"a.png": (8, 8), "b.jpg": (50, 31), "c.webp": (64, 9), "d.gif": (20, 20), "e.bmp": (9, 40)}
    shapes |= {"f.jpg": (900, 1200), "g.avif": (40, 40), "h.png": (4100, 4200)}  # g, h: in a process of their own
    for name, shape in shapes.items():
        pixels = random.integers(0, 256, (*shape, 3), np.uint8)
        if name == "h.png":  # noise of this size would be a file larger than the service takes
            pixels = (np.indices(shape).sum(0) // 33).astype(np.uint8)
        Image.fromarray(pixels).save(images / name)
    turned = Image.fromarray(random.integers(0, 256, (30, 60, 3), np.uint8))
    turned.getexif()[0x0112] = 6
    turned.save(images / "i.jpg", exif=turned.getexif())
    run_predict(images, out=str(tmp_path / "out"), forward_images=4)
    found = table(tmp_path / "out/predictions").to_pylist()
    assert [row["file"] for row in found] == sorted(path.name for path in images.iterdir())
    for row in found:
        answer = service.post("predict_image", files={"image": (images / row["file"]).read_bytes()})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["class"] == row["label"]
        expected = [said["probabilities"][name] for name in CLASSES]
        np.testing.assert_allclose(row["probabilities"], expected, rtol=1e-5, atol=1e-7, err_msg=row["file"])


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet", "folder of parquet"])
def test_archives_and_tables_give_what_the_folder_gives(
    kind: str, folder: Path, tmp_path: Path, run_predict: Predict
) -> None:
    run_predict(folder, out=str(tmp_path / "plain"))
    expected = {row["file"]: row for row in table(tmp_path / "plain/predictions").to_pylist()}
    source = tmp_path / f"source.{kind}"
    if kind == "tar":
        packed(folder, source)
    elif kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    else:
        listed = [*NAMES, "0/broken.jpg"]
        rows = pa.table({"image": [(folder / name).read_bytes() for name in listed], "id": listed})
        target = source if kind == "parquet" else source / "more" / "a.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, target)
        at = target.relative_to(source).as_posix() if kind != "parquet" else source.name
        expected = {f"{at}/{n:07}": expected[name] for n, name in enumerate(listed) if name in expected}
    result = run_predict(source, out=str(tmp_path / "out"), part_images=4, forward_images=3)
    assert (result.images, result.failed) == (13, 1)
    found = {row["file"]: row for row in table(tmp_path / "out/predictions").to_pylist()}
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert row["label"] == expected[name]["label"]
        np.testing.assert_allclose(row["probabilities"], expected[name]["probabilities"], rtol=1e-5)


def test_a_damaged_table_and_a_link_to_nowhere_are_listed_among_the_failed(
    folder: Path, tmp_path: Path, run_predict: Predict
) -> None:
    (folder / "torn.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    (folder / "link.png").symlink_to("nowhere.png")
    result = run_predict(folder, out=str(tmp_path / "out"))
    assert (result.images, result.failed) == (15, 3)
    reasons = {row["file"]: row["reason"] for row in table(tmp_path / "out/failed").to_pylist()}
    assert "is damaged or not Parquet" in reasons["torn.parquet"]
    assert "leads to no file of the source" in reasons["link.png"]


def test_without_out_the_run_has_the_predictions(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    result = run_predict(folder, part_images=5)
    assert result.out == f"runs:/{result.run_id}"
    path = mlflow.artifacts.download_artifacts(run_id=result.run_id, dst_path=str(tmp_path / "got"))
    assert table(Path(path) / "predictions").to_pydict()["file"] == NAMES
    assert json.loads((Path(path) / "_SUCCESS").read_text())["images"] == 13


def test_a_prefix_in_s3_is_read_and_written_without_a_copy_on_disk(
    folder: Path, tmp_path: Path, run_predict: Predict, s3: S3Server, store: Store
) -> None:
    run_predict(folder, out=str(tmp_path / "plain"), part_images=5)
    s3.objects |= {f"photos/{name}": data for name, data in files(folder).items()}
    s3.objects |= {"photos/marked/": b"", "other/1.png": picture(0)}
    rows = pa.table({"image": [picture(255)]}).slice(0)
    pq.write_table(rows, sink := io.BytesIO())
    s3.objects["photos/z.parquet"] = sink.getvalue()
    result = run_predict("s3://data/photos/", out="s3://data/found/mon", part_images=5)
    assert (result.out, result.images, result.failed) == ("s3://data/found/mon/", 14, 1)
    for number in range(2):  # the third part has the Parquet file's row too
        name = f"predictions/part-{number:05}.parquet"
        assert s3.objects[f"found/mon/{name}"] == (tmp_path / "plain" / name).read_bytes()
    last = pq.read_table(io.BytesIO(s3.objects["found/mon/predictions/part-00002.parquet"])).to_pydict()
    assert (last["file"][-1], last["label"][-1]) == ("z.parquet/0000000", "bright")
    assert (s3.written[0], s3.written[-1]) == ("found/mon/_plan.json", "found/mon/_SUCCESS")
    assert list(store.settings.datasets.iterdir()) == []


def test_an_archive_in_s3_is_predicted(folder: Path, tmp_path: Path, run_predict: Predict, s3: S3Server) -> None:
    s3.objects["pets.tar.gz"] = packed(folder, tmp_path / "pets.tar.gz").read_bytes()
    assert run_predict("s3://data/pets.tar.gz", out=str(tmp_path / "out")).images == 13
    assert table(tmp_path / "out/predictions").to_pydict()["file"] == NAMES


def test_another_version_answers_when_it_is_asked_for(folder: Path, tmp_path: Path, run_predict: Predict) -> None:
    result = run_predict(folder, out=str(tmp_path / "out"), model_version=2)
    assert result.version == 2
    turned = [CLASSES[2 - CLASSES.index(name)] for name in labels(NAMES)]
    assert table(tmp_path / "out/predictions").to_pydict()["label"] == turned


def test_it_runs_in_its_image_without_torch(folder: Path, tmp_path: Path, store: Store) -> None:
    program = """
import sys
absent = ("torch", "torchvision", "pandas", "onnx", "sklearn", "scipy", "matplotlib", "bentoml", "httpx")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pathlib import Path
from tasks.runner.stage_process import run_stage
sys.exit(run_stage("predict", sys.argv[1], Path(sys.argv[2])))
"""
    request = json.dumps(asked(folder, "without-torch", {"out": str(tmp_path / "out")}))
    command = [sys.executable, "-c", program, request, str(tmp_path / "return.json")]
    variables = environment(store.settings, PIPELINE_EXPERIMENT="tests")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "return.json").read_text())["images"] == 13
