"""kill -9 at random moments of backup, prune, new keys, a new root, restore: the same is run again, and ends the same.

A round is one kill. What comes next stands on what it left, and may be killed too; after at most IN_A_ROW of them the
command is run to its end, and that is compared with what an undisturbed one makes. The moment is random, from the
begin of the process to the time that an undisturbed one takes.

    KILLS=2000 SEED=7 .venv/bin/python -m pytest tests/faults/test_kill_rounds.py -s
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from retention import backup, rekeying
from retention.archive import Archive, load_keys, open_archive
from retention.backup import checking, points
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.disposition import execution
from retention.embedded import Services
from retention.history import keys, publishing
from retention.model import new_id
from retention.seal import Safe, open_safe, opens
from retention.vault import open_vault
from retention.verification import verify
from tests.archive_builder import Document, approved, capture_all, enrol, load
from tests.integration.test_disaster import documents, unlike
from tests.killing import KILLED, Commands, Ended
from tests.second_vault import EVERY
from tests.table_rows import Rows, rows_of

KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
IN_A_ROW = 10
# What a restore makes itself: when it was, and who did it, sealed by a key of its own.
OF_THE_RESTORE = {"events", "ledger_checkpoints", "pseudonyms", "subject_keys"}


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Site:
    """An archive with a second vault. It is open here all the time, as other processes have it."""

    archive: Archive
    folder: Path
    superuser_url: str
    chance: random.Random
    old: list[UUID]  # records that are due

    @property
    def second(self) -> Path:
        return self.folder / "second"

    def capture(self, *given: Document) -> list[UUID]:
        return capture_all(self.archive, given, now, self.folder / "in")

    def destroy(self, records: Sequence[UUID]) -> None:
        execution.execute(self.archive, approved(self.archive, now, only=records), now)

    def rounds(self, share: float) -> Iterator[int]:
        """How many kills come before each end."""
        left = round(KILLS * share)
        while left > 0:
            yield min(left, IN_A_ROW)
            left -= IN_A_ROW

    def kill(self, count: int, took: float, commands: Commands, *argv: str) -> Ended:
        """Kill the command so many times, then run it to its end."""
        for _ in range(count):
            while commands.run(*argv, kill_after=self.chance.uniform(0, took)).code != KILLED:
                pass  # it was done sooner
            self._settle()
        return commands.run(*argv)

    def _settle(self) -> None:
        """PostgreSQL has seen that a process is gone: until then the next one is told to wait."""
        with psycopg.connect(self.superuser_url, autocommit=True) as conn:
            while conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() != (0,):
                time.sleep(0.002)


@pytest.fixture
def site(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Site]:
    """Records of three classes in an archive that has been backed up."""
    print(f"SEED={SEED}")
    (tmp_path / "vault").mkdir()
    disk = BackupVault("disk", f"file://{tmp_path}/second")
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", backups=(disk,))
    with open_archive(named, now()) as archive:
        load(archive, now)
        enrol(archive, now)
        keys.create(archive, "records.example.org/ledger", now())
        made = Site(archive, tmp_path, services.superuser_url, random.Random(SEED), [])
        young = now().date()
        made.capture(*(Document(one, f"{one} {n}", young) for one in ("LONG", "SHORT", "LAW") for n in range(10)))
        made.old = made.capture(*(Document("SHORT", f"old {n}") for n in range(2)))
        backup.run(archive, "disk", now)
        yield made


def commands(settings: Settings, folder: Path) -> Commands:
    return Commands(
        {
            "MUNIMENT_WORKSPACE": str(settings.root),
            "MUNIMENT_DATABASE_URL": settings.database_url,
            "MUNIMENT_DATABASE_OWNER_URL": settings.database_owner_url or "",
            "MUNIMENT_VAULT_URL": settings.vault_url,
            "MUNIMENT_BACKUPS": f"disk=file://{folder}/second",
        },
        folder / "said",
    )


def in_order(archive: Archive) -> list[str]:
    """What is wrong with the archive or its second vault."""
    publishing.publish(archive, now())
    checked = checking.check(archive, "disk", 1.0, now())
    assert checked.read == checked.objects > 0
    return [*checked.problems, *map(str, verify(archive).problems)]


def opened(archive: Archive) -> Safe:
    """The key safe as it is on disk, which opens every key."""
    safe = open_safe(archive.settings.keys, now(), may_create=False)
    with transaction(archive.connections) as conn:
        ids = [row[0] for row in conn.execute("SELECT subject_id FROM subject_keys")]
        assert len(load_keys(conn, safe, ids)) == len(ids)
    return safe


def wanted(archive: Archive) -> dict[str, tuple[int, bytes]]:
    """Every object that is to be in a second vault."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(sql.SQL("SELECT key, bytes, sha256 FROM ({}) AS o").format(sql.SQL(points.OBJECTS)), EVERY)
        return {key: (size, bytes(digest)) for key, size, digest in rows}


