"""Requests of persons as they stand: what was asked, by when it is to be answered, and that it was.

Rules of this module (GDPR art. 12, 15-19):
- It alone writes the table requests; what is said of each record is in retention.requests.answers.
- Art. 12(3): an answer is due one calendar month after receipt, on the same day of the next month or on its last day.
  It can be extended once, before it is due, by two more months, for complexity or number, and the person is told.
- The same request of the same person is one request until it is answered.
- Who asked, in which words, is the request's sealed line; control tables and events have pseudonyms and codes.
- Closing says that the person was told. Nothing is closed while a hit waits for somebody to check it, or while
  what is to be erased is not erased yet.
- Before a restriction is lifted the person is told (art. 18(3)).
"""

from __future__ import annotations

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
from retention.requests import answers
from retention.requests.answers import Given
from retention.requests.subjects import Finds, Subject, identity
from retention.rules import Period
from retention.seal import new_record_key

TERM = Period(months=1)
EXTENSION = Period(months=2)
SCOPE = "requests"  # their keys' scope in the key safe


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
    ground = asked.ground.value if asked.ground is not None and kind is Kind.RESTRICT else None
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
                *(request_id, kind.value, asked.subject.finds.value, subject_id, ground, received, now),
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
            **({"ground": ground} if ground else {}),
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


def said(archive: Archive, conn: Connection, request_id: UUID) -> tuple[Subject, str]:
    """Whom it is about and who asked, from the sealed line. Raises NotFound, Damaged."""
    line = descriptors.read_line(archive, conn, request_id)
    return Subject(line.name, Finds(line.metadata["finds"])), str(line.metadata["by"])


# ---------------------------------------------------------------- the clock, and the end


def extend(archive: Archive, request_id: UUID, reason: Extension, now: datetime) -> Request:
    """Two more months, once (art. 12(3)); the same again changes nothing.

    Raises Refused when it is too late, or was extended for another reason."""
    with transaction(archive.connections) as conn:
        found = open_one(conn, request_id)
        if found.extension is reason:
            return found
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
                f"refusing to close request {request_id}: {unfinished} records are not done yet. Have their plan "
                "decided and executed, or the package written; then run the request again, or extend it."
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
        freed = len(answers.restricted(conn, request_id))
        events = answers.restrict(conn, archive, request_id, (), now)
        conn.execute(
            "UPDATE requests SET lifted_at = %(now)s, answered_at = coalesce(answered_at, %(now)s) "
            "WHERE request_id = %(id)s",
            {"now": now, "id": request_id},
        )
        detail = {"request": str(request_id), "lifted": freed}
        ledger.append(conn, [Event("poa", now, archive.agent, (request_id,), detail=detail), *events], now)
        return one(conn, request_id), freed
