"""What tests share: real services, started once for each test process, and a fresh archive for each test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import hypothesis
import psycopg
import pytest

from retention import database, embedded
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.embedded import Services

# A busy machine is not a finding.
hypothesis.settings.register_profile("muniment", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("muniment")


_MEMORY = Path("/dev/shm")  # a file system in memory, where there is one


def pytest_configure() -> None:
    """What tests write is thrown away, and much of it is synced to disk, file by file: in memory that takes no time.
    Tests that kill a process lose nothing by it: what it wrote is there, as it is on a disk."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """PostgreSQL and S3 of this test process; stopped at its end."""
    root = tmp_path_factory.mktemp("services")
    try:
        up = embedded.up(root, postgres=True, s3=True)
        with psycopg.connect(up.superuser_url, autocommit=True) as conn:
            # These databases are thrown away: what survives a crash is tested on services of the test's own.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                conn.execute(f"ALTER SYSTEM SET {setting} = off")
            conn.execute("SELECT pg_reload_conf()")
        yield up
    finally:
        embedded.down(root)


@pytest.fixture(scope="session")
def template(services: Services) -> str:
    """The name of a migrated database, to be copied: faster than migrating for each test."""
    name = f"template_{uuid4().hex[:8]}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} OWNER muniment_owner")
    database.migrate(_in(services.owner_url, name))
    return name


@pytest.fixture
def database_url(services: Services, template: str) -> Iterator[str]:
    """A database of this test's own, migrated and empty; as the application."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY")
    yield _in(services.database_url, name)
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(services: Services, database_url: str, tmp_path: Path) -> Settings:
    """A workspace of this test's own: its database, a prefix of the bucket, its key safe."""
    return Settings(
        root=tmp_path / "var",
        database_url=database_url,
        database_owner_url=_in(services.owner_url, database_url.rpartition("/")[2]),
        vault_url=services.vault_url.replace("/vault?", f"/{uuid4().hex}?"),
        vault_access_key=services.access_key,
        vault_secret_key=services.secret_key,
        agent="Ruth Levi",
    )


@pytest.fixture
def archive(settings: Settings) -> Iterator[Archive]:
    with open_archive(settings, datetime.now(UTC)) as opened:
        yield opened


@pytest.fixture
def commands_here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are typed work on the archive of this test."""
    for name, value in {
        "MUNIMENT_WORKSPACE": str(settings.root),
        "MUNIMENT_DATABASE_URL": settings.database_url,
        "MUNIMENT_VAULT_URL": settings.vault_url,
        "AWS_ACCESS_KEY_ID": settings.vault_access_key or "",
        "AWS_SECRET_ACCESS_KEY": settings.vault_secret_key or "",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """A clock that goes on by a second each time it is read, from noon of 22 November 2026."""
    seconds = itertools.count()
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    return lambda: datetime.fromtimestamp(noon.timestamp() + next(seconds), UTC)


def _in(url: str, name: str) -> str:
    """The URL of another database of the same server and role."""
    return f"{url.rpartition('/')[0]}/{name}"
