"""Case files from end to end: captured into them, dated by command and by CSV, explained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ingest import pipeline, sources
from ingest.extraction.workers import Workers
from retention import aggregations, approvals, catalog, signatures
from retention.aggregations import Aggregation
from retention.archive import Archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.effects import EFFECTS
from retention.errors import NotFound, Refused, UsageError
from tests.archive_builder import KEYS, enrol

SCHEDULE = r"""
version: 1
title: Clinic
timezone: UTC
classes:
  - id: PATIENT
    title: Patient
    action: destroy
    aggregation: {kind: patient, path: 'patients/(\d{1,9})/'}
    match: [{id: all, path: ["*"]}]
    rules:
      - id: visit
        trigger: "event:last_visit"
        period: P7Y
        later_records: covered
        authority: {citation: Clinics Regulations 1987}
      - id: newer
        trigger: "event:superseded"
        period: P1Y
        when: [{present: "event:superseded"}]
        replaces: [visit]
        authority: {citation: house policy}
"""
Run = Callable[..., Any]


@pytest.fixture
def run(
    settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command line on this test's archive: what it answers as JSON."""
    monkeypatch.setattr("retention.cli.command.settings", lambda _: settings)

    def run(*arguments: object) -> Any:
        app(["--json", *(str(one) for one in arguments)], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def by_two(archive: Archive, run: Run, clock: Callable[[], datetime]) -> Run:
    """The same, proposed and signed by two people; alone it is refused."""
    enrol(archive, clock)

    def run_by_two(*arguments: object) -> Any:
        with pytest.raises(Refused, match="refusing to record it alone"):
            run(*arguments)
        proposed = run(*arguments, "--propose")
        statement = run("approval", "show", proposed["proposal_id"])["statement"]
        for name in ("Ruth Levi", "Dan Cohen"):
            armored = signatures.sign(KEYS[name], statement.encode())
            approvals.sign(archive, UUID(proposed["proposal_id"]), armored, datetime.now(UTC), EFFECTS)
        return proposed

    return run_by_two


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


@pytest.fixture
def inbox(run: Run, tmp_path: Path) -> Path:
    plan = tmp_path / "plan.yaml"
    plan.write_text(SCHEDULE)
    run("schedule", "load", plan)
    for number in ("17", "18"):
        folder = tmp_path / "inbox" / "patients" / number
        folder.mkdir(parents=True)
        (folder / "letter.txt").write_text(f"A letter about patient {number} and almonds.\n")
    (tmp_path / "inbox" / "loose.txt").write_text("A letter about nobody, with almonds.\n")
    return tmp_path / "inbox"


def ingest(archive: Archive, folder: Path, clock: Callable[[], datetime], workers: Workers) -> dict[str, str]:
    """Record ids by place."""
    pipeline.ingest(archive, sources.source_at(str(folder), folder), clock, workers=workers)
    with transaction(archive.connections) as conn:
        return {hit.place: str(hit.record_id) for hit in catalog.find(conn, "almonds or olives")}


def test_captured_into_its_case_file_dated_and_explained(
    archive: Archive, inbox: Path, clock: Callable[[], datetime], workers: Workers, run: Run, by_two: Run
) -> None:
    found = ingest(archive, inbox, clock, workers)
    seventeen = found["patients/17/letter.txt"]
    assert [(a["kind"], a["id"], a["records"]) for a in run("aggregation", "list")] == [
        ("patient", "17", 1),
        ("patient", "18", 1),
    ]
    assert run("explain", seventeen)["retain_until"] is None
    by_two("event", "add", "patient:17", "last_visit", "2026-01-31", "--note", "card of the clinic")
    (added,) = run("event", "list", "patient:17")
    assert run("event", "add", "patient:17", "last_visit", "2026-01-31")["known"] == 1
    explained = run("explain", seventeen)
    assert (explained["retain_until"], explained["rule_id"]) == ("2033-01-31", "visit")
    rules = {rule["rule_id"]: rule for rule in explained["rules"]}
    assert rules.keys() == {"visit", "newer"} and rules["newer"]["standing"] == "not-applicable"
    (evidence,) = rules["visit"]["evidence"]
    assert (evidence["trigger_event_id"], evidence["by"]) == (added["trigger_event_id"], "Ruth Levi")
    assert explained["subjects"] == {evidence["subject"]: "patient:17"}
    assert run("explain", seventeen, "--as-of", "2033-02-01")["due"] is True
    with pytest.raises(NotFound):
        run("explain", seventeen, "--as-known-at", "2020-01-01")
    listed = run("event", "list", seventeen)
    assert listed == [] and len(run("event", "list", "patient:17")) == 1
    run("suspension", "start", "patient:17", "--reason", "litigation", "--from", "2026-03-01")
    assert "suspended" in run("explain", seventeen)["reason"]
    (suspension,) = run("suspension", "list")
    by_two("suspension", "end", suspension["suspension_id"], "--on", "2026-03-10")
    assert run("explain", seventeen)["retain_until"] == "2033-02-10"
    assert run("suspension", "list") == []
    run("event", "retract", added["trigger_event_id"])
    assert run("explain", seventeen)["retain_until"] is None
    # into an aggregation by hand, and nothing by a slip of the keyboard
    with pytest.raises(NotFound):
        run("event", "add", "patient:99", "last_visit", "2026-01-31")
    run("aggregation", "assign", found["loose.txt"], "--to", "patient:18")
    assert run("event", "add", "patient:18", "last_visit", "2036-02-01")["new"] == 1  # it is not over yet
    assert run("explain", found["loose.txt"])["retain_until"] == "2043-02-01"


def test_what_comes_in_again_supersedes_and_what_comes_later_is_suspended_too(
    archive: Archive, inbox: Path, clock: Callable[[], datetime], workers: Workers, run: Run
) -> None:
    old = ingest(archive, inbox, clock, workers)["patients/17/letter.txt"]
    run("suspension", "start", "patient:17", "--reason", "claim", "--from", "2026-01-01")
    (inbox / "patients" / "17" / "letter.txt").write_text("A letter about olives.\n")
    ingest(archive, inbox, clock, workers)
    with transaction(archive.connections) as conn:
        (new,) = catalog.find(conn, "olives")
        rows = conn.execute("SELECT record_id::text, special FROM records WHERE special").fetchall()
        facts = catalog.facts(conn, new.record_id)
    assert dict(rows) == {old: True, str(new.record_id): True} and len(facts.suspensions) == 1
    (event,) = run("event", "list", old)
    assert (event["kind"], event["effective"]) == ("superseded", clock().date().isoformat())
    assert [rule["standing"] for rule in run("explain", old)["rules"] if rule["rule_id"] == "visit"] == ["replaced"]


def test_a_csv_file_is_one_change(archive: Archive, inbox: Path, run: Run, by_two: Run, tmp_path: Path) -> None:
    file = tmp_path / "legacy.csv"

    def write(*lines: str) -> Path:
        file.write_text("\n".join(("subject,kind,date,note", *lines, "")), "utf-8-sig")
        return file

    rows = [f"patient:{n},last_visit,2020-01-{n:02d},{'old card' if n % 2 else ''}" for n in range(1, 21)]
    with pytest.raises(UsageError) as refused:
        run("event", "import", write(*rows))
    assert f"{file}:2: no record or aggregation patient:1." in str(refused.value) and "20 mistakes" in str(
        refused.value
    )
    bad = ["patient:1,last_visit,31.1.2020,", "nobody,last_visit,2020-01-01,", "patient:1,Last,1700-01-01,"]
    with pytest.raises(UsageError) as refused:
        run("event", "import", write(*rows, *bad), "--create")
    assert [line.split(":")[1] for line in str(refused.value).splitlines()[:-1]] == ["22", "23", "24"]
    assert run("aggregation", "list") == []
    by_two("event", "import", write(*rows), "--create")
    again = run("event", "import", file)
    assert (again["new"], again["known"]) == (0, 20)
    with transaction(archive.connections) as conn:
        subject = aggregations.identity(archive.safe, Aggregation("patient", "7"))
        (event,) = catalog.trigger_events(conn, archive, [subject])
    assert event["effective"] == "2020-01-07"
    for text in ("subject,kind\n", "", "subject,kind,date,date\n", "subject,kind,date\na,b,2020-01-01,c\n"):
        file.write_text(text)
        with pytest.raises(UsageError):
            run("event", "import", file)
    file.write_bytes(b"subject,kind,date\n\xff,b,2020-01-01\n")
    with pytest.raises(UsageError, match="UTF-8"):
        run("event", "import", file)


def test_legacy_dates_wait_for_two_people_also_those_that_make_nothing_due_yet(
    archive: Archive, inbox: Path, clock: Callable[[], datetime], workers: Workers, run: Run, tmp_path: Path
) -> None:
    ingest(archive, inbox, clock, workers)
    file = tmp_path / "legacy.csv"
    for rows in (
        "patient:17,last_visit,2010-01-01\npatient:18,last_visit,2024-01-01\n",
        "patient:18,last_visit,2026-11-21\n",
    ):
        file.write_text(f"subject,kind,date\n{rows}")
        with pytest.raises(Refused, match="lies before the day on which it is recorded"):
            run("event", "import", file)
        assert run("event", "list", "patient:18") == []
        assert run("event", "import", file, "--propose")["kind"] == "trigger"
    assert run("due")["classes"] == []
