"""Disposition plans as values, and as they stand in the catalog.

Rules of this module:
- A plan is a list that never changes: its digest is fixed when it is made. A record is in one open plan at most
  (`plan_items_in_one_plan`).
- The state of a plan follows from its proposal and its times; it is stored nowhere twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any, LiteralString
from uuid import UUID

from retention import approvals, policy
from retention.approvals import Proposal
from retention.archive import Archive
from retention.database import Connection
from retention.errors import NotFound
from retention.ledger import Event
from retention.rules import FEW, RecordClass, Schedule, Stage

SUBJECTS = 1500  # ids in one event: the ledger holds 65,535 bytes an entry
ONE_STAGE = (Stage("records officer"),)  # of a class that names none


@dataclass(frozen=True, slots=True)
class PlanClass:
    """What a plan says of one class. `stage` counts from 1; 0 when its review is over."""

    class_id: str
    actions: dict[str, int]
    records: int
    size: int
    stage: int
    stages: tuple[str, ...]
    undecided: int
    decisions: dict[str, int]
    outcomes: dict[str, int]
    unverified: tuple[str, ...]  # rules that propose and never execute


@dataclass(frozen=True, slots=True)
class Plan:
    """A disposition plan as it stands."""

    id: UUID
    state: str  # review, signing, approved, executing, executed, expired, withdrawn
    as_of: date
    schedule_version: int
    items: int
    size: int  # bytes
    digest: bytes
    over_limit: tuple[str, ...]
    proposal: Proposal
    classes: tuple[PlanClass, ...] = ()
    started_at: datetime | None = None
    ended_at: datetime | None = None
    certificate_id: UUID | None = None


def show(conn: Connection, plan_id: UUID, *, lock: bool = False) -> Plan:
    """One plan, with its classes; with `lock`, nobody else decides on it meanwhile. Raises NotFound."""
    try:
        proposal = approvals.show(conn, plan_id, lock=lock)
    except NotFound:
        raise NotFound(f"no disposition plan {plan_id}. `muniment disposition list` shows them.") from None
    row = conn.execute(
        "SELECT as_of, schedule_version, items, bytes, digest, over_limit, started_at, ended_at, certificate_id "
        "FROM plans WHERE plan_id = %s",
        (plan_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"{plan_id} is a proposal of another kind ({proposal.kind}); see `muniment approval show`.")
    as_of, version, items, size, digest, over, started, ended, certificate = row
    return Plan(
        id=plan_id,
        state=_state(proposal, started, ended),
        as_of=as_of,
        schedule_version=version,
        items=items,
        size=size,
        digest=bytes(digest),
        over_limit=tuple(over),
        proposal=proposal,
        classes=_classes(conn, plan_id, policy.of_version(conn, version).schedule),
        started_at=started,
        ended_at=ended,
        certificate_id=certificate,
    )


def listed(conn: Connection) -> list[Plan]:
    """Every plan, the newest first."""
    rows = conn.execute("SELECT plan_id FROM plans JOIN proposals ON proposal_id = plan_id ORDER BY proposed_at DESC")
    return [show(conn, row[0]) for row in rows.fetchall()]


def ready(conn: Connection) -> list[UUID]:
    """Approved plans with something left to do here, the first approved first: not yet executed, or broken off.

    A plan of which only a transfer is left waits for its receiver, and is not among them."""
    rows = conn.execute(
        """SELECT p.plan_id FROM plans p JOIN proposals q ON q.proposal_id = p.plan_id
             LEFT JOIN transfers t USING (plan_id)
            WHERE q.state = 'approved' AND p.ended_at IS NULL
              AND (t.plan_id IS NULL OR t.acknowledged_at IS NOT NULL OR t.given_up_at IS NOT NULL
                   OR EXISTS (SELECT FROM plan_items i
                               WHERE i.plan_id = p.plan_id AND i.open AND i.action <> 'transfer'))
            ORDER BY q.decided_at, p.plan_id"""
    )
    return [row[0] for row in rows]


def expired_since(conn: Connection, since: datetime) -> list[UUID]:
    """Plans that expired undecided at that time or later, the first first."""
    rows = conn.execute(
        """SELECT proposal_id FROM proposals WHERE kind = 'disposition' AND state = 'expired' AND decided_at >= %s
            ORDER BY decided_at, proposal_id""",
        (since,),
    )
    return [row[0] for row in rows]


def digests(conn: Connection, plan_id: UUID) -> tuple[bytes, bytes]:
    """SHA-256 of the list and of every decision, as they stand: what people sign, H(plan || decisions)."""
    listed_ = stream(
        conn,
        """SELECT record_id, unit_id, class_id, bytes, action, rule_id, retain_until
             FROM plan_items JOIN classes USING (class_key) WHERE plan_id = %s ORDER BY 1""",
        (plan_id,),
    )
    decided = stream(
        conn,
        """SELECT record_id, decision, reason, not_before, c.class_id, decided_by, stage
             FROM plan_items LEFT JOIN classes c ON c.class_key = to_class WHERE plan_id = %s ORDER BY 1""",
        (plan_id,),
    )
    return digest_of(listed_), digest_of(decided)


def items(conn: Connection, plan_id: UUID) -> Iterator[tuple[Any, ...]]:
    """Every item: record, unit, class, action, rule, retained until, decision, reason, outcome. Streamed."""
    return stream(
        conn,
        """SELECT record_id, unit_id, class_id, action, rule_id, retain_until, decision, reason, outcome
             FROM plan_items JOIN classes USING (class_key) WHERE plan_id = %s ORDER BY class_id, unit_id, record_id""",
        (plan_id,),
    )


def _state(proposal: Proposal, started: datetime | None, ended: datetime | None) -> str:
    if proposal.state == "open":
        return "review" if proposal.statement is None else "signing"
    if proposal.state == "approved":
        return "executed" if ended else "executing" if started else "approved"
    return proposal.state


def _classes(conn: Connection, plan_id: UUID, schedule: Schedule) -> tuple[PlanClass, ...]:
    counted: dict[str, dict[str, Counter[str]]] = {}
    totals: dict[str, list[int]] = {}
    for class_id, action, decision, outcome, late, count, size in conn.execute(
        """SELECT class_id, action, decision, outcome,
                  s.stage IS NOT NULL AND (i.decision IS NULL OR i.stage < s.stage), count(*), sum(bytes)::bigint
             FROM plan_items i JOIN classes USING (class_key)
             LEFT JOIN plan_stages s ON s.plan_id = i.plan_id AND s.class_key = i.class_key AND s.ended_at IS NULL
            WHERE i.plan_id = %s GROUP BY 1, 2, 3, 4, 5 ORDER BY 1""",
        (plan_id,),
    ):
        of = counted.setdefault(class_id, {"actions": Counter(), "decisions": Counter(), "outcomes": Counter()})
        of["actions"][action] += count
        of["decisions"][decision or "undecided"] += count
        of["outcomes"][outcome or "open"] += count
        total = totals.setdefault(class_id, [0, 0, 0])
        total[0], total[1], total[2] = total[0] + count, total[1] + size, total[2] + (count if late else 0)
    at: dict[str, int] = dict(
        conn.execute(
            "SELECT class_id, stage FROM plan_stages JOIN classes USING (class_key) "
            "WHERE plan_id = %s AND ended_at IS NULL",
            (plan_id,),
        ).fetchall()
    )
    return tuple(
        PlanClass(
            class_id=class_id,
            actions=dict(of["actions"]),
            records=totals[class_id][0],
            size=totals[class_id][1],
            stage=at.get(class_id, 0),
            stages=tuple(stage.name for stage in stages_of(schedule.record_class(class_id))),
            undecided=totals[class_id][2],
            decisions=dict(of["decisions"]),
            outcomes=dict(of["outcomes"]),
            unverified=_unverified(schedule, class_id),
        )
        for class_id, of in counted.items()
    )


def _unverified(schedule: Schedule, class_id: str) -> tuple[str, ...]:
    known = schedule.record_class(class_id)
    return tuple(rule.id for rule in known.rules if not rule.verified) if known else ()


# ---------------------------------------------------------------- what the parts of disposition share


def stages_of(known: RecordClass | None) -> tuple[Stage, ...]:
    """The stages of review of a class, in order."""
    return known.review if known is not None and known.review else ONE_STAGE


def begin_stage(
    conn: Connection, archive: Archive, plan_id: UUID, class_id: str, number: int, name: str, now: datetime
) -> Event:
    """Begin a stage of the review of a class; its event is for the caller to append."""
    conn.execute(
        "INSERT INTO plan_stages (plan_id, class_key, stage, name, began_at) VALUES (%s, %s, %s, %s, %s)",
        (plan_id, class_key(conn, class_id), number, name, now),
    )
    detail = {
        "plan": str(plan_id),
        "class": class_id,
        "stage": number,
        "name_sha256": sha256(name.encode()).hexdigest(),
    }
    return Event("app", now, archive.agent, (plan_id,), detail=detail)


def over_limit(
    conn: Connection, schedule: Schedule, counted: LiteralString, parameters: Sequence[Any] = ()
) -> dict[str, tuple[int, int]]:
    """Classes above a limit: how many records would go, of how many that are kept."""
    limits = schedule.disposition
    kept: dict[str, int] = dict(
        conn.execute(
            "SELECT class_id, count(*) FROM records JOIN classes USING (class_key) WHERE state = 1 GROUP BY 1"
        ).fetchall()
    )
    return {
        class_id: (going, kept.get(class_id, 0))
        for class_id, going in conn.execute(counted, parameters)
        if going > limits.limit_records
        or (kept.get(class_id, 0) >= FEW and going * 100 > limits.limit_percent * kept[class_id])
    }


def class_key(conn: Connection, class_id: str) -> int:
    """The number of a class, given on first use."""
    conn.execute("INSERT INTO classes (class_id) VALUES (%s) ON CONFLICT DO NOTHING", (class_id,))
    row = conn.execute("SELECT class_key FROM classes WHERE class_id = %s", (class_id,)).fetchone()
    assert row is not None
    return int(row[0])


def stream(conn: Connection, query: LiteralString, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
    with conn.cursor(name="plan") as cursor:
        cursor.itersize = 10_000
        yield from cursor.execute(query, parameters)


def digest_of(rows: Iterable[Sequence[Any]]) -> bytes:
    """SHA-256 of rows, a line each; what is not there is a hyphen. No field holds a space."""
    found = sha256()
    for row in rows:
        found.update((" ".join("-" if value is None else str(value) for value in row) + "\n").encode())
    return found.digest()


def remains(archive: Archive, cause: UUID, rows: Iterable[tuple[str, UUID]], now: datetime) -> list[Event]:
    """The events that say what outlives the destruction for a while: rows of plan_remains, as kind and id."""
    found: dict[str, list[UUID]] = {}
    for kind, id_ in sorted(rows):
        found.setdefault(kind, []).append(id_)
    return [
        Event("dea", now, archive.agent, (cause, *part), detail={"cause": str(cause), "remains": kind})
        for kind, ids in found.items()
        for part in cut(ids)
    ]


def cut(ids: Sequence[UUID], at_once: int = SUBJECTS) -> Iterator[tuple[UUID, ...]]:
    """Parts of a list, none longer than what an event (or a statement) takes."""
    for start in range(0, len(ids), at_once):
        yield tuple(ids[start : start + at_once])
