"""Lays text out in columns, for what commands print."""

from __future__ import annotations

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Align the cells of every line but the last one, which may have any length."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay rows out under a header and a rule, columns aligned; the last one may have any length."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header) - 1)]
    return columns([header, ["-" * width for width in [*widths, len(header[-1])]], *lines])


def short(value: object) -> str:
    """Write a value for a cell: a number with three significant digits, None as `-`."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
