"""Two schedules compared: what differs, what a load would lower, what it could bring forward.

Rules of this module:
- Pure: no IO, no clock. `today` is the first day on which the new schedule decides; where it is not given, a rule
  that has an `effective_from` is one that is not in force yet.
- A `regulatory` class can only be lengthened (rule 13): `lowered` names every rule whose date would be earlier for
  some trigger date of 1900 to 2200, with that day. Dates are compared on every day, not on samples: clamping at
  a month's end makes P1M and P30D cross.
- A load that advances any due date needs two people (rule 14): `advances` is true to its word in one direction.
  What it does not name cannot become due earlier, whatever the facts; what it cannot rule out it names. It is a
  matter of the two schedules alone: whatever the catalog has, and however far ahead the day is.
- So does a load that lets go with less care what is due on the same day: a rule that becomes verified (rule 12: its
  class could not be executed), a weaker action, a shorter notice, a stage of review less, limits raised, a weaker
  lock, `regulatory` taken away, a class taken out of one above it, by which holds reach what comes into it.
- What a load does to records that come in later is no advance: they have no due date yet. So `match`,
  `document_date` and `aggregation` are not looked at, nor what stays of what is gone (`tombstone`).
- Under `all` a rule may go if a rule of the same trigger that applies at least as often says a later date; under
  `any` a rule may come if one that was there says an earlier one. A class none of whose rules applies is kept,
  so a first rule advances.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from retention import engine
from retention.rules import (
    STRENGTH,
    Combine,
    Cutoff,
    CutoffUnit,
    Disposition,
    LaterRecords,
    Period,
    RecordClass,
    Rule,
    Schedule,
    Stage,
    Unit,
    Worm,
)

FIRST, LAST = date(1900, 1, 1), date(2200, 12, 31)
_LEGIBLE = date(2000, 1, 1)  # where the search for an example begins
_DAY = timedelta(1)


@dataclass(frozen=True, slots=True)
class Advance:
    """One way in which a load could make something due earlier than it is.

    `example` is a trigger date; `before` and `after` are the last days of retention for it, None is open."""

    class_id: str  # "*" for all
    rule_id: str | None
    reason: str
    example: date | None = None
    before: date | None = None
    after: date | None = None

    def __str__(self) -> str:
        where = f"class {self.class_id}" + (f", rule {self.rule_id}" if self.rule_id else "")
        if self.example is None:
            return f"{where}: {self.reason}"
        before, after = (day.isoformat() if day else "for ever" for day in (self.before, self.after))
        return f"{where}: {self.reason}: trigger {self.example} was kept until {before}, would be until {after}"


@dataclass(frozen=True, slots=True)
class Lowering(Advance):
    """One way in which a load would shorten a regulatory class; such a load is refused."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs. `before` and `after` are as a person reads them; empty is absent."""

    class_id: str
    rule_id: str | None
    field: str
    before: str
    after: str


# ---------------------------------------------------------------- what differs


def changes(old: Schedule, new: Schedule) -> tuple[Change, ...]:
    """Every difference of the classes and their rules, in the order of the new schedule, then what is gone."""
    header = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(Schedule))
    told = [one for one in header if one[0] not in {"digest", "classes"} and one[1] != one[2]]
    found = [Change("*", None, name, _shown(was), _shown(is_now)) for name, was, is_now in told]
    for known in new.classes:
        found += _class_changes(old.record_class(known.id), known)
    gone = [known for known in old.classes if new.record_class(known.id) is None]
    return (*found, *(Change(known.id, None, "class", known.title(), "") for known in gone))


def _class_changes(old: RecordClass | None, new: RecordClass) -> Iterator[Change]:
    if old is None:
        yield Change(new.id, None, "class", "", new.title())
        return
    for name in (f.name for f in fields(new) if f.name not in {"id", "rules"}):
        if getattr(old, name) != getattr(new, name):
            yield Change(new.id, None, name, _shown(getattr(old, name)), _shown(getattr(new, name)))
    before = {rule.id: rule for rule in old.rules}
    for rule in new.rules:
        earlier = before.pop(rule.id, None)
        if earlier is None:
            yield Change(new.id, rule.id, "rule", "", terms(rule))
            continue
        for name in (f.name for f in fields(rule) if f.name != "id"):
            was, is_now = getattr(earlier, name), getattr(rule, name)
            if was != is_now:
                yield Change(new.id, rule.id, name, _shown(was, name), _shown(is_now, name))
    for rule in before.values():
        yield Change(new.id, rule.id, "rule", terms(rule), "")


