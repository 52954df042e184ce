"""A record handed out is what was captured, under its name whole or not at all, and told before it is opened."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import pytest
from typer.testing import CliRunner

from ingest.cli import app
from retention import exporting, requests
from retention.archive import Archive
from retention.database import transaction
from retention.errors import MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.exporting import Place, export
from retention.packages import record_files
from retention.reading import Reader
from retention.requests import disclosures
from retention.requests.register import Asked, Ground
from retention.requests.subjects import Subject
from tests.archive_builder import Document, capture_all, load
from tests.deposits import Doc, deposit
from tests.integration.test_life import PERSONAL
from tests.owning import owning

Clock = Callable[[], datetime]
Muniment = Callable[..., Any]


@pytest.fixture
def letter(archive: Archive, clock: Clock, tmp_path: Path) -> UUID:
    load(archive, clock, PERSONAL)
    (found,) = capture_all(
        archive, [Document("CHILD", "letter to Zilberquist", case=("patient", "ZQ-4711"))], clock, tmp_path / "in"
    )
    return found


@pytest.fixture
def muniment(commands_here: None) -> Muniment:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments)])

    return run


def told(archive: Archive) -> list[tuple[str, dict[str, Any], list[str]]]:
    """Outcome, detail and subjects of each export in the history."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT entry FROM events WHERE type = 'dis' ORDER BY position").fetchall()
    entries = [json.loads(bytes(row[0])) for row in rows]
    return [(e["outcome"], e["detail"], e["subjects"]) for e in entries if "export" in e["detail"]]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_record_is_handed_out_as_it_was_captured(
    archive: Archive, letter: UUID, muniment: Muniment, tmp_path: Path
) -> None:
    out = tmp_path / "out.txt"
    done = muniment("--json", "--agent", "Dana Nurse", "export", letter, "-o", out, "--why", "treatment")
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == b"letter to Zilberquist 0" and mode(out) == 0o600
    digest = sha256(out.read_bytes()).hexdigest()
    record = {"record_id": str(letter), "path": str(out), "bytes": 23, "sha256": digest}
    assert json.loads(done.stdout) == {"records": [record], "key": None, "failed": []}
    assert told(archive) == [("success", {"export": "document", "records": 1, "why": "treatment"}, [str(letter)])]
    assert [*tmp_path.glob(".muniment-*")] == []


def test_the_sealed_object_opens_with_the_age_tool_alone(
    archive: Archive, letter: UUID, muniment: Muniment, tmp_path: Path
) -> None:
    out, key = tmp_path / "letter.age", tmp_path / "key"
    done = muniment("export", letter, "-o", out, "--key", key, "--why", "audit")
    assert done.exit_code == 0 and "destroying the record does not reach them" in done.stderr
    assert mode(out) == mode(key) == 0o600 and out.read_bytes().startswith(b"age-encryption.org/v1\n")
    opened = subprocess.run(["age", "--decrypt", "--identity", key, out], capture_output=True, check=True, timeout=60)
    assert opened.stdout == b"letter to Zilberquist 0"
    assert told(archive) == [("success", {"export": "key", "records": 1, "why": "audit"}, [str(letter)])]


def test_several_go_into_a_folder_under_names_that_never_meet(
    archive: Archive, clock: Clock, muniment: Muniment, tmp_path: Path
) -> None:
    load(archive, clock, PERSONAL)
    titles = ("a/../b", "Same", "same", "..", "other")
    records = deposit(archive, *[Doc(f"of {title}", "LONG", title=title) for title in titles], now=clock())
    done = muniment("export", *records, "-o", tmp_path / "out", "--why", "audit")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    same = {f"{title} {record}.txt" for title, record in zip(titles, records, strict=True) if title in ("Same", "same")}
    assert names == {"a_.._b.txt", *same, "_...txt", "other.txt"} and mode(tmp_path / "out") == 0o700
    sealed = muniment("export", *records, "-o", tmp_path / "sealed", "--key", tmp_path / "keys", "--why", "audit")
    assert sealed.exit_code == 0, sealed.output
    for name in names:
        command: list[str | Path] = ["age", "-d", "-i", tmp_path / "keys", tmp_path / "sealed" / f"{name}.age"]
        opened = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
        assert opened == (tmp_path / "out" / name).read_bytes()
    assert len(told(archive)) == 2 and told(archive)[0][1] == {"export": "document", "records": 5, "why": "audit"}


