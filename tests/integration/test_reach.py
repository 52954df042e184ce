"""Destruction reached the recovery points: shown, certified, and whatever would open it named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from retention import backup, rekeying, reports
from retention.archive import Archive, open_archive
from retention.backup import pruning, reach
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.disposition import certificate, evidence, execution
from retention.errors import NotFound, Refused
from retention.history import keys
from tests.archive_builder import Document, approved, capture_all, enrol, load
from tests.second_vault import with_disk

Clock = Callable[[], datetime]


@dataclass
class Calendar:
    """A clock that can be set forward by days."""

    clock: Clock
    days: int = 0

    def __call__(self) -> datetime:
        return self.clock() + timedelta(days=self.days)


@dataclass(frozen=True)
class Story:
    """Two records that were destroyed between two recovery points, and what lives."""

    archive: Archive
    now: Calendar
    second: Path
    plan: UUID
    gone: list[UUID]
    kept: list[UUID]


@pytest.fixture
def archive(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    with open_archive(with_disk(settings, tmp_path), clock()) as opened:
        load(opened, clock)
        enrol(opened, clock)
        keys.create(opened, "records.example.org/ledger", clock())
        yield opened


@pytest.fixture
def story(archive: Archive, tmp_path: Path, clock: Clock) -> Story:
    now = Calendar(clock)
    documents = [Document("SHORT", "old 1"), Document("SHORT", "old 2")]
    documents += [Document("SHORT", "young", clock().date()), *(Document("LONG", f"kept {n}") for n in range(3))]
    records = capture_all(archive, documents, clock, tmp_path / "in")
    assert backup.run(archive, "disk", now).problems == []
    plan = approved(archive, now)
    assert execution.execute(archive, plan, now).outcomes == {"destroyed": 2}
    with pytest.raises(Refused, match="still has the key that its records had.*muniment key rekey"):
        reach.prove(archive, plan, now)
    rekeying.rekey(archive, now)
    now.days += 1
    assert backup.run(archive, "disk", now).problems == []
    return Story(archive, now, tmp_path / "second", plan, records[:2], records[2:])


def events(archive: Archive, plan: UUID) -> list[dict[str, object]]:
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT e.entry FROM event_subjects s JOIN events e USING (position) "
            "WHERE s.subject_id = %s AND e.type = 'val' ORDER BY position",
            (plan,),
        ).fetchall()
    return [json.loads(bytes(row[0]))["detail"] for row in rows]


def test_from_the_execution_to_the_proof(story: Story) -> None:
    archive, now, plan = story.archive, story.now, story.plan
    with pytest.raises(Refused, match=r"before 2026-11-29 .* copies of the key safe"):
        reach.prove(archive, plan, now)
    assert reach.due(archive, now()) == []
    now.days += 8
    assert reach.due(archive, now()) == [plan]
    early = reach.prove(archive, plan, now)  # nobody pruned: the copy of the safe of the first point is there still
    assert early.certificate_id is None and len(early.problems) == 2
    (old, _) = sorted(path.name for path in (story.second / "safe").iterdir())
    assert all(f"safe/{old} in second vault disk" in said for said in early.problems)
    assert {said.split()[1].rstrip(":") for said in early.problems} == set(map(str, story.gone))
    assert events(archive, plan) == [] and reach.due(archive, now()) == [plan]

    assert not red(archive, now())
    now.days += 2
    assert red(archive, now())

    assert pruning.prune(archive, "disk", now()).safes == 1
    done = reach.prove(archive, plan, now)
    assert done.problems == [] and done.certificate_id is not None
    content = evidence.read(archive, done.certificate_id)
    stated = certificate.verify(content)
    assert stated["format"] == reach.FORMAT and stated["plan"] == str(plan)
    assert stated["sealed_copies_left"] == {str(record): 1 for record in sorted(story.gone)}
    (vault,) = stated["second_vaults"]
    assert (vault["points"], vault["points_with_content"], vault["rows_of_keys_found"]) == (2, 1, 2)
    assert UUID(str(stated["control"])) in story.kept and stated["rows_that_each_was_tried_on"] == 2
    assert stated["bucket_keys_that_can_be_had"] > 2
    again = reach.prove(archive, plan, now)
    assert again.certificate_id == done.certificate_id
    assert events(archive, plan) == [{"plan": str(plan), "reach_certificate": str(done.certificate_id)}]
    assert reach.due(archive, now()) == [] and not red(archive, now())


def red(archive: Archive, now: datetime) -> bool:
    """Whether the report is red because a plan that could be proved is not."""
    report = reports.compile_report(archive, now.date(), now)
    return [check.status.value for check in report.checks if check.id == "reach"] == ["red"]


def test_where_nothing_opens_at_all_nothing_is_shown(story: Story) -> None:
    story.now.days += 8
    pruning.prune(story.archive, "disk", story.now())
    for path in (story.second / "records").glob("*/*"):  # the execution certificate's too
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)
    found = reach.prove(story.archive, story.plan, story.now)
    assert found.certificate_id is None
    assert [said.split(" from a")[0] for said in found.problems] == ["no record that lives opens"]


def test_a_point_that_cannot_be_read_is_no_proof(story: Story) -> None:
    story.now.days += 8
    pruning.prune(story.archive, "disk", story.now())
    point = sorted((story.second / "points").iterdir())[0]
    point.chmod(0o600)
    point.write_bytes(point.read_bytes().replace(b"muniment recovery", b"muniment_recovery"))
    found = reach.prove(story.archive, story.plan, story.now)
    assert found.certificate_id is None
    assert [point.name in said for said in found.problems] == [True]


def test_what_is_refused(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        reach.prove(archive, UUID(int=1), clock)
    capture_all(archive, [Document("SHORT", "old")], clock, tmp_path / "in")
    plan = approved(archive, clock)
    with pytest.raises(Refused, match="it is not executed to its end"):
        reach.prove(archive, plan, clock)


def test_without_a_second_vault(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    """There is nothing that could open it: it is said that nothing was looked at."""
    now = Calendar(clock)
    capture_all(archive, [Document("SHORT", "old")], clock, tmp_path / "in")
    plan = approved(archive, clock)
    execution.execute(archive, plan, clock)
    rekeying.rekey(archive, clock)
    now.days += 8
    found = reach.prove(archive, plan, now)
    assert found.certificate_id is not None and found.control is None
    stated = certificate.verify(evidence.read(archive, found.certificate_id))
    assert stated["second_vaults"] == [] and "nothing to open" in stated["control_said"]


def test_as_it_is_typed(story: Story, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = story.archive.settings
    for name, value in {
        "MUNIMENT_WORKSPACE": str(settings.root),
        "MUNIMENT_DATABASE_URL": settings.database_url,
        "MUNIMENT_VAULT_URL": settings.vault_url,
        "MUNIMENT_BACKUPS": f"disk=file://{story.second}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("retention.cli.disposition.now", story.now)
    early = CliRunner().invoke(app, ["--json", "disposition", "prove"])
    assert (early.exit_code, json.loads(early.stdout)) == (0, {"plans": []})
    story.now.days += 8
    red = CliRunner().invoke(app, ["--json", "disposition", "prove"])
    assert red.exit_code == 1 and len(json.loads(red.stdout)["plans"][0]["problems"]) == 2
    pruning.prune(story.archive, "disk", story.now())
    target = tmp_path / "reach.json"
    done = CliRunner().invoke(app, ["disposition", "prove", str(story.plan), "--output", str(target)])
    stated = certificate.verify(target.read_bytes())
    assert done.exit_code == 0 and done.stdout.startswith(f"plan {story.plan}: certificate ")
    assert stated["plan"] == str(story.plan)
