"""Appending to the ledger, broken at every write, and by sixteen at once: no position is left out, or taken twice."""

from __future__ import annotations

import base64
import json
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from retention import ledger, merkle, runs
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.errors import Refused
from retention.history import keys, publishing
from retention.ledger import Event
from retention.model import Batch, Committed, new_id
from tests.breaking import Broken
from tests.deposits import schedule
from tests.integration.test_publishing import is_whole, read

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def events(agent: ledger.Agent, batch: str, count: int) -> list[Event]:
    """Of a batch, each with its number in it; every third has two subjects, one of them twice."""
    made = []
    for n in range(count):
        one, other = uuid4(), uuid4()
        made.append(Event("fix", AT, agent, (one, other, one) if n % 3 == 0 else (one,), detail={"in": batch, "n": n}))
    return made


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(url, options="-c timezone=UTC")


def append(url: str, made: Sequence[Event]) -> int:
    with connect(url) as conn:
        return ledger.append(conn, made, AT)


def batches(archive: Archive) -> list[tuple[str, int]]:
    """Each batch in the order of its first position, with its size; the ledger is sound throughout."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT position, type, leaf_hash, entry FROM events ORDER BY position").fetchall()
        size, root = ledger.head(conn)
        subjects = conn.execute("SELECT position, subject_id FROM event_subjects ORDER BY 1, 2").fetchall()
    assert [row[0] for row in rows] == [*range(size)]
    told = [json.loads(row[3]) for row in rows]
    for (position, kind, leaf, entry), event in zip(rows, told, strict=True):
        assert (leaf, kind) == (merkle.leaf_hash(entry), event["type"]), position
    assert merkle.root(merkle.append(0, [], [row[2] for row in rows])[1]) == root
    assert subjects == [(n, one) for n, event in enumerate(told) for one in sorted({*map(UUID, event["subjects"])})]
    found: list[tuple[str, int]] = []
    for one in (event["detail"] for event in told if "in" in event["detail"]):
        if one["n"] == 0:
            found.append((one["in"], 0))
        assert found[-1] == (one["in"], one["n"]), "two batches are mixed"
        found[-1] = (one["in"], one["n"] + 1)
    return found


# ---------------------------------------------------------------- a crash at every write


@dataclass
class Cut:
    """A connection, its cursors and their COPY: `how` happens before the nth write, and each row is one."""

    inner: Any
    at: int
    how: Callable[[], None]
    writes: int = 0

    def _write(self) -> None:
        self.writes += 1
        if self.writes == self.at:
            self.how()

    def execute(self, *given: Any) -> Any:
        self._write()
        return self.inner.execute(*given)

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        yield from self._same(self.inner.cursor())

    @contextmanager
    def copy(self, statement: str) -> Iterator[Any]:
        self._write()
        yield from self._same(self.inner.copy(statement))

    def write_row(self, row: Any) -> None:
        self._write()
        self.inner.write_row(row)

    def _same(self, inner: Any) -> Iterator[Any]:
        whole = self.inner
        with inner as self.inner:
            try:
                yield self
            finally:
                self.inner = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


WRITES = 1 + 1 + 4 + 1 + 6 + 1  # the head, the events, their subjects, the head again
LAST = WRITES + 1  # all was written, nothing committed


def broken() -> None:
    raise Broken


def terminate(url: str, pid: int) -> None:
    """The server ends that session; returns when it is gone."""
    with connect(url) as conn:
        assert conn.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone() == (True,)


@pytest.mark.parametrize("terminated", [False, True])
def test_an_append_that_breaks_at_any_write_leaves_nothing(archive: Archive, terminated: bool) -> None:
    url = archive.settings.database_url
    append(url, events(archive.agent, "before", 5))
    before = batches(archive)
    for at in range(1, LAST + 1):
        with closing(connect(url)) as conn:
            pid = conn.info.backend_pid
            cut: Any = Cut(conn, at, partial(terminate, url, pid) if terminated else broken)
            with pytest.raises((Broken, psycopg.OperationalError)):
                ledger.append(cut, events(archive.agent, f"cut at {at}", 4), AT)
                assert cut.writes == WRITES
                cut.execute("COMMIT")
        assert batches(archive) == before, at
    append(url, events(archive.agent, "after", 4))
    assert batches(archive) == [*before, ("after", 4)]


# ---------------------------------------------------------------- sixteen at once


class Fate(Enum):
    """What becomes of a writer in a batch, the first time."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"  # and never tried again
    CUT = "its session is ended at a write"
    UNHEARD = "it sends COMMIT, and is gone before it hears of it"


WRITERS, EACH = 16, 6
FATES = (Fate.COMMITTED, Fate.COMMITTED, Fate.ROLLED_BACK, Fate.CUT, Fate.UNHEARD)


def write(url: str, run_id: UUID, number: int, made: Sequence[Event], fate: Fate, at: int) -> None:
    """One batch of a run, once, however often it is called: as capture does it. Raises what the fate brings."""
    with closing(connect(url)) as conn:
        runs.hold_open(conn, run_id, number)
        if runs.committed(conn, run_id, number):
            return
        runs.record_batch(conn, Batch(run_id, number), Committed((), 0), AT)
        pid = conn.info.backend_pid
        cut: Any = Cut(conn, at if fate is Fate.CUT else 0, lambda: terminate(url, pid))
        ledger.append(cut, made, AT)
        if fate is Fate.ROLLED_BACK:
            raise Broken
        if fate is Fate.UNHEARD:
            conn.pgconn.send_query(b"COMMIT")
            conn.pgconn.flush()
            raise Broken
        conn.commit()


