"""`assurance`: every night, whether what was kept is still what it was.

    publish     what the ledger has since yesterday is signed and published
    verify      events, tables, sealed lines and keys against each other and against what was signed
    fixity      a share of the documents is read again, and of the keys unwrapped, the longest ago first
    reconcile   locks and legal holds are set where they wait, and compared with what the vault says
    probe       whether the store keeps what it is told to lock: tried on objects to throw away

Rules of this module:
- Each is a task of its own, and runs whatever became of the one before: a vault that lost a lock is no reason not to
  look at the tables. The run is red if one of them is, and names what was found in its log.
- Each says in the history that it ran, and what came out (`dig`, `fix`, `poa`, `val`). Publishing does not: the
  checkpoint that it signs says when, and an event of it could only be published by the next. Where a task did not run
  for longer than a day the report is red (retention/reports/checks.py): silence is failure.
- What was found stays found: a task that finds something is not tried again, one that could not look is.
- XComs carry counts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, chain, get_current_context, task
from muniment_command import refuse, run
from muniment_ending import conclude

NIGHTLY = "0 2 * * *"  # UTC: after disposition_cycle, before the report
RETRY = timedelta(minutes=5)
SHARE = 2.0  # percent of the documents a night: each is read within fifty nights, of the ninety that are allowed


@task(retries=2, retry_delay=RETRY)
def publish() -> dict[str, int]:
    """Sign and publish what the ledger has."""
    done = run(["ledger", "publish"])
    return {"size": done["size"], "before": done["before"]}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def verify() -> dict[str, int]:
    """The archive against its history; the documents themselves are read by `fixity`."""
    found = run(["verify", "--documents", "0", "--enter"])
    refuse({one["where"]: one["said"] for one in found["problems"]}, "things are not as the history says")
    return {"size": found["size"], "tables": found["tables"]}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def fixity() -> dict[str, int]:
    """Tonight's share of the documents and of the keys."""
    share = get_current_context()["params"]["share"]
    done = run(["fixity", "run", "--share", str(share)])
    refuse(done["damaged"] | done["keys"]["damaged"], "documents or keys are damaged")
    return {"read": done["read"], "bytes": done["bytes"], "keys": done["keys"]["unwrapped"]}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def reconcile() -> dict[str, Any]:
    """What the vault was asked to lock and to hold."""
    done = run(["vault", "reconcile"])
    refuse(done["differ"], "locks or legal holds are not as wanted")
    failed = {name: f"{done[name]['failed']} not set" for name in ("locks", "holds") if done[name]["failed"]}
    refuse(failed, "queues have what the vault refused")
    return {"compared": done["compared"]}


@task(retries=2, retry_delay=RETRY, trigger_rule="all_done")
def probe() -> dict[str, int]:
    """Whether locks are worth something in this store."""
    done = run(["vault", "probe"])
    refuse(dict.fromkeys(done["failed"], "the store let it happen"), "things happened that a lock forbids")
    return {"attempts": len(done["enforced"])}


with DAG(
    dag_id="assurance",
    description="Published, verified, read again, compared with the vault",
    schedule=CronTriggerTimetable(NIGHTLY, timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    params={"share": Param(SHARE, type="number", minimum=0, maximum=100, description="percent of the documents")},
    tags=["muniment"],
    doc_md=__doc__,
):
    steps = [publish(), verify(), fixity(), reconcile(), probe()]
    chain(*steps)
    conclude(steps)
