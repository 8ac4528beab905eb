"""The image files that benchmarks measure with: some of CIFAR-10 in class folders, and photos made from them."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

PHOTO = (500, 375)  # width and height
QUALITY = 90
GRAIN = 6.0  # standard deviation of the noise, of 255: without it an enlarged image would be a far smaller JPEG


def class_folders(archive: Path, folder: Path, limits: Mapping[str, int]) -> Path:
    """Unpack the first images of each class to `folder/SPLIT/CLASS/`; return `folder`.

    Args:
        archive: a .tar with .../SPLIT/CLASS/FILE.
        folder: where they go; what is already there stays.
        limits: images of each class, for each split that is wanted.

    Raises:
        SystemExit: the archive is missing, or has too few images.
    """
    if not archive.is_file():
        raise SystemExit(
            f"SOURCE={archive} is not a file; give CIFAR-10 as .tar.gz with train/CLASS/* and test/CLASS/*"
        )
    taken: Counter[tuple[str, str]] = Counter()
    with tarfile.open(archive) as opened:
        for member in opened:
            parts = PurePosixPath(member.name).parts[-3:]
            content = opened.extractfile(member) if len(parts) == 3 and ".." not in parts else None
            if content is None:
                continue
            split, name, file = parts
            if taken[split, name] >= limits.get(split, 0):
                continue
            target = folder / split / name / file
            taken[split, name] += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    for split, limit in limits.items():
        counts = [count for (of, _), count in taken.items() if of == split]
        if len(counts) < 2 or min(counts) < limit:
            raise SystemExit(
                f"SOURCE={archive} has not {limit} images in {split}/ for each of two or more classes; "
                "give CIFAR-10, or a smaller --images"
            )
    return folder


def make_photos(archive: Path, folder: Path, count: int) -> Path:
    """Write `count` JPEG photos of 500x375 pixels to `folder/CLASS/`; return `folder`. The same every time.

    They are images of CIFAR-10, enlarged and with the grain of a camera: about 100 kB each.
    """
    small = class_folders(archive, folder.with_name(f"{folder.name}-of"), {"train": min(100, -(-count // 10))})
    sources = sorted(small.glob("train/*/*"), key=lambda path: (path.name, path.parent.name))  # classes take turns
    targets = []
    for number, source in enumerate(islice(cycle(sources), count)):
        target = folder / source.parent.name / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        targets.append(target)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_photo, islice(cycle(sources), count), targets, range(count), chunksize=50))
    return folder


def _write_photo(source: Path, target: Path, seed: int) -> None:
    if not target.exists():
        target.write_bytes(photo(source.read_bytes(), seed))


def photo(encoded: bytes, seed: int) -> bytes:
    """Enlarge an image to 500x375 pixels and add grain drawn from `seed`; return it as JPEG."""
    with Image.open(io.BytesIO(encoded)) as image:
        large = np.asarray(image.convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC), dtype=np.float32)
    grain = np.random.default_rng(seed).normal(0, GRAIN, large.shape[:2]).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(large + grain[..., None], 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
