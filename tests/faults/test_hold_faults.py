"""Whatever breaks while a hold is placed, released or mirrored: run it again, and it is as if nothing had broken.

Each external write is broken twice: failed and not persisted; failed but persisted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from retention import approvals, holds, signatures
from retention.approvals import Proposal
from retention.archive import Archive
from retention.database import transaction
from retention.effects import EFFECTS
from retention.errors import ServiceUnavailable
from retention.holds import Matter, Placed, register
from retention.holds import flags as hold_flags
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.vault.base import Stored
from tests.archive_builder import KEYS, enrol
from tests.breaking import BreakingVault, Broken, at, breaking
from tests.deposits import Doc, deposit, release, released


def utc() -> datetime:
    return datetime.now(UTC)


def place(archive: Archive, name: str) -> Placed:
    matter = Matter(name, "court", date(2099, 1, 1))
    return holds.place(archive, Scope(text="held"), Mode.DYNAMIC, matter, utc())


def rows(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All that holds write."""
    tables = ("holds", "hold_members", "hold_members_released", "hold_quarantined", "hold_flags", "subject_keys",
              "descriptors", "descriptor_lines", "events", "event_subjects", "ledger_head")  # fmt: skip
    with transaction(archive.connections) as conn:
        return {t: conn.execute(f"SELECT * FROM {t} ORDER BY 1, 2".encode()).fetchall() for t in tables}


def flags(archive: Archive) -> dict[UUID, bool]:
    """The flag of each object as the vault has it."""
    with transaction(archive.connections) as conn:
        found = conn.execute("SELECT record_id, sealed_sha256, version FROM contents").fetchall()
    return {row[0]: archive.vault.stat(f"records/{row[0]}/{row[1].hex()}", row[2]).hold for row in found}


PLACING = [
    "retention.descriptors.store",
    "retention.holds._insert",
    "retention.holds.store_keys",
    "retention.descriptors.insert",
    "retention.descriptors.describe",
    "retention.holds._take_in",
    "retention.holds._take_in_quarantined",
    "retention.holds.flags.want",
    "retention.ledger.append",
]
RELEASING = ["retention.holds.flags.want", "retention.ledger.append"]


