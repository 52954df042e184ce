"""E-mail: one message (RFC 5322, MIME) or a mailbox of them (mbox).

Rules of this module:
- The standard library's parser with its oldest policy (compat32): the newer one parses each header into an
  object and raises on some that are malformed; here headers are decoded as far as they can be.
- Raw 8-bit headers and encoded words in charsets that Python lacks are decoded by ingest.extraction.encoding.
- The text is that of the text/plain parts; where there is none, that of the text/html parts.
- Attachments become children: every part with a file name, every message in a message, and every unnamed part
  that is no text. Not children: signatures (they prove this message, not themselves), delivery status, and
  unnamed pictures below 64 KiB (decoration of a signature or a newsletter).
- A mailbox's messages become children of their own; the mailbox itself has no text. A line "From " begins a
  message only if it looks like one that a mail program wrote, so that prose is not torn apart.
- ENCRYPTED only when the whole body is (PGP/MIME, S/MIME enveloped data, an armoured PGP message).
"""

from __future__ import annotations

import email.parser
import email.policy
import email.utils
import re
from collections.abc import Iterator
from datetime import UTC
from email.message import Message
from typing import Any, BinaryIO, cast

from ingest.extraction import Document, Seen
from ingest.extraction.containers import Budget, Children, clean_name, encrypted
from ingest.extraction.encoding import decode
from ingest.extraction.html import html_text
from ingest.extraction.text import clean, settle
from ingest.model import Json, finding

MAX_MESSAGE = 256 * 1024 * 1024  # bytes of one message in a mailbox
DECORATION = 64 * 1024  # bytes of an unnamed picture that is no record
MAX_PARTS = 10_000

_ENCODED_WORD = re.compile(rb"=\?([^?\s]{1,60}?)(?:\*[^?]*)?\?([BbQq])\?([^?]*)\?=")
_FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+|\r?\n")
_ADDRESS = re.compile(r"<([^<>]*)>\s*$")
# "From ", an address or any words, a time of day and a year: what mail programs write between messages.
_SEPARATOR = re.compile(rb"From (?:\S.*)?\d{1,2}:\d\d(?::\d\d)?\b.*\b\d{4}\b|From \S+@\S+\s+\w{3} \w{3}\s+\d")
_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:|>?From ")
_ENCLOSING = re.compile(rb"content-type:\s*message/rfc822", re.IGNORECASE)
_ANNOUNCED = re.compile(rb"[-_ ]*(?:begin )?(?:included|forwarded|original) message", re.IGNORECASE)
_NAME = re.compile(r"""(?:file)?name\s*=\s*"?([^";]+)""", re.IGNORECASE)
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
_SIGNATURES = {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}
_NO_RECORD = {
    *_SIGNATURES,
    "message/delivery-status",
    "message/disposition-notification",
    "application/pgp-encrypted",
}
_SUFFIXES = {"message/rfc822": ".eml", "text/calendar": ".ics", "application/pdf": ".pdf", "text/html": ".html"}


def read(document: Document) -> Seen:
    """Headers, text and attachments of a message; or the messages of a mailbox."""
    if document.mime == "application/mbox":
        return _read_mailbox(document)
    seen = Seen()
    data = document.path.read_bytes()
    try:
        message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(_without_separator(data))
    except (RecursionError, ValueError, IndexError, AttributeError, KeyError, TypeError) as problem:
        seen.findings.append(finding("DAMAGED", f"its MIME structure cannot be read: {type(problem).__name__}"))
        return seen
    headers(message, seen)
    _body(message, document, seen)
    return seen


def headers(message: Message, seen: Seen) -> None:
    """Subject, people, date and Message-ID of a message, as metadata."""
    fields: dict[str, list[str]] = {}
    charset = _charset(message)  # raw bytes in a header are mostly in the charset of the body
    for name, value in message.raw_items():
        fields.setdefault(name.strip().lower(), []).append(decode_header(value, charset))
    for name, key in (("subject", "title"), ("message-id", "message_id")):
        if value := " ".join(fields.get(name, [""])[:1]).strip():
            seen.metadata[key] = value[:2000]
    senders = addresses(", ".join(fields.get("from", [])) or fields.get("sender", [""])[0])
    if senders:
        seen.metadata["from"] = ", ".join(str(sender) for sender in senders)
    for key in ("to", "cc"):
        if people := addresses(", ".join(fields.get(key, []))):
            seen.metadata[key] = people
    for raw in fields.get("date", []) or fields.get("delivery-date", []):
        if date := mail_date(raw):
            seen.metadata["date"] = date
            break
    else:
        if "date" in fields:
            seen.findings.append(finding("METADATA-DAMAGED", f"its date is no date: {fields['date'][0][:80]!r}"))
    for key, name in (("keywords", "keywords"), ("producer", "x-mailer"), ("producer", "user-agent")):
        if value := fields.get(name, [""])[0].strip()[:500]:
            listed: Json = [word.strip() for word in value.split(",") if word.strip()]
            seen.metadata[key] = listed if key == "keywords" else value


