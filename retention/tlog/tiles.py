"""The Merkle tree in files: the tiles and entry bundles of c2sp.org/tlog-tiles. Pure.

Rules of this module:
- A tile is 256 consecutive hashes of every eighth level of the tree: at level 0 the leaves, at level 1 the roots of
  full tiles of level 0, and so on. An entry bundle is the 256 entries whose leaf hashes are one tile of level 0.
- Only the rightmost tile of a level can be partial (1 to 255 wide). It never counts in the level above.
- Files never change: a tree that grows adds full tiles, and partial ones under other names.
- An entry bundle is its entries, each after its length as a big-endian uint16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from retention import merkle
from retention.errors import Damaged

HEIGHT = 8
WIDTH = 1 << HEIGHT
ENTRIES = -1  # the level of an entry bundle
MAX_LEVEL = 63
MAX_ENTRY = 65_535  # bytes: an entry stands behind its length in 16 bits

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A tile, or at level ENTRIES an entry bundle, and how many hashes or entries it has."""

    level: int
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        if not (ENTRIES <= self.level <= MAX_LEVEL and self.index >= 0 and 1 <= self.width <= WIDTH):
            raise ValueError(f"no such tile: level {self.level}, index {self.index}, width {self.width}")

    @property
    def path(self) -> str:
        """Below the log's prefix, such as tile/0/x001/x234/067.p/5."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        index, rest = f"{self.index % 1000:03}", self.index // 1000
        while rest:
            index, rest = f"x{rest % 1000:03}/{index}", rest // 1000
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{index}{partial}"

    @property
    def entries(self) -> Tile:
        """The entry bundle of a tile of level 0."""
        return Tile(ENTRIES, self.index, self.width)


def parse_path(path: str) -> Tile | None:
    """The tile of a path; None if no tile has it."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level = ENTRIES if match[1] == "entries" else int(match[1])
    width = int(match[3] or WIDTH)
    if level > MAX_LEVEL or not 1 <= width <= WIDTH:
        return None
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), width)
    return tile if tile.path == path else None  # leading zeros


def in_tree(size: int, level: int, index: int) -> Tile:
    """The tile, full or partial, that a tree of `size` leaves has there. Raises ValueError where it has none."""
    hashes = size >> HEIGHT * max(level, 0)
    width = min(hashes - index * WIDTH, WIDTH)
    if width < 1:
        raise ValueError(f"a tree of {size} leaves has no tile at level {level}, index {index}")
    return Tile(level, index, width)


