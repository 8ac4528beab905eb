"""Photos in an S3 store, and a DAG that trains on them from the pretrained weights in the images: no hub is asked."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import numpy as np
from PIL import Image

URI = "s3://mlflow/photos.tar"
CLASSES, IMAGES, SIDE = ("bricks", "leaves"), 24, 96
STAGES = ("prepare", "train", "evaluate")
DAG = """
from airflow.sdk import DAG
from pipeline.operator.params import stage_params
from pipeline.runtimes import stage_task

with DAG(dag_id={dag_id!r}, params=stage_params(*{stages})):
    prepare = stage_task("prepare")
    train = stage_task("train", prepare_run_id=prepare.output["run_id"])
    stage_task("evaluate", train_run_id=train.output["run_id"])
"""
CONF = {
    "dataset": "image_folder",
    "source": URI,
    "image_size": 64,
    "finetune": "head",
    "registered_model": "photos",
}


def dag(dag_id: str) -> str:
    """Return a DAG of `STAGES`."""
    return DAG.format(dag_id=dag_id, stages=STAGES)


def upload(client: Any, uri: str = URI, images: int = IMAGES) -> None:
    """Put an archive of so many photos of each class at `uri`: stripes across, and stripes down, each another one."""
    generator, archive = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for label, name in enumerate(CLASSES):
            for number in range(images):
                line = generator.integers(0, 256, (1, SIDE // 8, 3)).repeat(8, 1).repeat(SIDE, 0)
                pixels = line.transpose(1, 0, 2) if label else line
                photo = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(photo, "JPEG")
                member = tarfile.TarInfo(f"{name}/{number:02}.jpg")
                member.size = photo.tell()
                photo.seek(0)
                tar.addfile(member, photo)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=key, Body=archive.getvalue())
