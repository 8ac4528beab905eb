"""Writes a report into a Markdown file whose notes, written by hand, stay."""

from __future__ import annotations

from pathlib import Path


def write_above(notes: str, text: str, file: Path) -> None:
    """Replace all of the file before the heading `notes`, a line such as `## What follows from it`."""
    heading = f"\n{notes}\n"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    _, found, kept = old.partition(heading)
    file.write_text(text + found + kept, encoding="utf-8")
