"""Fixity: what stands in the vault read again, and compared with the digests of its capture.

Rules of this module:
- Those that were read longest ago come first. One run reads a share of all; a share of two percent a night reads each
  object in fifty nights, well within the ninety days that the report allows.
- Descriptor objects have a turn instead, by their id and the day: a share of two percent reads each on one day in
  fifty, and one whose day is missed waits for the next, fifty days later. They are few, and `verify` opens every one
  of them; here they are healed. Schedules are a handful: each run
  reads all. In events a schedule goes by the first half of its digest, as a UUID.
- The digest is that of the sealed bytes, so nothing is opened. What is read by whom needs no key.
- When it was read (`verified_at`) and its PREMIS event (fix) commit together, a batch at a time: an event names the
  objects that were whole, another one those that were not. What is damaged keeps its former time: it comes first again.
- What is damaged or missing is healed from a second vault that has it whole, by its digest, a schedule from the
  catalog too; its event (rec) follows the one that says that it was damaged. What is whole nowhere stays damaged.
- Running it twice reads the next ones. What was destroyed meanwhile is no finding.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from typing import BinaryIO, LiteralString
from uuid import UUID

from psycopg import sql

from retention import ledger
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound
from retention.ledger import Event
from retention.seal import digest_of

_BATCH = 500  # objects whose times commit together; as many ids fit into an event
CATALOG = "catalog"  # no name of a second vault, but what a schedule is healed from

Teller = Callable[[int, int], None]

# Sealed documents: whose, where, which version, how many bytes and with which digest, and when they were read last.
DOCUMENTS = sql.SQL("""
SELECT record_id AS subject_id, 'records/' || record_id || '/' || encode(sealed_sha256, 'hex') COLLATE "C" AS key,
       version, sealed_bytes, sealed_sha256, verified_at FROM contents
UNION ALL
SELECT quarantine_id, 'quarantine/' || quarantine_id, version, sealed_bytes, sealed_sha256, verified_at
  FROM quarantine WHERE key_destroyed_at IS NULL
""")


# Descriptor objects whose turn it is.
_DESCRIPTORS: LiteralString = """
SELECT descriptor_id, 'descriptors/' || descriptor_id, version, bytes, sha256 FROM descriptors
 WHERE ('x' || right(descriptor_id::text, 8))::bit(32)::bigint %% %(cycle)s = %(day)s %% %(cycle)s ORDER BY 1
"""

# Schedules: every version that was ever in force. They are not sealed.
_SCHEDULES: LiteralString = """
SELECT DISTINCT encode(substr(digest, 1, 16), 'hex')::uuid, 'schedules/' || encode(digest, 'hex'), '',
       octet_length(document), digest
  FROM schedule_versions ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Object:
    """One sealed document in the vault, a descriptor object or a schedule."""

    subject_id: UUID
    key: str
    version: str
    sealed_bytes: int
    sealed_sha256: bytes


@dataclass(slots=True)
class Checked:
    """What a run read: documents, descriptor objects, schedules and bytes; what was not whole, and why."""

    read: int = 0
    descriptors: int = 0
    schedules: int = 0
    bytes: int = 0
    damaged: dict[UUID, str] = field(default_factory=dict)
    healed: dict[UUID, str] = field(default_factory=dict)  # of these, from which second vault, or CATALOG

    @property
    def left(self) -> dict[UUID, str]:
        """What is damaged still."""
        return {subject: why for subject, why in self.damaged.items() if subject not in self.healed}


def oldest(conn: Connection, share: float) -> tuple[int, Iterator[list[Object]]]:
    """The share (0 to 1) of the documents that were read longest ago, at least one: how many, and batches of them,
    streamed within this transaction."""
    (count,) = conn.execute(sql.SQL("SELECT count(*) FROM ({}) AS d").format(DOCUMENTS)).fetchone() or (0,)
    most = math.ceil(count * share)
    query = sql.SQL(
        "SELECT subject_id, key, version, sealed_bytes, sealed_sha256 FROM ({}) AS d ORDER BY verified_at, key LIMIT {}"
    ).format(DOCUMENTS, most)

    return most, _streamed(conn, query)


def _in_turn(conn: Connection, share: float, today: date) -> Iterator[list[Object]]:
    """Batches of the descriptor objects of this day."""
    if share <= 0:
        return iter(())
    return _streamed(conn, sql.SQL(_DESCRIPTORS), {"cycle": max(round(1 / share), 1), "day": today.toordinal()})


def schedules(conn: Connection) -> Iterator[list[Object]]:
    """Batches of every schedule that was ever in force."""
    return _streamed(conn, sql.SQL(_SCHEDULES))


def _streamed(
    conn: Connection, query: sql.SQL | sql.Composed, asked: Mapping[str, int] | None = None
) -> Iterator[list[Object]]:
    with conn.cursor(name="objects") as cursor:
        cursor.execute(query, asked)
        while rows := cursor.fetchmany(_BATCH):
            yield [Object(row[0], row[1], row[2], row[3], bytes(row[4])) for row in rows]


def read(archive: Archive, wanted: Sequence[Object]) -> Iterator[tuple[Object, str | None]]:
    """Each object, in order, with what is wrong with its bytes; read in parallel."""
    with ThreadPoolExecutor(min(archive.settings.vault_threads, archive.vault.threads), "fixity") as threads:
        yield from zip(wanted, threads.map(partial(_wrong, archive), wanted), strict=True)


