"""What the name of a file says: whether it is safe, whether it is junk or may be an image, and its split."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from tasks.errors import DataError
from tasks.vision.data.formats.table import SUFFIXES

# The words for the splits as data sets use them, in any case.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# A folder of this name inside a class folder is not another class: tiny-imagenet has train/CLASS/images/*.
IMAGE_FOLDERS = {"images", "image", "imgs", "img"}
# Only to tell folders of pictures from others. Whether a file is an image is decided by its content.
PICTURES = frozenset({*SUFFIXES, ".jp2", ".ppm", ".pgm", ".pbm"})
# Files that are not images: text, documents, tables, arrays, archives, sound, films, programs.
NOT_IMAGES = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".html", ".htm", ".yaml", ".yml", ".toml"}
    | {".ini", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".odt", ".rtf"}
    | {".mat", ".npy", ".npz", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth", ".parquet", ".arrow", ".feather"}
    | {".db", ".sqlite", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
    | {".mp3", ".wav", ".mp4", ".avi", ".mov", ".mkv", ".py", ".ipynb", ".sh", ".js", ".css"}
)
TABLES = (".csv", ".tsv", ".jsonl")
# Left behind by operating systems and tools, without the user's doing: ignored and not counted.
_JUNK_FILES = {"thumbs.db", "desktop.ini", ".ds_store", "ehthumbs.db", ".gitattributes", ".gitignore", ".gitkeep"}
_JUNK_FOLDERS = {
    "__macosx", ".git", ".ipynb_checkpoints", ".cache", "@eadir", "$recycle.bin", "system volume information",
    ".trashes", ".spotlight-v100", ".fseventsd",
}  # fmt: skip
MAX_PATH = 4096  # bytes, as on Linux
MAX_LABEL = 1000  # characters of a class name in a table; that of a folder has 255 bytes at most
MAX_FOLDERS = 255  # of a path: it is looked at folder by folder, many times
_DRIVE = re.compile(r"^[A-Za-z]:")


def safe_name(name: str, where: str) -> str:
    """Return a path inside a source in its plain form (`./a//b` is `a/b`).

    Raises:
        DataError: the path leads out of the source, is not UTF-8, or has over `MAX_PATH` bytes or `MAX_FOLDERS`.
    """
    if len(name) > MAX_PATH:  # as millions of folders inside each other, it would fill the memory
        raise DataError(f"{where} holds a path of over {MAX_PATH} bytes, {name[:40]!r}...; shorten it")
    if name.count("/") > MAX_FOLDERS:
        raise DataError(f"{where} holds a path of over {MAX_FOLDERS} folders, {name[:40]!r}...; shorten it")
    if name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise DataError(f"{where} holds the path {name!r}, which leads out of it; pack it again with relative paths")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds the file name {name!r}, which is not UTF-8; rename the file, or set name_encoding for a tar"
        ) from error
    return PurePosixPath(name).as_posix()


def normal(text: str) -> str:
    """Return a name in Unicode's form NFC: macOS writes é as two code points, others as one."""
    return unicodedata.normalize("NFC", text)


def is_junk(path: str) -> bool:
    """Tell whether an operating system or a tool left this file behind."""
    *folders, file = path.lower().split("/")
    return file in _JUNK_FILES or file.startswith("._") or not _JUNK_FOLDERS.isdisjoint(folders)


def is_hidden(path: str) -> bool:
    """Tell whether the file or one of its folders begins with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def suffix(path: str) -> str:
    """Return the suffix in lower case, with its dot; "" where there is none."""
    return PurePosixPath(path).suffix.lower()


def may_be_image(path: str) -> bool:
    """Tell whether the file is tried as an image: its content decides, unless its suffix says something else."""
    return suffix(path) not in NOT_IMAGES


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder name means: `train`, `Val`, `test_images`."""
    words = [word for word in re.split(r"[-_. ]+", name.lower()) if word not in IMAGE_FOLDERS]
    return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def split_of_path(path: str) -> str | None:
    """Return the split of the first folder of a path whose name means one."""
    return next((split for folder in path.split("/")[:-1] if (split := split_of_folder(folder))), None)


def split_of_file(path: str) -> str | None:
    """Return the split that a table's name contains (`train-00000-of-00002.parquet`, `val.csv`), else its folder's.

    A name with words for two splits (`train_val.csv`) says nothing.
    """
    words = {
        SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", PurePosixPath(path).stem.lower()) if word in SPLIT_WORDS
    }
    return words.pop() if len(words) == 1 else split_of_path(path)
