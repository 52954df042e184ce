"""What a change of facts makes due sooner: found among all days, and impossible where the events alone rule it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from retention.engine import RecordFacts, Suspension, decide
from retention.rules import (
    Action,
    Authority,
    Combine,
    Comparison,
    Condition,
    Cutoff,
    CutoffUnit,
    LaterRecords,
    Occurrence,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)
from retention.schedule import advances

TODAY = date(2026, 11, 22)
OLD = date(2020, 1, 1)
DAYS = 400  # after today, on each of which both are asked
# Days around today, and periods that end before DAYS are over.
near = st.one_of(st.integers(-420, 60).map(lambda n: TODAY + timedelta(n)), st.sampled_from([TODAY, OLD]))
unknown = st.one_of(st.none(), near)
kinds = st.sampled_from(["end", "end", "end", "visit"])
asked = st.one_of(
    st.just(Trigger("received")),
    st.builds(Trigger, kinds, st.just(True), st.sampled_from(Occurrence)),
    st.builds(Trigger, kinds, st.just(True), st.sampled_from(Occurrence)),
)
conditions = st.one_of(
    st.builds(Condition, asked),
    st.builds(Condition, asked, st.sampled_from(Comparison), asked, st.builds(Period, st.just(0), st.integers(0, 60))),
)
plain = st.builds(
    Rule,
    id=st.just("r"),
    trigger=asked,
    period=st.builds(Period, st.sampled_from([0, 1, 12]), st.integers(0, 40)),
    action=st.just(Action.DESTROY),
    authority=st.just(Authority("law")),
    cutoff=st.sampled_from([Cutoff(), Cutoff(), Cutoff(CutoffUnit.MONTH_END)]),
    later_records=st.sampled_from([LaterRecords.STALE, LaterRecords.COVERED, LaterRecords.COVERED]),
)
# One thing more than its date decides on a rule, or nothing: two at once mostly keep what they are asked about.
rules = st.one_of(
    plain,
    plain,
    st.builds(lambda rule, day: replace(rule, effective_from=day), plain, near),
    st.builds(lambda rule, day: replace(rule, triggers_from=day), plain, near),
    st.builds(lambda rule, day: replace(rule, triggers_until=day), plain, near),
    st.builds(lambda rule, event: replace(rule, not_before=event), plain, st.builds(Trigger, kinds, st.just(True))),
    st.builds(lambda rule, some: replace(rule, when=tuple(some)), plain, st.lists(conditions, min_size=1, max_size=2)),
)
dates = st.one_of(
    st.builds(dict[str, tuple[date, ...]]), st.dictionaries(kinds, st.lists(near, min_size=1, max_size=2).map(tuple))
)
facts = st.builds(
    RecordFacts,
    class_ids=st.sampled_from([("C",), ("C",), ("C",), ("C", "D")]),
    received=st.one_of(st.just(OLD), st.just(OLD), near),
    document_date=unknown,
    events=dates,
    inherited=dates,
    suspensions=st.lists(
        st.builds(
            lambda day, n: Suspension(day, None if n is None else day + timedelta(n)),
            near,
            st.one_of(st.none(), st.integers(0, 200)),
        ),
        max_size=1,
    ).map(tuple),
    not_before=st.one_of(st.none(), st.none(), st.none(), near),
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """In each class one rule, or beside it one that is satisfied long since and leaves the word to the other."""
    over = Rule("over", Trigger("received"), Period(1), Action.DESTROY, Authority("law"))
    classes = []
    for name in "CD":
        some = [replace(draw(rules), id=name)]
        if draw(st.booleans()):
            some.insert(0, draw(st.sampled_from([over, replace(draw(plain), id="beside")])))
        combine = draw(st.sampled_from([Combine.ALL, Combine.ALL, Combine.ANY]))
        if len(some) > 1 and some[-1].when and combine is Combine.ALL:
            some[-1] = replace(some[-1], replaces=(some[0].id,))
        classes.append(RecordClass(name, {"en": name}, tuple(some), combine=combine))
    return Schedule("d", "T", "UTC", tuple(classes))


def later(before: RecordFacts, after: RecordFacts, plan: Schedule) -> Iterator[date]:
    """The days on which `after` is due and `before` is not, by looking at every day."""
    days = (TODAY + timedelta(n) for n in range(DAYS))
    return (day for day in days if decide(after, plan, day).due and not decide(before, plan, day).due)


def counted(before: RecordFacts, after: RecordFacts, plan: Schedule, day: date) -> bool:
    """Whether no rule has run by then from an event of today or later that came in between."""
    known = {(k, d) for some in (before.events, before.inherited) for k, dates in some.items() for d in dates}
    ran = [rule for rule in decide(after, plan, day).rules if rule.eligible and rule.trigger.startswith("event:")]
    dates = {(rule.trigger.removeprefix("event:").split()[0], rule.trigger_date or date.min) for rule in ran}
    return not any(d >= TODAY for _, d in dates - known)


@st.composite
def changes(draw: st.DrawFn) -> tuple[RecordFacts, RecordFacts]:
    """Two states of one record that differ in one thing that may change."""
    before, after = draw(facts), draw(facts)
    match draw(st.integers(0, 3)):
        case 0:
            return before, replace(before, events=after.events)
        case 1:
            return before, replace(before, inherited=after.inherited)
        case 2:
            return before, replace(before, suspensions=after.suspensions)
        case _:
            return before, replace(before, not_before=after.not_before)


@given(plan=schedules(), pair=changes())
@settings(max_examples=120, deadline=None)
def test_the_first_day_of_all_days_is_found(plan: Schedule, pair: tuple[RecordFacts, RecordFacts]) -> None:
    found = advances.sooner(*pair, plan, TODAY)
    first = next((day for day in later(*pair, plan) if counted(*pair, plan, day)), None)
    assert found == first or (first is None and found is not None and found >= TODAY + timedelta(DAYS))


def more(facts: RecordFacts, own: bool, kind: str, days: tuple[date, ...]) -> RecordFacts:
    there = facts.events if own else facts.inherited
    now = {**there, kind: (*there.get(kind, ()), *days)}
    return replace(facts, events=now) if own else replace(facts, inherited=now)


@given(
    plan=schedules(),
    before=facts,
    own=st.booleans(),
    kind=kinds,
    back=st.lists(st.integers(1, 420), min_size=1, max_size=2),
)
@settings(max_examples=600, deadline=None)
def test_a_backdated_event_that_one_person_may_record_makes_nothing_due_sooner(
    plan: Schedule, before: RecordFacts, own: bool, kind: str, back: list[int]
) -> None:
    days = tuple(TODAY - timedelta(n) for n in back)
    known = (before.events if own else before.inherited).get(kind, ())
    if advances.backdated(advances.asking(plan).get(kind, ()), known, (*known, *days), TODAY) is None:
        assert advances.sooner(before, more(before, own, kind, days), plan, TODAY) is None
