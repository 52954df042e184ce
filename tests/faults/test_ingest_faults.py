"""Whatever breaks, whenever: run it again, and the archive is as if nothing had been broken.

Each external write is broken twice: failed and not persisted; failed but persisted.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import psycopg
import pytest

from ingest import pipeline, sources
from ingest.extraction.workers import Workers
from retention import capture, embedded, ledger, merkle
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.embedded import Services
from retention.errors import MunimentError, ServiceUnavailable
from retention.vault.base import Lock, Stored
from tests.breaking import BreakingVault, Broken, at, breaking

Clock = Callable[[], datetime]
DOCUMENTS = 24


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(DOCUMENTS - 4):
        (folder / f"{number:02}.txt").write_text(f"document number {number} of the harvest\n")
    for number in range(4):
        (folder / f"broken{number}.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    return folder


@pytest.fixture(scope="module")
def staff() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


def run(archive: Archive, folder: Path, clock: Clock, staff: Workers | None = None) -> pipeline.Ingested:
    return pipeline.ingest(archive, sources.source_at(str(folder), folder), clock, workers=staff)


def assert_whole(archive: Archive) -> None:
    """The state that every one of these tests must end in."""
    with transaction(archive.connections) as conn:
        records = conn.execute(
            "SELECT d.name FROM records r JOIN descriptions d ON d.subject_id = r.record_id ORDER BY 1"
        ).fetchall()
        held = conn.execute(
            "SELECT d.name FROM quarantine q JOIN descriptions d ON d.subject_id = q.quarantine_id ORDER BY 1"
        ).fetchall()
        assert [row[0] for row in records] == [f"{n:02}.txt" for n in range(DOCUMENTS - 4)]
        assert [row[0] for row in held] == [f"broken{n}.pdf" for n in range(4)]
        assert conn.execute("SELECT count(*) FROM sightings").fetchone() == (DOCUMENTS,)
        assert conn.execute("SELECT count(*) FROM subject_keys").fetchone() == (
            DOCUMENTS + conn.execute("SELECT count(*) FROM pseudonyms").fetchall()[0][0],
        )
        for record_id, digest, version in conn.execute("SELECT record_id, sealed_sha256, version FROM contents"):
            archive.vault.stat(f"records/{record_id}/{digest.hex()}", version)
        for (descriptor_id,) in conn.execute("SELECT descriptor_id FROM descriptors"):
            archive.vault.stat(f"descriptors/{descriptor_id}")
        entries = conn.execute("SELECT position, entry, type FROM events ORDER BY position").fetchall()
        assert [row[0] for row in entries] == [*range(len(entries))]
        size, frontier = merkle.append(0, [], (merkle.leaf_hash(row[1]) for row in entries))
        assert ledger.head(conn) == (size, merkle.root(frontier))
        assert sum(row[2] == "ing" for row in entries) == DOCUMENTS - 4
        assert sum(row[2] == "qua" for row in entries) == 4
        assert conn.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchone() == (0,)
    assert not any(archive.settings.spool.iterdir())


# ---------------------------------------------------------------- each write of capture, both ways


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 13, DOCUMENTS, DOCUMENTS + 1])  # contents, and last the descriptors
def test_a_put_that_breaks(
    archive: Archive, inbox: Path, clock: Clock, staff: Workers, nth: int, persisted: bool
) -> None:
    vault: Any = BreakingVault(archive.vault, at(nth, persisted=persisted), ("put",))
    with pytest.raises(Broken):
        run(replace(archive, vault=vault), inbox, clock, staff)
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT count(*) FROM records").fetchone() == (0,)
    run(archive, inbox, clock, staff)
    assert_whole(archive)
    assert run(archive, inbox, clock, staff).totals.known == DOCUMENTS
    assert_whole(archive)


STEPS = [
    "retention.capture._take_places",
    "retention.capture.store_keys",
    "retention.descriptors.insert",
    "retention.descriptors.describe",
    "retention.capture._insert_records",
    "retention.quarantine.insert",
    "retention.capture._insert_findings",
    "retention.locks.enqueue",
    "retention.runs.record_batch",
    "retention.ledger.append",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("done", [False, True])
def test_a_transaction_that_breaks_at_any_write(
    archive: Archive,
    inbox: Path,
    clock: Clock,
    staff: Workers,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: bool,
) -> None:
    begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock)
    with breaking(monkeypatch, step, done):
        pipeline.work(archive, begun, range(begun.batches), clock, workers=staff)
    pipeline.work(archive, begun, range(begun.batches), clock, workers=staff)
    assert pipeline.finish(archive, begun, clock).totals.missing == 0
    assert_whole(archive)


def test_a_commit_that_was_done_but_not_heard_of(
    archive: Archive, inbox: Path, clock: Clock, staff: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock)
    calls = 0

    @contextmanager
    def lossy(connections: Any) -> Iterator[Any]:
        nonlocal calls
        calls += 1
        with transaction(connections) as conn:
            yield conn
        if calls == 4:  # what is known here? what was destroyed? is the batch committed? and the one that writes
            raise ServiceUnavailable("the connection was lost after the commit")

    with monkeypatch.context() as patched:
        patched.setattr(capture, "transaction", lossy)
        for _ in range(4):
            try:
                pipeline.work(archive, begun, range(begun.batches), clock, workers=staff)
            except ServiceUnavailable:
                continue
    assert pipeline.finish(archive, begun, clock).totals.missing == 0
    assert calls == 4  # the batch was found committed, and not done again
    assert_whole(archive)


# ---------------------------------------------------------------- services that go away


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services of this test's own, which it may break."""
    root = tmp_path_factory.mktemp("own")
    try:
        yield embedded.up(root, postgres=True, s3=True)
    finally:
        embedded.down(root)


