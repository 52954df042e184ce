"""`muniment verify`: an archive to which everything happened is whole, and whatever is changed in it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import Connection
from retention.embedded import Services
from retention.history import publishing
from retention.verification import Verification, verify
from tests.archive_builder import enrol, load
from tests.integration.test_life import PERSONAL, everything

Clock = Callable[[], datetime]


@dataclass
class Whole:
    archive: Archive
    vault: Path
    conn: Connection  # of one who may do everything

    def problems(self) -> list[str]:
        return [str(problem) for problem in verify(self.archive).problems]


@pytest.fixture
def whole(settings: Settings, services: Services, tmp_path: Path, clock: Clock) -> Iterator[Whole]:
    (tmp_path / "vault").mkdir()
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", agent="Noa Bar")
    url = f"{services.superuser_url.rpartition('/')[0]}/{settings.database_url.rpartition('/')[2]}"
    with open_archive(named, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        everything(archive, clock, tmp_path)
        publishing.publish(archive, clock())
        with psycopg.connect(url, options="-c timezone=UTC") as conn:
            conn.execute("SET session_replication_role = replica")
            conn.commit()
            yield Whole(archive, tmp_path / "vault", conn)


def test_an_archive_to_which_everything_happened(whole: Whole) -> None:
    found = verify(whole.archive)
    assert [str(problem) for problem in found.problems] == []
    assert isinstance(found, Verification) and found.size == found.published and found.checkpoints == 2