def terms(rule: Rule) -> str:
    """What a rule counts from, and for how long, in a few words."""
    cutoff = "" if rule.cutoff.unit is CutoffUnit.NONE else f", {rule.cutoff}"
    return f"{rule.trigger}{cutoff} + {rule.period}" if rule.period else f"{rule.trigger}, permanent"


def _shown(value: Any, name: str = "") -> str:
    if name == "authority":
        return str(value.citation)
    if value is None:
        return "permanent" if name == "period" else ""
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return ", ".join(f"{f.name} {said}" for f in fields(value) if (said := _shown(getattr(value, f.name))))
    return str(value).lower() if isinstance(value, bool) else str(value)


def redated(old: Schedule, new: Schedule, as_of: date) -> frozenset[str]:
    """Ids of the classes whose records may have another date, or be due or not, on `as_of` under `new`."""
    names = {known.id for plan in (old, new) for known in plan.classes}
    return frozenset(name for name in names if _dating(old, name, as_of) != _dating(new, name, as_of))


def _dating(plan: Schedule, name: str, as_of: date) -> tuple[Any, ...] | None:
    """All of a class that has a say in dates; None where no rule is in force, which is as good as no class."""
    known = plan.record_class(name)
    in_force = [r for r in known.rules if r.effective_from is None or r.effective_from <= as_of] if known else []
    if known is None or not in_force:
        return None
    undated = {"action", "authority", "ceiling", "effective_from", "notify_before", "time_zone", "verified"}
    said = [f.name for f in fields(Rule) if f.name not in undated]
    rules = {(*(getattr(rule, name) for name in said), engine.foreign(rule, plan)) for rule in in_force}
    return _combine(known), known.unit, frozenset(rules)


# ---------------------------------------------------------------- rules 13 and 14


def lowered(old: Schedule, new: Schedule, today: date = date.min) -> tuple[Lowering, ...]:
    """What `new` would shorten of the classes that are regulatory in `old` (rule 13); empty if nothing.

    A rule of `new` that takes effect after `today` does not stand in for one that is in force."""
    found: list[Lowering] = []
    for known in old.classes:
        if not known.regulatory:
            continue
        after = new.record_class(known.id)
        if after is None:
            found.append(Lowering(known.id, None, "a regulatory class cannot be removed"))
            continue
        if not after.regulatory:
            found.append(Lowering(known.id, None, "a regulatory class cannot become an ordinary one"))
        instants = {"received", "modified", "tagged"}
        if old.timezone != new.timezone and any(rule.trigger.name in instants for rule in known.rules):
            found.append(Lowering(known.id, None, f"its dates would be counted in {new.timezone}"))
        for one in _earlier(_Side(old, known, today), _Side(new, after, today), strict=False):
            found.append(Lowering(one.class_id, one.rule_id, one.reason, one.example, one.before, one.after))
    return tuple(found)


def advances(
    old: Schedule, new: Schedule, today: date = date.min, used: Collection[str] | None = None
) -> tuple[Advance, ...]:
    """What `new` could make due earlier than `old` for some facts, or let go with less care (rule 14, first clause);
    empty if nothing.

    `used`: ids of the classes that an earlier schedule had, or the catalog has; None is unknown, and then a class
    that is new counts, because an earlier schedule may have filed records in it that have no date today."""
    found: list[Advance] = list(_looser(old.disposition, new.disposition))
    if old.timezone != new.timezone:
        found.append(Advance("*", None, f"dates would be counted in {new.timezone}, not in {old.timezone}"))
    elif not _zones(old) <= _zones(new):
        found.append(Advance("*", None, "the day on which decisions are made may begin earlier"))
    for known in new.classes:
        before = old.record_class(known.id)
        if before is None:
            if known.rules and (used is None or known.id in used):
                found.append(Advance(known.id, None, "the class is new: what is in it was kept"))
            continue
        if before.unit is Unit.AGGREGATION and known.unit is Unit.RECORD:
            found.append(Advance(known.id, None, "its records would no longer wait for their aggregation"))
        sides = _Side(old, before, today), _Side(new, known, today)
        earlier = list(_earlier(*sides, strict=True))
        told = {one.rule_id for one in earlier}
        found += earlier
        found += (one for one in _with_less_care(*sides) if one.rule_id is None or one.rule_id not in told)
    return tuple(found)


def _zones(plan: Schedule) -> set[str]:
    return {plan.timezone} | {plan.zone(rule) for known in plan.classes for rule in known.rules}


