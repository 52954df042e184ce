"""ZIP and OLE2 containers: what kind of document they hold, and how their parts are read safely.

Rules of this module:
- No name of a member is ever used as a path. What is unpacked goes to memory, or to a file of the scratch
  folder whose name is a number.
- Sizes that a container declares are not believed: they are checked against the limit first, and what really
  comes out is counted against `Limits.expanded_bytes` while it comes.
- A central directory larger than 8 MiB or of more than 50,000 members is not loaded: EXPANSION-LIMIT.
- What is damaged gives a finding, never an exception: the parts that can be read are read.
"""

from __future__ import annotations

import io
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import olefile

from ingest.extraction import Document, Embedded, Seen
from ingest.extraction.encoding import decode
from ingest.model import finding

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
MAX_DIRECTORY = 8 * 1024 * 1024  # bytes of a central directory
MAX_MEMBERS = 50_000
MAX_RATIO = 2_000  # DEFLATE cannot exceed 1,032; more than that is a lie or a bomb of another method
MAX_PART = 128 * 1024 * 1024  # bytes of one part that is held in memory

# What zipfile and the decompressors raise on damaged input. MemoryError: a declared size nobody can allocate.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    KeyError,
)
# What olefile raises on damaged input.
OLE_ERRORS = (
    OSError,
    ValueError,
    IndexError,
    struct.error,
    TypeError,
    AttributeError,
    KeyError,
    OverflowError,
)
OLE_ERRORS_DEEP = (*OLE_ERRORS, RecursionError, MemoryError)

_ENCRYPTED_FLAG = 0x1
_BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class ExpansionError(Exception):
    """More came out of a container than `Limits.expanded_bytes` or the ratio allow."""


@dataclass(slots=True)
class Budget:
    """Bytes that may still be unpacked out of one document."""

    left: int

    def spend(self, count: int) -> None:
        """Raises ExpansionError when `count` bytes are more than what is left."""
        if count > self.left:
            raise ExpansionError
        self.left -= count


@dataclass(slots=True)
class Parts:
    """The members of an open ZIP, by name. Close it with `close`, or use it as a context manager."""

    archive: zipfile.ZipFile
    budget: Budget
    members: Mapping[str, zipfile.ZipInfo] = field(default_factory=dict)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.archive.close()

    def names(self, pattern: str) -> list[str]:
        """Names that match the whole `pattern`, those with numbers in numerical order."""
        found = (name for name in self.members if re.fullmatch(pattern, name))
        return sorted(found, key=lambda name: [int(n) if n else 0 for n in re.findall(r"\d*", name) if n] or [0])

    def read(self, name: str, limit: int = MAX_PART) -> bytes | None:
        """The bytes of a member; None if there is none, it is encrypted, or it cannot be decompressed.

        Raises ExpansionError when it is larger than `limit` or than what the budget has left.
        """
        info = self.members.get(name)
        if info is None or info.flag_bits & _ENCRYPTED_FLAG:
            return None
        try:
            with self.archive.open(info) as stream:
                return self._drain(cast(BinaryIO, stream), info, min(limit, self.budget.left))
        except ZIP_ERRORS:
            return None

    def _drain(self, stream: BinaryIO, info: zipfile.ZipInfo, limit: int) -> bytes:
        if info.file_size > limit:
            raise ExpansionError
        chunks: list[bytes] = []
        size = 0
        while chunk := stream.read(1 << 18):
            size += len(chunk)
            if size > limit or size > MAX_RATIO * max(info.compress_size, 1024):
                raise ExpansionError
            chunks.append(chunk)
        self.budget.spend(size)
        return b"".join(chunks)


def open_zip(document: Document, seen: Seen) -> Parts | None:
    """The parts of a ZIP; None, with the reason as a finding, when its directory cannot be read."""
    size = document.path.stat().st_size
    directory = _directory_size(document.path)
    if directory is None:
        code = "TRUNCATED" if _starts_like_zip(document.path) else "DAMAGED"
        seen.findings.append(finding(code, f"a ZIP of {size:,} bytes without the directory at its end"))
        return None
    if directory > MAX_DIRECTORY or directory > size:
        code = "DAMAGED" if directory > size else "EXPANSION-LIMIT"
        seen.findings.append(finding(code, f"its directory says it has {directory:,} bytes of {size:,}"))
        return None
    try:
        archive = zipfile.ZipFile(document.path)
    except (*ZIP_ERRORS, UnicodeDecodeError) as problem:
        seen.findings.append(finding("DAMAGED", f"its ZIP directory cannot be read: {problem}"))
        return None
    # Not is_dir(): it raises for a member without a name.
    members = {info.filename: info for info in archive.infolist() if not info.filename.endswith("/")}
    if len(members) > MAX_MEMBERS:
        archive.close()
        seen.findings.append(finding("EXPANSION-LIMIT", f"{len(members):,} members; the limit is {MAX_MEMBERS:,}"))
        return None
    if any(info.flag_bits & _ENCRYPTED_FLAG for info in members.values()):
        encrypted(seen, "members of its ZIP are encrypted")
    return Parts(archive, Budget(document.limits.expanded_bytes), members)


