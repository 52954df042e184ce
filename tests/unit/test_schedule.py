"""The schedule file: every problem with its line, and nothing of a file with a problem is used."""

from __future__ import annotations

import hashlib
import json
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from retention import rules
from retention.errors import UsageError
from retention.rules import Action, Combine, Occurrence, Period, Trigger, Unit, Worm
from retention.schedule import SAMPLE, ScheduleError, check, load, yaml_lines
from retention.schedule.file import ClassFile, HeaderFile, RuleFile, json_schema
from retention.schedule.patterns import bounded

jsonschema: Any = import_module("jsonschema")  # it carries no types

DOCS = Path(__file__).parents[2] / "docs" / "schedule.md"
HEAD = "version: 1\ntitle: T\ntimezone: UTC\n"
RULE = "{id: r1, trigger: received, period: P7Y, authority: {citation: L}}"


def one_class(rule: str = RULE, more: str = "") -> str:
    """A file whose rule stands on line 8, and what is more of the class from line 9."""
    return f"{HEAD}classes:\n  - id: FIN-010\n    title: Invoices\n    rules:\n      - {rule}\n{more}"


def ruled(**fields: str) -> str:
    given = {"id": "r1", "trigger": "received", "period": "P7Y", "authority": "{citation: L}"} | fields
    return one_class("{" + ", ".join(f"{name}: {value}" for name, value in given.items()) + "}")


def said(text: str) -> list[str]:
    return [problem.at("f") for problem in check(text)]


# ---------------------------------------------------------------- what is accepted


def test_every_field_arrives() -> None:
    text = """version: 1
title: T
timezone: Asia/Jerusalem
rules:
  - {id: shared, trigger: "event:birth", period: P25Y, authority: {citation: L}}
classes:
  - id: FIN
    title: {en: Finance, he: כספים}
    rules: []
  - id: FIN-010
    title: {en: Invoices, he: חשבוניות}
    combine: all
    action: transfer
    review: [{name: owner, reviewers: [dana], lapse: P30D}, {name: officer}]
    worm: governance
    regulatory: true
    vital: true
    unit: aggregation
    tombstone: descriptive
    personal_data: {subjects: [customers], purpose: trade}
    document_date: {fields: [date, created], earliest: 1980-01-01}
    backup: {vaults: [second], rpo: P1D, rto: PT4H, keep: {daily: 7, yearly: 7}}
    comment: c
    match:
      - {id: m1, heading: [invoice], metadata: {author: {contains: ann}}, regex: 'no\\.? {0,3}\\d{1,9}'}
    rules:
      - shared
      - id: r1
        trigger: event:filed
        cutoff: fiscal_year_end(03-31)
        period: P1Y6M2W3D
        ceiling: P9Y
        action: destroy
        authority: {citation: "§25(c)", jurisdiction: IL, url: "https://e.org", verified_on: 2026-01-31, verified_by: A}
        effective_from: 2020-01-01
        triggers_from: 2001-01-01
        triggers_until: 2030-12-31
        when: [{present: "event:a"}, {date: received, on_or_after: document_date, plus: P1M}]
        replaces: [shared]
        not_before: event:final
        occurrence: first
        verified: true
        notify_before: P3M
        time_zone: Europe/Paris
"""
    plan = load(text)
    known = plan.record_class("FIN-010")
    assert known is not None
    assert (plan.title, plan.timezone, plan.digest) == (
        "T",
        "Asia/Jerusalem",
        hashlib.sha256(text.encode()).hexdigest(),
    )
    assert (known.title(), known.title("he"), known.title("fr"), known.parent) == (
        "Invoices",
        "חשבוניות",
        "Invoices",
        "FIN",
    )
    assert (known.combine, known.action, known.worm) == (Combine.ALL, Action.TRANSFER, Worm.GOVERNANCE)
    assert (known.unit, known.tombstone, known.regulatory, known.vital) == (
        Unit.AGGREGATION,
        rules.Tombstone.DESCRIPTIVE,
        True,
        True,
    )
    assert known.review == (rules.Stage("owner", ("dana",), Period(0, 30)), rules.Stage("officer"))
    assert known.personal_data == rules.PersonalData(subjects=("customers",), purpose="trade")
    assert known.document_date == rules.DocumentDate(("date", "created"), date(1980, 1, 1))
    assert (known.backup.rpo, known.backup.rto) == (timedelta(days=1), timedelta(hours=4))
    assert known.backup.keep["yearly"] == 7
    assert known.match[0].metadata == (rules.FieldMatch("author", contains="ann"),)
    shared, rule = known.rules
    assert (shared.action, rule.action) == (Action.TRANSFER, Action.DESTROY)
    assert rule.trigger == Trigger("filed", event=True, occurrence=Occurrence.FIRST)
    assert (rule.period, str(rule.period), rule.ceiling) == (Period(18, 17), "P1Y6M17D", Period(108))
    assert str(rule.cutoff) == "fiscal_year_end(03-31)"
    assert [str(c) for c in rule.when] == ["event:a present", "received on_or_after document_date + P1M"]
    assert (rule.replaces, rule.not_before, rule.time_zone) == (
        ("shared",),
        Trigger("final", event=True),
        "Europe/Paris",
    )
    assert (rule.effective_from, rule.triggers_until) == (date(2020, 1, 1), date(2030, 12, 31))
    assert rule.authority.verified_on == date(2026, 1, 31)
    assert plan.zone(shared) == "Asia/Jerusalem"


