"""A change recorded: its rows, a line for each event sealed with its subject's key, and events of the ledger.

A birth is a date: it stands in the sealed line, and the ledger names the line alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

from retention import descriptors, holds
from retention.archive import Archive, load_keys
from retention.database import Connection
from retention.errors import NotFound
from retention.ledger import Event
from retention.model import Description, new_id
from retention.triggers import rows
from retention.triggers.changes import Change
from retention.triggers.subjects import retracted_subjects


def record(conn: Connection, archive: Archive, fresh: Change, now: datetime) -> tuple[list[UUID], list[Event]]:
    """Everything but the ledger; its events are for the caller to append."""
    ids = [new_id(now) for _ in range(len(fresh.events) + len(fresh.retractions))]
    subjects = retracted_subjects(conn, fresh.retractions)
    stated = [
        *((g.subject, {"kind": g.kind, "effective": g.effective.isoformat(), "note": g.note}) for g in fresh.events),
        *((subjects[r.event], {"retracts": str(r.event), "note": r.note}) for r in fresh.retractions),
    ]
    lines = _store_lines(conn, archive, [(id_, *one) for id_, one in zip(ids, stated, strict=True)], now)
    by = archive.agent.on_behalf_of or archive.agent.id
    written = rows.write(conn, fresh, ids, by, now)
    events = [
        Event("mem", now, archive.agent, (subject,), detail=_detail(said, id_, lines[id_]))
        for id_, (subject, said) in zip(ids, stated, strict=True)
    ]
    for subject, suspension, detail in written:
        events.append(Event("mem", now, archive.agent, (subject,), detail={"suspension": str(suspension), **detail}))
    for record, aggregation in fresh.members:
        detail = {"aggregation": "assigned", "to": str(aggregation)}
        events.append(Event("mem", now, archive.agent, (record, aggregation), detail=detail))
    if fresh.members:
        events += holds.arrived(conn, archive, [record for record, _ in fresh.members], now)
    return ids[: len(fresh.events)], events


def _detail(said: Mapping[str, str], id_: UUID, line: descriptors.Line) -> dict[str, str]:
    """Of the ledger: a birth is a date, and stands in the sealed line alone."""
    named = {key: said[key] for key in ("kind", "retracts") if key in said}
    where = {"descriptor": str(line.descriptor_id), "descriptor_sha256": line.sha256.hex()}
    return {"trigger_event": str(id_), **named, **where}


def _store_lines(
    conn: Connection, archive: Archive, stated: Sequence[tuple[UUID, UUID, Mapping[str, str]]], now: datetime
) -> dict[UUID, descriptors.Line]:
    """A line for each event, sealed with its subject's key, in the vault and in the catalog."""
    keys = load_keys(conn, archive.safe, {subject for _, subject, _ in stated})
    if gone := [subject for _, subject, _ in stated if subject not in keys]:
        raise NotFound(f"{gone[0]}: its key is gone, so nothing can be said of it any more. Nothing was changed.")

    def sealed(one: tuple[UUID, UUID, Mapping[str, str]]) -> tuple[UUID, int, bytes]:
        id_, subject, said = one
        name = said.get("kind", "retraction")
        plain = Description(name=name, source="", place="", metadata={"subject": str(subject), **said})
        return id_, 1, keys[subject].seal(descriptors.encode("trigger", plain))

    with ThreadPoolExecutor(2, thread_name_prefix="seal") as threads:
        objects, lines = descriptors.store(archive, threads.map(sealed, stated), now)
    descriptors.insert(conn, objects, lines, now)
    return {line.subject_id: line for line in lines}
