"""Triggers: what happened to a record or an aggregation, and when: events, retractions, suspensions, membership.

Rules of this module:
- An event has a subject, a record or an aggregation. It is never changed or deleted: a wrong one is retracted, once,
  by a row of its own. The same event again is known and changes nothing.
- Each event is a row, a line sealed with its subject's key (kind, date, note: a rebuild has its triggers) and an
  event of the ledger, which holds no date. What is current (`current_triggers`) is refreshed in the same transaction.
- A change that makes something due sooner needs two people (requirements: retention, rule 14), on whatever day that
  would be: it is refused, and `propose` asks for their signatures. What counts is retention.schedule.advances': an
  event dated before today that starts a clock or sets one to an earlier day, a retraction that leaves an earlier date,
  and all else (the end of a suspension, membership) after which a record that is kept would be due on some day on
  which it would not be. A record that leaves an aggregation which goes as a whole counts too: what it leaves behind
  may go without it. An event of today, a suspension, a retraction after which all is kept longer: one person.
- What is changed together is looked at together: the rows of a CSV file are one change, and one proposal.
- A date before 1800 is a mistake of the keyboard. One in the future is accepted, because contracts end on days that
  are known before, and reported: until then it keeps the record longer, never shorter.
- Subjects are locked in one order before anything is read of them, so that two writers wait and never deadlock.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import UUID

from retention import aggregations, approvals, catalog, descriptors, eligibility, holds, ledger, policy
from retention.approvals import Kind, Proposal
from retention.archive import Archive, load_keys
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused, UsageError
from retention.ledger import Event
from retention.model import Description, RecordState, new_id
from retention.rules import Schedule, Unit
from retention.schedule import advances

EARLIEST = date(1800, 1, 1)
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REASON = re.compile(r"[a-z][a-z-]{1,39}")
_ONE_BY_ONE = 100_000  # more records than that are looked at by one scan of all
_AT_ONCE = 5000  # records whose facts are read at a time
_SHOWN = 20  # of what is changed, and why that needs two people, in the statement that is signed
_NOBODY = UUID(int=0)
_EVER = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Given:
    """One event as somebody states it. `note` is evidence in words; it is sealed."""

    subject: UUID
    kind: str
    effective: date
    note: str = ""


@dataclass(frozen=True, slots=True)
class Retraction:
    """That an event was wrong."""

    event: UUID
    note: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed together, or not at all."""

    events: tuple[Given, ...] = ()
    retractions: tuple[Retraction, ...] = ()
    suspensions: tuple[tuple[UUID, date, str], ...] = ()  # subject, first day, reason (a code)
    resumptions: tuple[tuple[UUID, date], ...] = ()  # suspension, last day
    members: tuple[tuple[UUID, UUID], ...] = ()  # record, aggregation


@dataclass(frozen=True, slots=True)
class Done:
    """What a change did. `ids` are those of new trigger events, in the order in which they were given."""

    ids: tuple[UUID, ...]
    known: int  # given, and recorded before
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- to change


def change(archive: Archive, wanted: Change, now: datetime) -> Done:
    """Record a change. Raises UsageError, NotFound; Refused if it makes something due sooner: `propose` it."""
    _check(wanted)
    _make_kinds(archive, wanted)
    with transaction(archive.connections) as conn:
        holds.shared(conn)
        fresh = _fresh(conn, wanted)
        if why := next(_advances(conn, fresh, now), None):
            raise Refused(
                f"refusing to record it alone: {why.said} ({why.days}). That needs two people: the same with --propose "
                "asks for it, then both sign (`muniment approval list`)."
            )
        ids, events = _apply(conn, archive, fresh, now)
        warnings = _warnings(conn, fresh, now)
        ledger.append(conn, events, now)
    return Done(tuple(ids), len(wanted.events) - len(fresh.events), warnings)


