"""`muniment schedule …`: check a file, see what it would change, put it in force, take it elsewhere.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli.command import answer, now, opened, table, tell
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.database import Connection
    from retention.policy import Version
    from retention.schedule.comparison import Change
    from retention.whatif import WhatIf

app = typer.Typer(no_args_is_help=True, help="The retention schedule: check a file, see what it changes, load it.")

VersionOption = Annotated[int | None, typer.Option("--version", help="Of this version; default the one in force.")]
_OUT = typer.Option(metavar="FILE", help="- is standard output.")


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


def _text(file: Path, what: str) -> str:
    """The text as it stands, line ends and all: its digest is the file's."""
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {file}: cannot be read ({error}).") from None


@app.command("load")
def schedule_load(
    context: typer.Context,
    file: Path,
    propose: Annotated[bool, typer.Option("--propose", help="Ask two people, where it makes something due.")] = False,
) -> None:
    """Put a schedule file in force, as a new version; the same file again changes nothing."""
    from retention import policy

    text = _text(file, "schedule file")
    if propose:
        with opened(context.obj) as archive:
            waiting = policy.propose(archive, text, str(file), now())
        said = f"two must sign this: muniment approval sign {waiting.id} --key FILE"
        answer(context.obj, {"proposal_id": str(waiting.id)}, lambda: print(said))
        return
    with opened(context.obj) as archive:
        loaded = policy.load(archive, text, str(file), now())
    value = {"version": loaded.version, "digest": loaded.schedule.digest, "new": loaded.new}
    word = "loaded as" if loaded.new else "is already"
    answer(context.obj, value, lambda: print(f"{file} {word} version {loaded.version} ({loaded.schedule.digest[:12]})"))


@app.command("show")
def schedule_show(context: typer.Context, version: VersionOption = None) -> None:
    """The classes and rules in force."""
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = _version(conn, version)
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


def _version(conn: Connection, number: int | None) -> Version:
    from retention import policy

    return policy.current(conn) if number is None else policy.of_version(conn, number)


@app.command("schema")
def schedule_schema(context: typer.Context) -> None:
    """Print the JSON Schema of the schedule file, for editors."""
    import json

    from retention.schedule.file import json_schema

    found = json_schema()
    answer(context.obj, found, lambda: print(json.dumps(found, indent=2, ensure_ascii=False)))


@app.command("versions")
def schedule_versions(context: typer.Context) -> None:
    """Every version that was ever in force: when it was loaded, and for whom."""
    from retention import policy
    from retention.archive import names
    from retention.database import transaction

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = policy.versions(conn)
        people_of = names(conn, archive.safe, {one.loaded_by for one in found})
    value = [{**asdict(one), "loaded_by": people_of.get(one.loaded_by, str(one.loaded_by))} for one in found]
    rows = [[str(v["version"]), v["digest"][:12], f"{v['loaded_at']:%Y-%m-%d %H:%M}", v["loaded_by"]] for v in value]
    answer(context.obj, value, lambda: table(["version", "digest", "loaded (UTC)", "for"], rows))


# ---------------------------------------------------------------- what it would change


@app.command("diff")
def schedule_diff(
    context: typer.Context,
    file: Path,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="The changed records, one a line.")] = None,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="The effect as an image.")] = None,
) -> None:
    """What a schedule file would change, if it were loaded. Changes nothing; records keep their classes.

    Exits 1 if it would be refused, because it shortens a regulatory class."""
    from retention import policy, schedule, whatif
    from retention.database import transaction
    from retention.schedule import comparison

    new = schedule.load(file)
    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # several statements, one state of the catalog
        old = policy.current(conn)
        today = policy.first_day(old.schedule, new, now())
        as_of = context.obj.as_of or today
        tell(f"comparing with version {old.version} as of {as_of} …")
        found = whatif.compare(conn, old.schedule, new, as_of)
        if csv is not None:
            _write(csv, whatif.changed_rows(conn, found))
        used = policy.used_classes(conn, new)
    if chart is not None:
        _write(chart, [whatif.chart(found, new).encode()])
    changed = comparison.changes(old.schedule, new)
    lowered = comparison.lowered(old.schedule, new, today)
    advances = comparison.advances(old.schedule, new, today, used)
    value = {
        "as_of": as_of,
        "version": old.version,
        "digest": new.digest,
        "changes": [asdict(change) for change in changed],
        "classes": [asdict(effect) for effect in found.effects],
        "total": asdict(found.total),
        "refused": [str(one) for one in lowered],
        "two_people": [str(one) for one in advances],
        "csv": csv and str(csv),
        "chart": chart and str(chart),
    }
    answer(context.obj, value, lambda: _print_diff(changed, found, value["refused"], value["two_people"]))
    if lowered:
        raise typer.Exit(1)


