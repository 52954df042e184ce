"""OOXML (Word, Excel, PowerPoint since 2007): properties, text, macros, and the documents inside.

Rules of this module:
- The parts are read with lxml and not with python-docx, openpyxl or python-pptx: those build a whole object
  model (slow, large) and refuse a package for one broken part; here each part stands for itself, and what is
  damaged costs only itself.
- Both namespaces are known, that of ECMA-376 ("transitional") and that of ISO/IEC 29500 ("strict").
- Text comes in the order of reading: body, footnotes, endnotes, comments, headers and footers; sheets in the
  order of the workbook, a line for each row, a tab between cells; slides in their order, each with its notes.
- Cell values are what the file stores: a date is a number there, and is not turned into a date.
- Embedded documents become children when they are documents of their own (OOXML, ODF, PDF, RTF, legacy
  Office). Pictures, equations and the data behind a chart are parts of the page, and do not.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from ingest.extraction import Document, Seen
from ingest.extraction.containers import (
    OLE_MAGIC,
    Children,
    ExpansionError,
    Parts,
    embedded_in_ole,
    expansion,
    open_zip,
)
from ingest.extraction.text import settle
from ingest.extraction.xml import DamagedXmlError, UnsafeXmlError, blame, iso_date, iter_elements, parse_xml
from ingest.model import Json, finding

_W = (
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}",
    "{http://purl.oclc.org/ooxml/wordprocessingml/main}",
)
_A = (
    "{http://schemas.openxmlformats.org/drawingml/2006/main}",
    "{http://purl.oclc.org/ooxml/drawingml/main}",
)
_S = (
    "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}",
    "{http://purl.oclc.org/ooxml/spreadsheetml/main}",
)
_R_ID = (
    "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id",
    "{http://purl.oclc.org/ooxml/officeDocument/relationships}id",
)
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"

# Local names of the properties (docProps/core.xml, app.xml) -> keys of metadata.
_CORE = {
    "title": "title",
    "creator": "author",
    "subject": "subject",
    "created": "created",
    "modified": "modified",
    "language": "language",
}
_COUNTS = {"Pages": "pages", "Slides": "pages"}
_EMBEDDED = re.compile(r"(?:word|xl|ppt)/(?:embeddings|packages)/[^/]+", re.IGNORECASE)


def read(document: Document) -> Seen:
    """Metadata, text and children of an OOXML package."""
    seen = Seen()
    parts = open_zip(document, seen)
    if parts is None:
        return seen
    with parts:
        try:
            _properties(parts, seen)
            if any(name.lower().endswith("vbaproject.bin") for name in parts.members):
                seen.metadata["macros"] = True
                seen.findings.append(finding("MACROS", "it holds a VBA project"))
            settle(seen, _text(parts, seen, document.limits.text_chars), document.limits)
            _children(parts, document, seen)
        except ExpansionError:
            expansion(seen, document)
    return seen


def _text(parts: Parts, seen: Seen, room: int) -> str:
    main = _main_part(parts)
    if main is None:
        seen.findings.append(finding("DAMAGED", "no part of this package is its document, workbook or presentation"))
        return ""
    folder = posixpath.dirname(main)
    if main.endswith(".bin"):
        return _binary_sheets(parts)
    if folder == "ppt" or main.endswith("presentation.xml"):
        source = _slides(parts, main, seen)
    elif folder == "xl" or main.endswith("workbook.xml"):
        source = _sheets(parts, main, seen)
    else:
        source = _word(parts, main, seen)
    lines: list[str] = []
    for line in source:
        lines.append(line)
        room -= len(line) + 1
        if room < -1:
            break
    text = "\n".join(lines).strip("\n")
    return text if text.strip() else ""


def _main_part(parts: Parts) -> str | None:
    """The part that the package's relationships call its document; else the one with the usual name."""
    for kind, target in _relations(parts, "").values():
        if kind == "officeDocument" and target in parts.members:
            return target
    usual = ("word/document.xml", "xl/workbook.xml", "xl/workbook.bin", "ppt/presentation.xml")
    return next((name for name in usual if name in parts.members), None)


def _relations(parts: Parts, part: str) -> dict[str, tuple[str, str]]:
    """Id -> (last word of the type, name of the target part) of the relationships of `part`."""
    folder, name = posixpath.split(part)
    data = parts.read(posixpath.join(folder, "_rels", f"{name}.rels"), 8 << 20)
    if data is None:
        return {}
    found: dict[str, tuple[str, str]] = {}
    try:
        for element in parse_xml(data).iter(_RELATIONSHIP):
            target = element.get("Target", "")
            if element.get("TargetMode") != "External" and target:
                path = target if target.startswith("/") else posixpath.join("/", folder, target)
                kind = element.get("Type", "").rpartition("/")[2]
                found[element.get("Id", "")] = (kind, posixpath.normpath(path).lstrip("/"))
    except (UnsafeXmlError, DamagedXmlError):
        return found
    return found


