"""The retention engine: from a schedule, the facts of a record and a day, to a decision and its reasons.

Rules of this module (requirements: retention, *Rules of the engine*):
- Pure: no IO, no clock. `as_of` is a civil date that the caller gives.
- Eligible when `as_of > retain_until`: the day after the last day of retention.
- `retain_until` is monotone in the trigger date, so it is inverted once per rule by bisection over days:
  `as_of > retain_until(rule, d)` exactly if `d <= latest_eligible_trigger(rule, as_of)`. The set path
  (`limits`, joined in PostgreSQL) and the one-record path (`decide`) are the same rules in both directions.
- Unknown means retain: no trigger, no class, no rule, permanent: never due. Adding a rule, a class or a
  suspension never makes a record due earlier, where rules combine by `all`.
- A rule whose `when` is false, whose trigger lies outside `triggers_from … triggers_until`, that another
  one replaces, or that is not yet in force does not apply. What is unknown takes the longer branch: a rule
  that may apply counts, and a replacement that may not hold does not take a rule away. Where no rule
  applies, nothing is due.
- `present` is about what is recorded, so it is yes or no; a comparison is unknown while a date is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from retention.rules import (
    STRENGTH,
    Action,
    Combine,
    Comparison,
    Condition,
    LaterRecords,
    Occurrence,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)

_DAY = timedelta(1)
STALE = "TRIGGER-STALE"


# ---------------------------------------------------------------- one rule


def civil_date(instant: datetime, zone: str) -> date:
    """The calendar day of `instant` (aware) in the IANA zone. Raises ValueError for a naive one."""
    if instant.tzinfo is None:
        raise ValueError(f"expected an instant with an offset, found {instant.isoformat()}")
    return instant.astimezone(ZoneInfo(zone)).date()


def today(schedule: Schedule, now: datetime) -> date:
    """The day for which decisions are made at the instant `now`: the earliest of all zones of the schedule,
    so that nothing is due in one of them a day early."""
    zones = {schedule.timezone} | {schedule.zone(rule) for known in schedule.classes for rule in known.rules}
    return min(civil_date(now, zone) for zone in zones)


def cutoff_date(rule: Rule, trigger_date: date) -> date:
    """The day from which the period runs."""
    return rule.cutoff.of(trigger_date)


def retain_until(rule: Rule, trigger_date: date) -> date | None:
    """The last day of retention; None is permanent. Monotone in `trigger_date`."""
    return None if rule.period is None else rule.period.after(cutoff_date(rule, trigger_date))


def ceiling_date(rule: Rule, trigger_date: date) -> date | None:
    """The last day on which the record may be kept; None is no maximum."""
    return None if rule.ceiling is None else rule.ceiling.after(cutoff_date(rule, trigger_date))


def latest_eligible_trigger(rule: Rule, as_of: date) -> date | None:
    """The latest trigger date that is eligible on `as_of`; None if there is none. At most 22 steps."""

    def eligible(day: int) -> bool:
        until = retain_until(rule, date.fromordinal(day))
        return until is not None and as_of > until

    low, high = 0, as_of.toordinal()  # retention never ends before its trigger, so as_of itself is not eligible
    while high - low > 1:
        middle = (low + high) // 2
        if eligible(middle):
            low = middle
        else:
            high = middle
    return date.fromordinal(low) if low else None


def foreign(rule: Rule, schedule: Schedule) -> bool:
    """True if the catalog's date of the rule's trigger may be a day behind its date in the rule's zone.

    Receipt, change and tagging are instants, kept as dates of the schedule's zone; a rule of another zone
    counts them a day later, which is never too early. Dates that a person or document states have no zone.
    """
    instants = {"received", "modified", "tagged"}
    return schedule.zone(rule) != schedule.timezone and not rule.trigger.event and rule.trigger.name in instants


# ---------------------------------------------------------------- one record


@dataclass(frozen=True, slots=True)
class Suspension:
    """Days on which retention does not run: from `starts`, up to and with `ends`; None is still open."""

    starts: date
    ends: date | None = None


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """What is known about one record on the day of the decision; None is unknown."""

    class_ids: tuple[str, ...]  # its class, then its labels
    received: date | None = None
    document_date: date | None = None
    modified: date | None = None
    tagged: date | None = None
    events: Mapping[str, tuple[date, ...]] = field(default_factory=dict)  # kind -> its own unretracted effective dates
    inherited: Mapping[str, tuple[date, ...]] = field(default_factory=dict)  # the same, of its aggregation
    suspensions: tuple[Suspension, ...] = ()  # its own and its aggregation's
    holds: tuple[str, ...] = ()  # ids of the holds in force
    not_before: date | None = None  # a reviewer's extension; date.max is kept for good


class Standing(StrEnum):
    """What a rule is to the decision."""

    DECIDES = "decides"  # it set the date, or is why there is none
    SATISFIED = "satisfied"  # its own date has passed
    RUNNING = "running"  # its own date has not passed
    BLOCKED = "blocked"  # it can have no date yet
    PERMANENT = "permanent"
    REPLACED = "replaced"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What one rule says about one record, whether it decided or lost."""

    class_id: str
    rule_id: str
    standing: Standing
    trigger: str
    trigger_date: date | None
    retain_until: date | None
    ceiling: date | None
    eligible: bool
    reason: str
    citation: str
    verified: bool
    finding: str | None = None  # TRIGGER-STALE


