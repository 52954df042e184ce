"""`muniment hold …`: place a hold, look at holds, propose a release, review, produce what is held.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retention.cli.command import UNSTATED, WhyOption, answer, identifier, now, opened, reader, table, tell

app = typer.Typer(no_args_is_help=True, help="Holds: what must not be destroyed while a matter lasts.")

_AT_ONCE = 1_000  # flags set before the command ends; the rest follow, the hold is in force already
_DAY = ["%Y-%m-%d"]


@app.command("place")
def hold_place(
    context: typer.Context,
    matter: Annotated[str, typer.Option(metavar="WORDS", help="What it is about; sealed.")],
    authority: Annotated[str, typer.Option(metavar="WORDS", help="Who or what demands it; sealed.")],
    review: Annotated[datetime, typer.Option(formats=_DAY, metavar="DATE", help="When to ask if it still must be.")],
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Also what arrives later.")] = False,
    records: Annotated[list[str] | None, typer.Option("--record", metavar="ID")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", metavar="ID", help="And all below it.")] = None,
    aggregations: Annotated[list[str] | None, typer.Option("--aggregation", metavar="KIND:ID")] = None,
    sources: Annotated[list[str] | None, typer.Option("--source", metavar="NAME")] = None,
    custodians: Annotated[list[str] | None, typer.Option("--custodian", metavar="NAME", help="Author, sender.")] = None,
    since: Annotated[datetime | None, typer.Option("--from", formats=_DAY, metavar="DATE")] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=_DAY, metavar="DATE")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="WORDS", help="As `muniment find` has them.")] = None,
) -> None:
    """Hold what is in scope: one option given several times is OR, different options are AND.

    Exits 1 if some of it is being destroyed already, or if a static hold found nothing."""
    from retention import holds
    from retention.descriptors import printable
    from retention.holds import flags
    from retention.holds.register import Mode
    from retention.holds.scopes import Scope

    scope = Scope(
        records=tuple(map(identifier, records or ())),
        classes=tuple(map(printable, classes or ())),
        aggregations=tuple(aggregations or ()),
        sources=tuple(sources or ()),
        custodians=tuple(map(printable, custodians or ())),
        since=_day(since),
        until=_day(until),
        text=None if text is None else printable(text),
    )
    mode = Mode.DYNAMIC if dynamic else Mode.STATIC
    with opened(context.obj) as archive:
        placed = holds.place(archive, scope, mode, holds.Matter(matter, authority, review.date()), now())
        drained = flags.drain(archive, now(), at_most=_AT_ONCE)
    if drained.problem:
        tell(f"muniment: the hold is in force; the vault's flag of {drained.waiting:,} objects is not set yet:")
        tell(f"  {drained.problem}")
    value = {
        "hold_id": str(placed.hold_id),
        "mode": mode.value,
        "new": placed.new,
        "records": placed.members,
        "bytes": placed.bytes,
        "added": placed.added,
        "quarantined": placed.quarantined,
        "unsearchable": placed.unsearchable,
        "too_late": [*map(str, placed.too_late)],
        "flags_waiting": drained.waiting,
    }

    def people() -> None:
        print(f"hold {placed.hold_id} {'placed' if placed.new else 'was in force'}: {mode.value}")
        print(f"{placed.members:,} records, {placed.bytes:,} bytes; {placed.added:,} of them added now")
        if placed.unsearchable:
            print(f"{placed.unsearchable:,} in scope because their words or author cannot be known")
        if placed.quarantined:
            print(f"{placed.quarantined:,} quarantined documents")
        for record in placed.too_late:
            print(f"too late, it is being destroyed: {record}")

    answer(context.obj, value, people)
    if placed.too_late or not (dynamic or placed.members or placed.quarantined):
        raise typer.Exit(1)


def _day(when: datetime | None) -> date | None:
    return when.date() if when else None


@app.command("list")
def hold_list(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Released ones too.")] = False,
    why: WhyOption = UNSTATED,
) -> None:
    """Holds in force, the one to be reviewed first at the top."""
    from retention import reading

    asks = reader(why)
    with opened(context.obj) as archive:
        found = reading.holds(archive, all_, asks)
    value = {
        "holds": [
            {
                "hold_id": str(h.hold_id),
                "mode": h.mode.value,
                "matter": h.matter,
                "placed_at": h.placed_at,
                "review_on": h.review_on,
                "review_due": h.released_at is None and h.review_on <= now().date(),
                "released_at": h.released_at,
                "records": h.members,
                "bytes": h.bytes,
                "quarantined": h.quarantined,
            }
            for h in found
        ]
    }
    rows = [
        [str(h.hold_id), h.mode.value, h.matter or "", str(h.review_on), f"{h.members:,}", f"{h.bytes:,}", _state(h)]
        for h in found
    ]
    headings = ["hold", "mode", "matter", "review", "records", "bytes", ""]
    answer(context.obj, value, lambda: table(headings, rows, right=(4, 5)))


def _state(hold: Any) -> str:
    if hold.released_at is not None:
        return f"released {hold.released_at:%Y-%m-%d}"
    return "REVIEW DUE" if hold.review_on <= now().date() else ""


@app.command("show")
def hold_show(
    context: typer.Context,
    hold: str,
    listing: Annotated[bool, typer.Option("--list", help="Every record, one a line.")] = False,
    why: WhyOption = UNSTATED,
) -> None:
    """One hold: matter, authority, scope, what it has, the vault's flags, its events."""
    from retention import reading
    from retention.database import transaction
    from retention.holds import register

    asks = reader(why)
    with opened(context.obj) as archive:
        found = reading.hold(archive, identifier(hold), asks)
        if listing:
            with transaction(archive.connections) as conn:
                found["members"] = [*map(str, register.members(conn, identifier(hold)))]

    def people() -> None:
        plain = {k: v for k, v in found.items() if k not in ("events", "members", "scope") and v is not None}
        table(["", ""], [[key, str(value)] for key, value in plain.items()])
        table(["scope", ""], [[key, _words(value)] for key, value in found["scope"].items()])
        for event in found["events"]:
            print(f"{event['time']}  {event['type']}  {event['outcome']}  {event['by']}")
        for record in found.get("members", ()):
            print(record)

    answer(context.obj, found, people)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


