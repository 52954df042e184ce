"""Whoever changes the catalog past the history is found, and the row and the column are named: every table, every
column, at random. TAMPERINGS=10000 tries more than the suite has time for."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from retention import verification
from retention.archive import open_archive
from retention.config import Settings
from retention.database import Connection
from retention.embedded import Services
from retention.verification import tables
from retention.verification.projections import PROJECTIONS
from retention.verification.tables import Projection
from tests.archive_builder import enrol, load
from tests.integration.test_life import PERSONAL, everything
from tests.tampering import column_types, columns_of, deleted, flipped, other, some_row, without_checks

Clock = Callable[[], datetime]
ROUNDS = int(os.environ.get("TAMPERINGS", "200"))

# Tables that no event tells row by row, and what checks them instead.
EMPTY = {"record_labels"}  # nothing writes it yet
ELSEWHERE = {
    "events": "entries, against what was signed",
    "ledger_head": "entries",
    "ledger_checkpoints": "entries, against their signatures",
    "schema_migrations": "verification.check_migrations",
    "descriptors": "sealed, against the vault",
    "descriptor_lines": "sealed, against the vault",
    "descriptions": "sealed, made once more",
    "descriptions_complete": "nothing hangs on it but a rebuild",
    "subject_keys": "sealed, by opening what it is the key of",
    "key_buckets": "sealed, against the key safe",
    "pseudonyms": "sealed",
    "queries": "sealed",
    "sightings": "sealed",
    "belongs_to": "another safe's is refused when the archive is opened",
    "classes": "numbers of words: another word shows in each row that has the number",
    "trigger_kinds": "numbers of words, as classes",
    "auditor_classes": "auditors.check, which knows the roles by their pseudonyms",
}


@pytest.fixture
def tampering(settings: Settings, services: Services, tmp_path: Path, clock: Clock) -> Iterator[Connection]:
    """The catalog of an archive to which everything happened, for one who may do everything to it."""
    (tmp_path / "vault").mkdir()
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", agent="Noa Bar")
    with open_archive(named, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        everything(archive, clock, tmp_path)
    url = f"{services.superuser_url.rpartition('/')[0]}/{settings.database_url.rpartition('/')[2]}"
    with psycopg.connect(url, options="-c timezone=UTC") as conn:
        conn.execute("SET session_replication_role = replica")  # no trigger, no foreign key
        without_checks(conn)
        tables.tell_history(conn, [])
        yield conn


@dataclass(frozen=True)
class Way:
    """One kind of change; `named` is what the problem must say besides the table."""

    said: str
    of: Projection
    named: str
    tamper: Callable[[], None]


def inserted(conn: Connection, one: Projection, types: dict[tuple[str, str], str], chance: random.Random) -> None:
    """A copy of a row under another key."""
    ctid = some_row(conn, one.table, chance)
    columns = columns_of(conn, one.table)
    values = [
        other(types[one.table, c], c) if c in one.key else sql.SQL("{}").format(sql.Identifier(c)) for c in columns
    ]
    query = sql.SQL("INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {2} FROM {0} WHERE ctid = {3}::tid").format(
        sql.Identifier(one.table), sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(values), ctid
    )
    assert conn.execute(query).rowcount == 1


def found(conn: Connection, one: Projection) -> list[str]:
    return [str(problem) for problem in tables.compare(conn, one)]


def test_every_column_of_every_table_is_checked(tampering: Connection) -> None:
    told = {one.table: {*one.key, *one.columns, *one.elsewhere} for one in PROJECTIONS}
    for table, column in column_types(tampering):
        if table not in ELSEWHERE:
            assert column in told.get(table, set()), f"{table}.{column}: say which event tells it, or what checks it"
    assert len(told) == len(PROJECTIONS), "each table once"


def test_what_nobody_changed_is_as_it_was_told(tampering: Connection) -> None:
    for one in PROJECTIONS:
        assert found(tampering, one) == []
        empty = some_row(tampering, one.table, random.Random(0)) is None
        assert empty == (one.table in EMPTY), f"{one.table} is empty: nothing is shown for it"


def ways_of(conn: Connection, types: dict[tuple[str, str], str], chance: random.Random) -> list[Way]:
    """Every kind of change to every table."""
    ways = []
    for one in PROJECTIONS:
        if one.table in EMPTY | {"run_batches", "hold_flags"}:  # which have tests of their own
            continue
        ways.append(Way(f"a row of {one.table} deleted", one, "missing", partial(deleted, conn, one.table, chance)))
        if any((one.table, c) in types for c in one.key):
            tamper = partial(inserted, conn, one, types, chance)
            ways.append(Way(f"a row of {one.table} inserted", one, "", tamper))
        for c in columns_of(conn, one.table):
            if c not in one.elsewhere and (not one.found or c in (*one.key, *one.columns)):
                tamper = partial(flipped, conn, one.table, c, types[one.table, c], chance)
                ways.append(Way(f"{one.table}.{c} changed", one, "" if c in one.key else c, tamper))
    return ways


def test_every_change_is_found_and_named(tampering: Connection) -> None:
    conn, chance = tampering, random.Random(20261123)
    ways = ways_of(conn, column_types(conn), chance)
    for way in [*ways, *(chance.choice(ways) for _ in range(ROUNDS - len(ways)))]:
        conn.execute("SAVEPOINT before")
        way.tamper()
        problems = found(conn, way.of)
        assert problems, way.said
        assert all(f"table {way.of.table}" in problem for problem in problems), way.said
        assert any(way.named in problem for problem in problems), (way.said, problems)
        conn.execute("ROLLBACK TO before")


def test_the_batches_of_a_run_that_ended(tampering: Connection) -> None:
    """They are told by one digest, so that the run is named."""
    one = next(one for one in PROJECTIONS if one.table == "run_batches")
    ended = tampering.execute(
        "SELECT run_id FROM run_batches JOIN runs USING (run_id) WHERE state = 'complete' LIMIT 1"
    )
    ((run,),) = ended.fetchall()
    for change in (
        "UPDATE run_batches SET known = known + 1 WHERE run_id = %s",
        "UPDATE run_batches SET committed_at = committed_at + interval '1 microsecond' WHERE run_id = %s",
        "UPDATE run_batches SET expectations = '[1]' WHERE run_id = %s",
        "UPDATE run_batches SET batch = batch + 1 WHERE run_id = %s",
        "DELETE FROM run_batches WHERE run_id = %s",
    ):
        tampering.execute("SAVEPOINT before")
        tampering.execute(change.encode(), (run,))
        assert [f"table run_batches, row {run}" in problem for problem in found(tampering, one)] == [True], change
        tampering.execute("ROLLBACK TO before")


def test_what_makes_a_record_special_must_find_it_marked(tampering: Connection) -> None:
    assert verification.check_marks(tampering) == []
    tampering.execute("UPDATE records SET special = false")
    assert len(verification.check_marks(tampering)) >= 1


def test_the_flags_that_holds_ask_for(tampering: Connection) -> None:
    """One that is no longer wanted may stay or go; one that is wanted may not, and no other may be."""
    one = next(one for one in PROJECTIONS if one.table == "hold_flags")
    some = "WHERE subject_id = (SELECT subject_id FROM hold_flags WHERE wanted LIMIT 1)"
    for change in (
        f"UPDATE hold_flags SET wanted = false {some}",
        f"DELETE FROM hold_flags {some}",
        "INSERT INTO hold_flags (subject_id, wanted, queued_at) VALUES (gen_random_uuid(), true, now())",
    ):
        tampering.execute("SAVEPOINT before")
        assert tampering.execute(change.encode()).rowcount == 1, change
        assert len(found(tampering, one)) == 1, change
        tampering.execute("ROLLBACK TO before")


def test_words_that_have_numbers(tampering: Connection) -> None:
    """A class or kind of event that is renamed, or that exchanges its number with another, shows where it is used."""
    used = {
        "classes": ("class_key", "class_id", "SELECT class_key FROM records"),
        "trigger_kinds": ("ordinal", "kind", "SELECT kind FROM trigger_events WHERE kind IS NOT NULL"),
    }
    for table, (number, word, numbers) in used.items():
        rows = tampering.execute(
            f"SELECT {number}, {word} FROM {table} WHERE {number} IN ({numbers})".encode()
        ).fetchall()
        assert len(rows) > 1, f"two of {table} in use"
        (one, name), (two, other_name) = rows[:2]
        for renamed in ({one: f"{name}x"}, {one: other_name, two: name}):
            tampering.execute("SAVEPOINT before")
            for key, to in renamed.items():
                tampering.execute(f"UPDATE {table} SET {word} = %s WHERE {number} = %s".encode(), (to, key))
            problems = [problem for projection in PROJECTIONS for problem in found(tampering, projection)]
            assert problems, (table, renamed)
            tampering.execute("ROLLBACK TO before")


def test_what_auditors_see_unasked_is_what_the_schedule_opens(tampering: Connection) -> None:
    assert list(verification.check_open_classes(tampering)) == []
    tampering.execute("UPDATE schedule_versions SET open_classes = open_classes || 'PERSON'::text WHERE version = 1")
    assert ["open_classes" in str(one) for one in verification.check_open_classes(tampering)] == [True]
    tampering.execute("UPDATE schedule_versions SET document = 'x: [' WHERE version = 1")
    assert ["document" in str(one) for one in verification.check_open_classes(tampering)] == [True]
