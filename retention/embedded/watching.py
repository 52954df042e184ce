"""The DAGs, asked for one run each and followed to the end.

Rules of this module:
- Airflow is asked, the catalog is only looked at: how far a run is, and whether the ledger was told of its end.
- Each change of state is printed once, with the seconds since the start.
"""

# ruff: noqa: T201 - what it prints is its answer
from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from retention import embedded
from retention.config import external
from retention.embedded.airflow_client import Site
from retention.errors import MunimentError, ServiceUnavailable, UsageError

REPORT = "retention_report"
_POLL = 0.5  # seconds between two questions to Airflow
_PARSE_SECONDS = 90.0  # for a new or changed source file to become a DAG
_ASSET_SECONDS = 15.0  # for the scheduler to start what waits for an asset
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


def ready(site: Site, dag_id: str, say: Teller) -> str:
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


def ingest(site: Site, root: Path, dag_id: str, say: Teller) -> dict[str, Any]:
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
            # The task tells the run first, and its batches when it ends: between the two nothing is known of them.
            parts = self._site.xcom(self._run, "discover", "return_value")
            if parts is None:
                return ""
            self._run_id = self._site.xcom(self._run, "discover", "run_id")
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


def reported(site: Site, ingest: dict[str, Any], say: Teller) -> dict[str, Any]:
    """The report after the ingestion: the run that the asset started, or one that is asked for.

    An ingestion that failed touches no asset, and is reported all the same."""
    ended = datetime.fromisoformat(ingest["end_date"])
    deadline = time.monotonic() + (_ASSET_SECONDS if ingest["state"] == "success" else 0.0)
    found = None
    while found is None and time.monotonic() < deadline:
        after = [run for run in site.runs(REPORT) if _begun(run) >= ended or run["state"] in ("queued", "running")]
        found = after[0] if after else None
        time.sleep(_POLL)
    return _watch(site, found or site.trigger(REPORT), say)


def _begun(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["queued_at"] or run["run_after"])


def await_told(root: Path, runs: Sequence[dict[str, Any]], say: Teller) -> None:
    """Wait until the ledger has the ends of the runs, which the listener enters beside the scheduler.

    They are counted: history has pseudonyms of runs, not their ids."""
    deadline = time.monotonic() + _TOLD_SECONDS
    since = min(_begun(run) for run in runs)
    query = (
        "SELECT count(*) FROM events WHERE type = 'ine' AND recorded_at >= %s "
        """AND position('"dag_run":'::bytea IN entry) > 0"""
    )
    with psycopg.connect(_database(root), autocommit=True) as connection:
        while (row := connection.execute(query, (since,)).fetchone()) and row[0] < len(runs):
            if time.monotonic() > deadline:
                say("the end of a run did not reach the ledger; Airflow's log has the reason")
                return
            time.sleep(0.2)


def _database(root: Path) -> str:
    named, _ = external(os.environ)
    if named:
        return named
    services = embedded.load(root)
    assert services is not None  # the caller has started them
    return services.database_url
