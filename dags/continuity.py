"""`continuity` and `continuity_drill`: the archive survives the loss of its place, and it is tried.

    continuity          nightly, in each second vault:
        backup          what is missing there is copied, and a signed point names all of it
        prune           points that the schedule does not keep go, with what nothing else needs
        prove           that no point opens what was destroyed longer ago than copies of the key safe are kept
        check           signatures, pages, the ledger and every object's size; of a share of the objects the bytes
    continuity_drill    weekly: the newest point of each is restored where nobody works, verified and timed

Rules of this module:
- Where MUNIMENT_BACKUPS names no second vault, the run is skipped: the report says that there is none.
- Each is a task of its own, and runs whatever became of the one before: a point that cannot be taken is no reason not
  to look at those that are there. The run is red if one of them is, and names what was found in its log.
- Where a point is older than its classes allow, was not looked at or not drilled for a week, the report is red
  (retention/reports/continuity.py): silence is failure.
- XComs carry counts.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from muniment_command import refuse, run
from muniment_ending import conclude

NIGHTLY = "0 3 * * *"  # UTC: after assurance, before the report
WEEKLY = "0 4 * * 0"  # UTC: after the points of the night
RETRY = timedelta(minutes=10)
SHARE = 5.0  # percent of the objects whose bytes are read a night: each within twenty nights


def skip_without_vault() -> None:
    if not os.environ.get("MUNIMENT_BACKUPS", "").strip():
        raise AirflowSkipException("MUNIMENT_BACKUPS names no second vault (docs/backup.md)")


@task(retries=2, retry_delay=RETRY)
def backup() -> dict[str, int]:
    """A point in every second vault."""
    skip_without_vault()
    done = run(["backup", "run"])["points"]
    refuse({one["vault"]: problem for one in done for problem in one["problems"]}, "objects are in no copy")
    return {one["vault"]: one["copied"] for one in done}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def prune() -> dict[str, int]:
    """What the schedule does not keep."""
    skip_without_vault()
    return {one["vault"]: len(one["points"]) for one in run(["backup", "prune"])["vaults"]}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def prove() -> dict[str, int]:
    """Plans whose term is over, each with a certificate."""
    skip_without_vault()
    done = run(["disposition", "prove"])["plans"]
    found = {f"plan {one['plan_id']} {n}": said for one in done for n, said in enumerate(one["problems"])}
    refuse(found, "things stand in the way of a proof that destruction reached the recovery points")
    return {"proved": len(done)}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def check() -> dict[str, int]:
    """Could they be restored."""
    skip_without_vault()
    share = get_current_context()["params"]["share"]
    done = run(["backup", "check", "--read-data", str(share)])["vaults"]
    refuse({f"{one['vault']} {n}": said for one in done for n, said in enumerate(one["problems"])}, "things are wrong")
    return {one["vault"]: one["read"] for one in done}


@task(retries=1, retry_delay=RETRY)
def drill() -> dict[str, float]:
    """Seconds that a restore takes, of each second vault."""
    skip_without_vault()
    names = [part.partition("=")[0] for part in os.environ["MUNIMENT_BACKUPS"].split()]
    done = {name: run(["drill", "--vault", name]) for name in names}
    wrong = {
        f"{name} {n}": said
        for name, one in done.items()
        if not one["ok"]
        for n, said in enumerate(one["problems"] or ["it restored other than what was there"])
    }
    refuse(wrong, "things went wrong in the drill")
    return {name: one["rto"] for name, one in done.items()}


with DAG(
    dag_id="continuity",
    description="Recovery points in second vaults: taken, pruned, checked",
    schedule=CronTriggerTimetable(NIGHTLY, timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    params={"share": Param(SHARE, type="number", minimum=0, maximum=100, description="percent of the objects")},
    tags=["muniment"],
    doc_md=__doc__,
):
    steps = [backup(), prune(), prove(), check()]
    chain(*steps)
    conclude(steps)

with DAG(
    dag_id="continuity_drill",
    description="A restore that is tried every week",
    schedule=CronTriggerTimetable(WEEKLY, timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["muniment"],
    doc_md=__doc__,
):
    conclude([drill()])
