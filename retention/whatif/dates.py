"""Until when records are kept under two schedules: set by set, for a what-if.

Rules of this module:
- The calendar is the engine's. For each trigger date that the catalog has, and each way of counting, the date is
  computed once in Python and joined: ten million records have some thousands of days.
- One scan decides what the rules say of records of one class whose rules apply to every record (the main branch
  of `retention.eligibility`); special records and guarded classes are taken rule by rule. Both give the date that
  `engine.decide` gives (tests/integration/test_whatif.py): of several rules the latest under `all`, the earliest
  under `any`; of several classes the latest, and a reviewer's extension beside them.
- The two are parts of their own: the first is reckoned and counted by parallel workers, and no row of it waits.
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

from retention.database import Connection
from retention.eligibility import APPLIES, COMPARISONS
from retention.rules import (
    DATED,
    Combine,
    Condition,
    LaterRecords,
    RecordClass,
    Rule,
    Schedule,
    Trigger,
)
from retention.schedule.comparison import Clock, clock

OPEN = date.max
SLOTS = 3  # triggers of a class in the main branch; a class with more is taken rule by rule

_NOTHING = date.min  # what is not asked for, under `all`


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


# ---------------------------------------------------------------- the statement


@dataclass(frozen=True, slots=True)
class Dates:
    """The dates of some classes under both schedules, as a statement over the catalog."""

    pieces: Mapping[str, sql.Composable] = field(repr=False)

    def parts(self, only: sql.Composable) -> list[sql.Composed]:
        """Statements that share no record: `SELECT record_id, class_key, bytes, before, after` of each kept record of
        the classes. `only` is a further condition on `r`, the record."""
        return [part.format(**self.pieces, only=only) for part in (_PLAIN, _BY_RULE)]


@dataclass(frozen=True, slots=True)
class _Making:
    """What the statement is made of."""

    as_of: date
    plans: tuple[Schedule, Schedule]
    keys: Mapping[str, int]  # of the classes
    codes: Mapping[Trigger, int]  # the place of a trigger's date: the dated ones, then the kinds of events
    days: Mapping[int, Sequence[date]]  # code -> every day that the catalog has, in order
    reckoned: dict[Clock, dict[date, tuple[date, date]]] = field(default_factory=dict)

    def pieces(self) -> dict[str, sql.Composable]:
        shapes, values, slots = self._shapes()
        columns = _shape(slots)
        rules, conditions, replacements, counted = self._rules()
        guarded = [self.keys[name] for name in self.keys if _by_rule(self._sides(name))]
        arrays = {"before": [before for before, _ in values], "after": [after for _, after in values]}
        constants = [
            *(sql.SQL("{}::date[] AS {}").format(_array(some), sql.Identifier(name)) for name, some in arrays.items()),
            *(
                sql.SQL("{}::integer[] AS {}").format(_places(days), sql.Identifier(f"places{code}"))
                for code, days in self.days.items()
            ),
        ]
        return {
            "constants": sql.SQL(", ").join(constants),
            "shapes": _unnest(shapes, columns),
            "names": sql.SQL(", ".join(columns)),
            "before": self._until("before", slots),
            "after": self._until("after", slots),
            "keys": sql.Literal(list(self.keys.values())),
            "guarded": sql.Literal(guarded),
            "rules": _unnest(rules, _RULE),
            "conditions": _unnest(conditions, _CONDITION),
            "replacements": _unnest(replacements, _REPLACEMENT),
            "counted": _unnest(counted, _COUNTED),
            "suspended": _SUSPENDED.format(as_of=self.as_of),
            "certain": sql.SQL(_CERTAIN if replacements else _NONE),
            "applies": sql.SQL(APPLIES),
            "as_of": sql.Literal(self.as_of),
            "open": sql.Literal(OPEN),
            "extended": _EXTENDED.format(as_of=self.as_of, open=OPEN),
        }

    def _until(self, side: str, slots: int) -> sql.Composable:
        """The date of record `r` of a class `l`. What each trigger gives is looked up in an array, at the place of its
        day among the days of its code: a join would have the planner hash, or sort, all records."""
        if not slots:  # no class has a rule that ends
            return sql.Literal(OPEN)
        found = []
        for slot in range(slots):
            dated = {code: _DAY.get(code, f"s.dates[{code - len(DATED)}]") for code in self.days}
            cases = " ".join(f"WHEN {code} THEN {day}" for code, day in dated.items())
            places = " ".join(
                f"WHEN {code} THEN k.places{code}[{day} - date '{_first(self.days[code])}' + 1]"
                for code, day in dated.items()
            )
            found.append(
                f"CASE WHEN l.code{slot} IS NULL OR (CASE l.code{slot} {cases} END) IS NULL "
                f"OR (l.later_{side}{slot} AND r.document_date > (CASE l.code{slot} {cases} END)) "
                f"THEN l.missing_{side}{slot} "
                f"ELSE k.{side}[l.first{slot} + (CASE l.code{slot} {places} END)] END"
            )
        both = ", ".join(found)
        return sql.SQL(f"CASE WHEN l.any_{side} THEN least({both}) ELSE greatest({both}) END")

    def _reckon(self, one: Clock, days: Iterable[date]) -> dict[date, tuple[date, date]]:
        """From where a clock counts and until when, for each of these days; each is reckoned once."""
        known = self.reckoned.setdefault(one, {})
        for day in days:
            if day not in known:
                known[day] = one.starts(day), one.ends(day)
        return known

    def _folded(self, fold: _Fold, code: int) -> list[date]:
        """What a fold gives on each day of a code."""
        days = self.days[code]
        tables = [self._reckon(one, days) for one in fold.clocks if one is not None]
        if fold.any_one:
            return [min((table[day][1] for table in tables), default=OPEN) for day in days]
        gate = None in fold.clocks
        closed = (OPEN if gate and day > self.as_of else _NOTHING for day in days)
        return [max((shut, *(table[day][1] for table in tables))) for day, shut in zip(days, closed, strict=True)]

    def _sides(self, name: str) -> tuple[_Asked, _Asked]:
        old, new = (_asked(plan.record_class(name), plan, self.as_of) for plan in self.plans)
        return old, new

    def _shapes(self) -> tuple[list[tuple[Any, ...]], list[tuple[date, date]], int]:
        """One row for each class of the main branch; what its triggers give on each day of their codes, end to end;
        how many triggers a class has at most."""
        shapes: list[tuple[Any, ...]] = []
        values: list[tuple[date, date]] = []
        offsets: dict[tuple[int, _Fold, _Fold], int] = {}
        plain = {name: sides for name in self.keys if not _by_rule(sides := self._sides(name))}
        triggers = {name: sorted({*old.clocks, *new.clocks}) for name, (old, new) in plain.items()}
        most = max((len(some) for some in triggers.values()), default=0)
        for name, sides in plain.items():
            slots: list[Any] = []
            for trigger in (*triggers[name], *[None] * (most - len(triggers[name]))):
                before, after = _Fold.of(sides[0], trigger), _Fold.of(sides[1], trigger)
                code = self.codes.get(trigger) if trigger else None
                if code and (code, before, after) not in offsets:
                    offsets[code, before, after] = len(values)
                    values += zip(self._folded(before, code), self._folded(after, code), strict=True)
                place = offsets[code, before, after] if code else None
                later = (trigger in side.later for side in sides)
                slots += [code, place, before.missing, after.missing, *later]
            evented = any(trigger.event for trigger in triggers[name])
            shapes.append((self.keys[name], evented, *(side.any_one or side.open for side in sides), *slots))
        return shapes, values, most

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
                    rules.append((*of_class, self._code(rule.not_before), *bounds, _covered(rule), bool(rule.when)))
                    conditions += [(numbers[rule.id], *self._condition(one)) for one in rule.when]
                    replacements += [(numbers[other], numbers[rule.id]) for other in rule.replaces if other in numbers]
        counted = [
            (number, day, *table[day])
            for one, number in clocks.items()
            for table in (self._reckon(one, found[one]),)
            for day in found[one]
        ]
        return rules, conditions, replacements, counted

    def _code(self, trigger: Trigger | None) -> int | None:
        return None if trigger is None else self.codes.get(trigger, 0)

    def _condition(self, one: Condition) -> tuple[Any, ...]:
        how = COMPARISONS.index(one.comparison or "present")
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
    for name in keys:
        rules = [rule for plan in (old, new) for rule in _in_force(plan.record_class(name), as_of)]
        for trigger in _triggers(rules):
            if not trigger.event:
                codes[trigger] = DATED.index(trigger.name) + 1
            elif trigger.key in kinds:
                codes[trigger] = kinds[trigger.key] + len(DATED)
    return Dates(_Making(as_of, (old, new), keys, codes, _days(conn, set(codes.values()), records)).pieces())


def _triggers(rules: Iterable[Rule]) -> set[Trigger]:
    found: set[Trigger | None] = set()
    for rule in rules:
        found |= {rule.trigger, rule.not_before}
        found |= {side for one in rule.when for side in (one.left, one.than)}
    return {trigger for trigger in found if trigger is not None}


_EVERY_DAY = 150_000  # days; a catalog whose dates lie further apart is asked which it has


def _days(conn: Connection, codes: Iterable[int], records: Sequence[UUID] | None) -> dict[int, Sequence[date]]:
    """Days of each code, in order, among them all that a record has: every day between the first and the last, which
    one look at the tables gives. Where these are too many, those that there are, each code by itself."""
    among: sql.Composable = sql.SQL("true")
    if records is not None:
        among = sql.SQL("record_id = ANY ({}::uuid[])").format(list(records))
    wanted = sorted(codes)
    found: dict[int, Sequence[date]] = {}
    for table, some, where in (
        ("records", [code for code in wanted if code <= len(DATED)], among),
        ("current_triggers", [code for code in wanted if code > len(DATED)], sql.SQL("true")),
    ):
        source = sql.SQL("{} WHERE {}").format(sql.Identifier(table), where)
        asked = [sql.SQL("min({0}), max({0})").format(_column(code)) for code in some]
        bounds = conn.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(asked), source)).fetchone() or ()
        for code, first, last in zip(some, bounds[::2], bounds[1::2], strict=True):
            if first is None:
                found[code] = []
            elif (last - first).days < _EVERY_DAY:
                found[code] = [date.fromordinal(day) for day in range(first.toordinal(), last.toordinal() + 1)]
            else:
                distinct = sql.SQL("SELECT DISTINCT {0} FROM {1} AND {0} IS NOT NULL ORDER BY 1")
                found[code] = [row[0] for row in conn.execute(distinct.format(_column(code), source))]
    return found


def _column(code: int) -> sql.Composed:
    if code <= len(DATED):
        return sql.SQL("{}").format(sql.Identifier(DATED[code - 1]))
    return sql.SQL("dates[{}]").format(code - len(DATED))


# ---------------------------------------------------------------- columns

_SLOT = {"code": "integer", "first": "integer", "missing_before": "date", "missing_after": "date",
         "later_before": "boolean", "later_after": "boolean"}  # fmt: skip
_SHAPE = {"class_key": "smallint", "evented": "boolean", "any_before": "boolean", "any_after": "boolean"}
_RULE = {"rule_no": "integer", "side": "integer", "class_key": "smallint", "any_one": "boolean", "code": "integer",
         "clock": "integer", "gate": "integer", "first": "date", "last": "date", "covered": "boolean",
         "conditional": "boolean"}  # fmt: skip
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


def _first(days: Sequence[date]) -> date:
    return days[0] if days else date.min  # of no days none is asked for


def _places(days: Sequence[date]) -> sql.Literal:
    """For each day from the first to the last its place among the days; 0 where the catalog has none: an array of
    all days finds one in a step, where a search among the days takes a dozen."""
    found = [0] * ((days[-1] - days[0]).days + 1 if days else 0)
    for place, day in enumerate(days, 1):
        found[(day - days[0]).days] = place
    return sql.Literal("{" + ",".join(map(str, found)) + "}")


def _array(days: Sequence[date]) -> sql.Literal:
    return sql.Literal("{" + ",".join(day.isoformat() for day in days) + "}")


_DAY = {number: f"r.{name}" for number, name in enumerate(DATED, 1)}

# A reviewer's extension in force of record `d`, as `x`, and the dates with it.
_EXTENDED = sql.SQL("""
SELECT d.record_id, d.class_key, d.bytes,
       CASE x.not_before WHEN {open} THEN {open} ELSE greatest(d.before, x.not_before - 1) END AS before,
       CASE x.not_before WHEN {open} THEN {open} ELSE greatest(d.after, x.not_before - 1) END AS after
  FROM found d
  LEFT JOIN (SELECT DISTINCT ON (e.record_id) e.record_id, least(e.not_before, {open}::date) AS not_before
               FROM extensions e ORDER BY e.record_id, e.recorded_at DESC) AS x
    ON x.record_id = d.record_id AND x.not_before > {as_of}::date