def own_settings(own: Services) -> Settings:
    return Settings(
        root=own.root,
        database_url=own.database_url,
        database_owner_url=own.owner_url,
        vault_url=own.vault_url,
        vault_access_key=own.access_key,
        vault_secret_key=own.secret_key,
    )


def utc() -> datetime:
    return datetime.now(UTC)


def pid_of(own: Services, name: str) -> int:
    (found,) = [s.pid for s in embedded.status(own.root, environ={}) if s.name == name]
    assert found is not None
    return found


def kill(own: Services, name: str) -> None:
    os.kill(pid_of(own, name), signal.SIGKILL)


def test_services_killed_in_mid_batch(own: Services, inbox: Path, staff: Workers) -> None:
    """PostgreSQL and S3, each killed with -9 while a batch is stored; each run says so, the last one is whole."""
    with open_archive(own_settings(own), utc()) as archive:
        for name in ("PostgreSQL", "S3"):
            vault: Any = _KillingVault(archive.vault, at(), kill=partial(kill, own, name))
            with pytest.raises(ServiceUnavailable, match=r"did not answer|not reach|answer"):
                run(replace(archive, vault=vault), inbox, utc, staff)
            assert vault.writes.calls >= 5
            embedded.up(own.root, postgres=True, s3=True)
    with open_archive(own_settings(own), utc()) as archive:
        run(archive, inbox, utc, staff)
        assert_whole(archive)


@dataclass
class _KillingVault(BreakingVault):
    kill: Callable[[], None] = lambda: None

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        with self.writes.one() as number:
            if number == 5:
                self.kill()
            stored: Stored = self.inner.put(key, content, sha256=sha256, size=size, lock=lock)
        return stored


def test_postgresql_killed_rebuilds_descriptions_and_touches_nothing_else(
    own: Services, inbox: Path, staff: Workers
) -> None:
    control = ("records", "contents", "events", "event_subjects", "sightings", "subject_keys", "descriptor_lines")
    with open_archive(own_settings(own), utc()) as archive:
        run(archive, inbox, utc, staff)
    with psycopg.connect(own.database_url) as conn:
        before = {t: conn.execute(f"SELECT * FROM {t} ORDER BY 1, 2".encode()).fetchall() for t in control}
        described = conn.execute("SELECT * FROM descriptions ORDER BY 1").fetchall()
    postmaster = psutil.Process(pid_of(own, "PostgreSQL"))
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)
    embedded.up(own.root, postgres=True, s3=True)
    with psycopg.connect(own.database_url) as conn:
        assert conn.execute("SELECT count(*) FROM descriptions").fetchone() == (0,)
    # any command finds them missing and rebuilds them
    said = muniment(own, "--agent", "muniment", "--json", "due").stderr
    assert f"rebuilding {DOCUMENTS} descriptions" in said
    with psycopg.connect(own.database_url) as conn:
        assert conn.execute("SELECT * FROM descriptions ORDER BY 1").fetchall() == described
        assert before == {t: conn.execute(f"SELECT * FROM {t} ORDER BY 1, 2".encode()).fetchall() for t in control}
    found = muniment(own, "--agent", "muniment", "--json", "find", "harvest")  # which is an event of its own
    assert len(json.loads(found.stdout)) == DOCUMENTS - 4


