"""Which stores the conformance suite runs over, and how a test opens a vault in one.

Ceph is where MUNIMENT_TEST_CEPH_ENDPOINT, _ACCESS and _SECRET point; with MUNIMENT_TEST_CEPH=required its
absence is a failure. No store is ever skipped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

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
