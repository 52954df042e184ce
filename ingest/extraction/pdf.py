"""PDF: structure by pypdf, pages and text by PDFium.

Rules of this module:
- pypdf reads the trailer, the catalog and what hangs on it (info, XMP, forms, attachments); it never walks
  the pages, which costs it seconds where PDFium needs milliseconds.
- PDFium reads pages: their number, text and images. Each of the two answers where the other fails.
- What either had to repair is PDF-DAMAGED-REPAIRED; bytes that are missing at the end are TRUNCATED; what
  PDFium cannot open is DAMAGED.
- Only the empty password is tried. Findings never quote the document.
- Reading stops by itself before the time limit, so that what was read is kept.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from pypdf import PdfReader

from ingest.extraction import Document, Seen
from ingest.extraction.hebrew import is_visual, to_logical
from ingest.extraction.pdf_bytes import Ends, ends
from ingest.extraction.pdf_structure import Structure, attachments, structure
from ingest.model import finding

_pypdf_log = logging.getLogger("pypdf")
_pypdf_log.propagate = False  # its messages may quote the document
_pypdf_log.handlers = [logging.NullHandler()]

_TIME_KEPT = 0.8  # share of the time limit after which no further page is begun
_OBJECTS = 5_000  # page objects looked at for images, on one page
_SLOW_PAGES = 50  # pages that pypdf reads where PDFium cannot
_FAULTS_TOLD = 5


def read(document: Document) -> Seen:
    """Metadata, text, attachments and faults of a PDF."""
    deadline = time.monotonic() + document.limits.seconds * _TIME_KEPT
    seen = Seen()
    pages = _Pages()
    at_ends = ends(document.path)
    faults = [*at_ends.faults]
    shape: Structure | None = None
    try:
        shape = _structure(document, seen, faults)
        if not (shape and shape.locked):
            _read_pages(document, seen, pages, deadline)
            if pages.error and not pages.password and shape and shape.pages:
                _read_pages_slowly(document, pages, deadline)
    except MemoryError:
        limit = document.limits.memory
        seen.findings.append(finding("MEMORY-LIMIT", f"Reading it needs over {limit:,} bytes of memory."))
    seen.text = "\f".join(pages.texts).strip("\f")
    _judge(seen, at_ends, faults, shape, pages)
    _mend_order(seen)
    return seen


# --- structure ---------------------------------------------------------------------------------------------


class _Complaints(logging.Handler):
    """Counts pypdf's warnings by their templates: the filled-in message may quote the document."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        template = re.sub(r"%\(\w+\)\w|%\w|\d+|['\"`].*?['\"`]", "_", str(record.msg))[:80]
        self.seen[template] = self.seen.get(template, 0) + 1


def _structure(document: Document, seen: Seen, faults: list[str]) -> Structure | None:
    """What pypdf makes of it; None if it makes nothing of it."""
    complaints = _Complaints()
    _pypdf_log.handlers = [complaints]
    shape: Structure | None = None
    with document.path.open("rb") as file:
        try:
            reader = PdfReader(file, strict=False)
            shape = structure(reader)
            seen.metadata |= shape.metadata
            faults += shape.faults
            if not shape.locked:
                names = attachments(reader, document, seen)
                if names:
                    seen.metadata["attachments"] = [*names]
        except MemoryError:
            raise
        except Exception as error:  # pypdf raises nearly every built-in exception on broken files
            faults.append(f"its structure cannot be read by pypdf ({type(error).__name__})")
        finally:
            _pypdf_log.handlers = [logging.NullHandler()]
    faults += [f"pypdf: {template}" for template in complaints.seen]
    return shape


# --- pages -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pages:
    """What PDFium saw."""

    error: str = ""  # why it could not open the file
    password: bool = False
    count: int = 0
    texts: list[str] = field(default_factory=list)
    images: int = 0
    scanned: int = 0  # pages with images and without text
    broken: int = 0  # pages that could not be read
    slow: bool = False  # PDFium could not open it, and pypdf read the text


def _read_pages(document: Document, seen: Seen, pages: _Pages, deadline: float) -> None:
    try:
        pdf = pdfium.PdfDocument(_source(document))
    except pdfium.PdfiumError as error:
        pages.error = "PDFium cannot open it"
        pages.password = "assword" in str(error)
        return
    try:
        pages.count = len(pdf)
        characters = 0
        for number in range(min(pages.count, document.limits.pages)):
            if time.monotonic() > deadline:
                seen.findings.append(finding("TIME-LIMIT", f"Stopped after {number:,} of {pages.count:,} pages."))
                break
            text = _page(pdf, number, pages)
            pages.texts.append(text)
            characters += len(text) + 1
            if characters > document.limits.text_chars:
                break  # the limit of text is a finding of whoever keeps the text
        if pages.count > document.limits.pages:
            told = f"It has {pages.count:,} pages; {document.limits.pages:,} were read."
            seen.findings.append(finding("PAGE-LIMIT", told))
    finally:
        pdf.close()


