"""What is kept for too long, or cannot be decided by its dates: findings of the engine (requirements: rules 5, 10).

Rules of this module:
- `engine.decide` finds; the statement here only says which records it is asked about: a superset, so that an archive
  without ceilings and without late records asks about none, and one with them not about those that are far from it.
- A ceiling is the longest that the law allows. Past it, what is free should be gone; what is held is restricted, and
  the necessity of the hold is renewed yearly. A rule that keeps longer than another allows is for people to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from retention import catalog, engine
from retention.reports.lists import Collector
from retention.reports.model import Figure, listing
from retention.rules import DATED, LaterRecords, RecordClass, Rule, Schedule

CODES: Mapping[str, str] = {
    "KEPT-TOO-LONG": "Kept past the longest that the law allows",
    "RESTRICTED": "Past the longest that the law allows, and held",
    "CONTRADICTION": "One rule keeps for longer than another allows",
    "TRIGGER-STALE": "Dated after the event of its case file, which may not be about it",
}
_COLUMNS = ("record", "class", "retain_until", "ceiling", "rule")
_CHUNK = 5000  # records whose facts are read at a time


@dataclass(frozen=True, slots=True)
class Asked:
    """Which records of one class may have a finding. `always`: any; else those whose date reaches a limit."""

    class_id: str
    always: bool
    dated: tuple[tuple[str, date], ...] = ()  # column, the latest date that is past the ceiling
    events: tuple[tuple[str, date], ...] = ()  # kind, the same
    late: tuple[str, ...] = ()  # kinds whose event makes later records stale


def asked(schedule: Schedule, as_of: date) -> tuple[Asked, ...]:
    """For each class, which of its records `engine.decide` must look at."""
    found = (_asked(known, as_of) for known in schedule.classes)
    return tuple(one for one in found if one.always or one.dated or one.events or one.late)


def _asked(known: RecordClass, as_of: date) -> Asked:
    late = {r.trigger.key for r in known.rules if r.trigger.event and r.later_records is not LaterRecords.COVERED}
    if not any(rule.ceiling for rule in known.rules):
        return Asked(known.id, False, late=tuple(sorted(late)))
    # A single rule has no other to contradict it, but for a label or a suspension: those are asked about anyway.
    limits = [(rule, limit) for rule in known.rules if (limit := _past(rule, as_of)) is not None]
    return Asked(
        class_id=known.id,
        always=len(known.rules) > 1,
        dated=tuple((rule.trigger.name, limit) for rule, limit in limits if not rule.trigger.event),
        events=tuple((rule.trigger.key, limit) for rule, limit in limits if rule.trigger.event),
        late=tuple(sorted(late)),
    )


def _past(rule: Rule, as_of: date) -> date | None:
    """The latest trigger date whose ceiling is past on `as_of`."""
    return engine.latest_eligible_trigger(replace(rule, period=rule.ceiling), as_of) if rule.ceiling else None


def findings(collect: Collector, schedule: Schedule | None, as_of: date) -> Mapping[str, Figure]:
    """Records by finding; a list for each of CODES, also when it is empty."""
    rows: dict[str, list[tuple[Any, ...]]] = {code: [] for code in CODES}
    for record, decision in _decided(collect, schedule, as_of) if schedule is not None else ():
        for code in CODES.keys() & set(decision.findings):
            class_id = decision.rules[0].class_id if decision.rules else ""
            rows[code].append((record, class_id, decision.retain_until, decision.ceiling, decision.rule_id))
    for found in rows.values():
        found.sort(key=lambda row: (row[1], row[0]))
    return {code: collect.keep(listing(f"engine-{code}", title, _COLUMNS, rows[code])) for code, title in CODES.items()}


def _decided(collect: Collector, schedule: Schedule, as_of: date) -> Iterator[tuple[UUID, engine.Decision]]:
    query = _candidates(collect, schedule, as_of)
    if query is None:
        return
    with collect.conn.cursor(name="ceilings") as cursor:
        cursor.itersize = _CHUNK
        ids = (row[0] for row in cursor.execute(query))
        while chunk := list(islice(ids, _CHUNK)):
            for record, facts in catalog.facts_of(collect.conn, chunk).items():
                yield record, engine.decide(facts, schedule, as_of)


_SPECIAL: LiteralString = """SELECT record_id FROM records WHERE state = 1 AND special AND
    (class_key = ANY ({keys}) OR EXISTS (SELECT FROM record_labels x
                                          WHERE x.record_id = records.record_id AND x.class_key = ANY ({keys})))"""


def _candidates(collect: Collector, schedule: Schedule, as_of: date) -> sql.Composed | None:
    """Every record with a finding, and few others; None where there can be none."""
    classes: dict[str, int] = dict(collect.conn.execute("SELECT class_id, class_key FROM classes").fetchall())
    kinds: dict[str, int] = dict(collect.conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    parts = [one for one in asked(schedule, as_of) if one.class_id in classes]
    # Whoever has labels or suspensions may have a ceiling from here and a floor from there.
    ceilings = {known.id for known in schedule.classes if any(rule.ceiling for rule in known.rules)}
    special = [classes[name] for name in {one.class_id for one in parts} | ceilings if name in classes]
    if not special:
        return None
    tests: list[sql.Composable] = [sql.SQL(_SPECIAL).format(keys=special)]
    for one in parts:
        mine = sql.SQL("SELECT r.record_id FROM records r WHERE r.state = 1 AND r.class_key = {}").format(
            classes[one.class_id]
        )
        if one.always:
            tests.append(mine)
            continue
        for column, limit in one.dated:
            assert column in DATED
            tests.append(mine + sql.SQL(" AND {} <= {}").format(sql.Identifier("r", column), limit))
        for kind, limit in one.events:
            if kind in kinds:
                tests.append(mine + sql.SQL(_REACHED).format(kind=kinds[kind], limit=limit))
        tests += [mine + sql.SQL(_LATE).format(kind=kinds[kind]) for kind in one.late if kind in kinds]
    return sql.SQL(" UNION ").join(tests)


_REACHED: LiteralString = """ AND EXISTS (SELECT FROM current_triggers t
    WHERE t.subject_id IN (r.record_id, r.aggregation_id) AND t.dates[{kind}] <= {limit})"""
_LATE: LiteralString = """ AND EXISTS (SELECT FROM current_triggers t
    WHERE t.subject_id = r.aggregation_id AND t.dates[{kind}] < r.document_date)"""
