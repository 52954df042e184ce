"""Whatever breaks while a plan is made, signed or executed: run it again, and it ends as if nothing had broken.

Every transaction is broken before and after its commit, every write to the vault before and after it persisted.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from retention import catalog, holds, ledger, merkle
from retention.archive import Archive
from retention.database import transaction
from retention.disposition import certificate, execution, plans, proposing, reviewing, transfers
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.errors import MunimentError, ServiceUnavailable
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.packages import bags
from retention.verification import decisions, tables
from tests.archive_builder import Document, approved, capture_all, enrol, load, sign
from tests.breaking import BreakingVault, Broken, at, breaks

Clock = Callable[[], datetime]


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def flow(archive: Archive, clock: Clock) -> UUID | None:
    """What the people do, and do again after a crash: look where it stands, and go on."""
    with transaction(archive.connections) as conn:
        waiting = [p for p in plans.listed(conn) if p.state in ("review", "signing", "approved", "executing")]
    plan_id = waiting[0].id if waiting else proposing.propose(archive, clock()).plan
    if plan_id is None:
        return None
    if state(archive, plan_id) == "review":
        reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    if state(archive, plan_id) == "signing":
        sign(archive, plan_id, clock())
    execution.execute(archive, plan_id, clock)
    return plan_id


def state(archive: Archive, plan_id: UUID) -> str:
    with transaction(archive.connections) as conn:
        return plans.show(conn, plan_id).state


def assert_destroyed(archive: Archive, ids: list[UUID]) -> None:
    asked = (ids,)
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT state, count(*) FROM records WHERE record_id = ANY(%s) GROUP BY 1", asked
        ).fetchall()
        assert rows == [(3, len(ids))]
        for table in ("subject_keys", "descriptions", "descriptor_lines", "sightings", "findings"):
            query = f"SELECT count(*) FROM {table} WHERE subject_id = ANY(%s)"
            assert conn.execute(query.encode(), asked).fetchone() == (0,), table
        assert conn.execute("SELECT count(*) FROM tombstones WHERE record_id = ANY(%s)", asked).fetchone() == (
            len(ids),
        )
        for code, times in (("dea", 2), ("del", 1)):  # marked, and without its key
            told = conn.execute(
                "SELECT count(*) FROM event_subjects JOIN events USING (position) "
                "WHERE type = %s AND subject_id = ANY(%s)",
                (code, ids),
            ).fetchone()
            assert told == (times * len(ids),), code
        rows = conn.execute(
            "SELECT DISTINCT p.certificate_id, p.plan_id FROM plan_items i JOIN plans p USING (plan_id) "
            "WHERE record_id = ANY(%s) AND outcome = 'destroyed'",
            asked,
        ).fetchall()
        ((issued, plan_id),) = rows
        assert issued is not None
        entries = conn.execute("SELECT position, entry FROM events ORDER BY position").fetchall()
        assert [row[0] for row in entries] == [*range(len(entries))]
        size, frontier = merkle.append(0, [], (merkle.leaf_hash(row[1]) for row in entries))
        assert ledger.head(conn) == (size, merkle.root(frontier))
        tables.tell_history(conn, [])
        assert [str(found) for one in decisions.PROJECTIONS for found in tables.compare(conn, one)] == []
    stated = certificate.verify(certificate.read(archive, plan_id))
    assert {item["record"] for item in stated["items"]} >= {str(record) for record in ids}
    assert not [stored.key for stored in archive.vault.list("records/") if UUID(stored.key.split("/")[1]) in ids]


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("what", ["connections", "vault"])
def test_every_write_from_plan_to_certificate(
    ready: Archive, clock: Clock, tmp_path: Path, what: str, persisted: bool
) -> None:
    for nth in itertools.count(1):
        documents = [Document("SHORT", f"{nth} {n}", children=n % 2) for n in range(3)]
        parents = capture_all(ready, documents, clock, tmp_path / f"in{nth}")
        with transaction(ready.connections) as conn:
            rows = conn.execute(
                "SELECT record_id FROM records WHERE record_id = ANY(%(p)s) OR parent_id = ANY(%(p)s)", {"p": parents}
            )
            ids = [row[0] for row in rows]
        writes = at(nth, persisted=persisted)
        try:
            flow(replace(ready, **{what: breaks(ready, what, writes)}), clock)
        except Broken:
            again(flow, ready, clock)
        assert_destroyed(ready, ids)
        if not writes.broke:
            break
    assert nth > (4 if what == "vault" else 10)


def again(call: Callable[..., Any], *given: Any) -> None:
    """Run it again after it broke: PostgreSQL may take a moment to notice that the session with the lock is gone."""
    until = time.monotonic() + 30
    while True:
        try:
            call(*given)
            return
        except execution.Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def hand_on(archive: Archive, plan_id: UUID, clock: Clock, end: str, receipt: Path) -> None:
    """What the people do with a transfer, and do again after a crash: look whether it waits, and go on."""
    done = execution.execute(archive, plan_id, clock)
    if done.bag is None:
        return
    if end == "given up":
        execution.give_up(archive, plan_id, clock)
        return
    bag = bags.read_bag(done.bag)
    said = {"bag": bag.identifier, "digest": bag.digest.hex(), "received_at": "2026-11-23T10:00:00Z"}
    receipt.write_text(json.dumps(said | {"receiver": "State Archives", "accepted": [*map(str, bag.records)]}))
    transfers.acknowledge(archive, plan_id, receipt, clock())
    execution.execute(archive, plan_id, clock)


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize(
    ("end", "what"), [("acknowledged", "connections"), ("acknowledged", "vault"), ("given up", "connections")]
)
def test_every_write_of_a_transfer(
    ready: Archive, clock: Clock, tmp_path: Path, what: str, persisted: bool, end: str
) -> None:
    outcome, state = ("transferred", 4) if end == "acknowledged" else ("transfer-not-acknowledged", 1)
    for nth in itertools.count(1):
        (record,) = capture_all(ready, [Document("HANDED", f"letter {nth}")], clock, tmp_path / f"in{nth}")
        plan_id = approved(ready, clock, [record])
        writes = at(nth, persisted=persisted)
        receipt = tmp_path / f"receipt {nth}"
        try:
            hand_on(replace(ready, **{what: breaks(ready, what, writes)}), plan_id, clock, end, receipt)
        except Broken:
            again(hand_on, ready, plan_id, clock, end, receipt)
        stated = certificate.verify(certificate.read(ready, plan_id))
        assert [(item["record"], item["outcome"]) for item in stated["items"]] == [(str(record), outcome)]
        assert not transfers.bag_folder(ready, plan_id).exists()
        with transaction(ready.connections) as conn:
            assert conn.execute("SELECT state FROM records WHERE record_id = %s", (record,)).fetchone() == (state,)
            handed = [e["type"] for e in catalog.history(conn, ready, record)].count("ipc")
            told = [e["type"] for e in catalog.history(conn, ready, plan_id)].count("tra")
            assert (handed, told) == (1, 1 if end == "acknowledged" else 0)
            assert plans.ready(conn) == []
        if not writes.broke:
            break
    with transaction(ready.connections) as conn:  # a certificate for each plan, and an answer of each receiver
        kept = conn.execute("SELECT count(*) FROM records JOIN classes USING (class_key) WHERE class_id = 'SYS-CERT'")
        assert kept.fetchone() == (nth * (2 if end == "acknowledged" else 1),)
    assert nth > (3 if what == "vault" else 6)


def test_a_vault_that_fails_on_one_record_stops_no_other(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    ids = capture_all(ready, [Document("SHORT", f"x{n}") for n in range(4)], clock, tmp_path / "in")

    class Failing(BreakingVault):
        def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
            away = ServiceUnavailable("the vault is away")
            told = self.inner.erase_many([one for one in objects if str(ids[1]) not in one[0]])
            assert told == [None] * (len(objects) - 1)
            return [away if str(ids[1]) in key else None for key, _ in objects]

    broken: Any = Failing(ready.vault, at())
    plan_id = flow(replace(ready, vault=broken), clock)
    assert plan_id is not None
    found = execution.answer(ready, plan_id)
    assert (found.outcomes, found.certificate_id) == ({"destroyed": 3, "open": 1}, None)
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT state FROM records WHERE record_id = %s", (ids[1],)).fetchone() == (2,)
    again = execution.execute(replace(ready, vault=broken), plan_id, clock)
    assert [record for record, _ in again.failed] == [ids[1]]  # red, with the list, as long as it fails
    assert execution.execute(ready, plan_id, clock).outcomes == {"destroyed": 4}
    assert_destroyed(ready, ids)


def test_a_hold_in_the_middle_of_execution(
    ready: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = capture_all(ready, [Document("SHORT", f"x{n}") for n in range(4)], clock, tmp_path / "in")
    monkeypatch.setattr(execution, "_AT_ONCE", 2)
    told: list[holds.Placed] = []

    class Holding(BreakingVault):
        def erase_many(self, objects: Sequence[tuple[str, str]]) -> Sequence[MunimentError | None]:
            if not told:
                matter = Matter("Levi v. Cohen", "court order", date(2027, 6, 1))
                told.append(holds.place(ready, Scope(records=tuple(ids)), Mode.STATIC, matter, clock()))
            return super().erase_many(objects)

    broken: Any = Holding(ready.vault, at())
    plan_id = flow(replace(ready, vault=broken), clock)
    assert plan_id is not None
    assert execution.answer(ready, plan_id).outcomes == {"destroyed": 2, "held": 2}
    with transaction(ready.connections) as conn:
        rows = conn.execute("SELECT record_id FROM records WHERE state = 3").fetchall()
    assert {row[0] for row in rows} & set(ids) == set(told[0].too_late)
