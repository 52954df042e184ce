"""Every table of a catalog as text, to be compared with that of another one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import psycopg
from psycopg import sql

from retention.config import Settings
from retention.database import Connection
from tests.tampering import columns_of

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Rows:
    """Words of classes and of kinds of events stand in the place of their numbers, which are anybody's."""

    tables: dict[str, Table]

    def without(self, table: str, columns: Collection[str]) -> list[Row]:
        found = self.tables[table]
        places = [n for n, column in enumerate(found.columns) if column not in columns]
        return sorted(tuple(row[n] for n in places) for row in found.rows)

    def column(self, table: str, column: str) -> list[str]:
        found = self.tables[table]
        return [row[found.columns.index(column)] for row in found.rows]


def rows_of(settings: Settings) -> Rows:
    with psycopg.connect(settings.database_owner_url or "", options="-c timezone=UTC") as conn:
        tables = conn.execute(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        return Rows({table: _table(conn, table) for (table,) in sorted(tables)})


def _table(conn: Connection, table: str) -> Table:
    columns = columns_of(conn, table)
    shown = []
    for column in columns:
        query = "t.{}::text"
        if column in ("class_key", "from_class", "to_class") and table != "classes":
            query = "(SELECT c.class_id FROM classes c WHERE c.class_key = t.{})"
        elif (table, column) == ("trigger_events", "kind"):
            query = "(SELECT k.kind FROM trigger_kinds k WHERE k.ordinal = t.{})"
        shown.append(sql.SQL(query).format(sql.Identifier(column)))
    rows = conn.execute(sql.SQL("SELECT {} FROM {} t").format(sql.SQL(", ").join(shown), sql.Identifier(table)))
    return Table(columns, sorted(tuple(str(value) for value in row) for row in rows))
