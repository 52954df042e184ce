"""What is due, over all records at once: the limits of the engine joined with the catalog in one statement.

Rules of this module (layer: just above `catalog`; it reads, and writes nothing):
- The calendar is the engine's. Trigger dates are compared with limits that `retention.engine` computed. Two
  exceptions, tested against the engine over every day of four centuries: `plus` of a condition, and the cutoff and
  period of a rule for a suspended record, whose days count from its own cutoff.
- One scan of `records` against one row of limits for each class and one row of current triggers for each subject
  decides all records of one class whose rules apply to every record: the main branch.
- What the scan cannot rule out of special records (labels, suspensions, events of their own) and of classes with
  guarded rules takes the second branch: rule by rule, as `engine.decide` does it. Both answer exactly as `decide`
  (tests/integration/test_eligibility.py).
- A missing date satisfies no limit. Held, suspended and extended records are taken out by anti-joins.
- Units (rule 8) are looked at last, among what is left, and only where the catalog has children or the schedule a
  class that goes by aggregation: a unit with one kept member that is not due is not due.
- Whoever writes a suspension, an event on a record or a label marks the records special.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from psycopg import sql

from retention import engine
from retention.database import Connection
from retention.engine import ClassLimits, GuardedLimit
from retention.rules import DATED, Action, Combine, Condition, CutoffUnit, LaterRecords, Schedule, Trigger, Unit

SLOTS = 3  # event limits of a class in the main branch; a class with more takes the second

_CUTOFFS = tuple(CutoffUnit)  # by their number in the statement

# The states of a condition's comparison, by their number in the statement; 0 asks for presence.
COMPARISONS = ("present", "before", "on_or_before", "after", "on_or_after")


@dataclass(frozen=True, slots=True)
class DueClass:
    """What of one class is due."""

    class_id: str
    action: Action
    records: int
    bytes: int
    unverified: tuple[str, ...]  # rules that propose and never execute


@dataclass(frozen=True, slots=True)
class DueRecord:
    """One record that is due. Records of one unit go together: all of them, or none."""

    record_id: UUID
    class_id: str
    bytes: int
    unit_id: UUID  # the aggregation where a class asks for it, else the parent of all, else the record itself


def due(conn: Connection, schedule: Schedule, as_of: date) -> list[DueClass]:
    """Per class, how many records and bytes are due on `as_of` and not held; in the order of the schedule."""
    rows = {row.class_id: row for row in engine.limits(schedule, as_of)}
    _let_workers_help(conn)
    counted = conn.execute(
        statement(conn, schedule, as_of)
        + sql.SQL("SELECT c.class_id, d.records, d.bytes FROM classes c JOIN (SELECT class_key, count(*) AS records, ")
        + sql.SQL("sum(bytes)::bigint AS bytes FROM due GROUP BY class_key) AS d USING (class_key)")
    )
    found = {class_id: (records, size) for class_id, records, size in counted}
    return [
        DueClass(class_id, row.action, *found[class_id], row.unverified)
        for class_id, row in rows.items()
        if class_id in found
    ]


def due_records(
    conn: Connection, schedule: Schedule, as_of: date, only: Sequence[UUID] | None = None
) -> Iterator[DueRecord]:
    """Every record that is due on `as_of` and not held, streamed, by class and id. Needs a transaction.

    `only`: of these records; what else belongs to their units is looked at too."""
    _let_workers_help(conn)
    query = statement(conn, schedule, as_of, only) + sql.SQL(
        "SELECT d.record_id, c.class_id, d.bytes, d.unit_id FROM due d JOIN classes c USING (class_key) ORDER BY 2, 1"
    )
    with conn.cursor(name="due_records") as cursor:
        cursor.itersize = 10_000
        for row in cursor.execute(query):
            yield DueRecord(*row)


def _let_workers_help(conn: Connection) -> None:
    """The planner takes most of the table for due, and then thinks that workers would only hand rows over. Half a
    million rows that are due fit into memory: 64 MB. The leader takes what the workers hand over, and does not scan
    beside them: with two workers on two cores that is 7 % faster."""
    conn.execute("SET LOCAL parallel_tuple_cost = 0.001")
    conn.execute("SET LOCAL parallel_leader_participation = off")
    conn.execute("SET LOCAL work_mem = '64MB'")


def statement(conn: Connection, schedule: Schedule, as_of: date, only: Sequence[UUID] | None = None) -> sql.Composed:
    """`WITH … due AS (record_id, class_key, bytes, unit_id)`, to which a caller adds what to select from `due`.

    `only`: of these records; what else belongs to their units is looked at too."""
    classes: dict[str, int] = dict(conn.execute("SELECT class_id, class_key FROM classes").fetchall())
    kinds: dict[str, int] = dict(conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    rows = [row for row in engine.limits(schedule, as_of) if row.class_id in classes]
    scanned: sql.Composable = sql.SQL("")
    asked: sql.Composable = sql.SQL("")
    if only is not None:
        among = sql.SQL("r.record_id = ANY ({}::uuid[])")
        scanned = sql.SQL("AND ") + among.format(unit_members(conn, schedule, only))
        asked = sql.SQL("AND ") + among.format(list(only))
    units = _Units.of(conn, schedule)
    tail = (_UNITS if units else _SINGLY).format(asked=asked, whole=units.whole if units else sql.SQL("false"))
    return (
        _DUE.format(
            **_folded(rows, classes, kinds),
            **_by_rule(schedule, as_of, classes, kinds),
            certain=sql.SQL(_CERTAIN if any(rule.replaces for c in schedule.classes for rule in c.rules) else _NONE),
            reached=_reached(rows, kinds),
            counted=_COUNTED.format(as_of=as_of, cutoff=_CUTOFF),
            dated=len(DATED),
            firsts=_firsts(kinds),
            applies=sql.SQL(APPLIES),
            as_of=as_of,
            only=scanned,
            dated_limits=_dated_limits(rows, classes),
            parent=sql.SQL("r.parent_id" if units else "NULL::uuid"),
        )
        + tail
    )


# ---------------------------------------------------------------- units


@dataclass(frozen=True, slots=True)
class _Units:
    """What makes records go together in this catalog, under this schedule."""

    keys: list[int]  # classes that go by aggregation

    @staticmethod
    def of(conn: Connection, schedule: Schedule) -> _Units | None:
        """None where every record stands alone."""
        by_aggregation = [known.id for known in schedule.classes if known.unit is Unit.AGGREGATION]
        keys, kin = conn.execute(
            "SELECT ARRAY(SELECT class_key FROM classes WHERE class_id = ANY(%s)), "
            "EXISTS (SELECT FROM records WHERE parent_id IS NOT NULL)",
            (by_aggregation,),
        ).fetchone() or ([], False)
        return _Units(keys) if keys or kin else None

    @property
    def whole(self) -> sql.Composed:
        """Of record `r`: whether it goes with its aggregation. A label asks for it as well as a class."""
        return sql.SQL(
            "(r.class_key = ANY ({keys}::smallint[]) OR (r.special AND EXISTS (SELECT FROM record_labels x "
            "WHERE x.record_id = r.record_id AND x.class_key = ANY ({keys}::smallint[]))))"
        ).format(keys=self.keys)


def unit_statement(conn: Connection, schedule: Schedule, eligible: sql.Composed) -> sql.Composed | None:
    """`WITH … due AS (record_id, class_key, bytes, unit_id)` of records that are eligible alone, a statement over the
    columns of `records`; None where every record stands alone."""
    units = _Units.of(conn, schedule)
    if units is None:
        return None
    head = sql.SQL("WITH RECURSIVE eligible AS MATERIALIZED ({})").format(eligible)
    return head + _UNITS.format(asked=sql.SQL(""), whole=units.whole)


def unit_members(conn: Connection, schedule: Schedule, records: Sequence[UUID], *, waiting: bool = False) -> list[UUID]:
    """The records themselves, and all kept ones without which they do not go: parents and children, and the
    aggregation of what goes by aggregation. With `waiting`, all that does not go without them, and more."""
    units = _Units.of(conn, schedule)
    if units is None:
        return list(records)
    reached = _REACHED.format(records=list(records), whole=sql.SQL("true") if waiting and units.keys else units.whole)
    return [row[0] for row in conn.execute(reached)]


# From record to kin, from record to aggregation and from aggregation to members, each node once.
_REACHED = sql.SQL("""
WITH RECURSIVE reached (aggregate, id) AS (
    SELECT false, unnest({records}::uuid[])
    UNION
    SELECT n.aggregate, n.id FROM reached u CROSS JOIN LATERAL (
        SELECT false, r.parent_id FROM records r
         WHERE NOT u.aggregate AND r.record_id = u.id AND r.parent_id IS NOT NULL
        UNION ALL
        SELECT false, r.record_id FROM records r WHERE NOT u.aggregate AND r.parent_id = u.id
        UNION ALL
        SELECT true, r.aggregation_id FROM records r
         WHERE NOT u.aggregate AND r.record_id = u.id AND r.aggregation_id IS NOT NULL AND {whole}
        UNION ALL
        SELECT false, r.record_id FROM records r WHERE u.aggregate AND r.aggregation_id = u.id AND r.state = 1
    ) AS n (aggregate, id)
)
SELECT r.record_id FROM reached u JOIN records r ON r.record_id = u.id
 WHERE NOT u.aggregate AND (r.state = 1 OR r.record_id = ANY ({records}::uuid[]))
