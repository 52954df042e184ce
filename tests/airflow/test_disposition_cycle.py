"""The DAGs of disposition, run by Airflow on an archive with records that are due.

One process runs them all by `dag.test()`, over metadata of its own; archive and services are those of each test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest

from retention import approvals, ledger, reports, signatures
from retention.approvals import Kind
from retention.archive import Archive
from retention.config import Settings
from retention.database import transaction
from retention.disposition import execution, plans, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.embedded import Services
from retention.history import keys
from retention.ledger import Event
from tests.airflow.conftest import ROOT, clean_environment
from tests.archive_builder import KEYS, Document, capture_all, enrol, load
from tests.integration.test_residue_disk import places
from tests.owning import owning

pytestmark = pytest.mark.timeout(300)  # Airflow's own tables are made first, on a machine in use

DRIVER = """
import json, os, sys
from datetime import datetime, timedelta
from pathlib import Path
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what Airflow prints is no answer
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session

dags = {}
for name in ("disposition_cycle.py", "assurance.py", "continuity.py"):
    bag = DagBag(dag_folder=str(Path(sys.argv[1]) / name))
    assert not bag.import_errors, bag.import_errors
    dags |= bag.dags
for dag in dags.values():
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["environment"])
    day = asked["logical_date"]
    run = dags[asked["dag"]].test(logical_date=datetime.fromisoformat(day) if day else None)
    with create_session() as session:
        of_run = session.query(TaskInstance).filter_by(dag_id=asked["dag"], run_id=run.run_id)
        tasks = {t.task_id + ("" if t.map_index < 0 else str(t.map_index)): [t.state, t.try_number] for t in of_run}
        found = session.query(XComModel).filter_by(dag_id=asked["dag"], run_id=run.run_id, key="return_value")
        xcoms = {one.task_id: XComModel.deserialize_value(one) for one in found}
    print(json.dumps({"state": run.state, "tasks": tasks, "xcoms": xcoms}), file=answers)
