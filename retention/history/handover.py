"""How a key of the ledger hands over to the next one. Pure.

Rules of this module:
- A key is introduced by an event (PREMIS dsg) whose detail has `what`, `vkey`, and, for all but the first, `before`
  and `signed`: the Ed25519 signature of the key before it over `handover`, in base64.
- Whoever trusts one key trusts those that follow from it, and none before it.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from retention.errors import Damaged
from retention.tlog import note
from retention.tlog.note import Verifier

INTRODUCED = "ledger-key"  # detail.what of the event


def handover(origin: str, old: Verifier, new: Verifier) -> str:
    """What a key signs for the next one."""
    return f"muniment ledger key hand-over v1\n{origin}\n{old.vkey}\n{new.vkey}\n"


def trusted(origin: str, trusts: Sequence[Verifier], introduced: Sequence[Mapping[str, Any]]) -> list[Verifier]:
    """The keys that follow from trusted ones by the events that introduced the log's keys, in their order.

    Raises Damaged for a hand-over that the key before it did not sign."""
    found = list(trusts)
    before: Verifier | None = None
    for detail in introduced:
        new = note.parse_vkey(str(detail.get("vkey", "")))
        if before is not None and before in found:
            value = b64decode(str(detail.get("signed", "")))
            if not before.verifies(handover(origin, before, new), value):
                raise Damaged(
                    f"the ledger's key {new} was not handed over to by {before}, the key before it: somebody who had "
                    "not that key introduced it. Trust nothing that only it signed."
                )
            if new not in found:
                found.append(new)
        before = new
    return found