def _looser(old: Disposition, new: Disposition) -> Iterator[Advance]:
    """Limits of a plan above which a third person must sign."""
    if new.limit_records > old.limit_records:
        said = f"a plan of two people may have {new.limit_records:,} records of a class, not {old.limit_records:,}"
        yield Advance("*", None, said)
    if new.limit_percent > old.limit_percent:
        said = f"a plan of two people may have {new.limit_percent}% of a class, not {old.limit_percent}%"
        yield Advance("*", None, said)


@dataclass(frozen=True, slots=True)
class _Side:
    """One class in one schedule."""

    plan: Schedule
    known: RecordClass
    today: date

    def replacing(self, rule: Rule) -> list[Rule]:
        return [other for other in self.known.rules if rule.id in other.replaces]

    def free(self, rule: Rule) -> bool:
        """True if it applies to every record from today on, unless another rule of the class replaces it."""
        in_force = rule.effective_from is None or rule.effective_from <= self.today
        return in_force and not (rule.when or rule.triggers_from or rule.triggers_until)

    def always(self, rule: Rule) -> bool:
        return self.free(rule) and not self.replacing(rule)


def _combine(known: RecordClass) -> Combine:
    """`any` of one rule that needs no condition to be known is `all`."""
    single = len(known.rules) < 2 and not any(rule.when for rule in known.rules)
    return Combine.ALL if single else known.combine


def _earlier(old: _Side, new: _Side, *, strict: bool) -> Iterator[Advance]:
    """Why a record of the class could have an earlier date under `new`. `strict`: also one that was suspended."""
    before, after = _combine(old.known), _combine(new.known)
    if before is Combine.ALL and after is Combine.ALL:
        for rule in old.known.rules:
            yield from _undercut(rule, old, new, strict)
        if not any(old.free(rule) for rule in old.known.rules):  # a rule that is replaced leaves another
            for rule in new.known.rules:
                if not any(_covers(old, kept, new, rule) for kept in old.known.rules):
                    yield Advance(
                        new.known.id, rule.id, "records to which no rule applied were kept; this rule may apply"
                    )
    elif before is Combine.ANY and after is Combine.ANY:
        for rule in new.known.rules:
            yield from _shortcut(rule, old, new, strict)
    elif before is Combine.ALL:
        yield Advance(new.known.id, None, "one rule would suffice (combine: any) where all were asked for")
    elif not any(
        old.always(rule) and not list(_undercut(rule, old, new, strict, always=True)) for rule in old.known.rules
    ):
        yield Advance(new.known.id, None, "combine: all would count rules that could not decide before")


def _undercut(rule: Rule, old: _Side, new: _Side, strict: bool, *, always: bool = False) -> Iterator[Advance]:
    """Under `all`: a rule of `old` for which no rule of `new` stands in on some day."""
    standing_in = [
        other
        for other in new.known.rules
        if other.trigger == rule.trigger
        and _covers(new, other, old, rule)
        and _waits(rule, other)
        and (not always or new.always(other))
    ]
    if not standing_in:
        yield Advance(new.known.id, rule.id, _absence(rule, new))
        return
    if worst := _worst((clock(old.plan, rule),), tuple(clock(new.plan, other) for other in standing_in), strict):
        yield Advance(new.known.id, rule.id, worst.reason, worst.day, worst.before, worst.after)


def _shortcut(rule: Rule, old: _Side, new: _Side, strict: bool) -> Iterator[Advance]:
    """Under `any`: a rule of `new` that may be satisfied before every rule of `old`."""
    if rule.period is None:
        return
    already = [
        other
        for other in old.known.rules
        if other.trigger == rule.trigger and _covers(old, other, new, rule) and _waits(other, rule)
    ]
    if not already:
        yield Advance(new.known.id, rule.id, "one rule suffices, and this one is new or asks for less")
    elif worst := _worst(tuple(clock(old.plan, other) for other in already), (clock(new.plan, rule),), strict):
        yield Advance(new.known.id, rule.id, worst.reason, worst.day, worst.before, worst.after)


def _absence(rule: Rule, new: _Side) -> str:
    """Why nothing stands in for a rule."""
    same = next((other for other in new.known.rules if other.id == rule.id), None)
    if same is None:
        return "the rule is gone"
    if same.trigger != rule.trigger:
        return f"its trigger changed from {rule.trigger} to {same.trigger}"
    if rule.not_before not in (None, same.not_before):
        return f"it no longer waits for {rule.not_before}"
    if not _waits(rule, same):
        return "it would decide on records dated after the event, which were kept"
    return "it would no longer apply to every record that it applied to"


