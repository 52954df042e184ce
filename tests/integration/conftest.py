"""A ledger that was published and exported, for tests of what is handed out."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retention.archive import open_archive
from retention.config import Settings
from tests.deposits import Doc, deposit
from tests.office import ORIGIN, Office, append


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A ledger of more than 600 events, not yet published."""
    url = f"file://{tmp_path}/vault"
    monkeypatch.setenv("MUNIMENT_WORKSPACE", str(settings.root))
    monkeypatch.setenv("MUNIMENT_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("MUNIMENT_VAULT_URL", url)
    settings = replace(settings, vault_url=url)
    with open_archive(settings, datetime.now(UTC)) as archive:
        append(archive, 300)
        (record,) = deposit(archive, Doc("breach", author="Ruth Levi", title="letter"))
        append(archive, 300)
    office = Office(settings, str(record), "")
    made = office("ledger", "init", "--origin", ORIGIN)
    assert made["origin"] == ORIGIN and stat.S_IMODE(Path(made["file"]).stat().st_mode) == 0o600
    return replace(office, vkey=made["vkey"])


@pytest.fixture
def audit(run: Office, tmp_path: Path) -> Path:
    """The ledger published and exported."""
    run("ledger", "publish")
    run("ledger", "export", tmp_path / "audit")
    return tmp_path / "audit"
