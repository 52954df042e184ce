"""Whether the store keeps what it is told to lock: probed, and in the history.

Rules of this module:
- Locks are worth what the store does, not what its maker says. `Vault.probe` tries it; this says what came out.
- Its PREMIS event is a validation (val): the store is compared with what Object Lock demands. No lock is set by it, so
  it is no policy assignment.
- To lift a governance lock is the right of some: where these credentials have it (`BY_RIGHT`), that is told, and is no
  failure of the store. Everything else that does not hold is one.
- A vault that cannot lock at all has nothing to probe; no class that asks for WORM enters it.
- Each night it is probed by the DAG `assurance`, and when the services are started: not before every command, each of
  which would wait for some twenty requests, but where the history knows no probe of this very vault within TERM. Which
  vault a probe was of stands in its event as a digest of the URL. An archive without a history is left alone: nothing
  is locked there yet, and a recovery needs it as nobody has opened it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from retention import ledger
from retention.archive import Archive
from retention.database import transaction
from retention.ledger import Event
from retention.vault.base import Vault

BY_RIGHT = "bypass"
TERM = timedelta(days=30)  # a store may change: what it withstood before is no evidence any more
_PROBED = """
SELECT EXISTS (SELECT FROM events WHERE type = 'val' AND recorded_at > %s
                  AND convert_from(entry, 'UTF8')::jsonb -> 'detail' ->> 'vault' = %s)"""


@dataclass(frozen=True, slots=True)
class Probed:
    """Each attempt, with what became of the object where the lock did not hold."""

    attempts: Mapping[str, str | None]

    @property
    def not_kept(self) -> list[str]:
        return [name for name, said in self.attempts.items() if said is not None]

    @property
    def failed(self) -> list[str]:
        return [name for name in self.not_kept if name != BY_RIGHT]


def probe(archive: Archive, now: datetime) -> Probed:
    """Probe the vault; one event says what came out. Raises ServiceUnavailable: then nothing is known."""
    found = Probed(archive.vault.probe())
    outcome = "failure" if found.failed else "success"
    detail = {"attempts": len(found.attempts), "not_kept": found.not_kept, "vault": which(archive.vault)}
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("val", now, archive.agent, (), outcome, detail)], now)
    return found


def at_start(archive: Archive, now: datetime) -> Probed | None:
    """Probe the vault if it can lock and was not probed within TERM; None if there was no need."""
    if not archive.vault.locks():
        return None
    with transaction(archive.connections) as conn:
        (probed,) = conn.execute(_PROBED, (now - TERM, which(archive.vault))).fetchone() or (False,)
    return None if probed else probe(archive, now)


def which(vault: Vault) -> str:
    """What the event of a probe calls this vault: the digest of its URL."""
    return sha256(vault.url.encode()).hexdigest()
