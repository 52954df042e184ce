"""The Merkle tree of RFC 6962 §2.1: appending, proofs, and their verification (RFC 9162 §2.1.3, §2.1.4). Pure.

Rules of this module:
- leaf: SHA-256(0x00 || entry); node: SHA-256(0x01 || left || right); the empty tree: SHA-256 of nothing.
- A tree of n leaves is kept as its *frontier*: the roots of its perfect subtrees, largest first, one for each
  bit that is set in n. Appending costs O(log n) memory beyond the leaves given, and one hash a leaf.
- A node is (level, index): the root of the leaves index << level up to (index + 1) << level. Proofs are made from
  a *reader* of such nodes, O(log n) of them. So n leaves hashed to roots of 2^k each can be appended as what
  they are, nodes of level k, to the frontier of a tree whose size is a multiple of 2^k: `append(size >> k, …)`.
- Verification is the algorithm of RFC 9162 as it stands there and shares nothing with the making of proofs. Every
  hash is 32 bytes: what a hash covers would be ambiguous otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from retention.errors import Damaged

HASH = 32  # bytes
EMPTY = sha256(b"").digest()

Reader = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def parents(nodes: Iterable[bytes]) -> list[bytes]:
    """The nodes one level up. Raises ValueError for an odd number of nodes."""
    pairs = iter(nodes)
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]


def append(size: int, frontier: Sequence[bytes], leaves: Iterable[bytes]) -> tuple[int, list[bytes]]:
    """The frontier after appending leaf hashes to a tree of `size` leaves. Raises ValueError if they disagree."""
    if size < 0 or len(frontier) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has {size.bit_count()} perfect subtrees, found {len(frontier)}")
    left, level, right = list(frontier), list(leaves), list[bytes]()
    grown = size + len(level)
    while level:  # level by level, not leaf by leaf: four times as fast
        if size & 1:
            level.insert(0, left.pop())
        if len(level) & 1:
            right.append(level.pop())
        level = parents(level)
        size >>= 1
    return grown, left + right[::-1]


def root(frontier: Sequence[bytes]) -> bytes:
    """The root hash of the tree whose frontier this is."""
    if not frontier:
        return EMPTY
    node = frontier[-1]
    for left in reversed(frontier[:-1]):
        node = node_hash(left, node)
    return node


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root hash of the tree of these leaf hashes."""
    return root(append(0, [], leaves)[1])


def subtrees(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The nodes, left to right, of the largest perfect subtrees that together cover leaves first … last - 1."""
    while first < last:
        level = (last - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        yield level, first >> level
        first += 1 << level


def inclusion_proof(index: int, size: int, read: Reader) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1: that leaf `index` is in the tree of the first `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"inclusion proof: a tree of {size} leaves has no leaf {index}")
    first, last, ranges = 0, size, list[tuple[int, int]]()
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            ranges.append((middle, last))
            last = middle
        else:
            ranges.append((first, middle))
            first = middle
    return _roots(reversed(ranges), read)


def consistency_proof(first: int, second: int, read: Reader) -> list[bytes]:
    """PROOF of RFC 9162 §2.1.4.1: that the tree of the first `first` leaves became the one of `second` by appending.

    Nothing is to be proven, and the proof is empty, when the first tree is empty or both are one."""
    if not 0 <= first <= second:
        raise ValueError(f"consistency proof: a tree of {first} leaves cannot grow to {second}")
    if first == 0:
        return []
    start, last, ranges = 0, second, list[tuple[int, int]]()
    while first != last:
        middle = start + _split(last - start)
        if first <= middle:
            ranges.append((middle, last))
            last = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # else the verifier knows this hash: it is the root of the first tree
        ranges.append((start, last))
    return _roots(reversed(ranges), read)


def _split(width: int) -> int:
    """The largest power of two smaller than `width`."""
    return 1 << (width - 1).bit_length() - 1


def _roots(ranges: Iterable[tuple[int, int]], read: Reader) -> list[bytes]:
    return [root([read(level, index) for level, index in subtrees(*leaves)]) for leaves in ranges]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """That the leaf hash is leaf `index` of the tree of `size` leaves with root `expected`. Raises Damaged.

    RFC 9162 §2.1.3.2; its fn and sn are `node` and `last` here."""
    what = f"inclusion proof of leaf {index} in a tree of {size}"
    _check_lengths(what, (leaf, expected, *proof))
    if not 0 <= index < size:
        raise Damaged(f"{what}: the tree has no such leaf.")
    found, node, last = leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise Damaged(f"{what}: {len(proof)} hashes are more than lead from the leaf to the root.")
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise Damaged(f"{what}: {len(proof)} hashes are fewer than lead from the leaf to the root.")
    if found != expected:
        raise Damaged(f"{what}: expected root {expected.hex()}, found {found.hex()}.")


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """That the tree of `second` leaves is the one of `first` with leaves appended. Raises Damaged.

    RFC 9162 §2.1.4.2; its fn, sn, fr and sr are `node`, `last`, `old` and `new` here. The RFC leaves out the empty
    tree and the tree compared with itself: there the proof must be empty and the roots right."""
    what = f"consistency proof from size {first} to {second}"
    _check_lengths(what, (first_root, second_root, *proof))
    if not 0 <= first <= second:
        raise Damaged(f"{what}: a tree never becomes smaller.")
    if first in (0, second):
        _verify_nothing_to_prove(what, first == second, proof, first_root, second_root, second)
        return
    if not proof:
        raise Damaged(f"{what}: it has no hashes.")
    path = [first_root, *proof] if first.bit_count() == 1 else proof
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise Damaged(f"{what}: {len(proof)} hashes are more than lead to the roots.")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise Damaged(f"{what}: {len(proof)} hashes are fewer than lead to the roots.")
    for which, wanted, found in (("first", first_root, old), ("second", second_root, new)):
        if found != wanted:
            raise Damaged(f"{what}: expected the {which} root {wanted.hex()}, found {found.hex()}.")


def _verify_nothing_to_prove(
    what: str, same: bool, proof: Sequence[bytes], first_root: bytes, second_root: bytes, second: int
) -> None:
    if proof:
        raise Damaged(f"{what}: expected no hashes, found {len(proof)}.")
    if same and first_root != second_root:
        raise Damaged(f"{what}: two roots of one size: {first_root.hex()} and {second_root.hex()}.")
    if (not same or second == 0) and first_root != EMPTY:
        raise Damaged(f"{what}: the root of the empty tree is {EMPTY.hex()}, found {first_root.hex()}.")


def _check_lengths(what: str, hashes: Iterable[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH:
            raise Damaged(f"{what}: a hash is {HASH} bytes, found one of {len(value)}.")
