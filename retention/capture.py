"""Capture: documents become records, a batch at a time.

Rules of this module:
- First the vault, then ONE transaction. Contents and descriptors are sealed, put and read back in parallel;
  only then rows, lists, findings, events and the ledger's head commit together or not at all. A crash before
  the commit leaves orphans in the vault, which nobody names and a sweep removes.
- A batch commits once (`run_batches`): running it again finds that and changes nothing.
- Who admits a document is settled by `sightings`, one row a place: of two runs at once on one folder, one
  captures and the other finds it already known. Places are taken in order, so that writers wait and never
  deadlock.
- A parent and its children are captured together or not at all.
- No record comes into a case file whose key is gone: one that lost it after it was looked up gets a new key, and the
  transaction is tried again.
- A dynamic hold takes in what arrives, in the transaction that captures it (retention.holds).
- The ledger is appended last: its one-row head is locked as briefly as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from retention import aggregations, descriptors, holds, ledger, locks, quarantine, runs, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive, store_keys
from retention.database import Connection, transaction
from retention.ledger import Event
from retention.model import Batch, Committed, Deposit, Description, Item, Outcome, Sighting
from retention.seal import RecordKey, digest_of, new_record_key
from retention.vault.base import Lock, LockMode

_IN_MEMORY = 8 * 1024 * 1024  # bytes; a larger document is sealed to a file beside the spooled one


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sealed document as the vault read it back."""

    key: RecordKey
    sealed_sha256: bytes
    sealed_bytes: int
    version: str
    object_key: str


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What the vault has of a batch; rows follow."""

    placed: Mapping[UUID, _Placed]
    keys: Mapping[UUID, RecordKey]
    objects: Sequence[descriptors.Descriptor]
    lines: Sequence[descriptors.Line]
    cases: aggregations.Sealed


def known(archive: Archive, places: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes | None, UUID]]:
    """What was seen at these places before: place -> (content, revision, subject). One statement for a batch."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT place, content, revision, subject_id FROM sightings WHERE place = ANY(%s)",
            (list(places),),
        )
        return {bytes(row[0]): (bytes(row[1]), row[2] and bytes(row[2]), row[3]) for row in rows}