def _waits(old: Rule, new: Rule) -> bool:
    """True if what keeps `old` from having a date keeps `new` as well, of two rules of one trigger."""
    stale = old.trigger.event and old.later_records is LaterRecords.STALE
    return old.not_before in (None, new.not_before) and not (stale and new.later_records is LaterRecords.COVERED)


def _covers(wide: _Side, one: Rule, narrow: _Side, other: Rule) -> bool:
    """True if `one` certainly applies wherever `other` may apply, of the two schedules."""
    today = max(wide.today, narrow.today)
    if not (_holds_where(one, other, today) and _within(other, one)):
        return False
    return all(
        any(_holds_where(was, taking, today) and _within(taking, was) for was in narrow.replacing(other))
        for taking in wide.replacing(one)
    )


def _holds_where(one: Rule, other: Rule, today: date) -> bool:
    """Its conditions are among those of `other`, and it is in force when `other` is."""
    start, than = one.effective_from, other.effective_from
    in_force = start is None or start <= today or (than is not None and start <= than)
    return in_force and set(one.when) <= set(other.when)


def _within(inner: Rule, outer: Rule) -> bool:
    """The trigger dates that `inner` governs are among those of `outer`."""
    if not (outer.triggers_from or outer.triggers_until):
        return True
    if inner.trigger != outer.trigger:
        return False
    begins = outer.triggers_from is None or (inner.triggers_from or date.min) >= outer.triggers_from
    return begins and (outer.triggers_until is None or (inner.triggers_until or date.max) <= outer.triggers_until)


# ---------------------------------------------------------------- with what care


def _with_less_care(old: _Side, new: _Side) -> Iterator[Advance]:
    """What stood between a record of the class and its destruction on the day it is due, and would no more."""
    before, after = old.known, new.known
    if before.regulatory and not after.regulatory:
        yield Advance(after.id, None, "it would no longer be regulatory, and could be shortened then")
    if _WORM.index(after.worm) < _WORM.index(before.worm):
        yield Advance(after.id, None, f"its lock would be {after.worm}, not {before.worm}")
    if _reviewed_less(before.review, after.review):
        yield Advance(after.id, None, "a stage of its review would be gone, open to more people, or lapse sooner")
    if left := _above(old) - _above(new):
        yield Advance(after.id, None, f"a hold on {min(left)} would no longer take in what comes into it")
    for rule in before.rules:
        if not rule.verified and not _kept(rule, old, new, [other for other in after.rules if not other.verified]):
            yield Advance(after.id, rule.id, "what it made due could not be executed, as it was not verified")
        if not _kept(rule, old, new, [o for o in after.rules if STRENGTH[o.action] >= STRENGTH[rule.action]]):
            yield Advance(after.id, rule.id, f"its action was {rule.action}, and would be a weaker one")
        notice = rule.notify_before
        if notice and not _kept(rule, old, new, [o for o in after.rules if _no_shorter(o.notify_before, notice)]):
            yield Advance(after.id, rule.id, f"what it makes due would not be announced {notice} before")


_WORM = tuple(Worm)  # weakest first
_ANYBODY = (Stage("records officer"),)  # reviews what names no stage


def _kept(rule: Rule, old: _Side, new: _Side, guards: list[Rule]) -> bool:
    """True if one of `guards`, rules of `new`, has a say wherever `rule` had one: under `all` where it applies, under
    `any` where it is satisfied. Where all rules guard, one that makes due does."""
    if len(guards) == len(new.known.rules):
        return True
    say = [other for other in guards if _covers(new, other, old, rule)]
    if _combine(new.known) is Combine.ALL:
        return bool(say)
    return any(
        other.trigger == rule.trigger
        and _waits(other, rule)
        and _worst((clock(new.plan, other),), (clock(old.plan, rule),), True) is None
        for other in say
    )


def _reviewed_less(old: tuple[Stage, ...], new: tuple[Stage, ...]) -> bool:
    """True unless each stage is found among those of `new`, in order, as strict as it was."""
    *others, last = new or _ANYBODY
    left = iter([*((stage, False) for stage in others), (last, True)])
    return not all(any(_as_strict(stage, *other) for other in left) for stage in old or _ANYBODY)


def _as_strict(old: Stage, new: Stage, last: bool) -> bool:
    """Decided by nobody else, and no sooner passed on undecided. What lapses in the last stage expires the plan."""
    few = {name.casefold() for name in old.reviewers}
    among = not few or (bool(new.reviewers) and {name.casefold() for name in new.reviewers} <= few)
    return among and (last or new.lapse is None or (old.lapse is not None and _no_shorter(new.lapse, old.lapse)))


