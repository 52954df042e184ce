"""Outlook messages (.msg): properties, text and attachments. [MS-OXMSG], [MS-OXPROPS]

Rules of this module:
- Read with olefile and not with python-oxmsg, which loads every stream at once, raises when one is missing,
  takes 8-bit strings for Western ones, and has no messages within messages.
- 8-bit strings are in the code page that the message names (internet code page for the body).
- People are "Name <address>"; an Exchange address (/O=…) is no address, and the name stands alone.
- The text is the plain body; else the HTML; else the compressed RTF ([MS-OXRTFCP]).
- A message within becomes a .msg file of its own, as Outlook writes it when it is dragged out.
"""

from __future__ import annotations

import email.parser
import email.policy
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import olefile

from ingest.extraction import Document, Seen
from ingest.extraction.compound import Tree, compound_file
from ingest.extraction.containers import (
    OLE_ERRORS_DEEP,
    Budget,
    Children,
    ExpansionError,
    clean_name,
    encrypted,
    expansion,
    ole_stream,
)
from ingest.extraction.encoding import decode
from ingest.extraction.html import declared_encoding, html_text
from ingest.extraction.mail import headers as mail_headers
from ingest.extraction.ole import file_time
from ingest.extraction.rtf import rtf_text
from ingest.extraction.text import settle
from ingest.model import Json, finding

SUBJECT, HEADERS, SENT, DELIVERED = 0x0037, 0x007D, 0x0039, 0x0E06
BODY, HTML, RTF, MESSAGE_ID, CLASS = 0x1000, 0x1013, 0x1009, 0x1035, 0x001A
SENDER_NAME, SENDER_ADDRESS, SENDER_SMTP = 0x0C1A, 0x0C1F, 0x5D01
FOR_NAME, FOR_ADDRESS, FOR_SMTP = 0x0042, 0x0065, 0x5D02
NAME, ADDRESS, SMTP, RECIPIENT_KIND = 0x3001, 0x3003, 0x39FE, 0x0C15
ATTACHED, LONG_NAME, SHORT_NAME, MIME_TAG = 0x3701, 0x3707, 0x3704, 0x370E
CODE_PAGE, INTERNET_CODE_PAGE = 0x3FFD, 0x3FDE
FLAGS, UNSENT = 0x0E07, 0x0008
MAX_STREAM = 256 * 1024 * 1024  # bytes


