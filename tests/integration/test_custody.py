"""The root key: replaced whenever it is cut off, dropped when nothing needs it, kept by people and tried."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.kms.models import KmsBackend
from typer.testing import CliRunner

from retention import backup, custody, private_files, reports, seal, verification
from retention.archive import Archive, open_archive
from retention.backup import pruning
from retention.cli import app
from retention.config import BackupVault, Settings
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.history import keys, publishing
from retention.seal import open_safe
from tests.archive_builder import Document, capture_all, load
from tests.breaking import BreakingPool, BreakingVault, Broken, at
from tests.integration import test_drill
from tests.integration.test_drill import Place, drills
from tests.integration.test_life import entries
from tests.office import files

Clock = Callable[[], datetime]
Typed = Callable[..., dict[str, Any]]
place, empty, typed = test_drill.place, test_drill.empty, test_drill.typed  # fixtures
WEEK = timedelta(days=8)


@pytest.fixture
def archive(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    """Five records, with a point in a second vault."""
    disk = BackupVault("disk", f"file://{tmp_path}/second")
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault", backups=(disk,)), clock()) as opened:
        load(opened, clock)
        keys.create(opened, "records.example.org/ledger", clock())
        capture_all(opened, [Document("LONG", f"long {n}") for n in range(5)], clock, tmp_path / "in")
        assert backup.run(opened, "disk", clock).problems == []
        yield opened


def told(archive: Archive, kind: str) -> list[dict[str, Any]]:
    return [one["detail"] for one in entries(archive) if one["type"] == kind]


def rotations(archive: Archive) -> list[tuple[str, str]]:
    return [(one["root"], one["replaces"]) for one in told(archive, "enc") if "root" in one]


def whole(archive: Archive, clock: Clock) -> None:
    publishing.publish(archive, clock())
    assert [str(one) for one in verification.verify(archive).problems] == []


def later(clock: Clock) -> Clock:
    """When the terms have passed."""

    def late() -> datetime:
        return clock() + WEEK

    return late


# ---------------------------------------------------------------- rotation


def test_a_rotation_writes_the_safe_alone(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    before, first = files(tmp_path / "vault"), archive.safe.root
    done = custody.rotate(archive, clock)
    assert (done.replaced, done.root, done.waits) == (first.id, archive.safe.root.id, {}) and done.root != first.id
    assert files(tmp_path / "vault") == before
    newest = max(files(tmp_path / "second/safe").items())[1]
    assert seal.opens(archive.safe.root.secret, newest) and not seal.opens(first.secret, newest)
    assert rotations(archive) == [(str(done.root), str(first.id))]
    whole(archive, clock)


STEPS = ["file 1", "file 2", "file 3", "commit 1", "put 1"]


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_rotation_that_dies_is_ended_by_the_next(
    archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str, persisted: bool
) -> None:
    """Once its root is in use nobody gets another one; before that, nothing has happened."""
    kind, number = step.split()
    writes, before, real = at(int(number), persisted=persisted), archive.safe.root, private_files.write_private
    first = before.id

    def write(path: Path, content: bytes) -> None:
        with writes.one():
            real(path, content)

    dying = archive
    if kind == "commit":
        connections: Any = BreakingPool(archive.connections, writes)
        dying = replace(archive, connections=connections)
    if kind == "put":
        second: Any = BreakingVault(archive.seconds["disk"], writes)
        dying = replace(archive, seconds={"disk": second})
    with monkeypatch.context() as patched:
        if kind == "file":
            patched.setattr(seal, "write_private", write)
        with pytest.raises(Broken):
            custody.rotate(dying, clock)
    assert writes.broke
    with open_archive(archive.settings, clock()) as again:
        between = again.safe.root.id
        replaced = step in ("file 3", "commit 1", "put 1") or (step, persisted) == ("file 2", True)
        assert (between != first) == replaced
        entered = step == "put 1" or (step, persisted) == ("commit 1", True)
        assert len(rotations(again)) == entered
        done = custody.rotate(again, clock)
        assert (done.root == between) == (replaced and not entered)
        expected = [(str(between), str(first))] if replaced else []
        expected += [] if done.root == between else [(str(done.root), str(between))]
        assert rotations(again) == expected and done.waits == {}
        assert not seal.opens(before.secret, (again.settings.keys / "safe.age").read_bytes())
        assert {path.stat().st_mode & 0o777 for path in again.settings.keys.iterdir()} == {0o600}
        whole(again, clock)


def test_a_second_vault_that_is_away_waits(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "second").rename(tmp_path / "away")
    done = custody.rotate(archive, clock)
    assert set(done.waits) == {"disk"}
    ((kept,),) = [one.kept_by for one in custody.listed(archive).former]
    assert kept.startswith("copies of the safe in disk, which could not be looked at")
    assert custody.forget(archive, later(clock)) == []
    (tmp_path / "away").rename(tmp_path / "second")
    assert [one.kept_by for one in custody.listed(archive).former] == [("copies of the safe in disk",)]


def test_not_while_a_backup_runs(archive: Archive, clock: Clock) -> None:
    first = archive.safe.root.id
    custody.rotate(archive, clock)
    with backup.alone(archive, "disk"):
        with pytest.raises(Refused, match="refusing to change the root now"):
            custody.rotate(archive, clock)
        with pytest.raises(Refused, match="refusing to change the root now"):
            custody.forget(archive, clock)
    assert [one.id for one in archive.safe.former] == [first]


def test_kms_and_back(archive: Archive, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        key = boto3.client("kms").create_key(KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
        assert custody.rotate(archive, clock, key).kept_in == f"kms:{key}"
        assert str(archive.safe.root.identity).encode() not in b"".join(files(archive.settings.keys).values())
        with open_archive(archive.settings, clock()) as again:
            assert again.safe.root.kms == key
            assert custody.rotate(again, clock).kept_in == "file"
    assert [one["kept"] for one in told(archive, "enc") if "root" in one] == ["kms", "file"]
    assert key not in str(entries(archive))
    whole(archive, clock)


def test_kms_is_typed(place: Place, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    at = place.settings
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    said: Any = {"Error": {"Code": "KMSInvalidStateException", "Message": "pending deletion."}, "ResponseMetadata": {}}
    with mock_aws():
        key = boto3.client("kms").create_key(KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
        with pytest.raises(NotFound, match="there is none of that name"):
            typed(at, "key", "root", "--kms", "alias/none")
        first = typed(at, "key", "root", "--kms", key)
        assert first["kept_in"] == f"kms:{key}" and first["waits"] == {}
        second = typed(at, "key", "rotate")  # kept where it is kept
        assert second["kept_in"] == f"kms:{key}" and second["replaced"] == first["root"] != second["root"]
        with (
            patch.object(KmsBackend, "decrypt", side_effect=ClientError(said, "Decrypt")),
            pytest.raises(Refused, match="cancel its deletion"),
        ):
            typed(at, "key", "list")
        assert typed(at, "key", "root", "--file")["kept_in"] == "file"
    assert len(typed(at, "key", "list")["former"]) == 3


# ---------------------------------------------------------------- former roots


def test_a_former_root_goes_when_nothing_needs_it(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    first = archive.safe.root.id
    sealed = archive.safe.seal(b"locked")
    custody.rotate(archive, clock)
    assert backup.run(archive, "disk", clock).problems == []
    late = later(clock)
    assert custody.forget(archive, late) == []  # an old copy of the safe is sealed to it,
    pruning.prune(archive, "disk", late())
    path = tmp_path / "vault/keys/4711/1"
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed)
    assert [one.kept_by for one in custody.listed(archive).former] == [("locked keys in the vault",)]
    assert custody.forget(archive, late) == []  # and so is what a lock keeps
    assert archive.safe.open(path.read_bytes(), "x") == b"locked"
    path.write_bytes(archive.safe.seal(b"locked"))
    assert custody.forget(archive, clock) == []  # its term has not passed
    assert custody.forget(archive, late) == [first]
    assert custody.forget(archive, late) == []
    assert [one["root_keys"] for one in told(archive, "del") if "root_keys" in one] == [1]
    with pytest.raises(Damaged, match="neither the root key nor one before it"):
        open_safe(archive.settings.keys, clock()).open(sealed, "x")
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    whole(archive, clock)


def test_a_root_that_went_is_told_though_the_event_was_cut_off(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    custody.rotate(archive, clock)
    custody.rotate(archive, clock)
    for path in sorted((tmp_path / "second/safe").iterdir())[:-1]:
        path.unlink()
    gone = [one.id for one in archive.safe.former]
    late = later(clock)
    writes: Any = BreakingPool(archive.connections, at(1))
    with pytest.raises(Broken):
        custody.forget(replace(archive, connections=writes), late)
    assert archive.safe.former == () and len(gone) == 2
    assert custody.forget(archive, late) == []
    assert custody.forget(archive, late) == []
    assert [one["root_keys"] for one in told(archive, "del") if "root_keys" in one] == [2]


# ---------------------------------------------------------------- escrow


def escrow(archive: Archive, clock: Clock) -> tuple[str, str]:
    (found,) = [one for one in reports.compile_report(archive, clock().date(), clock()).checks if one.id == "escrow"]
    return found.status.value, found.found


def test_escrow_is_told_and_grows_stale(archive: Archive, clock: Clock, tmp_path: Path) -> None:
    assert escrow(archive, clock)[0] == "amber"
    paths = custody.escrow(archive, 5, 3, tmp_path / "shares", clock)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600} and len(paths) == 5
    assert custody.root_of(paths[1:4]).id == archive.safe.root.id
    with pytest.raises(Refused, match="refusing to write shares into .*share-1-of-5.txt is"):
        custody.escrow(archive, 5, 3, tmp_path / "shares", clock)
    with pytest.raises(UsageError, match="7 of 5 holders"):
        custody.escrow(archive, 5, 7, tmp_path / "none", clock)
    assert [one for one in told(archive, "rep") if "holders" in one] == [{"holders": 5, "threshold": 3}]
    said = str(entries(archive))
    assert not any(" ".join(path.read_text().split()[-33:][:3]) in said for path in paths)
    status, words = escrow(archive, clock)
    assert status == "green" and words.startswith("5 people have a share") and "of them 3 are needed" in words
    custody.rotate(archive, clock)
    custody.rotate(archive, clock)  # two roots later still
    status, words = escrow(archive, clock)
    assert status == "red" and "are of one before it" in words
    custody.escrow(archive, 2, 2, tmp_path / "newer", clock)
    assert escrow(archive, clock)[0] == "green"
    assert escrow(archive, lambda: clock() + timedelta(days=400))[0] == "amber"  # nobody tried them


def test_what_people_are_shown(place: Place, typed: Typed, tmp_path: Path) -> None:
    """What is in use and what may go; never a secret."""
    at, shares = place.settings, tmp_path / "shares"
    typed(at, "key", "list")  # and from here on commands work there
    secrets = [(at.keys / "root.key").read_text().strip()]

    def said(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(app, ["key", *arguments])
        assert found.exit_code == code, found.output
        return found.output

    shown = [said("list"), said("escrow", "--holders", "3", "--threshold", "2", "--into", str(shares)), said("list")]
    shown += [said("rotate"), said("list"), said("rekey"), said("recover", str(shares), "--into", str(tmp_path / "k"))]
    secrets += [(at.keys / "root.key").read_text().strip()]
    secrets += [" ".join(path.read_text().split()[-33:])[:40] for path in shares.iterdir()]
    assert not any(secret in output for secret in secrets for output in shown)
    assert "nobody has shares of it" in shown[0] and "any 2 make it" in shown[1]
    assert "3 shares of it, made" in shown[2] and "are of the former one: muniment key escrow" in shown[3]
    assert "3 shares of a root before it" in shown[4] and "needed by copies of the safe in disk" in shown[4]


def test_a_drill_with_the_shares(
    place: Place, empty: Settings, typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at = place.settings
    typed(at, "key", "escrow", "--holders", "3", "--threshold", "2", "--into", str(tmp_path / "shares"))
    (tmp_path / "shares/share-2-of-3.txt").unlink()
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_URL", empty.database_url)
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_OWNER_URL", empty.database_owner_url or "")
    (root_key,) = at.keys.glob("root.key")
    content = root_key.read_bytes()
    found = typed(at, "drill", "--shares", str(tmp_path / "shares"))
    assert found["ok"] and found["escrowed"] == "shares"
    assert root_key.read_bytes() == content
    listed = typed(at, "key", "list")
    assert listed["tried_at"] is not None and listed["escrow"]["holders"] == 3 and not listed["escrow"]["stale"]
    with open_archive(at, test_drill.now()) as archive:
        ((drill, dec),) = [
            (a["detail"], b) for a, b in zip(entries(archive), entries(archive)[1:], strict=False) if b["type"] == "dec"
        ]
        assert drill["escrowed"] == "shares" == dec["detail"]["escrowed"] and drill["drill"] == dec["detail"]["drill"]
        assert dec["subjects"] == [str(archive.safe.root.id)]
        whole(archive, test_drill.now)
    with pytest.raises(UsageError, match="expected one of them"):
        typed(at, "drill", "--shares", str(tmp_path / "shares"), "--root-key", str(root_key))


def test_a_drill_with_shares_of_a_root_that_was_replaced(
    place: Place, empty: Settings, typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed(place.settings, "key", "escrow", "--holders", "2", "--threshold", "2", "--into", str(tmp_path / "shares"))
    typed(place.settings, "key", "rotate")
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_URL", empty.database_url)
    monkeypatch.setenv("MUNIMENT_DRILL_DATABASE_OWNER_URL", empty.database_owner_url or "")
    with pytest.raises(Damaged, match="the newest copy of the key safe, does not open with root key"):
        typed(place.settings, "drill", "--shares", str(tmp_path / "shares"))
    assert drills(place.settings) == [(False, None, None, None)]
    assert typed(place.settings, "key", "list")["tried_at"] is None


def test_restored_after_a_rotation_from_shares_alone(
    place: Place, empty: Settings, typed: Typed, tmp_path: Path
) -> None:
    """The newest point was taken before the rotation; what was sealed to the former root opens with the present one."""
    at, shares = place.settings, tmp_path / "shares"
    sealed = open_safe(at.keys, test_drill.now()).seal(b"locked")
    typed(at, "key", "rotate")
    typed(at, "key", "escrow", "--holders", "3", "--threshold", "2", "--into", str(shares))
    with open_archive(at, test_drill.now()) as archive:
        publishing.publish(archive, test_drill.now())
    empty.keys.mkdir(parents=True)
    for path in at.keys.glob("ledger-*.key"):
        shutil.copy2(path, empty.keys)
    shutil.rmtree(at.root.parent)
    found = typed(empty, "restore", "--from", "disk", "--shares", str(shares))
    assert (found["lost"], found["resurrected"], found["verified"], found["problems"]) == ([], 0, True, [])
    with open_archive(empty, test_drill.now()) as archive:
        assert archive.safe.open(sealed, "x") == b"locked"
        (former,) = custody.listed(archive).former
        assert former.kept_by == ("copies of the safe in disk",)
        assert UUID(rotations(archive)[0][1]) == former.id
    again = typed(empty, "key", "recover", str(shares), "--into", str(tmp_path / "elsewhere"))
    assert Path(again["file"]).read_bytes() == (empty.keys / "root.key").read_bytes()
    with pytest.raises(UsageError, match="expected either --kms KEY or --file"):
        typed(empty, "key", "root")
    assert typed(empty, "key", "root", "--file")["kept_in"] == "file"
