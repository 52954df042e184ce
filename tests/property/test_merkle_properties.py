"""Trees of up to 10,000 leaves, against an implementation that we did not write; and every bit counts.

The other implementation is tlog-scales: its writer makes the files, its reader the proofs, its checks judge ours.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.tlog import ConsistencyProof, InclusionProof
from tlog_scales.writer import TilesWriter

from retention import merkle
from retention.errors import Damaged
from retention.tlog import tiles

SIZES = [1, 2, 255, 256, 257, 511, 4_999, 10_000, *Random(6962).sample(range(3, 10_000), 6)]


def _entries(size: int) -> list[bytes]:
    return [b"%d of %d" % (n, size) * (n % 3) for n in range(size)]


def _written_by_the_other(folder: Path, entries: list[bytes], first: int) -> TilesReader:
    """Their log, written in two commits, with the partial tiles of the first kept."""
    writer = TilesWriter.create(folder, "example.com/log")
    for part in (entries[:first], entries[first:]):
        for entry in part:
            writer.add_leaf(entry)
        writer.commit([], gc=False)
    reader = TilesReader(LocalBackend(folder))
    reader.set_size(len(entries))
    return reader


@pytest.mark.parametrize("size", SIZES)
def test_files_roots_and_proofs_are_those_of_the_other_implementation(size: int, tmp_path: Path) -> None:
    draw, entries = Random(size), _entries(size)
    first = draw.randrange(size + 1)
    other = _written_by_the_other(tmp_path / "log", entries, first)
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    files = dict[str, bytes]()
    for old, new in ((0, first), (first, size)):
        for tile, content in tiles.grow(old, lambda tile: files[tile.path], leaves[old:new]):
            files[tile.path] = content
            if tile.level == 0:
                files[tile.entries.path] = tiles.encode(entries[tile.index * 256 :][: tile.width])
    theirs = {
        str(p.relative_to(tmp_path / "log")): p.read_bytes() for p in (tmp_path / "log/tile").rglob("*") if p.is_file()
    }
    assert files == theirs

    root = merkle.tree_root(leaves)
    assert root == other.calculate_root_hash()
    node = tiles.node_reader(size, lambda tile: files[tile.path])
    for index in {0, size - 1, *(draw.randrange(size) for _ in range(10))}:
        path = merkle.inclusion_proof(index, size, node)
        assert path == other.get_inclusion_proof(index, size).node_hashes
        merkle.verify_inclusion(leaves[index], index, size, path, root)
        InclusionProof(index, size, path).check(leaves[index], root)
    for older in {1, size, first or 1, *(draw.randrange(1, size + 1) for _ in range(10))}:
        path, older_root = merkle.consistency_proof(older, size, node), merkle.tree_root(leaves[:older])
        assert path == other.get_consistency_proof(older, size).node_hashes
        assert older_root == other.mth(0, older)
        merkle.verify_consistency(older, size, path, older_root, root)
        ConsistencyProof(older, size, path).check(older_root, root)


LEAVES = [sha256(n.to_bytes(2, "big")).digest() for n in range(10_000)]


def _node(level: int, index: int) -> bytes:
    return merkle.tree_root(LEAVES[index << level : (index + 1) << level])


def _root(size: int) -> bytes:
    return merkle.tree_root(LEAVES[:size])


def _flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


def _turns(index: int, size: int) -> list[bool]:
    """From the root to the leaf: whether to the right, by the definition of the tree."""
    if size == 1:
        return []
    k = 1 << (size - 1).bit_length() - 1
    return [False, *_turns(index, k)] if index < k else [True, *_turns(index - k, size - k)]


@settings(deadline=None)
@given(st.data())
def test_one_bit_flipped_and_an_inclusion_proof_is_refused(data: st.DataObject) -> None:
    """Of the leaf, the root, the index and each hash. The size is bound by the checkpoint that signs it, not by the
    proof: another size passes exactly where the way from the root to the leaf is the same."""
    size = data.draw(st.integers(1, 10_000))
    index, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 255))
    leaf, root, path = LEAVES[index], _root(size), merkle.inclusion_proof(index, size, _node)
    merkle.verify_inclusion(leaf, index, size, path, root)
    which = data.draw(st.integers(0, max(len(path) - 1, 0)))
    altered = [(_flip(leaf, bit), index, path, root), (leaf, index, path, _flip(root, bit))]
    altered += [(leaf, index ^ 1 << at, path, root) for at in range(16)]
    altered += [(leaf, index, [*path[:which], _flip(h, bit), *path[which + 1 :]], root) for h in path[which:][:1]]
    for its_leaf, at, its_path, its_root in altered:
        with pytest.raises(Damaged):
            merkle.verify_inclusion(its_leaf, at, size, its_path, its_root)
    for other in (size ^ 1 << at for at in range(16)):
        if not (index < other and _turns(index, other) == _turns(index, size)):
            with pytest.raises(Damaged):
                merkle.verify_inclusion(leaf, index, other, path, root)


@settings(deadline=None)
@given(st.data())
def test_one_bit_flipped_and_a_consistency_proof_is_refused(data: st.DataObject) -> None:
    second = data.draw(st.integers(2, 10_000))
    first, bit = data.draw(st.integers(1, second - 1)), data.draw(st.integers(0, 255))
    old, new, path = _root(first), _root(second), merkle.consistency_proof(first, second, _node)
    merkle.verify_consistency(first, second, path, old, new)
    which = data.draw(st.integers(0, len(path) - 1))
    altered = [
        (first, _flip(old, bit), new, path),
        (first, old, _flip(new, bit), path),
        (first, old, new, [*path[:which], _flip(path[which], bit), *path[which + 1 :]]),
        (first, old, new, path[:-1]),
        (first, old, new, [*path, path[-1]]),
        *((first ^ 1 << at, old, new, path) for at in range(16)),
    ]
    for its_first, its_old, its_new, its_path in altered:
        with pytest.raises(Damaged):
            merkle.verify_consistency(its_first, second, its_path, its_old, its_new)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10_000), st.integers(0, 9_999), st.integers(0, 10_000))
def test_no_proof_joins_a_tree_to_one_with_another_leaf(size: int, at: int, more: int) -> None:
    """A fork: the same history, one leaf exchanged, then grown."""
    at, grown = at % size, min(size + more, 10_000)
    forked = [*LEAVES[:at], sha256(b"forged").digest(), *LEAVES[at + 1 :]]
    new = merkle.tree_root(forked[:grown])
    path = merkle.consistency_proof(size, grown, lambda level, n: merkle.tree_root(forked[n << level : n + 1 << level]))
    with pytest.raises(Damaged):
        merkle.verify_consistency(size, grown, path, _root(size), new)
    with pytest.raises(Damaged):
        merkle.verify_consistency(size, grown, merkle.consistency_proof(size, grown, _node), _root(size), new)
