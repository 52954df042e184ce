"""Why a record is kept or due: the decision, every losing rule, and the evidence behind each date.

Rules of this module:
- Reading only. The decision is `engine.decide_unit` on the facts of the catalog; nothing is decided here.
- Bitemporal (requirements: retention, rule 15): `as_of` is the day that is asked about, `known_at` the instant whose
  knowledge is used: the schedule in force then, and events, suspensions, holds, labels, classes and extensions as
  they had been recorded by then. Locks are what the vault answered last, and belong to no earlier instant.
- Who is named while the name exists; then the pseudonym stands for it.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from retention import aggregations, catalog, eligibility, engine, policy
from retention.archive import Archive
from retention.database import Connection
from retention.rules import Schedule


def explain(
    conn: Connection,
    archive: Archive,
    record_id: UUID,
    now: datetime,
    as_of: date | None = None,
    known_at: datetime | None = None,
) -> dict[str, Any]:
    """The answer as plain JSON values. `as_of` is today if it is not given. Raises NotFound for a record or schedule
    that was not there at `known_at`."""
    version = policy.at(conn, known_at) if known_at else policy.current(conn)
    day = as_of or engine.today(version.schedule, now)
    members = unit_facts(conn, version.schedule, record_id, known_at)
    decision = engine.decide_unit(members, version.schedule, day)
    subjects = [record_id, *_aggregation(conn, record_id)]
    events = catalog.trigger_events(conn, archive, subjects, known_at)
    value = {
        "record_id": str(record_id),
        "schedule_version": version.version,
        "schedule_loaded_at": version.loaded_at.isoformat(),
        "known_at": known_at.isoformat() if known_at else None,
        **decision.to_json(),
        "unit": [str(one) for one in members],
        "events": events,
        "suspensions": catalog.suspensions(conn, archive, subjects, known_at),
        "locks": [] if known_at else _locks(conn, record_id),
        "subjects": {str(one): name for one, name in aggregations.names(conn, subjects).items()},
    }
    for rule in value["rules"]:
        rule["evidence"] = [event for event in events if _gave(event, rule)]
    return value


def unit_facts(
    conn: Connection, schedule: Schedule, record_id: UUID, known_at: datetime | None = None
) -> dict[UUID, engine.RecordFacts]:
    """Facts of a record, then of the kept ones with which it goes. Raises NotFound."""
    found = {record_id: catalog.facts(conn, record_id, known_at)}
    others = [one for one in eligibility.unit_members(conn, schedule, [record_id]) if one != record_id]
    return found | catalog.facts_of(conn, others, known_at)


def _gave(event: dict[str, Any], rule: dict[str, Any]) -> bool:
    """Whether the event is where the rule's trigger date comes from."""
    kind = str(rule["trigger"]).removeprefix("event:").removesuffix(" (first)")
    dated = event["kind"] == kind and event["effective"] == rule["trigger_date"]
    return rule["trigger"].startswith("event:") and dated and event["retracted_at"] is None


def _aggregation(conn: Connection, record_id: UUID) -> list[UUID]:
    row = conn.execute("SELECT aggregation_id FROM records WHERE record_id = %s", (record_id,)).fetchone()
    return [row[0]] if row and row[0] else []


def _locks(conn: Connection, record_id: UUID) -> list[dict[str, Any]]:
    rows = conn.execute(
        "SELECT object_key, mode, wanted_until, actual_until FROM object_locks WHERE subject_id = %s ORDER BY 1",
        (record_id,),
    )
    return [
        {"object": key, "mode": mode, "wanted_until": wanted.isoformat(), "until": until and until.isoformat()}
        for key, mode, wanted, until in rows
    ]
