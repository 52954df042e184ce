"""RFC 6962 §2.1: the hashes of the published test vectors, and appending in any portions."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention import merkle

# The leaves and roots that Certificate Transparency implementations test with (certificate-transparency-go,
# testdata of RFC 6962 trees of 0 to 8 leaves).
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


def _root_by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return merkle.leaf_hash(leaves[0])
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return merkle.node_hash(_root_by_definition(leaves[:k]), _root_by_definition(leaves[k:]))


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    _, frontier = merkle.append(0, [], map(merkle.leaf_hash, LEAVES[:size]))
    assert merkle.root(frontier).hex() == ROOTS[size]


@given(st.lists(st.lists(st.binary(max_size=4), max_size=9), max_size=9))
def test_appending_in_portions_is_the_tree_by_definition(portions: list[list[bytes]]) -> None:
    size, frontier = 0, list[bytes]()
    for portion in portions:
        size, frontier = merkle.append(size, frontier, map(merkle.leaf_hash, portion))
    leaves = [leaf for portion in portions for leaf in portion]
    assert size == len(leaves)
    assert merkle.root(frontier) == _root_by_definition(leaves)


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 leaves has 2 perfect subtrees, found 1"):
        merkle.append(3, [b"x" * 32], [])
