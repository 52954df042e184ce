"""`muniment disposition …`: propose, review, approve, execute, and hold a certificate.

Rules of this module: those of retention.cli, and:
- `--as-of` proposes for another day; whatever decides, signs or destroys is for today, and refuses it.
- An execution that left something undone exits 1, with the list; running it again goes on.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli.approvals import KeyOption, SignatureOption
from retention.cli.approvals import sign as enter_signature
from retention.cli.command import Options, answer, identifier, now, opened, table, tell
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.disposition.execution import Executed
    from retention.disposition.plans import Plan
    from retention.disposition.reviewing import Decided

app = typer.Typer(no_args_is_help=True, help="Disposition: what has outlived its retention goes, by two people.")

_DAY = ["%Y-%m-%d"]
_INSTANT = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"]


@app.command("propose")
def disposition_propose(
    context: typer.Context,
    at: Annotated[
        datetime | None,
        typer.Option(formats=_INSTANT, metavar="INSTANT", help="As of its day in the schedule's time zone."),
    ] = None,
) -> None:
    """Put everything that is due, and in no open plan, into a new plan; and what was rejected a month ago into a
    proposal of its own."""
    from retention import engine, policy
    from retention.database import transaction
    from retention.disposition import plans, proposing, rejected

    if at is not None and context.obj.as_of is not None:
        raise UsageError("expected --as-of DATE or --at INSTANT, found both.")
    with opened(context.obj) as archive:
        as_of = context.obj.as_of
        if at is not None:
            with transaction(archive.connections) as conn:
                as_of = engine.today(policy.current(conn).schedule, at)
        found = proposing.propose(archive, now(), as_of)
        documents = rejected.propose(archive, now())
        plan = None
        if found.plan is not None:
            with transaction(archive.connections) as conn:
                plan = plans.show(conn, found.plan)
    value: dict[str, Any] = {"plan_id": None, "count": 0, "bytes": 0} if plan is None else _shown(plan)
    value |= {
        "in_other_plans": found.in_other_plans,
        "not_notified": found.not_notified,
        "disagreed": [str(record) for record in found.disagreed],
        "rejected_proposal": documents and str(documents.id),
    }

    def people() -> None:
        if plan is None:
            print("nothing is due that is not in a plan")
        else:
            _print(plan)
        if found.in_other_plans:
            print(f"{found.in_other_plans:,} records are in other open plans")
        if found.not_notified:
            print(f"{found.not_notified:,} records wait for their notice: muniment disposition notify")
        if documents is not None:
            count = len(documents.content["documents"])
            print(f"{count:,} rejected documents wait for two signatures: muniment approval show {documents.id}")
        for record in found.disagreed:
            tell(f"LEFT OUT {record}: the two calculations of its date differ; report this as a defect")

    answer(context.obj, value, people)
    if found.disagreed:
        raise typer.Exit(1)


@app.command("notify")
def disposition_notify(context: typer.Context) -> None:
    """Give notice of what comes due soon, where a rule asks for it. Once for each record."""
    from retention.disposition import proposing

    _refuse_as_of(context.obj)
    with opened(context.obj) as archive:
        given = proposing.announce(archive, now())
    rows = [[class_id, f"{count:,}"] for class_id, count in sorted(given.items())]
    answer(context.obj, {"notified": given}, lambda: table(["class", "records"], rows, right=(1,)))


@app.command("list")
def disposition_list(
    context: typer.Context,
    ready: Annotated[
        bool, typer.Option("--ready", help="Those that execute would go on with, the oldest first.")
    ] = False,
) -> None:
    """Every plan, the newest first."""
    from retention.database import transaction
    from retention.disposition import plans

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = [plans.show(conn, plan) for plan in plans.ready(conn)] if ready else plans.listed(conn)
    rows = [[str(p.id), p.state, str(p.as_of), f"{p.items:,}", f"{p.size:,}"] for p in found]
    headings = ["plan", "state", "as of", "records", "bytes"]
    answer(context.obj, {"plans": [_shown(p) for p in found]}, lambda: table(headings, rows, right=(3, 4)))


@app.command("show")
def disposition_show(
    context: typer.Context,
    plan: str,
    listing: Annotated[bool, typer.Option("--list", help="Every item, one a line.")] = False,
) -> None:
    """One plan: where it stands, what of each class, and what it waits for."""
    from retention.database import transaction
    from retention.disposition import plans

    keys = ("record_id", "unit_id", "class_id", "action", "rule", "retain_until", "decision", "reason", "outcome")
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = plans.show(conn, identifier(plan))
        items = (
            [dict(zip(keys, map(_plain, row), strict=True)) for row in plans.items(conn, found.id)] if listing else []
        )
    value = _shown(found) | ({"items": items} if listing else {})

    def people() -> None:
        _print(found)
        for item in items:
            print(*(item[key] or "-" for key in keys))

    answer(context.obj, value, people)


@app.command("review")
def disposition_review(
    context: typer.Context,
    plan: str,
    decision: Annotated[str, typer.Argument(help="approve, extend, relabel or hold")],
    record: Annotated[list[str] | None, typer.Option(help="This record (with its unit).")] = None,
    unit: Annotated[list[str] | None, typer.Option(help="This unit, such as an aggregation.")] = None,
    class_id: Annotated[list[str] | None, typer.Option("--class", help="All of this class.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is not decided yet.")] = False,
    reason: Annotated[str | None, typer.Option(metavar="CODE", help="Such as still-in-use.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="extend: not before.")] = None,
    to: Annotated[str | None, typer.Option(metavar="CLASS", help="relabel: the new class.")] = None,
    matter: Annotated[str | None, typer.Option(metavar="WORDS", help="hold: what it is about; sealed.")] = None,
    authority: Annotated[str | None, typer.Option(metavar="WORDS", help="hold: who demands it; sealed.")] = None,
    review: Annotated[datetime | None, typer.Option(formats=_DAY, metavar="DATE", help="hold: when to ask.")] = None,
) -> None:
    """Decide items of a plan, in the present stage of their class. Members of a unit go together."""
    from retention.database import transaction
    from retention.disposition import plans, reviewing
    from retention.disposition.reviewing import Selection

    _refuse_as_of(context.obj)
    decided = _decided(decision, reason, until, to, matter, authority, review)
    selection = Selection(
        tuple(identifier(r) for r in record or ()),
        tuple(identifier(u) for u in unit or ()),
        tuple(class_id or ()),
        everything,
    )
    with opened(context.obj) as archive:
        count = reviewing.review(archive, identifier(plan), selection, decided, now())
        with transaction(archive.connections) as conn:
            found = plans.show(conn, identifier(plan))

    def people() -> None:
        print(f"{decision}: {count:,} records")
        _print(found)

    answer(context.obj, {"decided": count, **_shown(found)}, people)


def _decided(
    decision: str,
    reason: str | None,
    until: datetime | None,
    to: str | None,
    matter: str | None,
    authority: str | None,
    review: datetime | None,
) -> Decided:
    from retention.disposition.reviewing import Decided, Decision
    from retention.holds import Matter

    try:
        wanted = Decision(decision)
    except ValueError:
        raise UsageError(f"expected approve, extend, relabel or hold, found {decision!r}.") from None
    about = Matter(matter, authority, review.date()) if matter and authority and review else None
    return Decided(wanted, reason, until.date() if until else None, to, about)


@app.command("approve")
def disposition_approve(
    context: typer.Context, plan: str, key: KeyOption = None, signature: SignatureOption = None
) -> None:
    """Sign a reviewed plan. Two people must, three above the limits of the schedule."""
    from retention.database import transaction
    from retention.disposition import plans

    enter_signature(context.obj, identifier(plan), key, signature)
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = plans.show(conn, identifier(plan))
    answer(context.obj, _shown(found), lambda: _print(found))


@app.command("execute")
def disposition_execute(
    context: typer.Context,
    plan: str,
    skip_busy: Annotated[
        bool, typer.Option("--skip-busy", help="Where another process is at it: say so, and exit 0.")
    ] = False,
) -> None:
    """Do what was approved, after checking it again. Exits 1 if something is left to do."""
    _execute(context.obj, plan, skip_busy)


@app.command("resume")
def disposition_resume(context: typer.Context, plan: str) -> None:
    """Go on with an execution that was broken off: the same as execute, which also goes on."""
    _execute(context.obj, plan)


def _execute(chosen: Options, plan: str, skip_busy: bool = False) -> None:
    from retention.disposition import execution

    _refuse_as_of(chosen)
    done = 0

    def progress(ended: int) -> None:
        nonlocal done
        done += ended
        tell(f"{done:,} records")

    try:
        with opened(chosen) as archive:
            found = execution.execute(archive, identifier(plan), now, progress)
    except execution.Busy:
        if not skip_busy:
            raise
        value = {"plan_id": plan, "busy": True}
        answer(chosen, value, lambda: print(f"plan {plan}: another process is at it, nothing was done here"))
        return
    _answer(chosen, found)


@app.command("acknowledge")
def disposition_acknowledge(context: typer.Context, plan: str, receipt: Path) -> None:
    """Enter what the receiver of a transfer acknowledged; then execute destroys here what was accepted."""
    from retention.disposition import transfers

    _refuse_as_of(context.obj)
    with opened(context.obj) as archive:
        found = transfers.acknowledge(archive, identifier(plan), receipt, now())
    value = {
        "plan_id": plan,
        "receiver": found.receiver,
        "accepted": len(found.accepted),
        "rejected": {str(record): reason for record, reason in found.rejected.items()},
        "unanswered": [str(record) for record in found.unanswered],
    }
    answer(
        context.obj,
        value,
        lambda: print(f"accepted {len(found.accepted)}, rejected {len(found.rejected)}; now: execute {plan}"),
    )


@app.command("give-up")
def disposition_give_up(context: typer.Context, plan: str) -> None:
    """End a transfer that its receiver does not acknowledge: its records stay, and are proposed again."""
    from retention.disposition import execution

    _refuse_as_of(context.obj)
    with opened(context.obj) as archive:
        found = execution.give_up(archive, identifier(plan), now)
    _answer(context.obj, found)


@app.command("certificate")
def disposition_certificate(
    context: typer.Context,
    plan: str,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the signed file.")] = None,
) -> None:
    """The execution certificate of a plan, its signature checked."""
    from retention.disposition import certificate

    with opened(context.obj) as archive:
        content = certificate.read(archive, identifier(plan))
    stated = certificate.verify(content)
    if output is not None:
        output.write_bytes(content)
    outcomes: dict[str, int] = {}
    for item in stated["items"]:
        outcomes[item["outcome"]] = outcomes.get(item["outcome"], 0) + 1

    def people() -> None:
        print(stated["statement"])
        print(f"executed {stated['started']} to {stated['ended']}")
        table(["outcome", "records"], [[code, f"{n:,}"] for code, n in sorted(outcomes.items())], right=(1,))

    answer(context.obj, stated, people)


@app.command("prove")
def disposition_prove(
    context: typer.Context,
    plan: Annotated[str | None, typer.Argument(help="All that can be proved now, without one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the signed file of that plan.")] = None,
) -> None:
    """That what a plan destroyed cannot be opened from any recovery point either; a certificate of it.

    Once the term of the key safe's copies, seven days, is over. Exits 1 if something opens, and names it."""
    from retention.backup import reach
    from retention.disposition import evidence

    _refuse_as_of(context.obj)
    if output is not None and plan is None:
        raise UsageError("--output: expected the plan whose certificate is to be written beside it.")
    with opened(context.obj) as archive:
        ids = [identifier(plan)] if plan else reach.due(archive, now())
        found = [reach.prove(archive, one, now) for one in ids]
        if output is not None and found[0].certificate_id is not None:
            output.write_bytes(evidence.read(archive, found[0].certificate_id))
    value = [
        {
            "plan_id": str(one.plan_id),
            "certificate_id": one.certificate_id and str(one.certificate_id),
            "records": one.records,
            "points": sum(vault.points for vault in one.vaults),
            "points_with_content": sum(vault.holding for vault in one.vaults),
            "control": one.control and str(one.control),
            "problems": one.problems,
        }
        for one in found
    ]

    def people() -> None:
        for one in found:
            print(f"plan {one.plan_id}: " + (f"certificate {one.certificate_id}" if not one.problems else "NOT PROVED"))
            for problem in one.problems:
                print(f"  {problem}")
        if not found:
            print("no plan whose term is over waits for its proof")

    answer(context.obj, {"plans": value}, people)
    if any(one.problems for one in found):
        raise typer.Exit(1)


