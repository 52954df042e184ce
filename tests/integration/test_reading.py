"""Reading is an event: one for each reading of personal data, none for others, and nothing is shown without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from ingest.cli import app
from retention import aggregations, holds, ledger, policy, reading, requests, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive
from retention.database import transaction
from retention.errors import MunimentError, NotFound, UsageError
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.reading import Reader
from retention.requests import disclosures
from retention.requests.register import Asked
from retention.requests.subjects import Subject
from retention.triggers import Change, Given
from tests.archive_builder import Document, capture_all, load
from tests.deposits import Doc, deposit, detain
from tests.integration.test_life import PERSONAL
from tests.integration.test_residue import found as places
from tests.owning import owning

Clock = Callable[[], datetime]
Muniment = Callable[..., Any]
CASE = ("patient", "ZQ-4711")


@pytest.fixture
def ids(archive: Archive, clock: Clock, tmp_path: Path) -> dict[str, UUID]:
    """A letter of a class that holds personal data, a memo of one that does not, and a document in quarantine."""
    load(archive, clock, PERSONAL)
    documents = [Document("CHILD", "letter to Zilberquist", case=CASE), Document("LONG", "memo of the harvest")]
    letter, memo = capture_all(archive, documents, clock, tmp_path / "in")
    patient = aggregations.identity(archive.safe, Aggregation(*CASE))
    triggers.change(archive, Change((Given(patient, "treated", date(2020, 2, 3)),)), clock())
    return {
        "letter": letter,
        "memo": memo,
        "patient": patient,
        "document": detain(archive, Doc("broken", title="broken"), now=clock()),
    }


@pytest.fixture
def muniment(commands_here: None) -> Muniment:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments)])

    return run


def size(archive: Archive) -> int:
    with transaction(archive.connections) as conn:
        return ledger.head(conn)[0]


def since(archive: Archive, before: int) -> list[dict[str, Any]]:
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT entry FROM events WHERE position >= %s ORDER BY position", (before,))
        return [json.loads(bytes(row[0])) for row in rows]


# what is typed, what the event says was read, and of whom; None: no event
READINGS = {
    ("show", "letter"): ("show", "letter"),
    ("show", "memo"): None,
    ("show", "letter", "--history"): ("history", "letter"),
    ("show", "memo", "--history"): None,
    ("explain", "letter"): ("explain", "letter"),
    ("explain", "memo"): None,
    ("event", "list", "letter"): ("events", "letter"),
    ("event", "list", "patient"): ("events", "patient"),
    ("event", "list", "memo"): None,
    ("aggregation", "list"): ("case-files", "patient"),
    ("aggregation", "list", "--kind", "contract"): None,
    ("quarantine", "list"): ("quarantine", "document"),
    ("quarantine", "show", "document"): ("quarantine", "document"),
    ("quarantine", "list", "--state", "released"): None,
    ("find", "Zilberquist"): ("find", "letter"),
    ("find", "harvest"): ("find", None),  # nothing of a person was found, which was looked for among all
    ("find", "Zilberquist", "--class", "CHILD"): ("find", "letter"),
    ("find", "harvest", "--class", "LONG"): None,
    ("due", "--list"): None,
    ("destroyed", "--id", "letter"): None,
}


def test_each_command_that_reads_is_one_event(archive: Archive, ids: dict[str, UUID], muniment: Muniment) -> None:
    for number, (typed, expected) in enumerate(READINGS.items()):
        arguments = [str(ids.get(word, word)) for word in typed]
        reads = typed[0] not in ("due", "destroyed")
        if reads:
            arguments += ["--why", "complaint"]
        before = size(archive)
        done = muniment("--agent", "Dana Nurse", *(["--json"] if number % 2 else []), *arguments)
        assert isinstance(done.exception, SystemExit | None), (typed, done.exception)
        assert done.exit_code in ((0,) if reads else (0, 1)), (typed, done.output)
        made = since(archive, before)
        if expected is None:
            assert made == [], typed
            continue
        what, whose = expected
        (event,) = made
        shown = [str(ids[whose])] if whose else []
        assert (event["type"], event["outcome"]) == ("dis", "success")
        assert event["agent"]["for"] == str(archive.safe.pseudonym("person", "Dana Nurse"))
        detail = event["detail"]
        query = [detail.pop("query")] if what == "find" else []
        assert detail.pop("query_commitment", None) is not None or what != "find"
        assert detail == {"read": what, "shown": len(shown), "why": "complaint"}, typed
        assert event["subjects"] == [*query, *shown], typed
        assert b"Zilberquist" not in json.dumps(event).encode()


def held_and_asked(archive: Archive, ids: dict[str, UUID], clock: Clock, folder: Path) -> tuple[UUID, UUID]:
    """A hold and a request, both with a name in their words."""
    matter = Matter("Zilberquist v. Peretz", "court order", date(2099, 1, 1))
    hold = holds.place(archive, Scope(records=(ids["memo"],)), Mode.STATIC, matter, clock()).hold_id
    asked = Asked(Subject("patient:ZQ-4711"), by="Rina Zilberquist")
    return hold, requests.access(archive, asked, folder / "copy", None, clock).request.id


def test_who_looks_at_words_about_people_is_told(
    archive: Archive, ids: dict[str, UUID], muniment: Muniment, clock: Clock, tmp_path: Path
) -> None:
    hold, request = held_and_asked(archive, ids, clock, tmp_path)
    for typed, what, whose, shown in (
        (("hold", "list"), "holds", [hold], 1),
        (("hold", "show", hold), "hold", [hold], 1),
        (("request", "show", request), "request", [request], 1),
        (("report", "--format", "json", "--names"), "report", [], None),
        (("report", "--format", "json"), None, [], None),
    ):
        before = size(archive)
        done = muniment(*typed, *(("--why", "audit") if what else ()))
        assert isinstance(done.exception, SystemExit | None) and done.exit_code in (0, 1), done.output
        made = [event for event in since(archive, before) if event["type"] == "dis"]
        if what is None:
            assert made == []
            continue
        (event,) = made
        assert event["subjects"] == [*map(str, whose)] and event["detail"]["read"] == what
        assert event["detail"]["why"] == "audit" and event["detail"]["shown"] == (shown or event["detail"]["shown"])
        assert event["detail"]["shown"] > 0 and b"Zilberquist" not in json.dumps(event).encode()


def test_why_is_a_code_and_need_not_be_said(archive: Archive, ids: dict[str, UUID], muniment: Muniment) -> None:
    before = size(archive)
    assert muniment("show", ids["letter"]).exit_code == 0
    assert [event["detail"]["why"] for event in since(archive, before)] == ["unstated"]
    for wrong in ("For Dana Zilberquist", "x", "UPPER", ""):
        done = muniment("show", ids["letter"], "--why", wrong)
        assert isinstance(done.exception, UsageError) and "Words could name people" in str(done.exception)
        assert done.stdout == ""
    assert size(archive) == before + 1


def test_without_a_class_that_holds_personal_data_nothing_is_recorded(
    archive: Archive, clock: Clock, tmp_path: Path, muniment: Muniment
) -> None:
    load(archive, clock)
    (record,) = capture_all(archive, [Document("LONG", "x", case=CASE)], clock, tmp_path / "in")
    detain(archive, Doc("broken"), now=clock())
    before = size(archive)
    for typed in (
        ("show", record),
        ("find", "x"),
        ("quarantine", "list"),
        ("aggregation", "list"),
        ("explain", record),
    ):
        assert muniment(*typed).exit_code == 0
    assert size(archive) == before


def test_what_the_schedule_does_not_know_may_be_personal(archive: Archive, ids: dict[str, UUID], clock: Clock) -> None:
    (record,) = deposit(archive, Doc("a scan", "unclassified"), now=clock())
    before = size(archive)
    reading.show(archive, record, Reader("audit", clock()))
    with owning(archive) as conn:
        conn.execute(
            "INSERT INTO record_labels SELECT %s, class_key, now() FROM classes WHERE class_id = 'CHILD'",
            (ids["memo"],),
        )
    reading.show(archive, ids["memo"], Reader("audit", clock()))  # by a label
    assert [event["subjects"] for event in since(archive, before)] == [[str(record)], [str(ids["memo"])]]


def test_many_at_once_are_cut(
    archive: Archive, ids: dict[str, UUID], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_AT_ONCE", 2)
    records = deposit(archive, *[Doc("almonds", "CHILD") for _ in range(5)], now=clock())
    before = size(archive)
    hits, _ = reading.find(archive, "almonds", None, 50, Reader("audit", clock()))
    made = since(archive, before)
    (query,) = {event["detail"]["query"] for event in made}
    assert [len(event["subjects"]) for event in made] == [3, 3, 2] and {event["detail"]["shown"] for event in made} == {
        5
    }
    assert {one for event in made for one in event["subjects"]} == {query, *map(str, records)}
    assert {hit.record_id for hit in hits} == set(records)


# ---------------------------------------------------------------- what a ledger that cannot be written shows


def test_nothing_is_shown_that_is_not_recorded(
    archive: Archive, ids: dict[str, UUID], muniment: Muniment, clock: Clock, tmp_path: Path
) -> None:
    hold, request = held_and_asked(archive, ids, clock, tmp_path)
    with owning(archive) as conn:
        conn.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = 'disk_full'; END $$"""
        )
        conn.execute("CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
    reads = [tuple(str(ids.get(word, word)) for word in one) for one, expected in READINGS.items() if expected]
    reads += [("hold", "list"), ("hold", "show", str(hold)), ("request", "show", str(request))]
    reads += [("report", "--format", "json", "--names")]
    for typed in reads:
        done = muniment("--json", *typed)
        assert isinstance(done.exception, MunimentError) and done.stdout == "", (typed, done.stdout)
    assert muniment("show", ids["memo"]).exit_code == 0
    assert [*archive.settings.root.glob("reports/*")] == []
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT FROM queries").fetchone() is None
        assert conn.execute("SELECT FROM key_buckets WHERE scope = 'queries'").fetchone() is None


# ---------------------------------------------------------------- the words of searches


def test_the_words_of_a_search_are_nowhere_in_clear(
    archive: Archive, ids: dict[str, UUID], muniment: Muniment, clock: Clock
) -> None:
    assert muniment("find", "Zorobabel or Zilberquist", "--class", "CHILD").exit_code == 0
    assert [*places(archive, b"Zorobabel")] == [] and [*places(archive, b"zorobabel")] == []
    with transaction(archive.connections) as conn:
        ((query,),) = conn.execute("SELECT query_id FROM queries")
    before = size(archive)
    assert muniment("searched", query).stdout.strip() == "CHILD in Zorobabel or Zilberquist"
    (event,) = since(archive, before)
    assert (event["detail"]["read"], event["subjects"]) == ("query", [str(query)])


def test_the_words_of_a_search_go_after_six_years(archive: Archive, ids: dict[str, UUID], clock: Clock) -> None:
    now = clock()
    reading.find(archive, "Zorobabel", None, 10, Reader("audit", now))
    with transaction(archive.connections) as conn:
        ((query,),) = conn.execute("SELECT query_id FROM queries")
    day = now.replace(year=now.year + 6)
    assert reading.forget(archive, day) == 0
    assert reading.searched(archive, query, Reader("audit", now))["query"] == "Zorobabel"
    before = size(archive)
    assert reading.forget(archive, day + timedelta(seconds=1)) == 1
    assert [(e["type"], e["detail"], e["subjects"]) for e in since(archive, before)] == [
        ("del", {"queries": 1}, [str(query)])
    ]
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT FROM subject_keys WHERE subject_id = %s", (query,)).fetchone() is None
    with pytest.raises(NotFound, match="gone after six years"):
        reading.searched(archive, query, Reader("audit", now))
    assert reading.forget(archive, day + timedelta(seconds=1)) == 0 and size(archive) == before + 1


# ---------------------------------------------------------------- and what is given to others


def test_what_is_looked_at_inside_is_no_disclosure(archive: Archive, ids: dict[str, UUID], clock: Clock) -> None:
    reading.show(archive, ids["letter"], Reader("treatment", clock()))
    reading.find(archive, "Zilberquist", None, 10, Reader("treatment", clock()))
    reading.events(archive, str(ids["patient"]), Reader("treatment", clock()))
    with transaction(archive.connections) as conn:
        assert disclosures.accounting(conn, archive, [ids["letter"], ids["patient"]], None) == []


def test_the_schedule_in_force_decides(archive: Archive, ids: dict[str, UUID], clock: Clock) -> None:
    policy.load(archive, PERSONAL.replace("    personal_data: {subjects: [patients]}\n", ""), "test.yaml", clock())
    before = size(archive)
    reading.show(archive, ids["letter"], Reader("audit", clock()))
    assert size(archive) == before
