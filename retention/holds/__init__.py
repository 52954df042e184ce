"""Holds: what must not be destroyed whatever its schedule says, for as long as a matter lasts.

Rules of this module:
- A hold is in force when its row commits. The vault's flag follows from a queue (retention.holds.flags). (Where a
  second vault is configured, the hold's event is written through to it before `place` returns: the seam is the
  end of `place`.)
- Invariant 5, whatever the order of hold, plan and approval: who captures records or marks them as destroying
  takes `shared` as the first statement of the transaction, who changes holds takes `exclusive`. So a hold sees
  every record that is committed, and a later transaction sees the hold. What was `destroying` before is told as
  too late, and is no member.
- A member's whole family is held: its parents, and their children, at any depth.
- Members are counted by hold: a record is frozen until each of its holds is released.
- A static hold has what matched when it was placed, a dynamic one also what arrives or changes later (`arrived`).
  Placing the same hold again adds what matches now, and never takes anything away. Nor does reading what could not
  be read: what a hold had in quarantine stays with it as the record that it becomes.
- Matter, authority and scope are what a person wrote: a sealed line under a key of its own. Events have ids,
  numbers and a digest of the members.
- The release of a hold needs two people. They sign which members it has: by number and digest where it is static,
  and who finds more in it by then frees nothing. A dynamic hold grows while they sign, and is released because its
  matter has ended: the statement says that what came under it meanwhile goes free too, and the event how much that
  was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from retention import approvals, descriptors, ledger
from retention.approvals import Kind, Proposal
from retention.archive import Archive, store_keys
from retention.database import Connection, transaction
from retention.errors import Refused, UsageError
from retention.history.publishing import write_through
from retention.holds import flags, register
from retention.holds.register import Mode
from retention.holds.scopes import (
    Predicate,
    Scope,
    check,
    from_json,
    predicate,
    quarantined,
    refuse_unknown,
    resolve,
    to_json,
)
from retention.ledger import Event
from retention.model import Description
from retention.seal import new_record_key

SCOPE = "holds"  # their keys' scope in the key safe
_LOCK = 0x686F6C64  # an advisory lock of our own: "hold"
_AT_ONCE = 1000  # ids in an event, which holds 65,535 bytes


@dataclass(frozen=True, slots=True)
class Matter:
    """Why something is held, in words of the officer; `review_on` is the day to ask whether it still must be."""

    name: str
    authority: str
    review_on: date


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold as it stands; `new` is false when the same hold was in force before."""

    hold_id: UUID
    members: int
    bytes: int
    added: int
    quarantined: int
    unsearchable: int  # taken in now because their words or author cannot be known
    too_late: tuple[UUID, ...]  # in scope, and being destroyed
    new: bool


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one evaluation of a scope took in; `ids` only where it looked at given records."""

    added: int
    unsearchable: int
    too_late: tuple[UUID, ...]
    ids: tuple[UUID, ...]


# ---------------------------------------------------------------- who waits for whom


def shared(conn: Connection) -> None:
    """First in a transaction that adds records or marks them as destroying: no hold comes between."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))


