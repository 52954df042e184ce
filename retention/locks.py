"""Locks that policy requires, set after the commit by a queue that may run twice.

Rules of this module:
- At put an object of a `worm` class is locked for SHORT only, so that the orphan of a crash can be swept; the
  term that policy requires stands in `object_locks` from the commit on, and this queue sets it.
- A lock that was not read back is not a lock: `actual_until` is what the store answered, never what was sent.
- Locks only grow. One object's failure stops no other; it stays in the queue with its error, counted.
- A queue older than a day is red in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import MunimentError
from retention.vault.base import Lock, LockMode

SHORT = timedelta(days=7)
ROLLING = timedelta(days=90)  # an open trigger gets a rolling lock instead of a guess
LONGEST = timedelta(days=3660)  # a lock cannot be taken back: a longer term is extended while it runs
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """The lock that policy requires of one object version."""

    object_key: str
    version: str
    subject_id: UUID
    mode: LockMode
    until: datetime


@dataclass(frozen=True, slots=True)
class Drained:
    """What one pass over the queue did."""

    set: int
    failed: int
    waiting: int
    oldest: datetime | None


def enqueue(conn: Connection, wanted: Sequence[Wanted], now: datetime) -> None:
    """Inside the capture transaction. A longer lock for an object already queued extends it."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO object_locks (object_key, version, subject_id, mode, wanted_until, queued_at)
               VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT (object_key) DO UPDATE
                  SET wanted_until = EXCLUDED.wanted_until, queued_at = EXCLUDED.queued_at
                WHERE object_locks.wanted_until < EXCLUDED.wanted_until""",
            [(w.object_key, w.version, w.subject_id, w.mode.value, w.until, now) for w in wanted],
        )


def drain(archive: Archive, now: datetime) -> Drained:
    """Set every waiting lock and read it back. Running it twice, or two at once, changes nothing more."""
    done = failed = 0
    while batch := _waiting(archive, now):
        with ThreadPoolExecutor(archive.settings.vault_threads) as threads:
            outcomes = list(threads.map(lambda row: _set(archive, *row), batch))
        with transaction(archive.connections) as conn, conn.cursor() as cursor:
            cursor.executemany(
                "UPDATE object_locks SET actual_until = coalesce(%s, actual_until), error = %s, read_back_at = %s, "
                "attempts = attempts + 1 WHERE object_key = %s",
                [(actual, error, now, row[0]) for row, (actual, error) in zip(batch, outcomes, strict=True)],
            )
        failed += sum(error is not None for _, error in outcomes)
        done += sum(error is None for _, error in outcomes)
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT count(*), min(queued_at) FROM object_locks "
            "WHERE actual_until IS NULL OR actual_until < wanted_until"
        ).fetchone()
    waiting, oldest = row or (0, None)
    return Drained(done, failed, waiting, oldest)


def _waiting(archive: Archive, now: datetime) -> list[tuple[str, str, str, datetime]]:
    """What this pass has not tried yet: an object that failed is tried again by the next pass."""
    with transaction(archive.connections) as conn:
        return conn.execute(
            """SELECT object_key, version, mode, wanted_until FROM object_locks
                WHERE (actual_until IS NULL OR actual_until < wanted_until)
                  AND (read_back_at IS NULL OR read_back_at < %s)
                ORDER BY queued_at, object_key LIMIT %s""",
            (now, _AT_ONCE),
        ).fetchall()


def _set(archive: Archive, key: str, version: str, mode: str, until: datetime) -> tuple[datetime | None, str | None]:
    try:
        stored = archive.vault.lock(key, version, Lock(LockMode(mode), until))
    except MunimentError as error:
        return None, type(error).__name__
    if stored.lock is None or stored.lock.until < until.replace(microsecond=0):
        return (stored.lock.until if stored.lock else None), "lock-not-kept"
    return max(stored.lock.until, until), None
