"""One bad file for each code that identification, PDF, images and the assembly of an extraction give."""

from __future__ import annotations

import io
import logging
import os
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.extraction import Document, Embedded, Seen
from ingest.extraction import pdf as pdf_reader
from ingest.extraction.extract import extract
from ingest.model import CODES, Extraction, Limits, Severity
from tests.bad_files.pdf_and_image_files import (
    PdfBytes,
    encrypted_pdf,
    image,
    pdf,
    pdf_with_attachments,
    pdf_with_bomb_attached,
    png_that_claims,
    tiff_pages,
)

SOUND = pdf(["one", "two", "three"])
PICTURE = image("JPEG", (400, 300))


def seen(content: bytes, name: str, folder: Path, limits: Limits | None = None) -> Extraction:
    path = folder / "spooled"
    path.write_bytes(content)
    (folder / "scratch").mkdir(exist_ok=True)
    return extract(path, name, limits or Limits(), folder / "scratch")


def codes(extraction: Extraction) -> list[str]:
    return [finding.code for finding in extraction.findings]


def wrong_pages() -> bytes:
    file = PdfBytes()
    file.add(b"<< /Type /Pages /Count 1 /Kids [9 0 R] >>")
    return file.finish(file.add(b"<< /Type /Catalog /Pages 1 0 R >>"))


PDFS: list[tuple[str, bytes]] = [
    ("TRUNCATED", SOUND[: len(SOUND) // 2]),
    ("TRUNCATED", SOUND[: SOUND.index(b"startxref")]),
    ("TRUNCATED", SOUND[:400] + SOUND[900:]),  # a piece is missing: the table should lie beyond the end
    ("PDF-DAMAGED-REPAIRED", b"junk\n" + SOUND),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"%PDF-1.7", b"%PDF-7.1")),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"%%EOF", b"")),
    ("PDF-DAMAGED-REPAIRED", SOUND + b"junk after the end"),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"startxref\n", b"startxref\n1 ")),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"/Type /Catalog", b"")),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"/Count 3", b"/Count 2")),
    ("PDF-DAMAGED-REPAIRED", SOUND.replace(b"/MediaBox [0 0 612 792]", b"/MediaBox [0 0 612 79 ]".replace(b"79", b""))),
    ("PDF-DAMAGED-REPAIRED", pdf(page=b"/Type /Other")),
    ("DAMAGED", b"%PDF-1.7\n" + b"not a PDF at all " * 50 + b"\nstartxref\n9\n%%EOF\n"),
    ("DAMAGED", b"%PDF-1.4\n%%EOF\n"),
    ("PDF-ENCRYPTED", encrypted_pdf("user", "owner")),
    ("OWNER-PASSWORD", encrypted_pdf("", "owner")),
    ("SCANNED", pdf(["", ""], image=True)),
    ("TEXT-EMPTY", pdf([""])),
    ("VISUAL-ORDER", pdf(["שלום עולם\nאין לחם"])),
    ("EXPANSION-LIMIT", pdf_with_bomb_attached(200 * 1024 * 1024)),
    ("MIME-MISMATCH", PICTURE),
]


@pytest.mark.parametrize(("code", "content"), PDFS)
def test_bad_pdf(code: str, content: bytes, tmp_path: Path) -> None:
    result = seen(content, "a.pdf", tmp_path)
    assert code in codes(result)
    assert all(finding.severity == CODES[finding.code][0] for finding in result.findings)
    assert "EXTRACTION-CRASHED" not in codes(result)


def test_a_page_tree_that_leads_nowhere(tmp_path: Path) -> None:
    assert set(codes(seen(wrong_pages(), "a.pdf", tmp_path))) & {"DAMAGED", "PDF-DAMAGED-REPAIRED"}