def encrypted(seen: Seen, message: str) -> None:
    """Say, once, that a document cannot be read without a password."""
    seen.metadata["encrypted"] = seen.metadata["password_needed"] = True
    if not any(found.code == "ENCRYPTED" for found in seen.findings):
        seen.findings.append(finding("ENCRYPTED", message))


def zip_mime(path: Path) -> str | None:
    """What a ZIP holds, by its declarations: OOXML, OpenDocument, EPUB, else "application/zip".

    None when it is no ZIP or its directory cannot be read.
    """
    directory = _directory_size(path)
    if directory is None or directory > MAX_DIRECTORY:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()[:MAX_MEMBERS]}
            parts = Parts(archive, Budget(4 * 1024 * 1024), members)
            return _odf_mime(parts) or _ooxml_mime(parts) or "application/zip"
    except (*ZIP_ERRORS, ExpansionError):
        return None


def ole_mime(path: Path) -> str | None:
    """What an OLE2 compound file holds, by its streams; None when it is none or cannot be listed."""
    try:
        if path.stat().st_size < 512 or not olefile.isOleFile(str(path)):
            return None
        with olefile.OleFileIO(str(path)) as ole:
            return _ole_mime({entry[0].lower() for entry in ole.listdir(streams=True, storages=True)})
    except OLE_ERRORS_DEEP:
        return None


def _ole_mime(names: set[str]) -> str:
    for stream, mime in (
        ("encryptedpackage", "application/x-ole-storage"),
        ("__properties_version1.0", "application/vnd.ms-outlook"),
        ("worddocument", "application/msword"),
        ("workbook", "application/vnd.ms-excel"),
        ("book", "application/vnd.ms-excel"),
        ("powerpoint document", "application/vnd.ms-powerpoint"),
        ("pp40", "application/vnd.ms-powerpoint"),
    ):
        if stream in names:
            return mime
    if any(name.startswith("__substg1.0_") for name in names):
        return "application/vnd.ms-outlook"
    return "application/x-ole-storage"


def ole_stream(ole: olefile.OleFileIO, name: str | list[str], file_size: int) -> bytes | None:
    """The bytes of a stream; None when it is absent, damaged, or says that it is larger than its file.

    A chain of sectors that runs in a circle has any length that its entry claims.
    """
    try:
        if not ole.exists(name) or ole.get_type(name) != olefile.STGTY_STREAM or ole.get_size(name) > file_size:
            return None
        return cast(bytes, ole.openstream(name).read())
    except OLE_ERRORS_DEEP:
        return None


def embedded_in_ole(data: bytes, name: str) -> tuple[str, bytes]:
    """The document that an OLE object wraps, with its name; no bytes when the object is no document.

    [MS-OLEDS] 2.3.6 (Ole10Native), and the streams "Package" (OOXML) and "CONTENTS" (PDF) of Office.
    """
    try:
        with olefile.OleFileIO(io.BytesIO(data)) as ole:
            names = {entry[0].lower() for entry in ole.listdir(streams=True, storages=True)}
            if "encryptedpackage" in names or _ole_mime(names) != "application/x-ole-storage":
                return name, data
            for stream in ("package", "contents"):
                if stream in names:
                    return name, ole_stream(ole, stream, len(data)) or b""
            native = ole_stream(ole, "\x01ole10native", len(data)) or b""
    except OLE_ERRORS_DEEP:
        return name, b""
    label, _, rest = native[6:].partition(b"\x00")
    _, _, rest = rest.partition(b"\x00")  # the path on its writer's disk
    if len(rest) < 8:
        return name, b""
    temporary = struct.unpack_from("<I", rest, 4)[0]
    rest = rest[8 + temporary :]
    size = int.from_bytes(rest[:4], "little")
    return decode(label, None)[0] or name, rest[4 : 4 + size]