# ---------------------------------------------------------------- processes that are killed


def environment(own: Services) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("MUNIMENT_DATABASE_URL", "MUNIMENT_VAULT_URL")}
    return kept | {"MUNIMENT_WORKSPACE": str(own.root), "MUNIMENT_BATCH_DOCUMENTS": "5"}


def muniment(own: Services, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ingest.cli", *arguments]
    return subprocess.run(command, env=environment(own), capture_output=True, text=True, timeout=120)


def test_runs_killed_at_random_moments(own: Services, inbox: Path) -> None:
    chance = random.Random(20261122)
    for _ in range(4):
        command = [sys.executable, "-m", "ingest.cli", "ingest", str(inbox)]
        process = subprocess.Popen(command, env=environment(own), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        family = [psutil.Process(process.pid)]
        end = time.monotonic() + chance.uniform(0.5, 7)
        while time.monotonic() < end and process.poll() is None:
            family = [*family[:1], *psutil.Process(process.pid).children(recursive=True)]
            time.sleep(0.05)
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(family, timeout=5)
        assert left == [], "a worker outlived its run"
    done = muniment(own, "--json", "ingest", str(inbox))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["missing"] == 0
    assert answer["admitted"] + answer["quarantined"] + answer["known"] == DOCUMENTS
    with open_archive(own_settings(own), utc()) as archive:
        assert_whole(archive)


def test_workers_killed_cost_no_document(archive: Archive, inbox: Path, clock: Clock) -> None:
    stop = threading.Event()

    def kill_some() -> None:
        me = psutil.Process()
        killed = 0
        while not stop.wait(0.05) and killed < 3:
            for process in me.children(recursive=True):
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(process.cmdline()) and process.cpu_times().user > 0.3:
                        process.kill()
                        killed += 1
                        break

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        run(archive, inbox, clock)
    finally:
        stop.set()
        killer.join()
    assert_whole(archive)


# ---------------------------------------------------------------- sources and disks


def test_a_full_disk_is_said_once_and_nothing_is_half_done(
    archive: Archive, inbox: Path, clock: Clock, staff: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: _Usage(10**12, 10**12, 1000))
        with pytest.raises(ServiceUnavailable, match="disk full: spool folder .* needed .* found .* free"):
            run(archive, inbox, clock, staff)
    run(archive, inbox, clock, staff)
    assert_whole(archive)


@dataclass
class _Usage:
    total: int
    used: int
    free: int


def test_a_file_that_vanishes_or_grows_during_the_run_is_rejected_and_taken_next_time(
    archive: Archive, inbox: Path, clock: Clock, staff: Workers
) -> None:
    begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock)
    held_back = (inbox / "00.txt").read_bytes()
    (inbox / "00.txt").unlink()
    with (inbox / "01.txt").open("a") as growing:
        growing.write("and more\n")
    pipeline.work(archive, begun, range(begun.batches), clock, workers=staff)
    done = pipeline.finish(archive, begun, clock)
    assert (done.totals.rejected, done.totals.missing) == (2, 0)
    with transaction(archive.connections) as conn:
        codes = conn.execute("SELECT code FROM findings WHERE severity = 'reject' ORDER BY 1").fetchall()
    assert codes == [("CHANGED-WHILE-READ",), ("VANISHED",)]
    (inbox / "00.txt").write_bytes(held_back)
    again = run(archive, inbox, clock, staff)
    assert (again.totals.admitted, again.totals.known) == (2, DOCUMENTS - 2)


@pytest.mark.parametrize("command", [("ingest", "/nowhere"), ("show", "not-an-id"), ("schedule", "check", "/nowhere")])
def test_a_mistake_gets_a_message_and_no_traceback(own: Services, command: tuple[str, ...]) -> None:
    done = muniment(own, *command)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("muniment: ")


def test_services_that_are_down_are_named(tmp_path: Path) -> None:
    environ = os.environ | {
        "MUNIMENT_WORKSPACE": str(tmp_path),
        "MUNIMENT_DATABASE_URL": "postgresql://u:sesame@127.0.0.1:1/x",
        "MUNIMENT_VAULT_URL": f"file://{tmp_path}/vault",
    }
    command = [sys.executable, "-m", "ingest.cli", "due"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "PostgreSQL at 127.0.0.1:1/x did not answer" in done.stderr
    assert "sesame" not in done.stderr
    assert "Traceback" not in done.stderr
    assert issubclass(ServiceUnavailable, MunimentError)
