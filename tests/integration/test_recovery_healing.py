"""What is damaged or missing in a vault, a folder or S3, is healed from a second one, and the history says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from retention import fixity, verification
from retention.archive import Archive, open_archive
from retention.backup import points
from retention.config import Settings
from retention.database import transaction
from retention.history import keys
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault
from tests.archive_builder import Document, capture_all, load
from tests.second_vault import back_up

Clock = Callable[[], datetime]


@pytest.fixture(params=["folder", "s3"])
def archive(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    """Ten records, one of them locked, and a second vault that has them."""
    ensure_vault(f"file://{tmp_path}/second")
    second = open_vault(f"file://{tmp_path}/second")
    there = replace(settings, vault_url=f"file://{tmp_path}/vault") if request.param == "folder" else settings
    with open_archive(there, clock()) as opened:
        load(opened, clock)
        keys.create(opened, "records.example.org/ledger", clock())
        names = [Document("LONG", f"document {n}") for n in range(9)]
        capture_all(opened, [*names, Document("LOCKED", "locked")], clock, tmp_path / "in")
        archive = replace(opened, seconds={"disk": second})
        back_up(archive, second, clock())
        yield archive


def objects(archive: Archive) -> list[tuple[UUID, str, str]]:
    """Record, key and version of each document."""
    with transaction(archive.connections) as conn:
        return conn.execute(
            "SELECT record_id, 'records/' || record_id || '/' || encode(sealed_sha256, 'hex'), version FROM contents "
            "ORDER BY 1"
        ).fetchall()


def spoil(vault: Vault, key: str, version: str) -> None:
    """Other bytes of the same length in its place, as a disk would do it, or somebody who may write there."""
    with vault.open(key, version) as file:
        content = bytearray(file.read())
    content[-1] ^= 1
    if vault.url.startswith("file:"):
        path = Path(vault.url.removeprefix("file://")) / key
        path.chmod(0o600)
        path.write_bytes(content)
    else:
        vault.erase(key)
        vault.put(key, bytes(content), sha256=hashlib.sha256(content).digest(), size=len(content))


def test_damaged_and_missing_ones_are_healed(archive: Archive, clock: Clock) -> None:
    (one, key, version), (other, gone, _), *rest = objects(archive)
    spoil(archive.vault, key, version)
    archive.vault.erase(gone)
    done = fixity.run(archive, 1.0, clock)
    assert (set(done.damaged), done.healed, done.left) == ({one, other}, {one: "disk", other: "disk"}, {})
    assert fixity.run(archive, 1.0, clock).damaged == {}
    points_to = {record: version for record, _, version in objects(archive)}
    assert all(points_to[record] == version for record, _, version in rest)
    found = verification.verify(archive)
    assert [str(problem) for problem in found.problems if "ledger" not in problem.path] == []


def test_a_descriptor_object_is_healed_on_its_day(archive: Archive, clock: Clock) -> None:
    with transaction(archive.connections) as conn:
        lines = conn.execute(
            "SELECT descriptor_id, 'descriptors/' || descriptor_id, version FROM descriptors"
        ).fetchall()
    one, key, version = lines[0]
    spoil(archive.vault, key, version)

    def run(share: float, days: int) -> fixity.Checked:
        return fixity.run(archive, share, lambda: clock() + timedelta(days=days))

    assert run(0.0, 0).descriptors == 0
    nights = [run(0.25, day) for day in range(4)]
    assert [done.healed for done in nights if one in done.damaged] == [{one: "disk"}]
    assert sum(done.descriptors for done in nights) == len(lines)
    assert (run(1.0, 4).descriptors, run(1.0, 5).damaged) == (len(lines), {})
    found = verification.verify(archive)
    assert [str(problem) for problem in found.problems if "ledger" not in problem.path] == []


@pytest.mark.parametrize("where", ["disk", "catalog"])
def test_a_schedule_is_named_and_healed(archive: Archive, clock: Clock, where: str) -> None:
    (stored,) = archive.vault.list("schedules")
    subject = UUID(hex=stored.key.rpartition("/")[2][:32])
    spoil(archive.vault, stored.key, "")
    if where == "catalog":
        spoil(archive.seconds["disk"], stored.key, "")
    assert [p.said for p in verification.verify(archive).problems if p.path == f"vault {stored.key}"] != []
    done = fixity.run(archive, 0.01, clock)
    assert (done.schedules, set(done.damaged), done.healed) == (1, {subject}, {subject: where})
    assert fixity.run(archive, 0.01, clock).damaged == {}
    found = verification.verify(archive)
    assert [str(problem) for problem in found.problems if "ledger" not in problem.path] == []


def test_what_no_second_vault_has_whole_stays_damaged(archive: Archive, clock: Clock) -> None:
    (one, key, version), (other, missing, at), *_ = objects(archive)
    for vault, named in ((archive.vault, version), (archive.seconds["disk"], "")):
        spoil(vault, key, named)
    archive.seconds["disk"].erase(missing)
    spoil(archive.vault, missing, at)
    done = fixity.run(archive, 1.0, clock)
    assert set(done.left) == {one, other} and done.healed == {}
    assert len(points.listed(archive.seconds["disk"])) == 1
