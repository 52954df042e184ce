"""Aggregations: the case file of a patient, a contract, an employee, under a pseudonym.

Rules of this module:
- Outside it is `kind:business-id` (patient:123); inside it is the keyed pseudonym of that name, so that it is found
  without an index and nobody else can compute it. Control tables and events hold the pseudonym and the kind only.
- It has a key of its own and a sealed line that holds its business id. One that lost its key with its last record
  gets a new key and line when another record of it arrives.
- Nothing makes an aggregation by accident: a name that is not known is a mistake unless the caller says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from retention import descriptors
from retention.archive import Archive, store_keys
from retention.database import Connection
from retention.errors import NotFound, UsageError
from retention.ledger import Event
from retention.model import Description
from retention.seal import RecordKey, Safe, new_record_key

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, order=True)
class Aggregation:
    """An aggregation as people name it."""

    kind: str
    business_id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.business_id}"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Aggregations with the keys and lines that the vault has; rows are written later."""

    found: Mapping[UUID, Aggregation] = field(default_factory=dict)
    keys: Mapping[UUID, RecordKey] = field(default_factory=dict)
    objects: Sequence[descriptors.Descriptor] = ()
    lines: Sequence[descriptors.Line] = ()


def parse(text: str) -> Aggregation:
    """`kind:business-id`. Raises UsageError."""
    kind, colon, business_id = text.partition(":")
    if not colon or not _KIND.fullmatch(kind) or not business_id.strip():
        raise UsageError(
            f"expected a record id, an aggregation id or kind:business-id such as patient:123, found {text!r}."
        )
    return Aggregation(kind, business_id.strip())


def identity(safe: Safe, aggregation: Aggregation) -> UUID:
    return safe.pseudonym("aggregation", str(aggregation))


def subject(safe: Safe, text: str) -> UUID:
    """The id of a subject as a person typed it: an id, or the pseudonym of a name. Raises UsageError."""
    try:
        return UUID(text)
    except ValueError:
        return identity(safe, parse(text))


def missing(conn: Connection, subjects: Iterable[UUID]) -> set[UUID]:
    """Which of the ids are neither a record nor an aggregation that can still be described."""
    asked = set(subjects)
    known = conn.execute(
        "SELECT record_id FROM records WHERE record_id = ANY(%(ids)s) UNION ALL "
        "SELECT aggregation_id FROM aggregations JOIN subject_keys ON subject_id = aggregation_id "
        "WHERE aggregation_id = ANY(%(ids)s)",
        {"ids": list(asked)},
    )
    return asked - {row[0] for row in known}


def refuse_missing(conn: Connection, subjects: Iterable[UUID]) -> None:
    """Raises NotFound for the first subject that is not there."""
    if absent := sorted(missing(conn, subjects)):
        raise NotFound(
            f"no record or aggregation {absent[0]}. `muniment find WORDS` looks for a record by its text; "
            "--create makes an aggregation that no record is in yet. Nothing was changed."
        )


# ---------------------------------------------------------------- to make one


def seal(archive: Archive, conn: Connection, wanted: Iterable[Aggregation], now: datetime) -> Sealed:
    """Key and sealed line of each aggregation that has none; the lines are in the vault, the rows are not written."""
    named = {identity(archive.safe, one): one for one in sorted(set(wanted))}
    found = {one: named[one] for one in sorted(missing(conn, named))} if named else {}
    keys = {one: new_record_key() for one in found}
    sealed = ((one, 1, keys[one].seal(descriptors.encode("aggregation", _description(a)))) for one, a in found.items())
    objects, lines = descriptors.store(archive, sealed, now)
    return Sealed(found, keys, objects, lines)