def test_plain_scalars_mean_what_they_look_like() -> None:
    text = one_class(RULE, "    match: [{id: m, language: [no], text: [yes, 010, 1:30, 1.5]}]\n")
    (known,) = load(text).classes
    assert (known.match[0].language, known.match[0].text) == (("no",), ("yes", "010", "1:30", "1.5"))


def test_anchors_share_a_rule() -> None:
    rule = "&r {id: r1, trigger: received, period: P7Y, authority: {citation: L}}"
    plan = load(one_class(rule, "  - id: FIN-020\n    title: U\n    rules: [*r]\n"))
    assert plan.classes[0].rules == plan.classes[1].rules


# ---------------------------------------------------------------- what is refused, and where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ruled(period="7 years"),
            "f:8: class FIN-010: rule r1: period: expected ISO 8601 such as P7Y, P18M, P90D or P1Y6M, found '7 years'",
        ),
        (ruled(period="P"), "period: expected ISO 8601 such as P7Y"),
        (ruled(period="P1H"), "period: expected ISO 8601 such as P7Y"),
        (
            ruled(trigger="recieved"),
            "rule r1: trigger: expected received, document_date, modified, tagged or event:<kind>",
        ),
        (ruled(trigger='"event:"'), "rule r1: trigger: expected received"),
        (ruled(cutoff="fiscal_year_end(02-30)"), "cutoff: expected none, month_end"),
        (ruled(cutoff="fiscal_year_end"), "cutoff: expected none, month_end"),
        (
            ruled(ceilling="P9Y"),
            "f:8: class FIN-010: rule r1: ceilling: unknown field 'ceilling'; did you mean ceiling?",
        ),
        (ruled(ceiling="P6Y11M"), "rule r1: ceiling: expected at least the period P7Y, found P6Y11M"),
        (ruled(period="P1Y", ceiling="P365D"), "ceiling: expected at least the period P1Y, found P365D"),
        (
            ruled(action="shred"),
            "rule r1: action: expected 'destroy', 'review', 'transfer' or 'permanent', found 'shred'",
        ),
        (ruled(period="permanent", action="destroy"), "action: expected permanent, as the period is, found destroy"),
        (ruled(action="permanent"), "period: expected permanent, as the action is, found 'P7Y'"),
        (ruled(effective_from="2026-02-30"), "effective_from: expected a day of the calendar"),
        (ruled(effective_from="2026"), "effective_from: expected a date such as 2026-01-31, found 2026"),
        (
            ruled(triggers_from="2020-01-02", triggers_until="2020-01-01"),
            "triggers_until: expected a day not before 2020-01-02",
        ),
        (ruled(trigger="document_date"), "nothing can ever make it due: class FIN-010 names no document_date fields"),
        (ruled(verified="true"), "authority: expected verified_on and verified_by"),
        (ruled(authority="{citation: 5}"), "authority: citation: expected text, found 5 (put it in quotes)"),
        (ruled(authority="{}"), "rule r1: authority: citation: expected, and missing"),
        (
            ruled(time_zone="Mars/Base"),
            "time_zone: expected an IANA time zone such as Asia/Jerusalem, found 'Mars/Base'",
        ),
        (ruled(time_zone="../../etc/passwd"), "time_zone: expected an IANA time zone"),
        (ruled(not_before="received"), "not_before: expected event:<kind>"),
        (ruled(occurrence="first"), "occurrence: expected on an event"),
        (ruled(later_records="covered"), "later_records: expected on an event"),
        (ruled(replaces="[r2]"), "class FIN-010 has no rule r2"),
        (ruled(replaces="[r1]", when='[{present: "event:x"}]'), "r1 and r1 would replace each other"),
        (ruled(when="[{date: received}]"), "rule r1: when number 1: expected `present`, or `date` and one of before"),
        (ruled(when='[{present: "event:x", date: received, before: tagged}]'), "when number 1: expected `present`, or"),
        (one_class("nothere"), "f:8: class FIN-010: rule number 1: there is no rule nothere"),
        (one_class(RULE, f"      - {RULE}\n"), "class FIN-010: rules: a rule is named twice"),
        (one_class(RULE, "    parent: NOPE\n"), "f:9: class FIN-010: parent: there is no class NOPE"),
        (one_class(RULE, "    parent: FIN-010\n"), "FIN-010 would be its own ancestor"),
        (
            one_class(RULE, "    combine: any\n    regulatory: true\n"),
            "f:9: class FIN-010: combine: expected all in a regulatory",
        ),
        (one_class(RULE, "    title: again\n"), "f:9: 'title' is given twice, first on line 6"),
        (one_class(RULE, "    match: [{id: m}]\n"), "match m: expected a condition such as heading or path"),
        (one_class(RULE, "    match: [{id: m, text_none: [x]}]\n"), "it would match everything"),
        (
            one_class(RULE, "    match: [{id: m, regex: '(a+)+'}]\n"),
            "match m: regex: expected a repeat with an upper bound",
        ),
        (
            one_class(RULE, "    match: [{id: m, metadata: {title: {}}}]\n"),
            "metadata: title: expected one of equals, contains",
        ),
        (
            one_class(RULE, "    match: [{id: m, text: [a]}, {id: m, text: [b]}]\n"),
            "another match has the id m already",
        ),
        (
            one_class(RULE, "    review: [{name: a}, {name: b}, {name: c}, {name: d}, {name: e}, {name: f}]\n"),
            "at most 5 entries",
        ),
        (one_class(RULE, "    backup: {rpo: 24}\n"), "backup: rpo: expected ISO 8601 such as P1D or PT4H, found 24"),
        (one_class(RULE, "    worm: yes\n"), "worm: expected 'none', 'governance' or 'compliance', found 'yes'"),
        (one_class(RULE, "  - 7\n"), "f:9: class number 2: expected a map, found 7"),
        (
            one_class(RULE, "  - {id: FIN-010, title: T, rules: []}\n"),
            "f:9: class FIN-010: id: another class has the id FIN-010",
        ),
        (
            one_class(
                RULE,
                "  - {id: X, title: T, rules: [{id: r1, trigger: tagged, period: P1Y, authority: {citation: L}}]}\n",
            ),
            "f:9: class X: rule r1: id: another rule has the id r1 already",
        ),
        (
            f"{HEAD}classes: [{{id: unclassified, title: T, rules: [{RULE}]}}]",
            "what is unclassified is never destroyed by machine",
        ),
        (f"{HEAD}rules: [{RULE}]\nclasses: [{{id: A, title: T, rules: []}}]", "f:4: rule r1: no class has this rule"),
        (f"{HEAD}classes: [{{id: A, title: T}}]", "f:4: class A: rules: expected, and missing"),
        (HEAD + "classes: []", "f:4: classes: expected a list of at least one class"),
        (HEAD.replace("1", "2") + "classes: [{id: A, title: T, rules: []}]", "f:1: version: expected 1, found 2"),
        ("", "f:1: expected a map with version, title, timezone and classes, found nothing"),
        ("- 1", "found a list"),
        ("a: b: c", "f:1: not YAML: mapping values are not allowed"),
        (
            "x: !!python/object/apply:os.system [id]",
            "tags such as tag:yaml.org,2002:python/object/apply:os.system are not used",
        ),
        ("a: 1\n---\nb: 2", "f:2: expected one document"),
        ("a: *nowhere", "f:1: the alias *nowhere has no anchor &nowhere before it"),
        ("x: &a [*a, *a]", "aliases expand to more than"),
        ("[" * 100_000, "nested deeper than 30 levels"),
    ],
)
def test_each_problem_has_its_line_and_words(text: str, expected: str) -> None:
    found = said(text)
    assert any(expected in line for line in found), found
    with pytest.raises(ScheduleError):
        load(text)


