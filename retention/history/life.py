"""The life of one record, from source to certificate, as a list of dated lines (requirements: history).

Rules of this module:
- Reading only. Every line is one event of the ledger, at its position; nothing is told that is in no event, but what
  its ids are called, and the day of an event whose sealed line still opens.
- What concerns a record: its own events; those of its run, of its case file while it was in it, of the holds it was
  under, of the plans it was in, of the requests that were answered with it, of the document in quarantine that it was,
  and of what people signed for any of them. What is only about other records is left out.
- A document in quarantine, one that was rejected, and a record that is gone have a life too.
- Restricted records (GDPR art. 18): no sealed line is opened, and no name of a case file or a matter is shown.
- `proof` names the id whose `muniment proof` has the event: the record's own, or else that of a plan, a hold, a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from retention import aggregations, catalog, descriptors, policy
from retention.archive import Archive, names
from retention.database import Connection
from retention.errors import Damaged, NotFound
from retention.history.wording import Known, words
from retention.model import EVENT_TYPES, RecordState
from retention.tlog.tiles import MAX_ENTRY

_SHORT = 4096  # bytes: with more it names a hundred records, and ours is among them or it is not about ours
_SEALED = ("trigger", "retraction", "resumption")  # kinds of proposals whose effect is on the events of a subject


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a life, in words. `why` and `changed` are empty where there is nothing to say."""

    position: int
    at: datetime  # in the time zone of the schedule
    event: str  # the word of its PREMIS code
    by: str
    on_behalf_of: str | None
    failed: bool
    what: str
    why: str
    changed: str
    version: int | None  # of the schedule in force
    proof: UUID


@dataclass(frozen=True, slots=True)
class Life:
    """What lived, and its lines, oldest first. `title` is None where none is known (any more) or may be shown."""

    subject: UUID
    state: str  # of a record or a document in quarantine; rejected for one that was turned away
    class_id: str | None
    title: str | None
    certificate: UUID | None  # of its destruction or transfer
    time_zone: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    position: int
    subjects: tuple[UUID, ...]
    entry: Mapping[str, Any]

    @property
    def detail(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.entry["detail"]
        return found

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.entry["time"])


def life(conn: Connection, archive: Archive, subject: UUID) -> Life:
    """The life of a record or a document. Raises NotFound for what has no event."""
    own = _events(conn, [subject])
    if not own:
        raise NotFound(f"nothing was ever recorded of {subject}. `muniment find WORDS` looks for a record by its text.")
    restricted = bool(catalog.restricted(conn, [subject]))
    related = _related(conn, subject, own)
    found = {event.position: event for event in own}
    found |= {
        event.position: event for event in _events(conn, related, _SHORT) if _concerns(event, subject, related, own)
    }
    related |= dict.fromkeys(_signed(conn, found.values(), [subject, *related.aggregations]), "proposal")
    found |= {
        event.position: event for event in _events(conn, related, _SHORT) if _concerns(event, subject, related, own)
    }
    told = [found[position] for position in sorted(found)]
    versions = _versions(conn)
    zone = ZoneInfo(policy.of_version(conn, versions[-1][0]).schedule.timezone) if versions else ZoneInfo("UTC")
    known = _known(conn, archive, subject, related, told, versions, restricted)
    lines = tuple(_line(event, known, zone, versions, subject) for event in told)
    state, class_id, title, certificate = _standing(conn, subject)
    return Life(subject, state, class_id, None if restricted else title, certificate, zone.key, lines)


def _standing(conn: Connection, subject: UUID) -> tuple[str, str | None, str | None, UUID | None]:
    """What it is now: state, class, title, certificate."""
    row = conn.execute(
        """SELECT r.state, c.class_id, coalesce(d.title, d.name),
                  (SELECT p.certificate_id FROM tombstones t JOIN plans p USING (plan_id)
                    WHERE t.record_id = r.record_id)
             FROM records r JOIN classes c USING (class_key) LEFT JOIN descriptions d ON d.subject_id = r.record_id
            WHERE r.record_id = %s""",
        (subject,),
    ).fetchone()
    if row is not None:
        return RecordState(row[0]).name.lower(), *row[1:]
    row = conn.execute(
        """SELECT coalesce(q.state, d.kind), coalesce(d.title, d.name)
             FROM (SELECT %(id)s::uuid AS id) s LEFT JOIN quarantine q ON q.quarantine_id = s.id
             LEFT JOIN descriptions d ON d.subject_id = s.id""",
        {"id": subject},
    ).fetchone()
    assert row is not None
    return ("in quarantine" if row[0] == "held" else row[0] or "known by its events"), None, row[1], None


