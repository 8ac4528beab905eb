"""A small archive of an image folder, the same bytes for the same seed: three classes, PNG and JPEG, 40x48 RGB."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bars", "blobs", "rings")
IMAGES = 40  # of each class
HEIGHT, WIDTH = 40, 48


def write_archive(file: Path, seed: int = 0) -> None:
    """Write `train/CLASS/NUMBER.png` (every second one `.jpg`) into a .tar; not compressed, as gzip keeps the time."""
    random = np.random.default_rng(seed)
    with tarfile.open(file, "w") as archive:
        for name in CLASSES:
            for number in range(IMAGES):
                suffix, kind = (("png", "PNG"), ("jpg", "JPEG"))[number % 2]
                buffer = io.BytesIO()
                Image.fromarray(_pixels(name, random)).save(buffer, kind)
                member = tarfile.TarInfo(f"train/{name}/{number:03}.{suffix}")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)


def _pixels(name: str, random: np.random.Generator) -> np.ndarray:
    """One image, height x width x 3 bytes: its class's shape in a random colour and place, with noise."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    row, column = random.uniform(0.3, 0.7, size=2) * (HEIGHT, WIDTH)
    distance = np.hypot(y - row, x - column)
    scale = random.uniform(6, 12)
    shape = {
        "bars": np.sin(x / scale * np.pi) > 0,
        "blobs": distance < scale,
        "rings": np.abs(distance - scale) < 3,
    }[name]
    colour = random.uniform(100, 255, size=3)
    noisy = shape[..., None] * colour + random.normal(0, 20, size=(HEIGHT, WIDTH, 3))
    return noisy.clip(0, 255).astype(np.uint8)
