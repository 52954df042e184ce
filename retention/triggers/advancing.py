"""Why a change makes something due sooner, and so needs two people (requirements: retention, rule 14).

What counts is retention.schedule.advances'; here it is asked of the catalog. Facts of records are read twice, before
and with the change, which is tried in a savepoint and undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

from retention import catalog, eligibility, policy
from retention.database import Connection
from retention.errors import NotFound
from retention.rules import Schedule, Unit
from retention.schedule import advances
from retention.triggers import rows
from retention.triggers.changes import Change

_ONE_BY_ONE = 100_000  # more records than that are looked at by one scan of all
_AT_ONCE = 5000  # records whose facts are read at a time
_NOBODY = UUID(int=0)
_EVER = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Why:
    """A reason why a change makes something due sooner. `said` is signed, and has no date of an event; `days` is for
    the person who states the change."""

    said: str
    days: str


def reasons(conn: Connection, wanted: Change, now: datetime) -> Iterator[Why]:
    """Each reason why the change makes something due sooner. Nothing is changed."""
    try:
        schedule = policy.current(conn).schedule
    except NotFound:
        return  # nothing is ever due
    today = policy.today(conn, now)
    yield from _by_dates(conn, schedule, wanted, today)
    yield from _by_leaving(conn, schedule, wanted)
    yield from _by_record(conn, schedule, wanted, today)


def _by_dates(conn: Connection, schedule: Schedule, wanted: Change, today: date) -> Iterator[Why]:
    """Backdated events, and dates that would be earlier, of each subject and kind."""
    given: dict[tuple[UUID, str], list[date]] = {}
    for one in wanted.events:
        given.setdefault((one.subject, one.kind), []).append(one.effective)
    retracted = {retraction.event for retraction in wanted.retractions}
    before: dict[tuple[UUID, str], list[date]] = {}
    left: dict[tuple[UUID, str], list[date]] = {}
    for event, subject, kind, effective in conn.execute(
        """SELECT e.trigger_event_id, e.subject_id, k.kind, e.effective
             FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
            WHERE e.retracts IS NULL
              AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
              AND (e.subject_id = ANY(%s)
                   OR e.subject_id IN (SELECT subject_id FROM trigger_events WHERE trigger_event_id = ANY(%s)))""",
        (list({subject for subject, _ in given}), list(retracted)),
    ):
        before.setdefault((subject, kind), []).append(effective)
        if event not in retracted:
            left.setdefault((subject, kind), []).append(effective)
    asking = advances.asking(schedule)
    for key in given | before:
        subject, kind = key
        asked = asking.get(kind, ())
        after = [*left.get(key, ()), *given.get(key, ())]
        if day := advances.backdated(asked, left.get(key, ()), after, today):
            yield Why(f"{kind} of {subject} lies before the day on which it is recorded", f"{day}, before {today}")
        elif days := advances.moved(asked, before.get(key, ()), after):
            yield Why(f"{kind} of {subject} would count from an earlier day", f"{days[1]}, not {days[0]}")


def _by_leaving(conn: Connection, schedule: Schedule, wanted: Change) -> Iterator[Why]:
    """Records that would leave an aggregation of which something goes with the whole."""
    whole = [known.id for known in schedule.classes if known.unit is Unit.AGGREGATION]
    rows = conn.execute(
        """SELECT r.record_id, r.aggregation_id FROM records r
            WHERE r.record_id = ANY(%(members)s) AND EXISTS (
                  SELECT FROM records m JOIN classes c ON c.class_id = ANY(%(whole)s)
                   WHERE m.aggregation_id = r.aggregation_id AND m.state = 1
                     AND (m.class_key = c.class_key OR EXISTS (SELECT FROM record_labels l
                           WHERE l.record_id = m.record_id AND l.class_key = c.class_key)))
            ORDER BY 1""",
        {"members": [record for record, _ in wanted.members], "whole": whole},
    )
    for record, aggregation in rows.fetchall():
        yield Why(f"record {record} would leave its case file, which goes as a whole", str(aggregation))


def _by_record(conn: Connection, schedule: Schedule, wanted: Change, today: date) -> Iterator[Why]:
    """Records that are kept, and would be due on some day on which they would not be."""
    awaited = advances.by_presence(schedule)
    judged = tuple(given for given in wanted.events if given.effective >= today and given.kind in awaited)
    records = _records_of(conn, replace(wanted, events=judged, suspensions=()))
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        before = catalog.facts_of(conn, part)
        with _tried(conn, wanted):
            after = catalog.facts_of(conn, part)
        for record in part:
            if day := advances.sooner(before[record], after[record], schedule, today):
                yield Why(f"record {record} would be due on a day on which it is not without it", str(day))


@contextmanager
def _tried(conn: Connection, wanted: Change) -> Iterator[None]:
    """The catalog as it would be, until the end of the block."""
    with conn.transaction(force_rollback=True):
        rows.write(
            conn, wanted, [UUID(int=n) for n in range(len(wanted.events) + len(wanted.retractions))], _NOBODY, _EVER
        )
        yield


def _records_of(conn: Connection, wanted: Change) -> list[UUID]:
    """Every kept record that the change is about: itself, by its aggregation, or because it comes into another."""
    subjects = {given.subject for given in wanted.events} | {subject for subject, _, _ in wanted.suspensions}
    subjects |= {record for record, _ in wanted.members}
    rows = conn.execute(
        """WITH subjects AS (
               SELECT unnest(%(subjects)s::uuid[]) AS id
               UNION SELECT subject_id FROM trigger_events WHERE trigger_event_id = ANY(%(events)s)
               UNION SELECT subject_id FROM suspensions WHERE suspension_id = ANY(%(suspensions)s))
           SELECT r.record_id FROM subjects s JOIN records r ON r.record_id = s.id WHERE r.state = 1
           UNION
           SELECT r.record_id FROM subjects s JOIN records r ON r.aggregation_id = s.id WHERE r.state = 1
            ORDER BY 1""",
        {
            "subjects": list(subjects),
            "events": [retraction.event for retraction in wanted.retractions],
            "suspensions": [suspension for suspension, _ in wanted.resumptions],
        },
    )
    return [row[0] for row in rows]


def made_due(conn: Connection, wanted: Change, now: datetime) -> list[UUID]:
    """The records that the change would make due today, with their units; for those who sign it."""
    schedule, today = policy.current(conn).schedule, policy.today(conn, now)
    moving = [record for record, _ in wanted.members]
    behind = conn.execute(  # what a record leaves behind may go without it
        """SELECT m.record_id FROM records r JOIN records m USING (aggregation_id)
            WHERE r.record_id = ANY(%s) AND m.state = 1""",
        (moving,),
    ).fetchall()
    touched = {*_records_of(conn, wanted), *(row[0] for row in behind)}
    if not touched:
        return []
    members = eligibility.unit_members(conn, schedule, list(touched), waiting=True)
    only = members if len(members) <= _ONE_BY_ONE else None
    before = {record.record_id for record in eligibility.due_records(conn, schedule, today, only)}
    with _tried(conn, wanted):
        after = {record.record_id for record in eligibility.due_records(conn, schedule, today, only)}
    return sorted(after - before)
