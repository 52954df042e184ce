"""A private copy of each document's bytes, made once, hashed while it is read.

Rules of this module:
- What reaches the spool is never read from the source again: what is hashed is what is extracted and kept.
- The document's name never becomes a name on our disk; spool files have generated names and mode 0600.
- Memory is bounded whatever the size of a document: bytes pass in chunks.
- What is wrong with one document is a finding of that document. A full disk, or no memory or file handle
  left, is wrong with the machine, and ends the batch once, plainly (ServiceUnavailable); the unfinished copy
  is removed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ingest.model import Finding, SourceFile, Spooled, finding
from retention.errors import NotFound, ServiceUnavailable

CHUNK = 1024 * 1024  # bytes
RESERVE = 256 * 1024 * 1024  # bytes that are left free for PostgreSQL, logs and whoever else shares the disk

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def spool(open_stream: Callable[[], BinaryIO], file: SourceFile, folder: Path, max_bytes: int) -> Spooled | Finding:
    """Copy one document into `folder`, or say why not. At most `max_bytes` + 1 bytes are read.

    `open_stream` opens the source's bytes for reading; it may raise FileNotFoundError or NotFound (VANISHED)
    and any other OSError (UNREADABLE). Raises ServiceUnavailable if the spool's disk is full, if memory or
    file handles are used up, or if the source itself does not answer.
    """
    if file.size > max_bytes:
        return _too_large(f"{file.size:,} bytes are listed", max_bytes)
    try:  # of 0 bytes too: what cannot be opened is listed so
        stream = open_stream()
    except (FileNotFoundError, NotFound, NotADirectoryError):
        return finding("VANISHED", f"It was listed with {file.size:,} bytes and is gone.")
    except OSError as error:
        return _unreadable(error)
    with stream:
        return _copy(stream, file, folder, max_bytes)


def _copy(stream: BinaryIO, file: SourceFile, folder: Path, max_bytes: int) -> Spooled | Finding:
    path, write = _create(folder)
    digest, size = hashlib.sha256(), 0
    verdict: Finding | None = None
    kept = False
    try:
        with os.fdopen(write, "wb", buffering=0) as copy:
            while verdict is None:
                try:
                    chunk = stream.read(CHUNK)
                except (FileNotFoundError, NotFound):
                    verdict = finding("VANISHED", f"It went away after {size:,} of {file.size:,} bytes.")
                    break
                except OSError as error:
                    verdict = _unreadable(error)
                    break
                if not chunk:
                    break
                size += len(chunk)
                if size > max_bytes:
                    verdict = _too_large(f"it has more bytes than the {file.size:,} listed", max_bytes)
                    break
                digest.update(chunk)
                _write(copy.fileno(), chunk, folder)
        if verdict is None:
            verdict = _changed(file.size, size)
        kept = verdict is None
    finally:
        if not kept:
            path.unlink(missing_ok=True)
    return verdict or Spooled(file=file, path=path, sha256=digest.digest(), size=size)


def _create(folder: Path) -> tuple[Path, int]:
    try:
        descriptor, name = tempfile.mkstemp(prefix="d-", dir=folder)
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder, None) from error
        raise ServiceUnavailable(
            f"spool folder {folder}: expected to create a file in it, found: {error.strerror}. "
            "Give the service's user write access, or name another folder."
        ) from error
    return Path(name), descriptor


def _write(descriptor: int, chunk: bytes, folder: Path) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder, None) from error
        raise ServiceUnavailable(
            f"spool folder {folder}: writing failed: {error.strerror}. Check the disk, then run again."
        ) from error


def _changed(listed: int, read: int) -> Finding | None:
    if read == 0:
        return finding("EMPTY", f"It was listed with {listed:,} bytes, and 0 were read.")
    if read != listed:
        return finding("CHANGED-WHILE-READ", f"Listed with {listed:,} bytes, read {read:,}.")
    return None


def _too_large(found: str, max_bytes: int) -> Finding:
    return finding("TOO-LARGE", f"At most {max_bytes:,} bytes are taken from this source; {found}.")


def _unreadable(error: OSError) -> Finding:
    if error.errno in _MACHINE:
        raise ServiceUnavailable(
            f"this machine gave no more to read documents with: {error.strerror}. Raise the limit of open files "
            "(`ulimit -n`) or free memory, then run again; nothing was lost."
        ) from None
    # strerror alone: str(error) repeats the path, which is shown beside the finding anyway.
    return finding("UNREADABLE", f"Reading failed: {error.strerror or type(error).__name__}.")


def check_space(folder: Path, needed: int, reserve: int = RESERVE) -> None:
    """Before a batch: is there room for `needed` bytes in `folder`, with `reserve` bytes left for others?

    Raises ServiceUnavailable that names the folder, what is needed, what is free and what to do.
    """
    if shutil.disk_usage(folder).free - reserve < needed:
        raise _full(folder, needed + reserve)


def _full(folder: Path, needed: int | None) -> ServiceUnavailable:
    free = shutil.disk_usage(folder).free
    wanted = f"needed {_size(needed)} (with a reserve for others)" if needed else "needed more"
    return ServiceUnavailable(
        f"disk full: spool folder {folder}: {wanted}, found {_size(free)} free. Free some space, make "
        "batches smaller or move the workspace to a larger disk, then run again; nothing was lost."
    )


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
