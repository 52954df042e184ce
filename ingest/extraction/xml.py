"""XML, read so that it can hurt nobody; and the readers of XML parts of Office documents build on it.

Rules of this module:
- No entity is expanded, no DTD and no other external thing is loaded, nothing goes to the network.
- A document that declares entities is not read beyond its DOCTYPE: UNSAFE-XML. A DOCTYPE that declares none
  (XHTML, a reference to a DTD) is harmless and common.
- Parsing streams: what was read is thrown away at once, so that memory does not grow with the document.
- libxml2's limits stay on (10 MB for one text, 256 levels); a document beyond them is DAMAGED to us, except
  that one long text (a picture or PDF in base64) only ends what is searched: TEXT-LIMIT.
- What was read before the damage is kept.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, BinaryIO

from lxml import etree

from ingest.extraction import Document, Seen
from ingest.extraction.encoding import iana
from ingest.extraction.text import settle, text_limit
from ingest.model import finding

_ENTITY = re.compile(rb"<!\s*E\s*N\s*T\s*I\s*T\s*Y")
# Base64 in one piece or in lines: no words to search.
_UNBROKEN = re.compile(r"\S{2000,}|(?:[A-Za-z0-9+/=]{60,}\s+){4,}")
_DUBLIN_CORE = {
    "http://purl.org/dc/elements/1.1/": {"title": "title", "creator": "author", "language": "language"},
    "http://purl.org/dc/terms/": {"title": "title", "creator": "author", "created": "created"},
}


_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']""")
MAX_RECODED = 64 * 1024 * 1024  # bytes
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?)?")
_HARDENED: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "dtd_validation": False,
    "attribute_defaults": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}


class UnsafeXmlError(Exception):
    """The document declares entities."""


class DamagedXmlError(Exception):
    """The document is not well-formed, or exceeds a limit of libxml2; str() says where."""


def read(document: Document) -> Seen:
    """Name of the root element, declared encoding, Dublin Core, and all text content in order."""
    seen = Seen()
    pieces: list[str] = []
    room = document.limits.text_chars
    try:
        with document.path.open("rb") as file:
            for element, piece in _pieces(_readable(file, seen), seen):
                if element is not None:
                    _dublin_core(element, piece, seen)
                if piece := piece.strip():
                    pieces.append(piece)
                    room -= len(piece)
                if room < 0:
                    break
    except (UnsafeXmlError, DamagedXmlError) as problem:
        blame(seen, problem)
    settle(seen, _UNBROKEN.sub(" ", "\n".join(pieces)), document.limits)
    return seen


def parse_xml(data: bytes) -> Any:
    """The root element of a small document. Raises UnsafeXmlError or DamagedXmlError."""
    try:
        root = etree.fromstring(data, etree.XMLParser(**_HARDENED))
    except (etree.XMLSyntaxError, ValueError) as problem:
        raise _judged(str(problem), data[:65_536]) from None
    _check_doctype(root.getroottree().docinfo)
    return root


