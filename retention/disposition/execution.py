"""Execution: what two people signed is checked again, then done; what cannot be done is kept, and named.

Rules of this module (requirements: retention, *Disposition*; design: *Crash order*):
- What is executed is what was signed: the digests of the list and of the decisions are reckoned anew, and must stand
  in the signed statement.
- T1 locks the rows of a few units, decides them again for today under the schedule of the plan *and* the present one,
  by both paths of the engine, looks at holds, restrictions, extensions, locks, classes, and marks what passes as
  `destroying`, with its event. T1 is final: what is held earlier stays, a later hold is told "too late"
  (retention.holds).
- Then keys, bytes, T2 (retention.disposition.erasure). No key goes before every lock on the record's
  objects has ended: until then the record is kept as `due-locked`, and listed.
- A unit goes whole or not at all, as it was planned and as it stands today: what came into its case file since and
  is not in the plan keeps it, and so does a member that was decided otherwise. A failure on one record stops no
  other and never marks it destroyed; it stays `destroying`, the run is red, and running it again goes on there. A
  plan is executed by one process at a time, and once: executing it again answers what was done.
- What is transferred is destroyed here only after the receiver's acknowledgement, and only what it accepted
  (retention.disposition.transfers).
- A clock that runs more than a day ahead of outside evidence (the Date of the vault, PostgreSQL's own clock), or
  behind the last event of the ledger, decides nothing. (A `file://` vault has no clock of its own.)
- What a rule that is not verified made due is proposed and never destroyed: `unverified`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg

from retention import catalog, database, eligibility, engine, holds, ledger, locked_keys, policy, signatures
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.disposition import certificate, erasure, transfers
from retention.disposition.plans import Plan, cut, digests, show
from retention.engine import Decision
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.history.publishing import write_through
from retention.ledger import Event
from retention.locks import SHORT
from retention.model import RecordState
from retention.rules import STRENGTH, Action, Schedule

AHEAD = timedelta(days=1)  # how far a clock may run ahead of outside evidence
_AT_ONCE = 500  # records in one T1
_DESTROYED = ("destroy", "review")  # actions that, approved, destroy

Clock = Callable[[], datetime]


class Busy(Refused):
    """Another process executes the plan; what it does is done once."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What an execution did, in all its runs. `failed` are still `destroying`: run it again."""

    plan_id: UUID
    outcomes: dict[str, int]  # destroyed, transferred, or the code that says why it was kept
    failed: tuple[tuple[UUID, str], ...]
    certificate_id: UUID | None
    bag: Path | None = None  # waits for the receiver's acknowledgement

    @property
    def complete(self) -> bool:
        return self.certificate_id is not None


@dataclass(slots=True)
class _Run:
    """One execution under way."""

    archive: Archive
    plan: Plan
    clock: Clock
    progress: Callable[[int], None]
    lock: Connection  # holds the advisory lock of this plan
    accepted: frozenset[UUID] | None = None  # by the receiver of a transfer
    failed: list[tuple[UUID, str]] = field(default_factory=list)


def execute(
    archive: Archive, plan_id: UUID, clock: Clock, progress: Callable[[int], None] = lambda _: None
) -> Executed:
    """Do what was approved; go on where a run before it died. `progress` is told of each record that ended.

    Raises Refused (not approved, the clock), Busy (another process at it), ServiceUnavailable (run it again)."""
    with alone(archive, plan_id) as lock:
        refuse_wrong_clock(archive, clock())
        plan = _start(archive, plan_id, clock())
        return _go_on(_Run(archive, plan, clock, progress, lock))


def give_up(
    archive: Archive, plan_id: UUID, clock: Clock, progress: Callable[[int], None] = lambda _: None
) -> Executed:
    """Keep what waits for a receiver that does not acknowledge it, and do what else is left of the plan.

    Raises as `execute` does, Refused where nothing waits for a receiver."""
    with alone(archive, plan_id) as lock:
        refuse_wrong_clock(archive, clock())
        plan = _start(archive, plan_id, clock())
        transfers.give_up(archive, plan_id, clock())
        return _go_on(_Run(archive, plan, clock, progress, lock))


