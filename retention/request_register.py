"""Requests of persons as they stand: what was asked, what was answered, by when; which records are restricted.

Rules of this module (GDPR art. 12, 15-19):
- It alone writes the tables requests, request_answers and restrictions.
- Art. 12(3): an answer is due one calendar month after receipt, on the same day of the next month or on its last day.
  It can be extended once, before it is due, by two more months, for complexity or number, and the person is told.
- The same request of the same person is one request until it is answered.
- Who asked, in which words, is the request's sealed line; control tables and events have pseudonyms and codes.
- Closing says that the person was told. Nothing is closed while a hit waits for somebody to check it, or while
  what is to be erased is not erased yet.
- Each restriction belongs to the request that asked for it: a record is free when none is left. Before one is
  lifted the person is told (art. 18(3)).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from retention import descriptors, holds, ledger, policy
from retention.archive import Archive, store_keys
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused, UsageError
from retention.ledger import Event
from retention.model import Description, new_id
from retention.request_subjects import Finds, Subject, identity
from retention.rules import Period
from retention.seal import new_record_key

TERM = Period(months=1)
EXTENSION = Period(months=2)
SCOPE = "requests"  # their keys' scope in the key safe
_AT_ONCE = 1000  # ids in an event, which holds 65,535 bytes


class Kind(StrEnum):
    ERASE = "erase"  # art. 17
    ACCESS = "access"  # art. 15; 45 CFR 164.524
    RESTRICT = "restrict"  # art. 18


class Ground(StrEnum):
    """Why processing is to be restricted: art. 18(1)(a) to (d)."""

    ACCURACY = "accuracy"
    UNLAWFUL = "unlawful"
    CLAIMS = "claims"
    OBJECTION = "objection"


class Extension(StrEnum):
    """Why an answer takes longer: art. 12(3)."""

    COMPLEXITY = "complexity"
    NUMBER = "number"


class Given(StrEnum):
    """What is said of one record."""

    REFUSED = "refused"
    RESTRICTED = "restricted"
    PROPOSED = "proposed"  # to be erased: in a disposition plan that two people decide
    WAITING = "waiting"  # to be erased, and in no plan yet: its notice runs
    ERASING = "erasing"
    ERASED = "erased"
    TRANSFERRED = "transferred"
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


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it stands."""

    id: UUID
    kind: Kind
    finds: Finds
    subject_id: UUID
    ground: Ground | None
    received: date
    due_on: date
    extension: Extension | None
    recorded_at: datetime
    answered_at: datetime | None
    lifted_at: datetime | None
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it comes in. `by`: who asks, where it is another than the subject; `received`: default, today."""

    subject: Subject
    by: str | None = None
    received: date | None = None
    ground: Ground | None = None


# ---------------------------------------------------------------- enter


def enter(archive: Archive, kind: Kind, asked: Asked, now: datetime) -> tuple[UUID, bool]:
    """The request, and whether it is new. Raises UsageError for a day of receipt ahead, NotFound for no schedule."""
    subject_id = identity(archive.safe, asked.subject)
    with transaction(archive.connections) as conn:
        today = policy.today(conn, now)
        if standing := _open(conn, kind, subject_id):
            return standing, False
    received = asked.received or today
    if received > today:
        raise UsageError(f"--received {received}: expected today ({today}) or a day before.")
    request_id, key = new_id(now), new_record_key()
    said = {"finds": asked.subject.finds.value, "by": asked.by or asked.subject.text}
    described = Description(name=asked.subject.text, source="", place=kind.value, metadata=said)
    sealed = key.seal(descriptors.encode("request", described))
    objects, lines = descriptors.store(archive, [(request_id, 1, sealed)], now)
    with transaction(archive.connections) as conn:
        new = conn.execute(
            """INSERT INTO requests (request_id, kind, finds, subject_id, ground, received, recorded_at, recorded_by,
                                     due_on)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (kind, subject_id) WHERE answered_at IS NULL DO NOTHING RETURNING 1""",
            (
                *(request_id, kind.value, asked.subject.finds.value, subject_id, asked.ground, received, now),
                *(archive.agent.on_behalf_of or archive.agent.id, TERM.after(received)),
            ),
        ).fetchone()
        if new is None:  # somebody entered it at this moment
            standing = _open(conn, kind, subject_id)
            assert standing is not None
            return standing, False
        store_keys(conn, archive.safe, {request_id: (key, SCOPE)}, now)
        descriptors.insert(conn, objects, lines, now)
        descriptors.describe(conn, [(request_id, 1, "request", described)])
        detail = {
            "request": str(request_id),
            "kind": kind.value,
            "finds": asked.subject.finds.value,
            "received": received.isoformat(),
            "due_on": TERM.after(received).isoformat(),
            "descriptor": str(lines[0].descriptor_id),
            "descriptor_sha256": lines[0].sha256.hex(),
        }
        event = Event("poa", now, archive.agent, (request_id, subject_id), detail=detail)
        ledger.append(conn, [event], now)
    return request_id, True


def _open(conn: Connection, kind: Kind, subject_id: UUID) -> UUID | None:
    row = conn.execute(
        "SELECT request_id FROM requests WHERE kind = %s AND subject_id = %s AND answered_at IS NULL",
        (kind.value, subject_id),
    ).fetchone()
    return row[0] if row else None


# ---------------------------------------------------------------- look


def listed(conn: Connection, *, answered: bool = False, request_id: UUID | None = None) -> list[Request]:
    """Open requests, the one that is due first at the top; or all, or one."""
    rows = conn.execute(
        """SELECT q.request_id, kind, finds, subject_id, ground, received, due_on, extension, recorded_at,
                  answered_at, lifted_at,
                  coalesce((SELECT jsonb_object_agg(answer, n) FROM (
                      SELECT answer, count(*) AS n FROM request_answers a WHERE a.request_id = q.request_id
                       GROUP BY 1) AS counted), '{}')
             FROM requests q
            WHERE (%(id)s::uuid IS NULL OR q.request_id = %(id)s) AND (%(all)s OR answered_at IS NULL)
            ORDER BY answered_at DESC NULLS FIRST, due_on, q.request_id""",
        {"id": request_id, "all": answered or request_id is not None},
    )
    return [
        Request(
            *(id_, Kind(kind), Finds(finds), subject_id, ground and Ground(ground), received, due_on),
            *(extension and Extension(extension), *times, counts),
        )
        for id_, kind, finds, subject_id, ground, received, due_on, extension, *times, counts in rows
    ]


def one(conn: Connection, request_id: UUID, *, lock: bool = False) -> Request:
    """Raises NotFound. With `lock`, nobody else answers it meanwhile."""
    if lock:
        conn.execute("SELECT FROM requests WHERE request_id = %s FOR UPDATE", (request_id,))
    found = listed(conn, request_id=request_id)
    if not found:
        raise NotFound(f"no request {request_id}. `muniment request list --all` shows them.")
    return found[0]


def open_one(conn: Connection, request_id: UUID) -> Request:
    """Locked. Raises NotFound, Refused for one that was answered."""
    found = one(conn, request_id, lock=True)
    if found.answered_at is not None:
        raise Refused(
            f"refusing to change request {request_id}: it was answered {found.answered_at:%Y-%m-%d}. Enter a new one."
        )
    return found


def answers(conn: Connection, request_id: UUID) -> list[Answer]:
    """What is said of each record; with the open plan that it is in."""
    rows = conn.execute(
        """SELECT a.record_id, a.answer, a.reason, a.citation, a.until, a.about, i.plan_id
             FROM request_answers a LEFT JOIN plan_items i ON i.record_id = a.record_id AND i.open
            WHERE a.request_id = %s ORDER BY a.answer, a.record_id""",
        (request_id,),
    )
    return [Answer(record, Given(answer), *rest) for record, answer, *rest in rows]


def said(archive: Archive, conn: Connection, request_id: UUID) -> tuple[Subject, str]:
    """Whom it is about and who asked, from the sealed line. Raises NotFound, Damaged."""
    line = descriptors.read_line(archive, conn, request_id)
    return Subject(line.name, Finds(line.metadata["finds"])), str(line.metadata["by"])


# ---------------------------------------------------------------- answer


def give(conn: Connection, archive: Archive, request: Request, found: Sequence[Answer], now: datetime) -> list[Event]:
    """Put these answers in the place of what was said before; the events are for the caller to append.

    Records that are gone meanwhile keep their answer, which says so. What was said before and is the same now
    makes no event."""
    before = {answer.record_id: answer for answer in answers(conn, request.id)}
    now_said = {answer.record_id: answer for answer in found}
    conn.execute(
        """DELETE FROM request_answers a USING records r
            WHERE a.request_id = %s AND r.record_id = a.record_id AND NOT a.record_id = ANY(%s)""",
        (request.id, list(now_said)),
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO request_answers (request_id, record_id, answer, reason, citation, until, about)
               VALUES (%s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (request_id, record_id) DO UPDATE
                  SET answer = EXCLUDED.answer, reason = EXCLUDED.reason, citation = EXCLUDED.citation,
                      until = EXCLUDED.until, about = EXCLUDED.about""",
            [
                (request.id, a.record_id, a.given.value, a.reason, a.citation, a.until, a.about)
                for a in sorted(found, key=lambda a: a.record_id)
            ],
        )
    changed: dict[tuple[Given, str], list[UUID]] = {}
    for record, answer in sorted(now_said.items()):
        was = before.get(record)
        if was is None or (was.given, was.reason) != (answer.given, answer.reason):
            changed.setdefault((answer.given, answer.reason), []).append(record)
    return [
        Event(
            *("app", now, archive.agent, (request.id, *part)),
            detail={"request": str(request.id), "kind": request.kind.value, "answer": given.value, "reason": reason},
        )
        for (given, reason), records in changed.items()
        for part in _cut(records)
    ]


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
    return [
        Event(
            *("poa", now, archive.agent, (request_id, *part)),
            detail={"request": str(request_id), "restricted": restricted},
        )
        for restricted, rows in ((True, added), (False, freed))
        for part in _cut(sorted(row[0] for row in rows))
    ]


