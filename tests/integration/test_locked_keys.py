"""Keys of locked content stand beside it, under its lock, and are gone before its record is said to be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from retention import holds, locked_keys, locks, reports
from retention.archive import Archive, load_keys, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.disposition import erasure, execution
from retention.errors import Refused
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.locked_keys import keep, opened
from retention.reports.model import Status
from retention.vault.local import LOCKS
from retention.verification import tables
from retention.verification.projections import PROJECTIONS
from tests.archive_builder import Document, approved, capture_all, enrol, load
from tests.breaking import Broken, at, breaks

Clock = Callable[[], datetime]


@pytest.fixture
def ready(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    (tmp_path / "vault").mkdir()
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as archive:
        load(archive, clock)
        enrol(archive, clock)
        yield archive


def locked(archive: Archive, clock: Clock, folder: Path, *texts: str) -> list[UUID]:
    found = capture_all(archive, [Document("LOCKED", text) for text in texts], clock, folder)
    locks.drain(archive, clock())
    return found


def objects(archive: Archive) -> dict[str, set[UUID]]:
    """What the vault has, opened; the catalog has the same, and the events tell it."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT object_key, subjects FROM key_objects").fetchall()
        tables.tell_history(conn, [])
        (one,) = (found for found in PROJECTIONS if found.table == "key_objects")
        assert list(tables.compare(conn, one)) == []
        found: dict[str, set[UUID]] = {}
        for stored in archive.vault.list("keys"):
            with archive.vault.open(stored.key) as file:
                keys = opened(archive.safe, stored.key, file.read())
            assert keys == load_keys(conn, archive.safe, keys)
            found[stored.key] = set(keys)
    assert {key: set(subjects) for key, subjects in rows} == found
    return found


def end_locks(archive: Archive, now: datetime, records: list[UUID]) -> None:
    """Years later: what these records and the objects with their keys are locked until is past."""
    (folder,) = (Path(archive.vault.url.removeprefix("file://")),)
    past = now - timedelta(days=1)
    with transaction(archive.connections) as conn:
        ended = conn.execute(
            "UPDATE object_locks SET wanted_until = %s, actual_until = %s WHERE subject_id = ANY(%s) "
            "RETURNING object_key",
            (past, past, records),
        ).fetchall()
        ended += conn.execute(
            "UPDATE key_objects SET until = %s WHERE subjects && %s RETURNING object_key", (past, records)
        ).fetchall()
    for (key,) in ended:
        (folder / LOCKS / key).unlink(missing_ok=True)