def exclusive(conn: Connection) -> None:
    """First in a transaction that changes holds. Later statements see all that committed before."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


# ---------------------------------------------------------------- place


def place(archive: Archive, scope: Scope, mode: Mode, matter: Matter, now: datetime) -> Placed:
    """Hold what is in scope. Running it again finds the same hold and adds only what matches since.

    Where second vaults have joined, it is acknowledged when its event is there: else it is in force, and the error of
    the vault says that it would be lost with this archive.

    Raises UsageError for a scope or a matter that says nothing, NotFound for a name that nothing has."""
    check(scope)
    _check_matter(matter, now)
    described = _description(scope, mode, matter)
    with transaction(archive.connections) as conn:  # before a line of it is in the vault, and again below
        refuse_unknown(conn, scope, resolve(conn, archive.safe, scope), dynamic=mode is Mode.DYNAMIC)
    hold_id, known = _identity(archive, described)
    key = new_record_key()
    sealed = [] if known else [(hold_id, 1, key.seal(descriptors.encode("hold", described)))]
    objects, lines = descriptors.store(archive, sealed, now)
    with transaction(archive.connections) as conn:
        exclusive(conn)
        named = resolve(conn, archive.safe, scope)
        refuse_unknown(conn, scope, named, dynamic=mode is Mode.DYNAMIC)
        new = _insert(conn, archive, hold_id, mode, matter, now)
        if new:
            store_keys(conn, archive.safe, {hold_id: (key, SCOPE)}, now)
            descriptors.insert(conn, objects, lines, now)
            descriptors.describe(conn, [(hold_id, 1, "hold", described)])
        taken = _take_in(conn, hold_id, predicate(scope, named), now)
        apart = _take_in_quarantined(conn, hold_id, quarantined(scope, named), now)
        flags.want(conn, None, hold_id, now)
        members, size, digest = _standing(conn, hold_id)
        if new or taken.added or apart:
            detail = {
                "hold": str(hold_id),
                "mode": mode.value,
                "review_on": matter.review_on.isoformat(),
                "members": members,
                "members_sha256": digest.hex(),
                "added": taken.added,
                "quarantined": len(apart),
                "too_late": len(taken.too_late),
            }
            if lines:
                detail |= {"descriptor": str(lines[0].descriptor_id), "descriptor_sha256": lines[0].sha256.hex()}
            event = Event("poa", now, archive.agent, (hold_id,), detail=detail)
            held = _held(conn, archive, hold_id, apart, now)
            ledger.append(conn, [event, *held, *_too_late(archive, hold_id, taken.too_late, now)], now)
    otherwise = f"Hold {hold_id} is in force here; its event is in no second vault yet. Place it again when it is back."
    write_through(archive, [hold_id], now, otherwise)
    return Placed(hold_id, members, size, taken.added, len(apart), taken.unsearchable, taken.too_late, new)


def _check_matter(matter: Matter, now: datetime) -> None:
    for option, value in (("matter", matter.name), ("authority", matter.authority)):
        if not value.strip():
            raise UsageError(f"--{option}: expected words that say it, found none.")
    if matter.review_on <= now.date():
        raise UsageError(
            f"--review {matter.review_on}: expected a day ahead, on which somebody asks if it still holds."
        )


def _description(scope: Scope, mode: Mode, matter: Matter) -> Description:
    said = {"authority": matter.authority, "mode": mode.value, "scope": to_json(scope)}
    return Description(name=matter.name, source="", place="", title=matter.name, metadata=said)


def _identity(archive: Archive, described: Description) -> tuple[UUID, bool]:
    """The id of the hold that says exactly this and is not released, and whether it is there.

    A keyed HMAC of what it says, so that a command which is run again finds what it did."""
    said = json.dumps([described.name, dict(described.metadata)], sort_keys=True)
    generation = 0
    with transaction(archive.connections) as conn:
        while True:
            hold_id = archive.safe.pseudonym("hold", f"{generation}:{said}")
            row = conn.execute("SELECT released_at FROM holds WHERE hold_id = %s", (hold_id,)).fetchone()
            if row is None or row[0] is None:
                return hold_id, row is not None
            generation += 1


def _insert(conn: Connection, archive: Archive, hold_id: UUID, mode: Mode, matter: Matter, now: datetime) -> bool:
    """Whether it is new. Raises Refused if somebody releases it at this moment."""
    by = archive.agent.on_behalf_of or archive.agent.id
    new = conn.execute(
        "INSERT INTO holds (hold_id, recorded_at, recorded_by, mode, review_on) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (hold_id) DO NOTHING RETURNING 1",
        (hold_id, now, by, mode.value, matter.review_on),
    ).fetchone()
    if (
        new is None
        and conn.execute("SELECT FROM holds WHERE hold_id = %s AND released_at IS NULL", (hold_id,)).fetchone() is None
    ):
        raise Refused(f"refusing to place hold {hold_id}: it was released at this moment. Place it again as a new one.")
    return new is not None


_TAKE_IN: LiteralString = """
    WITH RECURSIVE hit AS MATERIALIZED (
        SELECT r.record_id, r.parent_id, ({found}) AS found FROM records r
         WHERE (r.state < 3 OR r.record_id = ANY(%(records)s)) AND {only} AND {where}),
    up AS (SELECT record_id, parent_id FROM hit
            UNION SELECT p.record_id, p.parent_id FROM up JOIN records p ON p.record_id = up.parent_id),
    family AS (SELECT record_id FROM up WHERE parent_id IS NULL
                UNION SELECT c.record_id FROM family f JOIN records c ON c.parent_id = f.record_id),
    member AS MATERIALIZED (SELECT r.record_id, r.state FROM family JOIN records r USING (record_id)),
    added AS (INSERT INTO hold_members (record_id, hold_id, recorded_at)
              SELECT m.record_id, %(hold)s, %(now)s FROM member m WHERE m.state = 1 ORDER BY 1
                  ON CONFLICT DO NOTHING RETURNING record_id)
    SELECT (SELECT count(*) FROM added),
           (SELECT count(*) FROM hit WHERE NOT found),
           (SELECT array_agg(record_id ORDER BY record_id) FROM member
             WHERE state = 2 OR (state > 2 AND record_id = ANY(%(records)s))),
           (SELECT array_agg(record_id ORDER BY record_id) FROM added WHERE %(only)s::uuid[] IS NOT NULL)"""


def _take_in(
    conn: Connection, hold_id: UUID, scope: Predicate, now: datetime, only: Sequence[UUID] | None = None
) -> _Taken:
    """Make members of the families of what is in scope, of these records or of all, in one statement."""
    query = sql.SQL(_TAKE_IN).format(
        where=scope.where,
        found=scope.found,
        only=sql.SQL("true" if only is None else "r.record_id = ANY(%(only)s)"),
    )
    params = {**scope.params, "hold": hold_id, "now": now, "only": None if only is None else list(only)}
    row = conn.execute(query, params).fetchone()
    assert row is not None
    return _Taken(row[0], row[1], tuple(row[2] or ()), tuple(row[3] or ()))


def _take_in_quarantined(
    conn: Connection, hold_id: UUID, scope: Predicate, now: datetime, only: Sequence[UUID] | None = None
) -> list[UUID]:
    # the day of receipt is a civil date, which is a day later than that of UTC at most
    query = sql.SQL(
        """INSERT INTO hold_quarantined (quarantine_id, hold_id, recorded_at)
           SELECT r.record_id, %(hold)s, %(now)s
             FROM (SELECT quarantine_id AS record_id, run_id, (recorded_at AT TIME ZONE 'UTC')::date + 1 AS received
                     FROM quarantine WHERE state <> 'released' AND key_destroyed_at IS NULL) r
            WHERE {only} AND {where}
            ORDER BY 1 ON CONFLICT DO NOTHING RETURNING quarantine_id"""
    ).format(where=scope.where, only=sql.SQL("true" if only is None else "r.record_id = ANY(%(only)s)"))
    params = {**scope.params, "hold": hold_id, "now": now, "only": None if only is None else list(only)}
    return [row[0] for row in conn.execute(query, params)]


def _standing(conn: Connection, hold_id: UUID) -> tuple[int, int, bytes]:
    """How many members, their bytes, and the SHA-256 of their ids (16 bytes each) in order."""
    row = conn.execute(
        """SELECT count(*), coalesce(sum(r.bytes), 0)::bigint,
                  sha256(coalesce(string_agg(uuid_send(m.record_id), ''::bytea ORDER BY m.record_id), ''))
             FROM hold_members m JOIN records r USING (record_id) WHERE m.hold_id = %s""",
        (hold_id,),
    ).fetchone()
    assert row is not None
    return row[0], row[1], bytes(row[2])


def _held(conn: Connection, archive: Archive, hold_id: UUID, apart: Sequence[UUID], now: datetime) -> Iterator[Event]:
    """Who came under the hold now, a part at a time: each has it in its own history."""
    query = "SELECT record_id FROM hold_members WHERE hold_id = %s AND recorded_at = %s ORDER BY 1"
    held = [*(row[0] for row in conn.execute(query, (hold_id, now))), *apart]
    for start in range(0, len(held), _AT_ONCE):
        part = held[start : start + _AT_ONCE]
        detail = {"hold": str(hold_id), "held": len(part)}
        yield Event("poa", now, archive.agent, (hold_id, *part), detail=detail)


def _too_late(archive: Archive, hold_id: UUID, records: Sequence[UUID], now: datetime) -> Iterator[Event]:
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        detail = {"hold": str(hold_id), "too_late": len(part)}
        yield Event("poa", now, archive.agent, (hold_id, *part), "failure", detail)


# ---------------------------------------------------------------- what arrives later

_SCOPES: dict[UUID, Scope] = {}  # a sealed line never changes


def arrived(
    conn: Connection, archive: Archive, subjects: Sequence[UUID], now: datetime, releasing: UUID | None = None
) -> list[Event]:
    """Hold what dynamic holds say of these records or quarantined documents; the events are for the caller to append.

    For the transaction that captures them, or changes description, class, labels or aggregation of them, after
    it wrote all of that; it took `shared` first. `releasing` is the quarantined document that became them: they are
    members of the holds that had it. Costs one query where no hold is dynamic."""
    events = [] if releasing is None else list(_follow(conn, archive, releasing, subjects, now))
    query = "SELECT hold_id FROM holds WHERE mode = 'dynamic' AND released_at IS NULL"
    for (hold_id,) in conn.execute(query).fetchall():
        scope = _scope(archive, conn, hold_id)
        named = resolve(conn, archive.safe, scope)
        taken = _take_in(conn, hold_id, predicate(scope, named), now, subjects)
        apart = _take_in_quarantined(conn, hold_id, quarantined(scope, named), now, subjects)
        events += _joined(conn, archive, hold_id, [*taken.ids, *apart], now)
    return events


def _follow(
    conn: Connection, archive: Archive, document: UUID, records: Sequence[UUID], now: datetime
) -> Iterator[Event]:
    """Every hold on a document in quarantine becomes one on these records; its bytes there are a copy from now on."""
    rows = conn.execute(
        """WITH had AS (DELETE FROM hold_quarantined WHERE quarantine_id = %(document)s RETURNING hold_id, recorded_at),
                ended AS (INSERT INTO hold_members_released (record_id, hold_id, recorded_at, released_at)
                          SELECT %(document)s, hold_id, recorded_at, %(now)s FROM had)
           INSERT INTO hold_members (record_id, hold_id, recorded_at)
           SELECT record_id, hold_id, %(now)s FROM had CROSS JOIN records WHERE record_id = ANY(%(records)s)
        RETURNING hold_id, record_id""",
        {"document": document, "records": list(records), "now": now},
    ).fetchall()
    for hold_id in sorted({row[0] for row in rows}):
        flags.want(conn, [document], hold_id, now)
        yield from _joined(conn, archive, hold_id, sorted(row[1] for row in rows if row[0] == hold_id), now)


def _joined(conn: Connection, archive: Archive, hold_id: UUID, held: Sequence[UUID], now: datetime) -> Iterator[Event]:
    """What follows from new members: their flags, and the events that say so."""
    if held:
        flags.want(conn, held, hold_id, now)
    for start in range(0, len(held), _AT_ONCE):
        part = held[start : start + _AT_ONCE]
        detail = {"hold": str(hold_id), "arrived": len(part)}
        yield Event("poa", now, archive.agent, (hold_id, *part), detail=detail)


def _scope(archive: Archive, conn: Connection, hold_id: UUID) -> Scope:
    if hold_id not in _SCOPES:
        _SCOPES[hold_id] = from_json(descriptors.read_line(archive, conn, hold_id).metadata["scope"])
    return _SCOPES[hold_id]


# ---------------------------------------------------------------- release


def propose_release(archive: Archive, hold_id: UUID, now: datetime) -> Proposal:
    """The proposal that two people sign to release a hold; the open one, if it still says what the hold has.

    Raises NotFound, Refused for a hold that was released."""
    with transaction(archive.connections) as conn:
        exclusive(conn)
        found = register.one(conn, hold_id)
        register.refuse_if_released(found, "release")
        payload = json.dumps(_asked(conn, found))
        events = []
        for proposal in approvals.listed(conn):
            if proposal.kind is not Kind.HOLD_RELEASE or proposal.content["hold"] != str(hold_id):
                continue
            if proposal.payload == payload and proposal.expires_at > now:
                return proposal
            events.append(approvals.end(conn, archive, proposal.id, "withdrawn", now))  # the new one is in its place
        proposal, event = approvals.propose(conn, archive, Kind.HOLD_RELEASE, _lines(conn, found), payload, now)
        ledger.append(conn, [*events, replace(event, subjects=(*event.subjects, hold_id))], now)
    return proposal


def _asked(conn: Connection, hold: register.Hold) -> dict[str, str | int]:
    """What is asked for: of a static hold no more than it has now."""
    if hold.mode is Mode.DYNAMIC:
        return {"hold": str(hold.hold_id)}
    digest = _standing(conn, hold.hold_id)[2].hex()
    return {"hold": str(hold.hold_id), "members_sha256": digest, "quarantined": hold.quarantined}


def _lines(conn: Connection, hold: register.Hold) -> list[str]:
    members, size, digest = _standing(conn, hold.hold_id)
    has = f"{members} records, {size} bytes, SHA-256 of their ids {digest.hex()}"
    has += f", and {hold.quarantined} documents in quarantine" if hold.quarantined else ""
    lines = [f"release   hold {hold.hold_id}, in force since {hold.placed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"]
    if hold.mode is Mode.STATIC:
        return [*lines, f"frees     {has}", "but       not what another hold has"]
    grows = "all that it has when the last of you signs: it is dynamic, and takes in what arrives until then"
    return [*lines, f"frees     {grows}", "but       not what another hold has", f"has now   {has}"]


def take_effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> Sequence[Event]:
    """What an approved proposal of kind `hold-release` does (retention.approvals.Effect). Raises Refused if the hold
    was released before, or if it is static and has other members than those that were signed."""
    hold_id = UUID(proposal.content["hold"])
    exclusive(conn)
    found = register.one(conn, hold_id)
    register.refuse_if_released(found, "release")
    if _asked(conn, found) != proposal.content:
        added = register.freed(conn, found.hold_id, proposal.proposed_at).since
        raise Refused(
            f"refusing to release hold {hold_id}: it has other members than those that were signed; {added} records "
            f"came under it since. Propose it anew: `muniment hold release {hold_id}`."
        )
    by = archive.agent.on_behalf_of or archive.agent.id
    conn.execute("UPDATE holds SET released_at = %s, released_by = %s WHERE hold_id = %s", (now, by, hold_id))
    conn.execute(
        """WITH record AS (DELETE FROM hold_members WHERE hold_id = %(hold)s RETURNING record_id, recorded_at),
                document AS (DELETE FROM hold_quarantined WHERE hold_id = %(hold)s
                             RETURNING quarantine_id, recorded_at)
           INSERT INTO hold_members_released (record_id, hold_id, recorded_at, released_at)
           SELECT ended.*, %(now)s FROM (
                  SELECT record_id, %(hold)s::uuid, recorded_at FROM record
                   UNION ALL SELECT quarantine_id, %(hold)s, recorded_at FROM document) ended""",
        {"hold": hold_id, "now": now},
    )
    flags.want(conn, None, hold_id, now)
    freed = register.freed(conn, hold_id, proposal.proposed_at)
    detail = {
        "hold": str(hold_id),
        "proposal": str(proposal.id),
        "released": freed.records,
        "still_held": freed.still_held,
        "since_proposed": freed.since,
        "quarantined": found.quarantined,
    }
    return [Event("poa", now, archive.agent, (hold_id,), detail=detail)]


def review(archive: Archive, hold_id: UUID, review_on: date, now: datetime) -> None:
    """That a hold is still needed: the day on which to ask again. Raises NotFound, Refused for a released one."""
    if review_on <= now.date():
        raise UsageError(f"review on {review_on}: expected a day ahead, found one that has come.")
    with transaction(archive.connections) as conn:
        exclusive(conn)
        found = register.one(conn, hold_id)
        register.refuse_if_released(found, "review")
        if found.review_on == review_on:
            return
        conn.execute("UPDATE holds SET review_on = %s WHERE hold_id = %s", (review_on, hold_id))
        detail = {"hold": str(hold_id), "review_on": review_on.isoformat(), "was": found.review_on.isoformat()}
        ledger.append(conn, [Event("poa", now, archive.agent, (hold_id,), detail=detail)], now)
