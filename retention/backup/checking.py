"""Whether the recovery points of a second vault could be restored: read, without restoring them.

Rules of this module:
- From the vault and the ledger's public keys alone, as somebody does it who has lost everything else: each point's note
  is verified, then its index, every page, the copy of the key safe, the published ledger (as an auditor checks it), and
  that every object is there with its size. Of a share of the objects the bytes are read, others on each day.
- What is missing or not as it was signed is named. So is what stands there and is no part of any point; an object that
  a run has left behind before its point was signed is none, and is counted.
- Objects of records that were destroyed since may be gone: the catalog says so, where there is one.
- What came out is an event, and stands at each point.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from uuid import UUID

from retention import backup, ledger
from retention.archive import Archive
from retention.backup import points
from retention.backup.points import Point
from retention.database import transaction
from retention.errors import MunimentError
from retention.history import export, keys, offline
from retention.history.keys import LogKey
from retention.ledger import Event
from retention.parallel import in_order
from retention.seal import digest_of
from retention.vault.base import Vault

MOST = 1_000  # problems that are listed; the rest is counted
_TOGETHER = 32  # objects that a thread reads at a time
FOLDERS = {"records", "descriptors", "quarantine", "schedules", "keys", "ledger", "pages", "points", "safe"}

Teller = Callable[[int, int], None]  # objects that were looked at, of how many


@dataclass(slots=True)
class Checked:
    """What was found: which points are whole, and what is wrong. `left` are objects of no point."""

    whole: list[UUID] = field(default_factory=list)
    broken: list[UUID] = field(default_factory=list)
    objects: int = 0
    read: int = 0
    bytes: int = 0  # that were read
    left: int = 0
    problems: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, said: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(said)
        else:
            self.more += 1


@dataclass(frozen=True, slots=True)
class _Object:
    """An object as points name it, and which."""

    key: str
    size: int
    sha256: bytes
    points: set[str]


def check(archive: Archive, name: str, share: float, now: datetime, tell: Teller | None = None) -> Checked:
    """Check every point of the second vault `name`; `share` (0 to 1) of its objects is read.

    Raises UsageError, ServiceUnavailable."""
    vault = backup.second(archive, name)
    with backup.alone(archive, name):
        vault.check()
        with transaction(archive.connections) as conn:
            known = keys.all_keys(conn)
            gone = {str(row[0]) for row in conn.execute("SELECT record_id FROM records WHERE state > 1")}
        found = look(vault, known, share, now.date(), archive.settings.vault_threads, gone, tell)
        _enter(archive, name, found, now)
    return found


def look(
    vault: Vault,
    known: Sequence[LogKey],
    share: float,
    today: date,
    threads: int,
    gone: Collection[str] = (),
    tell: Teller | None = None,
) -> Checked:
    """The same of any vault, with the public keys of its ledger; `gone`: records that were destroyed since."""
    found = Checked()
    bad = _check_ledger(vault, known, threads, found)
    read = list(_points(vault, known, found, bad))
    wanted = _objects(vault, read, found, bad)
    _check_objects(vault, wanted, share, today, threads, gone, found, bad, tell)
    for point in read:
        (found.broken if bad & {"", str(point.id)} else found.whole).append(point.id)
    return found


def _check_ledger(vault: Vault, known: Sequence[LogKey], threads: int, found: Checked) -> set[str]:
    """Points that are broken; "" is all of them."""
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        try:
            copied = export.copy(vault, known, Path(folder) / "ledger", threads, older=True)
        except MunimentError as error:
            found.add(f"ledger: {error}")
            return {""}
        checked = offline.verify(Path(folder) / "ledger", [key.verifier for key in known[:1]])
    for key in copied.missing:
        found.add(f"{key}: missing; it is a part of the published ledger.")
    for problem in checked.problems:
        found.add(f"ledger/{problem}")
    return {""} if copied.missing or checked.problems else set()


def _points(vault: Vault, known: Sequence[LogKey], found: Checked, bad: set[str]) -> Iterator[Point]:
    """Those whose note, index and copy of the safe are as they were signed."""
    verifiers = [key.verifier for key in known]
    ids = points.listed(vault)
    named = {f"{points.POINTS}/{one}" for one in ids}
    for stored in vault.list(points.POINTS):
        if stored.key not in named:
            found.add(f"{stored.key}: no recovery point. Look who put it there.")
    for point_id in ids:
        try:
            point = points.read(vault, point_id, verifiers)
        except MunimentError as error:
            found.add(_named(f"{points.POINTS}/{point_id}", error))
            found.broken.append(point_id)
            continue
        yield point
    safes = {}
    for stored in vault.list(points.SAFE):
        with vault.open(stored.key) as file:
            safes[stored.key] = sha256(file.read()).hexdigest()
        if not stored.key.endswith(f"-{safes[stored.key]}"):
            found.add(f"{stored.key}: it has SHA-256 {safes[stored.key]}: it was changed.")
    if not safes:
        found.add(f"{points.SAFE}: no copy of the key safe is there: nothing could be opened.")
        bad.add("")


def _objects(vault: Vault, read: Sequence[Point], found: Checked, bad: set[str]) -> Iterator[_Object]:
    """Every object that some point names, once, in the order of keys.

    Each page is read once, whichever points share it."""
    of_page: dict[str, set[str]] = {}
    for point in read:
        for page in point.index.objects:
            of_page.setdefault(page.sha256, set()).add(str(point.id))
        rows = {page.sha256 for table in point.index.tables for page in table.pages}
        for digest in rows - of_page.keys():
            of_page.setdefault(digest, set()).add(str(point.id))
    listed = {page.sha256 for point in read for page in point.index.objects}
    begins: list[tuple[bytes, str]] = []
    for digest, ids in of_page.items():
        try:
            content = points.unpacked(vault, digest)
        except MunimentError as error:
            found.add(_named(f"{points.PAGES}/{digest}", error))
            bad.update(ids)
            continue
        if digest in listed:
            begins.append((content.partition(b"\t")[0], digest))
    indexes = {point.index_sha256 for point in read}
    for stored in vault.list(points.PAGES):
        if stored.key.rpartition("/")[2] not in of_page.keys() | indexes:
            found.left += 1
    yield from merged(vault, sorted(begins), of_page)


def merged(vault: Vault, begins: Sequence[tuple[bytes, str]], of_page: dict[str, set[str]]) -> Iterator[_Object]:
    """The lines of pages, in the order of their keys; held are those of pages that overlap."""
    open_: dict[bytes, tuple[bytes, set[str]]] = {}
    for number, (_, digest) in enumerate(begins):
        for line in points.unpacked(vault, digest).splitlines():
            key, _, rest = line.partition(b"\t")
            open_.setdefault(key, (rest, set()))[1].update(of_page[digest])
        until = begins[number + 1][0] if number + 1 < len(begins) else None
        for key in sorted(open_):
            if until is not None and key >= until:
                break
            rest, ids = open_.pop(key)
            size, _, digest_hex = rest.decode().partition("\t")
            yield _Object(key.decode(), int(size), bytes.fromhex(digest_hex), ids)


def _check_objects(
    vault: Vault,
    wanted: Iterable[_Object],
    share: float,
    today: date,
    threads: int,
    gone: Collection[str],
    found: Checked,
    bad: set[str],
    tell: Teller | None,
) -> None:
    listed = (stored for stored in vault.list() if stored.key.partition("/")[0] not in {"ledger", "pages", "points"})
    there = next(listed, None)

    def present() -> Iterator[_Object]:
        """Those that are there with their size."""
        nonlocal there
        for one in wanted:
            while there is not None and there.key < one.key:
                _strange(there.key, found)
                there = next(listed, None)
            found.objects += 1
            if there is None or there.key != one.key:
                if one.key.split("/")[1] not in gone:
                    found.add(f"{one.key}: missing.")
                    bad.update(one.points)
                continue
            if there.size != one.size:
                found.add(f"{one.key}: it has {there.size:,} bytes, expected {one.size:,}.")
                bad.update(one.points)
            elif _chosen(one.key, share, today):
                yield one
            there = next(listed, None)

    def read(some: Sequence[_Object]) -> Sequence[tuple[_Object, tuple[bytes, int] | MunimentError]]:
        return [(one, _read(vault, one.key)) for one in some]

    threads = min(threads, vault.threads)
    with ThreadPoolExecutor(threads, "check") as pool:
        chosen = present()
        for some in in_order(pool, read, iter(lambda: list(islice(chosen, _TOGETHER)), []), 2 * threads):
            for one, done in some:
                if isinstance(done, MunimentError):
                    found.add(_named(one.key, done))
                    bad.update(one.points)
                    continue
                digest, size = done
                found.read, found.bytes = found.read + 1, found.bytes + size
                if digest != one.sha256:
                    said = f"it has SHA-256 {digest.hex()}, expected {one.sha256.hex()}. It was changed."
                    found.add(f"{one.key}: {said}")
                    bad.update(one.points)
            if tell:
                tell(found.objects, found.objects)
    while there is not None:
        _strange(there.key, found)
        there = next(listed, None)


def _read(vault: Vault, key: str) -> tuple[bytes, int] | MunimentError:
    try:
        with vault.open(key) as file:
            return digest_of(file)
    except MunimentError as error:
        return error


def _strange(key: str, found: Checked) -> None:
    """Of no point: left behind by a run that was cut off, or put there by somebody."""
    if key.partition("/")[0] not in FOLDERS:
        found.add(f"{key}: no part of a backup. Look who put it there.")
    elif not key.startswith(f"{points.SAFE}/"):
        found.left += 1


def _chosen(key: str, share: float, today: date) -> bool:
    """Another share each day, all within its inverse."""
    if share >= 1:
        return True
    cycle = max(round(1 / share), 1) if share > 0 else 0
    return cycle > 0 and int.from_bytes(sha256(key.encode()).digest()[:4]) % cycle == today.toordinal() % cycle


def _named(key: str, error: MunimentError) -> str:
    return str(error) if str(error).startswith(key) else f"{key}: {error}"


def _enter(archive: Archive, name: str, found: Checked, now: datetime) -> None:
    with transaction(archive.connections) as conn:
        detail = {
            "backup_vault": name,
            "whole": [str(one) for one in found.whole],
            "broken": [str(one) for one in found.broken],
            "objects": found.objects,
            "read": found.read,
            "problems": len(found.problems) + found.more,
        }
        conn.execute(
            "UPDATE recovery_points SET checked_at = %s, whole = point_id = ANY(%s) "
            "WHERE vault = %s AND point_id = ANY(%s)",
            (now, found.whole, name, [*found.whole, *found.broken]),
        )
        outcome = "failure" if found.problems else "success"
        ledger.append(conn, [Event("fix", now, archive.agent, (), outcome, detail)], now)
