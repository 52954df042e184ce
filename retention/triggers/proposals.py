"""A change that waits for two people: kept as JSON that names nobody, opened for who is to sign it.

Dates of events (a birth is one) and notes are sealed with their subject's key, and are gone with it.
"""

from __future__ import annotations

import base64
import json
from datetime import date
from uuid import UUID

from retention.approvals import Proposal
from retention.archive import Archive, load_keys
from retention.database import Connection
from retention.errors import NotFound
from retention.triggers.changes import Change, Given, Retraction
from retention.triggers.subjects import retracted_subjects


def payload_of(conn: Connection, archive: Archive, wanted: Change) -> str:
    """As JSON that names nobody: dates of events (a birth is one) and notes are sealed with their subject's key, and
    are gone with it."""
    subjects = retracted_subjects(conn, wanted.retractions) | {g.subject: g.subject for g in wanted.events}
    keys = load_keys(conn, archive.safe, set(subjects.values()))

    def sealed(subject: UUID, *said: str) -> str:
        return base64.b64encode(keys[subject].seal(json.dumps(said).encode())).decode()

    events = [[str(g.subject), g.kind, sealed(g.subject, g.effective.isoformat(), g.note)] for g in wanted.events]
    retractions = [[str(r.event), sealed(subjects[r.event], r.note)] for r in wanted.retractions]
    return json.dumps(
        {
            "events": events,
            "retractions": retractions,
            "resumptions": [[str(suspension), ends.isoformat()] for suspension, ends in wanted.resumptions],
            "members": [[str(record), str(aggregation)] for record, aggregation in wanted.members],
        }
    )


def meant(conn: Connection, archive: Archive, proposal: Proposal) -> Change:
    """What a proposal of kind trigger, retraction or resumption would do, opened for who is to sign it.

    Raises NotFound once the key of a subject is gone, or an event that it would retract."""
    content = proposal.content
    subjects = {UUID(row[0]): UUID(row[0]) for row in content["events"]}
    subjects |= retracted_subjects(conn, [Retraction(UUID(row[0])) for row in content["retractions"]])
    keys = load_keys(conn, archive.safe, set(subjects.values()))

    def opened(subject: UUID, sealed: str) -> list[str]:
        if subject not in keys:
            raise NotFound(f"{subject}: its key is gone, and with it what was proposed of it. Nothing was changed.")
        said: list[str] = json.loads(keys[subject].open(base64.b64decode(sealed)))
        return said

    events = [(UUID(subject), kind, *opened(UUID(subject), sealed)) for subject, kind, sealed in content["events"]]
    return Change(
        tuple(Given(subject, kind, date.fromisoformat(day), note) for subject, kind, day, note in events),
        tuple(
            Retraction(UUID(event), *opened(subjects[UUID(event)], sealed)) for event, sealed in content["retractions"]
        ),
        resumptions=tuple((UUID(one), date.fromisoformat(day)) for one, day in content["resumptions"]),
        members=tuple((UUID(record), UUID(aggregation)) for record, aggregation in content["members"]),
    )
