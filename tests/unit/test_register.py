"""The register of processing says what the schedule says of personal data, and names what is missing."""

from __future__ import annotations

import csv
import io

from retention.rules import PersonalData
from retention.schedule import SAMPLE, load, register
from retention.schedule.spreadsheet import as_csv

TEXT = """version: 1
title: "A | B"
timezone: UTC
classes:
  - id: A
    title: {en: Alpha, he: אלפא}
    personal_data: {subjects: [patients, "*kin*"], categories: [health], purpose: care, basis: law, recipients: [x]}
    rules:
      - {id: r, trigger: "event:end", cutoff: year_end, period: P7Y, ceiling: P9Y, authority: {citation: "=L"}}
      - {id: s, trigger: received, period: P1Y, authority: {citation: "=L"}}
  - {id: B, title: Beta, personal_data: true, rules: []}
  - {id: C, title: Gamma, rules: []}
"""


def test_entries_say_what_the_schedule_says() -> None:
    first, second = register.entries(load(TEXT), "he")
    assert (first.class_id, first.title, first.subjects) == ("A", "אלפא", ("patients", "*kin*"))
    assert first.time_limit == "event:end, year_end + P7Y; and at least received + P1Y"
    assert (first.ceiling, first.citations, first.missing) == ("P9Y from event:end", ("=L",), ())
    assert (second.class_id, second.title) == ("B", "Beta")
    assert second.missing == ("purpose", "subjects", "categories", "recipients", "time_limit", "legal_basis")


def test_the_register_as_csv_and_markdown() -> None:
    found = register.entries(load(TEXT))
    table = list(csv.DictReader(io.StringIO(as_csv(register.COLUMNS, register.rows(found)))))
    assert [row["class_id"] for row in table] == ["A", "B"]
    assert (table[0]["subjects"], table[0]["citations"]) == ("patients; *kin*", "'=L")  # no formula
    text = register.markdown(found, load(TEXT))
    assert "\\*kin\\*" in text and text.count("\n| ") == 3


def test_the_sample_has_an_entry_for_each_class_with_personal_data() -> None:
    plan = load(SAMPLE)
    found = register.entries(plan)
    assert [e.class_id for e in found] == [c.id for c in plan.classes if isinstance(c.personal_data, PersonalData)]
    assert len(found) > 15 and not any(entry.missing for entry in found)
