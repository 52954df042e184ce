"""Trigger events from a CSV file: legacy dates of many records at once.

Rules of this module:
- UTF-8, with or without a byte order mark; a header with subject, kind, date and, if there is one, note.
- Every mistake is named by its line, and then nothing of the file is used.
- All events of a file are one change (retention.triggers): recorded together, looked at together.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

from retention import aggregations, ledger, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive
from retention.database import transaction
from retention.errors import UsageError
from retention.triggers import Change, Given

COLUMNS = ("subject", "kind", "date")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SHOWN = 100  # mistakes named one by one
_NOTE = 2000  # characters of evidence: more belongs into a record


def read(archive: Archive, file: Path, now: datetime, *, create: bool = False) -> Change:
    """The events of a file. With `create`, aggregations that are new are made. Raises UsageError with every mistake."""
    given: list[tuple[int, Given]] = []
    named: dict[UUID, Aggregation] = {}
    problems: list[tuple[int, str]] = []
    for line, row in _rows(file):
        try:
            subject = aggregations.subject(archive.safe, row["subject"].strip())
            if ":" in row["subject"]:
                named[subject] = aggregations.parse(row["subject"].strip())
            given.append((line, Given(subject, row["kind"], _day(row["date"]), row["note"])))
        except UsageError as error:
            problems.append((line, str(error)))
            continue
        if problem := triggers.mistake(row["kind"], given[-1][1].effective):
            problems.append((line, problem))
        if len(row["note"]) > _NOTE:
            problems.append((line, f"note: expected at most {_NOTE} characters, found {len(row['note'])}."))
    with transaction(archive.connections) as conn:
        absent = aggregations.missing(conn, (one.subject for _, one in given))
    made = absent & named.keys() if create else set()
    for line, one in given:
        if one.subject in absent - made:
            problems.append((line, f"no record or aggregation {named.get(one.subject, one.subject)}."))
    if problems:
        raise UsageError(_worded(file, sorted(problems)))
    with transaction(archive.connections) as conn:
        ledger.append(conn, aggregations.ensure(conn, archive, [named[one] for one in made], now), now)
    return Change(tuple(one for _, one in given))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of each row. Raises UsageError for what is no such file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, restkey="", restval="", strict=True)
            found = [(name or "").strip() for name in rows.fieldnames or ()]
            if set(found) - {*COLUMNS, "note"} or set(COLUMNS) - set(found) or len(found) != len(set(found)):
                wanted = f"the columns {','.join(COLUMNS)} and perhaps note"
                raise UsageError(f"{file}:1: expected {wanted}, found {','.join(found) or 'none'}.")
            rows.fieldnames = found
            for row in rows:
                if any(isinstance(cell, list) for cell in row.values()):
                    raise UsageError(
                        f"{file}:{rows.line_num}: more cells than columns; put text with commas in quotes."
                    )
                yield rows.line_num, {"note": ""} | row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 CSV ({error}).") from None


def _day(text: str) -> date:
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise UsageError(f"date: expected a day such as 2026-01-31, found {text!r}.")


def _worded(file: Path, problems: list[tuple[int, str]]) -> str:
    lines = [f"{file}:{line}: {message}" for line, message in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN:,} more.")
    return "\n".join([*lines, f"{len(problems):,} mistakes; nothing was recorded."])
