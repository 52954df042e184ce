"""A restore that is typed, and one that is tried: with the backup as it is taken, on one machine and on another."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from retention import backup, database, fixity, verification
from retention.archive import open_archive
from retention.cli import app
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.embedded import Services, postgres
from retention.errors import Refused, UsageError
from retention.history import keys, publishing
from retention.recovery.restoring import Restored, restore
from tests.archive_builder import SCHEDULE, Document, capture_all, load

Clock = Callable[[], datetime]

POLICY = "\n    backup: {vaults: [disk], rpo: PT24H, rto: PT4H}"


@dataclass(frozen=True)
class Place:
    """A machine with its catalog and vault; the second vault is elsewhere."""

    settings: Settings
    second: Path


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def place(settings: Settings, tmp_path: Path) -> Iterator[Place]:
    """Ten records of two classes, and a point of them."""
    disk = BackupVault("disk", f"file://{tmp_path}/second")
    (tmp_path / "one").mkdir()
    there = replace(
        settings, root=tmp_path / "one/var", vault_url=f"file://{tmp_path}/one/vault", backups=(disk,), agent="IT"
    )
    with open_archive(there, now()) as archive:
        load(archive, now, SCHEDULE.replace("title: Kept long", f"title: Kept long{POLICY}"))
        keys.create(archive, "records.example.org/ledger", now())
        made = [Document("LONG", f"long {n}") for n in range(6)] + [Document("LAW", f"law {n}") for n in range(4)]
        capture_all(archive, made, now, tmp_path / "in")
        assert backup.run(archive, "disk", now).problems == []
    yield Place(there, tmp_path / "second")


@pytest.fixture
def empty(place: Place, services: Services, template: str, tmp_path: Path) -> Iterator[Settings]:
    """Another machine, with an empty database."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY")
    of = place.settings
    yield replace(
        of,
        root=tmp_path / "two/var",
        vault_url=f"file://{tmp_path}/two/vault",
        database_url=f"{of.database_url.rpartition('/')[0]}/{name}",
        database_owner_url=f"{(of.database_owner_url or '').rpartition('/')[0]}/{name}",
    )
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A command on the machine of these settings: its answer."""

    def run(at: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
        for name, value in {
            "MUNIMENT_WORKSPACE": str(at.root),
            "MUNIMENT_DATABASE_URL": at.database_url,
            "MUNIMENT_DATABASE_OWNER_URL": at.database_owner_url or "",
            "MUNIMENT_VAULT_URL": at.vault_url,
            "MUNIMENT_BACKUPS": f"disk={at.backups[0].url}",
        }.items():
            monkeypatch.setenv(name, value)
        found = CliRunner().invoke(app, ["--json", *arguments])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == code, found.output
        answer: dict[str, Any] = json.loads(found.stdout)
        return answer

    return run


def bring_keys(old: Settings, new: Settings) -> None:
    new.keys.mkdir(parents=True)
    for path in (old.keys / "root.key", *old.keys.glob("ledger-*.key")):
        shutil.copy2(path, new.keys)


def test_restored_on_another_machine(place: Place, empty: Settings, typed: Callable[..., dict[str, Any]]) -> None:
    bring_keys(place.settings, empty)
    shutil.rmtree(place.settings.root.parent)
    found = typed(empty, "restore", "--from", "disk")
    assert (found["lost"], found["resurrected"], found["verified"], found["problems"]) == ([], 0, True, [])
    assert found["records"] == 10 and found["rto"] > 0
    with open_archive(empty, now()) as archive:
        assert publishing.publish(archive, now()).size > found["size"]
        assert backup.run(archive, "disk", now).problems == []  # it goes on into the same second vault
        assert verification.verify(archive).problems == []
    with pytest.raises(Refused, match="in use"):
        typed(empty, "restore", "--from", place.second.as_uri())


def test_one_class_first_and_the_others_healed(
    place: Place, empty: Settings, typed: Callable[..., dict[str, Any]]
) -> None:
    bring_keys(place.settings, empty)
    found = typed(empty, "restore", "--from", place.second.as_uri(), "--only", "LONG", code=1)
    assert (found["left"], found["lost"], found["resurrected"]) == (4, [], 0)
    assert {said.split("/")[0] for said in found["problems"]} == {"vault records"}
    assert len(found["problems"]) == 4  # each by its listing
    healed = typed(empty, "fixity", "run", "--share", "100")
    assert len(healed["healed"]) == 4
    with open_archive(empty, now()) as archive:
        assert fixity.run(archive, 1.0, now).damaged == {}
        publishing.publish(archive, now())
        assert verification.verify(archive).problems == []


def test_a_rebuild_is_typed(place: Place, empty: Settings, typed: Callable[..., dict[str, Any]]) -> None:
    bring_keys(place.settings, empty)
    shutil.copy2(place.settings.keys / "safe.age", empty.keys)
    found = typed(replace(empty, vault_url=place.settings.vault_url), "rebuild", code=1)
    assert (found["records"], found["unreadable"], found["problems"]) == (10, 10, [])


# ---------------------------------------------------------------- drills


def drills(settings: Settings) -> list[tuple[Any, ...]]:
    with open_archive(settings, now()) as archive, transaction(archive.connections) as conn:
        return conn.execute("SELECT ok, lost, late, records FROM drills ORDER BY ended_at").fetchall()


def drilled(
    at: Settings, empty: Settings, typed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, code: int = 0
) -> dict[str, Any]:
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_URL", empty.database_url)
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_OWNER_URL", empty.database_owner_url or "")
    return typed(at, "drill", code=code)


def test_a_drill(
    place: Place, empty: Settings, typed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open_archive(place.settings, now()) as archive:
        capture_all(archive, [Document("LONG", "since")], now, tmp_path / "since")
        publishing.publish(archive, now())
    before = {path: path.stat().st_mtime_ns for path in place.second.rglob("*")}
    found = drilled(place.settings, empty, typed, monkeypatch)
    assert (found["ok"], len(found["lost"]), found["older"], found["resurrected"]) == (True, 1, 0, 0)
    assert drills(place.settings) == [(True, 1, 0, 11)]
    assert {path: path.stat().st_mtime_ns for path in place.second.rglob("*")} == before  # nothing of it goes on
    assert [*place.settings.root.glob("drill-*")] == []
    with open_archive(place.settings, now()) as archive:
        publishing.publish(archive, now())
        assert verification.verify(archive).problems == []


def slowly(*given: Any, **named: Any) -> Restored:
    """A second longer than it took."""
    found = restore(*given, **named)
    found.seconds += 1
    return found


def test_a_drill_that_is_too_slow_or_too_old_or_not_whole_is_red(
    place: Place, empty: Settings, typed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_archive(place.settings, now()) as archive:
        text = SCHEDULE.replace("title: Kept long", f"title: Kept long{POLICY}".replace("PT24H", "PT1S"))
        load(archive, now, text.replace("PT4H", "PT1S"))
        publishing.publish(archive, now())
    (victim, *_) = sorted((place.second / "records").rglob("*"))[-1:]
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes()[:-1])
    monkeypatch.setattr("retention.recovery.drill.restore", slowly)
    time.sleep(1)  # the point grows old
    found = drilled(place.settings, empty, typed, monkeypatch, code=1)
    assert [said.split()[2] for said in found["late"]] == ["rto", "rpo"]
    assert (found["older"], len(found["lost"]), found["ok"]) == (1, 1, False)
    assert drills(place.settings) == [(False, 1, 2, 10)]


def test_a_drill_that_comes_to_no_end_is_told(
    place: Place, empty: Settings, typed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="MUNIMENT_DRILL_DATABASE_URL"):
        typed(place.settings, "drill")
    (place.second / "ledger/checkpoint").unlink()
    with pytest.raises(Exception, match="nothing of the ledger was published"):
        drilled(place.settings, empty, typed, monkeypatch)
    assert drills(place.settings) == [(False, None, None, None)]


def test_the_scratch_database_is_empty_each_time_and_goes(services: Services) -> None:
    for _ in range(2):
        with postgres.scratch(services) as (application, owner):
            database.prepare(application, owner)
            with psycopg.connect(application) as conn:
                assert conn.execute("SELECT count(*) FROM events").fetchone() == (0,)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute("DELETE FROM events")
    with psycopg.connect(services.superuser_url) as conn:
        assert conn.execute("SELECT count(*) FROM pg_database WHERE datname = 'muniment_drill'").fetchone() == (0,)