def standing(second: Path, *folders: str) -> dict[str, tuple[int, bytes]]:
    """What stands in these folders of the second vault."""
    found = {}
    for folder in folders:
        for stored in open_vault(second.as_uri()).list(folder):
            content = (second / stored.key).read_bytes()
            found[stored.key] = (len(content), sha256(content).digest())
    return found


def test_a_backup_that_is_killed(site: Site) -> None:
    archive, took = site.archive, 0.5
    for count in site.rounds(0.3):
        for folder in ("records", "descriptors", "schedules", "pages", "points", "safe"):
            shutil.rmtree(site.second / folder)
        site.capture(Document("LONG", uuid4().hex))
        ended = site.kill(count, took, commands(archive.settings, site.folder), "backup", "run")
        assert ended.code == 0, ended.said
        took = ended.seconds
        objects = wanted(archive)
        assert standing(site.second, "records", "descriptors", "schedules") == objects
        second = archive.seconds["disk"]
        with transaction(archive.connections) as conn:
            verifiers = [key.verifier for key in keys.all_keys(conn)]
        for point_id in points.listed(second):  # one that was killed after it had signed is as good
            point = points.read(second, point_id, verifiers)
            assert {key: (size, digest) for key, size, digest in points.objects(second, point)} == objects
        assert in_order(archive) == []


def test_a_prune_that_is_killed(site: Site) -> None:
    archive, took = site.archive, 0.5
    for count in site.rounds(0.2):
        stays = backup.run(archive, "disk", now).point
        assert stays is not None
        for _ in range(20):
            stray = site.second / "records" / str(new_id(now())) / uuid4().hex
            stray.parent.mkdir()
            stray.write_bytes(b"of no point")
            (site.second / "pages" / sha256(uuid4().bytes).hexdigest()).write_bytes(b"of no point")
        ended = site.kill(count, took, commands(archive.settings, site.folder), "backup", "prune")
        assert ended.code == 0, ended.said
        took = ended.seconds
        assert points.listed(archive.seconds["disk"]) == [stays.id]
        assert standing(site.second, "records", "descriptors", "schedules") == wanted(archive)
        pages = {f"pages/{page.sha256}" for page in points.pages_of(stays)} | {f"pages/{stays.index_sha256}"}
        assert standing(site.second, "pages").keys() == pages
        assert in_order(archive) == []


def test_new_keys_that_are_killed(site: Site) -> None:
    archive, took = site.archive, 0.5
    for count in site.rounds(0.25):
        before = documents(archive)
        site.destroy(site.capture(*(Document(one, f"{one} {uuid4().hex}") for one in ("SHORT", "LAW"))))
        due = rekeying.due(archive, now())
        assert len(due) == 2
        ended = site.kill(count, took, commands(archive.settings, site.folder), "key", "rekey")
        assert ended.code == 0, ended.said
        took = ended.seconds
        assert rekeying.due(archive, now()) == []
        assert not {one.id for one in opened(archive).buckets()} & {*due}
        there = documents(archive)
        assert {record: there[record] for record in before} == before
        assert [str(one) for one in verify(archive).problems] == []


