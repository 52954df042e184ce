"""A published ledger checked with nothing but its folder and a public key.

Rules of this module (requirements: history, *Verify*):
- No server, no database, no network. What is trusted is the key that is given, and what it handed over to.
- The tree is reckoned from the entries. Every tile, every checkpoint and every file must agree with it; what does not
  is named, with the file, the entry and both hashes. A file that belongs to no ledger is named too.
- Where entries and their tile differ, the hash above them says which of the two was changed; the check goes on with
  the other, so that what follows is not blamed.
- A cosignature is a checkpoint too, signed by the log and one witness: what it says must agree like the others. The
  witness's own signature is checked where its public key is given; without it nobody can tell.
- A time stamp is named by its own digest and is one of a checkpoint that is here. Whether the authority made it is
  checked where its root certificate is given.
- Older partial tiles and bundles may stand there: each is the beginning of the one that came after it.
- Bundles are read once, in order, by several processes; a process holds one bundle and its tile, the rest is
  O(log n). One that is damaged does not end the check.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retention import merkle
from retention.errors import Damaged, MunimentError, Refused, UsageError
from retention.history.handover import INTRODUCED, trusted
from retention.tlog import checkpoint, note, tiles
from retention.tlog.checkpoint import Checkpoint, Opened
from retention.tlog.note import COSIGNATURE, Verifier
from retention.tlog.tiles import ENTRIES, WIDTH, Tile

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MOST = 1_000  # problems that are listed; the rest is counted

_CHUNK = 64  # bundles that a process takes at once
_WORTH = 60  # chunks, about a million entries: below it, starting processes costs more than it saves
_LARGEST = 1_000_000  # bytes of a checkpoint

_COSIGNATURE = re.compile(r"cosignatures/([0-9]{20})/([0-9a-f]{8})")  # size, key id

_NOTHING = Checkpoint("?", 0, merkle.EMPTY)

Teller = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one file, in words."""

    path: str
    said: str

    def __str__(self) -> str:
        return f"{self.path}: {self.said}"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """Checkpoints that one witness cosigned: their sizes, and when it cosigned the largest (Unix seconds)."""

    witness: Verifier
    sizes: tuple[int, ...]
    time: int


@dataclass(slots=True)
class Verified:
    """What was found. `root` is that of the entries; `signed_by` the keys that signed the newest checkpoint.

    `cosigned` is what verifies, of each witness that was given; `unchecked` counts the cosignatures of others.
    `stamped` are the checkpoints of which an authority that was given says that they were there, by size: since when;
    `unchecked_stamps` counts the time stamps of others."""

    size: int
    root: bytes = merkle.EMPTY
    signed_by: tuple[Verifier, ...] = ()
    checkpoints: int = 0
    cosigned: tuple[Cosigned, ...] = ()
    unchecked: int = 0
    stamped: dict[int, datetime] = field(default_factory=dict)
    unchecked_stamps: int = 0
    problems: list[Problem] = field(default_factory=list)
    more: int = 0  # problems beyond MOST

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, path: str, said: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(Problem(path, said))
        else:
            self.more += 1


def verify(
    folder: Path,
    trusts: Sequence[Verifier],
    tell: Teller | None = None,
    processes: int = 0,
    witnesses: Sequence[Verifier] = (),
    authorities: Sequence[Certificate] = (),
) -> Verified:
    """Check the ledger in `folder`. `tell` is told how many of how many entries were read. `authorities`: the root
    certificates of those that gave time stamps.

    Raises UsageError if there is no ledger, or for a key that is no witness's. `processes`: 0 is one for each core."""
    for witness in witnesses:
        if witness.kind != COSIGNATURE:
            raise UsageError(f"key {witness}: expected that of a witness, which `muniment ledger cosign` prints.")
    if not (folder / "checkpoint").is_file():
        raise UsageError(
            f"{folder}: expected a published ledger with its `checkpoint`. `muniment ledger export {folder}` makes one."
        )
    notes = _notes(folder)
    size, claimed = max((head.size, head.root) for head, _, _ in notes)
    found = Verified(size)
    sizes = sorted({head.size for head, _, _ in notes})
    roots, introduced = _read_entries(folder, sizes, claimed, found, tell, processes or os.cpu_count() or 1)
    found.root = roots.get(size, merkle.EMPTY)
    _check_notes(notes, roots, introduced, trusts, witnesses, found)
    _check_stamps(folder, authorities, found)
    _check_files(folder, size, found)
    return found


