"""The command line of records kept: services, schedule, search, what is due and why, reports.

Rules of this module:
- A command opens what it needs, calls one function, prints its answer: no rule of the product lives here.
- `--json`: one JSON document on stdout, everything else on stderr. Without it, the same for people.
- Exit codes come from retention.errors; 1 also means done, and something is red. A user's mistake has no traceback.
- `--help` answers at once: whatever is slow to import is imported by the command that needs it.
- Only entry points read the clock.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from uuid import UUID

import typer

from retention.config import Settings, external, integer, workspace
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.archive import Archive
    from retention.rules import Schedule

app = typer.Typer(
    name="muniment",
    help="Keep documents exactly as long as the law says, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
schedule_app = typer.Typer(no_args_is_help=True, help="The retention schedule: check a file, put it in force.")
app.add_typer(schedule_app, name="schedule")


# The workspace of this command, for the one who words an error after the command is gone.
CHOSEN_ROOT: ContextVar[Path | None] = ContextVar("CHOSEN_ROOT", default=None)


@dataclass(frozen=True, slots=True)
class Options:
    """The options that stand before the command."""

    root: Path
    as_json: bool
    as_of: date | None
    agent: str


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


def now() -> datetime:
    return datetime.now(UTC)


# ---------------------------------------------------------------- shared by the commands


def settings(chosen: Options) -> Settings:
    """Where catalog and vault are: the environment, else the embedded services of the workspace."""
    database, vault = external(os.environ)
    threads = integer(os.environ, "MUNIMENT_VAULT_THREADS", 8, 1, 256)
    documents = integer(os.environ, "MUNIMENT_BATCH_DOCUMENTS", 500, 1, 100_000)
    access = secret = None
    if database is None or vault is None:
        from retention.embedded import load

        services = load(chosen.root)
        if services is None:
            raise UsageError(f"workspace {chosen.root}: nothing is there yet. Run `muniment up`, then this again.")
        database = database or services.database_url
        if vault is None:
            vault, access, secret = services.vault_url, services.access_key, services.secret_key
    return Settings(
        root=chosen.root,
        database_url=database,
        vault_url=vault,
        vault_access_key=access,
        vault_secret_key=secret,
        agent=chosen.agent,
        vault_threads=threads,
        batch_documents=documents,
    )


@contextmanager
def opened(chosen: Options) -> Iterator[Archive]:
    """The archive of the workspace; its descriptions are rebuilt first if a crash of PostgreSQL emptied them."""
    from retention import descriptors
    from retention.archive import open_archive
    from retention.database import transaction

    with open_archive(settings(chosen), now()) as archive:
        with transaction(archive.connections) as conn:
            lost = descriptors.missing(conn)
        if lost:
            tell(f"rebuilding {lost:,} descriptions from the vault")
            rebuilt = descriptors.rebuild(archive, lambda done: tell(f"  {done:,} of {lost:,}"))
            for failure in rebuilt.failures:  # the control tables answer without them; the report is red
                tell(f"muniment: {failure}")
        yield archive


def tell(message: str) -> None:
    """Something for the person, beside the answer. Work goes on if nobody reads it any more."""
    try:
        print(message, file=sys.stderr, flush=True)
    except BrokenPipeError:
        unread(sys.stderr)


def unread(stream: TextIO) -> None:
    """Let what is still written to `stream` go nowhere: a failure to flush it would become the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def answer(chosen: Options, value: Mapping[str, Any] | list[Any], people: Callable[[], None]) -> None:
    """The answer of a command: as JSON, or as `people` prints it."""
    if chosen.as_json:
        json.dump(value, sys.stdout, ensure_ascii=True, default=str)
        sys.stdout.write("\n")
    else:
        people()


def table(headings: list[str], rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    """A table for people; columns of `right` are numbers. Cells are text as it is, without markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        # an id is copied by hand: the first column is never broken
        grid.add_column(heading, justify="right" if number in right else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(grid)


def visible(text: str) -> str:
    """Text with its control characters shown: a file's name must not be able to steer a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def identifier(text: str) -> UUID:
    """An id as a person typed it. Raises UsageError."""
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"expected an id such as 0199f0a2-0c1e-7d3a-9b1f-2f6a1c0d4e5f, found {text!r}.") from None


def _day(chosen: Options, schedule: Schedule) -> date:
    from retention import engine

    return chosen.as_of or engine.today(schedule, now())


# ---------------------------------------------------------------- services


@app.command()
def up(
    context: typer.Context,
    airflow: Annotated[bool, typer.Option("--airflow", help="Airflow too.")] = False,
) -> None:
    """Start the services of the workspace and wait until they answer."""
    from retention import embedded

    embedded.up(context.obj.root, airflow=airflow, say=tell)
    _print_status(context.obj)


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


# ---------------------------------------------------------------- schedule


@schedule_app.command("check")
def schedule_check(context: typer.Context, file: Path) -> None:
    """Read a schedule file and name every mistake by its line. Changes nothing."""
    from retention import schedule

    problems = schedule.check(file)
    value = {"file": str(file), "errors": [{"line": p.line, "message": p.message} for p in problems]}

    def people() -> None:
        for problem in problems:
            print(f"{file}:{problem.line}: {problem.message}")
        print(f"{file}: {len(problems)} mistakes" if problems else f"{file}: no mistakes")

    answer(context.obj, value, people)
    if problems:
        raise typer.Exit(2)