""")

# Without the OFFSET the dates would be looked up anew wherever a caller compares them.
_PLAIN = sql.SQL("""
WITH found AS (
    SELECT r.record_id, r.class_key, r.bytes, {before} AS before, {after} AS after
      FROM (SELECT {constants}) AS k CROSS JOIN records r
      JOIN {shapes} AS l ({names}) ON l.class_key = r.class_key
      LEFT JOIN current_triggers s ON s.subject_id = CASE WHEN l.evented THEN r.aggregation_id END
     WHERE r.state = 1 AND NOT r.special AND {only}
    OFFSET 0
)
{extended}""")

_CERTAIN = """array_agg(j.rule_no) FILTER (WHERE j.applies AND NOT j.outside AND NOT (j.ranged AND j.day IS NULL))
                  OVER (PARTITION BY j.record_id, j.of_class, j.side)"""
_NONE = "NULL::integer[]"  # where nothing replaces a rule, nobody asks

_SUSPENDED = sql.SQL("""
SELECT subject_id, range_agg(daterange(starts, coalesce(ends, {as_of}::date), '[]')) AS spans
  FROM suspensions WHERE starts <= {as_of}::date GROUP BY subject_id""")

_BY_RULE = sql.SQL("""
WITH rules AS MATERIALIZED (
    SELECT * FROM {rules}
           AS u (rule_no, side, class_key, any_one, code, clock, gate, first, last, covered, conditional)
), conditions AS MATERIALIZED (
    SELECT * FROM {conditions} AS w (rule_no, a, how, b, months, days)
), replacements AS MATERIALIZED (
    SELECT * FROM {replacements} AS p (rule_no, by_no)
), counted AS MATERIALIZED (
    SELECT * FROM {counted} AS c (clock, day, starts, ends)
), facts AS MATERIALIZED (
    SELECT r.record_id, r.class_key, r.bytes, r.special, r.document_date,
           ARRAY[r.received, r.document_date, r.modified, r.tagged] AS dates,
           o.dates AS own, w.dates AS whole, coalesce(a.spans + b.spans, a.spans, b.spans) AS spans
      FROM records r
      LEFT JOIN current_triggers o ON o.subject_id = CASE WHEN r.special THEN r.record_id END
      LEFT JOIN current_triggers w ON w.subject_id = r.aggregation_id
      LEFT JOIN ({suspended}) AS a ON a.subject_id = CASE WHEN r.special THEN r.record_id END
      LEFT JOIN ({suspended}) AS b ON b.subject_id = CASE WHEN r.special THEN r.aggregation_id END
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
                WHEN f.spans IS NULL THEN least({open}::date, c.ends)
                ELSE least({open}::date, c.ends + coalesce((
                       SELECT sum(upper(span) - lower(span))::integer FROM unnest(f.spans * datemultirange(
                         daterange(least(c.starts, {as_of}::date), {as_of}::date, '(]'))) AS span), 0)) END AS until,
           {applies} AS applies
      FROM memberships f CROSS JOIN (VALUES (0), (1)) AS v (side)
      LEFT JOIN rules u ON u.class_key = f.of_class AND u.side = v.side
      LEFT JOIN counted c ON c.clock = u.clock AND c.day = f.found[u.code]
), beside AS (
    SELECT j.*, {certain} AS certain
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
), found AS (
    SELECT f.record_id, f.class_key, f.bytes, p.before, p.after
      FROM (SELECT record_id, max(until) FILTER (WHERE side = 0) AS before, max(until) FILTER (WHERE side = 1) AS after
              FROM per_class GROUP BY record_id) AS p
      JOIN facts f USING (record_id)
)
{extended}""")
