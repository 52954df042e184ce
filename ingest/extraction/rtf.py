"""RTF: text by striprtf, and the information group by the same decoder.

Rules of this module:
- Pictures and objects are taken out before anything else (they are most of the bytes, in hexadecimal or
  binary), so that time depends on the text.
- At most 4 MiB of what is left is read: TEXT-LIMIT beyond. striprtf takes about a second for a megabyte.
- striprtf's pattern for hyperlinks takes time that grows with the cube of a line; it is kept from matching.
- An RTF whose groups are not closed is TRUNCATED when the end of the file is missing, else it is read as it is.
"""

from __future__ import annotations

import re
from datetime import datetime

from striprtf.striprtf import rtf_to_text

from ingest.extraction import Document, Seen
from ingest.extraction.encoding import codec, detect, iana
from ingest.extraction.text import settle, text_limit
from ingest.model import finding

MAX_FILE = 256 * 1024 * 1024  # bytes read from the file
MAX_RTF = 4 * 1024 * 1024  # bytes of RTF without pictures
MAX_INFO = 64 * 1024  # bytes of the information group

_BINARY = re.compile(rb"\\bin(\d{1,9}) ?")
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F\r\n]{400,}")
_CODE_PAGE = re.compile(rb"\\ansicpg(\d{1,5})")
_INFO = re.compile(rb"\{\s*(?:\\\*\s*)?\\info\b")
_ENTRY = re.compile(rb"\{\s*(?:\\\*\s*)?\\(title|author|operator|subject|keywords|company|doccomm|creatim|revtim)\b ?")
_PAGES = re.compile(rb"\\nofpages(\d{1,6})")
_TIME = re.compile(rb"\\(yr|mo|dy|hr|min|sec)(\d{1,4})")
_UNICODE_TWIN = re.compile(rb"\{\s*\\upr\s*\{.*?\}\s*\{\s*\\\*\s*\\ud\s*(\{.*?\})\s*\}\s*\}", re.DOTALL)
_NO_CHARACTER = re.compile(rb"\\u-?\d{6,} ?")
# striprtf drops headers, footers and footnotes; as paragraphs their words are kept where they stand.
_MARGINS = re.compile(rb"\\(?:footnote|header[lrf]?|footer[lrf]?)\b ?")
_KEYS = {"title": "title", "author": "author", "subject": "subject"}
_SETS = {b"\\mac": "mac_roman", b"\\pca": "cp850", b"\\pc": "cp437"}


def read(document: Document) -> Seen:
    """Title, author, subject, keywords, dates, pages, encoding and text."""
    seen = Seen()
    with document.path.open("rb") as file:
        data = file.read(MAX_FILE)
    if not data.rstrip(b"\x00 \r\n\t").endswith(b"}"):
        seen.findings.append(finding("TRUNCATED", "an RTF ends with '}'; this one does not"))
    data = _HEXADECIMAL.sub(b"", _without_binary(data))
    if len(data) > MAX_RTF:
        text_limit(seen, f"only the first {MAX_RTF:,} of its {len(data):,} bytes of text are searched")
        data = data[:MAX_RTF]
    encoding = _encoding(data)
    seen.metadata["encoding"] = iana(encoding)
    _information(data, encoding, seen)
    settle(seen, _plain(data, encoding), document.limits)
    return seen


def rtf_text(data: bytes) -> str:
    """The text of RTF that stands in another document (the body of a message)."""
    data = _HEXADECIMAL.sub(b"", _without_binary(data))[:MAX_RTF]
    return _plain(data, _encoding(data))


def _plain(data: bytes, encoding: str) -> str:
    # latin-1 keeps each byte: bytes above 0x7F that stand unescaped are decoded where striprtf cannot.
    data = _NO_CHARACTER.sub(b"?", _unescaped(data, encoding))
    data = _MARGINS.sub(rb"\\par ", data)
    source = data.decode("latin-1").replace("HYPERLINK", "HYPER\nLINK")
    try:
        text = str(rtf_to_text(source, encoding=encoding, errors="replace"))
    except (LookupError, ValueError, IndexError, OverflowError, RecursionError):
        return ""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # \u pairs make one
    return "\n".join(line for line in (line.strip() for line in text.split("\n")) if line)