def destroyed(archive: Archive, contents: Sequence[bytes]) -> dict[bytes, UUID]:
    """Which of these bytes (by their HMAC) were a record that was destroyed: content -> record."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT content, record_id FROM tombstones WHERE content = ANY(%s)", (list(contents),))
        return {bytes(row[0]): row[1] for row in rows}


def capture(archive: Archive, batch: Batch, clock: Callable[[], datetime], releasing: UUID | None = None) -> Committed:
    """Capture a decided batch; the time of record is read from `clock` when the vault has everything.

    `releasing` names the quarantined document that this batch's single unit was, and is decided in the same
    transaction. Raises ServiceUnavailable (vault, database): nothing is half-done, run the batch again."""
    with transaction(archive.connections) as conn:
        if runs.committed(conn, batch.run_id, batch.number):
            return Committed((), 0, again=True)
    placed = _place(archive, batch, clock())
    subjects = _subjects(batch)
    keys = {subject: placed[subject].key if subject in placed else new_record_key() for subject in subjects}
    sealed = ((subject, 1, keys[subject].seal(descriptors.encode(*subjects[subject][:2]))) for subject in subjects)
    there = _Sealed(placed, keys, *descriptors.store(archive, sealed, clock()), aggregations.Sealed())
    while True:
        if named := _cases(batch):
            with transaction(archive.connections) as conn:
                there = replace(there, cases=aggregations.seal(archive, conn, named, clock()))
        with suppress(aggregations.Emptied):
            return _commit(archive, batch, there, clock(), releasing)


def _commit(archive: Archive, batch: Batch, there: _Sealed, now: datetime, releasing: UUID | None) -> Committed:
    """The transaction. Raises aggregations.Emptied."""
    placed, keys, lines = there.placed, there.keys, there.lines
    with transaction(archive.connections) as conn:
        holds.shared(conn)
        runs.hold_open(conn, batch.run_id, batch.number)
        if runs.committed(conn, batch.run_id, batch.number):
            return Committed((), 0, again=True)
        if releasing is not None:
            former = quarantine.take(conn, releasing)
            superseded = {batch.admitted[0].deposits[0].record_id: former} if former else {}
        else:
            taken, superseded = _take_places(conn, batch, now)
            batch = _only(conn, batch, taken)
        subjects = _subjects(batch)
        store_keys(conn, archive.safe, {s: (keys[s], scope) for s, (_, _, scope) in subjects.items()}, now)
        descriptors.insert(conn, there.objects, [line for line in lines if line.subject_id in subjects], now)
        descriptors.describe(conn, ((s, 1, kind, description) for s, (kind, description, _) in subjects.items()))
        opened = aggregations.insert(conn, archive, there.cases, now)
        _insert_records(conn, archive, batch, placed, superseded, now)
        received = {d.record_id: d.received for unit in batch.admitted for d in unit.deposits}
        replaced = triggers.superseded(conn, archive, {old: received[new] for new, old in superseded.items()}, now)
        quarantine.insert(conn, batch.run_id, _kept(batch, placed, superseded), now)
        _insert_findings(conn, subjects)
        held = holds.arrived(conn, archive, [*subjects], now, releasing)
        locks.enqueue(conn, _wanted_locks(batch, placed), now)
        result = Committed(_items(batch), sum(d.size for u in batch.admitted for d in u.deposits))
        runs.record_batch(conn, batch, result, now)
        where = {line.subject_id: line for line in lines}
        events = [*opened, *_events(archive, batch, placed, where, superseded, now), *replaced, *held]
        if releasing is not None:
            record_id = batch.admitted[0].deposits[0].record_id
            events.append(quarantine.release(conn, archive, releasing, record_id, now))
        ledger.append(conn, events, now)
    return result


# ---------------------------------------------------------------- the vault


def _place(archive: Archive, batch: Batch, now: datetime) -> dict[UUID, _Placed]:
    """Seal, put and read back every document of the batch, in parallel. The first failure stops the batch."""
    work: list[tuple[UUID, Path, str, Lock | None]] = []
    for unit in batch.admitted:
        for deposit in unit.deposits:
            lock = None
            if deposit.wanted_lock is not None:
                mode, until = deposit.wanted_lock
                lock = Lock(LockMode(mode), min(until, now + locks.SHORT))
            work.append((deposit.record_id, deposit.path, f"records/{deposit.record_id}/", lock))
    work += [(d.quarantine_id, d.path, quarantine.object_key(d.quarantine_id), None) for _, d in batch.quarantined]
    with ThreadPoolExecutor(archive.settings.vault_threads, thread_name_prefix="vault") as threads:
        futures = [threads.submit(_put, archive, *one[1:]) for one in work]
        try:
            return {one[0]: future.result() for one, future in zip(work, futures, strict=True)}
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def _put(archive: Archive, path: Path, name: str, lock: Lock | None) -> _Placed:
    """`name` ending in "/" is completed with the digest of the sealed bytes."""
    key = new_record_key()
    if path.stat().st_size <= _IN_MEMORY:
        sealed = key.seal(path.read_bytes())
        digest, size = sha256(sealed).digest(), len(sealed)
        name += digest.hex() if name.endswith("/") else ""
        stored = archive.vault.put(name, sealed, sha256=digest, size=size, lock=lock)
        return _Placed(key, digest, size, stored.version, name)
    beside = path.with_name(f"{path.name}.sealed")
    try:
        with path.open("rb") as source, beside.open("w+b") as target:
            key.seal_file(source, target)
            target.seek(0)
            digest, size = digest_of(target)
            target.seek(0)
            name += digest.hex() if name.endswith("/") else ""
            stored = archive.vault.put(name, target, sha256=digest, size=size, lock=lock)
    finally:
        beside.unlink(missing_ok=True)
    return _Placed(key, digest, size, stored.version, name)


# ---------------------------------------------------------------- who admits what


def _take_places(conn: Connection, batch: Batch, now: datetime) -> tuple[dict[bytes, UUID], dict[UUID, UUID]]:
    """Take the places of this batch: place -> subject where it is ours now, and subject -> what it supersedes."""
    wanted = sorted(_seen(batch), key=lambda one: one[0].place)
    places = sorted({s.place for s, _ in wanted} | {place for place, _ in batch.known})
    # All that exist, in one order, before any is made or changed: two writers wait, and never for each other.
    conn.execute("SELECT 1 FROM sightings WHERE place = ANY(%s) ORDER BY place FOR UPDATE", (places,))
    columns = [
        [s.place for s, _ in wanted],
        [s.content for s, _ in wanted],
        [s.revision for s, _ in wanted],
        [subject for _, subject in wanted],
        [s.replaces for s, _ in wanted],
    ]
    conn.execute(
        "UPDATE sightings SET last_seen = %s WHERE place = ANY(%s)", (now, [place for place, _ in batch.known])
    )
    fresh = conn.execute(
        """INSERT INTO sightings (place, content, revision, subject_id, first_seen, last_seen)
           SELECT n.place, n.content, n.revision, n.subject_id, %s, %s
             FROM unnest(%s::bytea[], %s::bytea[], %s::bytea[], %s::uuid[], %s::bytea[])
                  AS n(place, content, revision, subject_id, replaces)
            WHERE n.replaces IS NULL
            ORDER BY n.place
               ON CONFLICT (place) DO NOTHING RETURNING place, subject_id""",
        (now, now, *columns),
    ).fetchall()
    changed = conn.execute(
        """UPDATE sightings s SET content = n.content, revision = n.revision, subject_id = n.subject_id, last_seen = %s
             FROM unnest(%s::bytea[], %s::bytea[], %s::bytea[], %s::uuid[], %s::bytea[])
                  AS n(place, content, revision, subject_id, replaces)
            WHERE s.place = n.place AND s.content = n.replaces
        RETURNING new.place, new.subject_id, old.subject_id""",
        (now, *columns),
    ).fetchall()
    taken = {bytes(row[0]): row[1] for row in [*fresh, *changed]}
    former = {row[2]: row[1] for row in changed}
    records = conn.execute("SELECT record_id FROM records WHERE record_id = ANY(%s)", (list(former),))
    return taken, {former[row[0]]: row[0] for row in records}


def _seen(batch: Batch) -> list[tuple[Sighting, UUID]]:
    """Every place that this batch takes, and the subject that it becomes."""
    return [
        *((u.sighting, u.deposits[0].record_id) for u in batch.admitted),
        *((sighting, detained.quarantine_id) for sighting, detained in batch.quarantined),
        *((sighting, turned.item_id) for sighting, turned in batch.rejected if sighting is not None),
    ]


def _only(conn: Connection, batch: Batch, taken: Mapping[bytes, UUID]) -> Batch:
    """The batch without what another run has captured in the meantime, which is known now.

    If the other one saw other bytes there, ours are in no list: the run shows them as missing, and the next
    one takes them."""
    ours = set(taken.values())
    lost = [(s.place, s.content) for s, subject in _seen(batch) if subject not in ours]
    known = conn.execute(
        "SELECT place, subject_id FROM sightings JOIN unnest(%s::bytea[], %s::bytea[]) AS n(place, content) "
        "USING (place, content)",
        ([place for place, _ in lost], [content for _, content in lost]),
    ).fetchall()
    return replace(
        batch,
        admitted=tuple(u for u in batch.admitted if u.deposits[0].record_id in ours),
        quarantined=tuple(q for q in batch.quarantined if q[1].quarantine_id in ours),
        rejected=tuple(t for t in batch.rejected if t[0] is None or t[1].item_id in ours),
        known=(*batch.known, *((bytes(place), subject) for place, subject in known)),
    )


# ---------------------------------------------------------------- the rows


def _subjects(batch: Batch) -> dict[UUID, tuple[str, Description, str]]:
    """Everything that gets a key and a descriptor line: subject -> (kind, description, scope of its key)."""
    found: dict[UUID, tuple[str, Description, str]] = {}
    for unit in batch.admitted:
        for deposit in unit.deposits:
            found[deposit.record_id] = ("record", deposit.description, deposit.class_id)
    for _, detained in batch.quarantined:
        found[detained.quarantine_id] = ("quarantined", detained.description, quarantine.SCOPE)
    for _, turned in batch.rejected:
        found[turned.item_id] = ("rejected", turned.description, "rejected")
    return found


def _cases(batch: Batch) -> set[Aggregation]:
    """The aggregations that the batch's records belong to."""
    named = {d.aggregation for unit in batch.admitted for d in unit.deposits if d.aggregation}
    return {Aggregation(*one) for one in named}


