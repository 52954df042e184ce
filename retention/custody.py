"""Who keeps the root key: replaced, moved into AWS KMS and back, kept in shares by several people.

Rules of this module (requirements: storage, *Sealing*):
- A rotation makes a new root and seals the safe to it; nothing else is written anew. It is told by an event (PREMIS
  enc) and every second vault gets a copy of the safe as it is now. Cut off anywhere, the safe opens; the next one first
  ends what was cut off, and makes no other root where that is what was asked for.
- A former root goes once its term has passed (as long as that of copies of the safe), no copy of the safe in a second
  vault and no object of keys in the vault is sealed to it. What is sealed to what is tried, not reckoned from times: a
  restore gives objects new ones. A vault that does not answer keeps all of them.
- Escrow is an event with the numbers of holders and of those who are needed (PREMIS rep). Shares are of one root:
  after a rotation they open nothing that was written since, and the report says so.
- Roots are told apart by their id, the subject of these events. No secret is in an event, a message or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from retention import backup, kms, ledger, roots, shares
from retention.archive import Archive
from retention.backup import points
from retention.backup.pruning import SAFE_TERM
from retention.database import Connection, transaction
from retention.errors import MunimentError, Refused, UsageError
from retention.ledger import Event
from retention.private_files import locked, write_private
from retention.reports.continuity import Escrow, escrow_of
from retention.roots import Root, new_root, read_root
from retention.seal import SAFE, FormerRoot, opens

Clock = Callable[[], datetime]
_KEYS = "keys"  # the vault's copies of buckets that locks keep


@dataclass(slots=True)
class Rotated:
    """The root that is in use now, and the one that it replaced. `waits`: second vaults that have no copy of the safe
    that it opens, and why; until they have, the former one opens what is there."""

    root: UUID
    replaced: UUID
    kept_in: str
    waits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Former:
    """A root before the present one; when its term ends, and what keeps it however late that is."""

    id: UUID
    retired_at: datetime
    term_ends: datetime
    kept_by: tuple[str, ...]

    def may_go(self, now: datetime) -> bool:
        return self.term_ends <= now and not self.kept_by


@dataclass(frozen=True, slots=True)
class Roots:
    """What `muniment key list` shows."""

    root: UUID
    kept_in: str
    escrow: Escrow
    former: Sequence[Former]


# ---------------------------------------------------------------- rotation


def rotate(archive: Archive, clock: Clock, kms_key: str | None = None) -> Rotated:
    """A new root takes the present one's place: in a file, or sealed by `kms_key` (id, ARN or alias) of AWS KMS.

    Raises Refused while a backup runs, and what `new_root` raises: then nothing was changed."""
    with _alone(archive):
        asked = kms.wrapping_key(kms_key) if kms_key else None
        former = archive.safe.former
        cut_off = former[-1].id if former and not _told(archive, archive.safe.root.id) else None
        if cut_off is not None:
            archive.safe.drop_roots((), clock())  # it may still be sealed to both
            _enter(archive, cut_off, clock())
        replaced = cut_off
        if replaced is None or archive.safe.root.kms != asked:
            replaced = archive.safe.root.id
            archive.safe.replace_root(new_root(asked), clock())
            _enter(archive, replaced, clock())
        done = Rotated(archive.safe.root.id, replaced, kept_in(archive.safe.root))
    for name in _joined(archive):
        try:
            backup.copy_safe(archive, backup.second(archive, name), clock())
        except MunimentError as error:
            done.waits[name] = str(error)
    return done


def kept_in(root: Root) -> str:
    return "file" if root.kms is None else f"kms:{root.kms}"


@contextmanager
def _alone(archive: Archive) -> Iterator[None]:
    with transaction(archive.connections) as guard:
        if guard.execute("SELECT pg_try_advisory_xact_lock(hashtext('key safe'))").fetchone() != (True,):
            raise Refused("refusing to change the root now: a backup or `muniment key rekey` is running. Wait for it.")
        yield


def _enter(archive: Archive, replaced: UUID, now: datetime) -> None:
    root = archive.safe.root
    detail = {"root": str(root.id), "kept": "file" if root.kms is None else "kms", "replaces": str(replaced)}
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("enc", now, archive.agent, (root.id, replaced), detail=detail)], now)


def _joined(archive: Archive) -> Sequence[str]:
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT name FROM backup_vaults WHERE left_at IS NULL ORDER BY 1").fetchall()
    return [row[0] for row in rows]


# ---------------------------------------------------------------- former roots


def listed(archive: Archive) -> Roots:
    """The present root, who keeps it, and those before it that are still there."""
    root = archive.safe.root
    with transaction(archive.connections) as conn:
        escrow = escrow_of(conn, root.id)
    return Roots(root.id, kept_in(root), escrow, _former(archive))


def forget(archive: Archive, clock: Clock) -> list[UUID]:
    """Drop the former roots that nothing needs; which ones. Nightly; again is fine. Raises Refused as `rotate` does."""
    if not archive.safe.former and _told(archive, archive.safe.root.id) is None:
        return []  # there never was another
    with _alone(archive):
        now = clock()
        gone = [one.id for one in _former(archive) if one.may_go(now)]
        if gone:
            archive.safe.drop_roots(gone, now)
        _enter_gone(archive, now)
    return gone


def _former(archive: Archive) -> list[Former]:
    there = archive.safe.former
    kept_by: dict[UUID, list[str]] = {one.id: [] for one in there}
    if there:
        for name in _joined(archive):
            _look(kept_by, there, f"copies of the safe in {name}", partial(_copies, archive, name))
        _look(kept_by, there, "locked keys in the vault", partial(_objects, archive))
    return [Former(one.id, one.retired_at, one.retired_at + SAFE_TERM, tuple(kept_by[one.id])) for one in there]


def _look(
    kept_by: dict[UUID, list[str]], there: Sequence[FormerRoot], what: str, contents: Callable[[], Iterator[bytes]]
) -> None:
    """Enter `what` for those that something of it is sealed to; for all, where that cannot be known."""
    left = {one.id: one for one in there}
    try:
        for content in contents():
            for one in [one for one in left.values() if opens(one.secret, content)]:
                kept_by[one.id].append(what)
                del left[one.id]
            if not left:
                return
    except MunimentError as error:
        for root_id in left:
            kept_by[root_id].append(f"{what}, which could not be looked at: {error}")


def _copies(archive: Archive, name: str) -> Iterator[bytes]:
    """Those that the present root does not open."""
    vault = backup.second(archive, name)
    for stored in vault.list(points.SAFE):
        with vault.open(stored.key) as file:
            content = file.read()
        if not opens(archive.safe.root.secret, content):
            yield content


def _objects(archive: Archive) -> Iterator[bytes]:
    for stored in archive.vault.list(_KEYS):
        with archive.vault.open(stored.key) as file:
            yield file.read()


def _told(archive: Archive, root_id: UUID) -> UUID | None:
    """The root that this one replaced, if an event says so."""
    with transaction(archive.connections) as conn:
        return next((UUID(d["replaces"]) for d in _details(conn, root_id, "enc") if d["root"] == str(root_id)), None)


def _details(conn: Connection, root_id: UUID, kind: str) -> list[dict[str, Any]]:
    rows = conn.execute(
        "SELECT convert_from(e.entry, 'UTF8')::jsonb -> 'detail' FROM event_subjects s JOIN events e USING (position) "
        "WHERE s.subject_id = %s AND e.type = %s ORDER BY e.position",
        (root_id, kind),
    )
    return [row[0] for row in rows]


def _enter_gone(archive: Archive, now: datetime) -> None:
    """Those that events have introduced and the safe has no more, unless that was told."""
    there = {archive.safe.root.id, *(one.id for one in archive.safe.former)}
    gone: list[UUID] = []
    found = _told(archive, archive.safe.root.id)
    while found is not None:
        gone += [found] if found not in there else []
        found = _told(archive, found)
    with transaction(archive.connections) as conn:
        new = tuple(one for one in gone if not _details(conn, one, "del"))
        if new:
            ledger.append(conn, [Event("del", now, archive.agent, new, detail={"root_keys": len(new)})], now)


# ---------------------------------------------------------------- escrow


def escrow(archive: Archive, holders: int, threshold: int, into: Path, clock: Clock) -> list[Path]:
    """Write a share of the root for each holder into the folder `into`, each a file of mode 600.

    Raises UsageError for numbers that make no escrow, Refused for a folder that has something in it."""
    root, now = archive.safe.root, clock()
    made = shares.split(root, holders, threshold)
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    if found := sorted(path.name for path in into.iterdir()):
        raise Refused(f"refusing to write shares into {into}, where {found[0]} is. Name a new folder.")
    paths = [into / f"share-{share.number}-of-{holders}.txt" for share in made]
    for path, share in zip(paths, made, strict=True):
        write_private(path, shares.text(share, now).encode())
    detail = {"holders": holders, "threshold": threshold}
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("rep", now, archive.agent, (root.id,), detail=detail)], now)
    return paths


def root_of(paths: Sequence[Path]) -> Root:
    """The root that these shares make; of a folder all files are shares. Raises what `shares.parse` and
    `shares.combine` raise, UsageError for a file that cannot be read."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    found = {}
    for file in files:
        try:
            found[str(file)] = shares.parse(file.read_text("utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: expected a share, cannot read it: {error}") from None
    return shares.combine(found)


def recover(root: Root, into: Path) -> Path:
    """Put a root that came of shares into the folder `into`. Raises Refused where another root is, and where a key safe
    is that it does not open."""
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, safe = into / roots.FILE, into / SAFE
    with locked(into):
        if path.exists():
            if (known := read_root(path)).id == root.id:
                return path
            raise Refused(f"refusing to write over {path}, which is root {known.id}; the shares make {root.id}.")
        if safe.exists() and not opens(root.secret, safe.read_bytes()):
            raise Refused(
                f"refusing to put root {root.id} beside {safe}, which it does not open: it was replaced after these "
                "shares were made, or the safe is of another archive. Ask the holders for newer shares."
            )
        write_private(path, root.file)
    return path
