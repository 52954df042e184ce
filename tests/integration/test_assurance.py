"""What is looked after by night: documents read again, locks and holds compared with what the vault says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from retention import fixity, holds, locks, reports
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.history import keys, publishing
from retention.holds import Matter, flags
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.reports.model import Status
from retention.vault.base import LockMode
from retention.verification import enter, verify
from tests.archive_builder import Document, capture_all, enrol, load

Clock = Callable[[], datetime]


@pytest.fixture
def ready(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    (tmp_path / "vault").mkdir()
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as archive:
        load(archive, clock)
        enrol(archive, clock)
        yield archive


def captured(archive: Archive, clock: Clock, folder: Path, count: int, name: str = "LONG") -> list[UUID]:
    return capture_all(archive, [Document(name, f"document {n}") for n in range(count)], clock, folder)


def flip(archive: Archive, record: UUID, tmp_path: Path) -> None:
    (path,) = (tmp_path / "vault" / "records" / str(record)).glob("[0-9a-f]*")
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def read_at(archive: Archive) -> dict[UUID, datetime]:
    with transaction(archive.connections) as conn:
        return dict(conn.execute("SELECT record_id, verified_at FROM contents").fetchall())


def test_a_share_is_read_those_first_that_were_read_longest_ago(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    records = captured(ready, clock, tmp_path / "in", 4)
    before = read_at(ready)
    assert fixity.run(ready, 0.5, clock).read == 2
    first = {record for record, at in read_at(ready).items() if at != before[record]}
    assert len(first) == 2
    assert fixity.run(ready, 0.5, clock).read == 2  # the other two
    assert {record for record, at in read_at(ready).items() if at != before[record]} == set(records)
    assert fixity.run(ready, 0.0, clock).read == 0
    assert [one for one in verify(ready).problems if "contents" in one.path] == []


def test_a_damaged_document_is_named_and_comes_first_again(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    records = captured(ready, clock, tmp_path / "in", 5)
    flip(ready, records[3], tmp_path)
    before = read_at(ready)
    done = fixity.run(ready, 1.0, clock)
    assert (done.read, set(done.damaged)) == (5, {records[3]})
    assert "Heal it from a replica" in done.damaged[records[3]]
    after = read_at(ready)
    assert after[records[3]] == before[records[3]] and after[records[0]] > before[records[0]]
    assert set(fixity.run(ready, 0.2, clock).damaged) == {records[3]}
    (path,) = (tmp_path / "vault" / "records" / str(records[0])).glob("[0-9a-f]*")
    path.chmod(0o600)
    path.unlink()
    assert set(fixity.run(ready, 1.0, clock).damaged) == {records[0], records[3]}


def test_locks_and_holds_are_compared_with_the_vault(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = captured(ready, clock, tmp_path / "in", 1)
    held = holds.place(ready, Scope(records=(record,)), Mode.STATIC, Matter("m", "court", date(2099, 1, 1)), clock())
    flags.drain(ready, clock())
    with transaction(ready.connections) as conn:
        row = conn.execute("SELECT sealed_sha256, version FROM contents").fetchone()
        assert row is not None
        key, until = f"records/{record}/{bytes(row[0]).hex()}", clock() + timedelta(days=5000)
        locks.enqueue(conn, [locks.Wanted(key, row[1], record, LockMode.GOVERNANCE, until)], clock())
    assert locks.drain(ready, clock()).set == 1
    assert locks.reconcile(ready, clock()).differ == {}
    ready.vault.hold(key, row[1], False)  # past us
    found = locks.reconcile(ready, clock(), everything=True)
    assert found.compared == 1 and "taken off" in found.differ[key]
    ready.vault.hold(key, row[1], True)
    sidecar = tmp_path / "vault" / ".locks" / key
    sidecar.chmod(0o600)
    sidecar.unlink()
    assert "locked until not at all" in locks.reconcile(ready, clock(), everything=True).differ[key]
    assert held.members == 1


def test_each_is_compared_once_in_a_cycle(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    records = captured(ready, clock, tmp_path / "in", 12)
    holds.place(ready, Scope(records=tuple(records)), Mode.STATIC, Matter("m", "court", date(2099, 1, 1)), clock())
    flags.drain(ready, clock())
    later = clock() + timedelta(days=10)
    nights = [locks.reconcile(ready, later + timedelta(days=night)).compared for night in range(locks.CYCLE)]
    assert sum(nights) == 12 and max(nights) < 12


def test_the_report_is_red_where_a_night_was_missed_or_found_something(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    records = captured(ready, clock, tmp_path / "in", 2)

    def said(now: datetime) -> dict[str, tuple[Status, str]]:
        report = reports.compile_report(ready, now.date(), now)
        return {check.id: (check.status, check.found) for check in report.checks if "assurance" in check.id}

    assert said(clock())["assurance"][0] is Status.GREEN  # its first night is to come
    tomorrow = clock() + timedelta(days=2)
    status, words = said(tomorrow)["assurance"]
    assert status is Status.RED
    assert all(name in words for name in ("publishing", "verifying", "reading", "comparing"))
    keys.create(ready, "records.example.org/ledger", tomorrow)
    publishing.publish(ready, tomorrow)
    enter(ready, verify(ready), tomorrow)
    locks.reconcile(ready, tomorrow)
    assert "reading documents again" in said(tomorrow)["assurance"][1]
    fixity.run(ready, 1.0, lambda: tomorrow)
    assert said(tomorrow) == {"assurance": (Status.GREEN, said(tomorrow)["assurance"][1])}
    flip(ready, records[0], tmp_path)
    fixity.run(ready, 1.0, lambda: tomorrow + timedelta(minutes=1))
    assert said(tomorrow + timedelta(hours=1))["assurance-found"][0] is Status.RED
    assert said(tomorrow + timedelta(days=2))["assurance"][0] is Status.RED