def _word(parts: Parts, main: str, seen: Seen) -> Iterator[str]:
    yield from _paragraphs(parts, main, seen)
    folder = posixpath.dirname(main) or "word"
    for name in ("footnotes", "endnotes", "comments"):
        yield from _paragraphs(parts, f"{folder}/{name}.xml", seen)
    for name in parts.names(re.escape(folder) + r"/(?:header|footer)\d*\.xml"):
        yield from _paragraphs(parts, name, seen)


def _paragraphs(parts: Parts, name: str, seen: Seen) -> Iterator[str]:
    """The paragraphs of a Word part. A paragraph within one (a text box) comes before it."""
    data = _part(parts, name, seen)
    if data is None:
        return
    try:
        for paragraph in iter_elements(data, [f"{ns}p" for ns in _W]):
            if line := "".join(_runs(paragraph)).strip():
                yield line
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, name)


_RUN_TEXT = frozenset(f"{ns}t" for ns in (*_W, *_A))  # not delText: a deletion that is tracked
_RUN_BREAK = {
    **{f"{ns}tab": "\t" for ns in (*_W, *_A)},
    **{f"{ns}br": "\n" for ns in (*_W, *_A)},
    **{f"{ns}cr": "\n" for ns in _W},
    **{f"{ns}noBreakHyphen": "-" for ns in _W},
}
_TAB_STOPS = {f"{ns}tabs" for ns in _W} | {f"{ns}tabLst" for ns in _A}


def _runs(paragraph: Any) -> Iterator[str]:
    for element in paragraph.iter(*_RUN_TEXT, *_RUN_BREAK):
        if element.tag in _RUN_TEXT:
            yield element.text or ""
        elif element.getparent().tag not in _TAB_STOPS:  # there `tab` is a setting, not a character
            yield _RUN_BREAK[element.tag]


def _sheets(parts: Parts, main: str, seen: Seen) -> Iterator[str]:
    relations = _relations(parts, main)
    data = _part(parts, main, seen)
    sheets: list[tuple[str, str]] = []
    try:
        for element in iter_elements(data or b"", [f"{ns}sheet" for ns in _S]):
            key = next((element.get(name) for name in _R_ID if element.get(name)), "")
            sheets.append((element.get("name", ""), relations.get(key or "", ("", ""))[1]))
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, main)
    folder = posixpath.dirname(main)
    if not any(part in parts.members for _, part in sheets):
        sheets = [("", name) for name in parts.names(re.escape(folder) + r"/worksheets/[^/]+\.xml")]
    seen.metadata["pages"] = len(sheets)
    shared = _shared_strings(parts, f"{folder}/sharedStrings.xml", seen)
    for title, part in sheets:
        if title:
            yield title
        yield from _rows(parts, part, shared, seen)
    for name in parts.names(re.escape(folder) + r"/(?:comments\d*|drawings/drawing\d+)\.xml"):
        yield from _drawing(parts, name, seen)


def _shared_strings(parts: Parts, name: str, seen: Seen) -> list[str]:
    found: list[str] = []
    data = _part(parts, name, seen)
    try:
        for item in iter_elements(data, [f"{ns}si" for ns in _S]) if data else ():
            found.append(_string(item))
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, name)
    return found


def _string(item: Any) -> str:
    """A string with its runs, without the reading aids (`rPh`) of Japanese."""
    tags = [f"{ns}t" for ns in _S]
    return "".join(part.text or "" for part in item.iter(*tags) if not part.getparent().tag.endswith("}rPh"))


def _rows(parts: Parts, name: str, shared: list[str], seen: Seen) -> Iterator[str]:
    data = _part(parts, name, seen)
    try:
        for row in iter_elements(data, [f"{ns}row" for ns in _S]) if data else ():
            cells = [value for cell in row if (value := _cell(cell, shared)) is not None]
            if cells:
                yield "\t".join(cells)
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, name)


def _cell(cell: Any, shared: list[str]) -> str | None:
    kind = cell.get("t")
    if kind == "inlineStr":
        return _string(cell)
    value = next((child.text for child in cell if str(child.tag).endswith("}v")), None)
    if value is None or kind != "s":
        return value
    return shared[int(value)] if value.isdecimal() and int(value) < len(shared) else None


def _binary_sheets(parts: Parts) -> str:
    """The strings of an .xlsb workbook: records 19 (BrtSSTItem) of its shared strings, [MS-XLSB] 2.4.731."""
    data = parts.read("xl/sharedStrings.bin") or b""
    found: list[str] = []
    at = 0
    while at + 2 <= len(data):
        kind, at = _varint(data, at, 2)
        size, at = _varint(data, at, 4)
        body = data[at : at + size]
        at += size
        if kind == 19 and len(body) >= 5:
            length = int.from_bytes(body[1:5], "little")
            found.append(body[5 : 5 + 2 * length].decode("utf-16-le", "replace"))
    return "\n".join(found)


