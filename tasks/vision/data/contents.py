"""What a source holds, after going through it once: the input of every layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tasks.contract.data import LayoutName, PrepareRequest
from tasks.errors import DataError
from tasks.vision.data.names import PICTURES, is_hidden, is_junk, may_be_image, normal, suffix
from tasks.vision.data.parquet import Columns


@dataclass(frozen=True)
class LayoutOptions:
    """What a request says about the layout; each field is a Param of the same name (`PrepareRequest`)."""

    layout: LayoutName = "auto"
    file_column: str | None = None
    label_column: str | None = None
    label_pattern: str | None = None
    name_encoding: str | None = None

    @classmethod
    def of(cls, request: PrepareRequest) -> LayoutOptions:
        """Take the options from a request."""
        return cls(**request.model_dump(include=set(cls.__dataclass_fields__)))


@dataclass(frozen=True)
class Contents:
    """The files of a source.

    Attributes:
        where: what the user called the source, for messages.
        sizes: size in bytes of every file, by its name in the source.
        links: the links that lead to no file of the source, and why.
        sheets: content of the CSV, TSV and JSON Lines files by their name, or why it cannot be read.
        parquets: what the Parquet files hold by their name, or why they cannot be read.
    """

    where: str
    sizes: Mapping[str, int]
    links: Mapping[str, str] = field(default_factory=dict)
    sheets: Mapping[str, bytes | DataError] = field(default_factory=dict)
    parquets: Mapping[str, Columns | DataError] = field(default_factory=dict)

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(self.sizes.values())

    @cached_property
    def paths(self) -> dict[str, str]:
        """The path of every file that counts, in Unicode's form NFC, by its name in the source."""
        return {name: normal(name) for name in self.sizes if not is_junk(name)}

    @cached_property
    def visible(self) -> dict[str, str]:
        """`paths` without hidden files."""
        return {name: path for name, path in self.paths.items() if not is_hidden(path)}

    @cached_property
    def by_suffix(self) -> bool:
        """Whether images are known by their suffix; else every file that may be one counts as a picture."""
        return any(suffix(path) in PICTURES for path in self.visible.values())

    def is_picture(self, path: str) -> bool:
        """Tell whether a file looks like an image, to tell folders of images from others."""
        return suffix(path) in PICTURES if self.by_suffix else may_be_image(path)