def insert(conn: Connection, archive: Archive, sealed: Sealed, now: datetime) -> list[Event]:
    """The rows; the events are for the caller to append. What another process made meanwhile is left as it is."""
    if not sealed.found:
        return []
    order = sorted(sealed.found)  # one order everywhere, so that two writers wait and never deadlock
    conn.execute(
        "INSERT INTO aggregations (aggregation_id, recorded_at, kind) "
        "SELECT u.id, %s, u.kind FROM unnest(%s::uuid[], %s::text[]) AS u (id, kind) ON CONFLICT DO NOTHING",
        (now, order, [sealed.found[one].kind for one in order]),
    )
    conn.execute("SELECT FROM aggregations WHERE aggregation_id = ANY(%s) ORDER BY aggregation_id FOR UPDATE", (order,))
    new = missing(conn, order)
    store_keys(
        conn, archive.safe, {one: (sealed.keys[one], f"aggregation-{sealed.found[one].kind}") for one in new}, now
    )
    lines = [line for line in sealed.lines if line.subject_id in new]
    descriptors.insert(conn, sealed.objects, lines, now)
    descriptors.describe(conn, ((one, 1, "aggregation", _description(sealed.found[one])) for one in sorted(new)))
    return [
        Event(
            "cre",
            now,
            archive.agent,
            (line.subject_id,),
            detail={
                "aggregation": sealed.found[line.subject_id].kind,
                "descriptor": str(line.descriptor_id),
                "descriptor_sha256": line.sha256.hex(),
            },
        )
        for line in lines
    ]


def ensure(conn: Connection, archive: Archive, wanted: Iterable[Aggregation], now: datetime) -> list[Event]:
    """Make what is missing, in one transaction."""
    return insert(conn, archive, seal(archive, conn, wanted, now), now)


class Emptied(Exception):
    """An aggregation lost its key with its last record after it was looked up: look it up, and seal it, anew."""


def joined(conn: Connection, ids: Iterable[UUID]) -> set[UUID]:
    """Which of the aggregations that records are about to join were ever suspended: such records are special.

    Until this transaction ends nobody suspends one, or destroys its key. Raises Emptied for one without a key."""
    asked = list(ids)
    if not asked:
        return set()
    conn.execute("SELECT FROM aggregations WHERE aggregation_id = ANY(%s) ORDER BY aggregation_id FOR SHARE", (asked,))
    if missing(conn, asked):
        raise Emptied
    return {row[0] for row in conn.execute("SELECT subject_id FROM suspensions WHERE subject_id = ANY(%s)", (asked,))}


def _description(aggregation: Aggregation) -> Description:
    return Description(name=aggregation.business_id, source="", place=aggregation.kind)


# ---------------------------------------------------------------- to look at


@dataclass(frozen=True, slots=True)
class Listed:
    """One aggregation; `business_id` is None while descriptions are being rebuilt, and once its key is gone."""

    aggregation_id: UUID
    kind: str
    business_id: str | None
    records: int
    recorded_at: datetime


def listed(conn: Connection, kind: str | None = None, limit: int = 1000) -> list[Listed]:
    """Aggregations with the number of their kept records, by kind and business id."""
    rows = conn.execute(
        """SELECT a.aggregation_id, a.kind, d.name,
                  (SELECT count(*) FROM records r WHERE r.aggregation_id = a.aggregation_id AND r.state = 1),
                  a.recorded_at
             FROM aggregations a LEFT JOIN descriptions d ON d.subject_id = a.aggregation_id
            WHERE %(kind)s::text IS NULL OR a.kind = %(kind)s
            ORDER BY a.kind, d.name, a.aggregation_id LIMIT %(limit)s""",
        {"kind": kind, "limit": limit},
    )
    return [Listed(*row) for row in rows]


def names(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """`kind:business-id` of aggregations, while they are described."""
    rows = conn.execute(
        "SELECT subject_id, place, name FROM descriptions WHERE kind = 'aggregation' AND subject_id = ANY(%s)",
        (list(ids),),
    )
    return {row[0]: f"{row[1]}:{row[2]}" for row in rows}
