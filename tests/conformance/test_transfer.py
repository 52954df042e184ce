"""Objects copied between vaults: from a folder to every store, and from every store to a folder."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import pytest

from retention.errors import MunimentError, Refused, ServiceUnavailable
from retention.vault.base import Given, Stored, Vault
from retention.vault.local import LocalVault, make_root
from retention.vault.transfer import Transferred, Wanted, transfer

KEYS = [f"records/{UUID(int=n)}/{n:03}" for n in range(6)] + ["records.x", "ledger/checkpoint", "ledger/tile/0/000"]


def content(key: str) -> bytes:
    return key.encode() * 1000


def local(folder: Path) -> LocalVault:
    make_root(folder)
    return LocalVault(folder)


def filled(vault: Vault) -> list[Wanted]:
    """The objects of KEYS in a vault, in the order that it lists them."""
    found = []
    for key in sorted(KEYS):
        data = content(key)
        stored = vault.put(key, data, sha256=sha256(data).digest(), size=len(data))
        found.append(Wanted(key, stored.version, len(data), sha256(data).digest()))
    assert [one.key for one in vault.list()] == [one.key for one in found]
    return found


def run(source: Vault, target: Vault, wanted: list[Wanted]) -> list[Transferred]:
    return list(transfer(source, target, wanted, threads=4))


def read(vault: Vault, key: str, version: str = "") -> bytes:
    with vault.open(key, version) as file:
        return file.read()


@pytest.fixture(params=["to", "from"])
def pair(request: pytest.FixtureRequest, vault: Vault, tmp_path: Path) -> tuple[Vault, Vault]:
    """Source and target, one of them a folder."""
    folder = local(tmp_path / "other")
    return (folder, vault) if request.param == "to" else (vault, folder)


def test_what_is_missing_is_copied_and_nothing_twice(pair: tuple[Vault, Vault]) -> None:
    source, target = pair
    wanted = filled(source)
    told: list[tuple[int, int]] = []
    first = list(transfer(source, target, wanted[:4], threads=4, tell=lambda n, size: told.append((n, size))))
    assert [(one.wanted, one.copied, one.problem) for one in first] == [(one, True, None) for one in wanted[:4]]
    assert told[-1] == (4, sum(one.size for one in wanted[:4]))
    rest = run(source, target, wanted)
    assert [one.copied for one in rest] == [False] * 4 + [True] * (len(wanted) - 4)
    assert [one.copied for one in run(source, target, wanted)] == [False] * len(wanted)
    for one in (*first, *rest):
        assert read(target, one.wanted.key, one.version) == content(one.wanted.key)
    assert [one.key for one in target.list()] == sorted(KEYS)


def test_what_is_damaged_missing_or_in_the_way_stops_no_other(pair: tuple[Vault, Vault]) -> None:
    source, target = pair
    wanted = filled(source)
    wanted[1] = replace(wanted[1], sha256=bytes(32))
    wanted[2] = replace(wanted[2], size=wanted[2].size + 1)
    wanted[3] = replace(wanted[3], key=f"{wanted[3].key}-gone", version="")
    other = b"something else"
    target.put(wanted[5].key, other, sha256=sha256(other).digest(), size=len(other))
    done = run(source, target, wanted)
    assert [one.problem is None for one in done] == [n not in (1, 2, 3, 5) for n in range(len(wanted))]
    assert "announced" in (done[1].problem or "") and "announced" in (done[2].problem or "")
    assert "-gone" in (done[3].problem or "") and f"{len(other)} bytes stand there" in (done[5].problem or "")
    assert {one.key for one in target.list()} == {one.wanted.key for n, one in enumerate(done) if n not in (1, 2, 3)}
    assert read(target, wanted[5].key) == other


def test_many_objects_that_are_put_at_once(vault: Vault) -> None:
    """As `put`: the same bytes again are fine, others under a taken key are refused."""

    def given(key: str, data: bytes) -> Given:
        return Given(key, lambda: io.BytesIO(data), sha256(data).digest(), len(data))

    first = vault.put_many([given("a/1", b"one"), given("a/2", b"two")], 4)
    assert [isinstance(one, Stored) and one.sha256 for one in first] == [
        sha256(b"one").digest(),
        sha256(b"two").digest(),
    ]
    again = vault.put_many([given("a/1", b"one"), given("a/2", b"other"), given("b/3", b"")], 4)
    assert isinstance(again[0], Stored) and isinstance(again[1], Refused) and isinstance(again[2], Stored)
    assert "other bytes stand there" in str(again[1])
    assert [read(vault, key) for key in ("a/1", "a/2", "b/3")] == [b"one", b"two", b""]
    assert vault.sweep(datetime.now(UTC) + timedelta(days=1)) == 0  # nothing is left behind


# ---------------------------------------------------------------- folders alone


class Away(LocalVault):
    """A source that is away from one object on."""

    def open(self, key: str, version: str = "") -> BinaryIO:
        if key == "o/7":
            raise ServiceUnavailable("away")
        return super().open(key, version)


def test_a_source_that_goes_away_stops_and_is_gone_on_with(tmp_path: Path) -> None:
    source, target = local(tmp_path / "a"), local(tmp_path / "b")
    wanted = []
    for n in range(10):
        data = bytes([n]) * 100
        source.put(f"o/{n}", data, sha256=sha256(data).digest(), size=100)
        wanted.append(Wanted(f"o/{n}", "", 100, sha256(data).digest()))
    with pytest.raises(ServiceUnavailable):
        list(transfer(Away(tmp_path / "a"), target, wanted, threads=2))
    assert all(one.problem is None for one in run(source, target, wanted))
    assert len(list(target.list())) == 10


SCRIPT = """
import sys
from pathlib import Path
from retention.vault import transfer
from tests.conformance.test_transfer import many
transfer.OBJECTS = 20
for one in transfer.transfer(*many(Path(sys.argv[1])), threads=2):
    print(one.wanted.key, flush=True)
