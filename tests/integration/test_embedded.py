"""The embedded services for real: one workspace, started, killed, robbed of its ports, stopped.

The tests of this module share a workspace and leave it running for the next one, except the last two.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from retention import embedded
from retention.archive import open_archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.embedded import airflow, postgres, processes, seaweedfs, state
from retention.errors import ServiceUnavailable, UsageError
from tests.archive_builder import load

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

pytestmark = pytest.mark.xdist_group("embedded")

REPOSITORY = Path(__file__).resolve().parents[2]
UP = "import sys, pathlib; from retention import embedded; embedded.up(pathlib.Path(sys.argv[1]), say=print)"
UP_POSTGRES = UP.replace("say=print", "say=print, s3=False")
DOWN = UP.replace("embedded.up", "embedded.down")
HERE = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ.get("PATH", os.defpath)}


def strays(root: Path) -> list[psutil.Process]:
    return processes.marked(root) + processes.living_in(postgres.data_folder(root), "postgres")


def pids(root: Path) -> tuple[int, int]:
    server, store = postgres.running(root), seaweedfs.running(root)
    assert server and store
    return server.pid, store.pid


def states(root: Path) -> list[str]:
    return [service.state.value for service in embedded.status(root, environ={})][:2]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A workspace that two processes brought up at the same moment."""
    with tempfile.TemporaryDirectory(prefix="muniment-") as folder:
        workspace = Path(folder) / "var"
        both = [
            subprocess.Popen([sys.executable, "-c", UP, str(workspace)], env=HERE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            said = [process.communicate(timeout=60)[0] for process in both]
            assert [process.returncode for process in both] == [0, 0]
            assert sorted(text.count("listens on") for text in said) == [0, 2]
            yield workspace
        finally:
            embedded.down(workspace)


@pytest.fixture
def services(root: Path) -> embedded.Services:
    return embedded.up(root, environ={})


def test_up_again_changes_nothing(root: Path) -> None:
    said: list[str] = []
    before = state.load(root)
    running = pids(root)
    assert embedded.up(root, say=said.append, environ={}) == before
    assert pids(root) == running
    assert said == []
    assert states(root) == ["running", "running"]


def test_files_are_private(root: Path) -> None:
    for name in (".", "postgres", "postgres/data", "s3", "s3/data", "run"):
        assert (root / name).stat().st_mode & 0o777 == 0o700, name
    found = ["services.json", "s3/security.toml", "postgres/server.log", "s3/server.log", "run/postgres.json"]
    for name in found:
        assert (root / name).stat().st_mode & 0o777 == 0o600, name
    assert not (root / "postgres" / ".superuser").exists()


def test_no_secret_is_in_an_argument_list_or_a_log(root: Path, services: embedded.Services) -> None:
    assert services.postgres and services.s3
    secrets = [
        services.postgres.password,
        services.postgres.superuser_password,
        services.postgres.airflow_password,
        services.s3.secret_key,
    ]
    shown = "\n".join(" ".join(process.cmdline()) for process in strays(root))
    shown += postgres.log_file(root).read_text() + seaweedfs.log_file(root).read_text(errors="replace")
    assert "weed" in shown and "ready to accept connections" in shown
    assert [secret for secret in secrets if secret in shown] == []


def test_everything_listens_on_loopback_only(root: Path) -> None:
    listening = {
        connection.laddr.ip
        for process in strays(root)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_each_role_has_its_own_database_only(services: embedded.Services) -> None:
    urls = {"muniment_owner": services.owner_url, "muniment": services.database_url, "auditor": services.auditor_url}
    for name, url in urls.items():
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT current_user, current_setting('is_superuser'), rolcreaterole, rolcreatedb, rolbypassrls, "
                "pg_get_userbyid(datdba), current_setting('data_checksums'), current_setting('jit'), "
                "current_setting('default_transaction_read_only') "
                "FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
            ).fetchone()
        read_only = "on" if name == "auditor" else "off"
        assert row == (name, "off", False, False, False, "muniment_owner", "on", "off", read_only)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url.removesuffix("muniment") + "airflow").close()
    assert services.postgres
    assert len({urlsplit(url).password for url in (*urls.values(), services.superuser_url)}) == 4
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(services.database_url.replace(services.postgres.password, "wrong")).close()


def test_the_log_of_postgresql_keeps_nothing_of_a_statement(root: Path, services: embedded.Services) -> None:
    with psycopg.connect(services.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE people (name text PRIMARY KEY)")
        for _ in range(2):
            try:
                connection.execute("INSERT INTO people VALUES (%s)", ["Rivka Aharoni"])
            except psycopg.errors.UniqueViolation as error:
                assert "Rivka" in str(error)  # the client is told
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT 'Rivka Aharoni'::int")
        connection.execute("DROP TABLE people")
    assert "Rivka" not in postgres.log_file(root).read_text()


def request(method: str, address: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(f"http://{address}", method=method), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_http_port_gives_or_deletes_anything_without_a_key(services: embedded.Services) -> None:
    store = services.s3
    assert store
    s3 = seaweedfs.client(store)
    s3.put_object(Bucket=store.bucket, Key="doors/one", Body=b"kept" * 1000)
    host = "127.0.0.1"
    doors = {
        ("DELETE", f"{host}:{store.filer_port}/buckets/muniment/doors/one"),
        ("DELETE", f"{host}:{store.filer_port}/buckets/muniment?recursive=true"),
        ("PUT", f"{host}:{store.filer_port}/buckets/muniment/doors/one"),
        ("GET", f"{host}:{store.filer_port}/buckets/muniment/doors/one"),
        ("POST", f"{host}:{store.master_port}/col/delete?collection=muniment"),
        ("GET", f"{host}:{store.master_port}/col/delete?collection=muniment"),
        ("GET", f"{host}:{store.port}/muniment/doors/one"),
        ("DELETE", f"{host}:{store.port}/muniment/doors/one"),
        ("GET", f"{host}:{store.admin_port}/"),
        *(("DELETE", f"{host}:{store.volume_port}/{volume},01637037d6") for volume in range(1, 9)),
        *(("GET", f"{host}:{store.volume_port}/{volume},01637037d6") for volume in range(1, 9)),
    }
    answers = {door: request(*door) for door in doors}
    assert {door: code for door, code in answers.items() if code not in (401, 403, 404)} == {}
    assert s3.get_object(Bucket=store.bucket, Key="doors/one")["Body"].read() == b"kept" * 1000


def test_an_object_of_many_parts_passes_though_the_inner_http_is_off(services: embedded.Services) -> None:
    store = services.s3
    assert store
    s3 = seaweedfs.client(store)
    big = os.urandom(11 * 1024 * 1024)
    s3.put_object(Bucket=store.bucket, Key="big/whole", Body=big)
    upload = s3.create_multipart_upload(Bucket=store.bucket, Key="big/parts")["UploadId"]
    parts: list[CompletedPartTypeDef] = []
    for number, start in ((1, 0), (2, 6 * 1024 * 1024)):
        body = big[start : 6 * 1024 * 1024 if number == 1 else None]
        answer = s3.upload_part(Bucket=store.bucket, Key="big/parts", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"ETag": answer["ETag"], "PartNumber": number})
    s3.complete_multipart_upload(
        Bucket=store.bucket,
        Key="big/parts",
        UploadId=upload,
        MultipartUpload={"Parts": parts},
    )
    s3.copy_object(Bucket=store.bucket, Key="big/copy", CopySource={"Bucket": store.bucket, "Key": "big/whole"})
    for key in ("big/whole", "big/parts", "big/copy"):
        assert s3.get_object(Bucket=store.bucket, Key=key)["Body"].read() == big, key
    middle = s3.get_object(Bucket=store.bucket, Key="big/whole", Range="bytes=5000000-5000099")
    assert middle["Body"].read() == big[5000000:5000100]


def refuses_deletion(services: embedded.Services, key: str, version: str) -> bool:
    assert services.s3
    try:
        seaweedfs.client(services.s3).delete_object(Bucket="muniment", Key=key, VersionId=version)
    except ClientError as error:
        return error.response["Error"]["Code"] == "AccessDenied"
    return False


def test_kill_9_of_both_loses_nothing(root: Path, services: embedded.Services) -> None:
    assert services.s3
    with psycopg.connect(services.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT i FROM generate_series(1, 1000) i")
    version = seaweedfs.client(services.s3).put_object(
        Bucket="muniment",
        Key="kill/locked",
        Body=b"locked",
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(days=1),
    )["VersionId"]
    for pid in pids(root):
        os.kill(pid, signal.SIGKILL)
    while states(root) != ["stopped", "stopped"]:
        time.sleep(0.02)
    after = embedded.up(root, environ={})
    assert after == services
    with psycopg.connect(after.owner_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*), sum(i) FROM kept").fetchone() == (1000, 500500)
        connection.execute("DROP TABLE kept")
    assert after.s3
    found = seaweedfs.client(after.s3).get_object(Bucket="muniment", Key="kill/locked", VersionId=version)
    assert found["Body"].read() == b"locked"
    assert found["ObjectLockMode"] == "COMPLIANCE"
    assert refuses_deletion(after, "kill/locked", version)


def test_what_a_killed_postmaster_left_is_cleared_away(root: Path, services: embedded.Services) -> None:
    """A backend that lives on holds the shared memory; a lock file may name a pid that is somebody else's."""
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)  # so that it cannot notice that its parent is gone
        server, other = pids(root)
        os.kill(server, signal.SIGKILL)
        lock = postgres.data_folder(root) / "postmaster.pid"
        while postgres.running(root):
            time.sleep(0.01)
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join([str(other), *lines[1:]]) + "\n")
        embedded.up(root, environ={})
    assert processes.identity(backend) is None
    assert states(root) == ["running", "running"]


def test_a_service_that_hangs_is_unhealthy_and_not_called_running(root: Path) -> None:
    store = pids(root)[1]
    os.kill(store, signal.SIGSTOP)
    try:
        loaded = state.load(root)
        assert loaded and loaded.s3
        with pytest.raises(ServiceUnavailable, match="muniment down"):
            seaweedfs.check(loaded.s3, seconds=0.5)
    finally:
        os.kill(store, signal.SIGCONT)


@contextlib.contextmanager
def thief(port: int) -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


def test_a_port_that_another_program_took_is_said_and_nothing_is_touched(
    root: Path, services: embedded.Services
) -> None:
    assert services.postgres and services.s3
    embedded.down(root)
    for name, port in (("PostgreSQL", services.postgres.port), ("SeaweedFS", services.s3.port)):
        with thief(port), pytest.raises(ServiceUnavailable) as caught:
            embedded.up(root, environ={})
        assert f"{name}: port {port}" in str(caught.value)
        assert f"process {os.getpid()}" in str(caught.value)
        assert state.load(root) == services
    assert embedded.up(root, environ={}) == services


def test_the_inner_ports_of_the_store_move_and_nothing_is_lost(root: Path, services: embedded.Services) -> None:
    assert services.s3
    until = datetime.now(UTC) + timedelta(days=1)
    versions = [
        seaweedfs.client(services.s3).put_object(
            Bucket="muniment",
            Key=f"moved/{number}",
            Body=bytes([number]) * 100_000,
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=until,
        )["VersionId"]
        for number in range(5)
    ]
    embedded.down(root)
    with thief(services.s3.filer_port + processes.GRPC_OFFSET):
        after = embedded.up(root, environ={})
        assert after.vault_url == services.vault_url
        assert after.s3 and not set(after.s3.inner_ports) & set(services.s3.inner_ports)
        for number, version in enumerate(versions):
            key = f"moved/{number}"
            found = seaweedfs.client(after.s3).get_object(Bucket="muniment", Key=key, VersionId=version)
            assert found["Body"].read() == bytes([number]) * 100_000
            assert refuses_deletion(after, key, version)


def test_a_user_namespace_that_is_forbidden_is_said_with_the_way_out() -> None:
    """In a namespace of its own whose limit of user namespaces is 0, a root's PostgreSQL cannot start."""
    asks = "import pathlib, sys; from retention import embedded; from retention.errors import MunimentError\n"
    asks += "try: embedded.up(pathlib.Path(sys.argv[1]), s3=False)\n"
    asks += "except MunimentError as error: print(type(error).__name__, error)"
    with tempfile.TemporaryDirectory(prefix="muniment-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", asks, folder],
            env=HERE,
            preexec_fn=lambda: enter_namespace(0, limit=0),
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.startswith("UsageError PostgreSQL refuses to run as root"), done.stdout + done.stderr
    assert "Run as an ordinary user" in done.stdout


def enter_namespace(inside: int, limit: int | None = None) -> None:
    """In a child: become `inside` in a new user namespace."""
    outside, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None).unshare(0x10000000):
        raise OSError("unshare")
    for name, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{inside} {outside} 1"),
        ("/proc/self/gid_map", f"{inside} {group} 1"),
        ("/proc/sys/user/max_user_namespaces", "" if limit is None else str(limit)),
    ):
        if text:
            Path(name).write_text(text)


