"""The catalog as people ask it: find records, show one with all that is known of it.

Rules of this module:
- Reading only. Each answer is one statement, or a handful for one record; no loop over the catalog.
- Names come from the description tables and are shown while they exist; the control tables answer alone while
  descriptions are being rebuilt.
- A search is for words: all of them, in any order, without niqqud; `"quoted words"` stand together, `-word` is
  absent, `or` between alternatives (PostgreSQL's websearch syntax).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from retention.archive import Archive, names
from retention.database import Connection, transaction
from retention.descriptors import searchable
from retention.engine import RecordFacts, Suspension
from retention.errors import NotFound
from retention.model import RecordState


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that a search found."""

    record_id: UUID
    class_id: str
    received: date
    title: str | None
    name: str
    place: str
    mime: str | None
    size: int


def find(conn: Connection, query: str, class_id: str | None = None, limit: int = 50) -> list[Hit]:
    """Records whose title, name, place, author or text holds the words, best first, newest among equals."""
    rows = conn.execute(
        """SELECT r.record_id, c.class_id, r.received, d.title, d.name, d.place, d.mime, r.bytes
             FROM descriptions d JOIN records r ON r.record_id = d.subject_id JOIN classes c USING (class_key),
                  websearch_to_tsquery('simple', %(query)s) AS wanted
            WHERE d.search @@ wanted AND r.state = %(kept)s
              AND (%(class)s::text IS NULL OR c.class_id = %(class)s)
            ORDER BY ts_rank(d.search, wanted) DESC, r.received DESC, r.record_id
            LIMIT %(limit)s""",
        {"query": searchable(query), "class": class_id, "limit": limit, "kept": RecordState.KEPT},
    )
    return [Hit(*row) for row in rows]


def facts(conn: Connection, record_id: UUID) -> RecordFacts:
    """What the engine decides upon: dates, unretracted events, suspensions, holds. Raises NotFound."""
    row = conn.execute(
        """SELECT c.class_id, r.received, r.document_date, r.modified, r.tagged, r.aggregation_id,
                  ARRAY(SELECT l.class_id FROM record_labels x JOIN classes l USING (class_key)
                         WHERE x.record_id = r.record_id ORDER BY l.class_id),
                  ARRAY(SELECT m.hold_id::text FROM hold_members m WHERE m.record_id = r.record_id ORDER BY 1)
             FROM records r JOIN classes c USING (class_key) WHERE r.record_id = %s""",
        (record_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"no record {record_id}. `muniment find WORDS` looks for one by its text.")
    class_id, received, document_date, modified, tagged, aggregation, labels, held = row
    subjects = [s for s in (record_id, aggregation) if s is not None]
    events: dict[str, tuple[date, ...]] = {}
    for kind, dates in conn.execute(
        """SELECT k.kind, array_agg(e.effective ORDER BY e.effective)
             FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
            WHERE e.subject_id = ANY(%s) AND e.retracts IS NULL
              AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
            GROUP BY k.kind""",
        (subjects,),
    ):
        events[kind] = tuple(dates)
    suspended = conn.execute("SELECT starts, ends FROM suspensions WHERE subject_id = ANY(%s)", (subjects,)).fetchall()
    return RecordFacts(
        class_ids=(class_id, *labels),
        received=received,
        document_date=document_date,
        modified=modified,
        tagged=tagged,
        events=events,
        suspensions=tuple(Suspension(starts, ends) for starts, ends in suspended),
        holds=tuple(held),
    )


def show(archive: Archive, record_id: UUID) -> dict[str, Any]:
    """One record: what it is, where it stands, its findings, children, holds, lock and events. Raises NotFound."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            """SELECT c.class_id, r.state, r.received, r.document_date, r.modified, r.bytes, r.recorded_at, r.parent_id,
                      t.sealed_sha256, t.sealed_bytes, t.version, t.verified_at, t.run_id, t.supersedes,
                      d.title, d.name, d.source, d.place, d.mime, d.puid, d.language, d.author, d.sha256,
                      d.metadata, d.messages, l.mode, l.wanted_until, l.actual_until,
                      ARRAY(SELECT x.record_id FROM records x WHERE x.parent_id = r.record_id ORDER BY 1),
                      ARRAY(SELECT m.hold_id FROM hold_members m WHERE m.record_id = r.record_id ORDER BY 1)
                 FROM records r JOIN classes c USING (class_key) JOIN contents t USING (record_id)
                 LEFT JOIN descriptions d ON d.subject_id = r.record_id
                 LEFT JOIN object_locks l ON l.subject_id = r.record_id
                WHERE r.record_id = %s""",
            (record_id,),
        ).fetchone()
        if row is None:
            raise NotFound(f"no record {record_id}. `muniment find WORDS` looks for one by its text.")
        found = _shown(record_id, row)
        found["events"] = history(conn, archive, record_id)
    return found


def history(conn: Connection, archive: Archive, subject_id: UUID) -> list[dict[str, Any]]:
    """The events of a subject in order, agents by name while their names exist."""
    rows = conn.execute(
        "SELECT e.position, e.entry FROM event_subjects s JOIN events e USING (position) "
        "WHERE s.subject_id = %s ORDER BY position",
        (subject_id,),
    ).fetchall()
    events = [{"position": position, **json.loads(bytes(entry))} for position, entry in rows]
    agents = {UUID(e["agent"][key]) for e in events for key in ("id", "for") if key in e["agent"]}
    known = names(conn, archive.safe, agents)
    for event in events:
        who = event["agent"]
        event["by"] = known.get(UUID(who["id"]), who["id"])
        if "for" in who:
            event["on_behalf_of"] = known.get(UUID(who["for"]), who["for"])
    return events


def _shown(record_id: UUID, row: tuple[Any, ...]) -> dict[str, Any]:
    keys = (
        *("class_id", "state", "received", "document_date", "modified", "bytes", "recorded_at", "parent_id"),
        *("sealed_sha256", "sealed_bytes", "version", "verified_at", "run_id", "supersedes"),
        *("title", "name", "source", "place", "mime", "puid", "language", "author", "sha256", "metadata", "findings"),
        *("lock_mode", "lock_wanted_until", "lock_until", "children", "holds"),
    )
    found = {"record_id": str(record_id)} | {key: _plain(value) for key, value in zip(keys, row, strict=True)}
    found["state"] = RecordState(row[1]).name.lower()
    return found


def _plain(value: Any) -> Any:
    match value:
        case date() | datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case bytes():
            return value.hex()
        case list():
            return [_plain(v) for v in value]
        case _:
            return value