def restricted(conn: Connection, request_id: UUID) -> set[UUID]:
    """What this request restricts now."""
    rows = conn.execute("SELECT record_id FROM restrictions WHERE request_id = %s", (request_id,))
    return {row[0] for row in rows}


def _cut(ids: Sequence[UUID]) -> Iterable[tuple[UUID, ...]]:
    return (tuple(ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))


# ---------------------------------------------------------------- the clock, and the end


def extend(archive: Archive, request_id: UUID, reason: Extension, now: datetime) -> Request:
    """Two more months, once (art. 12(3)). Raises Refused when it is too late, or the second time."""
    with transaction(archive.connections) as conn:
        found = open_one(conn, request_id)
        if found.extension is not None:
            raise Refused(
                f"refusing to extend request {request_id} again: it was extended for {found.extension} until "
                f"{found.due_on}, and GDPR art. 12(3) allows it once."
            )
        if policy.today(conn, now) > found.due_on:
            raise Refused(
                f"refusing to extend request {request_id}: its month ended {found.due_on}, and the person is told of "
                "an extension within it (GDPR art. 12(3)). Answer it now."
            )
        due_on = Period(months=TERM.months + EXTENSION.months).after(found.received)
        conn.execute(
            "UPDATE requests SET due_on = %s, extended_at = %s, extension = %s WHERE request_id = %s",
            (due_on, now, reason.value, request_id),
        )
        detail = {"request": str(request_id), "due_on": due_on.isoformat(), "reason": reason.value}
        ledger.append(conn, [Event("poa", now, archive.agent, (request_id,), detail=detail)], now)
        return one(conn, request_id)