def test_all_problems_are_reported_at_once_in_order() -> None:
    text = ruled(period="7y", trigger="x", action="y").replace("timezone: UTC", "timezone: Nowhere")
    lines = [problem.line for problem in check(text + "    parrent: X\n")]
    assert lines == [3, 8, 8, 8, 9]
    with pytest.raises(UsageError) as caught:
        load(text, name="plan.yaml")
    assert str(caught.value).count("plan.yaml:") == 4
    assert "4 problems" in str(caught.value)


def test_cycles_among_replacements_and_parents() -> None:
    rule = "{{id: {}, trigger: received, period: P1Y, replaces: [{}], when: [{{present: 'event:x'}}], authority: *l}}"
    first = rule.format("a", "b").replace("*l", "&l {citation: L}")
    text = one_class(first, f"      - {rule.format('b', 'a')}\n")
    assert len([line for line in said(text) if "would replace each other" in line]) == 2
    text = HEAD + "classes:\n- {id: A, title: T, rules: [], parent: B}\n- {id: B, title: T, rules: [], parent: A}\n"
    assert [line[:4] for line in said(text)] == ["f:5:", "f:6:"]


def test_a_permanent_rule_among_others_under_all_is_told() -> None:
    forever = "{id: r2, trigger: received, period: permanent, authority: {citation: L}}"
    assert "can never make anything due" in said(one_class(RULE, f"      - {forever}\n"))[0]
    assert not said(one_class(RULE, f"      - {forever}\n    combine: any\n"))


