"""Legacy Office: properties in their code page, text, and what is encrypted."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from ingest.extraction import ole as reader
from ingest.extraction.compound import compound_file
from tests.unit.office_files import HEBREW, codes, doc, see, summary

CREATED = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
TITLE = "דוח שנתי"


@pytest.mark.parametrize(
    ("title", "page"),
    [(TITLE.encode("cp1255"), 1255), (TITLE.encode(), 65001), (TITLE, 1252), (TITLE.encode("cp862"), 862)],
)
def test_hebrew_titles_in_the_code_page_that_the_stream_names(title: bytes | str, page: int) -> None:
    values: dict[int, bytes | str | int | datetime] = {2: title, 4: b"A", 5: b"x; y", 12: CREATED, 14: 9, 18: b"Word"}
    data = doc(f"{HEBREW}\r", streams={"\x05SummaryInformation": summary(values, page)})
    seen = see(reader, data, "application/msword")
    assert seen.metadata["title"] == TITLE
    assert seen.metadata["author"] == "A"
    assert seen.metadata["keywords"] == ["x", "y"]
    assert seen.metadata["created"] == "2001-02-03T04:05:06+00:00"
    assert seen.metadata["pages"] == 9
    assert seen.text == HEBREW
    assert not seen.findings


def test_fields_and_marks_of_word() -> None:
    seen = see(reader, doc("a\x13 HYPERLINK x \x14link\x15\rcell\x07\x07b\x0bc\x01\r"), "application/msword")
    assert seen.text == "alink\ncell\nb\nc"


def test_a_property_set_that_claims_endless_vectors_is_read_in_no_time() -> None:
    evil = bytearray(summary({2: b"ok"}))
    struct.pack_into("<I", evil, 52, 0xFFFFFFFF)  # so many properties
    evil += b"\xff" * 1000
    seen = see(reader, doc("x", streams={"\x05SummaryInformation": bytes(evil)}), "application/msword")
    assert seen.metadata["title"] == "ok"
    seen = see(reader, doc("x", streams={"\x05SummaryInformation": b"nonsense" * 10}), "application/msword")
    assert codes(seen) == ["METADATA-DAMAGED"]


def test_pieces_that_repeat_the_text_end() -> None:
    plc = struct.pack("<1001I", *(range(0, 1001 * 900, 900))) + struct.pack("<HIH", 0, 1024, 0) * 1000
    clx = b"\x02" + struct.pack("<I", len(plc)) + plc
    fib = bytearray(1024) + b"A\x00" * 512
    struct.pack_into("<HH", fib, 0, 0xA5EC, 0xC1)
    struct.pack_into("<II", fib, 418, 0, len(clx))
    seen = see(reader, compound_file({"WordDocument": bytes(fib), "0Table": clx}), "application/msword")
    assert len(seen.text) < 5000


def test_powerpoint_text_atoms() -> None:
    atoms = struct.pack("<HHI", 0, 0x0FA0, 8) + "שלום".encode("utf-16-le")
    atoms += struct.pack("<HHI", 0, 0x0FA8, 3) + b"abc" + struct.pack("<HHI", 0, 1, 0xFFFFFFFF)
    data = compound_file({"PowerPoint Document": struct.pack("<HHI", 15, 1000, len(atoms)) + atoms})
    assert see(reader, data, "application/vnd.ms-powerpoint").text == "שלום\nabc"


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<HH", kind, len(body)) + body


def test_excel_strings_that_go_on_in_the_next_record() -> None:
    first = struct.pack("<II", 2, 2) + struct.pack("<HB", 5, 0) + b"hello" + struct.pack("<HB", 6, 0) + b"wo"
    book = record(0x809, b"\x00" * 16) + record(0x85, b"x") + record(0xFC, first)
    book += record(0x3C, b"\x01" + "rlדו".encode("utf-16-le")) + record(0x0A, b"")
    seen = see(reader, compound_file({"Workbook": book}), "application/vnd.ms-excel")
    assert (seen.text, seen.metadata["pages"]) == ("hello\nworlדו", 1)


@pytest.mark.parametrize(
    "data",
    [
        doc("secret", flags=0x0100),
        compound_file({"Workbook": record(0x809, b"\x00" * 16) + record(0x2F, b"\x00" * 54) + record(0x85, b"x")}),
        compound_file({"PowerPoint Document": b"", "Current User": b"\x00" * 12 + struct.pack("<I", 0xF3D1C4DF)}),
        compound_file({"EncryptedPackage": b"x" * 100, "EncryptionInfo": b"x"}),
    ],
)
def test_what_needs_a_password(data: bytes) -> None:
    seen = see(reader, data, "application/x-ole-storage")
    assert codes(seen) == ["ENCRYPTED"]
    assert (seen.text, seen.metadata["encrypted"], seen.metadata["password_needed"]) == ("", True, True)


def test_macros_damage_and_older_formats() -> None:
    data = compound_file({"WordDocument": b"x" * 600, "Macros": {"VBA": {"dir": b"x"}}})
    assert codes(see(reader, data, "application/msword")) == ["MACROS"]
    assert codes(see(reader, data[:600], "application/msword"))[0] == "DAMAGED"
    assert codes(see(reader, b"\xdb\xa5-\x00" + b"x" * 600, "application/msword")) == ["FORMAT-UNSUPPORTED"]
