"""What the catalog says, section by section of the report.

Rules of this module:
- One statement for all records, never one for each (docs/design.md, house rule 3).
- Every function reads within the snapshot of its collector and changes nothing.
- What is counted by class is counted by the class that the record has now; the schedule in force names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from retention import archive, eligibility, ledger, merkle
from retention.model import UNCLASSIFIED, AgentKind
from retention.reports.lists import Body, Collector
from retention.reports.model import (
    ClassDue,
    ClassHeld,
    CodeCount,
    Expectation,
    Figure,
    Intake,
    LedgerPart,
    RunStates,
    Source,
    TriggerMissing,
    Written,
    listing,
)
from retention.rules import DATED, Combine, Rule, Schedule, Worm
from retention.seal import Safe

Meanings = Mapping[str, tuple[str, str]]  # code -> (severity, what it means and what to do)

_HELD = "r.state < 3"  # kept, or still being destroyed; neither destroyed nor transferred
_RECORDS = "records r JOIN classes c USING (class_key)"


def _instant(column: LiteralString) -> LiteralString:
    return "to_char(" + column + " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


# ---------------------------------------------------------------- what is held


_HELD_RECORDS = Body(
    columns={
        "record": "r.record_id",
        "received": "r.received",
        "document_date": "r.document_date",
        "bytes": "r.bytes",
        "parent": "r.parent_id",
    },
    source=_RECORDS,
    where=_HELD,
    order="received, record",
    group="c.class_id",
    subject="r.record_id",
)


def held(collect: Collector, schedule: Schedule | None) -> tuple[ClassHeld, ...]:
    """Every class that holds records, the largest first."""
    numbers = collect.numbers(_HELD_RECORDS, "sum(bytes)", "min(received)", "max(received)")
    figures = collect.groups("held", "Records held in class", _HELD_RECORDS)
    found = [
        ClassHeld(
            class_id,
            _titles(schedule, class_id),
            Figure(count, figures[class_id].listing),
            Figure(int(size), figures[class_id].listing, "bytes"),
            oldest,
            newest,
            _unscheduled(schedule, class_id),
        )
        for class_id, count, size, oldest, newest in numbers
    ]
    return tuple(sorted(found, key=lambda row: (-row.records.value, row.class_id)))


def _titles(schedule: Schedule | None, class_id: str) -> Mapping[str, str]:
    known = schedule.record_class(class_id) if schedule else None
    return known.titles if known else {}


def _unscheduled(schedule: Schedule | None, class_id: str) -> str:
    """Why nothing ever makes a record of this class due; empty if rules do."""
    if class_id == UNCLASSIFIED:
        return "no classification rule matched"
    if schedule is None:
        return "no schedule is loaded"
    known = schedule.record_class(class_id)
    if known is None:
        return "the schedule in force does not know this class"
    return "" if known.rules else "the class has no retention rule"


# ---------------------------------------------------------------- dates that are missing


def waiting(collect: Collector, schedule: Schedule | None) -> tuple[TriggerMissing, ...]:
    """Records kept because the date from which a rule counts is not known. One statement for each trigger.

    A rule under a condition, and the rules of a class of which any one suffices, can do without their date."""
    if schedule is None:
        return ()
    needed: dict[str, dict[str, list[Rule]]] = {}
    for known in schedule.classes:
        for rule in known.rules if known.combine is Combine.ALL else ():
            if rule.plain and rule.period is not None:
                needed.setdefault(str(rule.trigger), {}).setdefault(known.id, []).append(rule)
    found = []
    for trigger, classes in sorted(needed.items()):
        rule = next(iter(classes.values()))[0]
        body = _without(rule, list(classes))
        label = re.sub(r"[^a-z0-9_]+", "-", trigger.removeprefix("event:")).strip("-")
        figures = collect.groups(f"waiting-{label}", f"{trigger.removeprefix('event:')} not known, class", body)
        for class_id, figure in figures.items():
            rules = tuple(rule.id for rule in classes[class_id])
            found.append(TriggerMissing(class_id, _titles(schedule, class_id), trigger, rules, figure))
    return tuple(sorted(found, key=lambda row: (-row.records.value, row.class_id, row.trigger)))


_MISSING: Mapping[str, LiteralString] = {
    "received": "r.received IS NULL",
    "document_date": "r.document_date IS NULL",
    "modified": "r.modified IS NULL",
    "tagged": "r.tagged IS NULL",
}


def _without(rule: Rule, classes: list[str]) -> Body:
    columns = {name: _HELD_RECORDS.columns[name] for name in ("record", "received", "document_date", "bytes")}
    if not rule.trigger.event:
        assert rule.trigger.name in DATED
        missing = _MISSING[rule.trigger.name]
    else:
        missing = """NOT EXISTS (SELECT FROM current_triggers t
                                   JOIN trigger_kinds k ON k.kind = %(kind)s AND t.dates[k.ordinal] IS NOT NULL
                                  WHERE t.subject_id IN (r.record_id, r.aggregation_id))"""
    return replace(
        _HELD_RECORDS,
        columns=columns,
        where="r.state = 1 AND c.class_id = ANY(%(classes)s) AND " + missing,
        params={"classes": classes, "kind": rule.trigger.key},
    )


# ---------------------------------------------------------------- quarantine and findings


_QUARANTINED = Body(
    columns={
        "document": "q.quarantine_id",
        "since": _instant("q.recorded_at"),
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
        where=_HELD,
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


# ---------------------------------------------------------------- what came in


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
        "started": _instant("r.started_at"),
        "ended": _instant("r.ended_at"),
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


# ---------------------------------------------------------------- what was written


def written(collect: Collector) -> tuple[Written, ...]:
    """Every object that was written to the vault, when it was read back, and its digest."""
    kinds: tuple[tuple[str, str, Body], ...] = (
        (
            "records",
            "Contents of records, read back",
            _objects("o.record_id", "o.sealed_bytes", "o.verified_at", "o.sealed_sha256", "contents o"),
        ),
        (
            "quarantine",
            "Documents of quarantine, read back",
            _objects("q.quarantine_id", "q.sealed_bytes", "q.verified_at", "q.sealed_sha256", "quarantine q"),
        ),
        (
            "descriptors",
            "Descriptor objects, read back",
            _objects("d.descriptor_id", "d.bytes", "d.recorded_at", "d.sha256", "descriptors d"),
        ),
    )
    found = []
    for kind, title, body in kinds:
        objects = collect.one(f"written-{kind}", title, body)
        numbers = collect.numbers(
            body, "sum(sealed_bytes)", "min(read_back)::timestamptz", "max(read_back)::timestamptz"
        )
        size, oldest, newest = numbers[0][2:] if numbers else (0, None, None)
        found.append(Written(kind, objects, Figure(int(size), objects.listing, "sealed_bytes"), oldest, newest))
    return tuple(found)


def _objects(
    subject: LiteralString, size: LiteralString, verified: LiteralString, digest: LiteralString, source: LiteralString
) -> Body:
    columns: dict[str, LiteralString] = {
        "object": subject,
        "sealed_bytes": size,
        "read_back": _instant(verified),
        "sealed_sha256": "encode(" + digest + ", 'hex')",
    }
    return Body(columns, source, "read_back, object")


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


# ---------------------------------------------------------------- history


def history(collect: Collector) -> LedgerPart:
    """The ledger's head, and the root hashed again from every leaf (memory does not grow with it)."""
    size, root = ledger.head(collect.conn)
    body = Body(
        columns={
            "type": "e.type",
            "events": "count(*)",
            "first": "min(e.position)",
            "last": "max(e.position)",
        },
        source="events e",
        where="true GROUP BY e.type",
        order="type",
    )
    made = collect.one("ledger", "Events of the ledger by type", body)
    with collect.conn.cursor(name="leaves") as leaves:
        leaves.itersize = 10_000
        leaves.execute("SELECT leaf_hash FROM events ORDER BY position")
        _, frontier = merkle.append(0, [], (bytes(row[0]) for row in leaves))
    return LedgerPart(Figure(size, made.listing, "events"), root.hex(), merkle.root(frontier).hex())


