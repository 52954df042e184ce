"""Which recovery points are kept: against a brute-force reading of the rule, over the days of 1900 to 2200."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from retention.backup.pruning import DEFAULT, decide

DAYS = st.dates(date(1900, 1, 1), date(2199, 12, 31))
NUMBERS = st.fixed_dictionaries({period: st.integers(0, 4) for period in DEFAULT})


def taken(days: list[date]) -> list[tuple[UUID, date]]:
    return [(UUID(int=number), day) for number, day in enumerate(sorted(days))]


def close(first: date, gaps: list[int]) -> list[date]:
    """Days with these gaps between them."""
    days = [first]
    for gap in gaps:
        days.append(days[-1] + timedelta(days=gap))
    return days


POINTS = st.builds(close, DAYS, st.lists(st.sampled_from([0, 0, 1, 1, 2, 6, 7, 8, 28, 31, 365, 366]), max_size=25))


def same(period: str, one: date, other: date) -> bool:
    match period:
        case "daily":
            return one == other
        case "weekly":  # from Monday to Sunday
            return one - timedelta(days=one.weekday()) == other - timedelta(days=other.weekday())
        case "monthly":
            return (one.year, one.month) == (other.year, other.month)
        case _:
            return one.year == other.year


@given(POINTS, NUMBERS)
def test_it_is_the_rule(days: list[date], numbers: dict[str, int]) -> None:
    points = taken(days)
    kept = decide(points, numbers)
    for position, (point_id, day) in enumerate(points):
        why = ["newest"] if position == len(points) - 1 else []
        for period, number in numbers.items():
            later = [other for _, other in points[position + 1 :]]
            of_its_own = not any(same(period, day, other) for other in later)
            after = [other for n, other in enumerate(later) if not any(same(period, other, x) for x in later[n + 1 :])]
            if of_its_own and len(after) < number:
                why.append(period)
        assert sorted(kept.get(point_id, ())) == sorted(why), (day, numbers)


@given(POINTS, NUMBERS)
def test_the_newest_stays_and_another_prune_changes_nothing(days: list[date], numbers: dict[str, int]) -> None:
    points = taken(days)
    kept = decide(points, numbers)
    assert points[-1][0] in kept
    left = [one for one in points if one[0] in kept]
    assert decide(left, numbers).keys() == kept.keys()


@given(POINTS, NUMBERS, st.sampled_from(sorted(DEFAULT)))
def test_asking_for_more_never_keeps_less(days: list[date], numbers: dict[str, int], period: str) -> None:
    points = taken(days)
    assert decide(points, numbers).keys() <= decide(points, {**numbers, period: numbers[period] + 1}).keys()
