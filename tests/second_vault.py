"""A second vault filled by the pieces that a backup is made of: the ledger, the objects, the key safe, a point."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from psycopg import sql

from retention import ledger
from retention.archive import Archive
from retention.backup import points
from retention.backup.points import Point
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.history import keys, publishing
from retention.vault.base import Vault
from retention.vault.transfer import Wanted, transfer

EVERY: dict[str, Any] = {"left_out": [], "only": None}


def with_disk(settings: Settings, folder: Path) -> Settings:
    """The same, with its vault in a folder below `folder`, and a second vault `disk` that has not joined yet."""
    (folder / "vault").mkdir(exist_ok=True)
    disk = BackupVault("disk", f"file://{folder}/second")
    return replace(settings, vault_url=f"file://{folder}/vault", backups=(disk,))


def publish(archive: Archive, second: Vault, now: datetime) -> None:
    """The ledger in both vaults."""
    publishing.publish(archive, now)
    for stored in archive.vault.list(publishing.FOLDER):
        with archive.vault.open(stored.key) as file:
            content = file.read()
        if stored.key == publishing.CHECKPOINT:
            second.replace(stored.key, content)
        else:
            second.put(stored.key, content, sha256=sha256(content).digest(), size=len(content))


def back_up(archive: Archive, second: Vault, now: datetime) -> Point:
    publish(archive, second, now)
    safe = (archive.settings.keys / "safe.age").read_bytes()
    copy = f"safe/{now:%Y%m%dT%H%M%S}-{sha256(safe).hexdigest()}"
    second.put(copy, safe, sha256=sha256(safe).digest(), size=len(safe))
    with transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows = conn.execute(sql.SQL("{} ORDER BY key").format(sql.SQL(points.OBJECTS)), EVERY).fetchall()
        wanted = [Wanted(key, version, size, bytes(digest)) for key, version, size, digest in rows]
        done = list(transfer(archive.vault, second, wanted, threads=4))
        assert [one.problem for one in done if one.problem] == []
        key = keys.current(conn)
        head = (key.origin, *ledger.head(conn))
        return points.write(conn, second, head, copy, keys.signer(archive, key), now).point
