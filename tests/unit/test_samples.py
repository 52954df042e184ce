"""The sample documents are what their list says, and the product sees in each what the list expects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.classification import classify
from ingest.extraction.workers import Workers
from ingest.model import CODES, Extraction
from ingest.validation import ValidationRun, validate
from retention import schedule
from tests.samples.make_samples import DOCUMENTS, HERE, SAMPLES, Sample, readme

PLACES = [sample.place for sample in SAMPLES]
RECEIVED = datetime(2026, 11, 1, tzinfo=UTC)


def test_folder_holds_what_the_list_names_and_nothing_else() -> None:
    assert sorted(PLACES) == sorted(path.relative_to(DOCUMENTS).as_posix() for path in DOCUMENTS.rglob("*.*"))
    assert len(PLACES) == len(set(PLACES)) >= 40


def test_readme_is_made_of_the_list() -> None:
    assert (HERE / "README.md").read_text(encoding="utf-8") == readme()


def test_samples_are_small_enough_for_a_repository() -> None:
    sizes = {path: path.stat().st_size for path in DOCUMENTS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 1_500_000
    assert [path.name for path, size in sizes.items() if not size] == ["empty.txt"]


@pytest.mark.parametrize("suffix", [".pdf", ".docx", ".odt", ".rtf", ".html", ".json", ".csv", ".txt", ".ods", ".xlsx"])
def test_committed_document_is_what_its_maker_makes(suffix: str) -> None:
    """One of each format that comes out the same each time, so that a change of the maker is not forgotten."""
    sample = next(sample for sample in SAMPLES if sample.place.endswith(suffix) and not sample.findings)
    assert (DOCUMENTS / sample.place).read_bytes() == sample.make()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValidationRun[str]]:
    """All samples, read by worker processes and validated, as a run does it."""
    items = [(place, DOCUMENTS / place, Path(place).name) for place in PLACES]
    with Workers(count=2) as workers:
        read = list(workers.extract_all(items, tmp_path_factory.mktemp("scratch")))
    yield validate([(place, extraction, RECEIVED) for place, extraction in read])


@pytest.mark.parametrize("sample", SAMPLES, ids=PLACES)
def test_sample_is_found_to_be_what_the_list_says(sample: Sample, seen: ValidationRun[str]) -> None:
    findings = seen.findings[sample.place]
    document = seen.documents[sample.place]
    assert sorted({found.code for found in findings}) == sorted(sample.findings), findings
    assert len(document.children) == sample.children
    class_id, rule = classify(document, "samples", sample.place, schedule.load(schedule.SAMPLE))
    assert class_id == sample.record_class, rule


def words(document: Extraction) -> str:
    return " ".join(document.text.split())


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("accounts/חשבונית-מס-2045.pdf", 'סה"כ לתשלום'),
        ("accounts/הזמנת-רכש-88.odt", "כפפות ניטריל, קופסה"),
        ("clinic/סיכום-אשפוז-2019.docx", "כריתת תוספתן בגישה לפרוסקופית"),
        ("clinic/סיכום-ביקור.rtf", "כאב ראש מזה שלושה שבועות"),
        ("consulting/פרוטוקול-2004.txt", "הכנסות 2,140,000 ורווח של 186,000"),
        ("consulting/תזכיר-חגים-2014.txt", "תורנות הטלפון תתחלק בין הצוותים"),
        ("mail/הזמנה-לסדנה.eml", "סדנת פתיחת השנה תתקיים ביום ראשון, 28.9.2025"),
        ("consulting/case-study-queues.pptx", "the calls about it fell by four fifths"),
    ],
)
def test_words_are_read_in_logical_order(place: str, expected: str, seen: ValidationRun[str]) -> None:
    assert expected in words(seen.documents[place])


def test_mail_brings_its_attachments_with_their_words(seen: ValidationRun[str]) -> None:
    children = {child.name: words(child) for child in seen.documents["mail/signed-agreement.eml"].children}
    assert set(children) == {"agreement.pdf", "הסכם שירותים.docx", "agreed.eml"}
    assert "reorganise its service centre" in children["agreement.pdf"]
    assert "התמורה: 12,000" in children["הסכם שירותים.docx"]
    assert "in six parts" in children["agreed.eml"]


def test_every_code_in_the_list_exists() -> None:
    assert {code for sample in SAMPLES for code in sample.findings} <= set(CODES)
