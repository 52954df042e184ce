"""Everything local is destroyed; the archive is restored from the second vault alone, and compared with what was.

RECORDS=10000 restores more than the suite has time for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from retention import aggregations, holds, locks
from retention.aggregations import Aggregation
from retention.archive import Archive, load_keys, open_archive
from retention.backup import points
from retention.config import Settings
from retention.database import Connection, transaction
from retention.disposition import execution, proposing
from retention.embedded import Services
from retention.errors import NotFound, Refused, UsageError
from retention.history import keys, publishing
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.recovery import Restored, restore, restoring
from retention.triggers import Change, Given
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault
from tests.archive_builder import Document, capture_all, enrol, load
from tests.integration.test_life import MATTER, PERSONAL, change, everything, planned, told
from tests.second_vault import back_up, publish
from tests.table_rows import Rows, rows_of

Clock = Callable[[], datetime]
RECORDS = int(os.environ.get("RECORDS", "200"))


@dataclass(frozen=True)
class Site:
    """One machine: its services, and the second vault which is elsewhere."""

    settings: Settings
    second: Vault
    folder: Path


@pytest.fixture
def machines(settings: Settings, services: Services, template: str, tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """The one that will burn, and an empty one."""
    ensure_vault(f"file://{tmp_path}/second")
    second = open_vault(f"file://{tmp_path}/second")
    name = f"test_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY")
    (tmp_path / "old").mkdir()
    old = replace(settings, root=tmp_path / "old/var", vault_url=f"file://{tmp_path}/old/vault", agent="Noa Bar")
    new = replace(
        old,
        root=tmp_path / "new/var",
        vault_url=f"file://{tmp_path}/new/vault",
        database_url=f"{settings.database_url.rpartition('/')[0]}/{name}",
        database_owner_url=f"{(settings.database_owner_url or '').rpartition('/')[0]}/{name}",
    )
    yield Site(old, second, tmp_path / "old"), Site(new, second, tmp_path / "new")
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def burn(old: Site, new: Site) -> None:
    """All that is left of the first machine is what people keep apart: the root key, and the ledger's."""
    new.settings.keys.mkdir(parents=True)
    for path in (old.settings.keys / "root.key", *old.settings.keys.glob("ledger-*.key")):
        shutil.copy2(path, new.settings.keys)
    shutil.rmtree(old.folder)


