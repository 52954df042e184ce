"""What a schedule would change, before it is loaded: counted, listed and drawn. Nothing changes.

Rules of this module (requirements: retention, rule 16):
- Until when is `retention.whatif.dates`' answer under either schedule, in one scan; due is what ended before the day,
  and units are `retention.eligibility`'s. Both agree with `engine.decide` (tests/integration/test_whatif.py).
- It is counted without a list: only records that are due under either schedule are taken by name, because units,
  locks and holds are asked of them. The list of all that changed is made when it is read, one row after the other.
- Due is meant despite holds, because what a hold blocks is told apart: of what becomes due, so many records are
  held, and so many have an object locked in the vault beyond the day.
- Records are not classified or labelled anew: classification rules work at capture, and a loaded schedule does not
  move records. A record whose class the new schedule does not have is kept.
- Classes whose rules date alike cost nothing, unless they share units with a class that does not: an aggregation
  that goes as a whole, or a parent. Records that share such a class by a label are looked at one list apart.
- It works on a temporary table of its transaction, which is gone with it. Where the list must agree with the
  numbers while others write, the transaction is REPEATABLE READ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import sql

from retention import eligibility
from retention.database import Connection
from retention.reports import charts
from retention.rules import Schedule, Unit
from retention.schedule import comparison
from retention.whatif import dates

APART = 20_000  # records that are looked at apart, at most


@dataclass(frozen=True, slots=True)
class Amount:
    """How many records, and the bytes of their documents."""

    records: int = 0
    bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.records + other.records, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Effect:
    """What happens to the records of one class."""

    class_id: str
    becomes_due: Amount = Amount()
    ceases_due: Amount = Amount()
    extended: Amount = Amount()  # kept until a later day, or no longer until a known one
    shortened: Amount = Amount()
    locked: Amount = Amount()  # of what becomes due: in the vault beyond the day
    held: Amount = Amount()  # of what becomes due

    def __add__(self, other: Effect) -> Effect:
        sums = {name: getattr(self, name) + getattr(other, name) for name in EFFECTS}
        return Effect(self.class_id, **sums)


EFFECTS = ("becomes_due", "ceases_due", "extended", "shortened", "locked", "held")


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The effect of a schedule on the records as of a day; classes in its order, only those with an effect."""

    as_of: date
    effects: tuple[Effect, ...]
    listing: sql.Composed | None = field(default=None, repr=False, compare=False)  # what `changed_rows` reads

    @property
    def total(self) -> Effect:
        return sum(self.effects, start=Effect("*"))


def compare(conn: Connection, old: Schedule, new: Schedule, as_of: date) -> WhatIf:
    """What changes if `new` takes the place of `old`. Needs a transaction, in which `changed_rows` lists it."""
    conn.execute("SET LOCAL work_mem = '64MB'")
    conn.execute("SET LOCAL enable_mergejoin = off")  # of constant arrays the planner thinks too little to hash them
    conn.execute("DROP TABLE IF EXISTS pg_temp.whatif_found")
    redated = comparison.redated(old, new, as_of)
    if not redated:
        return WhatIf(as_of, ())
    dated = _dated(conn, old, new, as_of, _scope(conn, old, new, redated))
    counted = _all(_FOUND.format(dated=part, as_of=as_of) for part in dated)
    conn.execute(sql.SQL("CREATE TEMP TABLE whatif_found ON COMMIT DROP AS {}").format(counted))
    conn.execute("ANALYZE pg_temp.whatif_found")
    for side, plan in (("due_before", old), ("due_after", new)):
        if whole := eligibility.unit_statement(conn, plan, _ELIGIBLE.format(due=sql.Identifier(side))):
            conn.execute(_TAKEN_BACK.format(due=sql.Identifier(side), whole=whole))
    blocks = _blocks(new, as_of)
    rows = conn.execute(_EFFECTS.format(blocks=blocks, amounts=_AMOUNTS)).fetchall()
    found = {row[0]: Effect(row[0], *(Amount(row[i], row[i + 1]) for i in range(1, len(row), 2))) for row in rows}
    order = [known.id for known in (*new.classes, *old.classes)]
    effects = tuple(found[name] for name in dict.fromkeys([*order, *found]) if name in found)
    return WhatIf(as_of, effects, _LIST.format(dated=_all(dated), open=dates.OPEN, blocks=blocks))


