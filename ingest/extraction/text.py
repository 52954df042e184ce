"""Plain text, and the last step of every text-bearing reader: order, language, the length limit.

Rules of this module:
- Encodings are told in ingest.extraction.encoding, languages in ingest.extraction.language.
- `settle` is the one place where text enters a `Seen`, so that what the package promises of text (logical
  order, no NUL, no lone surrogate, bounded) is kept in one place.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from ingest.extraction import Document, Seen
from ingest.extraction.encoding import decode, detect
from ingest.extraction.language import language_of
from ingest.model import Limits, finding

__all__ = ["clean", "decode", "detect", "read", "read_head", "settle", "text_limit"]

_UNFIT = re.compile("[\x00\ud800-\udfff]")


def read(document: Document) -> Seen:
    """Text, its encoding and language. Reads at most four bytes for each character of the limit."""
    seen = Seen()
    with document.path.open("rb") as file:
        text, encoding, sure = detect(read_head(file, document, seen))
    seen.metadata["encoding"] = encoding
    if not sure:
        seen.findings.append(finding("ENCODING-UNSURE", f"read as {encoding}, which no mark or check confirms"))
    settle(seen, text, document.limits)
    return seen


def read_head(file: BinaryIO, document: Document, seen: Seen) -> bytes:
    """As many bytes as may hold `limits.text_chars` characters, ended at a line; TEXT-LIMIT if more."""
    limit = document.limits.text_chars * 4
    data = file.read(limit)
    if len(data) == limit and file.read(1):
        text_limit(seen, f"only its first {limit:,} bytes are searched")
        cut = data.rfind(b"\n", limit - 4096) + 1
        data = data[: cut or limit - limit % 4]
    return data


def settle(seen: Seen, text: str, limits: Limits) -> None:
    """Put `text` into `seen` as the package promises: logical order, no NUL, no surrogate, bounded.

    Records the language where it is plain, and VISUAL-ORDER when right-to-left text had to be turned round.
    """
    text = clean(text)
    if len(text) > limits.text_chars:
        text_limit(seen, f"only the first {limits.text_chars:,} of its {len(text):,} characters are searched")
        text = text[: limits.text_chars]
    if not text.isascii() and re.search("[\u05d0-\u05ea\u0621-\u064a]", text):
        from ingest.extraction import hebrew

        if hebrew.is_visual(text):
            text = hebrew.to_logical(text)
            seen.metadata["visual_order_mended"] = True
            seen.findings.append(finding("VISUAL-ORDER", "final letters stood at the beginnings of its words"))
    seen.text = text
    if "language" not in seen.metadata and (language := language_of(text)):
        seen.metadata["language"] = language


def clean(text: str) -> str:
    """`text` without NUL and with U+FFFD for lone surrogates, which no database and no JSON takes."""
    if "\x00" in text or not _encodable(text):
        text = _UNFIT.sub(lambda found: "" if found[0] == "\x00" else "\ufffd", text)
    return text


def text_limit(seen: Seen, message: str) -> None:
    """Add TEXT-LIMIT to `seen`, once."""
    if not any(found.code == "TEXT-LIMIT" for found in seen.findings):
        seen.findings.append(finding("TEXT-LIMIT", message))


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
