"""`muniment request …` and `muniment destroyed` as an officer uses them, on a vault in a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retention.archive import open_archive
from retention.cli import app
from retention.config import Settings
from retention.errors import UsageError
from retention.rules import Period
from tests.archive_builder import load
from tests.deposits import Doc, deposit, file_under

Run = Callable[..., dict[str, Any]]
WHOM = ("--subject", "patient:123")


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    url = f"file://{tmp_path}/vault"
    for name, value in (("WORKSPACE", str(settings.root)), ("DATABASE_URL", settings.database_url), ("VAULT_URL", url)):
        monkeypatch.setenv(f"MUNIMENT_{name}", value)
    with open_archive(replace(settings, vault_url=url), datetime.now(UTC)) as archive:
        load(archive, lambda: datetime.now(UTC))
        old, young = deposit(
            archive,
            Doc("the harvest of Noa Bar", "SHORT", received=date(2020, 1, 1)),
            Doc("almonds", "LONG", received=date(2020, 1, 1), title="letter", author="Noa Bar"),
        )
        file_under(archive, "patient:123", old, young)

    def call(*arguments: str) -> dict[str, Any]:
        """The JSON of a command, its exit code, and what it says to people when it is run again."""
        found = CliRunner().invoke(app, ["--json", "--agent", "Ruth Levi", *arguments])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        plain = CliRunner().invoke(app, ["--agent", "Ruth Levi", *arguments])
        assert plain.exit_code == found.exit_code, plain.output
        return {**json.loads(found.stdout), "exit": found.exit_code, "said": plain.stdout, "told": found.stderr}

    return call


def test_erase_from_the_request_to_its_answer(run: Run) -> None:
    asked = run("request", "erase", *WHOM, "--by", "Dan Cohen")
    today = date.fromisoformat(asked["received"])
    assert (asked["exit"], asked["new"], asked["due_on"]) == (0, True, Period(months=1).after(today).isoformat())
    assert [(one["answer"], one["until"]) for one in asked["records"]] == [
        ("proposed", "2021-01-01"),
        ("refused", "2050-01-01"),
    ]
    assert asked["plans"] == [asked["records"][0]["plan_id"]]
    assert "GDPR art. 17(3)(b)" in asked["said"] and "was entered before" in asked["said"]
    shown = run("request", "show", asked["request_id"])
    assert (shown["subject"], shown["by"]) == ("patient:123", "Dan Cohen")
    extended = run("request", "extend", asked["request_id"], "--reason", "number")
    assert extended["due_on"] == Period(months=3).after(today).isoformat()
    assert run("request", "list")["requests"][0]["request_id"] == asked["request_id"]
    gone = run("destroyed", "--id", "patient:123")
    assert (gone["exit"], gone["tombstones"], gone["kept"]) == (1, [], 2)


def test_restrict_is_seen_by_who_searches(run: Run) -> None:
    received = (datetime.now(UTC) - timedelta(days=60)).date().isoformat()
    asked = run("request", "restrict", *WHOM, "--ground", "claims", "--received", received)
    assert {one["citation"] for one in asked["records"]} == {"GDPR art. 18(1)(c)"}
    found = CliRunner().invoke(app, ["--json", "find", "almonds"])
    assert json.loads(found.stdout) == [] and "1 more are restricted (GDPR art. 18)" in found.stderr
    late = run("request", "list")
    assert late["exit"] == 1 and late["requests"][0]["overdue"] and "OVERDUE" in late["said"]
    assert run("request", "close", asked["request_id"])["answered_at"] is not None
    assert run("request", "list")["exit"] == 0
    assert run("request", "lift", asked["request_id"])["lifted"] == 2
    assert len(json.loads(CliRunner().invoke(app, ["--json", "find", "almonds"]).stdout)) == 1


def test_access_and_the_accounting_of_it(run: Run, tmp_path: Path) -> None:
    given = run("request", "access", "--subject", "Noa Bar", "--author", "--to", str(tmp_path / "bag"))
    assert [one["answer"] for one in given["records"]] == ["included"] and (tmp_path / "bag/bagit.txt").exists()
    table = tmp_path / "accounting.csv"
    told = run("request", "disclosures", "--subject", "Noa Bar", "--author", "--csv", str(table))
    (one,) = told["disclosures"]
    assert (one["recipient"], one["purpose"], one["package"]) == ("Noa Bar", "access", given["request_id"])
    with table.open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["recipient"], row["what"], row["records"]) == ("Noa Bar", "LONG", given["records"][0]["record_id"])


def test_words_are_checked_by_a_person(run: Run) -> None:
    asked = run("request", "erase", "--subject", "harvest", "--text")
    assert (asked["exit"], [one["answer"] for one in asked["records"]]) == (1, ["check"])
    checked = run("request", "check", asked["request_id"], "--about", asked["records"][0]["record_id"])
    assert (checked["exit"], [one["answer"] for one in checked["records"]]) == (0, ["proposed"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("request", "erase", "--subject", "patient"),
        ("request", "erase", "--subject", "x", "--author", "--text"),
        ("--as-of", "2030-01-01", "request", "erase", *WHOM),
        ("request", "check", "01a20320-a9d0-7195-990c-eb456323e0c0"),
        ("destroyed",),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(*arguments)
