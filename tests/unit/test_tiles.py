"""c2sp.org/tlog-tiles: paths, which tiles a tree has and grows, their contents; entry bundles, and damaged ones."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention import merkle
from retention.errors import Damaged
from retention.tlog import tiles
from retention.tlog.tiles import ENTRIES, Tile

LEAVES = [sha256(n.to_bytes(3, "big")).digest() for n in range(70_000)]


def _contents(size: int) -> dict[Tile, bytes]:
    """All tiles of the tree of the first `size` LEAVES, by the definition of the specification."""
    found, level, row = dict[Tile, bytes](), 0, LEAVES[:size]
    while row:
        for at in range(0, len(row), 256):
            found[Tile(level, at // 256, len(row[at : at + 256]))] = b"".join(row[at : at + 256])
        row = [merkle.tree_root(row[at : at + 256]) for at in range(0, len(row) - 255, 256)]
        level += 1
    return found


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1234067), "tile/0/x001/x234/067"),  # the example of the specification
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1, 5), "tile/0/001.p/5"),
        (Tile(5, 123456078, 2), "tile/5/x123/x456/078.p/2"),
        (Tile(ENTRIES, 3057500), "tile/entries/x003/x057/500"),
        (Tile(ENTRIES, 999, 255), "tile/entries/999.p/255"),
        (Tile(63, 1000), "tile/63/x001/000"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@given(st.integers(-1, 63), st.integers(0, 2**40), st.integers(1, 256))
def test_a_path_leads_back_to_its_tile(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/123/456/078",
        "tile/-1/000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/0/x000/001",
        "tile/0/x000/x001/000",
        "tile/0/0001",
        "tile/0/01",
        "tile/0/001.p/0",
        "tile/0/001.p/05",
        "tile/0/001.p/256",
        "tile/0/001.p/",
        "tile/0/x001.p/5/001",
        "tile/data/000",
        "tile/8/0/000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/0/０00",
        "checkpoint",
        "",
    ],
)
def test_what_is_no_path_of_a_tile(path: str) -> None:
    assert tiles.parse_path(path) is None


@given(st.text(alphabet="tile/enrsx0123456789.p", max_size=30))
def test_whatever_parses_is_written_the_same(path: str) -> None:
    tile = tiles.parse_path(path)
    assert tile is None or tile.path == path


@pytest.mark.parametrize("coordinates", [(-2, 0, 256), (64, 0, 256), (0, -1, 256), (0, 0, 0), (0, 0, 257)])
def test_tiles_that_cannot_be(coordinates: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no such tile"):
        Tile(*coordinates)


def test_the_tree_of_70_000_of_the_specification() -> None:
    found = list(tiles.growth(0, 70_000))
    assert [t for t in found if t.level == 0] == [*(Tile(0, n) for n in range(273)), Tile(0, 273, 112)]
    assert [t for t in found if t.level > 0] == [Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles.growth(0, 256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert tiles.edge(70_000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert tiles.edge(65_536) == [Tile(2, 0, 1)]
    assert tiles.edge(0) == []
    assert tiles.in_tree(70_000, ENTRIES, 273) == Tile(0, 273, 112).entries == Tile(ENTRIES, 273, 112)


SIZES = st.one_of(st.integers(0, 70_000), st.sampled_from([0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537]))


@given(SIZES, SIZES)
def test_growth_is_what_one_tree_has_and_the_other_had_not(one: int, other: int) -> None:
    old, new = sorted((one, other))
    before, after = set(tiles.growth(0, old)), list(tiles.growth(0, new))
    assert list(tiles.growth(old, new)) == [tile for tile in after if tile not in before]
    assert len(set(after)) == len(after)
    assert all(tiles.in_tree(new, tile.level, tile.index) == tile for tile in after)
    for level in range(4):  # and there is no further one
        with pytest.raises(ValueError, match=f"no tile at level {level}"):
            tiles.in_tree(new, level, sum(tile.level == level for tile in after))


def test_a_tree_does_not_shrink() -> None:
    for old, new in ((2, 1), (-1, 1)):
        with pytest.raises(ValueError, match="cannot grow"):
            list(tiles.growth(old, new))


@pytest.mark.parametrize("sizes", [(0, 1, 2, 255, 256, 257), (0, 300, 511, 512, 513, 70_000), (0, 65_535, 65_536)])
def test_the_contents_of_a_growing_tree(sizes: tuple[int, ...]) -> None:
    stored = dict[Tile, bytes]()
    for old, new in pairwise(sizes):
        written = dict(tiles.grow(old, stored.__getitem__, iter(LEAVES[old:new])))
        assert set(written) == set(tiles.growth(old, new))
        stored |= written
        expected = _contents(new)
        assert {tile: stored[tile] for tile in expected} == expected


@given(SIZES, st.integers(0, 600))
def test_growing_writes_the_tiles_of_growth(old: int, more: int) -> None:
    new = min(old + more, 70_000)
    expected = _contents(new)
    written = list(tiles.grow(old, {**_contents(old)}.__getitem__, LEAVES[old:new]))
    assert sorted(tile for tile, _ in written) == sorted(tiles.growth(old, new))
    assert all(expected[tile] == content for tile, content in written)


def test_growing_reads_only_the_edge_and_yields_as_it_fills() -> None:
    read = list[Tile]()
    given_leaves = iter(LEAVES[:600])

    def contents(tile: Tile) -> bytes:
        read.append(tile)
        return bytes(32 * tile.width)

    written = tiles.grow(70_000, contents, given_leaves)
    assert next(written)[0] == Tile(0, 273)
    assert len(list(given_leaves)) == 600 - (256 - 112)  # not one leaf more was taken
    assert read == tiles.edge(70_000)


def test_a_tile_of_another_length_is_damaged() -> None:
    with pytest.raises(Damaged, match=r"tile/0/000\.p/3: expected 3 hashes, 96 bytes, found 95 bytes"):
        tiles.hashes(Tile(0, 0, 3), bytes(95))


def _counting(size: int) -> tuple[merkle.Reader, list[Tile]]:
    contents, read = _contents(size), list[Tile]()

    def reader(tile: Tile) -> bytes:
        read.append(tile)
        return contents[tile]

    return tiles.node_reader(size, reader), read


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 300, 65_536, 70_000])
def test_nodes_come_out_of_tiles(size: int) -> None:
    node, _ = _counting(size)
    for level in range(17):
        count = size >> level
        for index in {0, count // 2, count - 1} & set(range(count)):
            assert node(level, index) == merkle.tree_root(LEAVES[index << level : (index + 1) << level])
        with pytest.raises(ValueError, match="a tree of"):
            node(level, count)


def test_proofs_read_few_tiles_and_each_once() -> None:
    root = merkle.tree_root(LEAVES)
    for index in (0, 255, 256, 35_000, 65_535, 65_536, 69_887, 69_888, 69_999):
        node, read = _counting(70_000)
        proof = merkle.inclusion_proof(index, 70_000, node)
        merkle.verify_inclusion(LEAVES[index], index, 70_000, proof, root)
        assert len(read) == len(set(read)) <= 5  # of 276
    for first in (1, 256, 300, 65_536, 69_999):
        node, read = _counting(70_000)
        proof = merkle.consistency_proof(first, 70_000, node)
        merkle.verify_consistency(first, 70_000, proof, merkle.tree_root(LEAVES[:first]), root)
        assert len(read) == len(set(read)) <= 5


ENTRY_LISTS = st.lists(st.binary(max_size=300), min_size=1, max_size=256)


@given(ENTRY_LISTS)
def test_entries_come_back_from_their_bundle(entries: list[bytes]) -> None:
    bundle, content = Tile(ENTRIES, 7, len(entries)), tiles.encode(entries)
    assert len(content) == sum(map(len, entries)) + 2 * len(entries)
    assert list(tiles.decode(bundle, content)) == entries
    assert tiles.leaf_hashes(bundle, content) == [merkle.leaf_hash(entry) for entry in entries]
    assert tiles.root_of_bundle(bundle, content) == merkle.tree_root(map(merkle.leaf_hash, entries))


def test_lengths_are_big_endian_and_reach_65_535() -> None:
    assert tiles.encode([b"ab", b""]) == b"\x00\x02ab\x00\x00"
    longest = bytes(65_535)
    assert tiles.encode([longest])[:2] == b"\xff\xff"
    assert list(tiles.decode(Tile(ENTRIES, 0, 1), tiles.encode([longest]))) == [longest]
    with pytest.raises(ValueError, match="entry of 65536 bytes"):
        tiles.encode([longest + b"x"])


THREE = tiles.encode([b"one", b"two", b"three"])  # they end at bytes 5, 10 and 17


@pytest.mark.parametrize(
    ("width", "content", "message"),
    [
        (3, THREE[:-1], r"tile/entries/004\.p/3: entry 2 of 3 at byte 10 says 5 bytes, but the file ends at byte 16"),
        (3, THREE[:12], "entry 2 of 3 at byte 10 says 5 bytes, but the file ends at byte 12"),
        (3, THREE[:11], "entry 2 of 3 at byte 10 has no length, but the file ends at byte 11"),
        (3, THREE[:10], "entry 2 of 3 at byte 10 has no length, but the file ends at byte 10"),
        (3, b"", "entry 0 of 3 at byte 0 has no length"),
        (4, THREE, "entry 3 of 4 at byte 17 has no length"),
        (2, THREE, "expected 2 entries, which end at byte 10, found 17 bytes"),
        (3, THREE + b"x", "expected 3 entries, which end at byte 17, found 18 bytes"),
        (3, b"\x00\x04" + THREE[2:], "entry 1 of 3 at byte 6 says 884 bytes, but the file ends at byte 17"),
    ],
)
def test_a_damaged_bundle_is_named_with_the_byte(width: int, content: bytes, message: str) -> None:
    bundle = Tile(ENTRIES, 4, width)
    with pytest.raises(Damaged, match=message):
        list(tiles.decode(bundle, content))
    with pytest.raises(Damaged, match=message):
        tiles.leaf_hashes(bundle, content)


@given(ENTRY_LISTS, st.data())
def test_no_bundle_with_one_bit_flipped_has_the_same_leaves(entries: list[bytes], data: st.DataObject) -> None:
    bundle, content = Tile(ENTRIES, 0, len(entries)), tiles.encode(entries)
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        assert tiles.leaf_hashes(bundle, bytes(flipped)) != tiles.leaf_hashes(bundle, content)
    except Damaged as damaged:
        assert bundle.path in str(damaged)


def test_bundles_hashed_apart_make_the_tree() -> None:
    entries = [f"entry {n}".encode() for n in range(700)]
    bundles = [tiles.encode(entries[at : at + 256]) for at in range(0, 700, 256)]
    roots = [tiles.root_of_bundle(Tile(ENTRIES, n), content) for n, content in enumerate(bundles[:2])]
    full, frontier = merkle.append(0, [], roots)
    rest = tiles.leaf_hashes(Tile(ENTRIES, 2, 188), bundles[2])
    size, frontier = merkle.append(full * 256, frontier, rest)
    assert (size, merkle.root(frontier)) == (700, merkle.tree_root(map(merkle.leaf_hash, entries)))
