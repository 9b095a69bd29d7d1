"""Plain-text tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells in columns; the first column is flush left, the others flush right.

    Args:
        header: column titles.
        rows: cells as text, as many as there are titles.

    Returns:
        Lines joined by newlines, without a final one.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def number(value: float | None, digits: int) -> str:
    """A number with fixed digits, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"
