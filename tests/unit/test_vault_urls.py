"""What a vault URL may say, and which locks follow from which."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retention.errors import Refused, UsageError
from retention.vault import ensure_vault, open_vault
from retention.vault.base import LAST_LOCK, Lock, LockMode, covers, extension, folder, storable
from retention.vault.s3_requests import place_of

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
GOVERNANCE, COMPLIANCE = LockMode.GOVERNANCE, LockMode.COMPLIANCE


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gs://bucket", "no vault has the scheme 'gs'"),
        ("/var/vault", "no vault has the scheme ''"),
        ("file://host/vault", "file:///absolute/folder"),
        ("file:vault", "file:///absolute/folder"),
        ("file:///vault?endpoint=x", "file:///absolute/folder"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://key:hidden@bucket", "carries credentials"),
        ("s3://bucket?endpoint=http://key:hidden@host", "carries credentials"),
        ("s3://bucket?secret_key=hidden", "has no secret_key"),
        ("s3://bucket?endpoint=host:9000", "expected http://host:port"),
        ("s3://bucket?connections=0", "from 1 to 1000"),
        ("s3://bucket/a/../b", "is no vault key"),
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_a_secret(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refusal:
        open_vault(url, access_key="a", secret_key="b")
    assert "hidden" not in str(refusal.value)


def test_the_url_of_a_vault_reads_back_as_the_same_place() -> None:
    url = "s3://bucket/a/prefix?endpoint=http://127.0.0.1:8333&region=eu-west-1"
    assert place_of(url).url == url
    assert place_of(place_of("s3://bucket/").url) == place_of("s3://bucket")
    assert open_vault(url, access_key="key", secret_key="secret").url == url


def test_half_of_the_credentials_is_refused() -> None:
    with pytest.raises(UsageError, match="go together"):
        open_vault("s3://bucket", access_key="key")


def test_a_folder_with_a_space_and_hebrew(tmp_path: Path) -> None:
    url = (tmp_path / "תיק רפואי").as_uri()
    ensure_vault(url)
    open_vault(url).check()
    assert open_vault(url).url == url


def test_a_folder_needs_no_boto3() -> None:
    code = "import sys, retention.vault as v; v.open_vault('file:///x'); sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_of_keys_ends_at_a_slash() -> None:
    assert [folder(each) for each in ("", "records", "records/", "a/b")] == ["", "records/", "records/", "a/b/"]
    for wrong in ("/", "records//", "../x", "a/./b"):
        with pytest.raises(UsageError):
            folder(wrong)


def test_a_lock_is_rounded_up_and_ends_before_2106() -> None:
    assert storable(Lock(GOVERNANCE, NOON + timedelta(microseconds=1))).until == NOON + timedelta(seconds=1)
    assert storable(Lock(GOVERNANCE, NOON)).until == NOON
    assert storable(Lock(GOVERNANCE, datetime(9999, 1, 1, tzinfo=UTC))).until == LAST_LOCK
    assert LAST_LOCK.timestamp() < 2**32
    with pytest.raises(UsageError, match="time zone"):
        storable(Lock(GOVERNANCE, NOON.replace(tzinfo=None)))


def test_a_lock_only_grows() -> None:
    later = NOON + timedelta(days=1)
    assert extension("k", None, Lock(GOVERNANCE, NOON)) == Lock(GOVERNANCE, NOON)
    assert extension("k", Lock(GOVERNANCE, NOON), Lock(GOVERNANCE, NOON)) is None
    assert extension("k", Lock(COMPLIANCE, NOON), Lock(GOVERNANCE, NOON)) is None
    assert extension("k", Lock(GOVERNANCE, NOON), Lock(COMPLIANCE, NOON)) == Lock(COMPLIANCE, NOON)
    assert extension("k", Lock(COMPLIANCE, NOON), Lock(GOVERNANCE, later)) == Lock(COMPLIANCE, later)
    with pytest.raises(Refused, match="only grows"):
        extension("k", Lock(GOVERNANCE, later), Lock(COMPLIANCE, NOON))
    assert not covers(Lock(GOVERNANCE, later), Lock(COMPLIANCE, NOON))
    assert not covers(None, Lock(GOVERNANCE, NOON))
