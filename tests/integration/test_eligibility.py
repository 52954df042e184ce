"""The set path on real PostgreSQL answers exactly as the one-record path, for random schedules and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from retention import eligibility
from retention.catalog import facts_of
from retention.database import Connection
from retention.embedded import Services
from retention.engine import RecordFacts, Suspension, decide, decide_unit, latest_eligible_trigger
from retention.rules import (
    Action,
    Authority,
    Combine,
    Comparison,
    Condition,
    Cutoff,
    CutoffUnit,
    LaterRecords,
    Occurrence,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
    Unit,
)
from retention.schedule import SAMPLE, load
from tests.property.strategies import KINDS, days, rules

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLASSES = ("A", "B", "empty")
DAY = timedelta(1)
Events: TypeAlias = "Mapping[str, tuple[date, ...]]"


@pytest.fixture(scope="module")
def conn(services: Services, template: str) -> Iterator[Connection]:
    """A connection to a migrated database; each test rolls back what it wrote."""
    name = f"eligibility_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner")
        with psycopg.connect(services.owner_url.rsplit("/", 1)[0] + f"/{name}") as connection:
            yield connection
            connection.rollback()
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Catalog:
    """Writes records with their facts as the catalog keeps them, within a transaction that is rolled back."""

    def __init__(self, conn: Connection, classes: tuple[str, ...], kinds: tuple[str, ...] = KINDS) -> None:
        self.conn = conn
        self.facts: dict[UUID, RecordFacts] = {}
        self.parents: dict[UUID, UUID] = {}
        self.members: dict[UUID, UUID] = {}
        self.keys = {name: self._key("classes (class_id)", "class_key", name) for name in classes}
        wanted = [kind + suffix for kind in kinds for suffix in ("", ":first")]
        self.kinds = {name: self._key("trigger_kinds (kind)", "ordinal", name) for name in wanted}
        self.hold = uuid4()
        conn.execute(
            "INSERT INTO holds (hold_id, recorded_at, recorded_by, mode, review_on) VALUES (%s, %s, %s, 'static', %s)",
            (self.hold, NOW, uuid4(), NOW.date()),
        )
        self.aggregations: dict[UUID, RecordFacts] = {}

    def _key(self, table: str, column: str, name: str) -> int:
        row = self.conn.execute(f"INSERT INTO {table} VALUES (%s) RETURNING {column}", (name,)).fetchone()
        assert row is not None
        return int(row[0])

    def aggregation(self, events: Events, suspensions: tuple[Suspension, ...] = ()) -> UUID:
        subject = uuid4()
        self.conn.execute("INSERT INTO aggregations VALUES (%s, %s, 'case')", (subject, NOW))
        self._subject(subject, events, suspensions)
        self.aggregations[subject] = RecordFacts((), inherited=events, suspensions=suspensions)
        return subject

    def _subject(self, subject: UUID, events: Events, suspensions: tuple[Suspension, ...]) -> None:
        with self.conn.cursor() as cursor:
            if events:
                dates: list[date | None] = [None] * max(self.kinds.values())
                for kind, found in events.items():
                    dates[self.kinds[kind] - 1] = max(found)
                    dates[self.kinds[f"{kind}:first"] - 1] = min(found)
                cursor.execute("INSERT INTO current_triggers VALUES (%s, %s)", (subject, dates))
            cursor.executemany(
                "INSERT INTO trigger_events VALUES (%s, %s, %s, %s, %s, %s)",
                [
                    (uuid4(), subject, self.kinds[kind], day, NOW, uuid4())
                    for kind, found in events.items()
                    for day in found
                ],
            )
            cursor.executemany(
                "INSERT INTO suspensions VALUES (%s, %s, %s, %s, %s, %s, 'claim', %s)",
                [(uuid4(), subject, s.starts, s.ends, NOW, uuid4(), s.ends and NOW) for s in suspensions],
            )

    def record(
        self, facts: RecordFacts, aggregation: UUID | None, held: bool = False, parent: UUID | None = None
    ) -> UUID:
        """`facts` are its own; what its aggregation has is added. An event, suspension or label makes it special."""
        record, size = uuid4(), len(self.facts) + 1
        whole = self.aggregations[aggregation] if aggregation else RecordFacts(())
        self.facts[record] = replace(
            facts,
            events={kind: tuple(sorted(dates)) for kind, dates in facts.events.items()},
            inherited={kind: tuple(sorted(dates)) for kind, dates in whole.inherited.items()},
            suspensions=tuple(sorted((*facts.suspensions, *whole.suspensions), key=str)),
            holds=(str(self.hold),) if held else (),
        )
        special = bool(facts.events or facts.class_ids[1:] or facts.suspensions or whole.suspensions)
        self.conn.execute(
            "INSERT INTO records (record_id, aggregation_id, bytes, recorded_at, received, document_date, modified, "
            "tagged, class_key, special, parent_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (record, aggregation, size, NOW, facts.received, facts.document_date, facts.modified, facts.tagged,
             self.keys[facts.class_ids[0]], special, parent),
        )  # fmt: skip
        for label in facts.class_ids[1:]:
            self.conn.execute("INSERT INTO record_labels VALUES (%s, %s, %s)", (record, self.keys[label], NOW))
        self._subject(record, facts.events, facts.suspensions)
        if held:
            self.conn.execute("INSERT INTO hold_members VALUES (%s, %s, %s)", (record, self.hold, NOW))
        if facts.not_before is not None:
            earlier = facts.not_before - DAY if facts.not_before > NOW.date() else facts.not_before + DAY
            for day, recorded in ((earlier, NOW - DAY), (facts.not_before, NOW)):
                values = (record, recorded, "infinity" if day == date.max else day, "reviewed", uuid4())
                self.conn.execute("INSERT INTO extensions VALUES (%s, %s, %s, %s, %s)", values)
        if aggregation:
            self.members[record] = aggregation
        if parent:
            self.parents[record] = parent
        return record

    def unit(self, record: UUID, plan: Schedule) -> dict[UUID, RecordFacts]:
        """The record, then all without which it does not go: the slow and obvious way."""
        whole = {known.id for known in plan.classes if known.unit is Unit.AGGREGATION}
        found, waiting = {record}, [record]
        while waiting:
            one = waiting.pop()
            near = {self.parents.get(one), *(child for child, parent in self.parents.items() if parent == one)}
            if one in self.members and whole & set(self.facts[one].class_ids):
                near |= {m for m, aggregation in self.members.items() if aggregation == self.members[one]}
            fresh = {n for n in near if n is not None} - found
            waiting += fresh
            found |= fresh
        return {one: self.facts[one] for one in (record, *(found - {record}))}

    def due(self, plan: Schedule, as_of: date) -> set[UUID]:
        return {record for record in self.facts if decide_unit(self.unit(record, plan), plan, as_of).due}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    def named(class_id: str, given: list[Rule], combine: Combine) -> RecordClass:
        some = [replace(rule, id=f"{class_id}{i}") for i, rule in enumerate(given)]
        if len(some) > 1 and some[-1].when and combine is Combine.ALL:
            some[-1] = replace(some[-1], replaces=(some[0].id,))
        unit = draw(st.sampled_from([Unit.RECORD, Unit.RECORD, Unit.AGGREGATION]))
        return RecordClass(class_id, {"en": class_id}, tuple(some), combine=combine, unit=unit)

    some = st.lists(rules, min_size=1, max_size=3)
    simple = st.builds(replace, rules, when=st.just(()), triggers_from=st.none(), triggers_until=st.none())
    a = named("A", draw(st.one_of(some, st.lists(simple, min_size=1, max_size=3))), draw(st.sampled_from(Combine)))
    b = named("B", draw(st.lists(simple, min_size=1, max_size=2)), draw(st.sampled_from(Combine)))
    return Schedule("d", "T", "UTC", (a, b, RecordClass("empty", {"en": "E"})))


def near(plan: Schedule, as_of: date) -> list[date]:
    """Days at the edge of what is eligible, and some others."""
    limits = (latest_eligible_trigger(rule, as_of) for known in plan.classes for rule in known.rules)
    edges = [day + n * DAY for day in limits if day and date(1800, 1, 1) < day for n in (-1, 0, 1)]
    return [*edges, as_of, as_of + DAY, date(1900, 3, 1), date(2100, 2, 28), date(2199, 12, 31)]


def fill(catalog: Catalog, edges: list[date], chance: Random) -> None:
    """Forty records: some with labels, kin, aggregations, events and suspensions of their own, a hold, an extension,
    and every date unknown at times. Some dates lie years before what is eligible, so that a suspension matters."""

    def day() -> date:
        one = chance.choice(edges)
        return one if chance.random() < 0.6 else max(date(1800, 1, 1), one - DAY * chance.randint(0, 900))

    def events(likely: float) -> Events:
        return {kind: (day(), day())[: chance.randint(1, 2)] for kind in KINDS if chance.random() < likely}

    def suspensions(likely: float) -> tuple[Suspension, ...]:
        starts = [day() for _ in range(chance.randint(1, 3)) if chance.random() < likely]
        return tuple(Suspension(s, s + DAY * chance.randint(0, 800) if chance.random() < 0.9 else None) for s in starts)

    groups = [None, None, *(catalog.aggregation(events(0.8), suspensions(0.2)) for _ in range(6))]
    for _ in range(40):
        labels = chance.sample(CLASSES, chance.randint(1, 3)) if chance.random() < 0.1 else [chance.choice("AAB")]
        document_date, modified, tagged = (day() if chance.random() < 0.8 else None for _ in range(3))
        facts = RecordFacts(
            tuple(labels[:1] + sorted(labels[1:])),
            day(),
            document_date,
            modified,
            tagged,
            events=events(0.6) if chance.random() < 0.3 else {},
            suspensions=suspensions(0.8) if chance.random() < 0.2 else (),
            not_before=chance.choice([*edges, date.max]) if chance.random() < 0.1 else None,
        )
        parent = chance.choice(list(catalog.facts)) if catalog.facts and chance.random() < 0.1 else None
        catalog.record(facts, chance.choice(groups), held=chance.random() < 0.05, parent=parent)


def check_agreement(conn: Connection, plan: Schedule, as_of: date, seed: int) -> int:
    """The set path, restricted and not, and the facts as the catalog reads them, beside `decide_unit`."""
    chance, edges = Random(seed), near(plan, as_of)
    catalog = Catalog(conn, CLASSES)
    try:
        fill(catalog, edges, chance)
        expected = catalog.due(plan, as_of)
        found = list(eligibility.due_records(conn, plan, as_of))
        assert {row.record_id for row in found} == expected
        some = chance.sample(list(catalog.facts), 8)
        assert {row.record_id for row in eligibility.due_records(conn, plan, as_of, some)} == expected & set(some)
        per_class: dict[str, tuple[int, int]] = {}
        for row in found:
            count, size = per_class.get(row.class_id, (0, 0))
            per_class[row.class_id] = (count + 1, size + row.bytes)
        counted = {row.class_id: (row.records, row.bytes) for row in eligibility.due(conn, plan, as_of)}
        assert counted == per_class
        for record in some[:3]:
            assert set(eligibility.unit_members(conn, plan, [record])) == catalog.unit(record, plan).keys()
        known = facts_of(conn, list(catalog.facts))
        sort = {key: replace(f, suspensions=tuple(sorted(f.suspensions, key=str))) for key, f in known.items()}
        assert sort == catalog.facts
        return len(expected)
    finally:
        conn.rollback()


@given(plan=schedules(), as_of=days, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # a seed has no shape
def test_sql_and_the_one_record_path_agree(conn: Connection, plan: Schedule, as_of: date, seed: int) -> None:
    check_agreement(conn, plan, as_of, seed)


def test_postgresql_adds_a_period_as_the_engine_does(conn: Connection) -> None:
    sample = [date(1900, 1, 1) + n * DAY for n in range(0, 109_000, 7)]
    sample += [date(year, 2, 29) for year in range(1904, 2200, 4) if year != 2100]
    for period in (Period(1), Period(12), Period(13, 5), Period(120), Period(1199, 31)):
        rows = conn.execute(
            "SELECT (day + make_interval(months => %s, days => %s))::date "
            "FROM unnest(%s::date[]) WITH ORDINALITY AS given (day, n) ORDER BY n",
            (period.months, period.days, sample),
        ).fetchall()
        assert [row[0] for row in rows] == [period.after(day) for day in sample]


def test_postgresql_counts_from_a_cutoff_as_the_engine_does(conn: Connection) -> None:
    """Every day of 1800 to 2299, for the cutoffs that suspended records need in SQL."""
    every = [date(1800, 1, 1) + n * DAY for n in range(182_622)]
    fiscal = [Cutoff(CutoffUnit.FISCAL_YEAR_END, month, day) for month, day in ((2, 29), (2, 28), (3, 31), (12, 31))]
    for cutoff in (*map(Cutoff, list(CutoffUnit)[:-1]), *fiscal):
        values = (list(CutoffUnit).index(cutoff.unit), cutoff.month, cutoff.day, every)
        query = sql.SQL(
            "SELECT array_agg({} ORDER BY d.n) FROM (SELECT {}::int AS cutoff, {}::int AS fiscal_month, "
            "{}::int AS fiscal_day) AS u, unnest({}::date[]) WITH ORDINALITY AS d (day, n)"
        ).format(eligibility._CUTOFF, *values)
        assert conn.execute(query).fetchone() == ([cutoff.of(day) for day in every],), cutoff
    conn.rollback()


def test_golden_vectors_through_sql(conn: Connection) -> None:
    lines = (Path(__file__).parents[1] / "golden" / "il_bookkeeping.tsv").read_text("utf-8").splitlines()
    plan = load(SAMPLE)
    vectors = [line.split("\t") for line in lines if not line.startswith(("#", "class"))]
    assert len(vectors) == 5
    for class_id, year, filed, kept_until in vectors:
        try:
            catalog = Catalog(conn, (class_id,), ("filed",))
            group = catalog.aggregation({"filed": (date.fromisoformat(filed),)})
            facts = RecordFacts((class_id,), received=date(2007, 1, 1), document_date=date(int(year), 5, 6))
            catalog.record(facts, group)
            until = date.fromisoformat(kept_until)
            assert eligibility.due(conn, plan, until) == []
            (row,) = eligibility.due(conn, plan, until + DAY)
            assert (row.class_id, row.records, row.bytes) == (class_id, 1, 1)
        finally:
            conn.rollback()


def test_conditions_and_replacements_through_sql(conn: Connection) -> None:
    lines = (Path(__file__).parents[1] / "golden" / "conditions.tsv").read_text("utf-8").splitlines()
    plan = load(SAMPLE)
    for class_id, documented, given_events, kept_until in [line.split("\t") for line in lines[2:]]:
        pairs = [pair.split("=") for pair in given_events.split(";") if pair != "-"]
        events: Events = {kind: (date.fromisoformat(day),) for kind, day in pairs}
        try:
            catalog = Catalog(conn, (class_id,), (*(events or {"none": ()}), "other"))
            dated = None if documented == "-" else date.fromisoformat(documented)
            facts = RecordFacts((class_id,), received=date(2020, 1, 1), document_date=dated)
            catalog.record(facts, catalog.aggregation(events))
            if kept_until == "open":
                assert eligibility.due(conn, plan, date(2300, 1, 1)) == [], (class_id, given_events)
            else:
                until = date.fromisoformat(kept_until)
                assert eligibility.due(conn, plan, until) == [], (class_id, given_events)
                assert len(eligibility.due(conn, plan, until + DAY)) == 1, (class_id, given_events)
        finally:
            conn.rollback()


ON = date(2026, 1, 1)


def one_class(*given: Rule, combine: Combine = Combine.ALL, unit: Unit = Unit.RECORD) -> Schedule:
    named = tuple(replace(rule, id=f"r{i}") for i, rule in enumerate(given))
    return Schedule("d", "T", "UTC", (RecordClass("A", {"en": "A"}, named, combine=combine, unit=unit),))


def agree(conn: Connection, plan: Schedule, *given: RecordFacts, whole: Events | None = None) -> list[bool]:
    """Which of these records are due, one after the other: the same by set as for one."""
    found: list[bool] = []
    try:
        catalog = Catalog(conn, ("A",))
        group = catalog.aggregation(whole) if whole else None
        ids = [catalog.record(facts, group) for facts in given]
        by_set = {row.record_id for row in eligibility.due_records(conn, plan, ON)}
        assert by_set == catalog.due(plan, ON)
        found = [one in by_set for one in ids]
    finally:
        conn.rollback()
    return found


LAW = Authority("L")
RECEIVED = Rule("r", Trigger("received"), Period(12), Action.DESTROY, LAW)
ENDED = replace(RECEIVED, trigger=Trigger("end", True))
OLD = RecordFacts(("A",), received=date(2020, 1, 1))


def test_under_any_a_rule_whose_condition_is_unknown_does_not_suffice(conn: Connection) -> None:
    unknown = Condition(Trigger("tagged"), Comparison.BEFORE, Trigger("modified"))
    plan = one_class(replace(RECEIVED, when=(unknown,)), ENDED, combine=Combine.ANY)
    known = replace(OLD, tagged=date(2019, 1, 1), modified=date(2019, 2, 1))
    assert agree(conn, plan, OLD, replace(OLD, tagged=date(2019, 1, 1)), known) == [False, False, True]


def test_of_own_and_inherited_events_the_latest_counts_and_the_first_if_asked(conn: Connection) -> None:
    early, late = (date(2020, 1, 1),), (date(2025, 6, 1),)
    first = replace(ENDED, trigger=Trigger("end", True, Occurrence.FIRST))
    for own, whole in ((early, late), (late, early)):
        facts = replace(OLD, events={"end": own})
        assert agree(conn, one_class(ENDED), facts, whole={"end": whole}) == [False]
        assert agree(conn, one_class(first), facts, whole={"end": whole}) == [True]


def test_suspended_days_count_after_the_cutoff_only(conn: Connection) -> None:
    def suspended(*spans: tuple[date, date]) -> RecordFacts:
        return RecordFacts(("A",), received=date(2024, 12, 20), suspensions=tuple(Suspension(*span) for span in spans))

    plain = one_class(RECEIVED)  # until 2025-12-20: 11 days before
    before, first = (date(2024, 1, 1), date(2024, 12, 20)), date(2024, 12, 21)
    given = [suspended(before), suspended((first, first + 10 * DAY)), suspended((first, first + 11 * DAY))]
    assert agree(conn, plain, *given) == [True, True, False]
    overlapping = [suspended((first, first + 8 * DAY), (first + 5 * DAY, first + n * DAY)) for n in (10, 11)]
    assert agree(conn, plain, *overlapping) == [True, False]
    year_end = one_class(replace(RECEIVED, cutoff=Cutoff(CutoffUnit.YEAR_END)))  # until 2025-12-31: the day before
    in_period, day = suspended((date(2024, 12, 31), date(2025, 1, 1))), date(2024, 12, 31)
    assert agree(conn, year_end, suspended((first, day)), in_period) == [True, False]


def test_a_suspension_of_a_rule_of_another_zone_counts_from_a_day_later(conn: Connection) -> None:
    there = one_class(replace(RECEIVED, time_zone="Pacific/Auckland"))
    spans = (Suspension(date(2025, 2, 1), date(2025, 2, 11)),)  # 11 days
    given = [RecordFacts(("A",), received=date(2024, 12, day), suspensions=spans) for day in (19, 20)]
    assert agree(conn, there, *given) == [True, False]
    assert agree(conn, one_class(RECEIVED), *given) == [True, True]


def test_an_event_of_an_aggregation_does_not_cover_what_is_dated_after_it(conn: Connection) -> None:
    whole: Events = {"end": (date(2020, 1, 1),)}
    before, after = (replace(OLD, document_date=day) for day in (date(2020, 1, 1), date(2020, 1, 2)))
    own = replace(after, events={"end": (date(2020, 1, 1),)})
    guarded = replace(ENDED, when=(Condition(Trigger("received")),))
    for rule in (ENDED, guarded):
        for combine in Combine:
            assert agree(conn, one_class(rule, combine=combine), before, after, own, OLD, whole=whole) == [
                *(True, False, True, True)
            ]
            covered = replace(rule, later_records=LaterRecords.COVERED)
            assert agree(conn, one_class(covered, combine=combine), before, after, whole=whole) == [True, True]
    decision = decide(replace(after, inherited=whole), one_class(ENDED), ON)
    assert decision.findings == ("TRIGGER-STALE",) and decision.retain_until is None


def test_extended_until_a_day_or_for_good(conn: Connection) -> None:
    days = (ON - DAY, ON, ON + DAY, date.max)
    plan = one_class(RECEIVED)
    assert agree(conn, plan, *(replace(OLD, not_before=day) for day in days)) == [True, True, False, False]
    decisions = [decide(replace(OLD, not_before=day), plan, ON) for day in days]
    passed = date(2021, 1, 1)
    assert [d.retain_until for d in decisions] == [passed, passed, ON, None]


def test_a_record_without_a_date_is_kept(conn: Connection) -> None:
    """RODA let a record without a due date through: null compares with nothing, and was not asked for."""
    for name in ("document_date", "modified", "tagged"):
        plan = one_class(RECEIVED, replace(RECEIVED, trigger=Trigger(name)))
        dated: dict[str, Any] = {name: date(2020, 1, 1)}
        assert agree(conn, plan, OLD, replace(OLD, **dated)) == [False, True]
    assert agree(conn, one_class(RECEIVED, ENDED), OLD, replace(OLD, events={"end": (ON,)})) == [False, False]


def test_a_replacement_that_may_not_govern_replaces_nothing(conn: Connection) -> None:
    kept = Rule("kept", Trigger("received"), Period(120), Action.DESTROY, Authority("L"))
    short = replace(
        kept,
        id="short",
        trigger=Trigger("tagged"),
        period=Period(1),
        triggers_from=date(2000, 1, 1),
        when=(Condition(Trigger("received")),),
        replaces=("kept",),
    )
    plan = Schedule("d", "T", "UTC", (RecordClass("A", {"en": "A"}, (kept, short)),))
    for tagged in (None, date(1999, 12, 31), date(2000, 1, 1)):
        try:
            catalog = Catalog(conn, ("A",))
            catalog.record(RecordFacts(("A",), received=date(2001, 1, 1), tagged=tagged), None)
            (facts,) = catalog.facts.values()
            for as_of in (date(2005, 1, 1), date(2030, 1, 1)):
                assert bool(eligibility.due(conn, plan, as_of)) == decide(facts, plan, as_of).due
        finally:
            conn.rollback()


def test_what_is_being_destroyed_or_suspended_or_of_no_class_is_not_due(conn: Connection) -> None:
    plan = load(SAMPLE)
    catalog = Catalog(conn, ("IL-SEC-010", "unclassified", "class-of-another-schedule"))
    old, day = date(1990, 1, 1), date(2026, 1, 1)
    try:
        for class_id in catalog.keys:
            catalog.record(RecordFacts((class_id,), received=old), None)
        (row,) = eligibility.due(conn, plan, day)
        assert (row.class_id, row.records, row.unverified) == ("IL-SEC-010", 1, ("il-security-logs",))
        (found,) = eligibility.due_records(conn, plan, day)
        conn.execute("UPDATE records SET special = true WHERE record_id = %s", (found.record_id,))
        assert len(eligibility.due(conn, plan, day)) == 1
        values = (uuid4(), found.record_id, old, None, NOW, uuid4(), "litigation")
        conn.execute("INSERT INTO suspensions VALUES (%s, %s, %s, %s, %s, %s, %s)", values)
        assert eligibility.due(conn, plan, day) == []
        conn.execute("DELETE FROM suspensions")
        conn.execute("UPDATE records SET state = 2, special = false WHERE record_id = %s", (found.record_id,))
        assert eligibility.due(conn, plan, day) == []
    finally:
        conn.rollback()


def test_an_empty_catalog_and_a_schedule_without_rules_have_nothing_due(conn: Connection) -> None:
    assert eligibility.due(conn, load(SAMPLE), date.max) == []
    assert eligibility.due(conn, Schedule("d", "T", "UTC", ()), date(2026, 1, 1)) == []
    conn.rollback()
