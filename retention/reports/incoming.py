"""What came in, what became of it, and what was found on it.

Rules of this module:
- One statement for all documents, never one for each (docs/design.md, house rule 3).
- Every function reads within the snapshot of its collector and changes nothing.
- A source is known by its pseudonym; its name is resolved in a copy for the eye alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import LiteralString
from uuid import UUID

from retention import archive
from retention.model import AgentKind
from retention.reports.lists import HELD, Body, Collector, instant
from retention.reports.model import CodeCount, Expectation, Figure, Intake, RunStates, Source, listing
from retention.seal import Safe

Meanings = Mapping[str, tuple[str, str]]  # code -> (severity, what it means and what to do)

# ---------------------------------------------------------------- quarantine and findings


_QUARANTINED = Body(
    columns={
        "document": "q.quarantine_id",
        "since": instant("q.recorded_at"),
        "bytes": "q.bytes",
        "codes": """(SELECT string_agg(f.code, ' ' ORDER BY f.code) FROM findings f
                      WHERE f.subject_id = q.quarantine_id)""",
        "run": "q.run_id",
    },
    source="quarantine q",
    where="q.state = 'held'",
    order="since, document",
    subject="q.quarantine_id",
)


def quarantined(collect: Collector, meanings: Meanings) -> tuple[Figure, tuple[CodeCount, ...]]:
    """What waits in quarantine, and how many documents for each code that put or accompanies it there."""
    total = collect.one("quarantine", "Documents in quarantine", _QUARANTINED)
    by_code = replace(
        _QUARANTINED,
        columns={**_QUARANTINED.columns, "severity": "w.severity"},
        source="quarantine q JOIN findings w ON w.subject_id = q.quarantine_id",
        group="w.code",
    )
    return total, _by_code(collect, by_code, "quarantine", "Documents in quarantine with finding", meanings)


def findings(collect: Collector, meanings: Meanings) -> tuple[CodeCount, ...]:
    """Findings on records that are held."""
    body = Body(
        columns={"record": "r.record_id", "class": "c.class_id", "received": "r.received", "severity": "w.severity"},
        source="findings w JOIN records r ON r.record_id = w.subject_id JOIN classes c USING (class_key)",
        where=HELD,
        order="class, received, record",
        group="w.code",
        subject="r.record_id",
    )
    return _by_code(collect, body, "finding", "Records with finding", meanings)


def turned_away(collect: Collector, meanings: Meanings) -> tuple[CodeCount, ...]:
    """Why documents were rejected: there were no bytes to keep."""
    body = Body(
        columns={"document": "i.subject_id", "run": "i.run_id", "severity": "w.severity"},
        source="run_items i JOIN findings w USING (subject_id)",
        where="i.outcome = 'rejected'",
        order="run, document",
        group="w.code",
        subject="i.subject_id",
    )
    return _by_code(collect, body, "rejected", "Documents turned away with finding", meanings)


def _by_code(collect: Collector, body: Body, prefix: str, title: str, meanings: Meanings) -> tuple[CodeCount, ...]:
    worst = {code: severity for code, _, severity in collect.numbers(body, "max(severity)")}
    figures = collect.groups(prefix, title, body)
    rows = [
        CodeCount(code, worst[code], meanings.get(code, ("", "No explanation of this code is at hand."))[1], figure)
        for code, figure in figures.items()
    ]
    order = {"reject": 0, "quarantine": 1, "warn": 2}
    return tuple(sorted(rows, key=lambda row: (order.get(row.severity, 3), -row.documents.value, row.code)))


# ---------------------------------------------------------------- runs


DAYS = 31  # that are shown one by one
# An interrupted run is made good by a later whole run of its source; releasing one document from quarantine is
# a run too, and makes nothing good.
_MADE_GOOD_BY: LiteralString = """(SELECT l.run_id FROM runs l
      WHERE l.source_id = r.source_id AND l.state = 'complete' AND l.started_at > r.started_at
        AND NOT EXISTS (SELECT FROM contents o JOIN quarantine q USING (record_id) WHERE o.run_id = l.run_id)
      ORDER BY l.started_at, l.run_id LIMIT 1)"""
_RUNS = Body(
    columns={
        "run": "r.run_id",
        "source": "r.source_id",
        "state": "r.state",
        "started": instant("r.started_at"),
        "ended": instant("r.ended_at"),
        "schedule": "r.schedule_version",
        "discovered": "r.discovered",
        "admitted": "coalesce(r.admitted, s.admitted, 0)",
        "quarantined": "coalesce(r.quarantined, s.quarantined, 0)",
        "rejected": "coalesce(r.rejected, s.rejected, 0)",
        "known": "coalesce(r.known, s.known, 0)",
        "children": "coalesce(r.children, s.children, 0)",
        "deferred": "coalesce(r.deferred, 0)",
        "missing": "coalesce(r.discovered - r.admitted - r.quarantined - r.rejected - r.known, 0)",
        "bytes": "coalesce(r.bytes, s.bytes, 0)",
        "made_good_by": _MADE_GOOD_BY,
        "account_sha256": "encode(r.reconciliation, 'hex')",
    },
    source="""runs r LEFT JOIN (SELECT run_id, sum(admitted) AS admitted, sum(quarantined) AS quarantined,
                  sum(rejected) AS rejected, sum(known) AS known, sum(children) AS children, sum(bytes) AS bytes
             FROM run_batches GROUP BY run_id) s USING (run_id)""",
    order="started, run",
)
_COUNTED: tuple[LiteralString, ...] = (
    "discovered",
    "admitted",
    "quarantined",
    "rejected",
    "known",
    "children",
    "deferred",
    "missing",
    "bytes",
)


def intake(collect: Collector, timezone: str, now: datetime) -> tuple[Intake, tuple[Intake, ...]]:
    """What came in: in all, and by the day on which a run began, in the schedule's time zone, for DAYS days."""
    collect.one("runs", "Runs of ingestion", _RUNS)
    sums: list[LiteralString] = ["coalesce(sum(" + name + "), 0)" for name in _COUNTED]
    totals = collect.numbers(_RUNS, *sums)
    whole = _intake(None, "runs", *(totals[0][1:] if totals else (0,) * 10))
    by_day = replace(
        _RUNS,
        group="(r.started_at AT TIME ZONE %(zone)s)::date",
        where="(r.started_at AT TIME ZONE %(zone)s)::date > (%(now)s AT TIME ZONE %(zone)s)::date - %(days)s",
        params={"zone": timezone, "now": now, "days": DAYS},
    )
    collect.groups("runs", "Runs that began on", by_day)
    days = collect.numbers(by_day, *sums)
    return whole, tuple(_intake(date.fromisoformat(row[0]), f"runs-{row[0]}", *row[1:]) for row in days)


