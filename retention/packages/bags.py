"""Bags: BagIt 1.0 (RFC 8493) as this archive writes it.

Rules of this module:
- A bag is a folder whose every file is in two manifests (SHA-256 and SHA-512) and whose manifests are in two tag
  manifests. The SHA-256 of `tagmanifest-sha256.txt` therefore names the bag, to the byte: it is the bag's *digest*.
- `staged` writes beside the place where the bag will stand and renames at the end: what has the bag's name is whole.
  One writer at a time; what a crash left is thrown away by the next.
- No name leaves its folder: `safe_name` makes one that every system can hold.
- A name never holds "%", CR or LF, which RFC 8493 §2.1.3 wants encoded: the Library of Congress's own library
  encodes and decodes only two of the three. Read, all three are understood.

What checks a bag is in check.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256, sha512
from pathlib import Path, PurePosixPath
from uuid import UUID

from retention.errors import Damaged, NotFound, Refused

DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
ALGORITHMS = ("sha256", "sha512")
RECORDS = "data/records"  # one folder a record below it
CHUNK = 1 << 20
MAX_NAME = 120  # characters; with folder and suffix a path stays below NARA's 255 (Bulletin 2015-04, appendix B)
MAX_NAME_BYTES = 180
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])", re.IGNORECASE)
_FORBIDDEN = frozenset('<>:"/\\|?*%')
_UNSEEN = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a bag, or with a record that was to be in one. `path` may name people, `message` not."""

    code: str
    message: str
    record_id: UUID | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One file of a bag; `path` is relative to the bag, with slashes."""

    path: str
    size: int
    sha256: bytes
    sha512: bytes


@dataclass(frozen=True, slots=True)
class Bag:
    """A bag as it stands on disk. `digest` is the SHA-256 of its tagmanifest-sha256.txt."""

    path: Path
    identifier: str
    digest: bytes
    records: tuple[UUID, ...]  # those that have a folder in it, in order
    files: int  # of the payload
    bytes: int
    findings: tuple[Finding, ...] = ()  # records that were to be in it and are not
    again: bool = False  # it stood before, whole, and was not written again


# ---------------------------------------------------------------- names


def safe_name(name: str) -> str:
    """A file name that Windows, macOS and Linux can hold, as near to `name` as may be; NFC; never empty.

    What may not be in a name becomes "_": separators, wildcards, control and invisible characters (a
    right-to-left override makes `fdp.exe` of `exe.pdf`), bytes that are not UTF-8. Names that hide a file, are a
    device of Windows, or could be taken for an option or a formula get a "_" before them. `safe_name` of its own
    result is that result."""
    text = "".join(map(_safe, unicodedata.normalize("NFC", name))).strip(" ").rstrip(" .")
    stem, suffix = _split(text)
    if len(suffix) > 20:
        stem, suffix = text, ""
    stem = stem[: MAX_NAME - len(suffix)]
    while len((stem + suffix).encode()) > MAX_NAME_BYTES:
        stem = stem[:-1]
    text = (stem + suffix).rstrip(" .")
    if not text:
        return "document"
    if text[0] in ".-=+@~" or _RESERVED.fullmatch(text.partition(".")[0].rstrip(" ")):
        # the "_" takes the place of the first character where there is no room for one more
        return "_" + (text if len(text) < MAX_NAME and len(text.encode()) < MAX_NAME_BYTES else text[1:])
    return text


def _safe(character: str) -> str:
    kind = unicodedata.category(character)
    if character in _FORBIDDEN or kind in _UNSEEN:
        return "_"
    return " " if kind == "Zs" else character


def _split(text: str) -> tuple[str, str]:
    dot = text.rfind(".")
    return (text[:dot], text[dot:]) if dot > 0 else (text, "")


def encoded(path: str) -> str:
    """A path as a manifest holds it (RFC 8493 §2.1.3)."""
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def decoded(path: str) -> str:
    return re.sub("%(25|0D|0A)", lambda found: bytes.fromhex(found[1]).decode(), path, flags=re.IGNORECASE)


def within(path: str) -> bool:
    """True if a path of a manifest stays in the bag."""
    parts = path.split("/")
    return not (path.startswith(("/", "~")) or "\\" in path or "\0" in path or {"", ".", ".."} & set(parts))


# ---------------------------------------------------------------- writing


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write a bag into; it takes the name of `target` at the end of the block.

    A folder that stood there before is replaced. Raises Refused if another process writes the same bag. If the
    block raises, nothing has changed and nothing is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder, former = (target.with_name(f".{target.name}.{end}") for end in ("partial", "former"))
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(lock).st_ino == folder.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise Refused(f"refusing to write {target}: another process is writing it. Wait until it has ended.")
        try:
            _empty(folder)
            yield folder
            sync(folder)
            shutil.rmtree(former, ignore_errors=True)
            with suppress(FileNotFoundError):
                target.rename(former)
            folder.rename(target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        os.close(lock)


def seal_tags(folder: Path, info: Sequence[tuple[str, str]]) -> bytes:
    """Write bagit.txt, bag-info.txt and the tag manifests of a bag that has all else; returns the bag's digest."""
    write(folder / "bagit.txt", DECLARATION.encode())
    write(folder / "bag-info.txt", "".join(f"{name}: {_one_line(value)}\n" for name, value in info).encode())
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.iterdir() if p.is_file())
    paths += sorted(p.relative_to(folder).as_posix() for p in (folder / "metadata").rglob("*") if p.is_file())
    listed = [digested(folder, path) for path in paths]
    for algorithm in ALGORITHMS:
        lines = "".join(manifest_line(algorithm, file) for file in listed)
        write(folder / f"tagmanifest-{algorithm}.txt", lines.encode())
    return sha256((folder / "tagmanifest-sha256.txt").read_bytes()).digest()


