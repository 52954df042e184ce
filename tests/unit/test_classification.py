"""Classification: the first match decides, a doubt is never a match, and no document makes it slow."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ingest.classification import classify, document_date
from ingest.model import Extraction, Identification, Json
from retention.rules import DocumentDate, RecordClass
from retention.schedule import SAMPLE, Schedule, load


def seen(text: str = "", name: str = "document.txt", mime: str = "text/plain", **metadata: Json) -> Extraction:
    identified = Identification(mime, None, None, 546)
    return Extraction(name, Path(name), b"", len(text), identified, metadata, text)


def schedule(*classes: str) -> Schedule:
    listed = "".join(
        f"  - id: C{i}\n    title: T\n    rules: []\n    match:\n      - {{id: m{i}, {conditions}}}\n"
        for i, conditions in enumerate(classes)
    )
    return load(f"version: 1\ntitle: T\ntimezone: UTC\nclasses:\n{listed}")


@pytest.fixture(scope="module")
def sample() -> Schedule:
    return load(SAMPLE)


SAMPLES = [
    ("IL-FIN-010", "Invoice no. 2041\nBlue Cedar Ltd\nBill to: Harbour Trading\nGrand total 1,170.00"),
    ("IL-FIN-010", 'חשבונית מס מס\' 2041\nארז כחול בע"מ\nסה"כ לתשלום 1,170 ש"ח'),
    ("IL-FIN-010", "קבלה מספר 77\nהתקבל מאת: סחר נמל\nסה״כ 300 ש״ח"),
    ("IL-FIN-030", "PURCHASE ORDER 5512\nQuantity 40, price 12.50 each"),
    ("IL-FIN-030", "הזמנת רכש 5512\nכמות 40"),
    ("IL-CON-010", "Services Agreement\nThis agreement is made between the parties, hereinafter"),
    ("IL-CON-010", "הסכם שירותים\nשנערך ונחתם ביום 1.3.2024 בין הצדדים, להלן"),
    ("IL-CORP-010", "Minutes of the meeting of the board\nPresent: A. Levi (chair)"),
    ("IL-CORP-010", "פרוטוקול ישיבת דירקטוריון\nנוכחים: א. לוי"),
    ("IL-MED-040", 'מכתב הפניה\nלכבוד ד"ר כהן, מרפאת עור\nהמטופלת בת 41'),
    ("IL-MED-040", "Referral letter\nDear Dr Cohen, this patient of our clinic"),
    ("IL-MED-010", "טופס הפניה לחדר מיון\nהמרכז הרפואי, נא לקבל את המטופל"),
    ("IL-MED-010", "Letter of referral\nTo the emergency department of the hospital"),
    ("IL-MED-020", "סיכום אשפוז\nהתקבלה בשל כאבי בטן"),
    ("IL-MED-020", "Discharge Summary\nThe patient was admitted on 3 May"),
    ("IL-MED-030", "צילום רנטגן חזה\nללא ממצאים"),
    ("KM-010", "Lessons learned: moving the archive\nWhat went well"),
    ("KM-010", "הפקת לקחים מהעברת הארכיון\nמה עבד היטב"),
    ("KM-020", "Case study: a flooded basement"),
    ("KM-030", "Best practices for scanning"),
    ("US-HR-030", "תלוש שכר לחודש מרץ"),
    ("US-HR-050", "קורות חיים\nנועה לוי"),
    ("US-HR-070", "Form I-9\nEmployment Eligibility Verification"),
    ("IL-SEC-010", "Access log of the archive room\n08:01 door 2"),
    ("DE-FIN-010", "Rechnung Nr. 88\nNettobetrag 100 EUR, USt 19 EUR"),
    ("unclassified", "Dear friends, our invoice for kindness is due"),
    ("unclassified", "Learn to knit in fifteen minutes\nEveryone present enjoyed it"),
    ("unclassified", "The general agreed.\nThe contract bridge club meets on Monday"),
    ("unclassified", "שלום רב,\nהזמנה למסיבת סוף השנה"),
    ("unclassified", ""),
]


@pytest.mark.parametrize(("expected", "text"), SAMPLES)
def test_the_sample_schedule_knows_what_it_names_and_nothing_else(expected: str, text: str, sample: Schedule) -> None:
    assert classify(seen(text), "inbox", "document.txt", sample)[0] == expected


def test_title_and_name_count_as_heading(sample: Schedule) -> None:
    minutes = "Present: A. Levi. Quorum: yes."
    assert classify(seen(minutes, name="board_minutes-2024.pdf"), "inbox", "x", sample)[0] == "IL-CORP-010"
    assert classify(seen(minutes, title="Board minutes, March"), "inbox", "x", sample)[0] == "IL-CORP-010"
    assert classify(seen(minutes, name="scan_0001.pdf"), "inbox", "x", sample)[0] == "unclassified"


def test_the_first_match_in_the_file_decides_and_is_named() -> None:
    both = schedule("text: [alpha]", "text: [alpha, beta]")
    assert classify(seen("alpha beta"), "s", "p", both) == ("C0", "m0")
    assert classify(seen("beta"), "s", "p", both) == ("C1", "m1")
    assert classify(seen("gamma"), "s", "p", both) == ("unclassified", "none")


@pytest.mark.parametrize(
    ("conditions", "matches", "not_matches"),
    [
        ("source: [scan*]", {"source": "Scanner 2"}, {"source": "mail"}),
        ("path: ['*/hr/*']", {"place": "2024/HR/a.txt"}, {"place": "hr.txt"}),
        ("path: ['*.log.*']", {"place": "a.log.1"}, {"place": "a.log"}),
        ("mime: [image/*]", {"mime": "image/png"}, {"mime": "text/plain"}),
        ("extension: [.PDF, doc]", {"name": "a.pdf"}, {"name": "pdf.txt"}),
        ("language: [he]", {"language": "he"}, {}),
        ("sender: ['*@bank.example*']", {"from": "Ann <ann@bank.example>"}, {"from": "ann@bank.test"}),
        ("metadata: {author: {equals: ann lee}}", {"author": "Ann  Lee"}, {"author": "Ann Leeds"}),
        ("metadata: {keywords: {contains: tax}}", {"keywords": ["law", "Tax 2024"]}, {"keywords": ["law"]}),
        ("metadata: {producer: {regex: '^scan[0-9]{1,3}$'}}", {"producer": "Scan12"}, {"producer": "Scan"}),
        ("text: [order form]", {"text": "ORDER\n  form"}, {"text": "reorder forms"}),
        ("text_all: [one, two]", {"text": "two one"}, {"text": "one"}),
        ("text: [one], text_none: [two]", {"text": "one"}, {"text": "one two"}),
        ("regex: 'no\\.? {0,3}[0-9]{4}'", {"text": "see No. 1234"}, {"text": "no. 12"}),
        ("text: ['סה\"כ']", {"text": "סה״כ 5"}, {"text": "סהכ 5"}),
        ("text: [הסכם]", {"text": "ובהסכם זה"}, {"text": "הסכמה"}),
        ("text: [שלום]", {"text": "שָׁלוֹם רב"}, {"text": "שלומית"}),
    ],
)
def test_each_condition(conditions: str, matches: dict[str, Json], not_matches: dict[str, Json]) -> None:
    plan = schedule(conditions)

    def found(fields: dict[str, Json]) -> str:
        given: dict[str, Any] = dict(fields)
        source, place = str(given.pop("source", "s")), str(given.pop("place", "p"))
        return classify(seen(**given), source, place, plan)[0]

    assert found(matches) == "C0"
    assert found(not_matches) == "unclassified"


def test_hostile_text_and_names_cost_little(sample: Schedule) -> None:
    plan = schedule("regex: '(a{1,40}b{0,40})c'", "path: ['*a*a*a*a*a*b']", "text: [alpha beta]")
    began = time.process_time()
    for text in ("a" * 2_000_000, "ab" * 1_000_000, " " * 2_000_000, "\u05b0" * 2_000_000, "alpha " * 300_000):
        classify(seen(text, name="a" * 255), "s", "a" * 4_000, plan)
        classify(seen(text, title="x" * 100_000), "s", "p", sample)
    assert time.process_time() - began < 10


def test_a_name_that_is_not_utf8_does_no_harm(sample: Schedule) -> None:
    assert classify(seen("x", name="caf\udce9.txt"), "s", "caf\udce9.txt", sample) == ("unclassified", "none")


DATED = RecordClass("C", {"en": "T"}, document_date=DocumentDate(("date", "created"), date(1990, 1, 1)))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"created": "2020-05-06"}, date(2020, 5, 6)),
        ({"date": "2019-01-01T00:00:00", "created": "2020-05-06"}, date(2019, 1, 1)),
        ({"date": "1989-12-31", "created": "2020-05-06"}, date(2020, 5, 6)),  # before `earliest`
        ({"date": "2024-06-02"}, None),  # after receipt
        ({"date": "2024-06-01"}, date(2024, 6, 1)),
        ({"date": "2019-12-31T23:30:00+00:00"}, date(2020, 1, 1)),  # that is already January in Jerusalem
        ({"modified": "2020-05-06"}, None),  # not a field that the class names
        ({"date": "yesterday"}, None),
        ({"date": 20200101}, None),
        ({"date": "9999-12-31T23:59:59-12:00"}, None),
        ({}, None),
    ],
)
def test_the_date_of_a_document(metadata: dict[str, Json], expected: date | None) -> None:
    assert document_date(metadata, DATED, date(2024, 6, 1), "Asia/Jerusalem") == expected


def test_a_class_that_names_no_field_has_no_document_date() -> None:
    assert document_date({"date": "2020-01-01"}, RecordClass("C", {"en": "T"}), date(2024, 6, 1)) is None
