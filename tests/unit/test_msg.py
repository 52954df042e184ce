"""Outlook messages."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from ingest.extraction import msg as reader
from ingest.extraction.compound import Tree, compound_file
from tests.unit.office_files import HEBREW, codes, filetime, message_storage, see

OUTLOOK = "application/vnd.ms-outlook"


def recipient(name: str, address: str, kind: int) -> Tree:
    return message_storage(8, {0x3001: name, 0x39FE: address}, {0x0C15: kind})


def simple(header: int = 32, more: dict[str, Tree] | None = None, flags: int = 0) -> dict[str, bytes | Tree]:
    return message_storage(
        header,
        {0x0037: "נושא", 0x1000: HEBREW + "\r\n", 0x0042: "Moshe", 0x5D02: "m@example.com", 0x1035: "<1@x>"},
        {0x0E07: flags},
        more,
    )


def test_properties_people_and_attachments() -> None:
    tree = simple(
        more={
            "__recip_version1.0_#00000000": recipient("A", "a@example.com", 1),
            "__recip_version1.0_#00000001": recipient("c@example.com", "c@example.com", 2),
            "__attach_version1.0_#00000000": message_storage(
                8, {0x3707: "..\\חוזה.pdf", 0x3701: b"%PDF", 0x370E: "application/pdf"}
            ),
        }
    )
    table = tree["__properties_version1.0"]
    assert isinstance(table, bytes)
    sent = struct.pack("<HHIQ", 0x40, 0x0039, 6, filetime(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)))
    tree["__properties_version1.0"] = table + sent
    seen = see(reader, compound_file(tree), OUTLOOK)
    assert seen.metadata == {
        "title": "נושא",
        "message_id": "<1@x>",
        "date": "2020-01-02T03:04:05+00:00",
        "from": "Moshe <m@example.com>",
        "to": ["A <a@example.com>"],
        "cc": ["c@example.com"],
        "attachments": ["חוזה.pdf"],
        "parts": ["multipart/mixed", "text/plain", "application/pdf"],
        "language": "he",
    }
    assert seen.text.strip() == HEBREW
    assert [(child.name, child.path.read_bytes()) for child in seen.children] == [("חוזה.pdf", b"%PDF")]
    assert not seen.findings


def test_transport_headers_win_and_drafts_have_no_sender() -> None:
    tree = message_storage(32, {0x007D: "From: X <x@x>\r\nDate: Thu, 02 Jan 2020 03:04:05 +0200\r\n\r\n", 0x0037: "s"})
    seen = see(reader, compound_file(tree), OUTLOOK)
    assert (seen.metadata["from"], seen.metadata["date"]) == ("X <x@x>", "2020-01-02T03:04:05+02:00")
    draft = message_storage(32, {0x0042: "Moshe", 0x0065: "/O=EXCHANGE/CN=M"}, {0x0E07: 8})
    assert see(reader, compound_file(draft), OUTLOOK).metadata["author"] == "Moshe"


def test_a_message_within_becomes_a_message() -> None:
    within = message_storage(8, {0x3001: "FW: x"}, more={"__substg1.0_3701000D": simple(24, flags=8)})
    seen = see(reader, compound_file(simple(more={"__attach_version1.0_#00000000": within})), OUTLOOK)
    assert [child.name for child in seen.children] == ["FW: x.msg"]
    inner = see(reader, seen.children[0].path.read_bytes(), OUTLOOK)
    assert (inner.metadata["title"], inner.metadata["author"]) == ("נושא", "Moshe <m@example.com>")
    assert inner.text.strip() == HEBREW


def test_strings_of_eight_bits_are_in_the_code_page_of_the_message() -> None:
    tree = message_storage(32, {}, {0x3FFD: 1255})
    tree["__substg1.0_0037001E"] = "נושא".encode("cp1255")
    tree["__substg1.0_10130102"] = f"<p>{HEBREW}</p>".encode("cp1255")
    seen = see(reader, compound_file(tree), OUTLOOK)
    assert (seen.metadata["title"], seen.text) == ("נושא", HEBREW)
    assert seen.metadata["parts"] == ["text/html"]


def test_compressed_rtf() -> None:
    # The example of [MS-OXRTFCP] 3.2.1
    packed = bytes.fromhex(
        "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
    )
    assert reader.decompress_rtf(packed) == b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n"
    stored = struct.pack("<IIII", 30, 14, 0x414C454D, 0) + b"{\\rtf1 stored}"
    seen = see(reader, compound_file(message_storage(32, {0x1009: stored})), OUTLOOK)
    assert (seen.text, seen.metadata["parts"]) == ("stored", ["application/rtf"])
    assert reader.decompress_rtf(b"") == reader.decompress_rtf(b"x" * 40) == b""
    assert len(reader.decompress_rtf(packed[:16] + b"\x00" * 100_000)) <= 0x2B


def test_damage() -> None:
    whole = compound_file(simple())
    assert codes(see(reader, whole[:600], OUTLOOK))[0] == "DAMAGED"
    assert codes(see(reader, compound_file({"a": b"x"}), OUTLOOK)) == ["DAMAGED"]
    assert codes(see(reader, b"", OUTLOOK)) == ["DAMAGED"]
    for at in range(520, len(whole), 997):
        see(reader, whole[:at] + b"\xff" * 64 + whole[at + 64 :], OUTLOOK)
