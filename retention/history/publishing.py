"""The ledger in the vault: tiles, entry bundles and signed checkpoints that any tlog-tiles client reads.

Rules of this module (c2sp.org/tlog-tiles, c2sp.org/tlog-checkpoint):
- Published below `ledger/`: `tile/<L>/<N>[.p/<W>]`, `tile/entries/<N>[.p/<W>]`, `checkpoint`, and every checkpoint
  once more as `checkpoints/<size>`, locked where the vault can lock. Tiles are never overwritten: the vault refuses
  other bytes under a taken name, so that a forked tree cannot be published over a true one.
- The order, and what a crash leaves: tiles and bundles (unreferenced files), the note in the catalog (signed, not
  published), the locked copy, `checkpoint`. Running it again goes on; at most one checkpoint is ever signed of a size.
- Before it signs, it reads the newest published checkpoint back, and refuses where the catalog is behind it (a
  restored database). What it signs is the root of the published tree and the new events, which must be the root of
  the ledger's head: a head of another history (a fork) has another one. Nothing that was published is read again but
  the rightmost tiles.
- What anybody can see published stands in every second vault that has joined (retention.backup): those get all of it
  first. Else a loss of the first vault would leave checkpoints behind, seen and cosigned, that no copy can continue. A
  second vault that is away therefore stops publishing. `through` is for what must not be lost with the first vault.
- It reads the catalog as of one moment, so others append meanwhile. One publisher at a time.
- Memory is that of one chunk of entries and one tile a level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import islice
from uuid import UUID

from retention import ledger, merkle
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Damaged, MunimentError, NotFound, Refused, UsageError
from retention.history import keys
from retention.history.keys import LogKey
from retention.tlog import checkpoint, tiles
from retention.tlog.checkpoint import Checkpoint, Opened
from retention.tlog.tiles import Tile
from retention.vault.base import Lock, LockMode, Vault

FOLDER = "ledger"
CHECKPOINT = f"{FOLDER}/checkpoint"
COPIES = f"{FOLDER}/checkpoints"
COSIGNATURES = f"{FOLDER}/cosignatures"  # retention.history.cosignatures
TIMESTAMPS = f"{FOLDER}/timestamps"  # retention.history.timestamps
KEPT = timedelta(days=3653)  # a copy of a checkpoint is locked ten years; by then thousands follow it

_PUBLISHING = "muniment ledger publish"  # an advisory lock
_WAITING = 64  # tiles that wait to be put

Teller = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` did. `tiles` are the files that were put, bundles included; 0 where nothing was new."""

    size: int
    root: bytes
    before: int
    tiles: int


def publish(archive: Archive, now: datetime, tell: Teller | None = None) -> Published:
    """Publish what the ledger has. `tell` is told how many of how many new events are in the vault.

    Raises NotFound before a key was made, Refused where history disagrees, ServiceUnavailable."""
    with transaction(archive.connections) as guard:
        if guard.execute("SELECT pg_try_advisory_xact_lock(hashtext(%s))", (_PUBLISHING,)).fetchone() != (True,):
            raise Refused("refusing to publish the ledger twice at once: another process is at it. Wait for it.")
        return _publish(archive, now, tell)


