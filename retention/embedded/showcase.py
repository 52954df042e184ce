"""`make run` and `make up`: the whole product once, through Airflow's scheduler, on the samples or on a folder.

Rules of this module:
- Everything goes the way it goes every day: a source file, the DAGs, the scheduler. This module starts services,
  asks Airflow for a run, watches it, and prints what became of it; it decides nothing.
- What it started it stops, also on Ctrl-C; what ran before stays as it was.
- `sources.yaml` of the workspace is its owner's: it is made once, then never touched. A folder given as INBOX
  stands in `inbox.yaml`, which is written anew each time.
- Green is 0 and red is 1; the other exit codes are those of the command line (retention.errors).
"""

# ruff: noqa: T201 - what it prints is its answer
from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from retention import embedded
from retention.config import external, workspace
from retention.embedded import airflow, airflow_client, processes
from retention.embedded.airflow_client import Site
from retention.errors import MunimentError, ServiceUnavailable, UsageError

REPORT = "retention_report"
SAMPLES = "samples"
_POLL = 0.5  # seconds between two questions to Airflow
_PARSE_SECONDS = 90.0  # for a new or changed source file to become a DAG
_REPORT_SECONDS = 300.0
_TOLD_SECONDS = 30.0  # for the ends of the runs to reach the ledger
_ENDED = ("success", "failed")