def _insert_records(
    conn: Connection,
    archive: Archive,
    batch: Batch,
    placed: Mapping[UUID, _Placed],
    superseded: Mapping[UUID, UUID],
    now: datetime,
) -> None:
    deposits = [d for unit in batch.admitted for d in unit.deposits]
    classes = _class_keys(conn, {d.class_id for d in deposits})
    cases = {(one.kind, one.business_id): aggregations.identity(archive.safe, one) for one in _cases(batch)}
    suspended = aggregations.joined(conn, cases.values())
    known_by = {one.record_id: archive.safe.content(one.sha256) for one in (u.deposits[0] for u in batch.admitted)}
    with conn.cursor() as cursor:
        with cursor.copy(
            "COPY records (record_id, bytes, recorded_at, received, document_date, modified, class_key, parent_id, "
            "aggregation_id, special) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["uuid", "int8", "timestamptz", "date", "date", "date", "int2", "uuid", "uuid", "bool"])
            for d in deposits:
                case = cases[d.aggregation] if d.aggregation else None
                copy.write_row(
                    (
                        d.record_id,
                        d.size,
                        now,
                        d.received,
                        d.document_date,
                        d.modified,
                        classes[d.class_id],
                        d.parent_id,
                        case,
                        case in suspended,
                    )
                )
        with cursor.copy(
            "COPY contents (record_id, sealed_sha256, sealed_bytes, version, commitment, verified_at, run_id, "
            "supersedes, content) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["uuid", "bytea", "int8", "text", "bytea", "timestamptz", "uuid", "uuid", "bytea"])
            for d in deposits:
                p = placed[d.record_id]
                copy.write_row(
                    (
                        d.record_id,
                        p.sealed_sha256,
                        p.sealed_bytes,
                        p.version,
                        p.key.commitment(d.sha256),
                        now,
                        batch.run_id,
                        superseded.get(d.record_id),
                        known_by.get(d.record_id),
                    )
                )


def _class_keys(conn: Connection, class_ids: set[str]) -> dict[str, int]:
    query = "SELECT class_id, class_key FROM classes WHERE class_id = ANY(%s)"
    found: dict[str, int] = dict(conn.execute(query, (list(class_ids),)).fetchall())
    if missing := class_ids - found.keys():
        # One name at a time would burn a number for each conflict; smallint has 32,767 of them.
        conn.execute(
            "INSERT INTO classes (class_id) SELECT n FROM unnest(%s::text[]) AS n ORDER BY n ON CONFLICT DO NOTHING",
            (list(missing),),
        )
        found = dict(conn.execute(query, (list(class_ids),)).fetchall())
    return found


def _kept(batch: Batch, placed: Mapping[UUID, _Placed], superseded: Mapping[UUID, UUID]) -> list[quarantine.Kept]:
    kept = []
    for _, detained in batch.quarantined:
        p = placed[detained.quarantine_id]
        commitment = p.key.commitment(detained.sha256)
        kept.append(
            quarantine.Kept(
                quarantine_id=detained.quarantine_id,
                size=detained.size,
                sealed_sha256=p.sealed_sha256,
                sealed_bytes=p.sealed_bytes,
                version=p.version,
                commitment=commitment,
                supersedes=superseded.get(detained.quarantine_id),
            )
        )
    return kept


def _insert_findings(conn: Connection, subjects: Mapping[UUID, tuple[str, Description, str]]) -> None:
    with conn.cursor().copy("COPY findings (subject_id, code, severity) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["uuid", "text", "text"])
        for subject, (_, description, _) in subjects.items():
            for code, severity in _worst(description).items():
                copy.write_row((subject, code, severity))


def _worst(description: Description) -> dict[str, str]:
    """Each code once, with its worst severity."""
    order = ("warn", "quarantine", "reject")
    found: dict[str, str] = {}
    for one in description.findings:
        found[one.code] = max(found.get(one.code, "warn"), one.severity, key=order.index)
    return found


def _wanted_locks(batch: Batch, placed: Mapping[UUID, _Placed]) -> list[locks.Wanted]:
    return [
        locks.Wanted(placed[d.record_id].object_key, placed[d.record_id].version, d.record_id, LockMode(mode), until)
        for unit in batch.admitted
        for d in unit.deposits
        if d.wanted_lock is not None
        for mode, until in [d.wanted_lock]
    ]


def _items(batch: Batch) -> tuple[Item, ...]:
    items = [
        Item(Outcome.ADMITTED, u.deposits[0].record_id, len(u.deposits) - 1, _codes(u.deposits[0].description))
        for u in batch.admitted
    ]
    items += [Item(Outcome.QUARANTINED, d.quarantine_id, codes=_codes(d.description)) for _, d in batch.quarantined]
    items += [Item(Outcome.REJECTED, t.item_id, codes=_codes(t.description)) for _, t in batch.rejected]
    items += [Item(Outcome.KNOWN, subject) for _, subject in batch.known]
    return tuple(items)


def _codes(description: Description) -> tuple[str, ...]:
    return tuple(sorted(_worst(description)))


# ---------------------------------------------------------------- the history


def _events(
    archive: Archive,
    batch: Batch,
    placed: Mapping[UUID, _Placed],
    lines: Mapping[UUID, descriptors.Line],
    superseded: Mapping[UUID, UUID],
    now: datetime,
) -> Iterator[Event]:
    def common(subject: UUID, description: Description) -> dict[str, Any]:
        return {
            "run": str(batch.run_id),
            "batch": batch.number,
            "findings": dict(sorted(_worst(description).items())),
            "descriptor": str(lines[subject].descriptor_id),
            "descriptor_sha256": lines[subject].sha256.hex(),
        }

    def sealed(subject: UUID, digest: bytes, size: int) -> dict[str, Any]:
        p = placed[subject]
        return {
            "bytes": size,
            "document": p.key.commitment(digest).hex(),
            "sealed_bytes": p.sealed_bytes,
            "sealed_sha256": p.sealed_sha256.hex(),
            "version": p.version,
        }

    numbers = {item.subject_id: number for number, item in enumerate(_items(batch))}
    for unit in batch.admitted:
        for d in unit.deposits:
            detail = common(d.record_id, d.description) | sealed(d.record_id, d.sha256, d.size) | _dates(d)
            if d.record_id in numbers:  # not what came inside another document
                detail["item"] = numbers[d.record_id]
            if d.aggregation:
                detail["aggregation"] = str(aggregations.identity(archive.safe, Aggregation(*d.aggregation)))
            if d.record_id in superseded:
                detail["supersedes"] = str(superseded[d.record_id])
            if d.wanted_lock is not None:
                detail |= locks.told(*d.wanted_lock)
            yield Event("ing", now, archive.agent, (d.record_id,), detail=detail)
    for _, detained in batch.quarantined:
        subject = detained.quarantine_id
        detail = common(subject, detained.description) | sealed(subject, detained.sha256, detained.size)
        detail["item"] = numbers[subject]
        if subject in superseded:
            detail["supersedes"] = str(superseded[subject])
        yield Event("qua", now, archive.agent, (subject,), detail=detail)
    for _, turned in batch.rejected:
        detail = common(turned.item_id, turned.description) | {"item": numbers[turned.item_id]}
        yield Event("ing", now, archive.agent, (turned.item_id,), "failure", detail)


def _dates(d: Deposit) -> dict[str, Any]:
    received = d.received.isoformat()
    detail: dict[str, Any] = {"class": d.class_id, "rule": d.rule, "received": received, **d.steps}
    if d.parent_id is not None:
        detail["parent"] = str(d.parent_id)
    if d.document_date is not None:
        detail["document_date"] = d.document_date.isoformat()
    if d.modified is not None:
        detail["modified"] = d.modified.isoformat()
    return detail