@schedule_app.command("load")
def schedule_load(context: typer.Context, file: Path) -> None:
    """Put a schedule file in force, as a new version; the same file again changes nothing."""
    from retention import policy

    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"schedule file {file}: cannot be read ({error}).") from None
    with opened(context.obj) as archive:
        loaded = policy.load(archive, text, str(file), now())
    value = {"version": loaded.version, "digest": loaded.schedule.digest, "new": loaded.new}
    word = "loaded as" if loaded.new else "is already"
    answer(context.obj, value, lambda: print(f"{file} {word} version {loaded.version} ({loaded.schedule.digest[:12]})"))


@schedule_app.command("show")
def schedule_show(context: typer.Context) -> None:
    """The classes and rules in force."""
    from retention import policy
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = policy.current(conn)
    rows = [
        [c.id, c.title(), str(r.trigger), str(r.cutoff), str(r.period or "permanent"), str(r.action), _verified(r)]
        for c in found.schedule.classes
        for r in c.rules
    ]
    keys = ("class_id", "title", "trigger", "cutoff", "period", "action", "verified")
    value = {
        "version": found.version,
        "digest": found.schedule.digest,
        "rules": [dict(zip(keys, row, strict=True)) for row in rows],
    }

    def people() -> None:
        print(f"schedule version {found.version}, loaded {found.loaded_at:%Y-%m-%d %H:%M} UTC")
        table(["class", "title", "trigger", "cutoff", "period", "action", "verified"], rows)

    answer(context.obj, value, people)


def _verified(rule: Any) -> str:
    return "yes" if rule.verified else "no"


@schedule_app.command("sample")
def schedule_sample(context: typer.Context) -> None:
    """Print the sample schedule that Muniment ships, to start your own from."""
    from retention import policy

    text = policy.sample()
    answer(context.obj, {"schedule": text}, lambda: print(text, end=""))


# ---------------------------------------------------------------- records


@app.command()
def find(
    context: typer.Context,
    query: str,
    class_id: Annotated[str | None, typer.Option("--class", help="Of this class only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """Find records by the words of their title, name, place, author or text."""
    from retention import catalog
    from retention.database import transaction
    from retention.descriptors import printable

    wanted, of = printable(query), None if class_id is None else printable(class_id)
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        hits = catalog.find(conn, wanted, of, limit)
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
def show(context: typer.Context, record: str) -> None:
    """One record with all that is known of it: dates, findings, children, holds, lock and events."""
    from retention import catalog

    with opened(context.obj) as archive:
        found = catalog.show(archive, identifier(record))

    def people() -> None:
        plain = {k: v for k, v in found.items() if k not in ("events", "findings", "metadata") and v not in (None, [])}
        table(["", ""], [[key, str(value)] for key, value in plain.items()])
        for one in found["findings"] or ():
            print(f"finding {one['code']} ({one['severity']}): {one['message']}")
        for event in found["events"]:
            print(f"{event['time']}  {event['type']}  {event['outcome']}  {event['by']}")

    answer(context.obj, found, people)


@app.command()
def explain(context: typer.Context, record: str) -> None:
    """Until when a record is kept, by which rule and law, and what every other rule says."""
    from retention import catalog, engine, policy
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        facts = catalog.facts(conn, identifier(record))
        version = policy.current(conn)
    decision = engine.decide(facts, version.schedule, _day(context.obj, version.schedule))
    value = {"record_id": record, "schedule_version": version.version, **decision.to_json()}

    def people() -> None:
        print(f"{record}: {'DUE' if decision.due else 'kept'}. {decision.reason}")
        if decision.retain_until:
            print(f"kept until and with {decision.retain_until}, then: {decision.action}. {decision.citation}")
        for found in decision.findings:
            print(f"finding: {found}")
        keys = ("rule_id", "standing", "retain_until", "reason")
        keys = ("rule_id", "standing", "retain_until", "reason")
        rows = [[str(rule[key] or "") for key in keys] for rule in value["rules"]]
        table(["rule", "standing", "until", "why"], rows)

    answer(context.obj, value, people)


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
        day = _day(context.obj, version.schedule)
        found = eligibility.due(conn, version.schedule, day)
        records = [*eligibility.due_records(conn, version.schedule, day)] if listing else []
    value = {
        "as_of": day,
        "schedule_version": version.version,
        "classes": [
            {"class_id": d.class_id, "action": str(d.action), "records": d.records, "bytes": d.bytes} for d in found
        ],
        "records": [{"record_id": str(r.record_id), "class_id": r.class_id} for r in records],
    }

    def people() -> None:
        rows = [[d.class_id, str(d.action), f"{d.records:,}", f"{d.bytes:,}"] for d in found]
        print(f"due as of {day}, schedule version {version.version}")
        table(["class", "action", "records", "bytes"], rows, right=(2, 3))
        for record in records:
            print(record.record_id, record.class_id)

    answer(context.obj, value, people)
