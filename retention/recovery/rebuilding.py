"""Rebuild: the catalog of an archive whose database is gone, beside a vault that is not.

Rules of this module: those of the package.
- The vault is the archive's own, and stays as it is: nothing is put, nothing is erased.
- The key safe must be there: it is opened, never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from retention import database
from retention.config import Settings
from retention.database import Connection
from retention.errors import Refused
from retention.history.offline import Problem
from retention.recovery import history, staging, tables
from retention.recovery.history import Published
from retention.seal import open_safe
from retention.tlog.note import Verifier
from retention.vault import open_vault
from retention.verification.tables import tell_history

Teller = Callable[[str, int, int], None]  # what is done, how many of how many


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild found: `size` events with `root`; records by state. `assumed`: nobody gave a key of the ledger."""

    size: int
    root: bytes
    assumed: bool
    records: int = 0
    unreadable: int = 0  # of those that are kept: their keys are in no copy
    problems: list[Problem] = field(default_factory=list)  # of what was to be read in the vault


def rebuild(settings: Settings, trusts: Sequence[Verifier], now: datetime, tell: Teller | None = None) -> Rebuilt:
    """Fill the empty catalog of `settings` from its vault. `trusts`: keys of the ledger that the caller has.

    Raises Refused for a catalog that is not empty or a ledger that is not whole, UsageError without a key safe."""

    def telling(what: str) -> Callable[[int, int], None]:
        return lambda done, of: tell(what, done, of) if tell else None

    vault = open_vault(settings.vault_url, access_key=settings.vault_access_key, secret_key=settings.vault_secret_key)
    vault.check()
    safe = open_safe(settings.keys, now, may_create=False)
    with copied(settings.root) as folder:
        published = history.fetch(vault, folder, trusts, settings.vault_threads, telling("published entries"))
        with catalog(settings) as conn:
            refuse_used(conn)
            history.load(conn, published, telling("events"))
            staging.make(conn)
            problems = staging.look(conn, vault, settings.vault_threads, telling("descriptor objects"))
            tell_history(conn, ())
            problems += staging.open_keys(conn, vault, safe, now)
            problems += staging.open_days(conn, vault, safe)
            tables.fill(conn, safe, 0, now)
            return _counted(conn, published, problems)


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A folder of the workspace for a copy of the ledger, gone afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="recovery-", dir=root) as folder:
        yield Path(folder) / "ledger"


@contextmanager
def catalog(settings: Settings) -> Iterator[Connection]:
    """One transaction of the owner in a catalog that was migrated, one recovery at a time. Raises Refused."""
    database.prepare(settings.database_url, settings.database_owner_url)
    url = settings.database_owner_url or settings.database_url
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            if conn.execute("SELECT pg_try_advisory_xact_lock(hashtext('muniment recovery'))").fetchone() != (True,):
                raise Refused("refusing to recover twice at once: another process is at it. Wait for it.")
            yield conn
    except psycopg.Error as error:
        raise database.in_words(url, error, database.OWNER) or error from error


def refuse_used(conn: Connection) -> None:
    """Into a catalog that was never used. Raises Refused."""
    row = conn.execute(
        "SELECT (SELECT size FROM ledger_head), (SELECT count(*) FROM records), (SELECT count(*) FROM pseudonyms)"
    ).fetchone()
    if row != (0, 0, 0):
        size, records, _ = row or (0, 0, 0)
        raise Refused(
            f"refusing to recover into a catalog that is in use ({size:,} events, {records:,} records): expected an "
            "empty one. Name a new database, or keep the old one under another name first."
        )


def _counted(conn: Connection, published: Published, problems: list[Problem]) -> Rebuilt:
    row = conn.execute(
        """SELECT count(*), count(*) FILTER (WHERE r.state = 1 AND k.subject_id IS NULL)
             FROM records r LEFT JOIN subject_keys k ON k.subject_id = r.record_id"""
    ).fetchone()
    records, unreadable = row or (0, 0)
    return Rebuilt(published.size, published.root, published.assumed, records, unreadable, problems)
