"""Word, Excel and PowerPoint packages."""

from __future__ import annotations

from ingest.extraction import ooxml as reader
from ingest.extraction.compound import compound_file
from ingest.model import Limits
from tests.unit.office_files import (
    DOCX,
    HEBREW,
    PPTX,
    XLSX,
    codes,
    docx,
    ooxml,
    relationships,
    see,
    zipped,
)

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
S = (
    'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
P = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
PROPERTIES = (
    "<dc:title>כותרת</dc:title><dc:creator>A. Author</dc:creator><cp:keywords>a, b;c</cp:keywords>"
    "<dcterms:created>2020-01-02T03:04:05Z</dcterms:created><dcterms:modified>nonsense</dcterms:modified>"
)


def test_word() -> None:
    body = (
        f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>{HEBREW}</w:t></w:r></w:p>"
        "<w:p><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    )
    note = f"<w:footnotes {W}><w:footnote><w:p><w:r><w:t>a note</w:t></w:r></w:p></w:footnote></w:footnotes>"
    head = f"<w:hdr {W}><w:p><w:r><w:t>a header</w:t></w:r></w:p></w:hdr>"
    data = docx(
        body,
        PROPERTIES,
        {
            "word/footnotes.xml": note,
            "word/header1.xml": head,
            "docProps/app.xml": "<P><Pages>7</Pages><Application>Writer</Application></P>",
        },
    )
    seen = see(reader, data, DOCX)
    assert seen.text.split("\n") == [HEBREW, "one\ttwo", "three", "cell", "a note", "a header"]
    assert seen.metadata == {
        "title": "כותרת",
        "author": "A. Author",
        "keywords": ["a", "b", "c"],
        "created": "2020-01-02T03:04:05+00:00",
        "pages": 7,
        "creator": "Writer",
        "producer": "Writer",
        "language": "he",
    }
    assert not seen.findings


def test_excel_in_the_order_of_the_workbook() -> None:
    parts: dict[str, str | bytes] = {
        "xl/workbook.xml": f'<workbook {S}><sheets><sheet name="Second" r:id="r2"/><sheet name="First" r:id="r1"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": relationships(
            {"r1": ("worksheet", "worksheets/a.xml"), "r2": ("worksheet", "/xl/worksheets/b.xml")}
        ),
        "xl/sharedStrings.xml": f"<sst {S}><si><t>shared</t></si><si><r><t>ri</t></r><r><t>ch</t></r>"
        "<rPh><t>no</t></rPh></si></sst>",
        "xl/worksheets/a.xml": f'<worksheet {S}><sheetData><row><c t="s"><v>0</v></c><c><v>4.5</v></c></row>'
        '<row><c t="inlineStr"><is><t>inline</t></is></c><c t="s"><v>99</v></c></row></sheetData></worksheet>',
        "xl/worksheets/b.xml": f'<worksheet {S}><sheetData><row><c t="s"><v>1</v></c></row></sheetData></worksheet>',
    }
    seen = see(reader, ooxml("xl/workbook.xml", XLSX, parts), XLSX)
    assert seen.text == "Second\nrich\nFirst\nshared\t4.5\ninline"
    assert seen.metadata["pages"] == 2


def test_powerpoint_slides_with_their_notes() -> None:
    def slide(text: str) -> str:
        return f"<p:sld {P}><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>"

    parts: dict[str, str | bytes] = {
        "ppt/presentation.xml": f'<p:presentation {P}><p:sldIdLst><p:sldId r:id="r9"/><p:sldId r:id="r1"/>'
        "</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relationships(
            {"r1": ("slide", "slides/slide1.xml"), "r9": ("slide", "slides/slide9.xml")}
        ),
        "ppt/slides/slide1.xml": slide("last"),
        "ppt/slides/slide9.xml": slide("first"),
        "ppt/slides/_rels/slide9.xml.rels": relationships({"r1": ("notesSlide", "../notesSlides/n.xml")}),
        "ppt/notesSlides/n.xml": slide("a note"),
    }
    seen = see(reader, ooxml("ppt/presentation.xml", PPTX, parts), PPTX)
    assert seen.text == "first\na note\n\flast"
    assert seen.metadata["pages"] == 2


def test_macros_and_embedded_documents() -> None:
    data = docx(
        parts={
            "word/vbaProject.bin": b"x",
            "word/embeddings/inner.docx": docx(),
            "word/embeddings/oleObject1.bin": compound_file({"Equation Native": b"x"}),
            "word/embeddings/data.xlsx": zipped({"xl/workbook.xml": ""}),
            "word/charts/chart1.xml": "<c/>",
            "word/charts/_rels/chart1.xml.rels": relationships({"r": ("package", "../embeddings/data.xlsx")}),
        }
    )
    seen = see(reader, data, DOCX)
    assert [child.name for child in seen.children] == ["inner.docx"]
    assert seen.children[0].path.read_bytes() == docx()
    assert codes(seen) == ["MACROS"]
    assert seen.metadata["macros"] is True


def test_one_broken_part_costs_only_itself() -> None:
    seen = see(reader, docx(parts={"word/footnotes.xml": "<w:footnotes"}), DOCX)
    assert (seen.text, codes(seen)) == ("Hello", ["DAMAGED"])
    seen = see(reader, docx(parts={"docProps/core.xml": "<broken"}), DOCX)
    assert (seen.text, codes(seen)) == ("Hello", ["METADATA-DAMAGED"])
    assert codes(see(reader, docx("<w:p><w:r><w:t>a</w:t></w:r></w:p><w:p"), DOCX)) == ["DAMAGED"]
    assert codes(see(reader, zipped({"a": "b"}), DOCX)) == ["DAMAGED"]
    assert codes(see(reader, docx()[:200], DOCX)) == ["TRUNCATED"]


def test_a_bomb_costs_its_limit() -> None:
    body = "<w:p><w:r><w:t>" + "x" * 200_000 + "</w:t></w:r></w:p>"
    seen = see(reader, docx(body), DOCX, Limits(expanded_bytes=100_000))
    assert codes(seen) == ["EXPANSION-LIMIT"]
    seen = see(reader, docx(body), DOCX, Limits(text_chars=1000))
    assert (len(seen.text), codes(seen)) == (1000, ["TEXT-LIMIT"])
