"""Reviewing: every item of a plan is decided, stage by stage, and the whole is worded for two signatures.

Rules of this module (requirements: retention, *Disposition*):
- Every item is decided in each stage of review that its class asks for (one stage where it names none): approve,
  extend, relabel or hold; singly, by unit, by class, or all that is left. What is decided for one member of a unit
  is decided for all. A stage may lapse into the next; a lapsed last stage expires the plan, and so does the plan's
  term. Silence approves nothing.
- An extension is at most twelve months, with a reason, and never past a ceiling. A regulatory class is left only for
  one that keeps the record at least as long. A hold is in force at once; extensions and new classes with the
  signatures.
- What two people sign names the list and every decision by their digests, H(plan || decisions), and says in numbers
  what they mean. Above the limits of the schedule a third must sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from itertools import groupby
from typing import Any
from uuid import UUID

from retention import approvals, catalog, engine, holds, ledger, locks, policy
from retention.approvals import Kind, Proposal
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.disposition.plans import (
    Plan,
    begin_stage,
    class_key,
    cut,
    digests,
    over_limit,
    show,
    stages_of,
)
from retention.engine import RecordFacts
from retention.errors import Damaged, Refused, UsageError
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.ledger import Event
from retention.quarantine import REASON
from retention.rules import Period, Schedule, Worm
from retention.vault.base import LockMode

YEAR = Period(months=12)  # the longest extension
_CHUNK = 5000  # records whose facts are read at a time


class Decision(StrEnum):
    """What a reviewer says of an item."""

    APPROVE = "approve"
    EXTEND = "extend"
    RELABEL = "relabel"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which items of a plan a decision is about; members of their units are always included."""

    records: tuple[UUID, ...] = ()
    units: tuple[UUID, ...] = ()
    classes: tuple[str, ...] = ()
    everything: bool = False  # that is not decided yet


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision with what it needs; `reason` is a code such as `still-in-use`."""

    decision: Decision
    reason: str | None = None
    not_before: date | None = None  # extend
    to_class: str | None = None  # relabel
    matter: Matter | None = None  # hold


# ---------------------------------------------------------------- decide


def review(archive: Archive, plan_id: UUID, selection: Selection, decided: Decided, now: datetime) -> int:
    """Decide items in the present stage of their class; returns how many records. Raises Refused, UsageError.

    When the last item of the last stage is decided the plan is worded, and waits for its signatures."""
    held: list[UUID] = []
    if decided.decision is Decision.HOLD:
        # In force before it is entered here: if this process dies between the two, more is kept, never less.
        with transaction(archive.connections) as conn:
            held = _named(conn, archive, show(conn, plan_id, lock=True), selection, decided, now)
        assert decided.matter is not None
        holds.place(archive, Scope(records=tuple(held)), Mode.STATIC, decided.matter, now)
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id, lock=True)
        ids = _named(conn, archive, plan, selection, decided, now)
        if decided.decision is Decision.HOLD and not set(ids) <= set(held):
            raise Refused(f"refusing to review plan {plan_id}: somebody decided in it meanwhile. Run the same again.")
        conn.execute("CREATE TEMPORARY TABLE decided ON COMMIT DROP AS SELECT unnest(%s::uuid[]) AS record_id", (ids,))
        rows = conn.execute(
            """UPDATE plan_items i
                  SET decision = %s, reason = %s, not_before = %s, to_class = %s, decided_at = %s, decided_by = %s,
                      stage = s.stage
                 FROM plan_stages s, decided d
                WHERE s.plan_id = i.plan_id AND s.class_key = i.class_key AND s.ended_at IS NULL
                  AND i.plan_id = %s AND i.record_id = d.record_id
            RETURNING i.stage, i.record_id""",
            (
                *(decided.decision.value, decided.reason, decided.not_before),
                class_key(conn, decided.to_class) if decided.to_class else None,
                *(now, archive.agent.on_behalf_of or archive.agent.id, plan_id),
            ),
        ).fetchall()
        detail: dict[str, Any] = {"plan": str(plan_id), "decision": decided.decision.value}
        if decided.reason:
            detail["reason"] = decided.reason
        if decided.not_before:
            detail["not_before"] = decided.not_before.isoformat()
        if decided.to_class:
            detail["to_class"] = decided.to_class
        events = [
            Event("app", now, archive.agent, (plan_id, *part), detail=detail | {"stage": stage})
            for stage, named in groupby(sorted(rows), lambda row: row[0])
            for part in cut([record for _, record in named])
        ]
        schedule = policy.of_version(conn, plan.schedule_version).schedule
        ledger.append(conn, [*events, *_progress(conn, archive, plan_id, schedule, now)], now)
    return len(ids)


def _named(
    conn: Connection, archive: Archive, plan: Plan, selection: Selection, decided: Decided, now: datetime
) -> list[UUID]:
    """The records that a decision is about, if it may be made."""
    if plan.state != "review":
        raise Refused(f"refusing to review plan {plan.id}: it is {plan.state}.")
    schedule = policy.of_version(conn, plan.schedule_version).schedule
    rows = _select(conn, plan.id, selection)
    if not rows:
        raise UsageError(
            f"plan {plan.id}: nothing of it was named. Expected --record, --unit, --class or --all, of items that it "
            f"has; `muniment disposition show {plan.id} --list` lists them."
        )
    _refuse_outsiders(archive, {row[1:] for row in rows}, schedule)
    ids = [row[0] for row in rows]
    current = policy.current(conn).schedule
    _check(conn, current, ids, decided, engine.today(current, now))
    return ids


def _select(conn: Connection, plan_id: UUID, chosen: Selection) -> list[tuple[UUID, str, int]]:
    """Record, class and present stage of what was chosen and is under review, with the members of its units."""
    return conn.execute(
        """SELECT i.record_id, c.class_id, s.stage
             FROM plan_items i
             JOIN plan_stages s ON s.plan_id = i.plan_id AND s.class_key = i.class_key AND s.ended_at IS NULL
             JOIN classes c ON c.class_key = i.class_key
            WHERE i.plan_id = %(plan)s AND i.unit_id IN (
                  SELECT m.unit_id FROM plan_items m
                    JOIN plan_stages t ON t.plan_id = m.plan_id AND t.class_key = m.class_key AND t.ended_at IS NULL
                   WHERE m.plan_id = %(plan)s
                     AND (m.record_id = ANY(%(records)s) OR m.unit_id = ANY(%(units)s)
                          OR m.class_key IN (SELECT class_key FROM classes WHERE class_id = ANY(%(classes)s))
                          OR (%(all)s AND (m.decision IS NULL OR m.stage < t.stage))))
            ORDER BY 1""",
        {
            "plan": plan_id,
            "records": list(chosen.records),
            "units": list(chosen.units),
            "classes": list(chosen.classes),
            "all": chosen.everything,
        },
    ).fetchall()


def _refuse_outsiders(archive: Archive, stages: Iterable[tuple[str, int]], schedule: Schedule) -> None:
    """Raises Refused where a stage names its reviewers and this person is none of them."""
    for class_id, number in sorted(stages):
        stage = stages_of(schedule.record_class(class_id))[number - 1]
        if stage.reviewers and archive.settings.agent.casefold() not in {name.casefold() for name in stage.reviewers}:
            raise Refused(
                f"refusing the review of class {class_id} by {archive.settings.agent}: its stage {stage.name!r} is for "
                f"{', '.join(stage.reviewers)}."
            )


def _check(conn: Connection, schedule: Schedule, ids: Sequence[UUID], decided: Decided, today: date) -> None:
    """Raises UsageError for what is missing, Refused for what a rule forbids."""
    if decided.decision in (Decision.EXTEND, Decision.RELABEL) and not REASON.fullmatch(decided.reason or ""):
        raise UsageError(f"--reason: expected a code of lower-case letters and hyphens, found {decided.reason!r}.")
    match decided.decision:
        case Decision.APPROVE:
            return
        case Decision.HOLD:
            if decided.matter is None:
                raise UsageError("a hold needs --matter, --authority and --review DATE.")
        case Decision.EXTEND:
            last = YEAR.after(today)
            if decided.not_before is None or not today < decided.not_before <= last:
                raise UsageError(
                    f"--until: expected a day after {today} and not after {last} (twelve months), "
                    f"found {decided.not_before}. Extend again when it ends, or change the schedule."
                )
            for record, facts in _facts(conn, ids):
                ceiling = engine.decide(facts, schedule, today).ceiling
                if ceiling is not None and decided.not_before > ceiling:
                    raise Refused(
                        f"refusing to extend {record} until {decided.not_before}: its ceiling is {ceiling}, the "
                        "longest that the law allows."
                    )
        case Decision.RELABEL:
            _check_relabel(conn, schedule, ids, decided.to_class, today)


def _check_relabel(
    conn: Connection, schedule: Schedule, ids: Sequence[UUID], to_class: str | None, today: date
) -> None:
    target = schedule.record_class(to_class or "")
    if target is None:
        raise UsageError(f"--to: the schedule has no class {to_class!r}. `muniment schedule show` lists them.")
    for record, facts in _facts(conn, ids):
        if facts.class_ids[0] == target.id:
            raise UsageError(f"record {record} is of class {target.id} already.")
        now_known = schedule.record_class(facts.class_ids[0])
        if now_known is None or not now_known.regulatory:
            continue
        before = engine.decide(facts, schedule, today)
        after = engine.decide(with_class(facts, target.id), schedule, today)
        if after.retain_until is not None and (before.retain_until is None or after.retain_until < before.retain_until):
            raise Refused(
                f"refusing to put {record} into {target.id}: class {now_known.id} is regulatory, and would keep it "
                f"until {before.retain_until or 'further notice'}; {target.id} only until {after.retain_until}."
            )


def with_class(facts: RecordFacts, class_id: str) -> RecordFacts:
    """The facts as they would be in another class; labels stay."""
    return replace(facts, class_ids=(class_id, *facts.class_ids[1:]))


def _facts(conn: Connection, ids: Sequence[UUID]) -> Iterator[tuple[UUID, RecordFacts]]:
    for part in cut(ids, _CHUNK):
        yield from catalog.facts_of(conn, part).items()


# ---------------------------------------------------------------- from stage to stage


def _progress(conn: Connection, archive: Archive, plan_id: UUID, schedule: Schedule, now: datetime) -> list[Event]:
    """End each stage of which every item is decided, begin the next; after the last of all, word the plan."""
    rows = conn.execute(
        """UPDATE plan_stages s SET ended_at = %s FROM classes c
            WHERE s.plan_id = %s AND s.ended_at IS NULL AND c.class_key = s.class_key
              AND NOT EXISTS (SELECT FROM plan_items i WHERE i.plan_id = s.plan_id AND i.class_key = s.class_key
                                 AND (i.decision IS NULL OR i.stage < s.stage))
        RETURNING c.class_id, s.stage""",
        (now, plan_id),
    ).fetchall()
    events = []
    for class_id, number in sorted(rows):
        stages = stages_of(schedule.record_class(class_id))
        detail = {"plan": str(plan_id), "class": class_id, "stage": number, "lapsed": False}
        events.append(Event("app", now, archive.agent, (plan_id,), detail=detail))
        if number < len(stages):
            events.append(begin_stage(conn, archive, plan_id, class_id, number + 1, stages[number].name, now))
    left = conn.execute("SELECT 1 FROM plan_stages WHERE plan_id = %s AND ended_at IS NULL LIMIT 1", (plan_id,))
    if left.fetchone() is None:
        events.append(_word(conn, archive, plan_id, schedule, now))
    return events


def _word(conn: Connection, archive: Archive, plan_id: UUID, schedule: Schedule, now: datetime) -> Event:
    """The statement that is signed: H(plan || decisions), and what it means in numbers."""
    plan = show(conn, plan_id)
    listed, decisions = digests(conn, plan_id)
    if listed != plan.digest:
        raise Damaged(f"plan {plan_id}: its list is not the one that was proposed. Withdraw it, and look who wrote it.")
    over = over_limit(
        conn,
        schedule,
        "SELECT class_id, count(*) FROM plan_items JOIN classes USING (class_key) "
        "WHERE plan_id = %s AND decision = 'approve' AND action IN ('destroy', 'review', 'transfer') GROUP BY 1",
        (plan_id,),
    )
    conn.execute("UPDATE plans SET over_limit = %s WHERE plan_id = %s", (sorted(over), plan_id))
    lines = [
        f"plan      as of {plan.as_of}, under schedule version {plan.schedule_version} ({schedule.digest})",
        f"list      {plan.items} records, {plan.size} bytes, SHA-256 {plan.digest.hex()}",
        f"decisions SHA-256 {decisions.hex()}",
    ]
    rows = conn.execute(
        """SELECT class_id, decision, action, count(*), sum(bytes)::bigint
             FROM plan_items JOIN classes USING (class_key)
            WHERE plan_id = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
        (plan_id,),
    )
    for class_id, decision, action, count, size in rows:
        what = _DOES.get(action, action) if decision == "approve" else decision
        lines.append(f"{what:9} {count} records of {class_id}, {size} bytes")
    for class_id, (going, kept) in sorted(over.items()):
        lines.append(f"over      {going} of the {kept} records of {class_id}: a third person must sign")
    needed = 3 if over else 2
    digest = approvals.word(conn, archive, plan_id, lines, needed)
    detail = {
        "plan": str(plan_id),
        "decisions_sha256": decisions.hex(),
        "statement_sha256": digest.hex(),
        "needed": needed,
        "over_limit": sorted(over),
    }
    return Event("app", now, archive.agent, (plan_id,), detail=detail)