def test_nothing_is_overwritten_unless_it_is_asked_for(
    archive: Archive, letter: UUID, clock: Clock, muniment: Muniment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, key = tmp_path / "out", tmp_path / "key"
    for there in (out, key):
        there.write_bytes(b"mine")
        done = muniment("export", letter, "-o", out, "--key", key, "--why", "audit")
        assert isinstance(done.exception, Refused) and done.exception.exit_code == 3
        assert str(done.exception) == f"refusing to overwrite {there}. Name another place, or say --force."
        there.unlink()
    assert told(archive) == []
    key.symlink_to(tmp_path / "elsewhere")  # a link that leads nowhere is something, too
    with pytest.raises(Refused, match="refusing to overwrite"):
        export(archive, [letter], Place(out, key), Reader("audit", clock()))
    assert not (tmp_path / "elsewhere").exists()

    write = record_files.native

    def late(*arguments: Any) -> Any:  # somebody puts a file there meanwhile
        out.write_bytes(b"mine")
        return write(*arguments)

    monkeypatch.setattr(record_files, "native", late)
    with pytest.raises(Refused, match="refusing to overwrite"):
        export(archive, [letter], Place(out), Reader("audit", clock()))
    assert out.read_bytes() == b"mine" and [outcome for outcome, _, _ in told(archive)] == ["success", "failure"]
    assert muniment("export", letter, "-o", out, "--why", "audit", "--force").exit_code == 0
    assert out.read_bytes() == b"letter to Zilberquist 0" and mode(out) == 0o600


def test_what_is_damaged_gets_no_name_and_stops_no_other(
    archive: Archive, clock: Clock, muniment: Muniment, tmp_path: Path
) -> None:
    load(archive, clock, PERSONAL)
    broken, whole = deposit(archive, Doc("one", "LONG", title="one"), Doc("two", "LONG", title="two"), now=clock())
    with owning(archive) as conn:
        conn.execute("UPDATE contents SET commitment = sha256('x') WHERE record_id = %s", (broken,))
    done = muniment("--json", "export", broken, whole, "-o", tmp_path / "out", "--why", "audit")
    said = json.loads(done.stdout)
    assert done.exit_code == 1 and [one["record_id"] for one in said["records"]] == [str(whole)]
    assert [(one["record_id"], one["code"]) for one in said["failed"]] == [(str(broken), "RECORD-DAMAGED")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two.txt"]
    first, second, *_ = told(archive)
    assert (first[0], set(first[2])) == ("success", {str(broken), str(whole)})
    assert second == ("failure", {"export": "document", "records": 1}, [str(broken)])
    alone = muniment("export", broken, "-o", tmp_path / "never", "--why", "audit")
    assert alone.exit_code == 1 and "opens to other bytes than were captured" in alone.stdout
    assert not (tmp_path / "never").exists() and [*tmp_path.glob(".muniment-*")] == []


def test_the_event_stands_before_anything_is_opened(
    archive: Archive, letter: UUID, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that goes away: what was said is then said to have failed. A ledger that cannot be written: nothing."""
    seen = list[int]()

    def away(*_: Any) -> BinaryIO:
        seen.append(len(told(archive)))
        raise ServiceUnavailable("the store is away")

    monkeypatch.setattr(archive.vault, "open", away)
    with pytest.raises(ServiceUnavailable, match="the store is away"):
        export(archive, [letter], Place(tmp_path / "out"), Reader("audit", clock()))
    assert seen == [1] and [outcome for outcome, _, _ in told(archive)] == ["success", "failure"]
    with owning(archive) as conn:
        conn.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = 'disk_full'; END $$"""
        )
        conn.execute("CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
    with pytest.raises(MunimentError):
        export(archive, [letter], Place(tmp_path / "out"), Reader("audit", clock()))
    assert seen == [1] and not (tmp_path / "out").exists() and [*tmp_path.glob(".muniment-*")] == []


def test_what_may_not_leave_is_refused(archive: Archive, letter: UUID, clock: Clock, tmp_path: Path) -> None:
    free, going = deposit(archive, Doc("free", "LONG"), Doc("going", "LONG"), now=clock())
    requests.restrict(archive, Asked(Subject("patient:ZQ-4711"), ground=Ground.ACCURACY), clock())
    with transaction(archive.connections) as conn:
        conn.execute("UPDATE records SET state = 2 WHERE record_id = %s", (going,))
    asks, place = Reader("audit", clock()), Place(tmp_path / "out")
    with pytest.raises(Refused, match=rf"refusing to export record {letter}: it is restricted since .* \(GDPR art. 18"):
        export(archive, [free, letter], place, asks)
    with pytest.raises(Refused, match=f"refusing to export record {going}: it is being destroyed"):
        export(archive, [free, going], place, asks)
    with pytest.raises(NotFound, match="no such record in the catalog"):
        export(archive, [free, UUID(int=7)], place, asks)
    (tmp_path / "file").touch()
    for wrong in (Place(tmp_path / "no" / "out"), Place(tmp_path / "out", tmp_path / "out")):
        with pytest.raises(UsageError):
            export(archive, [free], wrong, asks)
    with pytest.raises(UsageError, match="expected a folder for several records"):
        export(archive, [free, going], Place(tmp_path / "file"), asks)
    assert not place.target.exists() and told(archive) == []


def test_whom_it_was_given_to_is_accounted_for(
    archive: Archive, letter: UUID, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed() -> list[tuple[str | None, str, str | None]]:
        with transaction(archive.connections) as conn:
            found = disclosures.accounting(conn, archive, [letter], date(2026, 1, 1))
            return [(one.recipient, one.purpose, one.exempt) for one in found]

    export(archive, [letter], Place(tmp_path / "1"), Reader("treatment", clock()), "Dr. Peretz")
    export(archive, [letter], Place(tmp_path / "2"), Reader("access", clock()))  # a code that somebody typed
    expected = [("Dr. Peretz", "treatment", None), (None, "access", None)]
    assert listed() == expected
    monkeypatch.setattr(record_files, "native", lambda *_: (_ for _ in ()).throw(NotFound("no such object")))
    assert export(archive, [letter], Place(tmp_path / "3"), Reader("audit", clock()), "Dr. Levi").findings
    assert listed() == [*expected, ("Dr. Levi", "audit", None)]  # said before; that it failed is no second one
    with transaction(archive.connections) as conn:
        whom = requests.recipients(conn, archive, [letter]).disclosed_to
    assert "Dr. Peretz" in whom and "not recorded: access" in whom


def test_events_are_cut(archive: Archive, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(archive, clock, PERSONAL)
    records = deposit(archive, *[Doc(f"{n}", "LONG", title=f"{n}") for n in range(5)], now=clock())
    monkeypatch.setattr(exporting, "_AT_ONCE", 2)
    export(archive, records, Place(tmp_path / "out"), Reader("audit", clock()))
    assert [len(subjects) for _, _, subjects in told(archive)] == [2, 2, 1]
