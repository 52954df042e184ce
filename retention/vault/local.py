"""A vault in a folder of this computer: `file:///folder`.

Rules of this module:
- Keys are paths below the root, so that the folder is of use without Muniment (the ledger in it can be read
  by any transparency-log client). Locks and holds stand beside, in `.locks/<key>`, one JSON object each.
- A put writes a new file `.put-…` in the same directory, fsyncs it, reads it back, links it to its name (a
  link never replaces, so of two writers one wins) and fsyncs the directory. `put_many` writes all, has the file
  system write everything down (syncfs), gives them their names, and has it do so once more: a name never stands for
  bytes that a loss of power can take.
- No symbolic link below the root is followed: every directory is opened relative to its parent, O_NOFOLLOW.
- Files are read-only. A sidecar that cannot be read means locked.
- Locks here are *advisory*: this code keeps them, and whoever can write to the folder need not. Therefore
  `locks()` is False and classes that must be WORM never enter a file:// vault.
- The root is made by `make_root` alone: a put that finds no root must not fill the mount point of a disk that
  is not mounted.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import stat as stat_bits
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.parallel import in_order
from retention.vault.base import (
    Given,
    Lock,
    LockMode,
    Stored,
    check_key,
    extension,
    folder,
    refuse_if_kept,
    storable,
)

CHUNK = 1024 * 1024
_LISTING, _TOGETHER, _AHEAD = 4, 64, 8  # threads that list; names that one reads at a time; so many times ahead
LOCKS = ".locks"  # no key begins with a dot
UNFINISHED = ".put-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}


def root_of(url: str) -> Path:
    """The folder that a file URL names. Raises UsageError unless it is absolute and on this computer."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or parts.query or parts.fragment:
        raise UsageError(f"{url} names no folder: expected file:///absolute/folder and nothing more")
    return Path(path)


def make_root(root: Path) -> None:
    """Make the folder of a vault, readable by its owner alone, unless it is there."""
    with _plainly("make the vault folder", str(root)):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)