@pytest.mark.parametrize("step", [7, 61])
def test_a_pdf_cut_or_spoilt_anywhere_never_crashes_a_reader(step: int, tmp_path: Path) -> None:
    for place in range(9, len(SOUND) - 1, len(SOUND) // 25 + step):
        cut = seen(SOUND[:place], "a.pdf", tmp_path)
        assert {"TRUNCATED", "DAMAGED", "PDF-DAMAGED-REPAIRED"} & set(codes(cut)), place
        spoilt = seen(SOUND[:place] + b"\xff\x00\xfe" + SOUND[place + 3 :], "a.pdf", tmp_path)
        assert "EXTRACTION-CRASHED" not in codes(cut) + codes(spoilt), place


@pytest.mark.parametrize(
    ("code", "content", "name"),
    [
        ("TRUNCATED", PICTURE[: len(PICTURE) // 2], "a.jpg"),
        ("TRUNCATED", image("PNG")[:-300], "a.png"),
        ("TRUNCATED", image("BMP")[:-300], "a.bmp"),
        ("DAMAGED", PICTURE[:20] + bytes(500), "a.jpg"),
        ("EXPANSION-LIMIT", png_that_claims(60_000, 60_000), "a.png"),
        ("PAGE-LIMIT", tiff_pages(5), "a.tif"),
    ],
)
def test_bad_image(code: str, content: bytes, name: str, tmp_path: Path) -> None:
    result = seen(content, name, tmp_path, Limits(pages=3))
    assert code in codes(result)
    assert result.seconds < 5
    assert not {"TEXT-EMPTY", "SCANNED", "EXTRACTION-CRASHED"} & set(codes(result))


def test_damaged_exif_is_told_and_the_image_still_seen(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x0f\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f" * 20
    content = PICTURE[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + PICTURE[2:]
    result = seen(content, "a.jpg", tmp_path)
    assert result.metadata["width"] == 400
    assert not {"DAMAGED", "EXTRACTION-CRASHED"} & set(codes(result))


def test_unknown_unsupported_and_empty(tmp_path: Path) -> None:
    noise = random.Random(7).randbytes(5000)  # of other noise the first bytes may happen to be those of a format
    assert codes(seen(noise, "a", tmp_path))[:1] == ["FORMAT-UNKNOWN"]
    assert codes(
        seen(b"!<arch>\ndebian-binary   0           0     0     644     4         `\n2.0\n", "a", tmp_path)
    ) == ["FORMAT-UNSUPPORTED"]
    empty = seen(b"", "a.txt", tmp_path)
    assert codes(empty) == ["EMPTY"]
    assert empty.findings[0].severity is Severity.REJECT


def test_an_empty_attachment_does_not_refuse_its_document(tmp_path: Path) -> None:
    (child,) = seen(pdf_with_attachments({"empty.txt": b""}), "a.pdf", tmp_path).children
    assert codes(child) == ["EMPTY"]
    assert child.findings[0].severity is Severity.WARN


def test_names(tmp_path: Path) -> None:
    assert codes(seen(SOUND, "a\udcff.pdf", tmp_path)) == ["NAME-NOT-UTF8"]
    assert codes(seen(SOUND, "a\nb.pdf", tmp_path)) == ["NAME-CONTROL"]
    traversing = seen(pdf_with_attachments({"..\\..\\x/../evil.txt": b"x", "..": b"y"}), "a.pdf", tmp_path)
    assert sorted(child.name for child in traversing.children) == ["evil.txt", "unnamed"]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    gone = extract(tmp_path / "gone", "gone.pdf", Limits(), tmp_path)
    assert codes(gone) == ["VANISHED"]
    assert codes(extract(tmp_path, "folder", Limits(), tmp_path)) == ["UNREADABLE"]
    os.mkfifo(tmp_path / "pipe")
    assert codes(extract(tmp_path / "pipe", "pipe", Limits(), tmp_path)) == ["UNREADABLE"]


def nested(depth: int) -> bytes:
    content = pdf(["innermost"])
    for level in range(depth):
        content = pdf_with_attachments({f"level-{level}.pdf": content})
    return content


def test_nesting_limit(tmp_path: Path) -> None:
    result = seen(nested(6), "a.pdf", tmp_path, Limits(nesting=3))
    for _ in range(3):
        assert codes(result) == []
        (result,) = result.children
    assert codes(result) == ["NESTING-LIMIT"]
    assert result.children == ()


def test_limits_count_everything_inside_a_document(tmp_path: Path) -> None:
    inner = pdf_with_attachments({f"{number}.txt": b"x" for number in range(4)})
    outer = seen(pdf_with_attachments({"a.pdf": inner, "b.pdf": inner}), "o.pdf", tmp_path, Limits(children=7))
    found = [outer, *outer.children, *(grandchild for child in outer.children for grandchild in child.children)]
    assert len(found) - 1 == 7
    assert "CHILD-LIMIT" in [code for one in found for code in codes(one)]


def test_unpacked_bytes_are_counted_over_all_levels(tmp_path: Path) -> None:
    inner = pdf_with_attachments({"noise.bin": random.Random(7).randbytes(5000)})
    outer = pdf_with_attachments({"inner.pdf": inner})
    (child,) = seen(outer, "o.pdf", tmp_path, Limits(expanded_bytes=len(inner) + 6000)).children
    assert codes(child) == [] and len(child.children) == 1
    (child,) = seen(outer, "o.pdf", tmp_path, Limits(expanded_bytes=len(inner) + 1000)).children
    assert codes(child) == ["EXPANSION-LIMIT"] and child.children == ()


def test_page_limit_and_text_limit(tmp_path: Path) -> None:
    pages = seen(SOUND, "a.pdf", tmp_path, Limits(pages=2))
    assert codes(pages) == ["PAGE-LIMIT"]
    assert (pages.metadata["pages"], pages.text) == (3, "one\ftwo")
    text = seen(pdf(["word " * 100] * 50), "a.pdf", tmp_path, Limits(text_chars=1000))
    assert codes(text) == ["TEXT-LIMIT"]
    assert len(text.text) == 1000


def test_time_limit_keeps_what_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page_text = pdf_reader._page_text

    def slow(page: object) -> str:
        time.sleep(0.05)
        return page_text(page)

    monkeypatch.setattr(pdf_reader, "_page_text", slow)
    many = seen(pdf(["word"] * 100), "a.pdf", tmp_path, Limits(seconds=1.0))
    assert codes(many) == ["TIME-LIMIT"]
    assert many.text.startswith("word\fword")
    assert many.metadata["pages"] == 100
    assert many.seconds < 1.0


# --- readers that fail ---------------------------------------------------------------------------------------


def reader(monkeypatch: pytest.MonkeyPatch, read: Callable[[Document], Seen]) -> None:
    """Put another reader in the place of the one for PDF, as a defect would."""
    monkeypatch.setattr("ingest.extraction.pdf.read", read)


def test_a_reader_that_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fail(document: Document) -> Seen:
        raise ValueError("secret content of the document")

    reader(monkeypatch, fail)
    with caplog.at_level(logging.ERROR):
        result = seen(SOUND, "a.pdf", tmp_path)
    assert codes(result) == ["EXTRACTION-CRASHED"]
    assert len(result.sha256) == 32 and result.identification.mime == "application/pdf"
    assert "ValueError" in caplog.text and "pdf" in caplog.text
    assert "secret" not in caplog.text + str(result.findings)


def test_a_reader_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(document: Document) -> Seen:
        raise MemoryError

    reader(monkeypatch, fail)
    assert codes(seen(SOUND, "a.pdf", tmp_path)) == ["MEMORY-LIMIT"]


def test_what_leaves_is_valid_whatever_a_reader_gave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def careless(document: Document) -> Seen:
        child = document.child("c")
        child.write_bytes(b"words")
        return Seen(
            metadata={"title": "a\0b\ud800", "exif": {"x": float("nan"), "y": ["\udfff"]}, "unknown": 1, "pages": None},
            text="one\0two \ud83d\ude00 half \ud83d",
            children=[Embedded("C:\\Users\\x\\evil.txt", child)],
        )

    reader(monkeypatch, careless)
    result = seen(SOUND, "a.pdf", tmp_path)
    assert result.text == "onetwo 😀 half \ufffd"
    assert result.metadata == {"title": "ab\ufffd", "exif": {"x": None, "y": ["\ufffd"]}}
    assert result.children[0].name == "evil.txt"


def test_a_zip_whose_directory_lies_is_damaged(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("first.txt", "words")
        archive.writestr("second.txt", "words")
    sound = out.getvalue()
    assert codes(seen(sound, "a.zip", tmp_path)) == ["FORMAT-UNSUPPORTED"]
    for broken in (
        sound[:-30],
        sound.replace(b"first.txt", b"fir5t.txt", 1),
        b"PK\x03\x04" + sound[sound.index(b"PK\x01\x02") :],
    ):
        assert "DAMAGED" in codes(seen(broken, "a.zip", tmp_path))
