"""Identification: what libmagic gets wrong is put right, by content."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import magic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.extraction.formats import extension_mime
from ingest.extraction.identify import identify, mismatch
from ingest.model import Identification
from tests.bad_files.pdf_and_image_files import image, pdf

HL7 = b"MSH|^~\\&|LAB|H|EMR|H|202401011200||ORU^R01|1|P|2.5\rPID|1||12345||Levi^Dana\r"
MAIL = (
    b"Received: from a.example by b.example; Mon, 1 Jan 2024 10:00:00 +0200\r\nFrom: Dana <dana@example.org>\r\n"
    b"To: archive@example.org\r\nSubject: Contract\r\nDate: Mon, 1 Jan 2024 10:00:00 +0200\r\n\r\nHello\r\n"
)
PATCH_MAIL = (
    b"From: Dana <dana@example.org>\nSubject: [PATCH] x\nDate: Mon, 1 Jan 2024 10:00:00 +0200\n"
    b"Message-ID: <1@example.org>\n\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
)
MBOX = b"From dana@example.org Mon Jan  1 10:00:00 2024\nFrom: dana@example.org\nSubject: x\n\nbody\n\n"
CDA = (
    b'<!-- an example -->\n<ClinicalDocument xmlns="urn:hl7-org:v3">\n<title>Summary</title>\n'
    b"<component><section><text><table><tr><td>x</td></tr></table></text></section></component>\n</ClinicalDocument>\n"
)
GREEK = "Μη φοβάστε τη γλώσσα μας, είναι όμορφη. ".encode("cp1253") * 5
KOREAN = "MZ 파이썬은 배우기 쉽고 강력한 프로그래밍 언어입니다. ".encode("cp949") * 5
XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'
CSV = b"name,date,total\nLevi,2024-01-01,10\nCohen,2024-01-02,20\n"
PROSE = b"Dear all, hello\nWell, then\nSo, what, now, friends\n"


def docx(part: str = "word/document.xml") -> bytes:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        # Not first, as some writers order their parts: libmagic then sees any ZIP.
        archive.writestr("docProps/app.xml", "<Properties/>")
        archive.writestr(part, "<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'/>")
        archive.writestr(
            "[Content_Types].xml",
            "<Types xmlns='http://schemas.openxmlformats.org/package/2006/content-types'>"
            f"<Override PartName='/{part}' ContentType='{kind}'/></Types>",
        )
        archive.writestr(
            "_rels/.rels",
            "<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'><Relationship Id='r1' "
            "Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument' "
            f"Target='{part}'/></Relationships>",
        )
    return out.getvalue()


def odt(version: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr(
            "content.xml",
            "<office:document-content xmlns:office='urn:oasis:names:tc:opendocument:xmlns:office:1.0' "
            f'office:version="{version}"/>',
        )
    return out.getvalue()


def identified(content: bytes, name: str, folder: Path) -> Identification:
    path = folder / "content"
    path.write_bytes(content)
    return identify(path, name)


DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("content", "name", "mime"),
    [
        (b"", "a.txt", "inode/x-empty"),
        (docx(), "a.docx", DOCX),
        (odt("1.2"), "a.odt", "application/vnd.oasis.opendocument.text"),
        (MAIL, "a", "message/rfc822"),
        (b"\r\n" + MAIL, "a.txt", "message/rfc822"),
        (PATCH_MAIL, "a", "message/rfc822"),
        (b"Subject: only this\n\nbody\n", "a.eml", "message/rfc822"),
        (MBOX + MBOX, "a.txt", "application/mbox"),
        (b"\n" + MBOX, "a.txt", "application/mbox"),
        (MBOX, "a.eml", "message/rfc822"),
        (b"From Monday on we meet at 10:00 in the hall.\nBring: coffee\n", "a.txt", "text/plain"),
        (b"From: Dana\nTo: All\nSubject: Parking\n\nA memorandum typed by hand.\n", "a.txt", "text/plain"),
        (HL7, "a.txt", "x-application/hl7-v2+er7"),
        (b"\x0b" + HL7, "a", "x-application/hl7-v2+er7"),
        (pdf(), "a.pdf", "application/pdf"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + b"\0junk" * 20 + pdf(), "a.pdf", "application/pdf"),
        (pdf().replace(b"%PDF-1.7", b"%PDX 1.7"), "a.pdf", "application/pdf"),
        (MAIL + b"See %PDF-1.4 in the specification; it ends with %%EOF\r\n", "a", "message/rfc822"),
        (b'{"a": [1, 2, {"b": null}]}', "a.txt", "application/json"),
        (b"[not json at all", "a.txt", "text/plain"),
        (CDA, "a.xml", "text/xml"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<html:x xmlns:html='urn:x'/>", "a", "text/xml"),
        (b"<observation classCode='OBS'>\n<code/>\n</observation>\n", "a.xml", "text/xml"),
        (b"<a><b>cut", "a.xml", "text/xml"),
        (
            b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
            "a",
            "application/xhtml+xml",
        ),
        (b"<!DOCTYPE html>\n<html><body>x</body></html>", "a", "text/html"),
        (b"<p>Just a paragraph.</p>\n<p>Another one</p>", "a.html", "text/html"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9"/>', "a.svg", "image/svg+xml"),
        (b"{\\rtf1\\ansi Hello}", "a.doc", "text/rtf"),
        (GREEK, "a.txt", "text/plain"),
        (KOREAN, "a.txt", "text/plain"),
        ("שלום עולם".encode("cp1255") * 9, "a.txt", "text/plain"),
        ("\ufeffשלום".encode("utf-16-le"), "a.txt", "text/plain"),
        (CSV, "a.csv", "text/csv"),
        (b"one;two\n1;2\n", "a.csv", "text/csv"),
        (PROSE, "a.txt", "text/plain"),
        (image("PNG"), "a.png", "image/png"),
        (image("BMP"), "a.bmp", "image/bmp"),
        (random.Random(7).randbytes(4000), "a.dat", "application/octet-stream"),
    ],
)
def test_content_decides(content: bytes, name: str, mime: str, tmp_path: Path) -> None:
    found = identified(content, name, tmp_path)
    assert found.mime == mime
    assert found.libmagic == magic.version()


def test_a_correction_says_what_it_corrected(tmp_path: Path) -> None:
    note = identified(HL7, "a.txt", tmp_path).note
    assert note is not None and "text/plain" in note and "HL7" in note
    assert identified(b"plain words\n", "a.txt", tmp_path).note is None


@pytest.mark.parametrize(
    ("content", "puid"),
    [
        (pdf(), "fmt/276"),
        (pdf().replace(b"%PDF-1.7", b"%PDF-1.4"), "fmt/18"),
        (pdf().replace(b"%PDF-1.7", b"%PDF-2.0"), "fmt/1129"),
        (pdf().replace(b"%PDF-1.7", b"%PDF-1.9"), None),
        (docx(), "fmt/412"),
        (odt("1.2"), "fmt/291"),
        (odt("1.3"), "fmt/1756"),
        (odt("9.9"), None),
        (image("GIF"), "fmt/3"),
        (b"words\n", "x-fmt/111"),
    ],
)
def test_pronom_ids_are_given_where_certain(content: bytes, puid: str | None, tmp_path: Path) -> None:
    assert identified(content, "a", tmp_path).puid == puid


@pytest.mark.parametrize(
    ("content", "name", "wrong"),
    [
        (pdf(), "a.pdf", False),
        (pdf(), "A.PDF", False),
        (pdf(), "a.docx", True),
        (pdf(), "a", False),
        (pdf(), "a.unknown-extension", False),
        (pdf(), "a.dat", False),
        (MAIL, "a.txt", False),
        (CSV, "a.txt", False),
        (json.dumps({"a": 1}).encode(), "a.log", False),
        (MBOX, "a.eml", False),
        (MBOX + MBOX, "a.mbox", False),
        (MAIL, "a.pdf", True),
        (image("JPEG"), "a.jpg", False),
        (image("JPEG"), "a.JPEG", False),
        (image("JPEG"), "a.png", True),
        (b"{\\rtf1\\ansi Hello}", "a.rtf", False),
        (b"{\\rtf1\\ansi Hello}", "a.doc", True),
        (CDA, "a.xml", False),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>', "a.html", False),
        (b"plain words only\n", "a.json", True),
        (random.Random(7).randbytes(4000), "a.pdf", True),
        (b"", "a.pdf", False),
    ],
)
def test_an_extension_that_lies_is_told(content: bytes, name: str, wrong: bool, tmp_path: Path) -> None:
    assert mismatch(identified(content, name, tmp_path)) is wrong


def test_what_extensions_claim_does_not_depend_on_the_host() -> None:
    assert extension_mime("a.docx") == DOCX
    assert extension_mime("a.PDF") == "application/pdf"
    assert extension_mime("a.bin") is None
    assert extension_mime("a") is None
    assert extension_mime(".hidden") is None
    assert extension_mime("a\udcff.txt") == "text/plain"  # a name that is not UTF-8


STARTS = [
    *(b"", b"<", b"<?xml ", b"<!DOCTYPE x [", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"%PDF-", b"MZ"),
    *(b"From a 1:00\n", b"From: x\n", b"MSH|^~\\&|", b"{", b"\xff\xfe", b"\xff\xfe\0\0", b"\x89PNG\r\n\x1a\n"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(STARTS),
    rest=st.binary(max_size=300),
)
def test_any_bytes_get_an_answer(start: bytes, rest: bytes, tmp_path: Path) -> None:
    assert "/" in identified(start + rest, "a.x", tmp_path).mime
