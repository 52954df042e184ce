"""`muniment request …`, `muniment destroyed`: what a person may ask of the archive, and what stays of what is gone.

Rules of this module: those of retention.cli, and:
- A request is answered for today; `--as-of` is refused.
- Exit 1: something is left to do (a hit to check, a record to be erased, one that could not be read, an answer that
  is overdue), or there is no tombstone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from retention.cli.command import UNSTATED, Options, WhyOption, answer, identifier, now, opened, reader, table, tell
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.requests import Handled
    from retention.requests.answers import Answer
    from retention.requests.register import Asked, Request
    from retention.requests.subjects import Subject

app = typer.Typer(no_args_is_help=True, help="Requests of persons: erase, access, restrict; disclosures.")

_DAY = ["%Y-%m-%d"]
_OPEN = ("check", "waiting", "erasing", "unreadable")  # answers that leave something to do


class Grounds(StrEnum):
    """GDPR art. 18(1)(a) to (d), as the command line takes them before anything is imported."""

    ACCURACY = "accuracy"
    UNLAWFUL = "unlawful"
    CLAIMS = "claims"
    OBJECTION = "objection"


class Reasons(StrEnum):
    """GDPR art. 12(3)."""

    COMPLEXITY = "complexity"
    NUMBER = "number"


SubjectOption = Annotated[str, typer.Option("--subject", metavar="KIND:ID", help="Whom it is about: patient:123.")]
AuthorOption = Annotated[bool, typer.Option("--author", help="--subject is a name or address of an author.")]
TextOption = Annotated[bool, typer.Option("--text", help="--subject is words: hits are for a person to check.")]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who asks, if another; sealed.")]
ReceivedOption = Annotated[
    datetime | None, typer.Option("--received", formats=_DAY, metavar="DATE", help="When it came in; default today.")
]


def _subject(text: str, author: bool, words: bool) -> Subject:
    from retention.requests.subjects import Finds, subject

    if author and words:
        raise UsageError("--author --text: expected one of them at most; ask twice.")
    return subject(text, Finds.AUTHOR if author else Finds.TEXT if words else Finds.AGGREGATION)


def _asked(
    chosen: Options, subject: Subject, by: str | None, received: datetime | None, ground: str | None = None
) -> Asked:
    from retention.descriptors import printable
    from retention.requests.register import Asked, Ground

    if chosen.as_of is not None:
        raise UsageError("--as-of: a request is answered for today. Leave it out.")
    day = received.date() if received else None
    return Asked(subject, printable(by) if by else None, day, Ground(ground) if ground else None)


# ---------------------------------------------------------------- to ask


@app.command("erase")
def request_erase(
    context: typer.Context,
    subject: SubjectOption,
    author: AuthorOption = False,
    text: TextOption = False,
    by: ByOption = None,
    received: ReceivedOption = None,
) -> None:
    """Answer a request for erasure (GDPR art. 17): per record refused with the law, restricted, or put into a plan."""
    from retention import requests

    asked = _asked(context.obj, _subject(subject, author, text), by, received)
    with opened(context.obj) as archive:
        handled = requests.erase(archive, asked, now())
    _answer(context.obj, handled)


@app.command("access")
def request_access(
    context: typer.Context,
    subject: SubjectOption,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the bag is written; nothing may be there.")],
    author: AuthorOption = False,
    text: TextOption = False,
    by: ByOption = None,
    received: ReceivedOption = None,
    recipient: Annotated[
        str | None, typer.Option("--recipient", metavar="NAME", help="Who gets it; default who asks. Sealed.")
    ] = None,
) -> None:
    """Hand out everything that is kept of a person (GDPR art. 15, 45 CFR 164.524), native and readable."""
    from retention import requests
    from retention.descriptors import printable

    asked = _asked(context.obj, _subject(subject, author, text), by, received)
    with opened(context.obj) as archive:
        handled = requests.access(archive, asked, to, printable(recipient) if recipient else None, now)
    _answer(context.obj, handled)


@app.command("restrict")
def request_restrict(
    context: typer.Context,
    subject: SubjectOption,
    ground: Annotated[Grounds, typer.Option("--ground", help="Why: GDPR art. 18(1)(a) to (d).")],
    author: AuthorOption = False,
    text: TextOption = False,
    by: ByOption = None,
    received: ReceivedOption = None,
) -> None:
    """Store a person's records and do nothing else with them (GDPR art. 18), until it is lifted."""
    from retention import requests

    asked = _asked(context.obj, _subject(subject, author, text), by, received, ground.value)
    with opened(context.obj) as archive:
        handled = requests.restrict(archive, asked, now())
    _answer(context.obj, handled)


@app.command("check")
def request_check(
    context: typer.Context,
    request: str,
    about: Annotated[list[str] | None, typer.Option("--about", metavar="RECORD", help="Is about the subject.")] = None,
    other: Annotated[list[str] | None, typer.Option("--not-about", metavar="RECORD", help="Is not.")] = None,
) -> None:
    """Say of hits whether they are about the subject; the request is answered again."""
    from retention import requests

    looked, others = [*map(identifier, about or ())], [*map(identifier, other or ())]
    if (not looked and not others) or set(looked) & set(others):
        raise UsageError("expected --about RECORD or --not-about RECORD, and no record under both.")
    with opened(context.obj) as archive:
        handled = requests.check(archive, identifier(request), looked, others, now())
    _answer(context.obj, handled)


