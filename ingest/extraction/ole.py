"""Legacy Office (Word, Excel, PowerPoint 97–2003): properties, and the text where it is simple to have.

Rules of this module:
- Properties come from the summary information streams ([MS-OLEPS]), decoded by the code page that the stream
  names, so that Hebrew titles of windows-1255 are right.
- Text: Word's piece table ([MS-DOC] 2.4.1), the text atoms of PowerPoint ([MS-PPT] 2.9), the strings of Excel
  ([MS-XLS] 2.4.265). Older formats (Word 6, Excel 5) give properties only. No text is no finding here.
- Encrypted: Word's FIB flag, Excel's FilePass record, PowerPoint's token of the current user, and the
  EncryptedPackage in which Office since 2007 wraps a document that has a password.
- A stream that says it is larger than the file is not read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import olefile

from ingest.extraction import Document, Seen
from ingest.extraction.containers import OLE_ERRORS_DEEP, OLE_MAGIC, encrypted, ole_stream
from ingest.extraction.encoding import decode
from ingest.extraction.text import settle
from ingest.model import finding

_STRINGS = {2: "title", 3: "subject", 4: "author", 18: "creator"}
_WORD_SPECIAL = str.maketrans(
    {"\x0d": "\n", "\x0b": "\n", "\x07": "\t", "\x1e": "-", "\x1f": None, "\x00": None}
    | dict.fromkeys("\x01\x02\x03\x04\x05\x06\x08\x0e\x0f\x10\x11\x12")
)
_FIELD = re.compile("\x13[^\x13\x14\x15]*\x14?")  # the instruction of a field; its result stays
_ENCRYPTED_PPT = 0xF3D1C4DF  # [MS-PPT] 2.3.2, headerToken


def read(document: Document) -> Seen:
    """Title, author, subject, keywords, dates, pages, macros, encryption; text where it is simple."""
    seen = Seen()
    size = document.path.stat().st_size
    with document.path.open("rb") as file:
        if file.read(8) != OLE_MAGIC:
            seen.findings.append(finding("FORMAT-UNSUPPORTED", "older than the compound files of Office 95"))
            return seen
    try:
        ole = olefile.OleFileIO(str(document.path))
    except OLE_ERRORS_DEEP as problem:
        seen.findings.append(finding("DAMAGED", f"its compound file cannot be opened: {problem}"))
        return seen
    with ole:
        try:
            names = {"/".join(entry).lower() for entry in ole.listdir(streams=True, storages=True)}
        except OLE_ERRORS_DEEP as problem:
            seen.findings.append(finding("DAMAGED", f"its streams cannot be listed: {problem}"))
            return seen
        _properties(ole, size, seen)
        if any(name.rpartition("/")[2] in {"_vba_project", "vba"} for name in names):
            seen.metadata["macros"] = True
            seen.findings.append(finding("MACROS", "it holds a VBA project"))
        text = _content(ole, names, size, seen)
    if "encrypted" not in seen.metadata:
        settle(seen, text, document.limits)
    return seen


def _content(ole: Any, names: set[str], size: int, seen: Seen) -> str:
    """The text; says what is encrypted, and counts sheets."""
    if "encryptedpackage" in names:
        encrypted(seen, "an Office document with a password to open it")
        return ""
    if any(name in names for name in ("\x09drmcontent", "\x06dataspaces/dataspaceinfo/drmdataspace")):
        encrypted(seen, "protected by rights management")
        return ""
    if "worddocument" in names:
        return _word(ole, size, seen)
    if "powerpoint document" in names:
        user = ole_stream(ole, "Current User", size) or b""
        if "encryptedsummary" in names or user[12:16] == struct.pack("<I", _ENCRYPTED_PPT):
            encrypted(seen, "a presentation with a password to open it")
        return "\n".join(_slides(ole_stream(ole, "PowerPoint Document", size) or b""))
    for stream in ("Workbook", "Book"):
        if stream.lower() in names:
            return _workbook(ole_stream(ole, stream, size) or b"", seen)
    return ""


def _properties(ole: Any, size: int, seen: Seen) -> None:
    data = ole_stream(ole, "\x05SummaryInformation", size)
    values = _property_set(data or b"")
    if data and not values:
        seen.findings.append(finding("METADATA-DAMAGED", "its summary information cannot be read"))
    label = _code_page(values.get(1))
    if label and not label.startswith("utf-16"):
        seen.metadata["encoding"] = label
    for number, key in _STRINGS.items():
        if value := _string(values.get(number), label):
            seen.metadata[key] = value
    if words := _string(values.get(5), label):
        seen.metadata["keywords"] = [word.strip() for word in re.split("[,;]", words) if word.strip()]
    for number, key in ((12, "created"), (13, "modified")):
        moment = values.get(number)
        if isinstance(moment, datetime):
            seen.metadata[key] = moment.isoformat()
    slides = _property_set(ole_stream(ole, "\x05DocumentSummaryInformation", size) or b"").get(7)
    for count in (slides, values.get(14)):
        if isinstance(count, int) and 0 < count < 1_000_000:
            seen.metadata["pages"] = count


def _property_set(data: bytes) -> dict[int, int | str | bytes | datetime]:
    """Number -> value of the first property set. [MS-OLEPS] 2.20 and 2.21.

    Not olefile's parser: a vector that claims four thousand million elements keeps it busy for minutes.
    """
    found: dict[int, int | str | bytes | datetime] = {}
    if len(data) < 56 or data[:2] != b"\xfe\xff":
        return found
    start = struct.unpack_from("<I", data, 44)[0]
    section = data[start:]
    if len(section) < 8:
        return found
    count = min(struct.unpack_from("<I", section, 4)[0], 256, (len(section) - 8) // 8)
    for at in range(8, 8 + 8 * count, 8):
        number, place = struct.unpack_from("<II", section, at)
        value = _value(section[place : place + 65_536])
        if value is not None:
            found[number] = value
    return found


def _value(data: bytes) -> int | str | bytes | datetime | None:
    if len(data) < 8:
        return None
    kind, first = struct.unpack_from("<HxxI", data)
    if kind in (2, 3):  # VT_I2, VT_I4
        return int(first & 0xFFFF if kind == 2 else first)
    if kind == 30:  # VT_LPSTR
        return data[8 : 8 + first]
    if kind == 31:  # VT_LPWSTR
        return data[8 : 8 + 2 * first].decode("utf-16-le", "replace").partition("\x00")[0]
    return file_time(int.from_bytes(data[4:12], "little")) if kind == 64 else None  # VT_FILETIME


def file_time(ticks: int) -> datetime | None:
    """A FILETIME (100 ns since 1601) to the second, in UTC; None for "never" and for what is no date."""
    seconds = ticks // 10_000_000 - 11_644_473_600
    if not ticks or not -5_000_000_000 < seconds < 100_000_000_000:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


def _code_page(page: Any) -> str | None:
    if not isinstance(page, int):
        return None
    page %= 65_536  # it is stored as a signed number
    if page == 0:
        return None
    named = {1200: "utf-16-le", 65001: "utf-8", 10000: "macintosh", 1361: "johab", 20127: "us-ascii", 932: "cp932"}
    return named.get(page) or (f"windows-{page}" if 1250 <= page <= 1258 else f"cp{page}")


def _string(value: Any, label: str | None) -> str:
    if isinstance(value, bytes):
        if label == "utf-16-le":
            value = value[: len(value) & ~1].decode("utf-16-le", "replace")
        else:
            value = decode(value.partition(b"\x00")[0], label)[0]
    return value.replace("\x00", "").strip()[:2000] if isinstance(value, str) else ""


def _word(ole: Any, size: int, seen: Seen) -> str:
    """The text of all parts of a Word 97–2003 document, by its piece table."""
    stream = ole_stream(ole, "WordDocument", size) or b""
    if len(stream) < 32:
        seen.findings.append(finding("DAMAGED", "its WordDocument stream cannot be read"))
        return ""
    flags = struct.unpack_from("<H", stream, 10)[0]
    if flags & 0x0100:
        encrypted(seen, "a Word document with a password to open it")
        return ""
    if struct.unpack_from("<H", stream, 2)[0] < 0xC1 or len(stream) < 426:  # before Word 97
        return ""
    table = ole_stream(ole, "1Table" if flags & 0x0200 else "0Table", size) or b""
    start, length = struct.unpack_from("<II", stream, 418)
    pieces = "".join(_pieces(stream, table[start : start + length]))
    pieces = _FIELD.sub("", pieces).replace("\x15", "").replace("\x14", "")
    text = pieces.replace("\x07\x07", "\n").translate(_WORD_SPECIAL)
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def _pieces(stream: bytes, clx: bytes) -> Iterator[str]:
    at = 0
    while at + 3 <= len(clx) and clx[at] == 1:  # Prc: formatting
        at += 3 + struct.unpack_from("<H", clx, at + 1)[0]
    if at + 5 > len(clx) or clx[at] != 2:
        return
    plc = clx[at + 5 : at + 5 + struct.unpack_from("<I", clx, at + 1)[0]]
    count = (len(plc) - 4) // 12
    room = 2 * len(stream)  # pieces that overlap could otherwise repeat the text without end
    for number in range(max(0, count)):
        first, last = struct.unpack_from("<II", plc, 4 * number)
        place = struct.unpack_from("<I", plc, 4 * (count + 1) + 8 * number + 2)[0]
        chars = last - first
        room -= chars
        if chars <= 0 or room < 0:
            return
        if place & 0x40000000:
            begin = (place & 0x3FFFFFFF) // 2
            yield stream[begin : begin + chars].decode("cp1252", "replace")
        else:
            yield stream[place : place + 2 * chars].decode("utf-16-le", "replace")


def _slides(data: bytes) -> Iterator[str]:
    """The text atoms of a presentation in the order of the stream."""
    at = 0
    while at + 8 <= len(data):
        version, kind, length = struct.unpack_from("<HHI", data, at)
        at += 8
        if version & 0x0F == 0x0F:  # a container: its records follow
            continue
        if kind in (0x0FA0, 0x0FA8):
            encoding = "utf-16-le" if kind == 0x0FA0 else "latin-1"
            text = data[at : at + length].decode(encoding, "replace").replace("\r", "\n").replace("\x0b", "\n")
            if text.strip() and text.strip() != "*":
                yield text.strip()
        at += length


def _workbook(data: bytes, seen: Seen) -> str:
    """The strings of a workbook in the order in which they are stored; counts its sheets."""
    at = sheets = 0
    shared: list[bytes] = []
    labels: list[str] = []
    while at + 4 <= len(data):
        kind, length = struct.unpack_from("<HH", data, at)
        body = data[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == 0x2F and sheets == 0:
            encrypted(seen, "a workbook with a password to open it")
            return ""
        if kind == 0x85:
            sheets += 1
        elif kind == 0xFC or (kind == 0x3C and shared and not labels):
            shared.append(body)
        elif shared:
            labels += _shared(shared)
            shared = []
    if sheets:
        seen.metadata["pages"] = sheets
    return "\n".join([*labels, *_shared(shared)])


def _shared(segments: list[bytes]) -> list[str]:
    """The shared string table: a record and its continuations. [MS-XLS] 2.5.293 (XLUnicodeRichExtendedString)."""
    if not segments or len(segments[0]) < 8:
        return []
    count = struct.unpack_from("<I", segments[0], 4)[0]
    strings = _Strings(segments)
    found: list[str] = []
    try:
        while len(found) < count:
            found.append(strings.next())
    except (IndexError, struct.error):
        return found  # it ends before its count: what was read stands
    return found


class _Strings:
    """A reader over the segments; characters that go on in the next segment begin there with a flag again."""

    def __init__(self, segments: list[bytes]) -> None:
        self._segments = segments
        self._number = 0
        self._at = 8

    def next(self) -> str:
        if self._at >= len(self._segments[self._number]):
            self._number, self._at = self._number + 1, 0
        length, flags = struct.unpack("<HB", self._take(3))
        runs = struct.unpack("<H", self._take(2))[0] if flags & 8 else 0
        extension = struct.unpack("<I", self._take(4))[0] if flags & 4 else 0
        text = ""
        while len(text) < length:
            left = len(self._segments[self._number]) - self._at
            if left <= 0:
                self._number, self._at = self._number + 1, 1
                flags = self._segments[self._number][0]
                continue
            width = 2 if flags & 1 else 1
            part = self._take(min(width * (length - len(text)), left - left % width or left))
            text += part.decode("utf-16-le" if width == 2 else "latin-1", "replace")
        self._skip(4 * runs + extension)
        return text

    def _take(self, count: int) -> bytes:
        part = self._segments[self._number][self._at : self._at + count]
        self._at += count
        return part

    def _skip(self, count: int) -> None:
        while count > 0:
            step = min(count, len(self._segments[self._number]) - self._at)
            self._at += step
            count -= step
            if count > 0:
                self._number, self._at = self._number + 1, 0
