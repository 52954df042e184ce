"""Records put straight into an archive, as an ingestion decided would: for tests of what comes after capture."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from retention import capture, holds, ledger, policy, runs
from retention.approvals import Proposal
from retention.archive import Archive
from retention.database import transaction
from retention.errors import NotFound
from retention.model import Batch, Coded, Deposit, Description, Detained, Sighting, Unit, new_id

SCHEDULE = """\
version: 1
title: tests
timezone: UTC
rules:
  - id: short
    trigger: received
    period: P1Y
    action: destroy
    verified: true
    authority: {citation: House policy, verified_on: 2026-01-01, verified_by: the tests}
classes:
  - {id: FIN, title: Finance, rules: [short]}
  - {id: FIN-010, title: Invoices, rules: [short]}
  - {id: HR, title: People, rules: [short]}
"""


@dataclass(frozen=True, slots=True)
class Doc:
    """One document; its children are captured with it."""

    text: str = ""
    class_id: str = "FIN-010"
    author: str | None = None
    title: str | None = None
    received: date = date(2020, 1, 1)
    document_date: date | None = None
    codes: tuple[str, ...] = ()
    children: tuple[Doc, ...] = ()
    place: str | None = None  # in its source; with it, the same text is the same document


def schedule(archive: Archive, now: datetime) -> int:
    """The version in force; `SCHEDULE` is loaded where there is none."""
    with transaction(archive.connections) as conn:
        try:
            return policy.current(conn).version
        except NotFound:
            pass
    return policy.load(archive, SCHEDULE, "tests", now).version


def described(doc: Doc, source: str, digest: bytes | None = None) -> Description:
    return Description(
        name=f"{doc.title or 'document'}.txt",
        source=source,
        place=doc.place or f"in/{uuid4()}",
        sha256=digest,
        title=doc.title,
        author=doc.author,
        mime="text/plain",
        findings=tuple(Coded(code, "warn", "") for code in doc.codes),
        text=zlib.compress(doc.text.encode()) if doc.text else b"",
    )


def batch(archive: Archive, docs: tuple[Doc, ...], source: str, now: datetime) -> tuple[Batch, list[UUID]]:
    """A batch of a run of its own, and the ids that its documents will have: each parent before its children."""
    run_id = new_id(now)
    runs.start(archive, run_id, source, schedule(archive, now), now)
    archive.settings.spool.mkdir(parents=True, exist_ok=True)
    ids: list[UUID] = []

    def deposits(doc: Doc, parent: UUID | None) -> list[Deposit]:
        record_id, content = new_id(now), f"{doc.text} {doc.place or uuid4()}".encode()
        ids.append(record_id)
        path = archive.settings.spool / str(record_id)
        path.write_bytes(content)
        own = Deposit(
            record_id,
            path,
            sha256(content).digest(),
            len(content),
            doc.class_id,
            "test",
            described(doc, source, sha256(content).digest()),
            doc.received,
            document_date=doc.document_date,
            parent_id=parent,
        )
        return [own, *(d for child in doc.children for d in deposits(child, record_id))]

    units = []
    for doc in docs:
        parts = deposits(doc, None)
        place = archive.safe.place(source, parts[0].description.place)
        units.append(Unit(Sighting(place, archive.safe.content(parts[0].sha256)), tuple(parts)))
    return Batch(run_id, 0, tuple(units)), ids


def deposit(archive: Archive, *docs: Doc, source: str = "inbox", now: datetime | None = None) -> list[UUID]:
    """Capture documents in one batch; their ids, each parent before its children."""
    at = now or datetime.now(UTC)
    made, ids = batch(archive, docs, source, at)
    capture.capture(archive, made, lambda: at)
    return ids


def detain(archive: Archive, doc: Doc, source: str = "inbox", now: datetime | None = None) -> UUID:
    """One quarantined document."""
    at = now or datetime.now(UTC)
    made, (record_id,) = batch(archive, (doc,), source, at)
    one = made.admitted[0].deposits[0]
    kept = Detained(record_id, one.path, one.sha256, one.size, one.description)
    capture.capture(archive, Batch(made.run_id, 0, quarantined=((made.admitted[0].sighting, kept),)), lambda: at)
    return record_id


def release(archive: Archive, hold_id: UUID, now: datetime | None = None) -> Mapping[str, Any]:
    """Release a hold as its two signatures do; what its event says."""
    at = now or datetime.now(UTC)
    return released(archive, holds.propose_release(archive, hold_id, at), at)


def released(archive: Archive, proposal: Proposal, now: datetime | None = None) -> Mapping[str, Any]:
    """The same, for a proposal."""
    at = now or datetime.now(UTC)
    with transaction(archive.connections) as conn:
        (event,) = holds.take_effect(conn, archive, proposal, at)
        ledger.append(conn, [event], at)
    return event.detail


def file_under(archive: Archive, name: str, *records: UUID) -> UUID:
    """Put records into the aggregation `kind:id`."""
    kind = name.partition(":")[0]
    aggregation = archive.safe.pseudonym("aggregation", name)
    with transaction(archive.connections) as conn:
        conn.execute(
            "INSERT INTO aggregations (aggregation_id, recorded_at, kind) VALUES (%s, now(), %s) "
            "ON CONFLICT DO NOTHING",
            (aggregation, kind),
        )
        conn.execute("UPDATE records SET aggregation_id = %s WHERE record_id = ANY(%s)", (aggregation, list(records)))
    return aggregation