def decode_header(value: Any, charset: str | None = None) -> str:
    """A header as text: folding undone, encoded words (RFC 2047) decoded, and raw bytes by `charset` or a guess."""
    raw = str(value).encode("utf-8", "surrogateescape") if not isinstance(value, bytes) else value
    raw = _FOLD.sub(b" ", raw)
    pieces: list[str] = []
    words: list[tuple[str, bytes]] = []  # neighbours of one charset are one text: a character may span them
    at = 0
    for found in _ENCODED_WORD.finditer(raw):
        between = raw[at : found.start()]
        if between.strip() or not words:
            pieces.append(_decoded(words))
            words = []
            pieces.append(decode(between, charset)[0])
        label = found[1].decode("ascii", "replace").lower()
        body = _unquoted(found[2], found[3])
        if words and words[-1][0] == label:
            words[-1] = (label, words[-1][1] + body)
        else:
            words.append((label, body))
        at = found.end()
    pieces.append(_decoded(words))
    pieces.append(decode(raw[at:], charset)[0])
    return clean("".join(pieces)).strip()


def _decoded(words: list[tuple[str, bytes]]) -> str:
    return "".join(decode(body, label)[0] for label, body in words)


def _unquoted(kind: bytes, body: bytes) -> bytes:
    import base64
    import binascii
    import quopri

    if kind in b"Qq":
        return quopri.decodestring(body.replace(b"_", b" "), header=False)
    kept = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
    try:
        return base64.b64decode(kept[: len(kept) - (len(kept) % 4 == 1)] + b"=" * (-len(kept) % 4))
    except (binascii.Error, ValueError):
        return body


def addresses(value: str) -> list[Json]:
    """People as "Name <address>", or the address alone when the name says nothing more."""
    found: list[Json] = []
    for part in _split(value[:200_000]):
        address = _ADDRESS.search(part)
        name = _unquote(part[: address.start()] if address else "")
        where = (address[1] if address else part).strip()
        if not address and (comment := re.fullmatch(r"(\S+@\S+)\s+\((.*)\)", part)):  # RFC 822 style
            where, name = comment[1], comment[2].strip()
        if where or name:
            found.append(f"{name} <{where}>" if name and name != where and where else where or name)
        if len(found) >= 1000:
            break
    return found


def _split(value: str) -> Iterator[str]:
    """The members of an address list; commas in quotes, comments and angle brackets do not divide, groups do."""
    part, depth, quoted = "", 0, False
    angle = False
    previous = ""
    for char in value:
        if char == '"' and previous != "\\":
            quoted = not quoted
        elif not quoted:
            depth = max(0, depth + (char == "(") - (char == ")"))
            angle = (angle or char == "<") and char != ">"
        if char in ",;" and not quoted and not depth and not angle:
            if part.strip():
                yield part.strip()
            part = ""
        elif char == ":" and not quoted and not angle and not depth and "@" not in part:
            part = ""  # the name of a group
        else:
            part += char
        previous = "" if previous == "\\" else char
    if part.strip():
        yield part.strip()


def _unquote(name: str) -> str:
    name = name.strip()
    if len(name) >= 2 and name[0] == name[-1] and name[0] in "\"'":
        name = re.sub(r"\\(.)", r"\1", name[1:-1]).strip()
    return name


def mail_date(value: str) -> str | None:
    """ISO 8601 with offset; without when the header has "-0000" or no zone; None when it is no date."""
    try:
        moment = email.utils.parsedate_to_datetime(re.sub(r"\s+", " ", value.strip()))
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    if moment.tzinfo is None and re.search(r"\b(GMT|UTC|Z)\b", value):
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat()


def _body(message: Message, document: Document, seen: Seen) -> None:
    children = Children(document, seen, Budget(document.limits.expanded_bytes))
    kinds: list[Json] = []
    names: list[Json] = []
    plain: list[str] = []
    html: list[str] = []
    for part, around in _parts(message):
        kind = part.get_content_type()
        kinds.append(kind)
        if _is_container(part):
            continue
        name = clean_name(file_name(part), "") if file_name(part) else ""
        attached = str(part.get("content-disposition", "")).strip().lower().startswith("attachment")
        if kind in ("text/plain", "text/html") and not name and not attached:
            (plain if kind == "text/plain" else html).append(_part_text(part))
            continue
        if kind in _NO_RECORD or (not (name or attached) and _is_body(kind, around)):
            continue
        data = _part_bytes(part)
        if kind.startswith("image/") and not name and len(data) < DECORATION:
            continue
        name = name or f"part-{len(kinds)}{_SUFFIXES.get(kind, '')}"
        names.append(name)
        if data:  # an attachment whose bytes are gone (cut off, stripped by a filter) keeps its name only
            children.add(name, data)
    seen.metadata["parts"] = kinds
    if names:
        seen.metadata["attachments"] = names
    text = "\n\n".join(piece for piece in plain if piece.strip())
    if not text:
        text = "\n\n".join(html_text(piece) for piece in html)
    if _is_encrypted(message, text):
        encrypted(seen, "its whole body is encrypted for its recipient")
    settle(seen, text, document.limits)


