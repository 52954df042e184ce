"""One `muniment` command as the child process of a task.

Rules of this module:
- A task starts one process and does no work itself: a hostile document can hurt that process only, and the
  pool processes of Celery, which are daemonic, may start a program but no worker pool.
- The process dies with the task. Told to stop (SIGTERM, a time limit) it is asked to stop cleanly and then
  killed; if the task is killed with -9, the kernel kills it (Linux; elsewhere it ends when it is done).
- stdin is closed (a task's own is the socket of its supervisor), stderr goes to the log line by line, stdout
  is the answer: one JSON document.
- It gets nothing of Airflow's configuration: it reads hostile bytes, and needs neither the metadata database
  nor the keys of the site.
- The exit code decides whether to try again (retention.errors): usage and refusals do not heal by waiting.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException

log = logging.getLogger(__name__)

CATALOG = Asset("muniment://catalog")  # what the report follows
GREEN, RED, USAGE, REFUSED = 0, 1, 2, 3
STOP_SECONDS = 4.0  # a supervisor of Airflow kills its task 5 s after it asked it to stop
_PR_SET_PDEATHSIG = 1


def run(arguments: Sequence[str], say: Callable[[str], None] = log.info) -> dict[str, Any]:
    """Run `muniment --json ARGUMENTS` and return what it answers; also if that is red (exit code 1).

    `say` is given each line of its stderr. Raises AirflowFailException where the same again would end the same,
    AirflowException where it is worth another try.
    """
    argv = [sys.executable, "-m", "ingest.cli", "--json", *arguments]
    last = ""
    with tempfile.TemporaryFile() as answer, _child(argv, answer) as process:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                last = line
                say(line)
        code = process.wait()
        answer.seek(0)
        text = answer.read()
    if code in (GREEN, RED) and text.strip():
        found: dict[str, Any] = json.loads(text)
        return found
    spoken = f"muniment {' '.join(arguments[:2])}"
    if code < 0:
        raise AirflowException(f"{spoken}: killed by {signal.Signals(-code).name}. Running it again is safe.")
    failure = AirflowFailException if code in (USAGE, REFUSED) else AirflowException
    raise failure(f"{spoken}: exit code {code}. {last or 'It said nothing on stderr.'}")


def refuse(found: Mapping[str, str], said: str) -> None:
    """Red, with everything that was found in the log."""
    for where, what in found.items():
        log.error("%s: %s", where, what)
    if found:
        raise AirflowFailException(
            f"{len(found)} {said}. They are named above. Keep everything as it is until it is clear why."
        )


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the child: that of the task, without what is Airflow's."""
    return {name: value for name, value in environ.items() if not name.lstrip("_").startswith("AIRFLOW")}


@contextmanager
def _child(argv: Sequence[str], answer: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The running process; stopped, if it still runs, however the block is left."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=answer,
        stderr=subprocess.PIPE,
        env=environment(os.environ),
        start_new_session=True,  # its group, and no signal of ours, reaches its workers
        preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509 - system calls only
    )
    with process, _passed_on(process):
        try:
            yield process
        finally:
            _stop(process)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes the command; the library is loaded here, before the fork."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return prepare


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """While the block runs, SIGTERM to the task asks the command to stop.

    Airflow's own handler calls `on_kill` and returns: a task that waits would wait on, until it is killed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
