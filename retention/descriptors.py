"""Descriptors: what describes records, sealed, in the vault; the description tables are built from them.

Rules of this module:
- A descriptor object `descriptors/<uuid>` is written once and never rewritten. Its bytes are a header line and
  then, for each line: subject id (16 bytes), revision (4, big-endian), length (8), sealed bytes. The catalog
  keeps object, offset, length and digest of each line; the highest revision of a subject wins.
- A line is sealed with its subject's own key: destroying the key makes the line unreadable, in every copy.
- The plain form of a line: length of the head (4 bytes), head (JSON, zlib), text (UTF-8, zlib).
- Description tables hold nothing that cannot be rebuilt from here. `rebuild` finds what is missing (all of it
  after a crash of PostgreSQL, because they are UNLOGGED), in batches, and touches nothing else.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from psycopg import sql

from retention.archive import Archive, load_key, load_keys
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound
from retention.model import Coded, Description, new_id
from retention.seal import RecordKey

HEADER = b"muniment-descriptors/1\n"
MAX_BYTES = 8 * 1024 * 1024
# A tsvector holds at most 1 MB, and a hyphenated word or a path counts up to three times: so many characters
# are searched as they stand, and of what follows so many bytes of words, each once. All is in the descriptor.
PHRASED_CHARS = 40_000
WORD_BYTES = 200_000
READ_CHARS = 2_000_000
FIELD_CHARS = 500
# PostgreSQL keeps 256 places of a word, which the commonest words of a language (one in twenty) fill in about so
# many characters: in a longer text two words that stand together need not be found as a phrase.
ORDERED_CHARS = 20_000
# Marks in the index, which no word of a text or of a search can be: what a search cannot know of a text.
EMPTY, UNORDERED, CUT = "~empty", "~unordered", "~cut"
_WORD = re.compile(r"[^\W_]{2,40}")
FRAME = struct.Struct(">16sIQ")
_NIQQUD = re.compile("[֑-ׇ]")


@dataclass(frozen=True, slots=True)
class Line:
    """Where one sealed description stands."""

    subject_id: UUID
    revision: int
    descriptor_id: UUID
    offset: int
    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor object as the vault holds it."""

    id: UUID
    sha256: bytes
    bytes: int
    version: str


# ---------------------------------------------------------------- the form of a line


def encode(kind: str, description: Description) -> bytes:
    head = {
        "kind": kind,
        "name": description.name,
        "source": description.source,
        "place": description.place,
        "title": description.title,
        "author": description.author,
        "mime": description.mime,
        "puid": description.puid,
        "language": description.language,
        "sha256": description.sha256.hex() if description.sha256 else None,
        "modified": description.modified.isoformat() if description.modified else None,
        "metadata": dict(description.metadata),
        "findings": [[f.code, f.severity, f.message] for f in description.findings],
    }
    # ASCII, because a name that is not UTF-8 holds lone surrogates, which only escapes can carry
    packed = zlib.compress(json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode("ascii"), 6)
    return struct.pack(">I", len(packed)) + packed + description.text


def decode(plain: bytes) -> tuple[str, Description]:
    """Kind and description. Raises Damaged for bytes that are not the plain form of a line."""
    try:
        (size,) = struct.unpack_from(">I", plain)
        head = json.loads(zlib.decompress(plain[4 : 4 + size]))
        return head["kind"], Description(
            name=head["name"],
            source=head["source"],
            place=head["place"],
            title=head["title"],
            author=head["author"],
            mime=head["mime"],
            puid=head["puid"],
            language=head["language"],
            sha256=bytes.fromhex(head["sha256"]) if head["sha256"] else None,
            modified=datetime.fromisoformat(head["modified"]) if head["modified"] else None,
            metadata=head["metadata"],
            findings=tuple(Coded(*f) for f in head["findings"]),
            text=plain[4 + size :],
        )
    except (struct.error, zlib.error, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"a descriptor line opened to something else than a description ({error})") from None


