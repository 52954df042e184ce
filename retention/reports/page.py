"""The report as one page that needs nothing but a browser: no script, no font, no request.

Rules of this module:
- Jinja2 with autoescape: whatever a title or a code holds, it is text.
- Each number is a link to its list on the same page. A list is cut after ROWS rows; the cut is said, and the
  whole list is the CSV file beside the page.
- Status is said in words, colour comes second. Text of any direction is isolated (`bdi`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from itertools import islice
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined

from retention.reports import charts
from retention.reports.ceilings import CODES
from retention.reports.checks import count, instant, long_date
from retention.reports.model import ClassHeld, CodeCount, ComplianceReport, Disposition, Figure, Intake, Status

ROWS = 200  # of a list on the page
_BARS = 20  # of a chart

STATUS_WORDS: Mapping[Status, tuple[str, str]] = {
    Status.RED: ("Red", "must be mended"),
    Status.AMBER: ("Amber", "waits for somebody"),
    Status.GREEN: ("Green", "in order"),
}


def render(report: ComplianceReport, lists_folder: str) -> Iterator[str]:
    """The page, in pieces. `lists_folder` is where the CSV files of cut lists are, beside the page."""
    template = _environment().get_template("report.html.j2")
    by_status = {status: [one for one in report.checks if one.status is status] for status in Status}
    return template.generate(
        report=report,
        by_status=by_status,
        status_words=STATUS_WORDS,
        unscheduled=[row for row in report.held if row.unscheduled],
        held_chart=_held_chart(report.held),
        quarantine_chart=_quarantine_chart(report.quarantine),
        days_chart=_days_chart(report.days, report.made_at.astimezone(ZoneInfo(report.timezone)).date()),
        outcomes_chart=_outcomes_chart(report.disposition),
        outcome_words=OUTCOMES,
        owed=_owed(report.disposition),
        kinds=[kind for kind, _ in _KINDS],
        lists=[(one, list(islice(one.rows(), ROWS))) for one in report.lists],
        shown_rows=ROWS,
        lists_folder=lists_folder,
        id_columns=_ID_COLUMNS,
        number_columns=_NUMBER_COLUMNS,
    )


# What became of an item of a plan (retention.disposition), for people.
OUTCOMES: Mapping[str, str] = {
    "destroyed": "Destroyed: key and bytes are gone.",
    "transferred": "Destroyed here after its receiver acknowledged it.",
    "due-locked": "Kept: a lock in the vault had not ended. It is proposed again.",
    "held": "Kept: under a hold.",
    "extended": "Kept: a reviewer extended it.",
    "relabelled": "Kept: a reviewer gave it another class.",
    "not-due": "Kept: no longer due on the day of execution.",
    "unverified": "Kept: a rule that decides it is not verified.",
    "other-action": "Kept: its rules ask for another action by now.",
    "changed": "Kept: its state or class changed after the proposal.",
    "transfer-not-acknowledged": "Kept: it was handed out, and its receiver did not acknowledge it.",
    "not-accepted": "Kept: the receiver did not accept it.",
    "unit-kept": "Kept: it goes only with others, of which one was kept.",
    "unit-grew": "Kept: its case file has a record by now that the plan does not have. It is proposed again.",
    "unit-not-due": "Kept: it goes only with others, of which one is not due.",
}
_GONE = ("destroyed", "transferred")


def _outcomes_chart(found: Disposition | None) -> str:
    rows = found.outcomes.items() if found is not None else ()
    bars = [charts.Bar(c, "", f.value, f"{f.value:,}", "plain" if c in _GONE else "amber") for c, f in rows]
    return charts.bars("chart-outcomes", "Records of executed plans, by outcome", bars)


def _owed(found: Disposition | None) -> list[tuple[str, Figure]]:
    """What is owed, in words: plans first, then records."""
    if found is None:
        return []
    return [
        ("Plans past the end of their term and still open", found.not_advanced),
        ("Plans approved more than 24 hours ago and not executed", found.not_executed),
        ("Plans that expired undecided in the last 90 days", found.expired),
        ("Records of expired plans that are due and not decided since", found.undecided),
        ("Records whose destruction was broken off", found.broken_off),
        ("Records that are due and in no open plan", found.unplanned),
        *((f"{title} ({code})", found.findings[code]) for code, title in CODES.items()),
    ]


_ID_COLUMNS = frozenset({"record", "document", "object", "run", "source", "subject", "parent", "made_good_by"}) | {
    "sealed_sha256",
    "account_sha256",
    "plan",
    "unit",
    "person",
    "certificate",
}
_NUMBER_COLUMNS = frozenset(
    {"bytes", "sealed_bytes", "discovered", "admitted", "quarantined", "rejected", "known", "children"}
) | {
    "deferred",
    "missing",
    "evaluated",
    "failed",
    "records",
    "objects",
    "events",
    "first",
    "last",
    "attempts",
    "batch",
    "item",
}


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("retention", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "number": lambda number: f"{number:,}",
        "size": size,
        "day": long_date,
        "instant": instant,
        "count": count,
        "titles": titles,
        "words": lambda name: name.replace("_", " "),
    }
    return env


def titles(found: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(language, direction, title), English first. A language that was not said is left to the browser."""
    order = sorted(found.items(), key=lambda one: (one[0] != "en", one[0]))
    rtl = {"ar", "fa", "he", "ur", "yi"}
    return [("" if lang == "und" else lang, "rtl" if lang in rtl else "auto", text) for lang, text in order]


def size(number: int) -> str:
    """1.2 MB: decimal units, as disks are sold."""
    value, unit = float(number), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if value < 1000 or unit == "PB":
            break
        value /= 1000
    return f"{number:,} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def _held_chart(held: Iterable[ClassHeld]) -> str:
    rows = list(held)
    shown = [
        charts.Bar(
            row.class_id,
            (titles(row.titles) or [("", "", "")])[0][2],
            row.records.value,
            f"{row.records.value:,}",
            "amber" if row.unscheduled else "plain",
        )
        for row in rows[:_BARS]
    ]
    if rest := rows[_BARS:]:
        number = sum(row.records.value for row in rest)
        shown.append(charts.Bar(count(len(rest), "more class", "more classes"), "", number, f"{number:,}", "pale"))
    return charts.bars("chart-held", "Records held, by class", shown)


def _quarantine_chart(codes: Iterable[CodeCount]) -> str:
    rows = [row for row in codes if row.severity != "warn"] or list(codes)
    bars = [charts.Bar(r.code, "", r.documents.value, f"{r.documents.value:,}", "amber") for r in rows[:_BARS]]
    return charts.bars("chart-quarantine", "Documents in quarantine, by finding", bars)


_KINDS = (("admitted", "plain"), ("known", "pale"), ("quarantined", "amber"), ("rejected", "red"))


def _days_chart(days: Iterable[Intake], last: date) -> str:
    known = {row.day: row for row in days if row.day is not None}
    columns = [
        charts.Column(day, tuple((kind, _part(known.get(day), kind)) for kind, _ in _KINDS))
        for day in charts.window(list(known), last)
    ]
    return charts.columns("chart-days", "Documents that came in, by day", columns)


def _part(day: Intake | None, kind: str) -> int:
    figure: Figure | None = getattr(day, kind) if day is not None else None
    return figure.value if figure is not None else 0