""")

_SINGLY = sql.SQL(""", due AS (
    SELECT r.record_id, r.class_key, r.bytes, r.record_id AS unit_id FROM eligible r WHERE true {asked}
)
""")

# A family is a parent with all below it, under the id of the first; only those with an eligible record are looked
# at. What one blocked record blocks: its family, every aggregation with a record of the family, and every family
# with a record that goes with such an aggregation.
_UNITS = sql.SQL(""", climbed (id) AS (
    SELECT e.record_id FROM eligible e
     WHERE e.parent_id IS NOT NULL OR e.record_id IN (SELECT c.parent_id FROM records c WHERE c.parent_id IS NOT NULL)
    UNION
    SELECT p.parent_id FROM climbed c JOIN records p ON p.record_id = c.id WHERE p.parent_id IS NOT NULL
), kin (record_id, root) AS (
    SELECT p.record_id, p.record_id FROM climbed c JOIN records p ON p.record_id = c.id WHERE p.parent_id IS NULL
    UNION ALL
    SELECT c.record_id, k.root FROM kin k JOIN records c ON c.parent_id = k.record_id
), going_whole AS MATERIALIZED (
    SELECT DISTINCT r.aggregation_id FROM eligible r WHERE r.aggregation_id IS NOT NULL AND {whole}
), members AS MATERIALIZED (
    SELECT r.record_id, coalesce(k.root, r.record_id) AS root, g.aggregation_id, {whole} AS whole,
           e.record_id IS NOT NULL AS is_eligible
      FROM (SELECT record_id FROM kin
            UNION SELECT w.record_id FROM going_whole JOIN records w USING (aggregation_id)) AS u
      JOIN records r USING (record_id)
      LEFT JOIN kin k USING (record_id)
      LEFT JOIN going_whole g ON g.aggregation_id = r.aggregation_id
      LEFT JOIN eligible e USING (record_id)
     WHERE r.state = 1
), blocked (node) AS (
    SELECT root FROM members WHERE NOT is_eligible
    UNION
    SELECT n.node FROM blocked b CROSS JOIN LATERAL (
        SELECT m.aggregation_id FROM members m WHERE m.root = b.node AND m.aggregation_id IS NOT NULL
        UNION ALL
        SELECT m.root FROM members m WHERE m.aggregation_id = b.node AND m.whole
    ) AS n (node)
), due AS (
    SELECT r.record_id, r.class_key, r.bytes, coalesce(u.aggregation_id, m.root, r.record_id) AS unit_id
      FROM eligible r
      LEFT JOIN members m USING (record_id)
      LEFT JOIN (SELECT root, min(aggregation_id::text)::uuid AS aggregation_id FROM members WHERE whole GROUP BY root)
             AS u USING (root)
     WHERE NOT EXISTS (SELECT FROM blocked b WHERE b.node = m.root) {asked}
)
""")


# ---------------------------------------------------------------- limits, as columns


_MAY_MISS = "coalesce({}, 'infinity') <= ({}::date[])[r.class_key]"  # every record was received some day


def _dated_limits(rows: list[ClassLimits], classes: Mapping[str, int]) -> sql.Composable:
    """What dates of a record its class asks for, under `all`: an array of limits by class key, which rules out most
    records before anything is joined. A class that never makes due has -infinity. Where events are asked for, a
    record without an aggregation has none, unless it is special."""
    tests: list[sql.Composable] = []
    for name in DATED:
        limits = ["-infinity"] * max(classes.values(), default=0)
        for row in rows:
            asked = row.combine is Combine.ALL and name in row.dated
            limits[classes[row.class_id] - 1] = _limit(row.dated[name]) if asked else "infinity"
        if {"infinity"} != {limits[classes[row.class_id] - 1] for row in rows} or name == "received":
            test = sql.SQL("{} <= ({}::date[])[r.class_key]" if name == "received" else _MAY_MISS)
            tests.append(test.format(sql.Identifier("r", name), limits))
    alone = [True] * max(classes.values(), default=0)
    for row in rows:
        alone[classes[row.class_id] - 1] = row.combine is Combine.ANY or bool(row.guarded) or not row.events
    if not all(alone):
        test = sql.SQL("(r.aggregation_id IS NOT NULL OR r.special OR ({}::boolean[])[r.class_key])")
        tests.append(test.format(alone))
    return sql.SQL(" AND ").join(tests)


def _firsts(kinds: Mapping[str, int]) -> list[bool]:
    """By ordinal, whether the place is that of a kind's first date. Ordinals may have gaps."""
    firsts = [False] * max(kinds.values(), default=0)
    for key, ordinal in kinds.items():
        firsts[ordinal - 1] = key.endswith(":first")
    return firsts


