"""Backup and restore beside restic and borg, on the same files, in one run.

    make bench-storage OBJECTS=20000 BYTES=100000

An archive with so many sealed objects in a folder is backed up to another folder, backed up once more with nothing new,
checked with all its data read, and restored to an empty machine: catalog, ledger and verification included, which the
others do not have. restic and borg (Debian packages; left out where they are not there) do the same with the folder of
the vault. The goals are ratios to restic: first backup 1.1, nothing new 1.0, check 1.2, restore 1.2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

from retention import backup, capture, embedded, runs
from retention.archive import Archive, open_archive
from retention.backup import checking
from retention.config import BackupVault, Settings
from retention.history import keys
from retention.model import Batch, Deposit, Description, Sighting, Unit, new_id
from retention.recovery import restore
from retention.vault import open_vault
from tests.deposits import schedule

OBJECTS, BYTES = int(os.environ.get("OBJECTS", "20000")), int(os.environ.get("BYTES", "100000"))
BATCH = 500
GOALS = {"first backup": 1.1, "nothing new": 1.0, "check, all data read": 1.2, "restore": 1.2}
PASSWORD = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


def now() -> datetime:
    return datetime.now(UTC)


def fill(archive: Archive) -> None:
    """So many documents of random bytes, captured by the front door."""
    version, spool = schedule(archive, now()), archive.settings.spool
    spool.mkdir(parents=True, exist_ok=True)
    for first in range(0, OBJECTS, BATCH):
        run_id, units = new_id(now()), []
        runs.start(archive, run_id, "bench", version, now())
        for number in range(first, min(first + BATCH, OBJECTS)):
            record_id, content = new_id(now()), os.urandom(BYTES)
            path, digest = spool / str(record_id), sha256(content).digest()
            path.write_bytes(content)
            place = f"in/{number}"
            described = Description(name="x.bin", source="bench", place=place, sha256=digest, mime="image/x-noise")
            deposit = Deposit(record_id, path, digest, BYTES, "FIN-010", "bench", described, date(2020, 1, 1))
            units.append(Unit(Sighting(archive.safe.place("bench", place), archive.safe.content(digest)), (deposit,)))
        capture.capture(archive, Batch(run_id, 0, tuple(units)), now)
        for path in spool.iterdir():
            path.unlink()


def seconds(what: Callable[[], object]) -> float:
    """From everything written down and nothing remembered, where the kernel lets us."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def ran(*command: object, folder: Path | None = None) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(
            [str(part) for part in command], check=True, capture_output=True, cwd=folder, env=os.environ | PASSWORD
        )

    return run


def ours(archive: Archive, settings: Settings, root: Path) -> dict[str, float]:
    found = {"first backup": seconds(lambda: backup.run(archive, "disk", now))}
    found["nothing new"] = seconds(lambda: backup.run(archive, "disk", now))
    found["check, all data read"] = seconds(lambda: checking.check(archive, "disk", 1.0, now()))
    there = root / "restored"
    (there / "keys").mkdir(parents=True, mode=0o700)
    for name in ("root.key", *(path.name for path in settings.keys.glob("ledger-*"))):
        shutil.copy(settings.keys / name, there / "keys" / name)
    services = embedded.up(there, postgres=True, s3=False)
    try:
        empty = replace(
            settings,
            root=there,
            database_url=services.database_url,
            database_owner_url=services.owner_url,
            vault_url=f"file://{root}/back",
            backups=(),
        )
        second = open_vault(f"file://{root}/second")
        restored = []
        found["restore"] = seconds(lambda: restored.append(restore(empty, second, (), now)))
        assert restored[0].lost == [] and restored[0].resurrected == 0 and restored[0].verified.ok, restored
    finally:
        embedded.down(there)
    return found


def restic(vault: Path, root: Path) -> dict[str, float]:
    command = ("restic", "-q", "-r", root / "restic")
    ran(*command, "init")()
    found = {"first backup": seconds(ran(*command, "backup", vault))}
    found["nothing new"] = seconds(ran(*command, "backup", vault))
    found["check, all data read"] = seconds(ran(*command, "check", "--read-data"))
    found["restore"] = seconds(ran(*command, "restore", "latest", "--target", root / "from-restic"))
    return found


def borg(vault: Path, root: Path) -> dict[str, float]:
    repository = root / "borg"
    ran("borg", "init", "-e", "repokey-blake2", repository)()
    found = {"first backup": seconds(ran("borg", "create", f"{repository}::1", vault))}
    found["nothing new"] = seconds(ran("borg", "create", f"{repository}::2", vault))
    found["check, all data read"] = seconds(ran("borg", "check", "--verify-data", repository))
    (root / "from-borg").mkdir()
    found["restore"] = seconds(ran("borg", "extract", f"{repository}::1", folder=root / "from-borg"))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_WORKSPACE")) as temporary:
        root = Path(temporary)
        services = embedded.up(root / "var", postgres=True, s3=False)
        try:
            settings = Settings(
                root=root / "var",
                database_url=services.database_url,
                database_owner_url=services.owner_url,
                vault_url=f"file://{root}/vault",
                agent="bench",
                backups=(BackupVault("disk", f"file://{root}/second"),),
            )
            with open_archive(settings, now()) as archive:
                keys.create(archive, "bench.example.org/ledger", now())
                fill(archive)
                print(
                    f"{OBJECTS:,} objects of {BYTES:,} bytes, from folder to folder; {os.cpu_count()} cores", flush=True
                )
                found = {"muniment": ours(archive, settings, root)}
            for name, other in (("restic", restic), ("borg", borg)):
                if shutil.which(name):
                    found[name] = other(root / "vault", root)
        finally:
            embedded.down(root / "var")
    print(f"{'':24}" + "".join(f"{name:>12}" for name in found) + f"{'ratio':>9}  at most")
    good = True
    for what, goal in GOALS.items():
        line = f"{what:24}" + "".join(f"{taken[what]:>10.2f} s" for taken in found.values())
        if "restic" in found:
            ratio = found["muniment"][what] / found["restic"][what]
            good &= ratio <= goal
            line += f"{ratio:>9.2f}  {goal} {'ok' if ratio <= goal else 'MISSED'}"
        print(line)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