def documents(archive: Archive) -> dict[UUID, str]:
    """The digest of each document that opens, byte by byte."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT record_id, 'records/' || record_id || '/' || encode(sealed_sha256, 'hex'), version FROM contents "
            "JOIN records USING (record_id) WHERE state = 1"
        ).fetchall()
        opens = load_keys(conn, archive.safe, [row[0] for row in rows])
    found = {}
    for record, key, version in rows:
        with archive.vault.open(key, version) as file:
            found[record] = sha256(opens[record].open(file.read())).hexdigest()
    return found


def test_everything_that_can_happen(machines: tuple[Site, Site], clock: Clock, tmp_path: Path) -> None:
    old, new = machines
    with open_archive(old.settings, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        everything(archive, clock, old.folder)
        point = back_up(archive, old.second, clock())
        before, tables = documents(archive), rows_of(old.settings)
    burn(old, new)
    found = restore(new.settings, new.second, (), clock)
    assert (found.point, found.lost, found.resurrected, found.passed_over) == (point.id, [], 0, [])
    assert [str(one) for one in found.verified.problems] == [] == found.problems
    with open_archive(new.settings, clock()) as archive:
        assert documents(archive) == before
    there = rows_of(new.settings)
    for table in tables.tables:
        assert unlike(tables, there, table) == [], table


# Queues begin anew, and the ledger goes on: that it was restored is an event.
ANEW = {
    "hold_flags": {"actual", "queued_at", "read_back_at", "attempts", "error"},
    "key_objects": {"locked_at"},
    "object_locks": {"actual_until", "queued_at", "read_back_at", "attempts", "error"},
    "descriptors": {"recorded_at"},
    "ledger_checkpoints": {"recorded_at"},
    "ledger_head": {"size", "frontier"},
}


def unlike(before: Rows, after: Rows, table: str) -> list[object]:
    """Rows that are not as they were; of tables of events those that are gone."""
    one, other = (rows.without(table, ANEW.get(table, ())) for rows in (before, after))
    if table == "key_buckets":  # one that was replaced has no key any more
        one = [row for row in one if row in set(other)]
    more = table in ("events", "event_subjects", "ledger_checkpoints", "pseudonyms", "key_buckets", "subject_keys")
    return [*(row for row in one if row not in set(other)), *(row for row in other if row not in set(one) and not more)]


# ---------------------------------------------------------------- after the last point


@dataclass(frozen=True)
class Story:
    """What was at the last point, and what happened after it."""

    before: dict[UUID, str]  # documents, when everything burned
    held: UUID
    newly_held: UUID
    destroyed: set[UUID]
    captured: UUID
    size: int  # of the ledger, as it was published
    root: bytes


def live(old: Site, clock: Clock, late: bool = True) -> Story:
    """Two points, with records destroyed, held and captured before, between and after; `late`: there is no third."""
    with open_archive(old.settings, clock()) as archive:
        load(archive, clock, PERSONAL.replace("limit_records: 1000", f"limit_records: {max(1000, RECORDS)}"))
        enrol(archive, clock)
        made = [Document("LONG", f"long {n}") for n in range(RECORDS * 3 // 4)]
        made += [Document("SHORT", f"short {n}") for n in range(RECORDS // 4)]
        made[0] = Document("CHILD", "a letter", case=("patient", "ZQ-4711"))
        records = capture_all(archive, made, clock, old.folder / "in")
        keys.create(archive, "records.example.org/ledger", clock())
        holds.place(archive, Scope(records=(records[1], records[-1])), Mode.STATIC, MATTER, clock())
        back_up(archive, old.second, clock())
        change(archive, Change((Given(identity(archive), "birth", date(2020, 6, 5)),)), clock)
        back_up(archive, old.second, clock())
        # after the last point
        held = holds.place(archive, Scope(records=(records[2],)), Mode.STATIC, MATTER, clock())
        assert held.members == 1
        outcomes = execution.execute(archive, planned(archive, clock), clock).outcomes
        assert outcomes == {"destroyed": RECORDS // 4 - 1}
        change(archive, Change(suspensions=((identity(archive), date(2024, 4, 1), "litigation"),)), clock)
        (captured,) = capture_all(archive, [Document("LONG", "too late")], clock, old.folder / "late")
        if late:
            publish(archive, old.second, clock())
        else:
            back_up(archive, old.second, clock())
        there = documents(archive)
        published = publishing.publish(archive, clock())
    gone = set(records) - set(there)
    assert len(gone) == RECORDS // 4 - 1
    return Story(there, records[1], records[2], gone, captured, published.size, published.root)


def identity(archive: Archive) -> UUID:
    return aggregations.identity(archive.safe, Aggregation("patient", "ZQ-4711"))


def check(new: Site, story: Story, clock: Clock, late: bool = True) -> None:
    """Record by record, byte by byte; what was destroyed is gone, what was held is held, what came too late is lost."""
    gone = {str(one) for one in story.destroyed}
    with open_archive(new.settings, clock()) as archive:
        there = documents(archive)
        lost = story.before.keys() - there.keys()
        assert {r: d for r, d in story.before.items() if r not in lost} == there
        with transaction(archive.connections) as conn:
            states = dict(conn.execute("SELECT record_id, state FROM records").fetchall())
            held = {row[0] for row in conn.execute("SELECT record_id FROM hold_members")}
            keys_left = conn.execute(
                "SELECT count(*) FROM subject_keys WHERE subject_id = ANY(%s)", (list(story.destroyed),)
            ).fetchone()
            special = conn.execute("SELECT special FROM records WHERE aggregation_id IS NOT NULL").fetchall()
            root = conn.execute("SELECT root FROM ledger_checkpoints WHERE size = %s", (story.size,)).fetchone()
        assert root == (story.root,)  # and `verify` has compared the events with it
        assert {story.held, story.newly_held} <= held
        assert {states[one] for one in story.destroyed} == {3} and keys_left == (0,)
        assert {states[one] for one in lost} == ({5} if late else set()) and (story.captured in lost) is late
        assert special == [(True,)]  # suspended after the point
        assert not gone & {one.key.split("/")[1] for one in archive.vault.list("records")}
        life = told(archive, story.captured)
        assert life.state == ("lost" if late else "kept") and ("it is lost" in life.lines[-1].what) is late
        assert execution_refuses(archive)


def damaged(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.chmod(0o600)
    path.write_bytes(how(path.read_bytes()))


def execution_refuses(archive: Archive) -> bool:
    """Nothing of what came back is due: the held ones least of all."""
    return proposing.propose(archive, datetime(2026, 11, 24, tzinfo=UTC)).plan is None


def restored(new: Site, clock: Clock) -> Restored:
    """The newest point, and in words what an operator asks for."""
    burned = clock()
    found = restore(new.settings, new.second, (), clock)
    print(
        f"{found.records:,} records, {found.objects:,} objects: RPO {burned - found.taken}, RTO {found.seconds:.1f} s, "
        f"lost {len(found.lost)}, resurrected {found.resurrected}"
    )
    return found


@pytest.mark.timeout(1200)
def test_what_happened_before_the_last_point(machines: tuple[Site, Site], clock: Clock) -> None:
    old, new = machines
    story = live(old, clock, late=False)
    burn(old, new)
    found = restored(new, clock)
    assert (found.lost, found.resurrected, found.passed_over, found.problems) == ([], 0, [], [])
    assert [str(one) for one in found.verified.problems] == []
    check(new, story, clock, late=False)


@pytest.mark.timeout(1200)
def test_what_happened_after_the_last_point(machines: tuple[Site, Site], clock: Clock) -> None:
    old, new = machines
    story = live(old, clock)
    burn(old, new)
    found = restored(new, clock)
    assert found.resurrected == 0
    assert str(story.captured) in map(str, found.lost) and len(found.lost) == 2  # it, and the certificate
    assert [str(one) for one in found.verified.problems] == []
    assert found.verified.size > found.size > found.since > 0
    check(new, story, clock)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("damage", ["its note", "a page of it"])
def test_a_damaged_newest_point_is_passed_over(machines: tuple[Site, Site], clock: Clock, damage: str) -> None:
    old, new = machines
    story = live(old, clock)
    burn(old, new)
    first, last = points.listed(new.second)
    folder = Path(new.second.url.removeprefix("file://"))
    note = folder / points.POINTS / str(last)
    if damage == "its note":
        damaged(note, lambda content: content.replace(b"muniment recovery", b"muniment Recovery"))
    else:
        taken = (folder / points.POINTS / str(first)).stat().st_mtime_ns
        pages = [page for page in sorted((folder / points.PAGES).rglob("*")) if page.stat().st_mtime_ns > taken]
        ours = [page for page in pages if page.is_file() and page.name.encode() not in note.read_bytes()]
        damaged(ours[0], lambda content: content[:-1])  # no page of the first, and not the index
    found = restored(new, clock)
    assert found.point == first and [str(last) in said for said in found.passed_over] == [True]
    assert (found.resurrected, len(found.lost)) == (0, 2)
    assert [str(one) for one in found.verified.problems] == []
    check(new, story, clock)


def test_what_came_back_is_counted(machines: tuple[Site, Site], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = machines
    story = live(old, clock)
    burn(old, new)
    bring, back = restoring._bring, min(story.destroyed)

    def with_a_key_of_one(conn: Connection, *given: Any) -> None:
        some = "INSERT INTO subject_keys SELECT %s, bucket_id, wrapped FROM subject_keys LIMIT 1"
        conn.execute(some, (back,))
        bring(conn, *given)

    monkeypatch.setattr(restoring, "_bring", with_a_key_of_one)
    found = restored(new, clock)
    assert found.resurrected == 1 and not found.ok
    assert any(str(back) in str(problem) for problem in found.verified.problems)


def test_a_restore_that_is_cut_is_run_again(
    machines: tuple[Site, Site], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = machines
    story = live(old, clock)
    burn(old, new)
    for where in ("staging.look", "tables._fill_keys", "telling.moved", "restoring._put_ledger"):
        with monkeypatch.context() as patch:
            patch.setattr(f"retention.recovery.{where}", cut)
            with pytest.raises(KeyboardInterrupt):
                restore(new.settings, new.second, (), clock)
        assert rows_of(new.settings).tables["events"].rows == []
    found = restore(new.settings, new.second, (), clock)
    assert found.resurrected == 0 and found.verified.ok
    check(new, story, clock)


def cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_copy_is_a_lost_record_and_no_other(machines: tuple[Site, Site], clock: Clock) -> None:
    old, new = machines
    story = live(old, clock)
    burn(old, new)
    damaged, missing = [one for one in new.second.list("records") if str(story.held) not in one.key][3:5]
    path = Path(new.second.url.removeprefix("file://")) / damaged.key
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (Path(new.second.url.removeprefix("file://")) / missing.key).unlink()
    found = restore(new.settings, new.second, (), clock)
    lost = {str(one) for one in found.lost}
    assert {damaged.key.split("/")[1], missing.key.split("/")[1]} <= lost and len(lost) == 4
    assert any(damaged.key in said for said in found.problems)
    assert [str(one) for one in found.verified.problems] == []


def test_nothing_is_restored_without_what_it_needs(machines: tuple[Site, Site], clock: Clock) -> None:
    old, new = machines
    live(old, clock)
    burn(old, new)
    root = new.settings.keys / "root.key"
    kept = root.read_bytes()
    root.unlink()
    with pytest.raises(UsageError, match=r"root\.key is missing"):
        restore(new.settings, new.second, (), clock)
    root.write_bytes(kept)
    root.chmod(0o600)
    with pytest.raises(NotFound, match="no recovery point 00000000"):
        restore(new.settings, new.second, (), clock, point=UUID(int=0))
    (schedule,) = (Path(new.second.url.removeprefix("file://")) / "schedules").iterdir()
    aside = schedule.rename(new.folder / schedule.name)
    with pytest.raises(Refused, match=f"put it into the vault as schedules/{schedule.name}"):
        restore(new.settings, new.second, (), clock)
    aside.rename(schedule)
    found = restore(new.settings, new.second, (), clock)
    again = restore(new.settings, new.second, (), clock)  # as if it had been cut off at its end
    same = replace(again, copied=found.copied, seconds=found.seconds, verified=found.verified)
    assert same == found and again.verified.ok and again.copied == 0
    with open_archive(new.settings, clock()) as archive:
        capture_all(archive, [Document("LONG", "the next")], clock, new.folder / "in")
    with pytest.raises(Refused, match="a catalog that is in use"):
        restore(new.settings, new.second, (), clock)


# ---------------------------------------------------------------- other stores, other keys


def test_into_a_store_that_numbers_its_versions(
    machines: tuple[Site, Site], settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From S3, by way of a folder, into S3: every object has another version, and the lock that policy asked for."""
    old, new = machines
    monkeypatch.setattr("retention.recovery.restoring._AT_ONCE", 5)
    first = Site(replace(old.settings, vault_url=settings.vault_url), old.second, old.folder)
    with open_archive(first.settings, clock()) as archive:
        load(archive, clock, PERSONAL)
        keys.create(archive, "records.example.org/ledger", clock())
        made = [Document("LONG", f"long {n}") for n in range(12)]
        capture_all(archive, [*made, Document("LOCKED", "locked")], clock, first.folder / "in")
        held, *_ = documents(archive)
        holds.place(archive, Scope(records=(held,)), Mode.STATIC, MATTER, clock())
        back_up(archive, first.second, clock())
        before = documents(archive)
        versions = {row[0]: row[1] for row in versions_of(archive)}
    burn(first, new)
    there = replace(new.settings, vault_url=settings.vault_url.replace("?", "-restored?"))
    found = restore(there, new.second, (), clock)
    assert (found.lost, found.resurrected, found.problems) == ([], 0, [])
    assert [str(one) for one in found.verified.problems] == []
    with open_archive(there, clock()) as archive:
        assert documents(archive) == before
        rows = versions_of(archive)
        assert all(version and version != versions[record] for record, version, _ in rows)
        assert locks.reconcile(archive, clock(), everything=True).differ == {}
        stored = {record: archive.vault.stat(key, version) for record, version, key in rows}
    assert stored[held].hold and sum(one.lock is not None for one in stored.values()) == 1


