"""Records for tests, captured through the real door, without reading files: documents of a few words each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retention import approvals, capture, engine, locks, policy, runs, signatures
from retention.archive import Archive
from retention.database import transaction
from retention.disposition import plans, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.effects import EFFECTS
from retention.model import Batch, Deposit, Description, Sighting, Unit, new_id

Clock = Callable[[], datetime]
KEYS = {name: Ed25519PrivateKey.generate() for name in ("Ruth Levi", "Dan Cohen", "Noa Bar")}

SCHEDULE = """\
version: 1
title: For tests
timezone: UTC
disposition: {limit_records: 1000, limit_percent: 100, term: P3M, certificates: SYS-CERT}
anchors:
  house: &house {citation: House policy, verified_on: 2020-01-01, verified_by: Ruth Levi}
classes:
  - id: SHORT
    title: Kept a year
    action: destroy
    rules: [{id: short, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: DESCRIBED
    title: Kept a year, remembered
    action: destroy
    tombstone: descriptive
    rules: [{id: described, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: STAGED
    title: Reviewed twice
    action: review
    review: [{name: owner, lapse: P10D}, {name: officer, lapse: P20D}]
    rules: [{id: staged, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: LAW
    title: Can only be lengthened
    action: destroy
    regulatory: true
    rules: [{id: law, trigger: received, period: P2Y, verified: true, authority: *house, ceiling: P12Y}]
  - id: LONG
    title: Kept long
    action: destroy
    rules: [{id: long, trigger: received, period: P30Y, verified: true, authority: *house}]
  - id: DRAFT
    title: Not verified
    action: destroy
    rules: [{id: draft, trigger: received, period: P1Y, authority: {citation: To be checked}}]
  - id: NOTICED
    title: Announced before
    action: destroy
    rules:
      - id: noticed
        trigger: received
        period: P1Y
        notify_before: P3M
        verified: true
        authority: *house
  - id: HANDED
    title: Handed to the state archives
    action: transfer
    rules: [{id: handed, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: LOCKED
    title: Written once
    action: destroy
    worm: governance
    rules: [{id: locked, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: SYS-CERT
    title: Execution certificates
    rules: [{id: certificates, trigger: received, cutoff: year_end, period: P10Y, authority: {citation: House policy}}]
"""


@dataclass(frozen=True, slots=True)
class Document:
    """One document to be captured, with what is inside it."""

    class_id: str
    text: str
    received: date = date(2020, 1, 15)
    children: int = 0
    aggregation: UUID | None = None  # put there afterwards
    case: tuple[str, str] | None = None  # kind and business id, captured with it


def load(archive: Archive, clock: Clock, text: str = SCHEDULE) -> None:
    policy.load(archive, text, "test.yaml", clock())


def enrol(archive: Archive, clock: Clock) -> None:
    """Ruth Levi, Dan Cohen and Noa Bar may sign."""
    first, second, third = KEYS
    approvals.enrol(archive, first, signatures.public_of(KEYS[first]), clock())
    statement = approvals.enrolment(archive, second, signatures.public_of(KEYS[second]))
    approvals.enrol(
        archive, second, signatures.public_of(KEYS[second]), clock(), signatures.sign(KEYS[first], statement.encode())
    )
    waiting = approvals.enrol(archive, third, signatures.public_of(KEYS[third]), clock())
    if waiting is not None:
        effects = {approvals.Kind.ENROLMENT: approvals.enrol_approved}
        for name in (first, second):
            armored = signatures.sign(KEYS[name], (waiting.statement or "").encode())
            approvals.sign(archive, waiting.id, armored, clock(), effects)


def capture_all(archive: Archive, documents: Sequence[Document], clock: Clock, folder: Path) -> list[UUID]:
    """Capture documents in one batch; returns their records, parents only."""
    with transaction(archive.connections) as conn:
        version = policy.current(conn)
    run_id = new_id(clock())
    runs.start(archive, run_id, "tests", version.version, clock())
    folder.mkdir(exist_ok=True)
    units = [_unit(archive, document, clock, folder / str(n)) for n, document in enumerate(documents)]
    # A vault keeps its locks by a clock of its own, which is past the end of a short lock when a test's began long ago:
    # what is to be locked is so from the start, until two days from now.
    with patch.object(locks, "SHORT", timedelta(days=36_500)):
        capture.capture(archive, Batch(run_id=run_id, number=0, admitted=tuple(units)), clock)
    runs.close(archive, run_id, len(units), 0, clock())
    with transaction(archive.connections) as conn:
        for unit, document in zip(units, documents, strict=True):
            if document.aggregation is not None:
                ids = [deposit.record_id for deposit in unit.deposits]
                conn.execute(
                    "UPDATE records SET aggregation_id = %s WHERE record_id = ANY(%s)", (document.aggregation, ids)
                )
    return [unit.deposits[0].record_id for unit in units]


def _unit(archive: Archive, document: Document, clock: Clock, path: Path) -> Unit:
    parent: UUID | None = None
    deposits = []
    for number in range(document.children + 1):
        content = f"{document.text} {number}".encode()
        part = path.with_name(f"{path.name}-{number}")
        part.write_bytes(content)
        described = Description(
            name=f"{document.text}.txt",
            source="tests",
            place=f"{document.text}/{number}",
            title=document.text,
            sha256=sha256(content).digest(),
        )
        record_id = new_id(clock())
        wanted = None
        if document.class_id == "LOCKED":  # a vault keeps its locks by a clock of its own
            wanted = ("governance", max(clock(), datetime.now(UTC)) + timedelta(days=2))
        deposits.append(
            Deposit(
                record_id=record_id,
                path=part,
                sha256=sha256(content).digest(),
                size=len(content),
                class_id=document.class_id,
                rule="test",
                description=described,
                received=document.received,
                parent_id=parent,
                wanted_lock=wanted,
                aggregation=document.case,
            )
        )
        parent = parent or record_id
    place = archive.safe.place("tests", deposits[0].description.place)
    seen = Sighting(place, archive.safe.content(deposits[0].sha256))
    return Unit(seen, tuple(deposits))


def sign(archive: Archive, proposal_id: UUID, now: datetime, *names: str) -> str:
    """Two people, or those named, sign a proposal; the state that it is in then."""
    with transaction(archive.connections) as conn:
        statement = approvals.show(conn, proposal_id).statement or ""
    for name in names or ("Ruth Levi", "Dan Cohen"):
        found = approvals.sign(archive, proposal_id, signatures.sign(KEYS[name], statement.encode()), now, EFFECTS)
    return found.state


def approved(archive: Archive, clock: Clock, only: Sequence[UUID] | None = None) -> UUID:
    """A plan of all that is due, or of these records, reviewed in every stage and signed by two people."""
    plan_id = proposing.propose(archive, clock(), only=only).plan
    assert plan_id is not None
    for _ in range(3):  # more stages no class of these has
        with transaction(archive.connections) as conn:
            if plans.show(conn, plan_id).state != "review":
                break
        reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    sign(archive, plan_id, clock())
    return plan_id


def today(archive: Archive, clock: Clock) -> date:
    with transaction(archive.connections) as conn:
        return engine.today(policy.current(conn).schedule, clock())
