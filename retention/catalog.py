"""The catalog as people ask it: find records, show one with all that is known of it.

Rules of this module:
- Reading only. Each answer is one statement, or a handful for one record; no loop over the catalog.
- Names come from the description tables and are shown while they exist; the control tables answer alone while
  descriptions are being rebuilt.
- What is restricted (GDPR art. 18) is stored and nothing else: no search finds it, and of one that is shown there is
  what control tables have, no description.
- A search is for words: all of them, in any order, without niqqud; `"quoted words"` stand together, `-word` is
  absent, `or` between alternatives (PostgreSQL's websearch syntax).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from retention.archive import Archive, names
from retention.database import Connection
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
              AND NOT EXISTS (SELECT FROM restrictions x WHERE x.record_id = r.record_id)
            ORDER BY ts_rank(d.search, wanted) DESC, r.received DESC, r.record_id
            LIMIT %(limit)s""",
        {"query": searchable(query), "class": class_id, "limit": limit, "kept": RecordState.KEPT},
    )
    return [Hit(*row) for row in rows]


def restricted_hits(conn: Connection, query: str, class_id: str | None = None) -> int:
    """How many records `find` leaves out because they are restricted."""
    row = conn.execute(
        """SELECT count(DISTINCT r.record_id)
             FROM restrictions x JOIN records r USING (record_id) JOIN classes c USING (class_key)
             JOIN descriptions d ON d.subject_id = r.record_id
            WHERE d.search @@ websearch_to_tsquery('simple', %(query)s) AND r.state = %(kept)s
              AND (%(class)s::text IS NULL OR c.class_id = %(class)s)""",
        {"query": searchable(query), "class": class_id, "kept": RecordState.KEPT},
    ).fetchone()
    assert row is not None
    return int(row[0])


