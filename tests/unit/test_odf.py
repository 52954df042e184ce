"""OpenDocument packages."""

from __future__ import annotations

from ingest.extraction import odf as reader
from tests.unit.office_files import HEBREW, ODS, ODT, codes, docx, odf, see, zipped

META = (
    "<dc:title>כותרת</dc:title><meta:initial-creator>First</meta:initial-creator><dc:creator>Last</dc:creator>"
    "<meta:creation-date>2021-05-06T07:08:09.123456789</meta:creation-date><meta:keyword>a</meta:keyword>"
    '<meta:keyword>b</meta:keyword><meta:document-statistic meta:page-count="3"/>'
)


def test_text_document() -> None:
    body = (
        f"<office:text><text:tracked-changes><text:p>deleted</text:p></text:tracked-changes><text:h>{HEBREW}</text:h>"
        '<text:p>one<text:tab/>two<text:line-break/>three<text:s text:c="3"/>four <text:span>five</text:span> six'
        "<text:note><text:p>a note</text:p></text:note></text:p>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p><text:p>b</text:p></table:table-cell>"
        '<table:table-cell table:number-columns-repeated="1000"/><table:table-cell><text:p>c</text:p>'
        "</table:table-cell></table:table-row></table:table></office:text>"
    )
    seen = see(reader, odf(ODT, body, META), ODT)
    assert seen.text.split("\n") == [HEBREW, "a note", "one\ttwo", "three   four five six", "a b\t\tc"]
    assert seen.metadata == {
        "title": "כותרת",
        "author": "First",
        "created": "2021-05-06T07:08:09",
        "keywords": ["a", "b"],
        "pages": 3,
        "language": "he",
    }


def test_sheets_are_counted() -> None:
    row = "<table:table-row><table:table-cell><text:p>1</text:p></table:table-cell></table:table-row>"
    table = f"<table:table>{row}</table:table>"
    seen = see(reader, odf(ODS, f"<office:spreadsheet>{table * 2}</office:spreadsheet>"), ODS)
    assert (seen.text, seen.metadata["pages"]) == ("1\n1", 2)


def test_slides_are_divided_by_form_feeds() -> None:
    mime = "application/vnd.oasis.opendocument.presentation"
    page = "<draw:page><draw:frame><text:p>%d</text:p></draw:frame></draw:page>"
    seen = see(reader, odf(mime, "<office:presentation>" + page % 1 + page % 2 + "</office:presentation>"), mime)
    assert (seen.text, seen.metadata["pages"]) == ("1\n\f\n2", 2)


def test_encrypted_by_its_manifest() -> None:
    manifest = '<m:manifest><m:file-entry m:full-path="content.xml"><m:encryption-data/></m:file-entry></m:manifest>'
    seen = see(reader, odf(ODT, "", META, parts={"META-INF/manifest.xml": manifest}), ODT)
    assert codes(seen) == ["ENCRYPTED"]
    assert (seen.text, seen.metadata["password_needed"]) == ("", True)


def test_macros_and_children_and_damage() -> None:
    seen = see(reader, odf(ODT, "<text:p>x</text:p>", parts={"Basic/Standard/Module1.xml": "<m/>"}), ODT)
    assert codes(seen) == ["MACROS"]
    assert not codes(see(reader, odf(ODT, "<text:p>x</text:p>", parts={"Basic/Standard/script-lb.xml": "<m/>"}), ODT))
    seen = see(reader, odf(ODT, "<text:p>x</text:p>", parts={"Object 1": docx()}), ODT)
    assert [child.name for child in seen.children] == ["Object 1"]
    assert codes(see(reader, zipped({"mimetype": ODT}), ODT)) == ["DAMAGED"]
    seen = see(reader, odf(ODT, "<text:p>kept</text:p><text:p"), ODT)
    assert (seen.text, codes(seen)) == ("kept", ["DAMAGED"])