def _varint(data: bytes, at: int, longest: int) -> tuple[int, int]:
    value = 0
    for shift in range(longest):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            break
    return value, at


def _slides(parts: Parts, main: str, seen: Seen) -> Iterator[str]:
    relations = _relations(parts, main)
    data = _part(parts, main, seen)
    slides: list[str] = []
    try:
        root = parse_xml(data) if data else ()
        for element in root if data else ():
            if str(element.tag).endswith("}sldIdLst"):
                keys = [next((item.get(name) for name in _R_ID if item.get(name)), "") for item in element]
                slides = [relations[key][1] for key in keys if key in relations]
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, main)
    if not slides:
        slides = parts.names(r"ppt/slides/slide\d+\.xml")
    seen.metadata["pages"] = len(slides)
    for number, slide in enumerate(slides):
        lines = list(_drawing(parts, slide, seen))
        related = [target for kind, target in _relations(parts, slide).values() if kind in _WITH_SLIDE]
        lines += [line for name in sorted(related) for line in _drawing(parts, name, seen)]
        yield ("\f" if number else "") + "\n".join(lines)


_WITH_SLIDE = {"notesSlide", "diagramData", "chart", "comments"}


def _drawing(parts: Parts, name: str, seen: Seen) -> Iterator[str]:
    """Paragraphs of DrawingML (a slide, notes, a diagram), and plain `text` elements (old comments)."""
    data = _part(parts, name, seen)
    tags = [f"{ns}p" for ns in _A] + [f"{ns}text" for ns in _S]
    tags.append("{http://schemas.openxmlformats.org/presentationml/2006/main}text")
    try:
        for element in iter_elements(data, tags) if data else ():
            line = "".join(_runs(element)) if element.tag.endswith("}p") else _string(element)
            if line := (line or element.text or "").strip():
                yield line
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem, name)


def _part(parts: Parts, name: str, seen: Seen) -> bytes | None:
    """A part that may be absent; one that is there and cannot be decompressed is DAMAGED."""
    data = parts.read(name)
    if data is None and name in parts.members and "encrypted" not in seen.metadata:
        blame(seen, DamagedXmlError("cannot be decompressed"), name)
    return data


def _properties(parts: Parts, seen: Seen) -> None:
    relations = _relations(parts, "")
    targets = dict(relations.values())
    core = targets.get("core-properties", targets.get("coreProperties", "docProps/core.xml"))
    for name in (core, targets.get("extended-properties", "docProps/app.xml")):
        data = parts.read(name, 8 << 20)
        if data is None:
            continue
        try:
            root = parse_xml(data)
        except UnsafeXmlError as problem:
            blame(seen, problem, name)
            continue
        except DamagedXmlError as problem:
            seen.findings.append(finding("METADATA-DAMAGED", f"{name}: {problem}"))
            continue
        for element in root:
            if isinstance(element.tag, str) and (value := "".join(element.itertext()).strip()):
                _property(element.tag.rpartition("}")[2], value[:2000], seen.metadata)


def _property(name: str, value: str, metadata: dict[str, Json]) -> None:
    if name in {"created", "modified"}:
        if date := iso_date(value):
            metadata[name] = date
    elif name == "keywords":
        metadata["keywords"] = [word.strip() for word in re.split("[,;]", value) if word.strip()]
    elif name == "language":
        metadata["language"] = value[:2].lower()
    elif name in _CORE:
        metadata[_CORE[name]] = value
    elif name in _COUNTS and value.isdecimal():
        metadata[_COUNTS[name]] = int(value[:9])
    elif name == "Application":
        metadata["creator"] = metadata["producer"] = value
    elif name == "AppVersion" and "producer" in metadata:
        metadata["producer"] = f"{metadata['producer']} {value}"


def _children(parts: Parts, document: Document, seen: Seen) -> None:
    charts = {
        target
        for name in parts.names(r"(?:word|xl|ppt)/charts/[^/]+\.xml")
        for _, target in _relations(parts, name).values()
    }
    children = Children(document, seen, parts.budget)
    for name in sorted(name for name in parts.members if _EMBEDDED.fullmatch(name) and name not in charts):
        data = parts.read(name) or b""
        title = posixpath.basename(name)
        if data.startswith(OLE_MAGIC):
            title, data = embedded_in_ole(data, title)
        if data.startswith((b"PK\x03\x04", b"%PDF-", b"{\\rtf", OLE_MAGIC)):
            children.add(title, data)
