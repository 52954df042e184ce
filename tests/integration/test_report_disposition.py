"""The disposition part of the compliance report, over archives with plans in every state."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from retention import approvals, catalog, engine, holds, policy, reports, signatures
from retention.approvals import Kind
from retention.archive import Archive
from retention.database import transaction
from retention.disposition import execution, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.reports import ComplianceReport, Status
from retention.reports.ceilings import CODES
from retention.reports.model import Disposition, Figure
from tests.archive_builder import KEYS, SCHEDULE, Document, capture_all, enrol, load
from tests.integration.test_reports import assert_every_number_is_its_list
from tests.owning import owning

Clock = Callable[[], datetime]
DAY = timedelta(days=1)
EVERYTHING = Selection(everything=True)
APPROVE = Decided(Decision.APPROVE)


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def report_of(archive: Archive, now: datetime) -> tuple[ComplianceReport, Disposition]:
    report = reports.compile_report(archive, now.date(), now)
    assert report.disposition is not None
    assert "lists" not in {check.id for check in report.red}
    return report, report.disposition


def status(report: ComplianceReport, check_id: str) -> Status:
    return next(check.status for check in report.checks if check.id == check_id)


def propose(archive: Archive, now: datetime) -> UUID:
    found = proposing.propose(archive, now).plan
    assert found is not None
    return found


def sign(archive: Archive, plan_id: UUID, clock: Clock, *names: str) -> None:
    with transaction(archive.connections) as conn:
        statement = approvals.show(conn, plan_id).statement
    assert statement is not None
    for name in names:
        armored = signatures.sign(KEYS[name], statement.encode())
        approvals.sign(archive, plan_id, armored, clock(), {Kind.DISPOSITION: reviewing.approved})


def ids(report: ComplianceReport, figure: Figure) -> set[str]:
    return {row[0] for row in report.behind(figure).rows()}


def test_a_plan_is_followed_from_due_to_certificate(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    old = capture_all(ready, [Document("SHORT", f"old {n}") for n in range(3)], clock, tmp_path / "in")
    capture_all(ready, [Document("STAGED", "staged")], clock, tmp_path / "in2")
    drafts = capture_all(ready, [Document("DRAFT", "draft")], clock, tmp_path / "in3")
    report, found = report_of(ready, clock())
    assert (found.unplanned.value, status(report, "unplanned"), found.waiting) == (5, Status.AMBER, ())

    plan_id = propose(ready, clock())
    reviewing.review(ready, plan_id, Selection(classes=("SHORT", "DRAFT")), APPROVE, clock())
    report, found = report_of(ready, clock())
    assert (found.unplanned.value, found.open.value, status(report, "plans")) == (0, 1, Status.AMBER)
    (plan,) = found.waiting
    assert (plan.plan_id, plan.state, plan.records.value, plan.signed, plan.near) == (plan_id, "review", 5, None, False)
    draft, short, staged = plan.classes
    assert (short.stage, short.undecided, short.records.value, short.actions) == ("", None, 3, ("destroy",))
    assert ids(report, short.records) == {str(record) for record in old}
    assert (staged.stage, staged.number, staged.stages) == ("owner", 1, 2)
    assert staged.undecided is not None
    assert staged.undecided.value == 1
    assert draft.unverified == ("draft",)
    assert staged.until == clock().date() + 10 * DAY
    _, later = report_of(ready, clock() + 8 * DAY)
    assert not later.waiting[0].near  # it lapses into the next stage
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    _, later = report_of(ready, clock() + 8 * DAY)
    assert later.waiting[0].near  # that stage is the last: with it the plan expires, before its own term
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())

    sign(ready, plan_id, clock, "Ruth Levi")
    report, found = report_of(ready, clock())
    (plan,) = found.waiting
    assert plan.signed is not None
    assert (plan.state, plan.signed.value, plan.needed, plan.near) == ("signing", 1, 2, False)
    assert_every_number_is_its_list(report, tmp_path / "signing")
    _, later = report_of(ready, clock() + 80 * DAY)
    assert later.waiting[0].near

    sign(ready, plan_id, clock, "Dan Cohen")
    report, found = report_of(ready, clock())
    assert (found.waiting[0].state, found.waiting[0].term) == ("approved", None)
    assert (found.not_executed.value, status(report, "not-executed")) == (0, Status.AMBER)
    report, found = report_of(ready, clock() + 2 * DAY)  # nobody executes it
    assert (found.not_executed.value, status(report, "not-executed")) == (1, Status.RED)
    with execution.alone(ready, plan_id):
        report, found = report_of(ready, clock() + 2 * DAY)
    assert (found.waiting[0].state, found.not_executed.value) == ("at work", 0)

    done = execution.execute(ready, plan_id, clock)
    report, found = report_of(ready, clock())
    assert found.waiting == ()
    assert {code: figure.value for code, figure in found.outcomes.items()} == {"destroyed": 4, "unverified": 1}
    (executed,) = found.executed
    assert (executed.plan_id, executed.certificate_id) == (plan_id, done.certificate_id)
    assert ids(report, executed.outcomes["unverified"]) == {str(drafts[0])}
    assert status(report, "not-executed") is Status.GREEN
    assert_every_number_is_its_list(report, tmp_path / "executed")
    _, later = report_of(ready, clock() + 91 * DAY)
    assert (later.executed, later.outcomes) == ((), {})


def test_an_expired_plan_is_red_until_what_was_in_it_is_decided(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", f"old {n}") for n in range(2)], clock, tmp_path / "in")
    propose(ready, clock() - 100 * DAY)
    report, found = report_of(ready, clock())
    assert (found.not_advanced.value, status(report, "plans")) == (1, Status.RED)  # nobody ended it
    reviewing.advance(ready, clock())
    report, found = report_of(ready, clock())
    assert (found.expired.value, found.undecided.value, status(report, "expired")) == (1, 2, Status.RED)
    reviewing.withdraw(ready, propose(ready, clock()), clock())  # taken back is not decided
    again = propose(ready, clock())
    reviewing.review(ready, again, EVERYTHING, APPROVE, clock())
    report, found = report_of(ready, clock())
    assert status(report, "expired") is Status.RED  # proposed is not decided
    assert_every_number_is_its_list(report, tmp_path / "reports")
    sign(ready, again, clock, "Ruth Levi", "Dan Cohen")
    report, found = report_of(ready, clock())
    assert (found.expired.value, found.undecided.value, status(report, "expired")) == (1, 0, Status.GREEN)


def test_a_destruction_that_was_broken_off_is_red_unless_somebody_is_at_it(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    first, _ = capture_all(ready, [Document("SHORT", f"old {n}") for n in range(2)], clock, tmp_path / "in")
    plan_id = propose(ready, clock())
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    sign(ready, plan_id, clock, "Ruth Levi", "Dan Cohen")
    with transaction(ready.connections) as conn:  # as an execution leaves it that dies after T1
        conn.execute("UPDATE plans SET started_at = %s", (clock(),))
        conn.execute("UPDATE records SET state = 2 WHERE record_id = %s", (first,))
    with execution.alone(ready, plan_id):
        report, found = report_of(ready, clock())
    assert (found.broken_off.value, status(report, "broken-off")) == (0, Status.GREEN)
    report, found = report_of(ready, clock())
    assert (ids(report, found.broken_off), status(report, "broken-off")) == ({str(first)}, Status.RED)
    assert found.waiting[0].state == "broken off"


def test_the_copy_for_the_eye_names_reviewers_and_no_other(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    text = SCHEDULE.replace("{name: owner, lapse: P10D}", "{name: owner, lapse: P10D, reviewers: [Noa Bar]}")
    load(ready, clock, text)
    capture_all(ready, [Document("STAGED", "staged")], clock, tmp_path / "in")
    propose(ready, clock())
    now = clock()
    for names in (True, False):
        report = reports.compile_report(ready, now.date(), now, names=names)
        paths = reports.write(report, tmp_path / str(names), ("html", "json"))
        assert ("Noa Bar" in paths["html"].read_text("utf-8")) is names
        assert "Noa Bar" not in paths["json"].read_text("utf-8")


# ---------------------------------------------------------------- findings of the engine

CEILINGS = """\
version: 1
title: With ceilings
timezone: UTC
anchors:
  house: &house {citation: House policy, verified_on: 2020-01-01, verified_by: Ruth Levi}
