"""The rules of retention.embedded.processes, on real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from retention.embedded import processes
from retention.errors import ServiceUnavailable, UsageError

SLEEPER = [sys.executable, "-S", "-c", "import time; print('awake', flush=True); time.sleep(60)"]


def launched(root: Path, service: str = "sleeper", argv: list[str] = SLEEPER) -> processes.Daemon:
    (root / "run").mkdir(exist_ok=True, parents=True)
    return processes.launch(
        argv,
        pid_file=root / "run" / f"{service}.json",
        log=root / f"{service}.log",
        cwd=root,
        env={processes.MARK: processes.mark(root, service)},
    )


def test_a_daemon_is_detached_and_known_again_until_it_ends(tmp_path: Path) -> None:
    daemon = launched(tmp_path)
    pid_file = tmp_path / "run" / "sleeper.json"
    assert processes.running(pid_file) == daemon
    assert os.getsid(daemon.pid) == daemon.pid
    assert Path(f"/proc/{daemon.pid}/fd/0").readlink() == Path(os.devnull)
    assert pid_file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sleeper.log").stat().st_mode & 0o777 == 0o600
    assert processes.end(processes.family(daemon), (signal.SIGTERM, 5.0)) == []
    assert processes.running(pid_file) is None


def test_a_pid_that_somebody_else_has_by_now_is_not_ours(tmp_path: Path) -> None:
    pid_file = tmp_path / "service.json"
    own = {"pid": os.getpid(), "identity": processes.identity(os.getpid())}
    pid_file.write_text(json.dumps(own))
    assert processes.running(pid_file) is not None
    pid_file.write_text(json.dumps({**own, "identity": "another boot:1"}))
    assert processes.running(pid_file) is None


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "identity": ""}'])
def test_a_torn_pid_file_names_nobody(tmp_path: Path, torn: str) -> None:
    (tmp_path / "service.json").write_text(torn)
    assert processes.running(tmp_path / "service.json") is None


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    deadline = time.monotonic() + 10
    while processes.identity(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes.identity(child.pid) is None
    child.wait()


def test_strays_are_found_by_their_mark_and_only_those(tmp_path: Path) -> None:
    mine, other = tmp_path / "var", tmp_path / "var-2"
    here = [launched(mine, "a"), launched(mine, "b")]
    there = launched(other, "a")
    try:
        assert {p.pid for p in processes.marked(mine)} == {daemon.pid for daemon in here}
        assert [p.pid for p in processes.marked(mine, "b")] == [here[1].pid]
        assert [p.pid for p in processes.marked(other)] == [there.pid]
    finally:
        for daemon in (*here, there):
            processes.end(processes.family(daemon), (signal.SIGKILL, 5.0))


def test_one_who_carries_the_mark_does_not_stop_itself_or_its_parents(tmp_path: Path) -> None:
    asks = "import sys, pathlib; from retention.embedded import processes; "
    asks += "print([p.pid for p in processes.marked(pathlib.Path(sys.argv[1]))])"
    environment = {**os.environ, processes.MARK: processes.mark(tmp_path, "a"), "PYTHONPATH": str(Path.cwd())}
    inner = [sys.executable, "-c", asks, str(tmp_path)]
    outer = f"import subprocess, sys; subprocess.run({inner!r}, check=True)"
    done = subprocess.run([sys.executable, "-c", outer], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)"
    daemon = launched(tmp_path, argv=[sys.executable, "-S", "-c", stubborn + "; time.sleep(60)"])
    while "ready" not in processes.last_lines(tmp_path / "sleeper.log"):
        time.sleep(0.01)
    left = processes.end(processes.family(daemon), (signal.SIGTERM, 0.2))
    assert [p.pid for p in left] == [daemon.pid]
    assert processes.end(left, (signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0)) == []


def test_ports_are_free_distinct_not_ephemeral_and_not_those_taken() -> None:
    ports = processes.free_ports(5)
    assert len(set(ports)) == 5
    assert all(port >= 12000 and port + processes.GRPC_OFFSET < 32768 for port in ports)
    everything_else = set(range(processes.FIRST_PORT, processes.LAST_PORT + 1)) - set(ports)
    with pytest.raises(ServiceUnavailable, match="free ports are needed"):
        processes.free_ports(6, everything_else)


def test_a_taken_port_is_said_with_its_owner_and_the_next_step(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServiceUnavailable) as caught:
            processes.require_free("PostgreSQL", "postgres", port, tmp_path / "services.json")
    message = str(caught.value)
    assert f"port {port}" in message
    assert f"process {os.getpid()}" in message
    assert "Stop that program" in message
    processes.require_free("PostgreSQL", "postgres", port, tmp_path / "services.json")


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with processes.exclusive(tmp_path):
            order.append("second")

    with processes.exclusive(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_workspace_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="choose another with --workspace"),
        processes.exclusive(tmp_path / "file" / "var"),
    ):
        pass


def test_private_files_are_replaced_whole_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret.json"
    processes.write_private(path, "one")
    processes.write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.json"]
