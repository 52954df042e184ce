"""Ways to write a sample text down: one function a format, each from a `Text` to bytes.

Rules of this module:
- The same bytes each time, as far as the format allows: times inside are the day of the text, never now.
- Written by hand where a format is simple, so that nothing is needed but what the project needs anyway.
"""

from __future__ import annotations

import importlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time
from html import escape

import typst
from PIL import Image
from pypdf import PdfReader, PdfWriter

from tests.samples.texts import Text

# typst brings Libertinus Serif, which has Hebrew; fonts of the machine are left out, so that it cannot matter.
PAGE = """#set document(title: {title}, author: {author}, date: datetime(year: {y}, month: {m}, day: {d}))
#set page(paper: "a5", margin: 18mm)
#set text(font: "Libertinus Serif", size: 10pt, lang: {lang}, dir: {dir})
#set par(justify: true)
= {heading}
#v(2mm)
{body}
"""


def when(text: Text) -> datetime:
    """Nine in the morning of its day, UTC."""
    return datetime.combine(text.day, time(9), UTC)


def _typst(text: Text) -> bytes:
    def content(part: str | tuple[tuple[str, ...], ...]) -> str:
        if isinstance(part, str):
            return f"#par[#{json.dumps(part, ensure_ascii=False)}]"
        cells = ", ".join(f"[#{json.dumps(cell, ensure_ascii=False)}]" for row in part for cell in row)
        return f"#table(columns: {len(part[0])}, stroke: 0.4pt, {cells})"

    quoted = {key: json.dumps(getattr(text, key), ensure_ascii=False) for key in ("title", "author", "lang")}
    source = PAGE.format(
        **quoted,
        heading=f"#{quoted['title']}",
        dir="rtl" if text.lang == "he" else "ltr",
        body="\n\n".join(map(content, text.body)),
        y=text.day.year,
        m=text.day.month,
        d=text.day.day,
    )
    return source.encode()


def pdf(text: Text) -> bytes:
    """A PDF with embedded fonts, title, author and date."""
    made: bytes = typst.compile(
        _typst(text), format="pdf", ignore_system_fonts=True, timestamp=int(when(text).timestamp())
    )
    return made