@app.command("withdraw")
def disposition_withdraw(context: typer.Context, plan: str) -> None:
    """Take back a plan that is not approved; its records may be proposed again."""
    from retention.disposition import reviewing

    with opened(context.obj) as archive:
        reviewing.withdraw(archive, identifier(plan), now())
    answer(context.obj, {"plan_id": plan, "state": "withdrawn"}, lambda: print(f"plan {plan} is withdrawn"))


@app.command("advance")
def disposition_advance(
    context: typer.Context,
    since: Annotated[
        datetime | None,
        typer.Option(formats=_INSTANT, metavar="INSTANT", help="Name also what expired from then on."),
    ] = None,
) -> None:
    """Let stages lapse and terms end, erase what is left of rejected documents and of old searches; the scheduler does
    this nightly. Exits 1 if a plan expired, or something could not be erased."""
    from retention import reading
    from retention.database import transaction
    from retention.disposition import plans, rejected, reviewing

    _refuse_as_of(context.obj)
    with opened(context.obj) as archive:
        expired = list(reviewing.advance(archive, now()))
        if since is not None:
            with transaction(archive.connections) as conn:
                expired = list(dict.fromkeys([*expired, *plans.expired_since(conn, since)]))
        erased, left = rejected.sweep(archive, now())
        forgotten = reading.forget(archive, now())

    def people() -> None:
        if forgotten:
            print(f"the words of {forgotten:,} searches are gone: their six years ended")
        for plan in expired:
            print(f"plan {plan} expired undecided; what is in it will be proposed again")
        if erased:
            print(f"{erased:,} rejected documents erased")
        for document, why in left.items():
            tell(f"NOT ERASED {document}: {why} Its key is gone; it is tried again.")

    value = {
        "expired": [str(plan) for plan in expired],
        "erased": erased,
        "not_erased": {str(document): why for document, why in left.items()},
        "searches_forgotten": forgotten,
    }
    answer(context.obj, value, people)
    if expired or left:
        raise typer.Exit(1)