def changed_rows(conn: Connection, found: WhatIf) -> Iterator[bytes]:
    """The changed records of `compare` as CSV with a header, in the same transaction: ids, codes and dates only.

    An open date is empty; `due_before` and `due_after` are meant despite holds; `holds` are ids between spaces."""
    if found.listing is None:  # no class is dated otherwise
        yield _HEADER
        return
    with conn.cursor() as cursor, cursor.copy(found.listing) as copy:
        yield from (bytes(chunk) for chunk in copy)


def chart(found: WhatIf, new: Schedule) -> str:
    """The effects as an SVG image that stands alone: one bar for each class and effect, largest class first."""
    kinds = {"becomes_due": "amber", "ceases_due": "green", "extended": "plain", "shortened": "red"}
    ordered = sorted(found.effects, key=lambda effect: -max(getattr(effect, name).records for name in kinds))
    bars = [
        charts.Bar(
            name=effect.class_id,
            note=name.replace("_", " "),
            value=amount.records,
            said=f"{amount.records:,} records",
            kind=kind,
        )
        for effect in ordered
        for name, kind in kinds.items()
        if (amount := getattr(effect, name)).records
    ]
    title = f"What “{new.title}” would change, as of {found.as_of}"
    inside = charts.bars("whatif", title, bars)
    height = 60 + 36 * len(bars)
    return _PAGE.format(height=height, title=_escaped(title), inside=inside)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---------------------------------------------------------------- which classes


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is looked at: all records of some classes, and some records apart, under all of their classes."""

    classes: frozenset[str]
    apart: tuple[UUID, ...]

    @property
    def together(self) -> sql.Composed:
        """A condition on record `r`."""
        return sql.SQL("r.record_id <> ALL ({}::uuid[])").format(list(self.apart))


def _scope(conn: Connection, old: Schedule, new: Schedule, redated: frozenset[str]) -> _Scope:
    """The classes that are dated otherwise, and those that share units with one. Records that have such a class
    beside another, by a label, are few, and stand apart with their units; where they are many, all of their classes
    are looked at."""
    keys: dict[str, int] = dict(conn.execute("SELECT class_id, class_key FROM classes").fetchall())
    names = {key: name for name, key in keys.items()}
    found = _beside(conn, old, new, keys, {keys[name] for name in redated if name in keys}, labels=False)
    labelled = sql.SQL(
        "SELECT DISTINCT m.record_id FROM record_labels m JOIN records r USING (record_id) "
        "WHERE r.state = 1 AND (m.class_key = ANY ({0}::smallint[]) OR r.class_key = ANY ({0}::smallint[])) LIMIT {1}"
    ).format(sorted(found), APART + 1)
    some = 0 < len(found) < len(keys)
    apart = [row[0] for row in conn.execute(labelled)] if some else []
    if apart:
        both = replace(new, classes=(*new.classes, *old.classes))  # what is a unit in one of them
        apart = eligibility.unit_members(conn, both, apart, waiting=True)
    if len(apart) > APART:
        found, apart = _beside(conn, old, new, keys, found, labels=True), []
    return _Scope(redated | {names[key] for key in found}, tuple(apart))


def _beside(
    conn: Connection, old: Schedule, new: Schedule, keys: Mapping[str, int], found: set[int], *, labels: bool
) -> set[int]:
    """Step by step, until no class comes, or none is left."""
    by_aggregation = {c.id for plan in (old, new) for c in plan.classes if c.unit is Unit.AGGREGATION}
    whole = sorted(keys[name] for name in by_aggregation if name in keys)
    kin = conn.execute("SELECT FROM records WHERE parent_id IS NOT NULL LIMIT 1").fetchone() is not None
    steps = [step for step, asked in ((_LABELLED, labels), (_KIN, kin), (_WHOLE, bool(whole))) if asked]
    if not steps:
        return found
    names = {"known": sql.Placeholder("known"), "whole": sql.Literal(whole), "labels": sql.Literal(labels)}
    query = sql.SQL(" UNION ").join(step.format(**names) for step in steps)
    while found and len(found) < len(keys):
        more = {row[0] for row in conn.execute(query, {"known": sorted(found)})} | found
        if more == found:
            break
        found = more
    return found


# Classes of records that have a label of a known class, and labels of records of one.
_LABELLED = sql.SQL("""
SELECT r.class_key FROM record_labels m JOIN records r USING (record_id) WHERE m.class_key = ANY ({known}::smallint[])
UNION
SELECT m.class_key FROM record_labels m JOIN records r USING (record_id) WHERE r.class_key = ANY ({known}::smallint[])
UNION
SELECT b.class_key FROM record_labels a JOIN record_labels b USING (record_id)
 WHERE a.class_key = ANY ({known}::smallint[])
