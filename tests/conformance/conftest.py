"""Starts the stores: SeaweedFS on ports of its own, killed at the end; a folder; Ceph RGW is there or is not."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from retention.vault.base import Vault
from tests.conformance.stores import CEPH, STORES, Server, Store, running_seaweedfs


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="module", params=STORES)
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
    made.make()
    return made


@pytest.fixture
def vault(store: Store) -> Vault:
    """Empty: below a prefix of its own."""
    return store.open(f"run/{uuid.uuid4().hex[:12]}")
