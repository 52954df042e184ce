"""One document, whole: identified, read by its reader, its children read in turn, findings gathered.

Rules of this module:
- Always answers with an Extraction. What a reader could not do is a finding; what it did is kept.
- A reader's exception is EXTRACTION-CRASHED: logged by type and place in the code, never with content.
- One budget of seconds, unpacked bytes and children for a document and everything inside it.
- A child's name is a bare file name; its bytes lie in the scratch folder under a generated name or the
  reader's, never outside.
- Text and metadata leave here as valid UTF-8 without NUL, within the limits, JSON values only.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from uuid import uuid4

from ingest.extraction import READERS, Document, Embedded, Seen
from ingest.extraction.formats import EMPTY, UNKNOWN, is_textual
from ingest.extraction.identify import identify, mismatch
from ingest.model import METADATA_KEYS, Extraction, Finding, Identification, Json, Limits, Severity, finding

log = logging.getLogger(__name__)

# These say of themselves why there is no text.
_NO_TEXT_EXPECTED = frozenset(
    [
        "PDF-ENCRYPTED",
        "ENCRYPTED",
        "DAMAGED",
        "TRUNCATED",
        "SCANNED",
        "EXTRACTION-CRASHED",
        "UNSAFE-XML",
        "TIME-LIMIT",
        "MEMORY-LIMIT",
        "EXPANSION-LIMIT",
        "EMPTY",
        "UNREADABLE",
        "VANISHED",
    ]
)


@dataclass(slots=True)
class _Budget:
    """The limits, and what is left of them for a document and everything inside it."""

    limits: Limits
    scratch: Path
    deadline: float  # time.monotonic()
    bytes: int
    children: int

    def left(self) -> Limits:
        return replace(
            self.limits,
            seconds=max(0.1, self.deadline - time.monotonic()),
            expanded_bytes=self.bytes,
            children=self.children,
        )


def extract(path: Path, name: str, limits: Limits, scratch: Path) -> Extraction:
    """Everything that can be seen in the document at `path`. Children are written below `scratch`."""
    deadline = time.monotonic() + limits.seconds
    return _extract(path, name, _Budget(limits, scratch, deadline, limits.expanded_bytes, limits.children), depth=0)


def unread(path: Path, name: str, identification: Identification | None, verdict: Finding) -> Extraction:
    """The extraction of a document that no reader survived: its bytes are known and nothing else."""
    try:
        digest, size = _digest(path)
    except OSError:
        digest, size = b"", 0
    if identification is None:
        identification = Identification(UNKNOWN, None, None, 0, note="identification did not survive it")
    return Extraction(_bare(name), path, digest, size, identification, findings=(verdict,))


def _extract(path: Path, name: str, budget: _Budget, depth: int) -> Extraction:
    started = time.monotonic()
    try:
        digest, size = _digest(path)
        identification = identify(path, name)
    except FileNotFoundError:
        return unread(path, name, None, finding("VANISHED", "It was listed, and is gone."))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return unread(path, name, None, finding("UNREADABLE", f"Reading failed: {reason}."))
    findings = _name_findings(name)
    seen = Seen()
    reader = _reader(identification.mime)
    if identification.mime == EMPTY:
        # An empty attachment is a fact about its message, not a reason to refuse the message.
        empty = finding("EMPTY", "It has 0 bytes.")
        findings.append(replace(empty, severity=Severity.WARN) if depth else empty)
    else:
        findings += _identity_findings(identification, reader)
        if identification.mime == "application/zip" and not reader and not _whole_zip(path):
            findings.append(finding("DAMAGED", "The directory of the ZIP archive cannot be read."))
    if reader:
        document = Document(path, name, identification.mime, budget.left(), _folder(budget.scratch))
        seen = _read(reader, document, findings)
        if not seen.children:
            shutil.rmtree(document.scratch, ignore_errors=True)
    text, cut = _text(seen.text, budget.limits.text_chars)
    findings += seen.findings + ([cut] if cut else [])
    children = _children(seen.children, budget, depth, findings)
    if reader and not _has_text(identification.mime, text, seen, findings):
        findings.append(finding("TEXT-EMPTY", "No words were found in it."))
    return Extraction(
        name=_bare(name),
        path=path,
        sha256=digest,
        size=size,
        identification=identification,
        metadata=_metadata(seen.metadata, reader),
        text=text,
        findings=tuple(dict.fromkeys(findings)),
        children=children,
        seconds=round(time.monotonic() - started, 4),
    )


# --- reading -----------------------------------------------------------------------------------------------


def _reader(mime: str) -> str | None:
    return READERS.get(mime) or ("text" if is_textual(mime) else None)


def _identity_findings(identification: Identification, reader: str | None) -> list[Finding]:
    found = []
    mime = identification.mime
    if mismatch(identification):
        claim = f"The extension claims {identification.extension_mime}; the content is {mime}."
        found.append(finding("MIME-MISMATCH", claim))
    if mime == UNKNOWN:
        found.append(finding("FORMAT-UNKNOWN", "Its first bytes are those of no known format."))
    elif reader is None:
        found.append(finding("FORMAT-UNSUPPORTED", f"No reader for {mime} yet."))
    return found


def _whole_zip(path: Path) -> bool:
    """True if its directory is there and its members begin where it says. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 66_000))  # the end record and the longest comment
            tail = file.read()
            end = tail[tail.rfind(b"PK\x05\x06") :]
            if _u16(end, 10) not in (len(archive.infolist()), 0xFFFF):  # 0xFFFF: the ZIP64 record counts
                return False
            for member in archive.infolist():
                file.seek(member.header_offset)
                header = file.read(30)
                if header[:4] != b"PK\x03\x04" or _u16(header, 8) != member.compress_type:
                    return False
                file.seek(member.header_offset + 30)
                name = file.read(_u16(header, 26)).decode("utf-8" if member.flag_bits & 0x800 else "cp437")
                if name != member.orig_filename:
                    return False
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, struct.error):
        return False
    return True


