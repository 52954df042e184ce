"""Proposing: what is due becomes a plan, after the notice that its rules ask for.

Rules of this module (requirements: retention, *Disposition*):
- What is proposed was found due twice: by the statement over all records, and by `engine.decide` on its facts. A
  record on which the two disagree is left out with its unit, and named: unknown means retain.
- Units stay whole. A unit of which a member is in an open plan waits for that plan.
- A rule with `notify_before` puts nothing into a plan before its notice was given for that long.
- A rule that is not verified proposes; execution stops at it, and says why.
- A restricted record is stored and nothing else (GDPR art. 18): its unit is left out while a person's request
  restricts one of it.
- `only` proposes nothing but these records and those of their units that go with them.
- `as_of` proposes for another day; what is signed and executed is decided for today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, islice
from typing import Any
from uuid import UUID

from retention import approvals, catalog, eligibility, engine, ledger, policy
from retention.approvals import Kind
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.disposition.plans import begin_stage, cut, digest_of, over_limit, stages_of, stream
from retention.engine import RecordFacts
from retention.ledger import Event
from retention.rules import Period, Schedule

_CHUNK = 5000  # records whose facts are read at a time
_ITEMS = 750  # in one event, each with its unit: the ledger holds 65,535 bytes an entry
_PROPOSING = 0x64697370  # an advisory lock of our own: two proposers at once would propose the same records


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a proposal found. `plan` is None where nothing is to be proposed."""

    plan: UUID | None
    items: int = 0
    bytes: int = 0
    in_other_plans: int = 0
    not_notified: int = 0
    restricted: int = 0  # at the request of a person
    disagreed: tuple[UUID, ...] = ()  # the two paths of the engine differ: a defect, red


def propose(archive: Archive, now: datetime, as_of: date | None = None, only: Sequence[UUID] | None = None) -> Proposed:
    """Put everything that is due, and in no open plan, into a new plan under review; with `only`, of these records."""
    with transaction(archive.connections) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_PROPOSING,))
        version = policy.current(conn)
        schedule = version.schedule
        day = as_of or engine.today(schedule, now)
        if only is not None:
            only = eligibility.unit_members(conn, schedule, only)
        disagreed = _choose(conn, schedule, day, only)
        busy, silent, restricted = _leave_out(conn, now)
        row = conn.execute("SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM chosen").fetchone()
        items, size = row or (0, 0)
        if not items:
            return Proposed(None, 0, 0, busy, silent, restricted, tuple(disagreed))
        civil = now.astimezone(UTC).date()
        term = timedelta((schedule.disposition.term.after(civil) - civil).days)
        proposal, event = approvals.propose(conn, archive, Kind.DISPOSITION, None, None, now, term)
        digest = digest_of(
            stream(
                conn, "SELECT record_id, unit_id, class_id, bytes, action, rule_id, retain_until FROM chosen ORDER BY 1"
            )
        )
        over = over_limit(conn, schedule, "SELECT class_id, count(*) FROM chosen GROUP BY 1")
        conn.execute(
            "INSERT INTO plans (plan_id, as_of, schedule_version, items, bytes, digest, over_limit) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (proposal.id, day, version.version, items, size, digest, sorted(over)),
        )
        conn.execute(
            """INSERT INTO plan_items (plan_id, record_id, unit_id, class_key, bytes, action, rule_id, retain_until)
               SELECT %s, record_id, unit_id, class_key, bytes, action, rule_id, retain_until
                 FROM chosen JOIN classes USING (class_id)""",
            (proposal.id,),
        )
        begun = []
        for (class_id,) in conn.execute("SELECT DISTINCT class_id FROM chosen ORDER BY 1").fetchall():
            name = stages_of(schedule.record_class(class_id))[0].name
            begun.append(begin_stage(conn, archive, proposal.id, class_id, 1, name, now))
        detail = {
            "plan": str(proposal.id),
            "as_of": day.isoformat(),
            "schedule": version.version,
            "items": items,
            "bytes": size,
            "list_sha256": digest.hex(),
            "disagreed": len(disagreed),
            "over_limit": sorted(over),
        }
        made = Event("app", now, archive.agent, (proposal.id,), detail=detail)
        ledger.append(conn, [event, made, *begun, *_appraised(conn, archive, proposal.id, now)], now)
    return Proposed(proposal.id, items, size, busy, silent, restricted, tuple(disagreed))


def _appraised(conn: Connection, archive: Archive, plan_id: UUID, now: datetime) -> Iterator[Event]:
    """The items of the plan: those of one class, action, rule and end together, each with its unit."""
    rows = stream(
        conn,
        """SELECT class_id, action, rule_id, retain_until, record_id, unit_id FROM chosen
            ORDER BY class_id, action, rule_id, retain_until, record_id""",
    )
    for (class_id, action, rule, until), items in groupby(rows, lambda row: row[:4]):
        while part := list(islice(items, _ITEMS)):
            detail: dict[str, Any] = {"plan": str(plan_id), "class": class_id, "action": action, "rule": rule}
            detail["retain_until"] = until.isoformat()
            if any(record != unit for *_, record, unit in part):
                detail["units"] = [str(unit) for *_, unit in part]
            yield Event("app", now, archive.agent, (plan_id, *(record for *_, record, _ in part)), detail=detail)


