"""Extraction: from bytes to metadata, text and children, one module a format family.

Rules of this package:
- A format is one new file and one new line of `READERS`: the module `ingest.extraction.<name>` with a
  function `read(document: Document) -> Seen`. Modules are imported when their first document comes.
- A reader runs only in a worker process with limits (ingest/extraction/workers.py); it may be killed at any
  moment and leaves nothing but files that `document.child` named.
- A reader never raises for what a document may contain: what it could not read is a finding, what it could
  read is returned. An exception that escapes is a defect, and becomes EXTRACTION-CRASHED.
- No network, no external entity, no path out of the scratch folder, no macro is ever run.
- Text is in logical order, with "\\n" between lines and "\\f" between pages; NUL is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingest.model import Finding, Json, Limits


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader is given: identified bytes, and what they may cost."""

    path: Path
    name: str
    mime: str
    limits: Limits
    scratch: Path  # this document's own folder, made by `child`

    def child(self, name: str) -> Path:
        """Where a child is to be written. Most documents have none, and their folder is never made: to make
        and remove one for each document, and one around it, took 1.7 ms."""
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.scratch / name


@dataclass(frozen=True, slots=True)
class Embedded:
    """A document found inside another (an attachment, a member); it is identified and read in turn."""

    name: str
    path: Path  # a file below Document.scratch


@dataclass(slots=True)
class Seen:
    """What a reader saw; filled while reading, so that a reader that stops early returns what it has."""

    metadata: dict[str, Json] = field(default_factory=dict)  # keys of ingest.model.METADATA_KEYS
    text: str = ""
    findings: list[Finding] = field(default_factory=list)
    children: list[Embedded] = field(default_factory=list)


# MIME type as ingest.extraction.identify gives it -> module of this package.
READERS: Mapping[str, str] = {
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "ooxml",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template": "ooxml",
    "application/vnd.ms-word.document.macroenabled.12": "ooxml",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "ooxml",
    "application/vnd.ms-excel.sheet.macroenabled.12": "ooxml",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "ooxml",
    "application/vnd.openxmlformats-officedocument.presentationml.slideshow": "ooxml",
    "application/vnd.ms-powerpoint.presentation.macroenabled.12": "ooxml",
    "application/vnd.ms-word.template.macroenabled.12": "ooxml",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.template": "ooxml",
    "application/vnd.ms-excel.template.macroenabled.12": "ooxml",
    "application/vnd.ms-excel.sheet.binary.macroenabled.12": "ooxml",
    "application/vnd.openxmlformats-officedocument.presentationml.template": "ooxml",
    "application/vnd.ms-powerpoint.slideshow.macroenabled.12": "ooxml",
    "application/vnd.ms-powerpoint.template.macroenabled.12": "ooxml",
    "application/vnd.oasis.opendocument.text": "odf",
    "application/vnd.oasis.opendocument.text-template": "odf",
    "application/vnd.oasis.opendocument.spreadsheet": "odf",
    "application/vnd.oasis.opendocument.spreadsheet-template": "odf",
    "application/vnd.oasis.opendocument.presentation": "odf",
    "application/vnd.oasis.opendocument.presentation-template": "odf",
    "application/vnd.oasis.opendocument.graphics": "odf",
    "application/msword": "ole",
    "application/vnd.ms-excel": "ole",
    "application/vnd.ms-powerpoint": "ole",
    "application/x-ole-storage": "ole",
    "application/vnd.ms-outlook": "msg",
    "message/rfc822": "mail",
    "application/mbox": "mail",
    "text/rtf": "rtf",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/xml": "xml",
    "image/svg+xml": "xml",
    "application/json": "structured",
    "text/csv": "structured",
    "text/plain": "text",
    "x-application/hl7-v2+er7": "text",
    "image/jpeg": "image",
    "image/png": "image",
    "image/tiff": "image",
    "image/gif": "image",
    "image/bmp": "image",
    "image/webp": "image",
    "image/jp2": "image",
}
