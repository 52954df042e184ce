"""MUNIMENT_BACKUPS: which second vaults there are, and what is said of a mistake."""

from __future__ import annotations

import pytest

from retention.config import BackupVault, backups
from retention.errors import UsageError


def test_second_vaults_by_name() -> None:
    environ = {
        "MUNIMENT_BACKUPS": "  off-site=s3://b/p?endpoint=https://x  disk=file:///mnt/backup ",
        "MUNIMENT_BACKUP_OFF_SITE_ACCESS_KEY_ID": "id",
        "MUNIMENT_BACKUP_OFF_SITE_SECRET_ACCESS_KEY": "topsecret",
    }
    disk, offsite = backups(environ)
    assert disk == BackupVault("disk", "file:///mnt/backup")
    assert offsite == BackupVault("off-site", "s3://b/p?endpoint=https://x", "id", "topsecret")
    assert "topsecret" not in repr(offsite)
    assert backups({}) == backups({"MUNIMENT_BACKUPS": " "}) == ()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("file:///x", "part 1: expected name="),
        ("a=file:///x hunter2", "part 2: expected name="),
        ("A=file:///x", "part 1: expected name="),
        ("a=ftp://x:hunter2@y", "part 1: expected name="),
        ("a=file:///x a=file:///y", "found a twice"),
    ],
)
def test_what_is_no_second_vault(given: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as found:
        backups({"MUNIMENT_BACKUPS": given})
    assert "hunter2" not in str(found.value)


def test_half_of_the_credentials() -> None:
    with pytest.raises(UsageError, match="expected both or none, found one") as found:
        backups({"MUNIMENT_BACKUPS": "a=file:///x", "MUNIMENT_BACKUP_A_SECRET_ACCESS_KEY": "hunter2"})
    assert "hunter2" not in str(found.value)