def close(archive: Archive, request_id: UUID, now: datetime) -> Request:
    """The person was told. Closing it again changes nothing. Raises Refused while something is still to be done."""
    with transaction(archive.connections) as conn:
        found = one(conn, request_id, lock=True)
        if found.answered_at is not None:
            return found
        if waiting := found.counts.get(Given.CHECK, 0):
            raise Refused(
                f"refusing to close request {request_id}: {waiting} hits are to be checked by a person. "
                "`muniment request check` says of each whether it is about the subject."
            )
        unfinished = sum(found.counts.get(given, 0) for given in (Given.PROPOSED, Given.WAITING, Given.ERASING))
        if unfinished:
            raise Refused(
                f"refusing to close request {request_id}: {unfinished} records are to be erased and are not yet. Have "
                "their plan decided and executed, run the request again, or extend it."
            )
        conn.execute("UPDATE requests SET answered_at = %s WHERE request_id = %s", (now, request_id))
        detail: dict[str, Any] = {"request": str(request_id), "answered": dict(found.counts)}
        ledger.append(conn, [Event("poa", now, archive.agent, (request_id,), detail=detail)], now)
        return one(conn, request_id)


def lift(archive: Archive, request_id: UUID, now: datetime) -> tuple[Request, int]:
    """End the restriction that a request asked for, of which the person was told, and how many records it had.

    Lifting it again changes nothing. Raises NotFound, Refused for a request of another kind."""
    with transaction(archive.connections) as conn:
        holds.exclusive(conn)
        found = one(conn, request_id, lock=True)
        if found.kind is not Kind.RESTRICT:
            raise Refused(
                f"refusing to lift request {request_id}: it asks to {found.kind}. What it restricts ends when the "
                "hold does; run the request again then."
            )
        if found.lifted_at is not None:
            return found, 0
        freed = len(restricted(conn, request_id))
        events = restrict(conn, archive, request_id, (), now)
        conn.execute(
            "UPDATE requests SET lifted_at = %(now)s, answered_at = coalesce(answered_at, %(now)s) "
            "WHERE request_id = %(id)s",
            {"now": now, "id": request_id},
        )
        detail = {"request": str(request_id), "lifted": freed}
        ledger.append(conn, [Event("poa", now, archive.agent, (request_id,), detail=detail), *events], now)
        return one(conn, request_id), freed
