"""Until when records are kept under two schedules: set by set, for a what-if.

Rules of this module:
- The calendar is the engine's. For each trigger date that the catalog has, and each way of counting, the date is
  computed once in Python and joined: ten million records have some thousands of days.
- One scan decides what the rules say of records of one class whose rules apply to every record (the main branch
  of `retention.eligibility`); special records and guarded classes are taken rule by rule. Both give the date that
  `engine.decide` gives (tests/integration/test_whatif.py): of several rules the latest under `all`, the earliest
  under `any`; of several classes the latest, and a reviewer's extension beside them.
- OPEN is no date yet, permanent, or no rule at all. A date so late that the calendar ends before it is open too.
- The date is the record's own: a unit (rule 8) goes by the latest of its members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

from psycopg import sql

from retention.comparison import Clock, clock
from retention.database import Connection
from retention.rules import (
    DATED,
    Combine,
    Comparison,
    Condition,
    LaterRecords,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)

OPEN = date.max
SLOTS = 3  # triggers of a class in the main branch; a class with more is taken rule by rule

_NOTHING = date.min  # what is not asked for, under `all`
_COMPARISONS: tuple[Comparison | None, ...] = (None, *Comparison)  # by their number in the statement; 0: presence


# ---------------------------------------------------------------- what a class asks, trigger by trigger


@dataclass(frozen=True, slots=True)
class _Asked:
    """One class in one schedule. A trigger's clocks say when retention ends; None among them is an event that must
    have come (`not_before`). Where `open`, nothing ever ends it."""

    any_one: bool
    clocks: Mapping[Trigger, frozenset[Clock | None]]
    later: frozenset[Trigger]  # events that say nothing of records dated after them
    guarded: bool
    open: bool


def _asked(known: RecordClass | None, plan: Schedule, as_of: date) -> _Asked:
    rules = _in_force(known, as_of)
    any_one = known is not None and known.combine is Combine.ANY
    clocks: defaultdict[Trigger, set[Clock | None]] = defaultdict(set)
    covered: defaultdict[Trigger, set[bool]] = defaultdict(set)
    for rule in rules:
        if rule.period is not None:
            clocks[rule.trigger].add(clock(plan, rule))
            covered[rule.trigger].add(_covered(rule))
        if rule.not_before is not None:
            clocks[rule.not_before].add(None)
            covered[rule.not_before].add(True)
    mixed = any(len(both) > 1 for both in covered.values())
    guarded = mixed or not all(rule.plain and not (any_one and rule.not_before) for rule in rules)
    ended = [rule for rule in rules if rule.period is not None]
    never = not ended or (not any_one and len(ended) < len(rules))
    later = frozenset(trigger for trigger, answers in covered.items() if False in answers)
    return _Asked(any_one, {t: frozenset(some) for t, some in clocks.items()}, later, guarded, never)


def _in_force(known: RecordClass | None, as_of: date) -> list[Rule]:
    return [r for r in known.rules if r.effective_from is None or r.effective_from <= as_of] if known else []


def _covered(rule: Rule) -> bool:
    return not rule.trigger.event or rule.later_records is LaterRecords.COVERED


@dataclass(frozen=True, slots=True)
class _Fold:
    """What one trigger of a class asks in one schedule."""

    any_one: bool
    clocks: frozenset[Clock | None]

    @staticmethod
    def of(asked: _Asked, trigger: Trigger | None) -> _Fold:
        clocks = asked.clocks.get(trigger, frozenset()) if trigger and not asked.open else frozenset()
        return _Fold(asked.any_one or asked.open, clocks)

    @property
    def missing(self) -> date:
        """Where its date is missing: open if it is asked for; under `any` it is ignored, and open if all are."""
        return OPEN if self.any_one or self.clocks else _NOTHING

    def until(self, day: date, as_of: date) -> date:
        if self.any_one:
            return min((one.ends(day) for one in self.clocks if one), default=OPEN)
        return max((one.ends(day) if one else self._gate(day, as_of) for one in self.clocks), default=_NOTHING)

    def _gate(self, day: date, as_of: date) -> date:
        return _NOTHING if day <= as_of else OPEN


# ---------------------------------------------------------------- the statement


@dataclass(frozen=True, slots=True)
class Dates:
    """The dates of some classes under both schedules, as a statement over the catalog."""

    as_of: date
    plans: tuple[Schedule, Schedule]
    keys: Mapping[str, int]  # of the classes
    codes: Mapping[Trigger, int]  # the place of a trigger's date: the dated ones, then the kinds of events
    days: Mapping[int, Sequence[date]] = field(repr=False)  # code -> every day that the catalog has

    def statement(self, only: sql.Composable) -> sql.Composed:
        """`SELECT record_id, class_key, bytes, before, after` of each kept record of the classes; `only` is a
        further condition on `r`, the record."""
        shapes, pairs, slots = self._shapes()
        columns = _shape(slots)
        guarded = [self.keys[name] for name in self.keys if _by_rule(self._sides(name))]
        rules, conditions, replacements, counted = self._rules()
        return _STATEMENT.format(
            shapes=_unnest(shapes, columns),
            names=sql.SQL(", ".join(columns)),
            before=sql.SQL(_until("before", slots)),
            after=sql.SQL(_until("after", slots)),
            joins=sql.SQL(_slots(_JOIN, "\n      ", slots)),
            pairs=_unnest(pairs, _PAIR),
            keys=list(self.keys.values()),
            guarded=guarded,
            rules=_unnest(rules, _RULE),
            conditions=_unnest(conditions, _CONDITION),
            replacements=_unnest(replacements, _REPLACEMENT),
            counted=_unnest(counted, _COUNTED),
            as_of=self.as_of,
            open=OPEN,
            only=only,
        )

    def _sides(self, name: str) -> tuple[_Asked, _Asked]:
        old, new = (_asked(plan.record_class(name), plan, self.as_of) for plan in self.plans)
        return old, new

    def _shapes(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], int]:
        """One row for each class of the main branch; what each of its triggers gives on each day; how many triggers
        a class has at most."""
        shapes: list[tuple[Any, ...]] = []
        numbers: dict[tuple[_Fold, _Fold], int] = {}
        found: defaultdict[tuple[_Fold, _Fold], set[date]] = defaultdict(set)
        plain = {name: sides for name in self.keys if not _by_rule(sides := self._sides(name))}
        triggers = {name: sorted({*old.clocks, *new.clocks}) for name, (old, new) in plain.items()}
        most = max((len(some) for some in triggers.values()), default=0)
        for name, sides in plain.items():
            slots: list[Any] = []
            for trigger in (*triggers[name], *[None] * (most - len(triggers[name]))):
                folds = _Fold.of(sides[0], trigger), _Fold.of(sides[1], trigger)
                code = self.codes.get(trigger) if trigger else None
                if code:
                    found[folds].update(self.days[code])
                pair = numbers.setdefault(folds, len(numbers)) if code else None
                later = (trigger in side.later for side in sides)
                slots += [code, pair, folds[0].missing, folds[1].missing, *later]
            evented = any(trigger.event for trigger in triggers[name])
            shapes.append((self.keys[name], evented, *(side.any_one or side.open for side in sides), *slots))
        pairs = [
            (number, day, folds[0].until(day, self.as_of), folds[1].until(day, self.as_of))
            for folds, number in numbers.items()
            for day in found[folds]
        ]
        return shapes, pairs, most

    def _rules(self) -> tuple[list[tuple[Any, ...]], ...]:
        """Every rule in force of either schedule, its conditions, what replaces it, and its dates."""
        rules: list[tuple[Any, ...]] = []
        conditions: list[tuple[Any, ...]] = []
        replacements: list[tuple[Any, ...]] = []
        found: defaultdict[Clock, set[date]] = defaultdict(set)
        clocks: dict[Clock, int] = {}
        for side, plan in enumerate(self.plans):
            for name, key in self.keys.items():
                known = plan.record_class(name)
                any_one = known is not None and known.combine is Combine.ANY
                in_force = _in_force(known, self.as_of)
                numbers = {rule.id: len(rules) + i for i, rule in enumerate(in_force)}
                for rule in in_force:
                    counting, code = clock(plan, rule), self._code(rule.trigger)
                    number = clocks.setdefault(counting, len(clocks)) if rule.period is not None else None
                    found[counting].update(self.days.get(code or 0, ()))
                    of_class = (numbers[rule.id], side, key, any_one, code, number)
                    bounds = (rule.triggers_from, rule.triggers_until)
                    rules.append((*of_class, self._code(rule.not_before), *bounds, _covered(rule)))
                    conditions += [(numbers[rule.id], *self._condition(one)) for one in rule.when]
                    replacements += [(numbers[other], numbers[rule.id]) for other in rule.replaces if other in numbers]
        counted = [
            (number, day, one.starts(day), one.ends(day)) for one, number in clocks.items() for day in found[one]
        ]
        return rules, conditions, replacements, counted

    def _code(self, trigger: Trigger | None) -> int | None:
        return None if trigger is None else self.codes.get(trigger, 0)

    def _condition(self, one: Condition) -> tuple[Any, ...]:
        how = _COMPARISONS.index(one.comparison)
        return self._code(one.left), how, self._code(one.than), one.plus.months, one.plus.days


def _by_rule(sides: tuple[_Asked, _Asked]) -> bool:
    return any(side.guarded for side in sides) or len({*sides[0].clocks, *sides[1].clocks}) > SLOTS


def prepare(
    conn: Connection,
    old: Schedule,
    new: Schedule,
    as_of: date,
    class_ids: Collection[str],
    records: Sequence[UUID] | None = None,
) -> Dates:
    """The dates of `class_ids`, after a look at which trigger dates the catalog has; of some `records` only, if
    they are given."""
    keys = {name: key for name, key in conn.execute("SELECT class_id, class_key FROM classes") if name in class_ids}
    kinds: dict[str, int] = dict(conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    codes: dict[Trigger, int] = {}
    used: defaultdict[int, list[int]] = defaultdict(list)  # code -> classes
    for name, key in keys.items():
        rules = [rule for plan in (old, new) for rule in _in_force(plan.record_class(name), as_of)]
        for trigger in _triggers(rules):
            if not trigger.event:
                codes[trigger] = DATED.index(trigger.name) + 1
            elif trigger.key in kinds:
                codes[trigger] = kinds[trigger.key] + len(DATED)
            if trigger in codes:
                used[codes[trigger]].append(key)
    days = {code: _days(conn, code, some, records) for code, some in used.items()}
    return Dates(as_of, (old, new), keys, codes, days)


def _triggers(rules: Iterable[Rule]) -> set[Trigger]:
    found: set[Trigger | None] = set()
    for rule in rules:
        found |= {rule.trigger, rule.not_before}
        found |= {side for one in rule.when for side in (one.left, one.than)}
    return {trigger for trigger in found if trigger is not None}


def _days(conn: Connection, code: int, classes: list[int], records: Sequence[UUID] | None) -> list[date]:
    if code <= len(DATED):
        among = sql.SQL("class_key = ANY ({}::smallint[]) OR special").format(classes)  # it may have it as a label
        if records is not None:
            among = sql.SQL("record_id = ANY ({}::uuid[])").format(list(records))
        query = sql.SQL("SELECT DISTINCT {0} FROM records WHERE ({1}) AND {0} IS NOT NULL")
        return [row[0] for row in conn.execute(query.format(sql.Identifier(DATED[code - 1]), among))]
    query = sql.SQL("SELECT DISTINCT dates[{0}] FROM current_triggers WHERE dates[{0}] IS NOT NULL")
    return [row[0] for row in conn.execute(query.format(code - len(DATED)))]


# ---------------------------------------------------------------- columns

_SLOT = {"code": "integer", "pair": "integer", "missing_before": "date", "missing_after": "date",
         "later_before": "boolean", "later_after": "boolean"}  # fmt: skip
_SHAPE = {"class_key": "smallint", "evented": "boolean", "any_before": "boolean", "any_after": "boolean"}
_PAIR = {"pair": "integer", "day": "date", "before": "date", "after": "date"}
_RULE = {"rule_no": "integer", "side": "integer", "class_key": "smallint", "any_one": "boolean", "code": "integer",
         "clock": "integer", "gate": "integer", "first": "date", "last": "date", "covered": "boolean"}  # fmt: skip
_CONDITION = {"rule_no": "integer", "a": "integer", "how": "integer", "b": "integer", "months": "integer",
              "days": "integer"}  # fmt: skip
_REPLACEMENT = {"rule_no": "integer", "by_no": "integer"}
_COUNTED = {"clock": "integer", "day": "date", "starts": "date", "ends": "date"}


def _unnest(rows: Sequence[tuple[Any, ...]], columns: Mapping[str, str]) -> sql.Composed:
    """Rows as arrays within the statement: parallel workers may read them, and not a temporary table."""
    arrays = (
        sql.SQL("{}::{}[]").format("{" + ",".join(_text(row[i]) for row in rows) + "}", sql.SQL(kind))
        for i, kind in enumerate(columns.values())
    )
    return sql.SQL("unnest({})").format(sql.SQL(", ").join(arrays))


def _text(value: bool | int | date | None) -> str:
    if isinstance(value, date):
        return value.isoformat()
    return "NULL" if value is None else str(value)


def _shape(slots: int) -> dict[str, str]:
    return _SHAPE | {f"{name}{slot}": kind for slot in range(slots) for name, kind in _SLOT.items()}


def _slots(text: str, between: str, slots: int) -> str:
    return between.join(text.replace("#", str(slot)) for slot in range(slots))


_DAY = (
    "CASE l.code# WHEN 1 THEN r.received WHEN 2 THEN r.document_date WHEN 3 THEN r.modified WHEN 4 THEN r.tagged "
    f"ELSE s.dates[l.code# - {len(DATED)}] END"
)
_JOIN = f"LEFT JOIN pairs w# ON w#.pair = l.pair# AND w#.day = {_DAY}"


def _until(side: str, slots: int) -> str:
    one = (
        f"CASE WHEN w#.pair IS NULL OR (l.later_{side}# AND r.document_date > w#.day) THEN l.missing_{side}# "
        f"ELSE w#.{side} END"
    )
    found = _slots(one, ", ", slots)
    if not found:  # no class has a rule that ends
        return f"date '{OPEN}' AS {side}"
    return f"CASE WHEN l.any_{side} THEN least({found}) ELSE greatest({found}) END AS {side}"


_STATEMENT = sql.SQL("""
WITH pairs AS NOT MATERIALIZED (
    SELECT * FROM {pairs} AS p (pair, day, before, after)
), main AS (
    SELECT r.record_id, r.class_key, r.bytes, {before}, {after}
      FROM records r
      JOIN {shapes} AS l ({names}) ON l.class_key = r.class_key
      LEFT JOIN current_triggers s ON s.subject_id = r.aggregation_id AND l.evented
      {joins}
     WHERE r.state = 1 AND NOT r.special AND {only}
), rules AS MATERIALIZED (
    SELECT * FROM {rules} AS u (rule_no, side, class_key, any_one, code, clock, gate, first, last, covered)
), conditions AS MATERIALIZED (
    SELECT * FROM {conditions} AS w (rule_no, a, how, b, months, days)
), replacements AS MATERIALIZED (
    SELECT * FROM {replacements} AS p (rule_no, by_no)
), counted AS MATERIALIZED (
    SELECT * FROM {counted} AS c (clock, day, starts, ends)
), facts AS MATERIALIZED (
    SELECT r.record_id, r.class_key, r.bytes, r.special, r.document_date,
           ARRAY[r.received, r.document_date, r.modified, r.tagged] AS dates,
           CASE WHEN r.special
                THEN (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.record_id) END AS own,
           (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.aggregation_id) AS whole,
           (SELECT range_agg(daterange(u.starts, coalesce(u.ends, {as_of}::date), '[]')) FROM suspensions u
             WHERE r.special AND u.subject_id IN (r.record_id, r.aggregation_id) AND u.starts <= {as_of}::date) AS spans
      FROM records r
     WHERE r.state = 1 AND r.class_key = ANY ({keys}::smallint[])
       AND (r.special OR r.class_key = ANY ({guarded}::smallint[])) AND {only}
), merged AS MATERIALIZED (
    SELECT f.*, f.dates || CASE
             WHEN own IS NULL THEN whole
             WHEN whole IS NULL THEN own
             ELSE ARRAY(SELECT CASE WHEN k.kind LIKE '%:first' THEN least(own[i], whole[i])
                                    ELSE greatest(own[i], whole[i]) END
                          FROM generate_series(1, greatest(cardinality(own), cardinality(whole))) AS i
                          LEFT JOIN trigger_kinds k ON k.ordinal = i ORDER BY i) END AS found
      FROM facts f
), memberships AS (
    SELECT f.*, f.class_key AS of_class FROM merged f
    UNION ALL
    SELECT f.*, m.class_key FROM merged f JOIN record_labels m USING (record_id) WHERE f.special
), judged AS MATERIALIZED (
    SELECT f.record_id, f.of_class, v.side, u.rule_no, u.any_one,
           coalesce(f.found[u.code] < u.first OR f.found[u.code] > u.last, false) AS outside,
           u.first IS NOT NULL OR u.last IS NOT NULL AS ranged, f.found[u.code] AS day,
           CASE WHEN c.ends IS NULL OR f.spans @> {as_of}::date
                  OR (u.gate IS NOT NULL AND NOT coalesce(f.found[u.gate] <= {as_of}::date, false))
                  OR (NOT u.covered AND f.document_date > c.day
                      AND f.own[u.code - cardinality(f.dates)] IS DISTINCT FROM c.day)
                THEN {open}::date
                ELSE least({open}::date, c.ends + coalesce((
                       SELECT sum(upper(span) - lower(span))::integer FROM unnest(f.spans * datemultirange(
                         daterange(least(c.starts, {as_of}::date), {as_of}::date, '(]'))) AS span), 0)) END AS until,
           (SELECT CASE WHEN bool_or(NOT x.yes) THEN false WHEN bool_or(x.yes IS NULL) THEN NULL ELSE true END
              FROM (SELECT CASE w.how
                             WHEN 0 THEN f.found[w.a] IS NOT NULL
                             WHEN 1 THEN f.found[w.a] < shifted
                             WHEN 2 THEN f.found[w.a] <= shifted
                             WHEN 3 THEN f.found[w.a] > shifted
                             ELSE f.found[w.a] >= shifted END AS yes
                      FROM conditions w,
                           LATERAL (SELECT (f.found[w.b] + make_interval(months => w.months, days => w.days))::date)
                                   AS moved (shifted)
                     WHERE w.rule_no = u.rule_no) AS x) AS applies
      FROM memberships f CROSS JOIN (VALUES (0), (1)) AS v (side)
      LEFT JOIN rules u ON u.class_key = f.of_class AND u.side = v.side
      LEFT JOIN counted c ON c.clock = u.clock AND c.day = f.found[u.code]
), beside AS (
    SELECT j.*, array_agg(j.rule_no) FILTER (WHERE j.applies AND NOT j.outside AND NOT (j.ranged AND j.day IS NULL))
                  OVER (PARTITION BY j.record_id, j.of_class, j.side) AS certain
      FROM judged j
), live AS (
    SELECT b.*, b.rule_no IS NOT NULL AND NOT b.outside AND b.applies IS NOT FALSE
                AND NOT (b.any_one AND b.applies IS NULL)
                AND NOT EXISTS (SELECT FROM replacements p WHERE p.rule_no = b.rule_no AND p.by_no = ANY (b.certain))
                AS counts
      FROM beside b
), per_class AS (
    SELECT record_id, side,
           coalesce(CASE WHEN bool_or(any_one) THEN min(until) FILTER (WHERE counts)
                         ELSE max(until) FILTER (WHERE counts) END, {open}) AS until
      FROM live GROUP BY record_id, side, of_class
), second AS (
    SELECT f.record_id, f.class_key, f.bytes, p.before, p.after
      FROM (SELECT record_id, max(until) FILTER (WHERE side = 0) AS before, max(until) FILTER (WHERE side = 1) AS after
              FROM per_class GROUP BY record_id) AS p
      JOIN facts f USING (record_id)
), extended AS MATERIALIZED (
    SELECT DISTINCT ON (e.record_id) e.record_id, least(e.not_before, {open}::date) AS not_before FROM extensions e
     ORDER BY e.record_id, e.recorded_at DESC
)
SELECT d.record_id, d.class_key, d.bytes,
       CASE x.not_before WHEN {open} THEN {open} ELSE greatest(d.before, x.not_before - 1) END AS before,
       CASE x.not_before WHEN {open} THEN {open} ELSE greatest(d.after, x.not_before - 1) END AS after
  FROM (SELECT * FROM main UNION ALL SELECT * FROM second) AS d
  LEFT JOIN extended x ON x.record_id = d.record_id AND x.not_before > {as_of}::date
""")
