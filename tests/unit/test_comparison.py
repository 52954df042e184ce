"""Loads that shorten: what is refused of regulatory classes, what needs two people, and in which words."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from typing import Any

import pytest

from retention import rules
from retention.rules import (
    Action,
    Authority,
    Combine,
    Condition,
    Disposition,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Stage,
    Trigger,
    Unit,
    Worm,
)
from retention.schedule import SAMPLE, load
from retention.schedule.comparison import advances, changes, lowered, redated

TODAY = date(2026, 11, 22)
R = Rule("r", Trigger("received"), Period(72), Action.DESTROY, Authority("17a-4"))
END = Trigger("end", event=True)


def plan(*some: Rule, regulatory: bool = True, combine: Combine = Combine.ALL, **more: Any) -> Schedule:
    known = RecordClass("C", {"en": "T"}, some, combine=combine, regulatory=regulatory)
    return Schedule("d", "T", "UTC", (replace(known, **more),))


def cut(text: str) -> rules.Cutoff:
    return rules.parse_cutoff(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (R, replace(R, period=Period(71)), "trigger 2000-01-01 was kept until 2006-01-01, would be until"),
        (replace(R, period=Period(1)), replace(R, period=Period(0, 30)), "2000-01-01 was kept until 2000-02-01"),
        (replace(R, period=Period(0, 30)), replace(R, period=Period(1)), "2000-01-31 was kept until 2000-03-01"),
        (replace(R, period=None), R, "was kept until for ever, would be until 2006-01-01"),
        (replace(R, cutoff=cut("year_end")), R, "was kept until 2006-12-31, would be until 2006-01-01"),
        (replace(R, cutoff=cut("fiscal_year_end(03-31)")), replace(R, cutoff=cut("year_end")), "trigger 2000-04-01"),
        (
            replace(R, cutoff=cut("fiscal_year_end(02-29)"), period=Period(48)),
            replace(R, cutoff=cut("fiscal_year_end(02-28)"), period=Period(48)),
            "trigger 2000-01-01 was kept until 2004-02-29, would be until 2004-02-28",
        ),
        (R, replace(R, trigger=Trigger("tagged")), "its trigger changed from received to tagged"),
        (R, replace(R, trigger=Trigger("tagged"), period=Period(1200)), "its trigger changed"),
        (R, replace(R, id="other", trigger=END), "rule r: the rule is gone"),
        (R, replace(R, when=(Condition(END),)), "it would no longer apply to every record"),
        (R, replace(R, triggers_from=date(2000, 1, 1)), "it would no longer apply to every record"),
        (R, replace(R, effective_from=date(2027, 1, 1)), "it would no longer apply to every record"),
        (replace(R, not_before=END), R, "it no longer waits for event:end"),
        (
            replace(R, trigger=END),
            replace(R, trigger=END, later_records=rules.LaterRecords.COVERED),
            "it would decide on records dated after the event",
        ),
        (replace(R, trigger=END), replace(R, trigger=replace(END, occurrence=rules.Occurrence.FIRST)), "(first)"),
        (replace(R, time_zone="Pacific/Auckland"), R, "kept shorter: trigger 2000-01-01 was kept until 2006-01-02"),
    ],
)  # fmt: skip
def test_what_lowers_is_named_with_a_day(old: Rule, new: Rule, words: str) -> None:
    found = [str(one) for one in lowered(plan(old), plan(new), TODAY)]
    assert any(words in line for line in found), found
    assert advances(plan(old), plan(new), TODAY)
    assert not lowered(plan(old, regulatory=False), plan(new, regulatory=False), TODAY)


@pytest.mark.parametrize(
    "new",
    [
        (replace(R, period=Period(73)),),
        (replace(R, period=None),),
        (replace(R, id="other"),),  # another rule that says the same
        (R, replace(R, id="second", trigger=END, period=Period(12))),
        (replace(R, not_before=END),),
        (replace(R, authority=Authority("other"), action=Action.REVIEW, notify_before=Period(3)),),
        (replace(R, effective_from=date(2020, 1, 1)),),  # in force already
    ],
)
def test_what_only_lengthens_is_neither_refused_nor_for_two(new: tuple[Rule, ...]) -> None:
    assert lowered(plan(R), plan(*new), TODAY) == ()
    assert not [one for one in advances(plan(R), plan(*new), TODAY) if one.class_id != "*"]


def test_a_later_cutoff_is_longer_but_takes_two_people_where_days_were_suspended_before_it() -> None:
    later = plan(replace(R, cutoff=cut("year_end")))
    assert lowered(plan(R), later) == ()
    (one,) = advances(plan(R), later)
    assert "where retention was suspended before the cutoff" in one.reason
    assert lowered(plan(R), plan(replace(R, time_zone="Pacific/Auckland"))) == ()


def test_a_day_that_only_a_century_without_a_leap_year_has() -> None:
    days, years = replace(R, period=Period(0, 1461)), replace(R, period=Period(48))
    (one,) = lowered(plan(days), plan(years))
    assert one.example is not None and one.example.year == 1900  # which had no 29 February
    assert one.before is not None and one.after is not None and (one.before - one.after).days == 1
    later = plan(replace(years, cutoff=cut("year_end")))
    assert any("suspended" in a.reason and a.example and a.example.year != 2000 for a in advances(plan(days), later))


def test_regulatory_is_not_taken_away() -> None:
    assert "cannot be removed" in str(lowered(plan(R), Schedule("d", "T", "UTC", ()))[0])
    assert "cannot become an ordinary one" in str(lowered(plan(R), plan(R, regulatory=False))[0])
    assert "would suffice" in str(lowered(plan(R, R), plan(R, R, combine=Combine.ANY))[0])
    assert "counted in Asia/Jerusalem" in str(lowered(plan(R), replace(plan(R), timezone="Asia/Jerusalem"))[0])


def test_a_rule_that_replaces_another_lowers_it() -> None:
    short = replace(R, id="short", period=Period(12), when=(Condition(END),), replaces=("r",))
    (one,) = lowered(plan(R), plan(R, short))
    assert (one.rule_id, one.example) == ("r", None)
    assert not lowered(plan(R, short), plan(R, short))
    assert not lowered(plan(R, short), plan(R, replace(short, replaces=())))
    (one,) = lowered(plan(R, short), plan(R, replace(short, when=())))  # it would always replace
    assert one.rule_id == "r"


def test_what_was_kept_because_no_rule_applied() -> None:
    guarded = replace(R, when=(Condition(END),))
    assert "no rule applied were kept" in str(advances(plan(guarded), plan(guarded, replace(R, id="s")))[0])
    assert "no rule applied were kept" in str(advances(plan(), plan(R))[0])
    empty = Schedule("d", "T", "UTC", ())
    assert "the class is new" in str(advances(empty, plan(R))[0])
    assert advances(empty, plan(R), used=("A",)) == ()
    assert advances(plan(R), empty) == ()


def test_any_is_advanced_by_a_rule_more_and_not_by_one_less() -> None:
    two = plan(R, replace(R, id="s", trigger=END), regulatory=False, combine=Combine.ANY)
    one = plan(R, regulatory=False)
    assert "one rule would suffice" in str(advances(one, two, TODAY)[0])
    assert [a.rule_id for a in advances(plan(R, replace(R, id="t"), regulatory=False, combine=Combine.ANY), two)] == [
        "s"
    ]
    assert advances(two, plan(R, replace(R, id="t"), regulatory=False, combine=Combine.ANY)) == ()
    assert advances(two, plan(*two.classes[0].rules, regulatory=False)) == ()  # all of them, where one was enough


def test_units_and_zones() -> None:
    whole = plan(R, unit=Unit.AGGREGATION)
    assert "no longer wait" in str(advances(whole, plan(R))[0])
    assert advances(plan(R), whole) == ()
    assert "may begin earlier" in str(advances(plan(replace(R, trigger=END, time_zone="America/New_York")),
                                               plan(replace(R, trigger=END)))[0])  # fmt: skip


V = replace(R, verified=True, action=Action.REVIEW)
THREE = Period(3)
TEN, TWENTY = Period(days=10), Period(days=20)
RUTH, DAN, BOTH = Stage("one", ("Ruth",)), Stage("two", ("Dan",)), Stage("one", ("Ruth", "Dan"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (plan(R), plan(replace(R, verified=True)), "rule r: what it made due could not be executed"),
        (plan(R), plan(replace(R, id="s", verified=True)), "rule r: what it made due could not be executed"),
        (plan(V, R), plan(V, replace(R, verified=True)), "could not be executed"),
        (plan(V), plan(replace(V, action=Action.DESTROY)), "its action was review, and would be a weaker one"),
        (plan(replace(V, action=Action.TRANSFER)), plan(V), "its action was transfer, and would be a weaker one"),
        (plan(replace(V, notify_before=THREE)), plan(V), "would not be announced P3M before"),
        (plan(replace(V, notify_before=THREE)), plan(replace(V, notify_before=Period(2))), "would not be announced"),
        (plan(V), plan(V, regulatory=False), "it would no longer be regulatory"),
        (plan(V, worm=Worm.COMPLIANCE), plan(V, worm=Worm.GOVERNANCE), "its lock would be governance, not compliance"),
        (plan(V, worm=Worm.GOVERNANCE), plan(V), "its lock would be none, not governance"),
        (plan(V, review=(RUTH, DAN)), plan(V, review=(RUTH,)), "a stage of its review would be gone"),
        (plan(V, review=(RUTH,)), plan(V), "open to more people"),
        (plan(V, review=(RUTH,)), plan(V, review=(BOTH,)), "open to more people"),
        (plan(V, review=(RUTH, DAN)), plan(V, review=(replace(RUTH, lapse=TEN), DAN)), "or lapse sooner"),
        (
            plan(V, review=(replace(RUTH, lapse=TWENTY), DAN)),
            plan(V, review=(replace(RUTH, lapse=TEN), DAN)),
            "or lapse sooner",
        ),
        (plan(V), replace(plan(V), disposition=Disposition(limit_records=1001)), "1,001 records of a class, not 1,000"),
        (plan(V), replace(plan(V), disposition=Disposition(limit_percent=11)), "11% of a class, not 10%"),
        (plan(V, parent="B"), plan(V), "a hold on B would no longer take in what comes into it"),
    ],
)  # fmt: skip
def test_what_goes_with_less_care_needs_two_people_and_the_other_way_one(
    old: Schedule, new: Schedule, words: str
) -> None:
    found = [str(one) for one in advances(old, new, TODAY)]
    assert len(found) == 1 and words in found[0], found
    assert advances(new, old, TODAY) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (plan(V, review=(RUTH,)), plan(V, review=(DAN, RUTH))),
        (plan(V, review=(BOTH,)), plan(V, review=(RUTH, DAN))),
        (plan(V, review=(RUTH,)), plan(V, review=(replace(RUTH, lapse=TEN),))),  # a last stage that lapses expires it
        (plan(V), plan(V, review=(RUTH, DAN))),
        (plan(V), plan(V, tombstone=rules.Tombstone.DESCRIPTIVE)),
        (plan(V, tombstone=rules.Tombstone.DESCRIPTIVE), plan(V)),
        (plan(R, V), plan(R, replace(V, action=Action.DESTROY, id="s"), replace(V, action=Action.TRANSFER, id="t"))),
        (plan(V), replace(plan(V), disposition=Disposition(1, 1, Period(24), "OTHER"))),
    ],
)
def test_what_goes_with_as_much_care(old: Schedule, new: Schedule) -> None:
    assert advances(old, new, TODAY) == ()


def test_stages_keep_their_order() -> None:
    assert advances(plan(V, review=(RUTH, DAN)), plan(V, review=(DAN, RUTH)))
    assert advances(plan(V, review=(RUTH, DAN)), plan(V, review=(RUTH, BOTH, DAN))) == ()


def test_care_where_one_rule_suffices() -> None:
    """Under `any` the rules that are satisfied have a say: one that is satisfied later does not stand in."""
    more: dict[str, Any] = {"regulatory": False, "combine": Combine.ANY}
    second = replace(V, id="s", trigger=END)
    old = plan(R, second, **more)
    assert advances(old, plan(R, second, **more), TODAY) == ()
    assert "r: what it made due could" in str(advances(old, plan(replace(R, verified=True), second, **more), TODAY)[0])
    for later in (replace(R, id="later", period=Period(84)), replace(R, id="waits", not_before=END)):
        (one,) = advances(old, plan(replace(R, verified=True), later, second, **more), TODAY)
        assert "could not be executed" in str(one)


def test_every_field_is_considered() -> None:
    """A new field must be weighed in `lowered` and `advances` before it is added here."""
    dates = "trigger period cutoff effective_from triggers_from triggers_until when replaces not_before later_records"
    care = "action verified notify_before"
    neither = "id authority ceiling time_zone"  # the zone: as engine.foreign
    assert {field.name for field in fields(Rule)} == {*dates.split(), *care.split(), *neither.split()}
    dates, care = "rules combine unit", "review worm regulatory parent action"  # the action: of its rules
    neither = "id titles personal_data vital comment backup tombstone"
    arrivals = "match document_date aggregation"
    assert {f.name for f in fields(RecordClass)} == {
        *dates.split(), *care.split(), *neither.split(), *arrivals.split()
    }  # fmt: skip
    assert {field.name for field in fields(Schedule)} == {"digest", "title", "timezone", "classes", "disposition"}
    assert {f.name for f in fields(Disposition)} == {"limit_records", "limit_percent", "term", "certificates"}


def test_changes_are_named_field_by_field() -> None:
    new = plan(
        replace(R, period=Period(84), authority=Authority("other")), replace(R, id="s"), worm=rules.Worm.COMPLIANCE
    )
    found = {(c.rule_id, c.field, c.before, c.after) for c in changes(plan(R), new)}
    assert found == {
        (None, "worm", "none", "compliance"),
        ("r", "period", "P6Y", "P7Y"),
        ("r", "authority", "17a-4", "other"),
        ("s", "rule", "", "received + P6Y"),
    }
    assert [(c.class_id, c.field, c.before) for c in changes(new, Schedule("e", "U", "UTC", ()))] == [
        ("*", "title", "T"),
        ("C", "class", "T"),
    ]


def test_redated_are_the_classes_whose_dates_may_differ() -> None:
    same = plan(replace(R, action=Action.REVIEW, verified=True, effective_from=date(2020, 1, 1)), regulatory=False)
    assert redated(plan(R), same, TODAY) == frozenset()
    assert redated(plan(R), same, date(2019, 1, 1)) == {"C"}
    assert redated(plan(R), plan(replace(R, period=Period(73))), TODAY) == {"C"}
    assert redated(plan(R), Schedule("d", "T", "UTC", ()), TODAY) == {"C"}


def test_the_sample_lowers_nothing_of_itself_and_a_shorter_one_is_found() -> None:
    plan = load(SAMPLE)
    assert lowered(plan, plan) == () and advances(plan, plan) == ()
    text = SAMPLE.read_text("utf-8").replace(
        "period: P6Y\n        authority: {citation: 17 CFR", "period: P5Y\n        authority: {citation: 17 CFR"
    )
    (one,) = lowered(plan, load(text))
    assert (one.class_id, one.rule_id) == ("US-BD-010", "us-17a-4-a")
