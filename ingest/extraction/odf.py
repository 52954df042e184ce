"""OpenDocument (text, spreadsheet, presentation, drawing; OASIS ODF 1.3 and OpenOffice.org 1.x).

Rules of this module:
- The parts are read with lxml, streaming: metadata from meta.xml, text from content.xml, headers and footers
  of text documents from styles.xml (those of other kinds are the same placeholders everywhere).
- Text comes in document order: a line for each paragraph or heading, a tab between the cells of a row, a form
  feed between slides or drawing pages. Tracked deletions are no text.
- A repeated empty cell or row is written once: spreadsheets repeat them a million times.
- An encrypted document (manifest: encryption-data) is ENCRYPTED; its meta.xml is mostly encrypted too.
"""

from __future__ import annotations

import io
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
    encrypted,
    expansion,
    open_zip,
)
from ingest.extraction.text import settle
from ingest.extraction.xml import DamagedXmlError, UnsafeXmlError, blame, forget, iso_date, parse_xml, walk
from ingest.model import Json, finding

_META = {
    "title": "title",
    "subject": "subject",
    "description": "subject",
    "initial-creator": "author",
    "generator": "producer",
    "creation-date": "created",
    "date": "modified",
    "language": "language",
}
_TEXT_NS = ("{urn:oasis:names:tc:opendocument:xmlns:text:1.0}", "{http://openoffice.org/2000/text}")
_TABLE_NS = ("{urn:oasis:names:tc:opendocument:xmlns:table:1.0}", "{http://openoffice.org/2000/table}")
_DRAW_NS = ("{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}", "{http://openoffice.org/2000/drawing}")
_PARAGRAPHS = frozenset(f"{ns}{name}" for ns in _TEXT_NS for name in ("p", "h"))
_ROWS = frozenset(f"{ns}table-row" for ns in _TABLE_NS)
_CELLS = frozenset(f"{ns}table-cell" for ns in _TABLE_NS)
_PAGES = frozenset(f"{ns}page" for ns in _DRAW_NS)
_SHEETS = frozenset(f"{ns}table" for ns in _TABLE_NS)
_DELETED = frozenset(f"{ns}tracked-changes" for ns in _TEXT_NS)
_BREAKS = {f"{ns}{name}": char for ns in _TEXT_NS for name, char in (("tab", "\t"), ("line-break", "\n"))}
_BREAKS |= {f"{ns}tab-stop": "\t" for ns in _TEXT_NS}
_SPACES = frozenset(f"{ns}s" for ns in _TEXT_NS)
_LINES = _PARAGRAPHS | _ROWS
_WALKED = (*_LINES, *_CELLS, *_PAGES, *_SHEETS, *_DELETED)
_CHART = re.compile(rb"<office:chart\b|<(?:math:)?math\b")


def read(document: Document) -> Seen:
    """Metadata, text and children of an OpenDocument package."""
    seen = Seen()
    parts = open_zip(document, seen)
    if parts is None:
        return seen
    with parts:
        try:
            manifest = parts.read("META-INF/manifest.xml", 8 << 20) or b""
            if re.search(rb"<[\w:]*encryption-data\b", manifest):
                encrypted(seen, "its manifest says that its content is encrypted")
            _metadata(parts, seen)
            if _has_macros(parts):
                seen.metadata["macros"] = True
                seen.findings.append(finding("MACROS", "it holds Basic or script modules"))
            if "encrypted" in seen.metadata:
                return seen
            settle(seen, _text(parts, document.mime, seen, document.limits.text_chars), document.limits)
            _children(parts, document, seen)
        except ExpansionError:
            expansion(seen, document)
    return seen


def _has_macros(parts: Parts) -> bool:
    # Every document of OpenOffice.org lists an empty library "Standard"; a module is another file beside it.
    return any(
        re.fullmatch(r"(?:Basic/.+/(?!script-lb\.xml)[^/]+\.xml|Scripts/(?!.*/$).+)", name) for name in parts.members
    )


