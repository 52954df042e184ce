"""One bad file for each code that the readers of Office, mail, markup and text give, through `extract`."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.extraction.compound import compound_file
from ingest.extraction.extract import extract
from ingest.model import Extraction, Limits, Severity
from tests.unit.office_files import DOCX, HEBREW, ODT, doc, docx, message_storage, odf, summary


def sight(tmp_path: Path, name: str, data: bytes, limits: Limits | None = None) -> Extraction:
    path = tmp_path / "bytes"
    path.write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return extract(path, name, limits or Limits(), scratch)


def everything(seen: Extraction) -> Iterator[str]:
    yield from (finding.code for finding in seen.findings)
    for child in seen.children:
        yield from everything(child)


def locked_zip() -> bytes:
    data = bytearray(odf(ODT, "<text:p>secret</text:p>"))
    at = 0
    while (at := data.find(b"PK\x03\x04", at)) >= 0:
        data[at + 6] |= data[30 + at : 38 + at] != b"mimetype"
        at += 4
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= data[46 + at : 54 + at] != b"mimetype"
        at += 4
    return bytes(data)


def mixed_mail(count: int) -> bytes:
    part = b"--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nwords\r\n"
    head = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: s\r\nMIME-Version: 1.0\r\n"
    return head + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + part * count + b"--b--\r\n"


BAD: dict[str, tuple[str, bytes, str]] = {
    "docx without its end": ("a.docx", docx()[:-60], "TRUNCATED"),
    "docx with a broken part": ("a.docx", docx("<w:p"), "DAMAGED"),
    "docx with broken properties": ("a.docx", docx(parts={"docProps/core.xml": "<x"}), "METADATA-DAMAGED"),
    "docx with macros": ("a.docm", docx(parts={"word/vbaProject.bin": b"x"}), "MACROS"),
    "docx without words": ("a.docx", docx(""), "TEXT-EMPTY"),
    "odt with an entity": (
        "a.odt",
        odf(ODT, "", parts={"content.xml": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'}),
        "UNSAFE-XML",
    ),
    "odt whose members are encrypted": ("a.odt", locked_zip(), "ENCRYPTED"),
    "doc with a password": ("a.doc", doc("secret", 0x100), "ENCRYPTED"),
    "docx with a password": ("a.docx", compound_file({"EncryptedPackage": b"x", "EncryptionInfo": b"x"}), "ENCRYPTED"),
    "doc with broken properties": (
        "a.doc",
        doc(HEBREW, streams={"\x05SummaryInformation": b"broken" * 20}),
        "METADATA-DAMAGED",
    ),
    "msg without properties": ("a.msg", compound_file({"__substg1.0_0037001F": b"x"}), "DAMAGED"),
    "mail with a date that is none": (
        "a.eml",
        b"From: a@x.org\nTo: b@x.org\nSubject: s\nDate: soon\n\nx",
        "METADATA-DAMAGED",
    ),
    "xml that ends too soon": ("a.xml", b'<?xml version="1.0"?><a><b>x</b>', "DAMAGED"),
    "xml with a bomb": ("a.xml", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "UNSAFE-XML"),
    "rtf without its end": ("a.rtf", b"{\\rtf1\\ansi words and more words", "TRUNCATED"),
    "text of an unsure encoding": ("a.txt", b"na\xefve words", "ENCODING-UNSURE"),
    "text in visual order": ("a.txt", HEBREW[::-1].encode("cp1255"), "VISUAL-ORDER"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_has_its_code(tmp_path: Path, case: str) -> None:
    name, data, code = BAD[case]
    seen = sight(tmp_path, name, data)
    assert code in [finding.code for finding in seen.findings], (seen.identification, seen.findings)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.docx", docx()),
        ("a.odt", odf(ODT, "<text:p>Hello</text:p>")),
        ("a.doc", doc("Hello", streams={"\x05SummaryInformation": summary({2: b"t"})})),
        ("a.msg", compound_file(message_storage(32, {0x1000: "Hello", 0x0037: "s"}))),
        ("a.eml", b"From: a@x.org\nTo: b@x.org\nSubject: s\nDate: Thu, 2 Jan 2020 03:04:05 +0000\n\nHello\n"),
        ("a.xml", b'<?xml version="1.0"?><a>Hello</a>'),
        ("a.html", b"<!DOCTYPE html><html><head><title>t</title></head><body><p>Hello</p></body></html>"),
        ("a.json", b'{"a": "Hello"}'),
        ("a.rtf", b"{\\rtf1\\ansi Hello}"),
        ("a.txt", b"Hello\n"),
    ],
)
def test_a_sound_file_has_none(tmp_path: Path, name: str, data: bytes) -> None:
    seen = sight(tmp_path, name, data)
    assert [f for f in seen.findings if f.severity is not Severity.WARN or f.code != "UNSCANNED"] == []
    assert seen.text.strip() == "Hello"


def test_limits_are_findings(tmp_path: Path) -> None:
    body = "<w:p><w:r><w:t>" + "words " * 50_000 + "</w:t></w:r></w:p>"
    assert "EXPANSION-LIMIT" in everything(sight(tmp_path, "a.docx", docx(body), Limits(expanded_bytes=10_000)))
    assert "TEXT-LIMIT" in everything(sight(tmp_path, "a.docx", docx(body), Limits(text_chars=1000)))


def test_too_many_attachments(tmp_path: Path) -> None:
    seen = sight(tmp_path, "a.eml", mixed_mail(5), Limits(children=3))
    assert len(seen.children) == 3
    assert "CHILD-LIMIT" in [finding.code for finding in seen.findings]


def test_members_and_their_names_never_leave_the_scratch_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO(docx())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("word/embeddings/../../../../evil.pdf", b"%PDF-1.4")
        archive.writestr("word/embeddings/inner.docx", docx())
    seen = sight(tmp_path, "a.docx", buffer.getvalue())
    assert [child.name for child in seen.children] == ["inner.docx"]
    assert all((tmp_path / "scratch") in child.path.parents for child in seen.children)
    assert not list(tmp_path.glob("**/evil*"))


def test_a_password_inside_a_mail_is_a_finding_of_the_attachment(tmp_path: Path) -> None:
    secret = doc("secret", 0x100)
    message = (
        b"From: a@x.org\nTo: b@x.org\nSubject: s\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    )
    message += b"--b\n\nwords\n--b\nContent-Type: application/msword\nContent-Transfer-Encoding: base64\n"
    message += b"Content-Disposition: attachment; filename=a.doc\n\n" + base64.encodebytes(secret) + b"--b--\n"
    seen = sight(tmp_path, "a.eml", message)
    assert "ENCRYPTED" not in [finding.code for finding in seen.findings]
    assert [finding.code for finding in seen.children[0].findings] == ["ENCRYPTED"]


def test_the_zip_of_140_bytes_that_declares_all_there_are(tmp_path: Path) -> None:
    directory = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 2**64 - 1, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 42, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 12, 0) + b"[Content_Typ"
    for name in ("a.docx", "a.zip"):
        seen = sight(tmp_path, name, local + directory + locator + end)
        assert not seen.children
    assert seen.identification.mime != DOCX or "DAMAGED" in [finding.code for finding in seen.findings]