# ---------------------------------------------------------------- checkpoints


def _notes(folder: Path) -> list[tuple[Checkpoint, str, bytes]]:
    """What each checkpoint claims, its path and bytes; an empty tree where it claims nothing that can be."""
    cosignatures = (path for path in (folder / "cosignatures").glob("*/*") if path.is_file())
    paths = [folder / "checkpoint", *sorted((folder / "checkpoints").glob("*")), *sorted(cosignatures)]
    found = []
    for path in paths:
        with path.open("rb") as file:
            data = file.read(_LARGEST)
        try:
            head = checkpoint.parse(note.parse(data).text)
        except Damaged:
            head = _NOTHING
        found.append((head if _plausible(folder, head.size) else _NOTHING, str(path.relative_to(folder)), data))
    return found


def _plausible(folder: Path, size: int) -> bool:
    """Whether there is anything of the last entries: of a size that somebody made up each would be told as missing."""
    if size == 0:
        return True
    last = tiles.in_tree(size, 0, (size - 1) // WIDTH)
    for tile in (Tile(0, last.index), Tile(ENTRIES, last.index)):
        full = folder / tile.path
        partial = full.with_name(f"{full.name}.p").glob("*")  # wider ones have them too
        if full.is_file() or any(path.name.isdecimal() and int(path.name) >= last.width for path in partial):
            return True
    return False


def _check_notes(
    notes: Sequence[tuple[Checkpoint, str, bytes]],
    roots: dict[int, bytes],
    introduced: Sequence[dict[str, Any]],
    trusts: Sequence[Verifier],
    witnesses: Sequence[Verifier],
    found: Verified,
) -> None:
    origin = trusts[0].name
    cosigned: dict[Verifier, dict[int, int]] = {witness: {} for witness in witnesses}
    try:
        verifiers = trusted(origin, trusts, introduced)
    except MunimentError as error:
        found.add("tile/entries", str(error))
        verifiers = list(trusts)
    named = {path: data for _, path, data in notes}
    newest: Checkpoint | None = None
    for claim, path, data in notes:
        try:
            opened = checkpoint.open_signed(data, origin, verifiers, witnesses, what=path)
        except MunimentError as error:
            found.add(path, str(error).removeprefix(f"{path}: "))
            continue
        head = opened.checkpoint
        found.checkpoints += not path.startswith("cosignatures/")
        if path == "checkpoint":
            newest, found.signed_by = head, opened.signed_by
        misplaced = _misplaced(path, opened, data, named, witnesses)
        contradicted = _contradicted(head, claim, roots)
        for said in filter(None, (misplaced, contradicted)):
            found.add(path, said)
        if not misplaced and not contradicted:
            found.unchecked += path.startswith("cosignatures/") and not opened.cosigned
            for witness, time in opened.cosigned:
                cosigned[witness][head.size] = min(time, cosigned[witness].get(head.size, time))
    found.cosigned = tuple(Cosigned(w, tuple(sorted(seen)), seen[max(seen)]) for w, seen in cosigned.items() if seen)
    if newest is not None:
        if newest.size < found.size:
            found.add("checkpoint", f"size {newest.size:,}, but one of {found.size:,} was signed: it was rolled back.")
        copy = f"checkpoints/{newest.size:020}"
        if copy not in named:
            found.add(copy, "missing: every checkpoint has a copy of its own.")


def _check_stamps(folder: Path, authorities: Sequence[Certificate], found: Verified) -> None:
    paths = sorted(path for path in (folder / "timestamps").glob("*/*") if path.is_file())
    if not paths:
        return
    from retention.history import timestamps  # slow to import, and seldom there

    for path in paths:
        name = str(path.relative_to(folder))
        copy = folder / "checkpoints" / path.parent.name
        content, data = path.read_bytes(), copy.read_bytes() if copy.is_file() else None
        if said := timestamps.check_place(name, content, data):
            found.add(name, said)
            continue
        assert data is not None
        try:
            if authorities:
                time = timestamps.check(content, data, authorities)
                size = int(path.parent.name)
                found.stamped[size] = min(time, found.stamped.get(size, time))
            else:
                found.unchecked_stamps += 1
        except Refused:
            found.unchecked_stamps += 1


def _contradicted(head: Checkpoint, claim: Checkpoint, roots: dict[int, bytes]) -> str | None:
    """Why the entries are not those that the checkpoint was signed for."""
    if head.size != claim.size or head.size not in roots:
        return f"it is signed for {head.size:,} entries, of which the folder has not all."
    if head.root != roots[head.size]:
        return (
            f"it is signed for {head.size:,} entries with the root {head.root.hex()}; those that are here have "
            f"the root {roots[head.size].hex()}. The history was rewritten after it was signed."
        )
    return None


def _misplaced(
    path: str, opened: Opened, data: bytes, named: dict[str, bytes], witnesses: Sequence[Verifier]
) -> str | None:
    """Why the checkpoint does not stand under its name."""
    if path in ("checkpoint", f"checkpoints/{opened.checkpoint.size:020}"):
        return None
    if not path.startswith("cosignatures/"):
        return f"the checkpoint of size {opened.checkpoint.size:,} stands under the name of another size."
    return _no_cosignature(path, opened, data, named, witnesses)


def _no_cosignature(
    path: str, opened: Opened, data: bytes, named: dict[str, bytes], witnesses: Sequence[Verifier]
) -> str | None:
    """Why it is not the copy of its checkpoint and one line more, by the key that the path names."""
    place = _COSIGNATURE.fullmatch(path)
    if place is None:
        return "no file of a ledger. Look who put it there."
    size, key_id = place.groups()
    if opened.checkpoint.size != int(size):
        return f"the cosignature of size {opened.checkpoint.size:,} stands under the name of another size."
    copy = named.get(f"checkpoints/{size}")
    if copy is None:
        return f"a cosignature of checkpoints/{size}, which is missing."
    last = opened.note.signatures[-1]
    if last.key_id.hex() != key_id or data != copy + str(last).encode():
        return f"expected checkpoints/{size} and one signature more, by the key {key_id}; found another note."
    if renamed := [witness for witness in witnesses if witness.key_id == last.key_id and witness.name != last.name]:
        return f"the key {key_id} is that of {renamed[0].name}; the signature names {last.name}."
    return None


# ---------------------------------------------------------------- entries and tiles


def _read_entries(
    folder: Path, sizes: Sequence[int], claimed: bytes, found: Verified, tell: Teller | None, processes: int
) -> tuple[dict[int, bytes], list[dict[str, Any]]]:
    """The roots at `sizes`, the last of which is the whole, and the details of the events that introduced keys."""
    size = sizes[-1]
    full = size // WIDTH
    levels: list[list[bytes]] = [[]]  # of level 1 and above, what is not a full tile yet
    frontier: list[bytes] = []
    roots: dict[int, bytes] = {}
    introduced: list[dict[str, Any]] = []
    wanted = iter(sizes)
    next_size = next(wanted)
    for number, (root, problems, details) in enumerate(_bundles(folder, size, claimed, processes)):
        while next_size < (number + 1) * WIDTH:
            roots[next_size] = merkle.root(_within(folder, size, claimed, next_size, frontier))
            next_size = next(wanted, size + WIDTH)
        for path, said in problems:
            found.add(path, said)
        introduced += details
        if number < full:
            _, frontier = merkle.append(number, frontier, [root])
            _add(folder, levels, number, root, found)
        if tell:
            tell(min((number + 1) * WIDTH, size), size)
    while next_size <= size:
        roots[next_size] = merkle.root(_within(folder, size, claimed, next_size, frontier))
        next_size = next(wanted, size + WIDTH)
    for depth, hashes in enumerate(levels, 1):
        count = size >> tiles.HEIGHT * depth
        if count % WIDTH:
            _compare(folder, Tile(depth, count >> tiles.HEIGHT, count % WIDTH), b"".join(hashes), found)
    return roots, introduced


def _within(folder: Path, whole: int, claimed: bytes, size: int, frontier: Sequence[bytes]) -> Sequence[bytes]:
    """The frontier at `size`, which lies in the bundle after those whose roots made `frontier`."""
    index, rest = divmod(size, WIDTH)
    if not rest:
        return frontier
    return merkle.append(index * WIDTH, frontier, _read_bundle(folder, whole, claimed, index).leaves[:rest])[1]


def _add(folder: Path, levels: list[list[bytes]], number: int, root: bytes, found: Verified) -> None:
    """One more hash of level 1; a tile that it fills is compared, and gives a hash of the level above."""
    depth = 0
    while True:
        levels[depth].append(root)
        number += 1
        if len(levels[depth]) < WIDTH:
            return
        hashes, levels[depth] = levels[depth], []
        number >>= tiles.HEIGHT
        _compare(folder, Tile(depth + 1, number - 1), b"".join(hashes), found)
        root = merkle.tree_root(hashes)
        depth += 1
        if depth == len(levels):
            levels.append([])
        number -= 1


def _compare(folder: Path, tile: Tile, expected: bytes, found: Verified) -> None:
    said = _difference(folder, tile, expected)
    if said:
        found.add(tile.path, said)


def _difference(folder: Path, tile: Tile, expected: bytes) -> str | None:
    try:
        content = (folder / tile.path).read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror}); it is a part of the tree."
    if content == expected:
        return None
    for number in range(tile.width):
        part = slice(number * merkle.HASH, (number + 1) * merkle.HASH)
        if content[part] != expected[part]:
            return f"hash {number} is {content[part].hex() or 'missing'}, its entries give {expected[part].hex()}."
    return f"expected {len(expected)} bytes, found {len(content)}."