""")

# Classes of parents and of children.
_KIN = sql.SQL("""
SELECT p.class_key FROM records c JOIN records p ON p.record_id = c.parent_id
 WHERE c.class_key = ANY ({known}::smallint[])
UNION
SELECT c.class_key FROM records c JOIN records p ON p.record_id = c.parent_id
 WHERE p.class_key = ANY ({known}::smallint[])
""")

# Classes of members of aggregations that go as a whole, because of a member's class, or of its label.
_WHOLE = sql.SQL("""
SELECT r.class_key FROM records r WHERE r.aggregation_id IN (
    SELECT w.aggregation_id FROM (
        SELECT aggregation_id FROM records WHERE class_key = ANY ({whole}::smallint[])
        UNION
        SELECT x.aggregation_id FROM record_labels m JOIN records x USING (record_id)
         WHERE {labels} AND m.class_key = ANY ({whole}::smallint[])) AS w
    JOIN records y USING (aggregation_id) WHERE y.class_key = ANY ({known}::smallint[]))
""")


# ---------------------------------------------------------------- which records


def _dated(conn: Connection, old: Schedule, new: Schedule, as_of: date, scope: _Scope) -> list[sql.Composed]:
    """Statements: the records that are looked at, each with its date under either schedule."""
    dated = dates.prepare(conn, old, new, as_of, scope.classes).parts(scope.together)
    if scope.apart:
        every = [known.id for plan in (old, new) for known in plan.classes]
        apart = dates.prepare(conn, old, new, as_of, every, scope.apart)
        dated += apart.parts(sql.SQL("r.record_id = ANY ({}::uuid[])").format(list(scope.apart)))
    return dated


def _all(parts: Iterable[sql.Composed]) -> sql.Composed:
    return sql.SQL(" UNION ALL ").join(sql.SQL("({})").format(part) for part in parts)


# One row for each record that is due on either side; of all others one for each class and direction. The workers that
# scan also count: what is due goes through the count as an array, because grouping by record would count nothing.
_FOUND = sql.SQL("""
SELECT t.class_key, t.extended, t.shortened, t.due_before, t.due_after, u.record_id,
       CASE WHEN u.record_id IS NULL THEN t.records ELSE 1 END AS records, coalesce(u.bytes, t.bytes) AS bytes
  FROM (SELECT class_key, after > before AS extended, after < before AS shortened,
               before < {as_of} AS due_before, after < {as_of} AS due_after,
               count(*) AS records, sum(bytes)::bigint AS bytes,
               array_agg(record_id) FILTER (WHERE before < {as_of} OR after < {as_of}) AS ids,
               array_agg(bytes) FILTER (WHERE before < {as_of} OR after < {as_of}) AS sizes
          FROM ({dated}) AS d WHERE before <> after OR before < {as_of}
         GROUP BY 1, 2, 3, 4, 5) AS t
  LEFT JOIN LATERAL unnest(t.ids, t.sizes) AS u (record_id, bytes) ON true
