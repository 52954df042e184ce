"""What a document's bytes are: libmagic's answer, and corrections of what libmagic gets wrong.

Rules of this module:
- Content decides. The name is a claim, kept apart (`extension_mime`); it breaks a tie between readings of
  plain text only, where the bytes allow both.
- Whatever the bytes are, an answer comes back; "application/octet-stream" is the answer "not known".
- Every departure from libmagic says so in `note`, and `libmagic` is the version that was asked.
- Runs in a worker: libmagic is C code that reads hostile bytes.

Corrections (each has its test): ZIP and OLE containers are looked into; mail, mailboxes, HL7 v2, JSON, XML,
XHTML, HTML, SVG and CSV shown as text or as one another; text in 8-bit and multi-byte encodings shown as
programs or data; PDF behind junk or with a broken header.
"""

from __future__ import annotations

import csv
import json
import re
import threading
import zipfile
import zlib
from pathlib import Path, PurePath

import magic

from ingest.extraction.formats import ALIASES, EMPTY, UNKNOWN, disagree, extension_mime, is_textual, puid
from ingest.model import Identification

_HEAD = 64 * 1024  # bytes looked at; the formats below show themselves sooner
_TAIL = 2 * 1024
_JSON_WHOLE = 16 * 1024 * 1024  # bytes; larger JSON is taken at the word of its beginning

_local = threading.local()  # a libmagic cookie must not be shared by threads


def identify(path: Path, name: str) -> Identification:
    """What `path` holds, and what `name` claims. Raises OSError if the file cannot be read."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
        file.seek(0)
        raw = _libmagic(file.fileno()) if size else EMPTY
    mime, note = correct(raw, head, tail, path, PurePath(name).suffix.lower()) if size else (EMPTY, None)
    version = _odf_version(path) if mime.startswith("application/vnd.oasis.opendocument.") else ""
    return Identification(
        mime=mime,
        puid=puid(mime, head, version),
        extension_mime=extension_mime(name),
        libmagic=int(magic.version()),
        note=note,
    )


def mismatch(identification: Identification) -> bool:
    """True if the extension claims another format than the content is, in a way that matters to an officer."""
    return disagree(identification.extension_mime, identification.mime)


def _libmagic(descriptor: int) -> str:
    asked: magic.Magic | None = getattr(_local, "magic", None)
    if asked is None:
        asked = _local.magic = magic.Magic(mime=True)
    try:
        answer: str = asked.from_descriptor(descriptor)
    except magic.MagicException:
        return UNKNOWN
    return answer


def correct(raw: str, head: bytes, tail: bytes, path: Path, suffix: str) -> tuple[str, str | None]:
    """(MIME type, what was corrected or None), given libmagic's answer and the first and last bytes."""
    mime = ALIASES.get(raw.lower(), raw.lower())
    found, why = _container(mime, head, path) or _picture(mime, head) or _pdf(mime, head, tail) or ("", "")
    if not found and _may_be_text(mime, head):
        found, why = _text(mime, head, tail, path, suffix)
    if not found and mime == "application/x-dosexec" and not _is_program(head):
        found, why = UNKNOWN, "begins like a program and is none"
    if not found or found == mime:
        return mime, None
    return found, f"libmagic: {raw}; {why}"


# --- containers, PDF, pictures -----------------------------------------------------------------------------


def _container(mime: str, head: bytes, path: Path) -> tuple[str, str] | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK00PK\x03\x04")):
        from ingest.extraction.containers import zip_mime

        return zip_mime(path) or ("application/zip" if mime == UNKNOWN else mime), "by the ZIP container's parts"
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        from ingest.extraction.containers import ole_mime

        inside = ole_mime(path)
        return inside or ("application/x-ole-storage" if mime == UNKNOWN else mime), "by the OLE streams"
    return None


_PDF_HEADER = re.compile(rb"%PDF-\d")
_PDF_OBJECT = re.compile(rb"(?:^|[\r\n])\s*\d+ \d+ obj\b")


def _pdf(mime: str, head: bytes, tail: bytes) -> tuple[str, str] | None:
    if mime not in (UNKNOWN, "application/x-dosexec") and not is_textual(mime):
        return None  # a PDF already, or a format of its own that carries one
    ends = b"startxref" in tail or b"%%EOF" in tail
    if _PDF_HEADER.search(head[:1024]) and (ends or _PDF_OBJECT.search(head)):
        # A message may quote or carry a PDF in its first lines: those have headers of a message in front.
        if head.startswith(b"%PDF") or not sum(_mail_headers(head.decode("latin-1"))):
            return "application/pdf", "a PDF header behind other bytes"
    elif ends and mime == UNKNOWN and _PDF_HEADER.search(head):
        return "application/pdf", "a PDF header far behind other bytes"
    elif b"startxref" in tail and _PDF_OBJECT.search(head[:2048]):
        return "application/pdf", "the objects and the end of a PDF without its header"
    return None


