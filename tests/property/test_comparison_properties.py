"""Schedules compared: what `lowered` and `advances` do not name cannot happen, and what `lowered` names does."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from retention import engine
from retention.engine import RecordFacts, decide
from retention.rules import (
    STRENGTH,
    Action,
    Authority,
    Combine,
    Cutoff,
    LaterRecords,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)
from retention.schedule.comparison import FIRST, LAST, Lowering, advances, lowered, redated
from tests.property import strategies

TODAY = date(2026, 1, 1)
near = st.one_of(st.just(0), st.just(0), st.integers(-40, 40))
# Periods and cutoffs close to one another: where comparing is hard.
periods = st.builds(Period, st.sampled_from([0, 1, 12, 13, 84]), st.sampled_from([0, 1, 28, 30, 31, 365, 366]))
plain = st.builds(
    Rule,
    id=st.just("r"),
    trigger=st.sampled_from([Trigger("received"), Trigger("tagged"), Trigger("end", True)]),
    period=st.one_of(periods, periods, st.none()),
    action=st.sampled_from(Action),
    authority=st.just(Authority("law")),
    cutoff=strategies.cutoffs,
    later_records=st.sampled_from(LaterRecords),
    verified=st.booleans(),
)
# Rules whose periods are mostly over, and facts of which it depends whether they are.
short = st.builds(
    replace,
    plain,
    trigger=st.sampled_from([Trigger("received"), Trigger("tagged")]),
    period=periods,
    cutoff=st.just(Cutoff()),
)
past = st.one_of(st.none(), st.dates(date(2015, 1, 1), date(2035, 1, 1)), st.just(date(2010, 1, 1)))
over = st.builds(RecordFacts, class_ids=st.just(("C",)), received=past, tagged=past)


@st.composite
def pairs(draw: st.DrawFn, regulatory: bool = False) -> tuple[Schedule, Schedule]:
    """An old schedule of one class, and a new one that keeps most of it."""
    some = st.lists(st.one_of(plain, strategies.rules), min_size=0, max_size=3)
    old = [replace(rule, id=f"r{i}") for i, rule in enumerate(draw(some))]
    new = []
    for rule in old:
        match draw(st.integers(0, 7)):
            case 0:
                continue
            case 1:
                new.append(replace(draw(st.one_of(plain, strategies.rules)), id=rule.id))
            case 2:
                new.append(replace(rule, period=draw(periods)))
            case 3:
                new.append(replace(rule, cutoff=draw(strategies.cutoffs)))
            case 4:
                new.append(replace(rule, when=rule.when[:1], triggers_from=None, not_before=None))
            case _:
                new.append(rule)
    if draw(st.booleans()):
        new.append(replace(draw(st.one_of(plain, strategies.rules)), id="added"))
    first, second = draw(combines(regulatory)), draw(combines(regulatory))
    return one(_replacing(draw, old, first), first, regulatory), one(_replacing(draw, new, second), second, regulatory)


def combines(regulatory: bool) -> st.SearchStrategy[Combine]:
    return st.just(Combine.ALL) if regulatory else st.sampled_from([Combine.ALL, Combine.ALL, Combine.ANY])


def _replacing(draw: st.DrawFn, some: list[Rule], combine: Combine) -> list[Rule]:
    if len(some) > 1 and some[-1].when and combine is Combine.ALL and draw(st.booleans()):
        return [*some[:-1], replace(some[-1], replaces=(some[0].id,))]
    return some


def one(some: list[Rule], combine: Combine = Combine.ALL, regulatory: bool = False) -> Schedule:
    known = RecordClass("C", {"en": "C"}, tuple(some), combine=combine, regulatory=regulatory)
    return Schedule("d", "T", "UTC", (known,))


def until(facts: RecordFacts, plan: Schedule, as_of: date) -> date:
    return decide(facts, plan, as_of).retain_until or date.max


@given(pair=pairs(), facts=strategies.facts, as_of=strategies.days)
@settings(max_examples=200, deadline=None)
def test_a_load_that_advances_nothing_makes_nothing_due_earlier(
    pair: tuple[Schedule, Schedule], facts: RecordFacts, as_of: date
) -> None:
    old, new = pair
    if not advances(old, new, TODAY, used=()):
        as_of = max(as_of, TODAY)
        assert until(facts, new, as_of) >= until(facts, old, as_of)
        assert decide(facts, old, as_of).due or not decide(facts, new, as_of).due


@st.composite
def careless(draw: st.DrawFn) -> tuple[Schedule, Schedule]:
    """Schedules of one class that differ little in dates, and much in what is done once they are over."""
    old = [replace(rule, id=f"r{i}") for i, rule in enumerate(draw(st.lists(short, min_size=1, max_size=3)))]
    new = [
        replace(rule, verified=draw(st.booleans()), action=draw(st.sampled_from([rule.action, *Action])))
        for rule in old
        if draw(st.integers(0, 4))
    ]
    if draw(st.booleans()):
        new.append(replace(draw(st.sampled_from(old)), id="added", verified=draw(st.booleans()), period=draw(periods)))
    combine = draw(st.sampled_from(Combine))
    return one(old, combine), one(new, combine)


@given(pair=careless(), facts=over, as_of=st.dates(date(2026, 1, 1), date(2040, 1, 1)))
@settings(max_examples=400, deadline=None)
def test_a_load_that_advances_nothing_lets_nothing_go_with_less_care(
    pair: tuple[Schedule, Schedule], facts: RecordFacts, as_of: date
) -> None:
    old, new = pair
    if not advances(old, new, TODAY, used=()):
        before, after = decide(facts, old, as_of), decide(facts, new, as_of)
        assert before.due or not after.due
        if after.due:
            assert "UNVERIFIED" in after.findings or "UNVERIFIED" not in before.findings
            assert STRENGTH[after.action] >= STRENGTH[before.action]


@given(pair=pairs(regulatory=True), facts=strategies.facts, as_of=strategies.days)
@settings(max_examples=200, deadline=None)
def test_a_load_that_is_not_refused_lowers_nothing(
    pair: tuple[Schedule, Schedule], facts: RecordFacts, as_of: date
) -> None:
    old, new = pair
    if not lowered(old, new, TODAY):
        as_of, facts = max(as_of, TODAY), replace(facts, suspensions=())
        assert until(facts, new, as_of) >= until(facts, old, as_of)


@given(rule=plain, period=periods, cutoff=strategies.cutoffs)
@settings(max_examples=6, deadline=None)
def test_a_rule_is_lowered_exactly_if_some_day_is(rule: Rule, period: Period, cutoff: Cutoff) -> None:
    changed = replace(rule, period=period, cutoff=cutoff)
    found = lowered(one([rule], regulatory=True), one([changed], regulatory=True))
    shorter = {
        day
        for day in (FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1))
        if (engine.retain_until(changed, day) or date.max) < (engine.retain_until(rule, day) or date.max)
    }
    assert bool(found) == bool(shorter)
    for lowering in found:
        assert isinstance(lowering, Lowering) and lowering.example in shorter
        assert lowering.before == engine.retain_until(rule, lowering.example)
        assert lowering.after == engine.retain_until(changed, lowering.example)


@given(pair=pairs(), facts=strategies.facts, as_of=strategies.days)
@settings(max_examples=30, deadline=None)
def test_classes_that_are_not_redated_decide_alike(
    pair: tuple[Schedule, Schedule], facts: RecordFacts, as_of: date
) -> None:
    old, new = pair
    if not redated(old, new, as_of):
        assert until(facts, new, as_of) == until(facts, old, as_of)
        assert decide(facts, new, as_of).due == decide(facts, old, as_of).due


@given(pair=pairs())
@settings(max_examples=100, deadline=None)
def test_a_schedule_advances_nothing_against_itself(pair: tuple[Schedule, Schedule]) -> None:
    for plan in pair:
        assert not advances(plan, plan)
        assert not lowered(plan, plan)