def _reached(rows: list[ClassLimits], kinds: Mapping[str, int]) -> sql.Composable:
    """A condition on `dates` that every subject meets whose events satisfy some limit: it keeps the hash of
    subjects as small as what is due."""
    latest: dict[int, date] = {}
    for row in rows:
        for event in row.events:
            if event.limit is not None and event.key in kinds:
                latest[kinds[event.key]] = max(event.limit, latest.get(kinds[event.key], event.limit))
    tests = [sql.SQL("dates[{}] <= {}").format(kind, limit) for kind, limit in sorted(latest.items())]
    return sql.SQL(" OR ").join(tests) if tests else sql.SQL("false")


def _folded(rows: list[ClassLimits], classes: Mapping[str, int], kinds: Mapping[str, int]) -> dict[str, sql.Composed]:
    """What the class of record `r` asks for in the main branch, each an array of constants at the class's key: a row
    for each class, joined, costs a third more. `all`: what is not asked is satisfied by anything, infinity; `any`: by
    nothing, -infinity. A kind of 0 has no date."""
    columns = {"any_one": "boolean", "guarded": "boolean", "evented": "boolean"} | dict.fromkeys(DATED, "date")
    for slot in range(SLOTS):
        columns |= {f"kind{slot}": "integer", f"limit{slot}": "date", f"covered{slot}": "boolean"}
    by_key: list[dict[str, Any]] = [{} for _ in range(max(classes.values(), default=0))]
    for row in rows:
        any_one = row.combine is Combine.ANY
        nothing = "-infinity" if any_one else "infinity"
        asked = by_key[classes[row.class_id] - 1]
        asked |= {"any_one": any_one, "guarded": bool(row.guarded) or len(row.events) > SLOTS}
        asked |= {"evented": bool(row.events)}
        asked |= {name: _limit(row.dated[name]) if name in row.dated else nothing for name in DATED}
        events = [(kinds.get(event.key, 0), _limit(event.limit), event.covered) for event in row.events]
        for slot, (kind, limit, covered) in enumerate((events + [(0, nothing, True)] * SLOTS)[:SLOTS]):
            asked |= {f"kind{slot}": kind, f"limit{slot}": limit, f"covered{slot}": covered}
    empty = {"boolean": False, "integer": 0, "date": "-infinity"}
    return {
        name: sql.SQL("({}::{}[])[r.class_key]").format([one.get(name, empty[kind]) for one in by_key], sql.SQL(kind))
        for name, kind in columns.items()
    }