def _line(event: _Event, known: Known, zone: ZoneInfo, versions: Sequence[tuple[int, datetime]], subject: UUID) -> Line:
    entry, said = event.entry, words(event.entry, known)
    agent = entry["agent"]
    in_force = [version for version, loaded_at in versions if loaded_at <= event.time]
    return Line(
        position=event.position,
        at=event.time.astimezone(zone),
        event=EVENT_TYPES.get(entry["type"], entry["type"]),
        by=known.name(agent["id"]),
        on_behalf_of=known.name(agent["for"]) if "for" in agent else None,
        failed=entry["outcome"] != "success",
        what=said.what,
        why=said.why,
        changed=said.changed,
        version=in_force[-1] if in_force else None,
        proof=subject if subject in event.subjects else event.subjects[0],
    )


# ---------------------------------------------------------------- which events concern it


class _Related(dict[UUID, str]):
    """Ids that a record has to do with, and what each is; `left` are case files that it is in no more."""

    left: Mapping[UUID, datetime]

    @property
    def aggregations(self) -> list[UUID]:
        return [one for one, kind in self.items() if kind == "aggregation"]


def _events(conn: Connection, subjects: Iterable[UUID], at_most: int = MAX_ENTRY) -> list[_Event]:
    rows = conn.execute(
        """SELECT position, entry FROM events
            WHERE position IN (SELECT position FROM event_subjects WHERE subject_id = ANY(%s))
              AND octet_length(entry) <= %s ORDER BY position""",
        (list(subjects), at_most),
    )
    found = []
    for position, entry in rows:
        value = json.loads(bytes(entry))
        found.append(_Event(position, tuple(map(UUID, value["subjects"])), value))
    return found


def _related(conn: Connection, subject: UUID, own: Sequence[_Event]) -> _Related:
    """By what its own events say; a hold and a case file do not name each of theirs, so those come from the catalog."""
    found = _Related()
    for event in own:
        for kind in ("run", "plan", "hold", "request", "proposal"):
            if kind in event.detail:
                found[UUID(event.detail[kind])] = kind
        if event.entry["type"] == "unq":
            found |= {one: "document" for one in event.subjects if one != subject}
    for kind, query in _FROM_CATALOG.items():
        found |= {row[0]: kind for row in conn.execute(query, {"id": subject})}
    if documents := [one for one, kind in found.items() if kind == "document"]:  # the run that brought it
        runs = {UUID(e.detail["run"]) for e in _events(conn, documents) if "run" in e.detail}
        found |= dict.fromkeys(runs, "run")
    found.pop(subject, None)
    found.left = dict(conn.execute(_LEFT, {"id": subject}).fetchall())
    return found


_LEFT = """SELECT c.from_aggregation, max(c.recorded_at)
             FROM aggregation_changes c JOIN records r USING (record_id)
            WHERE c.record_id = %(id)s AND c.from_aggregation <> r.aggregation_id GROUP BY 1"""
_FROM_CATALOG = {
    "aggregation": """SELECT aggregation_id FROM records WHERE record_id = %(id)s AND aggregation_id IS NOT NULL
                       UNION SELECT from_aggregation FROM aggregation_changes
                              WHERE record_id = %(id)s AND from_aggregation IS NOT NULL""",
    "hold": """SELECT hold_id FROM hold_members WHERE record_id = %(id)s
                UNION SELECT hold_id FROM hold_members_released WHERE record_id = %(id)s
                UNION SELECT hold_id FROM hold_quarantined WHERE quarantine_id = %(id)s""",
    "plan": "SELECT plan_id FROM plan_items WHERE record_id = %(id)s",
}


def _concerns(event: _Event, subject: UUID, related: _Related, own: Sequence[_Event]) -> bool:
    """Whether an event of something that the record has to do with is about the record too."""
    detail = event.detail
    others = {one for one in event.subjects if one not in related and str(one) != detail.get("certificate")}
    if others and "finds" not in detail:  # of other records; a request also has whom it is about
        return subject in event.subjects
    if "stage" in detail:
        return detail["class"] in _classes(own)
    if any(one in related.left and event.time > related.left[one] for one in event.subjects):
        return False
    if any(related.get(one) == "aggregation" for one in event.subjects):
        end = next((e for e in own if e.entry["type"] in ("del", "tra") and "retain_until" in e.detail), None)
        ended_with_it = end is not None and detail.get("plan") == end.detail["plan"]
        return end is None or event.position < end.position or ended_with_it
    return True


