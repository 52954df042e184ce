"""The register of holds, as people ask it: which there are, what one says and has.

Rules of this module:
- Reading only. Numbers come from control tables; the matter of many holds from the description table, while it is
  there; what one hold says from its own sealed line.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from retention import catalog, descriptors
from retention.archive import Archive, names
from retention.database import Connection
from retention.errors import NotFound, Refused


class Mode(StrEnum):
    """Whether a hold also takes what arrives later."""

    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold as it stands. `matter` is None while descriptions are being rebuilt."""

    hold_id: UUID
    mode: Mode
    placed_at: datetime
    placed_by: UUID
    review_on: date
    released_at: datetime | None
    members: int  # once it is released: those it had
    bytes: int
    quarantined: int
    matter: str | None


def listed(conn: Connection, hold_id: UUID | None = None, *, released: bool = False) -> list[Hold]:
    """Holds in force, the review that comes first at the top; or all, or one."""
    rows = conn.execute(
        """SELECT h.hold_id, h.mode, h.recorded_at, h.recorded_by, h.review_on, h.released_at,
                  coalesce(m.members, 0), coalesce(m.bytes, 0)::bigint,
                  (SELECT count(*) FROM hold_quarantined q WHERE q.hold_id = h.hold_id), d.title
             FROM holds h
             LEFT JOIN descriptions d ON d.subject_id = h.hold_id
             LEFT JOIN (SELECT x.hold_id, count(*) AS members, sum(r.bytes) AS bytes
                          FROM (SELECT hold_id, record_id FROM hold_members
                                 UNION ALL SELECT hold_id, record_id FROM hold_members_released) x
                          JOIN records r USING (record_id)
                         WHERE %(hold)s::uuid IS NULL OR x.hold_id = %(hold)s
                         GROUP BY x.hold_id) m USING (hold_id)
            WHERE (%(hold)s::uuid IS NULL OR h.hold_id = %(hold)s)
              AND (%(released)s OR h.released_at IS NULL)
            ORDER BY h.released_at IS NOT NULL, h.review_on, h.hold_id""",
        {"hold": hold_id, "released": released or hold_id is not None},
    )
    return [Hold(row[0], Mode(row[1]), *row[2:]) for row in rows]


def one(conn: Connection, hold_id: UUID) -> Hold:
    found = listed(conn, hold_id)
    if not found:
        raise NotFound(f"no hold {hold_id}. `muniment hold list` shows them.")
    return found[0]


@dataclass(frozen=True, slots=True)
class Freed:
    """What a release frees, or freed: the records of a hold, in force or released."""

    records: int
    still_held: int  # of them, by other holds
    since: int  # of them, members only since the release was proposed


def freed(conn: Connection, hold_id: UUID, proposed_at: datetime) -> Freed:
    """What the release of a hold that was proposed then frees now, or freed."""
    row = conn.execute(
        """SELECT count(*), count(*) FILTER (WHERE EXISTS (SELECT FROM hold_members o
                                    WHERE o.record_id = m.record_id AND o.hold_id <> %(hold)s)),
                  count(*) FILTER (WHERE m.recorded_at > %(proposed)s)
             FROM (SELECT record_id, recorded_at FROM hold_members WHERE hold_id = %(hold)s
                    UNION ALL
                   SELECT record_id, recorded_at FROM hold_members_released WHERE hold_id = %(hold)s) m
             JOIN records USING (record_id)""",
        {"hold": hold_id, "proposed": proposed_at},
    ).fetchone()
    assert row is not None
    return Freed(*row)


def lock(conn: Connection, hold_id: UUID) -> None:
    """Nobody else records anything of this hold until the transaction ends."""
    conn.execute("SELECT 1 FROM holds WHERE hold_id = %s FOR UPDATE", (hold_id,))


def refuse_if_released(found: Hold, doing: str) -> None:
    if found.released_at is not None:
        when = f"{found.released_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        raise Refused(f"refusing to {doing} hold {found.hold_id}: it was released {when}.")


def members(conn: Connection, hold_id: UUID) -> list[UUID]:
    """The records that a hold has, in order: 100 bytes each in memory. Raises NotFound."""
    one(conn, hold_id)
    query = "SELECT record_id FROM hold_members WHERE hold_id = %s ORDER BY record_id"
    return [row[0] for row in conn.execute(query, (hold_id,))]


def show(conn: Connection, archive: Archive, hold_id: UUID) -> dict[str, Any]:
    """One hold with its matter, authority and scope, what of its flags the vault has yet, its events. NotFound."""
    found = one(conn, hold_id)
    said = descriptors.read_line(archive, conn, hold_id)
    flags = conn.execute(
        """SELECT count(*) FILTER (WHERE f.wanted IS DISTINCT FROM f.actual), count(f.error)
             FROM hold_members m JOIN hold_flags f ON f.subject_id = m.record_id WHERE m.hold_id = %s""",
        (hold_id,),
    ).fetchone()
    events = catalog.history(conn, archive, hold_id)
    who = names(conn, archive.safe, [found.placed_by])
    assert flags is not None
    return {
        "hold_id": str(hold_id),
        "mode": found.mode.value,
        "matter": said.name,
        "authority": said.metadata["authority"],
        "scope": said.metadata["scope"],
        "placed_at": found.placed_at,
        "placed_by": who.get(found.placed_by, str(found.placed_by)),
        "review_on": found.review_on,
        "released_at": found.released_at,
        "records": found.members,
        "bytes": found.bytes,
        "quarantined": found.quarantined,
        "flags_waiting": flags[0],
        "flags_failed": flags[1],
        "events": events,
    }
