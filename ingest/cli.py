"""The command line of documents coming in, and the entry point of `muniment`.

Rules of this module:
- The same as of retention.cli, whose commands it takes in: `muniment` is one command.
- `run begin`, `run work` and `run finish` are what a scheduler calls, one process each; `ingest` is the three in one.
- A process that is told to stop (Ctrl-C, SIGTERM) stops cleanly and says how to go on.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli import app
from retention.cli.command import (
    CHOSEN_ROOT,
    UNSTATED,
    WhyOption,
    answer,
    identifier,
    now,
    opened,
    reader,
    table,
    tell,
    unread,
)
from retention.errors import MunimentError, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from ingest.pipeline import Ingested
    from ingest.sources import SourceConfig

__all__ = ["app", "main"]  # the whole command line: what retention.cli has, and what is added here

quarantine_app = typer.Typer(no_args_is_help=True, help="Documents that failed validation, kept until decided.")
run_app = typer.Typer(no_args_is_help=True, help="The steps of a run, as a scheduler calls them.")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(run_app, name="run", hidden=True)

SourcesOption = Annotated[
    Path | None, typer.Option("--sources", metavar="FILE", help="Default MUNIMENT_SOURCES, or sources.yaml there.")
]


# ---------------------------------------------------------------- ingest


@app.command()
def ingest(
    context: typer.Context,
    place: Annotated[str | None, typer.Argument(metavar="PATH-OR-URL")] = None,
    source: Annotated[str | None, typer.Option(help="A source of the source file instead.")] = None,
    sources_file: SourcesOption = None,
) -> None:
    """Take in every document of a folder, of s3://bucket/prefix, or of a named source."""
    from ingest import pipeline

    config = _source(context.obj.root, place, source, sources_file)
    with opened(context.obj) as archive, _progress() as say:
        done = pipeline.ingest(archive, config, now, say)
    _answer_run(context, done)


def _source(root: Path, place: str | None, name: str | None, file: Path | None) -> SourceConfig:
    from ingest.sources import load_sources, source_at
    from ingest.validation import PROFILES

    if (place is None) == (name is None):
        raise UsageError("ingest: expected either PATH-OR-URL or --source NAME.")
    if place is not None:
        return source_at(place, Path.cwd())
    path = file or Path(os.environ.get("MUNIMENT_SOURCES") or root / "sources.yaml")
    known = {config.name: config for config in load_sources(path, PROFILES)}
    if name not in known:
        raise UsageError(f"{path}: no source {name!r}. Expected one of {', '.join(known) or '(none)'}.")
    return known[name]


