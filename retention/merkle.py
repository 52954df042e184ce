"""The Merkle tree of RFC 6962 §2.1, as far as appending needs it. Pure.

Rules of this module:
- leaf: SHA-256(0x00 || entry); node: SHA-256(0x01 || left || right); the empty tree: SHA-256 of nothing.
- A tree of n leaves is kept as its *frontier*: the roots of its perfect subtrees, largest first, one for each
  bit that is set in n. Appending costs O(log n) memory and amortised one hash a leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def append(size: int, frontier: Sequence[bytes], leaves: Iterable[bytes]) -> tuple[int, list[bytes]]:
    """The frontier after appending leaf hashes to a tree of `size` leaves. Raises ValueError if they disagree."""
    if len(frontier) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has {size.bit_count()} perfect subtrees, found {len(frontier)}")
    stack = list(frontier)
    for leaf in leaves:
        node, bits = leaf, size
        while bits & 1:
            node = node_hash(stack.pop(), node)
            bits >>= 1
        stack.append(node)
        size += 1
    return size, stack


def root(frontier: Sequence[bytes]) -> bytes:
    """The root hash of the tree whose frontier this is."""
    if not frontier:
        return sha256(b"").digest()
    node = frontier[-1]
    for left in reversed(frontier[:-1]):
        node = node_hash(left, node)
    return node
