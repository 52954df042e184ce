"""Production: what a hold has, handed out native and readable with its audit trail (17 CFR 240.17a-4(f)(2)(iv)).

Rules of this module:
- The members at the moment of asking go into one bag (retention.packages); a record that could not be read is in
  the bag's findings and in the answer, never silently missing.
- Each handing out is an event of every record in it and of the hold, in one transaction, once for each bag.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from retention import ledger, packages
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import Refused
from retention.holds import register
from retention.ledger import Event
from retention.packages import Purpose
from retention.packages.bags import Bag


def produce(
    archive: Archive,
    hold_id: UUID,
    target: Path,
    clock: Callable[[], datetime],
    progress: Callable[[int], None] = lambda _: None,
) -> Bag:
    """Write what the hold has to a bag at `target`; the same bag again is found, and recorded once.

    Raises NotFound, Refused for a hold that has nothing, and what `packages.write_bag` raises."""
    with transaction(archive.connections) as conn:
        members = register.members(conn, hold_id)
    if not members:
        raise Refused(f"refusing to produce hold {hold_id}: it has no records (a released hold has none).")
    bag = packages.write_bag(
        archive,
        members,
        target,
        purpose=Purpose.PRODUCTION,
        identifier=str(hold_id),
        clock=clock,
        progress=progress,
    )
    now = clock()
    with transaction(archive.connections) as conn:
        register.lock(conn, hold_id)
        if not _recorded(conn, hold_id, bag):
            detail = {
                "hold": str(hold_id),
                "digest": bag.digest.hex(),
                "records": len(bag.records),
                "not_included": len(bag.findings),
            }
            own = Event("exp", now, archive.agent, (hold_id,), detail=detail)
            ledger.append(conn, [own, *packages.handed_out(bag, Purpose.PRODUCTION, archive.agent, now)], now)
    return bag


def _recorded(conn: Connection, hold_id: UUID, bag: Bag) -> bool:
    rows = conn.execute(
        "SELECT e.entry FROM event_subjects s JOIN events e USING (position) "
        "WHERE s.subject_id = %s AND e.type = 'exp'",
        (hold_id,),
    )
    return any(json.loads(bytes(row[0]))["detail"]["digest"] == bag.digest.hex() for row in rows)