def _go_on(run: _Run) -> Executed:
    if not run.plan.ended_at:
        for ids in _work(run, RecordState.DESTROYING):
            _destroy(run, ids)
        for ids in _work(run, RecordState.KEPT, _DESTROYED):
            _destroy(run, _take(run, ids))
        _transfer(run)
        _close(run)
    return answer(run.archive, run.plan.id, tuple(run.failed))


def answer(archive: Archive, plan_id: UUID, failed: tuple[tuple[UUID, str], ...] = ()) -> Executed:
    """What became of a plan so far."""
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id)
        waits = conn.execute(
            "SELECT FROM transfers WHERE plan_id = %s AND acknowledged_at IS NULL AND given_up_at IS NULL", (plan_id,)
        ).fetchone()
    outcomes: Counter[str] = Counter()
    for one in plan.classes:
        outcomes.update(one.outcomes)
    bag = transfers.bag_folder(archive, plan_id) if waits is not None else None
    return Executed(plan_id, dict(outcomes), failed, plan.certificate_id, bag)


# ---------------------------------------------------------------- may it begin


@contextmanager
def alone(archive: Archive, plan_id: UUID) -> Iterator[Connection]:
    """Nobody else executes this plan; given up with the process, however it ends."""
    with psycopg.connect(archive.settings.database_url, autocommit=True, connect_timeout=5) as conn:
        row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 2))", (f"execute {plan_id}",)).fetchone()
        if row != (True,):
            raise Busy(f"refusing to execute plan {plan_id}: another process is at it. Wait for it to end.")
        try:
            yield conn
        except psycopg.OperationalError as error:
            raise database.in_words(archive.settings.database_url, error) or error from error
        finally:  # now, not when PostgreSQL notices that we have left
            with suppress(psycopg.Error):
                conn.execute("SELECT pg_advisory_unlock_all()")


def refuse_wrong_clock(archive: Archive, now: datetime) -> None:
    """Raises Refused if `now` is a day ahead of outside evidence, or before the last event (a clock set back)."""
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT clock_timestamp(), (SELECT max(recorded_at) FROM events)").fetchone()
    assert row is not None
    database, last = row
    evidence = [("PostgreSQL", database), ("the vault", archive.vault.time())]
    for who, said in evidence:
        if said is not None and now > said + AHEAD:
            raise Refused(
                f"refusing to execute: this machine's clock says {now:%Y-%m-%d %H:%M} UTC, {who} says "
                f"{said:%Y-%m-%d %H:%M}. Set the clock right; until then nothing is destroyed."
            )
    if last is not None and now < last - AHEAD:
        raise Refused(
            f"refusing to execute: this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but the last event was recorded "
            f"{last:%Y-%m-%d %H:%M}. A clock was set back; set it right."
        )


def _start(archive: Archive, plan_id: UUID, now: datetime) -> Plan:
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id, lock=True)
        if plan.proposal.state != "approved":
            raise Refused(
                f"refusing to execute plan {plan_id}: it is {plan.state}, and nothing is destroyed without two "
                "signatures. `muniment disposition show` says what it waits for."
            )
        _refuse_unsigned(conn, plan)
        listed, decided = digests(conn, plan_id)
        if not all(digest.hex() in (plan.proposal.statement or "") for digest in (listed, decided)):
            raise Damaged(
                f"plan {plan_id}: its list or its decisions are not those that were signed. Nothing was destroyed; "
                "look who wrote to plan_items."
            )
        if plan.started_at is None:
            conn.execute("UPDATE plans SET started_at = %s WHERE plan_id = %s", (now, plan_id))
            detail = {"plan": str(plan_id), "state": "executing"}
            ledger.append(conn, [Event("poa", now, archive.agent, (plan_id,), detail=detail)], now)
        return show(conn, plan_id)


def _refuse_unsigned(conn: Connection, plan: Plan) -> None:
    """Raises Damaged unless as many people as are needed signed this statement: checked by their keys, not by rows."""
    statement = (plan.proposal.statement or "").encode()
    rows = conn.execute(
        "SELECT DISTINCT person_id, coalesce(public_key, ''), coalesce(signature, '') "  # in no copy: not signed
        "FROM signatures JOIN approvers USING (person_id) "
        "WHERE proposal_id = %s AND person_id = ANY(%s)",
        (plan.id, list(plan.proposal.signers)),
    ).fetchall()
    signed = {person for person, key, armored in rows if _signed(bytes(armored), statement) == bytes(key)}
    if len(signed) < plan.proposal.needed:
        raise Damaged(
            f"plan {plan.id}: {plan.proposal.needed} signatures are needed, {len(signed)} are right. Nothing was "
            "destroyed; look who wrote to signatures."
        )


