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

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from hashlib import sha256
from itertools import islice
from typing import Any
from uuid import UUID

from retention import approvals, holds, ledger, policy
from retention.approvals import Kind, Proposal
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused
from retention.ledger import Event
from retention.model import RecordState
from retention.triggers import advancing, recording
from retention.triggers.changes import Change, Done, Given, Retraction, check, mistake
from retention.triggers.proposals import meant, payload_of
from retention.triggers.rows import make_kinds
from retention.triggers.subjects import fresh_of

__all__ = [
    "Change",
    "Done",
    "Given",
    "Retraction",
    "change",
    "make_kinds",
    "meant",
    "mistake",
    "propose",
    "superseded",
    "take_effect",
]

_SHOWN = 20  # of what is changed, and why that needs two people, in the statement that is signed


def change(archive: Archive, wanted: Change, now: datetime) -> Done:
    """Record a change. Raises UsageError, NotFound; Refused if it makes something due sooner: `propose` it."""
    check(wanted)
    _make_kinds(archive, wanted)
    with transaction(archive.connections) as conn:
        holds.shared(conn)
        fresh = fresh_of(conn, wanted)
        if why := next(advancing.reasons(conn, fresh, now), None):
            raise Refused(
                f"refusing to record it alone: {why.said} ({why.days}). That needs two people: the same with --propose "
                "asks for it, then both sign (`muniment approval list`)."
            )
        ids, events = recording.record(conn, archive, fresh, now)
        warnings = _warnings(conn, fresh, now)
        ledger.append(conn, events, now)
    return Done(tuple(ids), len(wanted.events) - len(fresh.events), warnings)


def propose(archive: Archive, wanted: Change, now: datetime) -> Proposal:
    """The proposal that two people sign for the change to take effect. Raises as `change` does, Refused if no two
    people are needed."""
    check(wanted)
    _make_kinds(archive, wanted)
    with transaction(archive.connections) as conn:
        fresh = fresh_of(conn, wanted)
        why = list(islice(advancing.reasons(conn, fresh, now), _SHOWN + 1))
        if not why:
            raise Refused(
                "refusing to propose it: it makes nothing due sooner, so it needs no second person. Record it."
            )
        found = advancing.made_due(conn, fresh, now)
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
        payload = payload_of(conn, archive, fresh)
        lines.append(f"sha256    {sha256(payload.encode()).hexdigest()} of all of it")
        proposal, event = approvals.propose(conn, archive, kind, lines, payload, now)
        ledger.append(conn, [event], now)
    return proposal


def take_effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> Sequence[Event]:
    """What an approved proposal of kind trigger, retraction or resumption does (retention.approvals.Effect)."""
    holds.shared(conn)
    return recording.record(conn, archive, fresh_of(conn, meant(conn, archive, proposal)), now)[1]


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
    return recording.record(conn, archive, fresh_of(conn, Change(given)), now)[1]


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


def _make_kinds(archive: Archive, wanted: Change) -> None:
    """Places for the kinds, in a transaction of their own: a change that is refused would burn their numbers."""
    named = {given.kind + suffix for given in wanted.events for suffix in ("", ":first")}
    with transaction(archive.connections) as conn:
        make_kinds(conn, named)