def _answer(chosen: Options, handled: Handled) -> None:
    request, answers = handled.request, handled.answers
    value = {
        **_request(request),
        "new": handled.new,
        "records": [_record(one) for one in answers],
        "unsearched": handled.unsearched,
        "recipients": {
            "of_classes": list(handled.recipients.of_classes),
            "disclosed_to": list(handled.recipients.disclosed_to),
        },
        "plans": sorted({str(one.plan_id) for one in answers if one.plan_id is not None}),
    }
    if bag := handled.bag:
        value |= {"path": str(bag.path), "digest": bag.digest.hex(), "files": bag.files, "bytes": bag.bytes}
        value["not_included"] = [
            {"record_id": str(f.record_id), "code": f.code, "message": f.message} for f in bag.findings
        ]

    def people() -> None:
        state = "entered" if handled.new else "was entered before"
        print(f"request {request.id} to {request.kind} {state}; to be answered until {request.due_on}")
        _people(answers)
        if handled.bag:
            print(f"{handled.bag.path}: {handled.bag.files:,} files, {handled.bag.bytes:,} bytes")
        if handled.unsearched:
            print(f"{handled.unsearched:,} records could not be searched (scanned, encrypted, not described)")
        for name in (*value["recipients"]["of_classes"], *value["recipients"]["disclosed_to"]):
            print(f"to be told (GDPR art. 19): {name}")

    answer(chosen, value, people)
    if any(one.given in _OPEN for one in answers):
        raise typer.Exit(1)


def _people(answers: Sequence[Answer]) -> None:
    rows = [
        [str(a.record_id), a.given, a.reason, str(a.until or ""), a.citation, str(a.plan_id or "")] for a in answers
    ]
    if rows:
        table(["record", "answer", "why", "until", "law", "plan"], rows)
    else:
        print("nothing is kept of the subject")


def _record(one: Answer) -> dict[str, Any]:
    return {
        "record_id": str(one.record_id),
        "answer": one.given.value,
        "reason": one.reason,
        "citation": one.citation,
        "until": one.until,
        "about": one.about,
        "plan_id": one.plan_id and str(one.plan_id),
    }


def _request(found: Request) -> dict[str, Any]:
    return {
        "request_id": str(found.id),
        "kind": found.kind.value,
        "finds": found.finds.value,
        "ground": found.ground and found.ground.value,
        "received": found.received,
        "due_on": found.due_on,
        "extension": found.extension and found.extension.value,
        "answered_at": found.answered_at,
        "lifted_at": found.lifted_at,
        "counts": found.counts,
    }


# ---------------------------------------------------------------- to follow


@app.command("list")
def request_list(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Answered ones too.")] = False,
) -> None:
    """Open requests, the one that is due first at the top. Exits 1 if one is overdue."""
    from retention import policy
    from retention.database import transaction
    from retention.requests import register

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = register.listed(conn, answered=all_)
        today = policy.today(conn, now())
    late = {one.id for one in found if one.answered_at is None and one.due_on < today}
    value = {"requests": [{**_request(one), "overdue": one.id in late} for one in found]}
    rows = [
        [
            *(str(one.id), one.kind.value, str(one.received), str(one.due_on)),
            ", ".join(f"{count:,} {given}" for given, count in sorted(one.counts.items())),
            f"answered {one.answered_at:%Y-%m-%d}" if one.answered_at else "OVERDUE" if one.id in late else "",
        ]
        for one in found
    ]
    answer(context.obj, value, lambda: table(["request", "to", "received", "due", "records", ""], rows))
    if late:
        raise typer.Exit(1)


@app.command("show")
def request_show(context: typer.Context, request: str, why: WhyOption = UNSTATED) -> None:
    """One request: whom it is about, who asked, what was said of each record, its events."""
    from retention import catalog, reading
    from retention.database import transaction
    from retention.requests import answers as request_answers
    from retention.requests import register

    asks = reader(why)
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = register.one(conn, identifier(request))
        subject, by = register.said(archive, conn, found.id)
        answers = request_answers.answers(conn, found.id)
        events = catalog.history(conn, archive, found.id)
        reading.looked(conn, archive, "request", [found.id], asks)
    value = {
        **_request(found),
        "subject": subject.text,
        "by": by,
        "records": [_record(one) for one in answers],
        "events": events,
    }

    def people() -> None:
        plain = {k: v for k, v in value.items() if k not in ("records", "events") and v is not None}
        table(["", ""], [[key, str(one)] for key, one in plain.items()])
        _people(answers)
        for event in events:
            print(f"{event['time']}  {event['type']}  {event['outcome']}  {event['by']}")

    answer(context.obj, value, people)