def walk(source: Any, tags: tuple[str, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """("start" or "end", element) for `tags` or all elements; `source` is a file. Raises as `parse_xml`.

    What is merely wrong does not stop it: an undeclared namespace prefix, as in a fragment cut out of a larger
    document. What is broken does, after the events of the chunk it stands in.
    """
    parser: Any = etree.XMLPullParser(events=("start", "end"), tag=tags, recover=True, **_HARDENED)
    checked = False
    head = b""
    try:
        while chunk := source.read(1 << 20 if head else 1 << 16):
            head = head or chunk
            parser.feed(chunk)
            for event, element in parser.read_events():
                if not checked:
                    _check_doctype(element.getroottree().docinfo)
                    checked = True
                yield event, element
            _check_log(parser.feed_error_log, head)
        root = parser.close()
        if root is not None:
            _check_doctype(root.getroottree().docinfo)
        yield from parser.read_events()
        _check_log(parser.feed_error_log, head)
        if root is None:
            raise DamagedXmlError("there is no element in it")
    except (etree.XMLSyntaxError, ValueError) as problem:
        raise _judged(str(problem), head) from None


def iter_elements(data: bytes, tags: Collection[str]) -> Iterator[Any]:
    """Each element of `tags` when it is complete; emptied after use. Raises as `parse_xml`."""
    for event, element in walk(io.BytesIO(data), tuple(tags)):
        if event == "end":
            yield element
            forget(element)


def forget(element: Any) -> None:
    """Empty an element that was read, and remove what stands before it."""
    element.clear(keep_tail=True)
    parent = element.getparent()
    while parent is not None and parent[0] is not element:
        del parent[0]


def iso_date(value: str) -> str | None:
    """A date or time of W3CDTF, as the properties of documents state them, to the second; None if it is none."""
    found = _DATE.match(value.strip())
    if found is None:
        return None
    date, time, offset = found.groups()
    text = f"{date}T{time}" if time else date
    text += {None: "", "Z": "+00:00"}.get(offset, offset) if time else ""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return None
    return text


def blame(seen: Seen, problem: Exception, part: str = "") -> None:
    """Turn what the functions above raise into a finding of `seen`, once for each code."""
    where = f"{part}: " if part else ""
    message = f"{where}{problem}"
    if isinstance(problem, UnsafeXmlError):
        code = "UNSAFE-XML"
    elif "huge text" in message.lower() or "text node too long" in message.lower():
        text_limit(seen, f"{where}one text of it is longer than 10,000,000 bytes; it is read up to there")
        return
    else:
        code = "DAMAGED"
    if not any(found.code == code for found in seen.findings):
        seen.findings.append(finding(code, message))


def _check_log(log: Any, head: bytes) -> None:
    for entry in log:
        if entry.level == etree.ErrorLevels.FATAL:
            raise _judged(f"{entry.message}, line {entry.line}", head)


def _judged(problem: str, head: bytes) -> UnsafeXmlError | DamagedXmlError:
    # Entities that libxml2 itself refused (loops, amplification) end the parse before the root is seen.
    if "ntity" in problem and _ENTITY.search(head.replace(b"\x00", b"")):
        return UnsafeXmlError("its DOCTYPE declares entities")
    return DamagedXmlError(re.sub(r" \(<string>, line \d+\)$", "", problem)[:300])


def _check_doctype(docinfo: Any) -> None:
    dtd = docinfo.internalDTD
    names = [entity.name for entity in dtd.iterentities()] if dtd is not None else []
    if names:
        raise UnsafeXmlError(f"its DOCTYPE declares entities: {', '.join(map(str, names[:5]))}")


def _readable(file: BinaryIO, seen: Seen) -> Any:
    """`file`, with the encodings of RFC 1556, which libxml2 lacks, under the name of their superset."""
    head = file.read(256)
    file.seek(0)
    declared = _DECLARED.match(head)
    label = declared[1].decode("ascii").lower() if declared else "utf-8"
    seen.metadata["encoding"] = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else iana(label)
    if declared is None or label not in {"iso-8859-8-i", "iso-8859-8-e"}:
        return file
    return io.BytesIO(file.read(MAX_RECODED).replace(declared[1], b"windows-1255", 1))


def _pieces(source: Any, seen: Seen) -> Iterator[tuple[Any, str]]:
    """(element that ends, or None; text) in document order; each node is dropped when its text was given."""
    for event, element in walk(source):
        parent = element.getparent()
        if event == "end":
            yield element, _drain(element, None)
        elif parent is not None:
            yield None, _drain(parent, element)
        else:
            seen.metadata["root"] = str(element.tag)


def _drain(parent: Any, until: Any) -> str:
    """The text of `parent` and the tails of its children before `until`, which are removed."""
    pieces = [parent.text or ""]
    parent.text = None
    for child in parent:  # not len(): it counts what the parser has already read ahead
        if child is until:
            break
        pieces.append(child.tail or "")
        parent.remove(child)
    return "".join(pieces)


def _dublin_core(element: Any, text: str, seen: Seen) -> None:
    namespace, _, name = str(element.tag).rpartition("}")
    key = _DUBLIN_CORE.get(namespace[1:], {}).get(name)
    if key and text.strip():
        seen.metadata.setdefault(key, text.strip()[:1000])
