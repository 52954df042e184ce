"""What a capture that was cut off left in the vault is swept; nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retention import capture, locks, orphans
from retention.archive import Archive, open_archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.errors import Refused
from retention.history import keys, publishing
from retention.model import new_id
from retention.vault.base import Lock, LockMode, Stored
from tests.archive_builder import Document, capture_all, load
from tests.owning import owning

Clock = Callable[[], datetime]


@pytest.fixture
def ready(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    (tmp_path / "vault").mkdir()
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as archive:
        load(archive, clock)
        yield archive


def everything(archive: Archive) -> set[str]:
    return {one.key for folder in orphans.FOLDERS for one in archive.vault.list(folder)}


def put(archive: Archive, key: str) -> Stored:
    return archive.vault.put(key, b"x", sha256=sha256(b"x").digest(), size=1)


def aged(tmp_path: Path, days: float, clock: Clock) -> None:
    """All that is in the vault was put so long ago."""
    then = (clock() - timedelta(days=days)).timestamp()
    for path in (tmp_path / "vault").rglob("*"):
        os.utime(path, times=(then, then))


def cut_off(archive: Archive, clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The objects of a capture that died before it committed."""
    before = everything(archive)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(capture, "_events", die)
        capture_all(archive, [Document("LONG", f"lost {n}") for n in range(3)], clock, folder)
    return everything(archive) - before


def test_what_a_crash_left_is_swept_after_seven_days(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_all(ready, [Document("LONG", f"kept {n}") for n in range(4)], clock, tmp_path / "in")
    kept = everything(ready)
    lost = cut_off(ready, clock, tmp_path / "lost", monkeypatch)
    assert len(lost) >= 3
    aged(tmp_path, 6.9, clock)
    assert orphans.find(ready, clock()).orphans == []  # it may be at work still
    aged(tmp_path, 7.1, clock)
    found = orphans.find(ready, clock())
    assert {one.key for one in found.orphans} == lost
    assert everything(ready) == kept | lost  # looking erases nothing
    done = orphans.sweep(ready, found, clock())
    assert (done.erased, done.kept) == (len(lost), []) and everything(ready) == kept
    with transaction(ready.connections) as conn:
        ((said,),) = conn.execute("SELECT convert_from(entry, 'UTF8') FROM events WHERE type = 'del'").fetchall()
    digest = sha256("".join(f"{key}\n" for key in sorted(lost)).encode()).hexdigest()
    assert json.loads(said)["detail"] == {"orphans": len(lost), "bytes": done.bytes, "keys_sha256": digest}
    assert orphans.sweep(ready, orphans.find(ready, clock()), clock()).erased == 0


def test_what_is_locked_held_or_known_meanwhile_stays(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    locked, held, known, plain = (put(ready, f"records/{new_id(clock())}/{name}").key for name in "abcd")
    put(ready, "records/somebody/wrote-it")
    ready.vault.lock(locked, "", Lock(LockMode.GOVERNANCE, datetime.now(UTC) + timedelta(days=1)))
    ready.vault.hold(held, "", True)
    aged(tmp_path, 8, clock)
    found = orphans.find(ready, clock())
    assert {one.key for one in found.orphans} == {locked, held, known, plain}
    with owning(ready) as conn:  # an event names it since
        conn.execute("INSERT INTO event_subjects (subject_id, position) VALUES (%s, 0)", (known.split("/")[1],))
    done = orphans.sweep(ready, found, clock())
    assert (done.erased, sorted(done.kept)) == (1, sorted([locked, held]))
    assert everything(ready) >= {locked, held, known, "records/somebody/wrote-it"} and plain not in everything(ready)


def test_more_than_a_crash_leaves_is_refused(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    for _ in range(orphans.LEAST + 1):
        put(ready, f"records/{new_id(clock())}/x")
    aged(tmp_path, 8, clock)
    found = orphans.find(ready, clock())
    with pytest.raises(Refused, match="refusing to erase 101 of"):
        orphans.sweep(ready, found, clock())
    with pytest.raises(Refused, match="at most 100 are expected"):
        orphans.sweep(ready, found, clock(), limit=100)
    assert len(orphans.find(ready, clock()).orphans) == 101
    assert orphans.sweep(ready, found, clock(), limit=101).erased == 101


def test_a_catalog_that_is_behind_sweeps_nothing(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    keys.create(ready, "records.example.org/ledger", clock())
    capture_all(ready, [Document("LONG", "kept")], clock, tmp_path / "in")
    publishing.publish(ready, clock())
    assert orphans.find(ready, clock()).orphans == []
    with owning(ready) as conn:  # an old copy of the database
        conn.execute("UPDATE ledger_head SET size = size - 1")
    with pytest.raises(Refused, match="refusing to look for orphans"):
        orphans.find(ready, clock())


def test_the_command_names_them_first(commands_here: None, settings: Settings, clock: Clock) -> None:
    with open_archive(settings, clock()) as archive:  # in S3, and put just now
        key = put(archive, f"records/{new_id(clock())}/x").key
        assert locks.SHORT == orphans.GRACE
        done = CliRunner().invoke(app, ["--json", "vault", "sweep", "--dry-run"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) | {"looked_at": 1} == {
            "looked_at": 1, "orphans": [], "erased": 0, "bytes": 0, "kept": [], "uploads": 0,
        }  # fmt: skip
        assert key in everything(archive)
