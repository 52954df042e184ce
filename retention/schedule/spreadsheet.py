"""CSV that people open in a spreadsheet.

Rules of this module:
- Pure. A cell that a spreadsheet would take for a formula is written as text, with a quote before it (OWASP, *CSV
  injection*), also behind spaces, quotes and in full-width characters.
- What was written is read back by `unquoted` as it was.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = "=+-@\t\r\n＝＋－＠"


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A header and rows, each cell in quotes (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([quoted(cell) for cell in row] for row in rows)
    return out.getvalue()


def dangerous(cell: str) -> bool:
    """True for what a spreadsheet may compute; also for what `unquoted` would take for quoted."""
    bare = cell.lstrip(" '")
    return bool(bare) and bare[0] in _FORMULA


def quoted(cell: str) -> str:
    return f"'{cell}" if dangerous(cell) else cell


def unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and dangerous(cell[1:]) else cell
