"""Approvals: what needs two people is a proposal, which two enrolled people sign before it takes effect.

Rules of this module:
- A proposal is a statement in words and digests. Each person signs exactly that text with an SSH key of her own
  (retention.signatures); software counts as none, and `--agent` only says on whose behalf something is asked.
- It takes effect in the transaction of the last signature that it needs, or not at all. That two different people
  signed the same statement is a constraint of the database (`proposals_two_people`), not of this code. So is that what
  was proposed, read and decided stays as it is (`proposals_stay_as_signed`).
- A proposal that is not decided within its term expires; nothing is approved by silence.
- Approvers: the first enrols herself, the second is enrolled by the first's signature, every later one by two. A
  key is revoked by two, and two must be left: there is no switch that turns two people into one. An office of one
  person enrols the key of somebody outside. Whoever enrols a second key of her own deceives her auditor: every
  enrolment is an event, with the fingerprint of the key.
- A proposal is no secret from the database: statement and payload hold ids, codes, digests, days of plans and
  suspensions, or the text of a schedule file; never what a person wrote or is, but sealed with that person's key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any
from uuid import UUID

from retention import ledger, signatures
from retention.archive import Archive, names, pseudonym
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.ledger import Event
from retention.model import AgentKind, new_id

TERM = timedelta(days=30)


class Kind(StrEnum):
    """What two people decide (requirements: retention, rule 14 and *Disposition*)."""

    DISPOSITION = "disposition"
    SCHEDULE = "schedule"  # a load that advances a due date
    TRIGGER = "trigger"  # backdated: makes something due that was not
    RETRACTION = "retraction"
    RESUMPTION = "resumption"
    HOLD_RELEASE = "hold-release"
    REJECTED = "rejected"  # documents rejected from quarantine are destroyed
    ENROLMENT = "enrolment"
    REVOCATION = "revocation"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal. `statement` is None while a disposition plan is under review."""

    id: UUID
    kind: Kind
    state: str  # open, approved, withdrawn, expired
    proposed_at: datetime
    proposed_by: UUID
    expires_at: datetime
    statement: str | None
    payload: str | None
    needed: int
    signers: tuple[UUID, ...]

    @property
    def content(self) -> Any:
        """The payload, where it is JSON."""
        return json.loads(self.payload or "null")


# What a proposal does once it is approved, in the transaction that approves it. Raises Refused if what it was
# proposed upon has changed meanwhile; then nothing is signed either.
Effect = Callable[[Connection, Archive, Proposal, datetime], Sequence[Event]]


@dataclass(frozen=True, slots=True)
class Approver:
    """A person who may sign."""

    id: UUID
    name: str
    public_key: bytes
    enrolled_at: datetime
    revoked_at: datetime | None


# ---------------------------------------------------------------- proposals


def propose(
    conn: Connection,
    archive: Archive,
    kind: Kind,
    lines: Sequence[str] | None,
    payload: str | None,
    now: datetime,
    term: timedelta = TERM,
) -> tuple[Proposal, Event]:
    """A new proposal and its event, for the caller's transaction. `lines` None: the statement follows later; `term`
    is of whole days."""
    proposal_id = new_id(now)
    by = archive.agent.on_behalf_of or archive.agent.id
    conn.execute(
        "INSERT INTO proposals (proposal_id, kind, proposed_at, proposed_by, expires_at, payload) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        (proposal_id, kind.value, now, by, now + term, payload),
    )
    detail: dict[str, Any] = {"proposal": str(proposal_id), "kind": kind.value, "state": "proposed", "days": term.days}
    if payload is not None:
        detail["payload_sha256"] = sha256(payload.encode()).hexdigest()
    if lines is not None:
        detail["statement_sha256"] = word(conn, archive, proposal_id, lines).hex()
    return show(conn, proposal_id), Event("poa", now, archive.agent, (proposal_id,), detail=detail)