def become_nobody() -> None:
    """In a child of root: nobody, where nobody may read the program; else the nobody of a namespace."""
    if os.geteuid() != 0:
        return
    reachable = [Path(sys.executable).resolve(), Path(sys.prefix), REPOSITORY, postgres.binaries()]
    if all(parent.stat().st_mode & 0o005 == 0o005 for path in reachable for parent in (path, *path.parents)):
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    else:
        enter_namespace(65534)


def become_nameless() -> None:
    """In a child: a user whom /etc/passwd does not know, as containers are given."""
    enter_namespace(987654)


@pytest.mark.parametrize(("become", "started"), [(become_nobody, UP), (become_nameless, UP_POSTGRES)])
def test_an_ordinary_user_and_one_without_a_name_can_run_it(become: Callable[[], None], started: str) -> None:
    with tempfile.TemporaryDirectory(prefix="muniment-") as folder:
        Path(folder).chmod(0o777)
        workspace = Path(folder) / "var"
        try:
            for program in (started, DOWN):
                done = subprocess.run(
                    [sys.executable, "-c", program, str(workspace)],
                    env=HERE,
                    preexec_fn=become,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                if program is started:
                    assert "PostgreSQL 18" in done.stdout
                    uids = {process.uids().real for process in strays(workspace)}
                    assert uids == {workspace.stat().st_uid}
            assert strays(workspace) == []
        finally:
            embedded.down(workspace)


@pytest.mark.parametrize("moment", ["postgres/data.new-*/base", "postgres/data", "run/postgres.json", "s3/data"])
def test_up_that_was_killed_is_gone_on_with(moment: str) -> None:
    with tempfile.TemporaryDirectory(prefix="muniment-") as folder:
        workspace = Path(folder) / "var"
        try:
            killed = subprocess.Popen([sys.executable, "-c", UP, str(workspace)], env=HERE, stdout=subprocess.DEVNULL)
            while killed.poll() is None and not list(workspace.glob(moment)):
                time.sleep(0.001)
            killed.kill()
            assert killed.wait() == -signal.SIGKILL
            services = embedded.up(workspace, s3=moment.startswith("s3"), environ={})
            assert services.postgres and services.postgres.initialised
            assert not list(workspace.glob("postgres/data.new-*"))
        finally:
            embedded.down(workspace)
            assert strays(workspace) == []


def test_a_state_file_of_another_workspace_is_not_accepted(root: Path, services: embedded.Services) -> None:
    kept = (root / state.FILE).read_text()
    assert services.postgres
    processes.write_private(root / state.FILE, "broken")
    embedded.down(root)  # needs no password
    assert strays(root) == []
    processes.write_private(root / state.FILE, kept.replace(services.postgres.superuser_password, "x" * 43))
    try:
        with pytest.raises(UsageError, match="does not accept the password"):
            embedded.up(root, s3=False)
        assert strays(root) == []
    finally:
        processes.write_private(root / state.FILE, kept)


def test_airflow_runs_loses_its_manager_and_leaves_no_process(root: Path) -> None:
    said: list[str] = []
    services = embedded.up(root, airflow=True, say=said.append, environ=HERE)
    site = services.airflow
    assert site and any(airflow.url(site) in line for line in said)
    airflow.check(site)
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes.marked(root, "airflow")
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", site.port)}
    shown = "\n".join(" ".join(process.cmdline()) for process in processes.marked(root))
    shown += airflow.log_file(root).read_text()
    for secret in (site.password, site.jwt_secret, site.secret_key, site.fernet_key):
        assert secret not in shown
    manager = airflow.running(root)
    assert manager
    os.kill(manager.pid, signal.SIGKILL)
    while airflow.running(root):
        time.sleep(0.01)
    assert len(processes.marked(root, "airflow")) > 4  # they live on, and are found
    assert embedded.status(root)[2].state is embedded.State.UNHEALTHY
    embedded.down(root)
    assert strays(root) == []


def test_what_was_never_used_is_left_alone_and_what_is_has_its_store_probed(root: Path) -> None:
    def up() -> None:
        done = CliRunner().invoke(
            app,
            ["--workspace", str(root), "--json", "up"],
            env=dict.fromkeys(("MUNIMENT_DATABASE_URL", "MUNIMENT_VAULT_URL")),
        )
        assert done.exit_code == 0, done.output

    up()
    assert not (root / "keys").exists()  # where a recovery puts the root key, and brings the safe
    services = embedded.load(root)
    assert services is not None and services.s3 is not None
    workspace = Settings(
        root=root,
        database_url=services.database_url,
        database_owner_url=services.owner_url,
        vault_url=services.vault_url,
        vault_access_key=services.access_key,
        vault_secret_key=services.secret_key,
        agent="Ruth Levi",
    )
    with open_archive(workspace, datetime.now(UTC)) as archive:
        load(archive, lambda: datetime.now(UTC))
        for _ in range(2):
            up()
            with transaction(archive.connections) as conn:
                assert conn.execute("SELECT count(*) FROM events WHERE type = 'val'").fetchone() == (1,)


def test_down_leaves_nothing_and_may_be_repeated(root: Path) -> None:
    before = set(Path("/tmp").glob("seaweedfs-*"))  # of others that were killed, on a port that is free again
    services = embedded.up(root, environ={})
    said: list[str] = []
    embedded.down(root, say=said.append)
    assert said == ["SeaweedFS stopped", "PostgreSQL stopped"]
    assert strays(root) == []
    assert all(processes.is_free(port) for port in services.ports)
    assert set(Path("/tmp").glob(f"seaweedfs-*{services.ports[2]}*")) <= before
    assert states(root) == ["stopped", "stopped"]
    embedded.down(root, say=said.append)
    assert len(said) == 2
