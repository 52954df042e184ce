"""Write an OLE2 compound file ([MS-CFB] version 3): a message inside a message becomes a file of its own.

Rules of this module:
- Pure: a tree of names and bytes in, the bytes of a file out; the same tree gives the same bytes.
- No library we have writes this format; olefile, which reads it, is the test of what is written here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Tree: TypeAlias = "Mapping[str, bytes | Tree]"

_SECTOR = 512
_MINI = 64
_CUTOFF = 4096  # streams shorter than this live in the mini stream
_FREE, _END, _FAT, _DIFAT, _NONE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC, 0xFFFFFFFF
_STORAGE, _STREAM, _ROOT = 1, 2, 5
_RED, _BLACK = 0, 1


@dataclass(slots=True)
class _Entry:
    name: str
    kind: int
    data: bytes = b""
    left: int = _NONE
    right: int = _NONE
    child: int = _NONE
    color: int = _BLACK
    start: int = _END
    size: int = 0


def compound_file(tree: Tree) -> bytes:
    """The bytes of a compound file with the storages (mappings) and streams (bytes) of `tree`.

    Raises ValueError for a name longer than 31 UTF-16 units.
    """
    entries = [_Entry("Root Entry", _ROOT)]
    entries[0].child = _add(tree, entries)
    sectors: list[bytes] = []
    chains: list[int] = []  # the FAT, as far as it is known
    mini = bytearray()
    mini_fat: list[int] = []
    for entry in entries[1:]:
        entry.size = len(entry.data)
        if entry.kind != _STREAM or not entry.data:
            continue
        if entry.size < _CUTOFF:
            entry.start = len(mini_fat)
            count = -(-entry.size // _MINI)
            mini_fat += [*range(entry.start + 1, entry.start + count), _END]
            mini += entry.data.ljust(count * _MINI, b"\x00")
        else:
            entry.start = _append(entry.data, sectors, chains)
    root = entries[0]
    root.size = len(mini)
    root.start = _append(bytes(mini), sectors, chains)
    mini_start = _append(_numbers(mini_fat), sectors, chains)
    directory = _append(b"".join(map(_pack, entries)), sectors, chains, _pack(_Entry("", 0)))
    return _assemble(sectors, chains, directory, mini_start, -(-len(mini_fat) * 4 // _SECTOR))


def _add(tree: Tree, entries: list[_Entry]) -> int:
    """Append the entries of a storage as a balanced search tree; the index of its root."""
    indexes: list[int] = []
    # [MS-CFB] 2.6.4: shorter names first, then by upper case
    for name in sorted(tree, key=lambda name: (len(name.encode("utf-16-le")), name.upper())):
        value = tree[name]
        indexes.append(len(entries))
        entries.append(_Entry(name, _STREAM if isinstance(value, bytes) else _STORAGE))
        if isinstance(value, bytes):
            entries[-1].data = value
        else:
            entries[indexes[-1]].child = _add(value, entries)
    deepest = len(indexes).bit_length()

    def balance(part: list[int], level: int) -> int:
        if not part:
            return _NONE
        middle = len(part) // 2
        entry = entries[part[middle]]
        entry.color = _RED if level == deepest and level > 1 else _BLACK
        entry.left = balance(part[:middle], level + 1)
        entry.right = balance(part[middle + 1 :], level + 1)
        return part[middle]

    return balance(indexes, 1)


def _append(data: bytes, sectors: list[bytes], chains: list[int], filler: bytes = b"\x00") -> int:
    """Add `data` as a chain of sectors; the number of its first."""
    if not data:
        return _END
    start = len(sectors)
    count = -(-len(data) // _SECTOR)
    missing = count * _SECTOR - len(data)
    data += (filler * (missing // len(filler) + 1))[:missing]
    sectors += [data[at : at + _SECTOR] for at in range(0, len(data), _SECTOR)]
    chains += [*range(start + 1, start + count), _END]
    return start


def _pack(entry: _Entry) -> bytes:
    name = entry.name.encode("utf-16-le")
    if len(name) > 62:
        raise ValueError(f"a name in a compound file has at most 31 characters, found {entry.name!r}")
    return struct.pack(
        "<64sHBBIII16sIQQIQ",
        name,
        len(name) + 2 if entry.kind else 0,
        entry.kind,
        entry.color,
        entry.left,
        entry.right,
        entry.child,
        b"\x00" * 16,
        0,
        0,
        0,
        entry.start if entry.kind != _STORAGE else 0,
        entry.size,
    )


def _assemble(sectors: list[bytes], chains: list[int], directory: int, mini_start: int, mini_count: int) -> bytes:
    per = _SECTOR // 4
    fat_count = difat_count = 0
    while True:  # the tables describe their own sectors too
        total = len(sectors) + fat_count + difat_count
        fat_needed = -(-total // per)
        difat_needed = -(-max(0, fat_needed - 109) // (per - 1))
        if (fat_needed, difat_needed) == (fat_count, difat_count):
            break
        fat_count, difat_count = fat_needed, difat_needed
    fat_start = len(sectors)
    difat_start = fat_start + fat_count
    fat = [*chains, *[_FAT] * fat_count, *[_DIFAT] * difat_count]
    fat += [_FREE] * (fat_count * per - len(fat))
    places = list(range(fat_start, fat_start + fat_count))
    rest = places[109:]
    difat: list[int] = []
    for number in range(difat_count):
        part = rest[number * (per - 1) : (number + 1) * (per - 1)]
        following = difat_start + number + 1 if number + 1 < difat_count else _END
        difat += [*part, *[_FREE] * (per - 1 - len(part)), following]
    header = struct.pack(
        "<8s16sHHHHH6sIIIIIIIIII",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"\x00" * 16,
        0x3E,
        3,
        0xFFFE,
        9,
        6,
        b"\x00" * 6,
        0,
        fat_count,
        directory,
        0,
        _CUTOFF,
        mini_start,
        mini_count,
        difat_start if difat_count else _END,
        difat_count,
        places[0] if places else _FREE,
    )
    header += _numbers((places[1:109] + [_FREE] * 108)[:108])
    return b"".join([header, *sectors, _numbers(fat), _numbers(difat)])


def _numbers(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)