def restricted(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Which of the records are restricted, and since when."""
    rows = conn.execute(
        "SELECT record_id, min(recorded_at) FROM restrictions WHERE record_id = ANY(%s) GROUP BY 1", (list(ids),)
    )
    return dict(rows.fetchall())


def facts(conn: Connection, record_id: UUID, known_at: datetime | None = None) -> RecordFacts:
    """What the engine decides upon, for one record: see `facts_of`. Raises NotFound."""
    found = facts_of(conn, [record_id], known_at).get(record_id)
    if found is None:
        then = f" was known at {known_at.isoformat()}" if known_at else ""
        raise NotFound(f"no record {record_id}{then}. `muniment find WORDS` looks for one by its text.")
    return found


def facts_of(conn: Connection, ids: Sequence[UUID], known_at: datetime | None = None) -> dict[UUID, RecordFacts]:
    """What the engine decides upon: classes, dates, unretracted events, suspensions, holds, extension.

    With `known_at`, as it was recorded at that instant. A record that is not there, or was not there yet, is left
    out. A handful of statements for all of them: give it a few thousand at a time."""
    asked = {"ids": list(ids), "at": known_at or "infinity"}
    events: dict[UUID, dict[bool, dict[str, tuple[date, ...]]]] = {}
    for record, own, kind, dates in conn.execute(
        _SUBJECTS
        + sql.SQL("""SELECT s.record_id, s.own, k.kind, array_agg(e.effective ORDER BY e.effective)
               FROM subjects s JOIN trigger_events e USING (subject_id) JOIN trigger_kinds k ON k.ordinal = e.kind
              WHERE e.retracts IS NULL AND e.recorded_at <= %(at)s::timestamptz
                AND NOT EXISTS (SELECT FROM trigger_events x
                                 WHERE x.retracts = e.trigger_event_id AND x.recorded_at <= %(at)s::timestamptz)
              GROUP BY 1, 2, 3 ORDER BY 3"""),
        asked,
    ):
        events.setdefault(record, {}).setdefault(own, {})[kind] = tuple(dates)
    suspended: dict[UUID, list[Suspension]] = {}
    for record, starts, ends in conn.execute(
        _SUBJECTS
        + sql.SQL("""SELECT s.record_id, u.starts, CASE WHEN u.ended_recorded_at <= %(at)s::timestamptz THEN u.ends END
               FROM subjects s JOIN suspensions u USING (subject_id)
              WHERE u.recorded_at <= %(at)s::timestamptz ORDER BY 1, 2, u.suspension_id"""),
        asked,
    ):
        suspended.setdefault(record, []).append(Suspension(starts, ends))
    return {
        row[0]: RecordFacts(
            class_ids=(row[1], *row[6]),
            received=row[2],
            document_date=row[3],
            modified=row[4],
            tagged=row[5],
            events=events.get(row[0], {}).get(True, {}),
            inherited=events.get(row[0], {}).get(False, {}),
            suspensions=tuple(suspended.get(row[0], ())),
            holds=tuple(row[7]),
            not_before=row[8],
        )
        for row in conn.execute(_RECORDS, asked)
    }


# Each record as a subject of events and suspensions, and the aggregation that it was in at the time.
_SUBJECTS = sql.SQL("""
WITH asked AS (
    SELECT r.record_id, CASE WHEN c.record_id IS NULL THEN r.aggregation_id ELSE c.from_aggregation END AS aggregation
      FROM records r
      LEFT JOIN LATERAL (SELECT h.record_id, h.from_aggregation FROM aggregation_changes h
                          WHERE h.record_id = r.record_id AND h.recorded_at > %(at)s::timestamptz
                          ORDER BY h.recorded_at LIMIT 1) AS c ON true
     WHERE r.record_id = ANY(%(ids)s) AND r.recorded_at <= %(at)s::timestamptz
), subjects AS (
    SELECT record_id, record_id AS subject_id, true AS own FROM asked
    UNION ALL
    SELECT record_id, aggregation, false FROM asked WHERE aggregation IS NOT NULL
)
""")

# least: a date of Python ends in 9999, and its last day stands for "for good".
_RECORDS = """
SELECT r.record_id, c.class_id, r.received, r.document_date, r.modified, r.tagged,
       ARRAY(SELECT l.class_id FROM record_labels x JOIN classes l USING (class_key)
              WHERE x.record_id = r.record_id AND x.recorded_at <= %(at)s::timestamptz ORDER BY l.class_id),
       ARRAY(SELECT m.hold_id::text FROM hold_members m
              WHERE m.record_id = r.record_id AND m.recorded_at <= %(at)s::timestamptz
              UNION
             SELECT m.hold_id::text FROM hold_members_released m
              WHERE m.record_id = r.record_id AND m.recorded_at <= %(at)s::timestamptz
                AND m.released_at > %(at)s::timestamptz ORDER BY 1),
       (SELECT least(e.not_before, date '9999-12-31') FROM extensions e
         WHERE e.record_id = r.record_id AND e.recorded_at <= %(at)s::timestamptz
         ORDER BY e.recorded_at DESC LIMIT 1)
  FROM records r
  JOIN classes c ON c.class_key = coalesce(
       (SELECT h.from_class FROM class_changes h WHERE h.record_id = r.record_id
           AND h.recorded_at > %(at)s::timestamptz ORDER BY h.recorded_at LIMIT 1), r.class_key)
 WHERE r.record_id = ANY(%(ids)s) AND r.recorded_at <= %(at)s::timestamptz
"""


def trigger_events(
    conn: Connection, archive: Archive, subjects: Sequence[UUID], known_at: datetime | None = None
) -> list[dict[str, Any]]:
    """The events of subjects by date, with who recorded them and when; retracted ones too, retractions not.

    With `known_at`, as it was recorded at that instant."""
    rows = conn.execute(
        """SELECT e.trigger_event_id, e.subject_id, k.kind, e.effective, e.recorded_at, e.recorded_by,
                  x.trigger_event_id, x.recorded_at, x.recorded_by
             FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
             LEFT JOIN trigger_events x
               ON x.retracts = e.trigger_event_id AND x.recorded_at <= %(at)s::timestamptz
            WHERE e.subject_id = ANY(%(ids)s) AND e.retracts IS NULL AND e.recorded_at <= %(at)s::timestamptz
            ORDER BY e.effective, e.recorded_at, e.trigger_event_id""",
        {"ids": list(subjects), "at": known_at or "infinity"},
    ).fetchall()
    known = names(conn, archive.safe, {who for row in rows for who in (row[5], row[8]) if who})
    keys = (
        *("trigger_event_id", "subject", "kind", "effective", "recorded_at", "recorded_by"),
        *("retraction_id", "retracted_at", "retracted_by"),
    )
    found = [{key: _plain(value) for key, value in zip(keys, row, strict=True)} for row in rows]
    for event, row in zip(found, rows, strict=True):
        event["by"] = known.get(row[5], str(row[5]))
    return found


def suspensions(
    conn: Connection,
    archive: Archive,
    subjects: Sequence[UUID] | None = None,
    known_at: datetime | None = None,
    *,
    ended: bool = True,
) -> list[dict[str, Any]]:
    """Suspensions, of these subjects only if they are given, open ones first; with `known_at`, as known then."""
    rows = conn.execute(
        """SELECT u.suspension_id, u.subject_id, u.reason, u.starts,
                  CASE WHEN u.ended_recorded_at <= %(at)s::timestamptz THEN u.ends END AS ends,
                  u.recorded_at, u.recorded_by
             FROM suspensions u
            WHERE (%(ids)s::uuid[] IS NULL OR u.subject_id = ANY(%(ids)s)) AND (%(ended)s OR u.ends IS NULL)
              AND u.recorded_at <= %(at)s::timestamptz
            ORDER BY ends DESC NULLS FIRST, u.starts, u.suspension_id""",
        {"ids": None if subjects is None else list(subjects), "at": known_at or "infinity", "ended": ended},
    ).fetchall()
    known = names(conn, archive.safe, {row[6] for row in rows})
    keys = ("suspension_id", "subject", "reason", "starts", "ends", "recorded_at", "recorded_by")
    found = [{key: _plain(value) for key, value in zip(keys, row, strict=True)} for row in rows]
    for one, row in zip(found, rows, strict=True):
        one["by"] = known.get(row[6], str(row[6]))
    return found


def show(conn: Connection, archive: Archive, record_id: UUID) -> dict[str, Any]:
    """One record: what it is, where it stands, its findings, children, holds, lock and events. Raises NotFound."""
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
    since = restricted(conn, [record_id]).get(record_id)
    found["restricted_since"] = _plain(since)
    if since is not None:
        found |= dict.fromkeys(_DESCRIBED)
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


_DESCRIBED = (
    *("title", "name", "source", "place", "mime", "puid", "language", "author"),
    *("sha256", "metadata", "findings"),
)


def _shown(record_id: UUID, row: tuple[Any, ...]) -> dict[str, Any]:
    keys = (
        *("class_id", "state", "received", "document_date", "modified", "bytes", "recorded_at", "parent_id"),
        *("sealed_sha256", "sealed_bytes", "version", "verified_at", "run_id", "supersedes"),
        *_DESCRIBED,
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
