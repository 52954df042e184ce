"""`retention_report`: the compliance report, after every ingestion and at least once a day.

Rules of this module:
- A day without documents has a report too: silence is failure.
- A red report is a report that was made: the task succeeds and says what is red. Only a report that could not
  be made fails.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task
from muniment_command import CATALOG, run

log = logging.getLogger(__name__)
DAILY = "30 5 * * *"  # UTC: on the desk before the day begins, from Lisbon to Jerusalem


@task(retries=2, retry_delay=timedelta(seconds=10))
def report() -> dict[str, Any]:
    made = run(["report"])
    for path in made["paths"].values():
        log.info("written: %s", path)
    for one in made["red"]:
        log.warning("red: %s", one)
    return {"red": len(made["red"])}


with DAG(
    dag_id="retention_report",
    description="The compliance report of the whole catalog",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(DAILY, timezone="UTC", run_immediately=timedelta(0)),
        assets=[CATALOG],
    ),
    catchup=False,
    max_active_runs=1,
    tags=["muniment"],
    doc_md=__doc__,
):
    report()
