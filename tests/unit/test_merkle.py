"""RFC 6962 §2.1 and RFC 9162 §2.1: published roots, proofs and node lists; what a verifier must not accept."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention import merkle
from retention.errors import Damaged

# The leaves, roots and proofs that Certificate Transparency implementations test with (certificate-transparency-go
# and transparency-dev/merkle, proof/verify_test.go).
LEAVES = [
    bytes.fromhex(h)
    for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_96 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_5F = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_6B = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_BC = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_CA = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_D3 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
_FA = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
_6E = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
_0E = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
_B0 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
INCLUSION = [  # index, size, proof
    (0, 1, []),
    (0, 8, [_96, _5F, _6B]),
    (5, 8, [_BC, _CA, _D3]),
    (2, 3, [_FA]),
    (1, 5, [_6E, _5F, _BC]),
]
CONSISTENCY = [  # first, second, proof
    (1, 1, []),
    (1, 8, [_96, _5F, _6B]),
    (6, 8, [_0E, _CA, _D3]),
    (2, 5, [_5F, _BC]),
    (6, 7, [_0E, _B0, _D3]),
]
# Which nodes a proof is made of: transparency-dev/merkle, proof/proof_test.go.
INCLUSION_NODES = [
    (0, 2, {(0, 1)}),
    (1, 3, {(0, 0), (0, 2)}),
    (0, 7, {(0, 1), (1, 1), (0, 6), (1, 2)}),
    (2, 7, {(0, 3), (1, 0), (0, 6), (1, 2)}),
    (4, 7, {(0, 5), (0, 6), (2, 0)}),
    (6, 7, {(1, 2), (2, 0)}),
    (3, 6, {(0, 2), (1, 0), (1, 2)}),
    (10, 15, {(0, 11), (1, 4), (0, 14), (1, 6), (3, 0)}),
    (24, 31, {(0, 25), (1, 13), (0, 30), (1, 14), (3, 2), (4, 0)}),
    (81, 95, {(0, 80), (1, 41), (2, 21), (0, 94), (1, 46), (2, 22), (4, 4), (6, 0)}),
]
CONSISTENCY_NODES = [
    (1, 2, {(0, 1)}),
    (1, 6, {(0, 1), (1, 1), (1, 2)}),
    (2, 8, {(1, 1), (2, 1)}),
    (3, 7, {(0, 2), (0, 3), (1, 0), (0, 6), (1, 2)}),
    (4, 7, {(0, 6), (1, 2)}),
    (5, 7, {(0, 4), (0, 5), (0, 6), (2, 0)}),
    (6, 7, {(1, 2), (0, 6), (2, 0)}),
    (7, 8, {(0, 6), (0, 7), (1, 2), (2, 0)}),
    (8, 8, set()),
    (0, 8, set()),
    (10, 15, {(1, 4), (1, 5), (0, 14), (1, 6), (3, 0)}),
    (24, 31, {(3, 2), (0, 30), (1, 14), (2, 6), (4, 0)}),
    (81, 95, {(0, 80), (0, 81), (1, 41), (2, 21), (0, 94), (1, 46), (2, 22), (4, 4), (6, 0)}),
]
HASHES = [merkle.leaf_hash(leaf) for leaf in LEAVES]
OTHER = sha256(b"another").digest()


def _root_by_definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1 over leaf hashes, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return merkle.node_hash(_root_by_definition(leaves[:k]), _root_by_definition(leaves[k:]))


def _reader(leaves: Sequence[bytes]) -> merkle.Reader:
    return lambda level, index: _root_by_definition(leaves[index << level : (index + 1) << level])


def _recorder(read: set[tuple[int, int]]) -> merkle.Reader:
    def node(level: int, index: int) -> bytes:
        read.add((level, index))
        return OTHER

    return node


def _unhex(hashes: list[str]) -> list[bytes]:
    return [bytes.fromhex(h) for h in hashes]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert merkle.tree_root(HASHES[:size]).hex() == ROOTS[size]
    assert merkle.EMPTY.hex() == ROOTS[0]


@given(st.lists(st.lists(st.binary(min_size=32, max_size=32), max_size=9), max_size=9))
def test_appending_in_portions_is_the_tree_by_definition(portions: list[list[bytes]]) -> None:
    size, frontier = 0, list[bytes]()
    for portion in portions:
        size, frontier = merkle.append(size, frontier, portion)
        assert len(frontier) == size.bit_count()
    leaves = [leaf for portion in portions for leaf in portion]
    assert size == len(leaves)
    assert merkle.root(frontier) == _root_by_definition(leaves)


def test_whole_subtrees_are_appended_as_nodes() -> None:
    leaves = [sha256(bytes([n])).digest() for n in range(100)]
    _, frontier = merkle.append(0, [], leaves[:48])  # 6 times 8
    roots = [merkle.tree_root(leaves[at : at + 8]) for at in range(48, 96, 8)]
    blocks, frontier = merkle.append(48 >> 3, frontier, roots)
    size, frontier = merkle.append(blocks << 3, frontier, leaves[96:])
    assert (size, merkle.root(frontier)) == (100, _root_by_definition(leaves))


@pytest.mark.parametrize(("size", "found"), [(3, 1), (0, 1), (-1, 1)])
def test_a_frontier_of_another_size_is_refused(size: int, found: int) -> None:
    with pytest.raises(ValueError, match=f"{size} leaves has . perfect subtrees, found {found}"):
        merkle.append(size, [OTHER] * found, [])


def test_half_a_pair_has_no_parent() -> None:
    with pytest.raises(ValueError, match="shorter"):
        merkle.parents(HASHES[:3])


@pytest.mark.parametrize(
    ("first", "last", "nodes"),
    [
        (0, 0, []),
        (0, 7, [(2, 0), (1, 2), (0, 6)]),
        (1, 8, [(0, 1), (1, 1), (2, 1)]),
        (4, 8, [(2, 1)]),
        (5, 13, [(0, 5), (1, 3), (2, 2), (0, 12)]),
    ],
)
def test_a_range_of_leaves_in_perfect_subtrees(first: int, last: int, nodes: list[tuple[int, int]]) -> None:
    assert list(merkle.subtrees(first, last)) == nodes


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int, proof: list[str]) -> None:
    assert merkle.inclusion_proof(index, size, _reader(HASHES)) == _unhex(proof)
    merkle.verify_inclusion(HASHES[index], index, size, _unhex(proof), bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_published_consistency_proofs(first: int, second: int, proof: list[str]) -> None:
    assert merkle.consistency_proof(first, second, _reader(HASHES)) == _unhex(proof)
    merkle.verify_consistency(first, second, _unhex(proof), *_unhex([ROOTS[first], ROOTS[second]]))


@pytest.mark.parametrize(("index", "size", "nodes"), INCLUSION_NODES)
def test_published_nodes_of_inclusion_proofs(index: int, size: int, nodes: set[tuple[int, int]]) -> None:
    read = set[tuple[int, int]]()
    merkle.inclusion_proof(index, size, _recorder(read))
    assert read == nodes


@pytest.mark.parametrize(("first", "second", "nodes"), CONSISTENCY_NODES)
def test_published_nodes_of_consistency_proofs(first: int, second: int, nodes: set[tuple[int, int]]) -> None:
    read = set[tuple[int, int]]()
    merkle.consistency_proof(first, second, _recorder(read))
    assert read == nodes


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (8, 7), (-1, 4), (0, -1)])
def test_no_proof_of_what_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"a tree of {size} leaves has no leaf {index}"):
        merkle.inclusion_proof(index, size, _reader(HASHES))
    with pytest.raises(Damaged, match="the tree has no such leaf"):
        merkle.verify_inclusion(OTHER, index, size, [], OTHER)


@pytest.mark.parametrize(("first", "second"), [(5, 0), (9, 8), (-1, 4)])
def test_no_proof_that_a_tree_shrank(first: int, second: int) -> None:
    with pytest.raises(ValueError, match=f"a tree of {first} leaves cannot grow to {second}"):
        merkle.consistency_proof(first, second, _reader(HASHES))
    with pytest.raises(Damaged, match="never becomes smaller"):
        merkle.verify_consistency(first, second, [], OTHER, OTHER)


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_altered_inclusion_proofs_are_refused(index: int, size: int, proof: list[str]) -> None:
    """The alterations of transparency-dev/merkle, corruptInclusionProof."""
    hashes, leaf, root = _unhex(proof), HASHES[index], bytes.fromhex(ROOTS[size])
    flipped = [[*hashes[:i], bytes([h[0] ^ 8]) + h[1:], *hashes[i + 1 :]] for i, h in enumerate(hashes)]
    altered = [
        (leaf, index - 1, size, hashes, root),
        (leaf, index + 1, size, hashes, root),
        (leaf, index ^ 2, size, hashes, root),
        (leaf, index, size * 2, hashes, root),
        (leaf, index, size // 2, hashes, root),
        (OTHER, index, size, hashes, root),
        (leaf, index, size, hashes, OTHER),
        (leaf, index, size, hashes, merkle.EMPTY),
        (b"", index, size, hashes, root),
        (leaf, index, size, hashes, b""),
        *((leaf, index, size, more, root) for extra in (b"", root) for more in ([*hashes, extra], [extra, *hashes])),
        *((leaf, index, size, other, root) for other in flipped),
        *((leaf, index, size, hashes[:-1], root) for _ in hashes[:1]),
        *((leaf, index, size, [hashes[0], OTHER, *hashes[1:]], root) for _ in hashes[1:2]),
    ]
    for leaf_hash, at, of, path, expected in altered:
        with pytest.raises(Damaged, match="inclusion proof of leaf"):
            merkle.verify_inclusion(leaf_hash, at, of, path, expected)


@pytest.mark.parametrize(("first", "second", "proof"), [case for case in CONSISTENCY if case[2]])
def test_altered_consistency_proofs_are_refused(first: int, second: int, proof: list[str]) -> None:
    """The alterations of transparency-dev/merkle, corruptConsistencyProof."""
    hashes, old, new = _unhex(proof), bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second])
    altered = [
        (first - 1, second, hashes, old, new),
        (first + 1, second, hashes, old, new),
        (first ^ 2, second, hashes, old, new),
        (first, second * 2, hashes, old, new),
        (first, second // 2, hashes, old, new),
        (first, second, hashes, OTHER, new),
        (first, second, hashes, old, OTHER),
        (first, second, hashes, new, old),
        (first, second, [], old, new),
        (first, second, hashes[:-1], old, new),
        *((first, second, [*hashes, extra], old, new) for extra in (b"", old, new)),
        *((first, second, [extra, *hashes], old, new) for extra in (b"", old, new, hashes[0])),
        *(
            (first, second, [*hashes[:i], bytes([h[0] ^ 16]) + h[1:], *hashes[i + 1 :]], old, new)
            for i, h in enumerate(hashes)
        ),
    ]
    for before, after, path, old_root, new_root in altered:
        with pytest.raises(Damaged, match="consistency proof from size"):
            merkle.verify_consistency(before, after, path, old_root, new_root)


@pytest.mark.parametrize(
    ("first", "second", "proof", "first_root", "second_root", "message"),
    [
        (0, 0, [], merkle.EMPTY, merkle.EMPTY, None),
        (0, 1, [], merkle.EMPTY, OTHER, None),
        (1, 1, [], OTHER, OTHER, None),
        (0, 0, [], OTHER, OTHER, "the root of the empty tree is e3b0"),
        (0, 0, [], merkle.EMPTY, OTHER, "two roots of one size"),
        (0, 1, [], OTHER, OTHER, "the root of the empty tree is e3b0"),
        (1, 1, [], OTHER, merkle.EMPTY, "two roots of one size"),
        (0, 1, [OTHER], merkle.EMPTY, OTHER, "expected no hashes, found 1"),
        (1, 1, [OTHER], OTHER, OTHER, "expected no hashes, found 1"),
        (1, 2, [], OTHER, OTHER, "it has no hashes"),
    ],
)
def test_consistency_where_there_is_nothing_to_prove(
    first: int, second: int, proof: list[bytes], first_root: bytes, second_root: bytes, message: str | None
) -> None:
    if message is None:
        merkle.verify_consistency(first, second, proof, first_root, second_root)
    else:
        with pytest.raises(Damaged, match=message):
            merkle.verify_consistency(first, second, proof, first_root, second_root)


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_a_path_that_leads_beyond_the_root_is_refused(index: int, size: int, proof: list[str]) -> None:
    """Also where it leads to the root that is claimed."""
    beyond = merkle.node_hash(OTHER, bytes.fromhex(ROOTS[size]))
    with pytest.raises(Damaged, match="more than lead from the leaf to the root"):
        merkle.verify_inclusion(HASHES[index], index, size, [*_unhex(proof), OTHER], beyond)


@pytest.mark.parametrize(("first", "second", "proof"), [case for case in CONSISTENCY if case[2]])
def test_a_consistency_proof_that_leads_beyond_the_roots_is_refused(first: int, second: int, proof: list[str]) -> None:
    roots = [merkle.node_hash(OTHER, bytes.fromhex(ROOTS[size])) for size in (first, second)]
    with pytest.raises(Damaged, match="more than lead to the roots"):
        merkle.verify_consistency(first, second, [*_unhex(proof), OTHER], *roots)


def test_a_hash_of_another_length_is_refused_before_it_is_hashed() -> None:
    """31 + 33 bytes make the same node as 32 + 32."""
    left, right = OTHER, sha256(b"right").digest()
    root, longer, shorter = merkle.node_hash(left, right), left + right[:1], right[1:]
    assert merkle.node_hash(longer, shorter) == root
    with pytest.raises(Damaged, match="inclusion proof .*: a hash is 32 bytes, found one of 33"):
        merkle.verify_inclusion(longer, 0, 2, [shorter], root)
    with pytest.raises(Damaged, match="consistency proof .*: a hash is 32 bytes, found one of 33"):
        merkle.verify_consistency(2, 4, [shorter], longer, root)
