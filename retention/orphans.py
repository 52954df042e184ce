"""Orphans: objects in the vault of captures that were cut off before they committed. They are found, and erased.

Rules of this module:
- An orphan bears an id that the catalog knows in no way: no record, no document of quarantine, no descriptor, no event
  names it. What remains of something that was known is no orphan: `muniment verify` names that. Nor is what bears no
  id: somebody put it there, and a person looks.
- It is older than GRACE, by the clock of the store too: a capture commits within minutes, and what it puts for a class
  that asks for WORM is locked that long.
- A catalog that is behind the published ledger knows too little, and sweeps nothing. Nor is more swept than LEAST
  objects or one in SHARE, whichever is more, unless a person says so: a crash leaves a batch behind, never an archive.
- Each is looked up once more before it goes. What is locked or held stays, and is counted.
- What went is an event (del) a batch: how many, how many bytes, the digest of their keys. Cut off in between, at most
  one batch of what no history knew is gone without one.
- Uploads that were cut off, which are no objects, go with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from itertools import islice
from uuid import UUID

from retention import ledger, locks
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Refused
from retention.history import keys, publishing
from retention.ledger import Event
from retention.vault.base import Stored

GRACE: timedelta = locks.SHORT
FOLDERS = ("descriptors", "quarantine", "records")
LEAST, SHARE = 100, 20
_AT_ONCE = 500

_UNKNOWN = """
SELECT id FROM unnest(%s::uuid[]) AS id
 WHERE NOT EXISTS (SELECT FROM event_subjects WHERE subject_id = id)
   AND NOT EXISTS (SELECT FROM records WHERE record_id = id)
   AND NOT EXISTS (SELECT FROM quarantine WHERE quarantine_id = id)
   AND NOT EXISTS (SELECT FROM descriptors WHERE descriptor_id = id)"""


@dataclass(slots=True)
class Found:
    """The orphans, in the order of their keys, and how many objects were looked at."""

    looked_at: int = 0
    orphans: list[Stored] = field(default_factory=list)


@dataclass(slots=True)
class Swept:
    """What went: objects, bytes, uploads that were cut off; and what stayed because a lock or a hold keeps it."""

    erased: int = 0
    bytes: int = 0
    uploads: int = 0
    kept: list[str] = field(default_factory=list)


def find(archive: Archive, now: datetime) -> Found:
    """The orphans. Raises Refused if the catalog is behind the published ledger, ServiceUnavailable."""
    _refuse_if_behind(archive)
    found, before = Found(), _before(archive, now)
    for folder in FOLDERS:
        for batch in _batches(archive.vault.list(folder)):
            found.looked_at += len(batch)
            old = [one for one in batch if one.modified is not None and one.modified < before]
            with transaction(archive.connections) as conn:
                found.orphans += _unknown(conn, old)
    return found


def sweep(archive: Archive, found: Found, now: datetime, limit: int | None = None) -> Swept:
    """Erase what `find` found, at most `limit` objects. Raises Refused for more, with nothing erased."""
    allowed = max(LEAST, found.looked_at // SHARE) if limit is None else limit
    if len(found.orphans) > allowed:
        raise Refused(
            f"refusing to erase {len(found.orphans):,} of {found.looked_at:,} objects: at most {allowed:,} are "
            "expected to be orphans. Is this the catalog of this vault, and whole? See `muniment vault sweep "
            "--dry-run`; then say how many may go: --limit."
        )
    done = Swept()
    with ThreadPoolExecutor(archive.settings.vault_threads, "sweep") as threads:
        for batch in _batches(found.orphans):
            with transaction(archive.connections) as conn:
                still = _unknown(conn, batch)
            gone = []
            for one, erased in zip(still, threads.map(partial(_erase, archive), still), strict=True):
                if erased is None:
                    done.kept.append(one.key)
                elif erased:
                    gone.append(one)
            _enter(archive, gone, now)
            done.erased += len(gone)
            done.bytes += sum(one.size for one in gone)
    done.uploads = archive.vault.sweep(_before(archive, now))
    return done


def _refuse_if_behind(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        size, _ = ledger.head(conn)
        published = publishing.newest(archive.vault, keys.all_keys(conn))
    if published is not None and published.size > size:
        raise Refused(
            f"refusing to look for orphans: the ledger in the catalog has {size:,} events, the published one "
            f"{published.size:,}. What it does not know is no orphan. Recover the events first (`muniment verify`)."
        )


def _before(archive: Archive, now: datetime) -> datetime:
    return min(now, archive.vault.time() or now) - GRACE


def _unknown(conn: Connection, stored: Iterable[Stored]) -> list[Stored]:
    """Those that bear an id that nothing knows."""
    named = [(one, subject) for one in stored if (subject := _id(one.key)) is not None]
    unknown = {row[0] for row in conn.execute(_UNKNOWN, ([subject for _, subject in named],))}
    return [one for one, subject in named if subject in unknown]


def _id(key: str) -> UUID | None:
    try:
        return UUID(key.split("/")[1])
    except ValueError:
        return None


def _erase(archive: Archive, one: Stored) -> int | None:
    """How many versions went; None if a lock or a hold keeps it."""
    try:
        return archive.vault.erase(one.key)
    except Refused:
        return None


def _enter(archive: Archive, gone: Sequence[Stored], now: datetime) -> None:
    if not gone:
        return
    digest = sha256("".join(f"{one.key}\n" for one in gone).encode()).hexdigest()
    detail = {"orphans": len(gone), "bytes": sum(one.size for one in gone), "keys_sha256": digest}
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("del", now, archive.agent, (), detail=detail)], now)


def _batches(stored: Iterable[Stored]) -> Iterator[list[Stored]]:
    every = iter(stored)
    while batch := list(islice(every, _AT_ONCE)):
        yield batch
