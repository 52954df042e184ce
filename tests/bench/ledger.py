"""The ledger at size: appending with several writers, verifying a published copy, one inclusion proof.

    make bench-ledger ENTRIES=1000000

Events of one capture each (about 600 bytes), in batches, by four processes on a PostgreSQL of its own in a temporary
folder with the settings that Muniment ships; then published to a vault in a folder, and checked there. The goals:
40,000 events a second, at most three times the time of bare SHA-256 over the same leaves in one process, 50 ms.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

from retention import embedded, ledger, merkle
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import pool, transaction
from retention.history import keys, offline, publishing
from retention.ledger import Agent, Event
from retention.tlog import tiles

WRITERS = 4
BATCH = 5_000
APPENDS, VERIFIES, PROVES = 40_000, 3.0, 0.050  # events a second, times bare SHA-256, seconds


def events(agent: Agent, count: int, chance: Random) -> list[Event]:
    now = datetime.now(UTC)
    digest = chance.randbytes(32).hex()
    detail = {"sealed": digest, "commitment": digest, "bytes": 51_200, "mime": "application/pdf", "class": "FIN-010"}
    return [Event("ing", now, agent, (UUID(int=chance.getrandbits(128)),), detail=detail) for _ in range(count)]


def write(url: str, agent: Agent, batches: int, seed: int, begin: float) -> None:
    """One writer, in a process of its own, from the moment `begin` (Unix) on."""
    chance, connections = Random(seed), pool(url)
    with transaction(connections) as conn:
        conn.execute("SELECT 1")
    time.sleep(max(0.0, begin - time.time()))
    for _ in range(batches):
        made = events(agent, BATCH, chance)
        with transaction(connections) as conn:
            ledger.append(conn, made, datetime.now(UTC))
    connections.close()


def append(archive: Archive, count: int) -> float:
    """Seconds that the writers take for all; starting them is not counted."""
    spawn = get_context("spawn")
    begin = time.time() + 5
    each = count // BATCH // WRITERS
    arguments = [(archive.settings.database_url, archive.agent, each, seed, begin) for seed in range(WRITERS)]
    writers = [spawn.Process(target=write, args=some) for some in arguments]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    return time.time() - begin


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


def row(what: str, said: str, goal: str, reached: bool) -> bool:
    print(f"{what:34}{said:>30}   {goal:20}{'ok' if reached else 'MISSED'}", flush=True)
    return reached


def measure(archive: Archive, count: int, vault: Path) -> bool:
    keys.create(archive, "bench.example.org/ledger", datetime.now(UTC))
    seconds = append(archive, count)
    rate = count / seconds
    print(f"{count:,} events, {WRITERS} writers, batches of {BATCH:,}; {os.cpu_count()} cores")
    good = row("append", f"{rate:,.0f} events/s", f"at least {APPENDS:,}", rate >= APPENDS)
    started = time.perf_counter()
    published = publishing.publish(archive, datetime.now(UTC))
    print(f"{'publish to a folder':34}{published.size / (time.perf_counter() - started):>21,.0f} events/s")
    with transaction(archive.connections) as conn:
        trusts = [key.verifier for key in keys.all_keys(conn)]
    folder = vault / publishing.FOLDER
    floor = bare(folder, published.size)
    started = time.perf_counter()
    found = offline.verify(folder, trusts)
    taken = time.perf_counter() - started
    assert found.ok and (found.size, found.root) == (published.size, published.root), found.problems[:3]
    times = taken / floor
    good &= row(
        "verify, beside bare SHA-256",
        f"{taken:.2f} s / {floor:.2f} s = {times:.2f}",
        f"at most {VERIFIES:.0f}",
        times <= VERIFIES,
    )
    peaks = [resource.getrusage(who).ru_maxrss / 2**10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"{'peak memory, here and of a child':34}{'{:,.0f} MiB, {:,.0f} MiB'.format(*peaks):>30}")
    proofs = prove(folder, published.size)
    said = f"{statistics.median(proofs) * 1000:.2f} ms, longest {max(proofs) * 1000:.2f} ms"
    return row("one inclusion proof", said, "less than 50 ms", max(proofs) < PROVES) and good


def main() -> None:
    count = int(os.environ.get("ENTRIES", "1000000"))
    count -= count % (WRITERS * BATCH)
    if count <= 0:
        sys.exit(f"ENTRIES: expected at least {WRITERS * BATCH:,}")
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
                good = measure(archive, count, Path(settings.vault_url.removeprefix("file://")))
        finally:
            embedded.down(root)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