def _parts(message: Message) -> Iterator[tuple[Message, str]]:
    """(part, type of the part around it) in order, without the parts of a message within.

    Not recursive, so that depth costs no stack.
    """
    stack = [(message, "")]
    count = 0
    while stack and count < MAX_PARTS:
        part, around = stack.pop()
        count += 1
        yield part, around
        if _is_container(part):
            inner = cast(list[Any], part.get_payload())
            stack.extend((item, part.get_content_type()) for item in reversed(inner) if isinstance(item, Message))


def _is_container(part: Message) -> bool:
    return isinstance(part.get_payload(), list) and part.get_content_maintype() == "multipart"


def _is_body(kind: str, around: str) -> bool:
    """An unnamed part that is read with the message: other forms of the text, a calendar entry, a broken part."""
    return kind.startswith(("text/", "multipart/")) or (
        around == "multipart/alternative" and kind in {"application/rtf", "application/json"}
    )


def file_name(part: Message) -> str:
    """The name of an attachment, by RFC 2231, RFC 2047, or as raw bytes; "" when it has none."""
    try:
        name = part.get_filename()
    except (ValueError, TypeError, LookupError, IndexError, AttributeError):
        name = None
    if not name:
        return ""
    if "\ufffd" in name:  # raw bytes, which the parser gives up: they stand in the header as they came
        for header, value in part.raw_items():
            found = _NAME.search(str(value)) if header.lower() in {"content-disposition", "content-type"} else None
            if found:
                return decode_header(found[1])
    return decode_header(name)


def _part_bytes(part: Message) -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):  # message/rfc822
        try:
            return b"".join(inner.as_bytes() for inner in payload if isinstance(inner, Message))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return b""
    try:
        data = part.get_payload(decode=True)
    except (ValueError, LookupError, AssertionError):
        data = None
    if isinstance(data, bytes):
        return data
    return str(payload or "").encode("utf-8", "surrogateescape")


def _part_text(part: Message) -> str:
    return decode(_part_bytes(part), _charset(part))[0].replace("\r\n", "\n")


def _charset(part: Message) -> str | None:
    try:
        charset = part.get_param("charset")
    except (ValueError, TypeError, LookupError, IndexError):
        return None
    label = charset[2] if isinstance(charset, tuple) else charset
    return str(label) if label else None


def _is_encrypted(message: Message, text: str) -> bool:
    kind = message.get_content_type()
    if kind == "multipart/encrypted" or text.lstrip().startswith("-----BEGIN PGP MESSAGE-----"):
        return True
    smime = str(message.get_param("smime-type", "") or "").lower()
    return kind in {"application/pkcs7-mime", "application/x-pkcs7-mime"} and smime != "signed-data"


def _without_separator(data: bytes) -> bytes:
    """A message saved out of a mailbox keeps the line "From " before its headers."""
    stripped = data.lstrip(b"\r\n")
    if stripped.startswith((b"From ", b">From ")):
        return stripped.partition(b"\n")[2]
    return stripped if stripped[:1] not in (b" ", b"\t") else data


def _read_mailbox(document: Document) -> Seen:
    seen = Seen()
    children = Children(document, seen, Budget(document.limits.expanded_bytes))
    count = 0
    with document.path.open("rb") as file:
        for message in _messages(file):
            count += 1
            if count <= document.limits.children + 1:
                children.add(f"{count:05d}.eml", _QUOTED_FROM.sub(rb"\1", message))
    seen.metadata["messages"] = count
    if not count:
        seen.findings.append(finding("DAMAGED", "no line of it begins a message"))
    return seen


def _messages(file: BinaryIO) -> Iterator[bytes]:
    """The messages of a mailbox without their separators (mboxo and mboxrd; RFC 4155).

    A separator follows an empty line and precedes a header. One that opens the body of a message/rfc822 part,
    or follows the words with which mail programs announce a forwarded message, belongs to that message.
    """
    lines: list[bytes] | None = None
    size = 0
    before = last = b""  # the line before, and the last that was not empty
    enclosing = False  # the headers just read are those of a message/rfc822 part
    line = file.readline(1 << 20)
    while line:
        following = file.readline(1 << 20)
        empty = not line.strip()
        if (
            line.startswith(b"From ")
            and not before.strip()
            and not (lines and (enclosing or _ANNOUNCED.match(last)))
            and _SEPARATOR.match(line)
            and _HEADER.match(following)
        ):
            if lines is not None:
                yield b"".join(lines)
            lines, size = [], 0
        elif lines is not None and size < MAX_MESSAGE:
            lines.append(line)
            size += len(line)
        if not empty:
            enclosing = bool(_ENCLOSING.match(line)) or (enclosing and bool(before.strip()))
            last = line
        before, line = line, following
    if lines is not None:
        yield b"".join(lines)
