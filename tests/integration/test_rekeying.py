"""A bucket that lost rows gets a new key: what was destroyed stays closed in every old copy of the catalog."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from retention import backup, rekeying, reports, seal, verification
from retention.archive import Archive, load_keys, open_archive, store_keys
from retention.cli import app
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.disposition import execution
from retention.errors import Damaged, NotFound, Refused
from retention.history import keys, publishing
from retention.recovery import restore
from retention.rekeying import Rekeyed
from retention.reports.model import Status
from retention.seal import Safe, new_record_key, open_safe
from tests.archive_builder import Document, approved, capture_all, enrol, load
from tests.breaking import Broken, at, breaks
from tests.integration import test_disaster
from tests.integration.test_disaster import Site
from tests.second_vault import back_up, publish

Clock = Callable[[], datetime]
machines = test_disaster.machines  # a fixture


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    keys.create(archive, "records.example.org/ledger", clock())
    return archive


def destroy(archive: Archive, clock: Clock, folder: Path) -> tuple[UUID, UUID]:
    """A record that is destroyed, and one that shared its bucket and stays."""
    young = clock().date()
    documents = [Document("SHORT", f"old {folder.name}"), Document("SHORT", f"young {folder.name}", young)]
    old, kept = capture_all(archive, documents, clock, folder)
    execute(archive, clock)
    return old, kept


def execute(archive: Archive, clock: Clock) -> None:
    execution.execute(archive, approved(archive, clock), clock)


def wrapped(archive: Archive) -> dict[UUID, tuple[UUID, bytes]]:
    """What an old copy of the catalog would have."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT subject_id, bucket_id, wrapped FROM subject_keys").fetchall()
    return {subject: (bucket, bytes(content)) for subject, bucket, content in rows}


def opened_now(archive: Archive, clock: Clock) -> int:
    """Every row of every key opens with the safe as it is on disk; how many there are."""
    safe = open_safe(archive.settings.keys, clock(), may_create=False)
    with transaction(archive.connections) as conn:
        ids = [row[0] for row in conn.execute("SELECT subject_id FROM subject_keys")]
        return len(load_keys(conn, safe, ids))


def problems(archive: Archive, clock: Clock) -> list[str]:
    publishing.publish(archive, clock())
    return [str(one) for one in verification.verify(archive).problems]