def word(conn: Connection, archive: Archive, proposal_id: UUID, lines: Sequence[str], needed: int = 2) -> bytes:
    """Give an open proposal the statement that is signed; returns its SHA-256. It cannot be worded twice."""
    found = show(conn, proposal_id, lock=True)
    _refuse_unless_open(found)
    if found.statement is not None:
        raise Refused(f"refusing to word proposal {proposal_id} again: people may have read it.")
    statement = "\n".join(
        [
            "Muniment asks for your signature.",
            f"archive   {archive.safe.tag.hex()}",
            f"proposal  {proposal_id}",
            f"kind      {found.kind}",
            f"proposed  {found.proposed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} for {found.proposed_by}",
            *lines,
            *_bound(found.payload),
            "",
        ]
    )
    digest = sha256(statement.encode()).digest()
    conn.execute(
        "UPDATE proposals SET statement = %s, digest = %s, signers_needed = %s WHERE proposal_id = %s",
        (statement, digest, needed, proposal_id),
    )
    return digest


def _bound(payload: str | None) -> list[str]:
    """The line of a statement that ties what will be done to what is signed."""
    return [] if payload is None else [f"payload   SHA-256 {sha256(payload.encode()).hexdigest()}"]


def show(conn: Connection, proposal_id: UUID, *, lock: bool = False) -> Proposal:
    """One proposal; with `lock`, nobody else decides it until this transaction ends. Raises NotFound."""
    if lock:
        conn.execute("SELECT 1 FROM proposals WHERE proposal_id = %s FOR UPDATE", (proposal_id,))
    found = listed(conn, None, proposal_id)
    if not found:
        raise NotFound(f"no proposal {proposal_id}. `muniment approval list` shows those that wait.")
    return found[0]


def listed(conn: Connection, state: str | None = "open", proposal_id: UUID | None = None) -> list[Proposal]:
    """Proposals of a state, of all (None), or one; the one that expires first is first."""
    rows = conn.execute(
        """SELECT proposal_id, kind, state, proposed_at, proposed_by, expires_at, statement, payload, signers_needed,
                  array_remove(ARRAY[first_signer, second_signer, third_signer], NULL)
             FROM proposals
            WHERE (%(state)s::text IS NULL OR state = %(state)s)
              AND (%(id)s::uuid IS NULL OR proposal_id = %(id)s)
            ORDER BY expires_at, proposal_id""",
        {"state": state, "id": proposal_id},
    )
    return [Proposal(r[0], Kind(r[1]), r[2], r[3], r[4], r[5], r[6], r[7], r[8], tuple(r[9])) for r in rows]


def withdraw(archive: Archive, proposal_id: UUID, now: datetime) -> None:
    """Take back an open proposal. Raises Refused for one that is decided."""
    with transaction(archive.connections) as conn:
        _refuse_unless_open(show(conn, proposal_id, lock=True))
        ledger.append(conn, [end(conn, archive, proposal_id, "withdrawn", now)], now)


def overdue(conn: Connection, now: datetime) -> list[Proposal]:
    """Open proposals whose term has passed; a plan's items are freed by who expires it (retention.disposition)."""
    return [found for found in listed(conn) if found.expires_at <= now]


def end(conn: Connection, archive: Archive, proposal_id: UUID, state: str, now: datetime) -> Event:
    """Close an open proposal as withdrawn or expired; the event is for the caller to append."""
    conn.execute("UPDATE proposals SET state = %s, decided_at = %s WHERE proposal_id = %s", (state, now, proposal_id))
    detail = {"proposal": str(proposal_id), "state": state}
    return Event("poa", now, archive.agent, (proposal_id,), "failure" if state == "expired" else "success", detail)


def _refuse_unless_open(found: Proposal) -> None:
    if found.state != "open":
        raise Refused(f"refusing to decide proposal {found.id} again: it is {found.state}.")


# ---------------------------------------------------------------- signatures


