"""A Purview file plan: what a label can say is read back as it was, and what it cannot say is named."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.engine import retain_until
from retention.errors import UsageError
from retention.rules import Action, Authority, LaterRecords, Period, RecordClass, Rule, Schedule, Stage, Trigger, Worm
from retention.schedule import SAMPLE, load, purview
from retention.schedule.purview import COLUMNS, LONGEST, UNLIMITED, export, schedule_of

R = Rule("A-label", Trigger("received"), Period(days=90), Action.DESTROY, Authority("L", "US"), verified=True)


def plan(*known: RecordClass) -> Schedule:
    return Schedule("d", "T", "UTC", known)


def known(*some: Rule, **more: Any) -> RecordClass:
    return replace(RecordClass("A", {"und": "Alpha"}, some, action=Action.DESTROY), **more)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def row(**cells: str) -> str:
    given = {"LabelName": "L", "RetentionAction": "KeepAndDelete", "RetentionDuration": "90",
             "RetentionType": "CreationAgeInDays", "CitationName": "C"} | cells  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerow(given)
    return out.getvalue()


def said(text: str) -> list[str]:
    return [warned.message for warned in schedule_of(text, "T", "UTC")[1]]


# ---------------------------------------------------------------- out


def test_the_sample_as_a_file_plan_never_deletes_earlier_than_the_sample() -> None:
    sample = load(SAMPLE)
    text, warned = export(sample)
    found = rows(text)
    assert tuple(found[0]) == COLUMNS and len(found) == len(sample.classes)
    assert len({cells["LabelName"] for cells in found}) == len(found)
    for cells, one in zip(found, sample.classes, strict=True):
        assert (cells["ReferenceId"], len(cells["LabelName"]) <= 64) == (one.id, True)
        if cells["RetentionDuration"] == UNLIMITED:
            assert cells["RetentionAction"] == "Keep"
            continue
        days = timedelta(int(cells["RetentionDuration"]))
        assert days.days <= LONGEST
        for rule in one.rules:
            for on in (date(1999, 1, 1) + timedelta(n) for n in range(0, 3000, 7)):
                until = retain_until(rule, on)
                assert until is not None and until <= on + days
        assert any(w.label == cells["LabelName"] for w in warned)  # nothing of it can be said whole
    by_id = {cells["ReferenceId"]: cells for cells in found}
    assert by_id["IL-SEC-010"]["RetentionAction"] == "KeepAndDelete"
    assert by_id["IL-FIN-010"]["RetentionAction"] == "Keep"  # a person decides, and has no address
    assert (by_id["US-BD-010"]["Regulatory"], by_id["US-BD-010"]["IsRecordLabel"]) == ("TRUE", "TRUE")
    assert (by_id["EU-CT-010"]["RetentionType"], by_id["EU-CT-010"]["EventType"]) == ("EventAgeInDays", "trial_end")
    assert by_id["DE-MED-010"]["CitationJurisdiction"] == "DE"


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (known(replace(R, period=Period(84))), "P7Y is no number of days; the label has the most that it can be, 2557"),
        (known(replace(R, cutoff=load(SAMPLE).classes[-2].rules[0].cutoff)), "P90D from year_end is no number of days"),
        (known(R, replace(R, id="s", period=Period(days=91))), "several rules at once cannot be said; the label has"),
        (known(replace(R, ceiling=Period(12))), "the ceiling P1Y cannot be said"),
        (known(replace(R, period=Period(1201))), "the label keeps for ever"),
        (known(replace(R, trigger=Trigger("document_date"))), "document_date is not known to a label"),
        (known(replace(R, action=Action.TRANSFER)), "a transfer cannot be said; the label keeps, and deletes nothing"),
        (known(replace(R, action=Action.REVIEW)), "has an e-mail address; the label keeps, and deletes nothing"),
        (known(R), "a label deletes without the two people"),
        (known(replace(R, verified=False)), "the rule is not verified"),
        (known(replace(R, not_before=Trigger("e", True))), "a label cannot wait for event:e"),
        (known(replace(R, effective_from=date(2027, 1, 1))), "the days from which"),
        (known(R, titles={"en": "x" * 70}), "the label's name is cut to 64 characters"),
        (known(), "it has no rule; the label keeps for ever"),
    ],
)  # fmt: skip
def test_what_a_label_cannot_say_is_named(one: RecordClass, words: str) -> None:
    text, warned = export(plan(one))
    assert any(words in warning.message for warning in warned), warned
    if "deletes nothing" in words or "for ever" in words:
        assert rows(text)[0]["RetentionAction"] == "Keep"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "  =cmd", "'=x", "＝x"])
def test_no_cell_is_a_formula(text: str) -> None:
    one = known(R, comment=text, titles={"und": "Alpha"})
    exported, warned = export(plan(one))
    assert not any(
        cell.lstrip(" ")[0] in "=+-@＝" for cells in rows(exported) for cell in cells.values() if cell.strip()
    )
    assert any("as a formula does" in warning.message for warning in warned)
    (back,) = load(schedule_of(exported, "T", "UTC")[0]).classes
    assert back.comment == text.strip()


# ---------------------------------------------------------------- there and back

words = st.text("abc =+-@'\",;אב: #", min_size=1, max_size=20).map(lambda t: " ".join(t.split())).filter(bool)
emails = st.lists(st.sampled_from(["a@x.org", "b@y.org"]), min_size=1, max_size=2, unique=True)


@st.composite
def sayable(draw: st.DrawFn) -> Schedule:
    """Classes of which a label can say everything."""
    classes = []
    for number in range(draw(st.integers(1, 3))):
        name = f"C-{number}"
        event = Trigger(draw(st.sampled_from(["end", "last_visit"])), True)
        forever = draw(st.integers(0, 4)) == 0
        trigger = draw(st.sampled_from([Trigger("received"), Trigger("modified"), Trigger("tagged"), event]))
        rule = Rule(
            id=f"{name}-label",
            trigger=trigger,
            period=None if forever else Period(days=draw(st.integers(1, LONGEST))),
            action=Action.DESTROY,
            authority=Authority(draw(words), draw(words), draw(st.sampled_from(["", "https://e.org/x"]))),
        )
        reviewers = [] if forever else draw(st.one_of(st.just([]), emails))
        action = Action.PERMANENT if forever else Action.REVIEW if reviewers else Action.DESTROY
        classes.append(
            RecordClass(
                name,
                {"und": draw(words)},
                (replace(rule, action=action if forever or not reviewers else Action.REVIEW),),
                action=action,
                review=(Stage("reviewers", tuple(reviewers)),) if reviewers else (),
                worm=draw(st.sampled_from([Worm.NONE, Worm.GOVERNANCE])),
                comment=draw(st.one_of(st.just(""), words)),
            )
        )
        if draw(st.booleans()):
            classes[-1] = replace(classes[-1], regulatory=True, worm=Worm.COMPLIANCE)
    return plan(*classes)


def kept(given: Schedule) -> list[object]:
    return [
        (
            *(c.id, c.title(), c.action, c.review, c.worm, c.regulatory, c.comment),
            *((r.trigger, r.period, r.action, r.authority) for r in c.rules),
        )
        for c in given.classes
    ]


@given(given_plan=sayable())
@settings(max_examples=60, deadline=None)
def test_what_can_be_said_comes_back(given_plan: Schedule) -> None:
    exported, _ = export(given_plan)
    document, _ = schedule_of(exported, "T", "UTC")
    assert kept(load(document)) == kept(given_plan)
    again, _ = export(load(document))
    assert rows(again) == rows(exported)


# ---------------------------------------------------------------- in


def test_a_row_of_purview_becomes_a_class() -> None:
    text = row(
        LabelName="Employee files", RetentionType="EventAgeInDays", EventType="Employee departure",
        RetentionDuration="10950", ReviewerEmail="a@x.org; b@x.org", DepartmentName="HR", IsRecordLabel="TRUE",
        CitationName="29 CFR", CitationJurisdiction="US",
    )  # fmt: skip
    document, warned = schedule_of("\ufeff" + text, "Imported", "Asia/Jerusalem")
    imported = load(document)
    (one,) = imported.classes
    assert (imported.title, imported.timezone, one.id, one.title()) == (
        "Imported",
        "Asia/Jerusalem",
        "Employee-files",
        "Employee files",
    )
    assert (one.action, one.worm, one.comment) == (Action.REVIEW, Worm.GOVERNANCE, "DepartmentName: HR")
    assert one.review == (Stage("reviewers", ("a@x.org", "b@x.org")),)
    (rule,) = one.rules
    assert (rule.trigger, rule.period, rule.verified) == (
        Trigger("employee_departure", True),
        Period(days=10950),
        False,
    )
    assert rule.later_records is LaterRecords.STALE
    assert any("event:employee_departure" in warning.message for warning in warned)
    assert document.count("# row 1, Employee files:") == len(warned)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"RetentionAction": "Keep"}, "a person decides (review)"),
        ({"RetentionAction": "Delete"}, "taken as one that keeps until then"),
        ({"CitationName": ""}, "no citation is given"),
        ({"ComplianceTagForNextStage": "Next"}, "the next label, Next, cannot be said"),
        ({"IsRecordUnlockedAsDefault": "TRUE"}, "starts unlocked"),
        ({"ReferenceId": "no id!"}, "the reference id 'no id!' is no class id"),
    ],
)
def test_what_an_import_cannot_keep_is_named(cells: dict[str, str], words: str) -> None:
    assert any(words in message for message in said(row(**cells)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (row(LabelName=""), "LabelName: expected 1 to 64 characters, found 0"),
        (
            row(RetentionDuration="7 years"),
            "RetentionDuration: expected days up to 36525, or Unlimited, found '7 years'",
        ),
        (row(RetentionDuration="36526"), "RetentionDuration: expected days"),
        (row(RetentionType="Age"), "RetentionType: expected CreationAgeInDays"),
        (row(RetentionAction="Shred"), "RetentionAction: expected Delete, Keep or KeepAndDelete"),
        (row(RetentionType="EventAgeInDays"), "EventType: expected a name"),
        (row(ReviewerEmail="nobody"), "ReviewerEmail: expected addresses"),
        (row(Regulatory="yes"), "Regulatory: expected TRUE or FALSE"),
        (row(CitationName="x" * 2001), "makes no schedule"),
        ("", "the file plan is empty"),
        ("LabelName\nx", "RetentionAction is missing"),
        (row().replace("Comment", "Komment", 1), "'Komment' is not one of it"),
        (row() + "a," * 30, "expected 20 cells, found 31"),
        (row().splitlines()[0], "expected at least one label"),
        ('"', "is not CSV"),
    ],
)
def test_mistakes_of_a_file_plan(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        schedule_of(text, "T", "UTC")
    assert words in str(caught.value)


def test_two_labels_have_two_ids() -> None:
    text = row(LabelName="A b") + row(LabelName="A/b").split("\r\n", 1)[1]
    assert [one.id for one in load(schedule_of(text, "T", "UTC")[0]).classes] == ["A-b", "A-b-2"]
    assert purview.COLUMNS[0] == "LabelName"
