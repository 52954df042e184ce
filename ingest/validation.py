"""Validation: one Great Expectations suite over the facts of a batch; every failure names its document.

Rules of this module:
- A batch becomes one frame: a row for each document and each document within it, a column for each fact.
  Facts are numbers or nothing; no text that a stranger wrote enters the frame.
- A suite has one expectation for each fact; its meta holds the code, the severity and what the code means.
- What extraction found is one of the facts: the column `found <code>` counts its findings. They are carried
  with their own message, and a finding that Great Expectations failed to see is itself a failure.
- The severity of a code belongs to the profile; a profile may be stricter than the default, never milder.
- A document and what is embedded in it are one unit and share one fate. An embedded document that would be
  rejected alone puts the unit into quarantine: the bytes of the whole did come.
- Unknown means quarantine: an expectation that raised, or that saw another number of rows than there are,
  leaves every document of the batch with VALIDATION-FAILED. No document is lost by a failed validation.
- Great Expectations takes seconds to import: it is imported when first used, or by `preload`. Its telemetry
  is switched off before that, and its Data Docs are never built (they load scripts from the net).
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from ingest.model import CODES, Extraction, Finding, Severity
from retention.errors import UsageError

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FAILED = "VALIDATION-FAILED"
PDF = "application/pdf"
# A date without an offset is read as UTC; the farthest zone is 14 hours ahead, and clocks err.
DAYS_AHEAD_ALLOWED = 1.0
EARLIEST_YEAR = 1900
DATE_KEYS = ("created", "modified", "date")
# Explicit embeddings and overrides turn text around ("cod.exe" shown as "exe.doc"); the plain marks U+200E
# and U+200F are left alone, for right-to-left names need them.
BIDI_CONTROLS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
RANK: Mapping[Severity, int] = {Severity.WARN: 1, Severity.QUARANTINE: 2, Severity.REJECT: 3}

# Profile -> the codes that weigh more in it than in CODES.
PROFILES: Mapping[str, Mapping[str, Severity]] = MappingProxyType(
    {
        "default": {},
        # A patient's file must be found by its words, and its dates start clocks of decades: a person
        # looks before it is admitted.
        "health": {
            "TEXT-EMPTY": Severity.QUARANTINE,
            "ENCODING-UNSURE": Severity.QUARANTINE,
            "PDF-DAMAGED-REPAIRED": Severity.QUARANTINE,
            "DATE-IN-FUTURE": Severity.QUARANTINE,
            "DATE-IMPLAUSIBLE": Severity.QUARANTINE,
            "CHILD-LIMIT": Severity.QUARANTINE,
        },
    }
)

# Codes that are decided before or after validation, where no extraction exists to be looked at.
NOT_OF_EXTRACTION = frozenset(
    {
        "TOO-LARGE",
        "UNREADABLE",
        "VANISHED",
        "CHANGED-WHILE-READ",
        "KNOWN-DESTROYED",
        "WORM-UNAVAILABLE",
        FAILED,
    }
)


class Statistic(TypedDict):
    """How one expectation fared over the batch; children are counted as documents."""

    code: str
    severity: str
    evaluated: int  # documents to which it applied
    failed: int


@dataclass(frozen=True, slots=True)
class ValidationRun(Generic[K]):
    """The outcome for one batch. Every key of the batch is in both mappings."""

    # All findings of the unit: the document's own first, then those of what is embedded in it, by name.
    findings: Mapping[K, tuple[Finding, ...]]
    # The extractions as given, each (children too) with its own findings as this profile weighs them.
    documents: Mapping[K, Extraction]
    statistics: tuple[Statistic, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """One document of the frame: a document of the batch, or one embedded in it."""

    extraction: Extraction
    received: datetime


@dataclass(frozen=True, slots=True)
class _Check:
    """A fact that validation itself computes, what it must be, and how a failure is said."""

    code: str
    column: str
    fact: Callable[[_Row], float | None]  # None: the check does not apply to this document
    least: float | None
    most: float | None
    message: Callable[[_Row], str]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the suite said: the rows that failed each code, and the columns it could not evaluate."""

    failed: Mapping[str, frozenset[int]]
    evaluated: Mapping[str, int]
    unknown: tuple[str, ...]


