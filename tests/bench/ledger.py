"""The ledger at size: appending with several writers, verifying a published copy, one inclusion proof; and what it
takes of a capture.

    make bench-ledger ENTRIES=10000000      a table from 10,000 on, each ten times the one before

Events of one capture each (about 600 bytes), in batches, by four processes on a PostgreSQL of its own in a temporary
folder with the settings that Muniment ships; then published to a vault in a folder, and checked there. The goals, of
the largest: 40,000 events a second, at most three times the time of bare SHA-256 over the same leaves in one process,
50 ms; the memory of verifying is flat, and the ledger takes less than 15 % of a capture's transaction.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import psutil

from retention import capture, embedded, ledger, merkle
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import pool, transaction
from retention.history import keys, offline, publishing
from retention.ledger import Agent, Event
from retention.tlog import tiles
from retention.tlog.note import Verifier
from tests.deposits import Doc, deposit

WRITERS = 4
BATCH = 5_000
DOCUMENTS, CAPTURES = 500, 15  # of one batch; the first one warms up
APPENDS, VERIFIES, PROVES = 40_000, 3.0, 0.050  # events a second, times bare SHA-256, seconds
SHARE, FLAT = 0.15, 1.25  # of the capture's transaction; the memory of the largest, times that of 100,000
SMALLEST = 10_000


def events(agent: Agent, count: int, chance: Random) -> list[Event]:
    now = datetime.now(UTC)
    digest = chance.randbytes(32).hex()
    detail = {"sealed": digest, "commitment": digest, "bytes": 51_200, "mime": "application/pdf", "class": "FIN-010"}
    return [Event("ing", now, agent, (UUID(int=chance.getrandbits(128)),), detail=detail) for _ in range(count)]


def write(url: str, agent: Agent, count: int, seed: int, together: Barrier) -> None:
    """One writer, in a process of its own, that begins when all are ready."""
    chance, connections = Random(seed), pool(url)
    with transaction(connections) as conn:
        conn.execute("SELECT 1")
    together.wait(60)
    for done in range(0, count, BATCH):
        made = events(agent, min(BATCH, count - done), chance)
        with transaction(connections) as conn:
            ledger.append(conn, made, datetime.now(UTC))
    connections.close()


def append(archive: Archive, count: int) -> float:
    """Seconds that the writers take for all; starting them is not counted."""
    spawn = get_context("spawn")
    together = spawn.Barrier(WRITERS + 1)
    shares = [count // WRITERS + (n < count % WRITERS) for n in range(WRITERS)]
    arguments = [(archive.settings.database_url, archive.agent, each, uuid4().int, together) for each in shares]
    writers = [spawn.Process(target=write, args=some) for some in arguments]
    for writer in writers:
        writer.start()
    together.wait(60)
    begun = time.perf_counter()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    return time.perf_counter() - begun


def bare(folder: Path, size: int) -> float:
    """Seconds of SHA-256 over the leaves, one process, reading and taking bundles apart not counted."""
    taken = 0.0
    for index in range(-(-size // tiles.WIDTH)):
        tile = tiles.in_tree(size, 0, index).entries
        leaves = [b"\x00" + entry for entry in tiles.decode(tile, (folder / tile.path).read_bytes())]
        started = time.perf_counter()
        for leaf in leaves:
            sha256(leaf).digest()
        taken += time.perf_counter() - started
    return taken


def prove(folder: Path, size: int) -> list[float]:
    """Seconds of single proofs, the tiles read from files anew for each."""
    chance, found = Random(1), []
    for _ in range(100):
        index = chance.randrange(size)
        started = time.perf_counter()
        node = tiles.node_reader(size, lambda tile: (folder / tile.path).read_bytes())
        merkle.inclusion_proof(index, size, node)
        found.append(time.perf_counter() - started)
    return found


class Peak:
    """The most memory that this process or one that it started has, while the block runs."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while True:
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.Error):
                    self.bytes = max(self.bytes, process.memory_info().rss)
            if self._stop.wait(0.05):
                return


def check(folder: Path, trusts: list[Verifier], size: int, told: Any) -> None:
    """Verify in a process of its own, as the command does: seconds, and bytes of memory."""
    started = time.perf_counter()
    with Peak() as peak:
        found = offline.verify(folder, trusts)
    assert found.ok and found.size == size, found.problems[:3]
    told.send((time.perf_counter() - started, peak.bytes))


def verify(folder: Path, trusts: list[Verifier], size: int) -> tuple[float, int]:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=check, args=(folder, trusts, size, theirs))
    process.start()
    theirs.close()
    found: tuple[float, int] = ours.recv()
    process.join()
    return found


