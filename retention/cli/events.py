"""`muniment event …`, `aggregation …`, `suspension …`: what happened to records and case files, and when.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli.command import UNSTATED, WhyOption, answer, identifier, now, opened, reader, table, tell

if TYPE_CHECKING:
    from retention.archive import Archive
    from retention.triggers import Change

app = typer.Typer(no_args_is_help=True, help="Trigger events: from when a period runs.")
aggregation_app = typer.Typer(no_args_is_help=True, help="Case files: a patient, a contract, an employee.")
suspension_app = typer.Typer(no_args_is_help=True, help="Days on which retention does not run.")

Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="A record id, an aggregation id or kind:business-id.")]
Propose = Annotated[bool, typer.Option("--propose", help="Ask two people, where the change makes something due.")]


# ---------------------------------------------------------------- events


@app.command("add")
def event_add(
    context: typer.Context,
    subject: Subject,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="As the schedule has it: contract_end.")],
    on: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], metavar="DATE")],
    note: Annotated[str, typer.Option(metavar="WORDS", help="Evidence; sealed.")] = "",
    create: Annotated[bool, typer.Option("--create", help="Make the aggregation if it is new.")] = False,
    propose: Propose = False,
) -> None:
    """Record that something happened to a record, or to an aggregation and so to all its records."""
    from retention.triggers import Change, Given

    with opened(context.obj) as archive:
        found = _subject(archive, subject, create=create)
        _change(context, archive, Change((Given(found, kind, on.date(), note),)), propose)


@app.command("retract")
def event_retract(
    context: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Its id, as `event list` shows it.")],
    note: Annotated[str, typer.Option(metavar="WORDS", help="Why it was wrong; sealed.")] = "",
    propose: Propose = False,
) -> None:
    """Take back an event that was wrong. It stays in the history."""
    from retention.triggers import Change, Retraction

    with opened(context.obj) as archive:
        _change(context, archive, Change(retractions=(Retraction(identifier(event), note),)), propose)


@app.command("list")
def event_list(context: typer.Context, subject: Subject, why: WhyOption = UNSTATED) -> None:
    """The events of a record or an aggregation, those that were retracted too."""
    from retention import reading

    asks = reader(why)
    with opened(context.obj) as archive:
        events = reading.events(archive, subject, asks)
    keys = ("trigger_event_id", "kind", "effective", "recorded_at", "by", "retracted_at")
    rows = [[str(event[key] or "") for key in keys] for event in events]
    answer(context.obj, events, lambda: table(["event", "kind", "date", "recorded", "by", "retracted"], rows))


@app.command("import")
def event_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="CSV", help="UTF-8, with the columns subject,kind,date[,note].")],
    create: Annotated[bool, typer.Option("--create", help="Make aggregations that are new.")] = False,
    propose: Propose = False,
) -> None:
    """Record the events of a CSV file: all of them, or none. Every mistake is named by its line."""
    from retention import event_files

    with opened(context.obj) as archive:
        found = event_files.read(archive, file, now(), create=create)
        _change(context, archive, found, propose)


def _change(context: typer.Context, archive: Archive, wanted: Change, propose: bool) -> None:
    from retention import triggers

    if propose:
        proposal = triggers.propose(archive, wanted, now())
        value: dict[str, Any] = {"proposal_id": str(proposal.id), "kind": proposal.kind.value}
        answer(context.obj, value, lambda: print(f"proposal {proposal.id} waits for two people"))
        return
    done = triggers.change(archive, wanted, now())
    for warning in done.warnings:
        tell(f"muniment: {warning}")
    value = {
        "events": [str(one) for one in done.ids[:1000]],
        "new": len(done.ids),
        "known": done.known,
        "warnings": list(done.warnings),
    }

    def people() -> None:
        for one in done.ids[:20]:
            print(f"event {one}")
        print(f"{len(done.ids):,} events recorded, {done.known:,} known before" if wanted.events else "recorded")

    answer(context.obj, value, people)


def _subject(archive: Archive, text: str, *, create: bool = False) -> Any:
    from retention import aggregations, ledger
    from retention.database import transaction

    found = aggregations.subject(archive.safe, text)
    if create and ":" in text:
        with transaction(archive.connections) as conn:
            ledger.append(conn, aggregations.ensure(conn, archive, [aggregations.parse(text)], now()), now())
    return found


# ---------------------------------------------------------------- aggregations


@aggregation_app.command("assign")
def aggregation_assign(
    context: typer.Context,
    records: Annotated[list[str], typer.Argument(metavar="RECORD…")],
    to: Annotated[str, typer.Option("--to", metavar="KIND:ID", help="Made if it is new.")],
    propose: Propose = False,
) -> None:
    """Put records into an aggregation: its events, suspensions and holds are theirs from now on."""
    from retention.triggers import Change

    with opened(context.obj) as archive:
        found = _subject(archive, to, create=True)
        wanted = Change(members=tuple((identifier(record), found) for record in records))
        _change(context, archive, wanted, propose)


@aggregation_app.command("list")
def aggregation_list(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Of this kind only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 1000,
    why: WhyOption = UNSTATED,
) -> None:
    """Aggregations, with the number of their records."""
    from retention import reading

    asks = reader(why)
    with opened(context.obj) as archive:
        found = reading.case_files(archive, kind, limit, asks)
    value = [
        {"aggregation_id": str(a.aggregation_id), "kind": a.kind, "id": a.business_id, "records": a.records}
        for a in found
    ]
    rows = [[str(a.aggregation_id), a.kind, a.business_id or "", f"{a.records:,}"] for a in found]
    answer(context.obj, value, lambda: table(["aggregation", "kind", "id", "records"], rows, right=(3,)))


# ---------------------------------------------------------------- suspensions


@suspension_app.command("start")
def suspension_start(
    context: typer.Context,
    subject: Subject,
    reason: Annotated[str, typer.Option(metavar="CODE", help="Such as litigation or tax-audit.")],
    since: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], metavar="DATE", help="First day.")],
) -> None:
    """Stop the clock of a record or an aggregation: nothing of it is due until it goes on."""
    from retention.triggers import Change

    with opened(context.obj) as archive:
        found = _subject(archive, subject)
        _change(context, archive, Change(suspensions=((found, since.date(), reason),)), propose=False)


@suspension_app.command("end")
def suspension_end(
    context: typer.Context,
    suspension: Annotated[str, typer.Argument(metavar="SUSPENSION", help="Its id, as `suspension list` shows it.")],
    until: Annotated[datetime, typer.Option("--on", formats=["%Y-%m-%d"], metavar="DATE", help="Last day.")],
    propose: Propose = False,
) -> None:
    """Let the clock go on. The days between are added to what was left."""
    from retention.triggers import Change

    with opened(context.obj) as archive:
        _change(context, archive, Change(resumptions=((identifier(suspension), until.date()),)), propose)


@suspension_app.command("list")
def suspension_list(
    context: typer.Context,
    subject: Annotated[str | None, typer.Argument(metavar="SUBJECT")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
) -> None:
    """Suspensions, those that are open first."""
    from retention import aggregations, catalog
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        asked = None if subject is None else [aggregations.subject(archive.safe, subject)]
        found = catalog.suspensions(conn, archive, asked, ended=everything or asked is not None)
    rows = [
        [str(one[k] or "") for k in ("suspension_id", "subject", "reason", "starts", "ends", "by")] for one in found
    ]
    answer(context.obj, found, lambda: table(["suspension", "subject", "reason", "from", "until", "by"], rows))
