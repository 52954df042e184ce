"""Evidence of dispositions as records of their own: execution certificates, the answers of receivers.

Rules of this module:
- Captured through the same door as every record: sealed under a key of its own, with its events, into the class that
  the schedule names for certificates; unclassified, and so kept, where it names none.
- Once: the same evidence again is found under its place, and nothing is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from retention import capture, policy, runs
from retention.archive import Archive, load_key
from retention.database import transaction
from retention.engine import today
from retention.errors import Damaged, NotFound
from retention.locks import ROLLING
from retention.model import UNCLASSIFIED, Batch, Deposit, Description, Sighting, Unit, new_id
from retention.rules import Schedule, Worm

SOURCE = "muniment: certificates"


def find(archive: Archive, place: str) -> UUID | None:
    """The record of the evidence that was kept under `place`."""
    key = archive.safe.place(SOURCE, place)
    found = capture.known(archive, [key]).get(key)
    return found[2] if found else None


def keep(archive: Archive, place: str, name: str, content: bytes, clock: Callable[[], datetime]) -> UUID:
    """Capture `content`, JSON, under `place`, unless something was kept there; returns its record.

    Neither `place` nor `name` (the title, without its suffix) names anybody."""
    if found := find(archive, place):
        return found
    now = clock()
    with transaction(archive.connections) as conn:
        version = policy.current(conn)
    run_id = new_id(now)
    folder = archive.settings.spool / str(run_id)
    folder.mkdir(parents=True, mode=0o700)
    try:
        path = folder / "evidence.json"
        path.write_bytes(content)
        runs.start(archive, run_id, SOURCE, version.version, now)
        deposit = _deposit(place, name, path, content, version.schedule, now)
        sighting = Sighting(archive.safe.place(SOURCE, place), archive.safe.content(deposit.sha256))
        capture.capture(archive, Batch(run_id=run_id, number=0, admitted=(Unit(sighting, (deposit,)),)), clock)
        runs.close(archive, run_id, discovered=1, deferred=0, now=clock())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kept = find(archive, place)
    if kept is None:
        raise NotFound(f"the {name} was captured and is not there. Run the same again.")
    return kept


def read(archive: Archive, record_id: UUID) -> bytes:
    """The evidence as it was kept, from the vault. Raises NotFound if it was destroyed, Damaged."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT sealed_sha256, version, commitment FROM contents WHERE record_id = %s", (record_id,)
        ).fetchone()
        if row is None:
            raise NotFound(f"record {record_id}: this evidence was itself destroyed, as its class asks.")
        key = load_key(conn, archive.safe, record_id)
    name = f"records/{record_id}/{bytes(row[0]).hex()}"
    with archive.vault.open(name, row[1]) as stream:
        sealed = stream.read()
    if sha256(sealed).digest() != bytes(row[0]):
        raise Damaged(f"{name}: the vault's bytes are not what was stored. Heal from a replica.")
    content = key.open(sealed)
    if key.commitment(sha256(content).digest()) != bytes(row[2]):
        raise Damaged(f"{name}: opens to other bytes than were captured. The catalog or the vault was changed.")
    return content


def _deposit(place: str, name: str, path: Path, content: bytes, schedule: Schedule, now: datetime) -> Deposit:
    known = schedule.record_class(schedule.disposition.certificates)
    described = Description(name=f"{name}.json", source=SOURCE, place=place, title=name, mime="application/json")
    digest, day = sha256(content).digest(), today(schedule, now)
    deposit = Deposit(
        record_id=new_id(now),
        path=path,
        sha256=digest,
        size=len(content),
        class_id=known.id if known else UNCLASSIFIED,
        rule="evidence",
        description=replace(described, sha256=digest),
        received=day,
        document_date=day,
    )
    if known is None or known.worm is Worm.NONE:
        return deposit
    return replace(deposit, wanted_lock=(known.worm.value, now + ROLLING))
