"""`make run` as a newcomer types it: a folder through the scheduler to a report, and nothing left behind.

Then the same DAGs once more by `dag.test()`, on the metadata and the catalog that the first run left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
import pytest

from retention import embedded
from retention.embedded import airflow, processes
from tests.airflow.conftest import ROOT, Script, clean_environment
from tests.integration.test_residue_disk import places

pytestmark = pytest.mark.timeout(500)  # the first test waits for four components of Airflow, on a machine in use

SAMPLES = ROOT / "tests" / "samples" / "documents"
DOCUMENTS = (
    *("accounts/invoice-2024-0117.pdf", "accounts/הזמנת-רכש-88.odt", "mail/signed-agreement.eml"),
    *("clinic/סיכום-ביקור.rtf", "damaged/case-study-cut-off.pdf", "damaged/empty.txt", "hr/fax-cv-2013.tif"),
)


@dataclass(frozen=True)
class Ran:
    """A workspace after `make run INBOX=…`, and what that printed."""

    root: Path
    environment: Mapping[str, str]
    code: int
    said: str
    left: tuple[str, ...]  # processes that were there after it, and not before

    @property
    def dag(self) -> str:
        found = re.search(r"ingest_documents__inbox-[0-9a-f]{8}", self.said)
        assert found, self.said
        return found[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("make-run")
    root, inbox = folder / "var", folder / "in box"
    inbox.mkdir()
    for name in DOCUMENTS:
        shutil.copy(SAMPLES / name, inbox)
    environment = {**clean_environment(folder), "MUNIMENT_WORKSPACE": str(root)}
    environment = {name: value for name, value in environment.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-m", "retention.embedded.showcase", "run", os.path.relpath(inbox, ROOT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=450,
        check=False,
    )
    left = tuple(_living(root))
    embedded.down(root)  # nothing of a failed run may disturb the tests that follow
    return Ran(root, environment, done.returncode, done.stdout + done.stderr, left)


def _living(root: Path) -> Iterator[str]:
    """Processes that carry the mark of the workspace, or work in it."""
    marked = {process.pid for process in processes.marked(root)}
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        where = process.info["cwd"] or ""
        if process.pid in marked or where.startswith(str(root)):
            yield " ".join(process.info["cmdline"] or [])


@pytest.fixture(scope="module")
def archive_up(ran: Ran) -> Iterator[embedded.Services]:
    """The catalog, the vault and Airflow's metadata of the run, up again without Airflow."""
    try:
        yield embedded.up(ran.root, postgres=True, s3=True)
    finally:
        embedded.down(ran.root)


def test_every_document_is_accounted_for_and_reported(ran: Ran) -> None:
    assert ran.code == 0, ran.said
    (account,) = (ran.root / "runs").glob("*/reconciliation.json")
    totals = json.loads(account.read_text())
    assert totals["discovered"] == len(DOCUMENTS)
    assert totals["missing"] == 0
    assert totals["admitted"] > 3
    assert totals["quarantined"] + totals["rejected"] > 0
    assert totals["children"] > 0
    assert (
        f"  discovered 7 = admitted {totals['admitted']} + quarantined {totals['quarantined']} + rejected "
        f"{totals['rejected']} + already known 0\n"
    ) in ran.said
    report = re.search(r"^Report +(/\S+\.html)$", ran.said, re.MULTILINE)
    assert report, ran.said
    assert Path(report[1]).stat().st_size > 10_000


def test_progress_address_and_login_are_shown(ran: Ran) -> None:
    for line in (
        "discover: success",
        "work[0]: running",
        "1 of 1 committed (100 %), 7 documents",
        f"{ran.dag}: success",
    ):
        assert line in ran.said
    assert "retention_report: success" in ran.said
    password = json.loads(airflow.password_file(ran.root).read_text())["admin"]
    assert re.search(rf"^Airflow +http://127\.0\.0\.1:\d+ .*\n +user admin +password {password}$", ran.said, re.M)
    for private in (ran.root / embedded.FILE, airflow.password_file(ran.root)):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_nothing_is_left_running(ran: Ran) -> None:
    assert ran.left == ()