def _no_shorter(one: Period | None, least: Period) -> bool:
    return one is not None and one.months >= least.months and one.days >= least.days


def _above(side: _Side) -> set[str]:
    """The classes above it."""
    found: set[str] = set()
    known: RecordClass | None = side.known
    while known is not None and known.parent is not None and known.parent not in found:
        found.add(known.parent)
        known = side.plan.record_class(known.parent)
    return found


# ---------------------------------------------------------------- dates, day by day


@dataclass(frozen=True, slots=True)
class Clock:
    """All of a rule that turns its trigger date, as the catalog has it, into a date."""

    cutoff: Cutoff
    period: Period | None
    foreign: bool

    def starts(self, day: date) -> date:
        return self.cutoff.of(day + _DAY if self.foreign else day)

    def ends(self, day: date) -> date:
        return date.max if self.period is None else self.period.after(self.starts(day))


def clock(plan: Schedule, rule: Rule) -> Clock:
    """How `rule` counts in that schedule."""
    return Clock(rule.cutoff, rule.period, engine.foreign(rule, plan))


@dataclass(frozen=True, slots=True)
class _Worst:
    day: date
    before: date | None
    after: date | None
    reason: str


_ORDER = (CutoffUnit.NONE, CutoffUnit.MONTH_END, CutoffUnit.QUARTER_END, CutoffUnit.YEAR_END)


@lru_cache(maxsize=4096)
def _worst(olds: tuple[Clock, ...], news: tuple[Clock, ...], strict: bool) -> _Worst | None:
    """The first day on which no clock of `news` is as late as some clock of `olds`; None if there is none.

    `strict`: nor can be, whatever days of suspension lie between the two cutoffs (rule 9 counts those after it).
    """
    if any(_plainly_later(old, new, strict) for old in olds for new in news):
        return None
    day = _first(olds, news, strict)
    if day is None:
        return None
    before, after = min(old.ends(day) for old in olds), max(new.ends(day) for new in news)
    said = "kept shorter" if after < before else "kept shorter where retention was suspended before the cutoff"
    return _Worst(day, _open(before, olds), _open(after, news), said)


def _first(olds: tuple[Clock, ...], news: tuple[Clock, ...], strict: bool) -> date | None:
    """The first such day of four years that are easy to read, else of all."""
    legible = (_LEGIBLE + timedelta(n) for n in range(1461))
    found = next((day for day in legible if min(_lost(o, n, day, strict) for o in olds for n in news) > 0), None)
    if found is not None:
        return found
    # What is permanent is so on every day: an old one was told above, a new one is plainly later.
    pairs = [(*_days(old), *_days(new)) for old in olds for new in news if old.period is not None]
    for n in range((LAST - FIRST).days + 1):
        for start, end, new_start, new_end in pairs:
            fewer = max(new_start[n] - start[n], 0) if strict else 0
            if end[n] + fewer <= new_end[n]:
                break
        else:
            return FIRST + timedelta(n)
    return None


@lru_cache(maxsize=32)
def _days(clock: Clock) -> tuple[array[int], array[int]]:
    """Where the period starts and ends for each trigger date from FIRST to LAST, as ordinals."""
    span = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    starts = array("l", (clock.starts(day).toordinal() for day in span))
    return starts, array("l", (clock.ends(day).toordinal() for day in span))


def _open(day: date, clocks: tuple[Clock, ...]) -> date | None:
    return None if all(clock.period is None for clock in clocks) else day


def _lost(old: Clock, new: Clock, day: date, strict: bool) -> int:
    """Days by which `new` may end sooner than `old`; 0 or less if it cannot."""
    if new.period is None:
        return 0
    if old.period is None:
        return 1
    fewer = max((new.starts(day) - old.starts(day)).days, 0) if strict else 0
    return (old.ends(day) - new.ends(day)).days + fewer


def _plainly_later(old: Clock, new: Clock, strict: bool) -> bool:
    """Known without looking at days: longer in months and in days, from no earlier a cutoff."""
    if new.period is None:
        return True
    if old.period is None or new.period.months < old.period.months or new.period.days < old.period.days:
        return False
    if old.cutoff == new.cutoff and old.foreign == new.foreign:
        return True
    ordered = old.cutoff.unit in _ORDER and new.cutoff.unit in _ORDER
    later = ordered and _ORDER.index(new.cutoff.unit) >= _ORDER.index(old.cutoff.unit)
    return later and not strict and new.foreign >= old.foreign
