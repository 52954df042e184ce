"""Locks that policy requires, set after the commit by a queue that may run twice.

Rules of this module:
- At put an object of a `worm` class is locked for SHORT only, so that the orphan of a crash can be swept; the
  term that policy requires stands in `object_locks` from the commit on, and this queue sets it.
- A lock that was not read back is not a lock: `actual_until` is what the store answered, never what was sent.
- Locks only grow. One object's failure stops no other; it stays in the queue with its error, counted.
- A queue older than a day is red in the report.
- Drift: what the vault says now, beside what it said when it was asked last; of what changed lately each night, of
  everything within CYCLE nights. A lock that is shorter, weaker or gone, and a legal hold that is not as wanted, is
  named, and in the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from retention import ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import MunimentError, NotFound
from retention.ledger import Event
from retention.vault.base import Lock, LockMode

SHORT = timedelta(days=7)
ROLLING = timedelta(days=90)  # an open trigger gets a rolling lock instead of a guess
LONGEST = timedelta(days=3660)  # a lock cannot be taken back: a longer term is extended while it runs
CYCLE = 30  # nights in which every lock is compared once
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


def told(mode: str, until: datetime) -> dict[str, str]:
    """What an event says of a lock that is wanted."""
    return {"lock": mode, "locked_until": until.astimezone(UTC).isoformat()}


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


# ---------------------------------------------------------------- drift


@dataclass(slots=True)
class Reconciled:
    """How many objects were compared with the vault, and what differs: key of the object -> what."""

    compared: int = 0
    differ: dict[str, str] = field(default_factory=dict)


def reconcile(archive: Archive, now: datetime, everything: bool = False) -> Reconciled:
    """Compare locks and legal holds with the vault; one event says so. Raises ServiceUnavailable.

    Without `everything`: what was read back in the last two days, and a CYCLE-th of the rest."""
    found = Reconciled()
    subjects: set[UUID] = set()
    with transaction(archive.connections) as reading, reading.cursor(name="locks") as cursor:
        cursor.execute(_COMPARED, {"since": now - timedelta(days=2), "all": everything, "cycle": CYCLE,
                                   "night": now.toordinal() % CYCLE})  # fmt: skip
        with ThreadPoolExecutor(archive.settings.vault_threads, "locks") as threads:
            while rows := [_Compared(*row) for row in cursor.fetchmany(_AT_ONCE)]:
                for one, said in zip(rows, threads.map(partial(_drift, archive), rows), strict=True):
                    if said is not None:
                        found.differ[one.key] = said
                        subjects.add(one.subject_id)
                found.compared += len(rows)
    outcome = "failure" if found.differ else "success"
    detail = {"locks_compared": found.compared, "differ": len(found.differ)}
    with transaction(archive.connections) as conn:
        some = tuple(sorted(subjects)[:_AT_ONCE])
        ledger.append(conn, [Event("poa", now, archive.agent, some, outcome, detail)], now)
    return found


@dataclass(frozen=True, slots=True)
class _Compared:
    subject_id: UUID
    key: str
    version: str
    mode: str | None
    until: datetime | None
    held: bool | None  # None: no flag was ever set


# An object with a lock that was read back, a flag that was, or both; the key is where its content is.
_COMPARED = """
WITH asked AS (
    SELECT subject_id, object_key, mode, actual_until, read_back_at FROM object_locks WHERE actual_until IS NOT NULL
), flagged AS (
    SELECT f.subject_id, f.actual, f.read_back_at,
           CASE WHEN c.record_id IS NOT NULL THEN 'records/' || c.record_id || '/' || encode(c.sealed_sha256, 'hex')
                ELSE 'quarantine/' || q.quarantine_id END AS object_key,
           coalesce(c.version, q.version) AS version
      FROM hold_flags f LEFT JOIN contents c ON c.record_id = f.subject_id
      LEFT JOIN quarantine q ON q.quarantine_id = f.subject_id
     WHERE f.actual IS NOT NULL AND f.wanted = f.actual AND coalesce(c.record_id, q.quarantine_id) IS NOT NULL
)
SELECT coalesce(a.subject_id, f.subject_id), coalesce(a.object_key, f.object_key),
       coalesce(f.version, l.version, ''), a.mode, a.actual_until, f.actual
  FROM asked a FULL JOIN flagged f USING (object_key)
  LEFT JOIN object_locks l USING (object_key)
 WHERE %(all)s OR greatest(a.read_back_at, f.read_back_at) >= %(since)s
    OR abs(hashtext(coalesce(a.object_key, f.object_key))::bigint) %% %(cycle)s = %(night)s
"""


def _drift(archive: Archive, one: _Compared) -> str | None:
    try:
        there = archive.vault.stat(one.key, one.version)
    except NotFound:
        return "it is not in the vault."
    if one.until is not None and (there.lock is None or there.lock.until < one.until.replace(microsecond=0)):
        until = there.lock.until.isoformat() if there.lock else "not at all"
        return f"locked until {until}; the vault answered {one.until.isoformat()} before."
    if one.mode == LockMode.COMPLIANCE.value and (there.lock is None or there.lock.mode is not LockMode.COMPLIANCE):
        return "locked, but not in compliance mode as it was."
    if one.held is not None and there.hold != one.held:
        return "a legal hold is on it that nobody wants." if there.hold else "its legal hold was taken off."
    return None
