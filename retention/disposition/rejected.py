"""Documents that were rejected from quarantine: destroyed by two people, thirty days after they were rejected.

Rules of this module (requirements: storage, *Residue*):
- Rejecting says that a document becomes no record; it destroys nothing, and one person may. TERM later what was
  rejected is proposed to be destroyed, all of it at once, and two people sign the list like every other.
- What a hold has is not proposed. The last signature looks again, and keeps what is held by then; it is proposed again
  when it is free.
- Keys go in the transaction of the last signature, with what described the documents. The bytes follow (`sweep`):
  every version, and listed again. What the vault still keeps is unreadable, and is tried again.
- What stays: the row of the document (ids, sizes, digests of sealed bytes, the code of the reason), its events, and
  the keyed HMACs of its place and bytes, without which every run of its source would quarantine it anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import sql

from retention import approvals, holds, ledger, quarantine
from retention.approvals import Kind, Proposal
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.disposition.plans import cut, remains
from retention.errors import MunimentError
from retention.holds import flags
from retention.ledger import Event

TERM = timedelta(days=30)  # after the rejection
_MOST = 10_000  # documents in one proposal: its list is text
_PROPOSING = 0x72656A65  # an advisory lock of our own: two proposers at once make one proposal

# Of a document `q`: a hold has it, or its flag stands in the vault, or is on its way there.
_HELD = sql.SQL("""(EXISTS (SELECT FROM hold_quarantined h WHERE h.quarantine_id = q.quarantine_id)
        OR EXISTS (SELECT FROM hold_flags f WHERE f.subject_id = q.quarantine_id
                                              AND (f.wanted OR f.actual IS NOT FALSE)))""")


def propose(archive: Archive, now: datetime) -> Proposal | None:
    """The proposal to destroy what was rejected long enough ago: the open one, or a new one; None if there is nothing
    to destroy."""
    with transaction(archive.connections) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_PROPOSING,))
        for waiting in approvals.listed(conn):
            if waiting.kind is Kind.REJECTED and waiting.expires_at > now:
                return waiting
        rows = conn.execute(
            sql.SQL(
                """SELECT q.quarantine_id, q.bytes, q.decided_at FROM quarantine q
                    WHERE q.state = 'rejected' AND q.decided_at <= %s AND q.key_destroyed_at IS NULL AND NOT {held}
                    ORDER BY q.decided_at, q.quarantine_id LIMIT %s"""
            ).format(held=_HELD),
            (now - TERM, _MOST),
        ).fetchall()
        if not rows:
            return None
        lines = [
            f"destroy   {len(rows)} documents that were rejected from quarantine, {sum(row[1] for row in rows)} bytes",
            f"rejected  from {rows[0][2]:%Y-%m-%d} to {rows[-1][2]:%Y-%m-%d}",
        ]
        payload = json.dumps({"documents": [str(row[0]) for row in rows]})
        proposal, event = approvals.propose(conn, archive, Kind.REJECTED, lines, payload, now)
        ledger.append(conn, [event], now)
    return proposal


def take_effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> Sequence[Event]:
    """What an approved proposal of kind `rejected` does (retention.approvals.Effect): the keys are gone."""
    holds.shared(conn)
    rows = conn.execute(
        sql.SQL(
            """SELECT q.quarantine_id, {held} FROM quarantine q
                WHERE q.quarantine_id = ANY(%s::uuid[]) AND q.state = 'rejected' AND q.key_destroyed_at IS NULL
                ORDER BY 1 FOR UPDATE OF q"""
        ).format(held=_HELD),
        (proposal.content["documents"],),
    ).fetchall()
    going = [document for document, held in rows if not held]
    left = quarantine.destroy_keys(conn, going, proposal.id, now)
    done = {"proposal": str(proposal.id), "state": "destroying"}
    kept = {"proposal": str(proposal.id), "kept": "held"}
    return [
        *(Event("dea", now, archive.agent, part, detail=done) for part in cut(going)),
        *remains(archive, proposal.id, left, now),
        *(
            Event("app", now, archive.agent, part, "failure", kept)
            for part in cut([document for document, held in rows if held])
        ),
    ]


def sweep(archive: Archive, now: datetime) -> tuple[int, dict[UUID, str]]:
    """Erase the bytes of documents whose keys are gone: how many went, and why others did not. Safe to run again."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT quarantine_id FROM quarantine WHERE state = 'rejected' AND key_destroyed_at IS NOT NULL "
            "AND destroyed_at IS NULL ORDER BY 1"
        ).fetchall()

    def erase(document: UUID) -> str | None:
        try:
            archive.vault.erase(quarantine.object_key(document))
        except MunimentError as error:
            return str(error)
        return None

    documents = [row[0] for row in rows]
    with ThreadPoolExecutor(archive.settings.vault_threads, "erase") as threads:
        told = list(zip(documents, threads.map(erase, documents), strict=True))
    gone = [document for document, why in told if why is None]
    with transaction(archive.connections) as conn:
        quarantine.destroyed(conn, gone, now)
        flags.forget(conn, gone)
        detail = {"outcome": "destroyed", "document": "rejected"}
        ledger.append(conn, [Event("del", now, archive.agent, part, detail=detail) for part in cut(gone)], now)
    return len(gone), {document: why for document, why in told if why is not None}
