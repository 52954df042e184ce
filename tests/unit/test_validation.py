"""Validation over real Great Expectations: each failure names its document, and none is ever lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest import validation
from ingest.model import CODES, Extraction, Finding, Identification, Json, Severity, finding
from ingest.validation import FAILED, NOT_OF_EXTRACTION, PROFILES, RANK, decide, validate
from retention.errors import UsageError

RECEIVED = datetime(2026, 3, 1, 12, tzinfo=UTC)
PDF = Identification("application/pdf", None, "application/pdf", 546)
TEXT = Identification("text/plain", None, None, 546)


def document(name: str = "a.pdf", **changes: Any) -> Extraction:
    healthy = Extraction(name, Path("x"), b"\0" * 32, 10, PDF, {"pages": 1}, "words")
    return replace(healthy, **changes)


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [found.code for found in findings]


def check(extraction: Extraction, profile: str = "default") -> tuple[Finding, ...]:
    """The findings on one document, validated between two healthy ones that must stay healthy."""
    batch = [("before", document()), ("it", extraction), ("after", document())]
    run = validate([(key, item, RECEIVED) for key, item in batch], profile)
    assert run.findings["before"] == run.findings["after"] == ()
    return run.findings["it"]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("EMPTY", {"size": 0}),
    ("DAMAGED", {"metadata": {"pages": 0}}),
    ("PDF-ENCRYPTED", {"metadata": {"password_needed": True, "encrypted": True}}),
    ("ENCRYPTED", {"metadata": {"password_needed": True}, "identification": TEXT}),
    ("DATE-IN-FUTURE", {"metadata": {"modified": "2026-03-02T12:00:01+00:00"}}),
    ("DATE-IN-FUTURE", {"metadata": {"created": "2019-01-01", "date": "2031-01-01"}}),
    ("DATE-IN-FUTURE", {"metadata": {"created": "9999-12-31T23:59:59-12:00"}}),
    ("DATE-IMPLAUSIBLE", {"metadata": {"created": "1899-12-31"}}),
    ("DATE-IMPLAUSIBLE", {"metadata": {"created": "2019-02-30"}}),
    ("DATE-IMPLAUSIBLE", {"metadata": {"created": 20190101}}),
    ("DATE-IMPLAUSIBLE", {"metadata": {"created": "0001-01-01T00:00:00+14:00"}}),
    ("NAME-NOT-UTF8", {"name": os.fsdecode(b"caf\xe9.pdf")}),
    ("NAME-CONTROL", {"name": "two\nlines.pdf"}),
    ("NAME-CONTROL", {"name": "cod\u202efdp.exe"}),
]
FINE: list[dict[str, Any]] = [
    {},
    {"metadata": {"modified": "2026-03-02T11:59:59+00:00"}},  # within the slack of zones and clocks
    {"metadata": {"modified": "2026-03-02"}},
    {"metadata": {"created": "1900-01-01"}},
    {"metadata": {"password_needed": False, "encrypted": True}},
    {"name": "חשבונית\u200f 12.pdf"},  # a right-to-left mark is ordinary in such names
    {"name": "x" * 255},
]


def test_each_code_is_found_on_its_document_and_on_no_other() -> None:
    batch = [document(**changes) for _, changes in WRONG] + [document(**changes) for changes in FINE]
    found = validate([(n, item, RECEIVED) for n, item in enumerate(batch)]).findings
    assert [codes(found[n]) for n in range(len(WRONG))] == [[code] for code, _ in WRONG]
    assert [found[len(WRONG) + n] for n in range(len(FINE))] == [()] * len(FINE)
    for n, (code, _) in enumerate(WRONG):
        assert found[n][0].severity is CODES[code][0]
        assert "expected" in found[n][0].message


def test_message_names_the_date_that_is_wrong() -> None:
    metadata: dict[str, Json] = {"created": "2020-01-01", "modified": "2031-05-06", "date": "soon"}
    future, implausible = check(document(metadata=metadata))
    assert "'modified' is 2031-05-06" in future.message and "2026-03-01" in future.message
    assert "'date' is 'soon'" in implausible.message


def test_each_finding_of_extraction_is_carried_with_its_message() -> None:
    given = {code: finding(code, "as extraction said it") for code in sorted(set(CODES) - NOT_OF_EXTRACTION)}
    run = validate([(code, document(findings=(it,)), RECEIVED) for code, it in given.items()])
    assert run.findings == {code: (it,) for code, it in given.items()}
    assert all(row["failed"] == 1 for row in run.statistics)


def test_finding_of_extraction_is_not_doubled_by_the_computed_one() -> None:
    given = finding("PDF-ENCRYPTED", "said once")
    assert check(document(metadata={"password_needed": True}, findings=(given,))) == (given,)


def test_several_findings_of_one_code_are_all_kept() -> None:
    given = (finding("METADATA-DAMAGED", "the title"), finding("METADATA-DAMAGED", "the author"))
    assert check(document(findings=given)) == given


def test_code_that_is_not_registered_is_unknown_and_waits_for_a_person() -> None:
    found = check(document(findings=(Finding("NEW-CODE", Severity.WARN, "?"),)))
    assert codes(found) == ["NEW-CODE", FAILED]
    assert "NEW-CODE" in found[1].message and decide(found) is Severity.QUARANTINE


def test_child_shares_the_fate_of_its_unit_and_is_named() -> None:
    bad = document("scan.pdf", findings=(finding("PDF-ENCRYPTED", "needs a password"),))
    inner = document("inner.eml", children=(bad,))
    mail = document("m.eml", findings=(finding("MACROS", "has some"),), children=(document("ok.pdf"), inner))
    run = validate([("mail", mail, RECEIVED)])
    assert codes(run.findings["mail"]) == ["MACROS", "PDF-ENCRYPTED"]
    assert "'scan.pdf'" in run.findings["mail"][1].message
    assert decide(run.findings["mail"]) is Severity.QUARANTINE
    kept = run.documents["mail"]
    assert codes(kept.findings) == ["MACROS"] and kept.children[0].findings == ()
    assert codes(kept.children[1].children[0].findings) == ["PDF-ENCRYPTED"]


def test_empty_attachment_does_not_reject_the_mail_that_came() -> None:
    run = validate([("mail", document("m.eml", children=(document("e.txt", size=0),)), RECEIVED)])
    assert codes(run.findings["mail"]) == ["EMPTY"]
    assert decide(run.findings["mail"]) is Severity.QUARANTINE
    assert run.documents["mail"].children[0].findings[0].severity is Severity.REJECT


def test_profile_weighs_the_same_findings_more() -> None:
    given = document(findings=(finding("TEXT-EMPTY", "none"),))
    assert decide(check(given)) is Severity.WARN
    assert decide(check(given, "health")) is Severity.QUARANTINE


def test_no_profile_is_milder_than_the_default() -> None:
    for profile, weights in PROFILES.items():
        for code, severity in weights.items():
            assert RANK[severity] > RANK[CODES[code][0]], (profile, code)


def test_profile_that_does_not_exist_is_a_mistake_of_the_source_file() -> None:
    with pytest.raises(UsageError, match=r"'nope' does not exist; expected one of default, health"):
        validate([], "nope")


def test_statistics_count_documents_and_children() -> None:
    batch = [
        (0, document(), RECEIVED),
        (1, document(size=0), RECEIVED),
        (2, document(identification=TEXT, metadata={}, children=(document(size=0),)), RECEIVED),
    ]
    by_code = {row["code"]: row for row in validate(batch).statistics}
    assert set(by_code) == set(CODES) - NOT_OF_EXTRACTION
    assert by_code["EMPTY"] == {"code": "EMPTY", "severity": "reject", "evaluated": 4, "failed": 2}
    assert by_code["TEXT-EMPTY"]["evaluated"] == 4 and by_code["TEXT-EMPTY"]["failed"] == 0
    assert by_code["DATE-IN-FUTURE"]["evaluated"] == 0  # none of them states a date


def test_no_documents_no_findings() -> None:
    run: validation.ValidationRun[str] = validate([])
    assert (run.findings, run.documents, run.statistics) == ({}, {}, ())


def test_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        validate([(1, document(), RECEIVED), (1, document(), RECEIVED)])


def test_expectation_that_raises_quarantines_the_batch_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frame = validation._frame
    monkeypatch.setattr(validation, "_frame", lambda rows: frame(rows).drop(columns=["days ahead"]))
    given = finding("MACROS", "has some")
    with caplog.at_level(logging.CRITICAL, logger="great_expectations"):
        run = validate([(0, document(findings=(given,)), RECEIVED), (1, document(), RECEIVED)])
    assert run.findings[0][0] == given
    for findings in run.findings.values():
        assert decide(findings) is Severity.QUARANTINE
        assert findings[-1].code == FAILED and "DATE-IN-FUTURE" in findings[-1].message
    assert "DATE-IN-FUTURE" not in {row["code"] for row in run.statistics}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.iloc[:-1],  # a row fell out
        lambda frame: frame.drop(columns=["row"]),  # nothing names the document
        lambda frame: frame.assign(row=0),  # one name for all of them
        lambda _: 1 / 0,
    ],
)
def test_a_suite_that_did_not_see_every_row_is_not_believed(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    frame = validation._frame
    monkeypatch.setattr(validation, "_frame", lambda rows: spoil(frame(rows)))
    run = validate([(n, document(size=0), RECEIVED) for n in range(3)])
    assert all(FAILED in codes(findings) for findings in run.findings.values())


def test_finding_that_the_suite_overlooked_is_kept_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = validation._frame
    monkeypatch.setattr(validation, "_frame", lambda rows: frame(rows).assign(**{"found MACROS": float("nan")}))
    assert codes(check_any(document(findings=(finding("MACROS", "has some"),)))) == ["MACROS", FAILED]


def check_any(extraction: Extraction) -> tuple[Finding, ...]:
    return validate([("it", extraction, RECEIVED)]).findings["it"]


def test_verdict_does_not_depend_on_the_batch_around_it() -> None:
    items = [
        document(),
        document(size=0),
        document(metadata={"created": "x"}),
        document(metadata={"created": "2031-01-01"}, findings=(finding("MACROS", "m"),)),
        document(metadata={}, children=(document("c", size=0),)),
    ]
    together = validate([(n, item, RECEIVED) for n, item in enumerate(items)]).findings
    assert together == {n: check_any(item) for n, item in enumerate(items)}
    later = validate([(0, items[3], RECEIVED + timedelta(days=9_000))]).findings[0]
    assert codes(later) == ["MACROS"]  # the same date is past when it is received later


def test_importing_is_quiet_offline_and_late() -> None:
    script = (
        "import sys, ingest.validation as v; assert 'great_expectations' not in sys.modules;"
        "import socket; socket.socket.connect = lambda *a: sys.exit('connects to the net');"
        "v.preload(); import os; assert os.environ['GX_ANALYTICS_ENABLED'] == 'false';"
        "from datetime import datetime, UTC; from pathlib import Path;"
        "from ingest.model import Extraction, Identification as I;"
        "e = Extraction('a', Path('x'), b'', 0, I('text/plain', None, None, 1));"
        "assert v.validate([(1, e, datetime.now(UTC))]).findings[1][0].code == 'EMPTY'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