def propose(archive: Archive, wanted: Change, now: datetime) -> Proposal:
    """The proposal that two people sign for the change to take effect. Raises as `change` does, Refused if no two
    people are needed."""
    _check(wanted)
    _make_kinds(archive, wanted)
    with transaction(archive.connections) as conn:
        fresh = _fresh(conn, wanted)
        why = list(islice(_advances(conn, fresh, now), _SHOWN + 1))
        if not why:
            raise Refused(
                "refusing to propose it: it makes nothing due sooner, so it needs no second person. Record it."
            )
        found = _made_due(conn, fresh, now)
        kind = Kind.RETRACTION if fresh.retractions else Kind.RESUMPTION if fresh.resumptions else Kind.TRIGGER
        lines = [
            f"records   {len(fresh.events)} events, {len(fresh.retractions)} retractions, "
            f"{len(fresh.resumptions)} resumptions, {len(fresh.members)} records into aggregations",
            f"makes due {len(found)} records that are not, as of {policy.today(conn, now)}; perhaps others later",
            *(f"why       {one.said}" for one in why[:_SHOWN]),
            *(["why       and others"] if len(why) > _SHOWN else []),
            *(f"subject   {given.subject} {given.kind}" for given in fresh.events[:_SHOWN]),
            *(f"retracts  {retraction.event}" for retraction in fresh.retractions[:_SHOWN]),
            *(f"resumes   {suspension} with {ends}" for suspension, ends in fresh.resumptions[:_SHOWN]),
            *(f"assigns   {record} to {aggregation}" for record, aggregation in fresh.members[:_SHOWN]),
        ]
        payload = _payload(conn, archive, fresh)
        lines.append(f"sha256    {sha256(payload.encode()).hexdigest()} of all of it")
        proposal, event = approvals.propose(conn, archive, kind, lines, payload, now)
        ledger.append(conn, [event], now)
    return proposal


def take_effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> Sequence[Event]:
    """What an approved proposal of kind trigger, retraction or resumption does (retention.approvals.Effect)."""
    holds.shared(conn)
    return _apply(conn, archive, _fresh(conn, meant(conn, archive, proposal)), now)[1]


def superseded(conn: Connection, archive: Archive, former: Mapping[UUID, date], now: datetime) -> list[Event]:
    """That newer versions of these records came in, on these days, for the transaction that captures them; the
    events are for the caller to append. A record that is kept no more is left out."""
    if not former:
        return []
    kept = conn.execute(
        "SELECT record_id FROM records WHERE record_id = ANY(%s) AND state = %s ORDER BY record_id FOR NO KEY UPDATE",
        (list(former), RecordState.KEPT),
    ).fetchall()
    make_kinds(conn, ("superseded", "superseded:first"))
    given = tuple(Given(row[0], "superseded", former[row[0]]) for row in kept)
    return _apply(conn, archive, _fresh(conn, Change(given)), now)[1]


# ---------------------------------------------------------------- why it needs two people


@dataclass(frozen=True, slots=True)
class _Why:
    """A reason why a change makes something due sooner. `said` is signed, and has no date of an event; `days` is for
    the person who states the change."""

    said: str
    days: str


def _advances(conn: Connection, wanted: Change, now: datetime) -> Iterator[_Why]:
    """Each reason why the change makes something due sooner. Nothing is changed."""
    try:
        schedule = policy.current(conn).schedule
    except NotFound:
        return  # nothing is ever due
    today = policy.today(conn, now)
    yield from _by_dates(conn, schedule, wanted, today)
    yield from _by_leaving(conn, schedule, wanted)
    yield from _by_record(conn, schedule, wanted, today)


def _by_dates(conn: Connection, schedule: Schedule, wanted: Change, today: date) -> Iterator[_Why]:
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
            yield _Why(f"{kind} of {subject} lies before the day on which it is recorded", f"{day}, before {today}")
        elif days := advances.moved(asked, before.get(key, ()), after):
            yield _Why(f"{kind} of {subject} would count from an earlier day", f"{days[1]}, not {days[0]}")


def _by_leaving(conn: Connection, schedule: Schedule, wanted: Change) -> Iterator[_Why]:
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
        yield _Why(f"record {record} would leave its case file, which goes as a whole", str(aggregation))


def _by_record(conn: Connection, schedule: Schedule, wanted: Change, today: date) -> Iterator[_Why]:
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
                yield _Why(f"record {record} would be due on a day on which it is not without it", str(day))


@contextmanager
def _tried(conn: Connection, wanted: Change) -> Iterator[None]:
    """The catalog as it would be, until the end of the block."""
    with conn.transaction(force_rollback=True):
        _write(conn, wanted, [UUID(int=n) for n in range(len(wanted.events) + len(wanted.retractions))], _NOBODY, _EVER)
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


def _made_due(conn: Connection, wanted: Change, now: datetime) -> list[UUID]:
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


# ---------------------------------------------------------------- what is wrong with it


def _check(wanted: Change) -> None:
    for given in wanted.events:
        if problem := mistake(given.kind, given.effective):
            raise UsageError(problem)
    for _, starts, reason in wanted.suspensions:
        if not _REASON.fullmatch(reason):
            raise UsageError(f"--reason: expected a code such as litigation or tax-audit, found {reason!r}.")
        if starts < EARLIEST:
            raise UsageError(f"expected a day from {EARLIEST} on, found {starts}.")


