"""Keys of locked content, kept beside it: nobody destroys what the vault must keep by losing a key.

Rules of this module (requirements: storage, *Three levels of keys*):
- A record that a lock keeps, and one with a lock that has ended which a hold keeps, has its key in an object
  `keys/<bucket>/<n>` of the vault, sealed to the root, from the night after its capture on. <bucket> is the one that
  wrapped the key then; <n> how many events there were, so that none is used twice.
- Documents in quarantine have no class, and no policy locks them: their keys are in none.
- What is in it are the records' own keys. The bucket's would open, in every old copy of the catalog and for as long as
  the object is locked, what was destroyed since.
- An object has keys whose locks end on one day (UTC), and is locked until the last of them: no key is kept for the sake
  of a record that is locked longer. A record whose lock grows gets a newer object.
- A record is destroyed only when every object with its key is erased: before T1 none of them may be locked, and T2
  waits for their end. Whoever else needs such an object has a newer one first.
- The legal hold is on an object while a hold has one of its records.
- Crash order: the row with its event, then the object, then lock and hold, read back. So nothing stands there that has
  no row. A row without its object goes, and its keys go into another; erased is an object first, then its row. One run
  at a time; each ends what another began.
- An object that has no row is named, and never erased: the catalog may be behind the vault.
- Second vaults have none of them: recovery points have the rows, and copies of the key safe what opens them, each with
  a term. A copy here would keep a key for as long as a point.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Any, LiteralString
from uuid import UUID

from retention import ledger
from retention.archive import Archive, load_keys
from retention.database import Connection, transaction
from retention.errors import Damaged, MunimentError, NotFound
from retention.ledger import Event
from retention.seal import RecordKey, Safe
from retention.vault.base import Lock, LockMode, covers

FOLDER = "keys"
FORMAT = 1
_MOST = 500  # keys in one object: one event names them all

Clock = Callable[[], datetime]


@dataclass(slots=True)
class Kept:
    """What a run did: objects and keys that were written, objects that were erased; and what is not as it must be,
    key of the object -> what."""

    objects: int = 0
    keys: int = 0
    erased: int = 0
    differ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    subjects: Sequence[UUID]
    sha256: bytes
    mode: str
    until: datetime
    locked_at: datetime | None
    held: bool
    going: bool


# Whose key must stand in an object; of each record that has one, the object that serves longest.
_WITH: LiteralString = """
WITH needed AS (
    SELECT l.subject_id, l.mode, greatest(l.wanted_until, l.actual_until) AS until, h.record_id IS NOT NULL AS held
      FROM object_locks l JOIN records r ON r.record_id = l.subject_id
      LEFT JOIN (SELECT DISTINCT record_id FROM hold_members) AS h ON h.record_id = l.subject_id
     WHERE r.state = 1 AND (greatest(l.wanted_until, l.actual_until) > %(now)s OR h.record_id IS NOT NULL)
), kept AS (
    SELECT s.subject_id, o.object_key, o.until
      FROM key_objects o CROSS JOIN LATERAL unnest(o.subjects) AS s (subject_id)
), serving AS (
    SELECT DISTINCT ON (subject_id) subject_id, object_key FROM kept ORDER BY subject_id, until DESC, object_key
), objects AS (
    SELECT k.object_key, coalesce(bool_or(n.held), false) AS held,
           k.until <= %(now)s AND (bool_or(coalesce(r.state, 3) <> 1)
                                   OR bool_and(n.subject_id IS NULL OR s.object_key <> k.object_key)) AS going
      FROM kept k JOIN serving s USING (subject_id) LEFT JOIN needed n USING (subject_id)
      LEFT JOIN records r ON r.record_id = k.subject_id
     GROUP BY k.object_key, k.until
)
"""
# going: its lock has ended, and nobody needs it, or a record goes whose key is in it.
_OBJECTS: LiteralString = """
SELECT object_key, o.subjects, o.sha256, o.mode, o.until, o.locked_at, held, going
  FROM key_objects o JOIN objects USING (object_key)
 WHERE %(of)s::uuid[] IS NULL OR o.subjects && %(of)s::uuid[] ORDER BY object_key
"""
_UNSERVED: LiteralString = """
SELECT k.bucket_id, n.mode, n.until, n.subject_id FROM needed n JOIN subject_keys k USING (subject_id)
  LEFT JOIN (SELECT subject_id, max(until) AS until FROM kept JOIN objects USING (object_key)
              WHERE NOT going GROUP BY 1) AS c USING (subject_id)
 WHERE c.until IS NULL OR (n.until > %(now)s AND c.until < n.until)
 ORDER BY k.bucket_id, n.mode, (n.until AT TIME ZONE 'UTC')::date, n.subject_id
