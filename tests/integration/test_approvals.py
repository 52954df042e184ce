"""Two people: what the code refuses, and what the database refuses even if the code did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retention import approvals, ledger, signatures
from retention.approvals import Kind, Proposal
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused, UsageError
from retention.ledger import Event
from tests.owning import owning

Clock = Callable[[], datetime]
RUTH, DAN, NOA = (Ed25519PrivateKey.generate() for _ in range(3))
STRANGER = Ed25519PrivateKey.generate()


@pytest.fixture
def enrolled(archive: Archive, clock: Clock) -> Iterator[Archive]:
    ruth, dan = signatures.public_of(RUTH), signatures.public_of(DAN)
    assert approvals.enrol(archive, "Ruth Levi", ruth, clock()) is None
    statement = approvals.enrolment(archive, "Dan Cohen", dan)
    assert approvals.enrol(archive, "Dan Cohen", dan, clock(), signatures.sign(RUTH, statement.encode())) is None
    yield archive


def propose(archive: Archive, clock: Clock, needed: int = 2) -> Proposal:
    with transaction(archive.connections) as conn:
        found, event = approvals.propose(conn, archive, Kind.SCHEDULE, None, '{"x": 1}', clock())
        approvals.word(conn, archive, found.id, ["load      version 2"], needed)
        ledger.append(conn, [event], clock())
        return approvals.show(conn, found.id)


def sign(archive: Archive, found: Proposal, key: Ed25519PrivateKey, clock: Clock, done: list[UUID]) -> Proposal:
    def effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> list[Event]:
        done.append(proposal.id)
        return []

    effects = {
        Kind.SCHEDULE: effect,
        Kind.ENROLMENT: approvals.enrol_approved,
        Kind.REVOCATION: approvals.revoke_approved,
    }
    armored = signatures.sign(key, (found.statement or "").encode())
    return approvals.sign(archive, found.id, armored, clock(), effects)


def test_two_people_and_not_one_of_them_twice(enrolled: Archive, clock: Clock) -> None:
    found, done = propose(enrolled, clock), list[UUID]()
    assert sign(enrolled, found, RUTH, clock, done).state == "open"
    assert sign(enrolled, found, RUTH, clock, done).state == "open"
    assert done == []
    signed = sign(enrolled, found, DAN, clock, done)
    assert (signed.state, len(signed.signers), done) == ("approved", 2, [found.id])
    assert sign(enrolled, found, DAN, clock, done).state == "approved"
    assert done == [found.id]  # it takes effect once


def test_an_override_needs_a_third(enrolled: Archive, clock: Clock) -> None:
    done: list[UUID] = []
    third = approvals.enrol(enrolled, "Noa Bar", signatures.public_of(NOA), clock())
    assert third is not None
    sign(enrolled, third, DAN, clock, done)
    sign(enrolled, third, RUTH, clock, done)
    found = propose(enrolled, clock, needed=3)
    for key, state in ((RUTH, "open"), (DAN, "open"), (RUTH, "open"), (NOA, "approved")):
        assert sign(enrolled, found, key, clock, done).state == state
    assert done == [found.id]


def test_whose_signature_is_refused(enrolled: Archive, clock: Clock) -> None:
    found, done = propose(enrolled, clock), list[UUID]()
    with pytest.raises(Refused, match="belongs to no approver"):
        sign(enrolled, found, STRANGER, clock, done)
    other = propose(enrolled, clock)
    with pytest.raises(Refused, match="not of this statement"):  # replayed from one proposal to another
        approvals.sign(enrolled, found.id, signatures.sign(RUTH, (other.statement or "").encode()), clock(), {})
    with pytest.raises(NotFound):
        approvals.sign(enrolled, UUID(int=7), "", clock(), {})
    with transaction(enrolled.connections) as conn:
        assert conn.execute("SELECT count(*) FROM signatures").fetchone() == (0,)


def test_under_review_expired_and_withdrawn(enrolled: Archive, clock: Clock) -> None:
    with transaction(enrolled.connections) as conn:
        waiting, _ = approvals.propose(conn, enrolled, Kind.DISPOSITION, None, None, clock())
    with pytest.raises(Refused, match="under review"):
        approvals.sign(enrolled, waiting.id, signatures.sign(RUTH, b""), clock(), {})
    found = propose(enrolled, clock)
    with pytest.raises(Refused, match="its term ended"):
        sign(enrolled, found, RUTH, lambda: found.expires_at, [])
    with transaction(enrolled.connections) as conn:
        assert [p.id for p in approvals.overdue(conn, found.expires_at + timedelta(1))] == [waiting.id, found.id]
        assert approvals.overdue(conn, clock()) == []
    approvals.withdraw(enrolled, found.id, clock())
    for key in (RUTH, DAN):
        with pytest.raises(Refused, match="withdrawn"):
            sign(enrolled, found, key, clock, [])


def test_an_effect_that_is_refused_leaves_no_signature(enrolled: Archive, clock: Clock) -> None:
    found = propose(enrolled, clock)
    sign(enrolled, found, RUTH, clock, [])

    def overtaken(*_: object) -> list[Event]:
        raise Refused("refusing: overtaken")

    armored = signatures.sign(DAN, (found.statement or "").encode())
    with pytest.raises(Refused, match="overtaken"):
        approvals.sign(enrolled, found.id, armored, clock(), {Kind.SCHEDULE: overtaken})
    with transaction(enrolled.connections) as conn:
        assert len(approvals.show(conn, found.id).signers) == 1


def test_the_second_is_enrolled_by_the_first_and_the_third_by_two(archive: Archive, clock: Clock) -> None:
    ruth, dan, noa = (signatures.public_of(key) for key in (RUTH, DAN, NOA))
    approvals.enrol(archive, "Ruth Levi", ruth, clock())
    with pytest.raises(UsageError, match="ssh-keygen -Y sign"):
        approvals.enrol(archive, "Dan Cohen", dan, clock())
    with pytest.raises(Refused, match="not of this statement"):
        forged = signatures.sign(DAN, approvals.enrolment(archive, "Noa Bar", dan).encode())
        approvals.enrol(archive, "Dan Cohen", dan, clock(), forged)
    with pytest.raises(Refused, match="belongs to no approver"):  # nobody enrols herself second
        own = signatures.sign(DAN, approvals.enrolment(archive, "Dan Cohen", dan).encode())
        approvals.enrol(archive, "Dan Cohen", dan, clock(), own)
    statement = approvals.enrolment(archive, "Dan Cohen", dan).encode()
    approvals.enrol(archive, "Dan Cohen", dan, clock(), signatures.sign(RUTH, statement))
    assert approvals.enrol(archive, "Dan Cohen", dan, clock()) is None  # again changes nothing
    with pytest.raises(Refused, match="enrolled before"):  # one key is one person
        approvals.enrol(archive, "Ruth Levi II", ruth, clock())
    third = approvals.enrol(archive, "Noa Bar", noa, clock())
    assert third is not None
    assert [a.name for a in approvals.approvers(archive)] == ["Ruth Levi", "Dan Cohen"]
    sign(archive, third, RUTH, clock, [])
    sign(archive, third, DAN, clock, [])
    assert [a.name for a in approvals.approvers(archive)] == ["Ruth Levi", "Dan Cohen", "Noa Bar"]


def test_two_must_be_left(enrolled: Archive, clock: Clock) -> None:
    people = {a.name: a.id for a in approvals.approvers(enrolled)}
    with pytest.raises(Refused, match="two must be left"):
        approvals.revoke(enrolled, people["Dan Cohen"], clock())
    third = approvals.enrol(enrolled, "Noa Bar", signatures.public_of(NOA), clock())
    assert third is not None
    for key in (RUTH, DAN):
        sign(enrolled, third, key, clock, [])
    gone = approvals.revoke(enrolled, people["Dan Cohen"], clock())
    for key in (RUTH, NOA):
        sign(enrolled, gone, key, clock, [])
    found = propose(enrolled, clock)
    with pytest.raises(Refused, match="belongs to no approver"):
        sign(enrolled, found, DAN, clock, [])


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE proposals SET state = 'approved', decided_at = now()",  # nobody
        "UPDATE proposals SET state = 'approved', decided_at = now(), second_signer = first_signer",  # one, twice
        "UPDATE proposals SET state = 'approved', decided_at = now(), second_signer = (SELECT person_id FROM approvers "
        "WHERE person_id <> first_signer)",  # another one, who signed nothing
        "UPDATE proposals SET statement = statement || ' and more'",
        "DELETE FROM signatures",
        "UPDATE signatures SET digest = digest",
    ],
)
def test_the_database_itself_wants_two_signatures_of_one_statement(
    enrolled: Archive, clock: Clock, broken: str
) -> None:
    sign(enrolled, propose(enrolled, clock), RUTH, clock, [])
    with pytest.raises(psycopg.IntegrityError), owning(enrolled) as conn:  # no right is in the way
        conn.execute(broken)


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE proposals SET payload = payload || ' '",
        "UPDATE proposals SET payload = NULL",
        "UPDATE proposals SET statement = s, digest = sha256(s::bytea) FROM (SELECT 'Release everything.' AS s) AS n",
        "UPDATE proposals SET statement = NULL, digest = NULL",
        "UPDATE proposals SET kind = 'hold-release'",
        "UPDATE proposals SET signers_needed = 3",
        "UPDATE proposals SET expires_at = expires_at + interval '1 year'",
        "UPDATE proposals SET proposed_by = gen_random_uuid()",
        "DELETE FROM proposals",
        "TRUNCATE proposals CASCADE",
    ],
)
def test_what_people_read_stays_as_they_read_it(enrolled: Archive, clock: Clock, broken: str) -> None:
    found = propose(enrolled, clock)
    with pytest.raises(psycopg.errors.IntegrityError) as caught, owning(enrolled) as conn:
        conn.execute(broken.encode())
    constraint = caught.value.diag.constraint_name
    assert constraint == "proposals_stay_as_signed" or (constraint is None and "append-only" in str(caught.value))
    for key in (RUTH, DAN):
        sign(enrolled, found, key, clock, [])


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE proposals SET state = 'open', decided_at = NULL",
        "UPDATE proposals SET state = 'withdrawn'",
        "UPDATE proposals SET decided_at = decided_at - interval '1 day'",
        "UPDATE proposals SET first_signer = second_signer, second_signer = first_signer",
        "UPDATE proposals SET third_signer = first_signer",
    ],
)
def test_what_is_decided_is_decided_once(enrolled: Archive, clock: Clock, broken: str) -> None:
    found = propose(enrolled, clock)
    for key in (RUTH, DAN):
        sign(enrolled, found, key, clock, [])
    with (
        pytest.raises(psycopg.errors.IntegrityError, match="stays as it is"),
        transaction(enrolled.connections) as conn,
    ):
        conn.execute(broken.encode())


def test_who_signed_stays(enrolled: Archive, clock: Clock) -> None:
    found = propose(enrolled, clock)
    sign(enrolled, found, RUTH, clock, [])
    for broken in ("NULL", "(SELECT person_id FROM approvers WHERE person_id <> first_signer LIMIT 1)"):
        with pytest.raises(psycopg.errors.IntegrityError), transaction(enrolled.connections) as conn:
            conn.execute(f"UPDATE proposals SET first_signer = {broken}".encode())
    sign(enrolled, found, DAN, clock, [])


def test_events_name_nobody(enrolled: Archive, clock: Clock) -> None:
    found = propose(enrolled, clock)
    for key in (RUTH, DAN):
        sign(enrolled, found, key, clock, [])
    with transaction(enrolled.connections) as conn:
        rows = conn.execute("SELECT type, entry FROM events ORDER BY position").fetchall()
    assert [row[0] for row in rows] == ["poa", "poa", "poa", "dig", "dig", "poa"]
    assert not any(name in bytes(row[1]) for row in rows for name in (b"Ruth", b"Dan"))