def sign(archive: Archive, proposal_id: UUID, armored: str, now: datetime, effects: Mapping[Kind, Effect]) -> Proposal:
    """Enter one person's signature; the last that is needed puts the proposal into effect.

    The same person again changes nothing. Raises Refused (not of this statement, not enrolled, decided, expired,
    overtaken), UsageError (no signature at all), NotFound."""
    with transaction(archive.connections) as conn:
        found = show(conn, proposal_id, lock=True)
        if found.statement is None:
            raise Refused(f"refusing to sign {proposal_id}: it is still under review. Decide every item first.")
        person = _signer(conn, signatures.verify(armored, found.statement.encode()))
        if person in found.signers:
            return found
        _refuse_unless_open(found)
        if not all(line in found.statement.splitlines() for line in _bound(found.payload)):
            raise Damaged(f"proposal {proposal_id}: what it would do is not what its statement says. Withdraw it.")
        if now >= found.expires_at:
            raise Refused(
                f"refusing to sign {proposal_id}: its term ended {found.expires_at:%Y-%m-%d %H:%M} UTC. "
                "Propose it anew."
            )
        digest, signature = sha256(found.statement.encode()).digest(), armored.encode("ascii", "replace")
        conn.execute(
            "INSERT INTO signatures (proposal_id, person_id, digest, signature, signed_at) VALUES (%s, %s, %s, %s, %s)",
            (proposal_id, person, digest, signature, now),
        )
        conn.execute(
            """UPDATE proposals
                  SET third_signer = CASE WHEN second_signer IS NOT NULL THEN %(person)s::uuid END,
                      second_signer = CASE WHEN first_signer IS NOT NULL THEN coalesce(second_signer, %(person)s) END,
                      first_signer = coalesce(first_signer, %(person)s)
                WHERE proposal_id = %(proposal)s""",
            {"person": person, "proposal": proposal_id},
        )
        detail = {"proposal": str(proposal_id), "signer": str(person), "statement_sha256": digest.hex()}
        detail["signature_sha256"] = sha256(signature).hexdigest()
        events = [Event("dig", now, archive.agent, (proposal_id,), detail=detail)]
        signed = show(conn, proposal_id)
        if len(signed.signers) >= signed.needed:
            conn.execute(
                "UPDATE proposals SET state = 'approved', decided_at = %s WHERE proposal_id = %s", (now, proposal_id)
            )
            detail = {"proposal": str(proposal_id), "kind": found.kind.value, "state": "approved"}
            events.append(Event("poa", now, archive.agent, (proposal_id,), detail=detail))
            events += effects[found.kind](conn, archive, signed, now)
        ledger.append(conn, events, now)
        return show(conn, proposal_id)


def _signer(conn: Connection, public_key: bytes) -> UUID:
    row = conn.execute(
        "SELECT person_id FROM approvers WHERE public_key = %s AND revoked_at IS NULL", (public_key,)
    ).fetchone()
    if row is None:
        raise Refused(
            f"refusing the signature: key {signatures.fingerprint(public_key)} belongs to no approver. "
            "`muniment approver list` shows who may sign; `muniment approver enrol` enrols somebody."
        )
    found: UUID = row[0]
    return found


# ---------------------------------------------------------------- who may sign


def enrolment(archive: Archive, name: str, public_key: bytes) -> str:
    """The statement by which the first approver enrols the second."""
    person = archive.safe.pseudonym(AgentKind.PERSON, name)
    said = (
        f"archive   {archive.safe.tag.hex()}",
        f"approver  {person}",
        f"key       {signatures.public_line(public_key)}",
    )
    return "\n".join(["Muniment asks for your signature, to enrol an approver.", *said, ""])