def versions_of(archive: Archive) -> list[tuple[UUID, str, str]]:
    with transaction(archive.connections) as conn:
        return conn.execute(
            "SELECT record_id, version, 'records/' || record_id || '/' || encode(sealed_sha256, 'hex') FROM contents"
        ).fetchall()


def test_keys_that_were_wrapped_anew_after_the_point(machines: tuple[Site, Site], clock: Clock) -> None:
    """The rows of the point are wrapped under a key that the newest copy of the safe has not; the copy that the point
    names has it, as long as it is kept."""
    old, new = machines
    with open_archive(old.settings, clock()) as archive:
        load(archive, clock, PERSONAL)
        keys.create(archive, "records.example.org/ledger", clock())
        capture_all(archive, [Document("LONG", f"long {n}") for n in range(5)], clock, old.folder / "in")
        point = back_up(archive, old.second, clock())
        before = documents(archive)
        (former,) = [one for one in archive.safe.buckets() if one.scope == "LONG"]
        archive.safe._buckets.pop(former.id)
        archive.safe._write(clock())
        content = (archive.settings.keys / "safe.age").read_bytes()
        old.second.put(
            f"safe/{clock():%Y%m%dT%H%M%S}-later", content, sha256=sha256(content).digest(), size=len(content)
        )
    burn(old, new)
    found = restore(new.settings, new.second, (), clock)
    assert found.point == point.id and found.lost == []
    assert [str(one) for one in found.verified.problems] == []
    with open_archive(new.settings, clock()) as archive:
        assert documents(archive) == before
        assert former.id not in {one.id for one in archive.safe.buckets()}
