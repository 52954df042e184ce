"""Work ahead: in order, bounded, and its errors where they are due."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from retention.parallel import in_order


def test_results_come_in_order_whoever_ends_first() -> None:
    first_may_end = threading.Event()

    def do(number: int) -> int:
        if number == 0:
            assert first_may_end.wait(10)
        else:
            first_may_end.set()
        return -number

    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, do, range(5), 2)) == [0, -1, -2, -3, -4]


def test_no_more_is_begun_than_is_allowed() -> None:
    asked: list[int] = []

    def what() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, abs, what(), 3)
        assert next(results) == 0
        assert asked == [0, 1, 2, 3]  # three were begun, and one more when the first was handed over
    assert len(asked) == 4


def test_an_error_is_raised_at_its_place() -> None:
    def do(number: int) -> int:
        return 10 // number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, do, [5, 2, 0, 1], 4)
        assert [next(results), next(results)] == [2, 5]
        with pytest.raises(ZeroDivisionError):
            next(results)
