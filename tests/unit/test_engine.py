"""The engine by example: golden vectors, one rule of the requirements after the other, and what unknown means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retention import engine, rules
from retention.engine import RecordFacts, Standing, Suspension, decide
from retention.rules import Action, Authority, Combine, RecordClass, Rule, Schedule, Trigger
from retention.schedule import SAMPLE, load

GOLDEN = Path(__file__).parents[1] / "golden"
DAY = timedelta(1)
D = date.fromisoformat


def vectors(name: str) -> Iterator[dict[str, str]]:
    lines = [line for line in (GOLDEN / name).read_text("utf-8").splitlines() if not line.startswith("#")]
    header = lines[0].split("\t")
    yield from (dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:])


def rule(name: str = "r", trigger: str = "received", period: str | None = "P7Y", **more: Any) -> Rule:
    plain = Rule(
        id=name,
        trigger=rules.parse_trigger(trigger),
        period=rules.parse_period(period) if period else None,
        action=Action.DESTROY if period else Action.PERMANENT,
        authority=Authority(f"law of {name}"),
        verified=True,
    )
    return replace(plain, **more)


def schedule(*given: Rule, combine: Combine = Combine.ALL, timezone: str = "UTC") -> Schedule:
    return Schedule("digest", "T", timezone, (RecordClass("C", {"en": "T"}, tuple(given), combine=combine),))


def facts(received: str | None = None, *, classes: tuple[str, ...] = ("C",), **events: str) -> RecordFacts:
    dates = {kind: tuple(D(day) for day in days.split()) for kind, days in events.items()}
    return RecordFacts(classes, received=D(received) if received else None, events=dates)


def standing(decision: engine.Decision) -> dict[str, Standing]:
    return {outcome.rule_id: outcome.standing for outcome in decision.rules}


def due_by_limits(given: RecordFacts, plan: Schedule, as_of: date) -> bool:
    """The main branch of the set path, for one record of one class: what PostgreSQL computes for all."""
    for row in engine.limits(plan, as_of):
        if (row.class_id,) == given.class_ids:
            assert not row.guarded
            asked = [(engine.trigger_date(Trigger(name), given), latest) for name, latest in row.dated.items()]
            for event in row.events:
                asked.append((engine.trigger_date(Trigger(event.key, event=True), given), event.limit))
            answers = [found is not None and latest is not None and found <= latest for found, latest in asked]
            return bool(answers) and (all if row.combine is Combine.ALL else any)(answers)
    return False


# ---------------------------------------------------------------- golden vectors


@pytest.mark.parametrize("vector", vectors("il_bookkeeping.tsv"), ids=lambda v: v["kept_until"])
def test_israeli_bookkeeping(vector: dict[str, str]) -> None:
    plan = load(SAMPLE)
    given = RecordFacts(
        (vector["class"],),
        document_date=date(int(vector["tax_year"]), 5, 6),
        events={"filed": (D(vector["filed"]),)},
    )
    until = D(vector["kept_until"])
    assert decide(given, plan, until).retain_until == until
    for as_of, due in ((until, False), (until + DAY, True)):
        assert decide(given, plan, as_of).due is due
        assert due_by_limits(given, plan, as_of) is due


@pytest.mark.parametrize("vector", vectors("calendar.tsv"), ids=lambda v: "-".join(v.values()))
def test_calendar(vector: dict[str, str]) -> None:
    governed = rule(period=vector["period"], cutoff=rules.parse_cutoff(vector["cutoff"]))
    trigger, until = D(vector["trigger"]), D(vector["kept_until"])
    assert engine.retain_until(governed, trigger) == until
    if until < date.max:
        latest = engine.latest_eligible_trigger(governed, until)
        assert latest is None or latest < trigger
        latest = engine.latest_eligible_trigger(governed, until + DAY)
        assert latest is not None and latest >= trigger


@pytest.mark.parametrize("vector", vectors("conditions.tsv"), ids=lambda v: f"{v['class']}-{v['events']}")
def test_conditions_of_the_sample(vector: dict[str, str]) -> None:
    pairs = [pair.split("=") for pair in vector["events"].split(";") if pair != "-"]
    documented = None if vector["document_date"] == "-" else D(vector["document_date"])
    given = RecordFacts((vector["class"],), document_date=documented, events={k: (D(day),) for k, day in pairs})
    plan = load(SAMPLE)
    if vector["kept_until"] == "open":
        decision = decide(given, plan, date(2300, 1, 1))
        assert (decision.due, decision.retain_until) == (False, None)
    else:
        until = D(vector["kept_until"])
        assert decide(given, plan, until).retain_until == until
        assert not decide(given, plan, until).due
        assert decide(given, plan, until + DAY).due


# ---------------------------------------------------------------- unknown means retain


@pytest.mark.parametrize("classes", [(), ("nowhere",), ("unclassified",), ("C", "nowhere")])
def test_no_class_no_rule_is_kept_and_listed(classes: tuple[str, ...]) -> None:
    decision = decide(facts("1900-01-01", classes=classes), schedule(rule()), date.max)
    assert not decision.due
    assert decision.retain_until is None
    assert "UNSCHEDULED" in decision.findings
    assert "nothing ever makes it due" in decision.reason


@pytest.mark.parametrize("combine", list(Combine))
def test_a_missing_trigger_alone_never_makes_due(combine: Combine) -> None:
    decision = decide(facts(), schedule(rule(), combine=combine), date.max)
    assert not decision.due
    assert decision.reason == "kept: its trigger received is missing"


def test_a_missing_trigger_keeps_under_all_and_is_ignored_under_any() -> None:
    both = (rule("a"), rule("b", "event:contract_end", "P1Y"))
    given = facts("2000-01-01")
    assert not decide(given, schedule(*both), date.max).due
    decision = decide(given, schedule(*both, combine=Combine.ANY), D("2007-01-02"))
    assert decision.due
    assert decision.retain_until == D("2007-01-01")


def test_permanent_is_never_due() -> None:
    decision = decide(facts("1900-01-01"), schedule(rule(period=None)), date.max)
    assert (decision.due, decision.retain_until, decision.action) == (False, None, Action.PERMANENT)
    assert engine.latest_eligible_trigger(rule(period=None), date.max) is None


def test_no_period_leaves_the_calendar() -> None:
    long = rule(period="P9999Y")
    assert engine.retain_until(long, D("2000-01-01")) == date.max
    assert engine.latest_eligible_trigger(long, date.max) is None
    assert engine.latest_eligible_trigger(rule(period="P0D"), date.min) is None


# ---------------------------------------------------------------- several rules, several classes


def test_the_longest_wins_and_every_loser_is_told_with_its_date_and_citation() -> None:
    plan = schedule(rule("short", period="P1Y"), rule("long", period="P9Y"))
    decision = decide(facts("2000-01-01"), plan, D("2005-01-01"))
    assert (decision.retain_until, decision.rule_id, decision.citation) == (D("2009-01-01"), "long", "law of long")
    assert [(o.rule_id, o.standing, o.retain_until) for o in decision.rules] == [
        ("long", Standing.DECIDES, D("2009-01-01")),
        ("short", Standing.SATISFIED, D("2001-01-01")),
    ]
    assert "kept until 2001-01-01: received 2000-01-01 + P1Y" in decision.rules[1].reason
    assert json.loads(json.dumps(decision.to_json()))["rules"][1]["retain_until"] == "2001-01-01"


def test_a_label_adds_a_floor_and_never_removes_one() -> None:
    def classed(name: str, years: int, action: Action) -> RecordClass:
        governed = rule(name.lower(), period=f"P{years}Y", action=action)
        return RecordClass(name, {"en": name}, (governed,))

    a, b = classed("A", 3, Action.TRANSFER), classed("B", 5, Action.DESTROY)
    plan = Schedule("d", "T", "UTC", (a, b))
    as_of = D("2004-01-01")
    assert decide(facts("2000-01-01", classes=("A",)), plan, as_of).due
    both = decide(facts("2000-01-01", classes=("A", "B")), plan, as_of)
    assert (both.due, both.retain_until, both.rule_id) == (False, D("2005-01-01"), "b")
    assert both.action is Action.TRANSFER


def test_a_hold_beats_everything() -> None:
    held = replace(facts("1990-01-01"), holds=("H1",))
    decision = decide(held, schedule(rule(ceiling=rules.parse_period("P8Y"))), D("2020-01-01"))
    assert not decision.due
    assert decision.findings == ("RESTRICTED",)
    assert decision.reason.startswith("held by H1; without the hold: kept until 1997-01-01")


# ---------------------------------------------------------------- the modifiers of a rule


def test_not_before_blocks_until_the_event_is_there() -> None:
    plan = schedule(rule(not_before=Trigger("final", event=True)))
    as_of = D("2010-01-01")
    assert not decide(facts("2000-01-01"), plan, as_of).due
    assert not decide(facts("2000-01-01", final="2010-01-02"), plan, as_of).due
    assert decide(facts("2000-01-01", final="2010-01-01"), plan, as_of).due


def test_effective_from_governs_decisions_from_that_day() -> None:
    plan = schedule(rule("old", period="P1Y"), rule("new", period="P9Y", effective_from=D("2005-01-01")))
    given = facts("2000-01-01")
    assert decide(given, plan, D("2004-12-31")).due
    assert not decide(given, plan, D("2005-01-01")).due
    only = schedule(rule(effective_from=D("2005-01-01")))
    assert "no rule of class C applies" in decide(given, only, D("2004-12-31")).reason
    assert engine.limits(only, D("2004-12-31")) == ()


def test_trigger_ranges_grandfather() -> None:
    plan = schedule(
        rule("old", period="P1Y", triggers_until=D("2009-12-31")),
        rule("new", period="P9Y", triggers_from=D("2010-01-01")),
    )
    assert decide(facts("2009-12-31"), plan, D("2012-01-01")).due
    assert not decide(facts("2010-01-01"), plan, D("2012-01-01")).due
    assert standing(decide(facts("2010-01-01"), plan, D("2012-01-01")))["old"] is Standing.NOT_APPLICABLE
    assert not decide(facts(), plan, date.max).due


def test_repeated_events_count_the_latest_unless_the_rule_says_first() -> None:
    given = facts(end="2000-01-01 2010-01-01")
    latest = rule(trigger="event:end", period="P1Y")
    first = replace(latest, trigger=Trigger("end", event=True, occurrence=rules.Occurrence.FIRST))
    assert decide(given, schedule(latest), D("2005-01-01")).retain_until == D("2011-01-01")
    assert decide(given, schedule(first), D("2005-01-01")).retain_until == D("2001-01-01")
    (row,) = engine.limits(schedule(first), D("2005-01-01"))
    assert [event.key for event in row.events] == ["end:first"]


def test_suspension_adds_the_union_of_its_days_after_the_cutoff() -> None:
    plan = schedule(rule(period="P1Y"))
    days = (
        Suspension(D("1999-01-01"), D("2000-01-10")),  # ten days of it count: 1 January is the cutoff itself
        Suspension(D("2000-01-05"), D("2000-01-20")),
        Suspension(D("2000-03-01"), D("2000-03-01")),
    )
    given = replace(facts("2000-01-01"), suspensions=days)
    assert decide(given, plan, D("2001-06-01")).retain_until == D("2001-01-21")
    still = replace(facts("2000-01-01"), suspensions=(Suspension(D("2020-01-01")),))
    assert decide(still, plan, D("2019-12-31")).due
    assert not decide(still, plan, D("2030-01-01")).due
    assert "suspended" in decide(still, plan, D("2030-01-01")).reason


def test_past_its_ceiling_is_a_finding_and_a_floor_above_it_a_contradiction() -> None:
    plan = schedule(rule("five", period="P5Y", ceiling=rules.parse_period("P5Y")), rule("ten", period="P10Y"))
    decision = decide(facts("2000-01-01"), plan, D("2006-01-01"))
    assert (decision.due, decision.ceiling) == (False, D("2005-01-01"))
    assert decision.findings == ("KEPT-TOO-LONG", "CONTRADICTION")
    forever = schedule(rule("five", ceiling=rules.parse_period("P8Y")), rule("always", period=None))
    assert "CONTRADICTION" in decide(facts("2000-01-01"), forever, D("2001-01-01")).findings


def test_an_unverified_rule_says_why_it_will_stop() -> None:
    plan = schedule(rule(verified=False))
    assert decide(facts("2000-01-01"), plan, D("2010-01-01")).findings == ("UNVERIFIED",)
    assert engine.limits(plan, D("2010-01-01"))[0].unverified == ("r",)


# ---------------------------------------------------------------- time zones


def test_a_day_is_a_day_of_a_place() -> None:
    late = datetime(2024, 12, 31, 22, 30, tzinfo=UTC)
    assert engine.civil_date(late, "Asia/Jerusalem") == D("2025-01-01")
    assert engine.civil_date(late, "America/New_York") == D("2024-12-31")
    with pytest.raises(ValueError, match="offset"):
        engine.civil_date(datetime(2024, 1, 1), "UTC")  # noqa: DTZ001  # a naive instant is what is refused


def test_today_is_the_earliest_day_of_all_zones() -> None:
    plan = schedule(rule(), rule("ny", time_zone="America/New_York"), timezone="Asia/Jerusalem")
    assert engine.today(plan, datetime(2024, 12, 31, 22, 30, tzinfo=UTC)) == D("2024-12-31")


def test_a_rule_of_another_zone_counts_an_instant_a_day_later_in_both_paths() -> None:
    plan = schedule(rule(time_zone="Pacific/Auckland", period="P1Y"), timezone="America/New_York")
    given, until = facts("2000-12-31"), D("2002-01-01")
    assert decide(given, plan, until).retain_until == until
    assert not due_by_limits(given, plan, until)
    assert due_by_limits(given, plan, until + DAY)


# ---------------------------------------------------------------- the folded limits


def test_limits_fold_to_one_row_a_class() -> None:
    as_of = D("2024-07-01")
    three = (rule("a", period="P5Y"), rule("b", period="P7Y"), rule("c", "event:end", "P1Y"))
    (row,) = engine.limits(schedule(*three), as_of)
    assert (row.dated, {e.key: e.limit for e in row.events}) == (
        {"received": D("2017-06-30")},
        {"end": D("2023-06-30")},
    )
    (row,) = engine.limits(schedule(*three, combine=Combine.ANY), as_of)
    assert (row.dated, {e.key: e.limit for e in row.events}) == (
        {"received": D("2019-06-30")},
        {"end": D("2023-06-30")},
    )


def test_limits_of_a_permanent_rule_are_never_under_all_and_nothing_under_any() -> None:
    pair = (rule("a"), rule("b", period=None))
    assert engine.limits(schedule(*pair), D("2024-01-01"))[0].dated == {"received": None}
    row = engine.limits(schedule(*pair, combine=Combine.ANY), D("2024-01-01"))[0]
    assert row.dated == {"received": D("2016-12-31")}