@dataclass(frozen=True, slots=True)
class _Read:
    """One entry bundle: its leaf hashes as they were logged, what is wrong with it or its tile, keys in it."""

    leaves: list[bytes]
    problems: list[tuple[str, str]] = field(default_factory=list)
    introduced: list[dict[str, Any]] = field(default_factory=list)


_Summary = tuple[bytes, list[tuple[str, str]], list[dict[str, Any]]]  # the same, of the leaves only the root


def _bundles(folder: Path, size: int, claimed: bytes, processes: int) -> Iterator[_Summary]:
    """Each entry bundle, in order."""
    count = -(-size // WIDTH)
    chunks = [(str(folder), size, claimed, first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    if processes == 1 or len(chunks) < _WORTH:
        for chunk in chunks:
            yield from _read_bundles(chunk)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(processes, get_context("spawn")))
        waiting = iter(chunks)
        begun = [pool.submit(_read_bundles, chunk) for chunk in islice(waiting, processes * 3)]
        while begun:
            done = begun.pop(0).result()
            begun += [pool.submit(_read_bundles, chunk) for chunk in islice(waiting, 1)]
            yield from done


def _read_bundles(chunk: tuple[str, int, bytes, int, int]) -> list[_Summary]:
    folder, size, claimed, first, last = chunk
    read = (_read_bundle(Path(folder), size, claimed, index) for index in range(first, last))
    return [(merkle.tree_root(one.leaves), one.problems, one.introduced) for one in read]


def _read_bundle(folder: Path, size: int, claimed: bytes, index: int) -> _Read:
    """The leaf hashes are those of the entries, or, where they are damaged and their tile is not, those of the tile:
    one file that was changed is then named alone."""
    tile = tiles.in_tree(size, 0, index)
    bundle = tile.entries
    try:
        content = (folder / bundle.path).read_bytes()
        leaves = tiles.leaf_hashes(bundle, content)
    except (OSError, Damaged) as error:
        said = f"cannot be read ({error.strerror}): its entries are gone." if isinstance(error, OSError) else str(error)
        logged = _logged(folder, size, claimed, tile) or [bytes(merkle.HASH)] * tile.width
        return _Read(logged, [(bundle.path, said.removeprefix(f"{bundle.path}: "))])
    difference = _difference(folder, tile, b"".join(leaves))
    logged = (_logged(folder, size, claimed, tile) if difference else None) or leaves
    if logged != leaves:
        number = next(n for n, (one, other) in enumerate(zip(leaves, logged, strict=True)) if one != other)
        said = (
            f"entry {number} (event {index * WIDTH + number:,}) is not the one that was logged: its leaf hash is "
            f"{leaves[number].hex()}, in {tile.path} and the tree above it {logged[number].hex()}."
        )
        return _Read(logged, [(bundle.path, said)])
    details = []
    if INTRODUCED.encode() in content:
        details = [one for one in map(_introduction, tiles.decode(bundle, content)) if one]
    return _Read(leaves, [(tile.path, difference)] if difference else [], details)


def _logged(folder: Path, size: int, claimed: bytes, tile: Tile) -> list[bytes] | None:
    """The hashes of a tile of level 0, if the tree above it has them: their root in the tile above, or, of the last
    and partial one, the root that the checkpoint claims."""

    def read(tile: Tile) -> bytes:
        return (folder / tile.path).read_bytes()

    try:
        hashes = tiles.hashes(tile, read(tile))
        node = tiles.node_reader(size, read)
        if tile.width == WIDTH:
            return hashes if merkle.tree_root(hashes) == node(tiles.HEIGHT, tile.index) else None
        before = tile.index * WIDTH
        frontier = [node(level, index) for level, index in merkle.subtrees(0, before)]
        return hashes if merkle.root(merkle.append(before, frontier, hashes)[1]) == claimed else None
    except (OSError, Damaged):
        return None


def _introduction(entry: bytes) -> dict[str, Any] | None:
    if INTRODUCED.encode() not in entry:
        return None
    try:
        detail = json.loads(entry)["detail"]
    except (ValueError, KeyError, TypeError):
        return None
    return detail if isinstance(detail, dict) and detail.get("what") == INTRODUCED else None


# ---------------------------------------------------------------- files


def _check_files(folder: Path, size: int, found: Verified) -> None:
    """That nothing stands there that is not of this ledger; older partial files are beginnings of later ones."""
    for directory, names, files in os.walk(folder):
        names.sort()
        for name in sorted(files):
            path = str((Path(directory) / name).relative_to(folder))
            if path == "checkpoint" or (path.startswith("checkpoints/") and path.count("/") == 1):
                continue
            if path.startswith(("cosignatures/", "timestamps/")) and path.count("/") == 2:
                continue  # looked at with the notes
            tile = tiles.parse_path(path)
            if tile is None:
                found.add(path, "no file of a ledger. Look who put it there.")
            elif said := _strange(folder, size, tile):
                found.add(path, said)


def _strange(folder: Path, size: int, tile: Tile) -> str | None:
    try:
        present = tiles.in_tree(size, max(tile.level, 0), tile.index)
    except ValueError:
        return f"beyond the {size:,} entries that are signed. Publish again (`muniment ledger publish`), or look why."
    if tile.level == ENTRIES:
        present = present.entries
    if tile == present:
        return None  # read above
    if tile.width > present.width:
        return f"beyond the {size:,} entries that are signed. Publish again (`muniment ledger publish`), or look why."
    try:
        expected = _beginning(present, (folder / present.path).read_bytes(), tile.width)
    except (OSError, Damaged):
        return None  # told above
    return None if (folder / tile.path).read_bytes() == expected else f"it is not the beginning of {present.path}."


def _beginning(tile: Tile, content: bytes, width: int) -> bytes:
    if tile.level != ENTRIES:
        return content[: width * merkle.HASH]
    return tiles.encode(islice(tiles.decode(tile, content), width))