# ---------------------------------------------------------------- shared


def _refuse_as_of(chosen: Options) -> None:
    if chosen.as_of is not None:
        raise UsageError("refusing --as-of: this is decided and done today. Leave it out.")


def _plain(value: Any) -> str | None:
    return None if value is None else str(value)


def _shown(plan: Plan) -> dict[str, Any]:
    return {
        "plan_id": str(plan.id),
        "state": plan.state,
        "as_of": plan.as_of,
        "schedule_version": plan.schedule_version,
        "digest": plan.digest.hex(),
        "count": plan.items,
        "bytes": plan.size,
        "over_limit": list(plan.over_limit),
        "expires_at": plan.proposal.expires_at,
        "signed": len(plan.proposal.signers),
        "needed": plan.proposal.needed,
        "certificate_id": plan.certificate_id and str(plan.certificate_id),
        "classes": [
            {
                "class_id": c.class_id,
                "actions": c.actions,
                "records": c.records,
                "bytes": c.size,
                "stage": c.stage,
                "stages": list(c.stages),
                "undecided": c.undecided,
                "decisions": c.decisions,
                "outcomes": c.outcomes,
                "unverified": list(c.unverified),
            }
            for c in plan.classes
        ],
    }


_NEXT = {
    "review": "next: muniment disposition review {id} approve --class CLASS (or extend, relabel, hold)",
    "signing": "next: muniment disposition approve {id} --key FILE, by {left} more",
    "approved": "next: muniment disposition execute {id}",
    "executing": "next: muniment disposition resume {id}",
    "executed": "next: muniment disposition certificate {id}",
}