def _u16(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 2], "little")


def _name_findings(name: str) -> list[Finding]:
    found = []
    if any("\ud800" <= character <= "\udfff" for character in name):
        found.append(finding("NAME-NOT-UTF8", "Its name is kept as the bytes that they are."))
    if any(character < " " or character == "\x7f" for character in name):
        found.append(finding("NAME-CONTROL", "Its name holds control characters, such as a line break."))
    return found


def _folder(scratch: Path) -> Path:
    """A name that no other document has; `Document.child` makes the folder."""
    return scratch / f"c-{uuid4().hex}"


def _read(reader: str, document: Document, findings: list[Finding]) -> Seen:
    try:
        seen: Seen = importlib.import_module(f"ingest.extraction.{reader}").read(document)
        return seen
    except MemoryError:
        findings.append(finding("MEMORY-LIMIT", f"Reader {reader}: over {document.limits.memory:,} bytes."))
    except Exception as error:
        findings.append(finding("EXTRACTION-CRASHED", f"Reader {reader} failed with {type(error).__name__}."))
        log.error("reader %s failed: %s at %s", reader, type(error).__name__, _place(error))
    return Seen()


def _place(error: BaseException) -> str:
    """File and line of the innermost frame: enough to mend the reader, and nothing of the document."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}", trace.tb_next
    return place


def _has_text(mime: str, text: str, seen: Seen, findings: list[Finding]) -> bool:
    if text.strip() or seen.children or mime.startswith("image/"):
        return True
    return any(item.code in _NO_TEXT_EXPECTED for item in findings)


# --- children ----------------------------------------------------------------------------------------------


def _children(embedded: list[Embedded], budget: _Budget, depth: int, findings: list[Finding]) -> tuple[Extraction, ...]:
    if embedded and depth >= budget.limits.nesting:
        told = f"Documents are nested deeper than {budget.limits.nesting} levels."
        findings.append(finding("NESTING-LIMIT", told))
        return ()
    children: list[Extraction] = []
    for child in embedded:
        stop = _over(budget, child)
        if stop:
            findings.append(stop)
            break
        children.append(_extract(child.path, child.name, budget, depth + 1))
    return tuple(children)


def _over(budget: _Budget, child: Embedded) -> Finding | None:
    """The limit that `child` would exceed, if any; otherwise its cost is taken from the budget."""
    limits = budget.limits
    if budget.children < 1:
        return finding("CHILD-LIMIT", f"Only the first {limits.children:,} of its documents were made records.")
    try:
        size = child.path.stat(follow_symlinks=False).st_size
    except OSError:
        size = 0  # _extract says what is wrong with it
    if size > budget.bytes:
        return finding("EXPANSION-LIMIT", f"Unpacks to more than {limits.expanded_bytes:,} bytes.")
    if time.monotonic() > budget.deadline:
        return finding("TIME-LIMIT", f"Reading all it holds takes longer than {limits.seconds:g} s.")
    budget.children -= 1
    budget.bytes -= size
    return None


def _bare(name: str) -> str:
    """The file name alone: folders, drive letters and dot names of whoever made the archive are dropped."""
    bare = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name
    return bare if bare not in ("", ".", "..") else "unnamed"


# --- what leaves -------------------------------------------------------------------------------------------


def _digest(path: Path) -> tuple[bytes, int]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no regular file")  # a pipe or a device would never end
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return digest, file.tell()


def _text(text: str, most: int) -> tuple[str, Finding | None]:
    text = _utf8(text)
    if len(text) <= most:
        return text, None
    return text[:most], finding("TEXT-LIMIT", f"It has {len(text):,} characters; {most:,} were kept.")


def _utf8(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Halves of a pair that stand together become their character; a half alone becomes U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _metadata(seen: Mapping[str, Json], reader: str | None) -> dict[str, Json]:
    known: dict[str, Json] = {}
    for key, value in seen.items():
        if key in METADATA_KEYS:
            if value is not None:
                known[key] = _json(value)
        else:
            log.error("reader %s gave metadata of the unknown name %r; it was dropped", reader, key)
    return known


def _json(value: object) -> Json:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return _utf8(str(value))
        case Mapping():
            return {_utf8(str(key)): _json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json(inner) for inner in value]
        case _:
            return _utf8(str(value))
