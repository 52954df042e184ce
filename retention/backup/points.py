"""One recovery point: what a second vault holds of a catalog at one moment, and how to read it again.

Format, below the second vault's keys:

    points/<uuid v7>        a signed note (C2SP) by the ledger's key, of these lines:
                                muniment recovery point v1
                                <id>
                                <time, ISO 8601, UTC>
                                <origin of the ledger>
                                <size of the ledger at that moment> <root, hex>
                                <SHA-256 of the index, hex>
    pages/<sha256>          gzip, under the digest of the bytes as they stand there; one of
      the index             JSON: what the point consists of (`Index`), with the digest and size of each page
      a page of rows        lines of COPY (text) of one table, in the order of its primary key
      a page of objects     lines KEY TAB BYTES TAB SHA-256 (hex, of the sealed object), in the order of the keys
    safe/<time>-<digest>    the copy of the key safe that the index names, sealed to the root

    Every other object has in the second vault the key that it has in the first; the ledger is published there.

Rules of this module:
- A point is complete or it is not there: its pages and index are stored before its note, and the note is all that a
  reader begins with. Pages that nothing names are left by a crash, and are pruned.
- All of it is of one snapshot (`write` is called in a REPEATABLE READ transaction), at which the ledger had `size`
  events. They are published in the second vault before the point is signed: the caller sees to it.
- A page ends where the digest of a row's key says so (one in 4,096), at the latest after 10,000 lines. So what is added
  or goes changes the pages around it alone; all others are the same bytes, and are stored once for all points.
- Dumped is every table but those of the ledger, which is published, and the description tables, which are made of the
  sealed lines (retention.recovery): control tables hold no words of a person, and keys only wrapped.
- What is read is believed only with a signature of the ledger's keys, and page by page with its digest.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from retention import database
from retention.database import Connection
from retention.errors import Damaged, MunimentError
from retention.model import new_id
from retention.tlog import note
from retention.tlog.note import Signer, Verifier
from retention.vault.base import Vault

POINTS, PAGES, SAFE = "points", "pages", "safe"
FORMAT = "muniment recovery point v1"

# Published, or made anew: in no dump.
NOT_DUMPED = frozenset(
    {
        *("events", "event_subjects", "ledger_head", "ledger_checkpoints", "schema_migrations"),
        *("descriptions", "descriptions_complete"),
    }
)

_CUT, _LONGEST = 4_096, 10_000  # lines of a page: about, at most
_WAITING = 32  # pages that wait to be put

# Every object that the catalog says is in the vault, by key: bytes and digest of what stands there. `left_out`: classes
# whose content is not for this vault; `only`: those that are asked for, all if NULL.
OBJECTS: LiteralString = """
SELECT key COLLATE "C" AS key, version, bytes, sha256 FROM (
    SELECT 'records/' || record_id || '/' || encode(sealed_sha256, 'hex') AS key, version, sealed_bytes AS bytes,
           sealed_sha256 AS sha256
      FROM contents JOIN records USING (record_id) JOIN classes USING (class_key)
     WHERE class_id <> ALL (%(left_out)s::text[])
       AND (%(only)s::text[] IS NULL OR class_id = ANY (%(only)s::text[]))
    UNION ALL
    SELECT 'quarantine/' || quarantine_id, version, sealed_bytes, sealed_sha256 FROM quarantine
     WHERE key_destroyed_at IS NULL AND %(only)s::text[] IS NULL
    UNION ALL
    SELECT 'descriptors/' || descriptor_id, version, bytes, sha256 FROM descriptors WHERE %(only)s::text[] IS NULL
    UNION ALL
    SELECT DISTINCT 'schedules/' || encode(digest, 'hex'), '', octet_length(document), digest FROM schedule_versions
     WHERE %(only)s::text[] IS NULL
) AS every
"""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the digest that it stands under, its bytes there, its lines."""

    sha256: str
    bytes: int
    lines: int


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one table at that moment."""

    name: str
    columns: tuple[str, ...]
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """What a point consists of. `safe`: the key of the copy of the key safe; None where there was none."""

    migrations: tuple[tuple[int, str], ...]  # number, SHA-256
    tables: tuple[Table, ...]
    objects: tuple[Page, ...]
    count: int  # of objects
    bytes: int  # of all objects
    safe: str | None


@dataclass(frozen=True, slots=True)
class Point:
    """A recovery point, as it was signed."""

    id: UUID
    time: datetime
    origin: str
    size: int  # of the ledger
    root: bytes
    index_sha256: str
    index: Index = field(repr=False)

    @property
    def key(self) -> str:
        return f"{POINTS}/{self.id}"


@dataclass(slots=True)
class Written:
    """What `write` did: pages of the point, and those that were not there yet, with their bytes."""

    point: Point
    pages: int = 0
    new: int = 0
    bytes: int = 0


# ---------------------------------------------------------------- writing


def write(
    conn: Connection,
    second: Vault,
    head: tuple[str, int, bytes],
    safe: str | None,
    signer: Signer,
    now: datetime,
    threads: int = 8,
    left_out: Sequence[str] = (),
) -> Written:
    """Store one point of what the snapshot of `conn` sees. `head`: origin, size and root of the ledger in it, published
    in the second vault; `safe`: the key of the copy of the key safe there; `left_out`: classes of which the vault has
    no content.

    Raises ServiceUnavailable or Damaged: then there is no point, and the same is run again."""
    point_id = new_id(now)
    there = {stored.key.rpartition("/")[2] for stored in second.list(PAGES)}
    made = _Pages(second, there, threads)
    dumped = tuple(_dump(conn, made, table) for table in tables(conn))
    of = {"left_out": list(left_out), "only": None}
    objects = tuple(made.store(_pages(_object_lines(conn, of))))
    count, size = conn.execute(
        sql.SQL("SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM ({}) AS o").format(sql.SQL(OBJECTS)), of
    ).fetchone() or (0, 0)
    migrations = tuple((number, sha256(text.encode()).hexdigest()) for number, _, text in database.migrations())
    index = Index(migrations, dumped, objects, count, size, safe)
    (page,) = made.store([(_packed(json.dumps(asdict(index), sort_keys=True).encode()), 1)])
    origin, at, root = head
    point = Point(point_id, now, origin, at, root, page.sha256, index)
    text = _text(point)
    signed = note.Note(text, (note.sign(text, signer),)).encode()
    second.put(point.key, signed, sha256=sha256(signed).digest(), size=len(signed))
    return Written(point, made.count, made.new, made.stored)


def _text(point: Point) -> str:
    time = point.time.astimezone(UTC).isoformat()
    lines = (FORMAT, point.id, time, point.origin, f"{point.size} {point.root.hex()}", point.index_sha256)
    return "".join(f"{line}\n" for line in lines)


def tables(conn: Connection) -> list[str]:
    """Those that a point has the rows of."""
    rows = conn.execute(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [row[0] for row in rows if row[0] not in NOT_DUMPED]


def _dump(conn: Connection, made: _Pages, table: str) -> Table:
    columns = [
        row[0]
        for row in conn.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
            "AND NOT attisdropped ORDER BY attnum",
            (f"public.{table}",),
        )
    ]
    keys = [
        row[0]
        for row in conn.execute(
            """SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (n, at)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
                WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indpred IS NULL
                  AND (i.indisprimary OR NOT EXISTS (
                       SELECT FROM pg_index p WHERE p.indrelid = i.indrelid AND p.indisprimary))
                ORDER BY k.at""",
            (f"public.{table}",),
        )
    ]
    # the key first: where a page ends hangs on it alone, however often the rest of the row changes
    order = [*keys, *(column for column in columns if column not in keys)]
    named = sql.SQL(", ").join(map(sql.Identifier, order))
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        named, sql.Identifier("public", table), sql.SQL(", ").join(map(sql.Identifier, keys))
    )

    def lines() -> Iterator[tuple[bytes, bytes]]:
        with conn.cursor().copy(query) as copy:
            rest = b""
            for block in copy:
                *whole, rest = (rest + bytes(block)).split(b"\n")
                for line in whole:
                    yield b"\t".join(line.split(b"\t", len(keys))[: len(keys)]), line + b"\n"

    return Table(table, tuple(order), tuple(made.store(_pages(lines()))))


def _object_lines(conn: Connection, of: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    with conn.cursor(name="objects") as cursor:
        cursor.itersize = _LONGEST
        cursor.execute(sql.SQL("SELECT key, bytes, sha256 FROM ({}) AS o ORDER BY key").format(sql.SQL(OBJECTS)), of)
        for key, size, digest in cursor:
            yield key.encode(), f"{key}\t{size}\t{bytes(digest).hex()}\n".encode()


def _pages(lines: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, int]]:
    """Pages of lines (key, line), packed, with the number of their lines."""
    page: list[bytes] = []
    for key, line in lines:
        page.append(line)
        if len(page) == _LONGEST or int.from_bytes(sha256(key).digest()[:4]) % _CUT == 0:
            yield _packed(b"".join(page)), len(page)
            page = []
    if page:
        yield _packed(b"".join(page)), len(page)


def _packed(content: bytes) -> bytes:
    """The same bytes for the same content, whenever."""
    return gzip.compress(content, 6, mtime=0)


@dataclass(slots=True)
class _Pages:
    """Pages on their way into the second vault; what is there already is not put again."""

    second: Vault
    there: set[str]
    threads: int
    count: int = 0
    new: int = 0
    stored: int = 0  # bytes

    def store(self, pages: Iterable[tuple[bytes, int]]) -> Iterator[Page]:
        """In their order; memory is that of the pages under way."""

        def put(one: tuple[Page, bytes]) -> Page:
            page, content = one
            self.second.put(f"{PAGES}/{page.sha256}", content, sha256=bytes.fromhex(page.sha256), size=page.bytes)
            return page

        named = ((Page(sha256(content).hexdigest(), len(content), lines), content) for content, lines in pages)
        with ThreadPoolExecutor(self.threads, "pages") as threads:
            while some := list(islice(named, _WAITING)):
                fresh = {page.sha256: (page, content) for page, content in some if page.sha256 not in self.there}
                for page in threads.map(put, fresh.values()):
                    self.there.add(page.sha256)
                    self.new += 1
                    self.stored += page.bytes
                self.count += len(some)
                yield from (page for page, _ in some)


# ---------------------------------------------------------------- reading


def listed(vault: Vault) -> list[UUID]:
    """The points that are there, oldest first, none of them looked at."""
    found = []
    for stored in vault.list(POINTS):
        try:
            found.append(UUID(stored.key.removeprefix(f"{POINTS}/")))
        except ValueError:
            continue  # `check` names what stands there and is none
    return found


def read(vault: Vault, point_id: UUID, verifiers: Sequence[Verifier]) -> Point:
    """One point, verified: its note by a key of the ledger, its index by the digest in it.

    Raises NotFound, Damaged. Its pages are verified when they are read (`lines`)."""
    key = f"{POINTS}/{point_id}"
    with vault.open(key) as file:
        data = file.read(note.MAX_BYTES + 1)
    opened = note.parse(data, key)
    note.verify(opened, verifiers, key)
    lines = opened.text.split("\n")
    if len(lines) != 7 or lines[0] != FORMAT or lines[1] != str(point_id):
        raise Damaged(f"{key}: expected the note of point {point_id} ({FORMAT}), found {lines[:2]}.")
    size, _, root = lines[4].partition(" ")
    try:
        head = (int(size), bytes.fromhex(root))
        index = _index(unpacked(vault, lines[5]))
        return Point(point_id, datetime.fromisoformat(lines[2]), lines[3], *head, lines[5], index)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{key}: it is signed, and cannot be read ({error}). Another version wrote it.") from None


def _index(content: bytes) -> Index:
    found: dict[str, Any] = json.loads(content)
    rows = tuple(
        Table(one["name"], tuple(one["columns"]), tuple(Page(**page) for page in one["pages"]))
        for one in found["tables"]
    )
    objects = tuple(Page(**page) for page in found["objects"])
    migrations = tuple((number, digest) for number, digest in found["migrations"])
    return Index(migrations, rows, objects, found["count"], found["bytes"], found["safe"])


def unpacked(vault: Vault, digest: str) -> bytes:
    """What a page says. Raises NotFound, and Damaged if it is not what its name says."""
    key = f"{PAGES}/{digest}"
    with vault.open(key) as file:
        packed = file.read()
    if (found := sha256(packed).hexdigest()) != digest:
        raise Damaged(f"{key}: its {len(packed):,} bytes have SHA-256 {found}.")
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"{key}: it does not unpack ({error}).") from None


def pages_of(point: Point) -> Iterator[Page]:
    """Every page of a point but the index."""
    for table in point.index.tables:
        yield from table.pages
    yield from point.index.objects


def objects(vault: Vault, point: Point) -> Iterator[tuple[str, int, bytes]]:
    """Key, bytes and digest of every object, in the order of the keys. Raises NotFound, Damaged."""
    for page in point.index.objects:
        for line in unpacked(vault, page.sha256).splitlines():
            key, size, digest = line.decode().split("\t")
            yield key, int(size), bytes.fromhex(digest)


def problem(vault: Vault, point: Point) -> str | None:
    """Why the point cannot be restored: the first page that is missing or damaged. None if all are whole."""
    for page in pages_of(point):
        try:
            unpacked(vault, page.sha256)
        except MunimentError as error:
            return str(error)
    return None
