"""Records opened from the vault for somebody else: what is handed out is what was captured, or it is not.

Rules of this module:
- A document is given out only if the sealed bytes are those of their digest and open to the bytes of the
  commitment. A file that failed is not to be used, whatever was written to it.
- A record that cannot be opened is a `Finding` with a code, and stops no other; a store that is away stops all.
- Memory does not grow with a document; descriptions are held as many at once as fit in `WAVE_BYTES`.
"""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from hashlib import sha256, sha512
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import UUID

from retention.archive import Archive, load_key, load_keys
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound
from retention.model import RecordState
from retention.packages.bags import CHUNK, File, Finding
from retention.seal import RecordKey

WAVE_BYTES = 64 * CHUNK  # of sealed descriptions held in memory at once


@dataclass(frozen=True, slots=True)
class Source:
    """One record as the catalog has it, with its key."""

    record_id: UUID
    class_id: str
    labels: tuple[str, ...]
    received: date
    document_date: date | None
    aggregation_id: UUID | None
    parent_id: UUID | None
    sealed_sha256: bytes
    version: str
    commitment: bytes
    descriptor_id: UUID
    descriptor_version: str
    offset: int
    length: int
    line_sha256: bytes
    key: RecordKey

    @property
    def object(self) -> str:
        """The key of its sealed document in the vault."""
        return f"records/{self.record_id}/{self.sealed_sha256.hex()}"


# ---------------------------------------------------------------- from the catalog


def sources(archive: Archive, chunk: Sequence[UUID]) -> tuple[list[Source], dict[UUID, Finding]]:
    """What the catalog has of the records, in order of their ids; and why of some there is nothing."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """SELECT r.state, r.record_id, c.class_id,
                      ARRAY(SELECT x.class_id FROM record_labels m JOIN classes x USING (class_key)
                             WHERE m.record_id = r.record_id ORDER BY 1),
                      r.received, r.document_date, r.aggregation_id, r.parent_id,
                      t.sealed_sha256, t.version, t.commitment,
                      l.descriptor_id, o.version, l.byte_offset, l.byte_length, l.sha256
                 FROM records r JOIN classes c USING (class_key)
                 LEFT JOIN contents t USING (record_id)
                 LEFT JOIN LATERAL (SELECT * FROM descriptor_lines d WHERE d.subject_id = r.record_id
                                     ORDER BY revision DESC LIMIT 1) l ON true
                 LEFT JOIN descriptors o ON o.descriptor_id = l.descriptor_id
                WHERE r.record_id = ANY(%s)
                ORDER BY r.record_id""",
            (list(chunk),),
        ).fetchall()
        keys = _keys(conn, archive, chunk)
    found: list[Source] = []
    reasons = {one: Finding("RECORD-UNKNOWN", f"record {one}: no such record in the catalog", one) for one in chunk}
    for state, record_id, class_id, labels, received, document_date, aggregation, parent, *stored in rows:
        key = keys.get(record_id)
        missing = [what for what, at in (("content", 0), ("description", 3)) if stored[at] is None]
        if state in (RecordState.DESTROYED, RecordState.TRANSFERRED, RecordState.LOST):
            told = f"record {record_id}: not kept any more, it is {RecordState(state).name.lower()}"
            reasons[record_id] = Finding("RECORD-NOT-KEPT", told, record_id)
        elif isinstance(key, Finding):
            reasons[record_id] = key
        elif key is None or missing:
            told = f"record {record_id}: the catalog has no {'key' if key is None else missing[0]} of it"
            reasons[record_id] = Finding("RECORD-MISSING", told, record_id)
        else:
            dates = (received, document_date)
            values: list[Any] = [record_id, class_id, tuple(labels), *dates, aggregation, parent, *stored, key]
            found.append(Source(*values))
    return found, reasons


def _keys(conn: Connection, archive: Archive, chunk: Sequence[UUID]) -> dict[UUID, RecordKey | Finding]:
    try:
        return dict(load_keys(conn, archive.safe, chunk))
    except (Damaged, NotFound):  # one of them; the others are not to suffer
        found: dict[UUID, RecordKey | Finding] = {}
        for record_id in chunk:
            try:
                found[record_id] = load_key(conn, archive.safe, record_id)
            except (Damaged, NotFound) as error:
                found[record_id] = failed(record_id, error)
        return found


def waves(found: Sequence[Source]) -> Iterator[list[Source]]:
    """As many at once as their sealed descriptions fit in memory."""
    wave: list[Source] = []
    room = WAVE_BYTES
    for source in found:
        if wave and source.length > room:
            yield wave
            wave, room = [], WAVE_BYTES
        wave.append(source)
        room -= source.length
    if wave:
        yield wave


def failed(record_id: UUID, error: Damaged | NotFound) -> Finding:
    """Why a record is not handed out."""
    code = "RECORD-DAMAGED" if isinstance(error, Damaged) else "RECORD-MISSING"
    return Finding(code, f"record {record_id}: {error}", record_id)


def lines(archive: Archive, wave: Sequence[Source]) -> dict[UUID, bytes | Finding]:
    """The sealed description of each record. A descriptor object is read once for all of its lines."""
    found: dict[UUID, bytes | Finding] = {}
    ordered = sorted(wave, key=lambda one: (one.descriptor_id, one.record_id))
    for descriptor_id, group in groupby(ordered, key=lambda one: one.descriptor_id):
        sources = list(group)
        try:
            with archive.vault.open(f"descriptors/{descriptor_id}", sources[0].descriptor_version) as stream:
                content = stream.read()
        except (Damaged, NotFound) as error:
            found |= {source.record_id: failed(source.record_id, error) for source in sources}
            continue
        for source in sources:
            line = content[source.offset : source.offset + source.length]
            told = f"record {source.record_id}: descriptors/{descriptor_id} is not what was stored"
            whole = sha256(line).digest() == source.line_sha256
            found[source.record_id] = line if whole else Finding("RECORD-DAMAGED", told, source.record_id)
    return found


# ---------------------------------------------------------------- from the vault


class _Reading(io.RawIOBase):
    """A stream that is hashed as it is read, and remembers what went wrong: pyrage tells all failures alike."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.failure = stream, sha256(), cast("BaseException | None", None)

    def read(self, size: int = -1, /) -> bytes:
        try:
            block = self.stream.read(size)
        except BaseException as error:
            self.failure = error
            raise
        self.digest.update(block)
        return block


