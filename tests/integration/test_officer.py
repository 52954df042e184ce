"""docs/disposition.md as it stands: a rule changed after seeing its effect, a hold, two people, a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from ingest.cli import app
from retention import signatures
from retention.config import Settings
from retention.errors import MunimentError

Muniment = Callable[..., Any]

SCHEDULE = """\
version: 1
title: A small office
timezone: Asia/Jerusalem
anchors:
  law: &law {citation: House policy 7, verified_on: 2026-01-01, verified_by: Ruth Levi}
classes:
  - id: COR-010
    title: Correspondence
    action: destroy
    document_date: {fields: [date]}
    match: [{id: mail, mime: [message/rfc822]}]
    rules: [{id: mail, trigger: document_date, period: P7Y, verified: true, authority: *law}]
  - id: SYS-CERT
    title: Execution certificates
    rules: [{id: certificates, trigger: received, period: P10Y, authority: {citation: House policy 7}}]
"""


def mail(year: int, subject: str) -> bytes:
    return (
        f"From: Dana <dana@example.org>\nTo: Records <records@example.org>\nSubject: {subject}\n"
        f"Date: Mon, 02 Nov {year} 10:00:00 +0200\nMessage-ID: <{year}-{len(subject)}@example.org>\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nThe harvest of almonds was good this year.\n"
    ).encode()


@pytest.fixture
def muniment(commands_here: None) -> Muniment:
    """The command, as a person types it; returns its JSON, or what it refused with."""

    def run(*arguments: object, code: int = 0) -> Any:
        found = CliRunner().invoke(app, ["--json", *map(str, arguments)])
        if isinstance(found.exception, MunimentError):
            assert found.exception.exit_code == code, (arguments, found.exception)
            return str(found.exception)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == code, (arguments, found.exit_code, found.output[-2000:])
        return json.loads(found.stdout) if found.stdout.strip() else None

    return run


def key(folder: Path, name: str) -> Path:
    made = Ed25519PrivateKey.generate()
    path = folder / name
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    (folder / f"{name}.pub").write_text(signatures.public_line(signatures.public_of(made)) + f" {name}\n")
    return path


def test_from_a_rule_to_a_certificate(muniment: Muniment, tmp_path: Path) -> None:
    ruth, dan = key(tmp_path, "ruth"), key(tmp_path, "dan")
    muniment("approver", "enrol", "Ruth Levi", "--public-key", f"{ruth}.pub")
    muniment("approver", "enrol", "Dan Cohen", "--public-key", f"{dan}.pub", "--key", ruth)

    schedule, longer = tmp_path / "schedule.yaml", tmp_path / "longer.yaml"
    schedule.write_text(SCHEDULE)
    muniment("schedule", "load", schedule)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for year, subject in ((2012, "Old"), (2013, "Older case of Levi"), (2018, "Just out"), (2026, "New")):
        (inbox / f"{year}.eml").write_bytes(mail(year, subject))
    assert muniment("ingest", inbox)["admitted"] == 4
    assert [(c["class_id"], c["records"]) for c in muniment("due")["classes"]] == [("COR-010", 3)]

    # a rule changed after seeing its effect
    longer.write_text(SCHEDULE.replace("P7Y", "P9Y"))
    (changed,) = (c for c in muniment("schedule", "diff", longer)["classes"] if c["class_id"] == "COR-010")
    assert json.dumps(changed).count("1") > 0
    muniment("schedule", "load", longer)
    assert muniment("due")["classes"][0]["records"] == 2
    assert "two people" in muniment("schedule", "load", schedule, code=3)  # back again: some would be due earlier

    (case,) = muniment("find", "Levi")
    assert muniment("explain", case["record_id"])["due"] is True
    held = muniment(
        *("hold", "place", "--record", case["record_id"], "--matter", "Levi v. Cohen"),
        *("--authority", "court order 12/26", "--review", "2027-06-01"),
    )
    assert held["hold_id"]

    plan = muniment("disposition", "propose")
    assert (plan["count"], plan["state"]) == (1, "review")
    plan_id = plan["plan_id"]
    assert "nothing is destroyed" in muniment("disposition", "execute", plan_id, code=3)
    muniment("disposition", "review", plan_id, "approve", "--class", "COR-010")
    assert muniment("disposition", "approve", plan_id, "--key", ruth)["signed"] == 1
    assert muniment("disposition", "approve", plan_id, "--key", ruth)["state"] == "signing"  # once is once
    statement, signature = tmp_path / "statement.txt", tmp_path / "statement.txt.sig"
    muniment("approval", "show", plan_id, "-o", statement)
    private = signatures.private_key(dan, lambda: "")
    signature.write_text(signatures.sign(private, statement.read_bytes()))
    assert muniment("disposition", "approve", plan_id, "--signature", signature)["state"] == "approved"
    assert "--as-of" in muniment("--as-of", "2030-01-01", "disposition", "execute", plan_id, code=2)
    assert muniment("disposition", "execute", plan_id)["outcomes"] == {"destroyed": 1}
    stated = muniment("disposition", "certificate", plan_id, "-o", tmp_path / "certificate.json")
    assert [item["outcome"] for item in stated["items"]] == ["destroyed"]
    destroyed = stated["items"][0]["record"]
    assert muniment("find", "Old") == []
    assert muniment("show", case["record_id"])["holds"]
    assert muniment("destroyed", "--id", destroyed)
    assert muniment("ingest", inbox)["rejected"] == 1  # it stays destroyed


def test_what_was_rejected_goes_by_two_people(muniment: Muniment, settings: Settings, tmp_path: Path) -> None:
    ruth, dan = key(tmp_path, "ruth"), key(tmp_path, "dan")
    muniment("approver", "enrol", "Ruth Levi", "--public-key", f"{ruth}.pub")
    muniment("approver", "enrol", "Dan Cohen", "--public-key", f"{dan}.pub", "--key", ruth)
    schedule, inbox = tmp_path / "schedule.yaml", tmp_path / "inbox"
    schedule.write_text(SCHEDULE)
    inbox.mkdir()
    (inbox / "broken.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    muniment("schedule", "load", schedule)
    assert muniment("ingest", inbox)["quarantined"] == 1
    (document,) = muniment("quarantine", "list")
    muniment("quarantine", "reject", document["quarantine_id"], "--reason", "not-a-record")
    with psycopg.connect(settings.database_url) as conn:
        conn.execute("UPDATE quarantine SET decided_at = decided_at - interval '30 days'")
    proposal = muniment("disposition", "propose")["rejected_proposal"]
    muniment("approval", "sign", proposal, "--key", ruth)
    assert muniment("approval", "sign", proposal, "--key", dan)["state"] == "approved"
    with psycopg.connect(settings.database_url) as conn:
        assert conn.execute("SELECT destroyed_at IS NOT NULL FROM quarantine").fetchall() == [(True,)]
    assert muniment("ingest", inbox)["known"] == 1