"""


@dataclass(frozen=True)
class Ran:
    """A DAG run that ended: its state, and of each task its state and how many tries it took."""

    state: str
    tasks: dict[str, list[Any]]
    xcoms: dict[str, Any]

    def states(self) -> dict[str, str]:
        return {task: state for task, (state, _) in self.tasks.items()}


@dataclass(frozen=True)
class Driver:
    """The process that runs DAGs."""

    process: subprocess.Popen[str]
    asks: IO[str]
    answers: IO[str]
    log: Path

    def run(self, dag: str, environment: dict[str, str], logical_date: datetime | None = None) -> Ran:
        day = logical_date.isoformat() if logical_date else None
        own = {name: value for name, value in environment.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self.asks.write(json.dumps({"dag": dag, "environment": own, "logical_date": day}) + "\n")
        self.asks.flush()
        line = self.answers.readline()
        assert line, self.log.read_text()[-5000:]
        return Ran(**json.loads(line))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    folder = tmp_path_factory.mktemp("driver")
    environment = clean_environment(folder)
    log = folder / "log.txt"
    with log.open("w") as output:
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=environment, stdout=output, stderr=output, timeout=200, check=True)
        file = folder / "driver.py"
        file.write_text(DRIVER)
        process = subprocess.Popen(
            [sys.executable, str(file), str(ROOT / "dags")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Driver(process, process.stdin, process.stdout, log)
        finally:
            process.stdin.close()
            process.wait(30)


def clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ready(archive: Archive) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def approve(archive: Archive, plan_id: UUID) -> None:
    """Decide and sign, as two people do."""
    reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    with transaction(archive.connections) as conn:
        statement = approvals.show(conn, plan_id).statement
    assert statement is not None
    for name in ("Ruth Levi", "Dan Cohen"):
        armored = signatures.sign(KEYS[name], statement.encode())
        approvals.sign(archive, plan_id, armored, clock(), {Kind.DISPOSITION: reviewing.approved})


def approved(archive: Archive, folder: Path, records: int = 2) -> UUID:
    capture_all(archive, [Document("SHORT", f"old {n}") for n in range(records)], clock, folder)
    found = proposing.propose(archive, clock()).plan
    assert found is not None
    approve(archive, found)
    return found


def states(archive: Archive) -> set[int]:
    with transaction(archive.connections) as conn:
        return {row[0] for row in conn.execute("SELECT state FROM records JOIN plan_items USING (record_id)")}


def test_from_the_night_to_the_certificate(
    driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path
) -> None:
    documents = [Document("SHORT", f"letter of Zvulun Kaplan {n}") for n in range(3)]
    capture_all(ready, [*documents, Document("SHORT", "younger", date(2020, 9, 1))], clock, tmp_path / "in")
    # Of the logical date: a fourth is due by now, and was not on that day.
    night = driver.run("disposition_cycle", environment, datetime(2021, 6, 1, tzinfo=UTC))
    assert night.state == "success"
    assert night.states() == dict.fromkeys(("advance", "notify", "propose", "rekey", "changed", "verdict"), "success")
    assert night.xcoms["propose"].keys() == {"plan_id", "count", "in_other_plans", "not_notified"}
    assert night.xcoms["propose"]["count"] == 3
    plan_id = UUID(night.xcoms["propose"]["plan_id"])
    # Nothing is signed: the run ends at once, no task of it waits anywhere, nothing is touched.
    unsigned = driver.run("disposition_execution", environment)
    assert unsigned.state == "success"
    assert unsigned.states() == {"approved": "success", **dict.fromkeys(("execute", "changed", "verdict"), "skipped")}
    assert states(ready) == {1}
    approve(ready, plan_id)
    signed = driver.run("disposition_execution", environment)
    assert signed.state == "success"
    assert signed.states() == dict.fromkeys(("approved", "execute0", "changed", "verdict"), "success")
    assert states(ready) == {3}
    with transaction(ready.connections) as conn:
        plan = plans.show(conn, plan_id)
    assert (plan.state, plan.classes[0].outcomes) == ("executed", {"destroyed": 3})
    assert signed.xcoms["execute"] == {
        "plan_id": str(plan_id),
        "certificate_id": str(plan.certificate_id),
        "outcomes": {"destroyed": 3},
    }
    after = driver.run("disposition_execution", environment)
    assert after.states()["execute"] == "skipped"  # once
    # What Airflow keeps of it, log and metadata, has the plan's id and no word of a document.
    assert places(driver.log.parent, [str(plan_id).encode()]) != set()
    assert places(driver.log.parent, [b"Kaplan", b"Zvulun"]) == set()


def test_a_plan_that_nobody_decides_expires_and_is_red(
    driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path
) -> None:
    capture_all(ready, [Document("SHORT", "old")], clock, tmp_path / "in")
    old = proposing.propose(ready, clock() - timedelta(days=100)).plan  # its term is three months
    assert old is not None
    # As a run leaves it that was killed after it committed: tried again it says the same.
    assert reviewing.advance(ready, clock()) == (old,)
    night = driver.run("disposition_cycle", environment, clock() - timedelta(minutes=5))
    assert night.state == "failed"
    assert night.tasks["advance"] == ["failed", 1]  # waiting mends it not
    # The rest of the night goes on: what was in it is proposed again, and the report follows.
    assert [night.states()[task] for task in ("notify", "propose", "changed")] == ["success"] * 3
    assert night.xcoms["propose"]["count"] == 1
    assert old != UUID(night.xcoms["propose"]["plan_id"])
    report = reports.compile_report(ready, clock().date(), clock())
    assert "expired" in {check.id for check in report.red}


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(
    driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path
) -> None:
    plan_id = approved(ready, tmp_path / "in", 20)
    with (
        ThreadPoolExecutor(1) as threads,
        owning(ready) as ours,
        psycopg.connect(ready.settings.database_url, autocommit=True) as looking,
    ):
        ours.execute("LOCK TABLE tombstones IN EXCLUSIVE MODE")  # T1 commits, what follows waits
        running = threads.submit(driver.run, "disposition_execution", environment)
        deadline = time.monotonic() + 60
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'tombstones'::regclass AND NOT granted"
        while looking.execute(waits).fetchone() == (0,):
            assert time.monotonic() < deadline, "the execution never came to its tombstones"
            time.sleep(0.05)
        assert states(ready) == {2}
        below = psutil.Process(driver.process.pid).children(recursive=True)
        (command,) = (one for one in below if "execute" in one.cmdline())
        os.kill(command.pid, signal.SIGKILL)
        ours.rollback()
        ran = running.result(120)
    assert ran.state == "success"
    assert ran.tasks["execute0"] == ["success", 2]
    assert states(ready) == {3}
    done = execution.answer(ready, plan_id)
    assert (done.outcomes, done.complete) == ({"destroyed": 20}, True)


def test_a_plan_that_another_process_executes_is_skipped(
    driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path
) -> None:
    plan_id = approved(ready, tmp_path / "in")
    with execution.alone(ready, plan_id):
        ran = driver.run("disposition_execution", environment)
    assert (ran.state, ran.tasks["execute0"]) == ("success", ["skipped", 1])
    assert states(ready) == {1}


def test_a_refusal_is_red_and_not_tried_again(
    driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path
) -> None:
    approved(ready, tmp_path / "in")
    ahead = clock() + timedelta(days=3)
    with transaction(ready.connections) as conn:
        ledger.append(conn, [Event("poa", ahead, ready.agent, (ready.agent.id,), detail={"state": "ahead"})], ahead)
    ran = driver.run("disposition_execution", environment)  # its clock is behind the last event
    assert (ran.state, ran.tasks["execute0"]) == ("failed", ["failed", 1])
    assert ran.states()["changed"] == "success"  # the report follows
    assert states(ready) == {1}


# ---------------------------------------------------------------- assurance; here, because a driver takes long to start


def test_a_night_of_assurance(driver: Driver, ready: Archive, environment: dict[str, str], tmp_path: Path) -> None:
    capture_all(ready, [Document("LONG", f"kept {n}") for n in range(3)], clock, tmp_path / "in")
    # The log has no key: nothing is signed. What can be looked at is looked at all the same, and the run is red.
    unsigned = driver.run("assurance", environment)
    assert unsigned.state == "failed"
    assert unsigned.states() == {
        **dict.fromkeys(("publish", "verify", "verdict"), "failed"),
        **dict.fromkeys(("fixity", "reconcile", "probe", "changed"), "success"),
        "verdict": "upstream_failed",
    }
    assert unsigned.tasks["verify"] == ["failed", 1]  # waiting mends it not
    keys.create(ready, "records.example.org/ledger", clock())
    night = driver.run("assurance", environment)
    assert night.state == "success"
    assert set(night.states().values()) == {"success"}
    assert night.xcoms["publish"]["size"] > night.xcoms["publish"]["before"] == 0
    assert night.xcoms["verify"]["size"] == night.xcoms["publish"]["size"]
    assert night.xcoms["fixity"]["read"] == 1  # two percent of three, rounded up
    with transaction(ready.connections) as conn:
        said = conn.execute("SELECT type, count(*) FROM events WHERE type IN ('dig', 'fix') GROUP BY 1 ORDER BY 1")
        # Two signed the enrolment; each fixity names documents, and the schedule.
        assert said.fetchall() == [("dig", 2 + 2), ("fix", 2 * 2)]
    with owning(ready) as conn:
        conn.execute("UPDATE records SET received = received + 1 WHERE ctid = (SELECT min(ctid) FROM records)")
    tampered = driver.run("assurance", environment)
    assert tampered.state == "failed"
    assert tampered.states()["verify"] == "failed"
    assert [tampered.states()[task] for task in ("publish", "fixity", "reconcile", "probe")] == ["success"] * 4


# ---------------------------------------------------------------- continuity


@pytest.fixture
def empty(services: Services, settings: Settings) -> Iterator[dict[str, str]]:
    """An empty database that drills restore into, as the environment names it."""
    name = f"drill_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} OWNER muniment_owner")
    urls = {
        "MUNIMENT_DRILL_DATABASE_URL": services.database_url,
        "MUNIMENT_DRILL_DATABASE_OWNER_URL": services.owner_url,
    }
    yield {key: f"{url.rpartition('/')[0]}/{name}" for key, url in urls.items()}
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_night_of_continuity(
    driver: Driver, ready: Archive, environment: dict[str, str], empty: dict[str, str], tmp_path: Path
) -> None:
    capture_all(ready, [Document("LONG", f"kept {n}") for n in range(3)], clock, tmp_path / "in")
    steps = ("backup", "prune", "prove", "check")
    alone = driver.run("continuity", environment | {"MUNIMENT_BACKUPS": ""})
    assert [alone.states()[step] for step in steps] == ["skipped"] * 4  # there is no second vault
    keys.create(ready, "records.example.org/ledger", clock())
    environment = environment | {"MUNIMENT_BACKUPS": f"disk=file://{tmp_path}/second"}
    night = driver.run("continuity", environment)
    assert night.state == "success" and set(night.states().values()) == {"success"}
    assert night.xcoms["backup"] == {"disk": 5} and night.xcoms["prune"] == {"disk": 0}
    tried = driver.run("continuity_drill", environment | empty)
    assert tried.state == "success" and tried.xcoms["drill"]["disk"] > 0  # seconds
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT records, lost, resurrected, ok FROM drills").fetchall() == [(3, 0, 0, True)]
    for page in (tmp_path / "second/pages").iterdir():
        page.chmod(0o600)
        page.write_bytes(page.read_bytes()[:-1] + b"?")
    found = driver.run("continuity", environment)
    assert found.state == "failed" and found.tasks["check"] == ["failed", 1]  # waiting mends it not
    none = dict.fromkeys(empty, "")
    unable = driver.run("continuity_drill", environment | none)  # the database for it is to be named
    assert unable.state == "failed" and unable.tasks["drill"] == ["failed", 1]
    assert found.states()["backup"] == "success" and found.states()["prune"] == "failed"  # beside what it cannot read
