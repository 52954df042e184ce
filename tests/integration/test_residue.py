"""What is left of a destroyed record: docs/residue.md names every column, and nothing of a person is found anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

import pytest
from psycopg import sql

from retention import aggregations, approvals, signatures, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive
from retention.database import transaction
from retention.disposition import execution, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.effects import EFFECTS
from retention.errors import Refused
from retention.triggers import Change, Given
from tests.archive_builder import KEYS, SCHEDULE, Document, capture_all, enrol, load

Clock = Callable[[], datetime]
PAGE = Path(__file__).parents[2] / "docs/residue.md"
GROWN_UP = """\
  - id: CHILD
    title: A child's file
    action: destroy
    unit: aggregation
    rules:
      - {id: grown-up, trigger: "event:birth", period: P25Y, verified: true, authority: *house}
      - {id: treated, trigger: "event:treated", period: P8Y, verified: true, authority: *house}
"""
BORN, TREATED = date(1987, 6, 5), date(2001, 2, 3)


def test_every_column_of_the_catalog_has_its_place(archive: Archive) -> None:
    said: set[tuple[str, str]] = set()
    for line in PAGE.read_text().partition("## The catalog")[2].partition("## Other places")[0].splitlines():
        if match := re.fullmatch(r"\| (\w+) \| ([\w, ]+) \| .+ \| .+ \|", line):
            said |= {(match[1], column) for column in match[2].split(", ")}
    with transaction(archive.connections) as conn:
        there = {
            (table, column)
            for table, column in conn.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            )
        }
    assert there - said - {("table", "columns")} == set(), f"say in {PAGE.name} what becomes of these"
    assert said - there - {("table", "columns")} == set(), f"{PAGE.name} names what is not there"


def found(archive: Archive, planted: bytes) -> Iterator[str]:
    """Every place where the bytes stand: table, object of the vault, file of the workspace."""
    with transaction(archive.connections) as conn:
        tables = conn.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in tables.fetchall():
            with conn.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
                content = b"".join(bytes(block) for block in copy)
            # bytea is shown as hex
            if planted in content or planted.hex().encode() in content:
                yield table
    for stored in archive.vault.list():
        with archive.vault.open(stored.key) as stream:
            if planted in stream.read():
                yield stored.key
    for path in archive.settings.root.rglob("*"):
        if path.is_file() and (planted in path.read_bytes() or planted in str(path).encode()):
            yield str(path)


def sign(archive: Archive, proposal_id: UUID, clock: Clock) -> None:
    for name in ("Ruth Levi", "Dan Cohen"):
        with transaction(archive.connections) as conn:
            statement = approvals.show(conn, proposal_id).statement or ""
        approvals.sign(archive, proposal_id, signatures.sign(KEYS[name], statement.encode()), clock(), EFFECTS)


def record(archive: Archive, change: Change, clock: Clock) -> None:
    """By two people, where it needs two."""
    try:
        triggers.change(archive, change, clock())
    except Refused:
        sign(archive, triggers.propose(archive, change, clock()).id, clock)


def test_nothing_of_a_person_is_left(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    load(archive, clock, SCHEDULE.replace("  - id: SYS-CERT", GROWN_UP + "  - id: SYS-CERT"))
    enrol(archive, clock)
    (letter,) = capture_all(
        archive, [Document("CHILD", "Letter to Zilberquist", case=("patient", "ZQ-4711"))], clock, tmp_path / "in"
    )
    patient = aggregations.identity(archive.safe, Aggregation("patient", "ZQ-4711"))
    record(archive, Change((Given(letter, "treated", TREATED, "Zilberquist said so"),)), clock)
    record(archive, Change(suspensions=((patient, date(2015, 4, 1), "litigation"),)), clock)
    with transaction(archive.connections) as conn:
        ((suspension,),) = conn.execute("SELECT suspension_id FROM suspensions").fetchall()
    record(archive, Change(resumptions=((suspension, date(2015, 4, 9)),)), clock)
    with pytest.raises(Refused, match="needs two people"):  # it makes the file due
        triggers.change(archive, Change((Given(patient, "birth", BORN),)), clock())
    record(archive, Change((Given(patient, "birth", BORN, "register of Zilberquist"),)), clock)
    planted = [b"Zilberquist", b"ZQ-4711", BORN.isoformat().encode(), TREATED.isoformat().encode()]
    assert {"descriptions"} < {place for word in planted for place in found(archive, word)}
    plan_id = proposing.propose(archive, clock()).plan
    assert plan_id is not None
    reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    sign(archive, plan_id, clock)
    assert execution.execute(archive, plan_id, clock).outcomes == {"destroyed": 1}
    assert {word: [*found(archive, word)] for word in planted} == {word: [] for word in planted}
    with transaction(archive.connections) as conn:
        for table in ("trigger_events", "current_triggers", "suspensions", "subject_keys", "sightings"):
            query = sql.SQL("SELECT FROM {} WHERE subject_id = ANY(%s)").format(sql.Identifier(table))
            assert conn.execute(query, ([letter, patient],)).fetchone() is None, table


@pytest.mark.parametrize("left", [False, True])
def test_a_case_file_keeps_its_dates_as_long_as_a_record(
    archive: Archive, clock: Clock, tmp_path: Path, left: bool
) -> None:
    load(archive, clock)
    enrol(archive, clock)
    case = ("patient", "ZQ-4711")
    documents = [Document("SHORT", "one", case=case), Document("LONG" if left else "SHORT", "two", case=case)]
    capture_all(archive, documents, clock, tmp_path / "in")
    patient = aggregations.identity(archive.safe, Aggregation(*case))
    record(archive, Change((Given(patient, "birth", BORN),)), clock)
    plan_id = proposing.propose(archive, clock()).plan
    assert plan_id is not None
    reviewing.review(archive, plan_id, Selection(everything=True), Decided(Decision.APPROVE), clock())
    sign(archive, plan_id, clock)
    assert execution.execute(archive, plan_id, clock).outcomes == {"destroyed": 1 if left else 2}
    assert sorted(found(archive, BORN.isoformat().encode())) == (["current_triggers", "trigger_events"] if left else [])
