"""What must hold of the engine for every rule, date and leap year from 1900 to 2200."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from retention.engine import (
    RecordFacts,
    Suspension,
    decide,
    decide_unit,
    latest_eligible_trigger,
    limits,
    retain_until,
    suspended_days,
)
from retention.rules import DATED, Combine, Cutoff, CutoffUnit, Period, RecordClass, Rule, Schedule
from tests.property.strategies import KINDS, cutoffs, days, facts, rules


def schedule(given_rules: list[Rule], combine: Combine = Combine.ALL) -> Schedule:
    named = tuple(replace(rule, id=f"r{i}") for i, rule in enumerate(given_rules))
    return Schedule("d", "T", "UTC", (RecordClass("C", {"en": "T"}, named, combine=combine),))


def without(record: RecordFacts, name: str) -> RecordFacts:
    """The same record with one trigger unknown."""
    return RecordFacts(
        record.class_ids,
        received=None if name == "received" else record.received,
        document_date=None if name == "document_date" else record.document_date,
        modified=None if name == "modified" else record.modified,
        tagged=None if name == "tagged" else record.tagged,
        events={kind: dates for kind, dates in record.events.items() if kind != name},
        suspensions=record.suspensions,
    )


@given(rules, days, days)
def test_retain_until_is_monotone_and_never_before_its_trigger(rule: Rule, one: date, other: date) -> None:
    first, last = retain_until(rule, min(one, other)), retain_until(rule, max(one, other))
    if rule.period is None:
        assert first is last is None
    else:
        assert first is not None and last is not None
        assert min(one, other) <= first <= last


@given(rules, days, st.one_of(days, st.just(date.max), st.just(date.min)))
@settings(max_examples=400)
def test_the_inverse_is_exact(rule: Rule, trigger: date, as_of: date) -> None:
    latest = latest_eligible_trigger(rule, as_of)

    def eligible(day: date) -> bool:
        until = retain_until(rule, day)
        return until is not None and as_of > until

    assert eligible(trigger) == (latest is not None and trigger <= latest)
    if latest is not None:
        assert eligible(latest)
        assert not eligible(latest + timedelta(1))


@given(st.builds(replace, rules, cutoff=cutoffs), days)
def test_the_day_after_the_last_day_of_retention(rule: Rule, trigger: date) -> None:
    until = retain_until(rule, trigger)
    if until is not None and until < date.max:
        latest = latest_eligible_trigger(rule, until)
        assert latest is None or latest < trigger
        assert (latest_eligible_trigger(rule, until + timedelta(1)) or date.min) >= trigger


@given(days, st.integers(0, 5000), st.integers(0, 4000))
def test_months_are_months_and_years_are_years(day: date, months: int, more_days: int) -> None:
    moved = Period(months).after(day)
    assert (moved.year * 12 + moved.month) == (day.year * 12 + day.month + months)
    assert moved.day == day.day or (moved + timedelta(1)).day == 1
    assert moved.day <= day.day
    assert Period(months, more_days).after(day) == moved + timedelta(more_days)


@given(cutoffs, days)
def test_a_cutoff_is_the_last_day_of_its_unit(cutoff: Cutoff, day: date) -> None:
    end = cutoff.of(day)
    assert end >= day
    assert (end - day).days < 366
    assert cutoff.of(end) == end
    if end < date.max and cutoff.unit is not CutoffUnit.NONE:
        assert cutoff.of(end + timedelta(1)) > end


@given(facts, st.lists(rules, min_size=1, max_size=3), rules, days)
@settings(max_examples=300)
def test_under_all_another_rule_never_makes_due(
    record: RecordFacts, some: list[Rule], another: Rule, as_of: date
) -> None:
    # A rule that replaces others may shorten, which is what it is for; these replace nothing. A first rule that
    # applies to a record under a condition gives it a date; so only a class with a rule that applies is compared.
    before = decide(record, schedule(some), as_of)
    after = decide(record, schedule([*some, another]), as_of)
    if before.rule_id is not None:
        assert not (after.due and not before.due)
        if after.retain_until is not None:
            assert before.retain_until is not None and after.retain_until >= before.retain_until


@given(
    facts, st.lists(rules, min_size=1, max_size=3), st.sampled_from(Combine), st.sampled_from([*DATED, *KINDS]), days
)
@settings(max_examples=300)
def test_forgetting_a_trigger_or_adding_a_hold_or_suspension_never_makes_due(
    record: RecordFacts, some: list[Rule], combine: Combine, forgotten: str, as_of: date
) -> None:
    unconditional = [replace(r, when=(), triggers_from=None, triggers_until=None) for r in some]
    plan = schedule(unconditional, combine)
    less = without(record, forgotten)
    before = decide(record, plan, as_of)
    assert before.due or not decide(less, plan, as_of).due
    assert not decide(replace(record, holds=("H",)), plan, as_of).due
    longer = replace(
        record, suspensions=(*record.suspensions, Suspension(as_of - timedelta(400), as_of - timedelta(1)))
    )
    assert before.due or not decide(longer, plan, as_of).due
    assert not decide(replace(record, suspensions=(Suspension(as_of),)), plan, as_of).due


@given(facts, st.lists(rules, min_size=1, max_size=3), st.sampled_from(Combine), days, days)
@settings(max_examples=300)
def test_what_is_due_stays_due(record: RecordFacts, some: list[Rule], combine: Combine, one: date, other: date) -> None:
    lasting = [replace(rule, effective_from=None) for rule in some]
    steady = replace(record, suspensions=())
    plan = schedule(lasting, combine)
    assert not decide(steady, plan, min(one, other)).due or decide(steady, plan, max(one, other)).due


@given(facts, st.lists(rules, min_size=1, max_size=4), st.sampled_from(Combine), days)
@settings(max_examples=400)
def test_the_folded_limits_and_the_one_record_path_agree(
    record: RecordFacts, some: list[Rule], combine: Combine, as_of: date
) -> None:
    record = replace(record, suspensions=())
    plan = schedule(some, combine)
    decision = decide(record, plan, as_of)
    rows = limits(plan, as_of)
    if not rows:
        assert not decision.due
    elif not rows[0].guarded:
        row = rows[0]
        asked = [(getattr(record, name), latest) for name, latest in row.dated.items()]
        for event in row.events:
            dates = record.events.get(event.key.removesuffix(":first"), ())
            asked.append(((min if event.key.endswith(":first") else max)(dates, default=None), event.limit))
        answers = [found is not None and latest is not None and found <= latest for found, latest in asked]
        assert decision.due == (bool(answers) and (all if combine is Combine.ALL else any)(answers))


@given(st.lists(st.tuples(days, st.one_of(st.none(), st.integers(0, 500))), max_size=4), days, days)
def test_suspended_days_are_counted_once(given_days: list[tuple[date, int | None]], after: date, as_of: date) -> None:
    spans = tuple(Suspension(d, None if n is None else d + timedelta(n)) for d, n in given_days)
    window = range(after.toordinal() + 1, as_of.toordinal() + 1)
    covered: set[int] = set()
    for span in spans:
        last = min(span.ends or as_of, as_of).toordinal()
        covered.update(range(max(span.starts.toordinal(), window.start), last + 1))
    assert suspended_days(spans, after, as_of) == len(covered)


@given(facts, facts, st.lists(rules, min_size=1, max_size=3), st.sampled_from(Combine), days, days)
@settings(max_examples=200)
def test_an_extension_or_another_member_of_its_unit_never_makes_due(
    record: RecordFacts, other: RecordFacts, some: list[Rule], combine: Combine, as_of: date, extended: date
) -> None:
    plan = schedule(some, combine)
    alone = decide(record, plan, as_of)
    longer = decide(replace(record, not_before=extended), plan, as_of)
    assert longer.due == (alone.due and as_of >= extended)
    assert not decide(replace(record, not_before=date.max), plan, as_of).due
    together = decide_unit({UUID(int=1): record, UUID(int=2): other}, plan, as_of)
    second = decide(other, plan, as_of)
    assert together.due == (alone.due and second.due)
    if alone.retain_until and second.retain_until and (together.due or not (alone.due or second.due)):
        assert together.retain_until == max(alone.retain_until, second.retain_until)
    elif not alone.due and alone.retain_until is None:
        assert together.retain_until is None
    assert decide_unit({UUID(int=1): record}, plan, as_of) == alone


@given(facts, st.lists(rules, min_size=1, max_size=3), st.sampled_from(Combine), days)
@settings(max_examples=200)
def test_an_event_of_the_aggregation_never_makes_due_what_its_own_would_not(
    record: RecordFacts, some: list[Rule], combine: Combine, as_of: date
) -> None:
    # What an aggregation says may not cover the record; nothing else tells the two apart.
    plan = schedule(some, combine)
    inherited = replace(record, events={}, inherited=record.events)
    due, stale = decide(record, plan, as_of), decide(inherited, plan, as_of)
    assert due.due or not stale.due
    if "TRIGGER-STALE" not in stale.findings:
        assert (stale.due, stale.retain_until) == (due.due, due.retain_until)
