"""RTF."""

from __future__ import annotations

import time

import pytest

from ingest.extraction import rtf as reader
from tests.unit.office_files import codes, see

WORDS = "שלום עולם"
ESCAPED = b"".join(b"\\'%02x" % byte for byte in WORDS.encode("cp1255"))
TEXT_RTF = "text/rtf"


def test_hebrew_in_all_the_ways_of_rtf() -> None:
    data = (
        b"{\\rtf1\\ansi\\ansicpg1255{\\fonttbl{\\f0\\fcharset177 David;}}{\\info{\\title "
        + ESCAPED
        + b"}{\\author A}{\\keywords x, y}{\\creatim\\yr2020\\mo3\\dy4\\hr5\\min6}{\\revtim\\yr0}{\\nofpages7}}\\f0 "
        + ESCAPED
        + b"\\par "
        + WORDS.encode("cp1255")
        + b'\\par \\u1513?\\u1500? {\\field{\\*\\fldinst{HYPERLINK "x"}}{\\fldrslt{HYPERLINK}}}{\\footnote note}}'
    )
    seen = see(reader, data, TEXT_RTF)
    assert seen.text.split("\n") == [WORDS, WORDS, "של HYPERLINK", "note"]
    assert seen.metadata == {
        "encoding": "windows-1255",
        "title": WORDS,
        "author": "A",
        "keywords": ["x", "y"],
        "created": "2020-03-04T05:06:00",
        "pages": 7,
        "language": "he",
    }
    assert not seen.findings


def test_the_unicode_twin_of_a_title_wins_and_pairs_become_one_character() -> None:
    data = b"{\\rtf1{\\info{\\upr{\\title a?}{\\*\\ud{\\title a\\u1513 ?}}}}\\u-10179?\\u-8704?\\u9999999999?}"
    seen = see(reader, data, TEXT_RTF)
    assert seen.metadata["title"] == "aש"
    assert seen.text.startswith("😀")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{\\rtf1{\\pict " + b"00ffab12\r\n" * 500_000 + b"}a}", "a"),
        (b"{\\rtf1{\\pict\\bin4 }}}}}a}", "a"),
        (b"{\\rtf1{\\field{\\*\\fldinst{" + b'HYPERLINK "' * 20_000 + b"}}}a}", "a"),
        (b"{\\rtf1 " + b"{" * 200_000 + b"a}", "a"),
        (b"{\\rtf1 a\\'zz\\f99999999999999999999 }", "azz"),
        (b"{\\rtf1\\ansicpg99999 a}", "a"),
    ],
)
def test_hostile_rtf_takes_little_time(data: bytes, text: str) -> None:
    started = time.monotonic()
    assert see(reader, data, TEXT_RTF).text.startswith(text)
    assert time.monotonic() - started < 8


def test_limits_and_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_RTF", 10_000)
    seen = see(reader, b"{\\rtf1 " + b"words \\par " * 5_000 + b"}", TEXT_RTF)
    assert codes(seen) == ["TEXT-LIMIT"]
    assert len(seen.text) < 10_000
    seen = see(reader, b"{\\rtf1 words \\b bold", TEXT_RTF)
    assert (seen.text, codes(seen)) == ("words bold", ["TRUNCATED"])
