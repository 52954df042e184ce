"""PostgreSQL: connections, and migrations that only go forward.

Rules of this module:
- A migration is a file `retention/sql/NNNN_name.sql`, applied once, whole, in order, in one transaction each;
  its SHA-256 is kept, and a file that changed after it was applied is refused: the past is not rewritten.
- An error is for the one who must act, by its SQLSTATE: a server that is away, full or was in another's way
  is ServiceUnavailable, a wrong name or right is UsageError. Any other is a defect, and is left as it is.
- Passwords are in no message, nor is a row of a table.
- Every session speaks UTC.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout

from retention.errors import MunimentError, Refused, ServiceUnavailable, UsageError

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

OLDEST = 18  # virtual columns and uuidv7(), which the migrations use, are new in it
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
    """One transaction: committed at the end of the block, rolled back if it raises.

    Raises ServiceUnavailable or UsageError as `in_words` says; other errors of psycopg as they are."""
    url = str(connections.conninfo)
    try:
        with connections.connection() as conn:
            yield conn
    except PoolTimeout as error:  # it knows only that it waited; the server says why
        raise _why_none(url, error) from error
    except psycopg.Error as error:
        if (told := in_words(url, error)) is None:
            raise
        raise told from error


def in_words(url: str, error: psycopg.Error) -> MunimentError | None:
    """The error in words for the one who must act, without the URL's password; None if it is a defect."""
    where, said, state = _where(url), _said(error), error.sqlstate or _state_at_connecting(error)
    if state is None:
        return unavailable(url, error) if isinstance(error, psycopg.OperationalError) else None
    if state in _CORRECTIONS or state.startswith("28"):
        wanted = _CORRECTIONS.get(state, "Correct user and password in MUNIMENT_DATABASE_URL")
        return UsageError(f"PostgreSQL at {where} refused: {said}. {wanted}, then run the same again.")
    if state.startswith("53"):
        return ServiceUnavailable(
            f"PostgreSQL at {where} has no room: {said}. Free disk space, memory or connections there, then run "
            "the same again: nothing that was committed is lost and nothing is done twice."
        )
    if state.startswith(("08", "57P", "58")):
        return unavailable(url, error)
    if state.startswith("40"):
        return ServiceUnavailable(
            f"PostgreSQL at {where}: another process was in the way ({said}). Run the same again: nothing that was "
            "committed is lost and nothing is done twice."
        )
    return None


_PARAMETER = "a parameter"  # no SQLSTATE: libpq refuses it itself
_CORRECTIONS = {
    "3D000": "Create the database, or correct its name in MUNIMENT_DATABASE_URL",
    "42501": "Grant the user what is missing (it must own the database), or name another in MUNIMENT_DATABASE_URL",
    _PARAMETER: "Correct the parameters of MUNIMENT_DATABASE_URL",
}


def unavailable(url: str, error: Exception) -> ServiceUnavailable:
    """That the server does not answer, in words for the operator; the URL's password is left out."""
    return ServiceUnavailable(
        f"PostgreSQL at {_where(url)} did not answer ({_said(error)}). "
        "Start it (`muniment up` for the embedded one, `muniment status` to look), then run the same again: "
        "nothing that was committed is lost and nothing is done twice."
    )


def _why_none(url: str, error: PoolTimeout) -> MunimentError:
    """Why the pool had no connection to give: asked of the server once more, since the pool keeps no reason."""
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error as reason:
        return in_words(url, reason) or unavailable(url, reason)
    return unavailable(url, error)


def _where(url: str) -> str:
    try:
        found = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        return "the address of MUNIMENT_DATABASE_URL"
    return f"{found.get('host') or 'localhost'}:{found.get('port') or 5432}/{found.get('dbname') or ''}"


def _said(error: Exception) -> str:
    """The first line of it: what follows may quote rows, or asks whether the server is running."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# libpq has no SQLSTATE for a connection that never was; a server of another language is "did not answer",
# with its own words.
_AT_CONNECTING = (
    (re.compile(r'FATAL: +database "[^"]*" does not exist'), "3D000"),
    (re.compile(r"FATAL: +(permission denied for database|must be owner)"), "42501"),
    (re.compile(r"FATAL: +\S+ authentication failed|no password supplied|no pg_hba\.conf entry"), "28000"),
    (re.compile(r'FATAL: +role "[^"]*" (does not exist|is not permitted to log in)'), "28000"),
    (re.compile(r"FATAL: +(sorry, too many clients|remaining connection slots|too many connections)"), "53300"),
    (re.compile(r"^connection is bad: invalid "), _PARAMETER),
)


def _state_at_connecting(error: psycopg.Error) -> str | None:
    if not isinstance(error, psycopg.OperationalError):
        return None
    return next((state for pattern, state in _AT_CONNECTING if pattern.search(str(error))), None)


def migrate(url: str) -> list[str]:
    """Bring the catalog to the current shape; returns the names of the migrations applied now.

    Raises UsageError for a server that is too old or refuses, ServiceUnavailable, and Refused where the
    catalog's history of migrations is not ours."""
    applied: list[str] = []
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            if conn.info.server_version < OLDEST * 10_000:
                raise UsageError(
                    f"PostgreSQL at {_where(url)}: expected PostgreSQL {OLDEST} or newer, found "
                    f"{_version(conn.info.server_version)}. Upgrade it, or name another in MUNIMENT_DATABASE_URL."
                )
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
    except psycopg.Error as error:
        if (told := in_words(url, error)) is None:
            raise
        raise told from error
    return applied


def _version(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def _files() -> list[tuple[int, str, str]]:
    folder = resources.files("retention") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), name, (folder / name).read_text("utf-8")) for name in names]