# ---------------------------------------------------------------- what must be empty


_DEFECTS: Mapping[str, tuple[str, Body]] = {
    "no-content": (
        "Records without an object in the vault",
        Body(
            {"record": "r.record_id", "class": "c.class_id"},
            _RECORDS,
            "record",
            _HELD + " AND NOT EXISTS (SELECT FROM contents o WHERE o.record_id = r.record_id)",
        ),
    ),
    "no-key": (
        "Records and documents whose key is gone",
        Body(
            {"subject": "s.id"},
            "(SELECT record_id AS id FROM records WHERE state < 3 UNION ALL SELECT quarantine_id FROM quarantine) s",
            "subject",
            "NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = s.id)",
        ),
    ),
    "no-event": (
        "Records and documents without an event in the ledger",
        Body(
            {"subject": "s.id"},
            "(SELECT record_id AS id FROM records UNION ALL SELECT quarantine_id FROM quarantine) s",
            "subject",
            "NOT EXISTS (SELECT FROM event_subjects e WHERE e.subject_id = s.id)",
        ),
    ),
    "altered-events": (
        "Events whose bytes do not give their leaf hash",
        Body(
            {"position": "e.position", "type": "e.type"},
            "events e",
            "position",
            "sha256('\\x00'::bytea || e.entry) <> e.leaf_hash",
        ),
    ),
    "undescribed": (
        "Records and documents that are not described now",
        Body(
            {"subject": "k.subject_id"},
            "(SELECT DISTINCT subject_id FROM descriptor_lines) l JOIN subject_keys k USING (subject_id)",
            "subject",
            "NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = k.subject_id)",
        ),
    ),
}


