"""`ingest_documents`: from a source to admitted records, on the schedule of each source.

    discover  lists the source into batches          -> one part a task of the next step
    work      takes the batches of a part in a row     (mapped, at most 16 tasks a run)
    reconcile accounts for every document, and tells Airflow that the catalog changed

Rules of this module:
- One definition serves every source of the source file: a DAG `ingest_documents__<source>` each. A schedule, a
  pause, a history, "one run at a time" and the button that starts a run belong to a DAG in Airflow; in a single
  DAG a slow or broken source would hold up, and turn red, all the others.
- The file is MUNIMENT_SOURCES, or sources.yaml in the workspace; `make run INBOX=folder` keeps its own beside it.
  A mistake in a file is an import error that names the line, and the DAGs of that file are as they were.
- XComs carry ids and counts, never a name or content.
- A source that the file pauses has no schedule: to pause it in Airflow too would outlive the line in the file.
- A failure that waiting may heal is tried again; a wrong setting, and a refusal, is not. A batch that was
  committed is found committed: trying again is always safe.
- reconcile runs if the run was begun, whatever became of its batches: what is missing must show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from muniment_command import CATALOG, run

from ingest.sources import SourceConfig, load_sources

BATCHES_A_TASK = 4  # a mapped task costs half a second of scheduling, and an import of Great Expectations
TASKS_A_RUN = 16
TASKS_AT_ONCE = int(os.environ.get("MUNIMENT_TASKS_AT_ONCE", "1"))  # one task keeps every core of a machine busy
COUNTS = ("discovered", "deferred", "admitted", "quarantined", "rejected", "known", "children", "bytes", "missing")


def source_files() -> Iterator[Path]:
    """The files to read. One that was named, or that should be there, is an error if it is not."""
    workspace = Path(os.environ.get("MUNIMENT_WORKSPACE", "var"))
    yield Path(os.environ.get("MUNIMENT_SOURCES") or workspace / "sources.yaml")
    inbox = workspace / "inbox.yaml"
    if inbox.exists():
        yield inbox


def parts(batches: int) -> list[range]:
    """Batch numbers cut into the parts that one task takes; few for a small run, at most TASKS_A_RUN."""
    size = max(BATCHES_A_TASK, -(-batches // TASKS_A_RUN))
    return [range(first, min(first + size, batches)) for first in range(0, batches, size)]


def counts(answer: dict[str, Any]) -> dict[str, int]:
    return {name: answer[name] for name in COUNTS if name in answer}


def ingest_documents(source: SourceConfig, file: Path) -> DAG:
    """The DAG of one source."""

    @task(retries=2, retry_delay=timedelta(seconds=30))
    def discover() -> list[dict[str, Any]]:
        begun = run(["run", "begin", "--source", source.name, "--sources", str(file)])
        get_current_context()["ti"].xcom_push("run_id", begun["run_id"])
        return [{"run_id": begun["run_id"], "batches": list(part)} for part in parts(begun["batches"])]

    @task(
        retries=2,
        retry_delay=timedelta(seconds=10),
        retry_exponential_backoff=True,
        max_active_tis_per_dagrun=TASKS_AT_ONCE,
    )
    def work(part: dict[str, Any]) -> dict[str, int]:
        chosen = [argument for number in part["batches"] for argument in ("--batch", str(number))]
        return counts(run(["run", "work", part["run_id"], *chosen]))

    @task(
        retries=2,
        retry_delay=timedelta(seconds=10),
        trigger_rule="all_done_min_one_success",
        outlets=[CATALOG],
    )
    def reconcile() -> dict[str, int]:
        run_id: str = get_current_context()["ti"].xcom_pull(task_ids="discover", key="run_id")
        account = counts(run(["run", "finish", run_id]))
        if account["missing"]:
            raise AirflowFailException(
                f"run {run_id}: {account['missing']} of {account['discovered']} documents are in no list, because "
                "a batch was not committed. The log of the task that failed says why; the next run takes them."
            )
        return account

    with DAG(
        dag_id=f"ingest_documents__{source.name}",
        description=f"Documents of the source {source.name}",
        schedule=None if source.paused else source.schedule,
        catchup=False,
        max_active_runs=1,
        tags=["muniment", "ingest_documents", *(["paused in the source file"] if source.paused else [])],
        doc_md=__doc__,
    ) as dag:
        begun = discover()
        [begun, work.expand(part=begun)] >> reconcile()
    return dag


for path in source_files():
    for config in load_sources(path):
        globals()[f"ingest_documents__{config.name}"] = ingest_documents(config, path)