def mistake(kind: str, effective: date) -> str | None:
    """What is wrong with kind or date of an event, in words; None if nothing is."""
    if not _KIND.fullmatch(kind):
        return f"expected a kind such as contract_end (small letters, digits, _), found {kind!r}."
    if effective < EARLIEST:
        return f"{kind}: expected a day from {EARLIEST} on, found {effective}."
    return None


def _warnings(conn: Connection, wanted: Change, now: datetime) -> tuple[str, ...]:
    found = []
    try:
        used = policy.current(conn).schedule
    except NotFound:
        return ()
    triggers = {t.name for c in used.classes for r in c.rules for t in _triggers(r) if t.event}
    for kind in sorted({given.kind for given in wanted.events} - triggers):
        found.append(f"no rule of the schedule in force asks for event:{kind}; it is kept for the day one does")
    today = policy.today(conn, now)
    if later := sum(given.effective > today for given in wanted.events):
        found.append(f"{later} of the dates lie in the future")
    return tuple(found)


def _triggers(rule: Any) -> Iterable[Any]:
    compared = (side for condition in rule.when for side in (condition.left, condition.than))
    return (one for one in (rule.trigger, rule.not_before, *compared) if one is not None)


# ---------------------------------------------------------------- rows


def _fresh(conn: Connection, wanted: Change) -> Change:
    """What of a change is new, its subjects locked. Raises NotFound, Refused."""
    subjects = {given.subject for given in wanted.events} | {subject for subject, _, _ in wanted.suspensions}
    subjects |= {one for pair in wanted.members for one in pair}
    retracted = _retracted(conn, wanted.retractions)
    ended = _ended(conn, wanted.resumptions)
    _lock(conn, subjects | set(retracted.values()) | set(ended.values()))
    aggregations.refuse_missing(conn, subjects)
    _retracted(conn, wanted.retractions)  # again, now that nobody else can retract
    _ended(conn, wanted.resumptions)
    known = {
        (row[0], row[1], row[2])
        for row in conn.execute(
            """SELECT e.subject_id, k.kind, e.effective FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
                WHERE e.subject_id = ANY(%s) AND e.retracts IS NULL
                  AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)""",
            (list({given.subject for given in wanted.events}),),
        )
    }
    events = dict.fromkeys(wanted.events)
    open_ones = {
        (row[0], row[1], row[2])
        for row in conn.execute(
            "SELECT subject_id, starts, reason FROM suspensions WHERE ends IS NULL AND subject_id = ANY(%s)",
            ([subject for subject, _, _ in wanted.suspensions],),
        )
    }
    there: dict[UUID, UUID | None] = dict(
        conn.execute(
            "SELECT record_id, aggregation_id FROM records WHERE record_id = ANY(%s)",
            ([record for record, _ in wanted.members],),
        ).fetchall()
    )
    if strange := [record for record, _ in wanted.members if record not in there]:
        raise NotFound(f"no record {strange[0]}: only records are assigned. Nothing was changed.")
    return Change(
        tuple(g for g in events if (g.subject, g.kind, g.effective) not in known),
        wanted.retractions,
        tuple(one for one in dict.fromkeys(wanted.suspensions) if one not in open_ones),
        wanted.resumptions,
        tuple((record, to) for record, to in dict.fromkeys(wanted.members) if there[record] != to),
    )


def _lock(conn: Connection, subjects: Iterable[UUID]) -> None:
    """One writer at a time for each subject. Raises Refused for a record that is no longer kept."""
    ids = list(subjects)
    conn.execute("SELECT FROM aggregations WHERE aggregation_id = ANY(%s) ORDER BY aggregation_id FOR UPDATE", (ids,))
    rows = conn.execute(
        "SELECT record_id, state FROM records WHERE record_id = ANY(%s) ORDER BY record_id FOR NO KEY UPDATE", (ids,)
    )
    for record, state in rows.fetchall():
        if state != RecordState.KEPT:
            raise Refused(
                f"refusing to change what is known of record {record}: it is {RecordState(state).name.lower()}. "
                "Nothing was changed."
            )


