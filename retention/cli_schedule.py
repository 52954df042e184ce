"""`muniment schedule …`: check a schedule file, put it in force, show what is in force.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from retention.command import answer, now, opened, table
from retention.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="The retention schedule: check a file, put it in force.")


@app.command("check")
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


@app.command("load")
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


@app.command("show")
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


@app.command("sample")
def schedule_sample(context: typer.Context) -> None:
    """Print the sample schedule that Muniment ships, to start your own from."""
    from retention import policy

    text = policy.sample()
    answer(context.obj, {"schedule": text}, lambda: print(text, end=""))
