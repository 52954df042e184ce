"""The compliance report over a real PostgreSQL whose rows were written by hand, and every link followed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from retention import embedded, ledger, policy, reports
from retention.archive import Archive, open_archive, pseudonym, store_keys
from retention.config import Settings
from retention.database import Connection, transaction
from retention.errors import UsageError
from retention.ledger import Event
from retention.model import AgentKind
from retention.reports import ComplianceReport, Status
from retention.reports.model import figures, listing
from retention.seal import new_record_key
from retention.vault import ensure_vault
from tests.owning import owning

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
TODAY = date(2026, 11, 22)
MEANINGS = {"PDF-ENCRYPTED": ("quarantine", "A password is needed to read it. Ask for an open copy.")}

SCHEDULE = """\
version: 1
title: Schedule of the test
timezone: Asia/Jerusalem
rules:
  - id: books
    trigger: received
    period: P7Y
    action: review
    verified: true
    authority: &books
      citation: Income Tax Regulations (Bookkeeping) 1973, §25(c)
      jurisdiction: IL
      verified_on: 2026-01-01
      verified_by: counsel
  - id: logs
    trigger: received
    period: P24M
    action: destroy
    authority: {citation: Privacy (Data Security) Regulations 2017, jurisdiction: IL}
  - {id: staff, trigger: "event:employment_end", period: P7Y, action: review, verified: true, authority: *books}
classes:
  - {id: FIN-010, title: {en: Invoices, he: חשבוניות מס}, rules: [books]}
  - {id: SEC-010, title: {en: Access logs, he: יומני גישה}, action: destroy, rules: [logs]}
  - {id: HR-020, title: {en: Employment files, he: תיקי עובדים}, rules: [staff]}
  - {id: GEN-010, title: {en: "General <b>correspondence</b>"}, rules: []}
  - {id: WRM-010, title: {en: Ledgers under lock}, rules: [books], worm: compliance}