def validate(batch: Sequence[tuple[K, Extraction, datetime]], profile: str = "default") -> ValidationRun[K]:
    """Every finding on every document of `batch`, whose items are (key, extraction, receipt in UTC).

    Keys must be unique within the batch. Raises UsageError for a profile that does not exist. A document
    that could not be validated gets VALIDATION-FAILED; nothing else is raised for what a document holds.
    """
    severities = _severities(profile)
    rows = [_Row(node, received) for _, top, received in batch for node in _nodes(top)]
    verdict = _run(rows, profile) if rows else _Verdict({}, {}, ())
    findings: dict[K, tuple[Finding, ...]] = {}
    documents: dict[K, Extraction] = {}
    number = 0
    for key, top, _ in batch:
        if key in findings:
            raise ValueError(f"validate: the key {key!r} stands twice in one batch")
        own = []
        for _node in _nodes(top):
            own.append(_findings(rows[number], number, verdict, severities))
            number += 1
        findings[key] = _unit(top, own)
        documents[key] = _with(top, iter(own).__next__)
    return ValidationRun(findings, documents, _statistics(verdict, severities))


def decide(findings: Sequence[Finding]) -> Severity | None:
    """The worst severity among the findings of a unit; None if there are none."""
    return max((found.severity for found in findings), key=RANK.__getitem__, default=None)


def preload() -> None:
    """Import Great Expectations and build the default suite; seconds, worth a thread of its own."""
    with _LOCK:
        _suite("default")


# --- facts -----------------------------------------------------------------------------------------------


def _nodes(top: Extraction) -> list[Extraction]:
    """A document and all that is embedded in it, parents before children."""
    return [top, *(node for child in top.children for node in _nodes(child))]


def _dates(row: _Row) -> dict[str, datetime | None]:
    """The dates that a document states, by key; None for a value that is no date."""
    dates: dict[str, datetime | None] = {}
    for key in DATE_KEYS:
        value = row.extraction.metadata.get(key)
        if value is None:
            continue
        try:
            date = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            date = None
        dates[key] = date.replace(tzinfo=UTC) if date is not None and date.tzinfo is None else date
    return dates


def _days_ahead(row: _Row) -> float | None:
    ahead = [(date - row.received).total_seconds() for date in _dates(row).values() if date is not None]
    return max(ahead) / 86_400 if ahead else None


def _earliest_year(row: _Row) -> float | None:
    """The earliest year among the dates; 0 for a value that is no date."""
    return min((date.year if date is not None else 0 for date in _dates(row).values()), default=None)


def _future(row: _Row) -> str:
    key, date = max(((key, date) for key, date in _dates(row).items() if date is not None), key=lambda pair: pair[1])
    return f"'{key}' is {date.isoformat()}; expected none after its receipt, {row.received.isoformat()}"


def _implausible(row: _Row) -> str:
    key = min((date.year if date is not None else 0, key) for key, date in _dates(row).items())[1]
    found = str(row.extraction.metadata[key])[:80]
    return f"'{key}' is {found!r}; expected an ISO 8601 date of {EARLIEST_YEAR} or later"


def _password(row: _Row, pdf: bool) -> float | None:
    needed = row.extraction.metadata.get("password_needed")
    if needed is None or (row.extraction.identification.mime == PDF) is not pdf:
        return None
    return float(needed is True)


def _surrogates(row: _Row) -> float:
    """Bytes of the name that are not UTF-8 (kept as lone surrogates, PEP 383)."""
    return sum("\ud800" <= char <= "\udfff" for char in row.extraction.name)


def _controls(row: _Row) -> float:
    return sum(char < " " or "\x7f" <= char <= "\x9f" or char in BIDI_CONTROLS for char in row.extraction.name)


def _pages(row: _Row) -> float | None:
    pages = row.extraction.metadata.get("pages")
    return float(pages) if isinstance(pages, int) else None


