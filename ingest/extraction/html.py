"""HTML and XHTML: title, what its meta elements say, and the text that a reader of the page sees.

Rules of this module:
- The encoding is that of a byte-order mark, else what HTTP-EQUIV or charset declares, else detected.
- Scripts, styles and templates are no text. A line ends where a block ends; white space is one space.
- The parser is libxml2's, which takes anything; nothing that the page refers to is fetched.
- XHTML is read by the same parser: a DOCTYPE with entities is refused as it is for XML.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from ingest.extraction import Document, Seen
from ingest.extraction.text import decode, read_head, settle
from ingest.extraction.xml import iso_date
from ingest.model import finding

_SPACE = re.compile(r"[ \t\n\r\f\xa0]+")
_DECLARATION = re.compile(rb"""<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)""")
_META = re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_ENTITIES = re.compile(rb"<!DOCTYPE[^>\[]*\[[^\]]*<!ENTITY", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2}(?![A-Za-z])")
_SKIPPED = frozenset({"script", "style", "template", "head", "noframes"})
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        """address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset
        figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol option p pre
        section summary table tbody tfoot thead title tr ul""",
    )
)
_CELLS = frozenset({"td", "th"})
_META_KEYS = {
    "author": "author",
    "dc.creator": "author",
    "dc.title": "title",
    "og:title": "title",
    "generator": "producer",
    "date": "created",
    "created": "created",
    "dc.date": "created",
    "dcterms.created": "created",
    "article:published_time": "created",
    "changed": "modified",
    "last-modified": "modified",
    "dcterms.modified": "modified",
    "article:modified_time": "modified",
    "description": "subject",
    "dc.subject": "subject",
}


def read(document: Document) -> Seen:
    """Title, author, dates, language and text of a page."""
    seen = Seen()
    with document.path.open("rb") as file:
        data = read_head(file, document, seen)
    text, encoding, sure = decode(data, declared_encoding(data))
    seen.metadata["encoding"] = encoding
    if not sure:
        seen.findings.append(finding("ENCODING-UNSURE", f"read as {encoding}, which no mark or check confirms"))
    if _ENTITIES.search(data[:65_536].replace(b"\x00", b"")):
        seen.findings.append(finding("UNSAFE-XML", "its DOCTYPE declares entities"))
        return seen
    root = parse_html(text)
    if root is not None:
        _head(root, seen)
        settle(seen, visible_text(root), document.limits)
    return seen


def declared_encoding(data: bytes) -> str | None:
    """The charset that the first 4 KiB of a page declare, as the HTML standard's prescan finds it."""
    head = data[:4096]
    found = _META.search(head) or _DECLARATION.match(head.lstrip())
    return found[1].decode("ascii") if found else None


def html_text(text: str) -> str:
    """The visible text of HTML that is already decoded (a mail, a message)."""
    root = parse_html(text)
    return visible_text(root) if root is not None else ""


def parse_html(text: str) -> Any:
    """The root element, or None when there is no element in it."""
    data = text.replace("\x00", "").encode("utf-8", "replace")
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def visible_text(root: Any) -> str:
    """Text in document order; a line for each block, a tab between the cells of a row."""
    pieces: list[str] = []
    skipping: Any = None
    pre = 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        tag = element.tag
        if event == "start":
            if skipping is None and tag in _SKIPPED:
                skipping = element
            if tag in _BLOCKS:
                pieces.append("\n")
            elif tag in _CELLS:
                pieces.append("\t")
            pre += tag == "pre"
            if skipping is None and element.text:
                pieces.append(element.text if pre else _SPACE.sub(" ", element.text))
            continue
        pre -= tag == "pre"
        if skipping is element:
            skipping = None
        if tag in _BLOCKS:
            pieces.append("\n")
        if skipping is None and element.tail:
            pieces.append(element.tail if pre else _SPACE.sub(" ", element.tail))
    lines = (re.sub(" *\t[ \t]*", "\t", line).strip() for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _head(root: Any, seen: Seen) -> None:
    title = root.find(".//title")
    if title is not None and (words := _SPACE.sub(" ", "".join(title.itertext())).strip()):
        seen.metadata["title"] = words[:1000]
    if found := _LANGUAGE.match(root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang") or ""):
        seen.metadata["language"] = found[0].lower()
    for meta in root.iter("meta"):
        name = (meta.get("name") or meta.get("property") or meta.get("http-equiv") or "").strip().lower()
        content = _SPACE.sub(" ", meta.get("content") or "").strip()[:2000]
        if not content:
            continue
        if name == "keywords":
            seen.metadata["keywords"] = [word.strip() for word in re.split("[,;]", content) if word.strip()]
        elif key := _META_KEYS.get(name):
            if key in {"created", "modified"}:
                content = iso_date(content) or ""
            if content:
                seen.metadata.setdefault(key, content)