def test_the_report_followed_the_ingestion_by_the_asset(ran: Ran, archive_up: embedded.Services) -> None:
    rows = _metadata(
        archive_up,
        "SELECT run_type, state FROM dag_run WHERE dag_id = 'retention_report' ORDER BY id",
    )
    assert rows == [("asset_triggered", "success")]  # one, of the asset: nothing else asked for it


def test_the_ledger_has_the_ends_of_both_runs(ran: Ran, archive_up: embedded.Services) -> None:
    with psycopg.connect(archive_up.database_url) as connection:
        rows = connection.execute("SELECT entry FROM events WHERE type = 'ine' ORDER BY position").fetchall()
    told = [json.loads(entry) for (entry,) in rows]
    assert [one["outcome"] for one in told if "dag_run" in one["detail"]] == ["success", "success"]
    assert len({one["detail"]["dag"] for one in told if "dag_run" in one["detail"]}) == 2


DAG_TEST = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
for name in sys.argv[2:]:
    run = bag.dags[name].test()
    print("RUN", json.dumps([name, run.state]), flush=True)
"""


def test_a_second_run_finds_all_known_and_a_dag_needs_no_scheduler(
    ran: Ran, archive_up: embedded.Services, script: Script
) -> None:
    environment = airflow.environment(ran.root, ran.environment)
    environment["PYTHONPATH"] += f":{ROOT / 'dags'}"  # as the DAG processor and the task runner do
    before = _counts(archive_up)
    done = script(DAG_TEST, environment, str(ROOT / "dags"), ran.dag, "retention_report")
    runs = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("RUN ")]
    assert runs == [[ran.dag, "success"], ["retention_report", "success"]], done.stdout + done.stderr
    accounts = [json.loads(file.read_text()) for file in (ran.root / "runs").glob("*/reconciliation.json")]
    first, second = sorted(accounts, key=lambda one: str(one["started"]))
    assert second["known"] == first["discovered"]  # what was rejected for good is known too
    assert second["admitted"] == second["quarantined"] == second["rejected"] == second["missing"] == 0
    assert _counts(archive_up) == before


def test_xcoms_are_ids_and_counts(ran: Ran, archive_up: embedded.Services) -> None:
    rows = _metadata(archive_up, "SELECT task_id, key, value FROM xcom ORDER BY timestamp")
    assert {(task, key) for task, key, _ in rows} >= {
        ("discover", "run_id"),
        ("discover", "return_value"),
        ("work", "return_value"),
        ("reconcile", "return_value"),
        ("report", "return_value"),
    }
    for task, key, value in rows:
        # Airflow keeps some values as JSON in a JSON string
        found = json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
        assert list(_not_ids_or_counts(found)) == [], (task, key)


def test_what_airflow_keeps_names_no_document(ran: Ran, archive_up: embedded.Services) -> None:
    with psycopg.connect(archive_up.owner_url) as connection:
        told = connection.execute(
            "SELECT DISTINCT unnest(ARRAY[name, title, author, place]) FROM descriptions"
        ).fetchall()
    words = [word for (word,) in told if word and len(word) > 6]
    assert len(words) > len(DOCUMENTS)
    tables = _metadata(
        archive_up, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'"
    )
    rows = [row for (name,) in tables for (row,) in _metadata(archive_up, f'SELECT t::text FROM "{name}" t')]
    assert any(ran.dag in row for row in rows)  # what is there is found
    assert [(word, row) for row in rows for word in words if word in row] == []
    home = airflow.home(ran.root)
    assert places(home, [ran.dag.encode()]) != set()
    assert places(home, [word.encode() for word in words]) == set()


def _not_ids_or_counts(value: Any) -> Iterator[object]:
    """What stands in a value and is neither a count nor an id; keys are words of ours."""
    match value:
        case dict():
            for key, inner in value.items():
                if not re.fullmatch(r"[a-z_]+", key):
                    yield key
                yield from _not_ids_or_counts(inner)
        case list():
            for inner in value:
                yield from _not_ids_or_counts(inner)
        case bool() | int() | None:
            return
        case str():
            try:
                UUID(value)
            except ValueError:
                yield value
        case _:
            yield value


def _metadata(services: embedded.Services, statement: str) -> list[tuple[Any, ...]]:
    url = services.airflow_database_url.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def _counts(services: embedded.Services) -> list[int]:
    with psycopg.connect(services.database_url) as connection:
        return [
            connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]
            for table in ("records", "quarantine")
        ]