# ---------------------------------------------------------------- to the vault


def store(
    archive: Archive, sealed: Iterable[tuple[UUID, int, bytes]], now: datetime
) -> tuple[list[Descriptor], list[Line]]:
    """Put sealed lines (subject, revision, bytes) into as few objects as 8 MB allow. Rows are written later."""
    objects: list[Descriptor] = []
    lines: list[Line] = []
    content, pending = bytearray(HEADER), new_id(now)

    def flush() -> None:
        nonlocal content, pending
        if len(content) > len(HEADER):
            digest = sha256(content).digest()
            stored = archive.vault.put(f"descriptors/{pending}", bytes(content), sha256=digest, size=len(content))
            objects.append(Descriptor(pending, digest, len(content), stored.version))
        content, pending = bytearray(HEADER), new_id(now)

    for subject, revision, line in sealed:
        if len(content) + FRAME.size + len(line) > MAX_BYTES:
            flush()
        content += FRAME.pack(subject.bytes, revision, len(line))
        lines.append(Line(subject, revision, pending, len(content), len(line), sha256(line).digest()))
        content += line
    flush()
    return objects, lines


def frames(content: bytes) -> Iterator[tuple[UUID, int, bytes]]:
    """The lines of a descriptor object. Raises Damaged if it is not one, or is cut."""
    if not content.startswith(HEADER):
        raise Damaged(f"descriptor object: expected header {HEADER!r}, found {content[:24]!r}")
    at = len(HEADER)
    while at < len(content):
        if at + FRAME.size > len(content):
            raise Damaged(f"descriptor object: cut in a frame at byte {at}")
        subject, revision, length = FRAME.unpack_from(content, at)
        at += FRAME.size
        if at + length > len(content):
            raise Damaged(f"descriptor object: line at byte {at} says {length} bytes, {len(content) - at} follow")
        yield UUID(bytes=subject), revision, content[at : at + length]
        at += length


# ---------------------------------------------------------------- to the catalog


