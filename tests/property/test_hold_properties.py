"""The scope of a hold in SQL means what a few lines of Python say, and when a record arrives does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from random import Random
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention import descriptors, holds
from retention.database import Connection
from retention.embedded import Services
from retention.holds.scopes import Named, Scope, predicate
from tests.deposits import Doc, described

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2020, 1, n) for n in range(1, 6)]
CLASSES = ("A", "B")
WORDS = ("alpha", "beta", "gamma")
AUTHORS = (None, "Ann Levi", "Ben Katz")
CASES = [uuid4(), uuid4()]


@dataclass(frozen=True)
class Record:
    """A record as the model has it."""

    id: UUID
    parent: UUID | None
    class_id: str
    label: str | None
    case: UUID | None
    received: date
    documented: date | None
    state: int
    described: bool
    author: str | None
    text: str
    code: str | None

    @property
    def unread(self) -> bool:
        return not self.described or not self.text or self.code is not None


def in_scope(scope: Scope, named: Named, r: Record) -> bool:
    day = r.documented or r.received
    return all(
        (
            not scope.records or r.id in scope.records,
            not scope.classes or {r.class_id, r.label} & set(named.classes),
            not scope.aggregations or r.case in named.aggregations,
            not scope.since or day >= scope.since,
            not scope.until or day <= scope.until,
            scope.text is None or r.unread or set(scope.text.split()) <= set(r.text.split()),
            not scope.custodians
            or not r.described
            or (r.author is None and r.unread)
            or any(name.lower() in (r.author or "").lower() for name in scope.custodians),
        )
    )


def families(records: list[Record]) -> list[list[Record]]:
    roots = {r.id: r.id for r in records}
    for r in records:  # a parent comes before its children
        if r.parent:
            roots[r.id] = roots[r.parent]
    return [[r for r in records if roots[r.id] == root] for root in dict.fromkeys(roots.values())]


def some_records(chance: Random) -> list[Record]:
    made: list[Record] = []
    for _ in range(25):
        parent = chance.choice(made) if made and chance.random() < 0.4 else None
        made.append(
            Record(
                uuid4(),
                parent.id if parent else None,
                chance.choice(CLASSES),
                chance.choice(CLASSES) if chance.random() < 0.2 else None,
                chance.choice([None, *CASES]),
                chance.choice(DAYS),
                chance.choice([None, *DAYS]),
                chance.choice([1, 1, 1, 1, 2, 3]),
                chance.random() < 0.85,
                chance.choice(AUTHORS),
                " ".join(chance.sample(WORDS, chance.randint(0, 3))),
                "PDF-ENCRYPTED" if chance.random() < 0.1 else None,
            )
        )
    return made


@pytest.fixture(scope="module")
def conn(services: Services, template: str) -> Iterator[Connection]:
    """A connection to a migrated database; each test rolls back what it wrote."""
    name = f"hold_scopes_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner")
        with psycopg.connect(services.owner_url.rsplit("/", 1)[0] + f"/{name}") as connection:
            yield connection
            connection.rollback()
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


def insert(conn: Connection, records: list[Record]) -> None:
    keys: dict[str, int] = dict(conn.execute("SELECT class_id, class_key FROM classes").fetchall())
    for r in records:
        conn.execute(
            "INSERT INTO records (record_id, aggregation_id, bytes, recorded_at, received, document_date, class_key, "
            "state, parent_id) VALUES (%s, %s, 1, %s, %s, %s, %s, %s, %s)",
            (r.id, r.case, NOW, r.received, r.documented, keys[r.class_id], r.state, r.parent),
        )
        if r.label:
            conn.execute("INSERT INTO record_labels VALUES (%s, %s, %s)", (r.id, keys[r.label], NOW))
        if r.code:
            conn.execute("INSERT INTO findings VALUES (%s, %s, 'warn')", (r.id, r.code))
        if r.described:
            descriptors.describe(conn, [(r.id, 1, "record", described(Doc(r.text, author=r.author), "inbox"))])


def hold(conn: Connection) -> UUID:
    hold_id = uuid4()
    conn.execute(
        "INSERT INTO holds (hold_id, recorded_at, recorded_by, mode, review_on) VALUES (%s, %s, %s, 'dynamic', %s)",
        (hold_id, NOW, uuid4(), NOW.date()),
    )
    return hold_id


def members(conn: Connection, hold_id: UUID) -> set[UUID]:
    return {row[0] for row in conn.execute("SELECT record_id FROM hold_members WHERE hold_id = %s", (hold_id,))}


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


@given(
    seed=st.integers(0, 2**32),
    picks=st.lists(st.integers(0, 24), max_size=3),
    classes=some(CLASSES),
    cases=some(("case:0", "case:1")),
    custodians=some(("ANN", "katz")),
    since=st.sampled_from([None, *DAYS]),
    until=st.sampled_from([None, *DAYS]),
    text=st.sampled_from([None, "alpha", "alpha beta"]),
)
@settings(max_examples=25)
def test_sql_agrees_with_the_words_and_the_moment_of_arrival_does_not_matter(
    conn: Connection,
    seed: int,
    picks: list[int],
    classes: tuple[str, ...],
    cases: tuple[str, ...],
    custodians: tuple[str, ...],
    since: date | None,
    until: date | None,
    text: str | None,
) -> None:
    chance = Random(seed)
    records = some_records(chance)
    scope = Scope(
        records=tuple(records[n].id for n in picks),
        classes=classes,
        aggregations=cases,
        custodians=custodians,
        since=since,
        until=until,
        text=text,
    )
    named = Named(classes, tuple(CASES[int(name[-1])] for name in cases))
    asked = predicate(scope, named)
    try:
        conn.execute("INSERT INTO classes (class_id) SELECT unnest(%s::text[])", (list(CLASSES),))
        for case in CASES:
            conn.execute("INSERT INTO aggregations VALUES (%s, %s, 'case')", (case, NOW))
        hit = {r.id for r in records if in_scope(scope, named, r) and (r.state < 3 or r.id in scope.records)}
        whole = [r for family in families(records) if any(r.id in hit for r in family) for r in family]
        expected = {r.id for r in whole if r.state == 1}
        late = {r.id for r in whole if r.state == 2 or (r.state == 3 and r.id in scope.records)}

        first, arriving = list[list[Record]](), list[list[Record]]()
        for family in families(records):
            (first if chance.random() < 0.5 else arriving).append(family)
        before, between, after = hold(conn), hold(conn), hold(conn)
        holds._take_in(conn, before, asked, NOW)
        insert(conn, [r for family in first for r in family])
        holds._take_in(conn, before, asked, NOW, [r.id for family in first for r in family])
        holds._take_in(conn, between, asked, NOW)
        for family in arriving:
            insert(conn, family)
            for hold_id in (before, between):
                holds._take_in(conn, hold_id, asked, NOW, [r.id for r in family])
        taken = holds._take_in(conn, after, asked, NOW)
        assert set(taken.too_late) == late
        assert members(conn, after) == expected
        assert members(conn, between) == expected
        assert members(conn, before) == expected
        assert holds._take_in(conn, after, asked, NOW).added == 0
    finally:
        conn.rollback()
