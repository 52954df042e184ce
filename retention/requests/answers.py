"""What a request is answered, record by record; and which records are restricted for it (GDPR art. 18).

Rules of this module:
- It alone writes the tables request_answers and restrictions. Both change with their event, which tells all that a row
  says; an answer that is the same as before makes none. The day until which a record is kept may tell a day of birth:
  the event has a keyed code of it (`Safe.day`).
- Each restriction belongs to the request that asked for it: a record is free when none is left.
- What a person said of a hit that words found stays said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from retention.archive import Archive
from retention.database import Connection
from retention.ledger import Event
from retention.seal import Safe

_AT_ONCE = 750  # ids with codes of days in an event, which holds 65,535 bytes


class Given(StrEnum):
    """What is said of one record."""

    REFUSED = "refused"
    RESTRICTED = "restricted"
    PROPOSED = "proposed"  # to be erased: in a disposition plan that two people decide
    WAITING = "waiting"  # to be erased, and in no plan yet: its notice runs
    ERASING = "erasing"
    ERASED = "erased"
    TRANSFERRED = "transferred"
    LOST = "lost"  # in no copy when the archive was restored
    INCLUDED = "included"  # in the package
    UNREADABLE = "unreadable"  # not in the package: it could not be read
    CHECK = "check"  # found by words or a part of a name: a person looks
    NOT_ABOUT = "not-about"  # a person looked


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one record, with its reason, law and date."""

    record_id: UUID
    given: Given
    reason: str  # a code
    citation: str
    until: date | None = None
    about: bool | None = None  # what a person said of a hit
    plan_id: UUID | None = None  # the open plan that it is in


def answers(conn: Connection, request_id: UUID) -> list[Answer]:
    """What is said of each record; with the open plan that it is in."""
    rows = conn.execute(
        """SELECT a.record_id, a.answer, a.reason, a.citation, a.until, a.about, i.plan_id
             FROM request_answers a LEFT JOIN plan_items i ON i.record_id = a.record_id AND i.open
            WHERE a.request_id = %s ORDER BY a.answer, a.record_id""",
        (request_id,),
    )
    return [Answer(record, Given(answer), *rest) for record, answer, *rest in rows]


def give(
    conn: Connection, archive: Archive, request_id: UUID, kind: str, found: Sequence[Answer], now: datetime
) -> list[Event]:
    """Put these answers in the place of what was said before; the events are for the caller to append.

    What was said before and is the same now makes no event."""
    before = {answer.record_id: answer for answer in answers(conn, request_id)}
    now_said = {answer.record_id: answer for answer in found}
    gone = conn.execute(
        "DELETE FROM request_answers WHERE request_id = %s AND NOT record_id = ANY(%s) RETURNING record_id",
        (request_id, list(now_said)),
    ).fetchall()
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO request_answers (request_id, record_id, answer, reason, citation, until, about)
               VALUES (%s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (request_id, record_id) DO UPDATE
                  SET answer = EXCLUDED.answer, reason = EXCLUDED.reason, citation = EXCLUDED.citation,
                      until = EXCLUDED.until, about = EXCLUDED.about""",
            [
                (request_id, a.record_id, a.given.value, a.reason, a.citation, a.until, a.about)
                for a in sorted(found, key=lambda a: a.record_id)
            ],
        )
    changed: dict[tuple[Given, str, str, bool | None], list[UUID]] = {}
    for record, answer in sorted(now_said.items()):
        if record not in before or _said(before[record]) != _said(answer):
            changed.setdefault((answer.given, answer.reason, answer.citation, answer.about), []).append(record)
    events = []
    of = {"request": str(request_id), "kind": kind}
    for (given, reason, citation, about), records in changed.items():
        for part in _cut(records):
            days = [day_code(archive.safe, request_id, record, now_said[record].until) for record in part]
            said = {"answer": given.value, "reason": reason, "citation": citation, "about": about}
            detail: dict[str, Any] = of | said | ({"until": days} if any(days) else {})
            events.append(Event("app", now, archive.agent, (request_id, *part), detail=detail))
    for part in _cut(sorted(row[0] for row in gone)):
        events.append(Event("app", now, archive.agent, (request_id, *part), detail={**of, "withdrawn": len(part)}))
    return events


def day_code(safe: Safe, request_id: UUID, record_id: UUID, until: date | None) -> str | None:
    """What an event says of the day of an answer."""
    return safe.day("until", request_id, record_id, until).hex() if until else None


def _said(answer: Answer) -> tuple[object, ...]:
    """All of it but the plan, which is no part of what was answered."""
    return (answer.given, answer.reason, answer.citation, answer.until, answer.about)


def restrict(
    conn: Connection, archive: Archive, request_id: UUID, records: Iterable[UUID], now: datetime
) -> list[Event]:
    """Restrict exactly these records for this request; the events are for the caller to append.

    The caller took `holds.exclusive` first, so that nothing is being marked as destroying meanwhile."""
    wanted = {"id": request_id, "records": sorted(set(records)), "now": now}
    freed = conn.execute(
        "DELETE FROM restrictions WHERE request_id = %(id)s AND NOT record_id = ANY(%(records)s) RETURNING record_id",
        wanted,
    ).fetchall()
    added = conn.execute(
        """INSERT INTO restrictions (record_id, request_id, recorded_at)
           SELECT n, %(id)s, %(now)s FROM unnest(%(records)s::uuid[]) AS n
               ON CONFLICT DO NOTHING RETURNING record_id""",
        wanted,
    ).fetchall()
    events = []
    for taken, rows in ((True, added), (False, freed)):
        detail = {"request": str(request_id), "restricted": taken}
        parts = _cut(sorted(row[0] for row in rows))
        events += [Event("poa", now, archive.agent, (request_id, *part), detail=detail) for part in parts]
    return events


def restricted(conn: Connection, request_id: UUID) -> set[UUID]:
    """What this request restricts now."""
    rows = conn.execute("SELECT record_id FROM restrictions WHERE request_id = %s", (request_id,))
    return {row[0] for row in rows}


def _cut(ids: Sequence[UUID]) -> Iterable[tuple[UUID, ...]]:
    return (tuple(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))