def _signed(armored: bytes, statement: bytes) -> bytes | None:
    """The key that signed the statement; None if none did."""
    try:
        return signatures.verify(armored.decode(), statement)
    except (UsageError, Refused):
        return None


def _work(run: _Run, state: RecordState, actions: Sequence[str] = tuple(Action)) -> Iterator[list[UUID]]:
    """Approved items that are open and whose record is in `state`; whole units, about _AT_ONCE records at a time."""
    with transaction(run.archive.connections) as conn:
        units = conn.execute(
            """SELECT array_agg(i.record_id ORDER BY i.record_id)
                 FROM plan_items i JOIN records r USING (record_id)
                WHERE i.plan_id = %s AND i.open AND i.decision = 'approve' AND r.state = %s AND i.action = ANY(%s)
                GROUP BY i.unit_id ORDER BY i.unit_id""",
            (run.plan.id, state.value, list(actions)),
        ).fetchall()
    ids: list[UUID] = []
    for (members,) in units:
        if ids and len(ids) + len(members) > _AT_ONCE:
            yield ids
            ids = []
        ids = ids + members
    if ids:
        yield ids


# ---------------------------------------------------------------- T1


def _take(run: _Run, ids: Sequence[UUID], *, mark: bool = True) -> list[UUID]:
    """T1: decide again; mark what may go as destroying, close what may not. Final.

    Without `mark` what may go is only named: it is handed out first, and decided once more after that."""
    archive, now = run.archive, run.clock()
    run.lock.execute("SELECT 1")  # a lock whose connection is gone is nobody's: stop before anything is marked
    locked = _locked_in_vault(archive, ids, now)
    with transaction(archive.connections) as conn:
        holds.shared(conn)
        conn.execute(  # whoever captures into one of their case files, or moves a record there, waits
            """SELECT FROM aggregations WHERE aggregation_id IN (
                      SELECT aggregation_id FROM records WHERE record_id = ANY(%s))
                ORDER BY aggregation_id FOR NO KEY UPDATE""",
            (list(ids),),
        )
        rows = conn.execute(
            """SELECT r.record_id, r.state, r.class_key = i.class_key, i.unit_id, i.action
                 FROM records r JOIN plan_items i USING (record_id)
                WHERE i.plan_id = %s AND i.open AND r.record_id = ANY(%s) AND r.state <> %s
                ORDER BY r.record_id FOR UPDATE OF r, i""",
            (run.plan.id, list(ids), RecordState.DESTROYING),  # what is under way is gone on with, never closed
        ).fetchall()
        kept = {
            record: "changed" for record, state, same_class, _, _ in rows if state != RecordState.KEPT or not same_class
        }
        waiting = [row[0] for row in rows if row[0] not in kept]
        planned = {row[0]: Action(row[4]) for row in rows}
        kept |= dict.fromkeys(_locked(conn, waiting, now) | locked, "due-locked")
        kept |= dict.fromkeys(_restricted(conn, waiting), "restricted")
        schedules = _schedules(conn, run.plan)
        for schedule in schedules:
            kept |= _not_due(conn, schedule, waiting, planned, engine.today(schedule, now))
        if run.accepted is not None:
            kept |= {record: "not-accepted" for record in waiting if record not in run.accepted}
        split = {row[3] for row in rows if row[0] in kept}  # a unit goes whole, or not at all
        kept |= {row[0]: "unit-kept" for row in rows if row[3] in split and row[0] not in kept}
        units = _by_unit((row[3], row[0]) for row in rows if row[0] not in kept)
        for unit, code in _staying(conn, run.plan.id, schedules, units).items():
            kept |= dict.fromkeys(units.pop(unit), code)
        going = sorted(record for members in units.values() for record in members)
        marked = going if mark else []
        conn.execute("UPDATE records SET state = %s WHERE record_id = ANY(%s)", (RecordState.DESTROYING, marked))
        conn.execute(
            """UPDATE plan_items i SET open = false, outcome = k.code, ended_at = %s
                 FROM unnest(%s::uuid[], %s::text[]) AS k(record_id, code)
                WHERE i.plan_id = %s AND i.record_id = k.record_id""",
            (now, list(kept), list(kept.values()), run.plan.id),
        )
        events = [
            Event("dea", now, archive.agent, part, detail={"plan": str(run.plan.id), "state": "destroying"})
            for part in cut(marked)
        ]
        for code, records in _by_code(kept).items():
            detail = {"plan": str(run.plan.id), "kept": code}
            events += [Event("app", now, archive.agent, part, "failure", detail) for part in cut(records)]
        ledger.append(conn, events, now)
    run.progress(len(kept))
    return going