""")

_ELIGIBLE = sql.SQL("SELECT r.* FROM whatif_found w JOIN records r USING (record_id) WHERE w.{due}")

# What would be due alone, but belongs to a unit that is not.
_TAKEN_BACK = sql.SQL("""
UPDATE whatif_found SET {due} = false WHERE {due} AND record_id NOT IN ({whole} SELECT record_id FROM due)
""")


def _blocks(new: Schedule, as_of: date) -> sql.Composed:
    """Locks beyond the day, as the vault answered: with holds, what keeps a record that is due."""
    return _BLOCKS.format(morning=datetime.combine(as_of, time.min, ZoneInfo(new.timezone)))


_BLOCKS = sql.SQL("""
      LEFT JOIN (SELECT subject_id AS record_id, max(actual_until) AS locked_until FROM object_locks
                  WHERE actual_until > {morning} GROUP BY subject_id) AS l USING (record_id)
""")

# In the order of EFFECTS.
_AMOUNTS = sql.SQL(", ").join(
    sql.SQL("coalesce(sum({}) FILTER (WHERE {}), 0)::bigint").format(sql.Identifier(summed), sql.SQL(which))
    for which in ("becomes", "ceases", "extended", "shortened", "becomes AND locked_until IS NOT NULL", "held")
    for summed in ("records", "bytes")
)

_EFFECTS = sql.SQL("""
    SELECT c.class_id,
           {amounts}
      FROM (SELECT f.*, due_after AND NOT due_before AS becomes, due_before AND NOT due_after AS ceases, locked_until,
                   due_after AND NOT due_before
                   AND EXISTS (SELECT FROM hold_members h WHERE h.record_id = f.record_id) AS held
              FROM whatif_found f {blocks}) AS d
      JOIN classes c USING (class_key)
     WHERE extended OR shortened OR becomes OR ceases
     GROUP BY c.class_id
""")

_HEADER = b"record_id,class_id,bytes,retain_until_before,retain_until_after,due_before,due_after,locked_until,holds\n"

_LIST = sql.SQL("""
COPY (
    SELECT d.record_id, c.class_id, d.bytes, nullif(d.before, {open}) AS retain_until_before,
           nullif(d.after, {open}) AS retain_until_after, coalesce(f.due_before, false) AS due_before,
           coalesce(f.due_after, false) AS due_after, locked_until,
           (SELECT string_agg(hold_id::text, ' ' ORDER BY hold_id) FROM hold_members h
             WHERE h.record_id = d.record_id) AS holds
      FROM ({dated}) AS d JOIN classes c USING (class_key)
      LEFT JOIN (SELECT record_id, due_before, due_after FROM whatif_found) AS f USING (record_id) {blocks}
     WHERE d.before <> d.after OR f.due_before <> f.due_after
     ORDER BY c.class_id, d.record_id
) TO STDOUT (FORMAT csv, HEADER)
""")

# The colours and letters of the report's page, for an image without a page.
_PAGE = """<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" role="img">
<title>{title}</title>
<style>
svg {{ font-family: sans-serif; font-size: 13px; color: #1c1917; }}
.chart-name {{ font-weight: 600; }} .chart-value {{ font-size: 13px; }} .chart-track {{ fill: #e7e5e4; }}
.chart-plain {{ fill: #1d4ed8; }} .chart-amber {{ fill: #b45309; }} .chart-green {{ fill: #15803d; }}
.chart-red {{ fill: #b91c1c; }} .heading {{ font-size: 16px; font-weight: 600; }}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="20" y="30" class="heading">{title}</text>
<svg x="20" y="50" width="920">{inside}</svg>
</svg>
"""
