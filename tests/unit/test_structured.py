"""JSON and CSV."""

from __future__ import annotations

import pytest

from ingest.extraction import structured as reader
from ingest.model import Limits
from tests.unit.office_files import HEBREW, codes, see

JSON, CSV = "application/json", "text/csv"


def test_json_strings_in_order() -> None:
    seen = see(reader, ('{"a": ["one", {"b": "two"}], "n": 5, "c": "' + HEBREW + '"}').encode(), JSON)
    assert seen.text.split("\n") == ["one", "two", HEBREW]
    assert seen.metadata == {"encoding": "utf-8", "language": "he"}
    assert not seen.findings
    assert see(reader, '{"a": "x"}'.encode("utf-16"), JSON).text == "x"
    assert see(reader, b'{"a": "\\ud800x\\u0000"}', JSON).text == "\ufffdx"
    assert see(reader, b'{"a": "x"}\n{"a": "y"}\n', JSON).text == "x\ny"
    assert see(reader, b'["' + b"QUJD" * 300_000 + b'", "x"]', JSON).text == "x"


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": }', b"[" * 100_000, b'{"a":' * 50_000, b"{}\n{"])
def test_json_that_does_not_parse(data: bytes) -> None:
    assert codes(see(reader, data, JSON)) == ["DAMAGED"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv(separator: str) -> None:
    rows = [["name", "city", "sum"], ['"A, B; C"', "חיפה", "1"], ['"two\nlines"', "x", "2"]]
    data = "\r\n".join(separator.join(row) for row in rows).encode("cp1255")
    seen = see(reader, data, CSV)
    assert (seen.metadata["rows"], seen.metadata["columns"]) == (3, 3)
    assert seen.metadata["encoding"] == "windows-1255"
    assert "A, B; C\tחיפה\t1" in seen.text


def test_csv_without_rules() -> None:
    seen = see(reader, b"sep=;\na;b\n", CSV)
    assert (seen.metadata["rows"], seen.metadata["columns"]) == (2, 2)
    assert see(reader, b"just words\n", CSV).metadata["columns"] == 1
    assert see(reader, b"", CSV).metadata["rows"] == 0
    assert codes(see(reader, b'a,"' + b"x" * 1_500_000, CSV)) == ["DAMAGED"]
    seen = see(reader, b"a,b\n" * 10_000, CSV, Limits(text_chars=1000))
    assert "rows" not in seen.metadata
    assert codes(seen) == ["TEXT-LIMIT"]
