"""What the first and last bytes of a PDF say, before any parser is asked.

Rules of this module:
- A few kilobytes from both ends are read, and the place `startxref` points to; never the whole file.
- Faults are told in our words and never quote the document.
- Sources: ISO 32000-2, 7.5.2 (header), 7.5.5 (trailer), Annex F (linearization); that `%PDF-` may stand in
  the first and `%%EOF` in the last 1,024 bytes is what readers accept (ISO 32000-1, Annex H.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_WINDOW = 1024
_SEARCHED = 64 * 1024  # bytes at the end in which the last trailer is looked for
_KNOWN_VERSIONS = frozenset({b"1.0", b"1.1", b"1.2", b"1.3", b"1.4", b"1.5", b"1.6", b"1.7", b"2.0"})


@dataclass(frozen=True, slots=True)
class Ends:
    """What is wrong at the ends of a file."""

    cut: str = ""  # why it must have been longer once, if so
    faults: tuple[str, ...] = ()  # what a reader must repair


def ends(path: Path) -> Ends:
    """Look at both ends of the PDF at `path`."""
    with path.open("rb") as file:
        head = file.read(_WINDOW + 16)
        size = file.seek(0, 2)
        file.seek(max(0, size - _SEARCHED))
        tail = file.read()
        cut = _linearized_cut(head, size)
        faults = _header(head)
        pointer = _last_pointer(tail)
        marked = b"%%EOF" in tail[-_WINDOW:]
        if not marked and pointer is None and not cut:
            cut = "it ends without the cross-reference pointer and the end mark of a PDF"
        elif not marked:
            late = b"%%EOF" in tail
            faults.append(f"{'over 1,024 bytes follow' if late else 'it lacks'} the end mark")
        if pointer is None and marked:
            faults.append("it has no pointer to its cross-reference table")
        if pointer is not None:
            junk = max(0, head.find(b"%PDF-"))  # offsets count from the header, not from the junk before it
            if pointer > size:
                cut = cut or f"its cross-reference table should begin at byte {pointer:,} of {size:,}"
            elif not _is_xref(path, pointer) and not (junk and _is_xref(path, pointer + junk)):
                faults.append("its cross-reference table is not where it should be")
    return Ends(cut, tuple(faults + _after_the_end(tail)))


def _header(head: bytes) -> list[str]:
    found = re.search(rb"%PDF-(\d\.\d)?", head)
    if not found:
        return ["its header is not that of a PDF"]
    faults = [f"{found.start():,} bytes stand before its header"] if found.start() else []
    if found.group(1) not in _KNOWN_VERSIONS:
        faults.append("its header names no known version")
    return faults


def _last_pointer(tail: bytes) -> int | None:
    pointers = re.findall(rb"startxref\s+(\d{1,15})\b", tail)
    return int(pointers[-1]) if pointers else None


def _is_xref(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return re.match(rb"\s*(?:xref\b|\d+\s+\d+\s+obj\b)", file.read(64)) is not None


def _linearized_cut(head: bytes, size: int) -> str:
    found = re.search(rb"/Linearized\b[^>]{0,400}?/L\s+(\d{1,15})\b", head)
    if found and int(found.group(1)) > size:
        return f"its first page says that it has {int(found.group(1)):,} bytes, and it has {size:,}"
    return ""


def _after_the_end(tail: bytes) -> list[str]:
    mark = tail.rfind(b"%%EOF")
    if mark < 0:
        return []
    faults = []
    rest = tail[mark + 5 :].strip(b"\r\n\t \0\x1a")
    if rest:
        faults.append("bytes follow its end mark")
    if mark and tail[mark - 1 : mark] not in (b"\r", b"\n", b" ", b"\t", b"\0"):
        faults.append("its end mark does not stand on a line of its own")
    return faults
