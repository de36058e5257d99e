"""Text in columns, for every table that is printed."""

from __future__ import annotations

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right; a one-cell row stands as it is."""
    columns = max(len(row) for row in rows)
    widths = [max((len(row[i]) for row in rows if len(row) == columns), default=0) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(row[0] if len(row) < columns else "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return lines