@dataclass(frozen=True, slots=True)
class Decision:
    """What the schedule says about one record on one day, and why."""

    as_of: date
    schedule: str  # digest of the version
    due: bool
    retain_until: date | None  # None: open or permanent, see `reason`
    action: Action
    reason: str
    citation: str  # of the rule that set the date
    rule_id: str | None
    ceiling: date | None
    findings: tuple[str, ...]  # KEPT-TOO-LONG, RESTRICTED, CONTRADICTION, UNVERIFIED, UNSCHEDULED, TRIGGER-STALE
    rules: tuple[RuleOutcome, ...]  # every rule of every class, the deciding one first
    holds: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; dates as ISO 8601."""
        return {name: _json(getattr(self, name)) for name in self.__slots__}


def decide(facts: RecordFacts, schedule: Schedule, as_of: date) -> Decision:
    """What every class of the record says together: the latest floor, the earliest ceiling, the strongest
    action (rule 3). Due only if each of its classes says so, no hold is in force and no extension runs."""
    if not facts.class_ids:
        verdicts = [_Verdict(_unscheduled("it has no class"))]
    else:
        verdicts = [_class_verdict(class_id, facts, schedule, as_of) for class_id in facts.class_ids]
    blocking = next((v for v in verdicts if v.until is None), None)
    last = blocking or max(verdicts, key=lambda v: v.until or date.min)
    eligible = all(v.eligible for v in verdicts)
    ceilings = [v.ceiling for v in verdicts if v.ceiling is not None]
    ceiling = min(ceilings, default=None)
    outcomes = [outcome for v in verdicts for outcome in v.outcomes]
    outcomes.sort(key=lambda outcome: (outcome.class_id, outcome.rule_id) != (last.class_id, last.rule_id))
    reason, until = last.reason, None if blocking else last.until
    extended = facts.not_before is not None and (as_of < facts.not_before or facts.not_before == date.max)
    if extended and facts.not_before is not None:
        for_good = facts.not_before == date.max
        reason = f"kept {'for good' if for_good else f'until {facts.not_before}'}, as was decided; otherwise: {reason}"
        until = None if for_good or until is None else max(until, facts.not_before - _DAY)
    if facts.holds:
        reason = f"held by {', '.join(facts.holds)}; without the hold: {reason}"
    return Decision(
        as_of=as_of,
        schedule=schedule.digest,
        due=eligible and not facts.holds and not extended,
        retain_until=until,
        action=max((v.action for v in verdicts), key=lambda action: STRENGTH[action]),
        reason=reason,
        citation=last.citation,
        rule_id=last.rule_id,
        ceiling=ceiling,
        findings=_findings(verdicts, facts, ceiling, as_of),
        rules=tuple(outcomes),
        holds=facts.holds,
    )


def decide_unit(members: Mapping[UUID, RecordFacts], schedule: Schedule, as_of: date) -> Decision:
    """The same for the first of `members`, which goes only together with the others (rule 8): due if each of them
    is, kept until the latest date of all. Rules and findings are its own. Raises ValueError without a member."""
    decisions = {record: decide(facts, schedule, as_of) for record, facts in members.items()}
    if not decisions:
        raise ValueError("a unit has at least one member")
    first = next(iter(decisions.values()))
    kept = {record: one for record, one in decisions.items() if not one.due}
    # What is held or open keeps the whole for as long as nobody knows; else the latest date does.
    record, last = max((kept or decisions).items(), key=lambda item: (item[1].retain_until is None, _last(item[1])))
    if last is first:
        return first
    return replace(
        first,
        due=not kept,
        retain_until=last.retain_until,
        reason=f"goes as a whole with {len(members) - 1} others, of which {record}: {last.reason}",
        citation=last.citation,
        rule_id=last.rule_id,
        holds=tuple(dict.fromkeys(hold for one in decisions.values() for hold in one.holds)),
    )


def _last(decision: Decision) -> tuple[date, bool]:
    return decision.retain_until or date.max, bool(decision.holds)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one class says. `until` None is open."""

    reason: str
    class_id: str = ""
    rule_id: str | None = None
    until: date | None = None
    eligible: bool = False
    action: Action = Action.REVIEW
    citation: str = ""
    ceiling: date | None = None
    outcomes: tuple[RuleOutcome, ...] = ()
    scheduled: bool = False
    permanent: bool = False
    unverified: bool = False
    stale: bool = False