def growth(old: int, new: int) -> Iterator[Tile]:
    """The tiles that a tree of `new` leaves has and the same tree of `old` leaves had not, level by level.

    The entry bundles to write are those of its tiles of level 0."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} leaves cannot grow to {new}")
    level = 0
    while (count := new >> HEIGHT * level) > (had := old >> HEIGHT * level):
        for index in range(had >> HEIGHT, count >> HEIGHT):
            yield Tile(level, index)
        if count % WIDTH:
            yield Tile(level, count >> HEIGHT, count % WIDTH)
        level += 1


def edge(size: int) -> list[Tile]:
    """The partial tiles of a tree of `size` leaves, level 0 first."""
    levels = range((size.bit_length() + HEIGHT - 1) // HEIGHT)
    counts = [size >> HEIGHT * level for level in levels]
    return [Tile(level, n >> HEIGHT, n % WIDTH) for level, n in enumerate(counts) if n % WIDTH]


def grow(size: int, read: Callable[[Tile], bytes], leaves: Iterable[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """The tiles of `growth`, with their contents, as leaf hashes are appended to a tree of `size` leaves.

    `read` gives the contents of the tiles of `edge(size)`. A full tile comes as soon as it is full, the partial ones
    at the end, so memory is that of one tile a level."""
    old, rest = size, iter(leaves)
    levels: list[list[bytes]] = [[]]
    for tile in edge(size):
        levels += [[] for _ in range(len(levels), tile.level + 1)]
        levels[tile.level] = hashes(tile, read(tile))
    while taken := list(islice(rest, WIDTH - len(levels[0]))):
        levels[0] += taken
        size += len(taken)
        level = 0
        while len(levels[level]) == WIDTH:
            full, levels[level] = levels[level], []
            yield Tile(level, (size >> HEIGHT * (level + 1)) - 1), b"".join(full)
            level += 1
            if level == len(levels):
                levels.append([])
            levels[level].append(merkle.tree_root(full))
    for tile in edge(size):
        if size >> HEIGHT * tile.level > old >> HEIGHT * tile.level:
            yield tile, b"".join(levels[tile.level])


def hashes(tile: Tile, content: bytes) -> list[bytes]:
    """The hashes in a tile. Raises Damaged if they are not as many as its path says."""
    if len(content) != tile.width * merkle.HASH:
        raise Damaged(
            f"{tile.path}: expected {tile.width} hashes, {tile.width * merkle.HASH} bytes, found {len(content)} bytes."
        )
    return [content[at : at + merkle.HASH] for at in range(0, len(content), merkle.HASH)]


def node_reader(size: int, read: Callable[[Tile], bytes]) -> merkle.Reader:
    """A reader of the nodes of the tree of `size` leaves, for proofs, that reads each tile it needs once."""
    held: dict[Tile, list[bytes]] = {}

    def node(level: int, index: int) -> bytes:
        above, below = divmod(level, HEIGHT)
        number, first = divmod(index << below, WIDTH)
        tile = in_tree(size, above, number)
        if first + (1 << below) > tile.width:
            raise ValueError(f"a tree of {size} leaves has no node at level {level}, index {index}")
        if tile not in held:
            held[tile] = hashes(tile, read(tile))
        return merkle.tree_root(held[tile][first : first + (1 << below)])

    return node


def encode(entries: Iterable[bytes]) -> bytes:
    """An entry bundle. Raises ValueError for an entry that is too long for its length."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise ValueError(f"entry of {len(entry)} bytes: an entry bundle holds at most {MAX_ENTRY} each")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode(bundle: Tile, content: bytes) -> Iterator[bytes]:
    """The entries of a bundle. Raises Damaged, with the place, if they are not as many as its path says."""
    at, end = 0, len(content)
    for number in range(bundle.width):
        start = at + 2
        length = int.from_bytes(content[at:start], "big")
        if start + length > end:
            says = f"says {length} bytes" if start <= end else "has no length"
            raise Damaged(
                f"{bundle.path}: entry {number} of {bundle.width} at byte {at} {says}, but the file ends at byte {end}."
            )
        at = start + length
        yield content[start:at]
    if at != end:
        raise Damaged(f"{bundle.path}: expected {bundle.width} entries, which end at byte {at}, found {end} bytes.")


def leaf_hashes(bundle: Tile, content: bytes) -> list[bytes]:
    """The leaf hashes of the entries that `decode` yields; joined, the tile of level 0 that belongs to the bundle.

    One flat loop, because verifying a ledger is little else; a copied hash costs less than a new one of joined
    bytes. Raises Damaged as `decode` does."""
    found: list[bytes] = []
    begun, add, at, end = sha256(b"\x00").copy, found.append, 0, len(content)
    with suppress(IndexError):  # half a length, at the end
        while at < end:
            start = at + 2
            at = start + (content[at] << 8 | content[at + 1])
            leaf = begun()
            leaf.update(content[start:at])
            add(leaf.digest())
    if at != end or len(found) != bundle.width:
        return [merkle.leaf_hash(entry) for entry in decode(bundle, content)]  # which says what is wrong, and where
    return found


def root_of_bundle(bundle: Tile, content: bytes) -> bytes:
    """The root of the tree of a bundle's entries. For a full bundle it is the hash that stands in tile/1/….

    Bundles can be hashed apart, in other processes, and their roots appended: see `merkle`."""
    return merkle.tree_root(leaf_hashes(bundle, content))
