"""The events of a catalog that is gone, taken from the published ledger.

Rules of this module:
- The ledger is copied out of the vault and checked as an auditor does it, before a row of it is believed: every tile,
  every checkpoint, every hash. One that does not verify is refused; nothing is guessed.
- What is trusted is the keys that the caller has. Without any, the first key that the ledger introduces is taken: then
  the ledger is shown to be whole and signed, and not who signed it. Whoever asks is told so.
- An event's row is its entry once more: type and time stand in it. A checkpoint is as old as the last event in it.
- Memory is that of one bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retention import merkle
from retention.database import Connection
from retention.errors import Damaged, Refused
from retention.history import export, offline
from retention.history.handover import INTRODUCED, trusted
from retention.history.keys import LogKey
from retention.history.publishing import FOLDER
from retention.tlog import checkpoint, note, tiles
from retention.tlog.note import Verifier
from retention.tlog.tiles import ENTRIES, WIDTH, Tile
from retention.vault.base import Vault

_SHOWN = 5  # problems that a refusal says

Teller = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Published:
    """A published ledger that was copied to `folder` and verified. `assumed`: nobody gave a key of it."""

    folder: Path
    size: int
    root: bytes
    origin: str
    verifiers: tuple[Verifier, ...]
    assumed: bool


def fetch(
    vault: Vault, folder: Path, trusts: Sequence[Verifier], threads: int, tell: Teller | None = None
) -> Published:
    """Copy the ledger in `vault` to `folder`, and check it with keys that the caller trusts.

    Raises NotFound where nothing was published, Damaged for a ledger that is not whole or not signed by them."""
    introduced = list(_introduced(vault))
    given = bool(trusts)
    trusts = [*trusts] or [note.parse_vkey(vkey) for vkey, _ in introduced[:1]]
    if not trusts:
        raise Damaged(
            f"{vault.url}: its ledger introduces no key, so nothing in it is signed, and nothing can be recovered from "
            "it. Name the vault in which it was published (`muniment ledger publish`)."
        )
    origin = trusts[0].name
    verifiers = trusted(origin, trusts, [detail for _, detail in introduced])
    known = [LogKey(number, origin, one, "file:") for number, one in enumerate(verifiers, 1)]
    export.copy(vault, known, folder, threads)
    found = offline.verify(folder, verifiers, tell)
    if not found.ok:
        listed = "\n".join(f"  {one}" for one in found.problems[:_SHOWN])
        raise Refused(
            f"refusing to recover from a ledger that is not whole: {vault.url} has {len(found.problems) + found.more} "
            f"problems.\n{listed}\nTake another copy of the vault; `muniment verify --offline` names all of them."
        )
    return Published(folder, found.size, found.root, origin, tuple(verifiers), not given)


def load(conn: Connection, ledger: Published, tell: Teller | None = None) -> None:
    """The rows of the events, the head and the checkpoints, into tables that are empty."""
    frontier: list[bytes] = []
    with conn.cursor().copy(
        "COPY events (position, recorded_at, type, leaf_hash, entry) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.set_types(["int8", "timestamptz", "text", "bytea", "bytea"])
        for first, bundle, content in _bundles(ledger):
            leaves = tiles.leaf_hashes(bundle, content)
            for position, entry in enumerate(tiles.decode(bundle, content), first):
                event = json.loads(entry)
                copy.write_row(
                    (position, datetime.fromisoformat(event["time"]), event["type"], leaves[position - first], entry)
                )
            _, frontier = merkle.append(first, frontier, leaves)
            if tell:
                tell(first + bundle.width, ledger.size)
    if merkle.root(frontier) != ledger.root:  # it was verified a moment ago
        raise Damaged(f"{ledger.folder}: its entries changed while they were read. Run the same again.")
    conn.execute("UPDATE ledger_head SET size = %s, frontier = %s", (ledger.size, frontier))
    _load_checkpoints(conn, ledger)


def _load_checkpoints(conn: Connection, ledger: Published) -> None:
    for path in sorted((ledger.folder / "checkpoints").iterdir()):
        signed = path.read_bytes()
        head = checkpoint.open_signed(signed, ledger.origin, ledger.verifiers, what=path.name).checkpoint
        conn.execute(
            "INSERT INTO ledger_checkpoints (size, root, note, recorded_at) "
            "SELECT %s, %s, %s, recorded_at FROM events WHERE position = %s",
            (head.size, head.root, signed, head.size - 1),
        )


def _bundles(ledger: Published) -> Iterator[tuple[int, Tile, bytes]]:
    """The position of the first entry of each bundle, the bundle, its bytes."""
    for first in range(0, ledger.size, WIDTH):
        bundle = tiles.in_tree(ledger.size, 0, first // WIDTH).entries
        yield first, bundle, (ledger.folder / bundle.path).read_bytes()


def _introduced(vault: Vault) -> Iterator[tuple[str, dict[str, str]]]:
    """The keys that the ledger introduces, in their order, as its entries say: public key, detail of the event.

    Not checked: the newest checkpoint is signed by the last of them, and without it nothing can be checked."""
    seen: set[str] = set()
    for stored in vault.list(f"{FOLDER}/tile/entries"):
        bundle = tiles.parse_path(stored.key.removeprefix(f"{FOLDER}/"))
        if bundle is None or bundle.level != ENTRIES:
            continue
        with vault.open(stored.key) as file:
            content = file.read()
        if INTRODUCED.encode() not in content:
            continue
        for entry in tiles.decode(bundle, content):
            if INTRODUCED.encode() not in entry:
                continue
            detail = json.loads(entry)["detail"]
            if detail.get("what") == INTRODUCED and detail["vkey"] not in seen:
                seen.add(detail["vkey"])
                yield detail["vkey"], detail