def enrol(archive: Archive, name: str, public_key: bytes, now: datetime, armored: str = "") -> Proposal | None:
    """Let a person sign from now on. None: done. A proposal: two approvers must sign it first.

    `armored` is the first approver's signature of `enrolment`, needed for the second one only. The same person
    with the same key again changes nothing. Raises Refused, UsageError."""
    if not name.strip():
        raise UsageError("approver: expected the name of a person, found an empty one.")
    with transaction(archive.connections) as conn:
        conn.execute("LOCK TABLE approvers IN SHARE ROW EXCLUSIVE MODE")  # who is first is decided once
        person = pseudonym(conn, archive.safe, AgentKind.PERSON, name, now)
        rows = conn.execute("SELECT person_id, coalesce(public_key, ''), revoked_at FROM approvers").fetchall()
        for known, key, revoked_at in rows:
            if known == person and bytes(key) == public_key and revoked_at is None:
                return None
            if person == known or bytes(key) == public_key:
                raise Refused(
                    f"refusing to enrol {name}: this person or key was enrolled before. A person has one key for "
                    "good; revoke it and enrol the person under another name (such as a new title) for a new one."
                )
        if len(rows) >= 2:
            lines = [f"enrol     {person}", f"key       {signatures.public_line(public_key)}"]
            payload = json.dumps({"person": str(person), "key": public_key.hex()})
            found, event = propose(conn, archive, Kind.ENROLMENT, lines, payload, now)
            ledger.append(conn, [event], now)
            return found
        by: UUID | None = None
        if rows:
            by = _signer(conn, signatures.verify(armored, enrolment(archive, name, public_key).encode()))
        ledger.append(conn, _enrol(conn, archive, person, public_key, by, now), now)
    return None


def _enrol(
    conn: Connection, archive: Archive, person: UUID, public_key: bytes, by: UUID | None, now: datetime
) -> list[Event]:
    conn.execute(
        "INSERT INTO approvers (person_id, public_key, enrolled_at, enrolled_by) VALUES (%s, %s, %s, %s)",
        (person, public_key, now, by),
    )
    detail = {"approver": str(person), "key": signatures.fingerprint(public_key), "state": "enrolled"}
    if by is not None:
        detail["by"] = str(by)
    return [Event("poa", now, archive.agent, (person,), detail=detail)]


def revoke(archive: Archive, person: UUID, now: datetime) -> Proposal:
    """Propose that a person signs no more; what she signed stands. Raises Refused if fewer than two were left."""
    with transaction(archive.connections) as conn:
        _refuse_last(conn, person)
        lines, payload = [f"revoke    {person}"], json.dumps({"person": str(person)})
        found, event = propose(conn, archive, Kind.REVOCATION, lines, payload, now)
        ledger.append(conn, [event], now)
        return found


def _refuse_last(conn: Connection, person: UUID) -> None:
    active = {row[0] for row in conn.execute("SELECT person_id FROM approvers WHERE revoked_at IS NULL")}
    if person not in active:
        raise NotFound(f"no approver {person} who may sign. `muniment approver list` shows them.")
    if len(active) <= 2:
        raise Refused(f"refusing to revoke {person}: two must be left who can sign. Enrol another one first.")


def enrol_approved(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> list[Event]:
    """The effect of an approved enrolment."""
    asked = proposal.content
    return _enrol(conn, archive, UUID(asked["person"]), bytes.fromhex(asked["key"]), proposal.signers[0], now)


def revoke_approved(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> list[Event]:
    """The effect of an approved revocation."""
    person = UUID(proposal.content["person"])
    conn.execute("LOCK TABLE approvers IN SHARE ROW EXCLUSIVE MODE")
    _refuse_last(conn, person)
    conn.execute("UPDATE approvers SET revoked_at = %s WHERE person_id = %s", (now, person))
    return [Event("poa", now, archive.agent, (person,), detail={"approver": str(person), "state": "revoked"})]


def approvers(archive: Archive) -> list[Approver]:
    """Everybody who may sign or once could, in order of enrolment."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT person_id, coalesce(public_key, ''), enrolled_at, revoked_at FROM approvers "
            "ORDER BY enrolled_at, person_id"
        ).fetchall()
        known = names(conn, archive.safe, [row[0] for row in rows])
    return [Approver(row[0], known.get(row[0], str(row[0])), bytes(row[1]), row[2], row[3]) for row in rows]
