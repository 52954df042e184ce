"""What every command of the command line shares: where it works, how it opens the archive, how it answers.

Rules of this module:
- `--json`: one JSON document on stdout, everything else on stderr. Without it, the same for people.
- Only entry points read the clock: `now` is for them.
- Nothing slow is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from uuid import UUID

import typer

from retention.config import Settings, backups, external, integer, owner
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.archive import Archive
    from retention.reading import Reader
    from retention.rules import Schedule

# The workspace of this command, for the one who words an error after the command is gone.
CHOSEN_ROOT: ContextVar[Path | None] = ContextVar("CHOSEN_ROOT", default=None)


@dataclass(frozen=True, slots=True)
class Options:
    """The options that stand before the command."""

    root: Path
    as_json: bool
    as_of: date | None
    agent: str


WhyOption = Annotated[
    str, typer.Option("--why", metavar="CODE", help="For the history, where it is personal data: treatment, complaint.")
]
UNSTATED = "unstated"


def now() -> datetime:
    return datetime.now(UTC)


def reader(why: str) -> Reader:
    """Who reads, and why. Raises UsageError for what is no code."""
    from retention.reading import Reader

    return Reader(why, now())


def settings(chosen: Options) -> Settings:
    """Where catalog and vault are: the environment, else the embedded services of the workspace."""
    (database, vault), owner_url = external(os.environ), owner(os.environ)
    threads = integer(os.environ, "MUNIMENT_VAULT_THREADS", 8, 1, 256)
    documents = integer(os.environ, "MUNIMENT_BATCH_DOCUMENTS", 500, 1, 100_000)
    access = secret = None
    if database is None or vault is None:
        from retention.embedded import load

        services = load(chosen.root)
        if services is None:
            raise UsageError(f"workspace {chosen.root}: nothing is there yet. Run `muniment up`, then this again.")
        if database is None:
            database, owner_url = services.database_url, services.owner_url
        if vault is None:
            vault, access, secret = services.vault_url, services.access_key, services.secret_key
    return Settings(
        root=chosen.root,
        database_url=database,
        database_owner_url=owner_url,
        vault_url=vault,
        vault_access_key=access,
        vault_secret_key=secret,
        agent=chosen.agent,
        backups=backups(os.environ),
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


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """To be told how many of how many are done: a bar on a terminal, a line every 10 seconds elsewhere, on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            tell(f"{what}: {done:,} of {total:,}")

    yield say


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


def decision_day(chosen: Options, schedule: Schedule) -> date:
    """`--as-of`, else the day on which the schedule decides now."""
    from retention import engine

    return chosen.as_of or engine.today(schedule, now())