def _retracted(conn: Connection, retractions: Sequence[Retraction]) -> dict[UUID, UUID]:
    """The subject of each event that is to be retracted. Raises NotFound, Refused."""
    ids = [retraction.event for retraction in retractions]
    rows = conn.execute(
        """SELECT e.trigger_event_id, e.subject_id, e.retracts IS NOT NULL,
                  EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
             FROM trigger_events e WHERE e.trigger_event_id = ANY(%s)""",
        (ids,),
    ).fetchall()
    found = {row[0]: row[1] for row in rows}
    for event in ids:
        if event not in found:
            raise NotFound(f"no event {event}. `muniment event list SUBJECT` shows the events of a subject.")
    for event, _, is_retraction, again in rows:
        if is_retraction:
            raise Refused(f"refusing to retract {event}: it is a retraction. Add the event again instead.")
        if again:
            raise Refused(f"refusing to retract {event} again: it was retracted before.")
    return found


def _ended(conn: Connection, resumptions: Sequence[tuple[UUID, date]]) -> dict[UUID, UUID]:
    """The subject of each suspension that is to end. Raises NotFound, Refused, UsageError."""
    rows = {
        row[0]: row[1:]
        for row in conn.execute(
            "SELECT suspension_id, subject_id, starts, ends FROM suspensions WHERE suspension_id = ANY(%s)",
            ([suspension for suspension, _ in resumptions],),
        )
    }
    for suspension, last in resumptions:
        if suspension not in rows:
            raise NotFound(f"no suspension {suspension}. `muniment suspension list` shows them.")
        _, starts, ends = rows[suspension]
        if ends is not None:
            raise Refused(f"refusing to end suspension {suspension} again: it ended with {ends}.")
        if last < starts:
            raise UsageError(f"suspension {suspension}: expected a last day not before {starts}, found {last}.")
    return {suspension: row[0] for suspension, row in rows.items()}


def _apply(conn: Connection, archive: Archive, fresh: Change, now: datetime) -> tuple[list[UUID], list[Event]]:
    """Everything but the ledger; its events are for the caller to append."""
    ids = [new_id(now) for _ in range(len(fresh.events) + len(fresh.retractions))]
    subjects = _retracted(conn, fresh.retractions)
    stated = [
        *((g.subject, {"kind": g.kind, "effective": g.effective.isoformat(), "note": g.note}) for g in fresh.events),
        *((subjects[r.event], {"retracts": str(r.event), "note": r.note}) for r in fresh.retractions),
    ]
    lines = _store_lines(conn, archive, [(id_, *one) for id_, one in zip(ids, stated, strict=True)], now)
    by = archive.agent.on_behalf_of or archive.agent.id
    written = _write(conn, fresh, ids, by, now)
    events = [
        Event("mem", now, archive.agent, (subject,), detail=_detail(said, id_, lines[id_]))
        for id_, (subject, said) in zip(ids, stated, strict=True)
    ]
    for subject, suspension, detail in written:
        events.append(Event("mem", now, archive.agent, (subject,), detail={"suspension": str(suspension), **detail}))
    for record, aggregation in fresh.members:
        detail = {"aggregation": "assigned", "to": str(aggregation)}
        events.append(Event("mem", now, archive.agent, (record, aggregation), detail=detail))
    if fresh.members:
        events += holds.arrived(conn, archive, [record for record, _ in fresh.members], now)
    return ids[: len(fresh.events)], events


def _detail(said: Mapping[str, str], id_: UUID, line: descriptors.Line) -> dict[str, str]:
    """Of the ledger: a birth is a date, and stands in the sealed line alone."""
    named = {key: said[key] for key in ("kind", "retracts") if key in said}
    where = {"descriptor": str(line.descriptor_id), "descriptor_sha256": line.sha256.hex()}
    return {"trigger_event": str(id_), **named, **where}


def _store_lines(
    conn: Connection, archive: Archive, stated: Sequence[tuple[UUID, UUID, Mapping[str, str]]], now: datetime
) -> dict[UUID, descriptors.Line]:
    """A line for each event, sealed with its subject's key, in the vault and in the catalog."""
    keys = load_keys(conn, archive.safe, {subject for _, subject, _ in stated})
    if gone := [subject for _, subject, _ in stated if subject not in keys]:
        raise NotFound(f"{gone[0]}: its key is gone, so nothing can be said of it any more. Nothing was changed.")

    def sealed(one: tuple[UUID, UUID, Mapping[str, str]]) -> tuple[UUID, int, bytes]:
        id_, subject, said = one
        name = said.get("kind", "retraction")
        plain = Description(name=name, source="", place="", metadata={"subject": str(subject), **said})
        return id_, 1, keys[subject].seal(descriptors.encode("trigger", plain))

    with ThreadPoolExecutor(2, thread_name_prefix="seal") as threads:
        objects, lines = descriptors.store(archive, threads.map(sealed, stated), now)
    descriptors.insert(conn, objects, lines, now)
    return {line.subject_id: line for line in lines}