def _unscheduled(why: str) -> str:
    return f"kept: {why}, so nothing ever makes it due"


def _class_verdict(class_id: str, facts: RecordFacts, schedule: Schedule, as_of: date) -> _Verdict:
    known = schedule.record_class(class_id)
    if known is None:
        return _Verdict(_unscheduled(f"the schedule has no class {class_id}"), class_id)
    if not known.rules:
        return _Verdict(_unscheduled(f"class {class_id} has no rule"), class_id, action=known.action)
    outcomes = tuple(_outcome(rule, known, facts, schedule, as_of) for rule in known.rules)
    by_id = {rule.id: rule for rule in known.rules}
    live = [o for o in outcomes if o.standing not in {Standing.REPLACED, Standing.NOT_APPLICABLE}]
    if not live:
        said = _unscheduled(f"no rule of class {class_id} applies to it")
        return _Verdict(said, class_id, action=known.action, outcomes=outcomes)
    satisfied = [o for o in live if o.eligible]
    dated = [o for o in live if o.retain_until is not None and o.standing is not Standing.BLOCKED]
    if known.combine is Combine.ANY:
        eligible, chosen = bool(satisfied), min(dated or live, key=_until)
    else:
        eligible, chosen = len(satisfied) == len(live), max(live, key=_until)
    decided = tuple(_decides(o) if o is chosen else o for o in outcomes)
    acting = satisfied if known.combine is Combine.ANY and satisfied else live
    return _Verdict(
        reason=chosen.reason,
        class_id=class_id,
        rule_id=chosen.rule_id,
        until=None if chosen.standing is Standing.BLOCKED else chosen.retain_until,
        eligible=eligible,
        action=max((by_id[o.rule_id].action for o in acting), key=lambda action: STRENGTH[action]),
        citation=chosen.citation,
        ceiling=min((o.ceiling for o in live if o.ceiling is not None), default=None),
        outcomes=decided,
        scheduled=True,
        permanent=chosen.standing is Standing.PERMANENT,
        unverified=any(not o.verified for o in acting),
        stale=any(o.finding == STALE for o in live),
    )


def _until(outcome: RuleOutcome) -> tuple[bool, date]:
    """Orders outcomes by their date; what has none, or is blocked, comes last."""
    open_ended = outcome.retain_until is None or outcome.standing is Standing.BLOCKED
    return open_ended, outcome.retain_until or date.max