def _wrong(archive: Archive, one: Object) -> str | None:
    try:
        with archive.vault.open(one.key, one.version) as stream:
            found, size = digest_of(stream)
    except (NotFound, Damaged) as error:  # a store that does not answer is no finding: it is raised
        return str(error)
    if found != one.sealed_sha256:
        return (
            f"its {size:,} bytes have SHA-256 {found.hex()}, captured were {one.sealed_bytes:,} with "
            f"{one.sealed_sha256.hex()}. Heal it from a replica."
        )
    return None


def run(archive: Archive, share: float, clock: Callable[[], datetime], tell: Teller | None = None) -> Checked:
    """Read a share (0 to 1) of all documents and descriptor objects, and every schedule. Raises ServiceUnavailable;
    what was read before stays read."""
    found = Checked()
    with transaction(archive.connections) as reading:
        most, batches = oldest(reading, share)
        for batch in batches:
            _check(archive, batch, found, clock)
            found.read += len(batch)
            if tell:
                tell(found.read, most)
        for batch in _in_turn(reading, share, clock().date()):
            _check(archive, batch, found, clock)
            found.descriptors += len(batch)
        for batch in schedules(reading) if share > 0 else ():
            _check(archive, batch, found, clock)
            found.schedules += len(batch)
    return found


def _check(archive: Archive, batch: Sequence[Object], found: Checked, clock: Callable[[], datetime]) -> None:
    """Read, enter what came out, heal."""
    wrong = {one.subject_id: why for one, why in read(archive, batch) if why is not None}
    whole = [one.subject_id for one in batch if one.subject_id not in wrong]
    with transaction(archive.connections) as conn:
        damaged = _enter(conn, archive, whole, wrong, clock())
    found.damaged |= damaged
    for one in batch:
        if one.subject_id in damaged and (name := _heal(archive, one, clock())) is not None:
            found.healed[one.subject_id] = name
    found.bytes += sum(one.sealed_bytes for one in batch)


def _heal(archive: Archive, one: Object, now: datetime) -> str | None:
    """From where it was had whole; the object is as it was, and the history says so."""
    elsewhere: dict[str, Callable[[], BinaryIO]] = {
        name: partial(second.open, one.key) for name, second in archive.seconds.items()
    }
    if one.key.startswith("schedules/"):
        elsewhere[CATALOG] = partial(_document, archive, one)
    for name, opened in elsewhere.items():
        try:
            with opened() as source, TemporaryFile() as copy:
                shutil.copyfileobj(source, copy)
                copy.seek(0)
                if digest_of(copy)[0] != one.sealed_sha256:
                    continue
                stored = archive.vault.mend(one.key, one.version, copy, sha256=one.sealed_sha256, size=one.sealed_bytes)
        except (NotFound, Damaged):
            continue
        with transaction(archive.connections) as conn:
            for statement in (
                "UPDATE contents SET version = %s WHERE record_id = %s",
                "UPDATE quarantine SET version = %s WHERE quarantine_id = %s",
                "UPDATE object_locks SET version = %s WHERE subject_id = %s",
                "UPDATE descriptors SET version = %s WHERE descriptor_id = %s",
            ):
                conn.execute(statement.encode(), (stored.version, one.subject_id))
            detail = {"healed": 1, "versions": [stored.version]}
            ledger.append(conn, [Event("rec", now, archive.agent, (one.subject_id,), detail=detail)], now)
        return name
    return None


def _document(archive: Archive, one: Object) -> BinaryIO:
    """The text of a schedule, as the catalog has it."""
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT document FROM schedule_versions WHERE digest = %s", (one.sealed_sha256,)).fetchone()
    return BytesIO(row[0].encode() if row else b"")


def _enter(
    conn: Connection, archive: Archive, whole: Sequence[UUID], wrong: dict[UUID, str], now: datetime
) -> dict[UUID, str]:
    """The times and the events of a batch; returns what is damaged, and was not destroyed meanwhile."""
    still = sql.SQL(
        "SELECT subject_id FROM ({0}) AS d WHERE subject_id = ANY ({1}::uuid[]) "
        "UNION ALL SELECT descriptor_id FROM descriptors WHERE descriptor_id = ANY ({1}::uuid[]) "
        "UNION ALL SELECT encode(substr(digest, 1, 16), 'hex')::uuid FROM schedule_versions"
    )
    kept = {row[0] for row in conn.execute(still.format(DOCUMENTS, [*whole, *wrong]))}
    there = [subject for subject in whole if subject in kept]
    damaged = {subject: why for subject, why in wrong.items() if subject in kept}
    conn.execute("UPDATE contents SET verified_at = %s WHERE record_id = ANY(%s)", (now, there))
    conn.execute("UPDATE quarantine SET verified_at = %s WHERE quarantine_id = ANY(%s)", (now, there))
    events = []
    if there:
        events.append(Event("fix", now, archive.agent, tuple(there), detail={"read": len(there)}))
    if damaged:
        events.append(Event("fix", now, archive.agent, tuple(damaged), "failure", {"damaged": len(damaged)}))
    ledger.append(conn, events, now)
    return damaged
