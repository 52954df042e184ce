"""What was rejected from quarantine: destroyed after thirty days, by two people, and by nobody alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from retention import capture, catalog, descriptors, holds, quarantine, reports
from retention.archive import Archive, load_key
from retention.database import transaction
from retention.disposition import execution, proposing, rejected, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.errors import NotFound, Refused, ServiceUnavailable
from retention.holds import Matter, flags
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.reports.model import Status
from tests.archive_builder import enrol, load, sign
from tests.breaking import Broken, at, breaks
from tests.deposits import Doc, batch, detain, release

Clock = Callable[[], datetime]


@pytest.fixture
def ready(archive: Archive, clock: Clock) -> Archive:
    load(archive, clock)
    enrol(archive, clock)
    return archive


def reject(archive: Archive, clock: Clock, *titles: str) -> list[UUID]:
    ids = [detain(archive, Doc(f"the text of {title}", title=title), now=clock()) for title in titles]
    for document in ids:
        quarantine.reject(archive, document, "not-a-record", clock())
    return ids


def hold(archive: Archive, now: datetime, *documents: UUID) -> holds.Placed:
    matter = Matter("Levi v. Cohen", "court order", date(2099, 1, 1))
    return holds.place(archive, Scope(records=documents), Mode.STATIC, matter, now)


def kept(archive: Archive, documents: Sequence[UUID]) -> list[tuple[bool, bool]]:
    """Of each document, whether its key and its bytes are there."""
    objects = {stored.key for stored in archive.vault.list("quarantine/")}
    found = []
    for document in documents:
        try:
            with transaction(archive.connections) as conn:
                load_key(conn, archive.safe, document)
            key = True
        except NotFound:
            key = False
        found.append((key, f"quarantine/{document}" in objects))
    return found


def events(archive: Archive, document: UUID) -> list[str]:
    with transaction(archive.connections) as conn:
        return [event["type"] for event in catalog.history(conn, archive, document)]


def test_from_the_rejection_to_nothing(ready: Archive, clock: Clock) -> None:
    one, two = reject(ready, clock, "one", "two")
    waiting = detain(ready, Doc("not decided"), now=clock())
    rejected_at = clock()
    assert kept(ready, [one, two]) == [(True, True)] * 2  # one person destroys nothing
    assert rejected.propose(ready, rejected_at + timedelta(days=29)) is None
    now = rejected_at + timedelta(days=30)
    proposal = rejected.propose(ready, now)
    assert proposal is not None and proposal.content == {"documents": [str(one), str(two)]}
    assert "destroy   2 documents that were rejected from quarantine" in (proposal.statement or "")
    assert rejected.propose(ready, now) == proposal  # one at a time
    assert sign(ready, proposal.id, now, "Ruth Levi") == "open"
    assert kept(ready, [one, two]) == [(True, True)] * 2
    assert sign(ready, proposal.id, now, "Dan Cohen") == "approved"
    assert kept(ready, [one, two, waiting]) == [(False, True), (False, True), (True, True)]
    assert hold(ready, now, one).quarantined == 0  # too late
    with transaction(ready.connections) as conn:
        for table in ("descriptions", "descriptor_lines", "findings"):
            query = f"SELECT FROM {table} WHERE subject_id = ANY(%s)"
            assert conn.execute(query.encode(), ([one, two],)).fetchone() is None, table
        remains = conn.execute("SELECT kind, count(*) FROM plan_remains WHERE plan_id = %s GROUP BY 1", (proposal.id,))
        assert dict(remains.fetchall()) == {"bucket": 1, "descriptor": 2}
        assert conn.execute("SELECT count(*) FROM sightings").fetchone() == (3,)  # not quarantined by every run anew
    assert rejected.sweep(ready, now) == (2, {})
    assert kept(ready, [one, two, waiting]) == [(False, False), (False, False), (True, True)]
    assert events(ready, one) == ["qua", "qua", "dea", "del"]
    assert rejected.sweep(ready, now) == (0, {}) and events(ready, one)[-1:] == ["del"]
    assert rejected.propose(ready, now + timedelta(days=60)) is None
    assert not [*flags.drift(ready)]
    with transaction(ready.connections) as conn:
        assert quarantine.show(conn, one).name is None
    with pytest.raises(Refused, match="it was rejected before"):
        quarantine.reject(ready, one, "not-a-record", now)


def test_a_hold_keeps_what_was_rejected(ready: Archive, clock: Clock) -> None:
    before, after, free = reject(ready, clock, "before", "after", "free")
    hold(ready, clock(), before)
    now = clock() + timedelta(days=30)
    proposal = rejected.propose(ready, now)
    assert proposal is not None and proposal.content == {"documents": [str(after), str(free)]}
    later = hold(ready, now, after)
    assert later.quarantined == 1
    flags.drain(ready, now)
    assert sign(ready, proposal.id, now) == "approved"
    assert kept(ready, [before, after, free]) == [(True, True), (True, True), (False, True)]
    assert events(ready, after)[-1] == "app"
    release(ready, later.hold_id, now)
    assert rejected.propose(ready, now) is None  # its flag still stands in the vault
    flags.drain(ready, now)
    again = rejected.propose(ready, now)
    assert again is not None and again.content == {"documents": [str(after)]}


def test_what_the_vault_keeps_is_tried_again(ready: Archive, clock: Clock) -> None:
    one, two = reject(ready, clock, "one", "two")
    now = clock() + timedelta(days=30)
    proposal = rejected.propose(ready, now)
    assert proposal is not None and sign(ready, proposal.id, now) == "approved"

    @dataclass
    class Away:
        inner: Any

        def erase(self, key: str) -> int:
            if key.endswith(str(one)):
                raise ServiceUnavailable("the vault is away")
            gone: int = self.inner.erase(key)
            return gone

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    broken: Any = Away(ready.vault)
    assert rejected.sweep(replace(ready, vault=broken), now) == (1, {one: "the vault is away"})
    assert kept(ready, [one, two]) == [(False, True), (False, False)]
    assert rejected.sweep(ready, now) == (1, {})
    assert kept(ready, [one]) == [(False, False)]


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("what", ["connections", "vault"])
def test_whatever_breaks_it_ends_as_if_nothing_had(ready: Archive, clock: Clock, what: str, persisted: bool) -> None:
    def flow(archive: Archive, now: datetime) -> None:
        if proposal := rejected.propose(archive, now):
            sign(archive, proposal.id, now)
        rejected.sweep(archive, now)

    for nth in itertools.count(1):
        (document,) = reject(ready, clock, f"document {nth}")
        writes, now = at(nth, persisted=persisted), clock() + timedelta(days=30)
        try:
            flow(replace(ready, **{what: breaks(ready, what, writes)}), now)
        except Broken:
            flow(ready, now)
        assert kept(ready, [document]) == [(False, False)]
        assert events(ready, document) == ["qua", "qua", "dea", "del"]
        if not writes.broke:
            break
    assert nth == (2 if what == "vault" else 5)  # one erasure; a proposal, two signatures, an end


def test_a_released_document_goes_with_its_record(ready: Archive, clock: Clock) -> None:
    document = detain(ready, Doc("an old letter"), now=clock())
    made, (record,) = batch(ready, (Doc("an old letter", "SHORT"),), "inbox", clock())
    capture.capture(ready, made, clock, releasing=document)
    plan_id = proposing.propose(ready, clock()).plan
    assert plan_id is not None
    reviewing.review(ready, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    sign(ready, plan_id, clock())
    assert execution.execute(ready, plan_id, clock).outcomes == {"destroyed": 1}
    assert kept(ready, [document]) == [(False, False)]
    with transaction(ready.connections) as conn:
        assert conn.execute("SELECT state, record_id, destroyed_at IS NULL FROM quarantine").fetchall() == [
            ("released", record, False)
        ]
        assert descriptors.missing(conn) == 0
    assert not [*flags.drift(ready)]  # nothing is looked for that is rightly gone
    report = reports.compile_report(ready, date(2026, 11, 22), clock())
    assert {check.id: check.status for check in report.checks}["keys"] is Status.GREEN
