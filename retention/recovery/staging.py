"""What a recovery has beside the history: the rows of a dump, where there is one, and what stands in the vault.

Rules of this module:
- Everything here is in temporary tables of the recovery's own transaction: it is material, and no catalog yet.
- `dumped_<table>` has the columns of the table and none of its constraints. Without a dump it is empty.
- What the vault holds is listed and read, never believed to be what a row says: descriptor objects with their lines,
  documents by key and size, schedules by their digest.
- A descriptor object that cannot be read is named, and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from hashlib import sha256
from uuid import UUID

from psycopg import sql

from retention import descriptors, locked_keys, policy, schedule
from retention.backup import points
from retention.backup.points import NOT_DUMPED, Point
from retention.database import Connection
from retention.disposition.plans import ONE_STAGE
from retention.errors import Damaged, MunimentError
from retention.history.offline import Problem
from retention.parallel import in_order
from retention.seal import RecordKey, Safe
from retention.vault.base import Stored, Vault
from retention.verification.facts import TRIGGER_EVENTS

_DESCRIPTORS, _SCHEDULES = "descriptors", "schedules"
_DOCUMENTS = ("quarantine", "records")

Teller = Callable[[int, int], None]


def make(conn: Connection) -> None:
    """Empty tables, until the transaction ends."""
    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    for (table,) in rows.fetchall():
        if table not in NOT_DUMPED:
            conn.execute(
                sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT * FROM {} WITH NO DATA").format(
                    sql.Identifier(f"dumped_{table}"), sql.Identifier("public", table)
                )
            )
    conn.execute(
        """CREATE TEMP TABLE stood_objects (descriptor_id uuid, sha256 bytea, bytes bigint, version text)
               ON COMMIT DROP;
           CREATE TEMP TABLE stood_lines (subject_id uuid, revision integer, descriptor_id uuid, byte_offset bigint,
                                          byte_length bigint, sha256 bytea) ON COMMIT DROP;
           CREATE TEMP TABLE stood_documents (key text COLLATE "C", size bigint) ON COMMIT DROP;
           CREATE TEMP TABLE manifest (key text COLLATE "C") ON COMMIT DROP;
           CREATE TEMP TABLE stood_schedules (digest bytea, document text, open_classes text[]) ON COMMIT DROP;
           CREATE TEMP TABLE stage_names (name text, digest bytea) ON COMMIT DROP"""
    )


def load(conn: Connection, vault: Vault, point: Point) -> None:
    """The rows of a recovery point. Raises NotFound or Damaged for a page that is not what was signed."""
    for table in point.index.tables:
        columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
        into = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(f"dumped_{table.name}"), columns)
        with conn.cursor().copy(into) as copy:
            for page in table.pages:
                copy.write(points.unpacked(vault, page.sha256))
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(f"dumped_{table.name}")))
    with conn.cursor().copy("COPY manifest FROM STDIN") as copy:
        for key, _, _ in points.objects(vault, point):
            copy.write_row((key,))
    conn.execute("ANALYZE manifest")


def look(conn: Connection, vault: Vault, threads: int, tell: Teller | None = None) -> list[Problem]:
    """Read what the vault holds into the tables; what cannot be read is told."""
    problems = [*_look_at_descriptors(conn, vault, threads, tell), *_look_at_schedules(conn, vault)]
    with conn.cursor().copy("COPY stood_documents (key, size) FROM STDIN") as copy:
        for folder in _DOCUMENTS:
            for stored in vault.list(folder):
                copy.write_row((stored.key, stored.size))
    for table in ("stood_lines", "stood_documents"):
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
    return problems


# ---------------------------------------------------------------- descriptor objects


@dataclass(frozen=True, slots=True)
class _Read:
    """One descriptor object as it stands in the vault."""

    id: UUID
    version: str
    content: bytes
    lines: Sequence[tuple[UUID, int, int, int, bytes]]  # subject, revision, offset, length, SHA-256


def _look_at_descriptors(conn: Connection, vault: Vault, threads: int, tell: Teller | None) -> Iterator[Problem]:
    done = 0
    threads = min(threads, vault.threads)
    with ThreadPoolExecutor(threads, "recovery") as pool:
        for stored, one in in_order(pool, partial(_read, vault), vault.list(_DESCRIPTORS), threads):
            done += 1
            if not isinstance(one, _Read):
                yield Problem(f"vault {stored.key}", str(one))
                continue
            conn.execute(
                "INSERT INTO stood_objects VALUES (%s, %s, %s, %s)",
                (one.id, sha256(one.content).digest(), len(one.content), one.version),
            )
            with conn.cursor().copy("COPY stood_lines FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["uuid", "int4", "uuid", "int8", "int8", "bytea"])
                for subject, revision, *rest in one.lines:
                    copy.write_row((subject, revision, one.id, *rest))
            if tell:
                tell(done, done)


def _read(vault: Vault, stored: Stored) -> tuple[Stored, _Read | MunimentError | ValueError]:
    """The object, or why it cannot be read."""
    try:
        version = vault.stat(stored.key).version
        with vault.open(stored.key, version) as file:
            content = file.read()
        return stored, _Read(UUID(stored.key.rpartition("/")[2]), version, content, [*_lines(content)])
    except (MunimentError, ValueError) as error:
        return stored, error


def _lines(content: bytes) -> Iterator[tuple[UUID, int, int, int, bytes]]:
    at = len(descriptors.HEADER)
    for subject, revision, line in descriptors.frames(content):
        at += descriptors.FRAME.size
        yield subject, revision, at, len(line), sha256(line).digest()
        at += len(line)


# ---------------------------------------------------------------- schedules


def _look_at_schedules(conn: Connection, vault: Vault) -> Iterator[Problem]:
    """Each as it was loaded, with what is made of it."""
    for stored in vault.list(_SCHEDULES):
        try:
            with vault.open(stored.key) as file:
                content = file.read()
            digest = sha256(content).digest()
            if digest.hex() != stored.key.rpartition("/")[2]:
                raise Damaged(f"its bytes have SHA-256 {digest.hex()}.")
            parsed = schedule.load(content.decode(), stored.key)
        except (MunimentError, UnicodeDecodeError) as error:
            yield Problem(f"vault {stored.key}", str(error))
            continue
        conn.execute(
            "INSERT INTO stood_schedules VALUES (%s, %s, %s)",
            (digest, content.decode(), policy.open_classes(parsed)),
        )
        names = {stage.name for known in parsed.classes for stage in (*known.review, *ONE_STAGE)}
        conn.execute(
            "INSERT INTO stage_names SELECT n, sha256(convert_to(n, 'UTF8')) FROM unnest(%s::text[]) AS n",
            (sorted(names),),
        )


# ---------------------------------------------------------------- keys that stand beside what is locked


def open_keys(conn: Connection, vault: Vault, safe: Safe, now: datetime) -> list[Problem]:
    """The keys of locked records that are in no dump and stand in the vault (retention.locked_keys), as if it had
    them: wrapped under the present bucket of the class that each was captured in."""
    problems = []
    for stored in vault.list(locked_keys.FOLDER):
        try:
            with vault.open(stored.key) as file:
                content = file.read()
            keys = _told_keys(conn, safe, stored.key, content)
        except MunimentError as error:
            problems.append(Problem(f"vault {stored.key}", str(error)))
            continue
        classes = conn.execute(
            "SELECT subject, detail ->> 'class' FROM history WHERE type = 'ing' AND subject = ANY(%s)", ([*keys],)
        ).fetchall()
        for record, scope in classes:
            bucket = safe.current(scope, now.astimezone(UTC).date(), now)
            conn.execute(
                "INSERT INTO dumped_subject_keys (subject_id, bucket_id, wrapped) SELECT %(id)s, %(bucket)s, %(key)s "
                "WHERE NOT EXISTS (SELECT FROM dumped_subject_keys WHERE subject_id = %(id)s)",
                {"id": record, "bucket": bucket.id, "key": bucket.wrap(keys[record])},
            )
    return problems


def _told_keys(conn: Connection, safe: Safe, key: str, content: bytes) -> dict[UUID, RecordKey]:
    """Raises Damaged for an object that no event put there."""
    told = "SELECT FROM history WHERE type = 'rep' AND detail ->> 'key_object' = %s AND detail ->> 'sha256' = %s"
    if conn.execute(told, (key, sha256(content).hexdigest())).fetchone() is None:
        raise Damaged("no event put it there as it is: it was changed, or somebody wrote it.")
    return locked_keys.opened(safe, key, content)


# ---------------------------------------------------------------- days that only sealed lines have


def open_days(conn: Connection, vault: Vault, safe: Safe) -> list[Problem]:
    """The days of events that the dump does not have and whose sealed lines open, as if it had them."""
    problems = []
    rows = conn.execute(
        sql.SQL(
            """SELECT l.descriptor_id, o.version, l.byte_offset, l.byte_length, t.trigger_event_id, k.bucket_id,
                      k.wrapped
                 FROM ({told}) AS t
                 JOIN stood_lines l ON l.subject_id = t.trigger_event_id
                 JOIN stood_objects o USING (descriptor_id)
                 JOIN dumped_subject_keys k ON k.subject_id = t.subject_id
                WHERE t.retracts IS NULL AND NOT EXISTS (
                      SELECT FROM dumped_trigger_events d WHERE d.trigger_event_id = t.trigger_event_id)
                ORDER BY l.descriptor_id"""
        ).format(told=sql.SQL(TRIGGER_EVENTS))
    ).fetchall()
    content, present = b"", None
    for descriptor, version, offset, length, event, bucket, wrapped in rows:
        if present != descriptor:
            with vault.open(f"{_DESCRIPTORS}/{descriptor}", version) as file:
                content, present = file.read(), descriptor
        try:
            key = safe.bucket(bucket).unwrap(bytes(wrapped))
            said = descriptors.decode(key.open(content[offset : offset + length]))[1].metadata["effective"]
        except (MunimentError, KeyError) as error:
            problems.append(Problem(f"table trigger_events, row {event}", f"its sealed line does not open: {error}"))
            continue
        conn.execute(
            "INSERT INTO dumped_trigger_events (trigger_event_id, effective) VALUES (%s, %s)",
            (event, date.fromisoformat(str(said))),
        )
    return problems
