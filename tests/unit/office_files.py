"""Documents of many formats, written by hand, byte by byte where the format asks for it."""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from ingest.extraction import Document, Seen
from ingest.extraction.compound import Tree, compound_file
from ingest.model import CODES, METADATA_KEYS, Limits

_ROOT = tempfile.TemporaryDirectory(prefix="muniment-test-")  # removed when the tests end
Parts: TypeAlias = "dict[str, str | bytes]"

HEBREW = "שלום לכולם, זהו מסמך לדוגמה עם מילים רבות: ארץ, כסף, מים, שלך, בן, ירושלים, חדשים."
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ODT = "application/vnd.oasis.opendocument.text"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def see(module: ModuleType, data: bytes, mime: str, limits: Limits | None = None) -> Seen:
    """What `module` reads in `data`; checks what the package promises of every reader."""
    folder = Path(tempfile.mkdtemp(dir=_ROOT.name))
    path = folder / "document"
    path.write_bytes(data)
    (folder / "scratch").mkdir()
    seen: Seen = module.read(Document(path, "document", mime, limits or Limits(), folder / "scratch"))
    assert set(seen.metadata) <= set(METADATA_KEYS)
    assert all(finding.code in CODES for finding in seen.findings)
    assert "\x00" not in seen.text
    seen.text.encode()
    assert all(child.path.parent == folder / "scratch" for child in seen.children)
    return seen


def codes(seen: Seen) -> list[str]:
    return [finding.code for finding in seen.findings]


def zipped(parts: Parts) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def ooxml(main: str, kind: str, parts: Parts, properties: str = "") -> bytes:
    """A package whose main part is `main` of content type `kind` (without ".main+xml")."""
    core = (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/">'
        f"{properties}</cp:coreProperties>"
    )
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
            f'<Override PartName="/{main}" ContentType="{kind}.main+xml"/></Types>',
            "_rels/.rels": relationships({"r1": ("officeDocument", main)}),
            "docProps/core.xml": core,
            **parts,
        }
    )


def relationships(targets: dict[str, tuple[str, str]]) -> str:
    rows = "".join(
        f'<Relationship Id="{key}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for key, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{rows}</Relationships>'


def docx(
    body: str = "<w:p><w:r><w:t>Hello</w:t></w:r></w:p>",
    properties: str = "",
    parts: Parts | None = None,
) -> bytes:
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    document = f'<w:document xmlns:w="{namespace}"><w:body>{body}</w:body></w:document>'
    return ooxml("word/document.xml", DOCX, {"word/document.xml": document, **(parts or {})}, properties)


def odf(mime: str, body: str, meta: str = "", parts: Parts | None = None) -> bytes:
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
        for name, long in {
            "office": "office",
            "text": "text",
            "table": "table",
            "meta": "meta",
            "draw": "drawing",
        }.items()
    )
    return zipped(
        {
            "mimetype": mime,
            "content.xml": f"<office:document-content {spaces}><office:body>{body}</office:body>"
            "</office:document-content>",
            "meta.xml": f'<office:document-meta {spaces} xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>{meta}'
            "</office:meta></office:document-meta>",
            "META-INF/manifest.xml": "<manifest/>",
            **(parts or {}),
        }
    )


def summary(values: dict[int, bytes | str | int | datetime], page: int = 1255) -> bytes:
    """A SummaryInformation stream: bytes as VT_LPSTR, text as VT_LPWSTR, numbers as VT_I4, dates as FILETIME."""
    packed = {1: struct.pack("<HxxI", 2, page & 0xFFFF)}
    for number, value in values.items():
        if isinstance(value, bytes):
            packed[number] = struct.pack("<II", 30, len(value) + 1) + value + b"\x00"
        elif isinstance(value, str):
            packed[number] = struct.pack("<II", 31, len(value) + 1) + value.encode("utf-16-le") + b"\x00\x00"
        elif isinstance(value, int):
            packed[number] = struct.pack("<II", 3, value)
        else:
            packed[number] = struct.pack("<IQ", 64, filetime(value))
    place = 8 + 8 * len(packed)
    table = body = b""
    for number, content in packed.items():
        content += b"\x00" * (-len(content) % 4)
        table += struct.pack("<II", number, place + len(body))
        body += content
    head = struct.pack("<HHI16sI16sI", 0xFFFE, 0, 0, b"\x00" * 16, 1, b"\xe0" * 16, 48)
    return head + struct.pack("<II", place + len(body), len(packed)) + table + body


def filetime(moment: datetime) -> int:
    return int((moment - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000


def doc(text: str, flags: int = 0, streams: Tree | None = None) -> bytes:
    """A Word 97 document of one piece of UTF-16 text."""
    fib = bytearray(1024)
    struct.pack_into("<HH", fib, 0, 0xA5EC, 0xC1)
    struct.pack_into("<H", fib, 10, flags)
    plc = struct.pack("<II", 0, len(text)) + struct.pack("<HIH", 0, 1024, 0)
    clx = b"\x02" + struct.pack("<I", len(plc)) + plc
    struct.pack_into("<II", fib, 418, 0, len(clx))
    tree: dict[str, bytes | Tree] = {
        "WordDocument": bytes(fib) + text.encode("utf-16-le"),
        "0Table": clx,
        **(streams or {}),
    }
    return compound_file(tree)


def message_storage(
    header: int,
    texts: dict[int, str | bytes],
    numbers: dict[int, int] | None = None,
    more: dict[str, Tree] | None = None,
) -> dict[str, bytes | Tree]:
    """A storage of Outlook: text as PtypString, bytes as PtypBinary (0x0102), numbers as PtypInteger32."""
    table = b"\x00" * header
    tree: dict[str, bytes | Tree] = dict(more or {})
    for number, value in (numbers or {}).items():
        table += struct.pack("<HHIQ", 3, number, 6, value)
    for number, text in texts.items():
        kind = 0x001F if isinstance(text, str) else 0x0102
        data = text.encode("utf-16-le") if isinstance(text, str) else text
        table += struct.pack("<HHIQ", kind, number, 6, len(data))
        tree[f"__substg1.0_{number:04X}{kind:04X}"] = data
    tree["__properties_version1.0"] = table
    return tree
