"""A report as files: a page, JSON, and the lists as CSV.

Rules of this module:
- A file appears whole or not at all (temporary file, rename), readable by its owner only.
- JSON and CSV never hold names. A page with names goes to `with-names/`, and `sweep_names` removes it.
- A cell of a CSV file that a spreadsheet would take for a formula is written as text (OWASP, *CSV injection*).
- Memory does not grow with the lists: they are unpacked row by row.

The JSON document (`format` muniment-report, `version` 1; keys are added, never changed):
    id, as_of, made_at, timezone, summary         as on the page
    red                                           ids of the checks that are red
    checks[]                                      id, status, title, found, then, figure
    records, bytes, quarantined                   figures
    held[] due[] waiting[] quarantine[] findings[] turned_away[] intake days[] documents{} runs sources[]
    written[] expectations[] schedule ledger vault frozen disposition    as `retention.reports.model` names them
    lists{}                                       id -> title, columns, count, rows (of text; unknown is "")
A figure is {value, list, column}: the number of rows of `lists[list]`, or where `column` is not null the sum of it.
Instants are ISO 8601 in UTC, days ISO 8601, bytes whole numbers.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from retention.errors import UsageError
from retention.reports import page
from retention.reports.model import ComplianceReport, Figure, Listing, PlannedClass, Source

FORMATS = ("html", "json", "csv")
WITH_NAMES = "with-names"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(report: ComplianceReport, folder: Path, formats: Collection[str]) -> dict[str, Path]:
    """Write the report below `folder`; returns format -> file (for csv the folder of the lists).

    Raises UsageError for a format that is not one of FORMATS. Writing the same report again replaces it."""
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UsageError(f"report: expected formats among {', '.join(FORMATS)}, found {', '.join(unknown)}.")
    folder = folder / WITH_NAMES if report.names else folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = f"compliance-{report.as_of.isoformat()}-{report.id}"
    lists = folder / f"{stem}-lists"
    paths: dict[str, Path] = {}
    if "csv" in formats:
        _write_lists(report.lists, lists)
        paths["csv"] = lists
    if "html" in formats:
        _write_lists([one for one in report.lists if one.count > page.ROWS], lists)  # what the page cuts
        paths["html"] = _write(folder / f"{stem}.html", lambda file: file.writelines(page.render(report, lists.name)))
    if "json" in formats:
        paths["json"] = _write(folder / f"{stem}.json", lambda file: file.writelines(_json(report)))
    return paths


def sweep_names(folder: Path, before: datetime) -> int:
    """Remove the copies with names that were made before that time; returns how many files went."""
    gone = 0
    for path in sorted((folder / WITH_NAMES).rglob("*"), reverse=True):  # files before their folders
        if path.is_file() and datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
            path.unlink()
            gone += 1
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return gone


def _write(path: Path, content: Callable[[IO[str]], object]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            content(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# ---------------------------------------------------------------- CSV


def _write_lists(lists: Collection[Listing], folder: Path) -> None:
    if lists:
        folder.mkdir(exist_ok=True, mode=0o700)
    for one in lists:
        _write(folder / f"{one.id}.csv", partial(_csv, one))


def _csv(one: Listing, file: IO[str]) -> None:
    writer = csv.writer(file)
    writer.writerow(one.plain)
    width = len(one.plain)
    writer.writerows([harmless(cell) for cell in row[:width]] for row in one.rows())


def harmless(cell: str) -> str:
    """The cell as a spreadsheet will show it and not compute it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


# ---------------------------------------------------------------- JSON


def _json(report: ComplianceReport) -> Iterator[str]:
    head: dict[str, Any] = {"format": "muniment-report", "version": 1}
    head |= _value(report)
    head["red"] = [check.id for check in report.red]
    yield json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "lists": {'
    for number, one in enumerate(report.lists):
        meta = {"title": one.title, "columns": one.plain, "count": one.count}
        opening = json.dumps(meta, ensure_ascii=False).removesuffix("}")
        yield f'{"," if number else ""}\n  {json.dumps(one.id)}: {opening}, "rows": ['
        for row_number, row in enumerate(one.rows()):
            yield ("," if row_number else "") + "\n   " + json.dumps(row[: len(one.plain)], ensure_ascii=False)
        yield "]}"
    yield "\n }\n}\n"


def _value(value: Any) -> Any:
    """A value of the report in JSON's own types."""
    if isinstance(value, Figure):
        return {"value": value.value, "list": value.listing, "column": value.column}
    if isinstance(value, Mapping):
        return {str(key): _value(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_value(inner) for inner in value]
    if is_dataclass(value):
        left_out = _LEFT_OUT.get(type(value), frozenset())
        return {one.name: _value(getattr(value, one.name)) for one in fields(value) if one.name not in left_out}
    return _scalar(value)


# Names, and the lists, which are written apart.
_LEFT_OUT: Mapping[type, frozenset[str]] = {
    Source: frozenset({"name"}),
    PlannedClass: frozenset({"reviewers"}),
    ComplianceReport: frozenset({"lists", "names"}),
}


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