def test_a_new_root_that_is_killed(site: Site) -> None:
    """Every root that came to be is told, once, and follows the one before it; the safe is sealed to the last alone."""
    archive, took = site.archive, 0.5
    first = archive.safe.root.id
    for count in site.rounds(0.15):
        ended = site.kill(count, took, commands(archive.settings, site.folder), "key", "rotate")
        assert ended.code == 0, ended.said
        took = ended.seconds
        safe = opened(archive)
        with transaction(archive.connections) as conn:
            told = conn.execute(
                "SELECT j ->> 'replaces', j ->> 'root' FROM (SELECT position, convert_from(entry, 'UTF8')::jsonb "
                "-> 'detail' AS j FROM events WHERE type = 'enc') AS e WHERE j ? 'root' ORDER BY position"
            ).fetchall()
        roots = [first, *(UUID(root) for _, root in told)]
        assert [UUID(replaced) for replaced, _ in told] == roots[:-1] == [one.id for one in safe.former]
        assert roots[-1] == safe.root.id and len({*roots}) == len(roots)
        newest = max((site.second / "safe").iterdir())
        for content in ((archive.settings.keys / "safe.age").read_bytes(), newest.read_bytes()):
            assert opens(safe.root.secret, content)
            assert not any(opens(one.secret, content) for one in safe.former)
        assert in_order(archive) == []


@contextmanager
def new_machine(site: Site, services: Services, template: str) -> Iterator[Settings]:
    """An empty one, with the root key; gone at the end of the block."""
    name, settings = f"test_{uuid4().hex}", site.archive.settings
    folder = site.folder / name
    (folder / "var/keys").mkdir(parents=True, mode=0o700)
    for path in (settings.keys / "root.key", *settings.keys.glob("ledger-*.key")):
        shutil.copy2(path, folder / "var/keys")
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY")
        yield replace(
            settings,
            root=folder / "var",
            vault_url=f"file://{folder}/vault",
            database_url=f"{settings.database_url.rpartition('/')[0]}/{name}",
            database_owner_url=f"{(settings.database_owner_url or '').rpartition('/')[0]}/{name}",
            backups=(),
        )
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    shutil.rmtree(folder)


def test_a_restore_that_is_killed(site: Site, services: Services, template: str) -> None:
    """After the point one record is destroyed, keys are new, and another one is destroyed: their certificates come too
    late, nothing else is lost."""
    archive = site.archive
    point, kept = backup.listed(archive)[0], documents(archive)
    site.destroy(site.old[:1])
    rekeying.rekey(archive, now)
    site.destroy(site.old[1:])
    publishing.publish(archive, now())
    late = sorted(map(str, documents(archive).keys() - kept.keys()))
    ends: list[Rows] = []
    took = 2.0
    for count in (0, *site.rounds(0.1)):
        shutil.rmtree(site.second / "ledger")  # a restored archive publishes on
        shutil.copytree(site.folder / "vault/ledger", site.second / "ledger")
        with new_machine(site, services, template) as new:
            ended = site.kill(count, took, commands(new, site.folder), "--json", "restore", "--from", "disk")
            took = ended.seconds
            assert "{" in ended.said, ended.said
            said = json.loads(ended.said[ended.said.index("{") :])
            assert (said["point_id"], said["resurrected"], said["verified"]) == (str(point.id), 0, True), said
            assert said["problems"] == [] and said["lost"] == late
            with open_archive(new, now()) as restored:
                assert documents(restored) == {one: kept[one] for one in kept if one not in site.old}
                assert [str(one) for one in verify(restored).problems] == []
                ends.append(rows_of(new))
            differ = {table for table in ends[0].tables if unlike(ends[0], ends[-1], table)}
            assert differ <= OF_THE_RESTORE
            for table, column in (("events", "type"), ("pseudonyms", "pseudonym_id"), ("subject_keys", "subject_id")):
                assert ends[-1].column(table, column) == ends[0].column(table, column)
