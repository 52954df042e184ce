"""HTML: what a reader of the page sees."""

from __future__ import annotations

import time

import pytest

from ingest.extraction import html as reader
from tests.unit.office_files import HEBREW, codes, see

PAGE = """<!DOCTYPE html><html lang="he-IL"><head><title>כותרת  של
דף</title><meta charset="{charset}"><meta name="Author" content="A. B."><meta name="keywords" content="x, y">
<meta name="date" content="2020-01-02T03:04:05Z"><style>p {{}}</style></head><body><script>no()</script>
<h1>Head</h1><p>one <b>two</b>
three<br>four</p><table><tr><td>a</td><td>b</td></tr></table><pre>  x
  y</pre><p>{text}</p><!-- hidden --></body></html>"""


@pytest.mark.parametrize(
    ("charset", "python"),
    [("utf-8", "utf-8"), ("windows-1255", "cp1255"), ("iso-8859-8-i", "cp1255"), ("", "cp1255"), ("", "utf-16")],
)
def test_a_page(charset: str, python: str) -> None:
    seen = see(reader, PAGE.format(charset=charset, text=HEBREW).encode(python), "text/html")
    assert seen.text.split("\n") == ["Head", "one two three", "four", "a\tb", "x", "y", HEBREW]
    assert seen.metadata["title"] == "כותרת של דף"
    assert seen.metadata["author"] == "A. B."
    assert seen.metadata["keywords"] == ["x", "y"]
    assert seen.metadata["created"] == "2020-01-02T03:04:05+00:00"
    assert seen.metadata["language"] == "he"
    assert not seen.findings


def test_visual_hebrew_of_old_pages() -> None:
    page = b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-8"><p>' + HEBREW[::-1].encode(
        "cp1255"
    )
    seen = see(reader, page, "text/html")
    assert "שלום לכולם" in seen.text
    assert codes(seen) == ["VISUAL-ORDER"]


def test_xhtml_with_a_declaration_and_with_entities() -> None:
    page = (
        b'<?xml version="1.0" encoding="windows-1255"?><html xmlns="http://www.w3.org/1999/xhtml"><p>\xf9\xec\xe5\xed'
    )
    assert see(reader, page, "application/xhtml+xml").text == "שלום"
    page = b'<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><html><p>&x;</p></html>'
    seen = see(reader, page, "application/xhtml+xml")
    assert (codes(seen), seen.text) == (["UNSAFE-XML"], "")


@pytest.mark.parametrize(
    "page", [b"", b"<", b"<!-- ", b"\xff\xfe", b"<title>", b"<div>" * 5000 + b"x", b"&#0;&#xD800;<p>a"]
)
def test_anything_is_taken(page: bytes) -> None:
    started = time.monotonic()
    see(reader, page, "text/html")
    assert time.monotonic() - started < 5