def _limit(found: date | None) -> str:
    return "-infinity" if found is None else found.isoformat()


def _by_rule(
    schedule: Schedule, as_of: date, classes: Mapping[str, int], kinds: Mapping[str, int]
) -> dict[str, sql.Literal]:
    """Columns of the second branch: every rule in force, its conditions, and what replaces it."""

    def code(trigger: Trigger | None) -> int | None:
        """The place of the trigger's date in an array: the dated ones, then the kinds of events."""
        if trigger is None:
            return None
        if not trigger.event:
            return DATED.index(trigger.name) + 1
        return kinds[trigger.key] + len(DATED) if trigger.key in kinds else 0

    rules: list[tuple[Any, ...]] = []
    conditions: list[tuple[Any, ...]] = []
    replacements: list[tuple[int, int]] = []
    numbers: dict[tuple[str, str], int] = {}
    for row in engine.limits(schedule, as_of, fold=False):
        if row.class_id not in classes:
            continue
        for guarded in row.guarded:
            rule = guarded.rule
            number = numbers.setdefault((row.class_id, rule.id), len(numbers))
            conditions += [(number, *_condition(condition, code)) for condition in rule.when]
            of_class = (number, classes[row.class_id], row.combine is Combine.ANY)
            guard = (code(rule.trigger), _limit(guarded.limit), code(rule.not_before))
            covered = not rule.trigger.event or rule.later_records is LaterRecords.COVERED
            rules.append(
                (
                    *of_class,
                    *guard,
                    rule.triggers_from,
                    rule.triggers_until,
                    covered,
                    *_counting(guarded),
                    bool(rule.when),
                )
            )
        for guarded in row.guarded:
            mine = numbers[row.class_id, guarded.rule.id]
            replacements += [(mine, numbers[row.class_id, other]) for other in guarded.replaced_by]
    names = (
        (rules, ("rule_no", "rule_class", "rule_any", "rule_code", "rule_limit", "rule_after", "rule_from",
                 "rule_until", "rule_covered", "rule_shift", "rule_cutoff", "rule_month", "rule_day", "rule_months",
                 "rule_days", "rule_conditional")),
        (conditions, ("when_rule", "when_left", "when_how", "when_right", "when_months", "when_days")),
        (replacements, ("replaced", "replacing")),
    )  # fmt: skip
    return {
        name: sql.Literal([entry[i] for entry in entries])
        for entries, columns in names
        for i, name in enumerate(columns)
    }