def _classes(own: Sequence[_Event]) -> set[str]:
    return {event.detail["class"] for event in own if "class" in event.detail}


def _signed(conn: Connection, found: Iterable[_Event], subjects: Sequence[UUID]) -> list[UUID]:
    """What people signed for these events: releases of holds, and changes of events, which took effect as they
    signed, in one transaction."""
    events = list(found)
    ids = {UUID(event.detail["proposal"]) for event in events if "proposal" in event.detail}
    changes = [e.time for e in events if e.entry["type"] == "mem" and set(e.subjects) & set(subjects)]
    rows = conn.execute(
        "SELECT proposal_id FROM proposals WHERE kind = ANY(%s) AND decided_at = ANY(%s)", (list(_SEALED), changes)
    )
    return [*ids, *(row[0] for row in rows)]


# ---------------------------------------------------------------- what its ids mean


def _known(
    conn: Connection,
    archive: Archive,
    subject: UUID,
    related: _Related,
    events: Sequence[_Event],
    versions: Sequence[tuple[int, datetime]],
    restricted: bool,
) -> Known:
    people = {
        UUID(agent[key])
        for event in events
        for agent in [event.entry["agent"]]
        for key in ("id", "for")
        if key in agent
    }
    for key in ("source", "signer", "approver", "recipient", "dag"):
        people |= {UUID(event.detail[key]) for event in events if key in event.detail}
    called = {str(one): name for one, name in names(conn, archive.safe, people).items()}
    if not restricted:
        files = aggregations.names(conn, related.aggregations)
        called |= {str(one): f"“{name}”" for one, name in files.items()}
        called |= dict(_matters(conn, [one for one, kind in related.items() if kind == "hold"]))
    laws, due = _laws(conn, subject)
    schedule = policy.of_version(conn, versions[-1][0]).schedule if versions else None
    titles = {known.id: known.title() for known in schedule.classes} if schedule else {}
    days = {} if restricted else dict(_days(archive, conn, events))
    return Known(names=called, days=days, titles=titles, laws=laws, due=due, restricted=restricted)


def _matters(conn: Connection, holds: Sequence[UUID]) -> Iterator[tuple[str, str]]:
    query = "SELECT subject_id, title FROM descriptions WHERE kind = 'hold' AND subject_id = ANY(%s)"
    for hold_id, title in conn.execute(query, (holds,)):
        yield str(hold_id), f"“{title}”"


def _versions(conn: Connection) -> list[tuple[int, datetime]]:
    return conn.execute("SELECT version, loaded_at FROM schedule_versions ORDER BY version").fetchall()


def _laws(conn: Connection, subject: UUID) -> tuple[dict[tuple[str, str, str], str], dict[str, str]]:
    """What the plans that a record was in stand on: by plan, class and rule, and by plan alone."""
    laws, due = {}, {}
    rows = conn.execute(
        """SELECT i.plan_id, c.class_id, i.rule_id, i.retain_until, p.schedule_version
             FROM plan_items i JOIN plans p USING (plan_id) JOIN classes c USING (class_key)
            WHERE i.record_id = %s""",
        (subject,),
    ).fetchall()
    for plan, class_id, rule_id, until, version in rows:
        record_class = policy.of_version(conn, version).schedule.record_class(class_id)
        rules = record_class.rules if record_class else ()
        citation = next((rule.authority.citation for rule in rules if rule.id == rule_id), "")
        law = f"rule {rule_id}" + (f" ({citation})" if citation else "") + f", schedule version {version}"
        laws[str(plan), class_id, rule_id] = law
        due[str(plan)] = f"{law}; kept until and with {until}"
    return laws, due


def _days(archive: Archive, conn: Connection, events: Sequence[_Event]) -> Iterator[tuple[str, str]]:
    """The days of trigger events, each from its own sealed line."""
    for event in events:
        if "kind" not in event.detail or "trigger_event" not in event.detail:
            continue
        id_ = event.detail["trigger_event"]
        try:
            line = descriptors.read_line(archive, conn, UUID(id_), sealed_for=event.subjects[0])
        except NotFound:
            continue  # gone, with the record or case file that it was of
        except Damaged as error:
            yield id_, f"its date cannot be read: {error}"
            continue
        yield id_, line.metadata["effective"]