"""


def many(folder: Path) -> tuple[LocalVault, LocalVault, Iterator[Wanted]]:
    """Two folders and 2,000 objects of the first."""
    source, target = local(folder / "a"), local(folder / "b")
    data = b"x" * 2000
    return source, target, (Wanted(f"o/{n:05}/x", "", 2000, sha256(data).digest()) for n in range(2000))


def test_killed_at_any_moment_it_is_gone_on_with(tmp_path: Path) -> None:
    """What was told is there, whole; run again it is all there, and nothing else is."""
    (tmp_path / "a").mkdir()
    for n in range(2000):
        (tmp_path / f"a/o/{n:05}").mkdir(parents=True)
        (tmp_path / f"a/o/{n:05}/x").write_bytes(b"x" * 2000)
    root = Path(__file__).parents[2]
    for wait in (0.0, 0.1, 0.25):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True
        )
        assert process.stdout is not None
        told = [process.stdout.readline().strip()]
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        there = {one.key: one.size for one in local(tmp_path / "b").list()}
        assert set(told) - {""} <= there.keys() and set(there.values()) <= {2000}
    source, target, wanted = many(tmp_path)
    assert all(one.problem is None for one in transfer(source, target, wanted, threads=2))
    assert len(list(target.list())) == 2000
    swept = target.sweep(datetime.now(UTC) + timedelta(days=1))
    assert target.sweep(datetime.now(UTC) + timedelta(days=1)) == 0, swept
    assert not any(path.name.startswith(".put-") for path in (tmp_path / "b").rglob("*"))


def test_memory_does_not_grow_with_what_is_copied(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    source, target = local(tmp_path / "a"), local(tmp_path / "b")
    digest = sha256()
    with (tmp_path / "a/big").open("wb") as file:
        for _ in range(size // (1 << 20)):
            file.write(bytes(1 << 20))
            digest.update(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (done,) = run(source, target, [Wanted("big", "", size, digest.digest())])
    assert done.copied and (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < size / 4


def test_a_disk_that_is_full_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = local(tmp_path / "a"), local(tmp_path / "b")
    wanted = filled(source)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retention.vault.local._write_all", full)
    with pytest.raises(MunimentError, match="the disk is full"):
        run(source, target, wanted)
    monkeypatch.undo()
    assert all(one.copied for one in run(source, target, wanted))
