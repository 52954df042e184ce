"""The vault's legal-hold flags, which mirror holds: set after the commit by a queue that may run twice.

Rules of this module:
- A hold is in force when its row commits, whatever the vault says; the flag is a second fence.
- The vault has one flag a version: it is wanted exactly while some hold has the record (or the quarantined
  document), which is what this module reads when it queues. One module writes `hold_flags`: this one.
- `actual` is what the vault answered, never what was sent. Only one drain writes at a time, so that the last
  answer is that of the last call.
- One object's failure stops no other; it stays in the queue with its error. A vault that fails a whole batch is
  left alone until the next pass. A queue older than a day is red in the report.
- Only vault calls are one an object; everything else is a set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, MunimentError, NotFound

_AT_ONCE = 500
_DRAIN_LOCK = 0x686F6C66  # advisory; "holf"
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Drained:
    """What one pass over the queue did. `problem` is the first failure in words."""

    set: int
    failed: int
    waiting: int
    oldest: datetime | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """An object whose flag in the vault (None: the object is not there) is not the one that its holds ask for."""

    subject_id: UUID
    wanted: bool
    found: bool | None
    queued: bool  # the queue knows, and will set it


@dataclass(frozen=True, slots=True)
class _Object:
    """A flag to be set, and where: no key where the content is gone."""

    subject_id: UUID
    key: str | None
    version: str
    wanted: bool


# ---------------------------------------------------------------- what is wanted


def want(conn: Connection, subjects: Sequence[UUID] | None, hold_id: UUID, now: datetime) -> None:
    """Queue what a change of this hold's members asks for: of these subjects, or of all that it ever had."""
    conn.execute(
        """INSERT INTO hold_flags AS f (subject_id, wanted, queued_at)
           SELECT m.subject_id, EXISTS (SELECT FROM hold_members x WHERE x.record_id = m.subject_id)
                                OR EXISTS (SELECT FROM hold_quarantined x WHERE x.quarantine_id = m.subject_id), %(now)s
             FROM (SELECT record_id AS subject_id FROM hold_members WHERE hold_id = %(hold)s
                    UNION SELECT record_id FROM hold_members_released WHERE hold_id = %(hold)s
                    UNION SELECT quarantine_id FROM hold_quarantined WHERE hold_id = %(hold)s) m
            WHERE %(subjects)s::uuid[] IS NULL OR m.subject_id = ANY(%(subjects)s)
            ORDER BY 1
               ON CONFLICT (subject_id) DO UPDATE
                  SET wanted = EXCLUDED.wanted, queued_at = EXCLUDED.queued_at, read_back_at = NULL, attempts = 0,
                      error = NULL,
                      -- what was under way may have reached the vault without our hearing of it
                      actual = CASE WHEN f.wanted = f.actual THEN f.actual END
                WHERE f.wanted <> EXCLUDED.wanted""",
        {"hold": hold_id, "subjects": subjects, "now": now},
    )


# ---------------------------------------------------------------- the queue


def forget(conn: Connection, subjects: Sequence[UUID]) -> None:
    """Drop the flags of objects that are erased, in the transaction that says so."""
    conn.execute("DELETE FROM hold_flags WHERE subject_id = ANY(%s)", (list(subjects),))


def drain(archive: Archive, now: datetime, at_most: int | None = None) -> Drained:
    """Set every waiting flag and read it back. Running it twice, or two at once, changes nothing more.

    `at_most` ends the pass at the batch that reaches so many: a million flags take the better part of an hour."""
    done = failed = 0
    problem = None
    _drop_destroyed(archive)
    while (at_most is None or done + failed < at_most) and (batch := _one_batch(archive, now)):
        errors = [error for error in batch if error is not None]
        failed += len(errors)
        done += len(batch) - len(errors)
        problem = problem or (str(errors[0]) if errors else None)
        if len(errors) == len(batch):
            break
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT count(*), min(queued_at) FROM hold_flags WHERE wanted IS DISTINCT FROM actual"
        ).fetchone()
    waiting, oldest = row or (0, None)
    return Drained(done, failed, waiting, oldest, problem)


def _drop_destroyed(archive: Archive) -> None:
    """What is not wanted of content that is gone. A flag that is wanted of it is a defect, and stays."""
    with transaction(archive.connections) as conn:
        conn.execute(
            """DELETE FROM hold_flags f WHERE wanted IS DISTINCT FROM actual AND NOT wanted
                  AND NOT EXISTS (SELECT FROM contents c WHERE c.record_id = f.subject_id)
                  AND NOT EXISTS (SELECT FROM quarantine q WHERE q.quarantine_id = f.subject_id)"""
        )


