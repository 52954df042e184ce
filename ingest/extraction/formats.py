"""Names of formats: what an extension claims, what PRONOM calls a format, which names mean the same.

Rules of this module:
- Tables and pure functions. The host's own tables (/etc/mime.types) are never read: the same file gets the
  same answer everywhere.
- A PRONOM id is given only where the bytes that were looked at decide the version; otherwise None. Ids are
  those of the PRONOM registry of The National Archives (https://www.nationalarchives.gov.uk/PRONOM/).
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from pathlib import PurePath

UNKNOWN = "application/octet-stream"
EMPTY = "inode/x-empty"

_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

# libmagic's name, or an older name -> the one used here.
ALIASES: Mapping[str, str] = {
    "application/xml": "text/xml",
    "application/rtf": "text/rtf",
    "application/x-rtf": "text/rtf",
    "application/x-pdf": "application/pdf",
    "application/x-mbox": "application/mbox",
    "application/cdfv2": "application/x-ole-storage",
    "application/vnd.ms-office": "application/x-ole-storage",
    "application/x-zip-compressed": "application/zip",
    "application/x-gzip": "application/gzip",
    "application/x-rar": "application/vnd.rar",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-json": "application/json",
    "text/json": "application/json",
    "text/comma-separated-values": "text/csv",
    "application/csv": "text/csv",
    "image/svg": "image/svg+xml",
    "image/x-ms-bmp": "image/bmp",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-tiff": "image/tiff",
    "image/jpx": "image/jp2",
    "message/news": "message/rfc822",
}

# Extensions that Python's own table lacks or names otherwise.
EXTENSIONS: Mapping[str, str] = {
    ".docx": _OOXML + "wordprocessingml.document",
    ".dotx": _OOXML + "wordprocessingml.template",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".dotm": "application/vnd.ms-word.template.macroenabled.12",
    ".xlsx": _OOXML + "spreadsheetml.sheet",
    ".xltx": _OOXML + "spreadsheetml.template",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".pptx": _OOXML + "presentationml.presentation",
    ".ppsx": _OOXML + "presentationml.slideshow",
    ".potx": _OOXML + "presentationml.template",
    ".pptm": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    ".odt": _ODF + "text",
    ".ott": _ODF + "text-template",
    ".ods": _ODF + "spreadsheet",
    ".odp": _ODF + "presentation",
    ".odg": _ODF + "graphics",
    ".doc": "application/msword",
    ".dot": "application/msword",
    ".xls": "application/vnd.ms-excel",
    ".xlt": "application/vnd.ms-excel",
    ".ppt": "application/vnd.ms-powerpoint",
    ".pps": "application/vnd.ms-powerpoint",
    ".msg": "application/vnd.ms-outlook",
    ".eml": "message/rfc822",
    ".mht": "message/rfc822",
    ".mhtml": "message/rfc822",
    ".mbox": "application/mbox",
    ".mbx": "application/mbox",
    ".rtf": "text/rtf",
    ".xml": "text/xml",
    ".xsl": "text/xml",
    ".xslt": "text/xml",
    ".xsd": "text/xml",
    ".xhtml": "application/xhtml+xml",
    ".md": "text/markdown",
    ".log": "text/plain",
    ".text": "text/plain",
    ".tsv": "text/tab-separated-values",
    ".tab": "text/tab-separated-values",
    ".csv": "text/csv",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".jp2": "image/jp2",
    ".emf": "image/emf",
    ".wmf": "image/wmf",
    ".heic": "image/heic",
    ".dcm": "application/dicom",
    ".hl7": "x-application/hl7-v2+er7",
    ".epub": "application/epub+zip",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".7z": "application/x-7z-compressed",
    ".rar": "application/vnd.rar",
    ".ps": "application/postscript",
    # Claims of nothing: programs use these for anything.
    ".bin": "",
    ".dat": "",
    ".tmp": "",
    ".bak": "",
}

_PYTHON = mimetypes.MimeTypes(filenames=())


def extension_mime(name: str) -> str | None:
    """What the extension of `name` claims; None if it has none, or one that claims nothing known."""
    suffix = PurePath(name).suffix.lower()
    claimed = EXTENSIONS.get(suffix)
    if claimed is None:
        claimed = _PYTHON.types_map[True].get(suffix) or _PYTHON.types_map[False].get(suffix)
    return ALIASES.get(claimed, claimed) if claimed else None


_TEXTUAL = frozenset(
    [
        "message/rfc822",
        "application/mbox",
        "application/json",
        "application/x-ndjson",
        "x-application/hl7-v2+er7",
        "application/javascript",
        "application/x-subrip",
        "application/x-wine-extension-ini",
        "application/sql",
    ]
)
# An extension of the first kind may hold content of the second without lying.
_MAY_HOLD: Mapping[str, frozenset[str]] = {
    "text/html": frozenset({"application/xhtml+xml", "text/xml", "text/plain"}),
    "application/xhtml+xml": frozenset({"text/html", "text/xml"}),
    "text/xml": frozenset({"application/xhtml+xml", "image/svg+xml"}),
    "image/svg+xml": frozenset({"text/xml"}),
    "message/rfc822": frozenset({"application/mbox"}),
    "application/mbox": frozenset({"message/rfc822"}),
    "text/csv": frozenset({"text/plain", "text/tab-separated-values"}),
    "text/tab-separated-values": frozenset({"text/plain", "text/csv"}),
    "application/json": frozenset({"application/x-ndjson"}),
    "application/gzip": frozenset({"application/x-tar"}),
    "application/msword": frozenset({"application/x-ole-storage"}),
    "application/vnd.ms-excel": frozenset({"application/x-ole-storage"}),
    "application/vnd.ms-powerpoint": frozenset({"application/x-ole-storage"}),
    "application/vnd.ms-outlook": frozenset({"application/x-ole-storage"}),
    "application/dicom": frozenset({UNKNOWN}),
    "x-application/hl7-v2+er7": frozenset({"text/plain"}),
}


def is_textual(mime: str) -> bool:
    """True for formats whose bytes are readable text."""
    return mime.startswith("text/") or mime in _TEXTUAL or mime.endswith(("+xml", "+json"))


def disagree(claimed: str | None, found: str) -> bool:
    """True if content of type `found` under an extension that claims `claimed` is worth telling an officer."""
    if claimed is None or found in (claimed, EMPTY):
        return False
    if found in _MAY_HOLD.get(claimed, ()):
        return False
    if claimed.startswith("text/") and claimed not in ("text/xml", "text/html", "text/rtf", "text/csv"):
        return not is_textual(found)  # .txt, .log, .md, source code: any text
    if claimed == "text/xml" and found.endswith("+xml"):
        return False
    if found == UNKNOWN:
        # libmagic knows every format of these well; of a rare one, "unknown" contradicts nothing.
        return claimed in PUIDS or claimed in ("application/pdf", "image/jpeg", "text/rtf", "text/plain")
    return True


# MIME type -> PRONOM id, for formats in which the type alone decides.
PUIDS: Mapping[str, str] = {
    _OOXML + "wordprocessingml.document": "fmt/412",
    _OOXML + "spreadsheetml.sheet": "fmt/214",
    _OOXML + "presentationml.presentation": "fmt/215",
    "application/vnd.ms-word.document.macroenabled.12": "fmt/523",
    "application/vnd.ms-excel.sheet.macroenabled.12": "fmt/445",
    "application/vnd.ms-powerpoint.presentation.macroenabled.12": "fmt/487",
    "application/vnd.ms-outlook": "x-fmt/430",
    "application/x-ole-storage": "fmt/111",
    "application/zip": "x-fmt/263",
    "application/gzip": "x-fmt/266",
    "application/x-tar": "x-fmt/265",
    "application/x-7z-compressed": "fmt/484",
    "application/epub+zip": "fmt/483",
    "application/dicom": "fmt/574",
    "application/json": "fmt/817",
    "application/mbox": "fmt/720",
    "message/rfc822": "fmt/278",
    "text/xml": "fmt/101",
    "text/csv": "x-fmt/18",
    "text/plain": "x-fmt/111",
    "image/tiff": "fmt/353",
    "image/jp2": "x-fmt/392",
}
_PDF: Mapping[bytes, str] = {
    **{b"1.%d" % minor: f"fmt/{14 + minor}" for minor in range(7)},
    b"1.7": "fmt/276",
    b"2.0": "fmt/1129",
}
_JFIF: Mapping[bytes, str] = {b"\x01\x00": "fmt/42", b"\x01\x01": "fmt/43", b"\x01\x02": "fmt/44"}
_GIF: Mapping[bytes, str] = {b"GIF87a": "fmt/3", b"GIF89a": "fmt/4"}
_WEBP: Mapping[bytes, str] = {b"VP8 ": "fmt/566", b"VP8L": "fmt/567", b"VP8X": "fmt/568"}
_OPEN_DOCUMENT: Mapping[tuple[str, str], str] = {
    (_ODF + "text", "1.0"): "fmt/136",
    (_ODF + "text", "1.1"): "fmt/290",
    (_ODF + "text", "1.2"): "fmt/291",
    (_ODF + "text", "1.3"): "fmt/1756",
    (_ODF + "spreadsheet", "1.0"): "fmt/137",
    (_ODF + "spreadsheet", "1.1"): "fmt/294",
    (_ODF + "spreadsheet", "1.2"): "fmt/295",
    (_ODF + "presentation", "1.0"): "fmt/138",
    (_ODF + "presentation", "1.1"): "fmt/292",
    (_ODF + "presentation", "1.2"): "fmt/293",
}


def puid(mime: str, head: bytes, odf_version: str = "") -> str | None:
    """PRONOM id of content of type `mime` that begins with `head`; None where the version is not certain."""
    if mime == "application/pdf":
        version = re.search(rb"%PDF-(\d\.\d)", head[:1024])
        return _PDF.get(version.group(1)) if version else None
    if mime == "image/jpeg":
        return _JFIF.get(head[11:13]) if head[6:11] == b"JFIF\x00" else None
    if mime == "image/gif":
        return _GIF.get(head[:6])
    if mime == "image/webp":
        return _WEBP.get(head[12:16])
    if mime.startswith(_ODF):
        return _OPEN_DOCUMENT.get((mime, odf_version))
    return PUIDS.get(mime)
