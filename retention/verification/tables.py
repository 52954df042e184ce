"""The catalog against its history: what the events say each table holds, compared with what it holds.

Rules of this module:
- A table is a projection of the events: `told` says in SQL which rows, with which columns, they make. What is missing,
  is not in the history, or differs in a column is a problem that names table, row and column.
- Every column of every table of the catalog is either compared here, or checked by another part of the verification
  that `elsewhere` names: tests/integration/test_verification.py walks information_schema.
- The comparison is made by PostgreSQL, set by set, in one snapshot. What it compares with are the entries, which
  `entries.py` has checked against the signed checkpoints before; entries that it found damaged are left out.
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


def _statement(one: Projection) -> sql.Composed:
    keys = sql.SQL(", ").join(map(sql.Identifier, one.key))
    columns = sql.SQL(", ").join(map(sql.Identifier, (*one.key, *one.columns)))
    found = sql.SQL(one.found) if one.found else sql.SQL("SELECT * FROM {}").format(sql.Identifier(one.table))

    def side(name: str, of: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(name, column) for column in of)

    def pairs(name: str) -> sql.Composable:
        """The columns as text, in their order."""
        if not one.columns:
            return sql.SQL("'{{}}'::text[]").format()
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name, column)) for column in one.columns)
        )

    differ = (
        sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(side("s", one.columns), side("f", one.columns))
        if one.columns
        else sql.SQL("false")
    )
    return sql.SQL(
        """WITH said AS (SELECT {columns}, position AS told_at, true AS there FROM ({told}) AS t),
                found AS (SELECT {columns}, true AS there FROM ({found}) AS t)
           SELECT count(*) OVER (), ARRAY[{names}], s.there IS NOT NULL, f.there IS NOT NULL, s.told_at,
                  {expected}, {actual}
             FROM said s FULL JOIN found f USING ({keys})
            WHERE s.there IS NULL OR f.there IS NULL OR {differ}
            ORDER BY {keys} LIMIT {most}"""
    ).format(
        columns=columns,
        told=sql.SQL(one.told),
        found=found,
        keys=keys,
        names=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(key)) for key in one.key),
        expected=pairs("s"),
        actual=pairs("f"),
        differ=differ,
        most=MOST,
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
