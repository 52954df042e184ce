"""Buckets that lost rows get a new key, so that no old copy of the catalog opens what was destroyed.

Rules of this module (requirements: storage, *Sealing*):
- A deleted row is still in heap files, write-ahead log, base backups and dumps, wrapped under its bucket's key. So the
  rows that are left are wrapped under a new key, and the old one leaves the key safe: what is in old copies is closed,
  once the term of the safe's own copies has passed. A bucket of which no row is left just loses its key.
- Due are the buckets that an execution or a rejection names as losing rows (`plan_remains`), and those of past months
  of which nothing is left: the words of searches go day by day, and so a month's bucket within the month after.
- Crash order: the new key is durable in the safe; then one transaction moves every row and enters it; then the old
  key is dropped; then that is entered. Cut off anywhere, every row has its key in the safe, and the next run goes on.
- Who writes a key holds its bucket's row until the commit (retention.archive), so none is written under a key that
  goes; this waits for them half a second, and gives way: a bucket that is in use is left for the next run.
- The words of what was destroyed stand in PostgreSQL's files until they are overwritten. With the key of a bucket they
  go from there: table and indexes of the descriptions are written anew before it is entered that the key is dropped.
  They are in no write-ahead log and no base backup (the table is UNLOGGED). Whoever reads for longer than two seconds
  is not interrupted: then it is done by the next run.
- A recovery point holds rows and safe of one moment: a backup and this exclude each other. After a restore from a point
  that is older, rows stand under a key that was replaced since: they are due again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from retention import ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Refused
from retention.ledger import Event

Clock = Callable[[], datetime]
# Buckets that lost keys to a plan, and whose own key has not left the safe; since when.
WAITING: LiteralString = """
(SELECT m.remains_id AS bucket_id, m.plan_id, coalesce(r.replaced_at, p.started_at, o.decided_at) AS since
   FROM plan_remains m JOIN proposals o ON o.proposal_id = m.plan_id LEFT JOIN plans p USING (plan_id)
   LEFT JOIN replaced_buckets r ON r.bucket_id = m.remains_id
  WHERE m.kind = 'bucket' AND r.dropped_at IS NULL) AS waiting