@app.command("release")
def hold_release(context: typer.Context, hold: str) -> None:
    """Propose to release a hold: it ends when two approvers have signed."""
    from retention import holds

    with opened(context.obj) as archive:
        proposal = holds.propose_release(archive, identifier(hold), now())
    value = {
        "proposal_id": str(proposal.id),
        "hold_id": str(identifier(hold)),
        "statement": proposal.statement,
        "expires_at": proposal.expires_at,
    }

    def people() -> None:
        print(f"proposed as {proposal.id}; two approvers sign this before {proposal.expires_at:%Y-%m-%d %H:%M} UTC:")
        print(proposal.statement)

    answer(context.obj, value, people)


@app.command("review")
def hold_review(
    context: typer.Context,
    hold: str,
    on: Annotated[datetime, typer.Option("--on", formats=_DAY, metavar="DATE", help="The day to ask again.")],
) -> None:
    """Confirm that a hold is still needed, until another day."""
    from retention import holds

    with opened(context.obj) as archive:
        holds.review(archive, identifier(hold), on.date(), now())
    value = {"hold_id": str(identifier(hold)), "review_on": on.date()}
    answer(context.obj, value, lambda: print(f"{hold}: to be reviewed on {on.date()}"))


@app.command("produce")
def hold_produce(
    context: typer.Context,
    hold: str,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the bag is written; nothing may be there.")],
) -> None:
    """Export what is held, native and readable, with its audit trail. Exits 1 if a record could not be read."""
    from retention.holds import production

    with opened(context.obj) as archive:
        bag = production.produce(archive, identifier(hold), to, now)
    value = {
        "hold_id": str(identifier(hold)),
        "path": str(bag.path),
        "digest": bag.digest.hex(),
        "records": len(bag.records),
        "files": bag.files,
        "bytes": bag.bytes,
        "not_included": [{"record_id": str(f.record_id), "code": f.code, "message": f.message} for f in bag.findings],
    }

    def people() -> None:
        print(f"{bag.path}: {len(bag.records):,} records, {bag.files:,} files, {bag.bytes:,} bytes")
        for finding in bag.findings:
            print(f"not included: {finding.record_id} {finding.code}: {finding.message}")

    answer(context.obj, value, people)
    if bag.findings:
        raise typer.Exit(1)