def picture(text: Text, ppi: int = 110) -> Image.Image:
    """The first page as a grey picture, as a scanner would see it."""
    png: bytes = typst.compile(_typst(text), format="png", ppi=ppi, ignore_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("L").rotate(0.4, fillcolor=255)


def scanned_pdf(text: Text) -> bytes:
    """A page that is a picture and holds no text."""
    out = io.BytesIO()
    day = when(text).timetuple()
    picture(text).save(out, "PDF", resolution=110, quality=45, creationDate=day, modDate=day, title="")
    return out.getvalue()


def encrypted_pdf(text: Text, *, user: str, owner: str) -> bytes:
    """`user` empty: anyone may read, only the owner may change. The salts are new each time."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(text))))
    writer.encrypt(user, owner, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def encrypted_docx(text: Text, password: str) -> bytes:
    """A Word file under a password (ECMA-376, agile). Needs msoffcrypto-tool, which nothing else here does."""
    tool = importlib.import_module("msoffcrypto.format.ooxml")
    out = io.BytesIO()
    tool.OOXMLFile(io.BytesIO(docx(text))).encrypt(password, out)
    return out.getvalue()


def jpeg(text: Text) -> bytes:
    """A photograph of the page with the EXIF fields of a camera."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132] = "Example", "Pocket 3", when(text).strftime("%Y:%m:%d %H:%M:%S")
    exif[0x010E] = text.title
    exif.get_ifd(0x8769)[0x9003] = when(text).strftime("%Y:%m:%d %H:%M:%S")
    out = io.BytesIO()
    picture(text, 80).save(out, "JPEG", quality=50, exif=exif)
    return out.getvalue()


def png(text: Text) -> bytes:
    out = io.BytesIO()
    picture(text, 80).quantize(8).save(out, "PNG", optimize=True)
    return out.getvalue()


def tiff(*texts: Text) -> bytes:
    """Black and white pages in one file, as a fax gives them."""
    pages = [picture(text, 100).point(lambda level: 255 * (level > 140)).convert("1") for text in texts]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", compression="group4", save_all=True, append_images=pages[1:], dpi=(100, 100))
    return out.getvalue()


def packed(members: Mapping[str, str], text: Text, *, first_stored: bool = False) -> bytes:
    """A ZIP of members dated on the text's day (ZIP begins in 1980)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, content) in enumerate(members.items()):
            info = zipfile.ZipInfo(name, (text.day.year, text.day.month, text.day.day, 9, 0, 0))
            stored = first_stored and number == 0
            archive.writestr(info, content, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    return out.getvalue()


OOXML = "http://schemas.openxmlformats.org"
OFFICE = f"{OOXML}/officeDocument/2006/relationships"
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def _relations(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(
        f'<Relationship Id="r{n}" Type="{kind}" Target="{target}"/>' for n, (kind, target) in enumerate(pairs, 1)
    )
    return f'{XML}<Relationships xmlns="{OOXML}/package/2006/relationships">{items}</Relationships>'


def _ooxml(text: Text, main: str, parts: Mapping[str, tuple[str, str]]) -> bytes:
    """A package: `parts` are name -> (content type, XML); `main` is the one that opens it."""
    types = "".join(f'<Override PartName="/{name}" ContentType="{kind}"/>' for name, (kind, _) in parts.items())
    core = (
        f'{XML}<cp:coreProperties xmlns:cp="{OOXML}/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<dc:title>{escape(text.title)}</dc:title><dc:creator>{escape(text.author)}</dc:creator>"
        + "".join(
            f'<dcterms:{name} xsi:type="dcterms:W3CDTF">{when(text):%Y-%m-%dT%H:%M:%SZ}</dcterms:{name}>'
            for name in ("created", "modified")
        )
        + "</cp:coreProperties>"
    )
    members = {
        "[Content_Types].xml": f'{XML}<Types xmlns="{OOXML}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/docProps/core.xml" '
        f'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/>{types}</Types>',
        "_rels/.rels": _relations(
            [
                (f"{OFFICE}/officeDocument", main),
                (f"{OOXML}/package/2006/relationships/metadata/core-properties", "docProps/core.xml"),
            ]
        ),
        "docProps/core.xml": core,
        **{name: content for name, (_, content) in parts.items()},
    }
    return packed(members, text)


WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"
SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"
SLIDES = "application/vnd.openxmlformats-officedocument.presentationml"


def docx(text: Text) -> bytes:
    right = text.lang == "he"
    layout, run = ("<w:pPr><w:bidi/></w:pPr>", "<w:rPr><w:rtl/></w:rPr>") if right else ("", "")

    def paragraph(line: str) -> str:
        return f'<w:p>{layout}<w:r>{run}<w:t xml:space="preserve">{escape(line)}</w:t></w:r></w:p>'

    def part(piece: str | tuple[tuple[str, ...], ...]) -> str:
        if isinstance(piece, str):
            return paragraph(piece)
        rows = (f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in row)}</w:tr>" for row in piece)
        return f"<w:tbl>{''.join(rows)}</w:tbl>"

    body = "".join(map(part, (text.title, *text.body)))
    main = f'{XML}<w:document xmlns:w="{OOXML}/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>'
    return _ooxml(text, "word/document.xml", {"word/document.xml": (f"{WORD}.document.main+xml", main)})


def xlsx(text: Text) -> bytes:
    rows = [(text.title,), *(row for part in text.body for row in ([(part,)] if isinstance(part, str) else part))]

    def cell(value: str) -> str:
        number = value.replace(",", "")
        if number.replace(".", "", 1).isdigit():
            return f"<c><v>{number}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'

    data = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    space = f'xmlns="{OOXML}/spreadsheetml/2006/main"'
    book = (
        f'{XML}<workbook {space} xmlns:r="{OFFICE}"><sheets><sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets>'
        "</workbook>"
    )
    relations = "application/vnd.openxmlformats-package.relationships+xml"
    return _ooxml(
        text,
        "xl/workbook.xml",
        {
            "xl/workbook.xml": (f"{SHEET}.sheet.main+xml", book),
            "xl/_rels/workbook.xml.rels": (relations, _relations([(f"{OFFICE}/worksheet", "worksheets/sheet1.xml")])),
            "xl/worksheets/sheet1.xml": (
                f"{SHEET}.worksheet+xml",
                f"{XML}<worksheet {space}><sheetData>{data}</sheetData></worksheet>",
            ),
        },
    )


def pptx(text: Text) -> bytes:
    """A slide for the title and one for each paragraph, without masters: enough for readers of text."""
    spaces = f'xmlns:a="{OOXML}/drawingml/2006/main" xmlns:p="{OOXML}/presentationml/2006/main" xmlns:r="{OFFICE}"'
    lines = [text.title, *text.paragraphs]

    def slide(line: str) -> str:
        return (
            f'{XML}<p:sld {spaces}><p:cSld><p:spTree><p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/>'
            '</p:nvGrpSpPr><p:grpSpPr/><p:sp><p:nvSpPr><p:cNvPr id="2" name="Text"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr>'
            f"<p:spPr/><p:txBody><a:bodyPr/><a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p></p:txBody></p:sp>"
            "</p:spTree></p:cSld></p:sld>"
        )

    ids = "".join(f'<p:sldId id="{255 + n}" r:id="r{n}"/>' for n in range(1, len(lines) + 1))
    main = f"{XML}<p:presentation {spaces}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
    targets = [(f"{OFFICE}/slide", f"slides/slide{n}.xml") for n in range(1, len(lines) + 1)]
    relations = "application/vnd.openxmlformats-package.relationships+xml"
    parts = {
        "ppt/presentation.xml": (f"{SLIDES}.presentation.main+xml", main),
        "ppt/_rels/presentation.xml.rels": (relations, _relations(targets)),
    }
    for n, line in enumerate(lines, 1):
        parts[f"ppt/slides/slide{n}.xml"] = (f"{SLIDES}.slide+xml", slide(line))
    return _ooxml(text, "ppt/presentation.xml", parts)


ODF = "urn:oasis:names:tc:opendocument:xmlns"


def _odf(text: Text, kind: str, body: str) -> bytes:
    spaces = "".join(f' xmlns:{name}="{ODF}:{name}:1.0"' for name in ("office", "text", "table", "meta"))
    spaces += ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
    mime = f"application/vnd.oasis.opendocument.{kind}"
    meta = (
        f"<dc:title>{escape(text.title)}</dc:title><meta:initial-creator>{escape(text.author)}"
        f"</meta:initial-creator><meta:creation-date>{when(text):%Y-%m-%dT%H:%M:%S}</meta:creation-date>"
        f"<dc:date>{when(text):%Y-%m-%dT%H:%M:%S}</dc:date>"
    )
    inner = "text" if kind == "text" else "spreadsheet"
    version = 'office:version="1.3"'
    members = {
        "mimetype": mime,
        "content.xml": f"{XML}<office:document-content{spaces} {version}><office:body><office:{inner}>{body}"
        f"</office:{inner}></office:body></office:document-content>",
        "meta.xml": f"{XML}<office:document-meta{spaces} {version}><office:meta>{meta}</office:meta>"
        "</office:document-meta>",
        "META-INF/manifest.xml": f'{XML}<manifest:manifest xmlns:manifest="{ODF}:manifest:1.0" '
        f'manifest:version="1.3"><manifest:file-entry manifest:full-path="/" manifest:media-type="{mime}"/>'
        '<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/>'
        '<manifest:file-entry manifest:full-path="meta.xml" manifest:media-type="text/xml"/></manifest:manifest>',
    }
    return packed(members, text, first_stored=True)


def _odf_table(rows: Iterable[tuple[str, ...]]) -> str:
    cells = (
        "".join(
            f'<table:table-cell office:value-type="string"><text:p>{escape(cell)}</text:p></table:table-cell>'
            for cell in row
        )
        for row in rows
    )
    inner = "".join(f"<table:table-row>{row}</table:table-row>" for row in cells)
    return f'<table:table table:name="T">{inner}</table:table>'


def odt(text: Text) -> bytes:
    body = f'<text:h text:outline-level="1">{escape(text.title)}</text:h>' + "".join(
        f"<text:p>{escape(part)}</text:p>" if isinstance(part, str) else _odf_table(part) for part in text.body
    )
    return _odf(text, "text", body)


def ods(text: Text) -> bytes:
    rows: list[tuple[str, ...]] = [(text.title,)]
    for part in text.body:
        rows += [(part,)] if isinstance(part, str) else list(part)
    return _odf(text, "spreadsheet", _odf_table(rows))


def rtf(text: Text) -> bytes:
    right = "\\rtlpar " if text.lang == "he" else ""

    def line(words: str) -> str:
        shown = "".join(
            f"\\{char}" if char in "\\{}" else char if char < "\x7f" else f"\\u{ord(char)}?" for char in words
        )
        return f"{{{right}{shown}\\par}}\n"

    day = f"{{\\creatim\\yr{text.day.year}\\mo{text.day.month}\\dy{text.day.day}\\hr9\\min0}}"
    title = line(text.title).removeprefix("{").removeprefix(right).split("\\par}")[0]
    head = f"{{\\rtf1\\ansi\\ansicpg1255\\uc1{{\\info{{\\title {title}}}{day}}}\n"
    return (head + "".join(map(line, (text.title, *text.paragraphs))) + "}").encode("ascii")


def html(text: Text, encoding: str = "utf-8") -> bytes:
    def part(piece: str | tuple[tuple[str, ...], ...]) -> str:
        if isinstance(piece, str):
            return f"<p>{escape(piece)}</p>\n"
        rows = (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in piece)
        return f"<table>{''.join(rows)}</table>\n"

    page = (
        f'<!DOCTYPE html>\n<html lang="{text.lang}" dir="{"rtl" if text.lang == "he" else "ltr"}"><head>'
        f'<meta charset="{encoding}"><title>{escape(text.title)}</title>'
        f'<meta name="author" content="{escape(text.author)}"><meta name="date" content="{text.day}">'
        f"</head><body><h1>{escape(text.title)}</h1>\n{''.join(map(part, text.body))}</body></html>\n"
    )
    return page.encode(encoding)


def plain(text: Text, encoding: str) -> bytes:
    """Lines as they are read."""
    lines = "\r\n\r\n".join((text.title, *text.paragraphs))
    return (lines.replace("־", "-").replace("״", '"').replace("׳", "'") + "\r\n").encode(encoding)


def visual(text: Text, encoding: str, width: int = 70) -> bytes:
    """Right-to-left lines in the order in which they are seen, as terminals of the nineties stored them.

    Good for text of Hebrew words, numbers and punctuation: runs of digits keep their order."""
    import re
    import textwrap

    def seen(line: str) -> str:
        turned = line[::-1].translate(str.maketrans("()[]", ")(]["))
        return re.sub(r"[0-9][0-9.,:/]*[0-9]|[0-9]", lambda run: run.group()[::-1], turned)

    lines = [seen(line) for part in (text.title, *text.paragraphs) for line in (*textwrap.wrap(part, width), "")]
    return ("\r\n".join(lines) + "\r\n").encode(encoding)