@app.command("extend")
def request_extend(
    context: typer.Context,
    request: str,
    reason: Annotated[Reasons, typer.Option("--reason", help="GDPR art. 12(3).")],
) -> None:
    """Take two more months to answer, once, of which the person is told within the first."""
    from retention.requests import register

    with opened(context.obj) as archive:
        extension = register.Extension(reason.value)
        found = register.extend(archive, identifier(request), extension, now())
    answer(context.obj, _request(found), lambda: print(f"{request}: to be answered until {found.due_on}"))


@app.command("close")
def request_close(context: typer.Context, request: str) -> None:
    """The person was told: the request is answered."""
    from retention.requests import register

    with opened(context.obj) as archive:
        found = register.close(archive, identifier(request), now())
    answer(context.obj, _request(found), lambda: print(f"{request}: answered"))


@app.command("lift")
def request_lift(context: typer.Context, request: str) -> None:
    """End a restriction, after the person was told (GDPR art. 18(3))."""
    from retention.requests import register

    with opened(context.obj) as archive:
        found, freed = register.lift(archive, identifier(request), now())
    value = {**_request(found), "lifted": freed}
    answer(context.obj, value, lambda: print(f"{request}: lifted from {freed:,} records"))


# ---------------------------------------------------------------- to account for


@app.command("disclosures")
def request_disclosures(
    context: typer.Context,
    subject: SubjectOption,
    author: AuthorOption = False,
    text: TextOption = False,
    years: Annotated[int, typer.Option(min=1, max=100, help="How far back (45 CFR 164.528: six).")] = 6,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a table for spreadsheets.")] = None,
) -> None:
    """To whom a person's records were disclosed, when, what and why (45 CFR 164.528)."""
    from retention import policy
    from retention.database import transaction
    from retention.requests import disclosures, subjects

    whom = _subject(subject, author, text)
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        subjects.refuse_unknown(conn, archive.safe, whom)
        subject_id = subjects.identity(archive.safe, whom)
        sure = subjects.find(conn, archive.safe, whom).sure
        ids = {subject_id, *sure, *subjects.ever(conn, subject_id)}
        first = disclosures.since(policy.today(conn, now()), years)
        found = disclosures.accounting(conn, archive, sorted(ids), first)
    if csv is not None:
        csv.write_text(disclosures.csv_of(found), "utf-8-sig", newline="")
    value: dict[str, Any] = {
        "since": first,
        "records": len(ids) - 1,
        "disclosures": [
            {
                "at": one.at,
                "recipient": one.recipient,
                "purpose": one.purpose,
                "classes": list(one.classes),
                "records": [*map(str, one.records)],
                "package": one.package,
                "event": one.event,
                "position": one.position,
                "exempt": one.exempt,
            }
            for one in found
        ],
    }
    if csv is not None:
        value["path"] = str(csv)

    def people() -> None:
        rows = [
            [
                *(str(one.position), f"{one.at:%Y-%m-%d}", one.recipient or "not recorded", one.purpose),
                *(f"{len(one.records):,}", ", ".join(one.classes), one.package or "", one.exempt or ""),
            ]
            for one in found
        ]
        table(["event", "date", "to", "purpose", "records", "what", "package", "exempt"], rows, right=(4,))
        if not found:
            print(f"none since {first}")

    answer(context.obj, value, people)


def destroyed(
    context: typer.Context,
    id_: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="A record, an aggregation, or KIND:ID (patient:123).")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", exists=True, dir_okay=False, help="A document's bytes.")
    ] = None,
) -> None:
    """Was it destroyed? The tombstones, with rule, law, plan and certificate. Exits 1 if there is none."""
    from retention import aggregations
    from retention.database import transaction
    from retention.disposition import tombstones
    from retention.seal import digest_of

    if (id_ is None) == (file is None):
        raise UsageError("expected --id ID or --file PATH, one of them.")
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        if file is not None:
            with file.open("rb") as stream:
                found = tombstones.of_content(conn, archive.safe.content(digest_of(stream)[0]))
        else:
            found = tombstones.of_subject(conn, aggregations.subject(archive.safe, id_ or ""))
    keys = tombstones.Tombstone.__slots__
    value = {
        "tombstones": [
            {key: str(v) if isinstance(v := getattr(one, key), UUID) else v for key in keys} for one in found.tombstones
        ],
        "kept": found.kept,
    }

    def people() -> None:
        rows = [
            [
                *(str(one.record_id), one.class_id, str(one.received), one.state, f"{one.ended_at:%Y-%m-%d}"),
                *(str(one.retain_until), one.citation or one.rule_id, str(one.plan_id), str(one.certificate_id or "")),
            ]
            for one in found.tombstones
        ]
        if rows:
            headings = ["record", "class", "received", "state", "on", "kept until", "law", "plan", "certificate"]
            table(headings, rows)
        else:
            print("no tombstone: nothing of it was destroyed or transferred here")
        if found.kept:
            print(f"{found.kept:,} records of it are kept")
        if file is not None and not rows:
            tell("a document is known by its bytes if it came in by itself; an attachment, by the record it came with")

    answer(context.obj, value, people)
    if not found.tombstones:
        raise typer.Exit(1)
