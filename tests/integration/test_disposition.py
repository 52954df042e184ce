"""Disposition from due to certificate: what goes, what stays and why, and what nobody can make it do."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ingest import pipeline, sources
from ingest.extraction.workers import Workers
from retention import aggregations, approvals, catalog, descriptors, holds, ledger, policy, signatures
from retention.aggregations import Aggregation
from retention.approvals import Kind
from retention.archive import Archive, load_key
from retention.database import transaction
from retention.disposition import certificate, evidence, execution, plans, proposing, reviewing, transfers
from retention.disposition.execution import Executed
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.errors import Damaged, NotFound, Refused, ServiceUnavailable, UsageError
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.packages import bags
from retention.packages.check import verify_bag
from retention.verification import tables
from retention.verification.projections import PROJECTIONS
from tests.archive_builder import SCHEDULE, Document, approved, capture_all, enrol, load, sign
from tests.owning import owning

Clock = Callable[[], datetime]
EVERYTHING = Selection(everything=True)
APPROVE = Decided(Decision.APPROVE)
EFFECTS = {Kind.DISPOSITION: reviewing.approved}


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def state(archive: Archive, plan_id: UUID) -> str:
    with transaction(archive.connections) as conn:
        return plans.show(conn, plan_id).state


def states(archive: Archive) -> dict[UUID, int]:
    with transaction(archive.connections) as conn:
        return dict(conn.execute("SELECT record_id, state FROM records").fetchall())


def run(archive: Archive, plan_id: UUID, clock: Clock) -> Executed:
    return execution.execute(archive, plan_id, clock)


def text_of(archive: Archive) -> list[str]:
    """Every key of the vault."""
    return [stored.key for stored in archive.vault.list()]


def test_from_due_to_certificate(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    old = capture_all(ready, [Document("SHORT", f"old {n}") for n in range(3)], clock, tmp_path / "in")
    young = capture_all(ready, [Document("SHORT", "young", date(2026, 11, 1))], clock, tmp_path / "in2")
    plan_id = approved(ready, clock)
    with transaction(ready.connections) as conn:
        plan = plans.show(conn, plan_id)
    assert (plan.state, plan.items, plan.over_limit) == ("approved", 3, ())
    assert {s for r, s in states(ready).items()} == {1}  # nothing is gone before it is executed
    done = run(ready, plan_id, clock)
    assert done.outcomes == {"destroyed": 3} and done.failed == ()
    found = states(ready)
    assert [found[r] for r in old] == [3, 3, 3] and found[young[0]] == 1
    assert not any(str(r) in key for r in old for key in text_of(ready))
    assert any(str(young[0]) in key for key in text_of(ready))
    with transaction(ready.connections) as conn:
        for record in old:
            with pytest.raises(NotFound):
                load_key(conn, ready.safe, record)
        for table in ("descriptions", "descriptor_lines", "sightings", "findings"):
            query = f"SELECT count(*) FROM {table} WHERE subject_id = ANY(%s)"
            assert conn.execute(query.encode(), (old,)).fetchone() == (0,), table
        rows = conn.execute("SELECT record_id, outcome, rule_id, retain_until FROM tombstones ORDER BY 1").fetchall()
    assert rows == [(r, "destroyed", "short", date(2021, 1, 15)) for r in sorted(old)]
    assert done.certificate_id is not None
    assert run(ready, plan_id, clock) == done  # once; again answers what was done


def test_the_certificate_says_what_was_done_and_its_signatures_hold(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "the only one")], clock, tmp_path / "in")
    done = run(ready, approved(ready, clock), clock)
    assert done.certificate_id is not None
    content = certificate.read(ready, done.plan_id)
    stated = certificate.verify(content)
    (item,) = stated["items"]
    assert (item["record"], item["outcome"], item["rule"]) == (str(record), "destroyed", "short")
    assert item["citation"] == "House policy"
    for one in stated["signatures"]:
        key = signatures.verify(one["signature"], stated["statement"].encode())
        assert signatures.public_line(key) == one["key"]
    assert "the only one" not in json.dumps(stated)
    with pytest.raises(Exception, match="was changed"):
        certificate.verify(content.replace(b'"destroyed"', b'"kept-away"'))
    with transaction(ready.connections) as conn:
        facts = catalog.facts(conn, done.certificate_id)
        assert facts.class_ids == ("SYS-CERT",)
        assert conn.execute("SELECT 1 FROM runs WHERE state <> 'complete'").fetchone() is None


def test_nothing_without_two_signatures(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    proposed = proposing.propose(ready, clock())
    assert proposed.plan is not None
    with pytest.raises(Refused, match="it is review"):
        run(ready, proposed.plan, clock)
    with pytest.raises(Refused, match="still under review"):
        sign(ready, proposed.plan, clock())
    reviewing.review(ready, proposed.plan, EVERYTHING, APPROVE, clock())
    sign(ready, proposed.plan, clock(), "Ruth Levi")
    with pytest.raises(Refused, match="it is signing"):
        run(ready, proposed.plan, clock)
    with pytest.raises(psycopg.Error), transaction(ready.connections) as conn:
        conn.execute("UPDATE proposals SET state = 'approved', decided_at = now() WHERE kind = 'disposition'")
    assert set(states(ready).values()) == {1}


@pytest.mark.parametrize("when", ["proposed", "reviewed", "approved"])
def test_a_hold_wins_whenever_it_comes(ready: Archive, clock: Clock, tmp_path: Path, when: str) -> None:
    held, free = capture_all(ready, [Document("SHORT", "held"), Document("SHORT", "free")], clock, tmp_path / "in")

    def hold(at: str) -> None:
        if at == when:
            matter = Matter("Levi v. Cohen", "court order", date(2027, 6, 1))
            holds.place(ready, Scope(records=(held,)), Mode.STATIC, matter, clock())

    proposed = proposing.propose(ready, clock())
    assert proposed.plan is not None
    hold("proposed")
    reviewing.review(ready, proposed.plan, EVERYTHING, APPROVE, clock())
    hold("reviewed")
    sign(ready, proposed.plan, clock())
    hold("approved")
    done = run(ready, proposed.plan, clock)
    assert done.outcomes == {"destroyed": 1, "held": 1}
    assert (states(ready)[held], states(ready)[free]) == (1, 3)
    with transaction(ready.connections) as conn:
        assert descriptors.read_line(ready, conn, held).title == "held"


def test_a_schedule_that_keeps_longer_wins_over_an_approved_plan(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    load(
        ready,
        clock,
        SCHEDULE.replace("{id: short, trigger: received, period: P1Y", "{id: short, trigger: received, period: P20Y"),
    )
    assert run(ready, plan_id, clock).outcomes == {"not-due": 1}
    assert states(ready)[record] == 1


def test_what_is_proposed_for_a_later_day_is_not_done_before_it(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", "young", date(2026, 11, 1))], clock, tmp_path / "in")
    assert proposing.propose(ready, clock()).plan is None
    proposed = proposing.propose(ready, clock(), as_of=date(2028, 1, 1))
    assert proposed.plan is not None
    reviewing.review(ready, proposed.plan, EVERYTHING, APPROVE, clock())
    sign(ready, proposed.plan, clock())
    assert run(ready, proposed.plan, clock).outcomes == {"not-due": 1}


def test_an_unverified_rule_proposes_and_never_destroys(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("DRAFT", "x")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    with transaction(ready.connections) as conn:
        assert plans.show(conn, plan_id).classes[0].unverified == ("draft",)
    assert run(ready, plan_id, clock).outcomes == {"unverified": 1}


def test_two_stages_and_the_four_decisions(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    ids = capture_all(ready, [Document("STAGED", f"s{n}") for n in range(4)], clock, tmp_path / "in")
    proposed = proposing.propose(ready, clock())
    plan_id = proposed.plan
    assert plan_id is not None
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    with transaction(ready.connections) as conn:
        (of,) = plans.show(conn, plan_id).classes
    assert (of.stage, of.stages, of.undecided) == (2, ("owner", "officer"), 4)
    one, two, three, four = ids
    extend = Decided(Decision.EXTEND, "still-in-use", not_before=date(2027, 5, 1))
    relabel = Decided(Decision.RELABEL, "wrong-class", to_class="LONG")
    hold = Decided(Decision.HOLD, matter=Matter("Audit", "CFO", date(2027, 1, 1)))
    for record, decided in ((one, APPROVE), (two, extend), (three, relabel), (four, hold)):
        assert reviewing.review(ready, plan_id, Selection(records=(record,)), decided, clock()) == 1
    assert state(ready, plan_id) == "signing"
    with transaction(ready.connections) as conn:
        statement = approvals.show(conn, plan_id).statement or ""
        assert catalog.facts(conn, four).holds  # at once
        assert catalog.facts(conn, two).not_before is None  # with the signatures
    for line in ("destroy   1 records of STAGED", "extend    1", "relabel   1", "hold      1"):
        assert line in statement
    sign(ready, plan_id, clock())
    with transaction(ready.connections) as conn:
        assert catalog.facts(conn, two).not_before == date(2027, 5, 1)
        assert catalog.facts(conn, three).class_ids == ("LONG",)
    outcomes = run(ready, plan_id, clock).outcomes
    assert outcomes == {"destroyed": 1, "extended": 1, "relabelled": 1, "held": 1}
    assert proposing.propose(ready, clock()).plan is None  # the extended one waits


def test_what_a_reviewer_may_not_decide(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    short, law = capture_all(
        ready, [Document("SHORT", "a"), Document("LAW", "b", date(2015, 3, 1))], clock, tmp_path / "in"
    )
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None

    def decide(record: UUID, decided: Decided) -> int:
        return reviewing.review(ready, plan_id, Selection(records=(record,)), decided, clock())

    with pytest.raises(UsageError, match="twelve months"):
        decide(short, Decided(Decision.EXTEND, "why-not", not_before=date(2029, 1, 1)))
    with pytest.raises(UsageError, match="--reason"):
        decide(short, Decided(Decision.EXTEND, "Because Dan said so", not_before=date(2027, 1, 1)))
    with pytest.raises(Refused, match="its ceiling is 2027-03-01"):
        decide(law, Decided(Decision.EXTEND, "why-not", not_before=date(2027, 6, 1)))
    with pytest.raises(Refused, match="is regulatory"):
        decide(law, Decided(Decision.RELABEL, "wrong-class", to_class="SHORT"))
    with pytest.raises(UsageError, match="has no class"):
        decide(short, Decided(Decision.RELABEL, "wrong-class", to_class="NOPE"))
    with pytest.raises(UsageError, match="nothing of it was named"):
        decide(uuid4(), APPROVE)
    assert decide(law, Decided(Decision.RELABEL, "wrong-class", to_class="LONG")) == 1
    assert decide(short, APPROVE) == 1
    with pytest.raises(Refused, match="it is signing"):
        decide(short, APPROVE)


def test_stages_lapse_and_a_last_one_expires_the_plan(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("STAGED", "x")], clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    assert proposing.propose(ready, clock()).in_other_plans == 1  # in one open plan at most
    later = clock() + timedelta(days=11)
    assert reviewing.advance(ready, later) == ()
    with transaction(ready.connections) as conn:
        assert plans.show(conn, plan_id).classes[0].stage == 2
    assert reviewing.advance(ready, later + timedelta(days=19)) == ()
    assert reviewing.advance(ready, later + timedelta(days=22)) == (plan_id,)
    assert state(ready, plan_id) == "expired"
    again = proposing.propose(ready, clock())
    assert again.items == 1  # free again


def test_a_term_ends(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    assert reviewing.advance(ready, datetime(2027, 2, 1, tzinfo=UTC)) == ()
    assert reviewing.advance(ready, datetime(2027, 3, 1, tzinfo=UTC)) == (plan_id,)
    assert state(ready, plan_id) == "expired"
    with pytest.raises(Refused):
        sign(ready, plan_id, clock())


def test_above_a_limit_a_third_must_sign(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    load(ready, clock, SCHEDULE.replace("limit_records: 1000", "limit_records: 2"))
    capture_all(ready, [Document("SHORT", f"x{n}") for n in range(3)], clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    sign(ready, plan_id, clock())
    assert state(ready, plan_id) == "signing"
    with transaction(ready.connections) as conn:
        found = approvals.show(conn, plan_id)
        assert "3 of the 3 records of SHORT: a third person must sign" in (found.statement or "")
    sign(ready, plan_id, clock(), "Noa Bar")
    assert state(ready, plan_id) == "approved"


def test_a_percentage_counts_from_a_few_records_on(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    load(ready, clock, SCHEDULE.replace("limit_percent: 100", "limit_percent: 10"))
    documents = [Document("SHORT", f"x{n}", date(2020 if n < 3 else 2026, 11, 1)) for n in range(25)]
    capture_all(ready, documents, clock, tmp_path / "in")
    proposed = proposing.propose(ready, clock())
    assert proposed.plan is not None
    with transaction(ready.connections) as conn:
        assert plans.show(conn, proposed.plan).over_limit == ("SHORT",)  # 3 of 25 is 12 %


def test_families_go_whole(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    mail, other = capture_all(
        ready, [Document("SHORT", "mail", children=2), Document("SHORT", "other", children=1)], clock, tmp_path / "in"
    )
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    with transaction(ready.connections) as conn:
        (child,) = (
            conn.execute("SELECT min(record_id::text)::uuid FROM records WHERE parent_id = %s", (mail,)).fetchone()
            or ()
        )
    assert reviewing.review(ready, plan_id, Selection(records=(child,)), APPROVE, clock()) == 3
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    sign(ready, plan_id, clock())
    holds.place(ready, Scope(records=(child,)), Mode.STATIC, Matter("A", "B", date(2027, 1, 1)), clock())
    done = run(ready, plan_id, clock)
    assert done.outcomes == {"destroyed": 2, "held": 3}
    assert states(ready)[mail] == 1 and states(ready)[other] == 3


CASES = """\
  - id: CASE
    title: Goes with its case file
    action: destroy
    unit: aggregation
    rules: [{id: case, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: STAGED-CASE
    title: Goes with its case file, reviewed twice
    action: destroy
    unit: aggregation
    review: [{name: owner}, {name: officer}]
    rules: [{id: staged-case, trigger: received, period: P1Y, verified: true, authority: *house}]
  - id: HANDED-CASE
    title: Handed on with its case file
    action: transfer
    unit: aggregation
    rules: [{id: handed-case, trigger: received, period: P1Y, verified: true, authority: *house}]
"""


@pytest.fixture
def case_file(ready: Archive, clock: Clock) -> UUID:
    """patient:123, under a schedule by which case files go whole."""
    load(ready, clock, SCHEDULE.replace("  - id: SYS-CERT", CASES + "  - id: SYS-CERT"))
    patient = Aggregation("patient", "123")
    with transaction(ready.connections) as conn:
        ledger.append(conn, aggregations.ensure(conn, ready, [patient], clock()), clock())
    return aggregations.identity(ready.safe, patient)


def test_a_late_letter_keeps_its_case_file(ready: Archive, clock: Clock, tmp_path: Path, case_file: UUID) -> None:
    file, free = capture_all(
        ready, [Document("CASE", "file", aggregation=case_file), Document("CASE", "free")], clock, tmp_path / "in"
    )
    plan_id = approved(ready, clock)
    (late,) = capture_all(ready, [Document("CASE", "late", aggregation=case_file)], clock, tmp_path / "in2")
    assert run(ready, plan_id, clock).outcomes == {"destroyed": 1, "unit-grew": 1}
    assert [states(ready)[record] for record in (file, late, free)] == [1, 1, 3]
    assert run(ready, approved(ready, clock), clock).outcomes == {"destroyed": 2}  # together, the next time


def test_a_member_that_got_another_class_keeps_its_case_file(
    ready: Archive, clock: Clock, tmp_path: Path, case_file: UUID
) -> None:
    documents = [Document(class_id, class_id, aggregation=case_file) for class_id in ("CASE", "STAGED-CASE")]
    one, other = capture_all(ready, documents, clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    relabel = Decided(Decision.RELABEL, "wrong-class", to_class="SHORT")  # as due as it was
    assert reviewing.review(ready, plan_id, EVERYTHING, relabel, clock()) == 1  # the first has had its review
    sign(ready, plan_id, clock())
    assert run(ready, plan_id, clock).outcomes == {"relabelled": 1, "unit-kept": 1}
    assert [states(ready)[record] for record in (one, other)] == [1, 1]


@pytest.mark.parametrize("held", [False, True])
def test_a_case_file_of_which_a_part_is_handed_on(
    ready: Archive, clock: Clock, tmp_path: Path, case_file: UUID, held: bool
) -> None:
    documents = [Document(class_id, class_id, aggregation=case_file) for class_id in ("CASE", "HANDED-CASE")]
    destroyed, handed = capture_all(ready, documents, clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    if held:
        matter = Matter("A", "B", date(2027, 1, 1))
        holds.place(ready, Scope(records=(destroyed,)), Mode.STATIC, matter, clock())
    done = run(ready, plan_id, clock)
    if held:  # then nothing of it is handed on either
        assert done.outcomes == {"held": 1, "unit-not-due": 1} and done.complete
    else:
        assert done.outcomes == {"destroyed": 1, "open": 1} and done.bag is not None
        transfers.acknowledge(ready, plan_id, receipt(tmp_path / "r.json", ready, plan_id, {}), clock())
        assert run(ready, plan_id, clock).outcomes == {"destroyed": 1, "transferred": 1}
    assert [states(ready)[record] for record in (destroyed, handed)] == ([1, 1] if held else [3, 4])


def test_a_lock_that_has_not_ended_keeps_key_and_bytes(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("LOCKED", "x")], clock, tmp_path / "in")
    done = run(ready, approved(ready, clock), clock)
    assert done.outcomes == {"due-locked": 1}
    with transaction(ready.connections) as conn:
        load_key(conn, ready.safe, record)
        assert descriptors.read_line(ready, conn, record).title == "x"
        conn.execute(
            "UPDATE object_locks SET wanted_until = %s, queued_at = %s", (clock(), datetime(2020, 1, 1, tzinfo=UTC))
        )
    # the catalog believes that it has ended: the vault is asked
    assert run(ready, approved(ready, clock), clock).outcomes == {"due-locked": 1}
    with transaction(ready.connections) as conn:
        load_key(conn, ready.safe, record)


def test_notices_come_first(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("NOTICED", "x"), Document("SHORT", "y")], clock, tmp_path / "in")
    assert proposing.propose(ready, clock()).not_notified == 1
    assert proposing.announce(ready, clock()) == {"NOTICED": 1}
    assert proposing.announce(ready, clock()) == {}
    with owning(ready) as conn:
        assert conn.execute("SELECT count(*) FROM plan_items").fetchone() == (1,)
        conn.execute("UPDATE notices SET notified_at = notified_at - interval '3 months'")
    assert proposing.propose(ready, clock()).items == 1


def test_a_descriptive_tombstone_and_an_opaque_one(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("DESCRIBED", "the plan of the house"), Document("SHORT", "y")], clock, tmp_path / "in")
    run(ready, approved(ready, clock), clock)
    with owning(ready) as conn:
        rows = conn.execute("SELECT annex_id FROM tombstones WHERE annex_id IS NOT NULL").fetchall()
        assert len(rows) == 1
        assert descriptors.read_line(ready, conn, rows[0][0]).title == "the plan of the house"
        assert descriptors.missing(conn) == 0
        conn.execute("TRUNCATE descriptions, descriptions_complete")  # as a crash of PostgreSQL does
        left = descriptors.missing(conn)
    # a tombstone's annex is read where it is asked for, and stands in no description table
    rebuilt = descriptors.rebuild(ready)
    assert (rebuilt.subjects, rebuilt.failures) == (left, ())
    with transaction(ready.connections) as conn:
        assert descriptors.missing(conn) == 0
        named = conn.execute("SELECT 1 FROM descriptions WHERE title = 'the plan of the house'").fetchone()
    assert named is None


def test_a_tombstone_describes_while_descriptions_are_rebuilt(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    one, two = capture_all(
        ready, [Document("DESCRIBED", f"the plan of house {n}") for n in (1, 2)], clock, tmp_path / "in"
    )
    plan_id = approved(ready, clock)
    with owning(ready) as conn:
        conn.execute("TRUNCATE descriptions, descriptions_complete")  # as a crash of PostgreSQL does
        conn.execute("UPDATE descriptor_lines SET sha256 = sha256('') WHERE subject_id = %s", (two,))
    done = run(ready, plan_id, clock)
    assert [record for record, _ in done.failed] == [two] and done.outcomes == {"destroyed": 1, "open": 1}
    assert "cannot describe it" in done.failed[0][1]
    with transaction(ready.connections) as conn:
        ((annex,),) = conn.execute("SELECT annex_id FROM tombstones WHERE record_id = %s", (one,)).fetchall()
        said = descriptors.read_line(ready, conn, annex)
        load_key(conn, ready.safe, two)  # what cannot be described is not gone
    assert (said.title, said.name, said.place) == ("the plan of house 1", "the plan of house 1.txt", "")


@pytest.mark.parametrize("ahead", [timedelta(days=2), timedelta(days=400)])
def test_a_clock_that_runs_ahead_destroys_nothing(
    ready: Archive, clock: Clock, tmp_path: Path, ahead: timedelta
) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    with pytest.raises(Refused, match="clock says"):
        execution.execute(ready, plan_id, lambda: datetime.now(UTC) + ahead)
    with pytest.raises(Refused, match="set back"):
        execution.execute(ready, plan_id, lambda: datetime(2026, 11, 20, tzinfo=UTC))
    assert states(ready)[record] == 1


def test_two_executors_do_not_meet(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    with execution.alone(ready, plan_id), pytest.raises(Refused, match="another process"):
        run(ready, plan_id, clock)
    assert run(ready, plan_id, clock).outcomes == {"destroyed": 1}


@pytest.mark.parametrize(
    "changed",
    [
        "UPDATE plan_items SET decision = 'approve', not_before = NULL, reason = NULL WHERE decision = 'extend'",
        "INSERT INTO plan_items (plan_id, record_id, unit_id, class_key, bytes, action, rule_id, retain_until, stage, "
        "decision, decided_at, decided_by) SELECT plan_id, r.record_id, r.record_id, r.class_key, 1, 'destroy', "
        "'short', '2021-01-01', 1, 'approve', now(), gen_random_uuid() FROM plans, records r "
        "WHERE NOT EXISTS (SELECT FROM plan_items i WHERE i.record_id = r.record_id)",
    ],
)
def test_what_was_not_signed_is_not_executed(ready: Archive, clock: Clock, tmp_path: Path, changed: str) -> None:
    later, _ = capture_all(ready, [Document("SHORT", "later"), Document("SHORT", "now")], clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    capture_all(ready, [Document("SHORT", "slipped in")], clock, tmp_path / "in2")
    extend = Decided(Decision.EXTEND, "still-in-use", not_before=date(2027, 5, 1))
    reviewing.review(ready, plan_id, Selection(records=(later,)), extend, clock())
    reviewing.review(ready, plan_id, EVERYTHING, APPROVE, clock())
    sign(ready, plan_id, clock())
    with transaction(ready.connections) as conn:
        conn.execute(changed.encode())
    with pytest.raises(Damaged, match="not those that were signed"):
        run(ready, plan_id, clock)
    assert set(states(ready).values()) == {1}


def test_events_are_on_every_record_and_name_nobody(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "secret harvest")], clock, tmp_path / "in")
    run(ready, approved(ready, clock), clock)
    with transaction(ready.connections) as conn:
        types = [e["type"] for e in catalog.history(conn, ready, record)]
        entries = b"".join(bytes(row[0]) for row in conn.execute("SELECT entry FROM events"))
        size, root = ledger.head(conn)
    assert types == ["ing", "app", "app", "dea", "dea", "del"]
    assert b"secret" not in entries and b"Ruth" not in entries
    assert size > 0 and len(root) == 32


def test_under_the_schedule_of_today_too(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("SHORT", "x")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    load(ready, clock, SCHEDULE.replace("title: For tests", "title: For tests, again"))
    with transaction(ready.connections) as conn:
        assert policy.current(conn).version == 2
    assert run(ready, plan_id, clock).outcomes == {"destroyed": 1}


# ---------------------------------------------------------------- handed on


def receipt(path: Path, archive: Archive, plan_id: UUID, rejected: dict[UUID, str]) -> Path:
    bag = bags.read_bag(transfers.bag_folder(archive, plan_id))
    said = {
        "bag": bag.identifier,
        "digest": bag.digest.hex(),
        "received_at": "2026-11-23T10:00:00+02:00",
        "receiver": "State Archives",
        "accepted": [str(record) for record in bag.records if record not in rejected],
        "rejected": [{"id": str(record), "reason": why} for record, why in rejected.items()],
    }
    path.write_text(json.dumps(said))
    return path


def test_a_transfer_is_acknowledged_before_anything_goes(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    kept, gone = capture_all(ready, [Document("HANDED", "a"), Document("HANDED", "b")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    first = run(ready, plan_id, clock)
    assert first.bag is not None and verify_bag(first.bag) == () and not first.complete
    assert run(ready, plan_id, clock).bag == first.bag  # the same bag; nothing goes by running it again
    assert set(states(ready).values()) == {1}
    answer = receipt(tmp_path / "receipt.json", ready, plan_id, {kept: "unreadable here"})
    entered = transfers.acknowledge(ready, plan_id, answer, clock())
    assert (entered.accepted, entered.rejected, entered.unanswered) == ((gone,), {kept: "unreadable here"}, ())
    assert not any(transfers.bag_folder(ready, plan_id).parent.iterdir())  # what it held in clear is gone at once
    assert transfers.acknowledge(ready, plan_id, answer, clock()) == entered  # again is fine
    with pytest.raises(Refused, match="another acknowledgement"):
        answer.write_text(answer.read_text() + " ")
        transfers.acknowledge(ready, plan_id, answer, clock())
    assert set(states(ready).values()) == {1}
    done = run(ready, plan_id, clock)
    assert done.outcomes == {"transferred": 1, "not-accepted": 1} and done.complete
    assert (states(ready)[kept], states(ready)[gone]) == (1, 4)
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT outcome FROM tombstones").fetchall() == [("transferred",)]
        ((record, digest),) = conn.execute("SELECT receipt_id, acknowledgement FROM transfers").fetchall()
        assert catalog.facts(conn, record).class_ids == ("SYS-CERT",)
    content = evidence.read(ready, record)
    assert sha256(content).digest() == digest and b"State Archives" in content  # sealed in the vault, and nowhere else
    files = [path for path in ready.settings.root.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"State Archives" in path.read_bytes()]


def test_an_acknowledgement_of_another_bag_is_refused(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("HANDED", "a")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    run(ready, plan_id, clock)
    answer = receipt(tmp_path / "receipt.json", ready, plan_id, {})
    said = json.loads(answer.read_text())
    answer.write_text(json.dumps(said | {"digest": "0" * 64}))
    with pytest.raises(Refused, match="tagmanifest"):
        transfers.acknowledge(ready, plan_id, answer, clock())
    assert set(states(ready).values()) == {1}


def test_another_record_in_place_of_the_acknowledgement_destroys_nothing(
    ready: Archive, clock: Clock, tmp_path: Path
) -> None:
    (record,) = capture_all(ready, [Document("HANDED", "a")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    run(ready, plan_id, clock)
    answer = receipt(tmp_path / "r.json", ready, plan_id, {record: "damaged"})
    transfers.acknowledge(ready, plan_id, answer, clock())
    said = json.loads(answer.read_text())
    forged = json.dumps(said | {"accepted": [str(record)], "rejected": []}).encode()
    other = evidence.keep(ready, "forged", "forged", forged, clock)
    with owning(ready) as conn:
        conn.execute("UPDATE transfers SET receipt_id = %s", (other,))
    with pytest.raises(Damaged, match="not the acknowledgement"):
        run(ready, plan_id, clock)
    assert states(ready)[record] == 1


@pytest.mark.parametrize("sent", [False, True])
def test_a_transfer_that_nobody_acknowledges_is_given_up(
    ready: Archive, clock: Clock, tmp_path: Path, sent: bool
) -> None:
    documents = [Document("HANDED", "a"), Document("HANDED", "b"), Document("SHORT", "c")]
    *handed, short = capture_all(ready, documents, clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    if sent:
        assert run(ready, plan_id, clock).outcomes == {"destroyed": 1, "open": 2}
        answer = receipt(tmp_path / "late.json", ready, plan_id, {})
        with transaction(ready.connections) as conn:
            assert plans.ready(conn) == []  # nothing is left to do here
    done = execution.give_up(ready, plan_id, clock)
    assert done.outcomes == {"destroyed": 1, "transfer-not-acknowledged": 2} and done.bag is None
    assert done.certificate_id is not None
    said = {UUID(i["record"]): i["outcome"] for i in certificate.verify(certificate.read(ready, plan_id))["items"]}
    assert said == dict.fromkeys(handed, "transfer-not-acknowledged") | {short: "destroyed"}
    assert [states(ready)[record] for record in handed] == [1, 1]
    assert not transfers.bag_folder(ready, plan_id).exists()
    with transaction(ready.connections) as conn:
        last = catalog.history(conn, ready, handed[0])[-1]
        assert (last["type"], last["detail"]["kept"]) == ("app", "transfer-not-acknowledged")
    with pytest.raises(Refused, match="nothing of it waits"):
        execution.give_up(ready, plan_id, clock)
    if sent:
        with pytest.raises(Refused, match="was given up 2026-11-22"):
            transfers.acknowledge(ready, plan_id, answer, clock())
    assert proposing.propose(ready, clock()).items == 2  # with the next plan, perhaps to another archive


def test_what_was_acknowledged_is_not_given_up(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    capture_all(ready, [Document("HANDED", "a")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    run(ready, plan_id, clock)
    transfers.acknowledge(ready, plan_id, receipt(tmp_path / "r.json", ready, plan_id, {}), clock())
    with pytest.raises(Refused, match="acknowledged it 2026-11-22"):
        execution.give_up(ready, plan_id, clock)
    assert run(ready, plan_id, clock).outcomes == {"transferred": 1}


@pytest.mark.parametrize("end", ["acknowledged", "given up", "executed"])
def test_a_bag_that_cannot_be_removed(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    (record,) = capture_all(ready, [Document("HANDED", "a")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    run(ready, plan_id, clock)
    answer = receipt(tmp_path / "r.json", ready, plan_id, {})

    remove = shutil.rmtree

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if path.parent.name != "transfers":
            remove(path, ignore_errors)
        elif not ignore_errors:
            raise PermissionError(f"{path} is busy")

    def act() -> None:
        if end == "given up":
            execution.give_up(ready, plan_id, clock)
        elif end == "acknowledged":
            transfers.acknowledge(ready, plan_id, answer, clock())
        else:
            run(ready, plan_id, clock)

    if end == "executed":  # its acknowledgement was entered by somebody who could not remove it either
        with monkeypatch.context() as patched, pytest.raises(ServiceUnavailable):
            patched.setattr("shutil.rmtree", busy)
            transfers.acknowledge(ready, plan_id, answer, clock())
    with monkeypatch.context() as patched, pytest.raises(ServiceUnavailable, match="holds records in clear"):
        patched.setattr("shutil.rmtree", busy)
        act()
    with transaction(ready.connections) as conn:
        assert plans.show(conn, plan_id).certificate_id is None
        assert plans.ready(conn) == [plan_id]  # tried again
    assert states(ready)[record] == 1
    done = run(ready, plan_id, clock)
    assert done.complete and not transfers.bag_folder(ready, plan_id).exists()
    assert done.outcomes == ({"transfer-not-acknowledged": 1} if end == "given up" else {"transferred": 1})


def test_a_hold_between_bag_and_acknowledgement(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("HANDED", "a")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    run(ready, plan_id, clock)
    holds.place(ready, Scope(records=(record,)), Mode.STATIC, Matter("A", "B", date(2027, 1, 1)), clock())
    transfers.acknowledge(ready, plan_id, receipt(tmp_path / "r.json", ready, plan_id, {}), clock())
    assert run(ready, plan_id, clock).outcomes == {"held": 1}
    assert states(ready)[record] == 1


# ---------------------------------------------------------------- what stays destroyed


def test_the_same_document_is_not_admitted_again(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "letter.txt").write_text("A letter about the harvest of almonds.\n")
    source = sources.source_at(str(inbox), inbox)
    with Workers() as workers:
        past = datetime(2020, 1, 15, tzinfo=UTC)
        seconds = itertools.count()
        done = pipeline.ingest(ready, source, lambda: past + timedelta(seconds=next(seconds)), workers=workers)
        assert done.totals.admitted == 1
        with transaction(ready.connections) as conn:
            short = plans.class_key(conn, "SHORT")
            conn.execute("UPDATE records SET class_key = %s", (short,))
        assert run(ready, approved(ready, clock), clock).outcomes == {"destroyed": 1}
        (inbox / "copy.txt").write_bytes((inbox / "letter.txt").read_bytes())
        again = pipeline.ingest(ready, source, clock, workers=workers).totals
        assert (again.discovered, again.rejected, again.admitted, again.missing) == (2, 2, 0, 0)
        with transaction(ready.connections) as conn:
            codes = conn.execute("SELECT code, count(*) FROM findings GROUP BY 1").fetchall()
        assert codes == [("KNOWN-DESTROYED", 2)]
        assert pipeline.ingest(ready, source, clock, workers=workers).totals.known == 2


def test_a_version_that_was_superseded_is_known_too(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    versions = [f"A letter about the harvest, version {n}.\n" for n in (1, 2)]
    source = sources.source_at(str(inbox), inbox)
    past, seconds = datetime(2020, 1, 15, tzinfo=UTC), itertools.count()
    with Workers() as workers:
        for text in versions:
            (inbox / "letter.txt").write_text(text)
            done = pipeline.ingest(ready, source, lambda: past + timedelta(seconds=next(seconds)), workers=workers)
            assert done.totals.admitted == 1
        with transaction(ready.connections) as conn:
            assert conn.execute("SELECT count(*) FROM contents WHERE supersedes IS NOT NULL").fetchone() == (1,)
            conn.execute("UPDATE records SET class_key = %s", (plans.class_key(conn, "SHORT"),))
        assert run(ready, approved(ready, clock), clock).outcomes == {"destroyed": 2}
        for number, text in enumerate(versions):
            (inbox / f"copy {number}.txt").write_text(text)
        again = pipeline.ingest(ready, source, clock, workers=workers).totals
    assert (again.discovered, again.rejected, again.admitted) == (3, 3, 0)
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT DISTINCT code FROM findings").fetchall() == [("KNOWN-DESTROYED",)]


def test_what_comes_into_a_held_class_is_held(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "a")], clock, tmp_path / "in")
    holds.place(ready, Scope(classes=("LONG",)), Mode.DYNAMIC, Matter("A", "B", date(2027, 1, 1)), clock())
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    relabel = Decided(Decision.RELABEL, "wrong-class", to_class="LONG")
    reviewing.review(ready, plan_id, EVERYTHING, relabel, clock())
    sign(ready, plan_id, clock())
    with transaction(ready.connections) as conn:
        assert catalog.facts(conn, record).holds


def test_what_comes_into_a_case_file_as_its_last_record_goes(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ("patient", "123")
    capture_all(ready, [Document("SHORT", "old", case=case)], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    seal, looked = aggregations.seal, itertools.count()

    def sealed(*given: Any) -> aggregations.Sealed:
        found = seal(*given)
        if next(looked) == 0:  # it was there, and its key goes before the record comes
            assert not found.found
            assert run(ready, plan_id, clock).outcomes == {"destroyed": 1}
        return found

    monkeypatch.setattr(aggregations, "seal", sealed)
    (new,) = capture_all(ready, [Document("SHORT", "new", case=case)], clock, tmp_path / "in2")
    patient = aggregations.identity(ready.safe, Aggregation(*case))
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT aggregation_id FROM records WHERE record_id = %s", (new,)).fetchone() == (patient,)
        assert aggregations.names(conn, [patient]) == {patient: "patient:123"}
        assert descriptors.read_line(ready, conn, patient).name == "123"
        events = [e["type"] for e in catalog.history(conn, ready, patient)]
        tables.tell_history(conn, [])
        for one in PROJECTIONS:  # its row is the one that it had
            assert one.table != "aggregations" or [*tables.compare(conn, one)] == []
    assert events == ["cre", "del", "cre"] and next(looked) == 2
