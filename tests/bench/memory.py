"""Memory of what works on every object of a vault, with few and with many of them: it must be the same.

    make bench-storage MANY=100000

An archive of documents of 1 kB is filled, backed up to a folder, checked with all data read, looked at by fixity and
by `verify`, and restored to an empty machine, each in a process of its own, whose most resident memory the kernel
tells (`ru_maxrss`). The goal: with MANY objects at most 1.25 times that with 1,000. PostgreSQL's processes are not
counted: their memory is set.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from retention import backup, embedded, fixity, verification
from retention.archive import Archive, open_archive
from retention.backup import checking
from retention.config import BackupVault, Settings
from retention.embedded import Services
from retention.history import keys
from retention.recovery import restore
from retention.vault import open_vault
from tests.bench.storage import fill, now

FEW, MANY, MOST = 1_000, int(os.environ.get("MANY", "100000")), 1.25


def settings(root: Path, services: Services) -> Settings:
    return Settings(
        root=root / "var",
        database_url=services.database_url,
        database_owner_url=services.owner_url,
        vault_url=f"file://{root}/vault",
        agent="bench",
        backups=(BackupVault("disk", f"file://{root}/second"),),
    )


def _fill(archive: Archive) -> None:
    keys.create(archive, "bench.example.org/ledger", now())
    fill(archive)


def _restore(root: Path, services: Services) -> None:
    there, known = root / "restored", settings(root, services)
    (there / "keys").mkdir(parents=True, mode=0o700)
    for name in ("root.key", *(path.name for path in known.keys.glob("ledger-*"))):
        shutil.copy(known.keys / name, there / "keys" / name)
    new = embedded.up(there, postgres=True, s3=False)
    try:
        empty = replace(known, root=there, backups=(), vault_url=f"file://{root}/new")
        empty = replace(empty, database_url=new.database_url, database_owner_url=new.owner_url)
        done = restore(empty, open_vault(f"file://{root}/second"), (), now)
        assert not done.lost and done.verified.ok, done
    finally:
        embedded.down(there)


PHASES: dict[str, Callable[[Archive], object]] = {
    "capture": _fill,
    "backup": lambda archive: backup.run(archive, "disk", now),
    "check, all data read": lambda archive: checking.check(archive, "disk", 1.0, now()),
    "fixity, all of it": lambda archive: fixity.run(archive, 1.0, now),
    "verify, all of it": lambda archive: verification.verify(archive),
}
RESTORE = "restore"


def phase(name: str, root: Path) -> None:
    """One of them, in this process; its peak in KiB is the last line."""
    services = embedded.load(root / "var")
    assert services is not None
    if name == RESTORE:
        _restore(root, services)
    else:
        with open_archive(settings(root, services), now()) as archive:
            PHASES[name](archive)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peaks(objects: int) -> dict[str, float]:
    """MiB of each phase."""
    environment = os.environ | {"OBJECTS": str(objects), "BYTES": "1000"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_WORKSPACE")) as temporary:
        root = Path(temporary)
        embedded.up(root / "var", postgres=True, s3=False)
        try:
            found = {}
            for name in (*PHASES, RESTORE):
                command = [sys.executable, "-m", "tests.bench.memory", name, str(root)]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found[name] = int(done.stdout.split()[-1]) / 1024
            return found
        finally:
            embedded.down(root / "var")


def main() -> None:
    if sys.argv[1:]:
        phase(sys.argv[1], Path(sys.argv[2]))
        return
    few, many = peaks(FEW), peaks(MANY)
    good = True
    print(f"{'most resident memory':24}{f'{FEW:,} objects':>16}{f'{MANY:,} objects':>18}{'ratio':>9}  at most")
    for name in few:
        ratio = many[name] / few[name]
        good &= ratio <= MOST
        verdict = "ok" if ratio <= MOST else "MISSED"
        print(f"{name:24}{few[name]:>12.0f} MiB{many[name]:>14.0f} MiB{ratio:>9.2f}  {MOST} {verdict}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