def write_through(archive: Archive, subjects: Sequence[UUID], now: datetime, otherwise: str) -> None:
    """`through` for the newest event of these subjects. Where it cannot be, the error says `otherwise` too."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT max(position) FROM event_subjects WHERE subject_id = ANY(%s)", (list(subjects),)
        ).fetchone()
    if row is None or row[0] is None:
        return
    try:
        through(archive, now, row[0])
    except MunimentError as error:
        raise type(error)(f"{error} {otherwise}") from error


def through(archive: Archive, now: datetime, position: int) -> None:
    """Have the event of this position, committed before, in every second vault that has joined; returns at once where
    none has. Raises as `publish` does: then it is not there."""
    with transaction(archive.connections) as guard:
        if not joined(guard, archive):
            return
        guard.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (_PUBLISHING,))  # waits for another publisher
        known = keys.all_keys(guard)
        if all(
            known and (there := newest(vault, known)) and there.size > position
            for vault in joined(guard, archive).values()
        ):
            return
        _publish(archive, now, None)


def joined(conn: Connection, archive: Archive) -> dict[str, Vault]:
    """The second vaults that are a part of this archive, by name. Raises UsageError for one that is not configured any
    more."""
    names = [row[0] for row in conn.execute("SELECT name FROM backup_vaults WHERE left_at IS NULL ORDER BY name")]
    if missing := [name for name in names if name not in archive.seconds]:
        raise UsageError(
            f"second vault {missing[0]}: it has joined this archive, and MUNIMENT_BACKUPS does not name it. Name it "
            f"again, or let it go: `muniment backup leave {missing[0]}`."
        )
    return {name: archive.seconds[name] for name in names}


def _publish(archive: Archive, now: datetime, tell: Teller | None) -> Published:
    with transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        key = keys.current(conn)
        known = keys.all_keys(conn)
        size, root = ledger.head(conn)
        vaults = [*joined(conn, archive).values(), archive.vault]  # the first vault last: there it is seen
        old, count = 0, 0
        for vault in vaults:
            former = newest(vault, known)
            _put_copies(conn, vault, former.size if former else 0, size, now)
            _refuse_another_history(former, size, root)
            old, count = former.size if former else 0, 0
            if size > old:
                count = _put_tiles(archive, vault, _tiles(conn, vault, old, size, root), old, size, tell)
        signed = _signed(archive, key, Checkpoint(key.origin, size, root), now)
        for vault in vaults:
            _put_checkpoint(vault, size, signed, now)
    return Published(size, root, old, count)


def newest(vault: Vault, known: Iterable[LogKey]) -> Checkpoint | None:
    """The newest published checkpoint, signed by one of the log's keys; None if there is none. Raises Damaged."""
    opened = newest_signed(vault, known)
    return opened.checkpoint if opened else None


def newest_signed(vault: Vault, known: Iterable[LogKey]) -> Opened | None:
    """The same, with its note."""
    known = list(known)
    try:
        with vault.open(CHECKPOINT) as file:
            data = file.read(1_000_000)
    except NotFound:
        return None
    verifiers = [key.verifier for key in known]
    return checkpoint.open_signed(data, known[0].origin, verifiers, what=CHECKPOINT)


def read_tile(vault: Vault, tile: Tile) -> bytes:
    """The content of a published tile or entry bundle. Raises NotFound."""
    with vault.open(f"{FOLDER}/{tile.path}") as file:
        return file.read()


def _refuse_another_history(former: Checkpoint | None, size: int, root: bytes) -> None:
    """That the catalog's ledger is not shorter than what was published, nor another one of that size."""
    if former is None:
        return
    if size < former.size:
        raise Refused(
            f"refusing to publish: the ledger in the catalog has {size:,} events, the published one {former.size:,}. "
            "An old copy of the database was restored, or events were removed. Recover the events first "
            "(`muniment verify` names what differs)."
        )
    if size == former.size and root != former.root:
        raise Refused(_forked(size, root, former.root))


def _forked(size: int, found: bytes, expected: bytes) -> str:
    return (
        f"refusing to publish a fork: {size:,} events give the root {found.hex()}, expected {expected.hex()}. Somebody "
        "changed events after they were published. `muniment verify` names the first that differs."
    )


