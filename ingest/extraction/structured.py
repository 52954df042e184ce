"""JSON and CSV: data that is also a document.

Rules of this module:
- JSON must parse; if it does not, that is DAMAGED and its text is what it is. JSON Lines counts as JSON.
- The text of JSON is its string values in order, without the names of its members.
- CSV has no rules that a reader could enforce: the separator is the one that most lines agree on.
- Depth never costs the stack: what is nested deeper than the parser goes is DAMAGED, not a crash.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import Any

from ingest.extraction import Document, Seen
from ingest.extraction.text import detect, read_head, settle
from ingest.model import finding

MAX_JSON = 64 * 1024 * 1024  # bytes that are parsed; a parsed document is several times larger
MAX_CELL = 1 << 20  # characters of one cell
_SEPARATORS = ",;\t|"


def read(document: Document) -> Seen:
    """Metadata and text of a JSON or CSV document."""
    return _read_json(document) if document.mime == "application/json" else _read_csv(document)


def _read_json(document: Document) -> Seen:
    seen = Seen()
    size = document.path.stat().st_size
    if size > MAX_JSON:
        with document.path.open("rb") as file:
            text, seen.metadata["encoding"], _ = detect(read_head(file, document, seen))
        settle(seen, text, document.limits)
        return seen
    text, seen.metadata["encoding"], _ = detect(document.path.read_bytes())
    values, problem = _parse(text)
    if problem:
        seen.findings.append(finding("DAMAGED", problem))
        settle(seen, text, document.limits)
    else:
        settle(seen, "\n".join(_strings(values, document.limits.text_chars)), document.limits)
    return seen


def _parse(text: str) -> tuple[list[Any], str]:
    """The values in `text` (more than one if it is JSON Lines), and what is wrong with it."""
    try:
        return [json.loads(text)], ""
    except RecursionError:
        return [], "JSON nested deeper than any reader goes"
    except ValueError as problem:
        message = f"no valid JSON: {problem}"
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].lstrip().startswith(("{", "[")):
        return [], message
    try:
        return [json.loads(line) for line in lines], ""
    except (ValueError, RecursionError):
        return [], message


def _strings(values: list[Any], room: int) -> list[str]:
    """The string values in document order, until they hold `room` characters."""
    found: list[str] = []
    stack = list(reversed(values))
    while stack and room >= 0:
        value = stack.pop()
        if isinstance(value, str):
            if len(value) < MAX_CELL or " " in value[:1000]:  # else base64, which nobody searches
                found.append(value)
                room -= len(value) + 1
        elif isinstance(value, dict):
            stack.extend(reversed(value.values()))
        elif isinstance(value, list):
            stack.extend(reversed(value))
    return found


def _read_csv(document: Document) -> Seen:
    seen = Seen()
    with document.path.open("rb") as file:
        text, encoding, sure = detect(read_head(file, document, seen))
    seen.metadata["encoding"] = encoding
    if not sure:
        seen.findings.append(finding("ENCODING-UNSURE", f"read as {encoding}, which no mark or check confirms"))
    whole = not seen.findings or all(found.code != "TEXT-LIMIT" for found in seen.findings)
    lines: list[str] = []
    widths: Counter[int] = Counter()
    csv.field_size_limit(MAX_CELL)
    body = text.replace("\x00", "")
    try:
        for row in csv.reader(body.splitlines(keepends=True), delimiter=_separator(body)):
            if row:
                widths[len(row)] += 1
                lines.append("\t".join(row))
    except csv.Error as problem:
        seen.findings.append(finding("DAMAGED", f"row {len(lines) + 1}: {problem}"))
        whole = False
        lines = [body]
    if whole:
        seen.metadata["rows"] = len(lines)
        seen.metadata["columns"] = max(widths, default=0)
    settle(seen, "\n".join(lines), document.limits)
    return seen


def _separator(text: str) -> str:
    """The separator by which the first lines agree best on a number of columns; a comma if none does."""
    sample = text[:16_384].splitlines()[:50]
    if sample and sample[0].lower().startswith("sep=") and len(sample[0]) == 5:
        return sample[0][4]
    best, score = ",", 0.0
    for separator in _SEPARATORS:
        counts = Counter(len(row) for row in csv.reader(sample, delimiter=separator) if row)
        columns, lines = max(counts.items(), key=lambda item: (item[0] > 1, item[1]), default=(0, 0))
        if columns > 1 and lines / len(sample) > score:
            best, score = separator, lines / len(sample)
    return best
