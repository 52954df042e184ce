"""What proves that records are kept: objects read back, locks, keys, the history.

Rules of this module:
- Every function reads within the snapshot of its collector and changes nothing.
- A list of defects is a list that is empty in a healthy archive; that it was looked for is said all the same.
- The history is hashed again from its first entry, streamed: memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import LiteralString

from retention import ledger, merkle
from retention.database import Connection
from retention.reports.lists import HELD, RECORDS, Body, Collector, instant
from retention.reports.model import Assured, Figure, LedgerPart, Written
from retention.rules import Schedule, Worm

# ---------------------------------------------------------------- what was written


def written(collect: Collector) -> tuple[Written, ...]:
    """Every object that was written to the vault, when it was read back, and its digest."""
    kinds: tuple[tuple[str, str, Body], ...] = (
        (
            "records",
            "Contents of records, read back",
            _objects("o.record_id", "o.sealed_bytes", "o.verified_at", "o.sealed_sha256", "contents o"),
        ),
        (
            "quarantine",
            "Documents of quarantine, read back",
            _objects(
                "q.quarantine_id",
                "q.sealed_bytes",
                "q.verified_at",
                "q.sealed_sha256",
                "(SELECT * FROM quarantine WHERE destroyed_at IS NULL) q",
            ),
        ),
        (
            "descriptors",
            "Descriptor objects, read back",
            _objects("d.descriptor_id", "d.bytes", "d.recorded_at", "d.sha256", "descriptors d"),
        ),
    )
    found = []
    for kind, title, body in kinds:
        objects = collect.one(f"written-{kind}", title, body)
        numbers = collect.numbers(
            body, "sum(sealed_bytes)", "min(read_back)::timestamptz", "max(read_back)::timestamptz"
        )
        size, oldest, newest = numbers[0][2:] if numbers else (0, None, None)
        found.append(Written(kind, objects, Figure(int(size), objects.listing, "sealed_bytes"), oldest, newest))
    return tuple(found)


def _objects(
    subject: LiteralString, size: LiteralString, verified: LiteralString, digest: LiteralString, source: LiteralString
) -> Body:
    columns: dict[str, LiteralString] = {
        "object": subject,
        "sealed_bytes": size,
        "read_back": instant(verified),
        "sealed_sha256": "encode(" + digest + ", 'hex')",
    }
    return Body(columns, source, "read_back, object")


# ---------------------------------------------------------------- history


def history(collect: Collector) -> LedgerPart:
    """The ledger's head, and the root hashed again from every leaf (memory does not grow with it)."""
    size, root = ledger.head(collect.conn)
    body = Body(
        columns={
            "type": "e.type",
            "events": "count(*)",
            "first": "min(e.position)",
            "last": "max(e.position)",
        },
        source="events e",
        where="true GROUP BY e.type",
        order="type",
    )
    made = collect.one("ledger", "Events of the ledger by type", body)
    with collect.conn.cursor(name="leaves") as leaves:
        leaves.itersize = 10_000
        leaves.execute("SELECT leaf_hash FROM events ORDER BY position")
        _, frontier = merkle.append(0, [], (bytes(row[0]) for row in leaves))
    return LedgerPart(Figure(size, made.listing, "events"), root.hex(), merkle.root(frontier).hex())


_ONE_RUN = timedelta(hours=1)
_ASSURED = """
SELECT CASE WHEN type = 'dig' THEN 'verify' WHEN type = 'fix' THEN 'fixity' ELSE 'reconcile' END AS task,
       recorded_at, detail ->> 'outcome' <> 'success' AS bad
  FROM (SELECT type, recorded_at, convert_from(entry, 'UTF8')::jsonb AS detail FROM events
         WHERE recorded_at >= %s AND type IN ('dig', 'fix', 'poa')) AS e
 WHERE (type = 'fix' AND NOT detail -> 'detail' ? 'backup_vault')
    OR (type = 'dig' AND detail -> 'detail' ? 'verified')
    OR (type = 'poa' AND detail -> 'detail' ? 'locks_compared')
 ORDER BY recorded_at"""


