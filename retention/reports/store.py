"""Whether locks are worth something in this store: the last probe of it, read and judged.

Rules of this module:
- Only probes of the vault in use count: what another one withstood, before the archive moved, says nothing of it.
- Silence is failure: a store that was not probed within TERM may have changed, and is red.
- What a store let happen although a lock forbade it is red. That these credentials may lift governance locks waits for
  the decision of a person: amber.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from retention.database import Connection
from retention.probing import BY_RIGHT, TERM, which
from retention.reports.model import Check, Status
from retention.vault.base import Vault

NIGHT = timedelta(hours=26)
_TITLE = "Locks of the store"
_LAST = """
SELECT recorded_at, said -> 'attempts', said -> 'not_kept'
  FROM (SELECT position, recorded_at, convert_from(entry, 'UTF8')::jsonb -> 'detail' AS said
          FROM events WHERE type = 'val') AS e
 WHERE said ? 'not_kept' AND said ->> 'vault' = %s ORDER BY position DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Store:
    """When it was probed last, how many attempts were made, and which it did not withstand."""

    began: datetime | None  # the first event of the history
    probed_at: datetime | None = None
    attempts: int = 0
    not_kept: Sequence[str] = ()


def store(conn: Connection, vault: Vault) -> Store:
    """What the history knows of this vault."""
    first = conn.execute("SELECT recorded_at FROM events ORDER BY position LIMIT 1").fetchone()
    last = conn.execute(_LAST.encode(), (which(vault),)).fetchone()
    return Store(first[0] if first else None, *(last or ()))


def check(found: Store, now: datetime) -> Check | None:
    """What must hold of it. Pure. None: the archive is younger than a night."""
    since = found.probed_at or found.began
    if since is None or (found.probed_at is None and now - since <= NIGHT):
        return None
    probe = "muniment vault probe"
    if now - since > TERM:
        said = f"Not probed for {(now - since).days} days: nobody knows whether it keeps what is locked."
        return Check("store", Status.RED, _TITLE, said, f"See that the DAG assurance runs; by hand: {probe}.")
    if found.probed_at is None:
        return Check("store", Status.AMBER, _TITLE, "Never probed: whether it keeps locks is not known.", f"{probe}.")
    return _judged(found, found.probed_at)


def _judged(found: Store, probed_at: datetime) -> Check:
    when = f"{probed_at:%Y-%m-%d %H:%M} UTC"
    if failed := [name for name in found.not_kept if name != BY_RIGHT]:
        said = f"On {when} it did not withstand: {', '.join(failed)}. What is locked there can be lost."
        then = "muniment vault probe says what happened. Move WORM classes to a store that keeps its locks."
        return Check("store", Status.RED, _TITLE, said, then)
    if not found.attempts:
        said = "It cannot lock; no class that asks for WORM enters it. Its locks bind Muniment alone."
        return Check("store", Status.GREEN, _TITLE, said)
    said = f"On {when} it withstood {found.attempts - len(found.not_kept)} of {found.attempts} attempts."
    if found.not_kept:
        said += " Whoever has these credentials can lift governance locks."
        then = "Deny s3:BypassGovernanceRetention to them, or lock in compliance mode (docs/vault.md)."
        return Check("store", Status.AMBER, _TITLE, said, then)
    return Check("store", Status.GREEN, _TITLE, said)
