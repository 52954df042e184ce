"""The vault against the events: every object is there, whole, and nothing is there that no event put.

Rules of this module:
- What must be there is what the catalog's rows say, which the events have been compared with before: content of
  records and quarantined documents by the digest of their sealed bytes, descriptor objects, and schedules. The
  ledger's own files are checked as an auditor would (`published`).
- Missing, too long or too short is found by listing alone; another byte by reading. What is read is a share of the
  objects, those that were not read for longest first; all of them where nothing else is asked. Schedules are read all.
- Two sorted listings are walked side by side; nothing is kept but what is under way.
- An object that nobody knows is an orphan of a run that was cut, which is swept after seven days, or somebody put it
  there: it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from psycopg import sql

from retention import fixity
from retention.archive import Archive
from retention.database import Connection
from retention.history.offline import Problem

Teller = Callable[[int, int], None]

# Of every object: its key and size, in the order of the vault's listing (bytewise).
_EXPECTED = sql.SQL("""
SELECT key, sealed_bytes FROM ({documents}) AS d
UNION ALL
SELECT 'descriptors/' || descriptor_id, bytes FROM descriptors
UNION ALL
SELECT DISTINCT 'schedules/' || encode(digest, 'hex'), octet_length(document) FROM schedule_versions
 ORDER BY key
""").format(documents=fixity.DOCUMENTS)
_FOLDERS = ("descriptors", "quarantine", "records", "schedules")
_AT_ONCE = 1_000


def check_listing(conn: Connection, archive: Archive) -> Iterator[Problem]:
    """Every object by name and size, and those that nobody knows."""
    with conn.cursor(name="expected") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(_EXPECTED)
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
    most, batches = fixity.oldest(conn, share)
    done = 0
    for batch in batches:
        for one, wrong in fixity.read(archive, batch):
            if wrong is not None:
                yield Problem(f"vault {one.key}", wrong)
        done += len(batch)
        if tell:
            tell(done, most)


def check_schedules(conn: Connection, archive: Archive) -> Iterator[Problem]:
    """Read every schedule: they are few, and each decided what was destroyed."""
    for batch in fixity.schedules(conn):
        for one, wrong in fixity.read(archive, batch):
            if wrong is not None:
                yield Problem(f"vault {one.key}", wrong)