@dataclass(slots=True)
class Teller:
    """Prints each thing once, with the seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    said: dict[str, str] = field(default_factory=dict)

    def __call__(self, message: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {message}", flush=True)

    def state(self, subject: str, state: str) -> None:
        """Print the state of a subject, if it is another one than before."""
        if self.said.get(subject) != state:
            self.said[subject] = state
            self(f"{subject}: {state}")


def main(arguments: Sequence[str]) -> int:
    """`run [FOLDER]` or `up`; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupted)
    say = Teller()
    try:
        match list(arguments):
            case ["run"]:
                return run(workspace(None, os.environ), None, say)
            case ["run", folder]:
                return run(workspace(None, os.environ), Path(folder), say)
            case ["up"]:
                return up(workspace(None, os.environ), say)
        raise UsageError(f"expected `run`, `run FOLDER` or `up`, found {' '.join(arguments) or 'nothing'}.")
    except MunimentError as error:
        print(f"muniment: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("muniment: stopped. What was committed stands; the same again goes on.", file=sys.stderr)
        return 130


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def up(root: Path, say: Teller) -> int:
    """Start all services, and leave them running."""
    _write_sources(root)
    embedded.up(root, airflow=True, say=say)
    _print_address(root)
    print("Stop it with `make down`.")
    return 0


def run(root: Path, folder: Path | None, say: Teller) -> int:
    """Take in a folder (None: the samples) and report, through Airflow; 0 if all is green, 1 if not."""
    source = _write_sources(root) if folder is None else _write_inbox(root, folder)
    with _services(root, say) as site:
        dag = _ready(site, f"ingest_documents__{source}", say)
        outcome = _Outcome(time.monotonic(), time.time())
        outcome.ingest = _ingest(site, root, dag, say)
        outcome.ingested = time.monotonic()
        outcome.report = _reported(site, outcome.ingest, say)
        outcome.reported = time.monotonic()
        run_id = site.xcom(outcome.ingest, "discover", "run_id")
        red = site.xcom(outcome.report, "report", "return_value") if outcome.report["state"] == "success" else None
        _await_told(root, [outcome.ingest, outcome.report], say)
    return _summary(root, outcome, run_id, red, say)


@dataclass(slots=True)
class _Outcome:
    began: float  # monotonic, as the next two
    began_at: float  # seconds of the epoch, as the times of files
    ingested: float = 0.0
    reported: float = 0.0
    ingest: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- sources


def _samples() -> Path:
    return Path(__file__).resolve().parents[2] / "tests" / "samples" / "documents"


def _write_sources(root: Path) -> str:
    """The source file of a workspace that has none: one source, the samples, without a schedule."""
    path = root / "sources.yaml"
    if not path.exists() and not os.environ.get("MUNIMENT_SOURCES"):
        text = (
            "# Where documents come from. Yours to change: nothing writes here again.\n"
            "sources:\n"
            f"  - name: {SAMPLES}\n"
            f"    url: {json.dumps(str(_samples()))}\n"
            "    settle_seconds: 0\n"
            "    # schedule: 0 2 * * *    cron, in the time zone of Airflow; without it, only when asked\n"
        )
        processes.write_private(path, text)
    return SAMPLES


def _write_inbox(root: Path, folder: Path) -> str:
    """The folder as a source of its own, named by a digest of where it is: a name would enter the history."""
    folder = folder.absolute()
    if not folder.is_dir():
        raise UsageError(f"INBOX={folder}: expected a folder that exists. Give its path, from here or from the root.")
    _write_sources(root)
    name = f"inbox-{sha256(os.fsencode(folder)).hexdigest()[:8]}"
    lines = [
        "# The last folder given to `make run INBOX=folder`: all that is in it, now. Written anew each time.",
        "sources:",
        f"  - name: {name}",
        f"    url: {json.dumps(str(folder))}",
        "    exclude: []",
        "    settle_seconds: 0",
    ]
    processes.write_private(root / "inbox.yaml", "\n".join(lines) + "\n")
    return name


# ---------------------------------------------------------------- services


@contextlib.contextmanager
def _services(root: Path, say: Teller) -> Iterator[Site]:
    """Airflow and what it needs, running; afterwards stopped as far as they were before."""
    before = {one.name: one.state is embedded.State.RUNNING for one in embedded.status(root)}
    try:
        embedded.up(root, say=say)
        with _beside(lambda: _have_schedule(root), "schedule"):
            services = embedded.up(root, airflow=True, say=say)
        assert services.airflow is not None
        yield airflow_client.connect(airflow.url(services.airflow), services.airflow.user, services.airflow.password)
    finally:
        if not before.get("Airflow"):
            if any(before.values()):
                with processes.exclusive(root):
                    airflow.stop(root)
                say("Airflow stopped")
            else:
                embedded.down(root, say=say)


@contextlib.contextmanager
def _beside(work: Callable[[], None], name: str) -> Iterator[None]:
    """Do `work` in a thread while the block runs; what it raises is raised afterwards."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, name) as threads:
        doing = threads.submit(work)
        yield
        doing.result()


def _have_schedule(root: Path) -> None:
    """The sample schedule, in a workspace that has none in force."""
    if _muniment(root, "schedule", "show").returncode == 0:
        return
    sample = Path(__file__).resolve().parents[1] / "schedules" / "sample.yaml"
    done = _muniment(root, "schedule", "load", str(sample))
    if done.returncode:
        raise ServiceUnavailable(f"the sample schedule could not be loaded: {done.stderr.strip()}")


def _muniment(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingest.cli", "--workspace", str(root), "--json", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# ---------------------------------------------------------------- Airflow


def _ready(site: Site, dag_id: str, say: Teller) -> str:
    """Wait until Airflow knows the DAG and the report's. Raises UsageError with what Airflow could not read."""
    deadline = time.monotonic() + _PARSE_SECONDS
    missing = {dag_id, REPORT}
    asked = False
    while time.monotonic() < deadline:
        known = site.dags()
        missing = {dag_id, REPORT} - known.keys()
        wrong = site.import_errors()
        if wrong:
            raise UsageError("Airflow could not read a DAG file:\n" + "\n".join(wrong))
        if not missing:
            if known[dag_id]["is_paused"] or known[REPORT]["is_paused"]:
                raise UsageError(f"{dag_id} or {REPORT} is paused in Airflow. Unpause both there, then run this again.")
            return dag_id
        for dag in known.values():
            if not asked and dag["dag_id"].startswith("ingest_documents__"):
                site.parse(dag)  # the source file changed under a running Airflow: it looks every 30 s of itself
                asked = True
        say.state("DAGs", "Airflow reads them")
        time.sleep(_POLL)
    raise ServiceUnavailable(f"Airflow does not know {', '.join(sorted(missing))} after {_PARSE_SECONDS:.0f} s.")


def _ingest(site: Site, root: Path, dag_id: str, say: Teller) -> dict[str, Any]:
    run = site.trigger(dag_id)
    say(f"{dag_id}: run {run['dag_run_id']}")
    progress = _Progress(root, site, run)
    try:
        return _watch(site, run, say, progress)
    except BaseException:
        # Airflow may be one that goes on running: its tasks end with the run, not with this process.
        with contextlib.suppress(MunimentError):
            site.fail(run)
        raise


def _watch(site: Site, run: dict[str, Any], say: Teller, progress: Callable[[], str] | None = None) -> dict[str, Any]:
    """Follow a run to its end, printing each change of state."""
    while True:
        found = site.run(run)
        for one in site.tasks(run):
            number = f"[{one['map_index']}]" if one["map_index"] >= 0 else ""
            if one["state"] not in (None, "scheduled", "queued"):
                say.state(f"{run['dag_id']} {one['task_id']}{number}", one["state"])
        if progress and (line := progress()):
            say.state("batches", line)
        if found["state"] in _ENDED:
            say.state(run["dag_id"], found["state"])
            return found
        time.sleep(_POLL)


class _Progress:
    """How many batches of a run are committed."""

    def __init__(self, root: Path, site: Site, run: dict[str, Any]) -> None:
        self._database = _database(root)
        self._site, self._run = site, run
        self._run_id: str | None = None
        self._batches = 0

    def __call__(self) -> str:
        if self._run_id is None:
            self._run_id = self._site.xcom(self._run, "discover", "run_id")
            if self._run_id is None:
                return ""
            parts = self._site.xcom(self._run, "discover", "return_value") or []
            self._batches = sum(len(part["batches"]) for part in parts)
        with psycopg.connect(self._database) as connection:
            row = connection.execute(
                "SELECT count(*), coalesce(sum(admitted + quarantined + rejected + known), 0) "
                "FROM run_batches WHERE run_id = %s",
                (self._run_id,),
            ).fetchone()
        done, documents = row or (0, 0)
        percent = 100 * done // self._batches if self._batches else 100
        return f"{done} of {self._batches} committed ({percent} %), {documents:,} documents"


def _reported(site: Site, ingest: dict[str, Any], say: Teller) -> dict[str, Any]:
    """The report after the ingestion: the run that the asset started, or one that is asked for.

    An ingestion that failed touches no asset, and is reported all the same."""
    ended = datetime.fromisoformat(ingest["end_date"])
    deadline = time.monotonic() + (15.0 if ingest["state"] == "success" else 0.0)
    found = None
    while found is None and time.monotonic() < deadline:
        after = [run for run in site.runs(REPORT) if _begun(run) >= ended or run["state"] in ("queued", "running")]
        found = after[0] if after else None
        time.sleep(_POLL)
    return _watch(site, found or site.trigger(REPORT), say)


def _begun(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["queued_at"] or run["run_after"])


def _await_told(root: Path, runs: Sequence[dict[str, Any]], say: Teller) -> None:
    """Wait until the ledger has the ends of the runs, which the listener enters beside the scheduler."""
    deadline = time.monotonic() + _TOLD_SECONDS
    wanted = {run["dag_run_id"] for run in runs}
    with psycopg.connect(_database(root), autocommit=True) as connection:
        while wanted and time.monotonic() < deadline:
            for one in sorted(wanted):
                row = connection.execute(
                    "SELECT 1 FROM events WHERE type = 'ine' AND position(%s::bytea IN entry) > 0",
                    (json.dumps(one, ensure_ascii=False).encode(),),
                ).fetchone()
                if row:
                    wanted.discard(one)
            time.sleep(0.2 if wanted else 0)
    if wanted:
        say(f"the end of {', '.join(sorted(wanted))} did not reach the ledger; Airflow's log has the reason")


def _database(root: Path) -> str:
    named, _ = external(os.environ)
    services = embedded.load(root)
    assert named or services
    return named or services.database_url  # type: ignore[union-attr]


# ---------------------------------------------------------------- what is printed at the end


def _summary(root: Path, outcome: _Outcome, run_id: str | None, red: dict[str, Any] | None, say: Teller) -> int:
    account = root / "runs" / str(run_id) / "reconciliation.json"
    totals = json.loads(account.read_text("ascii")) if account.exists() else None
    print()
    if totals is not None:
        rows = [
            ("discovered", totals["discovered"]),
            ("= admitted", totals["admitted"]),
            ("+ quarantined", totals["quarantined"]),
            ("+ rejected", totals["rejected"]),
            ("+ already known", totals["known"]),
        ]
        rows += [("MISSING", totals["missing"])] if totals["missing"] else []
        rows += [("children (inside others)", totals["children"])] if totals["children"] else []
        rows += [("left for the next run", totals["deferred"])] if totals["deferred"] else []
        for name, value in rows:
            print(f"  {name:<26}{value:>10,}")
        print(f"  {'bytes':<26}{totals['bytes']:>10,}")
    print(f"  {'seconds, ingestion':<26}{outcome.ingested - outcome.began:>10.1f}")
    print(f"  {'seconds, report':<26}{outcome.reported - outcome.ingested:>10.1f}")
    print(f"  {'seconds, all':<26}{time.monotonic() - say.started:>10.1f}\n")
    wrong = []
    if outcome.ingest["state"] != "success" or totals is None or totals["missing"]:
        wrong.append(f"the ingestion ended as {outcome.ingest['state']}: see its log in Airflow")
    if red is None:
        wrong.append("no report was made: see its log in Airflow")
    elif red["red"]:
        wrong.append(f"{red['red']} check(s) of the report are red")
    for path in _written(root / "reports", outcome.began_at):
        print(f"Report   {path}")
    if account.exists():
        print(f"Account  {account}")
    _print_address(root)
    for line in wrong:
        print(f"RED      {line}")
    return 1 if wrong else 0


def _written(folder: Path, since: float) -> list[Path]:
    found = [path for path in folder.rglob("*.html") if path.stat().st_mtime >= since]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-1:]


def _print_address(root: Path) -> None:
    """Where Airflow's pages are, and the login: printed for the person who ran the command, and kept nowhere else."""
    services = embedded.load(root)
    if services is None or services.airflow is None:
        return
    running = airflow.running(root) is not None
    print(f"Airflow  {airflow.url(services.airflow)}{'' if running else '  (after `make up`)'}")
    print(f"         user {services.airflow.user}  password {services.airflow.password}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
