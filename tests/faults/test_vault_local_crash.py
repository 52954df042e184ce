"""A vault in a folder: killed at any step, a full disk, a hostile folder, a damaged lock."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.vault.base import Lock, LockMode, Stored
from retention.vault.local import LOCKS, UNFINISHED, LocalVault, make_root

KEY = "records/one/abc"
SOON = Lock(LockMode.GOVERNANCE, datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1))


class Killed(BaseException):
    """Stands for kill -9: no handler of ours may see it as an error of the disk."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_root(tmp_path / "vault")
    return tmp_path / "vault"


def put(root: Path, content: bytes = b"evidence", lock: Lock | None = None, key: str = KEY) -> Stored:
    return LocalVault(root).put(key, content, sha256=hashlib.sha256(content).digest(), size=len(content), lock=lock)


def failing(monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, *, persisted: bool) -> None:
    """The next `os.<call>` fails, before or after it has taken effect; those after it work."""
    real: Callable[..., Any] = getattr(os, call)

    def fail(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(os, call, real)
        if persisted:
            real(*args, **named)
        raise error

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("persisted", [False, True], ids=["not persisted", "persisted"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), Killed()], ids=["EIO", "killed"])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "link", "unlink", "rename"])
def test_a_put_that_fails_anywhere_ends_in_one_object_when_run_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, persisted: bool
) -> None:
    failing(monkeypatch, call, error, persisted=persisted)
    with pytest.raises((MunimentError, Killed)):
        put(root, lock=SOON)
    for seen in LocalVault(root).list():  # whole or not at all
        assert (root / seen.key).read_bytes() == b"evidence"
    again = put(root, lock=SOON)
    assert (again.lock, [each.key for each in LocalVault(root).list()]) == (SOON, [KEY])
    LocalVault(root).sweep(datetime.now(UTC) + timedelta(minutes=1))
    assert not list(root.rglob(f"{UNFINISHED}*"))
    assert (root / KEY).read_bytes() == b"evidence"


@pytest.mark.parametrize("persisted", [False, True], ids=["not persisted", "persisted"])
def test_an_erase_that_fails_ends_in_nothing_when_run_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    put(root)
    failing(monkeypatch, "unlink", OSError(errno.EIO, "I/O error"), persisted=persisted)
    with pytest.raises(ServiceUnavailable):
        LocalVault(root).erase(KEY)
    assert LocalVault(root).erase(KEY) == (0 if persisted else 1)
    with pytest.raises(NotFound):
        LocalVault(root).stat(KEY)
    assert list(LocalVault(root).list()) == []


@pytest.mark.parametrize(
    ("number", "expected", "says"),
    [
        (errno.ENOSPC, ServiceUnavailable, "the disk is full"),
        (errno.EDQUOT, ServiceUnavailable, "the disk is full"),
        (errno.EROFS, UsageError, "give this user the right"),
        (errno.EACCES, UsageError, "give this user the right"),
        (errno.EIO, ServiceUnavailable, "mend the disk"),
    ],
)
def test_the_disk_says_no_once_and_plainly(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[MunimentError], says: str
) -> None:
    failing(monkeypatch, "fsync", OSError(number, os.strerror(number)), persisted=False)
    with pytest.raises(expected, match=says) as error:
        put(root, key="x")
    assert "cannot put x" in str(error.value)
    assert not list(root.iterdir())


def test_a_disk_that_keeps_other_bytes_is_found_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def corrupt(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.pwrite(fd, b"X", 0)
        real(fd)

    monkeypatch.setattr(os, "fsync", corrupt)
    with pytest.raises(Damaged, match="check the disk"):
        put(root)
    assert list(LocalVault(root).list()) == []


def test_an_object_changed_on_disk_is_not_taken_for_the_same(root: Path) -> None:
    put(root)
    (root / KEY).chmod(0o600)
    (root / KEY).write_bytes(b"forgery!")
    with pytest.raises(Refused, match="other bytes"):
        put(root)


def test_objects_are_read_only(root: Path) -> None:
    put(root)
    assert stat.S_IMODE((root / KEY).stat().st_mode) & 0o222 == 0


def test_a_root_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    vault = LocalVault(tmp_path / "mnt")
    for verb in (lambda: put(tmp_path / "mnt"), vault.check, lambda: list(vault.list()), lambda: vault.stat(KEY)):
        with pytest.raises(ServiceUnavailable, match="mounted"):
            verb()
    assert not (tmp_path / "mnt").exists()


def test_symbolic_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "abc").write_bytes(b"secret")
    (root / "records").mkdir()
    (root / "records" / "one").symlink_to(outside)
    (root / "direct").symlink_to(outside / "abc")
    vault = LocalVault(root)
    for verb in (lambda: put(root), lambda: vault.open(KEY), lambda: vault.stat(KEY), lambda: vault.erase(KEY),
                 lambda: vault.open("direct"), lambda: vault.lock("direct", "", SOON)):  # fmt: skip
        with pytest.raises(Refused, match="symbolic link"):
            verb()
    assert list(vault.list()) == []
    with pytest.raises(Damaged, match="symbolic link"):
        list(vault.list("records/one"))
    assert (outside / "abc").read_bytes() == b"secret"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"mode": "none", "until": "x", "hold": false}', b'{"hold": false}']
)
def test_a_lock_that_cannot_be_read_means_locked(root: Path, content: bytes) -> None:
    put(root, lock=SOON)
    sidecar = root / LOCKS / KEY
    sidecar.chmod(0o600)
    sidecar.write_bytes(content)
    with pytest.raises(Damaged, match="counts as locked"):
        LocalVault(root).erase(KEY)
    assert (root / KEY).read_bytes() == b"evidence"


def test_erase_leaves_no_folders_and_no_locks(root: Path) -> None:
    put(root)
    LocalVault(root).hold(KEY, "", True)
    LocalVault(root).hold(KEY, "", False)
    assert LocalVault(root).erase(KEY) == 1
    assert [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()] == [f"{LOCKS}/.mutex"]
    assert list((root / "records").iterdir()) == []


def test_the_sweep_takes_only_what_is_old_and_unfinished(root: Path) -> None:
    put(root)
    (root / "records" / f"{UNFINISHED}dead").write_bytes(b"half")
    assert LocalVault(root).sweep(datetime.now(UTC) - timedelta(days=1)) == 0
    assert LocalVault(root).sweep(datetime.now(UTC) + timedelta(minutes=1)) == 1
    assert [each.key for each in LocalVault(root).list()] == [KEY]
