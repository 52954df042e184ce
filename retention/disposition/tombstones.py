"""What stays of records that are gone: `muniment destroyed --id X`.

Rules of this module:
- Reading only. Asked for a record, a case file (`patient:123`) or the bytes of a document, it answers with what was
  destroyed or transferred, when, by which rule and law, under which plan and certificate.
- The business id and the digest of the document are asked as keyed HMACs: the tombstones hold no name.
- "Nothing of it was destroyed" is an answer too, with how many of its records are kept.
- A document is known by its bytes if it came in by itself; an attachment, by the record that it came with.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from retention import policy
from retention.database import Connection
from retention.model import RecordState
from retention.rules import Schedule


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One record that is gone. `state`: destroying, while bytes of it may still be in the vault."""

    record_id: UUID
    class_id: str
    aggregation_id: UUID | None
    received: date
    state: str
    ended_at: datetime
    rule_id: str
    citation: str | None  # None: the plan's schedule does not have the rule any more
    retain_until: date
    plan_id: UUID
    certificate_id: UUID | None
    sealed_sha256: str
    annex_id: UUID | None  # describes it, under a key of its own


@dataclass(frozen=True, slots=True)
class Remains:
    """What is known of what was asked for."""

    tombstones: tuple[Tombstone, ...]
    kept: int


def of_subject(conn: Connection, subject_id: UUID) -> Remains:
    """Of a record, or of all records that were in a case file when they went."""
    kept = conn.execute(
        "SELECT count(*) FROM records WHERE state < 3 AND (record_id = %(id)s OR aggregation_id = %(id)s)",
        {"id": subject_id},
    ).fetchone()
    return Remains(_read(conn, subject_id, None), _one(kept))


def of_content(conn: Connection, content: bytes) -> Remains:
    """Of documents with these bytes; `content` is their keyed HMAC (`Safe.content`)."""
    kept = conn.execute(
        "SELECT count(*) FROM records r JOIN contents c USING (record_id) WHERE r.state < 3 AND c.content = %s",
        (content,),
    ).fetchone()
    return Remains(_read(conn, None, content), _one(kept))


def _one(row: tuple[Any, ...] | None) -> int:
    assert row is not None
    return int(row[0])


def _read(conn: Connection, subject_id: UUID | None, content: bytes | None) -> tuple[Tombstone, ...]:
    rows = conn.execute(
        """SELECT t.record_id, c.class_id, t.aggregation_id, t.received, r.state, t.ended_at, t.rule_id,
                  t.retain_until, t.plan_id, p.certificate_id, t.sealed_sha256, t.annex_id, p.schedule_version
             FROM tombstones t JOIN classes c USING (class_key) JOIN records r USING (record_id)
             JOIN plans p USING (plan_id)
            WHERE t.record_id = %(id)s OR t.aggregation_id = %(id)s OR t.content = %(content)s
            ORDER BY t.ended_at, t.record_id""",
        {"id": subject_id, "content": content},
    ).fetchall()
    schedules = {version: policy.of_version(conn, version).schedule for version in {row[-1] for row in rows}}
    return tuple(
        Tombstone(
            *(record, class_id, aggregation, received, RecordState(state).name.lower(), ended_at, rule_id),
            *(_citation(schedules[version], rule_id), until, plan, certificate, bytes(digest).hex(), annex),
        )
        for record, class_id, aggregation, received, state, ended_at, rule_id, until, plan, certificate, digest, annex,
        version in rows
    )  # fmt: skip


def _citation(schedule: Schedule, rule_id: str) -> str | None:
    rules = (rule for known in schedule.classes for rule in known.rules if rule.id == rule_id)
    return next((rule.authority.citation for rule in rules), None)
