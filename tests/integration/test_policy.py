"""Loading a schedule: versions stay, a regulatory class is not shortened, and what needs two people is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from retention import approvals, policy, signatures
from retention.archive import Archive
from retention.database import transaction
from retention.effects import EFFECTS
from retention.errors import Refused
from retention.schedule import ScheduleError, load
from tests.archive_builder import KEYS, Document, capture_all, enrol

FILE = """version: 1
title: T
timezone: UTC
classes:
  - id: REG
    title: Ledgers
    regulatory: true
    rules: [{id: reg, trigger: received, period: P6Y, authority: {citation: L}}]
  - id: FREE
    title: Letters
    rules: [{id: free, trigger: received, period: P6Y, authority: {citation: L}}]
"""
Clock = Callable[[], datetime]


def versions(archive: Archive) -> list[tuple[int, str]]:
    with transaction(archive.connections) as conn:
        return conn.execute("SELECT version, document FROM schedule_versions ORDER BY 1").fetchall()


def test_a_regulatory_class_is_not_shortened_and_nothing_is_stored(archive: Archive, clock: Clock) -> None:
    first = policy.load(archive, FILE, "plan.yaml", clock())
    for name, text in (
        ("shorter", FILE.replace("id: reg, trigger: received, period: P6Y", "id: reg, trigger: received, period: P5Y")),
        ("trigger", FILE.replace("id: reg, trigger: received", "id: reg, trigger: modified")),
        ("ordinary", FILE.replace("    regulatory: true\n", "")),
    ):
        with pytest.raises(Refused) as caught:
            policy.load(archive, text, f"{name}.yaml", clock())
        assert str(caught.value).startswith(f"refusing to load {name}.yaml: it would shorten what is regulatory")
        assert "class REG" in str(caught.value)
        assert caught.value.exit_code == 3
    assert versions(archive) == [(first.version, FILE)]


def test_longer_is_loaded_and_the_past_stays(archive: Archive, clock: Clock) -> None:
    first = policy.load(archive, FILE, "plan.yaml", clock())
    longer = FILE.replace("id: reg, trigger: received, period: P6Y", "id: reg, trigger: received, period: P7Y")
    second = policy.load(archive, longer, "plan.yaml", clock())
    assert (first.new, second.new, second.version > first.version) == (True, True, True)
    assert not policy.load(archive, longer, "plan.yaml", clock()).new
    with transaction(archive.connections) as conn:
        assert policy.of_version(conn, first.version).schedule == first.schedule
        assert policy.current(conn).schedule == second.schedule
    assert [text for _, text in versions(archive)] == [FILE, longer]
    with pytest.raises(ScheduleError, match="line|:1:"):
        policy.load(archive, "x", "bad.yaml", clock())


def test_what_needs_two_people_is_named(archive: Archive, clock: Clock) -> None:
    shorter = load(FILE.replace("id: free, trigger: received, period: P6Y", "id: free, trigger: received, period: P5Y"))
    added = load(FILE + FILE[FILE.index("  - id: FREE") :].replace("FREE", "NEW").replace("free", "new"))
    with transaction(archive.connections) as conn:
        assert policy.advances(conn, shorter, clock()) == ()  # nothing is in force
    policy.load(archive, FILE, "plan.yaml", clock())
    with transaction(archive.connections) as conn:
        assert policy.advances(conn, load(FILE), clock()) == ()
        (one,) = policy.advances(conn, shorter, clock())
        assert (one.class_id, one.rule_id) == ("FREE", "free")
        assert policy.advances(conn, added, clock()) == ()  # no record was ever in it
        conn.execute("INSERT INTO classes (class_id) VALUES ('NEW')")
        (one,) = policy.advances(conn, added, clock())
        assert (one.class_id, one.reason) == ("NEW", "the class is new: what is in it was kept")


SHORTER = FILE.replace("id: free, trigger: received, period: P6Y", "id: free, trigger: received, period: P5Y")


def test_what_is_due_earlier_needs_two_people(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    policy.load(archive, FILE, "plan.yaml", clock())
    enrol(archive, clock)
    capture_all(archive, [Document("FREE", "x")], clock, tmp_path / "in")
    with pytest.raises(Refused, match=r"refusing to load plan\.yaml alone[^$]*class FREE, rule free"):
        policy.load(archive, SHORTER, "plan.yaml", clock())
    assert len(versions(archive)) == 1
    waiting = policy.propose(archive, SHORTER, "plan.yaml", clock())
    assert policy.propose(archive, SHORTER, "plan.yaml", clock()).id == waiting.id  # the same, not another
    assert policy.propose(archive, SHORTER, "plan.yaml", waiting.expires_at).id != waiting.id  # its term is over
    assert "class FREE, rule free" in (waiting.statement or "")
    for name, count in (("Ruth Levi", 1), ("Ruth Levi", 1), ("Dan Cohen", 2)):
        armored = signatures.sign(KEYS[name], (waiting.statement or "").encode())
        approvals.sign(archive, waiting.id, armored, clock(), EFFECTS)
        assert len(versions(archive)) == count
    assert versions(archive)[-1][1] == SHORTER


@pytest.mark.parametrize("filled", [False, True])
def test_whatever_is_kept_today_an_earlier_date_needs_two_people(
    archive: Archive, clock: Clock, tmp_path: Path, filled: bool
) -> None:
    """Nothing is in the class, or what is in it would be due in five years instead of six: one person loads neither."""
    policy.load(archive, FILE, "plan.yaml", clock())
    enrol(archive, clock)
    if filled:
        capture_all(archive, [Document("FREE", "x", clock().date())], clock, tmp_path / "in")
    with pytest.raises(Refused, match="refusing to load"):
        policy.load(archive, SHORTER, "plan.yaml", clock())
    assert policy.propose(archive, SHORTER, "plan.yaml", clock()).state == "open"
    with pytest.raises(Refused, match="needs no second person"):
        policy.propose(archive, FILE.replace("title: T", "title: Another"), "plan.yaml", clock())


def test_a_class_does_not_come_back_shorter_by_one_person(archive: Archive, clock: Clock) -> None:
    """It is taken out of the schedule, which keeps what is in it, and put in again with another rule."""
    policy.load(archive, FILE, "plan.yaml", clock())
    policy.load(archive, FILE[: FILE.index("  - id: FREE")], "plan.yaml", clock())
    new = FILE.replace("id: FREE", "id: NEW").replace("id: free", "id: new")
    assert policy.load(archive, new, "plan.yaml", clock()).new  # NEW was never there
    with pytest.raises(Refused, match="class FREE: the class is new: what is in it was kept"):
        policy.load(archive, SHORTER, "plan.yaml", clock())


def test_a_proposed_load_that_was_overtaken_is_refused(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    policy.load(archive, FILE, "plan.yaml", clock())
    enrol(archive, clock)
    capture_all(archive, [Document("FREE", "x")], clock, tmp_path / "in")
    waiting = policy.propose(archive, SHORTER, "plan.yaml", clock())
    policy.load(archive, FILE.replace("title: T", "title: Another"), "plan.yaml", clock())
    one, two = (signatures.sign(KEYS[n], (waiting.statement or "").encode()) for n in ("Ruth Levi", "Dan Cohen"))
    approvals.sign(archive, waiting.id, one, clock(), EFFECTS)
    with pytest.raises(Refused, match="Propose it anew"):
        approvals.sign(archive, waiting.id, two, clock(), EFFECTS)
    assert len(versions(archive)) == 2
