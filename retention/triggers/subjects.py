"""What of a change is new, of subjects that nobody else can change meanwhile.

Subjects are locked in one order before anything is read of them; what was read before to find them is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from uuid import UUID

from retention import aggregations
from retention.database import Connection
from retention.errors import NotFound, Refused, UsageError
from retention.model import RecordState
from retention.triggers.changes import Change, Retraction


def fresh_of(conn: Connection, wanted: Change) -> Change:
    """What of a change is new, its subjects locked. Raises NotFound, Refused."""
    subjects = {given.subject for given in wanted.events} | {subject for subject, _, _ in wanted.suspensions}
    subjects |= {one for pair in wanted.members for one in pair}
    retracted = retracted_subjects(conn, wanted.retractions)
    ended = _ended(conn, wanted.resumptions)
    _lock(conn, subjects | set(retracted.values()) | set(ended.values()))
    aggregations.refuse_missing(conn, subjects)
    retracted_subjects(conn, wanted.retractions)  # again, now that nobody else can retract
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


def retracted_subjects(conn: Connection, retractions: Sequence[Retraction]) -> dict[UUID, UUID]:
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