def _counting(guarded: GuardedLimit) -> tuple[Any, ...]:
    """How the rule counts, for suspended records; no period is permanent, and never eligible."""
    cutoff, period = guarded.rule.cutoff, guarded.rule.period
    unit = _CUTOFFS.index(cutoff.unit)
    return int(guarded.foreign), unit, cutoff.month, cutoff.day, period and period.months, period and period.days


def _condition(condition: Condition, code: Any) -> tuple[Any, ...]:
    how = COMPARISONS.index(condition.comparison or "present")
    return code(condition.left), how, code(condition.than), condition.plus.months, condition.plus.days


# Whether all conditions of rule `u` hold of `f`, whose dates are `found`: true, false, or unknown (Kleene).
APPLIES = """CASE WHEN NOT u.conditional THEN true ELSE (
            SELECT CASE WHEN bool_or(NOT x.yes) THEN false WHEN bool_or(x.yes IS NULL) THEN NULL ELSE true END
              FROM (SELECT CASE w.how
                             WHEN 0 THEN f.found[w.a] IS NOT NULL
                             WHEN 1 THEN f.found[w.a] < shifted
                             WHEN 2 THEN f.found[w.a] <= shifted
                             WHEN 3 THEN f.found[w.a] > shifted
                             ELSE f.found[w.a] >= shifted END AS yes
                      FROM conditions w,
                           LATERAL (SELECT (f.found[w.b] + make_interval(months => w.months, days => w.days))::date)
                                   AS moved (shifted)
                     WHERE w.rule_no = u.rule_no) AS x) END"""

_CERTAIN = (
    "array_agg(j.rule_no) FILTER (WHERE j.applies AND NOT j.outside) OVER (PARTITION BY j.record_id, j.judged_class)"
)
_NONE = "NULL::integer[]"  # where nothing replaces a rule, nobody asks