def _text(parts: Parts, mime: str, seen: Seen, room: int) -> str:
    if "content.xml" not in parts.members:
        seen.findings.append(finding("DAMAGED", "there is no content.xml in it"))
        return ""
    lines: list[str] = []
    margins = ["styles.xml"] if ".text" in mime or "writer" in mime else []
    for name in ("content.xml", *parts.names(r"[^/]+/content\.xml"), *margins):
        data = parts.read(name)
        if data is None:
            if name == "content.xml":
                blame(seen, DamagedXmlError("cannot be decompressed"), name)
            continue
        if name.endswith("/content.xml") and _CHART.search(data[:65_536]):
            continue
        try:
            for line in _lines(data, seen, whole=name == "content.xml"):
                lines.append(line)
                room -= len(line) + 1
                if room < -1:
                    break
        except (UnsafeXmlError, DamagedXmlError) as problem:
            blame(seen, problem, name)
    text = "\n".join(lines).strip("\n")
    return text if text.strip() else ""


def _lines(data: bytes, seen: Seen, whole: bool) -> Iterator[str]:
    """A line for each paragraph outside a table and for each row; counts pages and sheets of the `whole`."""
    cells: list[list[str]] = []  # the rows that are open, innermost last; each a list of its cells
    pages = sheets = deleted = 0
    for event, element in walk(io.BytesIO(data), _WALKED):
        tag = element.tag
        if event == "start":
            deleted += tag in _DELETED
            if tag in _ROWS:
                cells.append([])
            elif tag in _CELLS and cells:
                cells[-1].append("")
            elif tag in _PAGES:
                pages += 1
                if pages > 1:
                    yield "\f"
            sheets += tag in _SHEETS and not cells
            continue
        deleted -= tag in _DELETED
        if tag not in _LINES:
            continue
        line = "\t".join(cells.pop()).rstrip("\t ") if tag in _ROWS else "".join(_inline(element)).strip()
        forget(element)
        if cells and cells[-1]:
            cells[-1][-1] = f"{cells[-1][-1]} {line}".strip()
        elif line and not deleted:
            yield line
    if whole and (pages or (sheets and "pages" not in seen.metadata)):
        seen.metadata["pages"] = pages or sheets


def _inline(element: Any) -> Iterator[str]:
    """The characters of a paragraph, with its tabs, breaks and runs of spaces."""
    yield element.text or ""
    for child in element:
        tag = child.tag
        if tag in _BREAKS:
            yield _BREAKS[tag]
        elif tag in _SPACES:
            count = next((child.get(f"{ns}c") for ns in _TEXT_NS if child.get(f"{ns}c")), None) or "1"
            yield " " * min(int(count) if count.isdecimal() else 1, 1000)
        elif isinstance(tag, str):
            yield from _inline(child)
        yield child.tail or ""


def _metadata(parts: Parts, seen: Seen) -> None:
    data = parts.read("meta.xml", 8 << 20)
    if data is None or "encrypted" in seen.metadata:
        return
    keywords: list[Json] = []
    try:
        for element in parse_xml(data).iter():
            name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
            value = (element.text or "").strip()[:2000]
            if name == "document-statistic":
                _count(element, seen)
            elif name == "keyword" and value:
                keywords += [word.strip() for word in re.split("[,;]", value) if word.strip()]
            elif name in _META and value:
                _property(_META[name], value, seen)
    except UnsafeXmlError as problem:
        blame(seen, problem, "meta.xml")
    except DamagedXmlError as problem:
        seen.findings.append(finding("METADATA-DAMAGED", f"meta.xml: {problem}"))
    if keywords:
        seen.metadata["keywords"] = keywords


def _property(key: str, value: str, seen: Seen) -> None:
    if key in {"created", "modified"}:
        if date := iso_date(value):
            seen.metadata[key] = date
    elif key == "language":
        seen.metadata[key] = value[:2].lower()
    elif key == "author" or key not in seen.metadata:
        seen.metadata[key] = value


def _count(element: Any, seen: Seen) -> None:
    for name, value in element.attrib.items():
        if name.endswith("}page-count") and value.isdecimal():
            seen.metadata["pages"] = int(value[:9])


def _children(parts: Parts, document: Document, seen: Seen) -> None:
    """OLE objects that wrap a document; objects of OpenDocument itself are part of the text."""
    children = Children(document, seen, parts.budget)
    for name in parts.names(r"(?:\./)?Object[ _]?\d+"):
        data = parts.read(name) or b""
        title = name
        if data.startswith(OLE_MAGIC):
            title, data = embedded_in_ole(data, name)
        if data.startswith((b"PK\x03\x04", b"%PDF-", OLE_MAGIC)):
            children.add(title, data)
