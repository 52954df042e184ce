"""`muniment verify`: an archive to which everything happened is whole, and whatever is changed in it is named."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg
import pytest

from retention import reading, verification
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import Connection, transaction
from retention.embedded import Services
from retention.history import keys, publishing
from retention.history.offline import Verified
from retention.reading import Reader
from retention.verification import Verification, entries, sealed, tables, verify
from tests.archive_builder import enrol, load
from tests.integration.test_life import PERSONAL, everything
from tests.tampering import column_types, columns_of, deleted, flipped, without_checks

Clock = Callable[[], datetime]


@dataclass
class Whole:
    archive: Archive
    vault: Path
    conn: Connection  # of one who may do everything

    def problems(self) -> list[str]:
        return [str(problem) for problem in verify(self.archive).problems]


@pytest.fixture
def whole(settings: Settings, services: Services, tmp_path: Path, clock: Clock) -> Iterator[Whole]:
    (tmp_path / "vault").mkdir()
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", agent="Noa Bar")
    url = f"{services.superuser_url.rpartition('/')[0]}/{settings.database_url.rpartition('/')[2]}"
    with open_archive(named, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        everything(archive, clock, tmp_path)
        publishing.publish(archive, clock())
        with psycopg.connect(url, options="-c timezone=UTC") as conn:
            conn.execute("SET session_replication_role = replica")
            conn.commit()
            yield Whole(archive, tmp_path / "vault", conn)


def test_an_archive_to_which_everything_happened(whole: Whole) -> None:
    found = verify(whole.archive)
    assert [str(problem) for problem in found.problems] == []
    assert (
        isinstance(found, Verification) and found.size == found.published and found.checkpoints == 4
    )  # with `checkpoint`


# ---------------------------------------------------------------- the vault


def files(vault: Path, folder: str) -> list[Path]:
    return sorted(path for path in (vault / folder).rglob("*") if path.is_file())


def flipped_at(chance: random.Random) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]

    return change


def another(paths: list[Path]) -> Callable[[bytes], bytes]:
    """The bytes of another file."""
    return lambda content: next(other for path in paths if (other := path.read_bytes()) != content)


def test_whatever_is_changed_in_the_vault_is_named(whole: Whole) -> None:
    chance = random.Random(23)
    for folder in ("records", "quarantine", "descriptors", "ledger"):
        ways: dict[str, Callable[[bytes], bytes] | None] = {
            "flip": flipped_at(chance),
            "cut": lambda content: content[:-1],
            "longer": lambda content: content + b"\0",
            "swap": another(files(whole.vault, folder)),
            "delete": None,
        }
        for way, tamper in ways.items():
            paths = files(whole.vault, folder)
            if tamper is None:  # an older partial tile may go: nobody needs it
                paths = [path for path in paths if ".p" not in path.parent.suffix]
            path = chance.choice(paths)
            before, mode = path.read_bytes(), path.stat().st_mode
            path.chmod(0o600)
            if tamper:
                path.write_bytes(tamper(before))
            else:
                path.unlink()
            key = str(path.relative_to(whole.vault))
            problems = whole.problems()
            assert any(key in problem for problem in problems), (way, key, problems)
            path.unlink(missing_ok=True)
            path.write_bytes(before)
            path.chmod(mode)
    assert whole.problems() == []
    for folder in ("records", "descriptors", "ledger"):
        added = whole.vault / folder / "somebody" / "put"
        added.parent.mkdir()
        added.write_bytes(b"it here")
        assert [f"{folder}/somebody/put" in problem for problem in whole.problems()] == [True]
        added.unlink()
        added.parent.rmdir()


# ---------------------------------------------------------------- entries, the head, what was signed


EVENTS = {
    "an entry": "UPDATE events SET entry = set_bit(entry, 300, 1 - get_bit(entry, 300)) WHERE position = 7",
    "a hash": "UPDATE events SET leaf_hash = set_bit(leaf_hash, 3, 1 - get_bit(leaf_hash, 3)) WHERE position = 7",
    "its type": "UPDATE events SET type = 'cap' WHERE position = 7",
    "its time": "UPDATE events SET recorded_at = recorded_at + interval '1 microsecond' WHERE position = 7",
    "an event removed": "DELETE FROM events WHERE position = 7",
    "two entries exchanged": "UPDATE events SET entry = o.entry FROM events o "
    "WHERE (events.position, o.position) IN ((7, 8), (8, 7))",
    "two events exchanged": "UPDATE events SET entry = o.entry, leaf_hash = o.leaf_hash, type = o.type, "
    "recorded_at = o.recorded_at FROM events o WHERE (events.position, o.position) IN ((7, 8), (8, 7))",
    "entry and hash": "UPDATE events SET entry = e.entry, leaf_hash = e.leaf_hash, type = e.type, "
    "recorded_at = e.recorded_at FROM events e WHERE events.position = 7 AND e.position = 8",
    "the head": "UPDATE ledger_head SET size = size + 1",
    "its frontier": "UPDATE ledger_head SET frontier[1] = set_bit(frontier[1], 0, 1 - get_bit(frontier[1], 0))",
    "a checkpoint": "UPDATE ledger_checkpoints SET root = set_bit(root, 0, 1 - get_bit(root, 0))",
    "its note": "UPDATE ledger_checkpoints SET note = set_bit(note, 900, 1 - get_bit(note, 900))",
    "a trigger off": "ALTER TABLE events DISABLE TRIGGER events_append_only",
    "a trigger gone": "DROP TRIGGER events_append_only ON events",
    "a migration": "UPDATE schema_migrations SET name = 'another' WHERE number = 1",
}


def looked(whole: Whole, published: Verified) -> list[str]:
    """What `verify` looks at of the history, in the transaction that is changing it."""
    with transaction(whole.archive.connections) as conn:
        known = keys.all_keys(conn)
    there = entries.check(whole.conn, [published.size])
    notes = entries.check_notes(whole.conn, there, known[0].origin, [key.verifier for key in known])
    beginning = verification.check_beginning(whole.conn, whole.archive.vault, there, published)
    found = [*there.problems, *notes, *beginning]
    found += [*verification.check_migrations(whole.conn), *verification.check_guards(whole.conn)]
    return [str(problem) for problem in found]


def test_whatever_is_changed_in_the_history_is_named(whole: Whole) -> None:
    with transaction(whole.archive.connections) as conn:
        ((size, root),) = conn.execute(
            "SELECT size, root FROM ledger_checkpoints ORDER BY size DESC LIMIT 1"
        ).fetchall()
    published = Verified(size, bytes(root))
    for said, statement in EVENTS.items():
        whole.conn.execute(statement.encode())
        problems = looked(whole, published)
        named = re.search(r"events|ledger_head|ledger_checkpoints|schema_migrations", statement)
        assert named and any(f"table {named[0]}" in problem for problem in problems), (said, problems)
        if "= 7" in statement or "(7, 8)" in statement:
            assert any("table events, position 7" in problem for problem in problems), (said, problems)
        whole.conn.rollback()
        whole.conn.execute("SET session_replication_role = replica")
        whole.conn.commit()
    assert looked(whole, published) == []


# ---------------------------------------------------------------- what is sealed, and what is reckoned from it

# Columns of tables that no event tells; each, but those that are named beside it.
SEALED = {
    "descriptors": {"recorded_at", "version"},
    "descriptor_lines": set[str](),
    "subject_keys": set[str](),
    "key_buckets": {"recorded_at"},
    "pseudonyms": {"recorded_at"},
    "descriptions": set[str](),
    "sightings": {"revision", "first_seen", "last_seen"},
    "queries": {"recorded_at"},
}


def unsealed(whole: Whole) -> list[str]:
    """In the transaction that has `history`."""
    return [str(problem) for problem in sealed.check(whole.conn, whole.archive, describe=False)]


def test_whatever_is_changed_of_what_is_sealed_is_named(whole: Whole) -> None:
    chance, types = random.Random(5), column_types(whole.conn)
    reading.find(whole.archive, "letter", None, 10, Reader("unstated", datetime(2027, 1, 1, tzinfo=UTC)))
    tables.tell_history(whole.conn, [])
    with undone(whole.conn):
        assert unsealed(whole) == []
    for table, apart in SEALED.items():
        changes: dict[str, Callable[[], None]] = {"deleted": partial(deleted, whole.conn, table, chance)}
        for column in columns_of(whole.conn, table):
            if column not in apart:
                kind = types[table, column]
                changes[column] = partial(flipped, whole.conn, table, column, kind, chance)
        for said, tamper in changes.items():
            with undone(whole.conn):
                without_checks(whole.conn)
                if (table, said) == ("key_buckets", "deleted"):  # one in use: on one that was emptied hangs nothing
                    some = "(SELECT bucket_id FROM subject_keys ORDER BY 1 LIMIT 1)"
                    whole.conn.execute(f"DELETE FROM key_buckets WHERE bucket_id = {some}".encode())
                else:
                    tamper()
                problems = unsealed(whole)
            assert problems, (table, said)
            assert any(table in problem for problem in problems) or said == "deleted", (table, said, problems)
    for table, column in (("contents", "content"), ("request_answers", "until")):
        with undone(whole.conn):
            flipped(whole.conn, table, column, types[table, column], chance)
            problems = unsealed(whole)
        assert any(f"table {table}" in problem and column in problem for problem in problems), table


@contextmanager
def undone(conn: Connection) -> Iterator[None]:
    """Whatever the block does to the tables, with no trigger in the way, is undone; what was there before it stays."""
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL session_replication_role = replica")
        yield
