"""How the run of a DAG ends: the report follows, and the run is as red as its tasks.

Rules of this module:
- A run is, to Airflow, as its last tasks are: `changed` runs whatever became of the others, so beside it stands
  `verdict`, which does nothing, never reaches a worker, and fails where one of them did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import task
from muniment_command import CATALOG


@task(trigger_rule="all_done", outlets=[CATALOG])
def changed() -> None:
    """Tell Airflow that the catalog or what is known of it changed, whatever came out: the report follows."""


def conclude(steps: Sequence[Any]) -> None:
    """End a DAG whose tasks are `steps`, the last of them last."""
    steps[-1] >> changed()
    list(steps) >> EmptyOperator(task_id="verdict", trigger_rule="none_failed")
