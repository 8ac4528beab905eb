"""Images in Parquet files, as Hugging Face stores them: a column of bytes and a column of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tasks.errors import DataError
from tasks.vision.cpus import available_cpus
from tasks.vision.data.decoder_process import HERE_BYTES
from tasks.vision.data.limits import ENTRY_BYTES, Limits
from tasks.vision.data.names import MAX_LABEL, normal
from tasks.vision.data.process_memory import at_most, data_bytes
from tasks.vision.data.store_file import File
from tasks.vision.data.tables import pick

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img", "image_bytes", "picture", "photo", "bytes", "content", "data")
LABEL_COLUMNS = ("label", "fine_label", "class", "class_name", "category", "target", "breed", "species", "labels")
BATCH_ROWS = 32
BATCH_BYTES = 64 * 2**20
# Beyond what the process has, while Arrow reads: a page can unpack to any size, whatever the file's own figures say.
# Arrow itself looks at the size of a page every 1,024 rows only, so that pages of photos have hundreds of megabytes: a
# file that has so many bytes may take them twice, packed and unpacked, up to a limit.
READING_BYTES, MOST_READING_BYTES = 256 * 2**20, 3 * 2**30


@dataclass(frozen=True)
class Columns:
    """What one file holds: the column with the images, and the label of every row; None where it has none."""

    image: str
    labels: list[str | None]


def scan(file: File, where: str, image_column: str | None, label_column: str | None, limits: Limits) -> Columns:
    """Read the labels of a file, and find its images without reading them.

    Args:
        file: the Parquet file.
        where: what the user called it, for messages.
        image_column: the column with the images; None finds it.
        label_column: the column with the labels; None finds it.
        limits: how much the images may unpack to.

    Raises:
        DataError: the file is damaged, has no such columns, or unpacks to too much.
    """
    with _opened(file, where) as parquet:
        schema = parquet.schema_arrow
        image = _image_column(schema, image_column, where)
        label = _column(schema, label_column, LABEL_COLUMNS, "label", where)
        _check_size(parquet, file.size, where, limits)
    with _opened(file, where, [label] if _is_text(schema.field(label).type) else None) as parquet:
        names = _class_names(schema, label)
        return Columns(image, _labels(parquet, label, names, f"{where}: column {label!r}", file.size))


def image_column(file: File, where: str, given: str | None, limits: Limits) -> str:
    """Find the column with the images of a file that needs no labels; the arguments are those of `scan`.

    Raises:
        DataError: the file is damaged, has no such column, or unpacks to too much.
    """
    with _opened(file, where) as parquet:
        _check_size(parquet, file.size, where, limits)
        return _image_column(parquet.schema_arrow, given, where)


def images(file: File, where: str, column: str, limits: Limits) -> Iterator[bytes | DataError]:
    """Yield the encoded image of every row, a batch of rows in memory at a time; or what is wrong with it.

    Raises:
        DataError: the file is damaged, or its images have more bytes than images do: a file of kilobytes may store one
            of megabytes once for thousands of rows.
    """
    unpacked = 0
    with _opened(file, where) as parquet:
        # A value that many rows share is stored once and takes memory for each row that is read.
        largest = max((parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)), default=1)
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, largest)))
        for batch in _bounded(parquet.iter_batches(rows, columns=[column], use_threads=False), file.size):
            for value in batch.column(0):
                data = value.as_py()
                data = data.get("bytes") if isinstance(data, dict) else data
                unpacked += len(data or b"")
                _require_plausible(unpacked, file.size, where, limits)
                if data is None:
                    yield DataError("the row has no bytes, only a path or nothing; embed the images")
                elif len(data) > limits.entry_bytes:
                    yield DataError(f"{len(data)} bytes, over {limits.entry_bytes}; shrink the image")
                else:
                    yield data


def _labels(parquet: pq.ParquetFile, label: str, names: list[str] | None, where: str, packed: int) -> list[str | None]:
    """Return the label of every row; equal labels share one text, as in the file, which may be small and repeat it."""
    from pyarrow import types

    labels: list[str | None] = []
    for batch in _bounded(parquet.iter_batches(columns=[label], use_threads=False), packed):
        column = batch.column(0)
        if types.is_dictionary(column.type):
            shared = [_label(value, names, where) for value in column.dictionary.to_pylist()]
            labels += [None if index is None else shared[index] for index in column.indices.to_pylist()]
        else:
            labels += [_label(value, names, where) for value in column.to_pylist()]
    return labels


def _bounded(batches: Iterator[pa.RecordBatch], packed: int) -> Iterator[pa.RecordBatch]:
    while True:
        with _reading(packed):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _reading(packed: int) -> AbstractContextManager[None]:
    """Bound what Arrow takes meanwhile for a file of `packed` bytes; other threads may be decoding an image each."""
    return at_most(data_bytes() + _reading_bytes(packed) + available_cpus() * HERE_BYTES)


def _reading_bytes(packed: int) -> int:
    return max(READING_BYTES, min(2 * packed, MOST_READING_BYTES))


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


@contextmanager
def _opened(file: File, where: str, shared: list[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file: one on disk is read bit by bit; `shared` are the columns whose equal values are kept once."""
    import pyarrow as pa  # a third of a second, and only these sources need it
    import pyarrow.parquet as pq

    # The C library gives what is freed back at once; Arrow's own pool keeps it.
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        source = str(file.path) if file.path else BytesIO(file.read())
        with _reading(file.size):  # a file may ask for any amount of memory for its own metadata
            opened = pq.ParquetFile(
                source,
                read_dictionary=shared,
                pre_buffer=False,
                buffer_size=2**20,
                thrift_string_size_limit=2**26,
                thrift_container_size_limit=2**18,
            )
        with opened as parquet:
            yield parquet
    except MemoryError as error:  # pa.ArrowMemoryError is one
        raise DataError(
            f"{where} takes over {_reading_bytes(file.size) // 2**20} MiB of memory to read; "
            "write it again with smaller pages and row groups"
        ) from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{where} is damaged or not Parquet ({type(error).__name__}: {error}); copy it again"
        ) from error