def _print(plan: Plan) -> None:
    print(f"plan {plan.id}: {plan.state}, {plan.items:,} records, {plan.size:,} bytes, as of {plan.as_of}")
    rows = []
    for c in plan.classes:
        stage = f"{c.stages[c.stage - 1]} ({c.stage} of {len(c.stages)})" if c.stage else ""
        what = c.outcomes if plan.state in ("executing", "executed") else c.decisions
        counted = ", ".join(f"{n:,} {name}" for name, n in sorted(what.items()))
        rows.append([c.class_id, ", ".join(sorted(c.actions)), f"{c.records:,}", stage, counted])
        if c.unverified and plan.state not in ("executed", "expired", "withdrawn"):
            rows.append(["", "", "", "", f"not verified, so not executed: {', '.join(c.unverified)}"])
    table(["class", "action", "records", "review by", ""], rows, right=(2,))
    if plan.over_limit:
        print(f"above the limit: {', '.join(plan.over_limit)}; a third person must sign")
    if plan.state in _NEXT:
        print(_NEXT[plan.state].format(id=plan.id, left=plan.proposal.needed - len(plan.proposal.signers)))


def _answer(chosen: Options, found: Executed) -> None:
    value = {
        "plan_id": str(found.plan_id),
        "outcomes": found.outcomes,
        "failed": {str(record): why for record, why in found.failed},
        "certificate_id": found.certificate_id and str(found.certificate_id),
        "bag": found.bag and str(found.bag),
        "busy": False,
    }

    def people() -> None:
        table(["outcome", "records"], [[code, f"{n:,}"] for code, n in sorted(found.outcomes.items())], right=(1,))
        for record, why in found.failed:
            print(f"NOT DONE {record}: {why}")
        if found.bag is not None:
            print(f"handed out: {found.bag}; destroyed here once its receiver acknowledges it (or: give-up)")
        if found.certificate_id is not None:
            print(f"certificate {found.certificate_id}: muniment disposition certificate {found.plan_id}")

    answer(chosen, value, people)
    if found.failed:
        raise typer.Exit(1)
