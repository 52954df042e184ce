"""Recovery points: taken, checked, pruned; and the second vault that everything published reaches first."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from retention import backup, holds, ledger, policy, reports
from retention.archive import Archive, open_archive
from retention.backup import checking, points, pruning
from retention.config import Settings
from retention.database import transaction
from retention.disposition import execution
from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.history import keys, publishing
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.ledger import Event
from retention.vault.base import Given, Stored
from tests.archive_builder import SCHEDULE, Document, approved, capture_all, enrol, load
from tests.breaking import BreakingVault, Broken, Writes, at, breaks
from tests.office import files
from tests.second_vault import with_disk

Clock = Callable[[], datetime]


@pytest.fixture
def archive(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    """Twenty records, a ledger with a key, and a second vault that has not joined yet."""
    with open_archive(with_disk(settings, tmp_path), clock()) as opened:
        load(opened, clock)
        keys.create(opened, "records.example.org/ledger", clock())
        capture_all(opened, [Document("LONG", f"letter {n}") for n in range(20)], clock, tmp_path / "in")
        yield opened


def more(archive: Archive, clock: Clock, folder: Path, count: int, class_id: str = "LONG") -> None:
    capture_all(archive, [Document(class_id, f"{folder.name} {n}") for n in range(count)], clock, folder)


def append(archive: Archive, now: datetime) -> int:
    with transaction(archive.connections) as conn:
        return ledger.append(conn, [Event("fix", now, archive.agent, ())], now)


def second(tmp_path: Path) -> dict[str, bytes]:
    return files(tmp_path / "second")


def whole(archive: Archive, clock: Clock) -> list[str]:
    found = checking.check(archive, "disk", 1.0, clock())
    return found.problems


# ---------------------------------------------------------------- run


def test_only_what_is_missing_is_copied(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    first = backup.run(archive, "disk", clock)
    assert first.point is not None and first.problems == []
    assert first.objects == first.copied == first.point.index.count == 22  # with a descriptor and the schedule
    there = second(tmp_path)
    ours = files(tmp_path / "vault")
    copied = {key for key in there if key.split("/")[0] in ("records", "descriptors", "schedules")}
    assert len(copied) == 22 and all(there[key] == ours[key] for key in copied)
    again = backup.run(archive, "disk", clock)
    assert again.point is not None and (again.copied, again.bytes, again.objects) == (0, 0, 22)
    new = second(tmp_path).keys() - there.keys()
    assert {key.split("/")[0] for key in new} == {"points", "pages", "ledger"}  # its rows and events; no object twice
    assert first.point.index.objects == again.point.index.objects
    more(archive, clock, tmp_path / "more", 5)
    third = backup.run(archive, "disk", clock)
    assert (third.copied, third.objects) == (6, 28)
    listed = backup.listed(archive)
    assert [one.objects for one in listed] == [28, 22, 22] and all(one.whole is None for one in listed)
    assert whole(archive, clock) == []
    assert all(one.whole for one in backup.listed(archive, "disk"))


def test_what_a_class_names_and_what_comes_first(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    text = SCHEDULE.replace("title: Kept long", "title: Kept long\n    vital: true")
    text = text.replace("title: Not verified", "title: Not verified\n    backup: {vaults: [elsewhere]}")
    policy.load(archive, text, "test.yaml", clock())
    more(archive, clock, tmp_path / "drafts", 3, "DRAFT")
    more(archive, clock, tmp_path / "shorts", 3, "SHORT")
    order: list[str] = []
    given = archive.seconds["disk"]

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(given, name)

        def put_many(self, objects: Sequence[Given], threads: int) -> Sequence[Stored | MunimentError]:
            order.extend(one.key for one in objects)
            return given.put_many(objects, threads)

    done = backup.run(replace(archive, seconds={"disk": Watching()}), "disk", clock)
    assert done.problems == [] and done.point is not None
    with transaction(archive.connections) as conn:
        classes = {
            str(row[0]): row[1]
            for row in conn.execute("SELECT record_id, class_id FROM records JOIN classes USING (class_key)")
        }
    went = [classes[key.split("/")[1]] for key in order if key.startswith("records/")]
    assert went == ["LONG"] * 20 + ["SHORT"] * 3
    assert whole(archive, clock) == []


def test_before_the_ledger_has_a_key_and_where_there_is_none(settings: Settings, tmp_path: Path, clock: Clock) -> None:
    with open_archive(with_disk(settings, tmp_path), clock()) as archive:
        load(archive, clock)
        with pytest.raises(NotFound, match="muniment ledger init"):
            backup.run(archive, "disk", clock)
        with pytest.raises(UsageError, match="expected one that MUNIMENT_BACKUPS names"):
            backup.run(archive, "tape", clock)
        assert not (tmp_path / "second").exists()


def test_a_damaged_object_stops_no_other(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    path = next(iter(sorted((tmp_path / "vault/records").rglob("*/*"))))
    path.chmod(0o600)
    path.write_bytes(b"x" * path.stat().st_size)
    done = backup.run(archive, "disk", clock)
    (problem,) = done.problems
    assert path.name in problem and done.copied == 21
    assert any(path.name in one for one in whole(archive, clock))
    assert backup.listed(archive)[0].whole is False


def test_one_at_a_time(archive: Archive, clock: Clock) -> None:
    with backup.alone(archive, "disk"), pytest.raises(Refused, match="twice at once"):
        backup.run(archive, "disk", clock)


def test_a_disk_that_is_not_mounted_is_no_empty_vault(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    backup.run(archive, "disk", clock)
    (tmp_path / "second").rename(tmp_path / "away")
    with pytest.raises(ServiceUnavailable, match="is its disk mounted"):
        backup.run(archive, "disk", clock)
    assert not (tmp_path / "second").exists()


def test_another_archives_vault_is_refused(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "second/ledger").mkdir(parents=True)
    (tmp_path / "second/ledger/checkpoint").write_text("another\n")
    with pytest.raises(Refused, match="another ledger is published there"):
        backup.run(archive, "disk", clock)
    assert second(tmp_path).keys() == {"ledger/checkpoint"}


# ---------------------------------------------------------------- what is published stands there first


def test_what_anybody_sees_stands_in_the_second_vault(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    publishing.publish(archive, clock())
    assert not (tmp_path / "second").exists()  # it has not joined
    backup.run(archive, "disk", clock)
    ledgers = [files(tmp_path / name / "ledger") for name in ("vault", "second")]
    assert ledgers[0].keys() - ledgers[1].keys() <= {key for key in ledgers[0] if ".p/" in key or "checkpoints" in key}
    append(archive, clock())
    before = files(tmp_path / "vault/ledger")
    (tmp_path / "second").rename(tmp_path / "away")
    with pytest.raises(ServiceUnavailable, match="is its disk mounted"):
        publishing.publish(archive, clock())
    assert files(tmp_path / "vault/ledger") == before
    (tmp_path / "away").rename(tmp_path / "second")
    size = publishing.publish(archive, clock()).size
    for name in ("vault", "second"):
        assert f"\n{size}\n".encode() in (tmp_path / name / "ledger/checkpoint").read_bytes()
    backup.leave(archive, "disk", clock())
    (tmp_path / "second").rename(tmp_path / "away")
    publishing.publish(archive, clock())
    with pytest.raises(NotFound):
        backup.leave(archive, "disk", clock())


def test_written_through(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    publishing.through(archive, clock(), append(archive, clock()))  # nothing has joined: it waits for the night
    assert not (tmp_path / "vault/ledger").exists()
    backup.run(archive, "disk", clock)
    position = append(archive, clock())
    publishing.through(archive, clock(), position)
    there = second(tmp_path)
    publishing.through(archive, clock(), position)
    assert second(tmp_path) == there  # it is there
    with transaction(archive.connections) as conn:
        newest = publishing.newest(archive.seconds["disk"], keys.all_keys(conn))
    assert newest is not None and newest.size == position + 1


def test_a_hold_is_acknowledged_when_its_event_is_there(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    backup.run(archive, "disk", clock)
    with transaction(archive.connections) as conn:
        records = [row[0] for row in conn.execute("SELECT record_id FROM records ORDER BY 1 LIMIT 2")]
    matter = Matter("Levi v. Cohen", "CFO", clock().date() + timedelta(days=90))
    (tmp_path / "second").rename(tmp_path / "away")
    with pytest.raises(ServiceUnavailable, match="is its disk mounted.* is in force here; its event is in no second"):
        holds.place(archive, Scope(records=tuple(records)), Mode.STATIC, matter, clock())
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT count(*) FROM hold_members").fetchone() == (2,)
    (tmp_path / "away").rename(tmp_path / "second")
    placed = holds.place(archive, Scope(records=tuple(records)), Mode.STATIC, matter, clock())
    assert not placed.new and str(placed.hold_id).encode() in published(tmp_path)


def test_nothing_is_destroyed_before_its_event_is_there(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    old = clock().date() - timedelta(days=800)
    documents = [Document("SHORT", f"old {n}", received=old) for n in range(3)]
    going = capture_all(archive, documents, clock, tmp_path / "old")
    enrol(archive, clock)
    backup.run(archive, "disk", clock)
    plan = approved(archive, clock)
    (tmp_path / "second").rename(tmp_path / "away")
    with pytest.raises(ServiceUnavailable, match="Nothing more is destroyed before its event stands"):
        execution.execute(archive, plan, clock)
    with transaction(archive.connections) as conn:
        found = conn.execute(
            "SELECT count(*), min(state), max(state) FROM records JOIN subject_keys ON subject_id = record_id "
            "WHERE record_id = ANY(%s)",
            (going,),
        ).fetchone()
    assert found == (3, 2, 2)  # marked as destroying, and every key is there
    assert all(any((tmp_path / "vault/records" / str(record)).iterdir()) for record in going)
    (tmp_path / "away").rename(tmp_path / "second")
    assert execution.execute(archive, plan, clock).outcomes == {"destroyed": 3}
    there = published(tmp_path)
    assert all(str(record).encode() in there for record in going) and b'"state":"destroying"' in there


def published(tmp_path: Path) -> bytes:
    """Every entry that stands in the second vault."""
    return b"".join(content for path, content in second(tmp_path).items() if path.startswith("ledger/tile/entries"))


# ---------------------------------------------------------------- check


def test_whatever_is_changed_in_the_second_vault_is_named(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    """A byte of each kind of file, at random; a file that is gone, cut, or strange."""
    for n in range(2):
        more(archive, clock, tmp_path / f"more{n}", 2)
        backup.run(archive, "disk", clock)
    assert whole(archive, clock) == []
    root, chance = tmp_path / "second", random.Random(7)
    kinds: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            kinds.setdefault("/".join(parts[:2]) if parts[0] == "ledger" else parts[0], []).append(path)
    assert kinds.keys() >= {"records", "descriptors", "schedules", "pages", "points", "safe", "ledger/checkpoint"}
    for kind, paths in kinds.items():
        for way in ("flip", "cut", "gone"):
            path = chance.choice(paths)
            name, content = str(path.relative_to(root)), path.read_bytes()
            path.chmod(0o600)
            if way == "flip":
                place = chance.randrange(len(content))
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
                )
            elif way == "cut":
                path.write_bytes(content[:-1])
            else:
                path.unlink()
            problems = whole(archive, clock)
            if way == "gone" and (kind in ("points", "safe") or ".p/" in name):
                assert len(points.listed(archive.seconds["disk"])) == 2 or kind == "points"  # nobody needs that one
            else:
                part = name if not kind.startswith("ledger") else "ledger"
                assert any(part in one for one in problems), (kind, way, name, problems)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    (root / "records/strange").write_bytes(b"x")
    (root / "other").write_bytes(b"x")
    found = checking.check(archive, "disk", 1.0, clock())
    assert [one.partition(":")[0] for one in found.problems] == ["other"] and found.left == 1


def test_a_share_of_the_objects_is_read_others_each_day(archive: Archive, clock: Clock) -> None:
    backup.run(archive, "disk", clock)
    day, seen = clock(), 0
    for n in range(4):
        found = checking.check(archive, "disk", 0.25, day + timedelta(days=n))
        seen += found.read
    assert seen == found.objects == 22
    assert checking.check(archive, "disk", 0.0, day).read == 0


# ---------------------------------------------------------------- prune


def test_what_nothing_names_goes(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    """A point goes with its pages and the objects that no other names; what was left behind by a crash goes too."""
    taken = []
    for n in range(3):
        more(archive, clock, tmp_path / f"more{n}", 2)
        taken.append(backup.run(archive, "disk", clock).point)
    only = next(iter((tmp_path / "vault/records").rglob("*/*")))
    with transaction(archive.connections) as conn:  # a record that goes: the newest point does not name it
        conn.execute("DELETE FROM contents WHERE record_id::text = %s", (only.parent.name,))
    last = backup.run(archive, "disk", clock).point
    assert last is not None
    left = tmp_path / "second/records/00000000-0000-0000-0000-000000000001"
    left.mkdir()
    (left / ("a" * 64)).write_bytes(b"left behind")
    (tmp_path / "second/pages" / ("b" * 64)).write_bytes(b"left behind")
    said = pruning.prune(archive, "disk", clock(), only_say=True)
    assert set(said.points) == {one.id for one in taken if one} and said.objects == 0
    assert len(points.listed(archive.seconds["disk"])) == 4
    done = pruning.prune(archive, "disk", clock())
    assert set(done.points) == set(said.points) and done.kept == {last.id: done.kept[last.id]}
    assert done.objects == 2 and done.pages > 0  # the one that went, and the one that was left behind
    assert points.listed(archive.seconds["disk"]) == [last.id]
    assert not (tmp_path / "second/records" / only.parent.name).exists() and not left.exists()
    assert [one.id for one in backup.listed(archive)] == [last.id]
    found = checking.check(archive, "disk", 1.0, clock())
    assert (found.problems, found.left) == ([], 0)
    again = pruning.prune(archive, "disk", clock())
    assert (again.points, again.objects, again.pages) == ([], 0, 0)


def test_the_newest_that_is_whole_stays(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    first = backup.run(archive, "disk", clock).point
    before = second(tmp_path).keys()
    second_point = backup.run(archive, "disk", clock).point
    assert first is not None and second_point is not None
    new = [key for key in second(tmp_path).keys() - before if key.startswith("pages/")]
    index = f"pages/{second_point.index_sha256}"
    (tmp_path / "second" / next(key for key in sorted(new) if key != index)).unlink()
    done = pruning.prune(archive, "disk", clock())
    assert done.points == [] and done.kept[first.id][0] == "newest that is whole"


def test_a_point_that_cannot_be_read_goes_when_it_is_said(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    first = backup.run(archive, "disk", clock).point
    assert first is not None
    (tmp_path / "second/pages" / first.index_sha256).unlink()
    with pytest.raises(Damaged, match=f"{first.index_sha256}.*--drop-broken"):
        pruning.prune(archive, "disk", clock())
    with pytest.raises(Refused, match="no point there is whole"):
        pruning.prune(archive, "disk", clock(), drop_broken=True)
    last = backup.run(archive, "disk", clock).point
    assert last is not None
    assert pruning.prune(archive, "disk", clock(), drop_broken=True).points == [first.id]
    assert points.listed(archive.seconds["disk"]) == [last.id] and whole(archive, clock) == []


def test_what_was_begun_and_cut_off_goes_after_a_day(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    backup.run(archive, "disk", clock)
    left = [tmp_path / "second/pages" / f".put-{name}" for name in ("yesterday", "now")]
    for path, age in zip(left, (timedelta(days=1, minutes=1), timedelta(hours=23)), strict=True):
        path.write_bytes(b"half of a page")
        begun = (clock() - age).timestamp()
        os.utime(path, (begun, begun))
    assert whole(archive, clock) == []
    assert pruning.prune(archive, "disk", clock()).uploads == 1
    assert [path.exists() for path in left] == [False, True]


def test_copies_of_the_key_safe_have_a_short_history(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    """Older than a week they go, but for the newest: what they open was destroyed since."""
    backup.run(archive, "disk", clock)
    archive.safe.current("ANOTHER", clock().date(), clock())
    backup.run(archive, "disk", clock)
    folder = tmp_path / "second/safe"
    assert len(list(folder.iterdir())) == 2
    assert pruning.prune(archive, "disk", clock() + timedelta(days=6)).safes == 0
    newest = max(path.name for path in folder.iterdir())
    assert pruning.prune(archive, "disk", clock() + timedelta(days=8)).safes == 1
    assert [path.name for path in folder.iterdir()] == [newest]
    assert pruning.prune(archive, "disk", clock() + timedelta(days=800)).safes == 0
    assert newest.endswith(f"-{sha256((archive.settings.keys / 'safe.age').read_bytes()).hexdigest()}")


# ---------------------------------------------------------------- the report


def test_the_report_is_red_where_nothing_could_be_restored(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    def said(now: datetime) -> dict[str, tuple[str, str]]:
        report = reports.compile_report(archive, now.date(), now)
        return {c.id: (c.status.value, c.found) for c in report.checks if c.id.startswith(("backup", "drill"))}

    assert said(clock())["backup"][0] == "amber"  # there is no second vault
    text = SCHEDULE.replace("title: Kept long", "title: Kept long\n    backup: {vaults: [disk], rpo: PT4H}")
    policy.load(archive, text, "test.yaml", clock())
    assert said(clock()).keys() == {"backup-missing"}
    point = backup.run(archive, "disk", clock).point
    assert point is not None
    assert {name: status for name, (status, _) in said(clock()).items()} == {
        "backup-disk": "green",
        "drill-disk": "green",
    }
    status, words = said(point.time + timedelta(hours=5))["backup-disk"]
    assert status == "red" and "5 hours old, at most 4 hours is allowed, asked for by LONG" in words
    later = said(point.time + timedelta(days=9))
    assert later["backup-unchecked-disk"][0] == later["drill-disk"][0] == "red"
    for ok, status in ((False, "red"), (True, "green")):
        at = point.time + timedelta(days=9)
        with transaction(archive.connections) as conn:
            conn.execute(
                "INSERT INTO drills (drill_id, vault, ended_at, ok) VALUES (gen_random_uuid(), 'disk', %s, %s)",
                (at + timedelta(minutes=ok), ok),
            )
        assert said(at + timedelta(days=1))["drill-disk"][0] == status
    (tmp_path / "second/pages" / point.index.objects[0].sha256).unlink()
    assert whole(archive, clock) != []
    assert said(clock())["backup-broken-disk"][0] == "red"
    with transaction(archive.connections) as conn:
        records = [row[0] for row in conn.execute("SELECT record_id FROM records LIMIT 1")]
    (tmp_path / "second").rename(tmp_path / "away")
    at = clock()
    matter = Matter("Levi v. Cohen", "CFO", at.date() + timedelta(days=90))
    with pytest.raises(ServiceUnavailable):
        holds.place(archive, Scope(records=tuple(records)), Mode.STATIC, matter, at)
    assert "backup-through" not in said(at + timedelta(minutes=30))
    assert said(at + timedelta(hours=2))["backup-through"][0] == "red"


# ---------------------------------------------------------------- it may die anywhere


def breaking(archive: Archive, writes: Writes) -> Archive:
    """The same, dying at a write: of the database, of either vault."""
    verbs = ("put", "put_many", "replace", "erase")
    return replace(
        archive,
        connections=breaks(archive, "database", writes),
        vault=BreakingVault(archive.vault, writes, verbs),
        seconds={"disk": BreakingVault(archive.seconds["disk"], writes, verbs)},
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("persisted", [False, True])
def test_a_run_and_a_prune_die_at_each_write_and_are_run_again(
    archive: Archive, clock: Clock, tmp_path: Path, persisted: bool
) -> None:
    """Whatever was written by then: each point that is there is whole, and the same is run again to its end."""

    def run(of: Archive) -> None:
        assert backup.run(of, "disk", clock).problems == []

    def prune(of: Archive) -> None:
        pruning.prune(of, "disk", clock())

    for step, least in ((run, 8), (prune, 3)):
        number, broke = 0, True
        while broke:
            number += 1
            more(archive, clock, tmp_path / f"{step.__name__}{number}", 1)
            if step is prune:
                run(archive)  # the point before this one is to go
            writes = at(number, persisted=persisted)
            try:
                step(breaking(archive, writes))
            except Broken:
                pass
            except MunimentError as error:
                assert writes.broke, error
            broke = writes.broke
            if (tmp_path / "second/points").exists():
                found = checking.look(archive.seconds["disk"], _known(archive), 1.0, clock().date(), 4)
                said = [one for one in found.problems if "Publishing was cut off" not in one]
                assert said == [], (number, said)
            step(archive)  # to its end: nothing is left over for the next to do
        assert number > least
        run(archive)
    prune(archive)
    found = checking.check(archive, "disk", 1.0, clock())
    assert (found.problems, found.left, len(found.whole)) == ([], 0, 1)


def _known(archive: Archive) -> list[keys.LogKey]:
    with transaction(archive.connections) as conn:
        return keys.all_keys(conn)
