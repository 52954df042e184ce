"""What starts a clock, sets it earlier, or makes a record due on a day on which it was not; and what does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from retention.engine import RecordFacts, Suspension
from retention.rules import (
    Action,
    Authority,
    Combine,
    Comparison,
    Condition,
    LaterRecords,
    Occurrence,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)
from retention.schedule.advances import asking, backdated, by_presence, moved, sooner

TODAY = date(2026, 11, 22)
OLD = date(2024, 2, 26)  # its period of a year is over
END, FIRST, SEEN = Trigger("end", True), Trigger("end", True, Occurrence.FIRST), Trigger("seen", True)
R = Rule("r", END, Period(12), Action.DESTROY, Authority("law"), later_records=LaterRecords.COVERED)
MADE = replace(R, id="made", trigger=Trigger("received"))


def plan(*rules: Rule, combine: Combine = Combine.ALL) -> Schedule:
    return Schedule("d", "T", "UTC", (RecordClass("C", {"en": "C"}, rules, combine=combine),))


def day(n: int) -> date:
    return TODAY + timedelta(n)


def facts(received: date = OLD, **more: Any) -> RecordFacts:
    return RecordFacts(("C",), received, **more)


# ---------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("rule", "before", "given", "found"),
    [
        (R, [], day(-1), day(-1)),  # one day is one day: it starts a clock
        (R, [], day(0), None),
        (R, [], day(1), None),
        (R, [day(-9)], day(-10), None),  # the latest stays
        (R, [day(-9)], day(-8), None),  # later, and nothing is dated between that the rule keeps
        (replace(R, later_records=LaterRecords.STALE), [day(-9)], day(-8), day(-8)),
        (replace(R, triggers_until=day(-9)), [day(-9)], day(-8), day(-8)),
        (replace(R, triggers_from=day(-8)), [day(-9)], day(-8), day(-8)),
        (replace(R, trigger=FIRST), [day(-9)], day(-10), day(-10)),
        (replace(R, trigger=FIRST), [day(-9)], day(-8), None),
        (replace(MADE, not_before=END), [], day(-1), day(-1)),
        (replace(MADE, not_before=END), [day(-9)], day(-8), None),
        (replace(MADE, when=(Condition(END),)), [], day(-1), day(-1)),
        (replace(MADE, when=(Condition(SEEN, Comparison.AFTER, END),)), [day(-9)], day(-8), day(-8)),
        (MADE, [], day(-1), None),  # nobody asks for it
    ],
)  # fmt: skip
def test_an_event_before_today_is_backdated_if_it_starts_a_clock_or_may_shorten(
    rule: Rule, before: list[date], given: date, found: date | None
) -> None:
    asked = asking(plan(rule)).get("end", ())
    assert backdated(asked, before, [*before, given], TODAY) == found


@pytest.mark.parametrize(
    ("rule", "before", "after", "found"),
    [
        (R, [day(-9), day(-1)], [day(-9)], (day(-1), day(-9))),
        (R, [day(3), day(9)], [day(3)], (day(9), day(3))),  # both still to come
        (R, [day(-9)], [], None),  # the clock stops
        (R, [day(-9), day(-1)], [day(-1)], None),
        (replace(R, trigger=FIRST), [day(-9), day(-1)], [day(-1)], None),  # only longer
        (replace(R, trigger=FIRST), [day(9)], [day(9), day(3)], (day(9), day(3))),
        (MADE, [day(-9), day(-1)], [day(-9)], None),
    ],
)
def test_a_date_that_is_earlier_afterwards(
    rule: Rule, before: list[date], after: list[date], found: tuple[date, date] | None
) -> None:
    assert moved(asking(plan(rule)).get("end", ()), before, after) == found


def test_kinds_of_which_only_the_presence_is_asked() -> None:
    compared = Condition(SEEN, Comparison.AFTER, END)
    assert by_presence(plan(R, replace(MADE, when=(compared,)))) == frozenset()
    assert by_presence(plan(replace(R, not_before=SEEN), replace(MADE, when=(Condition(END),)))) == {"seen", "end"}


# ---------------------------------------------------------------- records


BOUND = replace(MADE, not_before=END)
ENDED = {"end": (day(-5),)}
LATE = replace(MADE, id="late", period=Period(1200), when=(Condition(END),))
OPEN = (Suspension(day(-2000)),)


@pytest.mark.parametrize(
    ("rules", "before", "after", "found"),
    [
        ((MADE,), facts(), facts(), None),
        ((MADE,), facts(day(10)), facts(day(9)), day(9 + 366)),
        ((MADE,), facts(day(9)), facts(day(10)), None),
        ((R,), facts(), facts(inherited=ENDED), day(-5 + 366)),
        ((R,), facts(inherited=ENDED), facts(), None),
        ((BOUND,), facts(), facts(events=ENDED), TODAY),
        ((BOUND,), facts(), facts(events={"end": (day(7),)}), day(7)),  # not today: on the day on which it is there
        ((MADE, LATE), facts(events=ENDED), facts(), TODAY),  # a condition that does not hold any more
        ((MADE, LATE), facts(), facts(events=ENDED), None),
        ((MADE,), facts(suspensions=OPEN), facts(suspensions=(Suspension(day(-3), day(0)),)), day(1)),
        ((MADE,), facts(suspensions=OPEN), facts(suspensions=(Suspension(day(-3), day(30)),)), day(31)),
        ((MADE,), facts(day(-300), suspensions=OPEN), facts(day(-300), suspensions=(Suspension(day(-9), day(-5)),)),
         day(-300 + 365 + 5 + 1)),
        ((MADE,), facts(not_before=day(90)), facts(not_before=day(30)), day(30)),
        ((MADE, replace(R, effective_from=day(20))), facts(), facts(events=ENDED), day(20 + 341)),
        ((replace(MADE, effective_from=day(20)),), facts(day(40)), facts(), day(20)),
        ((MADE,), facts(holds=("h",)), facts(holds=("h",)), None),
        ((MADE,), facts(day(9), holds=("h",)), facts(holds=("h",)), TODAY),  # a hold ends
    ],
)  # fmt: skip
def test_the_first_day_on_which_it_is_due_and_was_not(
    rules: tuple[Rule, ...], before: RecordFacts, after: RecordFacts, found: date | None
) -> None:
    assert sooner(before, after, plan(*rules), TODAY) == found


def test_a_period_that_begins_with_an_ordinary_event_is_let_run() -> None:
    """A death replaces the twenty years after receipt by ten after the death."""
    long = replace(MADE, id="long", period=Period(240))
    death = replace(R, id="death", trigger=SEEN, period=Period(120), when=(Condition(SEEN),), replaces=("long",))
    shorter = replace(death, trigger=Trigger("received"), period=Period(12))
    was, yesterday = facts(), facts(inherited={"seen": (day(-1),)})
    for now in (facts(events={"seen": (TODAY,)}), facts(inherited={"seen": (day(9),)})):
        assert sooner(was, now, plan(long, death), TODAY) is None
        assert sooner(was, now, plan(long, shorter), TODAY) == TODAY  # counts from another date: is only there
        assert sooner(now, yesterday, plan(long, death), TODAY) == date(2036, 11, 22)
    assert sooner(was, yesterday, plan(long, death), TODAY) == date(2036, 11, 22)