def _image_column(schema: pa.Schema, given: str | None, where: str) -> str:
    """Return the column with bytes, plain or as Hugging Face's struct of bytes and path."""
    fitting = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    if given is None and len(fitting) == 1:
        return str(fitting[0])
    name = _column(schema, given, IMAGE_COLUMNS, "image", where)
    if name not in fitting:
        raise DataError(
            f"{where}: column {name!r} is {schema.field(name).type}, not bytes or struct<bytes, path>; "
            "set file_column to the column with the encoded images"
        )
    return name


def _holds_bytes(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _column(schema: pa.Schema, given: str | None, known: tuple[str, ...], what: str, where: str) -> str:
    name = pick(schema.names, (given,) if given else known)
    if name is None:
        param = "file_column" if what == "image" else "label_column"
        raise DataError(
            f"{where} has no {f'column {given!r}' if given else f'{what} column'} "
            f"among {', '.join(map(repr, schema.names)) or 'none'}; set {param}"
        )
    return name


def _check_size(parquet: pq.ParquetFile, packed: int, where: str, limits: Limits) -> None:
    metadata = parquet.metadata
    if metadata.num_rows > limits.entries:
        raise DataError(f"{where} has over {limits.entries} rows; split the data set")
    if metadata.num_rows * ENTRY_BYTES > max(limits.listing_from_bytes, limits.listing_ratio * packed):
        raise DataError(
            f"{where} has {metadata.num_rows} rows in {packed} bytes, more than different images would need; "
            "write it without copies"
        )
    # Of whole row groups: asked for one column, Arrow ends the process where a file is damaged in the wrong place.
    unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    _require_plausible(unpacked, packed, where, limits)


def _require_plausible(unpacked: int, packed: int, where: str, limits: Limits) -> None:
    if unpacked > limits.total_bytes or unpacked > max(limits.ratio_from_bytes, limits.ratio * packed):
        raise DataError(f"{where} unpacks to {unpacked} bytes, more than images do; write it again")


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Return the names of a ClassLabel, which Hugging Face writes into the schema; the labels are then indices."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None
    return list(map(str, names)) if isinstance(names, list) else None


def _label(value: Any, names: list[str] | None, where: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise DataError(f"{where} holds {value!r:.80}, not a text or a whole number; set label_column")
    if value is None or value == "" or value == -1:  # -1: Hugging Face's test sets without labels
        return None
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            raise DataError(f"{where} holds {value}, but there are names for 0 to {len(names) - 1}; correct the file")
        value = names[value]
    if isinstance(value, str) and len(value) > MAX_LABEL:
        raise DataError(f"{where} holds a label of {len(value)} characters, over {MAX_LABEL}; set label_column")
    return " ".join(normal(str(value)).split()) or None