def _intake(day: date | None, list_id: str, runs: int, *sums: int) -> Intake:
    return Intake(
        day, Figure(runs, list_id), *(Figure(int(n), list_id, c) for n, c in zip(sums, _COUNTED, strict=True))
    )


def run_states(collect: Collector) -> RunStates:
    """Runs that need a look."""
    lost = replace(_RUNS, where="r.state = 'interrupted' AND " + _MADE_GOOD_BY + " IS NULL")
    interrupted = collect.one("runs-interrupted", "Interrupted runs that no later run made good", lost)
    missing = sum(int(row[2]) for row in collect.numbers(lost, "sum(missing)"))
    open_ = replace(_RUNS, where="r.state = 'running'")
    running = collect.one("runs-open", "Runs that have not ended", open_)
    oldest = [row[2] for row in collect.numbers(open_, "min(started)::timestamptz")]
    return RunStates(
        interrupted, Figure(missing, interrupted.listing, "missing"), running, oldest[0] if oldest else None
    )


def documents(collect: Collector) -> dict[str, Figure]:
    """Every document that came in and was not known, by outcome."""
    body = Body(
        columns={"document": "i.subject_id", "run": "i.run_id", "batch": "i.batch", "item": "i.item"},
        source="run_items i",
        order="run, batch, item",
        group="i.outcome",
        subject="i.subject_id",
    )
    found = collect.groups("documents", "Documents that were", body)
    columns = tuple(body.columns)
    for outcome in ("admitted", "quarantined", "rejected"):
        if outcome not in found:
            found[outcome] = collect.keep(
                listing(f"documents-{outcome}", f"Documents that were {outcome}", columns, ())
            )
    return found


def sources(collect: Collector, safe: Safe) -> tuple[Source, ...]:
    """Each source that ever ran, with its last run."""
    by_source = replace(_RUNS, group="r.source_id")
    numbers = collect.numbers(
        by_source,
        "max(started)::timestamptz",
        "(array_agg(state ORDER BY started DESC, run DESC))[1]",
    )
    figures = collect.groups("source", "Runs of source", by_source)
    shown = archive.names(collect.conn, safe, [UUID(row[0]) for row in numbers]) if collect.names else {}
    return tuple(
        Source(UUID(source), shown.get(UUID(source), ""), figures[source], started, state)
        for source, _, started, state in numbers
    )


def never_ran(collect: Collector, safe: Safe, expected: Collection[str]) -> Figure:
    """Sources of the source file that have no run, by pseudonym."""
    asked = {safe.pseudonym(AgentKind.SOURCE, name): name for name in expected}
    ran = {row[0] for row in collect.conn.execute("SELECT DISTINCT source_id FROM runs")}
    rows = [(id_, name) if collect.names else (id_,) for id_, name in sorted(asked.items()) if id_ not in ran]
    columns = ("source", "name") if collect.names else ("source",)
    return collect.keep(replace(listing("never-ran", "Sources that never ran", columns, rows), names=len(columns) - 1))


# ---------------------------------------------------------------- validation


def expectations(collect: Collector) -> tuple[Expectation, ...]:
    """What validation evaluated and what failed, for each code."""
    body = Body(
        columns={
            "run": "b.run_id",
            "batch": "b.batch",
            "severity": "e.value->>'severity'",
            "evaluated": "(e.value->>'evaluated')::bigint",
            "failed": "(e.value->>'failed')::bigint",
        },
        source="run_batches b CROSS JOIN LATERAL jsonb_array_elements(b.expectations) e",
        order="run, batch",
        group="e.value->>'code'",
    )
    figures = collect.groups("validation", "Validation by batch of", body)
    return tuple(
        Expectation(
            code,
            severity or "",
            Figure(int(evaluated), figures[code].listing, "evaluated"),
            Figure(int(failed), figures[code].listing, "failed"),
        )
        for code, _, severity, evaluated, failed in collect.numbers(
            body, "max(severity)", "sum(evaluated)", "sum(failed)"
        )
    )
