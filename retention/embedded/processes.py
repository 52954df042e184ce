"""Daemons of a workspace: started detached, known again later, stopped to the last child.

Rules of this module:
- A process is known by its pid *and* the moment it started, or by a mark in its environment; a pid alone is
  never trusted, because the kernel gives it to somebody else one day.
- Only processes of this workspace are ever signalled: those in its pid files, their descendants, and those
  that carry its mark. The caller and its ancestors are never signalled.
- Secrets travel in the environment or in files of mode 600, never in an argument list.
- One `up` or `down` at a time works on a workspace (an flock on `services.lock`, let go by the kernel when
  its holder dies).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from retention.errors import ServiceUnavailable, UsageError

# Ports come from below the range that Linux hands to outgoing connections (32768 and up), and so do the gRPC
# ports that SeaweedFS opens 10000 above each: nobody gets them by accident while the services are down.
FIRST_PORT, LAST_PORT = 12000, 21999
GRPC_OFFSET = 10000

MARK = "MUNIMENT_SERVICE"
_LOG_LIMIT = 16 * 1024 * 1024  # bytes; a longer log becomes `<name>.log.1` at the next start

_children: dict[int, subprocess.Popen[bytes]] = {}  # started by this process: somebody must reap them


@dataclass(frozen=True, slots=True)
class Daemon:
    """A started process. `identity` tells it from a later process with the same pid."""

    pid: int
    identity: str


def mark(root: Path, service: str) -> str:
    """What the environment of every process of `service` in the workspace `root` carries under MARK."""
    return f"{service}@{root.resolve()}"


def identity(pid: int) -> str | None:
    """The start of process `pid` in the kernel's own count, or None if there is none (a zombie is none).

    The count since boot, not the time of day: a clock that is set does not make a process another one."""
    if child := _children.get(pid):
        child.poll()
    if not sys.platform.startswith("linux"):
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.NoSuchProcess:
            return None
    try:
        # Fields after the last ")": the name may hold spaces and parentheses (proc_pid_stat(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def launch(
    argv: Sequence[str],
    *,
    pid_file: Path,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    before_exec: Callable[[], None] | None = None,
) -> Daemon:
    """Start `argv` in a session of its own, stdin closed, output appended to `log` (mode 600)."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_name(log.name + ".1"))
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            umask=0o077,
            preexec_fn=before_exec,  # noqa: PLW1509 -- it only makes system calls, in a child of one thread
        )
    _children[process.pid] = process
    started = Daemon(process.pid, identity(process.pid) or "")
    write_private(pid_file, json.dumps({"pid": started.pid, "identity": started.identity}))
    return started


def running(pid_file: Path) -> Daemon | None:
    """The daemon that `pid_file` names, if it is still that process and alive."""
    try:
        found = json.loads(pid_file.read_text())
        daemon = Daemon(int(found["pid"]), str(found["identity"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # no file, or torn by a power cut: strays are found by their mark
    return daemon if daemon.identity and identity(daemon.pid) == daemon.identity else None


def marked(root: Path, service: str | None = None) -> list[psutil.Process]:
    """Every live process that carries the mark of this workspace (of one service, or of all)."""
    workspace = str(root.resolve())
    ours = _self_and_ancestors()
    found = []
    for process in psutil.process_iter():
        # Gone meanwhile, a zombie, or somebody else's: none of them is ours to stop.
        with contextlib.suppress(psutil.Error, OSError):
            name, _, where = process.environ().get(MARK, "").partition("@")
            if where == workspace and service in (None, name) and process.pid not in ours:
                found.append(process)
    return found


def living_in(folder: Path, program: str) -> list[psutil.Process]:
    """Every live process named `program` whose working directory is `folder`.

    PostgreSQL writes its titles over its environment, so its children are known by where they work."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == program and Path(process.cwd()) == folder.resolve():
                found.append(process)
    return found


def family(daemon: Daemon | None) -> list[psutil.Process]:
    """The daemon and all its descendants."""
    if daemon is None:
        return []
    try:
        head = psutil.Process(daemon.pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process], *steps: tuple[signal.Signals, float]) -> list[psutil.Process]:
    """Send each signal in turn and wait its seconds for all to be gone; returns those that outlived all."""
    left = [process for process in processes if process.is_running()]
    for number, seconds in steps:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        left = wait_gone(left, seconds)
        if not left:
            break
    return left


def wait_gone(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all are gone or zombies of somebody else; returns those still there after `seconds`."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while True:
        left = [process for process in left if identity(process.pid) and process.is_running()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def free_ports(count: int, taken: Iterable[int] = ()) -> list[int]:
    """Distinct ports, none of `taken`, that are free now, each with the one GRPC_OFFSET above it."""
    chosen: list[int] = []
    taken = frozenset(taken)
    # Drawn at random, so that workspaces made at the same moment do not all take the same ones.
    for port in random.sample(range(FIRST_PORT, LAST_PORT + 1), 500):
        if port not in taken and is_free(port) and is_free(port + GRPC_OFFSET):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise ServiceUnavailable(
        f"{count} free ports are needed on 127.0.0.1 between {FIRST_PORT} and {LAST_PORT}, {len(chosen)} were "
        "found in 500 tries. Stop what listens there (`ss -ltn`), then run `muniment up` again."
    )


def is_free(port: int) -> bool:
    """True if a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def require_free(service: str, section: str, port: int, state_file: Path) -> None:
    """Raise ServiceUnavailable that names the port, who has it, and what to do, unless it is free."""
    if not is_free(port):
        raise ServiceUnavailable(
            f"{service}: port {port} on 127.0.0.1 is its own (chosen once, kept in {state_file}), but "
            f"{_listener(port)} has it. Stop that program, or change `port` under `{section}` in that file to one "
            f"that is free; then run `muniment up` again. Nothing of {service} was changed."
        )


def _listener(port: int) -> str:
    try:
        for found in psutil.net_connections(kind="tcp"):
            if found.laddr and found.laddr.port == port and found.status == psutil.CONN_LISTEN and found.pid:
                return f"process {found.pid} ({psutil.Process(found.pid).name()})"
    except (psutil.Error, OSError):
        return "another program"
    return "a program of another user"


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the workspace's lock; a second caller waits for the first."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(root / "services.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"{root}: this user cannot write there ({error.strerror}). A workspace belongs to the user who made "
            "it: run as that user, or choose another with --workspace."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text`, mode 600, whole or not at all, on disk before it returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, for a message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
    except FileNotFoundError:
        return "(no log)"


def _self_and_ancestors() -> set[int]:
    me = psutil.Process()
    return {me.pid, *(parent.pid for parent in me.parents())}