def _read_pages_slowly(document: Document, pages: _Pages, deadline: float) -> None:
    """By pypdf, for the few files that it opens and PDFium does not; images are not counted."""
    read: list[str] = []
    try:
        for page in PdfReader(document.path, strict=False).pages:
            if time.monotonic() > deadline or len(read) >= _SLOW_PAGES:
                break
            read.append(_tidy(page.extract_text()))
    except MemoryError:
        raise
    except Exception:
        return  # what PDFium said stands
    if any(text.strip() for text in read):
        pages.error, pages.count, pages.texts = "", len(read), read
        pages.slow = True


def _source(document: Document) -> str | bytes:
    """PDFium opens files by their UTF-8 name; bytes are handed over where a name is not UTF-8."""
    name = str(document.path)
    return name if name.isascii() else document.path.read_bytes()


def _page(pdf: Any, number: int, pages: _Pages) -> str:
    page = pdfium_c.FPDF_LoadPage(pdf.raw, number)
    if not page:
        pages.broken += 1
        return ""
    try:
        text = _page_text(page)
        images = _images(page)
    finally:
        pdfium_c.FPDF_ClosePage(page)
    pages.images += images
    pages.scanned += bool(images and not text.strip())
    return text


def _page_text(page: Any) -> str:
    textpage = pdfium_c.FPDFText_LoadPage(page)
    if not textpage:
        return ""
    try:
        count = pdfium_c.FPDFText_CountChars(textpage)
        if count <= 0:
            return ""
        buffer = (pdfium_c.c_ushort * (count + 1))()
        written = pdfium_c.FPDFText_GetText(textpage, 0, count, buffer)
    finally:
        pdfium_c.FPDFText_ClosePage(textpage)
    return _tidy(bytes(buffer)[: max(0, written - 1) * 2].decode("utf-16-le", "replace"))


def _tidy(text: str) -> str:
    """PDFium ends lines with CR LF, and marks a hyphen at the end of a line by U+FFFE or U+0002."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub("[\x02\ufffe]\n?", "", text).replace("\f", "\n")


def _images(page: Any) -> int:
    count = min(pdfium_c.FPDFPage_CountObjects(page), _OBJECTS)
    kinds = [pdfium_c.FPDFPageObj_GetType(pdfium_c.FPDFPage_GetObject(page, index)) for index in range(count)]
    images = kinds.count(pdfium_c.FPDF_PAGEOBJ_IMAGE)
    for index, kind in enumerate(kinds):
        if kind == pdfium_c.FPDF_PAGEOBJ_FORM and index < 50:
            form = pdfium_c.FPDFPage_GetObject(page, index)
            inner = min(max(0, pdfium_c.FPDFFormObj_CountObjects(form)), _OBJECTS)
            images += sum(
                pdfium_c.FPDFPageObj_GetType(pdfium_c.FPDFFormObj_GetObject(form, place)) == pdfium_c.FPDF_PAGEOBJ_IMAGE
                for place in range(inner)
            )
    return images


# --- judgement ---------------------------------------------------------------------------------------------


def _judge(seen: Seen, at_ends: Ends, faults: list[str], shape: Structure | None, pages: _Pages) -> None:
    if (shape and shape.locked) or pages.password:
        seen.metadata |= {"encrypted": True, "password_needed": True}
        seen.findings.append(finding("PDF-ENCRYPTED", "The empty password does not open it."))
        return
    if seen.metadata.get("encrypted"):
        seen.findings.append(finding("OWNER-PASSWORD", "It opens without a password and restricts its use."))
    if pages.count:
        seen.metadata |= {"pages": pages.count, "images": pages.images}
    if pages.error or not pages.count:
        why = pages.error or "it has no pages"
        seen.findings.append(
            finding("TRUNCATED", _sentence(at_ends.cut))
            if at_ends.cut
            else finding("DAMAGED", _sentence("; ".join([why, *faults[:2]])))
        )
        return
    if at_ends.cut:
        seen.findings.append(finding("TRUNCATED", _sentence(at_ends.cut)))
    if pages.slow:
        faults.insert(0, "PDFium cannot open it")
    if pages.broken:
        faults.append(f"{pages.broken:,} of its {pages.count:,} pages cannot be read")
    if shape and shape.pages is not None and shape.pages != pages.count and not pages.slow:
        faults.append("it holds another number of pages than it says")
    if faults:
        told = "; ".join(dict.fromkeys(faults[:_FAULTS_TOLD]))
        more = f"; and {len(faults) - _FAULTS_TOLD} more" if len(faults) > _FAULTS_TOLD else ""
        seen.findings.append(finding("PDF-DAMAGED-REPAIRED", f"Readers must repair it: {told}{more}."))
    if pages.scanned and not seen.text.strip():
        seen.metadata["scanned"] = True
        seen.findings.append(finding("SCANNED", f"{pages.scanned:,} pages hold images and no text."))


def _mend_order(seen: Seen) -> None:
    if is_visual(seen.text):
        seen.text = to_logical(seen.text)
        seen.metadata["visual_order_mended"] = True
        seen.findings.append(finding("VISUAL-ORDER", "Final letters stood at the beginnings of words."))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
