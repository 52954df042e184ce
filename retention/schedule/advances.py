"""Facts compared under one schedule: what a change of events, suspensions or membership makes due sooner.

Rules of this module (requirements: retention, rule 14: backdated triggers, and retractions that make something due,
need two people):
- Pure: no IO, no clock. `today` is the day on which decisions are made when the change is recorded.
- An event dated before `today` is *backdated*. There are no days of grace: as many as were granted could one person
  take off every period. It counts if it starts a clock or moves one forward: if a rule asks for its kind, and it
  changes what is current of that kind for its subject. That is a matter of the event, not of the records that are
  there: those that come into the aggregation later have its clock too. It does not count where it only moves a clock
  back. Not sure of that are a rule that is about some trigger dates only, a condition, and a rule that keeps records
  dated after the event (TRIGGER-STALE): a later event starts the clock of those between.
- An event of today or later is ordinary: the period runs in full from it. But where a rule asks only whether an event
  is there (`not_before`, `present`), its date delays nothing; then `sooner` judges each record.
- A date that is earlier afterwards counts, whatever the records: a retraction leaves it, or an event that came before
  the one that was the first. Whatever else changes, the end of a suspension and membership too, counts if `sooner`
  names a day.
- `sooner` looks at every day from `today` on, not at `today` alone: what is due tomorrow is due. Holds are left
  aside: they end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from retention import engine
from retention.engine import RecordFacts
from retention.rules import LaterRecords, Occurrence, Rule, Schedule, Trigger

_DAY = timedelta(1)
Dates = Collection[date]  # unretracted effective dates of one kind, of one subject
Asking = Sequence[tuple[Rule, Trigger]]  # rules that ask for a kind, and as what


def asking(schedule: Schedule) -> Mapping[str, Asking]:
    """The rules that ask for each kind: as trigger, as what they wait for, or as an operand of a condition."""
    found: dict[str, list[tuple[Rule, Trigger]]] = {}
    for rule in (rule for known in schedule.classes for rule in known.rules):
        operands = (side for condition in rule.when for side in (condition.left, condition.than))
        for one in (rule.trigger, rule.not_before, *operands):
            if one is not None and one.event:
                found.setdefault(one.name, []).append((rule, one))
    return found


def backdated(asked: Asking, before: Dates, after: Dates, today: date) -> date | None:
    """The date before `today` from which `after`, with events more than `before`, starts a clock, or to which it sets
    one; None if it does neither, or only lengthens. `asked`: of the kind."""
    for rule, trigger in asked:
        was, now = _current(trigger, before), _current(trigger, after)
        if now is None or now == was or now >= today:
            continue
        if was is None or now < was or _unsure(rule, trigger):
            return now
    return None


def moved(asked: Asking, before: Dates, after: Dates) -> tuple[date, date] | None:
    """The date from which some rule counts, and the earlier one from which it would; None if none would."""
    for _, trigger in asked:
        was, now = _current(trigger, before), _current(trigger, after)
        if was is not None and now is not None and now < was:
            return was, now
    return None


def by_presence(schedule: Schedule) -> frozenset[str]:
    """The kinds of which some rule asks only whether an event is there."""
    rules = [rule for known in schedule.classes for rule in known.rules]
    waited = {rule.not_before.name for rule in rules if rule.not_before is not None and rule.not_before.event}
    present = {c.left.name for rule in rules for c in rule.when if c.comparison is None and c.left.event}
    return frozenset(waited | present)


def sooner(before: RecordFacts, after: RecordFacts, schedule: Schedule, today: date) -> date | None:
    """The first day from `today` on on which `after` is due and `before` is not; None if there is none.

    Days on which a period has run in full that begins with an event of today or later, which `before` has not, do not
    count. A record of an aggregation that goes as a whole is looked at alone: if no member is due sooner alone, the
    aggregation is not."""
    before, after = replace(before, holds=()), replace(after, holds=())
    new = {(kind, day) for kind, day in _events(after) - _events(before) if day >= today}
    begun = {(str(Trigger(kind, True, one)), day) for kind, day in new for one in Occurrence}
    for day in sorted(_turns(before, schedule, today) | _turns(after, schedule, today)):
        decision = engine.decide(after, schedule, day)
        ran = any(one.eligible and (one.trigger, one.trigger_date) in begun for one in decision.rules)
        if decision.due and not ran and not engine.decide(before, schedule, day).due:
            return day
    return None


def _events(facts: RecordFacts) -> set[tuple[str, date]]:
    return {(kind, day) for some in (facts.events, facts.inherited) for kind, days in some.items() for day in days}


def _turns(facts: RecordFacts, schedule: Schedule, today: date) -> set[date]:
    """Days from `today` on, between which nothing becomes due or ceases to be.

    A rule comes in force, a suspension begins or has ended, an awaited event is there, an extension has ended; and
    the day after the last of retention as it stands on each of these days. While retention is suspended the last day
    moves, but then nothing is due; between suspensions it stands."""
    rules = [r for name in facts.class_ids if (known := schedule.record_class(name)) for r in known.rules]
    turns = {today, *(rule.effective_from for rule in rules if rule.effective_from)}
    turns |= {suspension.starts for suspension in facts.suspensions}
    turns |= {_next(suspension.ends) for suspension in facts.suspensions if suspension.ends}
    turns |= {day for _, day in _events(facts)}
    turns |= {facts.not_before} if facts.not_before else set()
    turns = {day for day in turns if day >= today}
    outcomes = [outcome for day in turns for outcome in engine.decide(facts, schedule, day).rules]
    last = {_next(outcome.retain_until) for outcome in outcomes if outcome.retain_until is not None}
    return turns | {day for day in last if day >= today}


def _next(day: date) -> date:
    return day + _DAY if day < date.max else day


def _current(trigger: Trigger, dates: Dates) -> date | None:
    return (max if trigger.occurrence is Occurrence.LATEST else min)(dates, default=None)


def _unsure(rule: Rule, trigger: Trigger) -> bool:
    """Whether a later date may be an advance all the same."""
    if any(trigger in (condition.left, condition.than) for condition in rule.when):
        return True
    stale = rule.later_records is LaterRecords.STALE
    return trigger == rule.trigger and (stale or bool(rule.triggers_from or rule.triggers_until))