def defects(collect: Collector) -> dict[str, Figure]:
    """Lists that are empty in a healthy archive."""
    return {name: collect.one(name, title, body) for name, (title, body) in _DEFECTS.items()}


_LOCKS = Body(
    columns={
        "object": "l.object_key",
        "mode": "l.mode",
        "wanted_until": _instant("l.wanted_until"),
        "actual_until": _instant("l.actual_until"),
        "queued": _instant("l.queued_at"),
        "attempts": "l.attempts",
        "error": "l.error",
    },
    source="object_locks l",
    where="l.actual_until IS NULL OR l.actual_until < l.wanted_until",
    order="queued, object",
)


def lock_queue(collect: Collector) -> tuple[Figure, datetime | None, int]:
    """Locks that policy requires and the vault has not confirmed: which, the oldest, how many failed."""
    waiting_ = collect.one("locks-waiting", "Locks that are required and not confirmed", _LOCKS)
    row = collect.conn.execute(
        """SELECT min(queued_at), count(*) FILTER (WHERE error IS NOT NULL) FROM object_locks
            WHERE actual_until IS NULL OR actual_until < wanted_until"""
    ).fetchone()
    oldest, failed = row or (None, 0)
    return waiting_, oldest, failed


def unlocked(collect: Collector, schedule: Schedule | None) -> Figure:
    """Records of classes that must be locked for which no lock was ever asked."""
    locked = [known.id for known in schedule.classes if known.worm is not Worm.NONE] if schedule else []
    body = Body(
        columns={"record": "r.record_id", "class": "c.class_id", "received": "r.received"},
        source=_RECORDS,
        where=_HELD
        + " AND c.class_id = ANY(%(locked)s)"
        + " AND NOT EXISTS (SELECT FROM object_locks l WHERE l.subject_id = r.record_id)",
        order="class, received, record",
        params={"locked": locked},
    )
    return collect.one("unlocked", "Records that must be locked and are not", body)


def never_ran(collect: Collector, safe: Safe, expected: Collection[str]) -> Figure:
    """Sources of the source file that have no run, by pseudonym."""
    asked = {safe.pseudonym(AgentKind.SOURCE, name): name for name in expected}
    ran = {row[0] for row in collect.conn.execute("SELECT DISTINCT source_id FROM runs")}
    rows = [(id_, name) if collect.names else (id_,) for id_, name in sorted(asked.items()) if id_ not in ran]
    columns = ("source", "name") if collect.names else ("source",)
    return collect.keep(replace(listing("never-ran", "Sources that never ran", columns, rows), names=len(columns) - 1))


def due(collect: Collector, schedule: Schedule | None, as_of: date) -> tuple[ClassDue, ...]:
    """What has outlived its retention on `as_of`, by class, with the laws that say so; the largest first."""
    if schedule is None:
        return ()
    # The statement of eligibility holds a `%`: it is run without parameters.
    records = sql.SQL(
        "({} SELECT record_id FROM due) AS d JOIN records r USING (record_id) JOIN classes c USING (class_key)"
    )
    columns = {name: _HELD_RECORDS.columns[name] for name in ("record", "received", "document_date", "bytes")}
    body = replace(
        _HELD_RECORDS,
        columns=columns,
        source=records.format(eligibility.statement(collect.conn, schedule, as_of)),
        where="true",
    )
    figures = collect.groups("due", "Records due in class", body)
    found = []
    for one in eligibility.due(collect.conn, schedule, as_of):
        known = schedule.record_class(one.class_id)
        assert known is not None
        found.append(
            ClassDue(
                one.class_id,
                known.titles,
                one.action,
                tuple(dict.fromkeys(rule.authority.citation for rule in known.rules)),
                one.unverified,
                Figure(one.records, f"due-{one.class_id}"),
                Figure(one.bytes, f"due-{one.class_id}", "bytes"),
            )
        )
    assert figures.keys() == {row.class_id for row in found}
    return tuple(sorted(found, key=lambda row: (-row.records.value, row.class_id)))
