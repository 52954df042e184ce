"""The DAG files as the DAG processor sees them: quickly read, light, and loud about a mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.airflow.conftest import ROOT, Script, clean_environment

OURS = {
    "assurance",
    "continuity",
    "continuity_drill",
    "retention_report",
    "disposition_cycle",
    "disposition_execution",
}  # beside those of the sources

READ = """
import json, sys, time
import airflow.sdk, airflow.sdk.execution_time.task_runner
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
started = time.process_time()
bag = DagBag(dag_folder=sys.argv[1])
seconds = time.process_time() - started
def described(dag):
    tasks = {t.task_id: [sorted(t.upstream_task_ids), t.retries, t.trigger_rule.value] for t in dag.tasks}
    return {"schedule": repr(dag.timetable), "tasks": tasks, "runs": dag.max_active_runs, "catchup": dag.catchup}
print(json.dumps({
    "seconds": seconds, "errors": bag.import_errors, "dags": {d: described(dag) for d, dag in bag.dags.items()},
    "loaded": sorted({m.partition(".")[0] for m in set(sys.modules) - before}),
}))
"""


def read(script: Script, workspace: Path, **variables: str) -> dict[str, Any]:
    environment = {**clean_environment(workspace / "airflow"), "MUNIMENT_WORKSPACE": str(workspace), **variables}
    done = script(READ, environment, str(ROOT / "dags"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_source_has_a_dag_with_its_own_schedule(script: Script, tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(
        "sources:\n"
        "  - {name: nightly, url: in, schedule: '0 2 * * *'}\n"
        "  - {name: weekly, url: 's3://archive/in', schedule: '30 3 * * 1'}\n"
        "  - {name: asked, url: other}\n"
        "  - {name: resting, url: third, schedule: '0 2 * * *', paused: true}\n"
    )
    (tmp_path / "inbox.yaml").write_text("sources:\n  - {name: inbox-1, url: fourth}\n")
    found = read(script, tmp_path)
    assert found["errors"] == {}
    names = ("nightly", "weekly", "asked", "resting", "inbox-1")
    dags = found["dags"]
    assert set(dags) == {f"ingest_documents__{name}" for name in names} | OURS
    assert "0 2 * * *" in dags["ingest_documents__nightly"]["schedule"]
    assert "30 3 * * 1" in dags["ingest_documents__weekly"]["schedule"]
    for name in ("asked", "resting", "inbox-1"):
        assert "Null" in dags[f"ingest_documents__{name}"]["schedule"]
    for name in names:
        dag = dags[f"ingest_documents__{name}"]
        assert dag["tasks"] == {
            "discover": [[], 2, "all_success"],
            "work": [["discover"], 2, "all_success"],
            "reconcile": [["discover", "work"], 2, "all_done_min_one_success"],
        }
        assert dag["runs"] == 1
        assert not dag["catchup"]
    assert re.search(r"muniment://catalog.*30 5 \* \* \*", dags["retention_report"]["schedule"])
    assert "0 1 * * *" in dags["disposition_cycle"]["schedule"]
    assert re.search(r"muniment://approvals.*\*/15 \* \* \* \*", dags["disposition_execution"]["schedule"])
    for name in OURS:
        assert (dags[name]["runs"], dags[name]["catchup"]) == (1, False)
    # What a task needs is imported by the process that it starts, never by Airflow.
    heavy = {"boto3", "botocore", "great_expectations", "pandas", "psycopg", "pypdf", "magic", "lxml", "pebble"}
    assert heavy & set(found["loaded"]) == set()
    assert found["seconds"] < 1.0  # of CPU: the tests beside this one do not count


def test_a_mistake_in_the_source_file_is_an_import_error_with_its_line(script: Script, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sources:\n  - {name: good, url: in}\n  - name: bad\n    url: in\n    schedule: noon\n")
    found = read(script, tmp_path, MUNIMENT_SOURCES=str(file))
    (error,) = found["errors"].values()
    assert f"{file}:5: " in error
    assert "noon" in error
    assert set(found["dags"]) == OURS


def test_a_source_file_that_is_missing_is_an_import_error(script: Script, tmp_path: Path) -> None:
    (error,) = read(script, tmp_path)["errors"].values()
    assert f"source file {tmp_path / 'sources.yaml'} does not exist" in error


def test_dags_and_plugins_hold_no_sql_and_no_client() -> None:
    files = [*(ROOT / "dags").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert len(files) >= 4
    for file in files:
        text = file.read_text("utf-8")
        assert not re.search(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE TABLE)\b", text), file
        assert not re.search(r"^\s*(import|from) (boto3|botocore|psycopg|sqlalchemy|great_expectations)", text, re.M)


def test_no_dag_file_hides_a_package() -> None:
    # dags/ is on sys.path in every task: a file named ingest.py there would be imported in the package's place.
    packages = {"ingest", "retention", "airflow", "plugins", "tests"}
    assert packages.isdisjoint(file.stem for file in (ROOT / "dags").iterdir())
