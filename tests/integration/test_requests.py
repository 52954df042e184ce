"""Requests of persons: what is erased, what is refused and by which law, what is handed out, what is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from retention import approvals, catalog, holds, packages, policy, requests, signatures
from retention.approvals import Kind as Proposed
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.disposition import execution, proposing, reviewing, tombstones, transfers
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.errors import NotFound, Refused, UsageError
from retention.holds import Matter, flags, production
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.packages import Purpose
from retention.packages.bags import read_bag
from retention.reports import compilation
from retention.reports.model import Status
from retention.requests import answers, disclosures, register, subjects
from retention.requests.answers import Given
from retention.requests.register import Asked, Extension, Ground
from retention.requests.subjects import Finds, Subject
from tests.archive_builder import KEYS, SCHEDULE, Document, capture_all, enrol, load
from tests.deposits import Doc, deposit, file_under, release

Clock = Callable[[], datetime]
PATIENT = Asked(Subject("patient:123"), by="Noa Bar")


@pytest.fixture
def ready(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    (tmp_path / "vault").mkdir()
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as archive:
        load(archive, clock)
        yield archive


def put(archive: Archive, clock: Clock, *docs: Doc, of: str | None = "patient:123") -> list[UUID]:
    found = deposit(archive, *docs, now=clock())
    if of is not None:
        file_under(archive, of, *found)
    return found


def hold(archive: Archive, clock: Clock, *records: UUID) -> UUID:
    matter = Matter("Levi v. Acme", "court order", date(2099, 1, 1))
    return holds.place(archive, Scope(records=records), Mode.STATIC, matter, clock()).hold_id


def approve(archive: Archive, plan_id: UUID, clock: Clock) -> None:
    reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    with transaction(archive.connections) as conn:
        statement = approvals.show(conn, plan_id).statement
    assert statement is not None
    for name in ("Ruth Levi", "Dan Cohen"):
        signed = signatures.sign(KEYS[name], statement.encode())
        approvals.sign(archive, plan_id, signed, clock(), {Proposed.DISPOSITION: reviewing.approved})


def said(handled: requests.Handled) -> dict[UUID, tuple[str, str]]:
    return {answer.record_id: (answer.given.value, answer.reason) for answer in handled.answers}


def rows(archive: Archive, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with transaction(archive.connections) as conn:
        return conn.execute(query.encode(), parameters).fetchall()


def size(archive: Archive) -> object:
    return rows(archive, "SELECT size FROM ledger_head")


# ---------------------------------------------------------------- erase


def test_each_record_is_erased_restricted_or_refused_with_its_law(ready: Archive, clock: Clock) -> None:
    due, young, held, past, unclassified, draft = put(
        ready,
        clock,
        Doc("due", "SHORT"),
        Doc("young", "LONG"),
        Doc("held", "SHORT"),
        Doc("held past its ceiling", "LAW", received=date(2010, 5, 5)),
        Doc("what is it", "unclassified"),
        Doc("not verified", "DRAFT"),
    )
    (other,) = put(ready, clock, Doc("of another", "SHORT"), of="patient:124")
    hold(ready, clock, held, past)
    answered = requests.erase(ready, PATIENT, clock())
    assert said(answered) == {
        due: ("proposed", "destroy"),
        young: ("refused", "floor"),
        held: ("refused", "hold"),
        past: ("restricted", "hold-past-ceiling"),
        unclassified: ("refused", "no-rule"),
        draft: ("proposed", "destroy-unverified"),
    }
    by = {answer.record_id: answer for answer in answered.answers}
    assert (by[young].citation, by[young].until) == ("House policy; GDPR art. 17(3)(b)", date(2050, 1, 1))
    assert by[held].citation == "GDPR art. 17(3)(e)"
    assert by[past].until == date(2022, 5, 5)
    planned = {row[0] for row in rows(ready, "SELECT record_id FROM plan_items WHERE open")}
    assert planned == {due, draft} and other not in planned  # of this person alone
    assert {row[0] for row in rows(ready, "SELECT DISTINCT state FROM records")} == {1}  # two people decide
    assert rows(ready, "SELECT record_id FROM restrictions") == [(past,)]
    before = size(ready)
    again = requests.erase(ready, PATIENT, clock())
    assert (again.request.id, again.new, size(ready)) == (answered.request.id, False, before)
    assert said(again) == said(answered)


def test_a_request_that_died_after_its_plan_goes_on_with_it(
    ready: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = put(ready, clock, Doc("due", "SHORT"))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(answers, "give", dies)
        requests.erase(ready, PATIENT, clock())
    assert said(requests.erase(ready, PATIENT, clock())) == {record: ("proposed", "destroy")}
    assert len(rows(ready, "SELECT FROM plans")) == len(rows(ready, "SELECT FROM requests")) == 1


def test_what_goes_together_is_refused_together(ready: Archive, clock: Clock) -> None:
    parent, child = put(ready, clock, Doc("letter", "SHORT", children=(Doc("its annex", "LONG"),)))
    answered = {one.record_id: one for one in requests.erase(ready, PATIENT, clock()).answers}
    assert (answered[parent].reason, answered[parent].until) == ("unit", date(2050, 1, 1))
    assert (answered[child].reason, answered[child].until) == ("floor", date(2050, 1, 1))
    assert rows(ready, "SELECT FROM plan_items") == []


def test_a_held_annex_keeps_its_letter(ready: Archive, clock: Clock) -> None:
    parent, child = put(ready, clock, Doc("letter", "SHORT", children=(Doc("its annex", "SHORT"),)))
    hold(ready, clock, child)
    with transaction(ready.connections) as conn:  # a hold takes the whole family; as if it had not
        conn.execute("DELETE FROM hold_members WHERE record_id = %s", (parent,))
    assert said(requests.erase(ready, PATIENT, clock())) == {
        parent: ("refused", "unit-held"),
        child: ("refused", "hold"),
    }


def test_from_the_request_to_the_tombstone(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    enrol(ready, clock)
    (due,) = capture_all(ready, [Document("SHORT", "an old letter")], clock, tmp_path / "in")
    file_under(ready, "patient:123", due)
    (young,) = put(ready, clock, Doc("young", "LONG"))
    content = ready.safe.content(_digest("an old letter 0"))
    with transaction(ready.connections) as conn:
        assert tombstones.of_content(conn, content) == tombstones.Remains((), 1)
    answered = requests.erase(ready, PATIENT, clock())
    (plan_id,) = {one.plan_id for one in answered.answers if one.plan_id}
    with pytest.raises(Refused, match="1 records are not done yet"):
        register.close(ready, answered.request.id, clock())
    approve(ready, plan_id, clock)
    done = execution.execute(ready, plan_id, clock)
    assert done.outcomes == {"destroyed": 1}
    after = requests.erase(ready, PATIENT, clock())
    assert said(after) == {due: ("erased", "disposition"), young: ("refused", "floor")}
    closed = register.close(ready, answered.request.id, clock())
    assert closed.answered_at is not None
    assert register.close(ready, closed.id, clock()) == closed
    new = requests.erase(ready, PATIENT, clock())
    assert new.new and said(new) == {young: ("refused", "floor")}
    with transaction(ready.connections) as conn:
        aggregation = subjects.identity(ready.safe, PATIENT.subject)
        of_file = tombstones.of_content(conn, content)
        of_patient = tombstones.of_subject(conn, aggregation)
        assert of_file.tombstones == of_patient.tombstones == tombstones.of_subject(conn, due).tombstones
        assert (of_file.kept, of_patient.kept) == (0, 1)
        assert tombstones.of_subject(conn, young).tombstones == ()
    (stone,) = of_patient.tombstones
    assert (stone.record_id, stone.class_id, stone.citation, stone.retain_until) == (
        *(due, "SHORT", "House policy", date(2021, 1, 15)),
    )
    assert (stone.state, stone.plan_id, stone.certificate_id) == ("destroyed", plan_id, done.certificate_id)


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


# ---------------------------------------------------------------- access, and who got what


def test_access_hands_out_all_that_is_kept_and_says_so_once(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    held, other = put(ready, clock, Doc("held", "LONG"), Doc("a diagnosis", "SHORT", title="letter"))
    put(ready, clock, Doc("of another", "SHORT"), of="patient:124")
    hold(ready, clock, held)
    requests.restrict(ready, replace(PATIENT, ground=Ground.CLAIMS), clock())
    target = tmp_path / "bag"
    answered = requests.access(ready, PATIENT, target, "Noa Bar, daughter", clock)
    assert {given for given, _ in said(answered).values()} == {"included"}
    assert answered.bag is not None and sorted(answered.bag.records) == sorted([held, other])
    assert (target / f"data/records/{other}/letter.txt.txt").read_text() == "a diagnosis"
    assert json.loads((target / f"data/records/{other}/letter.txt.json").read_text())
    assert "Ruth Levi" not in (target / "metadata/premis.xml").read_text()  # who handled it is not told
    before = rows(ready, "SELECT convert_from(entry, 'UTF8') FROM events ORDER BY position")
    assert requests.access(ready, PATIENT, target, "Noa Bar, daughter", clock).bag is not None
    assert rows(ready, "SELECT convert_from(entry, 'UTF8') FROM events ORDER BY position") == before
    with transaction(ready.connections) as conn:
        (one,) = disclosures.accounting(conn, ready, [other], None)
    assert (one.event, one.recipient, one.purpose) == ("dis", "Noa Bar, daughter", "access")
    assert one.records == (other,) and one.exempt == "45 CFR 164.528(a)(1)(ii)"


def test_nothing_kept_is_an_answer_and_an_unknown_person_a_mistake(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    file_under(ready, "patient:123")
    answered = requests.access(ready, PATIENT, tmp_path / "bag", None, clock)
    assert answered.answers == () and answered.bag is None and not (tmp_path / "bag").exists()
    for wrong in (Subject("patient:999"), Subject("-", Finds.TEXT)):
        with pytest.raises((NotFound, UsageError)):
            requests.access(ready, Asked(wrong), tmp_path / "bag", None, clock)


def test_the_accounting_outlives_the_records(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    enrol(ready, clock)
    (record,) = put(ready, clock, Doc("a letter", "HANDED"))
    hold_id = hold(ready, clock, record)
    production.produce(ready, hold_id, tmp_path / "produced", clock)
    release(ready, hold_id, clock())
    flags.drain(ready, clock())
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    approve(ready, plan_id, clock)
    bag = execution.execute(ready, plan_id, clock).bag
    assert bag is not None
    digest = _digest_of_bag(bag)
    receipt = tmp_path / "receipt.json"
    said = {"bag": f"muniment-transfer-{plan_id}", "digest": digest, "received_at": "2026-11-22T13:00:00Z"}
    receipt.write_text(json.dumps(said | {"receiver": "State Archives", "accepted": [str(record)]}))
    transfers.acknowledge(ready, plan_id, receipt, clock())
    assert execution.execute(ready, plan_id, clock).outcomes == {"transferred": 1}
    aggregation = subjects.identity(ready.safe, PATIENT.subject)
    with transaction(ready.connections) as conn:
        assert subjects.ever(conn, aggregation) == [record]
        found = disclosures.accounting(conn, ready, [aggregation, record], disclosures.since(date(2026, 11, 22)))
        assert disclosures.accounting(conn, ready, [aggregation, record], date(2027, 1, 1)) == []
    assert [(one.event, one.purpose, one.recipient) for one in found] == [
        ("exp", "production", f"under hold {hold_id}: Levi v. Acme, court order"),
        ("ipc", "transfer", "State Archives"),
    ]
    assert all(one.records == (record,) and one.classes == ("HANDED",) and not one.exempt for one in found)
    table = disclosures.csv_of(found).splitlines()
    assert len(table) == 3 and "State Archives" in table[2] and str(record) in table[2]


def _digest_of_bag(path: Path) -> str:
    return read_bag(path).digest.hex()


def test_the_accounting_is_asked_six_years_back() -> None:
    assert disclosures.since(date(2024, 2, 29)) == date(2018, 2, 28)


# ---------------------------------------------------------------- restrict


def test_what_is_restricted_is_stored_and_nothing_else(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    enrol(ready, clock)
    theirs, transferred = put(ready, clock, Doc("almonds", "SHORT", title="harvest"), Doc("almonds", "HANDED"))
    (other,) = put(ready, clock, Doc("almonds", "SHORT"), of="patient:124")
    planned = proposing.propose(ready, clock()).plan
    assert planned is not None
    approve(ready, planned, clock)
    answered = requests.restrict(ready, replace(PATIENT, ground=Ground.ACCURACY), clock())
    assert {answer.citation for answer in answered.answers} == {"GDPR art. 18(1)(a)"}
    with transaction(ready.connections) as conn:
        assert [hit.record_id for hit in catalog.find(conn, "almonds")] == [other]
        assert catalog.restricted_hits(conn, "almonds") == 2
        assert catalog.restricted_hits(conn, "walnuts") == catalog.restricted_hits(conn, "almonds", "LONG") == 0
        shown = catalog.show(conn, ready, theirs)
    assert shown["restricted_since"] is not None and shown["class_id"] == "SHORT"
    assert "harvest" not in json.dumps(shown) and shown["name"] is None
    with pytest.raises(Refused, match="restricted"):
        packages.write_bag(
            ready, [transferred], tmp_path / "out", purpose=Purpose.TRANSFER, identifier="x", clock=clock
        )
    # decided again before anything is handed out: no bag is written of it
    assert execution.execute(ready, planned, clock).outcomes == {"restricted": 2, "destroyed": 1}
    outcomes = dict(rows(ready, "SELECT record_id, outcome FROM plan_items"))
    assert (outcomes[theirs], outcomes[other], outcomes[transferred]) == ("restricted", "destroyed", "restricted")
    left_out = proposing.propose(ready, clock())
    assert (left_out.plan, left_out.restricted) == (None, 2)
    erase = requests.erase(ready, PATIENT, clock())
    assert said(erase)[theirs] == ("waiting", "restricted")
    lifted, freed = register.lift(ready, answered.request.id, clock())
    assert freed == 2 and lifted.lifted_at is not None and lifted.answered_at is not None
    assert register.lift(ready, lifted.id, clock())[1] == 0
    with transaction(ready.connections) as conn:
        assert {hit.record_id for hit in catalog.find(conn, "almonds")} == {theirs, transferred}
        assert catalog.show(conn, ready, theirs)["title"] == "harvest"
    assert said(requests.erase(ready, PATIENT, clock()))[theirs] == ("proposed", "destroy")


def test_a_record_is_free_when_no_request_restricts_it(ready: Archive, clock: Clock) -> None:
    (record,) = put(ready, clock, Doc("almonds", "LONG", author="Noa Bar"))
    first = requests.restrict(ready, replace(PATIENT, ground=Ground.CLAIMS), clock())
    author = Asked(Subject("Noa Bar", Finds.AUTHOR), ground=Ground.OBJECTION)
    second = requests.restrict(ready, author, clock())
    for request_id, left in ((first.request.id, 1), (second.request.id, 0)):
        register.lift(ready, request_id, clock())
        with transaction(ready.connections) as conn:
            assert len(catalog.restricted(conn, [record])) == left
    with pytest.raises(Refused, match="asks to erase"):
        register.lift(ready, requests.erase(ready, PATIENT, clock()).request.id, clock())
    with pytest.raises(UsageError, match="--ground"):
        requests.restrict(ready, PATIENT, clock())


# ---------------------------------------------------------------- who is meant


def test_an_author_is_sure_only_where_the_whole_name_is(ready: Archive, clock: Clock) -> None:
    authors = (
        *("Dan  COHEN", "Dan Cohen <dan@acme.example>", '"Cohen, Dan" <Dan@acme.example>', "Ruth Levi; Dan Cohen"),
        *("Jordan Cohen", "דנה כהן", "Noa Bar"),
    )
    ids = put(ready, clock, *(Doc("x", author=one, children=(Doc("annex", author="Y"),)) for one in authors), of=None)
    own, annex = dict(zip(authors, ids[::2], strict=True)), dict(zip(authors, ids[1::2], strict=True))
    two, address, both, several, part, hebrew, _ = authors
    with transaction(ready.connections) as conn:
        for asked, sure, hits in (
            ("dan cohen", {two, address, several}, {part}),
            ("Dan@acme.example", {address, both}, set[str]()),
            ("Dan", set[str](), {two, address, both, several, part}),
            ("דנה כהן", {hebrew}, set[str]()),
            ("Nobody", set[str](), set[str]()),
        ):
            found = subjects.find(conn, ready.safe, subjects.subject(asked, Finds.AUTHOR))
            assert set(found.sure) == {of[one] for one in sure for of in (own, annex)}, asked
            assert set(found.hits) == {own[one] for one in hits}, asked


def test_words_prove_nothing_until_somebody_looked(ready: Archive, clock: Clock) -> None:
    one, two, scan = put(
        ready,
        clock,
        Doc("the case of Noa Bar", "SHORT"),
        Doc("a bar called noa", "SHORT"),
        Doc("", "SHORT", codes=("SCANNED",)),
        of=None,
    )
    asked = Asked(subjects.subject("noa bar", Finds.TEXT))
    answered = requests.erase(ready, asked, clock())
    assert said(answered) == {one: ("check", "hit"), two: ("check", "hit")} and answered.unsearched == 1
    with pytest.raises(Refused, match="2 hits are to be checked"):
        register.close(ready, answered.request.id, clock())
    with pytest.raises(UsageError, match="found none"):
        requests.check(ready, answered.request.id, [scan], [], clock())
    checked = requests.check(ready, answered.request.id, [one], [two], clock())
    assert said(checked) == {one: ("proposed", "destroy"), two: ("not-about", "looked-at")}
    assert said(requests.erase(ready, asked, clock())) == said(checked)
    (item,) = rows(ready, "SELECT record_id FROM plan_items")
    assert item == (one,)


# ---------------------------------------------------------------- the clock


def test_an_answer_is_due_in_a_month_and_once_in_three(ready: Archive, clock: Clock) -> None:
    file_under(ready, "patient:123")
    with pytest.raises(UsageError, match="expected today"):
        requests.erase(ready, replace(PATIENT, received=date(2026, 11, 23)), clock())
    request = requests.erase(ready, replace(PATIENT, received=date(2026, 10, 31)), clock()).request
    assert request.due_on == date(2026, 11, 30)
    extended = register.extend(ready, request.id, Extension.COMPLEXITY, clock())
    assert extended.due_on == date(2027, 1, 31)
    with pytest.raises(Refused, match="once"):
        register.extend(ready, request.id, Extension.NUMBER, clock())
    late = requests.restrict(
        ready, replace(PATIENT, received=date(2026, 10, 21), ground=Ground.CLAIMS), clock()
    ).request
    with pytest.raises(Refused, match="its month ended 2026-11-21"):
        register.extend(ready, late.id, Extension.NUMBER, clock())


def test_an_overdue_answer_is_red(ready: Archive, clock: Clock) -> None:
    file_under(ready, "patient:123")

    def status() -> Status:
        report = compilation.compile_report(ready, date(2026, 11, 22), clock())
        return next(check.status for check in report.checks if check.id == "requests")

    assert status() is Status.GREEN
    on_time = requests.erase(ready, replace(PATIENT, received=date(2026, 10, 22)), clock()).request
    assert (on_time.due_on, status()) == (date(2026, 11, 22), Status.AMBER)
    late = requests.restrict(
        ready, replace(PATIENT, received=date(2026, 10, 21), ground=Ground.CLAIMS), clock()
    ).request
    assert status() is Status.RED
    register.close(ready, late.id, clock())
    assert status() is Status.AMBER


# ---------------------------------------------------------------- residue, recipients


def test_who_asked_and_about_whom_is_sealed(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    put(ready, clock, Doc("x", "LONG"))
    asked = Asked(Subject("patient:123"), by="Noa Bar", ground=Ground.CLAIMS)
    request = requests.restrict(ready, asked, clock()).request
    requests.access(ready, asked, tmp_path / "bag", "Lawyer Gold", clock)
    control = [
        *rows(ready, "SELECT convert_from(entry, 'UTF8') FROM events"),
        *rows(ready, "SELECT q::text FROM requests q"),
        *rows(ready, "SELECT a::text FROM request_answers a"),
        *rows(ready, "SELECT p::text FROM pseudonyms p"),
    ]
    assert not any(name in str(row) for row in control for name in ("123:", "patient:123", "Noa", "Gold"))
    with transaction(ready.connections) as conn:
        assert register.said(ready, conn, request.id) == (Subject("patient:123"), "Noa Bar")


def test_those_who_have_the_data_are_named(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    text = SCHEDULE.replace(
        "    title: Kept long\n", "    title: Kept long\n    personal_data: {recipients: [Health fund]}\n"
    )
    policy.load(ready, text, "test.yaml", clock())
    (record,) = put(ready, clock, Doc("x", "LONG"))
    hold_id = hold(ready, clock, record)
    production.produce(ready, hold_id, tmp_path / "produced", clock)
    told = requests.erase(ready, PATIENT, clock()).recipients
    assert told.of_classes == ("Health fund",)
    assert told.disclosed_to == (f"under hold {hold_id}: Levi v. Acme, court order",)


def test_rule_ten_restricts_until_the_hold_ends(ready: Archive, clock: Clock) -> None:
    (record,) = put(ready, clock, Doc("x", "LAW", received=date(2010, 5, 5)))
    hold_id = hold(ready, clock, record)
    request = requests.erase(ready, PATIENT, clock()).request
    release(ready, hold_id, clock())
    after = requests.erase(ready, PATIENT, clock())
    assert said(after) == {record: ("proposed", "destroy")}  # its own restriction is no obstacle
    with transaction(ready.connections) as conn:
        assert answers.restricted(conn, request.id) == {record}
    assert {one.given for one in after.answers} == {Given.PROPOSED}
