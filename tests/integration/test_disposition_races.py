"""What happens beside an execution, or in the middle of it: nothing is destroyed that may not be, or described that is
gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from retention import aggregations, approvals, capture, catalog, descriptors, holds, signatures
from retention.aggregations import Aggregation
from retention.archive import Archive
from retention.database import transaction
from retention.disposition import certificate, execution, proposing, reviewing, transfers
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.effects import EFFECTS
from retention.errors import Damaged, Refused, ServiceUnavailable
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.model import RecordState
from tests.archive_builder import KEYS, Document, approved, capture_all, enrol, load
from tests.deposits import Doc, batch, detain, release
from tests.owning import owning

Clock = Callable[[], datetime]
MATTER = Matter("Levi v. Cohen", "court order", date(2099, 1, 1))


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def rows(archive: Archive, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with transaction(archive.connections) as conn:
        return conn.execute(query.encode(), parameters).fetchall()


def test_a_rebuild_describes_nobody_who_is_destroyed_meanwhile(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "old")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    with owning(ready) as conn:
        conn.execute("TRUNCATE descriptions, descriptions_complete")  # as a crash of PostgreSQL does
    running = threading.Thread(target=lambda: execution.execute(ready, plan_id, clock))
    describe = descriptors.describe

    def slowly(conn: Any, told: Sequence[tuple[UUID, int, str, Any]]) -> None:
        if record in {one[0] for one in told}:  # its line was opened: destroy it now
            running.start()
            while running.is_alive() and not waiting():
                time.sleep(0.02)
        describe(conn, told)

    def waiting() -> bool:
        return bool(
            rows(
                ready,
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
                "AND query LIKE '%%DELETE FROM subject_keys%%'",
            )
        )

    monkeypatch.setattr(descriptors, "describe", slowly)
    descriptors.rebuild(ready)
    running.join()
    assert rows(ready, "SELECT state FROM records WHERE record_id = %s", record) == [(3,)]
    assert rows(ready, "SELECT FROM descriptions WHERE subject_id = %s", record) == []


def test_a_hold_on_the_document_that_a_record_was(ready: Archive, clock: Clock) -> None:
    document = detain(ready, Doc(), now=clock())  # nobody can read it: a hold by words takes it in
    hold = holds.place(ready, Scope(text="harvest"), Mode.STATIC, MATTER, clock())
    assert hold.quarantined == 1
    made, _ = batch(ready, (Doc("of the vintage", "SHORT"),), "inbox", clock())
    capture.capture(ready, made, clock, releasing=document)
    # It is readable now, and of something else: what was held is released by two people, not by reading it.
    assert [row[0] for row in rows(ready, "SELECT hold_id FROM hold_members")] == [hold.hold_id]
    assert proposing.propose(ready, clock()).plan is None
    assert f"quarantine/{document}" in {stored.key for stored in ready.vault.list("quarantine/")}
    release(ready, hold.hold_id, clock())
    holds.flags.drain(ready, clock())
    assert execution.execute(ready, approved(ready, clock), clock).outcomes == {"destroyed": 1}
    assert [*ready.vault.list("quarantine/")] == []


def test_a_run_that_lost_its_lock_stops_before_it_marks_more(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_all(ready, [Document("SHORT", f"x{n}") for n in range(3)], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    monkeypatch.setattr(execution, "_AT_ONCE", 1)

    def cut(_: int) -> None:  # told after the first record
        with psycopg.connect(ready.settings.database_url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        time.sleep(0.1)

    with pytest.raises(ServiceUnavailable):
        execution.execute(ready, plan_id, clock, cut)
    assert sorted(rows(ready, "SELECT state, count(*) FROM records GROUP BY 1")) == [(1, 2), (3, 1)]
    assert execution.execute(ready, plan_id, clock).outcomes == {"destroyed": 3}


def test_what_another_run_has_under_way_is_not_closed_as_kept(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = capture_all(ready, [Document("SHORT", "one"), Document("SHORT", "two")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    look = execution._locked_in_vault

    def marked(*given: Any) -> set[UUID]:  # by a run that had the plan before, and still writes
        rows(ready, "UPDATE records SET state = %s WHERE record_id = %s RETURNING 1", RecordState.DESTROYING, one)
        return look(*given)

    with monkeypatch.context() as patched:
        patched.setattr(execution, "_locked_in_vault", marked)
        done = execution.execute(ready, plan_id, clock)
    assert (done.outcomes, done.certificate_id) == ({"destroyed": 1, "open": 1}, None)
    assert rows(ready, "SELECT state FROM records WHERE record_id = %s", one) == [(2,)]
    assert execution.execute(ready, plan_id, clock).outcomes == {"destroyed": 2}
    assert rows(ready, "SELECT DISTINCT state FROM records WHERE record_id = ANY(%s)", [one, two]) == [(3,)]


def test_a_transfer_is_decided_again_before_it_is_handed_out(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    held, free = capture_all(ready, [Document("HANDED", "held"), Document("HANDED", "free")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    holds.place(ready, Scope(records=(held,)), Mode.STATIC, MATTER, clock())
    done = execution.execute(ready, plan_id, clock)
    assert done.outcomes == {"held": 1, "open": 1} and done.bag is not None
    assert [path.name for path in (done.bag / "data/records").iterdir()] == [str(free)]
    holds.place(ready, Scope(records=(free,)), Mode.STATIC, MATTER, clock())
    assert transfers.bag_folder(ready, plan_id).exists()
    (other,) = capture_all(ready, [Document("HANDED", "other")], clock, tmp_path / "in2")
    plan_id = approved(ready, clock)
    holds.place(ready, Scope(records=(other,)), Mode.STATIC, MATTER, clock())
    done = execution.execute(ready, plan_id, clock)
    assert done.outcomes == {"held": 1} and done.complete  # nothing is left, so no bag was written
    assert not transfers.bag_folder(ready, plan_id).exists()


def test_the_certificate_names_what_an_emptied_case_file_leaves(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    case = ("patient", "123")
    (record,) = capture_all(ready, [Document("SHORT", "old", case=case)], clock, tmp_path / "in")
    patient = aggregations.identity(ready.safe, Aggregation(*case))
    buckets = dict(rows(ready, "SELECT subject_id, bucket_id FROM subject_keys"))
    done = execution.execute(ready, approved(ready, clock), clock)
    stated = certificate.verify(certificate.read(ready, done.plan_id))
    left = stated["remains"]["buckets of keys that lost keys"]
    assert sorted(left) == sorted(str(buckets[one]) for one in (record, patient))
    with transaction(ready.connections) as conn:
        (told,) = [e for e in catalog.history(conn, ready, patient) if e["type"] == "del"]
    assert told["detail"] == {"plan": str(done.plan_id), "aggregation": "empty"}


def test_a_proposal_of_every_kind_expires(ready: Archive, clock: Clock) -> None:
    hold = holds.place(ready, Scope(classes=("SHORT",)), Mode.DYNAMIC, MATTER, clock())
    proposal = holds.propose_release(ready, hold.hold_id, clock())
    reviewing.advance(ready, proposal.expires_at - timedelta(seconds=1))
    assert rows(ready, "SELECT state FROM proposals WHERE proposal_id = %s", proposal.id) == [("open",)]
    reviewing.advance(ready, proposal.expires_at)
    assert rows(ready, "SELECT state FROM proposals WHERE proposal_id = %s", proposal.id) == [("expired",)]


@pytest.mark.parametrize(
    "stolen",
    [
        "SELECT signature FROM signatures WHERE proposal_id = p.proposal_id AND person_id = first_signer",
        "SELECT min(signature) FROM signatures WHERE proposal_id <> p.proposal_id",
    ],
)
def test_one_person_in_the_place_of_two(ready: Archive, clock: Clock, tmp_path: Path, stolen: str) -> None:
    (record,) = capture_all(ready, [Document("SHORT", "old")], clock, tmp_path / "in")
    plan_id = approved(ready, clock)
    with owning(ready) as conn:  # by who owns the database, past the trigger that forbids it
        conn.execute("ALTER TABLE signatures DISABLE TRIGGER signatures_append_only")
        query = f"""UPDATE signatures s SET signature = ({stolen}) FROM proposals p
                     WHERE p.proposal_id = s.proposal_id AND s.proposal_id = %s AND s.person_id = p.second_signer"""
        conn.execute(query.encode(), (plan_id,))
    with pytest.raises(Damaged, match="2 signatures are needed, 1 are right"):
        execution.execute(ready, plan_id, clock)
    assert rows(ready, "SELECT state FROM records WHERE record_id = %s", record) == [(1,)]


def test_another_payload_in_the_place_of_the_one_that_is_signed(ready: Archive, clock: Clock) -> None:
    one, two = (
        holds.place(ready, Scope(classes=(name,)), Mode.DYNAMIC, MATTER, clock()).hold_id for name in ("SHORT", "LONG")
    )
    proposal = holds.propose_release(ready, one, clock())
    with owning(ready) as conn:  # by who owns the database, past the trigger that forbids it
        conn.execute("ALTER TABLE proposals DISABLE TRIGGER proposals_stay_as_signed")
        conn.execute("UPDATE proposals SET payload = %s", (json.dumps({"hold": str(two)}),))
    armored = signatures.sign(KEYS["Ruth Levi"], (proposal.statement or "").encode())
    with pytest.raises(Damaged, match="not what its statement says"):
        approvals.sign(ready, proposal.id, armored, clock(), EFFECTS)


def test_a_hold_by_a_reviewer_is_of_what_is_entered_as_held(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody ends the stage between the two: what was decided in it is open again in the next, and not held."""
    one, two = capture_all(ready, [Document("STAGED", "one"), Document("STAGED", "two")], clock, tmp_path / "in")
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    approve, hold = Decided(Decision.APPROVE), Decided(Decision.HOLD, matter=MATTER)
    reviewing.review(ready, plan_id, Selection(records=(one,)), approve, clock())
    place = holds.place

    def meanwhile(*given: Any) -> Any:
        reviewing.review(ready, plan_id, Selection(records=(two,)), approve, clock())
        return place(*given)

    with monkeypatch.context() as patched, pytest.raises(Refused, match="somebody decided in it meanwhile"):
        patched.setattr(holds, "place", meanwhile)
        reviewing.review(ready, plan_id, Selection(everything=True), hold, clock())
    assert rows(ready, "SELECT record_id FROM hold_members") == [(two,)]  # more is kept, never less
    assert rows(ready, "SELECT FROM plan_items WHERE decision = 'hold'") == []
    assert reviewing.review(ready, plan_id, Selection(everything=True), hold, clock()) == 2
    assert {row[0] for row in rows(ready, "SELECT record_id FROM hold_members")} == {one, two}
