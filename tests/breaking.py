"""Writes that break: of the database, of the vault, or one step of ours; before they persisted, or after.

Rules of this module:
- A process that dies is `Broken`: nothing of ours may handle it. A service that goes away is told by its own error.
- The nth write is counted over everything that shares one `Writes`, in whatever thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pytest

from retention.archive import Archive
from retention.database import Connection
from retention.errors import MunimentError
from retention.vault.base import Given, Lock, Stored


class Broken(Exception):
    """The process died here."""


@dataclass
class Writes:
    """Counts writes, and breaks at some of them: before, or after they persisted."""

    at: frozenset[int]
    persisted: bool
    error: Callable[[], Exception] = Broken
    calls: int = 0
    broke: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def one(self) -> Iterator[int]:
        """The block is a write, of this number."""
        with self._lock:
            self.calls += 1
            number, mine = self.calls, self.calls in self.at
            self.broke |= mine
        if mine and not self.persisted:
            raise self.error()
        yield number
        if mine:
            raise self.error()


def at(*numbers: int, persisted: bool = False, error: Callable[[], Exception] = Broken) -> Writes:
    return Writes(frozenset(numbers), persisted, error)


@dataclass
class BreakingPool:
    """Connections whose commits are writes; a transaction that only read is none."""

    inner: Any
    writes: Writes

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        with ExitStack() as after, self.inner.connection() as conn:
            yield conn
            if conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,):
                return
            one = self.writes.one()
            one.__enter__()  # breaks here, and the transaction is rolled back,
            after.callback(one.__exit__, None, None, None)  # or there, when it is committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class BreakingVault:
    """A vault of which these verbs are writes that break; the others work."""

    inner: Any
    writes: Writes
    verbs: tuple[str, ...] = ("put", "lock", "hold", "erase", "erase_many")

    def put(self, key: str, content: bytes | BinaryIO, *, sha256: bytes, size: int, lock: Lock | None = None) -> Stored:
        stored: Stored = self._do("put", key, content, sha256=sha256, size=size, lock=lock)
        return stored

    def put_many(self, objects: Sequence[Given], threads: int) -> Sequence[Stored | MunimentError]:
        stored: Sequence[Stored | MunimentError] = self._do("put_many", objects, threads)
        return stored

    def replace(self, key: str, content: bytes) -> Stored:
        stored: Stored = self._do("replace", key, content)
        return stored

    def lock(self, key: str, version: str, lock: Lock) -> Stored:
        stored: Stored = self._do("lock", key, version, lock)
        return stored

    def hold(self, key: str, version: str, on: bool) -> Stored:
        stored: Stored = self._do("hold", key, version, on)
        return stored

    def erase(self, key: str) -> int:
        gone: int = self._do("erase", key)
        return gone

    def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
        told: Sequence[MunimentError | None] = self._do("erase_many", objects)
        return told

    def _do(self, verb: str, *given: Any, **named: Any) -> Any:
        call = getattr(self.inner, verb)
        if verb not in self.verbs:
            return call(*given, **named)
        with self.writes.one():
            return call(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def breaks(archive: Archive, what: str, writes: Writes) -> Any:
    """The vault or the connections of an archive, to be put in the place of its own."""
    return BreakingVault(archive.vault, writes) if what == "vault" else BreakingPool(archive.connections, writes)


@contextmanager
def breaking(monkeypatch: pytest.MonkeyPatch, step: str, done: bool) -> Iterator[None]:
    """The function `module.name` breaks, before or after it did its work, and so does the block."""
    module, name = step.rsplit(".", 1)
    original = getattr(sys.modules[module], name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if done:
            original(*args, **kwargs)
        raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[module], name, broken)
        with pytest.raises(Broken):
            yield