_DUE = sql.SQL("""
WITH RECURSIVE scanned AS MATERIALIZED (
    SELECT r.record_id, r.class_key, r.bytes, r.aggregation_id, {parent} AS parent_id, r.special,
           r.special OR {guarded} AS second,
           CASE WHEN r.special OR {guarded} THEN r.document_date END AS document_date,
           CASE WHEN r.special OR {guarded}
                THEN ARRAY[r.received, r.document_date, r.modified, r.tagged] END AS dates,
           CASE WHEN r.special
                THEN (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.record_id) END AS own,
           CASE WHEN r.special OR {guarded}
                THEN (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.aggregation_id) END AS whole,
           CASE WHEN r.special
                THEN (SELECT range_agg(daterange(u.starts, coalesce(u.ends, {as_of}::date), '[]')) FROM suspensions u
                       WHERE u.subject_id IN (r.record_id, r.aggregation_id) AND u.starts <= {as_of}::date)
                END AS suspended
      FROM records r
      LEFT JOIN (SELECT subject_id, dates FROM current_triggers WHERE {reached}) AS s
        ON s.subject_id = CASE WHEN {evented} THEN r.aggregation_id END
     WHERE r.state = 1 AND {dated_limits} {only}
       AND NOT EXISTS (SELECT FROM hold_members h WHERE h.record_id = r.record_id)
       AND NOT EXISTS (SELECT FROM suspensions u WHERE u.subject_id = r.record_id AND u.starts <= {as_of}::date
                          AND coalesce(u.ends, {as_of}::date) >= {as_of}::date)
       AND NOT EXISTS (SELECT FROM (SELECT DISTINCT ON (e.record_id) e.record_id, e.not_before FROM extensions e
                                     ORDER BY e.record_id, e.recorded_at DESC) AS x
                        WHERE x.record_id = r.record_id
                          AND ({as_of}::date < x.not_before OR x.not_before >= date '9999-12-31'))
       AND CASE WHEN r.special THEN true
                WHEN {any_one} THEN {guarded} OR coalesce(
                    r.received <= {received} OR r.document_date <= {document_date}
                    OR r.modified <= {modified} OR r.tagged <= {tagged}
                    OR (s.dates[{kind0}] <= {limit0}
                        AND ({covered0} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind0}]))
                    OR (s.dates[{kind1}] <= {limit1}
                        AND ({covered1} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind1}]))
                    OR (s.dates[{kind2}] <= {limit2}
                        AND ({covered2} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind2}])), false)
                ELSE NOT {evented}
                OR (coalesce(s.dates[{kind0}], 'infinity') <= {limit0}
                    AND coalesce(s.dates[{kind1}], 'infinity') <= {limit1}
                    AND coalesce(s.dates[{kind2}], 'infinity') <= {limit2}
                    AND ({covered0} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind0}])
                    AND ({covered1} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind1}])
                    AND ({covered2} OR r.document_date IS NULL OR r.document_date <= s.dates[{kind2}]))
           END
), rules AS MATERIALIZED (
    SELECT * FROM unnest({rule_no}::integer[], {rule_class}::smallint[], {rule_any}::boolean[],
        {rule_code}::integer[], {rule_limit}::date[], {rule_after}::integer[],
        {rule_from}::date[], {rule_until}::date[], {rule_covered}::boolean[],
        {rule_shift}::integer[], {rule_cutoff}::integer[], {rule_month}::integer[], {rule_day}::integer[],
        {rule_months}::integer[], {rule_days}::integer[], {rule_conditional}::boolean[])
    AS u (rule_no, class_key, any_one, code, latest, after, triggers_from, triggers_until, covered,
          shift, cutoff, fiscal_month, fiscal_day, months, days, conditional)
), conditions AS MATERIALIZED (
    SELECT * FROM unnest({when_rule}::integer[], {when_left}::integer[], {when_how}::integer[], {when_right}::integer[],
        {when_months}::integer[], {when_days}::integer[]) AS w (rule_no, a, how, b, months, days)
), replacements AS MATERIALIZED (
    SELECT * FROM unnest({replaced}::integer[], {replacing}::integer[]) AS p (rule_no, by_no)
), facts AS MATERIALIZED (
    SELECT * FROM scanned WHERE second AND (suspended IS NULL OR NOT suspended @> {as_of}::date)
), merged AS MATERIALIZED (
    SELECT f.*, f.dates || CASE
             WHEN own IS NULL THEN whole
             WHEN whole IS NULL THEN own
             ELSE ARRAY(SELECT CASE WHEN ({firsts}::boolean[])[i] THEN least(own[i], whole[i])
                                    ELSE greatest(own[i], whole[i]) END
                          FROM generate_series(1, greatest(cardinality(own), cardinality(whole))) AS i) END AS found
      FROM facts f
), memberships AS (
    SELECT f.*, f.class_key AS judged_class FROM merged f
    UNION ALL
    SELECT f.*, m.class_key FROM merged f JOIN record_labels m USING (record_id) WHERE f.special
), judged AS (
    SELECT f.record_id, f.judged_class, u.rule_no, u.any_one,
           coalesce(f.found[u.code] < u.triggers_from OR f.found[u.code] > u.triggers_until, false) AS outside,
           coalesce(CASE WHEN f.suspended IS NULL THEN f.found[u.code] <= u.latest
                         ELSE {counted} END, false)
             AND (u.after IS NULL OR coalesce(f.found[u.after] <= {as_of}::date, false))
             AND NOT coalesce(NOT u.covered AND f.document_date > f.found[u.code]
                              AND f.own[u.code - {dated}] IS DISTINCT FROM f.found[u.code], false) AS satisfied,
           {applies} AS applies
      FROM memberships f LEFT JOIN rules u ON u.class_key = f.judged_class
), beside AS (
    SELECT j.*, {certain} AS certain FROM judged j
), live AS (
    SELECT b.*, b.rule_no IS NOT NULL AND NOT b.outside AND b.applies IS NOT FALSE
                AND NOT (b.any_one AND b.applies IS NULL)
                AND NOT EXISTS (SELECT FROM replacements p WHERE p.rule_no = b.rule_no AND p.by_no = ANY (b.certain))
                AS counts
      FROM beside b
), per_class AS (
    SELECT record_id,
           coalesce(CASE WHEN bool_or(any_one) THEN bool_or(satisfied) FILTER (WHERE counts)
                         ELSE bool_and(satisfied) FILTER (WHERE counts) END, false) AS is_due
      FROM live GROUP BY record_id, judged_class
), eligible AS (
    SELECT record_id, class_key, bytes, aggregation_id, parent_id, special FROM scanned WHERE NOT second
    UNION ALL
    SELECT record_id, class_key, bytes, aggregation_id, parent_id, special FROM facts
     WHERE record_id IN (SELECT record_id FROM per_class GROUP BY record_id HAVING bool_and(is_due))
)""")