def _one_batch(archive: Archive, now: datetime) -> list[MunimentError | None]:
    """One transaction, of which the vault is called in the middle: no row is locked then, so no hold waits for it.

    Each object is tried once in a pass: what failed is tried again by the next."""
    with transaction(archive.connections) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_DRAIN_LOCK,))
        batch = [_Object(*row) for row in conn.execute(_WAITING, (now, _AT_ONCE))]
        with ThreadPoolExecutor(archive.settings.vault_threads, thread_name_prefix="vault") as threads:
            outcomes = list(threads.map(lambda one: _set(archive, one), batch))
        conn.execute(
            """UPDATE hold_flags f SET actual = coalesce(n.actual, f.actual), error = n.error, read_back_at = %s,
                      attempts = attempts + 1
                 FROM unnest(%s::uuid[], %s::boolean[], %s::text[]) AS n(subject_id, actual, error)
                WHERE f.subject_id = n.subject_id""",
            (
                now,
                [one.subject_id for one in batch],
                [one.wanted if error is None else None for one, error in zip(batch, outcomes, strict=True)],
                [type(error).__name__ if error is not None else None for error in outcomes],
            ),
        )
    return outcomes


_WAITING: LiteralString = """
    SELECT f.subject_id,
           CASE WHEN c.record_id IS NOT NULL THEN 'records/' || f.subject_id || '/' || encode(c.sealed_sha256, 'hex')
                WHEN q.quarantine_id IS NOT NULL THEN 'quarantine/' || f.subject_id END,
           coalesce(c.version, q.version, ''), f.wanted
      FROM hold_flags f
      LEFT JOIN contents c ON c.record_id = f.subject_id
      LEFT JOIN quarantine q ON q.quarantine_id = f.subject_id
     WHERE f.wanted IS DISTINCT FROM f.actual AND (f.read_back_at IS NULL OR f.read_back_at < %s)
     ORDER BY f.queued_at, f.subject_id LIMIT %s"""


def _set(archive: Archive, one: _Object) -> MunimentError | None:
    if one.key is None:
        return Damaged(f"{one.subject_id}: held, and its content is in no list of the catalog. Restore the catalog.")
    try:
        archive.vault.hold(one.key, one.version, one.wanted)  # reads it back
    except MunimentError as error:
        return error
    return None


# ---------------------------------------------------------------- wanted against actual


def drift(archive: Archive, percent: float = 100.0, seed: int = 0) -> Iterator[Drift]:
    """Every object whose flag in the vault is not the one that its holds ask for; changes nothing.

    `percent` looks at so many of a hundred objects only, others for each `seed`. Raises ServiceUnavailable."""
    after = _FIRST
    while page := _page(archive, after, percent, seed):
        with ThreadPoolExecutor(archive.settings.vault_threads, thread_name_prefix="vault") as threads:
            found = threads.map(lambda row: _stored(archive, row[1], row[2]), page)
            for (subject, _, _, wanted, queued), flag in zip(page, found, strict=True):
                if flag is not wanted:
                    yield Drift(subject, wanted, flag, queued)
        after = page[-1][0]


def _page(archive: Archive, after: UUID, percent: float, seed: int) -> list[tuple[UUID, str, str, bool, bool]]:
    with transaction(archive.connections) as conn:
        return conn.execute(
            """SELECT o.subject_id, o.object_key, o.version, coalesce(f.wanted, false),
                      f.subject_id IS NOT NULL AND f.wanted IS DISTINCT FROM f.actual
                 FROM (SELECT record_id AS subject_id, version,
                              'records/' || record_id || '/' || encode(sealed_sha256, 'hex') AS object_key
                         FROM contents
                        UNION ALL
                       SELECT quarantine_id, version, 'quarantine/' || quarantine_id FROM quarantine
                        WHERE destroyed_at IS NULL) o
                 LEFT JOIN hold_flags f USING (subject_id)
                WHERE o.subject_id > %s AND abs(hashtextextended(o.subject_id::text, %s) %% 10000) < %s
                ORDER BY o.subject_id LIMIT 1000""",
            (after, seed, round(percent * 100)),
        ).fetchall()


def _stored(archive: Archive, key: str, version: str) -> bool | None:
    try:
        return archive.vault.stat(key, version).hold
    except NotFound:
        return None


def mend(archive: Archive, found: Sequence[Drift], now: datetime) -> None:
    """Queue what drifted: the next drain sets it. An object that is not there cannot be mended so."""
    present = [one for one in found if one.found is not None]
    with transaction(archive.connections) as conn:
        conn.execute(
            """INSERT INTO hold_flags AS f (subject_id, wanted, actual, queued_at)
               SELECT n.subject_id, false, n.found, %s FROM unnest(%s::uuid[], %s::boolean[]) AS n(subject_id, found)
                   ON CONFLICT (subject_id) DO UPDATE
                      SET actual = EXCLUDED.actual, queued_at = EXCLUDED.queued_at, read_back_at = NULL""",
            (now, [one.subject_id for one in present], [one.found for one in present]),
        )
