"""A catalog that is gone, rebuilt from vault, ledger and key safe: every table and every event, beside the catalog
that was there before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from retention import descriptors, verification
from retention.archive import open_archive
from retention.config import Settings
from retention.embedded import Services
from retention.errors import Damaged, MunimentError, Refused, UsageError
from retention.history import publishing
from retention.recovery import rebuild
from retention.tlog import note
from tests.archive_builder import Document, capture_all, enrol, load
from tests.integration.test_life import PERSONAL, everything
from tests.table_rows import Rows, rows_of

Clock = Callable[[], datetime]

# What is in no copy without a dump: rows of whole tables, and columns of others. Beside each why.
GONE = {
    "auditor_classes",  # what an auditor may read is granted anew: unknown means closed
    "current_triggers",  # days that only sealed lines have
    "descriptions",  # made of sealed lines
    "descriptions_complete",
    "queries",  # words of searches
    "run_batches",  # told by one digest
    "sightings",  # reckoned from sealed lines
    "subject_keys",  # in no copy, but those that stand beside what is locked: what they open is closed
    "trigger_events",
}
EMPTY = {
    "approvers": {"public_key"},  # the history has its fingerprint
    "contents": {"content"},  # reckoned from a sealed line
    "proposals": {"statement", "payload"},  # the history has their digests
    "pseudonyms": {"sealed_name"},
    "signatures": {"signature"},
    "tombstones": {"content"},
}
# What was written down beside it, and decides nothing: queues begin anew, numbers of words are anybody's.
ANEW = {
    "classes": {"class_key"},
    "descriptors": {"recorded_at"},
    "hold_flags": {"actual", "queued_at", "read_back_at", "attempts", "error"},
    "key_buckets": {"recorded_at"},
    "ledger_checkpoints": {"recorded_at"},
    "key_objects": {"locked_at"},
    "object_locks": {"actual_until", "queued_at", "read_back_at", "attempts", "error"},
    "pseudonyms": {"recorded_at"},
    "records": {"special"},  # of what is kept, compared by `verify`
    "trigger_kinds": {"ordinal"},
}


@dataclass(frozen=True)
class Lost:
    """An archive to which everything happened; `before` are its tables, `settings` name an empty catalog for it."""

    settings: Settings
    before: Rows
    key: str  # of the ledger
    locked: set[str]  # records whose keys stand beside them in the vault


@pytest.fixture
def lost(settings: Settings, services: Services, template: str, tmp_path: Path, clock: Clock) -> Iterator[Lost]:
    (tmp_path / "vault").mkdir()
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", agent="Noa Bar")
    with open_archive(named, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        everything(archive, clock, tmp_path)
        publishing.publish(archive, clock())
    before = rows_of(settings)
    name = f"test_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY")
    owner = settings.database_owner_url or ""
    yield Lost(
        replace(
            named,
            database_url=f"{settings.database_url.rpartition('/')[0]}/{name}",
            database_owner_url=f"{owner.rpartition('/')[0]}/{name}",
        ),
        before,
        before.column("ledger_keys", "vkey")[0],
        {one for kept in before.column("key_objects", "subjects") for one in kept.strip("{}").split(",")},
    )
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_every_table_is_what_it_was_but_for_what_no_copy_has(lost: Lost, clock: Clock) -> None:
    found = rebuild(lost.settings, [note.parse_vkey(lost.key)], clock())
    assert (found.problems, found.assumed) == ([], False)
    there = rows_of(lost.settings)
    for table in lost.before.tables:
        if table == "subject_keys":
            assert set(there.column(table, "subject_id")) == lost.locked
            continue
        if table in GONE:
            assert there.tables[table].rows == [], table
            continue
        hidden = EMPTY.get(table, set()) | ANEW.get(table, set())
        expected = lost.before.without(table, hidden)
        # names that a row of the catalog refers to, and buckets that have a key: the others say no more
        if table in ("pseudonyms", "key_buckets"):
            assert set(there.without(table, hidden)) <= set(expected)
            continue
        assert there.without(table, hidden) == expected, table
        for column in EMPTY.get(table, ()):
            assert set(there.column(table, column)) == {"None"}, (table, column)
    assert found.records == len(there.tables["records"].rows)
    assert found.unreadable == there.column("records", "state").count("1") - len(lost.locked) > 0 < len(lost.locked)


def test_verify_names_what_no_copy_has_and_nothing_else(lost: Lost, clock: Clock) -> None:
    rebuild(lost.settings, (), clock())
    with open_archive(lost.settings, clock()) as archive:
        problems = verification.verify(archive).problems
    named = Counter((one.path.removeprefix("table ").partition(",")[0], _kind(one.said)) for one in problems)
    before = lost.before
    kept = before.column("records", "state").count("1")
    inside = sum(
        state == "1" and parent != "None"
        for state, parent in zip(before.column("records", "state"), before.column("records", "parent_id"), strict=True)
    )
    assert kept and not inside
    assert named == {
        ("run_batches", "batches"): before.column("runs", "state").count("complete")
        + before.column("runs", "state").count("interrupted")
        - 1,  # one that was interrupted before it began had no batch
        # of one that lapsed nothing was worded
        ("proposals", "statement"): sum(one != "None" for one in before.column("proposals", "statement")),
        ("signatures", "signature"): len(before.tables["signatures"].rows),
        ("approvers", "public_key"): len(before.tables["approvers"].rows),
        ("trigger_events", "missing"): 2,
        ("auditor_classes", "missing"): len(before.tables["auditor_classes"].rows),
        ("pseudonyms", "sealed_name"): named["pseudonyms", "sealed_name"],
        ("contents", "its key"): kept - len(lost.locked),
        ("quarantine", "its key"): before.column("quarantine", "key_destroyed_at").count("None"),
        ("aggregations", "its key"): 2,
        ("contents", "its row"): kept - 1,  # one was superseded: the place is that of its next version
        ("quarantine", "its row"): named["quarantine", "its row"],
        ("descriptions", "missing"): len(lost.locked),  # they open; what describes them is made anew afterwards
        ("contents", "content"): len(lost.locked),
    }


def _kind(said: str) -> str:
    """Which column, or which of the questions."""
    first = said.partition(":")[0].partition(" ")
    return " ".join(said.split()[:2]) if first[0] == "its" else first[0]


def test_the_archive_goes_on(lost: Lost, clock: Clock, tmp_path: Path) -> None:
    """Who uses it has a name again, what comes in is kept, the ledger is published on, and nothing twice."""
    rebuild(lost.settings, (), clock())
    with open_archive(lost.settings, clock()) as archive:
        assert descriptors.rebuild(archive).failures == ()
        (record,) = capture_all(archive, [Document("LONG", "after the disaster")], clock, tmp_path / "again")
        before = len(lost.before.tables["events"].rows)
        assert publishing.publish(archive, clock()).before == before
        named = {one.path for one in verification.verify(archive).problems}
    assert not any(str(record) in path for path in named)
    assert sum("pseudonyms" in path for path in named) < len(lost.before.tables["pseudonyms"].rows) - 2
    with pytest.raises(Refused, match="refusing to recover into a catalog that is in use"):
        rebuild(lost.settings, (), clock())


@pytest.mark.parametrize("what", ["entry", "tile", "checkpoint"])
def test_a_ledger_that_is_not_whole_is_refused(lost: Lost, clock: Clock, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "vault/ledger" / {"entry": "tile/entries", "tile": "tile/0", "checkpoint": ""}[what]
    path = folder / what if what == "checkpoint" else min(path for path in folder.rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(MunimentError):
        rebuild(lost.settings, [note.parse_vkey(lost.key)], clock())
    assert rows_of(lost.settings).tables["events"].rows == []


def test_a_ledger_of_somebody_else_is_refused(lost: Lost, clock: Clock) -> None:
    other = note.parse_skey(note.skey("records.example.org/ledger", note.ED25519, bytes(32))).verifier
    with pytest.raises((Damaged, Refused)):
        rebuild(lost.settings, [other], clock())
    assert rows_of(lost.settings).tables["events"].rows == []


def test_without_its_key_safe_nothing_is_begun(lost: Lost, clock: Clock) -> None:
    (lost.settings.keys / "safe.age").unlink()
    with pytest.raises(UsageError, match="Restore them from their backup"):
        rebuild(lost.settings, (), clock())


def test_a_lost_connection_leaves_the_catalog_empty(lost: Lost, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retention.recovery.tables._fill_days", cut)
    with pytest.raises(KeyboardInterrupt):
        rebuild(lost.settings, (), clock())
    monkeypatch.undo()
    assert rows_of(lost.settings).tables["events"].rows == []
    assert rebuild(lost.settings, (), clock()).size == len(lost.before.tables["events"].rows)
