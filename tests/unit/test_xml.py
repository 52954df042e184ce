"""XML: order of text, dates, and everything that is done with entities."""

from __future__ import annotations

import time

import pytest

from ingest.extraction import xml
from tests.unit.office_files import codes, see

BOMB = (
    b"<!DOCTYPE a ["
    + b"".join(b'<!ENTITY x%d "%s">' % (n, b"&x%d;" % (n - 1) * 10 if n else b"lol" * 10) for n in range(10))
    + b']><a b="&x9;">&x9;</a>'
)


def test_text_in_document_order_with_root_encoding_and_dublin_core() -> None:
    data = (
        b'<?xml version="1.0" encoding="windows-1255"?><r:root xmlns:r="urn:x" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/"><!-- no --><dc:title>T</dc:title>one<b>two</b>three'
        b"<c/>\xf9\xec\xe5\xed</r:root>"
    )
    seen = see(xml, data, "text/xml")
    assert seen.text == "T\none\ntwo\nthree\nשלום"
    assert seen.metadata["root"] == "{urn:x}root"
    assert seen.metadata["encoding"] == "windows-1255"
    assert seen.metadata["title"] == "T"
    assert not seen.findings


def test_the_hebrew_encodings_that_libxml2_lacks() -> None:
    seen = see(xml, b'<?xml version="1.0" encoding="ISO-8859-8-I"?><a>\xf9\xec\xe5\xed</a>', "text/xml")
    assert (seen.text, seen.findings) == ("שלום", [])


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE a [<!ENTITY x "boom">]><a>before &x;</a>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><a/>',
        '<!DOCTYPE a [<!ENTITY x "boom">]><a>&x;</a>'.encode("utf-16"),
        BOMB,
    ],
)
def test_declared_entities_are_refused_and_never_expanded(data: bytes) -> None:
    started = time.monotonic()
    seen = see(xml, data, "text/xml")
    assert codes(seen) == ["UNSAFE-XML"]
    assert seen.text == ""
    with pytest.raises(xml.UnsafeXmlError):
        xml.parse_xml(data)
    assert time.monotonic() - started < 2


def test_a_doctype_without_entities_is_harmless() -> None:
    data = b'<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "http://127.0.0.1:9/x.dtd"><html><p>a</p></html>'
    assert see(xml, data, "text/xml").findings == []
    assert see(xml, b"<a><!-- <!ENTITY x 'y'> -->ok</a>", "text/xml").findings == []


def test_what_stands_before_the_damage_is_kept() -> None:
    seen = see(xml, b"<a><b>kept</b><c>half", "text/xml")
    assert seen.text.startswith("kept")
    assert codes(seen) == ["DAMAGED"]
    for data in (b"", b"no xml", b"<" * 100_000, b"<a>" * 300):
        assert codes(see(xml, data, "text/xml")) == ["DAMAGED"]


def test_an_undeclared_prefix_is_no_damage() -> None:
    seen = see(xml, b"<a>" + b"<x:b>t</x:b>" * 300 + b"</a>", "text/xml")
    assert (seen.text.count("t"), seen.findings) == (300, [])
    assert codes(see(xml, b"<a>" + b"<x:b>t</x:b>" * 300, "text/xml")) == ["DAMAGED"]


def test_one_text_longer_than_the_limit_of_the_parser_ends_the_search_and_no_more() -> None:
    assert codes(see(xml, b"<a>" + b"x" * 11_000_000 + b"</a>", "text/xml")) == ["TEXT-LIMIT"]


def test_many_siblings_take_linear_time() -> None:
    started = time.monotonic()
    see(xml, b"<a>" + b"<b>t</b>" * 60_000 + b"</a>", "text/xml")
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("2024-02-29T10:11:12.345Z", "2024-02-29T10:11:12+00:00"),
        ("2024-02-29 10:11", "2024-02-29T10:11"),
        ("2024-02-29T10:11:12+02:00", "2024-02-29T10:11:12+02:00"),
        ("2024-02-29", "2024-02-29"),
        ("2023-02-29", None),
        ("yesterday", None),
    ],
)
def test_dates(value: str, date: str | None) -> None:
    assert xml.iso_date(value) == date