def clean_name(name: str, otherwise: str) -> str:
    """A file name for display, out of a name that a stranger chose; `otherwise` when nothing is left.

    Folders, control characters and marks that turn the direction of text (with which "gpj.exe" is made to
    look like a picture) are taken out; at most 200 characters.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(
        char
        for char in last
        if char not in _BIDI_CONTROLS and unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}
    ).strip()
    if len(kept) > 200:
        stem, dot, suffix = kept.rpartition(".")
        kept = f"{stem[: 199 - len(suffix)]}.{suffix}" if dot and len(suffix) < 20 else kept[:200]
    return kept if kept.strip(". ") else otherwise


@dataclass(slots=True)
class Children:
    """Writes the documents found inside one document to its scratch folder, within its limits."""

    document: Document
    seen: Seen
    budget: Budget

    def add(self, name: str, data: bytes, otherwise: str = "attachment") -> bool:
        """Keep `data` as a child called `name`; False, with a finding, when a limit forbids it."""
        if len(self.seen.children) >= self.document.limits.children:
            if not any(found.code == "CHILD-LIMIT" for found in self.seen.findings):
                limit = self.document.limits.children
                self.seen.findings.append(finding("CHILD-LIMIT", f"more than {limit:,} documents inside"))
            return False
        try:
            self.budget.spend(len(data))
        except ExpansionError:
            expansion(self.seen, self.document)
            return False
        number = len(self.seen.children)
        path = self.document.child(f"{number:06d}")
        path.write_bytes(data)
        self.seen.children.append(Embedded(clean_name(name, f"{otherwise}-{number + 1}"), path))
        return True


def expansion(seen: Seen, document: Document) -> None:
    """Say, once, that more would come out of a document than its limit."""
    if not any(found.code == "EXPANSION-LIMIT" for found in seen.findings):
        limit = document.limits.expanded_bytes
        seen.findings.append(finding("EXPANSION-LIMIT", f"would unpack to more than {limit:,} bytes, or 2,000 to 1"))


def _starts_like_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _directory_size(path: Path) -> int | None:
    """Bytes that the end record gives to the central directory (APPNOTE 4.3.16); None without one."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        start = max(0, size - 65_557)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            return None
        declared = cast(int, struct.unpack_from("<I", tail, at + 12)[0])
        if at < 20 or tail[at - 20 : at - 16] != b"PK\x06\x07":
            return declared
        # ZIP64: the true size stands in a record of its own. Readers disagree where to look for it (at the
        # address that the locator gives, or just before the locator), so the larger answer counts.
        sizes = [declared] if declared != 0xFFFFFFFF else [0]
        for place in (struct.unpack_from("<Q", tail, at - 12)[0], start + at - 76):
            file.seek(min(max(0, place), size))
            record = file.read(56)
            if record[:4] == b"PK\x06\x06" and len(record) == 56:
                sizes.append(struct.unpack_from("<Q", record, 40)[0])
        return max(sizes)


_CONTENT_TYPE = re.compile(rb"""ContentType\s*=\s*["']([^"']+\.main(?:\+xml)?)["']""", re.IGNORECASE)
_OOXML_PARTS = {
    "word/document.xml": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xl/workbook.xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xl/workbook.bin": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    "ppt/presentation.xml": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}


def _ooxml_mime(parts: Parts) -> str | None:
    """By the content type of the main part (ECMA-376 part 2); by its name where the types are damaged."""
    types = parts.read("[Content_Types].xml", 1 << 20)
    if types is None and not any(name in parts.members for name in _OOXML_PARTS):
        return None
    if types and types.startswith((b"\xff\xfe", b"\xfe\xff")):
        types = types.decode("utf-16", "replace").encode()
    for declared in _CONTENT_TYPE.findall(types or b""):
        mime = declared.decode("ascii", "replace").lower().removesuffix("+xml").removesuffix(".main")
        if mime.startswith(("application/vnd.openxmlformats-officedocument.", "application/vnd.ms-")):
            return f"{mime}.12" if mime.endswith("macroenabled") else mime
    return next((mime for part, mime in _OOXML_PARTS.items() if part in parts.members), None)


def _odf_mime(parts: Parts) -> str | None:
    """OpenDocument and EPUB say what they are in a member `mimetype`; else the manifest says it of "/"."""
    declared = (parts.read("mimetype", 4096) or b"").strip()
    if re.fullmatch(rb"application/(vnd\.oasis\.opendocument|vnd\.sun\.xml|epub)[\w.+-]*", declared):
        return declared.decode("ascii")
    manifest = parts.read("META-INF/manifest.xml", 1 << 20) or b""
    for entry in _entries(manifest):
        if b'full-path="/"' in entry and (found := re.search(rb'media-type="([\w./+-]+)"', entry)):
            mime = found[1].decode("ascii")
            return mime if mime.startswith(("application/vnd.oasis.", "application/vnd.sun.xml.")) else None
    return None


def _entries(manifest: bytes) -> Iterator[bytes]:
    return (found[0] for found in re.finditer(rb"<[\w:]*file-entry\b[^>]*>", manifest))