@pytest.mark.parametrize("done", [False, True])
def test_placing_and_releasing_broken_at_any_write(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    held, _ = deposit(archive, Doc("to be held"), Doc("free"))
    for step in PLACING:
        before = rows(archive)
        with breaking(monkeypatch, step, done):
            place(archive, step)
        assert rows(archive) == before, step
        placed = place(archive, step)
        assert (placed.new, placed.members) == (True, 1)
        after = rows(archive)
        assert place(archive, step) == replace(placed, new=False, added=0)
        assert rows(archive) == after
    with transaction(archive.connections) as conn:
        standing = register.listed(conn)
    assert len(standing) == len(PLACING)
    proposal = holds.propose_release(archive, standing[0].hold_id, utc())
    for step in RELEASING:
        before = rows(archive)
        with breaking(monkeypatch, step, done):
            released(archive, proposal)
        assert rows(archive) == before, step
    for hold in standing:
        release(archive, hold.hold_id)
    assert rows(archive)["hold_members"] == []
    hold_flags.drain(archive, utc())
    assert not flags(archive)[held]


@pytest.mark.parametrize("action", ["place", "propose", "sign"])
def test_a_commit_that_was_done_but_not_heard_of(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    deposit(archive, Doc("to be held"))
    enrol(archive, utc)

    def sign(proposal: Proposal, name: str) -> None:
        armored = signatures.sign(KEYS[name], (proposal.statement or "").encode())
        approvals.sign(archive, proposal.id, armored, utc(), EFFECTS)

    def act() -> None:
        match action:
            case "place":
                place(archive, "one")
            case "propose":
                holds.propose_release(archive, placed.hold_id, utc())
            case _:
                sign(proposal, "Dan Cohen")

    if action != "place":
        placed = place(archive, "one")
    if action == "sign":
        proposal = holds.propose_release(archive, placed.hold_id, utc())
        sign(proposal, "Ruth Levi")

    @contextmanager
    def lossy(connections: Any) -> Iterator[Any]:
        with transaction(connections) as conn:
            yield conn
            wrote = conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() != (None,)
        if wrote:
            raise ServiceUnavailable("the connection was lost after the commit")

    with monkeypatch.context() as patched:
        patched.setattr(holds, "transaction", lossy)
        patched.setattr(approvals, "transaction", lossy)
        with pytest.raises(ServiceUnavailable):
            act()
    before = rows(archive)
    assert len(before["hold_members"]) == (action != "sign")
    act()
    assert rows(archive) == before


@pytest.mark.parametrize("persisted", [False, True])
def test_a_put_of_the_sealed_line_that_breaks(archive: Archive, persisted: bool) -> None:
    deposit(archive, Doc("to be held"))
    before = rows(archive)
    vault: Any = BreakingVault(archive.vault, at(1, persisted=persisted), ("put",))
    with pytest.raises(Broken):
        place(replace(archive, vault=vault), "one")
    assert rows(archive) == before
    placed = place(archive, "one")
    assert placed.members == 1
    with transaction(archive.connections) as conn:
        assert register.show(conn, archive, placed.hold_id)["matter"] == "one"


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("on", [True, False])
def test_one_flag_that_fails_stops_no_other_and_is_set_by_the_next_pass(
    archive: Archive, persisted: bool, on: bool
) -> None:
    records = deposit(archive, *(Doc(f"to be held {n}") for n in range(3)))
    placed = place(archive, "one")
    if not on:
        hold_flags.drain(archive, utc())
        release(archive, placed.hold_id)
    one_by_one = replace(archive, settings=replace(archive.settings, vault_threads=1))
    writes = at(2, persisted=persisted, error=lambda: ServiceUnavailable("the vault went away"))
    away: Any = BreakingVault(archive.vault, writes, ("hold",))
    drained = hold_flags.drain(replace(one_by_one, vault=away), utc())
    assert (drained.set, drained.failed, drained.waiting, writes.calls) == (2, 1, 1, 3)
    assert drained.problem == "the vault went away"
    drained = hold_flags.drain(archive, utc())
    assert (drained.set, drained.failed, drained.waiting) == (1, 0, 0)
    assert flags(archive) == dict.fromkeys(records, on)
    assert [*hold_flags.drift(archive)] == []


def test_a_flag_that_was_set_unheard_of_is_lifted_by_the_release(archive: Archive) -> None:
    """The process dies with the flag in the vault and not in the catalog, and the hold is released before a retry."""
    (record,) = deposit(archive, Doc("to be held"))
    placed = place(archive, "one")
    dying: Any = BreakingVault(archive.vault, at(1, persisted=True), ("hold",))
    with pytest.raises(Broken):
        hold_flags.drain(replace(archive, vault=dying), utc())
    assert flags(archive) == {record: True}
    release(archive, placed.hold_id)
    hold_flags.drain(archive, utc())
    assert flags(archive) == {record: False}


def test_a_process_that_dies_in_mid_drain_is_made_good(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    records = deposit(archive, *(Doc(f"to be held {n}") for n in range(5)))
    place(archive, "one")
    monkeypatch.setattr(hold_flags, "_AT_ONCE", 2)
    dying: Any = BreakingVault(archive.vault, at(4), ("hold",))
    with pytest.raises(Broken):
        hold_flags.drain(replace(archive, vault=dying), utc())
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT count(*) FROM hold_flags WHERE actual").fetchone() == (2,)
    assert hold_flags.drain(archive, utc()).set == 3
    assert flags(archive) == dict.fromkeys(records, True)
    assert hold_flags.drain(archive, utc()).set == 0


def test_a_vault_that_fails_a_whole_batch_is_left_alone(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit(archive, *(Doc(f"to be held {n}") for n in range(5)))
    place(archive, "one")
    monkeypatch.setattr(hold_flags, "_AT_ONCE", 2)
    writes = at(*range(1, 6), error=lambda: ServiceUnavailable("away"))
    away: Any = BreakingVault(archive.vault, writes, ("hold",))
    drained = hold_flags.drain(replace(archive, vault=away), utc())
    assert (drained.set, drained.failed, drained.waiting, writes.calls) == (0, 2, 5, 2)


def test_a_change_of_holds_while_the_vault_is_asked_is_not_lost(archive: Archive) -> None:
    (record,) = deposit(archive, Doc("to be held"))
    placed = place(archive, "one")

    class Meanwhile(BreakingVault):
        def hold(self, key: str, version: str, on: bool) -> Stored:
            stored = super().hold(key, version, on)
            if on:
                release(archive, placed.hold_id)  # no row is locked meanwhile
            return stored

    slow: Any = Meanwhile(archive.vault, at())
    drained = hold_flags.drain(replace(archive, vault=slow), utc())
    assert drained.waiting == 1
    hold_flags.drain(archive, utc())
    assert flags(archive) == {record: False}