def _write(
    conn: Connection, fresh: Change, ids: Sequence[UUID], by: UUID, now: datetime
) -> list[tuple[UUID, UUID, dict[str, str]]]:
    """Rows of a change, and what follows from them. Returns subject, id and words of each suspension for the ledger."""
    subjects = _insert_events(conn, fresh, ids, by, now)
    _refresh(conn, subjects)
    told = [(subject, new_id(now), starts, reason) for subject, starts, reason in fresh.suspensions]
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO suspensions (suspension_id, subject_id, starts, recorded_at, recorded_by, reason) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            [(id_, subject, starts, now, by, reason) for subject, id_, starts, reason in told],
        )
        cursor.executemany(
            "UPDATE suspensions SET ends = %s, ended_recorded_at = %s, ended_by = %s WHERE suspension_id = %s",
            [(ends, now, by, suspension) for suspension, ends in fresh.resumptions],
        )
    _move(conn, fresh.members, by, now)
    marked = [*subjects, *(subject for subject, _, _, _ in told), *(aggregation for _, aggregation in fresh.members)]
    if marked:
        conn.execute(
            """UPDATE records r SET special = true
            WHERE NOT r.special AND (
                  r.record_id = ANY(%(ids)s)
                  OR r.aggregation_id IN (SELECT subject_id FROM suspensions WHERE subject_id = ANY(%(ids)s)))""",
            {"ids": marked},
        )
    resumed = _ended_subjects(conn, fresh.resumptions)
    return [
        *((subject, id_, {"starts": str(starts), "reason": reason}) for subject, id_, starts, reason in told),
        *((resumed[id_], id_, {"ends": str(ends)}) for id_, ends in fresh.resumptions),
    ]


def _ended_subjects(conn: Connection, resumptions: Sequence[tuple[UUID, date]]) -> dict[UUID, UUID]:
    return dict(
        conn.execute(
            "SELECT suspension_id, subject_id FROM suspensions WHERE suspension_id = ANY(%s)",
            ([suspension for suspension, _ in resumptions],),
        ).fetchall()
    )