def _by_unit(rows: Iterable[tuple[UUID, UUID]]) -> dict[UUID, set[UUID]]:
    units: dict[UUID, set[UUID]] = {}
    for unit, record in rows:
        units.setdefault(unit, set()).add(record)
    return units


def _staying(
    conn: Connection, plan_id: UUID, schedules: Sequence[Schedule], units: Mapping[UUID, set[UUID]]
) -> dict[UUID, str]:
    """Units that would be split as they stand today, and why: a member is not going, and the plan has no other way
    for it."""
    staying: dict[UUID, str] = {}
    for schedule in schedules:
        going = {record for unit, members in units.items() if unit not in staying for record in members}
        if going.issuperset(eligibility.unit_members(conn, schedule, sorted(going))):
            continue
        reached = {unit: {*eligibility.unit_members(conn, schedule, sorted(units[unit]))} for unit in units}
        planned, other = _in_plan(conn, plan_id, going, set().union(*reached.values()) - going)
        while split := {unit for unit in units.keys() - staying.keys() if not reached[unit] <= going | other}:
            staying |= {u: "unit-kept" if reached[u] - going <= planned else "unit-grew" for u in split}
            going = {record for unit in units.keys() - staying.keys() for record in units[unit]}
            planned |= set().union(*(units[unit] for unit in split))
    return staying


