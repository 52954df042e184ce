"""The words of ingestion: what a source holds, what extraction saw, what validation found.

Rules of this module:
- Values only: frozen, picklable (they cross a process boundary), no IO, no clock.
- A name or path is text as the source gave it; bytes that are not UTF-8 are kept by surrogateescape, so
  that the original bytes can always be had back.
- `Extraction.metadata` holds JSON values under the keys of `METADATA_KEYS` only; absent means unknown.
- Every finding has a code of `CODES`; a code never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Severity(StrEnum):
    """What a finding does to its document; the worst finding of a parent and its children decides for all."""

    WARN = "warn"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one document. `message` says what was expected and what was found."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as a source lists it, before anybody opened it."""

    source: str  # name of the source in the source file; for `ingest PATH` the absolute path or URL
    place: str  # where in the source: a relative path with "/" or an object key
    size: int  # bytes, as listed
    modified: datetime | None  # UTC, as listed
    # A token that the source promises to change whenever the bytes do (an S3 version id or ETag); None if
    # it cannot promise (a file's mtime can be set back), and then the bytes are read to know.
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Spooled:
    """A private copy of a document's bytes, which nobody else changes. Deleted with the run."""

    file: SourceFile
    path: Path
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Identification:
    """What the bytes are, by content; the name of the file is a claim, kept apart."""

    mime: str
    puid: str | None  # PRONOM id, e.g. "fmt/276", where known
    extension_mime: str | None  # what the extension claims; None when it claims nothing known
    libmagic: int  # magic.version(), e.g. 546
    note: str | None = None  # which correction was applied to libmagic's answer, if any


@dataclass(frozen=True, slots=True)
class Extraction:
    """What extraction saw in one document. Children (attachments) are extractions of their own."""

    name: str  # file name, without folders
    path: Path  # the bytes: the spooled file, or for a child a file in the scratch folder
    sha256: bytes
    size: int
    identification: Identification
    metadata: Mapping[str, Json] = field(default_factory=dict)
    text: str = ""
    findings: tuple[Finding, ...] = ()
    children: tuple[Extraction, ...] = ()
    seconds: float = 0.0