def _unescaped(data: bytes, encoding: str) -> bytes:
    r"""Raw bytes above 0x7F, which no writer should leave, as the \u escapes they stand for."""
    if data.isascii():
        return data

    def escaped(found: re.Match[bytes]) -> bytes:
        chars = found[0].decode(encoding, "replace").encode("utf-16-le", "replace")
        units = [int.from_bytes(chars[at : at + 2], "little", signed=True) for at in range(0, len(chars), 2)]
        return b"".join(b"{\\uc0\\u%d }" % unit for unit in units)

    return re.sub(rb"[\x80-\xff]+", escaped, data)


def _encoding(data: bytes) -> str:
    r"""\ansicpg, else the character set that the header names; windows-1252 when it names none."""
    head = data[:4096]
    if (page := _CODE_PAGE.search(head)) and (name := codec(_label(int(page[1])))):
        return name
    for word, name in _SETS.items():
        if re.search(re.escape(word) + rb"\b", head):
            return name
    raw = b" ".join(re.findall(rb"[\x80-\xff]+", data[:65_536]))
    return (codec(detect(raw)[1]) if len(raw) > 8 else None) or "cp1252"


def _label(page: int) -> str:
    return {0: "cp1252", 10000: "mac_roman", 65001: "utf-8", 1361: "johab", 708: "iso-8859-6"}.get(page, f"cp{page}")


def _without_binary(data: bytes) -> bytes:
    r"""`data` without the bytes that \binN announces (they may hold any bracket)."""
    if b"\\bin" not in data:
        return data
    kept: list[bytes] = []
    at = 0
    while found := _BINARY.search(data, at):
        kept.append(data[at : found.start()])
        at = found.end() + int(found[1])
    kept.append(data[at:])
    return b"".join(kept)


def _information(data: bytes, encoding: str, seen: Seen) -> None:
    start = _INFO.search(data, 0, 1 << 20)
    if start is None:
        return
    group = _UNICODE_TWIN.sub(rb"\1", _group(data, start.start()))
    for entry in _ENTRY.finditer(group):
        name = entry[1].decode("ascii")
        body = _group(group, entry.start())[len(entry[0]) : -1]
        if name in {"creatim", "revtim"}:
            if moment := _moment(body):
                seen.metadata["created" if name == "creatim" else "modified"] = moment
            continue
        words = _plain(b"{\\rtf1\\ansi " + body + b"}", encoding).replace("\n", " ")[:1000].strip()
        if not words:
            continue
        if name == "keywords":
            seen.metadata["keywords"] = [word.strip() for word in re.split("[,;]", words) if word.strip()]
        elif name in _KEYS:
            seen.metadata[_KEYS[name]] = words
    if pages := _PAGES.search(group):
        seen.metadata["pages"] = int(pages[1])


def _group(data: bytes, start: int) -> bytes:
    """The group that opens at `start`, with its brackets; at most MAX_INFO bytes."""
    depth = 0
    for brace in re.finditer(rb"\\[{}\\]|[{}]", data[start : start + MAX_INFO]):
        depth += {b"{": 1, b"}": -1}.get(brace[0], 0)
        if depth == 0:
            return data[start : start + brace.end()]
    return data[start : start + MAX_INFO]


def _moment(body: bytes) -> str | None:
    """Local time without offset: RTF does not say where it was written."""
    parts = {name: int(value) for name, value in _TIME.findall(body)}
    try:
        return datetime(  # noqa: DTZ001 - the document states no offset, and none is invented
            parts[b"yr"],
            parts[b"mo"],
            parts[b"dy"],
            parts.get(b"hr", 0),
            parts.get(b"min", 0),
            parts.get(b"sec", 0),
        ).isoformat()
    except (KeyError, ValueError):
        return None