_DOES = {"review": "destroy"}  # reviewed, and not kept


def advance(archive: Archive, now: datetime) -> tuple[UUID, ...]:
    """Let stages lapse and terms end (nightly); returns the plans that expired."""
    expired = []
    with transaction(archive.connections) as conn:
        others = [found for found in approvals.overdue(conn, now) if found.kind is not Kind.DISPOSITION]
        for found in others:
            approvals.show(conn, found.id, lock=True)
        ended = [approvals.end(conn, archive, found.id, "expired", now) for found in others]
        ledger.append(conn, ended, now)
        waiting = [found for found in approvals.listed(conn) if found.kind is Kind.DISPOSITION]
    for found in waiting:
        with transaction(archive.connections) as conn:
            plan = show(conn, found.id, lock=True)
            if plan.proposal.state != "open":
                continue
            schedule = policy.of_version(conn, plan.schedule_version).schedule
            over = plan.proposal.expires_at <= now
            events: list[Event] = []
            if not over and plan.state == "review":
                lapsed, over = _lapse(conn, archive, plan.id, schedule, now)
                events += lapsed
            if over:
                events.append(_expire(conn, archive, plan.id, "expired", now))
                expired.append(plan.id)
            ledger.append(conn, events, now)
    return tuple(expired)


def _lapse(
    conn: Connection, archive: Archive, plan_id: UUID, schedule: Schedule, now: datetime
) -> tuple[list[Event], bool]:
    """Pass on what a stage did not decide in its term; True if a last stage lapsed."""
    events = []
    rows = conn.execute(
        "SELECT class_id, class_key, stage, began_at FROM plan_stages JOIN classes USING (class_key) "
        "WHERE plan_id = %s AND ended_at IS NULL ORDER BY 1",
        (plan_id,),
    ).fetchall()
    for class_id, key, number, began in rows:
        stages = stages_of(schedule.record_class(class_id))
        term = stages[number - 1].lapse
        today = engine.civil_date(now, schedule.timezone)
        if term is None or today <= term.after(engine.civil_date(began, schedule.timezone)):
            continue
        conn.execute(
            "UPDATE plan_stages SET ended_at = %s, lapsed = true WHERE plan_id = %s AND class_key = %s AND stage = %s",
            (now, plan_id, key, number),
        )
        detail = {"plan": str(plan_id), "class": class_id, "stage": number, "lapsed": True}
        events.append(Event("app", now, archive.agent, (plan_id,), "failure", detail))
        if number == len(stages):
            return events, True
        events.append(begin_stage(conn, archive, plan_id, class_id, number + 1, stages[number].name, now))
    return events, False


