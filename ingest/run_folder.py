"""A run of ingestion on disk: its list cut into batches, its spool, and its sign of life.

Rules of this module:
- What a run needs to go on stands in its folder below the spool, so that any process can go on with it. The
  folder holds names and content: it is deleted with the run, whatever its end.
- A run is alive while a process holds a lock on its folder, which the kernel lets go of however that process
  dies. The run of a scheduler may rest between two tasks, for PATIENCE.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from ingest.model import SourceFile
from ingest.sources import SourceConfig
from retention.config import Settings
from retention.errors import NotFound

PATIENCE = timedelta(days=1)  # a run of a scheduler may rest so long between two of its tasks


@dataclass(frozen=True, slots=True)
class Run:
    """A run as `begin` left it on disk for `work` and `finish`, in this process or another."""

    run_id: UUID
    folder: Path  # below the spool
    source: SourceConfig
    discovered: int
    deferred: int
    left_out: dict[str, int] = field(default_factory=dict)
    batches: int = 0


def write_batches(settings: Settings, folder: Path, files: Iterable[SourceFile]) -> tuple[int, int]:
    """Cut the listing into batches of at most so many documents and bytes; returns how many of each."""
    discovered = number = size = 0
    lines: list[str] = []

    def flush() -> None:
        nonlocal number, size
        if lines:
            (folder / f"{number:06d}.jsonl").write_text("".join(lines), "ascii")
            number, size = number + 1, 0
            lines.clear()

    for file in files:
        full = len(lines) >= settings.batch_documents
        if full or (lines and size + file.size > settings.batch_bytes):
            flush()
        lines.append(_line(file))
        size += file.size
        discovered += 1
    flush()
    return discovered, number


def _line(file: SourceFile) -> str:
    modified = file.modified.isoformat() if file.modified else None
    # ASCII: names that are not UTF-8 hold lone surrogates, which only escapes can carry
    return json.dumps([file.place, file.size, modified, file.revision]) + "\n"


def files(run: Run, number: int) -> list[SourceFile]:
    with (run.folder / f"{number:06d}.jsonl").open(encoding="ascii") as lines:
        return [
            SourceFile(run.source.name, place, size, datetime.fromisoformat(modified) if modified else None, revision)
            for place, size, modified, revision in map(json.loads, lines)
        ]


def save(run: Run) -> None:
    saved = {
        "run_id": str(run.run_id),
        "source": run.source.model_dump(mode="json"),
        "discovered": run.discovered,
        "deferred": run.deferred,
        "left_out": run.left_out,
        "batches": run.batches,
    }
    (run.folder / "run.json").write_text(json.dumps(saved), "ascii")


def load(settings: Settings, run_id: UUID) -> Run:
    """A run that `begin` left for other processes. Raises NotFound."""
    folder = settings.spool / str(run_id)
    try:
        saved = json.loads((folder / "run.json").read_text("ascii"))
    except FileNotFoundError:
        raise NotFound(f"run {run_id}: nothing in {folder}. It ended, or was begun on another machine.") from None
    source = SourceConfig.model_validate(saved["source"])
    counts = (saved["discovered"], saved["deferred"], saved["left_out"], saved["batches"])
    return Run(run_id, folder, source, *counts)


@contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Hold the sign of life of a run: the kernel lets go of it when the process dies, however it dies."""
    descriptor = os.open(folder / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # shared: several batches of one run may be worked on at once
        os.utime(descriptor)
        yield
    finally:
        os.close(descriptor)


def dead(folder: Path, now: datetime, superseded: bool) -> bool:
    """True if no process works on it. Between two tasks of a DAG none does, and the scheduler will go on."""
    try:
        descriptor = os.open(folder / "alive", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # just made, or what is left of one that was being removed
        return _rested(folder.stat(), now)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return superseded or not (folder / "scheduled").exists() or _rested(os.fstat(descriptor), now)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _rested(status: os.stat_result, now: datetime) -> bool:
    """True if nobody has worked on it for longer than a scheduler may rest."""
    return now.timestamp() - status.st_mtime > PATIENCE.total_seconds()
