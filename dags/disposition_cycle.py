"""`disposition_cycle` and `disposition_execution`: what has outlived its retention goes, by two people.

    disposition_cycle       nightly: lets stages lapse and terms end, gives notices, proposes, gives buckets new keys
    disposition_execution   every 15 minutes: executes what two people have signed by then

Rules of this module:
- Between the two a plan waits for people, for as long as they take, in the catalog and nowhere else. No task waits:
  no worker is held, none is deferred, and a restart of Airflow forgets nothing. People sign at the command line, by
  keys that Airflow has not; nothing there could tell Airflow, which therefore asks. To find that nothing is signed
  costs 4 s of one processor (docs/design.md, *Disposition waits in the catalog*). Where something can reach Airflow
  (the console), it updates the asset muniment://approvals, and execution begins at once.
- The proposal is as of the logical date; its proposer is software, which counts as none of the two people.
- What is not mended by waiting is red: a plan that expired undecided, a record on which the two calculations of its
  date differ, a record that could not be destroyed, every refusal. Red is the run as well as the task. The report
  follows either way, and is red too. A plan that another process executes is skipped.
- Trying again is always safe: the night finds what the one before committed, and execution goes on where it stopped.
  A failure stays red every 15 minutes until it is mended: the plan is still signed.
- XComs carry ids and counts.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from muniment_command import run
from muniment_ending import conclude

log = logging.getLogger(__name__)
APPROVALS = Asset("muniment://approvals")
NIGHTLY = "0 1 * * *"  # UTC: before the daily report, and after midnight from Lisbon to Jerusalem
OFTEN = "*/15 * * * *"
RETRY = timedelta(seconds=30)


def instant(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- nightly


@task(retries=2, retry_delay=RETRY)
def advance() -> dict[str, int]:
    """Let stages lapse and terms end. Red with the plans that expired since this run began, whichever try it was."""
    began = get_current_context()["dag_run"].start_date
    done = run(["disposition", "advance", *(["--since", instant(began)] if began else [])])
    expired = done["expired"]
    for document, why in done["not_erased"].items():
        log.error("not erased: %s: %s", document, why)
    if expired:
        raise AirflowFailException(
            f"{len(expired)} plans expired undecided: {', '.join(expired)}. What is in them is proposed again; see to "
            "it that it is decided this time."
        )
    if done["not_erased"]:
        raise AirflowException(
            f"{len(done['not_erased'])} rejected documents could not be erased. They are named above, with the reason; "
            "their keys are gone, and it is tried again."
        )
    return {"expired": 0}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def notify() -> dict[str, int]:
    """Give notice of what comes due soon, where a rule asks for it."""
    return {"notified": sum(run(["disposition", "notify"])["notified"].values())}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def propose() -> dict[str, Any]:
    """Put what is due on the logical date into a plan."""
    day = get_current_context()["dag_run"].logical_date
    found = run(["disposition", "propose", *(["--at", instant(day)] if day else [])])
    for record in found["disagreed"]:
        log.error("left out: %s", record)
    if found["disagreed"]:
        raise AirflowFailException(
            f"plan {found['plan_id']} leaves out {len(found['disagreed'])} records on whose date the two calculations "
            "differ. They are named above; report this as a defect."
        )
    return {name: found[name] for name in ("plan_id", "count", "in_other_plans", "not_notified")}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def rekey() -> dict[str, int]:
    """Give buckets of keys that lost some a new key: old copies of the catalog open nothing that was destroyed."""
    done = run(["key", "rekey"])
    if done["busy"]:
        raise AirflowException(f"{done['busy']} buckets of keys were in use each time; it is tried again.")
    if differ := done["locked_keys_differ"]:
        raise AirflowException("; ".join(f"{key}: {said}" for key, said in differ.items()))
    return {name: done[name] for name in ("replaced", "wrapped", "dropped")}


# ---------------------------------------------------------------- what was signed


@task.short_circuit(retries=2, retry_delay=RETRY)
def approved() -> list[str]:
    """Plans with something left to execute. None: the run ends here."""
    return [plan["plan_id"] for plan in run(["disposition", "list", "--ready"])["plans"]]


@task(retries=2, retry_delay=RETRY, max_active_tis_per_dagrun=1)
def execute(plan: str) -> dict[str, Any]:
    """Do what was approved, or go on with it; then check the signature of its certificate."""
    done = run(["disposition", "execute", plan, "--skip-busy"])
    if done["busy"]:
        raise AirflowSkipException(f"plan {plan}: another process is at it")
    for record, why in done["failed"].items():
        log.error("not done: %s: %s", record, why)
    if done["failed"]:
        raise AirflowException(
            f"plan {plan}: {len(done['failed'])} records could not be destroyed, and stay `destroying`. They are "
            "named above, with the reason; it is tried again."
        )
    if done["certificate_id"]:
        run(["disposition", "certificate", plan])
    outcomes = {name.replace("-", "_"): number for name, number in done["outcomes"].items()}
    return {"plan_id": plan, "certificate_id": done["certificate_id"], "outcomes": outcomes}


with DAG(
    dag_id="disposition_cycle",
    description="What is due is proposed; what nobody decided expires",
    schedule=CronTriggerTimetable(NIGHTLY, timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    tags=["muniment"],
    doc_md=__doc__,
):
    steps = [advance(), notify(), propose(), rekey()]
    chain(*steps)
    conclude(steps)

with DAG(
    dag_id="disposition_execution",
    description="What two people signed is executed",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(OFTEN, timezone="UTC", run_immediately=timedelta(0)), assets=[APPROVALS]
    ),
    catchup=False,
    max_active_runs=1,
    tags=["muniment"],
    doc_md=__doc__,
):
    conclude([execute.expand(plan=approved())])
