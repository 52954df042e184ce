"""Is this bag whole? BagIt 1.0 (RFC 8493) and our profile, checked over every byte.

Rules of this module:
- Everything that is wrong is reported, each with a code; nothing is changed.
- No size, digest or name in the bag is believed. No link is followed, no path outside the bag is opened, no XML
  entity is read: a bag may come from anybody.
- Silence would be failure: a file that no manifest lists, or that only one of two lists, is a finding.

| code | meaning |
|---|---|
| BAG-DECLARATION | bagit.txt is not that of a bag of version 1.0 in UTF-8 |
| BAG-INFO | bag-info.txt is missing, or has a line that is no label |
| BAG-OXUM | Payload-Oxum is not what the payload is |
| BAG-MANIFEST | a manifest is missing, not UTF-8, or has a line that is none, or a path twice |
| BAG-PATH | a path leads outside, or a link or special file stands in the bag |
| BAG-MISSING | listed and not there |
| BAG-UNLISTED | there, and not in every manifest of its kind |
| BAG-DAMAGED | the bytes are not those of the digest |
| BAG-PROFILE | not as the profile wants it |
| BAG-PREMIS | metadata/premis.xml is not valid PREMIS 3 |
| BAG-LIST | metadata/nara.psv does not list exactly the payload |
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from retention.errors import NotFound
from retention.packages import premis
from retention.packages.bags import ALGORITHMS, DECLARATION, Finding, decoded, digested, tags, within

_LENGTHS = {"sha256": 64, "sha512": 128}
_LINE = re.compile(r"([0-9A-Fa-f]+)[ \t]+(.+)")
_OWN = re.compile(r"bagit\.txt|bag-info\.txt|fetch\.txt|(tag)?manifest-[a-z0-9]+\.txt|data/.*", re.DOTALL)
_OXUM = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")

Digests = dict[str, dict[str, bytes]]  # path -> algorithm -> digest


def verify_bag(path: Path, threads: int = 4) -> tuple[Finding, ...]:
    """Everything that is wrong with the bag at `path`; empty if nothing is. Reads all of it, in parallel.

    Memory grows with the number of files (about 1 KB each), not with their size. Raises NotFound."""
    if not path.is_dir():
        raise NotFound(f"{path}: no folder is there. Expected a bag.")
    found: list[Finding] = []
    there = frozenset(_files(path, found))
    listed = _listed(path, there, found)
    found += _against(there, listed)
    sizes: dict[str, int] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix="bag") as pool:
        for name, size, wrong in pool.map(
            lambda name: _compare(path, name, listed[name]), sorted(there & listed.keys())
        ):
            sizes[name] = size
            found += wrong
    info = _declared(path, there, found)
    found += _oxum(info, [size for name, size in sizes.items() if name.startswith("data/")])
    found += conforms(info, there, profile())
    if "metadata/premis.xml" in there:
        found += [Finding("BAG-PREMIS", problem) for problem in premis.problems(path / "metadata/premis.xml")]
    if "metadata/nara.psv" in there:
        found += _list_of_files(path / "metadata/nara.psv", {name for name in there if name.startswith("data/")})
    return tuple(found)


# ---------------------------------------------------------------- the profile


@cache
def profile() -> Mapping[str, Any]:
    """The BagIt profile that this archive writes to (BagIt Profiles 1.3)."""
    found: dict[str, Any] = json.loads(profile_file())
    return found


def profile_file() -> bytes:
    return (resources.files("retention.packages") / "muniment-bag-1.0.json").read_bytes()


def conforms(info: Mapping[str, list[str]], files: Collection[str], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """What the profile `wanted` finds wrong with labels and names of files; their bytes are not its matter."""
    for label, rule in wanted["Bag-Info"].items():
        yield from _label(label, info.get(label, []), rule)
    top = {name for name in files if "/" not in name}
    for kind, prefix in (("Manifests", "manifest-"), ("Tag-Manifests", "tagmanifest-")):
        manifests = {name.removeprefix(prefix).removesuffix(".txt") for name in top if name.startswith(prefix)}
        for missing in sorted(set(wanted[f"{kind}-Required"]) - manifests):
            yield Finding("BAG-PROFILE", f"{prefix}{missing}.txt is missing")
        for other in sorted(manifests - set(wanted[f"{kind}-Allowed"])):
            yield Finding("BAG-PROFILE", f"{prefix}{other}.txt is not allowed")
    for missing in sorted(set(wanted["Tag-Files-Required"]) - set(files)):
        yield Finding("BAG-PROFILE", f"{missing} is missing")
    for name in sorted(files):
        if not _OWN.fullmatch(name) and not any(fnmatchcase(name, glob) for glob in wanted["Tag-Files-Allowed"]):
            yield Finding("BAG-PROFILE", "a tag file that is not allowed", path=name)
    if not wanted["Allow-Fetch.txt"] and "fetch.txt" in files:
        yield Finding("BAG-PROFILE", "fetch.txt is not allowed: everything is in the bag itself")


def _label(label: str, values: list[str], rule: Mapping[str, Any]) -> Iterator[Finding]:
    if rule["required"] and not any(values):
        yield Finding("BAG-PROFILE", f"bag-info.txt: {label} is missing")
    if not rule["repeatable"] and len(values) > 1:
        yield Finding("BAG-PROFILE", f"bag-info.txt: {label} stands {len(values)} times, expected once")
    allowed = rule.get("values", values)
    for value in values:
        if value not in allowed:
            yield Finding(
                "BAG-PROFILE", f"bag-info.txt: {label}: expected {' or '.join(allowed)}, found {value[:80]!r}"
            )


# ---------------------------------------------------------------- manifests and files


def _files(bag: Path, found: list[Finding]) -> Iterator[str]:
    """Every file of the bag, with slashes; links and special files are findings instead."""
    for folder, folders, names in os.walk(bag):
        here = Path(folder)
        for name in [*names, *folders]:
            at = here / name
            path = at.relative_to(bag).as_posix()
            if at.is_symlink() or not (at.is_file() or at.is_dir()):
                found.append(Finding("BAG-PATH", "a link or special file; nothing but files is in a bag", path=path))
            elif at.is_file():
                yield path


def _listed(bag: Path, there: Collection[str], found: list[Finding]) -> Digests:
    listed: Digests = {}
    for algorithm in ALGORITHMS:
        for name in (f"manifest-{algorithm}.txt", f"tagmanifest-{algorithm}.txt"):
            if name not in there:
                found.append(Finding("BAG-MANIFEST", f"{name} is missing"))
                continue
            for number, path, digest in _lines(bag / name, algorithm, found):
                if name.startswith("manifest") != path.startswith("data/") or not within(path):
                    found.append(Finding("BAG-PATH", f"{name}, line {number}: leads where it may not", path=path))
                elif algorithm in listed.setdefault(path, {}):
                    found.append(
                        Finding("BAG-MANIFEST", f"{name}, line {number}: a path for the second time", path=path)
                    )
                else:
                    listed[path][algorithm] = digest
    return listed


def _lines(manifest: Path, algorithm: str, found: list[Finding]) -> Iterator[tuple[int, str, bytes]]:
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(file, 1):
                parts = _LINE.fullmatch(line.rstrip("\r\n"))
                if parts is None or len(parts[1]) != _LENGTHS[algorithm]:
                    wanted = f"{_LENGTHS[algorithm]} hexadecimal digits and a path"
                    found.append(Finding("BAG-MANIFEST", f"{manifest.name}, line {number}: expected {wanted}"))
                else:
                    yield number, decoded(parts[2]), bytes.fromhex(parts[1])
    except UnicodeDecodeError as error:
        found.append(Finding("BAG-MANIFEST", f"{manifest.name} is not UTF-8 ({error.reason} at byte {error.start})"))


def _against(there: Collection[str], listed: Digests) -> Iterator[Finding]:
    for path in sorted(listed.keys() - there):
        yield Finding("BAG-MISSING", "listed, and not there", path=path)
    for path in sorted(there):
        missing = [algorithm for algorithm in ALGORITHMS if algorithm not in listed.get(path, {})]
        if missing and not (path.startswith("tagmanifest-") and "/" not in path):
            yield Finding("BAG-UNLISTED", f"there, and not listed under {' and '.join(missing)}", path=path)
    seen: dict[str, str] = {}
    for path in sorted(there):
        other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            yield Finding("BAG-PATH", "two names that other systems take for one", path=path)


def _compare(bag: Path, path: str, wanted: Mapping[str, bytes]) -> tuple[str, int, list[Finding]]:
    file = digested(bag, path)
    wrong = []
    for algorithm, digest in wanted.items():
        seen: bytes = getattr(file, algorithm)
        if seen != digest:
            told = f"{algorithm}: expected {digest.hex()}, found {seen.hex()}"
            wrong.append(Finding("BAG-DAMAGED", told, path=path))
    return path, file.size, wrong


def _declared(bag: Path, there: Collection[str], found: list[Finding]) -> dict[str, list[str]]:
    declaration = (bag / "bagit.txt").read_bytes() if "bagit.txt" in there else b""
    if declaration.replace(b"\r\n", b"\n") != DECLARATION.encode():
        found.append(Finding("BAG-DECLARATION", f"bagit.txt: expected {DECLARATION!r}, found {declaration[:80]!r}"))
    try:
        return tags((bag / "bag-info.txt").read_text("utf-8")) if "bag-info.txt" in there else {}
    except ValueError as error:
        found.append(Finding("BAG-INFO", f"bag-info.txt: {error}"))
        return {}


def _oxum(info: Mapping[str, list[str]], sizes: Collection[int]) -> Iterator[Finding]:
    """RFC 8493 §2.2.2: octets of the payload, a dot, number of its files."""
    for value in info.get("Payload-Oxum", []):
        if not _OXUM.fullmatch(value) or value != f"{sum(sizes)}.{len(sizes)}":
            yield Finding("BAG-OXUM", f"Payload-Oxum: expected {sum(sizes)}.{len(sizes)}, found {value[:40]!r}")


def _list_of_files(listing: Path, payload: Collection[str]) -> Iterator[Finding]:
    try:
        with listing.open(encoding="utf-8", newline="") as file:
            named = [row.get("File Path") or "" for row in csv.DictReader(file, delimiter="|", strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        yield Finding("BAG-LIST", f"metadata/nara.psv: cannot be read ({error})")
        return
    if len(named) != len(set(named)):
        yield Finding("BAG-LIST", f"metadata/nara.psv: {len(named) - len(set(named))} files are listed twice")
    for path in sorted(set(payload) - set(named)):
        yield Finding("BAG-LIST", "metadata/nara.psv does not list it", path=path)
    for path in sorted(set(named) - set(payload)):
        yield Finding("BAG-LIST", "metadata/nara.psv lists it, and it is not there", path=path)