def _print_diff(changed: Iterable[Change], found: WhatIf, refused: Any, two_people: Any) -> None:
    from retention.whatif import EFFECTS

    rows = [[c.class_id, c.rule_id or "", c.field, c.before, c.after] for c in changed]
    print(f"{len(rows)} differences" if rows else "the rules are the same")
    if rows:
        table(["class", "rule", "what", "now", "then"], rows)
    print(f"\nwhat this would do to the records, as of {found.as_of}; they keep their classes")
    effects = [*found.effects, found.total] if found.effects else []
    cells = [[e.class_id, *(f"{getattr(e, name).records:,}" for name in EFFECTS)] for e in effects]
    headings = ["class", "become due", "cease to be", "longer", "shorter", "locked", "held"]
    table(headings, cells, right=(1, 2, 3, 4, 5, 6))
    total = found.total
    print(f"{total.becomes_due.bytes:,} bytes become due; of these records the locked and the held stay")
    for line in refused:
        print(f"refused: {line}")
    for line in two_people:
        print(f"needs two people: {line}")


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    """A file that appears whole or not at all, for its owner only."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch(mode=0o600)
        with part.open("wb") as out:
            out.writelines(chunks)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}). Give the path of a file.") from None
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- elsewhere


@app.command("export")
def schedule_export(
    context: typer.Context,
    yaml: Annotated[Path | None, _OUT] = None,
    csv: Annotated[Path | None, _OUT] = None,
    purview: Annotated[Path | None, _OUT] = None,
    version: VersionOption = None,
) -> None:
    """The schedule in force as its file, as a table, or as a Microsoft Purview file plan; - is standard output.

    A file plan says less than the schedule: what it cannot say is told, row by row."""
    from retention import policy
    from retention.database import transaction
    from retention.schedule import table as schedule_table
    from retention.schedule.purview import export
    from retention.schedule.spreadsheet import as_csv

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = _version(conn, version)
        document = policy.text_of(conn, found.version)
    plan = found.schedule
    file_plan, warned = export(plan) if purview is not None else ("", ())
    asked = [("yaml", yaml, document), ("csv", csv, as_csv(schedule_table.COLUMNS, schedule_table.rows(plan)))]
    written = {name: path for name, path, _ in [*asked, ("purview", purview, "")] if path is not None}
    if sum(str(path) == "-" for path in written.values()) > (not context.obj.as_json):
        raise UsageError("expected one kind on standard output, and none with --json: give a FILE for the others.")
    for _, path, text in [*asked, ("purview", purview, file_plan)]:
        if path is not None:
            _put(path, text)
    for one in warned:
        tell(f"cannot be said: {one}")
    value = {"version": found.version, "digest": plan.digest, "written": {n: str(p) for n, p in written.items()}}
    if not written:
        answer(context.obj, {**value, "schedule": document, "warnings": []}, lambda: print(document, end=""))
        return
    warnings = [asdict(one) for one in warned]
    answer(context.obj, {**value, "warnings": warnings}, lambda: None)


def _put(path: Path, text: str) -> None:
    if str(path) == "-":
        print(text, end="")
    else:
        _write(path, [text.encode()])


@app.command("import-purview")
def schedule_import(
    context: typer.Context,
    file: Path,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The schedule file to write; a new one.")],
    title: Annotated[str, typer.Option(help="Of the schedule.")] = "From a Microsoft Purview file plan",
    timezone: Annotated[str, typer.Option(help="IANA; the dates of the schedule are dates there.")] = "UTC",
) -> None:
    """Write a schedule file from a Microsoft Purview file plan (CSV). Nothing is loaded."""
    from retention.schedule.purview import schedule_of

    if out.exists():
        raise UsageError(f"{out} is there already: give the name of a new file, so that no schedule is written over.")
    text, warned = schedule_of(_text(file, "file plan"), title, timezone)
    _write(out, [text.encode()])
    for one in warned:
        tell(f"not kept: {one}")
    value = {"file": str(out), "warnings": [asdict(one) for one in warned]}
    answer(context.obj, value, lambda: print(f"{out}: read it, then `muniment schedule check` and `diff` it"))


@app.command("register")
def schedule_register(
    context: typer.Context,
    csv: Annotated[Path | None, _OUT] = None,
    markdown: Annotated[Path | None, _OUT] = None,
    language: Annotated[str, typer.Option(help="Of the titles.")] = "en",
    version: VersionOption = None,
) -> None:
    """The register of processing (GDPR art. 30) that the schedule in force makes. Exits 1 if an entry has gaps."""
    from retention.database import transaction
    from retention.schedule import register
    from retention.schedule.spreadsheet import as_csv

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        found = _version(conn, version)
    entries = register.entries(found.schedule, language)
    paths = [path for path in (csv, markdown) if path is not None]
    if sum(str(path) == "-" for path in paths) > (not context.obj.as_json):
        raise UsageError("expected one kind on standard output, and none with --json: give a FILE for the others.")
    if csv is not None:
        _put(csv, as_csv(register.COLUMNS, register.rows(entries)))
    if markdown is not None:
        _put(markdown, register.markdown(entries, found.schedule))
    value = {"version": found.version, "entries": [asdict(entry) for entry in entries]}

    def people() -> None:
        if paths:
            return
        rows = [[e.class_id, e.title, e.purpose, e.time_limit, e.legal_basis, ", ".join(e.missing)] for e in entries]
        table(["class", "title", "purpose", "time limit for erasure", "basis", "missing"], rows)

    answer(context.obj, value, people)
    if any(entry.missing for entry in entries):
        raise typer.Exit(1)