def test_replaces_is_refused_under_any() -> None:
    replacing = RULE.replace("r1", "r2").replace("P7Y", "P1Y, replaces: [r1], when: [{present: 'event:x'}]")
    assert not said(one_class(RULE, f"      - {replacing}\n"))
    assert "expected combine: all" in said(one_class(RULE, f"      - {replacing}\n    combine: any\n"))[0]


def test_a_small_file_cannot_become_a_large_one() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for i in range(12):
        bomb += f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n"
    assert any("aliases expand to more than 200000 values" in line for line in said(bomb))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    with pytest.raises(UsageError, match=r"plan\.yaml cannot be read \(No such file"):
        load(path)
    path.write_bytes(b"version: 1\ntitle: caf\xe9\n")
    assert [p.at("f") for p in check(path)] == ["f:2: expected UTF-8, found byte 0xe9"]
    path.write_bytes(b"\xef\xbb\xbf" + one_class().encode())
    assert load(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize("pattern", [r"a{1,40}b{0,40}", r"inv(oice)?\s{1,5}no", r"\b(foo|bar)\b", r"^x.{0,80}$"])
def test_bounded_patterns_are_compiled(pattern: str) -> None:
    assert bounded(pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "a*",
        "(a{1,10}){1,10}",
        "(?=x)a",
        r"(a|b)\1",
        "[",
        "(((",
        "a{0,4294967294}",
        "(a{1000}){1000}",
        "a" * 501,
    ],
)
def test_patterns_that_could_run_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        bounded(pattern)


# ---------------------------------------------------------------- what is shipped


def test_the_sample_schedule_is_complete() -> None:
    plan = load(SAMPLE)
    known = {c.id: c for c in plan.classes}
    verified = {rule.id for c in plan.classes for rule in c.rules if rule.verified}
    assert verified == {
        "il-25c-tax-year", "il-25c-filing", "us-controlled", "us-osha-300", "us-payroll", "us-workpapers",
        "fr-last-stay", "fr-28th-birthday", "fr-death", "eu-clinical-trial",
    }  # fmt: skip
    assert all(c.title("he") != c.title("en") for c in plan.classes if c.id.startswith(("IL-", "KM-")))
    assert all(rule.authority.citation for c in plan.classes for rule in c.rules)
    assert {c.worm for c in plan.classes if c.id.startswith("US-BD")} == {Worm.COMPLIANCE}
    assert known["unclassified"].rules == ()
    assert [c.id for c in plan.classes if not c.rules] == ["unclassified"]
    assert len(known) == len(plan.classes) == 49


def test_the_published_json_schema_is_the_one_of_the_code_and_takes_the_sample() -> None:
    published = json.loads(SAMPLE.with_name("schema.json").read_text("utf-8"))
    assert published == json_schema(), "run `muniment schedule schema` and commit retention/schedule/schema.json"
    jsonschema.Draft202012Validator.check_schema(published)
    plain: Any = yaml_lines.read(SAMPLE.read_text("utf-8")).data  # as the schedule is read
    jsonschema.validate(plain, published)
    plain["classes"][0]["rules"] = [{"id": "x"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, published)


def test_the_documentation_has_every_field_and_its_example_can_be_loaded() -> None:
    text = DOCS.read_text("utf-8")
    (example,) = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert check(example) == ()
    told = text.replace("`", " ").replace(",", " ").replace(":", " ").split()
    for model in (ClassFile, RuleFile, HeaderFile):
        assert model.model_fields.keys() <= {*told}, model
