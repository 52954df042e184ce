"""A local or mounted folder (or one file), read as it stands.

Rules of this module:
- Symbolic links are never followed: not on the way to a file, and not when a file is opened after it was
  listed. Folders are opened one below the other from the root, so that a swap in between leads nowhere.
- The workspace is known by device and inode, so that no other path, link or mount of it is taken in.
- A FIFO, socket or device is listed, and `open` refuses it without waiting for anybody.
- A folder that cannot be listed is listed itself, with "/" at its end, and `open` says why.
- Entries come depth first, in bytewise order of `place`.
- Names are bytes of the file system, kept by surrogateescape.
- A file that changed in the last `settle_seconds` is still being written: it is left for the next run. The
  time of change counts as well as that of modification, for a copy may set the latter back.
- A file's time can be set back, so no revision is promised: its bytes are read to know.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from ingest.model import Json, SourceFile
from ingest.sources import LeftOut, SourceConfig, Unreadable, Why, excluded
from retention.errors import NotFound, ServiceUnavailable, UsageError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}
GONE = (errno.ENOENT, errno.ENOTDIR)
# Conditions of this process or machine, not of the file: they must not be held against the document.
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    info: os.stat_result | None  # None: it could not be looked at


def address(url: str, base: Path) -> str:
    """`file:///absolute/path`. Raises ValueError for a host or parameters."""
    if "://" not in url:
        path = Path(base, url)
    else:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ValueError("expected file:///folder without host, '?' and '#' ('%23' for '#' in a name)")
        if not parts.path:
            raise ValueError("expected file:///folder, found no folder in it")
        path = Path(os.fsdecode(unquote_to_bytes(parts.path)))
    if "\0" in str(path):
        raise ValueError("expected a path, found one with a NUL in it")
    return Path(os.path.normpath(path.absolute())).as_uri()


def discover(
    config: SourceConfig,
    after: Json,
    now: datetime,
    left_out: Callable[[LeftOut], None],
    never: Path | None = None,
) -> Iterator[SourceFile]:
    """Every file below the folder, or the one file. Nothing is remembered between runs: `after` is unused."""
    del after
    root = _root(config)
    try:
        info = root.stat()
        if stat.S_ISDIR(info.st_mode):
            with _folder(root, ()) as handle, os.scandir(handle):
                pass
    except OSError as error:
        _say_if_ours(error, config)
        raise UsageError(
            f"source {config.name!r}: {root} cannot be read: {error.strerror}. Expected a folder or file that "
            "this user may read; correct the path, or mount it."
        ) from None
    workspace = _identity(never)
    if workspace is not None and any(_identity(folder) == workspace for folder in _and_above(root)):
        raise UsageError(
            f"refusing to ingest {root}: it is inside the workspace {never}, which holds the keys and the records. "
            "Name a folder of documents outside of it."
        )
    if not stat.S_ISDIR(info.st_mode):
        return iter(_listed(config, _Entry(root.name, info), now, left_out))
    return _walk(config, root, now, left_out, workspace)


def _identity(folder: Path | None) -> tuple[int, int] | None:
    """Device and inode; None if there is no such folder."""
    try:
        info = folder.stat() if folder is not None else None
    except FileNotFoundError:
        return None
    return (info.st_dev, info.st_ino) if info is not None else None


def _and_above(root: Path) -> tuple[Path, ...]:
    resolved = root.resolve()
    return (resolved, *resolved.parents)


def open(config: SourceConfig, file: SourceFile) -> BinaryIO:
    """The bytes of a regular file that is below the root without any symbolic link on the way."""
    root = _root(config)
    shown = f"{file.place!r} of source {config.name!r}"
    try:
        # The root may be the file itself, and may itself be a link: the operator named it.
        handle = _open(root, tuple(file.place.split("/"))) if root.is_dir() else _open_last(None, str(root))
    except OSError as error:
        _say_if_ours(error, config)
        if error.errno in GONE:
            raise NotFound(f"{shown} is gone since it was listed. Run again.") from None
        said = "it has become a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise Unreadable(f"{shown} cannot be read: {said}. Its owner must mend that; run again.", str(said)) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):  # only a folder that could not be listed before is opened as one
        os.close(handle)
        said = "a folder that could not be listed when the source was read"
        raise Unreadable(f"{shown}: {said}. Run again.", said)
    return os.fdopen(handle, "rb")


def _say_if_ours(error: OSError, config: SourceConfig) -> None:
    if error.errno in OURS:
        raise ServiceUnavailable(
            f"source {config.name!r}: this machine gave no more to read it with: {error.strerror}. Raise the limit "
            "of open files (`ulimit -n`) or free memory, then run again; nothing was lost."
        ) from None


def _root(config: SourceConfig) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(config.url).path)))


def _walk(
    config: SourceConfig,
    root: Path,
    now: datetime,
    left_out: Callable[[LeftOut], None],
    workspace: tuple[int, int] | None,
) -> Iterator[SourceFile]:
    """Depth first, in order of place; one folder's entries in memory for each level that is open."""
    waiting = [iter(_entries(root, ()))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
        elif not entry.place.endswith("/"):
            yield from _listed(config, entry, now, left_out)
        elif entry.info is not None and (entry.info.st_dev, entry.info.st_ino) == workspace:
            left_out(LeftOut(config.name, entry.place, Why.WORKSPACE))
        elif excluded(config, entry.place, folder=True):
            left_out(LeftOut(config.name, entry.place, Why.EXCLUDED))
        else:
            try:
                waiting.append(iter(_entries(root, tuple(entry.place.rstrip("/").split("/")))))
            except OSError as error:
                _say_if_ours(error, config)
                yield SourceFile(config.name, entry.place, 0, _modified(entry.info))


def _listed(
    config: SourceConfig, entry: _Entry, now: datetime, left_out: Callable[[LeftOut], None]
) -> Iterator[SourceFile]:
    info = entry.info
    if excluded(config, entry.place):
        left_out(LeftOut(config.name, entry.place, Why.EXCLUDED))
    elif info is not None and stat.S_ISLNK(info.st_mode):
        left_out(LeftOut(config.name, entry.place, Why.LINK))
    elif info is not None and stat.S_ISREG(info.st_mode) and _unsettled(info, now, config.settle_seconds):
        left_out(LeftOut(config.name, entry.place, Why.UNSETTLED))
    else:
        yield SourceFile(config.name, entry.place, info.st_size if info else 0, _modified(info))


def _unsettled(info: os.stat_result, now: datetime, seconds: float) -> bool:
    """True if it changed within `seconds` of now, on either side: a file server's clock may run ahead."""
    changed = max(info.st_mtime, info.st_ctime)
    return abs(now.timestamp() - changed) < seconds


def _modified(info: os.stat_result | None) -> datetime | None:
    """The time of modification in UTC; None where it is beyond the calendar."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(info.st_mtime, UTC) if info is not None else None
    return None


def _entries(root: Path, parts: tuple[str, ...]) -> list[_Entry]:
    """What a folder holds, in bytewise order of place; a folder's place ends with "/"."""
    prefix = "".join(f"{part}/" for part in parts)
    found = []
    with _folder(root, parts) as handle, os.scandir(handle) as entries:
        for item in entries:
            try:
                info = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went while the folder was read; it was never listed
            except OSError as error:
                if error.errno in OURS:
                    raise
                found.append(_Entry(prefix + item.name, None))
                continue
            folder = stat.S_ISDIR(info.st_mode)
            found.append(_Entry(f"{prefix}{item.name}{'/' if folder else ''}", info))
    return sorted(found, key=lambda entry: os.fsencode(entry.place))


@contextmanager
def _folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    handle = _open(root, (*parts, "."))
    try:
        yield handle
    finally:
        os.close(handle)


def _open(root: Path, parts: tuple[str, ...]) -> int:
    """Open `parts` one below the other, all but the last as folders. No link is followed."""
    if ".." in parts or "" in parts[:-1]:
        raise OSError(errno.EINVAL, "the place leads out of its source")
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(root, folder)
    for part in parts[:-1]:
        try:
            below = os.open(part, folder | os.O_NOFOLLOW, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    try:
        return _open_last(handle, parts[-1] or ".")
    finally:
        os.close(handle)


def _open_last(handle: int | None, name: str) -> int:
    """Open a file or folder, and nothing else: to open a device may already do something to it."""
    info = os.stat(name, dir_fd=handle, follow_symlinks=handle is None)
    kind = stat.S_IFMT(info.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError(errno.EINVAL, f"expected a file, found {KINDS.get(kind, 'something else')}")
    follow = 0 if handle is None else os.O_NOFOLLOW
    # O_NONBLOCK: a named pipe put in its place meanwhile would be waited for, for ever.
    return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow, dir_fd=handle)