def insert(conn: Connection, objects: Sequence[Descriptor], lines: Sequence[Line], now: datetime) -> None:
    """Rows of stored descriptors, in the transaction that captures their subjects."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO descriptors (descriptor_id, sha256, bytes, version, recorded_at) VALUES (%s, %s, %s, %s, %s)",
            [(o.id, o.sha256, o.bytes, o.version, now) for o in objects],
        )
        with cursor.copy(
            "COPY descriptor_lines (subject_id, revision, descriptor_id, byte_offset, byte_length, sha256) "
            "FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["uuid", "int4", "uuid", "int8", "int8", "bytea"])
            for line in lines:
                copy.write_row(
                    (
                        line.subject_id,
                        line.revision,
                        line.descriptor_id,
                        line.offset,
                        line.length,
                        line.sha256,
                    )
                )


def describe(
    conn: Connection, descriptions: Iterable[tuple[UUID, int, str, Description]], table: str = "descriptions"
) -> None:
    """Fill the description tables (subject, revision, kind, description); a higher revision replaces.

    `table`: another one of the same shape."""
    with conn.cursor() as cursor:
        cursor.executemany(
            sql.SQL("""INSERT INTO {table} AS there (subject_id, revision, kind, title, name, source, place, mime, puid,
                                         language, author, sha256, metadata, messages, search)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
                       setweight(to_tsvector('simple', %s), 'A') || to_tsvector('simple', %s) || %s::tsvector)
               ON CONFLICT (subject_id) DO UPDATE
                  SET revision = EXCLUDED.revision, kind = EXCLUDED.kind, title = EXCLUDED.title,
                      name = EXCLUDED.name, source = EXCLUDED.source, place = EXCLUDED.place,
                      mime = EXCLUDED.mime, puid = EXCLUDED.puid, language = EXCLUDED.language,
                      author = EXCLUDED.author, sha256 = EXCLUDED.sha256, metadata = EXCLUDED.metadata,
                      messages = EXCLUDED.messages, search = EXCLUDED.search
                WHERE there.revision < EXCLUDED.revision""").format(table=sql.Identifier(table)),
            (_row(*one) for one in descriptions),
        )


def searchable(text: str) -> str:
    """Text as it is searched: without niqqud (Hebrew points), so that pointed and plain spelling meet."""
    return _NIQQUD.sub("", text)


def indexed(text: str) -> tuple[str, str]:
    """What of a text goes into the index: its beginning, then the words that are new in the rest; and the marks."""
    marks = [mark for mark, true in ((EMPTY, not text.strip()), (UNORDERED, len(text) > ORDERED_CHARS)) if true]
    head, rest = text[:PHRASED_CHARS], text[PHRASED_CHARS - 40 :] if len(text) > PHRASED_CHARS else ""
    known = set(_WORD.findall(head.lower())) if rest else set()
    words, room = [], WORD_BYTES
    for word in _WORD.findall(rest.lower()):
        if word not in known:
            known.add(word)
            room -= len(word.encode()) + 4
            if room < 0:
                marks.append(CUT)
                break
            words.append(word)
    return " ".join([head, *words]), " ".join(f"'{mark}'" for mark in marks)


def printable(text: str) -> str:
    """Text that PostgreSQL can hold and a person can read: bytes that are not UTF-8 as \\xNN, NUL taken out."""
    return text.replace("\0", "").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(subject: UUID, revision: int, kind: str, d: Description) -> tuple[Any, ...]:
    body = zlib.decompressobj().decompress(d.text, READ_CHARS * 4) if d.text else b""
    headline = " ".join(printable(part)[:FIELD_CHARS] for part in (d.title, d.name, d.place, d.author) if part)
    return (
        subject,
        revision,
        kind,
        _optional(d.title),
        printable(d.name),
        printable(d.source),
        printable(d.place),
        d.mime,
        d.puid,
        d.language,
        _optional(d.author),
        d.sha256,
        json.dumps(plain_json(d.metadata)),
        json.dumps([{"code": f.code, "severity": f.severity, "message": printable(f.message)} for f in d.findings]),
        searchable(re.sub(r"[/_.-]", " ", headline) + " " + headline),
        *indexed(searchable(printable(body.decode("utf-8", "ignore")))),
    )


def _optional(text: str | None) -> str | None:
    return None if text is None else printable(text)


def plain_json(value: Any) -> Any:
    """Metadata as JSON can hold it and a person can read it."""
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {printable(str(k)): plain_json(v) for k, v in value.items()}
        case list() | tuple():
            return [plain_json(v) for v in value]
        case float() if not math.isfinite(value):
            return None  # JSON has no such numbers
        case _:
            return value


# ---------------------------------------------------------------- after a crash


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did; `failures` names each descriptor object that could not be read, and why."""

    subjects: int
    failures: tuple[str, ...] = ()


def missing(conn: Connection) -> int:
    """How many subjects have a key and a descriptor line, and no row in the description tables."""
    if conn.execute("SELECT 1 FROM descriptions_complete").fetchone():
        return 0
    row = conn.execute(
        "SELECT count(DISTINCT l.subject_id) FROM descriptor_lines l JOIN subject_keys k USING (subject_id) "
        "WHERE NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = l.subject_id) "
        "AND NOT EXISTS (SELECT FROM tombstones t WHERE t.annex_id = l.subject_id)"
    ).fetchone()
    return int(row[0]) if row else 0


def rebuild(archive: Archive, progress: Callable[[int], None] = lambda _: None) -> Rebuilt:
    """Fill the description tables with what is missing in them. Safe to run twice, and two at once.

    One descriptor object at a time: memory does not grow with the archive. A subject whose key was destroyed
    stays undescribed. An object that is gone or damaged stops no other: it is named, and the tables stay
    marked as incomplete."""
    done, tried, failures = 0, list[UUID](), list[str]()
    while objects := _undescribed_objects(archive, tried):
        for descriptor_id, digest, version in objects:
            tried.append(descriptor_id)
            try:
                done += _rebuild_object(archive, descriptor_id, bytes(digest), version)
            except (Damaged, NotFound) as error:
                failures.append(str(error))
            progress(done)
    if not failures:
        with transaction(archive.connections) as conn:
            conn.execute("INSERT INTO descriptions_complete DEFAULT VALUES ON CONFLICT DO NOTHING")
    return Rebuilt(done, tuple(failures))


