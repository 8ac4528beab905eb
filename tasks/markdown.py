"""Writes text from the data into Markdown as text: it becomes no link, picture, table cell or HTML."""

from __future__ import annotations

import re

SPECIAL = re.compile(r"([\\`*_~\[\]<>|&])")


def plain(text: str) -> str:
    """Escape text on one line."""
    return SPECIAL.sub(r"\\\1", _folded(text))


def code(text: str) -> str:
    """Quote text as code on one line: between backticks, Markdown has no effect."""
    return f"`{_folded(text).replace('`', chr(39))}`"


def _folded(text: str) -> str:
    return " ".join(text.split())