def assured(conn: Connection, now: datetime) -> Assured:
    """What of `assurance` ran in the last three days."""
    ran: dict[str, datetime | None] = dict.fromkeys(("publish", "verify", "fixity", "reconcile"))
    failed: dict[str, datetime] = {}
    for task, at, bad in conn.execute(_ASSURED, (now - timedelta(days=3),)):
        ran[task] = at
        if bad:
            failed[task] = at
    row = conn.execute("SELECT max(recorded_at) FROM ledger_checkpoints").fetchone()
    ran["publish"] = row[0] if row else None
    first = conn.execute("SELECT recorded_at FROM events ORDER BY position LIMIT 1").fetchone()
    # What is damaged is read first: a run that finds it goes on for minutes with what is whole.
    last = {task: at for task, at in ran.items() if at is not None}
    found = tuple(t for t in failed if failed[t] == last[t] or (t == "fixity" and last[t] - failed[t] < _ONE_RUN))
    return Assured(first[0] if first else None, ran, found)


# ---------------------------------------------------------------- what must be empty


_DEFECTS: Mapping[str, tuple[str, Body]] = {
    "no-content": (
        "Records without an object in the vault",
        Body(
            {"record": "r.record_id", "class": "c.class_id"},
            RECORDS,
            "record",
            HELD + " AND NOT EXISTS (SELECT FROM contents o WHERE o.record_id = r.record_id)",
        ),
    ),
    "no-key": (
        "Records and documents whose key is gone",
        Body(
            {"subject": "s.id"},
            "(SELECT record_id AS id FROM records WHERE state = 1 "
            "UNION ALL SELECT quarantine_id FROM quarantine WHERE key_destroyed_at IS NULL) s",
            "subject",
            "NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = s.id)",
        ),
    ),
    "no-event": (
        "Records and documents without an event in the ledger",
        Body(
            {"subject": "s.id"},
            "(SELECT record_id AS id FROM records UNION ALL SELECT quarantine_id FROM quarantine) s",
            "subject",
            "NOT EXISTS (SELECT FROM event_subjects e WHERE e.subject_id = s.id)",
        ),
    ),
    "altered-events": (
        "Events whose bytes do not give their leaf hash",
        Body(
            {"position": "e.position", "type": "e.type"},
            "events e",
            "position",
            "sha256('\\x00'::bytea || e.entry) <> e.leaf_hash",
        ),
    ),
    "undescribed": (
        "Records and documents that are not described now",
        Body(
            {"subject": "k.subject_id"},
            "(SELECT DISTINCT subject_id FROM descriptor_lines) l JOIN subject_keys k USING (subject_id)",
            "subject",
            "NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = k.subject_id)",
        ),
    ),
}


def defects(collect: Collector) -> dict[str, Figure]:
    """Lists that are empty in a healthy archive."""
    return {name: collect.one(name, title, body) for name, (title, body) in _DEFECTS.items()}


# ---------------------------------------------------------------- locks


_LOCKS = Body(
    columns={
        "object": "l.object_key",
        "mode": "l.mode",
        "wanted_until": instant("l.wanted_until"),
        "actual_until": instant("l.actual_until"),
        "queued": instant("l.queued_at"),
        "attempts": "l.attempts",
        "error": "l.error",
    },
    source="object_locks l",
    where="l.actual_until IS NULL OR l.actual_until < l.wanted_until",
    order="queued, object",
)


def lock_queue(collect: Collector) -> tuple[Figure, datetime | None, int]:
    """Locks that policy requires and the vault has not confirmed: which, the oldest, how many failed."""
    waiting_ = collect.one("locks-waiting", "Locks that are required and not confirmed", _LOCKS)
    row = collect.conn.execute(
        """SELECT min(queued_at), count(*) FILTER (WHERE error IS NOT NULL) FROM object_locks
            WHERE actual_until IS NULL OR actual_until < wanted_until"""
    ).fetchone()
    oldest, failed = row or (None, 0)
    return waiting_, oldest, failed


def unlocked(collect: Collector, schedule: Schedule | None) -> Figure:
    """Records of classes that must be locked for which no lock was ever asked."""
    locked = [known.id for known in schedule.classes if known.worm is not Worm.NONE] if schedule else []
    body = Body(
        columns={"record": "r.record_id", "class": "c.class_id", "received": "r.received"},
        source=RECORDS,
        where=HELD
        + " AND c.class_id = ANY(%(locked)s)"
        + " AND NOT EXISTS (SELECT FROM object_locks l WHERE l.subject_id = r.record_id)",
        order="class, received, record",
        params={"locked": locked},
    )
    return collect.one("unlocked", "Records that must be locked and are not", body)
