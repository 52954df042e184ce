"""The sample schedule says what the laws of its rows say: golden dates, one by one, and what it cannot decide alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from retention.engine import RecordFacts, Suspension, decide
from retention.rules import DATED, Combine, Tombstone
from retention.schedule import SAMPLE, load

DAY = timedelta(1)
D = date.fromisoformat
PLAN = load(SAMPLE)
TABLE = Path(__file__).parents[1] / "golden" / "sample_schedule.tsv"


def rows() -> Iterator[dict[str, str]]:
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    yield from (dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:])


def facts(class_id: str, given: str, *, inherited: bool = False) -> RecordFacts:
    """Facts of a record; its events are its own, or those of its aggregation."""
    pairs = {key: D(day) for key, day in (pair.split("=") for pair in given.split(";"))}
    events = {kind: (day,) for kind, day in pairs.items() if kind not in DATED}
    known: dict[str, Any] = {name: pairs.get(name) for name in DATED}
    known["inherited" if inherited else "events"] = events
    return RecordFacts((class_id,), **known)


@pytest.mark.parametrize("inherited", [False, True])
@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['class']}-{row['facts']}")
def test_each_row_of_the_sample(row: dict[str, str], inherited: bool) -> None:
    given = facts(row["class"], row["facts"], inherited=inherited)
    if row["kept_until"] == "open":
        decision = decide(given, PLAN, D("2300-01-01"))
        assert (decision.due, decision.retain_until) == (False, None)
    else:
        until = D(row["kept_until"])
        decision = decide(given, PLAN, until)
        assert (decision.retain_until, decision.due) == (until, False)
        decision = decide(given, PLAN, until + DAY)
        assert decision.due
        assert ("UNVERIFIED" in decision.findings) == (row["verified"] == "none")
        assert decision.citation
    assert decision.action == row["action"]
    known = PLAN.record_class(row["class"])
    assert known is not None and {rule.verified for rule in known.rules} <= {row["verified"] == "all"}


def test_every_class_has_a_row() -> None:
    assert {row["class"] for row in rows()} == {known.id for known in PLAN.classes}


def test_money_laundering_data_has_a_maximum_beside_its_minimum() -> None:
    given = facts("EU-AML-010", "relationship_end=2020-02-29")
    assert decide(given, PLAN, D("2025-02-28")).ceiling == D("2025-02-28")
    assert decide(given, PLAN, D("2025-02-28")).findings == ()
    assert "KEPT-TOO-LONG" in decide(given, PLAN, D("2025-03-01")).findings
    held = RecordFacts(("EU-AML-010",), events={"relationship_end": (D("2020-02-29"),)}, holds=("H",))
    assert "RESTRICTED" in decide(held, PLAN, D("2025-03-01")).findings
    (before,) = [o for o in decide(given, PLAN, D("2027-07-09")).rules if o.rule_id == "eu-aml-2024"]
    assert "in force from 2027-07-10" in before.reason
    assert len([o for o in decide(given, PLAN, D("2027-07-10")).rules if o.eligible]) == 2


def test_a_claim_suspends_the_french_record() -> None:
    given = facts("FR-MED-010", "last_stay=2000-05-01;birth=1950-01-01")
    claim = (Suspension(D("2010-01-01"), D("2010-12-31")),)
    suspended = RecordFacts(given.class_ids, events=given.events, suspensions=claim)
    assert decide(suspended, PLAN, D("2021-05-01")).retain_until == D("2020-05-01") + timedelta(365)
    assert not decide(suspended, PLAN, D("2010-06-01")).due


def test_a_visit_after_the_last_visit_is_stale_but_a_letter_after_a_birth_is_not() -> None:
    clinic = facts("IL-MED-040", "document_date=2016-01-01;last_visit=2015-01-31", inherited=True)
    assert decide(clinic, PLAN, D("2100-01-01")).findings[0] == "TRIGGER-STALE"
    child = facts("UK-MED-020", "document_date=2009-01-01;birth=2000-06-15;treatment_end=2010-01-01", inherited=True)
    assert decide(child, PLAN, D("2025-06-16")).due
    given = "document_date=2000-05-01;last_stay=2000-05-01;birth=1999-01-01"
    assert decide(facts("FR-MED-010", given, inherited=True), PLAN, D("2027-01-02")).due


def test_what_the_shipped_classes_ask_beside_dates() -> None:
    known = {one.id: one for one in PLAN.classes}
    assert {one.id for one in PLAN.classes if one.regulatory} == {"US-BD-010", "US-BD-020"}
    assert {one.worm.value for one in PLAN.classes if one.regulatory} == {"compliance"}
    assert all(one.combine is Combine.ALL for one in PLAN.classes)
    assert PLAN.disposition.certificates == "SYS-CERT" and known["SYS-CERT"].tombstone is Tombstone.OPAQUE
    assert all(one.title("he") != one.title("en") for one in PLAN.classes if one.id.startswith("IL-"))
    for one in PLAN.classes:
        data = one.personal_data
        if data is not None:  # the register of processing has no gap
            assert data.subjects and data.categories and data.purpose and data.basis and data.recipients, one.id