@dataclass(frozen=True)
class Measured:
    """One size."""

    size: int
    appended: float  # events a second
    published: float
    verified: float  # seconds
    times: float  # those of bare SHA-256
    memory: int
    proofs: list[float]

    def __str__(self) -> str:
        proof = f"{statistics.median(self.proofs) * 1000:.2f} / {max(self.proofs) * 1000:.2f}"
        return (
            f"{self.size:>12,}{self.appended:>14,.0f}{self.published:>14,.0f}{self.verified:>12.2f}"
            f"{self.times:>9.2f}{self.memory / 2**20:>12,.0f}{proof:>20}"
        )


def measure(archive: Archive, count: int, folder: Path) -> Measured:
    """Append up to `count` events, publish, verify all and prove some."""
    with transaction(archive.connections) as conn:
        more = count - ledger.head(conn)[0]
        trusts = [key.verifier for key in keys.all_keys(conn)]
    appended = more / append(archive, more)
    started = time.perf_counter()
    published = publishing.publish(archive, datetime.now(UTC))
    rate = (published.size - published.before) / (time.perf_counter() - started)
    floor = bare(folder, published.size)
    verified, memory = verify(folder, trusts, published.size)
    return Measured(count, appended, rate, verified, verified / floor, memory, prove(folder, published.size))


def share(archive: Archive) -> list[float]:
    """Of captures of 500 documents: which part of the transaction the ledger takes, COMMIT with the transaction."""
    documents = tuple(Doc(f"document {n}", author="Ruth Levi", title=f"Letter {n}") for n in range(DOCUMENTS))
    append, commit = ledger.append, capture._commit
    appending = 0.0
    found: list[float] = []

    def appended(*args: Any) -> int:
        nonlocal appending
        started = time.perf_counter()
        first = append(*args)
        appending = time.perf_counter() - started
        return first

    def committed(*args: Any) -> Any:
        started = time.perf_counter()
        result = commit(*args)
        found.append(appending / (time.perf_counter() - started))
        return result

    with patch.object(ledger, "append", appended), patch.object(capture, "_commit", committed):
        for _ in range(CAPTURES):
            deposit(archive, *documents)
    return found[1:]


def row(what: str, said: str, goal: str, reached: bool) -> bool:
    print(f"{what:34}{said:>30}   {goal:20}{'ok' if reached else 'MISSED'}", flush=True)
    return reached


def judge(table: list[Measured], shares: list[float]) -> bool:
    last = table[-1]
    said = f"{statistics.median(last.proofs) * 1000:.2f} ms, longest {max(last.proofs) * 1000:.2f} ms"
    good = [
        row("append", f"{last.appended:,.0f} events/s", f"at least {APPENDS:,}", last.appended >= APPENDS),
        row("verify, beside bare SHA-256", f"{last.times:.2f}", f"at most {VERIFIES:.0f}", last.times <= VERIFIES),
        row("one inclusion proof", said, "less than 50 ms", max(last.proofs) < PROVES),
    ]
    if full := [one for one in table if one.size >= 100_000]:
        grown = last.memory / full[0].memory
        said = f"{last.memory / 2**20:,.0f} MiB, {grown:.2f} x of {full[0].size:,}"
        good.append(row("memory of verifying", said, f"at most {FLAT} x", grown <= FLAT))
    middle = statistics.median(shares)
    said = f"{middle:.1%} ({min(shares):.1%} to {max(shares):.1%})"
    good.append(row(f"share of capturing {DOCUMENTS}", said, f"less than {SHARE:.0%}", middle < SHARE))
    return all(good)


def main() -> None:
    count = int(os.environ.get("ENTRIES", "1000000"))
    if count < SMALLEST:
        sys.exit(f"ENTRIES: expected at least {SMALLEST:,}")
    sizes = sorted({count, *(SMALLEST * 10**n for n in range(10) if SMALLEST * 10**n < count)})
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        services = embedded.up(root, postgres=True, s3=True)
        try:
            settings = Settings(
                root=root,
                database_url=services.database_url,
                database_owner_url=services.owner_url,
                vault_url=f"file://{root}/{uuid4().hex}",
                vault_access_key=None,
                vault_secret_key=None,
                agent="bench",
            )
            with open_archive(settings, datetime.now(UTC)) as archive:
                keys.create(archive, "bench.example.org/ledger", datetime.now(UTC))
                folder = Path(settings.vault_url.removeprefix("file://")) / publishing.FOLDER
                print(f"{WRITERS} writers, batches of {BATCH:,}; {os.cpu_count()} cores")
                print(
                    f"{'entries':>12}{'append/s':>14}{'publish/s':>14}{'verify s':>12}{'x bare':>9}{'peak MiB':>12}"
                    f"{'proof ms, longest':>20}"
                )
                table = []
                for size in sizes:
                    table.append(measure(archive, size, folder))
                    print(table[-1], flush=True)
                good = judge(table, share(archive))
        finally:
            embedded.down(root)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
