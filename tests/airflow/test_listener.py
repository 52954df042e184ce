"""The listener: tells the ledger how a run ended, and never gets in Airflow's way."""

from __future__ import annotations

import json
import re

import psycopg

from retention.config import Settings
from tests.airflow.conftest import Script

TELL = """
import json, sys, time
from types import SimpleNamespace
from airflow._shared.listeners.listener import ListenerManager
from airflow.listeners.spec import dagrun
import muniment_listener

muniment_listener.WAITS = (0.1, 0.1)
manager = ListenerManager()
manager.add_hookspecs(dagrun)
for listener in muniment_listener.MunimentListener.listeners:
    manager.add_listener(listener)
started = time.perf_counter()
for dag, run, state in json.loads(sys.argv[1]):
    hook = getattr(manager.hook, "on_dag_run_" + state)
    hook(dag_run=SimpleNamespace(dag_id=dag, run_id=run), msg="x")
print("SECONDS", time.perf_counter() - started)
"""
ENDS = [
    ["ingest_documents__samples", "manual__1", "success"],
    ["retention_report", "scheduled__2", "failed"],
    ["somebody_elses", "manual__3", "success"],
    ["disposition_cycle", "scheduled__4", "success"],
    ["disposition_execution", "scheduled__5", "success"],
    ["disposition_execution", "scheduled__6", "failed"],
]


def test_both_ends_of_our_runs_are_told_and_no_others(
    script: Script, settings: Settings, environment: dict[str, str]
) -> None:
    done = script(TELL, environment, json.dumps(ENDS))
    assert done.returncode == 0, done.stderr
    with psycopg.connect(settings.database_url) as connection:
        rows = connection.execute("SELECT entry FROM events WHERE type = 'ine' ORDER BY position").fetchall()
    told = [json.loads(entry) for (entry,) in rows]
    assert [one["outcome"] for one in told] == ["success", "failure", "success", "failure"]
    # A person may have typed the id of a run: in history it has a pseudonym, and its name beside it, sealed.
    assert not any("manual" in entry.decode() or "scheduled" in entry.decode() for (entry,) in rows)


def test_a_database_that_is_down_is_logged_and_breaks_nothing(script: Script, environment: dict[str, str]) -> None:
    down = {**environment, "MUNIMENT_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}
    done = script(TELL, down, json.dumps(ENDS[:1]))
    assert done.returncode == 0, done.stderr
    seconds = re.search(r"SECONDS (\S+)", done.stdout)
    assert seconds
    assert float(seconds[1]) < 0.5  # the scheduler did not wait for three tries
    (line,) = (line for line in done.stdout.splitlines() if "the ledger was not told" in line)
    assert "ingest_documents__samples manual__1 ended (success)" in line
    assert "PostgreSQL at 127.0.0.1:9" in line  # the reason, and where
