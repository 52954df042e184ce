"""docs/disaster-recovery.md as it stands: each of its blocks is typed into a shell, on machines that have nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retention import backup, embedded
from retention.archive import Archive, open_archive
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.embedded import postgres, processes
from retention.history import keys
from tests.archive_builder import Document, capture_all, load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/disaster-recovery.md"
A_MINUTE = 60.0  # as the page says of an archive of a few records

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Typed:
    """A line of the page, its exit code and what was printed."""

    line: str
    code: int
    said: str


@dataclass(frozen=True)
class Machine:
    """A folder in which a person types; `/mnt` of the page is a folder of the test."""

    folder: Path
    mounted: Path
    vkey: str
    variables: dict[str, str] = field(default_factory=dict)  # exported by a block, and there for those after it

    def type(self, block: str) -> list[Typed]:
        lines = block.replace("/mnt/", f"{self.mounted}/").splitlines()
        script = "".join(f'{line}\necho "\n<$?>"\n' for line in lines)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MUNIMENT", "AWS_"))}
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "VKEY": self.vkey,
        }
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.folder,
            env={**kept, **own, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        self.variables.update(re.findall(r'^export (\w+)="(.*)"$', "\n".join(lines), re.M))
        *said, rest = re.split(r"\n<(\d+)>\n", done.stdout)
        assert rest == "", done.stdout
        return [Typed(*one) for one in zip(lines, map(int, said[1::2]), said[::2], strict=True)]

    @property
    def settings(self) -> Settings:
        up = embedded.load(self.folder / "var")
        assert up is not None
        return Settings(
            root=self.folder / "var",
            database_url=up.database_url,
            vault_url=up.vault_url,
            vault_access_key=up.access_key,
            vault_secret_key=up.secret_key,
        )


def now() -> datetime:
    return datetime.now(UTC)


def well(typed: list[Typed]) -> dict[str, str]:
    """What each line said; none failed."""
    assert [one for one in typed if one.code] == []
    return {one.line: one.said for one in typed}


@pytest.fixture
def lost(settings: Settings, tmp_path: Path) -> tuple[str, Path]:
    """An archive that is gone: of three records a copy in the second vault, the keys apart. The ledger's public key,
    and the folder that the page calls /mnt."""
    mounted = tmp_path / "mnt"
    mounted.mkdir()
    (tmp_path / "gone/vault").mkdir(parents=True)
    there = replace(
        settings,
        root=tmp_path / "gone/var",
        vault_url=f"file://{tmp_path}/gone/vault",
        backups=(BackupVault("disk", f"file://{mounted}/backup/muniment"),),
    )
    with open_archive(there, now()) as archive:
        load(archive, now)
        keys.create(archive, "records.example.org/ledger", now())
        capture_all(archive, [Document("LONG", f"kept {n}") for n in range(3)], now, tmp_path / "in")
        assert backup.run(archive, "disk", now).problems == []
        with transaction(archive.connections) as conn:
            vkey = keys.current(conn).verifier.vkey
    (mounted / "apart").mkdir()
    for path in (there.keys / "root.key", *there.keys.glob("ledger-*.key")):
        shutil.copy2(path, mounted / "apart")
    shutil.rmtree(tmp_path / "gone")
    return vkey, mounted


@pytest.fixture
def machine(lost: tuple[str, Path], tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "new"
    folder.mkdir()
    yield Machine(folder, lost[1], lost[0])
    var = folder / "var"
    processes.end(processes.marked(var) + processes.living_in(postgres.data_folder(var), "postgres"), KILL)


KILL = (signal.SIGKILL, 5.0)


def blocks() -> dict[str, list[str]]:
    """What is to be typed, by the heading that it stands below."""
    sections = PAGE.read_text().split("\n## ")
    found = {one.splitlines()[0]: re.findall(r"^```sh\n(.*?)\n```$", one, re.M | re.S) for one in sections}
    return {heading: typed for heading, typed in found.items() if typed}


def lose_a_document(archive: Archive) -> None:
    archive.vault.erase(next(iter(archive.vault.list("records/"))).key)


def test_the_runbook(machine: Machine) -> None:
    page = blocks()
    (restoring,) = page.pop("The machine, the catalog and the vault are gone")
    began = time.monotonic()
    said = well(machine.type(restoring))
    assert time.monotonic() - began < A_MINUTE
    (restored,) = (text for line, text in said.items() if line.startswith("muniment restore"))
    assert "3 records" in restored and "lost: 0; resurrected: 0; verified" in restored
    assert "could not be published" not in restored
    took = re.search(r"in (\d+\.\d) s$", restored, re.M)
    assert took and 0 < float(took[1]) < A_MINUTE
    assert " whole" in said['muniment verify --key "$VKEY"']

    (drill,) = page.pop("Knowing beforehand")
    (drilled,) = well(machine.type(drill)).values()
    assert "3 records" in drilled and "the copy of the root key opens the archive" in drilled

    with open_archive(machine.settings, now()) as archive:
        lose_a_document(archive)
    (healing,) = page.pop("Single documents are damaged")
    (healed,) = well(machine.type(healing)).values()
    assert "1 healed" in healed

    begun_anew, rebuilding = page.pop("The database is gone, the vault is not")
    well(machine.type(begun_anew))
    rebuilt, verified = machine.type(rebuilding)
    assert rebuilt.code == 1 and ": 3 records\n3 of them cannot be opened" in rebuilt.said
    assert verified.code == 1 and "its key is missing in table subject_keys" in verified.said
    assert page == {}
