"""Reading is an event too: who looked at words of a person, what was shown, and why (requirements: history).

Rules of this module:
- What shows words of a document or of a person (title, name, text, the day of an event, the number of a case file) of
  a class that the schedule says holds personal data appends one `dis` event in the transaction that read them. The
  caller gets an answer when that is committed: where the ledger cannot be written, nothing is shown.
- A class that the schedule does not know, a document in quarantine, which has none yet, and a case file without records
  may hold personal data, where any class does.
- A search that covers such a class is an event whatever it finds: that somebody looked, and that nothing is there,
  tells something too. Its subjects are what it showed.
- Why is a code, `unstated` where nobody said. The words of a search name people: they are sealed under a key of their
  own (table queries), and the event has its id and a commitment. They go after TERM; the event stays.
- Matter, authority and scope of a hold, and whom a request is about, are words that name people: who looks at them is
  an event of the hold or of the request. That of a report with names says how many rows have one, not which.
- Nothing is told of a restricted record (GDPR art. 18) but what control tables have, so that showing it is no event.
- What is handed out is none of this (retention.holds.production, retention.requests): it goes to others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from retention import aggregations, approvals, catalog, explanations, ledger, policy, quarantine, triggers
from retention.aggregations import Listed as CaseFile
from retention.approvals import Kind, Proposal
from retention.archive import Archive, load_key, store_keys
from retention.catalog import Hit
from retention.database import Connection, transaction
from retention.errors import NotFound, UsageError
from retention.history import life
from retention.history.life import Life
from retention.holds import register
from retention.holds.register import Hold
from retention.ledger import Event
from retention.model import new_id
from retention.quarantine import REASON, Listed
from retention.rules import Period
from retention.seal import new_record_key
from retention.triggers import Change

TERM = Period(months=72)  # of the words of searches: as HIPAA keeps documentation, 45 CFR 164.316(b)(2)(i)
SCOPE = "queries"  # their keys' scope in the key safe
_AT_ONCE = 1000  # ids in an event, which holds 65,535 bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """Why somebody reads, and when; who it is, the archive knows. Raises UsageError for what is no code."""

    why: str
    now: datetime

    def __post_init__(self) -> None:
        if not REASON.fullmatch(self.why):
            raise UsageError(
                f"--why: expected a code of lower-case letters and hyphens such as treatment or complaint, "
                f"found {self.why!r}. Words could name people, and the history is for ever."
            )


# ---------------------------------------------------------------- what is read


def find(archive: Archive, query: str, class_id: str | None, limit: int, reader: Reader) -> tuple[list[Hit], int]:
    """What `catalog.find` finds, and how many restricted records it leaves out."""
    with transaction(archive.connections) as conn:
        hits, left_out = catalog.find(conn, query, class_id, limit), catalog.restricted_hits(conn, query, class_id)
        plain = _plain(conn)
        if plain is not None and class_id not in plain:
            shown = [hit.record_id for hit in hits if hit.record_id in _personal(conn, [h.record_id for h in hits])]
            said = _seal_query(conn, archive, {"query": query, "class": class_id}, reader.now)
            _append(conn, archive, "find", shown, reader, said)
    return hits, left_out


def show(archive: Archive, record_id: UUID, reader: Reader) -> dict[str, Any]:
    """What `catalog.show` shows. Raises NotFound."""
    with transaction(archive.connections) as conn:
        found = catalog.show(conn, archive, record_id)
        if found["restricted_since"] is None:
            looked(conn, archive, "show", [record_id], reader)
    return found


def history(archive: Archive, subject: UUID, reader: Reader) -> Life:
    """The life of a record, or of a document that was in quarantine or rejected. Raises NotFound."""
    with transaction(archive.connections) as conn:
        found = life.life(conn, archive, subject)
        if subject not in catalog.restricted(conn, [subject]):
            looked(conn, archive, "history", [subject], reader)
    return found


def explain(
    archive: Archive, record_id: UUID, as_of: date | None, known_at: datetime | None, reader: Reader
) -> dict[str, Any]:
    """What `explanations.explain` says. Raises NotFound."""
    with transaction(archive.connections) as conn:
        found = explanations.explain(conn, archive, record_id, reader.now, as_of, known_at)
        looked(conn, archive, "explain", [record_id], reader)
    return found


def events(archive: Archive, text: str, reader: Reader) -> list[dict[str, Any]]:
    """What happened to a record or a case file, as somebody typed its id, and when. Raises NotFound, UsageError."""
    with transaction(archive.connections) as conn:
        subject = aggregations.subject(archive.safe, text)
        aggregations.refuse_missing(conn, [subject])
        found = catalog.trigger_events(conn, archive, [subject])
        looked(conn, archive, "events", [subject], reader)
    return found


def case_files(archive: Archive, kind: str | None, limit: int, reader: Reader) -> list[CaseFile]:
    """The case files, whose numbers are of patients and employees."""
    with transaction(archive.connections) as conn:
        found = aggregations.listed(conn, kind, limit)
        looked(conn, archive, "case-files", [one.aggregation_id for one in found if one.business_id], reader)
    return found


def quarantined(archive: Archive, state: str | None, reader: Reader, document: UUID | None = None) -> list[Listed]:
    """Documents in quarantine of a state, all of them (None), or one. Raises NotFound for one that is not there."""
    with transaction(archive.connections) as conn:
        found = quarantine.listed(conn, state) if document is None else [quarantine.show(conn, document)]
        looked(conn, archive, "quarantine", [one.quarantine_id for one in found if one.name is not None], reader)
    return found


def holds(archive: Archive, released: bool, reader: Reader) -> list[Hold]:
    """The holds in force, or all, with their matters."""
    with transaction(archive.connections) as conn:
        found = register.listed(conn, released=released)
        looked(conn, archive, "holds", [one.hold_id for one in found if one.matter is not None], reader)
    return found


def hold(archive: Archive, hold_id: UUID, reader: Reader) -> dict[str, Any]:
    """What `register.show` shows. Raises NotFound."""
    with transaction(archive.connections) as conn:
        found = register.show(conn, archive, hold_id)
        looked(conn, archive, "hold", [hold_id], reader)
    return found


def report(archive: Archive, rows: int, reader: Reader) -> None:
    """Enter that a report is shown in which so many rows have the name of a record."""
    with transaction(archive.connections) as conn:
        if _plain(conn) is not None:
            _append(conn, archive, "report", [], reader, rows=rows)


def proposal(archive: Archive, proposal_id: UUID, reader: Reader) -> tuple[Proposal, Change]:
    """What people are to sign, and which dates and notes of events it means, while it is open. Raises NotFound."""
    with transaction(archive.connections) as conn:
        found, meant = approvals.show(conn, proposal_id), Change()
        if found.state == "open" and found.kind in (Kind.TRIGGER, Kind.RETRACTION, Kind.RESUMPTION):
            meant = triggers.meant(conn, archive, found)
            subjects = dict.fromkeys(given.subject for given in meant.events)
            looked(conn, archive, "approval", list(subjects), reader)
    return found, meant


# ---------------------------------------------------------------- whether it is personal data


def _plain(conn: Connection) -> frozenset[str] | None:
    """The classes of which the schedule in force says that they hold no personal data; None: no class holds any."""
    try:
        classes = policy.current(conn).schedule.classes
    except NotFound:
        return None
    plain = frozenset(known.id for known in classes if known.personal_data is None)
    return plain if len(plain) < len(classes) else None


def _personal(conn: Connection, subjects: Sequence[UUID]) -> set[UUID]:
    """Which of these records, case files and documents hold personal data, or may."""
    plain = _plain(conn)
    if plain is None or not subjects:
        return set()
    rows = conn.execute(
        """WITH asked AS (SELECT unnest(%(ids)s::uuid[]) AS id),
                classed AS (SELECT id, record_id, class_key FROM asked JOIN records ON record_id = id
                             UNION ALL
                            SELECT id, record_id, class_key FROM asked JOIN records ON aggregation_id = id),
                known AS (SELECT id, class_key FROM classed
                           UNION SELECT c.id, l.class_key FROM classed c JOIN record_labels l USING (record_id))
           SELECT id FROM asked a
            WHERE NOT EXISTS (SELECT FROM known k WHERE k.id = a.id)
               OR EXISTS (SELECT FROM known k JOIN classes c USING (class_key)
                           WHERE k.id = a.id AND NOT c.class_id = ANY(%(plain)s))""",
        {"ids": list(subjects), "plain": sorted(plain)},
    )
    return {row[0] for row in rows}


# ---------------------------------------------------------------- the event


def looked(conn: Connection, archive: Archive, what: str, subjects: Sequence[UUID], reader: Reader) -> None:
    """The event of a reading, if any of what was shown is personal data. Last in its transaction."""
    personal = _personal(conn, subjects)
    if personal:
        _append(conn, archive, what, [one for one in subjects if one in personal], reader)


def _append(
    conn: Connection,
    archive: Archive,
    what: str,
    shown: Sequence[UUID],
    reader: Reader,
    said: _Query | None = None,
    rows: int | None = None,
) -> None:
    detail: dict[str, Any] = {"read": what, "shown": len(shown) if rows is None else rows, "why": reader.why}
    own: tuple[UUID, ...] = ()
    if said is not None:
        detail |= {"query": str(said.id), "query_commitment": said.commitment.hex()}
        own = (said.id,)
    parts = [shown[start : start + _AT_ONCE] for start in range(0, len(shown), _AT_ONCE)] or [[]]
    made = [Event("dis", reader.now, archive.agent, (*own, *part), detail=detail) for part in parts]
    ledger.append(conn, made, reader.now)


# ---------------------------------------------------------------- the words of searches


@dataclass(frozen=True, slots=True)
class _Query:
    id: UUID
    commitment: bytes


def _seal_query(conn: Connection, archive: Archive, said: dict[str, str | None], now: datetime) -> _Query:
    """Keep the words of a search, sealed; in the catalog, as names are, and not in the vault, where each search would
    be an object."""
    query_id, key = new_id(now), new_record_key()
    words = json.dumps(said, sort_keys=True).encode()
    store_keys(conn, archive.safe, {query_id: (key, SCOPE)}, now)
    conn.execute(
        "INSERT INTO queries (query_id, sealed, recorded_at) VALUES (%s, %s, %s)", (query_id, key.seal(words), now)
    )
    return _Query(query_id, key.commitment(sha256(words).digest()))


def searched(archive: Archive, query_id: UUID, reader: Reader) -> dict[str, str | None]:
    """The words of a search, and the class that it was for. Raises NotFound once their term has ended."""
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT sealed FROM queries WHERE query_id = %s", (query_id,)).fetchone()
        if row is None:
            raise NotFound(f"no words of a search {query_id}: it never was, or its words are gone after six years.")
        said: dict[str, str | None] = json.loads(load_key(conn, archive.safe, query_id).open(bytes(row[0])))
        _append(conn, archive, "query", [query_id], reader)
    return said


def forget(archive: Archive, now: datetime) -> int:
    """Destroy the words of searches whose term has ended, with their keys; how many. Nightly; again is fine."""
    before = _before(now)
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """WITH ended AS (DELETE FROM queries WHERE recorded_at < %s RETURNING query_id)
               DELETE FROM subject_keys USING ended WHERE subject_id = query_id RETURNING subject_id""",
            (before,),
        ).fetchall()
        gone = sorted(row[0] for row in rows)
        ledger.append(conn, [*_forgotten(archive, gone, now)], now)
    return len(gone)


def _before(now: datetime) -> datetime:
    day = Period(months=-TERM.months).after(now.date())
    return datetime.combine(day, now.timetz())


def _forgotten(archive: Archive, gone: Sequence[UUID], now: datetime) -> Iterable[Event]:
    for start in range(0, len(gone), _AT_ONCE):
        part = tuple(gone[start : start + _AT_ONCE])
        yield Event("del", now, archive.agent, part, detail={"queries": len(part)})
