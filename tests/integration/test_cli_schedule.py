"""`muniment schedule …` from end to end, on a real archive: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from retention.archive import Archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.errors import NotFound, Refused, UsageError
from retention.schedule import SAMPLE, check, load

FILE = """version: 1\r
title: T
timezone: UTC
classes:
  - id: REG
    title: Ledgers
    regulatory: true
    rules: [{id: reg, trigger: received, period: P6Y, authority: {citation: L}}]
  - id: FREE
    title: Letters
    personal_data: true
    rules: [{id: free, trigger: received, period: P6Y, authority: {citation: L}}]
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command line on this test's archive: exit code, standard output, standard error."""
    monkeypatch.setattr("retention.cli.command.settings", lambda _: settings)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = app([str(one) for one in arguments], standalone_mode=False)
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return run


@pytest.fixture
def plan(tmp_path: Path, run: Run) -> Path:
    """A schedule in force, with three letters and a ledger of 1 January 2019."""
    path = tmp_path / "plan.yaml"
    path.write_bytes(FILE.encode())
    run("schedule", "load", path)
    return path


def fill(archive: Archive) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with transaction(archive.connections) as conn:
        for name, count in (("REG", 1), ("FREE", 3)):
            row = conn.execute("INSERT INTO classes (class_id) VALUES (%s) RETURNING class_key", (name,)).fetchone()
            assert row is not None
            for _ in range(count):
                conn.execute(
                    "INSERT INTO records (record_id, bytes, recorded_at, received, class_key) "
                    "VALUES (%s, 10, %s, %s, %s)",
                    (uuid4(), now, date(2019, 1, 1), row[0]),
                )


def changed(path: Path, old: str, new: str) -> Path:
    other = path.with_name("new.yaml")
    other.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    return other


def test_diff_counts_lists_draws_and_changes_nothing(run: Run, plan: Path, archive: Archive, tmp_path: Path) -> None:
    fill(archive)
    shorter = changed(plan, "id: free, trigger: received, period: P6Y", "id: free, trigger: received, period: P5Y")
    files = ("--csv", tmp_path / "out.csv", "--chart", tmp_path / "out.svg")
    code, out, _ = run("--json", "--as-of", "2024-06-01", "schedule", "diff", shorter, *files)
    value = json.loads(out)
    assert (code, value["version"], value["as_of"], value["refused"]) == (0, 1, "2024-06-01", [])
    (effect,) = value["classes"]
    assert (effect["class_id"], effect["becomes_due"]) == ("FREE", {"records": 3, "bytes": 30})
    assert value["total"]["shortened"] == {"records": 3, "bytes": 30}
    assert [(c["rule_id"], c["field"], c["before"], c["after"]) for c in value["changes"]] == [
        ("free", "period", "P6Y", "P5Y")
    ]
    assert "class FREE, rule free: kept shorter" in value["two_people"][0]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert {(row["class_id"], row["retain_until_before"], row["retain_until_after"]) for row in rows} == {
        ("FREE", "2025-01-01", "2024-01-01")
    }
    assert len(rows) == 3 and (tmp_path / "out.svg").read_text().startswith("<svg")
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o600
    assert json.loads(run("--json", "schedule", "versions")[1])[-1]["version"] == 1
    code, out, _ = run("schedule", "diff", shorter)
    assert "1 differences" in out and "needs two people: class FREE" in out


def test_diff_is_red_where_a_load_would_be_refused(run: Run, plan: Path, archive: Archive) -> None:
    fill(archive)
    shorter = changed(plan, "id: reg, trigger: received, period: P6Y", "id: reg, trigger: received, period: P5Y")
    code, out, _ = run("--json", "--as-of", "2024-06-01", "schedule", "diff", shorter)
    value = json.loads(out)
    assert code == 1 and value["refused"][0].startswith(
        "class REG, rule reg: kept shorter: trigger 2000-01-01 was kept"
    )
    assert value["total"]["becomes_due"]["records"] == 1
    with pytest.raises(Refused):
        run("schedule", "load", shorter)
    with pytest.raises(UsageError, match="expected a map"):
        run("schedule", "diff", changed(plan, FILE, "x"))


def test_a_version_is_the_bytes_of_its_file(run: Run, plan: Path, tmp_path: Path) -> None:
    digest = load(plan).digest
    assert json.loads(run("--json", "schedule", "show")[1])["digest"] == digest
    code, out, _ = run("--json", "schedule", "export", "--yaml", tmp_path / "again.yaml")
    assert (code, json.loads(out)["digest"]) == (0, digest)
    assert (tmp_path / "again.yaml").read_bytes() == plan.read_bytes()
    (by,) = json.loads(run("--json", "schedule", "versions")[1])
    assert (by["digest"], by["version"]) == (digest, 1) and by["loaded_by"]
    run("schedule", "load", changed(plan, "Letters", "Correspondence"))
    assert "Correspondence" in run("schedule", "export")[1]
    assert "Letters" in run("schedule", "export", "--version", 1)[1]
    with pytest.raises(NotFound, match="no schedule version 9"):
        run("schedule", "export", "--version", 9)


def test_export_as_a_table_and_a_file_plan_and_back(run: Run, plan: Path, tmp_path: Path) -> None:
    code, out, err = run("schedule", "export", "--csv", "-", "--purview", tmp_path / "plan.csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["class_id"], row["period"], row["citation"]) for row in rows] == [
        ("REG", "P6Y", "L"),
        ("FREE", "P6Y", "L"),
    ]
    assert "cannot be said: row 1, REG Ledgers:" in err
    back = tmp_path / "back.yaml"
    arguments = ("schedule", "import-purview", tmp_path / "plan.csv", "-o", back, "--timezone", "Asia/Jerusalem")
    code, out, err = run("--json", *arguments)
    assert (code, json.loads(out)["file"]) == (0, str(back)) and "not kept: row 1" in err
    assert check(back) == ()
    assert [(c.id, c.regulatory) for c in load(back).classes] == [("REG", True), ("FREE", False)]
    with pytest.raises(UsageError, match="is there already"):
        run(*arguments)
    with pytest.raises(UsageError, match="none with --json"):
        run("--json", "schedule", "export", "--csv", "-")
    with pytest.raises(UsageError, match="cannot be written"):
        run("schedule", "export", "--csv", tmp_path / "nowhere" / "x.csv")


def test_the_register(run: Run, plan: Path, tmp_path: Path) -> None:
    code, out, _ = run("--json", "schedule", "register", "--markdown", tmp_path / "register.md")
    (entry,) = json.loads(out)["entries"]
    assert (code, entry["class_id"], entry["time_limit"]) == (1, "FREE", "received + P6Y")
    assert "purpose" in entry["missing"] and "FREE" in (tmp_path / "register.md").read_text()


def test_the_schema_that_is_printed_is_the_one_that_is_shipped(run: Run) -> None:
    code, out, _ = run("schedule", "schema")
    assert code == 0
    assert out == SAMPLE.with_name("schema.json").read_text("utf-8"), (
        "run `muniment schedule schema > retention/schedule/schema.json` and commit it"
    )
