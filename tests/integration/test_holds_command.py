"""`muniment hold …` as an officer uses it, on a vault in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retention import signatures
from retention.archive import open_archive
from retention.cli import app
from retention.config import Settings
from retention.database import transaction
from retention.errors import NotFound
from retention.model import RecordState
from tests.archive_builder import KEYS, enrol
from tests.deposits import Doc, deposit

PLACE = ("hold", "place", "--matter", "Levi v. Acme", "--authority", "court", "--review", "2099-01-01")


@dataclass(frozen=True)
class Office:
    """The command line over an archive of two records, of which the second is being destroyed."""

    records: tuple[str, str]

    def __call__(self, *arguments: str) -> dict[str, Any]:
        """The JSON of a command, its exit code as `exit`, and what it says to people, run again, as `said`."""
        found = CliRunner().invoke(app, ["--json", "--agent", "Ruth Levi", *arguments])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        plain = CliRunner().invoke(app, ["--agent", "Ruth Levi", *arguments])
        assert plain.exit_code == found.exit_code, plain.output
        return {**json.loads(found.stdout), "exit": found.exit_code, "said": plain.stdout}


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    url = f"file://{tmp_path}/vault"
    monkeypatch.setenv("MUNIMENT_WORKSPACE", str(settings.root))
    monkeypatch.setenv("MUNIMENT_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("MUNIMENT_VAULT_URL", url)
    with open_archive(replace(settings, vault_url=url), datetime.now(UTC)) as archive:
        one, two = deposit(archive, Doc("breach", author="Ruth Levi", title="letter"), Doc("", class_id="HR"))
        with transaction(archive.connections) as conn:
            conn.execute("UPDATE records SET state = %s WHERE record_id = %s", (RecordState.DESTROYING, two))
    return Office((str(one), str(two)))


def test_a_hold_from_its_placing_to_its_release(run: Office, settings: Settings, tmp_path: Path) -> None:
    one, two = run.records
    placed = run(*PLACE, "--class", "FIN", "--custodian", "ruth", "--text", "breach", "--from", "2019-01-01")
    assert (placed["exit"], placed["records"], placed["flags_waiting"], placed["new"]) == (0, 1, 0, True)
    assert "was in force" in placed["said"]  # the second time
    hold = placed["hold_id"]
    late = run(*PLACE, "--record", one, "--record", two)
    assert (late["exit"], late["too_late"]) == (1, [two])
    assert f"too late, it is being destroyed: {two}" in late["said"]
    nothing = run(*PLACE, "--class", "FIN", "--to", "2001-01-01")
    assert (nothing["exit"], nothing["records"]) == (1, 0)
    assert run(*PLACE, "--aggregation", "patient:12", "--dynamic")["exit"] == 0

    listed = {h["hold_id"]: h for h in run("hold", "list")["holds"]}
    assert len(listed) == 4
    assert (listed[hold]["matter"], listed[hold]["records"], listed[hold]["review_due"]) == ("Levi v. Acme", 1, False)
    assert run("hold", "review", hold, "--on", "2098-06-01")["review_on"] == "2098-06-01"
    shown = run("hold", "show", hold, "--list")
    assert shown["scope"] == {"classes": ["FIN"], "custodians": ["ruth"], "since": "2019-01-01", "text": "breach"}
    assert (shown["members"], shown["review_on"], shown["authority"]) == ([one], str(date(2098, 6, 1)), "court")
    assert "breach" in shown["said"]

    produced = run("hold", "produce", hold, "--to", str(tmp_path / "bag"))
    assert (produced["exit"], produced["records"], produced["not_included"]) == (0, 1, [])
    assert (tmp_path / "bag" / "bagit.txt").exists()
    proposed = run("hold", "release", hold)
    assert hold in proposed["statement"]
    assert proposed["proposal_id"] in proposed["said"]
    assert run("hold", "show", hold)["records"] == 1, "nothing is released by a proposal"
    frees = "1 records, 1 of them still held by others; 0 came under it since this was proposed"
    assert run("approval", "show", proposed["proposal_id"])["means"] == [f"frees now: {frees}"]
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), datetime.now(UTC)) as archive:
        enrol(archive, lambda: datetime.now(UTC))
    for name in ("Ruth Levi", "Dan Cohen"):
        signature = tmp_path / f"{name}.sig"
        signature.write_text(signatures.sign(KEYS[name], proposed["statement"].encode()))
        signed = run("approval", "sign", proposed["proposal_id"], "--signature", str(signature))
    assert (signed["state"], signed["means"]) == ("approved", [f"freed: {frees}"])
    assert "is approved and in effect" in signed["said"] and frees in signed["said"]
    assert run("hold", "show", hold)["released_at"] is not None
    with pytest.raises(NotFound, match="muniment hold list"):
        run("hold", "show", two)
