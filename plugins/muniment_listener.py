"""The end of a DAG run, told to the ledger.

Rules of this module:
- Only DAGs of Muniment are told of; both ends are: silence is failure. Of `disposition_execution`, which looks
  every 15 minutes and mostly finds nothing, the failures: what it executed is in the history by itself.
- Airflow calls a listener inside the scheduler's loop, before its transaction commits. So a listener only puts
  the fact into a queue; one thread tells it, by `muniment run observe` in a process of its own.
- Airflow goes on whatever happens here. An end that could not be told after three tries is logged with the
  reason. Told twice (a scheduler that rolled back) is harmless: the ledger keeps both.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)

WAITS = (2.0, 10.0)  # seconds before the second and the third try: a database that restarts
TIMEOUT = 60.0
NEVER_HEALS = (2, 3)  # exit codes of usage and refusal (retention.errors)
# Not a daemon thread: what is in the queue is told before the process ends.
_teller = ThreadPoolExecutor(1, "muniment-listener")


@hookimpl
def on_dag_run_success(dag_run: DagRun) -> None:
    """Airflow's hook."""
    observe(dag_run.dag_id, dag_run.run_id, "success")


@hookimpl
def on_dag_run_failed(dag_run: DagRun) -> None:
    """Airflow's hook."""
    observe(dag_run.dag_id, dag_run.run_id, "failed")


def ours(dag_id: str, state: str) -> bool:
    if dag_id == "disposition_execution":
        return state == "failed"
    return dag_id in ("retention_report", "disposition_cycle", "assurance") or dag_id.startswith("ingest_documents__")


def observe(dag_id: str, run_id: str, state: str) -> Future[bool] | None:
    """Queue the end of a run; the future says whether the ledger has it. None where it is not to be told."""
    if not ours(dag_id, state):
        return None
    try:
        return _teller.submit(_tell, dag_id, run_id, state)
    except RuntimeError as error:  # the process is about to end
        log.error("%s %s ended (%s), which the ledger was not told: %s", dag_id, run_id, state, error)
        return None


def _tell(dag_id: str, run_id: str, state: str) -> bool:
    arguments = ["run", "observe", "--dag", dag_id, "--dag-run", run_id, "--state", state]
    reason = ""
    for wait in (0.0, *WAITS):
        time.sleep(wait)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "ingest.cli", "--json", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT,
                env={name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
                start_new_session=True,  # the signal that stops the scheduler must not stop this
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
            continue
        if done.returncode == 0:
            return True
        reason = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        if done.returncode in NEVER_HEALS:
            break
    log.error("%s %s ended (%s), which the ledger was not told: %s", dag_id, run_id, state, reason)
    return False


class MunimentListener(AirflowPlugin):
    """Registers the listener of this module."""

    name = "muniment_listener"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - Airflow's own shape
