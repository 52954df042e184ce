"""The words of AWS itself: what S3 answers when it refuses, as moto says it (never a proof that a lock holds).

Legal holds are not asked of it: it answers 500 for the retention of an object that has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import boto3
import pytest
from moto import mock_aws

from retention.errors import MunimentError, NotFound, Refused, UsageError
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Lock, LockMode, Stored, Vault

URL = "s3://records/vault?region=eu-west-1"
KEY = "records/0199f0a2-0c1e-7d3a-9b1f-2f6a1c0d4e5f/content"


def ensured() -> None:
    ensure_vault(URL, access_key="testing", secret_key="testing")


def opened() -> Vault:
    return open_vault(URL, access_key="testing", secret_key="testing")


@pytest.fixture
def vault() -> Iterator[Vault]:
    with mock_aws():
        ensured()
        yield opened()


def put(vault: Vault, content: bytes = b"sealed", lock: Lock | None = None) -> Stored:
    return vault.put(KEY, content, sha256=sha256(content).digest(), size=len(content), lock=lock)


def test_a_bucket_that_is_not_there_is_named() -> None:
    with mock_aws(), pytest.raises(UsageError, match="records"):
        opened().check()


def test_a_bucket_that_cannot_lock_is_told_apart() -> None:
    with mock_aws():
        boto3.client("s3", region_name="eu-west-1").create_bucket(
            Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        vault = opened()
        vault.check()
        assert not vault.locks()
        with pytest.raises(UsageError, match="Object Lock"):
            ensured()


def test_what_is_not_there_is_not_found(vault: Vault) -> None:
    for asked in (vault.open, vault.stat):
        with pytest.raises(NotFound, match=KEY):
            asked(KEY)
    assert vault.erase(KEY) == 0


def test_once_is_once(vault: Vault) -> None:
    first = put(vault)
    assert put(vault).sha256 == first.sha256
    with pytest.raises(Refused, match="refusing"):
        put(vault, b"other")
    assert vault.open(KEY).read() == b"sealed"


@pytest.mark.parametrize("mode", LockMode)
def test_a_lock_in_force_refuses_the_erasure(vault: Vault, mode: LockMode) -> None:
    assert vault.locks()
    until = datetime.now(UTC) + timedelta(days=1)
    stored = put(vault, lock=Lock(mode, until))
    assert stored.lock is not None
    assert stored.lock.mode is mode
    with pytest.raises(Refused, match="refusing"):
        vault.erase(KEY)
    with pytest.raises(MunimentError, match="refusing"):
        vault.lock(KEY, stored.version, Lock(mode, until - timedelta(hours=1)))