def _insert_events(conn: Connection, fresh: Change, ids: Sequence[UUID], by: UUID, now: datetime) -> list[UUID]:
    """Returns the subjects whose events changed."""
    kinds: dict[str, int] = dict(conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    with conn.cursor().copy(
        "COPY trigger_events (trigger_event_id, subject_id, kind, effective, recorded_at, recorded_by) "
        "FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.set_types(["uuid", "uuid", "int2", "date", "timestamptz", "uuid"])
        for id_, given in zip(ids, fresh.events, strict=False):
            copy.write_row((id_, given.subject, kinds[given.kind], given.effective, now, by))
    retracted = conn.execute(
        """INSERT INTO trigger_events
                  (trigger_event_id, subject_id, kind, effective, recorded_at, recorded_by, retracts)
           SELECT n.id, e.subject_id, e.kind, e.effective, %s, %s, e.trigger_event_id
             FROM unnest(%s::uuid[], %s::uuid[]) AS n (id, event)
             JOIN trigger_events e ON e.trigger_event_id = n.event
           RETURNING subject_id""",
        (now, by, list(ids[len(fresh.events) :]), [retraction.event for retraction in fresh.retractions]),
    ).fetchall()
    return list({given.subject for given in fresh.events} | {row[0] for row in retracted})


def _refresh(conn: Connection, subjects: Sequence[UUID]) -> None:
    """What is current of these subjects: the latest unretracted date of each kind, and the earliest as `kind:first`."""
    if not subjects:
        return
    conn.execute("DELETE FROM current_triggers WHERE subject_id = ANY(%s)", (list(subjects),))
    conn.execute(
        """WITH live AS (
               SELECT e.subject_id, k.kind, max(e.effective) AS latest, min(e.effective) AS earliest
                 FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
                WHERE e.subject_id = ANY(%s) AND e.retracts IS NULL
                  AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
                GROUP BY 1, 2
           ), places AS (
               SELECT l.subject_id, k.ordinal, CASE WHEN k.kind = l.kind THEN l.latest ELSE l.earliest END AS day
                 FROM live l JOIN trigger_kinds k ON k.kind IN (l.kind, l.kind || ':first')
           )
           INSERT INTO current_triggers (subject_id, dates)
           SELECT s.subject_id, array_agg(p.day ORDER BY g.n)
             FROM (SELECT subject_id, max(ordinal) AS most FROM places GROUP BY 1) AS s
             CROSS JOIN LATERAL generate_series(1, s.most) AS g (n)
             LEFT JOIN places p ON p.subject_id = s.subject_id AND p.ordinal = g.n
            GROUP BY 1""",
        (list(subjects),),
    )


def _move(conn: Connection, members: Sequence[tuple[UUID, UUID]], by: UUID, now: datetime) -> None:
    if not members:
        return
    conn.execute(
        """WITH wanted AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[]) AS n (record_id, aggregation_id)),
                told AS (INSERT INTO aggregation_changes
                         SELECT r.record_id, %s, r.aggregation_id, n.aggregation_id, %s
                           FROM wanted n JOIN records r USING (record_id))
           UPDATE records r SET aggregation_id = n.aggregation_id FROM wanted n WHERE n.record_id = r.record_id""",
        ([record for record, _ in members], [aggregation for _, aggregation in members], now, by),
    )


def _make_kinds(archive: Archive, wanted: Change) -> None:
    """Places for the kinds, in a transaction of their own: a change that is refused would burn their numbers."""
    named = {given.kind + suffix for given in wanted.events for suffix in ("", ":first")}
    with transaction(archive.connections) as conn:
        make_kinds(conn, named)


def make_kinds(conn: Connection, kinds: Iterable[str]) -> None:
    """Places in `current_triggers.dates`; asked for first, since a conflict burns a number of 32,767."""
    known = {row[0] for row in conn.execute("SELECT kind FROM trigger_kinds")}
    if new := sorted(set(kinds) - known):
        conn.execute(
            "INSERT INTO trigger_kinds (kind) SELECT n FROM unnest(%s::text[]) AS n ORDER BY n ON CONFLICT DO NOTHING",
            (new,),
        )


# ---------------------------------------------------------------- a change that waits for two people


def _payload(conn: Connection, archive: Archive, wanted: Change) -> str:
    """As JSON that names nobody: dates of events (a birth is one) and notes are sealed with their subject's key, and
    are gone with it."""
    subjects = _retracted(conn, wanted.retractions) | {g.subject: g.subject for g in wanted.events}
    keys = load_keys(conn, archive.safe, set(subjects.values()))

    def sealed(subject: UUID, *said: str) -> str:
        return base64.b64encode(keys[subject].seal(json.dumps(said).encode())).decode()

    events = [[str(g.subject), g.kind, sealed(g.subject, g.effective.isoformat(), g.note)] for g in wanted.events]
    retractions = [[str(r.event), sealed(subjects[r.event], r.note)] for r in wanted.retractions]
    return json.dumps(
        {
            "events": events,
            "retractions": retractions,
            "resumptions": [[str(suspension), ends.isoformat()] for suspension, ends in wanted.resumptions],
            "members": [[str(record), str(aggregation)] for record, aggregation in wanted.members],
        }
    )


def meant(conn: Connection, archive: Archive, proposal: Proposal) -> Change:
    """What a proposal of kind trigger, retraction or resumption would do, opened for who is to sign it.

    Raises NotFound once the key of a subject is gone, or an event that it would retract."""
    content = proposal.content
    subjects = {UUID(row[0]): UUID(row[0]) for row in content["events"]}
    subjects |= _retracted(conn, [Retraction(UUID(row[0])) for row in content["retractions"]])
    keys = load_keys(conn, archive.safe, set(subjects.values()))

    def opened(subject: UUID, sealed: str) -> list[str]:
        if subject not in keys:
            raise NotFound(f"{subject}: its key is gone, and with it what was proposed of it. Nothing was changed.")
        said: list[str] = json.loads(keys[subject].open(base64.b64decode(sealed)))
        return said

    events = [(UUID(subject), kind, *opened(UUID(subject), sealed)) for subject, kind, sealed in content["events"]]
    return Change(
        tuple(Given(subject, kind, date.fromisoformat(day), note) for subject, kind, day, note in events),
        tuple(
            Retraction(UUID(event), *opened(subjects[UUID(event)], sealed)) for event, sealed in content["retractions"]
        ),
        resumptions=tuple((UUID(one), date.fromisoformat(day)) for one, day in content["resumptions"]),
        members=tuple((UUID(record), UUID(aggregation)) for record, aggregation in content["members"]),
    )