def _answer_run(context: typer.Context, done: Ingested) -> None:
    totals = done.totals
    value = {
        "run_id": str(done.run_id),
        **asdict(totals),
        "missing": totals.missing,
        "left_out": done.left_out,
        "seconds": done.seconds,
        "reconciliation": str(done.reconciliation),
    }

    def people() -> None:
        print(
            f"discovered {totals.discovered:,} = admitted {totals.admitted:,} + quarantined {totals.quarantined:,} "
            f"+ rejected {totals.rejected:,} + already known {totals.known:,}"
            + (f"  MISSING {totals.missing:,}" if totals.missing else "")
        )
        print(f"children {totals.children:,}, {totals.bytes:,} bytes, {done.seconds:.1f} s; run {done.run_id}")
        if totals.deferred or done.left_out:
            counts = {"still being written": totals.deferred, **done.left_out}
            others = ", ".join(f"{count:,} {why}" for why, count in counts.items() if count)
            print(f"left for later or left out: {others}")
        print(f"reconciliation {done.reconciliation}")

    answer(context.obj, value, people)
    if totals.missing:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line every 10 seconds elsewhere; both on stderr."""
    counted = 0
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("documents", total=None)

            def show(_: str, done: int, total: int) -> None:
                bar.update(task, advance=done, total=total)

            yield show
        return
    last = time.monotonic()

    def say(step: str, done: int, total: int) -> None:
        nonlocal counted, last
        counted += done
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            tell(f"{step}: {counted:,} of {total:,}")

    yield say


# ---------------------------------------------------------------- the steps of a run


@run_app.command("begin")
def run_begin(
    context: typer.Context,
    source: Annotated[str, typer.Option(help="A source of the source file.")],
    sources_file: SourcesOption = None,
) -> None:
    """List a source into batches."""
    from ingest import pipeline

    config = _source(context.obj.root, None, source, sources_file)
    with opened(context.obj) as archive:
        run = pipeline.begin(archive, config, now, scheduled=True)
    value = {
        "run_id": str(run.run_id),
        "batches": run.batches,
        "discovered": run.discovered,
        "deferred": run.deferred,
    }
    answer(context.obj, value, lambda: print(f"run {run.run_id}: {run.discovered:,} in {run.batches} batches"))


@run_app.command("work")
def run_work(context: typer.Context, run: str, batch: Annotated[list[int], typer.Option()]) -> None:
    """Read and capture batches of a run; those that are committed already are left alone."""
    from ingest import pipeline, run_folder
    from retention.model import Outcome

    with opened(context.obj) as archive:
        done = pipeline.work(archive, run_folder.load(archive.settings, identifier(run)), batch, now)
    value: dict[str, Any] = {"run_id": run, "batches": batch}
    value |= {outcome.value: sum(c.count(outcome) for c in done) for outcome in Outcome}
    value["children"] = sum(c.children for c in done)
    answer(context.obj, value, lambda: print(json.dumps(value)))


@run_app.command("finish")
def run_finish(context: typer.Context, run: str) -> None:
    """Account for a run whose batches are done."""
    from ingest import pipeline

    with opened(context.obj) as archive:
        done = pipeline.finish_again(archive, identifier(run), now)
    _answer_run(context, done)


@run_app.command("observe")
def run_observe(
    context: typer.Context,
    dag: Annotated[str, typer.Option()],
    dag_run: Annotated[str, typer.Option("--dag-run")],
    state: Annotated[str, typer.Option()],
) -> None:
    """Enter the end of a scheduler's run into the history."""
    from retention import runs

    if state not in ("success", "failed"):
        raise UsageError(f"--state: expected success or failed, found {state!r}.")
    with opened(context.obj) as archive:
        runs.observe(archive, dag, dag_run, state == "success", now())
    answer(context.obj, {"dag": dag, "state": state}, lambda: None)


# ---------------------------------------------------------------- inspect


@app.command()
def inspect(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="FILE-OR-FOLDER...")],
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON document a line, as each file is done.")] = False,
) -> None:
    """What extraction and classification see in files, without admitting them."""
    from ingest import inspect as looking
    from ingest.extraction.workers import Workers
    from retention import policy, schedule

    rules = schedule.load(policy.sample(), "sample.yaml")
    found: list[dict[str, Any]] = []
    with Workers() as workers:
        for one in looking.inspect(paths, workers, rules):
            if jsonl:
                print(json.dumps(one, ensure_ascii=True), flush=True)
            else:
                found.append(one)

    def people() -> None:
        for one in found:
            print(json.dumps(one["path"]).strip('"'))
            print(f"  {one['mime']}  {one['bytes']:,} bytes  {one['class_id']}  {one['text_chars']:,} characters")
            for finding in one["findings"]:
                print(f"  {finding['code']} ({finding['severity']}): {finding['message']}")

    if not jsonl:
        answer(context.obj, found, people)


# ---------------------------------------------------------------- quarantine