class _Writing(io.RawIOBase):
    """A file that is hashed, twice, as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.failure = file, 0, cast("BaseException | None", None)
        self.sha256, self.sha512 = sha256(), sha512()

    def write(self, block: Any, /) -> int:
        try:
            written = self.file.write(block)
        except BaseException as error:
            self.failure = error
            raise
        self.sha256.update(block)
        self.sha512.update(block)
        self.size += written
        return written


def native(archive: Archive, source: Source, target: Path, path: str) -> File:
    """The document, opened from the vault into `target`. Raises Damaged, NotFound; the file is then to be removed."""
    name = source.object
    with archive.vault.open(name, source.version) as stream, durable(target) as file:
        sealed, opened = _Reading(stream), _Writing(file)
        try:
            source.key.open_file(cast(BinaryIO, sealed), cast(BinaryIO, opened))
        except Damaged as error:
            if failure := sealed.failure or opened.failure:  # a store that is away, a full disk: no damage
                raise failure from None
            raise Damaged(f"{name}: {error}. Heal it from a replica.") from None
        while sealed.read(CHUNK):
            pass
    _refuse_changed(source, sealed.digest.digest())
    if source.key.commitment(opened.sha256.digest()) != source.commitment:
        raise Damaged(f"{name}: opens to other bytes than were captured. The catalog or the vault was changed.")
    return File(path, opened.size, opened.sha256.digest(), opened.sha512.digest())


def sealed(archive: Archive, source: Source, target: Path, path: str) -> File:
    """The sealed object as it is, into `target`. Raises Damaged, NotFound; the file is then to be removed."""
    with archive.vault.open(source.object, source.version) as stream, durable(target) as file:
        copied = _Writing(file)
        shutil.copyfileobj(stream, cast(BinaryIO, copied), CHUNK)
    _refuse_changed(source, copied.sha256.digest())
    return File(path, copied.size, copied.sha256.digest(), copied.sha512.digest())


def _refuse_changed(source: Source, found: bytes) -> None:
    if found != source.sealed_sha256:
        raise Damaged(f"{source.object}: the sealed bytes have SHA-256 {found.hex()}. Heal it from a replica.")


def put(target: Path, path: str, blocks: Iterable[bytes]) -> File:
    with durable(target) as file:
        writing = _Writing(file)
        for block in blocks:
            writing.write(block)
    return File(path, writing.size, writing.sha256.digest(), writing.sha512.digest())


def inflated(packed: bytes) -> Iterator[bytes]:
    """The text of a descriptor, in pieces of bounded size. Raises Damaged."""
    inflate = zlib.decompressobj()
    try:
        while packed:
            yield inflate.decompress(packed, CHUNK)
            packed = inflate.unconsumed_tail
        yield inflate.flush()
    except zlib.error as error:
        raise Damaged(f"the text of a description cannot be read ({error})") from None


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