# Keys of Extraction.metadata. Dates are ISO 8601: with offset if the document states one, else naive.
METADATA_KEYS: Mapping[str, str] = {
    "title": "title or subject line",
    "author": "who wrote it, as the document says",
    "created": "when it was created, as the document says",
    "modified": "when it was last changed, as the document says",
    "producer": "program that wrote the file",
    "creator": "program in which the document was made",
    "subject": "subject, as the document says",
    "keywords": "list of keywords",
    "language": "ISO 639-1 code of the text",
    "encoding": "IANA name of the text's encoding",
    "pages": "number of pages, slides or sheets",
    "encrypted": "true if some password or key protects it",
    "password_needed": "true if it cannot be read without that password",
    "pdf_version": "version in the PDF's header or catalog",
    "pdfa": "PDF/A claim, e.g. '3B'",
    "pdfua": "PDF/UA claim, e.g. '1'",
    "signatures": "number of digital signatures",
    "forms": "number of form fields",
    "images": "number of images on its pages",
    "attachments": "list of names of embedded files",
    "scanned": "true if pages hold images and no text",
    "visual_order_mended": "true if right-to-left text stood in visual order and was put in logical order",
    "width": "pixels",
    "height": "pixels",
    "exif": "EXIF fields by name",
    "message_id": "RFC 5322 Message-ID",
    "from": "sender",
    "to": "list of recipients",
    "cc": "list of copied recipients",
    "date": "the date of a message",
    "messages": "number of messages in a mailbox",
    "parts": "MIME types of a message's parts, in order",
    "rows": "number of rows of a table",
    "columns": "number of columns of a table",
    "root": "name and namespace of the root element of XML, e.g. '{urn:x}Invoice'",
    "macros": "true if the document carries macros",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may cost. A document that would cost more gets a finding and what was seen so far."""

    seconds: float = 30.0
    memory: int = 900 * 1024 * 1024  # bytes of address space beyond what the worker has at its start
    pages: int = 2_000
    text_chars: int = 2_000_000
    expanded_bytes: int = 512 * 1024 * 1024  # all that may be unpacked out of one document, children included
    children: int = 1_000
    nesting: int = 4


# code -> (severity in the default profile, what it means and what to do next)
CODES: Mapping[str, tuple[Severity, str]] = {
    # The bytes did not come
    "EMPTY": (Severity.REJECT, "The file has no bytes. Ask its owner for the document."),
    "TOO-LARGE": (Severity.REJECT, "Larger than the limit of its source. Raise max_bytes or deliver it apart."),
    "UNREADABLE": (Severity.REJECT, "The source refused to let it be read. Mend its permissions; run again."),
    "VANISHED": (Severity.REJECT, "It was listed, and gone when it was to be read. Run again."),
    "CHANGED-WHILE-READ": (Severity.REJECT, "It changed while it was read. Run again when it is complete."),
    "KNOWN-DESTROYED": (Severity.REJECT, "A record with these bytes was destroyed by disposition."),
    # The bytes are damaged or cannot be read
    "TRUNCATED": (Severity.QUARANTINE, "The file ends before its format says it does. Ask for a whole copy."),
    "DAMAGED": (Severity.QUARANTINE, "Its structure is broken. Ask for a readable copy."),
    "PDF-ENCRYPTED": (Severity.QUARANTINE, "A password is needed to read it. Ask for an open copy."),
    "ENCRYPTED": (Severity.QUARANTINE, "A password is needed to read it. Ask for an open copy."),
    "EXPANSION-LIMIT": (Severity.QUARANTINE, "Unpacks to more than its limit: perhaps an archive bomb."),
    "NESTING-LIMIT": (Severity.QUARANTINE, "Documents within documents deeper than the limit."),
    "TIME-LIMIT": (Severity.QUARANTINE, "Reading it took longer than the limit and was stopped."),
    "MEMORY-LIMIT": (Severity.QUARANTINE, "Reading it took more memory than the limit and was stopped."),
    "EXTRACTION-CRASHED": (Severity.QUARANTINE, "The reader died on it. Report it; the bytes are kept."),
    "UNSAFE-XML": (Severity.QUARANTINE, "The XML declares entities, which can read files or exhaust memory."),
    "WORM-UNAVAILABLE": (Severity.QUARANTINE, "Its class must be locked, and this vault cannot lock."),
    "VALIDATION-FAILED": (Severity.QUARANTINE, "It could not be validated. Re-process it once that is mended."),
    # Readable, and an officer should know
    "PDF-DAMAGED-REPAIRED": (Severity.WARN, "Broken structure that readers repair; text may be missing."),
    "OWNER-PASSWORD": (Severity.WARN, "Anyone can read it; changing it is forbidden by a password."),
    "MIME-MISMATCH": (Severity.WARN, "The extension claims another format than the content is."),
    "FORMAT-UNKNOWN": (Severity.WARN, "The format was not recognised; the bytes are kept as they are."),
    "FORMAT-UNSUPPORTED": (Severity.WARN, "The format is known and not read yet; the bytes are kept."),
    "TEXT-EMPTY": (Severity.WARN, "No text could be read: it cannot be found by its words."),
    "SCANNED": (Severity.WARN, "Pages are pictures without text; it cannot be found by its words."),
    "TEXT-LIMIT": (Severity.WARN, "Only the first part of its text is searched."),
    "PAGE-LIMIT": (Severity.WARN, "Only its first pages were read."),
    "CHILD-LIMIT": (Severity.WARN, "Only its first attachments were made records."),
    "ENCODING-UNSURE": (Severity.WARN, "The encoding of its text was guessed."),
    "VISUAL-ORDER": (Severity.WARN, "Right-to-left text stood in visual order and was put in logical order."),
    "MACROS": (Severity.WARN, "It carries macros."),
    "DATE-IN-FUTURE": (Severity.WARN, "A date of the document lies after its receipt."),
    "DATE-IMPLAUSIBLE": (Severity.WARN, "A date of the document lies before 1900 or is no date."),
    "METADATA-DAMAGED": (Severity.WARN, "Some of its metadata could not be read."),
    "NAME-NOT-UTF8": (Severity.WARN, "The file name is not UTF-8; its bytes are kept exactly."),
    "NAME-CONTROL": (Severity.WARN, "The file name holds control characters."),
    "UNSCANNED": (Severity.WARN, "No malware scanner looked at it."),
}


def finding(code: str, message: str) -> Finding:
    """A finding of the default severity of `code`. Raises KeyError for a code that is not registered."""
    return Finding(code, CODES[code][0], message)
