"""`make run` and `make up`: the whole product once, through Airflow's scheduler, on the samples or on a folder.

Rules of this module:
- Everything goes the way it goes every day: a source file, the DAGs, the scheduler. This module starts services,
  asks Airflow for a run, watches it, and prints what became of it; it decides nothing.
- What it started it stops, also on Ctrl-C; what ran before stays as it was.
- `sources.yaml` of the workspace is its owner's: it is made once, then never touched. The folder that is taken in
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
from hashlib import sha256
from pathlib import Path
from typing import Any

from retention import embedded
from retention.config import workspace
from retention.embedded import airflow, airflow_client, processes, watching
from retention.embedded.airflow_client import Site
from retention.embedded.watching import Teller
from retention.errors import MunimentError, ServiceUnavailable, UsageError

SAMPLES = "samples"


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
    _write_sources(root)
    source = _write_inbox(root, folder)
    with _services(root, say) as site:
        dag = watching.ready(site, f"ingest_documents__{source}", say)
        outcome = _Outcome(time.monotonic(), time.time())
        outcome.ingest = watching.ingest(site, root, dag, say)
        outcome.ingested = time.monotonic()
        outcome.report = watching.reported(site, outcome.ingest, say)
        outcome.reported = time.monotonic()
        run_id = site.xcom(outcome.ingest, "discover", "run_id")
        red = site.xcom(outcome.report, "report", "return_value") if outcome.report["state"] == "success" else None
        watching.await_told(root, [outcome.ingest, outcome.report], say)
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


def _write_sources(root: Path) -> None:
    """The source file of a workspace that has none: no source yet, and how to name one."""
    path = root / "sources.yaml"
    if not path.exists():
        processes.write_private(path, _SOURCES)


_SOURCES = """\
# Where documents come from. Yours to change: nothing writes here again.
#
# sources:
#   - name: scans                  # a-z, 0-9 and -; it becomes the DAG ingest_documents__scans
#     url: /srv/scans              # or s3://bucket/prefix?endpoint=https://host:port
#     schedule: 0 2 * * *          # cron, in the time zone of Airflow; without it, only when asked
sources: []
"""


def _write_inbox(root: Path, folder: Path | None) -> str:
    """The folder as a source; its name is a digest of where it is, because a folder's name would enter the history."""
    name, folder = (SAMPLES, _samples()) if folder is None else ("", folder.absolute())
    if not folder.is_dir():
        raise UsageError(f"INBOX={folder}: expected a folder that exists. Give its path, from here or from the root.")
    name = name or f"inbox-{sha256(os.fsencode(folder)).hexdigest()[:8]}"
    lines = [
        "# What the last `make run` took in: all that was in the folder. Written anew each time.",
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
        found = services.airflow
        assert found is not None
        with airflow_client.connect(airflow.url(found), found.user, found.password) as site:
            yield site
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
    sample = Path(__file__).resolve().parents[1] / "schedule" / "sample.yaml"
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


# ---------------------------------------------------------------- what is printed at the end


def _summary(root: Path, outcome: _Outcome, run_id: str | None, red: dict[str, Any] | None, say: Teller) -> int:
    account = root / "runs" / str(run_id) / "reconciliation.json"
    totals = json.loads(account.read_text("ascii")) if account.exists() else None
    print()
    if totals is not None:
        _print_totals(totals)
    print(f"  {'seconds, ingestion':<26}{outcome.ingested - outcome.began:>12.1f}")
    print(f"  {'seconds, report':<26}{outcome.reported - outcome.ingested:>12.1f}")
    print(f"  {'seconds, all':<26}{time.monotonic() - say.started:>12.1f}\n")
    wrong = []
    if outcome.ingest["state"] != "success" or totals is None or totals["missing"]:
        wrong.append(f"the ingestion ended as {outcome.ingest['state']}: see its log in Airflow")
    if red is None:
        wrong.append("no report was made: see its log in Airflow")
    elif red["red"]:
        wrong.append(f"checks of the report that are red: {red['red']}")
    for path in _written(root / "reports", outcome.began_at):
        print(f"Report   {path}")
        checks = json.loads(path.with_suffix(".json").read_text("utf-8"))["checks"]
        wrong += [f"{one['title']}: {one['found']}" for one in checks if one["status"] == "red"]
    if totals is not None:
        print(f"Account  {account}")
    _print_address(root)
    for line in wrong:
        print(f"RED      {line}")
    return 1 if wrong else 0


def _print_totals(totals: dict[str, Any]) -> None:
    """The account of the run: in the words of `muniment ingest`, then what is counted apart."""
    print(
        f"  discovered {totals['discovered']:,} = admitted {totals['admitted']:,} + quarantined "
        f"{totals['quarantined']:,} + rejected {totals['rejected']:,} + already known {totals['known']:,}\n"
    )
    apart = {"missing": "MISSING", "deferred": "left for the next run", "children": "children (inside others)"}
    for key, words in {**apart, "bytes": "bytes"}.items():
        if totals[key] or key in ("children", "bytes"):
            print(f"  {words:<26}{totals[key]:>12,}")


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
