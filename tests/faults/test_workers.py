"""A hostile document costs itself: never its batch, never another document, never a process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest

from ingest.extraction.workers import Workers
from ingest.model import Extraction, Limits
from tests.bad_files.pdf_and_image_files import pdf, pdf_that_never_ends, pdf_with_bomb_as_page

ROOT = Path(__file__).resolve().parents[2]


def codes(extraction: Extraction) -> set[str]:
    return {finding.code for finding in extraction.findings}


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def running(process: psutil.Process) -> bool:
    """False for zombies too: in a container nobody may collect an orphan."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (tmp_path / "scratch").mkdir()
    for number in range(12):
        (folder / f"{number:02}.pdf").write_bytes(pdf([f"document {number}"]))
    return folder


def items(folder: Path) -> Iterator[tuple[str, Path, str]]:
    for path in sorted(folder.iterdir()):
        yield path.name, path, path.name


def unharmed(results: dict[str, Extraction]) -> None:
    innocent = {name: seen for name, seen in results.items() if name[0].isdigit()}
    assert len(innocent) == 12
    for name, seen in innocent.items():
        assert seen.findings == (), name
        assert seen.text == f"document {int(name[:2])}"


def test_a_document_that_never_ends_is_stopped_alone(documents: Path, tmp_path: Path) -> None:
    endless = ("!a.pdf", "!b.pdf", "x.pdf")  # "!" comes first: others wait behind it in the worker's pipe
    for name in endless:
        (documents / name).write_bytes(pdf_that_never_ends())
    with Workers(Limits(seconds=1.0), count=2) as workers:
        results = dict(workers.extract_all(items(documents), tmp_path / "scratch"))
    assert len(results) == 15
    unharmed(results)
    for name in endless:
        assert codes(results[name]) == {"TIME-LIMIT"}
        assert results[name].identification.mime == "application/pdf"  # asked again, in a fresh worker
        assert len(results[name].sha256) == 32
        assert results[name].size == (documents / name).stat().st_size


def test_a_document_that_kills_its_readers_is_the_only_one_blamed(documents: Path, tmp_path: Path) -> None:
    (documents / "!bomb.pdf").write_bytes(pdf_with_bomb_as_page(300 * 1024 * 1024))
    limits = Limits(memory=150 * 1024 * 1024)
    with Workers(limits, count=2) as workers:
        results = dict(workers.extract_all(items(documents), tmp_path / "scratch"))
    unharmed(results)
    assert codes(results["!bomb.pdf"]) & {"EXTRACTION-CRASHED", "MEMORY-LIMIT"}
    assert results["!bomb.pdf"].identification.mime == "application/pdf"


def reading(name: str, pid: int | None = None) -> list[psutil.Process]:
    """The workers of process `pid` (default: this one) that have a document of this name open."""
    found = []
    for worker in workers_of(psutil.Process(pid)):
        try:
            if any(Path(opened.path).name == name for opened in worker.open_files()):
                found.append(worker)
        except psutil.Error:
            continue
    return found


def test_a_worker_killed_from_outside_is_not_its_documents_fault(documents: Path, tmp_path: Path) -> None:
    """An operator's kill -9, or the kernel's, in the middle of a document: it is read again, all others too."""
    (documents / "!long.pdf").write_bytes(pdf_that_never_ends())
    killed: list[int] = []

    def kill() -> None:
        while not killed and not finished.wait(0.02):
            for worker in reading("!long.pdf"):
                worker.send_signal(signal.SIGKILL)
                killed.append(worker.pid)

    finished = threading.Event()
    killer = threading.Thread(target=kill)
    with Workers(Limits(seconds=1.5), count=2) as workers:
        killer.start()
        results = list(workers.extract_all(items(documents), tmp_path / "scratch"))
        finished.set()
        killer.join()
    assert killed
    assert len(results) == 13  # none lost, none twice
    unharmed(dict(results))
    assert codes(dict(results)["!long.pdf"]) == {"TIME-LIMIT"}  # what it is, and not EXTRACTION-CRASHED


def test_workers_killed_between_batches_are_replaced(documents: Path, tmp_path: Path) -> None:
    with Workers(count=2) as workers:
        unharmed(dict(workers.extract_all(items(documents), tmp_path / "scratch")))
        for worker in workers_of(psutil.Process()):
            worker.send_signal(signal.SIGKILL)
        time.sleep(0.3)
        unharmed(dict(workers.extract_all(items(documents), tmp_path / "scratch")))
    assert workers_of(psutil.Process()) == []


def test_a_run_that_is_left_half_way_does_not_disturb_the_next(documents: Path, tmp_path: Path) -> None:
    (documents / "0-first.pdf").write_bytes(pdf_that_never_ends())
    with Workers(count=2) as workers:
        run = workers.extract_all(items(documents), tmp_path / "scratch")
        next(run)
        assert isinstance(run, Generator)
        run.close()
        (documents / "0-first.pdf").unlink()
        unharmed(dict(workers.extract_all(items(documents), tmp_path / "scratch")))


def test_documents_are_taken_only_as_workers_become_free(documents: Path, tmp_path: Path) -> None:
    taken = 0

    def counted() -> Iterator[tuple[int, Path, str]]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number, documents / "00.pdf", "00.pdf"

    done = 0
    with Workers(count=2, tasks_per_worker=40) as workers:  # and are replaced on the way
        for _ in workers.extract_all(counted(), tmp_path / "scratch"):
            done += 1
            assert taken - done <= 2 * 2 + 1
    assert done == 200
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_worker_is_fit_for_hostile_bytes(documents: Path, tmp_path: Path) -> None:
    with Workers(Limits(memory=300 * 1024 * 1024), count=1) as workers:
        dict(workers.extract_all(items(documents), tmp_path / "scratch"))
        (worker,) = workers_of(psutil.Process())
        assert Path(f"/proc/{worker.pid}/fd/0").readlink() == Path(os.devnull)
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        (space,) = (line.split()[3] for line in limits.splitlines() if line.startswith("Max address space"))
        assert 300 * 1024 * 1024 < int(space) < 1500 * 1024 * 1024
        status = Path(f"/proc/{worker.pid}/maps").read_text()
        for heavy in ("psycopg", "pandas", "_brotli", "great_expectations"):
            assert heavy not in status


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "endless.pdf").write_bytes(pdf_that_never_ends())
    script = tmp_path / "parent.py"
    script.write_text(
        "from pathlib import Path\n"
        "from ingest.extraction.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    here = Path(__file__).parent\n"
        "    with Workers(count=2) as workers:\n"
        "        again = ((n, here / 'endless.pdf', 'x') for n in range(9))\n"
        "        list(workers.extract_all(again, here))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 30
        while len(found := reading("endless.pdf", parent.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(found) == 2
    finally:
        parent.kill()
        parent.wait()
    time.sleep(0.5)  # what they are at takes them seconds
    assert [worker for worker in found if running(worker)] == []