def _picture(mime: str, head: bytes) -> tuple[str, str] | None:
    if mime == UNKNOWN and head[:4] == b"\x01\x00\x00\x00" and head[40:44] == b" EMF":
        return "image/emf", "by its EMF signature"
    if mime == UNKNOWN and head[:4] == b"\xd7\xcd\xc6\x9a":
        return "image/wmf", "by its placeable WMF signature"
    return None


def _is_program(head: bytes) -> bool:
    """True for MZ executables whose header makes sense: text may begin with the letters M and Z too."""
    if head[:2] not in (b"MZ", b"ZM"):
        return True  # another kind of program; not ours to doubt
    offset = int.from_bytes(head[0x3C:0x40], "little")
    return head[offset : offset + 2] in (b"PE", b"NE", b"LE", b"LX") or b"\0" in head[:64]


def _odf_version(path: Path) -> str:
    """office:version of an OpenDocument file's content, or "" if it does not say."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("content.xml") as content:
            found = re.search(rb'office:version="(\d\.\d)"', content.read(16 * 1024))
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, RuntimeError, NotImplementedError, EOFError):
        return ""
    return found.group(1).decode() if found else ""


# --- text --------------------------------------------------------------------------------------------------

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# C0 controls that text does not hold; ESC, SO and SI belong to ISO-2022, BS and FF to old printouts, SUB to DOS.
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x0e\x0f\x1a\x1b")) + b"\x7f"
_NOT_TEXT_AFTER_ALL = 0.002  # share of such controls that damaged text may still hold


def _may_be_text(mime: str, head: bytes) -> bool:
    if is_textual(mime):
        return True
    # Signatures of two or three letters match text in Greek, Korean and others; binary formats hold NULs.
    if mime in (UNKNOWN, "application/x-dosexec") or (b"\0" not in head and len(head) > 64):
        return looks_like_text(head) and mime not in ("application/pdf", "application/postscript")
    return False


def looks_like_text(head: bytes) -> bool:
    """True if `head` holds no more control characters than text does; UTF-16 and 32 with a mark are text."""
    if any(head.startswith(bom) for bom, _ in _BOMS):
        return True
    sample = head[:8192]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return bool(sample) and controls <= len(sample) * _NOT_TEXT_AFTER_ALL and b"\0\0" not in sample


def _decode(head: bytes) -> str:
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return head.decode(encoding, "replace").lstrip("\ufeff")
    return head.decode("latin-1")  # every byte is a character; the markers looked for are ASCII


def _text(  # noqa: PLR0911 - one return for each format, most telling first
    mime: str, head: bytes, tail: bytes, path: Path, suffix: str
) -> tuple[str, str]:
    text = _decode(head)
    start = text.lstrip()
    if start.startswith("{\\rtf"):
        return "text/rtf", "by its RTF header"
    if re.match(r"\x0b?(?:[FB]HS|MSH)\|[^\w\s]{3,5}\|", start) or re.match(r"MSH(.)[^\w\s]{3,5}\1", start):
        return "x-application/hl7-v2+er7", "by its HL7 v2 message header"
    if _MBOX.match(start) and suffix != ".eml":
        return "application/mbox", "by its mailbox separator line"
    if _MBOX.match(start) or _is_mail(mime, start, suffix):
        return "message/rfc822", "by its RFC 5322 headers"
    if start.startswith("<"):
        return _markup(mime, start, tail, suffix)
    if start[:1] in ("{", "[") and mime != "application/json" and _is_json(path):
        return "application/json", "it parses as JSON"
    if mime in ("text/plain", "text/csv", "message/rfc822", "application/mbox", UNKNOWN, "application/x-dosexec"):
        return _plain_or_table(mime, text, suffix)
    if not is_textual(mime) and mime.startswith("application/x-"):
        return mime, ""
    return (mime, "") if is_textual(mime) else ("", "")


# "From ", a sender, and a date with a time and a year: prose begins with "From" too.
_MBOX = re.compile(
    r"From (?=[^\r\n]*\b\d{1,2}:\d\d\b)(?=[^\r\n]*\b(?:19|20)\d\d\b)\S[^\r\n]{0,300}\r?\n"
    r"(?:>?From .*\r?\n)*(?:[!-9;-~]+[ \t]*:|\r?\n)"
)
_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:")
_PEOPLE = frozenset({"from", "to", "cc", "subject", "sender", "reply-to", "bcc"})
_TRANSPORT = frozenset(
    [
        "date",
        "message-id",
        "received",
        "mime-version",
        "return-path",
        "delivered-to",
        "content-type",
        "x-mailer",
        "in-reply-to",
        "references",
        "content-transfer-encoding",
        "content-disposition",
        "dkim-signature",
        "x-originating-ip",
        "status",
        "newsgroups",
        "envelope-to",
        "x-mozilla-status",
        "resent-date",
        "resent-message-id",
    ]
)


def _mail_headers(text: str) -> tuple[int, int]:
    """How many distinct fields of people and of transport stand at the top; (0, 0) if it is no header block."""
    seen: set[str] = set()
    wrong = 0
    for number, ended in enumerate(text.split("\n", 400)[:400]):
        line = ended.rstrip("\r")
        if not line:
            break
        field = _FIELD.match(line)
        if field:
            seen.add(field.group(1).lower())
        elif not line.startswith((" ", "\t", ">From ")) or number == 0:
            wrong += 1  # mail in the wild holds some lines that are no fields
            if wrong > 1 + len(seen) // 4:
                break
    if wrong > 1 + len(seen) // 4:
        return 0, 0
    return len(seen & _PEOPLE), len(seen & _TRANSPORT)


def _is_mail(mime: str, text: str, suffix: str) -> bool:
    people, transport = _mail_headers(text)
    if suffix in (".eml", ".mht", ".mhtml"):
        return people + transport >= 1
    if mime in ("message/rfc822", "application/mbox"):
        return transport >= 1 or (people >= 1 and "@" in re.split(r"\r?\n\r?\n", text, maxsplit=1)[0])
    # A memorandum may begin with From and Subject too: a message has something that a mail program wrote.
    return people >= 1 and transport >= 1 and people + transport >= 3


# Elements that begin only HTML; then those that XML vocabularies use as well.
_HTML_ROOTS = frozenset(["html", "head", "body", "meta", "script", "font", "center", "br", "hr", "img"])
_HTML_PARTS = frozenset(
    [
        "title",
        "p",
        "div",
        "span",
        "table",
        "ul",
        "ol",
        "a",
        "b",
        "i",
        "h1",
        "h2",
        "h3",
        "h4",
        "pre",
        "style",
        "form",
        "link",
        "base",
        "section",
    ]
)
_BEFORE_ROOT = re.compile(r"\s*(?:<\?[^>]*\?>|<!--.*?-->)", re.DOTALL)
_DOCTYPE = re.compile(r"\s*<!doctype\s+([\w:.-]+)[^\[>]*(?:\[.*?\]\s*)?>", re.IGNORECASE | re.DOTALL)
_ROOT = re.compile(r"\s*<([A-Za-z_\u0080-\U0010ffff][\w:.-]*)([^<>]*)")
_XHTML = "http://www.w3.org/1999/xhtml"


def _markup(  # noqa: PLR0911 - one return for each vocabulary, most telling first
    mime: str, text: str, tail: bytes, suffix: str
) -> tuple[str, str]:
    declared = text.startswith("<?xml")
    rest = text
    while skipped := _BEFORE_ROOT.match(rest):
        rest = rest[skipped.end() :]
    doctype = _DOCTYPE.match(rest)
    if doctype:
        rest = rest[doctype.end() :]
        while skipped := _BEFORE_ROOT.match(rest):
            rest = rest[skipped.end() :]
    kind = doctype.group(1).lower() if doctype else ""
    root = _ROOT.match(rest)
    full = root.group(1) if root else ""
    local, attributes = full.rpartition(":")[2].lower(), root.group(2) if root else ""
    if "html" in (kind, local):
        is_xml = declared or _XHTML in attributes
        return ("application/xhtml+xml" if is_xml else "text/html"), "by its root element"
    if local == "svg" and (declared or "svg" in attributes or kind == "svg"):
        return "image/svg+xml", "by its root element"
    if declared or kind:
        return "text/xml", "by its XML declaration" if declared else "by its document type"
    if local in _HTML_ROOTS and "xmlns" not in attributes:
        return "text/html", "by its first element"
    bare = "xmlns" not in attributes and mime != "text/xml"
    if root and (suffix in (".html", ".htm") or (bare and local in _HTML_PARTS and suffix != ".xml")):
        return "text/html", "by its first element"
    end = tail.rstrip().rstrip(b"\0")
    closed = end.endswith((f"</{full}>".encode("latin-1", "replace"), b"/>", b"-->"))
    if root and (closed or suffix == ".xml" or "xmlns" in attributes):
        return "text/xml", "by its root element"
    if mime in ("text/html", "text/xml"):
        return mime, ""
    return "text/plain", "it is text"


def _is_json(path: Path) -> bool:
    try:
        if path.stat().st_size > _JSON_WHOLE:
            return True
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True


def _plain_or_table(mime: str, text: str, suffix: str) -> tuple[str, str]:
    if suffix in (".csv", ".tsv", ".tab"):
        return "text/csv", "text under an extension of tables"
    if mime == "text/csv" and not _is_table(text):
        return "text/plain", "its lines have no common columns"
    return (mime, "") if mime == "text/csv" else ("text/plain", "it holds only text")


def _is_table(text: str) -> bool:
    """True if the first lines have the same number of fields, three or more (prose has commas too)."""
    lines = text.splitlines()[:50]
    if len(text) >= _HEAD:
        lines = lines[:-1]
    for delimiter in ",;\t":
        try:
            widths = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        except csv.Error:
            continue
        if len(widths) == 1 and max(widths) >= 3 and len(lines) >= 3:
            return True
    return False
