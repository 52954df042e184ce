"""What a recovery could not bring back, and what it changed, as events: the history says so for good.

Rules of this module:
- A record is lost if its content or its key is in no copy: nobody will ever read it. Its row stays, in the state
  *lost*, with all that the history says of it; what described or located it goes. A document in quarantine likewise: it
  is decided by that.
- What the catalog had beside the history (a text of which an event has the digest alone, the name behind a pseudonym)
  and no copy has is told row by row. `verify` then takes it for empty, and for nothing else.
- An object in another vault is another version: where the store numbers its versions, the event says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from retention.database import Connection
from retention.ledger import Agent, Event
from retention.verification.projections import PROJECTIONS
from retention.verification.tables import lacking

_AT_ONCE = 500  # ids in one event, with a version each
# Rows that have something besides the history, which may be in no copy. Of any other table nothing may be missing.
_MAY_LACK = {"approvers", "proposals", "run_batches", "signatures", "trigger_events"}
_BYTES = 40_000  # of keys of rows in one event: the ledger holds 65,535 an entry

# A bucket of keys that came after the newest copy of the key safe, of which all that is known is that it lost keys.
_BUCKETS = """
SELECT DISTINCT remains_id::text FROM plan_remains p
 WHERE kind = 'bucket' AND NOT EXISTS (SELECT FROM key_buckets b WHERE b.bucket_id = p.remains_id)
   AND NOT EXISTS (SELECT FROM replaced_buckets b WHERE b.bucket_id = p.remains_id) ORDER BY 1"""


def lose(
    conn: Connection, agent: Agent, records: Sequence[UUID], documents: Sequence[UUID], now: datetime
) -> list[Event]:
    """Records and documents in quarantine that nobody will read again; the events are for the caller to append."""
    ids = [*records, *documents]
    asked = {"records": list(records), "documents": list(documents), "all": ids, "now": now}
    for statement in (
        "UPDATE records SET state = 5 WHERE record_id = ANY(%(records)s)",
        "DELETE FROM contents WHERE record_id = ANY(%(records)s)",
        "DELETE FROM object_locks WHERE subject_id = ANY(%(records)s)",
        "DELETE FROM findings WHERE subject_id = ANY(%(all)s)",
        "DELETE FROM hold_flags WHERE subject_id = ANY(%(all)s)",
        "DELETE FROM descriptor_lines WHERE subject_id = ANY(%(all)s)",
        "DELETE FROM descriptions WHERE subject_id = ANY(%(all)s)",
        "DELETE FROM sightings WHERE subject_id = ANY(%(all)s)",
        "DELETE FROM subject_keys WHERE subject_id = ANY(%(all)s)",
    ):
        conn.execute(statement.encode(), asked)
    conn.execute(
        """UPDATE quarantine SET state = CASE state WHEN 'held' THEN 'rejected' ELSE state END,
                  reason = CASE state WHEN 'held' THEN 'lost' ELSE reason END,
                  decided_at = coalesce(decided_at, %(now)s), decided_by = coalesce(decided_by, %(by)s),
                  key_destroyed_at = coalesce(key_destroyed_at, %(now)s), destroyed_at = coalesce(destroyed_at, %(now)s)
            WHERE quarantine_id = ANY(%(documents)s)""",
        asked | {"by": agent.on_behalf_of},
    )
    return [
        *(Event("rec", now, agent, part, "failure", {"lost": "record"}) for part in _parts(records)),
        *(Event("rec", now, agent, (one,), "failure", {"lost": "quarantined"}) for one in documents),
    ]


def moved(agent: Agent, versions: Mapping[UUID, str], now: datetime) -> Iterator[Event]:
    """Which version of its object holds each record or document from now on."""
    for part in _parts([*versions]):
        yield Event("rec", now, agent, part, detail={"versions": [versions[one] for one in part]})


def unrecovered(conn: Connection, agent: Agent, now: datetime) -> Iterator[Event]:
    """What every table lacks, row by row. In the transaction that has `history`, up to date."""
    tables = {one.table: lacking(conn, one) for one in PROJECTIONS if one.table in _MAY_LACK}
    names = conn.execute("SELECT pseudonym_id::text FROM pseudonyms WHERE sealed_name IS NULL ORDER BY 1").fetchall()
    tables["pseudonyms"] = [[row[0]] for row in names]
    tables["key_buckets"] = [[row[0]] for row in conn.execute(_BUCKETS)]
    for table, rows in tables.items():
        for part in _of_bytes(rows):
            yield Event("rec", now, agent, (), "failure", {"table": table, "unrecovered": part})


def restored(agent: Agent, point: UUID, size: int, records: int, lost: int, documents: int, now: datetime) -> Event:
    """That the archive was restored: from which point, to how many events; what came back and what did not."""
    detail = {"restored": size, "point": str(point), "records": records, "lost": lost, "documents": documents}
    return Event("rec", now, agent, (), detail=detail)


def _parts(ids: Sequence[UUID]) -> Iterator[tuple[UUID, ...]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield tuple(ids[start : start + _AT_ONCE])


def _of_bytes(rows: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    part: list[list[str]] = []
    size = 0
    for row in rows:
        size += len(json.dumps(row))
        if part and size > _BYTES:
            yield part
            part, size = [], len(json.dumps(row))
        part.append(row)
    if part:
        yield part