def _decides(outcome: RuleOutcome) -> RuleOutcome:
    return replace(outcome, standing=Standing.DECIDES)


def _outcome(rule: Rule, known: RecordClass, facts: RecordFacts, schedule: Schedule, as_of: date) -> RuleOutcome:
    found = trigger_date(rule.trigger, facts)
    counted = found + _DAY if found and foreign(rule, schedule) and found < date.max else found
    until = ceiling = None
    old = stale(rule, facts)
    if counted is not None and not old:
        until, ceiling = retain_until(rule, counted), ceiling_date(rule, counted)
        days = suspended_days(facts.suspensions, cutoff_date(rule, counted), as_of)
        if until is not None:
            until = date.max if days > (date.max - until).days else until + timedelta(days)
    stopped = _standing(rule, known, facts, as_of)
    if stopped is None:
        assert found is not None and until is not None
        stopped = _dated(rule, found, until, as_of)
    standing, reason = stopped
    return RuleOutcome(
        class_id=known.id,
        rule_id=rule.id,
        standing=standing,
        trigger=str(rule.trigger),
        trigger_date=found,
        retain_until=until,
        ceiling=ceiling,
        eligible=standing is Standing.SATISFIED,
        reason=reason,
        citation=rule.authority.citation,
        verified=rule.verified,
        finding=STALE if old else None,
    )


def stale(rule: Rule, facts: RecordFacts) -> bool:
    """True if the rule's trigger is an event of the aggregation that came before the record (rule 5)."""
    found = trigger_date(rule.trigger, facts)
    if not rule.trigger.event or rule.later_records is LaterRecords.COVERED or facts.document_date is None:
        return False
    return found is not None and found < facts.document_date and found not in facts.events.get(rule.trigger.name, ())


def _standing(rule: Rule, known: RecordClass, facts: RecordFacts, as_of: date) -> tuple[Standing, str] | None:
    """What stops the rule from being a matter of its date alone, and why; None if nothing does."""
    found: tuple[Standing, str] | None = None
    away = _not_applicable(rule, facts, as_of)
    if away is None and known.combine is Combine.ANY and _holds(rule.when, facts) is None:
        away = "it is not known whether its condition holds"
    if away is not None:
        found = Standing.NOT_APPLICABLE, f"does not apply: {away}"
    elif by := _replaced_by(rule, known, facts, as_of):
        found = Standing.REPLACED, f"replaced by rule {by}"
    elif rule.period is None:
        found = Standing.PERMANENT, "kept permanently"
    elif trigger_date(rule.trigger, facts) is None:
        found = Standing.BLOCKED, f"kept: its trigger {rule.trigger} is missing"
    elif stale(rule, facts):
        dated = f"is dated {facts.document_date}, after {rule.trigger} {trigger_date(rule.trigger, facts)}"
        found = Standing.BLOCKED, f"kept: it {dated} of its aggregation, which may not be about it"
    elif rule.not_before is not None and not _there(rule.not_before, facts, as_of):
        found = Standing.BLOCKED, f"kept: not before {rule.not_before}, which is missing"
    elif any(s.starts <= as_of and (s.ends is None or as_of <= s.ends) for s in facts.suspensions):
        found = Standing.BLOCKED, "kept: its retention is suspended"
    return found


def _there(event: Trigger, facts: RecordFacts, as_of: date) -> bool:
    found = trigger_date(event, facts)
    return found is not None and found <= as_of


def _dated(rule: Rule, found: date, until: date, as_of: date) -> tuple[Standing, str]:
    moved = f", {rule.cutoff}" if rule.cutoff.of(found) != found else ""
    reason = f"kept until {until}: {rule.trigger} {found}{moved} + {rule.period}"
    return (Standing.SATISFIED if as_of > until else Standing.RUNNING), reason