@dataclass(slots=True)
class _Properties:
    """The properties of one storage (a message, a recipient, an attachment); streams are read when asked for."""

    ole: Any
    path: list[str]
    size: int  # of the file, which no stream can exceed
    header: int  # bytes before the fixed properties: 32 message, 24 message within, 8 the others
    code_page: str | None = None
    fixed: Mapping[int, tuple[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = ole_stream(self.ole, [*self.path, "__properties_version1.0"], self.size) or b""
        found: dict[int, tuple[int, bytes]] = {}
        for at in range(self.header, len(data) - 15, 16):
            kind, number = struct.unpack_from("<HH", data, at)
            found[number] = (kind, data[at + 8 : at + 16])
        self.fixed = found
        for number in (CODE_PAGE, INTERNET_CODE_PAGE):
            if self.code_page is None and (page := self.integer(number)):
                self.code_page = code_page(page)

    def integer(self, number: int) -> int | None:
        kind, value = self.fixed.get(number, (0, b""))
        return int.from_bytes(value[:4], "little") if kind in (0x0003, 0x000B) else None

    def time(self, number: int) -> str | None:
        kind, value = self.fixed.get(number, (0, b""))
        moment = file_time(int.from_bytes(value, "little")) if kind == 0x0040 else None
        return moment.isoformat() if moment else None

    def binary(self, number: int) -> bytes | None:
        return ole_stream(self.ole, [*self.path, f"__substg1.0_{number:04X}0102"], min(self.size, MAX_STREAM))

    def text(self, number: int) -> str:
        wide = ole_stream(self.ole, [*self.path, f"__substg1.0_{number:04X}001F"], self.size)
        if wide is not None:
            return wide.decode("utf-16-le", "replace").rstrip("\x00")
        narrow = ole_stream(self.ole, [*self.path, f"__substg1.0_{number:04X}001E"], self.size)
        return decode(narrow.rstrip(b"\x00"), self.code_page)[0] if narrow else ""


def read(document: Document) -> Seen:
    """Subject, people, date, Message-ID, text, parts and attachments of an Outlook message."""
    seen = Seen()
    size = document.path.stat().st_size
    try:
        ole = olefile.OleFileIO(str(document.path))
    except OLE_ERRORS_DEEP as problem:
        seen.findings.append(finding("DAMAGED", f"its compound file cannot be opened: {problem}"))
        return seen
    with ole:
        message = _Properties(ole, [], size, 32)
        if not message.fixed:
            seen.findings.append(finding("DAMAGED", "its table of properties is missing or empty"))
        try:
            storages = sorted({entry[0] for entry in ole.listdir(streams=True, storages=True) if len(entry) > 1})
        except OLE_ERRORS_DEEP as problem:
            seen.findings.append(finding("DAMAGED", f"its streams cannot be listed: {problem}"))
            return seen
        _metadata(message, seen)
        _people(message, [name for name in storages if name.lower().startswith("__recip_version1.0_")], seen)
        bodies = _text(message, document, seen)
        attached = [name for name in storages if name.lower().startswith("__attach_version1.0_")]
        _attachments(message, attached, bodies, document, seen)
    return seen


def code_page(page: int) -> str:
    """The label of a Windows code page number."""
    named = {20127: "us-ascii", 65001: "utf-8", 28591: "iso-8859-1", 38598: "iso-8859-8-i", 28598: "iso-8859-8"}
    named |= {20866: "koi8-r", 21866: "koi8-u", 50220: "iso-2022-jp", 51932: "euc-jp", 51949: "euc-kr"}
    if page in named:
        return named[page]
    if 28592 <= page <= 28606:
        return f"iso-8859-{page - 28590}"
    return f"cp{page}"


def _metadata(message: _Properties, seen: Seen) -> None:
    if transport := message.text(HEADERS):
        parser = email.parser.HeaderParser(policy=email.policy.compat32)
        try:
            mail_headers(parser.parsestr(transport.lstrip("\r\n")), seen)
        except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
            seen.findings.append(finding("METADATA-DAMAGED", "its transport headers cannot be read"))
    if subject := message.text(SUBJECT).strip():
        seen.metadata["title"] = subject[:2000]
    if identity := message.text(MESSAGE_ID).strip():
        seen.metadata["message_id"] = identity[:2000]
    if "date" not in seen.metadata and (date := message.time(SENT) or message.time(DELIVERED)):
        seen.metadata["date"] = date
    if "from" not in seen.metadata:
        sender = _person(message.text(FOR_NAME), message.text(FOR_SMTP), message.text(FOR_ADDRESS))
        sender = sender or _person(message.text(SENDER_NAME), message.text(SENDER_SMTP), message.text(SENDER_ADDRESS))
        if sender:  # an unsent message has nobody who sent it
            seen.metadata["author" if (message.integer(FLAGS) or 0) & UNSENT else "from"] = sender
    if "smime" in message.text(CLASS).lower() and "multipartsigned" not in message.text(CLASS).lower():
        encrypted(seen, "an S/MIME message, of which Outlook kept the encrypted form")


def _person(name: str, smtp: str, address: str) -> str:
    name = name.strip().strip("'\"").strip()
    where = smtp.strip() or (address.strip() if "@" in address else "")
    if not where:
        return name
    return f"{name} <{where}>" if name and name.lower() != where.lower() else where


def _people(message: _Properties, storages: list[str], seen: Seen) -> None:
    people: dict[int, list[Json]] = {}
    for name in storages[:10_000]:
        recipient = _Properties(message.ole, [name], message.size, 8, message.code_page)
        person = _person(recipient.text(NAME), recipient.text(SMTP), recipient.text(ADDRESS))
        if person:
            people.setdefault(recipient.integer(RECIPIENT_KIND) or 1, []).append(person)
    for kind, key in ((1, "to"), (2, "cc")):
        if kind in people and key not in seen.metadata:
            seen.metadata[key] = people[kind]


def _text(message: _Properties, document: Document, seen: Seen) -> list[Json]:
    """Put the text into `seen`; the MIME types of the bodies that there are."""
    plain = message.text(BODY)
    html = message.binary(HTML)
    markup = _html(html, message) if html else message.text(HTML)
    packed = message.binary(RTF)
    rtf = decompress_rtf(packed) if packed else b""
    text = plain.replace("\r\n", "\n")
    if not text.strip() and markup:
        text = html_text(markup)
    if not text.strip() and rtf:
        text = rtf_text(rtf)
    settle(seen, text, document.limits)
    bodies: list[Json] = ["text/plain"] if plain.strip() else []
    if markup or b"\\fromhtml" in rtf[:2000]:
        bodies.append("text/html")
    elif rtf:
        bodies.append("application/rtf")
    return bodies


def _html(html: bytes, message: _Properties) -> str:
    page = message.integer(INTERNET_CODE_PAGE)
    return decode(html, code_page(page) if page else declared_encoding(html) or message.code_page)[0]


def _attachments(message: _Properties, storages: list[str], bodies: list[Json], document: Document, seen: Seen) -> None:
    children = Children(document, seen, Budget(document.limits.expanded_bytes))
    names: list[Json] = []
    kinds: list[Json] = []
    for number, storage in enumerate(storages, 1):
        item = _Properties(message.ole, [storage], message.size, 8, message.code_page)
        inner = [storage, f"__substg1.0_{ATTACHED:04X}000D"]
        within = message.ole.exists(inner)
        kinds.append("message/rfc822" if within else item.text(MIME_TAG) or "application/octet-stream")
        title = item.text(LONG_NAME) or item.text(SHORT_NAME) or item.text(NAME)
        data = item.binary(ATTACHED) or b""
        if within:
            title = title if title.lower().endswith(".msg") else f"{title or 'message'}.msg"
            try:
                data = compound_file(_message_tree(message, inner, document.limits.expanded_bytes))
            except (ExpansionError, ValueError, *OLE_ERRORS_DEEP):
                expansion(seen, document)
                continue
        name = clean_name(title, f"attachment-{number}")
        names.append(name)
        if data:
            children.add(name, data)
    if names:
        seen.metadata["attachments"] = names
    around: list[Json] = ["multipart/mixed"] if kinds else []
    seen.metadata["parts"] = [*around, *(["multipart/alternative"] if len(bodies) > 1 else []), *bodies, *kinds]


def _message_tree(message: _Properties, path: list[str], room: int) -> Tree:
    """The storage of a message within as that of a message of its own: its property header is longer by 8."""
    tree: dict[str, Any] = {}
    for entry in message.ole.listdir(streams=True, storages=False):
        if entry[: len(path)] != path:
            continue
        data = ole_stream(message.ole, entry, message.size) or b""
        room -= len(data)
        if room < 0:
            raise ExpansionError
        *folders, name = entry[len(path) :]
        if not folders and name == "__properties_version1.0":
            data = data[:24] + b"\x00" * 8 + data[24:]
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = data
    if "__nameid_version1.0" not in tree:  # the names of named properties stand in the outermost message only
        named = {
            entry[1]: ole_stream(message.ole, entry, message.size) or b""
            for entry in message.ole.listdir(streams=True, storages=False)
            if len(entry) == 2 and entry[0] == "__nameid_version1.0"
        }
        if named:
            tree["__nameid_version1.0"] = named
    return tree


_DICTIONARY = (
    rb"{\rtf1\ansi\mac\deff0\deftab720{\fonttbl;}{\f0\fnil \froman \fswiss \fmodern \fscript \fdecor MS Sans "
    rb"SerifSymbolArialTimes New RomanCourier{\colortbl\red0\green0\blue0" + b"\r\n" + rb"\par "
    rb"\pard\plain\f0\fs20\b\i\u\tab\tx"
)


def decompress_rtf(data: bytes) -> bytes:
    """RTF out of its compressed form ([MS-OXRTFCP] 3.1.3.2), as much as there is; at most its declared size."""
    if len(data) < 16:
        return b""
    size, kind = struct.unpack_from("<4xII", data)
    if kind == 0x414C454D:  # "MELA": not compressed
        return data[16 : 16 + size]
    return b"".join(_tokens(data, min(size, 64 * 1024 * 1024)))[:size] if kind == 0x75465A4C else b""


def _tokens(data: bytes, size: int) -> Iterator[bytes]:
    ring = bytearray(_DICTIONARY.ljust(4096, b"\x00"))
    write = len(_DICTIONARY)
    at, done = 16, 0
    while at < len(data) and done < size:
        control = data[at]
        at += 1
        for bit in range(8):
            if control >> bit & 1:
                if at + 2 > len(data):
                    return
                token = data[at] << 8 | data[at + 1]
                at += 2
                place, length = token >> 4, (token & 15) + 2
                if place == write:  # the end of the text
                    return
                piece = bytearray()
                for step in range(length):
                    byte = ring[(place + step) % 4096]
                    ring[write] = byte
                    write = (write + 1) % 4096
                    piece.append(byte)
            else:
                if at >= len(data):
                    return
                piece = bytearray(data[at : at + 1])
                ring[write] = piece[0]
                write = (write + 1) % 4096
                at += 1
            done += len(piece)
            yield bytes(piece)