def _expire(conn: Connection, archive: Archive, plan_id: UUID, state: str, now: datetime) -> Event:
    conn.execute(
        "UPDATE plan_items SET open = false, outcome = %s, ended_at = %s WHERE plan_id = %s AND open",
        (f"plan-{state}", now, plan_id),
    )
    return approvals.end(conn, archive, plan_id, state, now)


def withdraw(archive: Archive, plan_id: UUID, now: datetime) -> None:
    """Take back a plan that is not approved; its records may be proposed again."""
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id, lock=True)
        if plan.proposal.state != "open":
            raise Refused(f"refusing to withdraw plan {plan_id}: it is {plan.state}.")
        ledger.append(conn, [_expire(conn, archive, plan_id, "withdrawn", now)], now)


# ---------------------------------------------------------------- approved


def approved(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> list[Event]:
    """The effect of the last signature: extensions and new classes take hold; what was approved may be executed."""
    by = archive.agent.on_behalf_of or archive.agent.id
    holds.shared(conn)  # a hold on the new class takes in what comes into it
    conn.execute(
        """INSERT INTO extensions (record_id, recorded_at, not_before, reason, recorded_by, plan_id)
           SELECT record_id, %s, not_before, reason, %s, plan_id FROM plan_items
            WHERE plan_id = %s AND decision = 'extend'""",
        (now, by, proposal.id),
    )
    conn.execute(
        """INSERT INTO class_changes (record_id, recorded_at, from_class, to_class, recorded_by, plan_id)
           SELECT i.record_id, %s, r.class_key, i.to_class, %s, i.plan_id
             FROM plan_items i JOIN records r USING (record_id)
            WHERE i.plan_id = %s AND i.decision = 'relabel' AND r.class_key <> i.to_class""",
        (now, by, proposal.id),
    )
    relabelled = conn.execute(
        """UPDATE records r SET class_key = i.to_class FROM plan_items i JOIN classes c ON c.class_key = i.to_class
            WHERE i.plan_id = %s AND i.decision = 'relabel' AND r.record_id = i.record_id
        RETURNING r.record_id, c.class_id""",
        (proposal.id,),
    ).fetchall()
    locked = _lock_relabelled(conn, archive, relabelled, now)
    conn.execute(
        """UPDATE plan_items SET open = false, ended_at = %s,
                  outcome = CASE decision WHEN 'extend' THEN 'extended' WHEN 'hold' THEN 'held' ELSE 'relabelled' END
            WHERE plan_id = %s AND decision <> 'approve'""",
        (now, proposal.id),
    )
    events = []
    for class_id, ids in _by_class(relabelled).items():
        detail = {"plan": str(proposal.id), "class": class_id, **locked.get(class_id, {})}
        events += [Event("mem", now, archive.agent, part, detail=detail) for part in cut(ids)]
    return events + holds.arrived(conn, archive, [record for record, _ in relabelled], now)


def _by_class(rows: Iterable[tuple[UUID, str]]) -> dict[str, list[UUID]]:
    found: dict[str, list[UUID]] = {}
    for record, class_id in sorted(rows):
        found.setdefault(class_id, []).append(record)
    return found


def _lock_relabelled(
    conn: Connection, archive: Archive, rows: Sequence[tuple[UUID, str]], now: datetime
) -> dict[str, dict[str, str]]:
    """What came into a class that must be locked gets a rolling lock from the queue; per such class, what its events
    say of the lock."""
    schedule = policy.current(conn).schedule
    worm = {c.id: c.worm for c in schedule.classes if c.worm is not Worm.NONE}
    ids = [record for record, class_id in rows if class_id in worm]
    if not ids:
        return {}
    if not archive.vault.locks():
        raise Refused(f"refusing to put {len(ids)} records into a class that must be locked: this vault cannot lock.")
    of = dict(rows)
    placed = conn.execute(
        "SELECT record_id, sealed_sha256, version FROM contents WHERE record_id = ANY(%s)", (ids,)
    ).fetchall()
    wanted = [
        locks.Wanted(f"records/{r}/{bytes(d).hex()}", version, r, LockMode(worm[of[r]].value), now + locks.ROLLING)
        for r, d, version in placed
    ]
    locks.enqueue(conn, wanted, now)
    return {class_id: locks.told(mode.value, now + locks.ROLLING) for class_id, mode in worm.items()}
