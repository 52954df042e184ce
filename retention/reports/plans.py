"""Disposition plans: what waits and for whom, what nobody decided, what was executed, and what was left undone.

Rules of this module:
- Every function reads within the snapshot of its collector and changes nothing.
- A plan that expired undecided stays a finding until what was in it is decided, however often it is proposed again;
  plans are listed for 90 days.
- Whether an execution is at work is asked of its advisory lock (retention.disposition.execution): a record that is
  `destroying` while nobody is at it was broken off.
- Reviewers are people: a copy to be kept names the stage, not them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import sql

from retention import policy
from retention.reports.lists import HELD, RECORDS, Body, Collector, instant
from retention.reports.model import Disposition, ExecutedPlan, Figure, OpenPlan, PlannedClass, listing
from retention.rules import Period, Schedule

LISTED = timedelta(days=90)  # how long a plan that expired or was executed is listed
NEAR = timedelta(days=14)  # before the end of a term
OWED = timedelta(hours=24)  # an approved plan that is not executed after this will not be by itself

# The key of retention.disposition.execution.alone.
_AT_WORK: LiteralString = """EXISTS (SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('execute ' || p.plan_id, 2))"""
_PLANS: LiteralString = "plans p JOIN proposals q ON q.proposal_id = p.plan_id"
_OPEN: LiteralString = "(q.state = 'open' OR (q.state = 'approved' AND p.ended_at IS NULL))"
_WITH_RECEIVER: LiteralString = (  # handed out, not acknowledged, and nothing else left to do
    "(EXISTS (SELECT FROM transfers t WHERE t.plan_id = p.plan_id AND t.acknowledged_at IS NULL"
    " AND t.given_up_at IS NULL)"
    " AND NOT EXISTS (SELECT FROM plan_items i WHERE i.plan_id = p.plan_id AND i.open AND i.action <> 'transfer'))"
)


def disposition(collect: Collector, now: datetime, findings: Mapping[str, Figure]) -> Disposition:
    """Every plan that is open, or ended lately. Needs `report_due` (holdings.due)."""
    executed, plans = _executed(collect, now)
    return Disposition(
        open=collect.one("plans-open", "Plans that wait", _OPEN_PLANS),
        waiting=_waiting(collect, now),
        not_advanced=collect.one("plans-not-advanced", "Open plans whose term has passed", _past_term(now)),
        not_executed=collect.one("plans-not-executed", "Approved plans that nobody executes", _owed(now)),
        expired=collect.one("plans-expired", "Plans that expired undecided in the last 90 days", _expired(now)),
        undecided=collect.one("expired-undecided", "Records of expired plans that are not decided yet", _UNDECIDED),
        executed=plans,
        executed_plans=executed,
        outcomes=_outcomes(collect, now),
        broken_off=collect.one("broken-off", "Records whose destruction was broken off", _BROKEN_OFF),
        unplanned=collect.one("unplanned", "Records that are due and in no plan", _UNPLANNED),
        findings=findings,
    )


# ---------------------------------------------------------------- what waits

_OPEN_PLANS = Body(
    columns={
        "plan": "p.plan_id",
        "state": "q.state",
        "as_of": "p.as_of",
        "records": "p.items",
        "bytes": "p.bytes",
        "proposed": instant("q.proposed_at"),
        "expires": instant("q.expires_at"),
    },
    source=_PLANS,
    where=_OPEN,
    order="proposed, plan",
)
_ITEMS: LiteralString = (
    _PLANS + " JOIN plan_items i USING (plan_id) JOIN classes c USING (class_key)"
    " LEFT JOIN plan_stages s ON s.plan_id = i.plan_id AND s.class_key = i.class_key AND s.ended_at IS NULL"
)
_ITEM_COLUMNS: Mapping[str, LiteralString] = {
    "record": "i.record_id",
    "unit": "i.unit_id",
    "action": "i.action",
    "rule": "i.rule_id",
    "retain_until": "i.retain_until",
    "bytes": "i.bytes",
    "decision": "i.decision",
    "outcome": "i.outcome",
}
_PLANNED = Body(
    columns=_ITEM_COLUMNS,
    source=_ITEMS,
    where=_OPEN,
    order="record",
    group="p.plan_id || '-' || c.class_id",
    subject="i.record_id",
)
_WITHOUT_DECISION = replace(
    _PLANNED,
    columns={name: _ITEM_COLUMNS[name] for name in ("record", "unit", "action", "rule", "retain_until")},
    where=_OPEN + " AND q.state = 'open' AND s.stage IS NOT NULL AND (i.decision IS NULL OR i.stage < s.stage)",
)
_SIGNED = Body(
    columns={"person": "g.person_id", "signed": instant("g.signed_at")},
    source=_PLANS + " JOIN signatures g ON g.proposal_id = q.proposal_id AND g.digest = q.digest",
    where=_OPEN + " AND q.statement IS NOT NULL",
    order="signed, person",
    group="p.plan_id",
)


def _waiting(collect: Collector, now: datetime) -> tuple[OpenPlan, ...]:
    """Open plans, the one whose term ends first at the top; approved ones last."""
    rows = collect.conn.execute(
        sql.SQL(
            "SELECT p.plan_id, q.state, q.statement IS NOT NULL, p.as_of, p.schedule_version, q.expires_at, "
            "q.signers_needed, p.over_limit, q.decided_at, p.started_at, {busy}, {receiver} FROM {plans} WHERE {open} "
            "ORDER BY q.state DESC, q.expires_at, p.plan_id"
        ).format(busy=sql.SQL(_AT_WORK), receiver=sql.SQL(_WITH_RECEIVER), plans=sql.SQL(_PLANS), open=sql.SQL(_OPEN))
    ).fetchall()
    records = collect.groups("plan", "Records of plan and class", _PLANNED)
    undecided = collect.groups("undecided", "Undecided in plan and class", _WITHOUT_DECISION)
    signed = collect.groups("signed", "Signatures under plan", _SIGNED)
    sizes: dict[str, int] = {name: int(size) for name, _, size in collect.numbers(_PLANNED, "sum(bytes)")}
    made = []
    for row in rows:
        plan_id: UUID = row[0]
        state = _state(row)
        schedule = policy.of_version(collect.conn, row[4]).schedule
        classes = tuple(
            _class(schedule, found, records, undecided, sizes, names=collect.names)
            for found in _classes(collect, plan_id)
        )
        lines = [(one.class_id, one.records.value, one.bytes.value, one.stage) for one in classes]
        total = f"plan-{plan_id}"
        collect.keep(listing(total, f"Classes of plan {plan_id}", ("class", "records", "bytes", "stage"), lines))
        term = min([row[5], *(_instant(one.until, schedule) for one in classes if one.until and one.last)])
        waits = state in ("review", "signing")
        made.append(
            OpenPlan(
                plan_id=plan_id,
                state=state,
                as_of=row[3],
                term=term if waits else None,
                near=waits and term - now <= NEAR,
                since=None if waits else row[8],
                records=Figure(sum(one.records.value for one in classes), total, "records"),
                bytes=Figure(sum(one.bytes.value for one in classes), total, "bytes"),
                signed=signed.get(str(plan_id)),
                needed=row[6],
                over_limit=tuple(row[7]),
                classes=classes,
            )
        )
    return tuple(made)


def _state(row: tuple[Any, ...]) -> str:
    if row[1] == "open":
        return "signing" if row[2] else "review"
    if row[10]:
        return "at work"
    if row[11]:
        return "with its receiver"
    return "approved" if row[9] is None else "broken off"


def _classes(collect: Collector, plan_id: UUID) -> list[tuple[Any, ...]]:
    """Of each class of a plan: its id, actions, present stage and when that began."""
    return collect.conn.execute(
        """SELECT i.plan_id, c.class_id, array_agg(DISTINCT i.action ORDER BY i.action), max(s.stage), max(s.began_at)
             FROM plan_items i JOIN classes c USING (class_key)
             LEFT JOIN plan_stages s ON s.plan_id = i.plan_id AND s.class_key = i.class_key AND s.ended_at IS NULL
            WHERE i.plan_id = %s GROUP BY 1, 2 ORDER BY 2""",
        (plan_id,),
    ).fetchall()


def _class(
    schedule: Schedule,
    found: tuple[Any, ...],
    records: Mapping[str, Figure],
    undecided: Mapping[str, Figure],
    sizes: Mapping[str, int],
    *,
    names: bool,
) -> PlannedClass:
    plan_id, class_id, actions, number, began = found
    known = schedule.record_class(class_id)
    key = f"{plan_id}-{class_id}"
    stages = known.review if known is not None else ()
    stage = stages[number - 1] if number and stages else None
    lapse: Period | None = stage.lapse if stage else None
    zone = ZoneInfo(schedule.timezone)
    return PlannedClass(
        class_id=class_id,
        titles=known.titles if known else {},
        actions=tuple(actions),
        records=records[key],
        bytes=Figure(sizes[key], records[key].listing, "bytes"),
        stage=(stage.name if stage else "records officer") if number else "",
        number=number or 0,
        stages=max(len(stages), 1),
        reviewers=stage.reviewers if stage and names else (),
        until=lapse.after(began.astimezone(zone).date()) if lapse is not None and began is not None else None,
        undecided=undecided.get(key),
        unverified=tuple(rule.id for rule in known.rules if not rule.verified) if known else (),
    )


def _instant(day: date, schedule: Schedule) -> datetime:
    """The end of a day of the schedule."""
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), ZoneInfo(schedule.timezone))


def _past_term(now: datetime) -> Body:
    # A day is what the nightly run has; what is open for longer was not looked at.
    return replace(_OPEN_PLANS, where="q.state = 'open' AND q.expires_at < %(before)s", params={"before": now - OWED})


def _owed(now: datetime) -> Body:
    return replace(
        _OPEN_PLANS,
        where="q.state = 'approved' AND p.ended_at IS NULL AND q.decided_at < %(before)s AND NOT "
        + _AT_WORK
        + " AND NOT "
        + _WITH_RECEIVER,
        params={"before": now - OWED},
    )


# ---------------------------------------------------------------- what nobody decided


def _expired(now: datetime) -> Body:
    return replace(
        _OPEN_PLANS,
        columns={
            **{name: _OPEN_PLANS.columns[name] for name in ("plan", "as_of", "records", "bytes", "proposed")},
            "expired": instant("q.decided_at"),
        },
        where="q.state = 'expired' AND q.decided_at >= %(from)s",
        params={"from": now - LISTED},
    )


_UNDECIDED = Body(
    columns={"record": "d.record_id", "class": "c.class_id", "plan": "e.plan_id", "expired": instant("e.decided_at")},
    source="""(SELECT DISTINCT ON (i.record_id) i.record_id, p.plan_id, q.decided_at
                 FROM plans p JOIN proposals q ON q.proposal_id = p.plan_id JOIN plan_items i USING (plan_id)
                WHERE q.state = 'expired' ORDER BY i.record_id, q.decided_at DESC) e
              JOIN report_due d USING (record_id) JOIN classes c USING (class_key)""",
    where="""NOT EXISTS (SELECT FROM plan_items i JOIN proposals q ON q.proposal_id = i.plan_id
                          WHERE i.record_id = e.record_id AND q.state = 'approved' AND q.decided_at > e.decided_at)""",
    order="expired, record",
    subject="d.record_id",
)
_UNPLANNED = Body(
    columns={"record": "d.record_id", "class": "c.class_id", "unit": "d.unit_id", "bytes": "d.bytes"},
    source="report_due d JOIN classes c USING (class_key)",
    where="NOT EXISTS (SELECT FROM plan_items i WHERE i.record_id = d.record_id AND i.open)",
    order="class, record",
    subject="d.record_id",
)


# ---------------------------------------------------------------- what was executed

_BROKEN_OFF = Body(
    columns={"record": "r.record_id", "class": "c.class_id", "plan": "p.plan_id", "approved": instant("q.decided_at")},
    source=RECORDS + " LEFT JOIN plan_items i ON i.record_id = r.record_id AND i.open"
    " LEFT JOIN plans p USING (plan_id) LEFT JOIN proposals q ON q.proposal_id = p.plan_id",
    where=HELD + " AND r.state = 2 AND NOT " + _AT_WORK,
    order="plan, record",
)


def _executed(collect: Collector, now: datetime) -> tuple[Figure, tuple[ExecutedPlan, ...]]:
    """Plans that were executed lately, the latest first; with the list of them all."""
    lately = {"from": now - LISTED}
    body = replace(
        _OPEN_PLANS,
        columns={
            "plan": "p.plan_id",
            "certificate": "p.certificate_id",
            "ended": instant("p.ended_at"),
            "records": "p.items",
            "bytes": "p.bytes",
        },
        where="p.ended_at >= %(from)s",
        order="ended DESC, plan",
        params=lately,
    )
    items = replace(
        _PLANNED,
        columns={
            "record": "i.record_id",
            "class": "c.class_id",
            **{name: _ITEM_COLUMNS[name] for name in ("action", "rule", "retain_until", "bytes", "decision")},
        },
        where="p.ended_at >= %(from)s",
        group="p.plan_id || '-' || i.outcome",
        params=lately,
    )
    plans = collect.one("plans-executed", "Plans executed in the last 90 days", body)
    by_outcome = collect.groups("executed", "Records of plan, by outcome", items)
    rows = collect.conn.execute(
        "SELECT plan_id, ended_at, certificate_id FROM plans WHERE ended_at >= %(from)s ORDER BY 2 DESC, 1",
        lately,
    ).fetchall()
    return plans, tuple(
        ExecutedPlan(
            plan_id,
            ended,
            certificate,
            {
                name.removeprefix(f"{plan_id}-"): figure
                for name, figure in by_outcome.items()
                if name.startswith(f"{plan_id}-")
            },
        )
        for plan_id, ended, certificate in rows
    )


def _outcomes(collect: Collector, now: datetime) -> Mapping[str, Figure]:
    """What became of the items of all these plans; the most frequent first."""
    body = Body(
        columns={"plan": "p.plan_id", "records": "count(*)", "bytes": "sum(i.bytes)"},
        source=_ITEMS,
        where="p.ended_at >= %(from)s GROUP BY i.outcome, p.plan_id",
        order="plan",
        group="i.outcome",
        params={"from": now - LISTED},
    )
    totals = {name: int(total) for name, _, total in collect.numbers(body, "sum(records)")}
    found = collect.groups("outcome", "Plans by outcome", body)
    figures = {name: Figure(totals[name], figure.listing, "records") for name, figure in found.items()}
    return dict(sorted(figures.items(), key=lambda one: (-one[1].value, one[0])))
