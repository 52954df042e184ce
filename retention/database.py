"""PostgreSQL: connections, and migrations that only go forward.

Rules of this module:
- A migration is a file `retention/sql/NNNN_name.sql`, applied once, whole, in order, in one transaction each;
  its SHA-256 is kept, and a file that changed after it was applied is refused: the past is not rewritten.
- Three kinds of role (sql/0004_roles.sql, docs/operating.md): the owner migrates, the application works, an auditor
  reads. The application is refused if its role could rewrite history; the owner is asked for only where a migration
  is still to be done.
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

APPLICATION, OWNER = "MUNIMENT_DATABASE_URL", "MUNIMENT_DATABASE_OWNER_URL"
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


def in_words(url: str, error: psycopg.Error, variable: str = APPLICATION) -> MunimentError | None:
    """The error in words for the one who must act, without the URL's password; None if it is a defect.

    `variable` is the setting that holds the URL."""
    where, said, state = _where(url), _said(error), error.sqlstate or _state_at_connecting(error)
    if state is None:
        return unavailable(url, error) if isinstance(error, psycopg.OperationalError) else None
    if state in _CORRECTIONS or state.startswith("28"):
        wanted = _CORRECTIONS.get(state, "Correct user and password in {variable}").format(variable=variable)
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
    "3D000": "Create the database, or correct its name in {variable}",
    "42501": "Grant the user what is missing (docs/operating.md says what each needs), or name another in {variable}",
    _PARAMETER: "Correct the parameters of {variable}",
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


def prepare(url: str, owner_url: str | None) -> None:
    """Have the catalog in its current shape, and be sure that the role of `url` cannot rewrite history.

    The owner connects only where a migration is still to be done. Raises UsageError, ServiceUnavailable, and Refused
    where the role could rewrite history, where the owner is wanted and unknown, or where the catalog's history of
    migrations is not ours."""
    if not _wanting(url):
        return
    if owner_url is None:
        raise Refused(
            f"refusing to migrate PostgreSQL at {_where(url)} as the application: migrations are still to be done "
            f"there, which its owner alone may do. Set {OWNER} once (docs/operating.md), then run the same again. If "
            "they are done, the application may not see it: GRANT muniment_application TO its role."
        )
    migrate(owner_url)
    if _wanting(url):
        raise UsageError(
            f"PostgreSQL at {_where(url)}: the application does not see what {_where(owner_url)} was migrated to. "
            f"{OWNER} must name the same database as {APPLICATION}, and the application's role must be a member of "
            "muniment_application (GRANT muniment_application TO it)."
        )


def used(url: str) -> bool:
    """Whether the catalog has a history, asked without opening the archive. Raises as `prepare`."""
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            seen = conn.execute("SELECT has_table_privilege(to_regclass('public.ledger_head'), 'SELECT')").fetchone()
            return seen == (True,) and conn.execute("SELECT size > 0 FROM ledger_head").fetchone() == (True,)
    except psycopg.Error as error:
        raise in_words(url, error) or error from error


def _wanting(url: str) -> bool:
    """Whether a migration is still to be done, as far as the application may see. Raises as `prepare`."""
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            _refuse_older(url, conn)
            _refuse_rewriter(url, conn)
            seen = conn.execute(
                "SELECT has_table_privilege(to_regclass('public.schema_migrations'), 'SELECT')"
            ).fetchone()
            if seen != (True,):
                return True
            known = _known(conn)
            _refuse_other(known)
            return len(known) < len(migrations())
    except psycopg.Error as error:
        raise in_words(url, error) or error from error


def migrate(url: str) -> list[str]:
    """Bring the catalog to the current shape, as its owner; returns the names of the migrations applied now.

    Raises UsageError for a server that is too old or refuses, ServiceUnavailable, and Refused where the
    catalog's history of migrations is not ours."""
    applied: list[str] = []
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            _refuse_older(url, conn, OWNER)
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            conn.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL, "
                "sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            known = _known(conn)
            _refuse_other(known)
            for number, name, text in migrations():
                if number not in known:
                    conn.execute(text.encode())
                    conn.execute(
                        "INSERT INTO schema_migrations (number, name, sha256) VALUES (%s, %s, %s)",
                        (number, name, hashlib.sha256(text.encode()).digest()),
                    )
                    applied.append(name)
    except psycopg.errors.InsufficientPrivilege as error:
        if (statement := error.diag.message_hint) is None:
            raise in_words(url, error, OWNER) or error from error
        raise UsageError(
            f"PostgreSQL at {_where(url)} refused: {_said(error)}. Have a superuser run, once for the whole server:\n"
            f"{statement}\nthen run the same again."
        ) from error
    except psycopg.Error as error:
        raise in_words(url, error, OWNER) or error from error
    return applied


def _known(conn: Connection) -> dict[int, bytes]:
    return {n: bytes(d) for n, d in conn.execute("SELECT number, sha256 FROM public.schema_migrations")}


def _refuse_other(known: dict[int, bytes]) -> None:
    """Refuse a history of migrations that is not ours."""
    for number, name, text in migrations():
        digest = hashlib.sha256(text.encode()).digest()
        if known.get(number, digest) != digest:
            raise Refused(
                f"refusing to go on: migration {name} was changed after it was applied to this database "
                f"(expected SHA-256 {known[number].hex()[:12]}…, found {digest.hex()[:12]}…). "
                "Put the released file back; make a change in a new migration."
            )
    if newer := sorted(set(known) - {number for number, _, _ in migrations()}):
        raise Refused(
            f"refusing to go on: this database was migrated by a newer Muniment (migration {newer[-1]}). "
            "Install that version."
        )


def _refuse_older(url: str, conn: Connection, variable: str = APPLICATION) -> None:
    if conn.info.server_version < OLDEST * 10_000:
        raise UsageError(
            f"PostgreSQL at {_where(url)}: expected PostgreSQL {OLDEST} or newer, found "
            f"{_version(conn.info.server_version)}. Upgrade it, or name another in {variable}."
        )


def _refuse_rewriter(url: str, conn: Connection) -> None:
    """Refuse a role that could rewrite history, itself or as another role that it may become."""
    row = conn.execute(
        """SELECT session_user, string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) FROM pg_roles r
            WHERE pg_has_role(session_user, r.oid, 'MEMBER')
              AND (r.rolsuper
                   OR r.rolname IN ('pg_write_server_files', 'pg_execute_server_program')
                   OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
                   OR r.oid = (SELECT nspowner FROM pg_namespace WHERE nspname = 'public')
                   OR EXISTS (SELECT FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid
                               WHERE t.tgfoid = to_regproc('public.history_is_append_only')
                                 AND (c.relowner = r.oid
                                      OR has_table_privilege(r.oid, c.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER'))))"""
    ).fetchone()
    if row is not None and row[1] is not None:
        raise Refused(
            f"refusing to work with PostgreSQL at {_where(url)} as {row[0]}: it could rewrite history, as {row[1]}. "
            f"Name a role of its own in {APPLICATION} that is a member of muniment_application and of nothing else, "
            f"and the owner in {OWNER} (docs/operating.md)."
        )


def _version(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def migrations() -> list[tuple[int, str, str]]:
    folder = resources.files("retention") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), name, (folder / name).read_text("utf-8")) for name in names]