def test_sixteen_at_once_leave_no_gap_and_append_nothing_twice(archive: Archive) -> None:
    url, run_id, chance = archive.settings.database_url, new_id(AT), random.Random(20261122)
    runs.start(archive, run_id, "tests", schedule(archive, AT), AT)
    fates = [FATES[n % len(FATES)] for n in range(WRITERS * EACH)]
    made = [events(archive.agent, str(n), chance.choice((1, 2, 7, 60, 300))) for n in range(len(fates))]
    together = threading.Barrier(WRITERS)

    def writer(first: int) -> None:
        together.wait()
        for n in range(first, len(fates), WRITERS):
            rows = len(made[n]) + sum(len({*event.subjects}) for event in made[n])
            with suppress(Broken, psycopg.OperationalError):
                write(url, run_id, n, made[n], fates[n], at=2 + n % (rows + 3))
            if fates[n] in (Fate.CUT, Fate.UNHEARD):  # it does not know whether it did
                write(url, run_id, n, made[n], Fate.COMMITTED, at=0)

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(writer, range(WRITERS)))
    kept = [(str(n), len(made[n])) for n, fate in enumerate(fates) if fate is not Fate.ROLLED_BACK]
    assert sorted(batches(archive)) == sorted(kept)


# ---------------------------------------------------------------- processes that are killed


def stopping(url: str, agent: ledger.Agent, name: str, at: int, pipe: Pipe) -> None:
    """A process that appends, and stops before a write, or when all is committed, until it is killed."""

    def stop() -> None:
        pipe.send(name)
        time.sleep(600)

    with connect(url) as conn:
        pipe.send("ready")
        pipe.recv()
        cut: Any = Cut(conn, at, stop)
        ledger.append(cut, events(agent, name, 4), AT)
        cut._write()
        conn.commit()
        stop()


def test_a_killed_process_takes_its_positions_with_it_and_frees_the_head(archive: Archive) -> None:
    url, spawn = archive.settings.database_url, multiprocessing.get_context("spawn")
    expected = []
    started: list[tuple[str, Any, Pipe]] = []
    for name, at in (("in the events", 4), ("in the subjects", 9), ("before commit", LAST), ("after commit", 0)):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=stopping, args=(url, archive.agent, name, at, theirs))
        process.start()
        started.append((name, process, ours))
    try:
        for name, process, pipe in started:
            assert pipe.recv() == "ready"
            pipe.send("go")
            assert pipe.recv() == name
            with ThreadPoolExecutor(3) as threads:  # others wait for the head meanwhile
                others = [events(archive.agent, f"{name} {n}", 2) for n in range(3)]
                waiting = [threads.submit(append, url, other) for other in others]
                if name != "after commit":
                    _until(lambda: _waiting(archive) == 3)
                process.kill()
                for one in waiting:
                    one.result(10)
            expected += [(f"{name} {n}", 2) for n in range(3)] + ([(name, 4)] if name == "after commit" else [])
    finally:
        for _, process, _ in started:
            process.kill()
            process.join()
    assert sorted(batches(archive)) == sorted(expected)


def _waiting(archive: Archive) -> int:
    with transaction(archive.connections) as conn:
        (row,) = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
    return int(row[0])


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------- published meanwhile


def test_two_publish_while_others_append(settings: Settings, tmp_path: Path) -> None:
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), AT) as archive:
        keys.create(archive, "records.example.org/ledger", AT)
        over, refused = threading.Event(), 0

        def publisher(_: int) -> None:
            nonlocal refused
            while not over.is_set():
                try:
                    publishing.publish(archive, AT)
                except Refused as error:
                    assert "another process is at it" in str(error)
                    refused += 1
                    over.wait(0.005)

        def writer(number: int) -> None:
            for n in range(12):
                append(settings.database_url, events(archive.agent, f"{number} {n}", 1 + 37 * n % 90))

        with ThreadPoolExecutor(6) as threads:
            publishers = [threads.submit(publisher, n) for n in range(2)]
            try:
                list(threads.map(writer, range(4)))
            finally:
                over.set()
            for one in publishers:
                one.result()
        publishing.publish(archive, AT)
        is_whole(archive)
        assert len(batches(archive)) == 4 * 12
        _each_copy_is_of_this_ledger(archive)
        assert refused


def _each_copy_is_of_this_ledger(archive: Archive) -> None:
    """Every checkpoint that was ever published is a prefix of what there is now."""
    with transaction(archive.connections) as conn:
        leaves = [row[0] for row in conn.execute("SELECT leaf_hash FROM events ORDER BY position")]
    copies = [read(archive.vault, one.key).decode().splitlines() for one in archive.vault.list(publishing.COPIES)]
    assert len(copies) > 2
    for _, size, root, *_ in copies:
        _, frontier = merkle.append(0, [], leaves[: int(size)])
        assert base64.b64decode(root) == merkle.root(frontier), size
