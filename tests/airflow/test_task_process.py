"""The one process that a task starts: it works where Celery runs it, dies with the task, gives ids and counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.airflow.conftest import ROOT, Script

SAMPLES = ROOT / "tests" / "samples" / "documents"

# What the DAG does, the work in a pool process as Celery's: Celery's pool is billiard's.
POOL = """
import json, logging, multiprocessing, sys
import billiard
logging.basicConfig(level=logging.INFO)
import muniment_command

def work(run_id, batches):
    trap = "none"
    try:
        multiprocessing.Process(target=print).start()
    except AssertionError as error:
        trap = str(error)
    chosen = [a for n in range(batches) for a in ("--batch", str(n))]
    return billiard.current_process().daemon, trap, muniment_command.run(["run", "work", run_id, *chosen])

if __name__ == "__main__":
    begun = muniment_command.run(["run", "begin", "--source", "samples", "--sources", sys.argv[1]])
    with billiard.get_context("fork").Pool(1) as pool:
        daemon, trap, worked = pool.apply(work, (begun["run_id"], begun["batches"]))
    account = muniment_command.run(["run", "finish", begun["run_id"]])
    print(json.dumps({"daemon": daemon, "trap": trap, "begun": begun, "worked": worked, "account": account}))
"""

# A task that works until it is told to stop, or killed.
TASK = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
import muniment_command

begun = muniment_command.run(["run", "begin", "--source", "samples", "--sources", sys.argv[1]])
print("begun", flush=True)
try:
    muniment_command.run(["run", "work", begun["run_id"], "--batch", "0"])
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    file = tmp_path / "sources.yaml"
    file.write_text(f"sources:\n  - name: samples\n    url: {json.dumps(str(SAMPLES))}\n    settle_seconds: 0\n")
    return file


def test_a_batch_is_read_under_a_daemonic_pool_process(
    script: Script, sources: Path, environment: dict[str, str]
) -> None:
    done = script(POOL, environment, str(sources))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["daemon"]
    assert "daemonic processes are not allowed to have children" in found["trap"]  # else this test proves nothing
    account = found["account"]
    assert account["missing"] == 0
    assert account["discovered"] == found["begun"]["discovered"] > 40
    assert account["admitted"] == found["worked"]["admitted"] > 30
    assert account["quarantined"] > 0


def test_the_process_gets_nothing_of_airflow(script: Script, environment: dict[str, str]) -> None:
    text = (
        "import json, os, muniment_command\n"
        "print(json.dumps(muniment_command.environment({**os.environ, '_AIRFLOW_PROCESS_CONTEXT': 'x'})))"
    )
    found = json.loads(script(text, environment).stdout)
    assert [name for name in found if "AIRFLOW" in name] == []
    assert found["MUNIMENT_WORKSPACE"] == environment["MUNIMENT_WORKSPACE"]


def test_a_mistake_is_not_tried_again(script: Script, sources: Path, environment: dict[str, str]) -> None:
    said = _failure(script, ["run", "begin", "--source", "nobody", "--sources", str(sources)], environment)
    assert said.startswith("AirflowFailException muniment run begin: exit code 2. muniment: ")
    assert "no source 'nobody'" in said


def test_a_service_that_is_down_is_tried_again(script: Script, sources: Path, environment: dict[str, str]) -> None:
    down = {**environment, "MUNIMENT_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}
    said = _failure(script, ["run", "begin", "--source", "samples", "--sources", str(sources)], down)
    assert said.splitlines()[-1].startswith("AirflowException muniment run begin: exit code 4.")


def _failure(script: Script, arguments: list[str], environment: dict[str, str]) -> str:
    text = (
        "import muniment_command, sys\n"
        "try:\n    print('answered', muniment_command.run(sys.argv[1:]))\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    return script(text, environment, *arguments).stdout.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_its_process_and_workers_end_with_the_task(
    number: signal.Signals, tmp_path: Path, sources: Path, environment: dict[str, str]
) -> None:
    file = tmp_path / "task.py"
    file.write_text(TASK)
    task = subprocess.Popen(
        [sys.executable, str(file), str(sources)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert task.stdout is not None
    assert "begun\n" in iter(task.stdout.readline, "")
    family = _with_workers(task)
    os.kill(task.pid, number)
    said = task.stdout.read()
    task.wait(30)
    if number is signal.SIGTERM:
        assert said.splitlines()[-1].startswith("AirflowException muniment run work: exit code 130. muniment: stopped.")
    gone, left = psutil.wait_procs(family, timeout=20)
    assert left == []
    assert len(gone) >= 3
    # And nothing is lost: the same again ends as if nothing had been.
    again = subprocess.run(
        [sys.executable, "-m", "ingest.cli", "--json", "ingest", "--source", "samples", "--sources", str(sources)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    account = json.loads(again.stdout)
    assert account["discovered"] == account["admitted"] + account["quarantined"] + account["rejected"]


def _with_workers(task: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes below the task, as soon as workers are among them."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and task.poll() is None:
        below = psutil.Process(task.pid).children(recursive=True)
        if len(below) >= 4:  # the command, the tracker of multiprocessing, two workers
            return below
        time.sleep(0.01)
    raise AssertionError("no workers were seen")