"""
_AT_ONCE = 10_000  # keys that are unwrapped in memory
_DROPPED_AT_ONCE = 200  # ids in one event
_TRIES = 3


@dataclass(slots=True)
class Rekeyed:
    """What a run did: buckets that were replaced, keys that were wrapped anew, keys that left the safe; and how much
    is left for the next run: buckets that somebody was writing into, the descriptions that somebody was reading."""

    replaced: int = 0
    wrapped: int = 0
    dropped: int = 0
    busy: int = 0


@dataclass(frozen=True, slots=True)
class _Due:
    id: UUID
    scope: str
    month: date
    replaced: bool  # the rows were moved; its key is to be dropped


def rekey(archive: Archive, clock: Clock) -> Rekeyed:
    """Give every bucket that lost rows a new key, and drop the old one. Nightly, or at once; again is fine.

    Raises Refused while a backup runs, or another of these."""
    done = Rekeyed()
    with transaction(archive.connections) as guard:
        if guard.execute("SELECT pg_try_advisory_xact_lock(hashtext('key safe'))").fetchone() != (True,):
            raise Refused(
                "refusing to give buckets new keys now: a backup is running, or another of these. Wait until it ends."
            )
        due = _due(archive, clock())
        former = {bucket.id for bucket in due}
        for bucket in due:
            if bucket.replaced:
                continue
            wrapped = _replace(archive, bucket, former, clock())
            if wrapped is None:
                done.busy += 1
            else:
                done.replaced, done.wrapped = done.replaced + 1, done.wrapped + wrapped
        try:
            done.dropped = _drop(archive, clock())
        except psycopg.errors.LockNotAvailable:
            done.busy += 1
    return done


def due(archive: Archive, now: datetime) -> list[UUID]:
    """The buckets that wait for a new key, or for the old one to be dropped."""
    return [bucket.id for bucket in _due(archive, now)]


def _due(archive: Archive, now: datetime) -> list[_Due]:
    month = now.astimezone(UTC).date().replace(day=1)
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """SELECT b.bucket_id, b.scope, b.month, r.bucket_id IS NOT NULL AND NOT kept.rows, r.dropped_at IS NOT NULL
                 FROM key_buckets b LEFT JOIN replaced_buckets r USING (bucket_id)
                CROSS JOIN LATERAL (
                      SELECT EXISTS (SELECT FROM subject_keys k WHERE k.bucket_id = b.bucket_id) AS rows) AS kept
                WHERE r.bucket_id IS NOT NULL
                   OR EXISTS (SELECT FROM plan_remains p WHERE p.kind = 'bucket' AND p.remains_id = b.bucket_id)
                   OR (b.month < %s AND NOT kept.rows)
                ORDER BY b.bucket_id""",
            (month,),
        ).fetchall()
    there = {bucket.id for bucket in archive.safe.buckets()}
    return [
        _Due(bucket_id, scope, of, replaced)
        for bucket_id, scope, of, replaced, dropped in rows
        if not (replaced and dropped) or bucket_id in there
    ]


def _replace(archive: Archive, bucket: _Due, former: Collection[UUID], now: datetime) -> int | None:
    """Move every row of a bucket under another key; how many, None if somebody was writing each time."""
    for _ in range(_TRIES):
        try:
            with transaction(archive.connections) as conn:
                return _move(conn, archive, bucket, former, now)
        except psycopg.errors.LockNotAvailable:
            continue
    return None


def _generation(conn: Connection, bucket_id: UUID) -> int:
    """When its key is gone the event alone tells what it was."""
    row = conn.execute("SELECT generation FROM key_buckets WHERE bucket_id = %s", (bucket_id,)).fetchone()
    assert row is not None
    return int(row[0])


def _move(conn: Connection, archive: Archive, bucket: _Due, former: Collection[UUID], now: datetime) -> int:
    conn.execute("SET LOCAL lock_timeout = '500ms'")  # shorter than deadlock_timeout: this gives way, not the others
    conn.execute("SELECT FROM key_buckets WHERE bucket_id = %s FOR UPDATE", (bucket.id,))
    new_id: UUID | None = None
    count = 0
    while rows := _some(conn, bucket.id):
        old = archive.safe.bucket(bucket.id)
        new = archive.safe.current(bucket.scope, bucket.month, now, former)
        if new_id is None:
            new_id = new.id
            conn.execute(
                "INSERT INTO key_buckets (bucket_id, scope, month, generation, recorded_at) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (bucket_id) DO NOTHING",
                (new.id, new.scope, new.month, new.generation, now),
            )
        again = [(subject, new.wrap(old.unwrap(bytes(wrapped)))) for subject, wrapped in rows]
        conn.execute(
            "UPDATE subject_keys k SET bucket_id = %s, wrapped = n.wrapped "
            "FROM unnest(%s::uuid[], %s::bytea[]) AS n (subject_id, wrapped) WHERE k.subject_id = n.subject_id",
            (new.id, [subject for subject, _ in again], [wrapped for _, wrapped in again]),
        )
        count += len(again)
    conn.execute(
        "INSERT INTO replaced_buckets (bucket_id, replaced_by, keys, replaced_at) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (bucket_id) DO UPDATE SET replaced_by = EXCLUDED.replaced_by, keys = EXCLUDED.keys, "
        "replaced_at = EXCLUDED.replaced_at, dropped_at = NULL",
        (bucket.id, new_id, count, now),
    )
    detail = {"by": None if new_id is None else str(new_id), "keys": count, "scope": bucket.scope}
    detail |= {"month": bucket.month.isoformat(), "generation": _generation(conn, bucket.id)}
    ledger.append(conn, [Event("enc", now, archive.agent, (bucket.id,), detail=detail)], now)
    return count


def _some(conn: Connection, bucket_id: UUID) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT subject_id, wrapped FROM subject_keys WHERE bucket_id = %s ORDER BY subject_id LIMIT %s FOR UPDATE",
        (bucket_id, _AT_ONCE),
    ).fetchall()


def _drop(archive: Archive, now: datetime) -> int:
    """Drop the keys of buckets that were replaced and have no row, then enter it. One that came back with a restored
    safe goes again, and is not entered twice."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """SELECT bucket_id, dropped_at FROM replaced_buckets r
                WHERE NOT EXISTS (SELECT FROM subject_keys k WHERE k.bucket_id = r.bucket_id) ORDER BY 1"""
        ).fetchall()
    there = {bucket.id for bucket in archive.safe.buckets()}
    archive.safe.drop({row[0] for row in rows}, now)
    ids = [row[0] for row in rows if row[1] is None]
    with transaction(archive.connections) as conn:
        if ids:
            conn.execute("SET LOCAL lock_timeout = '2s'")
            conn.execute("CLUSTER descriptions USING descriptions_pkey")
        for start in range(0, len(ids), _DROPPED_AT_ONCE):
            part = tuple(ids[start : start + _DROPPED_AT_ONCE])
            conn.execute("UPDATE replaced_buckets SET dropped_at = %s WHERE bucket_id = ANY(%s)", (now, list(part)))
            ledger.append(conn, [Event("del", now, archive.agent, part, detail={"bucket_keys": len(part)})], now)
    return sum(row[0] in there for row in rows)
