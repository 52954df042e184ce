"""What is held, what of it is due, and what cannot become due: by class.

Rules of this module:
- One statement for all records, never one for each (docs/design.md, house rule 3).
- Every function reads within the snapshot of its collector and changes nothing.
- A record counts in the class that it has now; the schedule in force names the class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import LiteralString

from psycopg import sql

from retention import eligibility
from retention.model import UNCLASSIFIED
from retention.reports.lists import HELD, RECORDS, Body, Collector
from retention.reports.model import ClassDue, ClassHeld, Figure, TriggerMissing
from retention.rules import DATED, Combine, Rule, Schedule

# ---------------------------------------------------------------- what is held


_HELD_RECORDS = Body(
    columns={
        "record": "r.record_id",
        "received": "r.received",
        "document_date": "r.document_date",
        "bytes": "r.bytes",
        "parent": "r.parent_id",
    },
    source=RECORDS,
    where=HELD,
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


# ---------------------------------------------------------------- what is due


def due(collect: Collector, schedule: Schedule | None, as_of: date) -> tuple[ClassDue, ...]:
    """What has outlived its retention on `as_of`, by class, with the laws that say so; the largest first.

    Leaves `report_due` (record_id, class_key, bytes, unit_id) for the rest of the transaction."""
    if schedule is None:
        collect.conn.execute(
            "CREATE TEMPORARY TABLE report_due (record_id uuid, class_key smallint, bytes bigint, unit_id uuid) "
            "ON COMMIT DROP"
        )
        return ()
    collect.conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE report_due ON COMMIT DROP AS {} SELECT * FROM due").format(
            eligibility.statement(collect.conn, schedule, as_of)
        )
    )
    collect.conn.execute("ANALYZE report_due")
    columns = {name: _HELD_RECORDS.columns[name] for name in ("record", "received", "document_date", "bytes")}
    body = replace(
        _HELD_RECORDS,
        columns=columns,
        source="report_due d JOIN records r USING (record_id) JOIN classes c ON c.class_key = r.class_key",
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
