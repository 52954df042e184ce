"""Work that waits for a disk or a store, done ahead by threads, its results in order.

Rules of this module:
- What is to be done is asked for by the caller's thread alone (it may come from a cursor), and no more of it than
  `ahead` at a time: memory is bounded by that, not by how much there is.
- An error is raised where its result is due. What was begun ends before the pool does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


def in_order(pool: Executor, do: Callable[[Given], Result], what: Iterable[Given], ahead: int) -> Iterator[Result]:
    """`do` of each, in order; up to `ahead` of them begun before their turn."""
    coming = iter(what)
    begun = deque(pool.submit(do, one) for one in islice(coming, ahead))
    while begun:
        result = begun.popleft().result()
        begun.extend(pool.submit(do, one) for one in islice(coming, 1))
        yield result