def _in_plan(conn: Connection, plan_id: UUID, going: set[UUID], others: set[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Which of the others are in the plan too; and which of these go another way: handed on while the ones that are
    going are destroyed, or destroyed while those are handed on."""
    rows = conn.execute(
        """SELECT o.record_id, o.open AND o.decision = 'approve' AND (o.action = 'transfer') <> (
                  SELECT bool_or(g.action = 'transfer') FROM plan_items g
                   WHERE g.plan_id = %(plan)s AND g.record_id = ANY(%(going)s))
             FROM plan_items o WHERE o.plan_id = %(plan)s AND o.record_id = ANY(%(others)s)""",
        {"plan": plan_id, "others": list(others), "going": list(going)},
    ).fetchall()
    return {record for record, _ in rows}, {record for record, other in rows if other}


def _by_code(kept: dict[UUID, str]) -> dict[str, list[UUID]]:
    found: dict[str, list[UUID]] = {}
    for record, code in sorted(kept.items()):
        found.setdefault(code, []).append(record)
    return found


def _schedules(conn: Connection, plan: Plan) -> list[Schedule]:
    """That of the plan and the present one: both must agree."""
    current = policy.current(conn)
    of_plan = policy.of_version(conn, plan.schedule_version)
    return [current.schedule] if current.version == of_plan.version else [of_plan.schedule, current.schedule]


def _not_due(
    conn: Connection, schedule: Schedule, ids: Sequence[UUID], planned: dict[UUID, Action], today: date
) -> dict[UUID, str]:
    """Why a record may not go under this schedule today; what may is not in the answer."""
    by_set = {found.record_id for found in eligibility.due_records(conn, schedule, today, only=ids)}
    found: dict[UUID, str] = {}
    for record, facts in catalog.facts_of(conn, ids).items():
        decision = engine.decide(facts, schedule, today)
        if why := _why_not(decision, planned[record], facts.not_before, today):
            found[record] = why
        elif record not in by_set:
            found[record] = "unit-not-due"
    return found | {record: "changed" for record in ids if record not in found and record not in by_set}


def _why_not(decision: Decision, planned: Action, not_before: date | None, today: date) -> str | None:
    if decision.holds:
        return "held"
    if not_before is not None and today < not_before:
        return "extended"
    if not decision.due:
        return "not-due"
    if "UNVERIFIED" in decision.findings:
        return "unverified"
    if STRENGTH[decision.action] > STRENGTH[planned]:
        return "other-action"
    return None


def _locked(conn: Connection, ids: Sequence[UUID], now: datetime) -> set[UUID]:
    """Records with a lock that has not ended, set or still to be set; or whose flag of a former hold still stands."""
    rows = conn.execute(
        """SELECT subject_id FROM object_locks
            WHERE subject_id = ANY(%(ids)s)
              AND greatest(wanted_until, coalesce(actual_until, queued_at + %(short)s)) > %(now)s
           UNION SELECT subject_id FROM hold_flags
            WHERE subject_id = ANY(%(ids)s) AND (wanted OR actual IS NOT FALSE)
           UNION SELECT q.record_id FROM quarantine q  -- the document that it was, whose bytes stand there still
            WHERE q.record_id = ANY(%(ids)s)
              AND (EXISTS (SELECT FROM hold_quarantined h WHERE h.quarantine_id = q.quarantine_id)
                   OR EXISTS (SELECT FROM hold_flags f
                               WHERE f.subject_id = q.quarantine_id AND (f.wanted OR f.actual IS NOT FALSE)))""",
        {"ids": list(ids), "now": now, "short": SHORT},
    )
    return {row[0] for row in rows} | locked_keys.locked(conn, ids, now)


def _restricted(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """What a person asked to have restricted is stored, and nothing else (GDPR art. 18)."""
    rows = conn.execute(
        "SELECT record_id FROM restrictions JOIN requests USING (request_id) "
        "WHERE kind = 'restrict' AND record_id = ANY(%s)",
        (list(ids),),
    )
    return {row[0] for row in rows}


def _locked_in_vault(archive: Archive, ids: Sequence[UUID], now: datetime) -> set[UUID]:
    """Of the records that were ever locked, those that the vault itself still keeps."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT subject_id, object_key, version FROM object_locks WHERE subject_id = ANY(%s)", (list(ids),)
        ).fetchall()

    def kept(row: tuple[UUID, str, str]) -> UUID | None:
        try:
            seen = archive.vault.stat(row[1], row[2])
        except NotFound:
            return None
        return row[0] if seen.hold or (seen.lock is not None and seen.lock.until > now) else None

    with ThreadPoolExecutor(archive.settings.vault_threads, "locks") as threads:
        return {found for found in threads.map(kept, rows) if found is not None}


def _destroy(run: _Run, ids: Sequence[UUID]) -> None:
    """After T1 is in every second vault: a restore would else bring back what was destroyed since its point."""
    otherwise = (
        "Nothing more is destroyed before its event stands in the second vault. Run the same again when it is back."
    )
    write_through(run.archive, ids, run.clock(), otherwise)
    run.failed += erasure.destroy(run.archive, run.plan.id, ids, run.clock)
    run.progress(len(ids))


# ---------------------------------------------------------------- handed on


def _transfer(run: _Run) -> None:
    """Write the bag; once the receiver has acknowledged it, destroy here what was accepted."""
    archive, plan_id = run.archive, run.plan.id
    with transaction(archive.connections) as conn:
        sent = conn.execute("SELECT acknowledged_at FROM transfers WHERE plan_id = %s", (plan_id,)).fetchone()
    batches = list(_work(run, RecordState.KEPT, ("transfer",)))
    if sent is None and batches:
        if ids := [record for part in batches for record in _take(run, part, mark=False)]:
            transfers.hand_out(archive, plan_id, ids, run.clock)
    elif sent is not None and sent[0] is not None:
        transfers.remove_bag(archive, plan_id)
        if batches:
            run.accepted = transfers.accepted(archive, plan_id)
        for part in batches:
            _destroy(run, _take(run, part))


# ---------------------------------------------------------------- the end


def _close(run: _Run) -> None:
    """When nothing is open any more: sweep descriptor objects that describe nobody, issue the certificate."""
    with transaction(run.archive.connections) as conn:
        if conn.execute("SELECT 1 FROM plan_items WHERE plan_id = %s AND open LIMIT 1", (run.plan.id,)).fetchone():
            return
    erasure.sweep_descriptors(run.archive)
    transfers.remove_bag(run.archive, run.plan.id)  # raises if it cannot: then the plan stays open
    certificate.issue(run.archive, run.plan.id, run.clock)
