"""The events of the catalog against themselves, the head, and every checkpoint that was ever signed.

Rules of this module:
- The tree is reckoned from the entries, read once in order; a gap, an entry that does not give the hash beside it, or
  a column that says something else than its entry is named with the position.
- Where an entry and its hash differ, the tree goes on with the hash: if the signed roots agree, the entry is what was
  changed, and what follows is not blamed.
- Each signed checkpoint must have a valid signature of a key of the log, and the root that the entries give at its
  size.
- Memory is O(log n) and one batch of rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from retention import merkle
from retention.database import Connection
from retention.errors import MunimentError
from retention.history.offline import Problem
from retention.tlog import checkpoint
from retention.tlog.note import Verifier

_AT_ONCE = 5_000  # rows of a batch

Teller = Callable[[int, int], None]


@dataclass(slots=True)
class Entries:
    """What the catalog's events are. `damaged` are positions whose entry cannot be believed."""

    size: int = 0
    root: bytes = merkle.EMPTY
    roots: dict[int, bytes] = field(default_factory=dict)  # at the sizes that were asked for
    damaged: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def check(conn: Connection, sizes: Sequence[int], tell: Teller | None = None) -> Entries:
    """Read all events; `sizes` are those whose roots are wanted, as are those of the catalog's checkpoints."""
    found = Entries()
    row = conn.execute("SELECT size, frontier FROM ledger_head").fetchone()
    head = (row[0], [bytes(node) for node in row[1]]) if row else (0, [])
    rows = conn.execute("SELECT size FROM ledger_checkpoints")
    wanted = {*sizes, *(row[0] for row in rows)}
    frontier: list[bytes] = []
    with conn.cursor(name="entries") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute("SELECT position, recorded_at, type, leaf_hash, entry FROM events ORDER BY position")
        while batch := cursor.fetchmany(_AT_ONCE):
            for position, recorded_at, kind, leaf, entry in batch:
                for gone in range(found.size, position):
                    found.problems.append(Problem(f"table events, position {gone}", "missing: the event was removed."))
                    _, frontier = merkle.append(found.size, frontier, [bytes(merkle.HASH)])
                    found.size += 1
                if position < found.size:
                    found.problems.append(Problem(f"table events, position {position}", "it is there twice."))
                    continue
                if said := _wrong(bytes(entry), bytes(leaf), kind, recorded_at):
                    found.problems.append(Problem(f"table events, position {position}", said))
                    found.damaged.append(position)
                _, frontier = merkle.append(found.size, frontier, [bytes(leaf)])
                found.size += 1
                if found.size in wanted:
                    found.roots[found.size] = merkle.root(frontier)
            if tell:
                tell(found.size, max(head[0], found.size))
    found.root = merkle.root(frontier)
    if head != (found.size, frontier):
        found.problems.append(
            Problem(
                "table ledger_head",
                f"it says {head[0]:,} events with the root {merkle.root(head[1]).hex()}; those that are there are "
                f"{found.size:,} with the root {found.root.hex()}.",
            )
        )
    return found


def check_notes(conn: Connection, entries: Entries, origin: str, trusts: Sequence[Verifier]) -> list[Problem]:
    """Every checkpoint that the catalog has, against its signature and the entries."""
    problems = []
    for size, root, signed in conn.execute("SELECT size, root, note FROM ledger_checkpoints ORDER BY size"):
        where = f"table ledger_checkpoints, row {size}"
        try:
            head = checkpoint.open_signed(bytes(signed), origin, trusts, what=where).checkpoint
        except MunimentError as error:
            problems.append(Problem(where, str(error).removeprefix(f"{where}: ")))
            continue
        if (head.size, head.root) != (size, bytes(root)):
            problems.append(Problem(where, f"its note was signed for {head.size:,} events, root {head.root.hex()}."))
        elif (there := entries.roots.get(size)) != head.root:
            said = f"have the root {there.hex()}" if there else f"are {entries.size:,}"
            problems.append(
                Problem(
                    where,
                    f"{size:,} events with the root {head.root.hex()} were signed; those that are there {said}. The "
                    "history was rewritten after it was signed.",
                )
            )
    return problems


def _wrong(entry: bytes, leaf: bytes, kind: str, recorded_at: datetime) -> str | None:
    found = merkle.leaf_hash(entry)
    if found != leaf:
        return f"its entry gives the leaf hash {found.hex()}, beside it stands {leaf.hex()}."
    try:
        value = json.loads(entry)
        said = value["type"], datetime.fromisoformat(value["time"])
    except (ValueError, KeyError, TypeError):
        return "its entry is no event."
    if said[0] != kind:
        return f"type is {kind}, its entry says {said[0]}."
    if said[1] != recorded_at:
        return f"recorded_at is {recorded_at.isoformat()}, its entry says {said[1].isoformat()}."
    return None