@quarantine_app.command("list")
def quarantine_list(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="held, released, rejected or all.")] = "held",
    why: WhyOption = UNSTATED,
) -> None:
    """Documents in quarantine, oldest first."""
    from retention import reading

    if state not in ("held", "released", "rejected", "all"):
        raise UsageError(f"--state: expected held, released, rejected or all, found {state!r}.")
    asks = reader(why)
    with opened(context.obj) as archive:
        found = reading.quarantined(archive, None if state == "all" else state, asks)
    value = [_json(asdict(one)) for one in found]
    rows = [
        [
            str(q.quarantine_id),
            f"{q.recorded_at:%Y-%m-%d}",
            ", ".join(f["code"] for f in q.findings),
            q.place or "",
            q.state,
        ]
        for q in found
    ]
    answer(context.obj, value, lambda: table(["quarantined", "since", "findings", "place", "state"], rows))


@quarantine_app.command("show")
def quarantine_show(
    context: typer.Context,
    document: str,
    save: Annotated[Path | None, typer.Option(help="Write the document as it came to this file.")] = None,
    why: WhyOption = UNSTATED,
) -> None:
    """One quarantined document with every finding; `--save FILE` to look at it."""
    from ingest.model import CODES
    from retention import quarantine, reading

    asks = reader(why)
    with opened(context.obj) as archive:
        (found,) = reading.quarantined(archive, None, asks, identifier(document))
        if save is not None:
            if save.exists():
                raise UsageError(f"refusing to overwrite {save}.")
            quarantine.open_bytes(archive, found.quarantine_id, save)

    def people() -> None:
        table(["", ""], [[k, str(v)] for k, v in asdict(found).items() if k != "findings" and v is not None])
        for one in found.findings:
            meaning = CODES.get(one["code"], (None, ""))[1]
            print(f"{one['code']} ({one['severity']}): {one['message']}\n  {meaning}")

    answer(context.obj, _json(asdict(found)), people)


@quarantine_app.command("release")
def quarantine_release(context: typer.Context, document: str) -> None:
    """Make it a record after all, with its findings kept beside it."""
    from ingest import pipeline

    with opened(context.obj) as archive:
        record_id = pipeline.release(archive, identifier(document), now)
    answer(context.obj, {"record_id": str(record_id)}, lambda: print(f"released as record {record_id}"))


@quarantine_app.command("reject")
def quarantine_reject(
    context: typer.Context,
    document: str,
    reason: Annotated[str, typer.Option(help="A code such as not-a-record or duplicate; never a name.")],
) -> None:
    """Decide against it; its bytes stay for thirty days, and until two people have them destroyed."""
    from retention import quarantine

    with opened(context.obj) as archive:
        quarantine.reject(archive, identifier(document), reason, now())
    answer(context.obj, {"quarantine_id": document, "state": "rejected"}, lambda: print("rejected"))


def _json(value: dict[str, Any]) -> dict[str, Any]:
    return {key: str(v) if v is not None and not isinstance(v, (int, str, list)) else v for key, v in value.items()}


# ---------------------------------------------------------------- report


@app.command()
def report(
    context: typer.Context,
    formats: Annotated[str, typer.Option("--format", help="Any of html,csv,json.")] = "html,csv,json",
    names: Annotated[bool, typer.Option("--names", help="A copy with titles, for the eye; gone in a day.")] = False,
    sources_file: SourcesOption = None,
    why: WhyOption = UNSTATED,
) -> None:
    """Write the compliance report. Exits 1 if something in it is red."""
    from ingest.model import CODES
    from retention import policy, reading, reports
    from retention.database import transaction
    from retention.reports.files import FORMATS

    wanted = [part.strip() for part in formats.split(",") if part.strip()]
    if not wanted or not set(wanted) <= set(FORMATS):
        raise UsageError(f"--format: expected one or more of {','.join(FORMATS)}, found {formats!r}.")
    meanings = {code: (severity.value, text) for code, (severity, text) in CODES.items()}
    asks = reader(why)
    with opened(context.obj) as archive:
        with transaction(archive.connections) as conn:
            day = context.obj.as_of or policy.today(conn, now())
        known = _configured(context.obj.root, sources_file)
        found = reports.compile_report(archive, day, now(), meanings=meanings, names=names, sources=known)
        if names:
            reading.report(archive, sum(one.count for one in found.lists if one.names), asks)
        reports.sweep_names(archive.settings.reports, now() - timedelta(days=1))
        paths = reports.write(found, archive.settings.reports, wanted)
    value = {"paths": {kind: str(path) for kind, path in paths.items()}, "red": [str(one) for one in found.red]}

    def people() -> None:
        for kind, path in paths.items():
            print(f"{kind:5} {path}")
        for one in found.red:
            print(f"RED   {one}")

    answer(context.obj, value, people)
    if found.red:
        raise typer.Exit(1)


