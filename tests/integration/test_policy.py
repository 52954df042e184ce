"""Loading a schedule: versions stay, a regulatory class is not shortened, and what needs two people is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from retention import policy
from retention.archive import Archive
from retention.database import transaction
from retention.errors import Refused
from retention.schedule import ScheduleError, load

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
