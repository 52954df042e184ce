"""What hangs on a PDF's trailer and catalog, by pypdf: info, XMP, encryption, forms, signatures, attachments.

Rules of this module:
- Lazy: objects are read as they are asked for. Of the page tree only the first nodes are looked at, to see
  whether it is sound.
- Each question stands alone: what cannot be answered is left out, and the rest is answered.
- XMP is read without a DTD, without entities and without the network.
- Where Info and XMP disagree, Info is given (it is what other programs show); XMP fills the gaps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from lxml import etree
from pypdf import PasswordType, PdfReader
from pypdf.errors import LimitReachedError, PdfReadError
from pypdf.generic import ArrayObject, DictionaryObject, IndirectObject, StreamObject

from ingest.extraction import Document, Embedded, Seen
from ingest.model import Json, finding

T = TypeVar("T")
_FIELDS = 10_000  # form fields counted
_TREE = 100  # nodes of the page tree looked at
_XMP = 4 * 1024 * 1024  # bytes of XMP read


@dataclass(slots=True)
class Structure:
    """What pypdf saw. `faults` are things that readers must repair."""

    metadata: dict[str, Json] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    locked: bool = False  # a password is needed
    pages: int | None = None  # as the page tree claims


def structure(reader: PdfReader) -> Structure:
    """Everything but pages and attachments. Raises what pypdf raises if it cannot find the catalog at all."""
    shape = Structure()
    shape.metadata["encrypted"] = reader.is_encrypted
    if reader.is_encrypted:
        shape.locked = _locked(reader)
        shape.metadata["password_needed"] = shape.locked
    version = _try(lambda: reader.pdf_header)
    if version and version.startswith("%PDF-"):
        shape.metadata["pdf_version"] = version[5:8]
    if shape.locked:
        return shape
    catalog = reader.root_object
    later = str(catalog.get("/Version", ""))
    if re.fullmatch(r"/\d\.\d", later):
        shape.metadata["pdf_version"] = max(str(shape.metadata.get("pdf_version", "")), later[1:])
    shape.metadata |= _try(lambda: _xmp(catalog)) or {}
    info = _try(lambda: _info(reader), shape.faults, "its information dictionary cannot be read")
    shape.metadata |= info or {}
    language = _try(lambda: str(catalog.get("/Lang", "")))
    if language and re.match(r"[A-Za-z]{2,3}(?:[-_]|$)", language):
        shape.metadata["language"] = re.split(r"[-_]", language)[0].lower()
    forms = _try(lambda: _forms(catalog), shape.faults, "its form fields cannot be read")
    shape.metadata |= forms or {}
    _try(lambda: _page_tree(reader, catalog, shape), shape.faults, "its page tree cannot be read")
    return shape


def _try(ask: Callable[[], T], faults: list[str] | None = None, otherwise: str = "") -> T | None:
    """The answer, or None (and a fault): pypdf raises nearly every built-in exception on broken objects."""
    try:
        return ask()
    except MemoryError:
        raise
    except Exception as error:
        if faults is not None:
            faults.append(f"{otherwise} ({type(error).__name__})")
        return None


def _locked(reader: PdfReader) -> bool:
    """True if the empty password does not open it, or its encryption is of a kind that nobody here knows."""
    try:
        return reader.decrypt("") == PasswordType.NOT_DECRYPTED
    except MemoryError:
        raise
    except Exception:
        return True


# --- info and XMP ------------------------------------------------------------------------------------------


def _info(reader: PdfReader) -> dict[str, Json]:
    info = reader.metadata
    if info is None:
        return {}
    found: dict[str, Json] = {}
    for key in ("title", "author", "subject", "creator", "producer"):
        value = _try(partial(getattr, info, key))
        if isinstance(value, str) and value.strip():
            found[key] = value.strip()
    keywords = _try(lambda: info.keywords)
    if isinstance(keywords, str) and keywords.strip():
        found["keywords"] = [word.strip() for word in re.split(r"[;,]", keywords) if word.strip()][:200]
    for key, raw in (("created", "/CreationDate"), ("modified", "/ModDate")):
        date = pdf_date(str(_try(partial(info.get, raw, ""))))
        if date:
            found[key] = date
    return found


_DATE = re.compile(
    r"\s*(?:D:)?\s*(?P<year>\d{4})(?P<rest>(?:\d\d){0,5})\s*(?:(?P<zulu>Z)|(?P<sign>[+-])(?P<hours>\d\d)'?:?(?P<minutes>\d\d)?)?"
)


def pdf_date(text: str) -> str | None:
    """ISO 8601 of a PDF date (ISO 32000-2, 7.9.4), with its offset if it states one; None if it is no date."""
    match = _DATE.match(text)
    if not match:
        return None
    rest = match["rest"]
    parts = [int(rest[index : index + 2]) for index in range(0, len(rest), 2)]
    month, day, hour, minute, second = parts + [1, 1, 0, 0, 0][len(parts) :]
    try:
        moment = datetime(int(match["year"]), month, day, hour, minute, min(second, 59))  # noqa: DTZ001 - as stated
    except ValueError:
        return None
    zone = "+00:00" if match["zulu"] else ""
    if match["sign"] and int(match["hours"]) < 24:
        zone = f"{match['sign']}{match['hours']}:{match['minutes'] or '00'}"
    return moment.isoformat() + zone


_NS = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "pdf": "http://ns.adobe.com/pdf/1.3/",
    "pdfaid": "http://www.aiim.org/pdfa/ns/id/",
    "pdfuaid": "http://www.aiim.org/pdfua/ns/id/",
}
_XMP_KEYS = {
    "title": "dc:title",
    "author": "dc:creator",
    "subject": "dc:description",
    "created": "xmp:CreateDate",
    "modified": "xmp:ModifyDate",
    "creator": "xmp:CreatorTool",
    "producer": "pdf:Producer",
}


def _xmp(catalog: DictionaryObject) -> dict[str, Json]:
    stream = catalog.get("/Metadata")
    stream = stream.get_object() if stream is not None else None
    if not isinstance(stream, StreamObject):
        return {}
    data = stream.get_data()[:_XMP]
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    root = etree.fromstring(data.strip(b"\0 \r\n\t"), parser)
    if root is None:
        return {}
    found: dict[str, Json] = {}
    for key, name in _XMP_KEYS.items():
        value = _xmp_value(root, name)
        if value:
            found[key] = value[:2000]
    for key in ("created", "modified"):
        if key in found and not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", str(found[key])):
            del found[key]
    part = _xmp_value(root, "pdfaid:part")
    if part:
        found["pdfa"] = part + _xmp_value(root, "pdfaid:conformance").upper()
    universal = _xmp_value(root, "pdfuaid:part")
    if universal:
        found["pdfua"] = universal
    return found


def _xmp_value(root: Any, name: str) -> str:
    """Text of a property, which XMP may write as an element, a list in it, or an attribute."""
    prefix, _, local = name.partition(":")
    qualified = f"{{{_NS[prefix]}}}{local}"
    for element in root.iter(qualified):
        items = element.iter(f"{{{_NS['rdf']}}}li")
        words = [(item.text or "").strip() for item in items] or [(element.text or "").strip()]
        text = "; ".join(word for word in words if word)
        if text:
            return text
    for element in root.iter(f"{{{_NS['rdf']}}}Description"):
        if element.get(qualified):
            return str(element.get(qualified)).strip()
    return ""


# --- forms and signatures ----------------------------------------------------------------------------------


def _forms(catalog: DictionaryObject) -> dict[str, Json]:
    form = _object(catalog.get("/AcroForm"))
    if not isinstance(form, DictionaryObject):
        return {"forms": 0, "signatures": 0}
    fields = signatures = 0
    for node in _fields(_object(form.get("/Fields"))):
        fields += 1
        signatures += node.get("/FT") == "/Sig" and isinstance(_object(node.get("/V")), DictionaryObject)
    return {"forms": fields, "signatures": signatures}


def _fields(roots: object) -> Iterator[DictionaryObject]:
    """Terminal fields: those without children that have names (children without names are their widgets)."""
    todo = [*roots] if isinstance(roots, ArrayObject) else []
    visited: set[int] = set()
    while todo and len(visited) < _FIELDS:
        reference = todo.pop()
        if isinstance(reference, IndirectObject):
            if reference.idnum in visited:
                continue
            visited.add(reference.idnum)
        node = _object(reference)
        if not isinstance(node, DictionaryObject):
            continue
        kids = _object(node.get("/Kids"))
        named = [
            kid
            for kid in (kids if isinstance(kids, ArrayObject) else [])
            if isinstance(known := _object(kid), DictionaryObject) and "/T" in known
        ]
        if named:
            todo.extend(named)
        else:
            yield node


def _object(value: Any) -> object:
    return value.get_object() if isinstance(value, IndirectObject) else value


# --- the page tree -----------------------------------------------------------------------------------------


def _page_tree(reader: PdfReader, catalog: DictionaryObject, shape: Structure) -> None:
    """Whether its first nodes are what ISO 32000-2, 7.7.3 asks for. Faults are told once each."""
    faults = shape.faults
    _need(catalog.get("/Type") == "/Catalog", faults, "its catalog is not marked as one")
    _need("/Size" in reader.trailer, faults, "its trailer lacks the size")
    _need(isinstance(catalog.raw_get("/Pages"), IndirectObject), faults, "its page tree is not a reference")
    root = _object(catalog.get("/Pages"))
    if not isinstance(root, DictionaryObject):
        faults.append("its catalog has no page tree")
        return
    count = _object(root.get("/Count"))
    shape.pages = int(count) if isinstance(count, int) and count >= 0 else None
    _need(shape.pages is not None, faults, "its page tree lacks a count")
    leaves, complete = _nodes(root, catalog.raw_get("/Pages"), faults)
    if complete and shape.pages is not None:
        _need(leaves == shape.pages, faults, "its page tree holds another number of pages than it says")


def _nodes(root: DictionaryObject, reference: Any, faults: list[str]) -> tuple[int, bool]:
    """(leaves seen, whether that was all of them)"""
    todo: list[tuple[DictionaryObject, Any, frozenset[str]]] = [(root, reference, frozenset())]
    visited: set[int] = set()
    leaves = 0
    while todo:
        if len(visited) > _TREE:
            return leaves, False
        node, here, inherited = todo.pop()
        inherited |= {key for key in ("/Resources", "/MediaBox") if key in node}
        kids = _object(node.get("/Kids"))
        _need(node.get("/Type") == "/Pages", faults, "a node of its page tree is not marked as one")
        _need("/Count" in node, faults, "its page tree lacks a count")
        if not isinstance(kids, ArrayObject):
            faults.append("its page tree has no pages")
            return leaves, False
        for kid in kids:
            child = _object(kid)
            number = kid.idnum if isinstance(kid, IndirectObject) else id(kid)
            if number in visited or (isinstance(here, IndirectObject) and number == here.idnum):
                faults.append("its page tree has a loop, or a page twice")
                continue
            visited.add(number)
            if not isinstance(child, DictionaryObject):
                faults.append("its page tree refers to a page that does not exist")
                continue
            parent = child.raw_get("/Parent") if "/Parent" in child else None
            told = "a page does not refer to its place in the page tree"
            if isinstance(parent, IndirectObject) and isinstance(here, IndirectObject):
                _need(parent.idnum == here.idnum, faults, told)
            else:
                faults.append(told)
            if "/Kids" in child:
                todo.append((child, kid, inherited))
            else:
                leaves += 1
                _leaf(child, inherited, faults)
    return leaves, True


def _leaf(page: DictionaryObject, inherited: frozenset[str], faults: list[str]) -> None:
    _need(page.get("/Type") == "/Page", faults, "a page is not marked as one")
    box = _object(page.get("/MediaBox"))
    _need("/MediaBox" in inherited or box is not None, faults, "a page has no size")
    if box is not None:
        _need(isinstance(box, ArrayObject) and len(box) == 4, faults, "the size of a page is no rectangle")
    resources = _object(page.get("/Resources"))
    _need("/Resources" in inherited or isinstance(resources, DictionaryObject), faults, "a page has no resources")
    if "/Contents" in page:
        contents = _object(page.get("/Contents"))
        _need(isinstance(contents, ArrayObject | StreamObject), faults, "the contents of a page do not exist")
    fonts = _object(resources.get("/Font")) if isinstance(resources, DictionaryObject) else None
    for reference in list(fonts.values())[:20] if isinstance(fonts, DictionaryObject) else []:
        font = _object(reference)
        sound = isinstance(font, DictionaryObject) and font.get("/Type", "/Font") == "/Font" and "/Subtype" in font
        _need(sound, faults, "a font of a page is no font")


def _need(sound: bool, faults: list[str], otherwise: str) -> None:
    if not sound and otherwise not in faults:
        faults.append(otherwise)


# --- attachments -------------------------------------------------------------------------------------------


def attachments(reader: PdfReader, document: Document, seen: Seen) -> list[str]:
    """Write embedded files into the scratch folder; returns their names. Limits are findings."""
    names: list[str] = []
    left = document.limits.expanded_bytes
    if "/Names" not in reader.root_object and "/AF" not in reader.root_object:
        return names
    try:
        for embedded in reader.attachment_list:
            if len(names) >= document.limits.children:
                seen.findings.append(finding("CHILD-LIMIT", f"Only {len(names):,} attachments were taken out."))
                break
            name = str(
                _try(partial(getattr, embedded, "alternative_name"))
                or _try(partial(getattr, embedded, "name"))
                or "attachment"
            )
            names.append(name)
            content = embedded.content
            left -= len(content)
            if left < 0:
                limit = document.limits.expanded_bytes
                seen.findings.append(finding("EXPANSION-LIMIT", f"Attachments have over {limit:,} bytes."))
                break
            path = document.child(f"attachment-{len(names)}")
            path.write_bytes(content)
            seen.children.append(Embedded(name, path))
    except LimitReachedError:
        seen.findings.append(finding("EXPANSION-LIMIT", "An attachment unpacks to more than is allowed."))
    except (PdfReadError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        seen.findings.append(
            finding("METADATA-DAMAGED", f"Its attachments cannot all be read ({type(error).__name__}).")
        )
    return names