def _tiles(conn: Connection, vault: Vault, old: int, size: int, root: bytes) -> Iterator[tuple[Tile, bytes]]:
    """The files of the growth, bundles before their tiles. Raises Refused if they do not give the head's root."""
    frontier = _edge_frontier(vault, old)
    at = old
    bundle: list[bytes] = list(tiles.decode(*_bundle(vault, old))) if old % tiles.WIDTH else []

    def leaves() -> Iterator[bytes]:
        nonlocal at, frontier
        with conn.cursor(name="entries") as cursor:
            cursor.itersize = 5_000
            rows = cursor.execute(
                "SELECT position, leaf_hash, entry FROM events WHERE position >= %s ORDER BY position", (old,)
            )
            for position, leaf, entry in rows:
                if position != at or merkle.leaf_hash(entry) != leaf:
                    raise Damaged(
                        f"event {at:,}: expected its entry and leaf hash in the catalog, found position {position:,} "
                        "or another hash. Nothing was published. `muniment verify` names what differs."
                    )
                at, frontier = merkle.append(at, frontier, [leaf])
                bundle.append(entry)
                yield leaf

    for tile, content in tiles.grow(old, lambda t: read_tile(vault, t), leaves()):
        if tile.level == 0:
            yield Tile(tiles.ENTRIES, tile.index, tile.width), tiles.encode(bundle)
            bundle.clear()
        yield tile, content
    if at != size or merkle.root(frontier) != root:
        raise Refused(_forked(at, merkle.root(frontier), root))


def _bundle(vault: Vault, size: int) -> tuple[Tile, bytes]:
    tile = Tile(tiles.ENTRIES, size // tiles.WIDTH, size % tiles.WIDTH)
    return tile, read_tile(vault, tile)


def _edge_frontier(vault: Vault, size: int) -> list[bytes]:
    """The frontier of a published tree, from its partial tiles."""
    node = tiles.node_reader(size, lambda tile: read_tile(vault, tile))
    return [node(level, index) for level, index in merkle.subtrees(0, size)]


def _put_tiles(
    archive: Archive, vault: Vault, files: Iterable[tuple[Tile, bytes]], old: int, size: int, tell: Teller | None
) -> int:
    """Put each, in parallel; the first error ends it."""
    count = 0

    def put(file: tuple[Tile, bytes]) -> None:
        tile, content = file
        vault.put(f"{FOLDER}/{tile.path}", content, sha256=sha256(content).digest(), size=len(content))

    with ThreadPoolExecutor(archive.settings.vault_threads) as threads:
        waiting = iter(files)
        while some := list(islice(waiting, _WAITING)):
            count += len(list(threads.map(put, some)))
            if tell:
                there = [tile.index * tiles.WIDTH + tile.width for tile, _ in some if tile.level == tiles.ENTRIES]
                if there:  # else the last few tiles, of which the bundles are told
                    tell(there[-1] - old, size - old)
    return count


def _signed(archive: Archive, key: LogKey, head: Checkpoint, now: datetime) -> bytes:
    """The note of this size: the one that was signed before, or a new one, kept before it is published."""
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT root, note FROM ledger_checkpoints WHERE size = %s", (head.size,)).fetchone()
        if row is not None:
            before, kept = map(bytes, row)
            if before != head.root:
                raise Refused(_forked(head.size, head.root, before))
            return kept
        signed = checkpoint.sign(head, keys.signer(archive, key)).encode()
        conn.execute(
            "INSERT INTO ledger_checkpoints (size, root, note, recorded_at) VALUES (%s, %s, %s, %s)",
            (head.size, head.root, signed, now),
        )
        return signed


def _put_copies(conn: Connection, vault: Vault, above: int, below: int, now: datetime) -> None:
    """Those of checkpoints that were signed, and whose publishing was cut off or was before this vault joined."""
    for size, signed in conn.execute(
        "SELECT size, note FROM ledger_checkpoints WHERE size > %s AND size < %s ORDER BY size", (above, below)
    ):
        _put_copy(vault, size, bytes(signed), now)


def _put_checkpoint(vault: Vault, size: int, signed: bytes, now: datetime) -> None:
    _put_copy(vault, size, signed, now)
    vault.replace(CHECKPOINT, signed)


def _put_copy(vault: Vault, size: int, signed: bytes, now: datetime) -> None:
    vault.put(f"{COPIES}/{size:020}", signed, sha256=sha256(signed).digest(), size=len(signed), lock=lock(vault, now))


def lock(vault: Vault, now: datetime) -> Lock | None:
    """That of a copy of a checkpoint; None where the vault cannot lock."""
    return Lock(LockMode.COMPLIANCE, now + KEPT) if vault.locks() else None
