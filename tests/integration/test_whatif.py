"""The effect of a schedule on real PostgreSQL is what the one-record path says of each record under both."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from random import Random
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from retention import whatif
from retention.database import Connection
from retention.embedded import Services
from retention.engine import RecordFacts, Suspension, decide
from retention.rules import Action, Authority, Combine, Period, RecordClass, Rule, Schedule, Trigger, Unit
from tests.integration.test_eligibility import CLASSES, Catalog, fill, near, schedules
from tests.property.strategies import days

D = date.fromisoformat


@pytest.fixture(scope="module")
def conn(services: Services, template: str) -> Iterator[Connection]:
    """A connection to a migrated database; each test rolls back what it wrote."""
    name = f"whatif_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner")
        with psycopg.connect(services.owner_url.rsplit("/", 1)[0] + f"/{name}") as connection:
            yield connection
            connection.rollback()
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schedule, Schedule]:
    """Two schedules of which at most one class differs, or all do."""
    old, other = draw(schedules()), draw(schedules())
    match draw(st.integers(0, 5)):
        case 0:
            return old, other
        case 1:
            return old, replace(old, classes=old.classes[1:])
        case 2:
            return old, replace(old, classes=(old.classes[0], *other.classes[1:]))
        case 3:
            return old, replace(old, classes=(replace(old.classes[0], combine=Combine.ANY), *old.classes[1:]))
        case _:
            first = old.classes[0]
            shorter = [replace(r, period=r.period and Period(r.period.months // 2, r.period.days)) for r in first.rules]
            return old, replace(old, classes=(replace(first, rules=tuple(shorter)), *old.classes[1:]))


def rows(conn: Connection, found: whatif.WhatIf) -> dict[UUID, dict[str, str]]:
    text = b"".join(whatif.changed_rows(conn, found)).decode()
    return {UUID(row["record_id"]): row for row in csv.DictReader(io.StringIO(text))}


def until(facts: RecordFacts, plan: Schedule, as_of: date) -> date:
    return decide(facts, plan, as_of).retain_until or date.max


@given(pair=pairs(), as_of=days, seed=st.integers(0, 2**32), apart=st.sampled_from([0, 20_000]))
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_change_is_found_and_nothing_else(
    conn: Connection, pair: tuple[Schedule, Schedule], as_of: date, seed: int, apart: int
) -> None:
    old, new = pair
    chance, edges = Random(seed), [*near(old, as_of), *near(new, as_of)]
    catalog = Catalog(conn, CLASSES)
    try:
        fill(catalog, edges, chance)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whatif, "APART", apart)
            found = whatif.compare(conn, old, new, as_of)
        listed = rows(conn, found)
        free = {record: replace(facts, holds=()) for record, facts in catalog.facts.items()}
        catalog.facts, held = free, {record for record, facts in catalog.facts.items() if facts.holds}
        due = {side: catalog.due(plan, as_of) for side, plan in (("before", old), ("after", new))}
        changed = {
            record: (until(facts, old, as_of), until(facts, new, as_of))
            for record, facts in free.items()
            if until(facts, old, as_of) != until(facts, new, as_of)
            or (record in due["before"]) != (record in due["after"])
        }
        assert {
            record: tuple(D(row[f"retain_until_{side}"]) if row[f"retain_until_{side}"] else date.max for side in due)
            for record, row in listed.items()
        } == changed
        for record, row in listed.items():
            assert [row["due_before"], row["due_after"]] == ["ft"[record in due[side]] for side in due]
            assert bool(row["holds"]) == (record in held)
        fresh = due["after"] - due["before"]
        total = found.total
        assert (total.becomes_due.records, total.held.records) == (len(fresh), len(fresh & held))
        assert total.ceases_due.records == len(due["before"] - due["after"])
        assert total.extended.records == sum(before < after for before, after in changed.values())
        assert total.shortened.records == sum(before > after for before, after in changed.values())
        sizes = {record: int(row["bytes"]) for record, row in listed.items()}
        assert total.becomes_due.bytes == sum(sizes[record] for record in fresh)
    finally:
        conn.rollback()


R = Rule("r", Trigger("received"), Period(84), Action.DESTROY, Authority("L"))
AS_OF = D("2026-01-01")


def plan(*classes: RecordClass) -> Schedule:
    return Schedule("d", "A new plan", "UTC", classes)


def known(name: str, *some: Rule, unit: Unit = Unit.RECORD) -> RecordClass:
    return RecordClass(name, {"en": name}, some, unit=unit)


def lock(conn: Connection, record: UUID, until: str) -> None:
    conn.execute(
        "INSERT INTO object_locks VALUES (%s, 'v', %s, 'compliance', %s, %s, now())",
        (f"content/{record}", record, until, until),
    )


def test_locks_holds_and_suspensions_are_told_apart(conn: Connection) -> None:
    old, new = plan(known("A", R), known("B", R)), plan(known("A", replace(R, period=Period(60))), known("B", R))
    catalog = Catalog(conn, ("A", "B"))
    facts = RecordFacts(("A",), received=D("2020-06-01"))
    try:
        plain, held, locked, long_ago = (catalog.record(facts, None, held=n == 1) for n in range(4))
        suspended = catalog.record(replace(facts, suspensions=(Suspension(D("2022-01-01"), None),)), None)
        resumed = catalog.record(replace(facts, suspensions=(Suspension(D("2022-01-01"), D("2022-12-31")),)), None)
        catalog.record(replace(facts, class_ids=("B",)), None)
        lock(conn, locked, "2026-01-01 00:00:01+00")
        lock(conn, long_ago, "2025-12-31 23:59:59+00")
        found = whatif.compare(conn, old, new, AS_OF)
        listed = rows(conn, found)
        (effect,) = found.effects
        assert effect.class_id == "A"
        assert effect.becomes_due == whatif.Amount(4, 1 + 2 + 3 + 4)
        assert effect.held == whatif.Amount(1, 2) and effect.locked == whatif.Amount(1, 3)
        assert effect.shortened == whatif.Amount(5, 1 + 2 + 3 + 4 + 6)
        assert effect.ceases_due == effect.extended == whatif.Amount()
        assert listed.keys() == {plain, held, locked, long_ago, resumed} and suspended not in listed
        assert listed[resumed]["retain_until_after"] == "2026-06-01"
        assert [listed[resumed][side] for side in ("due_before", "due_after")] == ["f", "f"]
        assert listed[held]["holds"] == str(catalog.hold) and not listed[plain]["holds"]
        assert listed[locked]["locked_until"].startswith("2026-01-01 00:00:01")
        assert not listed[long_ago]["locked_until"]
    finally:
        conn.rollback()


def test_a_class_that_shares_a_unit_with_a_changed_one_is_looked_at(conn: Connection) -> None:
    """Nothing of class B changes but that its records may not go yet."""
    old = plan(
        known("A", replace(R, period=Period(12))), known("B", replace(R, period=Period(12)), unit=Unit.AGGREGATION)
    )
    new = plan(known("A", replace(R, period=Period(120))), old.classes[1])
    catalog = Catalog(conn, ("A", "B"))
    try:
        facts = RecordFacts(("A",), received=D("2020-06-01"))
        group = catalog.aggregation({})
        first = catalog.record(facts, group)
        second = catalog.record(replace(facts, class_ids=("B",)), group)
        catalog.record(replace(facts, class_ids=("B",)), None)
        found = whatif.compare(conn, old, new, AS_OF)
        assert rows(conn, found).keys() == {first, second}
        assert {(e.class_id, e.ceases_due.records, e.extended.records) for e in found.effects} == {
            ("A", 1, 1),
            ("B", 1, 0),
        }
    finally:
        conn.rollback()


@pytest.mark.parametrize("apart", [0, 20_000])
def test_what_chance_seldom_meets(conn: Connection, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late record of a case, an extension that is over, a day that only a labelled record has, a parent."""
    monkeypatch.setattr(whatif, "APART", apart)
    end = Rule("end", Trigger("end", True), Period(60), Action.DESTROY, Authority("L"))
    old = plan(known("A", R), known("B", replace(R, period=Period(12))), known("E", end))
    new = plan(known("A", replace(R, period=Period(60))), old.classes[1], known("E", replace(end, period=Period(48))))
    catalog = Catalog(conn, ("A", "B", "E"))
    try:
        case = catalog.aggregation({"end": (D("2020-01-01"),)})
        late = RecordFacts(("E",), received=D("2021-01-01"), document_date=D("2020-01-02"))
        catalog.record(late, case)
        in_time = catalog.record(replace(late, document_date=D("2020-01-01")), case)
        extended = catalog.record(RecordFacts(("A",), received=D("2010-01-01"), not_before=D("2025-01-01")), None)
        labelled = catalog.record(RecordFacts(("B", "A"), received=D("2019-02-03")), None)
        parent = catalog.record(RecordFacts(("B",), received=D("2019-02-04")), None)
        child = catalog.record(RecordFacts(("A",), received=D("2020-02-05")), None, parent=parent)
        listed = rows(conn, whatif.compare(conn, old, new, AS_OF))
        assert {
            record: tuple(
                row[name] for name in ("retain_until_before", "retain_until_after", "due_before", "due_after")
            )
            for record, row in listed.items()
        } == {
            in_time: ("2025-01-01", "2024-01-01", "t", "t"),
            extended: ("2017-01-01", "2015-01-01", "t", "t"),
            labelled: ("2026-02-03", "2024-02-03", "f", "t"),
            parent: ("2020-02-04", "2020-02-04", "f", "t"),
            child: ("2027-02-05", "2025-02-05", "f", "t"),
        }
    finally:
        conn.rollback()


def test_the_same_schedule_changes_nothing_and_reads_no_records(conn: Connection) -> None:
    old = plan(known("A", R))
    catalog = Catalog(conn, ("A",))
    try:
        catalog.record(RecordFacts(("A",), received=D("2001-01-01")), None)
        conn.execute("ALTER TABLE records RENAME TO hidden")
        again = replace(old, title="Again", classes=(replace(old.classes[0], vital=True),))
        found = whatif.compare(conn, old, again, AS_OF)
        assert found.effects == ()
        assert b"".join(whatif.changed_rows(conn, found)).startswith(b"record_id,class_id,bytes,")
    finally:
        conn.rollback()


def test_a_chart_stands_alone_and_says_what_it_shows() -> None:
    effect = whatif.Effect("A", becomes_due=whatif.Amount(1200, 5), shortened=whatif.Amount(3, 5))
    image = whatif.chart(whatif.WhatIf(AS_OF, (effect,)), replace(plan(), title="Plan <2> & more"))
    assert image.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "Plan &lt;2&gt; &amp; more" in image and "1,200 records" in image
    assert image.count("chart-amber") == 2 and image.count("chart-red") == 2  # once in the style, once drawn
