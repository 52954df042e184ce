"""`muniment approval …` and `muniment approver …`: what waits for signatures, signing it, and who may sign.

Rules of this module: those of retention.cli, and:
- A private key is read where it is used and goes nowhere; its passphrase is asked for, never given as an argument.
- What is signed is decided today: `--as-of` is refused.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from retention.cli.command import UNSTATED, Options, WhyOption, answer, identifier, now, opened, reader, table, tell
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.approvals import Proposal
    from retention.database import Connection
    from retention.triggers import Change

app = typer.Typer(no_args_is_help=True, help="What two people must sign before it takes effect.")
approver_app = typer.Typer(no_args_is_help=True, help="Who may sign, with which key.")

KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Your SSH private key (ssh-ed25519); stays here.")
]
SignatureOption = Annotated[
    Path | None, typer.Option("--signature", metavar="FILE", help="Made by `ssh-keygen -Y sign -n muniment`.")
]


@app.command("list")
def approval_list(
    context: typer.Context, all_: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False
) -> None:
    """What waits for signatures, the one that expires first first."""
    from retention import approvals
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = approvals.listed(conn, None if all_ else "open")
    rows = [
        [str(p.id), p.kind.value, p.state, f"{len(p.signers)} of {p.needed}", f"{p.expires_at:%Y-%m-%d}"] for p in found
    ]
    headings = ["proposal", "kind", "state", "signed", "expires"]
    answer(context.obj, {"proposals": [shown(p) for p in found]}, lambda: table(headings, rows))


@app.command("show")
def approval_show(
    context: typer.Context,
    proposal: str,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the statement, to be signed.")] = None,
    why: WhyOption = UNSTATED,
) -> None:
    """One proposal, with the statement that is signed."""
    from retention import reading
    from retention.approvals import Kind
    from retention.database import transaction

    asks = reader(why)
    with opened(context.obj) as archive:
        found, meant = reading.proposal(archive, identifier(proposal), asks)
        means = _means(meant)
        if found.kind is Kind.HOLD_RELEASE:
            with transaction(archive.connections) as conn:
                means = [_freed(conn, found)]
    if output is not None:
        if found.statement is None:
            raise UsageError(f"proposal {proposal} has no statement yet: it is under review.")
        output.write_bytes(found.statement.encode())

    def people() -> None:
        print(found.statement or f"{found.kind} {found.id}: under review, no statement yet")
        for line in means:
            print(line)
        print(f"{found.state}: {len(found.signers)} of {found.needed} signatures, expires {found.expires_at:%Y-%m-%d}")

    answer(context.obj, shown(found) | {"means": means}, people)


def _means(meant: Change) -> list[str]:
    """What a statement does not hold: dates and notes of events, which are sealed."""
    return [
        *(f"{one.subject} {one.kind} {one.effective} {one.note}".rstrip() for one in meant.events),
        *(f"retracts {one.event} {one.note}".rstrip() for one in meant.retractions),
    ]


def _freed(conn: Connection, found: Proposal) -> str:
    """What the release of a hold frees, or freed, in words."""
    from retention.holds import register

    freed = register.freed(conn, UUID(found.content["hold"]), found.proposed_at)
    frees = "freed" if found.state == "approved" else "frees now"
    others = f"{freed.still_held:,} of them still held by others"
    return f"{frees}: {freed.records:,} records, {others}; {freed.since:,} came under it since this was proposed"


@app.command("sign")
def approval_sign(
    context: typer.Context, proposal: str, key: KeyOption = None, signature: SignatureOption = None
) -> None:
    """Sign one proposal; the last signature that is needed puts it into effect."""
    from retention.approvals import Kind
    from retention.database import transaction

    found = sign(context.obj, identifier(proposal), key, signature)
    means = []
    if found.kind is Kind.HOLD_RELEASE:
        with opened(context.obj) as archive, transaction(archive.connections) as conn:
            means = [_freed(conn, found)]

    def people() -> None:
        if found.state == "approved":
            print(f"{found.kind} {found.id} is approved and in effect")
        else:
            print(f"{found.kind} {found.id}: {len(found.signers)} of {found.needed} signatures")
        for line in means:
            print(line)

    answer(context.obj, shown(found) | {"means": means}, people)


@app.command("withdraw")
def approval_withdraw(context: typer.Context, proposal: str) -> None:
    """Take back a proposal that is not decided."""
    from retention import approvals
    from retention.approvals import Kind
    from retention.database import transaction
    from retention.disposition import reviewing

    with opened(context.obj) as archive:
        with transaction(archive.connections) as conn:
            found = approvals.show(conn, identifier(proposal))
        if found.kind is Kind.DISPOSITION:
            reviewing.withdraw(archive, found.id, now())
        else:
            approvals.withdraw(archive, found.id, now())
    answer(context.obj, {"proposal_id": proposal, "state": "withdrawn"}, lambda: print(f"{proposal} is withdrawn"))


def sign(chosen: Options, proposal_id: UUID, key: Path | None, signature: Path | None) -> Proposal:
    """Enter a signature: made here with a key, or elsewhere. Raises UsageError unless exactly one is given."""
    from retention import approvals, signatures
    from retention.approvals import Kind
    from retention.database import transaction
    from retention.disposition import rejected
    from retention.effects import EFFECTS

    if chosen.as_of is not None:
        raise UsageError("refusing --as-of: what is signed is decided today. Leave it out.")
    if (key is None) == (signature is None):
        raise UsageError(
            "expected --key FILE (sign here) or --signature FILE (signed elsewhere: `muniment approval show ID -o "
            "statement.txt`, then `ssh-keygen -Y sign -n muniment -f KEY statement.txt`)."
        )
    with opened(chosen) as archive:
        if signature is not None:
            armored = read(signature)
        else:
            assert key is not None
            with transaction(archive.connections) as conn:
                found = approvals.show(conn, proposal_id)
            if found.statement is None:
                raise UsageError(f"proposal {proposal_id} has no statement yet: decide every item of its plan first.")
            armored = signatures.sign(signatures.private_key(key, passphrase), found.statement.encode())
        found = approvals.sign(archive, proposal_id, armored, now(), EFFECTS)
        if found.kind is Kind.REJECTED and found.state == "approved":
            for document, why in rejected.sweep(archive, now())[1].items():
                tell(f"NOT ERASED {document}: {why} Its key is gone; `muniment disposition advance` tries again.")
        return found


def passphrase() -> str:
    """Asked of the person at the terminal. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError("the key has a passphrase, and nobody is there to type it. Sign elsewhere, give --signature.")
    return getpass.getpass("passphrase of the key: ")


