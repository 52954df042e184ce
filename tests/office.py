"""The command line over an archive with a ledger of its own, for tests that type commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from retention import ledger
from retention.archive import Archive, open_archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.errors import MunimentError
from retention.ledger import Event

ORIGIN = "records.example.org/ledger"


@dataclass(frozen=True)
class Office:
    """The command line over an archive with a vault in a folder and one record."""

    settings: Settings
    record: str
    vkey: str

    def __call__(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        found = CliRunner().invoke(app, ["--json", *map(str, arguments)])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == code, found.output
        return {**json.loads(found.stdout), "stderr": found.stderr}

    def people(self, *arguments: object) -> str:
        return CliRunner().invoke(app, [*map(str, arguments)]).stdout

    def append(self, count: int) -> None:
        with open_archive(self.settings, datetime.now(UTC)) as archive:
            append(archive, count)

    @property
    def vault(self) -> Path:
        return Path(self.settings.vault_url.removeprefix("file://"))


def append(archive: Archive, count: int) -> None:
    now = datetime.now(UTC)
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("fix", now, archive.agent, (uuid4(),)) for _ in range(count)], now)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuses(kind: type[MunimentError], match: str, office: Office, *arguments: object) -> None:
    with pytest.raises(kind, match=match):
        office(*arguments)