def _undescribed_objects(archive: Archive, tried: Sequence[UUID]) -> list[tuple[UUID, bytes, str]]:
    with transaction(archive.connections) as conn:
        return conn.execute(
            """SELECT DISTINCT o.descriptor_id, o.sha256, o.version
                 FROM descriptor_lines l JOIN descriptors o USING (descriptor_id) JOIN subject_keys k USING (subject_id)
                WHERE l.revision = (SELECT max(m.revision) FROM descriptor_lines m WHERE m.subject_id = l.subject_id)
                  AND NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = l.subject_id)
                  AND NOT EXISTS (SELECT FROM tombstones t WHERE t.annex_id = l.subject_id)
                  AND NOT o.descriptor_id = ANY(%s)
                LIMIT 1000""",
            (list(tried),),
        ).fetchall()


def _rebuild_object(archive: Archive, descriptor_id: UUID, digest: bytes, version: str) -> int:
    """Returns how many subjects were described: fewer than are wanted only if another process was faster."""
    with archive.vault.open(f"descriptors/{descriptor_id}", version) as stream:
        content = stream.read()
    found = sha256(content).digest()
    if found != digest:
        raise Damaged(
            f"descriptors/{descriptor_id}: expected SHA-256 {digest.hex()}, found {found.hex()}. "
            "Heal it from a replica; nothing was changed."
        )
    with transaction(archive.connections) as conn:
        wanted = {
            (row[0], row[1])
            for row in conn.execute(
                # the keys stay until this ends: nobody is described whose record is destroyed meanwhile
                """SELECT l.subject_id, l.revision FROM descriptor_lines l JOIN subject_keys k USING (subject_id)
                    WHERE l.descriptor_id = %s AND NOT EXISTS (SELECT FROM descriptions d
                           WHERE d.subject_id = l.subject_id AND d.revision >= l.revision)
                      AND NOT EXISTS (SELECT FROM tombstones t WHERE t.annex_id = l.subject_id)
                      FOR KEY SHARE OF k""",
                (descriptor_id,),
            )
        }
        keys: Mapping[UUID, RecordKey] = load_keys(conn, archive.safe, [subject for subject, _ in wanted])
        opened = [
            (subject, revision, *decode(keys[subject].open(line)))
            for subject, revision, line in frames(content)
            if (subject, revision) in wanted and subject in keys
        ]
        describe(conn, sorted(opened, key=lambda one: one[0]))
        return len(opened)


def read_line(archive: Archive, conn: Connection, subject_id: UUID, *, sealed_for: UUID | None = None) -> Description:
    """The newest description of one subject, exactly as it was captured; `sealed_for` is whose key it has, where that
    is another's (an event has the key of its record). Raises NotFound, Damaged."""
    row = conn.execute(
        "SELECT descriptor_id, version, byte_offset, byte_length, l.sha256 FROM descriptor_lines l "
        "JOIN descriptors USING (descriptor_id) WHERE subject_id = %s ORDER BY revision DESC LIMIT 1",
        (subject_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"{subject_id}: no descriptor line in the catalog.")
    with archive.vault.open(f"descriptors/{row[0]}", row[1]) as stream:
        line = stream.read()[row[2] : row[2] + row[3]]
    if sha256(line).digest() != bytes(row[4]):
        raise Damaged(f"descriptors/{row[0]}: the line at byte {row[2]} is not what was stored. Heal from a replica.")
    return decode(load_key(conn, archive.safe, sealed_for or subject_id).open(line))[1]
