"""Commands of `muniment` in processes that are killed, as the kernel does it when memory runs out (SIGKILL).

A process of its own takes most of a second to start. These are forked (`forkserver`) from a clean one, of one thread
and without connections, that has imported everything before.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer.main

from ingest.cli import app

_COMMAND = typer.main.get_command(app)  # made once: it takes longer than many a command
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("pytest", "psycopg_pool", "rich.console", "retention.vault.local", "retention.backup.checking"),
        *("retention.backup.pruning", "retention.custody", "retention.recovery", "retention.rekeying"),
        *("retention.verification", "encodings.utf_8_sig"),
        __name__,
    ]
)
KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a command ended: its code (KILLED), after how many seconds, what it said."""

    code: int
    seconds: float
    said: str


@dataclass(frozen=True)
class Commands:
    """Commands in one environment; what they say goes into `output`."""

    environ: Mapping[str, str]
    output: Path

    def run(self, *argv: str, kill_after: float | None = None) -> Ended:
        """To its end, or killed after so many seconds."""
        process = _FORKS.Process(target=_main, args=(list(argv), dict(self.environ), str(self.output)))
        self.output.write_bytes(b"")
        begun = time.monotonic()
        process.start()
        process.join(kill_after)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, time.monotonic() - begun, self.output.read_text(errors="replace"))


def _main(argv: list[str], environ: dict[str, str], output: str) -> None:
    os.environ.update(environ)
    said = os.open(output, os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _COMMAND.main(argv, "muniment")