def _configured(root: Path, file: Path | None) -> tuple[str, ...]:
    """The sources that should have run: those of the source file, if there is one, that are not paused."""
    from ingest.sources import load_sources

    named = file or os.environ.get("MUNIMENT_SOURCES")
    path = Path(named or root / "sources.yaml")
    if not named and not path.exists():
        return ()
    return tuple(source.name for source in load_sources(path) if source.schedule and not source.paused)


# ---------------------------------------------------------------- the entry point


_STOPPED = 130  # 128 + SIGINT, as shells count

# Who must act, by what the operating system said; anything else is a defect.
_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
    | {errno.EAGAIN, errno.ESTALE, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
_PERSON = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS}
    | {errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY}
)
# What of the workspace may be named in a message; elsewhere a file's name may be a document's.
_NAMEABLE = frozenset({"keys", "postgres", "s3", "airflow", "run", "services.json", "services.lock"})


def main() -> None:
    """Run the command line; what Muniment foresaw becomes one message and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that is not UTF-8, or a terminal that is not
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _STOPPED
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the answer is out: leaving is all that is left
    if code == _STOPPED:
        tell("muniment: stopped. What was committed stands; run the same again to go on.")
    sys.exit(code)


def _run() -> int:
    """Run the command, have its answer out, and say what went wrong; returns the exit code."""
    try:
        code = app(standalone_mode=False)  # typer returns the code of an Exit, and of Ctrl-C
        sys.stdout.flush()
    except MunimentError as error:
        tell(f"muniment: {error}")
        code = error.exit_code
    except SystemExit as error:  # typer makes one of a broken pipe, and puts a wrapper around stdout
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        code = _has_enough()
    except BrokenPipeError:
        code = _has_enough()
    except OSError as error:
        code = _system(error)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's own errors of usage
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        tell(f"muniment: {usage()}" + (f"\n{context.get_usage()}" if context else ""))
        code = UsageError.exit_code
    return int(code or 0)


def _has_enough() -> int:
    """The reader of our output went away, having what it wanted."""
    unread(sys.stdout)
    return 0


def _system(error: OSError) -> int:
    """An error of the operating system in words, for the one who must act; the exit code."""
    where, said = _nameable(error.filename), error.strerror or type(error).__name__
    try:
        sys.stdout.flush()
    except OSError:  # what could not be written cannot be flushed either when Python ends
        unread(sys.stdout)
    if error.errno in _MACHINE or isinstance(error, (ConnectionError, TimeoutError)):
        tell(f"muniment: {where}{said}. Mend what this machine lacks, then run the same again; nothing was lost.")
        return ServiceUnavailable.exit_code
    if error.errno in _PERSON:
        tell(f"muniment: {where}{said}. Correct the path or its permissions, then run the same again.")
        return UsageError.exit_code
    error.filename = error.filename2 = None  # a traceback ends in a log
    raise error


def _nameable(name: object) -> str:
    """The file of the error, where it is one of the workspace's own; else nothing."""
    root = CHOSEN_ROOT.get()
    if root is None or not isinstance(name, (str, bytes)):
        return ""
    try:
        below = Path(os.fsdecode(name)).resolve().relative_to(root.resolve())
    except ValueError:
        return ""
    return f"{root / below}: " if below.parts and below.parts[0] in _NAMEABLE else ""


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