def manifest_line(algorithm: str, file: File) -> str:
    digest: bytes = getattr(file, algorithm)
    return f"{digest.hex()}  {encoded(file.path)}\n"


def write(path: Path, content: bytes) -> None:
    """Durable when it returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def digested(folder: Path, path: str) -> File:
    """The file at `path` of the bag in `folder`, read in chunks. A link is not followed."""
    one, other, size = sha256(), sha512(), 0
    descriptor = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        while block := stream.read(CHUNK):
            one.update(block)
            other.update(block)
            size += len(block)
    return File(path, size, one.digest(), other.digest())


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- reading


def read_bag(path: Path) -> Bag:
    """The bag at `path` as its tag files describe it; no payload is read (`check` does that).

    Raises NotFound if there is none, Damaged if its tag files cannot be read."""
    if not (path / "bagit.txt").is_file():
        raise NotFound(f"{path}: no bag is there. Expected a folder with bagit.txt.")
    try:
        info = tags((path / "bag-info.txt").read_text("utf-8"))
        octets, _, files = info["Payload-Oxum"][0].partition(".")
        missed = path / "metadata" / "not-included.jsonl"
        lines = [json.loads(line) for line in missed.read_text("utf-8").splitlines()] if missed.exists() else []
        with (path / "manifest-sha256.txt").open(encoding="utf-8") as manifest:
            listed = (PurePosixPath(line.split(maxsplit=1)[1]).parts for line in manifest)
            records = dict.fromkeys(UUID(p[2]) for p in listed if len(p) > 3 and p[:2] == ("data", "records"))
        return Bag(
            path=path,
            identifier=info["External-Identifier"][0],
            digest=sha256((path / "tagmanifest-sha256.txt").read_bytes()).digest(),
            records=tuple(records),
            files=int(files),
            bytes=int(octets),
            findings=tuple(Finding(one["code"], one["message"], UUID(one["record_id"])) for one in lines),
            again=True,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Damaged(f"{path}: its tag files are not those of a bag of ours ({error}). Write it anew.") from None


def tags(text: str) -> dict[str, list[str]]:
    """The values of each label of bag-info.txt, in order. Raises ValueError for a line that is none."""
    found: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in text.splitlines():
        if line[:1] in {" ", "\t"} and last:
            last[-1] += " " + line.strip()  # RFC 8493 §2.2.2: a long value goes on, indented
            continue
        label, colon, value = line.partition(":")
        if not colon or not label.strip():
            raise ValueError(f"expected Label: value, found {line[:80]!r}")
        last = found.setdefault(label.strip(), [])
        last.append(value.strip())
    return found
