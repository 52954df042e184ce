"""The catalog against its history: what the events say each table holds, compared with what it holds.

Rules of this module:
- A table is a projection of the events: `told` says in SQL which rows, with which columns, they make. What is missing,
  is not in the history, or differs in a column is a problem that names table, row and column.
- Every column of every table of the catalog is either compared here, or checked by another part of the verification
  that `elsewhere` names: tests/integration/test_verification.py walks information_schema.
- The comparison is made by PostgreSQL, set by set, in one snapshot. What it compares with are the entries, which
  `entries.py` has checked against the signed checkpoints before; entries that it found damaged are left out.
- What was in no copy when the archive was restored is told by an event (`rec`), row by row: there a column may be
  empty, or the row be missing. It may not say anything else.
- Problems say ids, codes, numbers and dates; no words of a person are in these tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from retention.database import Connection
from retention.history.offline import Problem

MOST = 1_000  # problems of one table that are listed


@dataclass(frozen=True, slots=True)
class Projection:
    """One table as the history tells it.

    `told`: a SELECT of `key`, `columns` and `position` (of the event that said it last) over `history`. `found`: the
    same columns of the catalog; the table itself where none is given. `elsewhere`: the other columns, and what checks
    them."""

    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    told: str
    found: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)


def tell_history(conn: Connection, damaged: Sequence[int]) -> None:
    """The events as rows, for the comparisons of this transaction: `history`."""
    conn.execute("DROP TABLE IF EXISTS pg_temp.history")
    conn.execute(
        """CREATE TEMP TABLE history (position bigint, type text, at timestamptz, success boolean, agent uuid,
                                      person uuid, subjects uuid[], subject uuid, detail jsonb) ON COMMIT DROP"""
    )
    conn.execute("DROP TABLE IF EXISTS pg_temp.unrecovered")
    conn.execute("CREATE TEMP TABLE unrecovered (table_name text, key text) ON COMMIT DROP")
    tell_more(conn, 0, damaged)
    conn.execute("CREATE INDEX ON pg_temp.history (type)")
    conn.execute("ANALYZE pg_temp.history")


def tell_more(conn: Connection, since: int, damaged: Sequence[int] = ()) -> None:
    """The events from that position on as rows too."""
    conn.execute(
        """INSERT INTO pg_temp.history
           SELECT e.position, e.type, (j ->> 'time')::timestamptz AS at, j ->> 'outcome' = 'success' AS success,
                  (j -> 'agent' ->> 'id')::uuid AS agent, (j -> 'agent' ->> 'for')::uuid AS person,
                  ARRAY(SELECT s::uuid FROM jsonb_array_elements_text(j -> 'subjects') AS s) AS subjects,
                  (j -> 'subjects' ->> 0)::uuid AS subject, j -> 'detail' AS detail
             FROM events e, LATERAL (SELECT convert_from(e.entry, 'UTF8')::jsonb) AS x (j)
            WHERE e.position >= %s AND e.position <> ALL (%s)""",
        (since, list(damaged)),
    )
    conn.execute(
        """INSERT INTO pg_temp.unrecovered
           SELECT detail ->> 'table', ARRAY(SELECT jsonb_array_elements_text(k))::text
             FROM pg_temp.history, jsonb_array_elements(detail -> 'unrecovered') AS k
            WHERE type = 'rec' AND detail ? 'unrecovered' AND position >= %s""",
        (since,),
    )


def compare(conn: Connection, one: Projection) -> Iterator[Problem]:
    """What differs, in the order of the rows; at most MOST problems, and then how many more."""
    # No statistics tell the planner how many events have some key in their detail: it expects one, and would look at
    # every other row once for each.
    conn.execute("SET LOCAL enable_nestloop = off")
    rows = conn.execute(_statement(one))
    conn.execute("SET LOCAL enable_nestloop = on")
    count = 0
    for row in rows:
        count = row[0]
        yield Problem(f"table {one.table}, row {_named(one, row[1])}", _said(one, *row[2:]))
    if count > MOST:
        yield Problem(f"table {one.table}", f"{count - MOST:,} more rows differ.")


def lacking(conn: Connection, one: Projection) -> list[list[str]]:
    """The keys of the rows that are there without something that the history has the digest of, or are missing, and
    say nothing else: what a recovery could not find."""
    conn.execute("SET LOCAL enable_nestloop = off")
    rows = conn.execute(
        sql.SQL("{both} WHERE s.there IS NOT NULL AND (f.there IS NULL OR {differ}) AND {excused}").format(
            both=_both(one, sql.SQL("ARRAY[{}]").format(_names(one))), differ=_differ(one), excused=_excused(one)
        )
    ).fetchall()
    conn.execute("SET LOCAL enable_nestloop = on")
    return [row[0] for row in rows]


def _statement(one: Projection) -> sql.Composed:
    def pairs(name: str) -> sql.Composable:
        """The columns as text, in their order."""
        if not one.columns:
            return sql.SQL("'{{}}'::text[]").format()
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name, column)) for column in one.columns)
        )

    selected = sql.SQL(
        "count(*) OVER (), ARRAY[{}], s.there IS NOT NULL, f.there IS NOT NULL, s.told_at, {}, {}"
    ).format(_names(one), pairs("s"), pairs("f"))
    return sql.SQL(
        """{both} WHERE (s.there IS NULL OR f.there IS NULL OR {differ})
              AND NOT (s.there IS NOT NULL AND {excused}
                       AND ARRAY[{names}]::text IN (SELECT key FROM unrecovered WHERE table_name = {table}))
            ORDER BY {keys} LIMIT {most}"""
    ).format(
        both=_both(one, selected),
        differ=_differ(one),
        excused=_excused(one),
        names=_names(one),
        table=one.table,
        keys=sql.SQL(", ").join(map(sql.Identifier, one.key)),
        most=MOST,
    )


def _both(one: Projection, selected: sql.Composable) -> sql.Composed:
    """What the history says (s) beside what is found (f)."""
    return sql.SQL(
        """WITH said AS (SELECT {columns}, position AS told_at, true AS there FROM ({told}) AS t),
                found AS (SELECT {columns}, true AS there FROM ({found}) AS t)
           SELECT {selected} FROM said s FULL JOIN found f USING ({keys})"""
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, (*one.key, *one.columns))),
        told=sql.SQL(one.told),
        found=sql.SQL(one.found) if one.found else sql.SQL("SELECT * FROM {}").format(sql.Identifier(one.table)),
        selected=selected,
        keys=sql.SQL(", ").join(map(sql.Identifier, one.key)),
    )


def _names(one: Projection) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(key)) for key in one.key)


def _differ(one: Projection) -> sql.Composable:
    if not one.columns:
        return sql.SQL("false")

    def side(name: str) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(name, column) for column in one.columns)

    return sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(side("s"), side("f"))


def _excused(one: Projection) -> sql.Composable:
    """Of a row that was told to be in no copy: nothing else stands there."""
    if not one.columns:
        return sql.SQL("true")
    return sql.SQL(" AND ").join(
        sql.SQL("(f.{0} IS NULL OR f.{0} IS NOT DISTINCT FROM s.{0})").format(sql.Identifier(c)) for c in one.columns
    )


def _named(one: Projection, key: Sequence[Any]) -> str:
    if len(one.key) == 1:
        return str(key[0])
    return ", ".join(f"{name} {value}" for name, value in zip(one.key, key, strict=True))


def _said(
    one: Projection, said: bool, found: bool, position: int | None, expected: Sequence[Any], actual: Sequence[Any]
) -> str:
    event = f"event {position:,}" if position is not None else "the history"
    if not found:
        return f"missing: {event} made it, and no later one took it away."
    if not said:
        return "no event made it: somebody wrote it past the history."
    parts = [
        f"{column} is {_shown(was)}, {event} says {_shown(should)}"
        for column, should, was in zip(one.columns, expected, actual, strict=True)
        if should != was
    ]
    return "; ".join(parts) + "."


def _shown(value: Any) -> str:
    return "empty" if value is None else str(value)