CHECKS: tuple[_Check, ...] = (
    _Check(
        "EMPTY",
        "bytes",
        lambda row: row.extraction.size,
        1,
        None,
        lambda _: "0 bytes; expected a document",
    ),
    _Check("DAMAGED", "pages", _pages, 1, None, lambda _: "it says it has no page; expected at least one"),
    _Check(
        "PDF-ENCRYPTED",
        "pdf needs a password",
        lambda row: _password(row, pdf=True),
        None,
        0,
        lambda _: "it opens with a password only; expected a PDF that anyone can read",
    ),
    _Check(
        "ENCRYPTED",
        "other needs a password",
        lambda row: _password(row, pdf=False),
        None,
        0,
        lambda _: "it opens with a password only; expected a document that anyone can read",
    ),
    _Check("DATE-IN-FUTURE", "days ahead", _days_ahead, None, DAYS_AHEAD_ALLOWED, _future),
    _Check("DATE-IMPLAUSIBLE", "earliest year", _earliest_year, EARLIEST_YEAR, None, _implausible),
    _Check(
        "NAME-NOT-UTF8",
        "bytes of the name that are not UTF-8",
        _surrogates,
        None,
        0,
        lambda row: f"the name is {os.fsencode(row.extraction.name)!r}; expected UTF-8",
    ),
    _Check(
        "NAME-CONTROL",
        "controls in the name",
        _controls,
        None,
        0,
        lambda row: f"the name is {row.extraction.name!r}; expected no control characters",
    ),
)
CARRIED: tuple[str, ...] = tuple(code for code in CODES if code not in NOT_OF_EXTRACTION)
CHECKED: Mapping[str, str] = {check.column: check.code for check in CHECKS}
COLUMN_CODES: Mapping[str, str] = {**{f"found {code}": code for code in CARRIED}, **CHECKED}


def _frame(rows: Sequence[_Row]) -> pandas.DataFrame:
    """Floats throughout, NaN where a fact does not apply, so that no document chooses a column's type."""
    import pandas

    nothing = float("nan")
    counts = [Counter(found.code for found in row.extraction.findings) for row in rows]
    columns: dict[str, list[float]] = {
        f"found {code}": [float(count[code]) if code in count else nothing for count in counts] for code in CARRIED
    }
    for check in CHECKS:
        facts = (check.fact(row) for row in rows)
        columns[check.column] = [nothing if fact is None else float(fact) for fact in facts]
    return pandas.DataFrame({"row": range(len(rows)), **columns})


# --- Great Expectations ----------------------------------------------------------------------------------

_LOCK = threading.RLock()  # its project is global to the process


