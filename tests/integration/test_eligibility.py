"""The set path on real PostgreSQL answers exactly as the one-record path, for random schedules and records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeAlias
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retention import eligibility
from retention.database import Connection
from retention.embedded import Services
from retention.engine import RecordFacts, decide, latest_eligible_trigger
from retention.rules import Combine, Period, RecordClass, Rule, Schedule
from retention.schedule import SAMPLE, load
from tests.property.strategies import KINDS, days, rules

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLASSES = ("A", "B", "empty")
DAY = timedelta(1)
Events: TypeAlias = "dict[str, tuple[date, ...]]"


@pytest.fixture(scope="module")
def conn(services: Services, template: str) -> Iterator[Connection]:
    """A connection to a migrated database; each test rolls back what it wrote."""
    name = f"eligibility_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment")
        with psycopg.connect(services.database_url.rsplit("/", 1)[0] + f"/{name}") as connection:
            yield connection
            connection.rollback()
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Catalog:
    """Writes records with their facts as the catalog keeps them, within a transaction that is rolled back."""

    def __init__(self, conn: Connection, classes: tuple[str, ...], kinds: tuple[str, ...] = KINDS) -> None:
        self.conn = conn
        self.facts: dict[UUID, RecordFacts] = {}
        self.keys = {name: self._key("classes (class_id)", "class_key", name) for name in classes}
        wanted = [kind + suffix for kind in kinds for suffix in ("", ":first")]
        self.kinds = {name: self._key("trigger_kinds (kind)", "ordinal", name) for name in wanted}
        self.hold = uuid4()
        conn.execute("INSERT INTO holds VALUES (%s, %s, %s)", (self.hold, NOW, uuid4()))
        self.aggregations: dict[UUID, Events] = {}

    def _key(self, table: str, column: str, name: str) -> int:
        row = self.conn.execute(f"INSERT INTO {table} VALUES (%s) RETURNING {column}", (name,)).fetchone()
        assert row is not None
        return int(row[0])

    def aggregation(self, events: Events) -> UUID:
        subject = uuid4()
        self.conn.execute("INSERT INTO aggregations VALUES (%s, %s)", (subject, NOW))
        self._current(subject, events)
        self.aggregations[subject] = events
        return subject

    def _current(self, subject: UUID, events: Events) -> None:
        if events:
            dates: list[date | None] = [None] * max(self.kinds.values())
            for kind, found in events.items():
                dates[self.kinds[kind] - 1] = max(found)
                dates[self.kinds[f"{kind}:first"] - 1] = min(found)
            self.conn.execute("INSERT INTO current_triggers VALUES (%s, %s)", (subject, dates))

    def record(self, facts: RecordFacts, aggregation: UUID | None, own: Events, held: bool) -> None:
        record, size = uuid4(), len(self.facts) + 1
        self.conn.execute(
            "INSERT INTO records (record_id, aggregation_id, bytes, recorded_at, received, document_date, modified, "
            "tagged, class_key, special) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (record, aggregation, size, NOW, facts.received, facts.document_date, facts.modified, facts.tagged,
             self.keys[facts.class_ids[0]], bool(own or facts.class_ids[1:])),
        )  # fmt: skip
        for label in facts.class_ids[1:]:
            self.conn.execute("INSERT INTO record_labels VALUES (%s, %s, %s)", (record, self.keys[label], NOW))
        self._current(record, own)
        if held:
            self.conn.execute("INSERT INTO hold_members VALUES (%s, %s, %s)", (record, self.hold, NOW))
        events: Events = {}
        for source in (self.aggregations.get(aggregation, {}) if aggregation else {}, own):
            for kind, dates in source.items():
                events[kind] = (*events.get(kind, ()), *dates)
        self.facts[record] = replace(facts, events=events, holds=("H",) if held else ())


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    def named(class_id: str, given: list[Rule], combine: Combine) -> RecordClass:
        some = [replace(rule, id=f"{class_id}{i}") for i, rule in enumerate(given)]
        if len(some) > 1 and some[-1].when and combine is Combine.ALL and draw(st.booleans()):
            some[-1] = replace(some[-1], replaces=(some[0].id,))
        return RecordClass(class_id, {"en": class_id}, tuple(some), combine=combine)

    some = st.lists(rules, min_size=1, max_size=3)
    simple = st.builds(replace, rules, when=st.just(()), triggers_from=st.none(), triggers_until=st.none())
    a = named("A", draw(st.one_of(some, st.lists(simple, min_size=1, max_size=3))), draw(st.sampled_from(Combine)))
    b = named("B", draw(st.lists(simple, min_size=1, max_size=2)), draw(st.sampled_from(Combine)))
    return Schedule("d", "T", "UTC", (a, b, RecordClass("empty", {"en": "E"})))


def near(plan: Schedule, as_of: date) -> st.SearchStrategy[date]:
    """Days at the edge of what is eligible, and any other."""
    limits = (latest_eligible_trigger(rule, as_of) for known in plan.classes for rule in known.rules)
    edges = [day + n * DAY for day in limits if day and date(1800, 1, 1) < day for n in (-1, 0, 1)]
    return st.one_of(st.sampled_from([*edges, as_of, as_of + DAY]), days)


@given(data=st.data(), plan=schedules(), as_of=days)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_sql_and_the_one_record_path_agree(conn: Connection, data: st.DataObject, plan: Schedule, as_of: date) -> None:
    day = near(plan, as_of)
    maybe = st.one_of(st.none(), day, day)
    events = st.dictionaries(st.sampled_from(KINDS), st.lists(day, min_size=1, max_size=2).map(tuple))
    catalog = Catalog(conn, CLASSES)
    try:
        groups = [catalog.aggregation(data.draw(events)) for _ in range(3)]
        for _ in range(12):
            classes = data.draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
            keep = data.draw(st.integers(0, 4)) == 0
            facts = RecordFacts(
                tuple(classes if keep else classes[:1]),
                received=data.draw(day),
                document_date=data.draw(maybe),
                modified=data.draw(maybe),
                tagged=data.draw(maybe),
            )
            own = data.draw(events) if data.draw(st.integers(0, 3)) == 0 else {}
            group = data.draw(st.sampled_from([None, *groups]))
            catalog.record(facts, group, own, held=data.draw(st.integers(0, 9)) == 0)
        expected = {key for key, facts in catalog.facts.items() if decide(facts, plan, as_of).due}
        found = list(eligibility.due_records(conn, plan, as_of))
        assert {row.record_id for row in found} == expected
        per_class: dict[str, tuple[int, int]] = {}
        for row in found:
            count, size = per_class.get(row.class_id, (0, 0))
            per_class[row.class_id] = (count + 1, size + row.bytes)
        counted = {row.class_id: (row.records, row.bytes) for row in eligibility.due(conn, plan, as_of)}
        assert counted == per_class
    finally:
        conn.rollback()


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
            catalog.record(facts, group, {}, held=False)
            until = date.fromisoformat(kept_until)
            assert eligibility.due(conn, plan, until) == []
            (row,) = eligibility.due(conn, plan, until + DAY)
            assert (row.class_id, row.records, row.bytes) == (class_id, 1, 1)
        finally:
            conn.rollback()


def test_what_is_being_destroyed_or_suspended_or_of_no_class_is_not_due(conn: Connection) -> None:
    plan = load(SAMPLE)
    catalog = Catalog(conn, ("IL-SEC-010", "unclassified", "class-of-another-schedule"))
    old, day = date(1990, 1, 1), date(2026, 1, 1)
    try:
        for class_id in catalog.keys:
            catalog.record(RecordFacts((class_id,), received=old), None, {}, held=False)
        (row,) = eligibility.due(conn, plan, day)
        assert (row.class_id, row.records, row.unverified) == ("IL-SEC-010", 1, ("il-security-logs",))
        (found,) = eligibility.due_records(conn, plan, day)
        conn.execute("UPDATE records SET special = true WHERE record_id = %s", (found.record_id,))
        assert len(eligibility.due(conn, plan, day)) == 1
        values = (uuid4(), found.record_id, old, None, NOW, uuid4())
        conn.execute("INSERT INTO suspensions VALUES (%s, %s, %s, %s, %s, %s)", values)
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