def _choose(conn: Connection, schedule: Schedule, day: date, only: Sequence[UUID] | None = None) -> list[UUID]:
    """Fill `chosen` with what is due by both paths of the engine; returns the records on which they differ."""
    conn.execute(
        """CREATE TEMPORARY TABLE chosen (
               record_id uuid PRIMARY KEY, unit_id uuid NOT NULL, class_id text NOT NULL, bytes bigint NOT NULL,
               action text NOT NULL, rule_id text NOT NULL, retain_until date NOT NULL,
               notify_months integer, notify_days integer) ON COMMIT DROP"""
    )
    disagreed: list[UUID] = []
    units: set[UUID] = set()
    due_records = eligibility.due_records(conn, schedule, day, only)
    while chunk := list(islice(due_records, _CHUNK)):
        found = catalog.facts_of(conn, [due.record_id for due in chunk])
        with conn.cursor().copy(
            "COPY chosen (record_id, unit_id, class_id, bytes, action, rule_id, retain_until, notify_months, "
            "notify_days) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["uuid", "uuid", "text", "int8", "text", "text", "date", "int4", "int4"])
            for due in chunk:
                decision = engine.decide(found[due.record_id], schedule, day)
                if not decision.due or decision.retain_until is None or decision.rule_id is None:
                    disagreed.append(due.record_id)
                    units.add(due.unit_id)
                    continue
                notice = _notice(schedule, found[due.record_id], decision.rule_id)
                months, days = (notice.months, notice.days) if notice else (None, None)
                fixed = (due.record_id, due.unit_id, due.class_id, due.bytes)
                copy.write_row((*fixed, decision.action.value, decision.rule_id, decision.retain_until, months, days))
    conn.execute("DELETE FROM chosen WHERE unit_id = ANY(%s)", (list(units),))
    conn.execute("ANALYZE chosen")
    return disagreed


def _notice(schedule: Schedule, facts: RecordFacts, rule_id: str) -> Period | None:
    """How long before its destruction the deciding rule wants a record announced."""
    rules = (r for c in facts.class_ids if (known := schedule.record_class(c)) for r in known.rules if r.id == rule_id)
    return next((rule.notify_before for rule in rules), None)


def _leave_out(conn: Connection, now: datetime) -> tuple[int, int, int]:
    """Take out units of which a member is in an open plan, was not announced in time, or is restricted; returns how
    many records each."""
    busy = conn.execute(
        """DELETE FROM chosen WHERE unit_id IN (SELECT c.unit_id FROM chosen c JOIN plan_items p USING (record_id)
                                                 WHERE p.open)"""
    ).rowcount
    silent = conn.execute(
        """DELETE FROM chosen WHERE unit_id IN (
               SELECT c.unit_id FROM chosen c
                WHERE notify_months IS NOT NULL
                  AND NOT EXISTS (SELECT FROM notices n
                                   WHERE n.record_id = c.record_id AND n.retain_until = c.retain_until
                                     AND n.notified_at + make_interval(months => notify_months, days => notify_days)
                                         <= %s))""",
        (now,),
    ).rowcount
    restricted = conn.execute(
        """DELETE FROM chosen WHERE unit_id IN (
               SELECT c.unit_id FROM chosen c JOIN restrictions USING (record_id) JOIN requests q USING (request_id)
                WHERE q.kind = 'restrict')"""
    ).rowcount
    return busy, silent, restricted


# ---------------------------------------------------------------- notices


def announce(archive: Archive, now: datetime) -> dict[str, int]:
    """Give notice of what comes due within its rule's `notify_before`, once; per class, how many records."""
    given: Counter[str] = Counter()
    with transaction(archive.connections) as conn:
        schedule = policy.current(conn).schedule
        today = engine.today(schedule, now)
        periods = {r.notify_before for c in schedule.classes for r in c.rules if r.notify_before is not None}
        ids: dict[date, list[UUID]] = {}
        for period in sorted(periods, key=str):
            _choose(conn, schedule, period.after(today))
            rows = conn.execute(
                """WITH given AS (INSERT INTO notices (record_id, retain_until, notified_at)
                        SELECT record_id, retain_until, %s FROM chosen WHERE notify_months = %s AND notify_days = %s
                            ON CONFLICT DO NOTHING RETURNING record_id)
                   SELECT record_id, class_id, retain_until FROM given JOIN chosen USING (record_id) ORDER BY 1""",
                (now, period.months, period.days),
            ).fetchall()
            conn.execute("DROP TABLE chosen")
            given.update(class_id for _, class_id, _ in rows)
            for record, _, until in rows:
                ids.setdefault(until, []).append(record)
        events = [
            Event("poa", now, archive.agent, part, detail={"notice": "due-soon", "retain_until": until.isoformat()})
            for until in sorted(ids)
            for part in cut(ids[until])
        ]
        ledger.append(conn, events, now)
    return dict(given)