def read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None


def shown(found: Proposal) -> dict[str, Any]:
    """A proposal as JSON."""
    return {
        "proposal_id": str(found.id),
        "kind": found.kind.value,
        "state": found.state,
        "proposed_at": found.proposed_at,
        "expires_at": found.expires_at,
        "signed": len(found.signers),
        "needed": found.needed,
        "statement": found.statement,
    }


# ---------------------------------------------------------------- who may sign


@approver_app.command("list")
def approver_list(context: typer.Context) -> None:
    """Who may sign, and who once could."""
    from retention import approvals, signatures

    with opened(context.obj) as archive:
        found = approvals.approvers(archive)
    value = {
        "approvers": [
            {
                "approver_id": str(a.id),
                "name": a.name,
                "key": signatures.public_line(a.public_key),
                "enrolled_at": a.enrolled_at,
                "revoked_at": a.revoked_at,
            }
            for a in found
        ]
    }
    rows = [
        [str(a.id), a.name, signatures.fingerprint(a.public_key), "revoked" if a.revoked_at else "may sign"]
        for a in found
    ]
    answer(context.obj, value, lambda: table(["approver", "name", "key", ""], rows))


@approver_app.command("enrol")
def approver_enrol(
    context: typer.Context,
    name: str,
    public_key: Annotated[Path, typer.Option("--public-key", metavar="FILE", help="Such as id_ed25519.pub.")],
    key: KeyOption = None,
    signature: SignatureOption = None,
) -> None:
    """Let a person sign. The first enrols alone, the second with the first's --key, every later one by two."""
    from retention import approvals, signatures

    public = signatures.public_key(read(public_key))
    with opened(context.obj) as archive:
        armored = ""
        if signature is not None:
            armored = read(signature)
        elif key is not None:
            statement = approvals.enrolment(archive, name, public)
            armored = signatures.sign(signatures.private_key(key, passphrase), statement.encode())
        elif len(approvals.approvers(archive)) == 1:
            raise UsageError("the second approver is enrolled by the first: expected --key FILE, the first's key.")
        waiting = approvals.enrol(archive, name, public, now(), armored)
    value = {"name": name, "key": signatures.fingerprint(public), "proposal_id": waiting and str(waiting.id)}

    def people() -> None:
        if waiting is None:
            print(f"{name} may sign, with key {signatures.fingerprint(public)}")
        else:
            print(f"two must sign this enrolment: muniment approval sign {waiting.id} --key FILE")

    answer(context.obj, value, people)


@approver_app.command("revoke")
def approver_revoke(context: typer.Context, approver: str) -> None:
    """Propose that a person signs no more. Two must be left who can."""
    from retention import approvals

    with opened(context.obj) as archive:
        waiting = approvals.revoke(archive, identifier(approver), now())
    said = f"two must sign this: muniment approval sign {waiting.id} --key FILE"
    answer(context.obj, {"proposal_id": str(waiting.id)}, lambda: print(said))
