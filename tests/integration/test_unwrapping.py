"""Every live key is unwrapped within its period; one that is not what was wrapped is named, and red."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from retention import archive as archives
from retention import rekeying, reports, unwrapping, verification
from retention.archive import Archive
from retention.cli import app
from retention.database import transaction
from retention.history import keys, publishing
from retention.reports.model import Check, Status
from retention.seal import Bucket, Safe, new_record_key
from tests.archive_builder import Document, capture_all, enrol, load
from tests.integration.test_life import entries
from tests.integration.test_rekeying import destroy

Clock = Callable[[], datetime]
LATE = timedelta(days=91)


@pytest.fixture
def ready(archive: Archive, clock: Clock, tmp_path: Path) -> Archive:
    """Keys of several classes, in buckets of their own."""
    load(archive, clock)
    enrol(archive, clock)
    keys.create(archive, "records.example.org/ledger", clock())
    documents = [Document(class_id, f"{class_id} {n}") for class_id in ("LONG", "LAW") for n in range(3)]
    capture_all(archive, documents, clock, tmp_path / "in")
    return archive


def rows(archive: Archive, query: str, *given: Any) -> list[Any]:
    with transaction(archive.connections) as conn:
        found = conn.execute(query.encode(), given)
        return found.fetchall() if found.description else []


def subjects(archive: Archive, scope: str) -> list[UUID]:
    query = "SELECT subject_id FROM subject_keys JOIN key_buckets USING (bucket_id) WHERE scope = %s ORDER BY 1"
    return [row[0] for row in rows(archive, query, scope)]


def damage(archive: Archive, subject: UUID) -> None:
    """One bit; again, and it is as it was."""
    turn = "UPDATE subject_keys SET wrapped = set_byte(wrapped, 39, get_byte(wrapped, 39) # 1) WHERE subject_id = %s"
    rows(archive, turn, subject)


def shown(archive: Archive, now: datetime) -> Check:
    (found,) = [one for one in reports.compile_report(archive, now.date(), now).checks if one.id == "keys-tested"]
    return found


def outcomes(archive: Archive) -> list[tuple[str, list[str]]]:
    return [(one["outcome"], one["subjects"]) for one in entries(archive) if one["type"] == "dec"]


def test_those_first_that_were_tested_longest_ago(ready: Archive) -> None:
    buckets = [str(row[0]) for row in rows(ready, "SELECT bucket_id FROM key_buckets ORDER BY recorded_at, bucket_id")]
    (count,) = rows(ready, "SELECT count(*) FROM subject_keys")[0]
    start = datetime.now(UTC)

    def clock() -> datetime:
        nonlocal start
        start += timedelta(minutes=1)
        return start

    assert unwrapping.run(ready, 0.0, clock).keys == 0 and outcomes(ready) == []
    seen: list[str] = []
    while len(seen) < len(buckets):
        done = unwrapping.run(ready, 1 / count, clock)
        assert done.buckets == 1 and done.damaged == {}
        seen += outcomes(ready)[-1][1]
    assert seen == buckets
    unwrapping.run(ready, 1 / count, clock)
    assert outcomes(ready)[-1] == ("success", buckets[:1])  # and again from the first
    done = unwrapping.run(ready, 1.0, clock)
    assert (done.keys, done.buckets) == (count, len(buckets)) and sorted(outcomes(ready)[-1][1]) == sorted(buckets)
    publishing.publish(ready, clock())
    assert verification.verify(ready).problems == []


def test_a_key_that_is_not_what_was_wrapped(ready: Archive, clock: Clock, commands_here: None) -> None:
    victim, *_ = subjects(ready, "LAW")
    damage(ready, victim)
    assert shown(ready, clock()).status is Status.GREEN  # nobody has looked yet
    found = CliRunner().invoke(app, ["--json", "fixity", "run", "--share", "100"])
    assert isinstance(found.exception, SystemExit) and found.exit_code == 1, found.exception
    assert list(json.loads(found.stdout)["keys"]["damaged"]) == [str(victim)]
    ((_, named),) = [one for one in outcomes(ready) if one[0] == "failure"]
    assert named[1:] == [str(victim)]
    red = shown(ready, clock())
    assert red.status is Status.RED and red.found.startswith("In 1 of ") and "names each" in red.then
    damage(ready, victim)
    assert unwrapping.run(ready, 1.0, clock).damaged == {}
    assert shown(ready, clock()).status is Status.GREEN


def test_a_bucket_whose_key_is_gone(ready: Archive, clock: Clock) -> None:
    ((bucket,),) = rows(ready, "SELECT bucket_id FROM key_buckets WHERE scope = 'LAW'")
    ready.safe.drop([bucket], clock())
    found = unwrapping.run(ready, 1.0, clock)
    assert found.damaged.keys() == {bucket} and "no bucket" in found.damaged[bucket]
    assert shown(ready, clock()).status is Status.RED


def test_an_untested_key_is_red(ready: Archive, clock: Clock) -> None:
    now = clock()
    assert shown(ready, now + LATE - timedelta(days=2)).status is Status.GREEN
    red = shown(ready, now + LATE)
    assert red.status is Status.RED and "within 90 days" in red.then
    assert unwrapping.run(ready, 0.01, lambda: now + LATE).buckets == 1
    assert shown(ready, now + LATE).status is Status.RED  # one bucket of several
    unwrapping.run(ready, 1.0, lambda: now + LATE)
    assert shown(ready, now + 2 * LATE - timedelta(days=2)).status is Status.GREEN


@pytest.mark.parametrize("how", ["destroyed", "moved", "bucket"])
def test_what_went_meanwhile_is_no_finding(
    ready: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Between the row and the question whether it is still there."""
    victim, *others = subjects(ready, "LAW")
    damage(ready, victim)
    real = Safe.bucket

    def meanwhile(safe: Safe, bucket_id: UUID) -> Bucket:
        found = real(safe, bucket_id)
        if found.scope == "LAW" and subjects(ready, "LAW"):
            other = safe.current("LONG", found.month, clock())
            change = {
                "destroyed": "DELETE FROM subject_keys WHERE subject_id = %s AND %s::uuid IS NOT NULL",
                "moved": "UPDATE subject_keys SET bucket_id = %s WHERE subject_id = %s",
            }
            if how == "destroyed":
                rows(ready, change[how], victim, victim)
            else:
                for one in [victim, *others] if how == "bucket" else [victim]:
                    rows(ready, change["moved"], other.id, one)
        if found.scope == "LAW" and how == "bucket":
            return real(safe, uuid4())  # its key has left the safe
        return found

    monkeypatch.setattr(Safe, "bucket", meanwhile)
    assert unwrapping.run(ready, 1.0, clock).damaged == {}
    assert {outcome for outcome, _ in outcomes(ready)} == {"success"}


def test_a_bucket_that_got_a_new_key_is_tested_from_then_on(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    unwrapping.run(ready, 1.0, clock)
    destroy(ready, clock, tmp_path / "gone")
    assert rekeying.rekey(ready, clock).replaced
    assert unwrapping.run(ready, 1.0, clock).damaged == {}
    publishing.publish(ready, clock())
    assert verification.verify(ready).problems == []


def test_more_keys_than_are_read_at_once(ready: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwrapping, "_AT_ONCE", 4)
    made = {uuid4(): (new_record_key(), f"S{n % 7}") for n in range(40)}
    with transaction(ready.connections) as conn:
        archives.store_keys(conn, ready.safe, made, clock())
    told: list[tuple[int, int]] = []
    done = unwrapping.run(ready, 1.0, clock, lambda n, of: told.append((n, of)))
    (count,) = rows(ready, "SELECT count(*) FROM subject_keys")[0]
    assert done.keys == count == told[-1][0] == told[-1][1] and len(told) > 5
    assert len({bucket for _, some in outcomes(ready) for bucket in some}) == done.buckets