classes:
  - id: LAW
    title: One rule
    rules: [{id: law, trigger: received, period: P2Y, ceiling: P5Y, verified: true, authority: *house}]
  - id: TWO
    title: Two rules
    rules:
      - {id: floor, trigger: received, period: P10Y, verified: true, authority: *house}
      - {id: ceiling, trigger: received, period: P1Y, ceiling: P5Y, verified: true, authority: *house}
  - id: CASE
    title: From an event
    rules: [{id: case, trigger: "event:last_visit", period: P2Y, ceiling: P5Y, verified: true, authority: *house}]
  - id: FREE
    title: Without a ceiling
    rules: [{id: free, trigger: "event:last_visit", period: P20Y, verified: true, authority: *house}]
"""


def test_findings_are_those_of_the_engine_over_every_record(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    load(archive, clock, CEILINGS)
    case = uuid4()
    years = [date(year, 6, 1) for year in (2013, 2019, 2021, 2022, 2025)]
    documents = [Document(class_id, f"{class_id} {day}", day) for class_id in ("LAW", "TWO", "FREE") for day in years]
    made = capture_all(archive, documents, clock, tmp_path / "in")
    with transaction(archive.connections) as conn:
        conn.execute("INSERT INTO aggregations (aggregation_id, recorded_at, kind) VALUES (%s, now(), 'case')", (case,))
    filed = capture_all(
        archive,
        [
            Document(class_id, f"{class_id} {n}", date(2024, 1, 1), aggregation=case)
            for n in (1, 2)
            for class_id in ("CASE", "FREE")
        ],
        clock,
        tmp_path / "in2",
    )
    with owning(archive) as conn:
        row = conn.execute("INSERT INTO trigger_kinds (kind) VALUES ('last_visit') RETURNING ordinal").fetchone()
        assert row is not None
        conn.execute(
            "INSERT INTO trigger_events (trigger_event_id, subject_id, kind, effective, recorded_at, recorded_by) "
            "VALUES (%s, %s, %s, '2018-03-01', %s, %s)",
            (uuid4(), case, row[0], clock(), archive.agent.id),
        )
        conn.execute(
            "INSERT INTO current_triggers (subject_id, dates) VALUES (%s, array_fill(NULL::date, ARRAY[%s - 1]) || %s)",
            (case, row[0], [date(2018, 3, 1)]),
        )
        # Two of the case are dated after its last visit; a label brings its ceiling to a record of another class.
        conn.execute("UPDATE records SET document_date = '2020-01-01' WHERE record_id = ANY(%s)", (filed[2:],))
        conn.execute(
            "INSERT INTO record_labels (record_id, class_key, recorded_at) "
            "SELECT %s, class_key, %s FROM classes WHERE class_id = 'LAW'",
            (made[10], clock()),
        )
        conn.execute("UPDATE records SET special = true WHERE record_id = %s", (made[10],))
    matter = Matter("a case", "court", date(2027, 1, 1))
    holds.place(archive, Scope(records=(made[0], made[5])), Mode.STATIC, matter, clock())
    now = clock()
    report, found = report_of(archive, now)
    expected: dict[str, set[str]] = {code: set() for code in CODES}
    with transaction(archive.connections) as conn:
        schedule = policy.current(conn).schedule
        for record, facts in catalog.facts_of(conn, [*made, *filed]).items():
            for code in CODES.keys() & set(engine.decide(facts, schedule, now.date()).findings):
                expected[code].add(str(record))
    assert {code: ids(report, found.findings[code]) for code in CODES} == expected
    assert {code: len(records) for code, records in expected.items()} == {
        "KEPT-TOO-LONG": 6,
        "RESTRICTED": 2,
        "CONTRADICTION": 5,
        "TRIGGER-STALE": 2,
    }
    assert status(report, "kept-too-long") is Status.RED
    assert status(report, "restricted") is Status.AMBER
    assert_every_number_is_its_list(report, tmp_path / "reports")
