"""The vault against the events: every object is there, whole, and nothing is there that no event put.

Rules of this module:
- What must be there is what the catalog's rows say, which the events have been compared with before: content of
  records and quarantined documents by the digest of their sealed bytes, and descriptor objects. The ledger's own
  files are checked as an auditor would (`published`).
- Missing, too long or too short is found by listing alone; another byte by reading. What is read is a share of the
  objects, those that were not read for longest first; all of them where nothing else is asked.
- Two sorted listings are walked side by side; nothing is kept but what is under way.
- An object that nobody knows is an orphan of a run that was cut, which is swept after seven days, or somebody put it
  there: it is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from psycopg import sql

from retention.archive import Archive
from retention.database import Connection
from retention.errors import MunimentError
from retention.history.offline import Problem
from retention.seal import digest_of

Teller = Callable[[int, int], None]

# Of every object: its key, version, size and digest, in the order of the vault's listing (bytewise).
EXPECTED = sql.SQL("""
SELECT 'records/' || record_id || '/' || encode(sealed_sha256, 'hex') COLLATE "C" AS key, version, sealed_bytes,
       sealed_sha256, verified_at FROM contents
UNION ALL
SELECT 'quarantine/' || quarantine_id, version, sealed_bytes, sealed_sha256, verified_at FROM quarantine q
 WHERE destroyed_at IS NULL AND NOT (state = 'released' AND key_destroyed_at IS NOT NULL)
UNION ALL
SELECT 'descriptors/' || descriptor_id, version, bytes, NULL, recorded_at FROM descriptors
""")
_FOLDERS = ("descriptors", "quarantine", "records")
_AT_ONCE = 1_000


def check_listing(conn: Connection, archive: Archive) -> Iterator[Problem]:
    """Every object by name and size, and those that nobody knows."""
    with conn.cursor(name="expected") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(sql.SQL("SELECT key, sealed_bytes FROM ({}) AS o ORDER BY key").format(EXPECTED))
        wanted = iter(cursor)
        stored = (one for folder in _FOLDERS for one in archive.vault.list(folder))
        row, there = next(wanted, None), next(stored, None)
        while row is not None or there is not None:
            if there is None or (row is not None and row[0] < there.key):
                assert row is not None
                yield Problem(f"vault {row[0]}", "missing: the catalog and its event say that it is there.")
                row = next(wanted, None)
            elif row is None or there.key < row[0]:
                yield Problem(
                    f"vault {there.key}",
                    "no event put it there: an orphan of a run that was cut, or somebody wrote it.",
                )
                there = next(stored, None)
            else:
                if there.size != row[1]:
                    yield Problem(f"vault {there.key}", f"it has {there.size:,} bytes, expected {row[1]:,}.")
                row, there = next(wanted, None), next(stored, None)


def check_bytes(conn: Connection, archive: Archive, share: float, tell: Teller | None = None) -> Iterator[Problem]:
    """Read a share (0 to 1) of the sealed documents, oldest check first, and compare their digests."""
    query = sql.SQL("SELECT count(*) FROM ({}) AS o WHERE sealed_sha256 IS NOT NULL").format(EXPECTED)
    (count,) = conn.execute(query).fetchone() or (0,)
    most = math.ceil(count * share)
    with conn.cursor(name="objects") as cursor:
        cursor.itersize = _AT_ONCE
        oldest_first = sql.SQL(
            "SELECT key, version, sealed_sha256 FROM ({}) AS o WHERE sealed_sha256 IS NOT NULL "
            "ORDER BY verified_at, key LIMIT {}"
        )
        cursor.execute(oldest_first.format(EXPECTED, most))
        rows, done = iter(cursor), 0
        with ThreadPoolExecutor(archive.settings.vault_threads, "verify") as threads:
            while some := list(islice(rows, archive.settings.vault_threads * 4)):
                for problem in threads.map(partial(_read, archive), some):
                    if problem is not None:
                        yield problem
                done += len(some)
                if tell:
                    tell(done, most)


def _read(archive: Archive, row: Any) -> Problem | None:
    key, version, digest = row
    try:
        with archive.vault.open(key, version) as stream:
            found = digest_of(stream)[0]
    except MunimentError as error:
        return Problem(f"vault {key}", str(error))
    if found != bytes(digest):
        return Problem(
            f"vault {key}", f"its bytes have SHA-256 {found.hex()}, its event says {bytes(digest).hex()}. Heal it."
        )
    return None