class LocalVault:
    """`retention.vault.base.Vault` in a folder."""

    threads = (os.cpu_count() or 1) + 1  # reading 20,000 files of 100 kB on 2 cores: 6.0 s with 3, 9.0 s with 8

    def __init__(self, root: Path) -> None:
        self.url = root.as_uri()
        self._root = root

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        wanted = storable(lock) if lock else None
        found = self._link(key, content, sha256, size)
        if found != sha256:
            raise _taken(key, found, sha256)
        if wanted is not None:
            with self._locks_held():
                state = self._state(key)
                longest = max(wanted.until, state[0].until) if state[0] else wanted.until
                self._extend(key, Lock(wanted.mode, longest), state)
        return self._stored(key, sha256)

    def put_many(self, objects: Sequence[Given], threads: int) -> Sequence[Stored | MunimentError]:
        with ThreadPoolExecutor(min(threads, self.threads), "vault") as pool, self._directory(()) as root:
            written = list(pool.map(self._written, objects))
            _sync(root)
            found = list(pool.map(self._named, objects, written))
            _sync(root)
        return found

    def _written(self, one: Given) -> str | MunimentError:
        """The name that its bytes have for now, not yet durable."""
        unfinished = f"{UNFINISHED}{secrets.token_hex(8)}"
        try:
            with (
                _plainly("put", one.key),
                self._parent(one.key, make=True, durable=False) as (directory, _),
                closing(one.open()) as source,
            ):
                try:
                    _copy(directory, unfinished, one.key, source, sha256=one.sha256, size=one.size)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(unfinished, dir_fd=directory)
                    raise
        except (Damaged, NotFound, Refused) as error:
            return error
        return unfinished

    def _named(self, one: Given, unfinished: str | MunimentError) -> Stored | MunimentError:
        if isinstance(unfinished, MunimentError):
            return unfinished
        try:
            with _plainly("put", one.key), self._parent(one.key) as (directory, name):
                try:
                    os.link(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
                except FileExistsError:
                    found = _digest(directory, name)
                    if found != one.sha256:
                        return _taken(one.key, found, one.sha256)
                finally:
                    os.unlink(unfinished, dir_fd=directory)
                facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except NotFound as error:  # an erase removed the directory at this moment
            return error
        return Stored(one.key, facts.st_size, "", one.sha256, None, False, _when(facts))

    def replace(self, key: str, content: bytes) -> Stored:
        digest = hashlib.sha256(content).digest()
        with self._locks_held():
            lock, hold = self._state(key)
            refuse_if_kept(Stored(key, 0, "", None, lock, hold), datetime.now(UTC))
            self._put_over(key, content, digest, len(content))
        return self._stored(key, digest)

    def _put_over(self, key: str, content: bytes | BinaryIO, sha256: bytes, size: int) -> None:
        """Whatever stands there is replaced, at once and whole."""
        unfinished = f"{UNFINISHED}{secrets.token_hex(8)}"
        with _plainly("replace", key), self._parent(key, make=True) as (directory, name):
            try:
                _write(directory, unfinished, key, content, sha256=sha256, size=size)
                os.replace(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=directory)
                raise
            os.fsync(directory)

    def mend(self, key: str, version: str, content: bytes | BinaryIO, *, sha256: bytes, size: int) -> Stored:
        _refuse_version(key, version)
        self._put_over(key, content, sha256, size)  # what stands beside it, lock and hold, stays
        return self._stored(key, sha256)

    def open(self, key: str, version: str = "") -> BinaryIO:
        with _plainly("open", key), self._parent(key) as (directory, name):
            return os.fdopen(_open_object(directory, name, key, version), "rb")

    def stat(self, key: str, version: str = "") -> Stored:
        self.open(key, version).close()
        return self._stored(key, None)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        below = folder(prefix)
        if not self._root.is_dir():
            raise _no_root(self._root)
        start = self._root / below
        if any(part.is_symlink() for part in (start, *start.parents) if self._root in part.parents):
            raise Damaged(f"{self.url}: {below} passes a symbolic link; a vault makes none: look who put it there")
        with ThreadPoolExecutor(_LISTING, "list") as pool:
            yield from _walk(_folder(str(start), below), pool)

    def lock(self, key: str, version: str, lock: Lock) -> Stored:
        self.open(key, version).close()
        with self._locks_held():
            self._extend(key, storable(lock), self._state(key))
        return self._stored(key, None)

    def hold(self, key: str, version: str, on: bool) -> Stored:
        self.open(key, version).close()
        with self._locks_held():
            self._write_state(key, self._state(key)[0], on)
        return self._stored(key, None)

    def erase(self, key: str) -> int:
        check_key(key)
        with self._locks_held():
            lock, hold = self._state(key)
            refuse_if_kept(Stored(key, 0, "", None, lock, hold), datetime.now(UTC))
            gone = self._unlink(key)
            self._unlink(f"{LOCKS}/{key}")
        return gone

    def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
        def erase(key: str) -> MunimentError | None:
            try:
                self.erase(key)
            except MunimentError as error:
                return error
            return None

        return [erase(key) for key, _ in objects]

    def check(self) -> None:
        if not self._root.is_dir():
            raise _no_root(self._root)
        with _plainly("write to the vault folder", str(self._root)), self._directory(()) as root:
            name = f"{UNFINISHED}{secrets.token_hex(8)}"
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=root))
            os.unlink(name, dir_fd=root)

    def time(self) -> datetime | None:
        return None  # this machine's clock is the one that is asked about

    def locks(self) -> bool:
        return False

    def probe(self) -> Mapping[str, str | None]:
        return {}  # whoever can write to the folder need not ask

    def sweep(self, before: datetime) -> int:
        swept = 0
        with _plainly("sweep", str(self._root)):
            for directory, _, names, fd in os.fwalk(self._root):
                for name in names:
                    if not name.startswith(UNFINISHED):
                        continue
                    with suppress(FileNotFoundError), _plainly("sweep", f"{directory}/{name}"):
                        if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime < before.timestamp():
                            os.unlink(name, dir_fd=fd)
                            swept += 1
        return swept

    def _link(self, key: str, content: bytes | BinaryIO, sha256: bytes, size: int) -> bytes:
        """Give `content` the name `key` unless that is taken; the digest of what stands there afterwards."""
        unfinished = f"{UNFINISHED}{secrets.token_hex(8)}"
        for left in reversed(range(5)):
            try:
                with _plainly("put", key), self._parent(key, make=True) as (directory, name):
                    try:
                        _write(directory, unfinished, key, content, sha256=sha256, size=size)
                        os.link(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
                        found = sha256
                    except FileExistsError:
                        found = _digest(directory, name)
                    finally:
                        with suppress(FileNotFoundError):
                            os.unlink(unfinished, dir_fd=directory)
                    # Also when the name was taken: whoever linked it may have died before this.
                    os.fsync(directory)
                    return found
            except NotFound:
                # An erase removed the directory, which was empty, after it was opened here.
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _stored(self, key: str, sha256: bytes | None) -> Stored:
        with _plainly("stat", key), self._parent(key) as (directory, name):
            facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
        lock, hold = self._state(key)
        return Stored(key, facts.st_size, "", sha256, lock, hold, _when(facts))

    @contextmanager
    def _parent(self, key: str, *, make: bool = False, durable: bool = True) -> Iterator[tuple[int, str]]:
        """The open directory of `key` and the name in it. FileNotFoundError unless `make`."""
        *parts, name = check_key(key).split("/")
        with self._directory(tuple(parts), make=make, durable=durable) as directory:
            yield directory, name

    @contextmanager
    def _directory(self, parts: tuple[str, ...], *, make: bool = False, durable: bool = True) -> Iterator[int]:
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _no_root(self._root) from None
        try:
            for part in parts:
                parent = fd
                fd = _enter(parent, part, make=make, durable=durable)
                os.close(parent)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _locks_held(self) -> Iterator[None]:
        """One writer of sidecars at a time, of all threads and processes: flock on `.locks/.mutex`."""
        with _plainly("lock the sidecars of", self.url), self._directory((LOCKS,), make=True) as directory:
            fd = os.open(".mutex", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def _state(self, key: str) -> tuple[Lock | None, bool]:
        *parts, name = f"{LOCKS}/{check_key(key)}".split("/")
        try:
            with _plainly("read the lock of", key), self._directory(tuple(parts)) as directory:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                with os.fdopen(fd, "rb") as sidecar:
                    content = sidecar.read()
        except NotFound:
            return None, False
        try:
            read = json.loads(content)
            lock = Lock(LockMode(read["mode"]), datetime.fromisoformat(read["until"])) if read["mode"] else None
            return lock, bool(read["hold"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{self.url}/{LOCKS}/{key} is no lock ({error}); {key} counts as locked until that file is restored"
            ) from error

    def _extend(self, key: str, asked: Lock, state: tuple[Lock | None, bool]) -> None:
        setting = extension(key, state[0], asked)
        if setting is not None:
            self._write_state(key, setting, state[1])

    def _write_state(self, key: str, lock: Lock | None, hold: bool) -> None:
        words = {
            "mode": lock.mode.value if lock else None,
            "until": lock.until.isoformat() if lock else None,
            "hold": hold,
        }
        content = json.dumps(words).encode()
        *parts, name = f"{LOCKS}/{key}".split("/")
        with _plainly("write the lock of", key), self._directory(tuple(parts), make=True) as directory:
            unfinished = f"{UNFINISHED}{secrets.token_hex(8)}"
            _write(directory, unfinished, key, content, sha256=hashlib.sha256(content).digest(), size=len(content))
            os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        if self._state(key) != (lock, hold):
            raise Damaged(f"the lock of {key} was written and reads differently: look for another writer in {self.url}")

    def _unlink(self, path: str) -> int:
        """Remove a file and the directories that it leaves empty; 0 if it was not there."""
        *parts, name = path.split("/")
        try:
            with _plainly("erase", path), self._directory(tuple(parts)) as directory:
                os.unlink(name, dir_fd=directory)
                os.fsync(directory)
        except NotFound:
            return 0
        while len(parts) > 1:
            empty = parts.pop()
            # A put may fill it at this moment: then rmdir fails, as it should.
            with suppress(OSError, NotFound), self._directory(tuple(parts)) as directory:
                os.rmdir(empty, dir_fd=directory)
        return 1


def _write(directory: int, name: str, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int) -> None:
    """A durable, verified, read-only file; Damaged if it is not `sha256` and `size`. The caller removes it."""
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    source.seek(0)
    _copy(directory, name, key, source, sha256=sha256, size=size, durable=True)
    found = _digest(directory, name)
    if found != sha256:
        raise Damaged(f"{key}: written and read back as {found.hex()} instead of {sha256.hex()}; check the disk")


def _copy(
    directory: int, name: str, key: str, source: BinaryIO, *, sha256: bytes, size: int, durable: bool = False
) -> None:
    """A read-only file of what is left of `source`; Damaged if it is not `sha256` and `size`."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o440, dir_fd=directory)
    with os.fdopen(fd, "wb", buffering=0) as target:
        given, length = hashlib.sha256(), 0
        while chunk := source.read(CHUNK):
            given.update(chunk)
            length += len(chunk)
            _write_all(target, chunk)
        if given.digest() != sha256 or length != size:
            raise Damaged(
                f"{key}: the bytes given are not the announced ones: expected {size} bytes of sha256 {sha256.hex()},"
                f" found {length} of {given.hexdigest()}; nothing was stored"
            )
        if durable:
            os.fsync(fd)


def _write_all(target: io.FileIO, chunk: bytes) -> None:
    """All of it, whatever the system takes at a time."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[target.write(rest) :]


def _sync(directory: int) -> None:
    """Have the file system of an open directory write everything down (Linux: syncfs; elsewhere: sync)."""
    if not hasattr(_LIBC, "syncfs"):
        os.sync()
    elif _LIBC.syncfs(directory):
        error = ctypes.get_errno()
        raise _meaning(OSError(error, os.strerror(error)), "cannot write down what was put")


def _taken(key: str, found: bytes, given: bytes) -> Refused:
    return Refused(f"refusing to put {key}: other bytes stand there (sha256 {found.hex()}, given {given.hex()})")


def _digest(directory: int, name: str) -> bytes:
    with os.fdopen(_open_object(directory, name, name, ""), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _refuse_version(key: str, version: str) -> None:
    if version:
        raise NotFound(f"{key} has no version {version!r}: a folder keeps no versions")


def _open_object(directory: int, name: str, key: str, version: str) -> int:
    _refuse_version(key, version)
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    if stat_bits.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "a directory, not an object", name)


def _enter(parent: int, part: str, *, make: bool, durable: bool = True) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(part, 0o700, dir_fd=parent)
    if durable:
        os.fsync(parent)
    return os.open(part, _DIRECTORY, dir_fd=parent)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A directory, the beginning that its keys have, and the names in it, in the order of their keys: a directory
    sorts as its name with the slash that its keys have (`a-b` before `a/`)."""

    path: str
    below: str
    names: Sequence[str]


def _walk(folder: _Folder, pool: Executor) -> Iterator[Stored]:
    """In order of key. What comes next is read meanwhile: most of a listing is waiting for the disk."""
    parts = (
        replace(folder, names=folder.names[first : first + _TOGETHER])
        for first in range(0, len(folder.names), _TOGETHER)
    )
    for part in in_order(pool, _read, parts, _AHEAD):
        for found in part:
            if isinstance(found, Stored):
                yield found
            else:
                yield from _walk(found, pool)


def _read(folder: _Folder) -> Sequence[Stored | _Folder]:
    """What these names stand for; a directory of many is left to be walked."""
    found: list[Stored | _Folder] = []
    for name in folder.names:
        path = f"{folder.path}/{name}".rstrip("/")
        if name.endswith("/"):
            inner = _folder(path, folder.below + name)
            found.extend(_read(inner) if len(inner.names) <= _TOGETHER else [inner])
            continue
        with _plainly("list", path), suppress(FileNotFoundError):  # erased while it was listed
            facts = os.lstat(path)
            if stat_bits.S_ISREG(facts.st_mode):
                found.append(Stored(folder.below + name, facts.st_size, "", None, None, False, _when(facts)))
    return found


def _folder(path: str, below: str) -> _Folder:
    """Nothing is in one that is not there."""
    names: list[str] = []
    with _plainly("list", path), suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        names = sorted(
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not entry.name.startswith(".")
        )
    return _Folder(path, below, names)


def _when(facts: os.stat_result) -> datetime:
    return datetime.fromtimestamp(facts.st_mtime, UTC)


def _no_root(root: Path) -> MunimentError:
    return ServiceUnavailable(
        f"the vault folder {root} is not there: is its disk mounted? A vault that is new is made with a new catalog"
    )


@contextmanager
def _plainly(doing: str, what: str) -> Iterator[None]:
    """OSError in the words of who must act."""
    try:
        yield
    except OSError as error:
        raise _meaning(error, f"cannot {doing} {what}") from error


def _meaning(error: OSError, what: str) -> MunimentError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOENT, errno.EISDIR):
        return NotFound(f"{what}: it is not there")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST):
        return Refused(f"refusing to follow: {what}: a part of its path is a symbolic link or an object ({reason})")
    if error.errno in _FULL:
        return ServiceUnavailable(f"{what}: the disk is full ({reason}); free some space and run again")
    if error.errno in _NOT_ALLOWED:
        return UsageError(f"{what}: {reason}; give this user the right to write there, or choose another folder")
    if error.errno in _NO_LINKS:
        return UsageError(f"{what}: this file system has no hard links ({reason}); choose another for the vault")
    return ServiceUnavailable(f"{what}: {reason}; mend the disk and run again")