@cache
def _project() -> tuple[Any, Any]:
    """The ephemeral context and the batch definition of a frame; once for the process."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("batch")
    return context, asset.add_batch_definition_whole_dataframe("whole")


@cache
def _suite(profile: str) -> tuple[Any, Any]:
    """The suite of a profile, and the batch definition that it is run on."""
    severities = _severities(profile)
    context, definition = _project()
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.core.expect_column_values_to_be_between import (
        ExpectColumnValuesToBeBetween,
    )
    from great_expectations.expectations.core.expect_column_values_to_be_null import (
        ExpectColumnValuesToBeNull,
    )

    def meta(code: str, column: str) -> dict[str, str]:
        return {"code": code, "column": column, "severity": severities[code], "what": CODES[code][1]}

    expectations: list[Any] = [
        ExpectColumnValuesToBeNull(column=f"found {code}", meta=meta(code, f"found {code}")) for code in CARRIED
    ]
    expectations += [
        ExpectColumnValuesToBeBetween(
            column=check.column,
            min_value=check.least,
            max_value=check.most,
            meta=meta(check.code, check.column),
        )
        for check in CHECKS
    ]
    return context.suites.add(ExpectationSuite(name=profile, expectations=expectations)), definition


RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "unexpected_index_column_names": ["row"],
    "return_unexpected_index_query": False,
    "partial_unexpected_count": 0,
}


def _run(rows: Sequence[_Row], profile: str) -> _Verdict:
    with _LOCK:  # also around the cache: two threads that both miss it would add the suite twice
        suite, definition = _suite(profile)
        try:
            results = definition.get_batch({"dataframe": _frame(rows)}).validate(suite, result_format=RESULT_FORMAT)
        except Exception as error:  # whatever it is, the documents are kept and the officer is told
            log.error("validation of %d documents failed: %s: %s", len(rows), type(error).__name__, error)
            return _Verdict({}, {}, ("every fact",))
        return _verdict(results.results, len(rows))


def _verdict(results: Sequence[Any], rows: int) -> _Verdict:
    """Read the results by their meta: Great Expectations returns those that raised out of order."""
    failed: dict[str, frozenset[int]] = {}
    evaluated: dict[str, int] = {}
    unknown = dict.fromkeys(COLUMN_CODES)
    for result in results:
        code, column = result.expectation_config.meta["code"], result.expectation_config.meta["column"]
        seen = result.result
        indices = frozenset(int(item["row"]) for item in seen.get("unexpected_index_list") or ())
        if seen.get("element_count") != rows or len(indices) != seen.get("unexpected_count"):
            log.error("the expectation on %r was not evaluated: %s", column, _said(result.exception_info))
            continue
        unknown.pop(column, None)
        failed[code] = failed.get(code, frozenset()) | indices
        if column in CHECKED or code not in CHECKED.values():
            evaluated[code] = rows - (int(seen["missing_count"]) if column in CHECKED else 0)
    for column in unknown:
        evaluated.pop(COLUMN_CODES[column], None)
    return _Verdict(failed, evaluated, tuple(unknown))


def _said(exceptions: Mapping[str, Any]) -> str:
    """The first of the messages; Great Expectations gives one for each metric, each with its traceback."""
    infos = (info for info in (exceptions, *exceptions.values()) if isinstance(info, Mapping))
    messages = (info.get("exception_message") for info in infos)
    return next((str(message) for message in messages if message), "no result for every document")


# --- findings --------------------------------------------------------------------------------------------


def _severities(profile: str) -> Mapping[str, Severity]:
    if profile not in PROFILES:
        raise UsageError(
            f"validation profile {profile!r} does not exist; expected one of {', '.join(PROFILES)}. "
            "Change 'profile' of the source."
        )
    return {code: PROFILES[profile].get(code, severity) for code, (severity, _) in CODES.items()}


def _findings(row: _Row, number: int, verdict: _Verdict, severities: Mapping[str, Severity]) -> tuple[Finding, ...]:
    """What extraction found and what the suite found, in that order, as the profile weighs it."""
    carried = [
        replace(found, severity=severities.get(found.code, Severity.QUARANTINE)) for found in row.extraction.findings
    ]
    codes = {found.code for found in carried}
    seen = {code for code, rows in verdict.failed.items() if number in rows}
    computed = [
        Finding(check.code, severities[check.code], check.message(row))
        for check in CHECKS
        if check.code in seen - codes
    ]
    unknown = [COLUMN_CODES.get(column, column) for column in verdict.unknown]
    unknown += sorted(codes - seen - set(unknown)) if not verdict.unknown else []
    if unknown:
        message = f"not evaluated: {', '.join(dict.fromkeys(unknown))}; expected an answer for each"
        computed.append(Finding(FAILED, severities[FAILED], message))
    return (*carried, *computed)


def _unit(top: Extraction, own: Sequence[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """The findings of a whole unit; those of embedded documents name them and reject nothing."""
    unit = list(own[0])
    for node, findings in zip(_nodes(top)[1:], own[1:], strict=True):
        for found in findings:
            severity = min(found.severity, Severity.QUARANTINE, key=RANK.__getitem__)
            unit.append(Finding(found.code, severity, f"in {node.name!r}: {found.message}"))
    return tuple(unit)


def _with(node: Extraction, findings: Callable[[], tuple[Finding, ...]]) -> Extraction:
    """The same tree with the findings that `findings()` gives for each node, parents before children."""
    own = findings()
    return replace(node, findings=own, children=tuple(_with(child, findings) for child in node.children))


def _statistics(verdict: _Verdict, severities: Mapping[str, Severity]) -> tuple[Statistic, ...]:
    return tuple(
        Statistic(
            code=code,
            severity=str(severities[code]),
            evaluated=max(verdict.evaluated[code], len(verdict.failed[code])),
            failed=len(verdict.failed[code]),
        )
        for code in CODES
        if code in verdict.evaluated
    )
