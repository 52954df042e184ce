"""Live keys tested: each row is unwrapped under its bucket's key, so that no key is missed first when it is needed.

Rules of this module (requirements: storage, *Sealing*):
- A run takes a share of all keys, whole buckets at a time, those first that were tested longest ago. A share of two
  percent a night tests each key within fifty nights, of the ninety days that the report allows.
- AES key wrap has a checksum of 64 bits: what unwraps is the key that was wrapped. Whether it is the key of what it is
  said to be the key of is asked by `verify`, which opens with it.
- What was tested, and when, is told by events (PREMIS dec) of the buckets, and stands nowhere else. The last one of a
  bucket says whether all of its rows unwrapped; another names those that did not, and is of them too.
- A bucket commits with its event. Rows that were destroyed, or moved to another bucket, meanwhile are no finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from retention import ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound
from retention.ledger import Event

_AT_ONCE = 100_000  # keys that are read, and commit, together; at least one bucket
_SUBJECTS = 500  # of one event

Teller = Callable[[int, int], None]

# Buckets that have keys: how many, when all of them were last unwrapped, and whether some did not.
BUCKETS: LiteralString = """
(SELECT b.bucket_id, b.scope, b.month, k.keys, coalesce(t.at, b.recorded_at) AS tested, coalesce(t.bad, false) AS bad
   FROM key_buckets b JOIN (SELECT bucket_id, count(*) AS keys FROM subject_keys GROUP BY 1) AS k USING (bucket_id)
   LEFT JOIN LATERAL (
        SELECT e.recorded_at AS at, convert_from(e.entry, 'UTF8')::jsonb ->> 'outcome' <> 'success' AS bad
          FROM event_subjects s JOIN events e USING (position)
         WHERE s.subject_id = b.bucket_id AND e.type = 'dec' ORDER BY s.position DESC LIMIT 1) AS t ON true) AS tested
"""


@dataclass(slots=True)
class Unwrapped:
    """What a run tested: keys, and buckets; whose key does not unwrap, or which bucket has no key, and why."""

    keys: int = 0
    buckets: int = 0
    damaged: dict[UUID, str] = field(default_factory=dict)


def run(archive: Archive, share: float, clock: Callable[[], datetime], tell: Teller | None = None) -> Unwrapped:
    """Unwrap a share (0 to 1) of all keys. What was tested before this is cut off stays tested."""
    done = Unwrapped()
    chosen = _oldest(archive, share)
    most = sum(keys for _, keys in chosen)
    for part in _parts(chosen):
        with transaction(archive.connections) as conn:
            wrong = _wrong(conn, archive, part)
            _enter(conn, archive, part, wrong, clock())
        for found in wrong.values():
            done.damaged |= found
        done.keys += sum(keys for _, keys in part)
        done.buckets += len(part)
        if tell:
            tell(done.keys, most)
    return done


def _oldest(archive: Archive, share: float) -> list[tuple[UUID, int]]:
    """Buckets, with the number of their keys, that together have at least the share of all."""
    with transaction(archive.connections) as conn:
        query = sql.SQL("SELECT bucket_id, keys FROM {} ORDER BY tested, bucket_id").format(sql.SQL(BUCKETS))
        rows = conn.execute(query).fetchall()
    left, chosen = math.ceil(sum(keys for _, keys in rows) * share), []
    for bucket_id, keys in rows:
        if left <= 0:
            break
        chosen.append((bucket_id, keys))
        left -= keys
    return chosen


def _parts(chosen: Sequence[tuple[UUID, int]]) -> Iterator[list[tuple[UUID, int]]]:
    part: list[tuple[UUID, int]] = []
    for one in chosen:
        part.append(one)
        if sum(keys for _, keys in part) >= _AT_ONCE or len(part) == _SUBJECTS:
            yield part
            part = []
    if part:
        yield part


def _wrong(conn: Connection, archive: Archive, part: Sequence[tuple[UUID, int]]) -> dict[UUID, dict[UUID, str]]:
    """Of each bucket that is not as it should be, what is wrong with which row, or with itself."""
    wrong: dict[UUID, dict[UUID, str]] = {}
    with conn.cursor(name="wrapped", binary=True) as cursor:
        cursor.itersize = 10_000
        cursor.execute(
            "SELECT bucket_id, subject_id, wrapped FROM subject_keys WHERE bucket_id = ANY(%s) ORDER BY bucket_id",
            ([bucket_id for bucket_id, _ in part],),
        )
        for bucket_id, subject, wrapped in cursor:
            try:
                archive.safe.bucket(bucket_id).unwrap(wrapped)
            except Damaged as error:
                wrong.setdefault(bucket_id, {})[subject] = str(error)
            except NotFound as error:
                wrong.setdefault(bucket_id, {bucket_id: str(error)})
    there = "SELECT subject_id FROM subject_keys WHERE bucket_id = %s AND (%s OR subject_id = ANY(%s))"
    found = {}
    for bucket_id, said in wrong.items():
        still = {row[0] for row in conn.execute(there, (bucket_id, bucket_id in said, list(said)))}
        kept = {subject: why for subject, why in said.items() if subject in still or (still and subject == bucket_id)}
        if kept:
            found[bucket_id] = kept
    return found


def _enter(
    conn: Connection,
    archive: Archive,
    part: Sequence[tuple[UUID, int]],
    wrong: dict[UUID, dict[UUID, str]],
    now: datetime,
) -> None:
    whole = [(bucket_id, keys) for bucket_id, keys in part if bucket_id not in wrong]
    events = []
    if whole:
        detail = {"keys": sum(keys for _, keys in whole)}
        events.append(Event("dec", now, archive.agent, tuple(bucket_id for bucket_id, _ in whole), detail=detail))
    for bucket_id, said in wrong.items():
        subjects = [subject for subject in said if subject != bucket_id][: _SUBJECTS - 1]
        told = {"keys_damaged": len(said), "bucket": str(bucket_id)}
        events.append(Event("dec", now, archive.agent, (bucket_id, *subjects), "failure", told))
    ledger.append(conn, events, now)