# Rule `u` counts from trigger date `d.day`.
_CUTOFF = sql.SQL("""CASE u.cutoff
    WHEN 0 THEN d.day
    WHEN 1 THEN (date_trunc('month', d.day) + interval '1 month - 1 day')::date
    WHEN 2 THEN (date_trunc('quarter', d.day) + interval '3 months - 1 day')::date
    WHEN 3 THEN (date_trunc('year', d.day) + interval '1 year - 1 day')::date
    ELSE (SELECT min(e.last) FROM (
             SELECT least(first + u.fiscal_day - 1, (first + interval '1 month - 1 day')::date) AS last
               FROM (SELECT make_date(extract(year FROM d.day)::integer + n, u.fiscal_month, 1) AS first
                       FROM generate_series(0, 1) AS n) AS months) AS e
           WHERE e.last >= d.day)
    END""")

# Of a suspended record: the last day of retention, its suspended days added, lies before as_of. `latest` cannot say
# it, because the days count from the cutoff, which is another one for each record.
_COUNTED = sql.SQL("""(
    SELECT (c.day + make_interval(months => u.months, days => u.days))::date
           + coalesce((SELECT sum(upper(span) - lower(span))::integer
                         FROM unnest(f.suspended * datemultirange(
                                daterange(least(c.day, {as_of}::date), {as_of}::date, '(]'))) AS span), 0)
           < {as_of}::date
      FROM (SELECT f.found[u.code] + u.shift AS day) AS d, LATERAL (SELECT {cutoff} AS day) AS c)""")