def _not_applicable(rule: Rule, facts: RecordFacts, as_of: date) -> str | None:
    """Why the rule certainly does not govern this record today; None if it does or may."""
    if rule.effective_from is not None and as_of < rule.effective_from:
        return f"in force from {rule.effective_from}"
    found = trigger_date(rule.trigger, facts)
    if found is not None and rule.triggers_from is not None and found < rule.triggers_from:
        return f"for triggers from {rule.triggers_from}, found {found}"
    if found is not None and rule.triggers_until is not None and found > rule.triggers_until:
        return f"for triggers until {rule.triggers_until}, found {found}"
    if _holds(rule.when, facts) is False:
        return "when " + " and ".join(str(condition) for condition in rule.when)
    return None


def _replaced_by(rule: Rule, known: RecordClass, facts: RecordFacts, as_of: date) -> str | None:
    """The rule that certainly takes its place."""
    for other in known.rules:
        if rule.id not in other.replaces or _holds(other.when, facts) is not True:
            continue
        governs = _not_applicable(other, facts, as_of) is None and not _range_unknown(other, facts)
        if governs:
            return other.id
    return None


def _range_unknown(rule: Rule, facts: RecordFacts) -> bool:
    return bool(rule.triggers_from or rule.triggers_until) and trigger_date(rule.trigger, facts) is None


def _holds(when: tuple[Condition, ...], facts: RecordFacts) -> bool | None:
    """Kleene's and: false if one is false, else unknown if one is unknown."""
    answers = [_condition(condition, facts) for condition in when]
    if False in answers:
        return False
    return None if None in answers else True


def _condition(condition: Condition, facts: RecordFacts) -> bool | None:
    left = trigger_date(condition.left, facts)
    if condition.comparison is None or condition.than is None:
        return left is not None
    right = trigger_date(condition.than, facts)
    if left is None or right is None:
        return None
    right = condition.plus.after(right)
    match condition.comparison:
        case Comparison.BEFORE:
            return left < right
        case Comparison.ON_OR_BEFORE:
            return left <= right
        case Comparison.AFTER:
            return left > right
        case Comparison.ON_OR_AFTER:
            return left >= right


def trigger_date(trigger: Trigger, facts: RecordFacts) -> date | None:
    """The date of the trigger; None if it is missing."""
    if not trigger.event:
        found: date | None = getattr(facts, trigger.name)
        return found
    dates = (*facts.events.get(trigger.name, ()), *facts.inherited.get(trigger.name, ()))
    return (max if trigger.occurrence is Occurrence.LATEST else min)(dates, default=None)


def suspended_days(suspensions: tuple[Suspension, ...], after: date, as_of: date) -> int:
    """Days of (after, as_of] on which some suspension was in force; overlapping ones count once."""
    total, reached = 0, after
    for suspension in sorted(suspensions, key=lambda s: s.starts):
        first = max(suspension.starts, reached + _DAY if reached < date.max else reached)
        last = min(suspension.ends or as_of, as_of)
        if first <= last:
            total += (last - first).days + 1
            reached = last
    return total


def _findings(verdicts: list[_Verdict], facts: RecordFacts, ceiling: date | None, as_of: date) -> tuple[str, ...]:
    found = []
    if any(not v.scheduled for v in verdicts):
        found.append("UNSCHEDULED")
    if ceiling is not None and as_of > ceiling:
        found.append("RESTRICTED" if facts.holds else "KEPT-TOO-LONG")
    if ceiling is not None and any(v.permanent or (v.until or date.min) > ceiling for v in verdicts):
        found.append("CONTRADICTION")
    if any(v.stale for v in verdicts):
        found.append(STALE)
    if any(v.unverified for v in verdicts) and all(v.eligible for v in verdicts):
        found.append("UNVERIFIED")
    return tuple(found)


def _json(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, RuleOutcome):
        return {name: _json(getattr(value, name)) for name in value.__slots__}
    return [_json(item) for item in value] if isinstance(value, tuple) else value


# ---------------------------------------------------------------- all records


@dataclass(frozen=True, slots=True)
class EventLimit:
    """The latest eligible date of an event. Not `covered`: of an aggregation's event, no record dated after it."""

    key: str  # of the trigger kind
    limit: date | None
    covered: bool