"""


# ---------------------------------------------------------------- an archive, filled by SQL


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Services]:
    root = tmp_path_factory.mktemp("reports") / "var"
    try:
        yield embedded.up(root, postgres=True, s3=False)
    finally:
        embedded.down(root)


def settings_of(services: embedded.Services, name: str, root: Path) -> Settings:
    database = services.database_url.rpartition("/")[0] + f"/{name}"
    owner = services.owner_url.rpartition("/")[0] + f"/{name}"
    return Settings(root / "var", database, f"file://{root / 'vault'}", database_owner_url=owner)


@contextmanager
def database(services: embedded.Services, template: str) -> Iterator[str]:
    """A database of its own, dropped afterwards: a server that stops writes out all that is left."""
    assert services.postgres
    name = f"report_{uuid4().hex}"
    names = {"name": name, "owner": services.postgres.owner, "template": template}
    quoted = {key: sql.Identifier(value) for key, value in names.items()}
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {name} OWNER {owner} TEMPLATE {template}").format(**quoted))
        yield name
        conn.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**quoted))


@dataclass(frozen=True)
class Filled:
    """An archive that `fill` filled; tests work on copies."""

    database: str
    root: Path


@pytest.fixture(scope="module")
def filled(services: embedded.Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    root = tmp_path_factory.mktemp("filled")
    with database(services, "template1") as name:
        settings = settings_of(services, name, root)
        ensure_vault(settings.vault_url)
        with open_archive(settings, NOW) as archive:
            fill(archive)
        yield Filled(name, root)


@pytest.fixture
def archive(services: embedded.Services, filled: Filled, tmp_path: Path) -> Iterator[Archive]:
    """A copy of the filled archive, of its own for the test."""
    shutil.copytree(filled.root, tmp_path, dirs_exist_ok=True)
    with database(services, filled.database) as name, open_archive(settings_of(services, name, tmp_path), NOW) as found:
        yield found


@pytest.fixture
def empty(services: embedded.Services, tmp_path: Path) -> Iterator[Archive]:
    with database(services, "template1") as name:
        settings = settings_of(services, name, tmp_path)
        ensure_vault(settings.vault_url)
        with open_archive(settings, NOW) as found:
            yield found


def insert(conn: Connection, table: str, **values: object) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, values))
    places = sql.SQL(", ").join([sql.Placeholder()] * len(values))
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), columns, places), [*values.values()]
    )


def add_run(
    conn: Connection, archive: Archive, source: str, started: datetime, *, state: str = "complete", **counts: int
) -> UUID:
    """A run with one batch. `discovered` is what its parts add up to unless it is given."""
    run_id = uuid4()
    parts = {name: counts.get(name, 0) for name in ("admitted", "quarantined", "rejected", "known", "children")}
    discovered = counts.get("discovered", sum(parts.values()) - parts["children"])
    source_id = pseudonym(conn, archive.safe, AgentKind.SOURCE, source, NOW)
    ended: dict[str, object] = {}
    if state != "running":
        ended = {"ended_at": started + timedelta(minutes=5), "discovered": discovered, **parts, "deferred": 0}
        ended |= {"bytes": counts.get("bytes", 0), "reconciliation": sha256(run_id.bytes).digest()}
    insert(
        conn, "runs", run_id=run_id, source_id=source_id, schedule_version=1, started_at=started, state=state, **ended
    )
    insert(
        conn,
        "run_batches",
        run_id=run_id,
        batch=0,
        committed_at=started,
        bytes=counts.get("bytes", 0),
        expectations=json.dumps(
            [
                {"code": "TEXT-EMPTY", "severity": "warn", "evaluated": 10, "failed": 2},
                {"code": "DATE-IN-FUTURE", "severity": "warn", "evaluated": 10, "failed": 0},
            ]
        ),
        **parts,
    )
    return run_id


def add_subject(conn: Connection, archive: Archive, kind: str, name: str, codes: Sequence[tuple[str, str]]) -> UUID:
    """What every captured thing has: key, event, descriptor line, description, findings."""
    subject, descriptor = uuid4(), uuid4()
    store_keys(conn, archive.safe, {subject: (new_record_key(), "test")}, NOW)
    digest = sha256(descriptor.bytes).digest()
    insert(conn, "descriptors", descriptor_id=descriptor, sha256=digest, bytes=300, version="", recorded_at=NOW)
    conn.execute("INSERT INTO descriptor_lines VALUES (%s, 1, %s, 0, 300, %s)", (subject, descriptor, digest))
    conn.execute(
        "INSERT INTO descriptions (subject_id, revision, kind, title, name, source, place, metadata, messages, search) "
        "VALUES (%s, 1, %s, %s, %s, 'inbox', %s, '{}', '[]', '')",
        (subject, kind, f"Title of {name}", name, name),
    )
    for code, severity in codes:
        insert(conn, "findings", subject_id=subject, code=code, severity=severity)
    ledger.append(conn, [Event("ing", NOW, archive.agent, (subject,))], NOW)
    return subject


def add_record(
    conn: Connection,
    archive: Archive,
    class_id: str,
    received: date,
    run_id: UUID,
    item: int,
    *,
    codes: Sequence[tuple[str, str]] = (),
    verified: datetime = NOW,
    name: str = "=cmd.pdf",
) -> UUID:
    record = add_subject(conn, archive, "record", name, codes)
    conn.execute("INSERT INTO classes (class_id) VALUES (%s) ON CONFLICT DO NOTHING", (class_id,))
    conn.execute(
        "INSERT INTO records (record_id, bytes, recorded_at, received, class_key) "
        "SELECT %s, %s, %s, %s, class_key FROM classes WHERE class_id = %s",
        (record, 1000 + item, NOW, received, class_id),
    )
    digest = sha256(record.bytes).digest()
    insert(
        conn,
        "contents",
        record_id=record,
        sealed_sha256=digest,
        sealed_bytes=1229 + item,
        version="",
        commitment=digest,
        verified_at=verified,
        run_id=run_id,
    )
    insert(conn, "run_items", run_id=run_id, batch=0, item=item, outcome="admitted", subject_id=record)
    return record


def add_apart(
    conn: Connection, archive: Archive, outcome: str, run_id: UUID, item: int, codes: Sequence[tuple[str, str]]
) -> UUID:
    subject = add_subject(conn, archive, outcome, "secret-name.pdf", codes)
    if outcome == "quarantined":
        digest = sha256(subject.bytes).digest()
        insert(
            conn,
            "quarantine",
            quarantine_id=subject,
            run_id=run_id,
            bytes=500,
            sealed_sha256=digest,
            sealed_bytes=729,
            version="",
            commitment=digest,
            verified_at=NOW,
            recorded_at=NOW,
        )
    insert(conn, "run_items", run_id=run_id, batch=0, item=item, outcome=outcome, subject_id=subject)
    return subject


def fill(archive: Archive) -> None:
    """A healthy archive: two sources, an interrupted run made good, something of everything."""
    policy.load(archive, SCHEDULE, "test.yaml", NOW)
    with transaction(archive.connections) as conn:
        lost = add_run(conn, archive, "scanner", NOW - timedelta(days=3), state="interrupted", admitted=1, discovered=4)
        add_record(conn, archive, "FIN-010", date(2015, 1, 5), lost, 0)
        whole = add_run(
            conn,
            archive,
            "scanner",
            NOW - timedelta(days=2),
            admitted=13,
            quarantined=2,
            rejected=1,
            known=1,
            children=1,
        )
        for number in range(4):
            add_record(conn, archive, "FIN-010", date(2018, 3, 1 + number), whole, number)
        add_record(conn, archive, "FIN-010", date(2025, 6, 1), whole, 4, codes=[("TEXT-EMPTY", "warn")])
        for number in (5, 6, 7):
            add_record(conn, archive, "SEC-010", date(2024, 11, 19 + number - 4), whole, number)
        add_record(conn, archive, "HR-020", date(2020, 1, 1), whole, 8)
        add_record(conn, archive, "GEN-010", date(2020, 1, 1), whole, 9)
        add_record(conn, archive, "OLD-999", date(2020, 1, 1), whole, 10)
        codes = [("TEXT-EMPTY", "warn"), ("SCANNED", "warn")]
        add_record(conn, archive, "unclassified", date(2020, 1, 1), whole, 11, codes=codes)
        add_record(conn, archive, "unclassified", date(2026, 1, 1), whole, 12, name="דוח סודי.pdf")
        add_apart(conn, archive, "quarantined", whole, 13, [("PDF-ENCRYPTED", "quarantine"), ("MIME-MISMATCH", "warn")])
        add_apart(conn, archive, "quarantined", whole, 14, [("TRUNCATED", "quarantine")])
        add_apart(conn, archive, "rejected", whole, 15, [("EMPTY", "reject")])
        add_run(conn, archive, "mail", NOW - timedelta(hours=1), known=3)


def report_of(archive: Archive, **options: Any) -> ComplianceReport:
    return reports.compile_report(archive, TODAY, NOW, meanings=MEANINGS, **options)


def status(report: ComplianceReport, check_id: str) -> Status:
    return next(check.status for check in report.checks if check.id == check_id)


# ---------------------------------------------------------------- reading the files back


class Page(HTMLParser):
    """Anchors, links within the page with their text, and the rows of the table within each list."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.rows: dict[str, int] = {}
        self.loads: list[str] = []
        self._link: str | None = None
        self._list: str | None = None
        self._text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if (anchor := found.get("id")) is not None:
            assert anchor not in self.ids, f"twice: {anchor}"
            self.ids.add(anchor)
            if anchor.startswith("list-"):
                self._list = anchor
                self.rows[anchor] = 0
        if tag == "a":
            self._link, self._text = found.get("href") or "", ""
        if tag == "tr" and self._list:
            self.rows[self._list] += 1
        self.loads += [found[name] or "" for name in ("src", "srcset", "action") if name in found]
        if tag in ("script", "iframe", "object", "img", "video", "base"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._link is not None:
            self.links.append((self._link, self._text.strip()))
            self._link = None
        if tag == "details":
            self._list = None


def sum_of(rows: Sequence[Mapping[str, str]], column: str | None) -> int:
    return len(rows) if column is None else sum(int(row[column] or 0) for row in rows)


def figures_of(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.keys() == {"value", "list", "column"}:
            yield value
        for key, inner in value.items():
            if key != "lists":
                yield from figures_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from figures_of(inner)


# ---------------------------------------------------------------- no number without its list


def test_every_number_is_its_list_in_json_csv_and_page(archive: Archive, tmp_path: Path) -> None:
    assert_every_number_is_its_list(report_of(archive), tmp_path / "reports")


def assert_every_number_is_its_list(report: ComplianceReport, folder: Path) -> None:
    paths = reports.write(report, folder, ("html", "json", "csv"))
    assert paths.keys() == {"html", "json", "csv"}
    document = json.loads(paths["json"].read_text("utf-8"))
    found = [*figures_of(document)]
    assert len(found) > 50
    behind = set()
    for figure in found:
        listed = document["lists"][figure["list"]]
        rows = [dict(zip(listed["columns"], row, strict=True)) for row in listed["rows"]]
        assert figure["value"] == sum_of(rows, figure["column"]), figure
        assert listed["count"] == len(rows)
        with (paths["csv"] / f"{figure['list']}.csv").open(newline="") as file:
            assert figure["value"] == sum_of([*csv.DictReader(file)], figure["column"]), figure
        behind.add(figure["list"])
    assert behind == set(document["lists"]), "a list that no number stands before"
    assert {path.stem for path in paths["csv"].iterdir()} == set(document["lists"])

    page = Page(paths["html"].read_text("utf-8"))
    inner = [(link[1:], text) for link, text in page.links if link.startswith("#")]
    assert {anchor for anchor, _ in inner} <= page.ids
    assert {f"list-{id_}" for id_ in document["lists"]} <= {anchor for anchor, _ in inner}
    numbers = {(f"list-{f['list']}", f"{f['value']:,}") for f in found}
    for anchor, text in inner:
        if anchor.startswith("list-") and text.replace(",", "").isdigit():
            assert (anchor, text) in numbers, "a number on the page that JSON does not have"
    for anchor, rows_shown in page.rows.items():
        count = document["lists"][anchor.removeprefix("list-")]["count"]
        assert rows_shown == (count + 1 if count else 0)  # its heading is a row too
    assert page.loads == []


def test_the_numbers_are_those_of_the_rows(archive: Archive) -> None:
    report = report_of(archive)
    held = {row.class_id: (row.records.value, row.unscheduled != "") for row in report.held}
    assert held == {
        "FIN-010": (6, False),
        "SEC-010": (3, False),
        "unclassified": (2, True),
        "HR-020": (1, False),
        "GEN-010": (1, True),
        "OLD-999": (1, True),
    }
    assert report.held[0].titles == {"en": "Invoices", "he": "חשבוניות מס"}
    assert (report.held[0].oldest, report.held[0].newest) == (date(2015, 1, 5), date(2025, 6, 1))
    due = {row.class_id: (row.records.value, row.action.value, row.unverified) for row in report.due}
    # received 2024-11-20, -21, -22: kept up to and with 2026-11-20, -21, -22
    assert due == {"FIN-010": (5, "review", ()), "SEC-010": (2, "destroy", ("logs",))}
    assert report.due[0].citations == ("Income Tax Regulations (Bookkeeping) 1973, §25(c)",)
    assert [(row.class_id, row.trigger, row.records.value) for row in report.waiting] == [
        ("HR-020", "event:employment_end", 1)
    ]
    assert [(row.code, row.documents.value) for row in report.quarantine] == [
        ("PDF-ENCRYPTED", 1),
        ("TRUNCATED", 1),
        ("MIME-MISMATCH", 1),
    ]
    assert report.quarantine[0].meaning == MEANINGS["PDF-ENCRYPTED"][1]
    assert [(row.code, row.documents.value) for row in report.findings] == [("TEXT-EMPTY", 2), ("SCANNED", 1)]
    assert [(row.code, row.documents.value) for row in report.turned_away] == [("EMPTY", 1)]
    intake = report.intake
    counted = (intake.discovered, intake.admitted, intake.quarantined, intake.rejected, intake.known, intake.missing)
    assert [figure.value for figure in counted] == [24, 14, 2, 1, 4, 3]
    assert [(row.day, row.runs.value) for row in report.days] == [
        (date(2026, 11, 19), 1),
        (date(2026, 11, 20), 1),
        (date(2026, 11, 22), 1),
    ]
    assert [(row.code, row.evaluated.value, row.failed.value) for row in report.expectations] == [
        ("DATE-IN-FUTURE", 30, 0),
        ("TEXT-EMPTY", 30, 6),
    ]
    assert [(row.kind, row.objects.value) for row in report.written] == [
        ("records", 14),
        ("quarantine", 2),
        ("descriptors", 17),
    ]
    assert report.ledger.size.value == 18
    assert report.ledger.root == report.ledger.recomputed
    assert report.summary == (
        "As of 22 November 2026: 14 records in 6 classes; 7 due; 2 in quarantine; 4 without a retention rule."
    )
    assert report.red == ()
    assert "cannot lock" in report.vault.statement


# ---------------------------------------------------------------- what is red


def test_nothing_loaded_says_so(empty: Archive, tmp_path: Path) -> None:
    report = report_of(empty)
    assert {check.id for check in report.red} == {"schedule", "ingestion", "due"}
    assert "muniment schedule load" in str(report.red[0])
    assert report.summary == "As of 22 November 2026: 0 records in 0 classes; 0 due; 0 in quarantine."
    paths = reports.write(report, tmp_path / "reports", ("html", "json", "csv"))
    text = paths["html"].read_text("utf-8")
    assert "No record is held yet." in text
    assert "No run of ingestion is on record." in text
    page = Page(text)
    assert {link[1:] for link, _ in page.links if link.startswith("#")} <= page.ids


def in_catalog(archive: Archive, statement: str, *values: object) -> None:
    with owning(archive) as conn:
        conn.execute(statement.encode(), values)


def run_now(archive: Archive, source: str, started: datetime, state: str, **counts: int) -> None:
    with transaction(archive.connections) as conn:
        add_run(conn, archive, source, started, state=state, **counts)


def forget_events(archive: Archive) -> None:
    with owning(archive) as conn:
        conn.execute("ALTER TABLE event_subjects DISABLE TRIGGER event_subjects_append_only")
        conn.execute("DELETE FROM event_subjects WHERE subject_id IN (SELECT record_id FROM records)")


def rewrite_history(archive: Archive, assignment: str) -> None:
    with owning(archive) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_append_only")
        conn.execute(f"UPDATE events SET {assignment} WHERE position = 5".encode())


def queue_lock(archive: Archive, queued: datetime) -> None:
    with transaction(archive.connections) as conn:
        insert(
            conn,
            "object_locks",
            object_key="records/x/y",
            version="",
            subject_id=uuid4(),
            mode="compliance",
            wanted_until=NOW + timedelta(days=90),
            queued_at=queued,
        )


def worm_record(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        run = add_run(conn, archive, "scanner", NOW - timedelta(minutes=30), admitted=1)
        add_record(conn, archive, "WRM-010", TODAY, run, 0)


HOURS = timedelta(hours=1)
BREAKAGES: dict[str, tuple[str, Status, Callable[[Archive], None]]] = {
    "interrupted and not made good": (
        "interrupted",
        Status.RED,
        lambda a: run_now(a, "mail", NOW - HOURS / 2, "interrupted"),
    ),
    "documents missing": (
        "accounts",
        Status.RED,
        lambda a: run_now(a, "mail", NOW - HOURS / 2, "interrupted", discovered=2),
    ),
    "a run open for two days": ("open-runs", Status.RED, lambda a: run_now(a, "mail", NOW - 48 * HOURS, "running")),
    "a run at work": ("open-runs", Status.AMBER, lambda a: run_now(a, "mail", NOW - HOURS, "running")),
    "items that runs do not count": (
        "accounts",
        Status.RED,
        lambda a: in_catalog(a, "DELETE FROM run_items WHERE outcome = 'rejected'"),
    ),
    "locks behind for a day": ("locks", Status.RED, lambda a: queue_lock(a, NOW - 25 * HOURS)),
    "locks waiting": ("locks", Status.AMBER, lambda a: queue_lock(a, NOW - HOURS)),
    "a class that must be locked": ("unlocked", Status.RED, worm_record),
    "an object not read for long": (
        "fixity",
        Status.RED,
        lambda a: in_catalog(a, "UPDATE quarantine SET verified_at = %s", NOW - timedelta(days=91)),
    ),
    "a record without content": (
        "contents",
        Status.RED,
        lambda a: in_catalog(a, "DELETE FROM contents WHERE record_id = (SELECT record_id FROM records LIMIT 1)"),
    ),
    "a key that is gone": (
        "keys",
        Status.RED,
        lambda a: in_catalog(a, "DELETE FROM subject_keys WHERE subject_id IN (SELECT quarantine_id FROM quarantine)"),
    ),
    "records without events": ("events", Status.RED, forget_events),
    "an entry rewritten": ("entries", Status.RED, lambda a: rewrite_history(a, "entry = '{}'")),
    "a leaf rewritten": (
        "ledger",
        Status.RED,
        lambda a: rewrite_history(a, "entry = '{}', leaf_hash = sha256('\\x007b7d'::bytea)"),
    ),
    "descriptions lost in a crash": (
        "descriptions",
        Status.AMBER,
        lambda a: in_catalog(a, "TRUNCATE descriptions"),
    ),
    "quarantine waiting": ("quarantine", Status.AMBER, lambda _: None),
    "due": ("due", Status.AMBER, lambda _: None),
    "unscheduled": ("unscheduled", Status.AMBER, lambda _: None),
    "left for the next run": ("deferred", Status.AMBER, lambda a: in_catalog(a, "UPDATE runs SET deferred = 1")),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_wrong_is_said(archive: Archive, name: str) -> None:
    check_id, expected, breakage = BREAKAGES[name]
    breakage(archive)
    report = report_of(archive)
    found = next(check for check in report.checks if check.id == check_id)
    assert (found.status, bool(found.then)) == (expected, True)
    assert (found in report.red) == (expected is Status.RED)
    assert found.figure is not None
    listed = report.behind(found.figure)
    assert found.figure.value == (
        listed.count
        if found.figure.column is None
        else sum(int(row[listed.columns.index(found.figure.column)] or 0) for row in listed.rows())
    )


def test_a_release_from_quarantine_makes_no_interrupted_run_good(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        add_run(conn, archive, "mail", NOW - timedelta(minutes=30), state="interrupted", discovered=2)
        release = add_run(conn, archive, "mail", NOW - timedelta(minutes=10), admitted=1)
        record = add_record(conn, archive, "FIN-010", TODAY, release, 0)
        conn.execute(
            "UPDATE quarantine SET state = 'released', record_id = %s, decided_at = %s "
            "WHERE quarantine_id = (SELECT quarantine_id FROM quarantine LIMIT 1)",
            (record, NOW),
        )
    report = report_of(archive)
    assert {check.id for check in report.red} == {"interrupted", "accounts"}
    assert report.quarantined.value == 1
    with transaction(archive.connections) as conn:
        add_run(conn, archive, "mail", NOW - timedelta(minutes=5), known=2)
    assert report_of(archive).red == ()


def test_a_source_that_never_ran_is_red(archive: Archive) -> None:
    report = report_of(archive, sources=("scanner", "mail", "Ward 7"))
    assert [check.id for check in report.red] == ["never-ran"]
    assert report_of(archive, sources=("scanner", "mail")).red == ()


def test_a_list_of_another_length_than_its_number_is_red(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    from retention.reports import incoming
    from retention.reports.model import Figure

    right = incoming.quarantined

    def wrong(*given: Any) -> Any:
        figure, codes = right(*given)
        return Figure(figure.value + 1, figure.listing), codes

    monkeypatch.setattr(incoming, "quarantined", wrong)
    assert status(report_of(archive), "lists") is Status.RED


# ---------------------------------------------------------------- what is captured


def test_names_are_in_no_file_that_is_kept(archive: Archive, tmp_path: Path) -> None:
    report = report_of(archive, sources=("scanner", "mail", "Ward 7"))
    reports.write(report, tmp_path / "kept", ("html", "json", "csv"))
    for path in (tmp_path / "kept").rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            for name in ("cmd.pdf", "secret-name", "דוח סודי", "scanner", "Ward 7", "Title of"):
                assert name not in text, (path, name)


def test_a_copy_with_names_is_apart_says_so_and_is_swept(archive: Archive, tmp_path: Path) -> None:
    report = report_of(archive, names=True, sources=("scanner", "Ward 7"))
    folder = tmp_path / "reports"
    paths = reports.write(report, folder, ("html", "json", "csv"))
    assert {path.parent for path in paths.values()} == {folder / "with-names"}
    text = paths["html"].read_text("utf-8")
    for expected in ("<bdi>דוח סודי.pdf</bdi>", "secret-name.pdf", "scanner", "Ward 7", "copy for the eye"):
        assert expected in text
    captured = [paths["json"], *paths["csv"].iterdir()]
    assert not [path for path in captured if "secret-name" in path.read_text() or "Ward 7" in path.read_text()]
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert reports.sweep_names(folder, later - timedelta(days=1)) == 0
    kept = reports.write(report_of(archive), folder, ("html",))
    assert reports.sweep_names(folder, later) == 2 + len(report.lists)
    assert [*(folder / "with-names").iterdir()] == []
    assert kept["html"].exists()
    assert reports.sweep_names(folder, later) == 0


def test_same_catalog_same_bytes(archive: Archive, tmp_path: Path) -> None:
    texts = []
    for number in range(2):
        report = report_of(archive)
        paths = reports.write(report, tmp_path / str(number), ("html", "json", "csv"))
        files = [paths["html"], paths["json"], *sorted(paths["csv"].iterdir())]
        texts.append([path.read_text("utf-8").replace(str(report.id), "ID") for path in files])
    assert texts[0] == texts[1]


def test_files_are_private_whole_and_named_by_day_and_id(archive: Archive, tmp_path: Path) -> None:
    report = report_of(archive)
    paths = reports.write(report, tmp_path / "reports", ("html", "json"))
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {
        f"compliance-2026-11-22-{report.id}.html",
        f"compliance-2026-11-22-{report.id}.json",
    }
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
    with pytest.raises(UsageError, match=r"html, json, csv, found pdf"):
        reports.write(report, tmp_path / "reports", ("pdf",))


def test_text_of_people_is_text(archive: Archive, tmp_path: Path) -> None:
    paths = reports.write(report_of(archive), tmp_path / "reports", ("html",))
    text = paths["html"].read_text("utf-8")
    assert "General &lt;b&gt;correspondence&lt;/b&gt;" in text
    assert "<b>" not in text
    assert '<bdi class="title" lang="he" dir="rtl">חשבוניות מס</bdi>' in text
    assert re.search(r"https?://", text.replace("http-equiv", "")) is None


def test_a_long_list_is_cut_said_and_whole_beside(empty: Archive, tmp_path: Path) -> None:
    policy.load(empty, SCHEDULE, "test.yaml", NOW)
    with transaction(empty.connections) as conn:
        run = add_run(conn, empty, "scanner", NOW - timedelta(hours=1), admitted=250)
        conn.execute("INSERT INTO classes (class_id) VALUES ('FIN-010')")
        conn.execute(
            "INSERT INTO records (record_id, bytes, recorded_at, received, class_key) "
            "SELECT gen_random_uuid(), 10, now(), '2026-01-01', class_key FROM classes, generate_series(1, 250)"
        )
        conn.execute(
            "INSERT INTO run_items SELECT %s, 0, row_number() OVER (), 'admitted', record_id FROM records", (run,)
        )
    paths = reports.write(report_of(empty), tmp_path / "reports", ("html",))
    text = paths["html"].read_text("utf-8")
    page = Page(text)
    assert page.rows["list-held-FIN-010"] == 201
    assert "The first 200 of 250 rows" in text
    target = next(link for link, _ in page.links if link.endswith("held-FIN-010.csv"))
    with (paths["html"].parent / target).open(newline="") as file:
        assert len([*csv.DictReader(file)]) == 250


def test_a_report_changes_nothing(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        before = ledger.head(conn)
    report = report_of(archive, sources=("scanner", "Ward 7"))
    with transaction(archive.connections) as conn:
        assert ledger.head(conn) == before
        assert conn.execute("SELECT count(*) FROM pseudonyms WHERE kind = 'source'").fetchone() == (2,)
    assert len({figure.listing for figure in figures(report)}) == len(report.lists)


def test_a_spreadsheet_computes_nothing(archive: Archive, tmp_path: Path) -> None:
    cells = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "חוזה", "a\nb"]
    made = listing("odd", "Odd cells", ("cell",), [[cell] for cell in cells])
    report = replace(report_of(archive), lists=(made,))
    folder = reports.write(report, tmp_path / "reports", ("csv",))["csv"]
    with (folder / "odd.csv").open(newline="", encoding="utf-8") as file:
        read = [row["cell"] for row in csv.DictReader(file)]
    assert read == [f"'{cell}" for cell in cells[:5]] + cells[5:]
    assert [row[0] for row in made.rows()] == cells


def test_what_is_gone_is_not_held(archive: Archive) -> None:
    before = report_of(archive)
    in_catalog(archive, "UPDATE records SET state = 3 WHERE record_id = (SELECT subject_id FROM findings LIMIT 1)")
    in_catalog(
        archive,
        "UPDATE records SET state = 3 WHERE class_key = (SELECT class_key FROM classes WHERE class_id = 'FIN-010')",
    )
    after = report_of(archive)
    assert "FIN-010" not in {row.class_id for row in after.held}
    assert after.records.value < before.records.value - 5
    assert [row.class_id for row in after.due] == ["SEC-010"]
    assert after.red == ()
