"""The published ledger copied out of the vault, for somebody who has neither the vault nor the database.

Rules of this module:
- Copied are all that the newest checkpoint signs (its tiles and bundles, no older partial ones), every checkpoint
  with its cosignatures and time stamps, and the newest one last: a folder that has a `checkpoint` was copied whole.
- A file is written beside and renamed to its name, so a copy that was cut is gone on with: what is there with the
  size that it has in the vault is kept, and read again only where `everything` is asked. Checkpoints always are.
- It goes into a new folder or on top of a former export of the same log, never beside what is no file of a ledger,
  and never back: a vault that is behind the former export is refused.
- What the vault lacks is listed; the rest is copied all the same, for `muniment verify --offline` to judge.
- The listing is streamed; memory is that of the files under way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from retention.archive import Archive
from retention.database import transaction
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.history import keys
from retention.history.keys import LogKey
from retention.history.publishing import COPIES, COSIGNATURES, FOLDER, TIMESTAMPS, newest_signed
from retention.tlog import checkpoint, tiles
from retention.tlog.checkpoint import Opened
from retention.tlog.tiles import ENTRIES
from retention.vault.base import Stored, Vault

UNFINISHED = ".unfinished"  # the folder of files that are being written

OURS = {"checkpoint", "checkpoints", "cosignatures", "timestamps", "tile", UNFINISHED}
_TOGETHER = 256  # files that wait to be copied

Teller = Callable[[int, int], None]


@dataclass(slots=True)
class Exported:
    """What is in the folder now: `copied` of its files are new. `missing` are keys that the vault has not."""

    size: int
    root: bytes
    files: int = 0
    copied: int = 0
    bytes: int = 0  # of those that were copied
    missing: list[str] = field(default_factory=list)


def export(archive: Archive, folder: Path, tell: Teller | None = None, everything: bool = False) -> Exported:
    """Copy the published ledger to `folder`. `tell` is told how many of how many tiles and bundles are there.

    Raises NotFound if nothing was published, UsageError or Refused for a folder that is something else."""
    with transaction(archive.connections) as conn:
        known = keys.all_keys(conn)
    return copy(archive.vault, known, folder, archive.settings.vault_threads, tell, everything)


def copy(
    vault: Vault,
    known: Sequence[LogKey],
    folder: Path,
    threads: int,
    tell: Teller | None = None,
    everything: bool = False,
    older: bool = False,
) -> Exported:
    """The same of any vault with a ledger that was signed by `known` keys; with `older` the older partial tiles and
    bundles too, which nobody needs, so that a check misses no file."""
    said = [one.key for place in (COSIGNATURES, TIMESTAMPS) for one in vault.list(place)]  # each has its checkpoint
    copies = [one.key for one in vault.list(COPIES)]  # before the newest: so it is none of an older state
    newest = newest_signed(vault, known) if known else None
    if newest is None:
        raise NotFound("nothing of the ledger was published yet. Publish it: `muniment ledger publish`, then again.")
    head = newest.checkpoint
    _refuse_behind(copies, head.size)
    found = Exported(head.size, head.root)
    with _folder_of_ours(folder):
        signed = _signed(folder, newest, known)
        with ThreadPoolExecutor(threads) as pool:
            _copy_tiles(vault, folder, pool, found, everything, tell)
            if older:
                _copy_older(vault, folder, pool, found)
            for key in [*copies, *said]:
                _copy(vault, folder, key, None)
        found.files += len(copies) + len(said) + 1
        _write(folder, "checkpoint", signed)
    return found


def _refuse_behind(copies: Iterable[str], size: int) -> None:
    last = max(copies, default="").rpartition("/")[2]
    if last.isdecimal() and int(last) > size:
        raise Refused(
            f"refusing to export: the published checkpoint is of {size:,} events, but one of {int(last):,} was signed. "
            "Publishing was cut off, or the checkpoint rolled back. Run `muniment ledger publish`, then this again."
        )


@contextmanager
def _folder_of_ours(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for one export at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    if strange := sorted({path.name for path in folder.iterdir()} - OURS):
        raise UsageError(
            f"{folder}: refusing to export beside {strange[0]!r}, which is no file of a ledger. Name a new folder, or "
            "that of a former export."
        )
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        (folder / UNFINISHED).mkdir()
        yield
        (folder / UNFINISHED).rmdir()
    except BlockingIOError:
        raise Refused(f"refusing to export to {folder} twice at once: another process is at it. Wait for it.") from None
    finally:
        os.close(descriptor)


def _signed(folder: Path, newest: Opened, known: Iterable[LogKey]) -> bytes:
    """The note to write: the former one where it is of the same text, since it may have cosignatures."""
    try:
        data = (folder / "checkpoint").read_bytes()
    except FileNotFoundError:
        return newest.note.encode()
    what = str(folder / "checkpoint")
    origin = newest.checkpoint.origin
    try:
        former = checkpoint.open_signed(data, origin, [key.verifier for key in known], what=what)
    except Damaged as damaged:
        raise Refused(
            f"refusing to export over what is no former export of {origin}, or was changed: {damaged} Name a new "
            "folder."
        ) from None
    if former.checkpoint.size > newest.checkpoint.size:
        raise Refused(
            f"refusing to export {newest.checkpoint.size:,} events over a former export of "
            f"{former.checkpoint.size:,}: the vault is behind it, so it was rolled back. Keep the folder, which is the "
            "evidence, and export to a new one."
        )
    return data if former.note.text == newest.note.text else newest.note.encode()


def _copy_tiles(
    vault: Vault, folder: Path, threads: ThreadPoolExecutor, found: Exported, everything: bool, tell: Teller | None
) -> None:
    expected = _count(found.size)

    def copy(one: Stored) -> int | None:
        path = folder / one.key.removeprefix(f"{FOLDER}/")
        if not everything and path.is_file() and path.stat().st_size == one.size:
            return None
        return _copy(vault, folder, one.key, one.size)

    wanted = (one for one in vault.list(f"{FOLDER}/tile") if _is_of(found.size, one.key))
    while some := list(islice(wanted, _TOGETHER)):
        for size in threads.map(copy, some):
            found.files += 1
            if size is not None:
                found.copied, found.bytes = found.copied + 1, found.bytes + size
        if tell:
            tell(found.files, expected)
    if found.files < expected:
        for tile in tiles.growth(0, found.size):
            for one in (tile, tile.entries) if tile.level == 0 else (tile,):
                if not (folder / one.path).is_file():
                    found.missing.append(f"{FOLDER}/{one.path}")


def _copy_older(vault: Vault, folder: Path, threads: ThreadPoolExecutor, found: Exported) -> None:
    wanted = (one.key for one in vault.list(f"{FOLDER}/tile") if _is_older(found.size, one.key))
    while some := list(islice(wanted, _TOGETHER)):
        list(threads.map(lambda key: _copy(vault, folder, key, None), some))


def _is_older(size: int, key: str) -> bool:
    """Whether it is the beginning of a tile or bundle of the tree; what lies beyond is being published."""
    tile = tiles.parse_path(key.removeprefix(f"{FOLDER}/"))
    if tile is None:
        return False
    try:
        return tile.width < tiles.in_tree(size, max(tile.level, 0), tile.index).width
    except ValueError:
        return False


def _count(size: int) -> int:
    """How many tiles and bundles a tree has."""
    bundles = -(-size // tiles.WIDTH)
    level, count = 0, bundles
    while size >> tiles.HEIGHT * level:
        count += -(-(size >> tiles.HEIGHT * level) // tiles.WIDTH)
        level += 1
    return count


def _is_of(size: int, key: str) -> bool:
    """Whether it is a tile or bundle that the tree of `size` has: no older partial one, none beyond."""
    tile = tiles.parse_path(key.removeprefix(f"{FOLDER}/"))
    if tile is None:
        return False
    try:
        present = tiles.in_tree(size, tile.level, tile.index)
    except ValueError:
        return False
    return tile == (present.entries if tile.level == ENTRIES else present)


def _copy(vault: Vault, folder: Path, key: str, size: int | None) -> int:
    with vault.open(key) as file:
        content = file.read()
    if size is not None and len(content) != size:
        raise Damaged(f"{key}: expected the {size:,} bytes of the vault's listing, read {len(content):,}. Try again.")
    _write(folder, key.removeprefix(f"{FOLDER}/"), content)
    return len(content)


def _write(folder: Path, name: str, content: bytes) -> None:
    unfinished, path = folder / UNFINISHED / name.replace("/", "_"), folder / name
    unfinished.write_bytes(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(path)
