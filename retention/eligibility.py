"""What is due, over all records at once: the limits of the engine joined with the catalog in one statement.

Rules of this module (layer: just above `catalog`; it reads, and writes nothing):
- No calendar here. Trigger dates are compared with limits that `retention.engine` computed; the one exception,
  `plus` of a condition, adds months to a date, where PostgreSQL clamps as `Period.after` does (tested).
- One scan of `records` against one row of limits for each class and one row of current triggers for each subject
  decides all records of one class whose rules apply to every record: the main branch.
- What the scan cannot rule out of special records (labels, events of their own) and of classes with guarded
  rules takes the second branch: rule by rule, as `engine.decide` does it. Both answer exactly as `decide`
  (tests/integration/test_eligibility.py).
- A missing date satisfies no limit. Held records are taken out by an anti-join with the materialised members.
- A special record with a suspension, its own or its aggregation's, is kept: its days count from the cutoff of
  each rule, which only `decide` knows so far. Whoever writes a suspension marks the records special.
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
from retention.engine import ClassLimits
from retention.rules import DATED, Action, Combine, Condition, Schedule, Trigger

SLOTS = 3  # event limits of a class in the main branch; a class with more takes the second

# The states of a condition's comparison, by their number in the statement; 0 asks for presence.
_COMPARISONS = ("present", "before", "on_or_before", "after", "on_or_after")


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
    # The planner takes most of the table for due, and then thinks that workers would only hand rows over.
    conn.execute("SET LOCAL parallel_tuple_cost = 0.001")
    counted = conn.execute(
        statement(conn, schedule, as_of)
        + sql.SQL("SELECT c.class_id, count(*), sum(d.bytes)::bigint FROM due d JOIN classes c USING (class_key) ")
        + sql.SQL("GROUP BY c.class_id")
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
    query = statement(conn, schedule, as_of, only) + sql.SQL(
        "SELECT d.record_id, c.class_id, d.bytes, d.unit_id FROM due d JOIN classes c USING (class_key) ORDER BY 2, 1"
    )
    with conn.cursor(name="due_records") as cursor:
        cursor.itersize = 10_000
        for row in cursor.execute(query):
            yield DueRecord(*row)


def statement(conn: Connection, schedule: Schedule, as_of: date, only: Sequence[UUID] | None = None) -> sql.Composed:
    """`WITH … due AS (record_id, class_key, bytes, unit_id)`, to which a caller adds what to select from `due`.

    `only`: of these records."""
    classes: dict[str, int] = dict(conn.execute("SELECT class_id, class_key FROM classes").fetchall())
    kinds: dict[str, int] = dict(conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    rows = [row for row in engine.limits(schedule, as_of) if row.class_id in classes]
    return _DUE.format(
        **_folded(rows, classes, kinds),
        **_by_rule(schedule, as_of, classes, kinds),
        reached=_reached(rows, kinds),
        as_of=sql.Literal(as_of),
        only=sql.SQL("") if only is None else sql.SQL("AND r.record_id = ANY({}::uuid[])").format(list(only)),
    )


def _reached(rows: list[ClassLimits], kinds: Mapping[str, int]) -> sql.Composable:
    """A condition on `dates` that every subject meets whose events satisfy some limit: it keeps the hash of
    subjects as small as what is due."""
    latest: dict[int, date] = {}
    for row in rows:
        for key, limit in row.events.items():
            if limit is not None and key in kinds:
                latest[kinds[key]] = max(limit, latest.get(kinds[key], limit))
    tests = [sql.SQL("dates[{}] <= {}").format(kind, limit) for kind, limit in sorted(latest.items())]
    return sql.SQL(" OR ").join(tests) if tests else sql.SQL("false")


def _folded(rows: list[ClassLimits], classes: Mapping[str, int], kinds: Mapping[str, int]) -> dict[str, sql.Literal]:
    """Columns of the main branch. `all`: what is not asked is satisfied by anything, infinity; `any`: by nothing."""
    columns: dict[str, list[Any]] = {"class_keys": [], "anys": [], "guarded": [], "evented": []}
    columns |= {name: [] for name in DATED}
    columns |= {f"{part}{slot}": [] for slot in range(SLOTS) for part in ("kind", "limit")}
    for row in rows:
        any_one = row.combine is Combine.ANY
        nothing = "-infinity" if any_one else "infinity"
        columns["class_keys"].append(classes[row.class_id])
        columns["anys"].append(any_one)
        columns["guarded"].append(bool(row.guarded) or len(row.events) > SLOTS)
        columns["evented"].append(bool(row.events))
        for name in DATED:
            columns[name].append(_limit(row.dated[name]) if name in row.dated else nothing)
        events = [(kinds.get(key), _limit(limit)) for key, limit in row.events.items()]
        for slot, (kind, limit) in enumerate((events + [(None, nothing)] * SLOTS)[:SLOTS]):
            columns[f"kind{slot}"].append(kind)
            columns[f"limit{slot}"].append(limit)
    return {name: sql.Literal(values) for name, values in columns.items()}


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
        for rule in row.guarded:
            number = numbers.setdefault((row.class_id, rule.rule_id), len(numbers))
            conditions += [(number, *_condition(condition, code)) for condition in rule.when]
            bounds = (rule.triggers_from, rule.triggers_until)
            any_one = row.combine is Combine.ANY
            guard = (code(rule.trigger), _limit(rule.limit), code(rule.not_before), *bounds)
            rules.append((number, classes[row.class_id], any_one, *guard))
        for rule in row.guarded:
            mine = numbers[row.class_id, rule.rule_id]
            replacements += [(mine, numbers[row.class_id, other]) for other in rule.replaced_by]
    names = (
        (
            rules,
            ("rule_no", "rule_class", "rule_any", "rule_code", "rule_limit", "rule_after", "rule_from", "rule_until"),
        ),
        (conditions, ("when_rule", "when_left", "when_how", "when_right", "when_months", "when_days")),
        (replacements, ("replaced", "replacing")),
    )
    return {
        name: sql.Literal([entry[i] for entry in entries])
        for entries, columns in names
        for i, name in enumerate(columns)
    }


def _condition(condition: Condition, code: Any) -> tuple[Any, ...]:
    how = _COMPARISONS.index(condition.comparison or "present")
    return code(condition.left), how, code(condition.than), condition.plus.months, condition.plus.days


_DUE = sql.SQL("""
WITH scanned AS MATERIALIZED (
    SELECT r.record_id, r.class_key, r.bytes, r.aggregation_id, r.received, r.document_date, r.modified, r.tagged,
           r.special, r.special OR l.guarded AS second
      FROM records r
      JOIN unnest(
             {class_keys}::smallint[], {anys}::boolean[], {guarded}::boolean[], {evented}::boolean[],
             {received}::date[], {document_date}::date[], {modified}::date[], {tagged}::date[],
             {kind0}::smallint[], {limit0}::date[], {kind1}::smallint[], {limit1}::date[],
             {kind2}::smallint[], {limit2}::date[])
        AS l (class_key, any_one, guarded, evented, received, document_date, modified, tagged,
              kind0, limit0, kind1, limit1, kind2, limit2)
        ON l.class_key = r.class_key
       AND (l.any_one OR (r.received <= l.received
                          AND coalesce(r.document_date, 'infinity') <= l.document_date
                          AND coalesce(r.modified, 'infinity') <= l.modified
                          AND coalesce(r.tagged, 'infinity') <= l.tagged))
      LEFT JOIN (SELECT subject_id, dates FROM current_triggers WHERE {reached}) AS s
        ON s.subject_id = r.aggregation_id AND l.evented
     WHERE r.state = 1 {only}
       AND CASE WHEN r.special OR l.guarded THEN true
                WHEN l.any_one THEN
                coalesce(r.received <= l.received OR r.document_date <= l.document_date
                         OR r.modified <= l.modified OR r.tagged <= l.tagged
                         OR s.dates[l.kind0] <= l.limit0 OR s.dates[l.kind1] <= l.limit1
                         OR s.dates[l.kind2] <= l.limit2, false)
                ELSE NOT l.evented
                OR (coalesce(s.dates[l.kind0], 'infinity') <= l.limit0
                    AND coalesce(s.dates[l.kind1], 'infinity') <= l.limit1
                    AND coalesce(s.dates[l.kind2], 'infinity') <= l.limit2)
           END
), rules AS MATERIALIZED (
    SELECT * FROM unnest({rule_no}::integer[], {rule_class}::smallint[], {rule_any}::boolean[],
        {rule_code}::integer[], {rule_limit}::date[], {rule_after}::integer[],
        {rule_from}::date[], {rule_until}::date[])
    AS u (rule_no, class_key, any_one, code, latest, after, triggers_from, triggers_until)
), conditions AS MATERIALIZED (
    SELECT * FROM unnest({when_rule}::integer[], {when_left}::integer[], {when_how}::integer[], {when_right}::integer[],
        {when_months}::integer[], {when_days}::integer[]) AS w (rule_no, a, how, b, months, days)
), replacements AS MATERIALIZED (
    SELECT * FROM unnest({replaced}::integer[], {replacing}::integer[]) AS p (rule_no, by_no)
), facts AS MATERIALIZED (
    SELECT r.record_id, r.class_key, r.bytes, r.special,
           ARRAY[r.received, r.document_date, r.modified, r.tagged] AS dates,
           CASE WHEN r.special
                THEN (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.record_id) END AS own,
           (SELECT t.dates FROM current_triggers t WHERE t.subject_id = r.aggregation_id) AS whole
      FROM scanned r
     WHERE r.second
       AND NOT EXISTS (SELECT FROM suspensions u WHERE u.subject_id = r.record_id)
       AND NOT EXISTS (SELECT FROM suspensions u WHERE u.subject_id = r.aggregation_id)
), merged AS MATERIALIZED (
    SELECT record_id, class_key, bytes, special, dates || CASE
             WHEN own IS NULL THEN whole
             WHEN whole IS NULL THEN own
             ELSE ARRAY(SELECT CASE WHEN k.kind LIKE '%:first' THEN least(own[i], whole[i])
                                    ELSE greatest(own[i], whole[i]) END
                          FROM generate_series(1, greatest(cardinality(own), cardinality(whole))) AS i
                          LEFT JOIN trigger_kinds k ON k.ordinal = i ORDER BY i) END AS dates
      FROM facts
), memberships AS (
    SELECT record_id, class_key AS home, bytes, class_key, dates FROM merged
    UNION ALL
    SELECT f.record_id, f.class_key, f.bytes, m.class_key, f.dates
      FROM merged f JOIN record_labels m USING (record_id) WHERE f.special
), judged AS (
    SELECT f.record_id, f.home, f.bytes, f.class_key, u.rule_no, u.any_one,
           coalesce(f.dates[u.code] < u.triggers_from OR f.dates[u.code] > u.triggers_until, false) AS outside,
           coalesce(f.dates[u.code] <= u.latest, false)
             AND (u.after IS NULL OR coalesce(f.dates[u.after] <= {as_of}::date, false)) AS satisfied,
           (SELECT CASE WHEN bool_or(NOT x.yes) THEN false WHEN bool_or(x.yes IS NULL) THEN NULL ELSE true END
              FROM (SELECT CASE w.how
                             WHEN 0 THEN f.dates[w.a] IS NOT NULL
                             WHEN 1 THEN f.dates[w.a] < shifted
                             WHEN 2 THEN f.dates[w.a] <= shifted
                             WHEN 3 THEN f.dates[w.a] > shifted
                             ELSE f.dates[w.a] >= shifted END AS yes
                      FROM conditions w,
                           LATERAL (SELECT (f.dates[w.b] + make_interval(months => w.months, days => w.days))::date)
                                   AS moved (shifted)
                     WHERE w.rule_no = u.rule_no) AS x) AS applies
      FROM memberships f LEFT JOIN rules u USING (class_key)
), beside AS (
    SELECT j.*, array_agg(j.rule_no) FILTER (WHERE j.applies AND NOT j.outside)
                  OVER (PARTITION BY j.record_id, j.class_key) AS certain
      FROM judged j
), live AS (
    SELECT b.*, b.rule_no IS NOT NULL AND NOT b.outside AND b.applies IS NOT FALSE
                AND NOT (b.any_one AND b.applies IS NULL)
                AND NOT EXISTS (SELECT FROM replacements p WHERE p.rule_no = b.rule_no AND p.by_no = ANY (b.certain))
                AS counts
      FROM beside b
), per_class AS (
    SELECT record_id, home, bytes,
           coalesce(CASE WHEN bool_or(any_one) THEN bool_or(satisfied) FILTER (WHERE counts)
                         ELSE bool_and(satisfied) FILTER (WHERE counts) END, false) AS is_due
      FROM live GROUP BY record_id, home, bytes, class_key
), candidates AS (
    SELECT record_id, class_key, bytes FROM scanned WHERE NOT second
    UNION ALL
    SELECT record_id, home, bytes FROM per_class GROUP BY record_id, home, bytes HAVING bool_and(is_due)
), due AS (
    SELECT d.record_id, d.class_key, d.bytes, d.record_id AS unit_id FROM candidates d
     WHERE NOT EXISTS (SELECT FROM hold_members h WHERE h.record_id = d.record_id)
)
""")
