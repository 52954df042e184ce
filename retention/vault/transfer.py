"""Objects copied from one vault to another: what is missing there, and nothing else.

Rules of this module:
- What is there is found by one listing of the target beside the list of what is wanted, both in the order of keys: no
  request an object. An object that has the wanted size is taken to be the wanted one; whether its bytes are is what a
  check that reads data asks (retention.backup.checking).
- The digest of each is that which the catalog knows, checked over the bytes that pass. One that is missing or damaged
  in the source stops no other: it is told, and nothing of it is in the target.
- A batch is durable before any object of it is told. Cut off anywhere, it is run again and goes on.
- Memory is that of one batch of small objects, or of a chunk of each large one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from retention.errors import MunimentError
from retention.vault.base import Given, Stored, Vault

OBJECTS, BYTES = 1_000, 256 * 1024 * 1024  # of a batch

Teller = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object of the source: its key, version there, size in bytes and the digest of its bytes."""

    key: str
    version: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Transferred:
    """What became of one: its version in the target ("" where it was there already), or why it is not there."""

    wanted: Wanted
    version: str
    copied: bool
    problem: str | None = None


def transfer(
    source: Vault, target: Vault, wanted: Iterable[Wanted], *, threads: int, tell: Teller | None = None
) -> Iterator[Transferred]:
    """Have each of `wanted`, which come in the order of their keys, in `target`; `tell` is told objects and bytes that
    were copied. In the same order.

    Raises ServiceUnavailable or UsageError for what concerns all of them; what was told is there."""
    objects = amount = 0
    for batch in _batches(missing(target, wanted)):
        given = [
            Given(one.key, partial(source.open, one.key, one.version), one.sha256, one.size)
            for one, there in batch
            if there is None
        ]
        put = iter(target.put_many(given, threads) if given else ())
        for one, there in batch:
            if there is None:
                done = _told(one, next(put))
                if done.copied:
                    objects, amount = objects + 1, amount + one.size
            elif there.size != one.size:
                said = f"{one.key}: {there.size:,} bytes stand there in {target.url}, expected {one.size:,}."
                done = Transferred(one, "", copied=False, problem=said)
            else:
                done = Transferred(one, there.version, copied=False)
            yield done
        if tell:
            tell(objects, amount)


def missing(target: Vault, wanted: Iterable[Wanted]) -> Iterator[tuple[Wanted, Stored | None]]:
    """Each of `wanted`, with what the target has of that key."""
    listed = target.list()
    there = next(listed, None)
    for one in wanted:
        while there is not None and there.key < one.key:
            there = next(listed, None)
        yield one, there if there is not None and there.key == one.key else None


def _told(one: Wanted, done: Stored | MunimentError) -> Transferred:
    if isinstance(done, MunimentError):
        return Transferred(one, "", copied=False, problem=str(done))
    return Transferred(one, done.version, copied=True)


def _batches(found: Iterable[tuple[Wanted, Stored | None]]) -> Iterator[list[tuple[Wanted, Stored | None]]]:
    batch: list[tuple[Wanted, Stored | None]] = []
    amount = 0
    for one, there in found:
        batch.append((one, there))
        amount += one.size if there is None else 0
        if len(batch) >= OBJECTS or amount >= BYTES:
            yield batch
            batch, amount = [], 0
    if batch:
        yield batch