def test_an_old_copy_opens_nothing_that_was_destroyed(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    young = clock().date()
    documents = [Document("SHORT", "old"), Document("SHORT", "young", young), Document("LAW", "old and alone")]
    old, kept, alone = capture_all(ready, documents, clock, tmp_path / "in")
    before = wrapped(ready)
    execute(ready, clock)
    keys_before = {one: open_safe(ready.settings.keys, clock()).bucket(before[one][0]) for one in (old, alone)}
    assert {bucket.unwrap(before[one][1]).secret for one, bucket in keys_before.items()}  # opens still: not enough
    found = rekeying.rekey(ready, clock)
    assert (found.replaced, found.busy, found.dropped) == (2, 0, 2) and found.wrapped >= 1
    safe = open_safe(ready.settings.keys, clock(), may_create=False)
    for one in (old, alone):
        with pytest.raises(NotFound):
            safe.bucket(before[one][0])
        for bucket in safe.buckets():
            with pytest.raises(Damaged):
                bucket.unwrap(before[one][1])
    now_wrapped = wrapped(ready)
    assert now_wrapped[kept][0] != before[kept][0]
    assert safe.bucket(now_wrapped[kept][0]).generation == 2
    assert {b.scope for b in safe.buckets()} >= {"SHORT"} and "LAW" not in {b.scope for b in safe.buckets()}
    assert opened_now(ready, clock) == len(now_wrapped)
    assert problems(ready, clock) == []
    size = events(ready)
    assert rekeying.rekey(ready, clock) == Rekeyed() and events(ready) == size  # again is fine


def events(archive: Archive) -> int:
    with transaction(archive.connections) as conn:
        ((size,),) = conn.execute("SELECT size FROM ledger_head")
    return int(size)


def test_a_night_without_new_keys_is_red(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    def said(hours: int) -> tuple[Status, int]:
        now = clock() + timedelta(hours=hours)
        (found,) = [one for one in reports.compile_report(ready, now.date(), now).checks if one.id == "keys-waiting"]
        assert found.figure is not None
        return found.status, found.figure.value

    assert said(0) == (Status.GREEN, 0)
    destroy(ready, clock, tmp_path / "in")
    with transaction(ready.connections) as conn:
        ((buckets,),) = conn.execute("SELECT count(*) FROM plan_remains WHERE kind = 'bucket'")
    assert said(20) == (Status.AMBER, buckets)
    assert said(30) == (Status.RED, buckets)
    rekeying.rekey(ready, clock)
    assert said(30) == (Status.GREEN, 0)


@pytest.mark.parametrize("persisted", [False, True])
def test_whatever_breaks_every_row_opens(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    """Every commit and every write of the safe, before and after it."""
    original = seal._write
    for round_ in itertools.count(1):
        destroy(ready, clock, tmp_path / f"in{round_}")
        writes = at(round_, persisted=persisted)

        def write(*given: Any, writes: Any = writes) -> None:
            with writes.one():
                original(*given)

        broken = replace(ready, connections=breaks(ready, "catalog", writes))
        with monkeypatch.context() as patched:
            patched.setattr(seal, "_write", write)
            with suppress(Broken):
                rekeying.rekey(broken, clock)
        opened_now(ready, clock)  # raises for a row whose bucket is gone
        rekeying.rekey(ready, clock)
        assert rekeying.due(ready, clock()) == []
        opened_now(ready, clock)
        if not writes.broke:
            break
    assert round_ == 5  # new key, rows, old key, entered; and once with nothing broken
    assert problems(ready, clock) == []


def test_a_process_that_knows_the_former_key_alone_writes_under_the_new(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    _, kept = destroy(ready, clock, tmp_path / "in")
    other: Safe = open_safe(ready.settings.keys, clock())
    row = wrapped(ready)[kept]  # read before, opened after
    former = other.current("SHORT", clock().date(), clock())
    rekeying.rekey(ready, clock)
    key, subject = new_record_key(), UUID(int=7)
    with transaction(ready.connections) as conn:
        store_keys(conn, other, {subject: (key, "SHORT")}, clock())
    assert wrapped(ready)[subject][0] != former.id
    assert open_safe(ready.settings.keys, clock()).bucket(wrapped(ready)[subject][0]).scope == "SHORT"
    opened_now(ready, clock)
    assert other.bucket(row[0]).unwrap(row[1])  # a reader that was under way goes on


def test_a_bucket_that_is_written_into_is_left(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    destroy(ready, clock, tmp_path / "in")
    before = set(rekeying.due(ready, clock()))
    with transaction(ready.connections) as conn:
        store_keys(conn, ready.safe, {UUID(int=8): (new_record_key(), "SHORT")}, clock())
        found = rekeying.rekey(ready, clock)
    assert (found.replaced, found.busy) == (len(before) - 1, 1)
    assert rekeying.rekey(ready, clock).replaced == 1
    assert UUID(int=8) in wrapped(ready) and opened_now(ready, clock)


def test_a_month_that_is_empty_loses_its_key(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    with transaction(ready.connections) as conn:
        store_keys(conn, ready.safe, {UUID(int=9): (new_record_key(), "queries")}, clock())
        conn.execute("DELETE FROM subject_keys WHERE subject_id = %s", (UUID(int=9),))
    assert rekeying.rekey(ready, clock) == Rekeyed()  # of this month: others may come
    later = clock() + timedelta(days=31)
    assert rekeying.rekey(ready, lambda: later) == Rekeyed(replaced=1, dropped=1)
    assert "queries" not in {b.scope for b in open_safe(ready.settings.keys, clock()).buckets()}


def test_not_while_a_backup_runs(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    disk = BackupVault("disk", f"file://{tmp_path}/second")
    there = replace(settings, vault_url=f"file://{tmp_path}/vault", backups=(disk,))
    with open_archive(there, clock()) as archive:
        with backup.alone(archive, "disk"), pytest.raises(Refused, match="a backup is running"):
            rekeying.rekey(archive, clock)
        assert rekeying.rekey(archive, clock) == Rekeyed()


def test_after_a_restore_of_an_older_point_they_go_again(machines: tuple[Site, Site], clock: Clock) -> None:
    """Rows and safe of the point have the former key: nothing is lost, and it goes once more."""
    old, new = machines
    with open_archive(old.settings, clock()) as archive:
        load(archive, clock)
        enrol(archive, clock)
        keys.create(archive, "records.example.org/ledger", clock())
        documents = [Document("SHORT", "old"), Document("SHORT", "young", clock().date())]
        gone, kept = capture_all(archive, documents, clock, old.folder / "in")
        before = wrapped(archive)
        back_up(archive, old.second, clock())
        execute(archive, clock)
        assert rekeying.rekey(archive, clock).replaced
        publish(archive, old.second, clock())
    test_disaster.burn(old, new)
    found = restore(new.settings, new.second, (), clock)
    assert (found.resurrected, [str(one) for one in found.verified.problems]) == (0, [])
    with open_archive(new.settings, clock()) as archive:
        assert kept in wrapped(archive) and gone not in wrapped(archive)
        former = before[gone][0]
        assert archive.safe.bucket(former).unwrap(before[gone][1])  # the copy of the safe brought it back
        assert former in rekeying.due(archive, clock())
        assert rekeying.rekey(archive, clock).replaced
        assert rekeying.due(archive, clock()) == []
        with pytest.raises(NotFound):
            open_safe(new.settings.keys, clock()).bucket(former)
        assert opened_now(archive, clock) == len(wrapped(archive)) and kept in wrapped(archive)
        assert problems(archive, clock) == []


def test_the_command(ready: Archive, clock: Clock, tmp_path: Path, commands_here: None) -> None:
    destroy(ready, clock, tmp_path / "in")
    waiting = len(rekeying.due(ready, clock()))
    found = CliRunner().invoke(app, ["--json", "key", "rekey"])
    assert found.exit_code == 0, found.output
    value = json.loads(found.stdout)
    assert (value["replaced"], value["dropped"], value["busy"]) == (waiting, waiting, 0)
    assert rekeying.due(ready, clock()) == []
