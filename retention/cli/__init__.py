"""The command line of records kept: services, search, what is due and why, reports.

Rules of this module:
- A command opens what it needs, calls one function, prints its answer: no rule of the product lives here.
- What the commands share is retention.cli.command; a noun with many verbs has a module of its own.
- Exit codes come from retention.errors; 1 also means done, and something is red. A user's mistake has no traceback.
- `--help` answers at once: whatever is slow to import is imported by the command that needs it.
- Only entry points read the clock.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli import (
    approvals,
    auditors,
    backup,
    disposition,
    events,
    exporting,
    holds,
    keys,
    ledger,
    recovery,
    requests,
    schedule,
    vault,
)
from retention.cli.command import (
    CHOSEN_ROOT,
    UNSTATED,
    Options,
    WhyOption,
    answer,
    decision_day,
    identifier,
    now,
    opened,
    reader,
    settings,
    table,
    tell,
    visible,
)
from retention.config import workspace
from retention.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from retention.history.life import Life, Line

app = typer.Typer(
    name="muniment",
    help="Keep documents exactly as long as the law says, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(schedule.app, name="schedule")
app.add_typer(events.app, name="event")
app.add_typer(events.aggregation_app, name="aggregation")
app.add_typer(events.suspension_app, name="suspension")
app.add_typer(holds.app, name="hold")
app.add_typer(requests.app, name="request")
app.command("destroyed")(requests.destroyed)
app.command("export")(exporting.export)
app.add_typer(disposition.app, name="disposition")
app.add_typer(approvals.app, name="approval")
app.add_typer(ledger.app, name="ledger")
app.add_typer(keys.app, name="key")
app.add_typer(vault.fixity_app, name="fixity")
app.add_typer(vault.vault_app, name="vault")
app.add_typer(backup.app, name="backup")
app.command("restore")(recovery.restore)
app.command("rebuild")(recovery.rebuild)
app.command("drill")(recovery.drill)
app.command("verify")(ledger.verify)
app.command("proof")(ledger.proof)
app.add_typer(approvals.approver_app, name="approver")
app.add_typer(auditors.app, name="auditor")


@app.callback()
def options(
    context: typer.Context,
    workspace_: Annotated[
        Path | None, typer.Option("--workspace", metavar="DIR", help="Default ./var, or MUNIMENT_WORKSPACE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", formats=["%Y-%m-%d"], metavar="DATE", help="The day to decide for.")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="On whose behalf.")] = None,
) -> None:
    root = workspace(workspace_, os.environ)
    CHOSEN_ROOT.set(root)
    if agent is not None and not agent.strip():
        raise UsageError("--agent: expected the name of who asks for it, found an empty one.")
    context.obj = Options(root, as_json, as_of.date() if as_of else None, agent or _login())


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        return f"uid-{os.getuid()}"


# ---------------------------------------------------------------- services


@app.command()
def up(
    context: typer.Context,
    airflow: Annotated[bool, typer.Option("--airflow", help="Airflow too.")] = False,
) -> None:
    """Start the services of the workspace and wait until they answer. A store that is new here is probed."""
    from retention import database, embedded, probing

    embedded.up(context.obj.root, airflow=airflow, say=tell)
    _print_status(context.obj)
    if not database.used(settings(context.obj).database_url):
        return  # a recovery begins so, with a catalog and keys that nobody has opened
    with opened(context.obj) as archive:
        probed = probing.at_start(archive, now())
    if probed is not None and probed.failed:
        tell(f"{archive.vault.url} does not keep its locks ({', '.join(probed.failed)}). See docs/vault.md.")


@app.command()
def down(context: typer.Context) -> None:
    """Stop the services of the workspace; nothing is lost."""
    from retention import embedded

    embedded.down(context.obj.root, say=tell)
    answer(context.obj, {"stopped": True}, lambda: None)


@app.command()
def status(context: typer.Context) -> None:
    """What runs, where, and whether it answers. Exits 1 if a service that is wanted does not."""
    if not _print_status(context.obj):
        raise typer.Exit(1)


def _print_status(chosen: Options) -> bool:
    from retention import embedded

    found = embedded.status(chosen.root)
    value = {
        "services": [
            {"name": s.name, "version": s.version, "state": s.state, "port": s.port, "pid": s.pid, "detail": s.detail}
            for s in found
        ]
    }
    rows = [[s.name, s.version, str(s.state), str(s.port or ""), str(s.pid or ""), s.detail] for s in found]
    headings = ["service", "version", "state", "port", "pid", ""]
    answer(chosen, value, lambda: table(headings, rows, right=(3, 4)))
    wanted = [s for s in found if s.name != "Airflow" or s.state != embedded.State.STOPPED]
    return all(s.state in (embedded.State.RUNNING, embedded.State.EXTERNAL) for s in wanted)


# ---------------------------------------------------------------- records


@app.command()
def find(
    context: typer.Context,
    query: str,
    class_id: Annotated[str | None, typer.Option("--class", help="Of this class only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    why: WhyOption = UNSTATED,
) -> None:
    """Find records by the words of their title, name, place, author or text."""
    from retention import reading
    from retention.descriptors import printable

    wanted, of = printable(query), None if class_id is None else printable(class_id)
    asks = reader(why)
    with opened(context.obj) as archive:
        hits, restricted = reading.find(archive, wanted, of, limit, asks)
    if restricted:
        tell(f"{restricted:,} more are restricted (GDPR art. 18), and are not shown: muniment request list --all")
    value = [
        {
            "record_id": str(h.record_id),
            "class_id": h.class_id,
            "received": h.received,
            "title": h.title,
            "name": h.name,
            "place": h.place,
            "mime": h.mime,
            "bytes": h.size,
        }
        for h in hits
    ]
    rows = [[str(h.record_id), h.class_id, h.received.isoformat(), h.title or h.name, h.place] for h in hits]
    answer(context.obj, value, lambda: table(["record", "class", "received", "title", "place"], rows))


@app.command()
def show(
    context: typer.Context,
    record: str,
    history: Annotated[bool, typer.Option("--history", help="Its life in words, from source to certificate.")] = False,
    why: WhyOption = UNSTATED,
) -> None:
    """One record with all that is known of it: dates, findings, children, holds, lock and events.

    With --history its life in words, one line an event: also of what is destroyed, was transferred, or is or was in
    quarantine."""
    from retention import reading

    asks = reader(why)
    if history:
        with opened(context.obj) as archive:
            life = reading.history(archive, identifier(record), asks)
        answer(context.obj, _life(life), lambda: _print_life(life))
        return
    with opened(context.obj) as archive:
        found = reading.show(archive, identifier(record), asks)

    def people() -> None:
        plain = {k: v for k, v in found.items() if k not in ("events", "findings", "metadata") and v not in (None, [])}
        table(["", ""], [[key, str(value)] for key, value in plain.items()])
        for one in found["findings"] or ():
            print(f"finding {one['code']} ({one['severity']}): {one['message']}")
        for event in found["events"]:
            print(f"{event['time']}  {event['type']}  {event['outcome']}  {event['by']}")

    answer(context.obj, found, people)


def _life(life: Life) -> dict[str, Any]:
    return asdict(life) | {"subject": str(life.subject), "certificate": life.certificate and str(life.certificate)}


def _print_life(life: Life) -> None:
    of = f" of class {life.class_id}" if life.class_id else ""
    title = f": “{life.title}”" if life.title else ""
    print(visible(f"{life.subject}{of}, {life.state}{title}"))
    if life.certificate:
        print(f"certificate {life.certificate}")
    print(f"times are of {life.time_zone}; [n] is the event in the ledger, which `muniment proof ID` proves")
    before = None
    for line in life.lines:
        version = f"; under schedule version {line.version} from here on" if line.version != before else ""
        print(visible(_said(line, life.subject) + version))
        before = line.version


def _said(line: Line, subject: UUID) -> str:
    whose = "" if line.proof == subject else f" of {line.proof}"
    who = f"{line.on_behalf_of} with {line.by}" if line.on_behalf_of else line.by
    parts = "; ".join(part for part in (line.what, line.why and f"why: {line.why}", line.changed) if part)
    return f"{line.at:%Y-%m-%d %H:%M:%S %z}  [{line.position}{whose}]  {line.event}, by {who}: {parts}"


@app.command()
def searched(context: typer.Context, query: str, why: WhyOption = UNSTATED) -> None:
    """The words of a search that an event refers to; sealed, and gone after six years."""
    from retention import reading

    asks = reader(why)
    with opened(context.obj) as archive:
        said = reading.searched(archive, identifier(query), asks)
    answer(context.obj, said, lambda: print(visible(" in ".join(part for part in said.values() if part))))


@app.command()
def explain(
    context: typer.Context,
    record: str,
    as_of: Annotated[
        datetime | None, typer.Option("--as-of", formats=["%Y-%m-%d"], metavar="DATE", help="The day to decide for.")
    ] = None,
    known_at: Annotated[
        datetime | None,
        typer.Option("--as-known-at", formats=["%Y-%m-%d"], metavar="DATE", help="With what was known by then (UTC)."),
    ] = None,
    why: WhyOption = UNSTATED,
) -> None:
    """Until when a record is kept, by which rule and law, on what evidence, and what every other rule says."""
    from retention import reading

    asks = reader(why)
    known = known_at.replace(hour=23, minute=59, second=59, microsecond=999_999, tzinfo=UTC) if known_at else None
    asked = as_of.date() if as_of else context.obj.as_of
    with opened(context.obj) as archive:
        value = reading.explain(archive, identifier(record), asked, known, asks)
    answer(context.obj, value, lambda: _print_explanation(value))


def _print_explanation(value: dict[str, Any]) -> None:
    print(f"{value['record_id']}: {'DUE' if value['due'] else 'kept'}. {value['reason']}")
    if value["retain_until"]:
        print(f"kept until and with {value['retain_until']}, then: {value['action']}. {value['citation']}")
    print(f"as of {value['as_of']}, schedule version {value['schedule_version']}")
    for found in value["findings"]:
        print(f"finding: {found}")
    keys = ("rule_id", "standing", "retain_until", "reason", "citation")
    rows = [[str(rule[key] or "") for key in keys] for rule in value["rules"]]
    table(["rule", "standing", "until", "why", "law"], rows)
    for event in value["events"]:
        of = value["subjects"].get(event["subject"], "the record")
        taken = f", retracted {event['retracted_at']}" if event["retracted_at"] else ""
        said = f"event {event['trigger_event_id']}: {event['kind']} {event['effective']} of {of}"
        print(f"{said}, recorded {event['recorded_at']} by {event['by']}{taken}")
    for one in value["suspensions"]:
        print(f"suspended ({one['reason']}) from {one['starts']} until {one['ends'] or 'it is ended'}, by {one['by']}")
    for hold in value["holds"]:
        print(f"held: {hold}")
    for lock in value["locks"]:
        print(f"locked ({lock['mode']}) until {lock['until'] or 'not read back yet'}: {lock['object']}")


@app.command()
def due(
    context: typer.Context,
    listing: Annotated[bool, typer.Option("--list", help="Every record, one a line.")] = False,
) -> None:
    """What has outlived its retention, by class. Nothing is changed: a disposition plan does that."""
    from retention import eligibility, policy
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        version = policy.current(conn)
        day = decision_day(context.obj, version.schedule)
        found = eligibility.due(conn, version.schedule, day)
        records = [*eligibility.due_records(conn, version.schedule, day)] if listing else []
    value = {
        "as_of": day,
        "schedule_version": version.version,
        "classes": [
            {"class_id": d.class_id, "action": str(d.action), "records": d.records, "bytes": d.bytes} for d in found
        ],
        "records": [
            {"record_id": str(r.record_id), "class_id": r.class_id, "unit_id": str(r.unit_id)} for r in records
        ],
    }

    def people() -> None:
        rows = [[d.class_id, str(d.action), f"{d.records:,}", f"{d.bytes:,}"] for d in found]
        print(f"due as of {day}, schedule version {version.version}")
        table(["class", "action", "records", "bytes"], rows, right=(2, 3))
        for record in records:
            print(record.record_id, record.class_id)

    answer(context.obj, value, people)