@dataclass(frozen=True, slots=True)
class ClassLimits:
    """What a class asks of a record on one day, as the latest eligible trigger dates.

    Set path, main branch (`guarded` empty). Under `all` a record is due if it satisfies every limit there is,
    `trigger date <= limit`, a missing date satisfying none; under `any` if it satisfies one. A limit of None
    is never satisfied; a trigger that is not here asks for nothing; no limit at all makes nothing due.
    Where `guarded` is filled the class has rules that apply to some records only; then it alone decides,
    rule by rule, in the second branch, and the limits are what the rules that always apply ask under `all`:
    necessary, not sufficient.
    """

    class_id: str
    combine: Combine
    action: Action
    dated: Mapping[str, date | None]  # received, document_date, modified, tagged -> limit
    events: tuple[EventLimit, ...]
    guarded: tuple[GuardedLimit, ...] = ()
    unverified: tuple[str, ...] = ()  # rules that propose and never execute


@dataclass(frozen=True, slots=True)
class GuardedLimit:
    """One rule for the second branch. It applies while its guard does not certainly fail (see the module's rules)."""

    rule: Rule
    limit: date | None
    foreign: bool
    replaced_by: tuple[str, ...]  # rules of the same class


def limit(rule: Rule, schedule: Schedule, as_of: date) -> date | None:
    """The latest trigger date, as the catalog has it, that is eligible; None if there is none."""
    found = latest_eligible_trigger(rule, as_of)
    if found is None or not foreign(rule, schedule):
        return found
    return found - _DAY if found > date.min else None


def limits(schedule: Schedule, as_of: date, *, fold: bool = True) -> tuple[ClassLimits, ...]:
    """One row for each class that has a rule in force on `as_of`; a class that is not here is never due.

    With `fold` off every class is given rule by rule, for records with facts of their own."""
    rows = []
    for known in schedule.classes:
        in_force = [r for r in known.rules if r.effective_from is None or r.effective_from <= as_of]
        if in_force:
            rows.append(_class_limits(known, in_force, schedule, as_of, fold))
    return tuple(rows)


def _class_limits(known: RecordClass, in_force: list[Rule], schedule: Schedule, as_of: date, fold: bool) -> ClassLimits:
    blocks = known.combine is Combine.ANY and any(rule.not_before for rule in in_force)
    guarded: tuple[GuardedLimit, ...] = ()
    folding = in_force
    if not fold or blocks or not all(rule.plain for rule in in_force):
        guarded = tuple(
            GuardedLimit(
                rule,
                limit(rule, schedule, as_of),
                foreign(rule, schedule),
                tuple(other.id for other in in_force if rule.id in other.replaces),
            )
            for rule in in_force
        )
        replaced = {other for rule in in_force for other in rule.replaces}
        always = [rule for rule in in_force if rule.plain and rule.id not in replaced]
        folding = always if known.combine is Combine.ALL else []
    asked: list[tuple[tuple[Trigger, bool], date | None]] = []
    for rule in folding:
        covered = not rule.trigger.event or rule.later_records is LaterRecords.COVERED
        asked.append(((rule.trigger, covered), limit(rule, schedule, as_of)))
        if rule.not_before is not None:  # only under `all` here: one more event that must be there
            asked.append(((rule.not_before, True), as_of))
    folded: dict[tuple[Trigger, bool], date | None] = {}
    for key, latest in asked:
        folded[key] = _fold(known.combine, folded[key], latest) if key in folded else latest
    return ClassLimits(
        known.id,
        known.combine,
        max((rule.action for rule in in_force), key=lambda a: STRENGTH[a]),
        {trigger.name: day for (trigger, _), day in folded.items() if not trigger.event},
        tuple(EventLimit(trigger.key, day, covered) for (trigger, covered), day in folded.items() if trigger.event),
        guarded,
        tuple(rule.id for rule in in_force if not rule.verified),
    )


def _fold(combine: Combine, one: date | None, other: date | None) -> date | None:
    """Two limits of one trigger: the earlier where both must be satisfied, else the later."""
    if one is None or other is None:
        return None if combine is Combine.ALL else one or other
    return min(one, other) if combine is Combine.ALL else max(one, other)