def test_the_key_of_what_is_locked_stands_beside_it(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    first = locked(ready, clock, tmp_path / "in", "one", "two")
    capture_all(ready, [Document("SHORT", "without a lock")], clock, tmp_path / "free")
    done = keep(ready, clock)
    assert (done.objects, done.keys, done.erased, done.differ) == (1, 2, 0, {})
    ((key, kept),) = objects(ready).items()
    assert kept == set(first)
    with transaction(ready.connections) as conn:
        ((until,),) = conn.execute("SELECT max(wanted_until) FROM object_locks").fetchall()
    lock = ready.vault.stat(key).lock
    assert lock is not None and lock.until >= until.replace(microsecond=0)
    with pytest.raises(Refused):
        ready.vault.erase(key)
    again = keep(ready, clock)
    assert (again.objects, again.erased, again.differ) == (0, 0, {})
    assert objects(ready) == {key: kept}


def test_so_it_does_in_s3(settings: Settings, clock: Clock, tmp_path: Path) -> None:
    with open_archive(settings, clock()) as archive:
        load(archive, clock)
        records = locked(archive, clock, tmp_path / "in", "one", "two")
        assert keep(archive, clock).keys == 2
        ((key, kept),) = objects(archive).items()
        assert kept == set(records)
        lock = archive.vault.stat(key).lock
        assert lock is not None and lock.until > datetime.now(UTC)
        with pytest.raises(Refused):
            archive.vault.erase(key)
        assert (keep(archive, clock).objects, [*objects(archive)]) == (0, [key])


def test_a_night_without_it_is_red(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    def said(hours: int) -> tuple[Status, int]:
        now = clock() + timedelta(hours=hours)
        (found,) = [one for one in reports.compile_report(ready, now.date(), now).checks if one.id == "keys-beside"]
        assert found.figure is not None
        return found.status, found.figure.value

    assert said(0) == (Status.GREEN, 0)
    locked(ready, clock, tmp_path / "in", "one", "two")
    capture_all(ready, [Document("SHORT", "without a lock")], clock, tmp_path / "free")
    assert (said(20), said(30)) == ((Status.AMBER, 2), (Status.RED, 2))
    keep(ready, clock)
    assert said(30) == (Status.GREEN, 0)


def test_what_is_locked_until_another_day_is_in_another_object(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    first, second, third = locked(ready, clock, tmp_path / "in", "one", "two", "three")
    with transaction(ready.connections) as conn:
        conn.execute(
            "UPDATE object_locks SET wanted_until = wanted_until + interval '1 day' WHERE subject_id = %s", (second,)
        )
    keep(ready, clock)
    assert sorted(objects(ready).values(), key=len) == [{second}, {first, third}]
    with transaction(ready.connections) as conn:  # a lock that grew
        conn.execute(
            "UPDATE object_locks SET wanted_until = wanted_until + interval '9 days' WHERE subject_id = %s", (third,)
        )
    keep(ready, clock)
    assert sorted(objects(ready).values(), key=len) == [{second}, {third}, {first, third}]


def test_nothing_is_destroyed_while_its_key_is_locked(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    gone, kept = locked(ready, clock, tmp_path / "in", "going", "held")
    keep(ready, clock)
    (key,) = objects(ready)
    until = clock() + timedelta(days=30)
    end_locks(ready, clock(), [gone, kept])
    with transaction(ready.connections) as conn:
        conn.execute("UPDATE key_objects SET until = %s", (until,))
    assert execution.execute(ready, approved(ready, clock, [gone]), clock).outcomes == {"due-locked": 1}
    end_locks(ready, clock(), [gone, kept])
    matter = Matter("Levi v. Cohen", "court order", date(2027, 6, 1))
    holds.place(ready, Scope(records=(kept,)), Mode.STATIC, matter, clock())
    keep(ready, clock)
    assert ready.vault.stat(key).hold
    done = execution.execute(ready, approved(ready, clock, [gone]), clock)
    assert (done.outcomes, done.failed) == ({"destroyed": 1}, ())
    ((newer, left),) = objects(ready).items()
    assert newer != key and left == {kept}
    assert keep(ready, clock).differ == {} and ready.vault.stat(newer).hold


def test_a_key_that_the_vault_keeps_is_not_said_to_be_gone(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = locked(ready, clock, tmp_path / "in", "one")
    keep(ready, clock)
    ((key, _),) = objects(ready).items()
    folder = Path(ready.vault.url.removeprefix("file://"))
    lock = (folder / LOCKS / key).read_bytes()
    end_locks(ready, clock(), [record])
    (folder / LOCKS / key).write_bytes(lock)  # the catalog believes that it has ended
    plan = approved(ready, clock)
    done = execution.execute(ready, plan, clock)
    assert [one for one, _ in done.failed] == [record] and not done.outcomes.get("destroyed")
    (folder / LOCKS / key).unlink()
    assert execution.execute(ready, plan, clock).outcomes == {"destroyed": 1}
    assert objects(ready) == {}


@pytest.mark.parametrize("what", ["vault", "connections"])
@pytest.mark.parametrize("persisted", [False, True])
def test_cut_off_at_each_write_the_next_run_ends_it(
    ready: Archive, clock: Clock, tmp_path: Path, what: str, persisted: bool
) -> None:
    records = locked(ready, clock, tmp_path / "in", "one", "two")
    for number in range(1, 9):
        writes = at(number, persisted=persisted)
        broken: Any = replace(ready, **{what: breaks(ready, what, writes)})
        with suppress(Broken):
            keep(broken, clock)
        if not writes.broke:
            break
        done = keep(ready, clock)
        assert done.differ == {}
        assert sorted(record for kept in objects(ready).values() for record in kept) == sorted(records)
        end_locks(ready, clock(), records)  # and begun once more, from nothing
        assert keep(ready, clock).erased == 1 and objects(ready) == {}
        with transaction(ready.connections) as conn:
            conn.execute("UPDATE object_locks SET wanted_until = %s", (clock() + timedelta(days=40),))
    assert number > 1


def test_cut_off_between_object_and_record(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = locked(ready, clock, tmp_path / "in", "one")
    keep(ready, clock)
    end_locks(ready, clock(), [record])
    plan = approved(ready, clock)

    def cut(*_: object) -> None:
        raise Broken

    with monkeypatch.context() as patched, pytest.raises(Broken):
        patched.setattr(erasure, "_finish", cut)
        execution.execute(ready, plan, clock)
    assert execution.execute(ready, plan, clock).outcomes == {"destroyed": 1}
    assert objects(ready) == {}


def test_what_is_not_in_the_vault_is_written_again_and_what_nobody_knows_stays(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    (record,) = locked(ready, clock, tmp_path / "in", "one")
    keep(ready, clock)
    (key,) = objects(ready)
    folder = Path(ready.vault.url.removeprefix("file://"))
    stranger = f"keys/{record}/1"
    shutil.copytree((folder / key).parent, (folder / stranger).parent)
    (folder / stranger).parent.joinpath(key.rpartition("/")[2]).rename(folder / stranger)
    (folder / key).unlink()
    (folder / LOCKS / key).unlink()
    done = keep(ready, clock)
    assert done.differ.keys() == {key, stranger} and done.objects == 1
    (folder / stranger).unlink()
    assert keep(ready, clock).differ == {}
    assert list(objects(ready).values()) == [{record}] and key not in objects(ready)


def test_it_is_locked_again_and_said(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    locked(ready, clock, tmp_path / "in", "one")
    keep(ready, clock)
    (key,) = objects(ready)
    (Path(ready.vault.url.removeprefix("file://")) / LOCKS / key).unlink()
    assert keep(ready, clock).differ.keys() == {key}
    lock = ready.vault.stat(key).lock
    assert lock is not None and lock.until > datetime.now(UTC)
    assert keep(ready, clock).differ == {}
    assert locked_keys.let_go(ready, [], clock) == {}