"""


# Records that a lock keeps and whose key stands in no locked object; since when they are there.
WAITING: LiteralString = """
(SELECT r.record_id, r.recorded_at AS since FROM object_locks l JOIN records r ON r.record_id = l.subject_id
  WHERE r.state = 1 AND greatest(l.wanted_until, l.actual_until) > %(now)s
    AND NOT EXISTS (SELECT FROM key_objects o WHERE o.locked_at IS NOT NULL AND o.subjects @> ARRAY[r.record_id])
) AS beside
"""


def keep(archive: Archive, clock: Clock) -> Kept:
    """Write what is missing, lock and hold what there is, erase what nobody needs. Nightly; again is fine. Raises
    ServiceUnavailable; another run is waited for."""
    done = Kept()
    with _alone(archive):
        there = {stored.key for stored in archive.vault.list(FOLDER)}
        _missing(archive, there, done, clock())
        _serve(archive, done, clock)
        _each(archive, _objects(archive, clock()), done, clock)
    return done


def let_go(archive: Archive, records: Sequence[UUID], clock: Clock) -> dict[UUID, str]:
    """Erase what has the keys of records that are being destroyed; those of which one is left, and why."""
    done = Kept()
    with transaction(archive.connections) as conn:
        asked = (list(records),)
        if conn.execute("SELECT FROM key_objects WHERE subjects && %s::uuid[] LIMIT 1", asked).fetchone() is None:
            return {}
    with _alone(archive):
        _serve(archive, done, clock)
        _each(archive, _objects(archive, clock(), records), done, clock)
        left = _objects(archive, clock(), records)
    return {
        record: done.differ.get(one.key, f"{one.key} has its key, and is locked until {one.until.isoformat()}.")
        for one in left
        for record in one.subjects
        if record in set(records)
    }


def locked(conn: Connection, records: Sequence[UUID], now: datetime) -> set[UUID]:
    """Those of which an object that is locked still has the key."""
    rows = conn.execute(
        "SELECT s FROM key_objects o CROSS JOIN LATERAL unnest(o.subjects) AS s "
        "WHERE o.subjects && %(ids)s::uuid[] AND o.until > %(now)s AND s = ANY(%(ids)s)",
        {"ids": list(records), "now": now},
    )
    return {row[0] for row in rows}


def opened(safe: Safe, key: str, content: bytes) -> dict[UUID, RecordKey]:
    """The records' keys of an object with this content. Raises Damaged."""
    try:
        found: dict[str, Any] = json.loads(safe.open(content, key))
        if found["format"] != FORMAT:
            raise Damaged(f"{key}: expected format {FORMAT}, found {found['format']}. Another version wrote it.")
        return {UUID(subject): RecordKey(base64.b64decode(secret)) for subject, secret in found["keys"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{key}: it opens, and cannot be read ({error}).") from None


# ---------------------------------------------------------------- a run


@contextmanager
def _alone(archive: Archive) -> Iterator[None]:
    with transaction(archive.connections) as guard:
        guard.execute("SELECT pg_advisory_xact_lock(hashtext('key objects'))")
        yield


def _missing(archive: Archive, there: set[str], done: Kept, now: datetime) -> None:
    """Rows whose object is not in the vault go: it was cut off before the put, or the archive was restored elsewhere,
    or somebody erased it."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT object_key, subjects, locked_at FROM key_objects ORDER BY 1").fetchall()
        gone = [row for row in rows if row[0] not in there]
        _forget(conn, archive, [(key, subjects) for key, subjects, _ in gone], now)
    for key, _, locked_at in gone:
        if locked_at is not None:
            done.differ[key] = "it is not in the vault any more. Its keys go into another: look who erased it."
    for key in there - {row[0] for row in rows}:
        done.differ[key] = "no event put it there: is this the catalog of this vault, and whole (`muniment verify`)?"


def _serve(archive: Archive, done: Kept, clock: Clock) -> None:
    """Put the keys of all that need it and are in no object into new ones."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(_WITH + _UNSERVED, {"now": clock()}).fetchall()
    for (bucket_id, mode, _), group in groupby(rows, lambda row: (row[0], row[1], row[2].astimezone(UTC).date())):
        every = [(until, subject) for _, _, until, subject in group]
        for start in range(0, len(every), _MOST):
            try:
                count = _write(archive, bucket_id, mode, every[start : start + _MOST], clock())
            except (NotFound, Damaged) as error:
                done.differ[f"{FOLDER}/{bucket_id}"] = str(error)
                continue
            done.objects, done.keys = done.objects + (count > 0), done.keys + count


def _each(archive: Archive, objects: Iterable[_Object], done: Kept, clock: Clock) -> None:
    """Lock, hold, erase: what is said of one stops no other."""
    for one in objects:
        try:
            if one.going:
                _erase(archive, one, clock())
                done.erased += 1
            elif (said := _secure(archive, one, clock())) is not None:
                done.differ[one.key] = said
        except MunimentError as error:
            done.differ[one.key] = str(error)


def _objects(archive: Archive, now: datetime, of: Sequence[UUID] | None = None) -> list[_Object]:
    with transaction(archive.connections) as conn:
        asked = {"now": now, "of": None if of is None else list(of)}
        return [_Object(*row) for row in conn.execute(_WITH + _OBJECTS, asked)]


# ---------------------------------------------------------------- one object


def _write(archive: Archive, bucket_id: UUID, mode: str, rows: Sequence[tuple[datetime, UUID]], now: datetime) -> int:
    """One object, after its row and its event; how many keys are in it. Its records are destroyed after that, or are
    not in it."""
    with transaction(archive.connections) as conn:
        found = conn.execute(
            "SELECT record_id FROM records WHERE record_id = ANY(%s) AND state = 1 ORDER BY record_id FOR SHARE",
            ([subject for _, subject in rows],),
        )
        keys = load_keys(conn, archive.safe, [row[0] for row in found])
        if not keys:
            return 0
        until, subjects = max(until for until, subject in rows if subject in keys), sorted(keys)
        secrets = {str(one): base64.b64encode(keys[one].secret).decode() for one in subjects}
        told = {"format": FORMAT, "bucket": str(bucket_id), "keys": secrets}
        content = archive.safe.seal(json.dumps(told).encode())
        key, digest = f"{FOLDER}/{bucket_id}/{ledger.head(conn)[0]}", sha256(content).digest()
        conn.execute(
            "INSERT INTO key_objects (object_key, subjects, sha256, mode, until, made_at) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            (key, subjects, digest, mode, until, now),
        )
        detail = {"key_object": key, "sha256": digest.hex(), "mode": mode, "until": until.astimezone(UTC).isoformat()}
        ledger.append(conn, [Event("rep", now, archive.agent, tuple(subjects), detail=detail)], now)
    archive.vault.put(key, content, sha256=digest, size=len(content))
    return len(subjects)


def _secure(archive: Archive, one: _Object, now: datetime) -> str | None:
    """Lock and hold it as it must be, and read that back; what had changed since it was done last. Raises NotFound."""
    vault = archive.vault
    there = vault.stat(one.key)
    asked = Lock(LockMode(one.mode), one.until.replace(microsecond=0))
    short = one.until > now and not covers(there.lock, asked)
    if short:
        there = vault.lock(one.key, there.version, Lock(asked.mode, one.until))
        if not covers(there.lock, asked):
            return "the lock that it was told was not kept."
    if there.hold is not one.held and vault.hold(one.key, there.version, one.held).hold is not one.held:
        return "the legal hold that it was told was not kept."
    if one.locked_at is None:
        with transaction(archive.connections) as conn:
            conn.execute("UPDATE key_objects SET locked_at = %s WHERE object_key = %s", (now, one.key))
    elif short:
        return f"its lock until {one.until.isoformat()} was gone. It is locked again: look who did that."
    return None


def _erase(archive: Archive, one: _Object, now: datetime) -> None:
    """Object, then row. Raises Refused if the vault keeps it, ServiceUnavailable."""
    try:
        there = archive.vault.stat(one.key)
        if there.hold:  # whom it was for is in a newer one, or held no more
            archive.vault.hold(one.key, there.version, False)
    except NotFound:  # erased before this was cut off
        pass
    archive.vault.erase(one.key)
    with transaction(archive.connections) as conn:
        _forget(conn, archive, [(one.key, one.subjects)], now)


def _forget(conn: Connection, archive: Archive, gone: Sequence[tuple[str, Sequence[UUID]]], now: datetime) -> None:
    if gone:
        conn.execute("DELETE FROM key_objects WHERE object_key = ANY(%s)", ([key for key, _ in gone],))
        events = [
            Event("del", now, archive.agent, tuple(subjects), detail={"key_object": key}) for key, subjects in gone
        ]
        ledger.append(conn, events, now)
