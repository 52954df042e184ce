"""The published ledger: whole for any tlog-tiles client, never forked, gone on with after a crash at any write."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from retention import ledger, merkle
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.errors import Damaged, NotFound, Refused, ServiceUnavailable, UsageError
from retention.history import keys, publishing
from retention.history.handover import INTRODUCED, trusted
from retention.history.publishing import CHECKPOINT, COPIES, FOLDER
from retention.ledger import Event
from retention.tlog import checkpoint, tiles
from retention.tlog.checkpoint import Checkpoint
from retention.tlog.tiles import ENTRIES, Tile
from retention.vault.base import Stored, Vault
from tests.owning import owning

ORIGIN = "records.example.org/ledger"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def append(archive: Archive, count: int) -> None:
    events = [Event("fix", AT, archive.agent, (uuid4(),), detail={"number": n}) for n in range(count)]
    with transaction(archive.connections) as conn:
        ledger.append(conn, events, AT)


def execute(archive: Archive, query: Any, *params: Any) -> None:
    with owning(archive) as conn:
        for table in ("events", "event_subjects"):  # past the triggers, as an owner could
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        conn.execute(query, params)
        for table in ("events", "event_subjects"):
            conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def head(archive: Archive) -> tuple[int, bytes]:
    with transaction(archive.connections) as conn:
        return ledger.head(conn)


def entries(archive: Archive) -> list[bytes]:
    with transaction(archive.connections) as conn:
        return [row[0] for row in conn.execute("SELECT entry FROM events ORDER BY position")]


def read(vault: Vault, key: str) -> bytes:
    with vault.open(key) as file:
        return file.read()


def opened(archive: Archive) -> Checkpoint:
    with transaction(archive.connections) as conn:
        verifiers = [key.verifier for key in keys.all_keys(conn)]
    return checkpoint.open_signed(read(archive.vault, CHECKPOINT), ORIGIN, verifiers).checkpoint


def is_whole(archive: Archive) -> None:
    """The folder alone gives every event back, and its tiles the signed root, as a client of ours reads it."""
    signed = opened(archive)
    assert (signed.size, signed.root) == head(archive)
    assert read(archive.vault, f"{COPIES}/{signed.size:020}") == read(archive.vault, CHECKPOINT)
    found: list[bytes] = []
    for tile in tiles.growth(0, signed.size):
        if tile.level == 0:
            bundle = Tile(ENTRIES, tile.index, tile.width)
            content = publishing.read_tile(archive.vault, bundle)
            assert b"".join(tiles.leaf_hashes(bundle, content)) == publishing.read_tile(archive.vault, tile)
            found += tiles.decode(bundle, content)
    assert found == entries(archive)
    node = tiles.node_reader(signed.size, lambda tile: publishing.read_tile(archive.vault, tile))
    assert merkle.root([node(*place) for place in merkle.subtrees(0, signed.size)]) == signed.root


@pytest.fixture
def ready(archive: Archive) -> Archive:
    keys.create(archive, ORIGIN, AT)
    return archive


# ---------------------------------------------------------------- keys


def test_the_first_key_is_made_once_and_kept_private(archive: Archive) -> None:
    with pytest.raises(NotFound, match="muniment ledger init"):
        publishing.publish(archive, AT)
    key = keys.create(archive, ORIGIN, AT)
    path = archive.settings.keys / key.kept_in.removeprefix("file:")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.signer(archive, key).verifier == key.verifier
    assert key.verifier.vkey.encode() in entries(archive)[-1] and b"PRIVATE" not in entries(archive)[-1]
    with pytest.raises(Refused, match="muniment ledger rotate"):
        keys.create(archive, ORIGIN, AT)
    path.unlink()
    with pytest.raises(NotFound, match="Restore the folder of keys"):
        publishing.publish(archive, AT)


@pytest.mark.parametrize("origin", ["", "two words", "https://example.org", "a+b", "x" * 256, "Übung"])
def test_what_is_no_origin_is_refused(archive: Archive, origin: str) -> None:
    with pytest.raises(UsageError, match="expected a name of your own"):
        keys.create(archive, origin, AT)


def test_a_key_of_another_is_not_used(ready: Archive) -> None:
    with transaction(ready.connections) as conn:
        key = keys.current(conn)
    path = ready.settings.keys / key.kept_in.removeprefix("file:")
    second = keys.rotate(ready, AT)
    path.with_name("swapped").write_text(path.read_text())
    (ready.settings.keys / second.kept_in.removeprefix("file:")).write_text(path.read_text())
    with pytest.raises(Damaged, match="found that of"):
        publishing.publish(ready, AT)


def test_the_first_key_vouches_for_the_last(ready: Archive) -> None:
    publishing.publish(ready, AT)
    with transaction(ready.connections) as conn:
        first = keys.current(conn).verifier
    last = [keys.rotate(ready, AT) for _ in range(2)][-1].verifier
    publishing.publish(ready, AT)
    is_whole(ready)
    introduced = [one for one in map(_detail, entries(ready)) if one.get("what") == INTRODUCED]
    assert trusted(ORIGIN, [first], introduced)[-1] == last
    assert trusted(ORIGIN, [last], introduced) == [last]
    stranger = {**introduced[1], "signed": introduced[2]["signed"]}
    with pytest.raises(Damaged, match="was not handed over"):
        trusted(ORIGIN, [first], [introduced[0], stranger])


def _detail(entry: bytes) -> dict[str, Any]:

    found: dict[str, Any] = json.loads(entry)["detail"]
    return found


# ---------------------------------------------------------------- publishing


def test_it_grows_and_publishing_again_changes_nothing(ready: Archive) -> None:
    for count in (1, 254, 1, 255, 300):
        append(ready, count)
        before = publishing.newest(ready.vault, _known(ready))
        done = publishing.publish(ready, AT)
        assert done.before == (before.size if before else 0) and done.size == head(ready)[0] and done.tiles
        is_whole(ready)
    objects = [(one.key, one.modified) for one in ready.vault.list(f"{FOLDER}/tile")]
    again = publishing.publish(ready, AT + timedelta(days=1))
    assert (again.size, again.tiles) == (done.size, 0)
    assert [(one.key, one.modified) for one in ready.vault.list(f"{FOLDER}/tile")] == objects
    assert len(list(ready.vault.list(COPIES))) == 5


def _known(archive: Archive) -> list[keys.LogKey]:
    with transaction(archive.connections) as conn:
        return keys.all_keys(conn)


def test_it_says_how_far_it_is(ready: Archive) -> None:
    append(ready, 299)  # and the key's event
    publishing.publish(ready, AT)
    append(ready, 40 * 256)
    told: list[tuple[int, int]] = []
    publishing.publish(ready, AT, lambda done, total: told.append((done, total)))
    assert told == sorted(told) and len(told) > 1
    assert 0 < told[0][0] < told[-1][0] == 40 * 256
    assert {total for _, total in told} == {40 * 256}
    told.clear()
    publishing.publish(ready, AT, lambda done, total: told.append((done, total)))
    assert told == []


def test_a_restored_database_is_not_published(ready: Archive) -> None:
    append(ready, 10)
    publishing.publish(ready, AT)
    published = opened(ready)
    with transaction(ready.connections) as conn:
        leaves = [row[0] for row in conn.execute("SELECT leaf_hash FROM events ORDER BY position LIMIT 6")]
    execute(ready, "DELETE FROM event_subjects WHERE position >= 6")
    execute(ready, "DELETE FROM events WHERE position >= 6")
    execute(ready, "UPDATE ledger_head SET size = 6, frontier = %s", merkle.append(0, [], leaves)[1])
    with pytest.raises(Refused, match="has 6 events, the published one 11"):
        publishing.publish(ready, AT)
    append(ready, 5)  # the same size again, with other events
    with pytest.raises(Refused, match="refusing to publish a fork"):
        publishing.publish(ready, AT)
    append(ready, 300)
    with pytest.raises(Refused, match="refusing to publish a fork"):
        publishing.publish(ready, AT)
    assert opened(ready) == published


def test_an_event_that_was_changed_is_not_published(ready: Archive) -> None:
    append(ready, 5)
    execute(ready, "UPDATE events SET entry = overlay(entry placing 'x'::bytea from 3) WHERE position = 4")
    with pytest.raises(Damaged, match="event 4"):
        publishing.publish(ready, AT)
    assert publishing.newest(ready.vault, _known(ready)) is None


def test_two_at_once_publish_once(ready: Archive) -> None:
    with transaction(ready.connections) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('muniment ledger publish'))")
        with pytest.raises(Refused, match="another process is at it"):
            publishing.publish(ready, AT)


# ---------------------------------------------------------------- a crash at any write


class Breaking:
    """A vault whose nth write fails, before it persisted or after."""

    def __init__(self, vault: Vault, at: int, persists: bool) -> None:
        self._vault, self._left, self._persists = vault, at, persists

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._vault, name)
        if name not in ("put", "replace"):
            return verb

        def write(*args: Any, **more: Any) -> Stored:
            self._left -= 1
            if self._left == 0 and not self._persists:
                raise ServiceUnavailable("cut")
            stored: Stored = verb(*args, **more)
            if self._left == 0:
                raise ServiceUnavailable("cut")
            return stored

        return write


@contextmanager
def one_thread(archive: Archive, vault: Any) -> Iterator[Archive]:
    yield replace(archive, vault=vault, settings=replace(archive.settings, vault_threads=1))


@pytest.mark.parametrize("persists", [False, True])
def test_a_crash_at_any_write_is_gone_on_with(settings: Settings, tmp_path: Path, persists: bool) -> None:
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), AT) as ready:
        keys.create(ready, ORIGIN, AT)
        _crash_at_each_write(ready, persists)


def _crash_at_each_write(ready: Archive, persists: bool) -> None:
    append(ready, 250)
    publishing.publish(ready, AT)
    broken = 0
    for at in range(1, 12):
        append(ready, 40)
        with one_thread(ready, Breaking(ready.vault, at, persists)) as archive:
            try:
                publishing.publish(archive, AT)
            except ServiceUnavailable:
                broken += 1
        append(ready, 1)  # others go on meanwhile
        publishing.publish(ready, AT)
        is_whole(ready)
    assert broken >= 4
    sizes = [int(one.key.rpartition("/")[2]) for one in ready.vault.list(COPIES)]
    assert sizes == sorted(sizes)


def test_signed_and_not_published_is_published_as_it_was(ready: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    append(ready, 3)

    def cut(*_: object) -> None:
        raise ServiceUnavailable("cut")

    with monkeypatch.context() as patch, pytest.raises(ServiceUnavailable):
        patch.setattr(publishing, "_put_checkpoint", cut)
        publishing.publish(ready, AT)
    with transaction(ready.connections) as conn:
        ((signed,),) = conn.execute("SELECT note FROM ledger_checkpoints").fetchall()
    publishing.publish(ready, AT + timedelta(days=1))
    assert read(ready.vault, CHECKPOINT) == signed


def test_not_even_the_owner_rewrites_what_was_signed_by_mistake(ready: Archive) -> None:
    publishing.publish(ready, AT)
    for table in ("ledger_keys", "ledger_checkpoints"):
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET recorded_at = now()"):
            with pytest.raises(Exception, match="append-only"), owning(ready) as conn:
                conn.execute(statement)
