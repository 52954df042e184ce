"""PostgreSQL: connections, and migrations that only go forward.

Rules of this module:
- A migration is a file `retention/sql/NNNN_name.sql`, applied once, whole, in order, in one transaction each;
  its SHA-256 is kept, and a file that changed after it was applied is refused: the past is not rewritten.
- An unreachable server is ServiceUnavailable with what to do, never a traceback; passwords are in no message.
- Every session speaks UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from retention.errors import Refused, ServiceUnavailable

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

_MIGRATION_LOCK = 0x6D756E69  # an advisory lock of our own: two processes may start at once


def pool(url: str, *, size: int = 4, patience: float = 10.0) -> ConnectionPool[Connection]:
    """A pool of up to `size` connections, opened lazily; `patience` in seconds before ServiceUnavailable."""
    return ConnectionPool(
        url,
        min_size=0,
        max_size=size,
        open=True,
        timeout=patience,
        reconnect_timeout=patience / 2,  # then it starts afresh, not minutes after the server came back
        check=ConnectionPool.check_connection,
        kwargs={"application_name": "muniment", "connect_timeout": 5, "options": "-c timezone=UTC"},
    )


@contextmanager
def transaction(connections: ConnectionPool[Connection]) -> Iterator[Connection]:
    """One transaction: committed at the end of the block, rolled back if it raises."""
    try:
        with connections.connection() as conn:
            yield conn
    except (psycopg.OperationalError, PoolTimeout) as error:
        raise unavailable(str(connections.conninfo), error) from error


def unavailable(url: str, error: Exception) -> ServiceUnavailable:
    """The same condition in words for the operator; the URL's password is left out."""
    parts = urlsplit(url)
    where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    said = str(error).strip().splitlines()
    return ServiceUnavailable(
        f"PostgreSQL at {where} did not answer ({said[-1] if said else type(error).__name__}). "
        "Start it (`muniment up` for the embedded one, `muniment status` to look), then run the same again: "
        "nothing that was committed is lost and nothing is done twice."
    )


def migrate(url: str) -> list[str]:
    """Bring the catalog to the current shape; returns the names of the migrations applied now."""
    applied: list[str] = []
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            conn.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL, "
                "sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            known = {n: bytes(d) for n, d in conn.execute("SELECT number, sha256 FROM schema_migrations")}
            for number, name, text in _files():
                digest = hashlib.sha256(text.encode()).digest()
                if number not in known:
                    conn.execute(text.encode())
                    conn.execute(
                        "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)",
                        (number, name, digest),
                    )
                    applied.append(name)
                elif known[number] != digest:
                    raise Refused(
                        f"refusing to go on: migration {name} was changed after it was applied to this database "
                        f"(expected SHA-256 {known[number].hex()[:12]}…, found {digest.hex()[:12]}…). "
                        "Put the released file back; make a change in a new migration."
                    )
            if newer := sorted(set(known) - {number for number, _, _ in _files()}):
                raise Refused(
                    f"refusing to go on: this database was migrated by a newer Muniment (migration {newer[-1]}). "
                    "Install that version."
                )
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    return applied


def _files() -> list[tuple[int, str, str]]:
    folder = resources.files("retention") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), name, (folder / name).read_text("utf-8")) for name in names]
