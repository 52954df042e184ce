"""Lists and numbers out of the catalog, both from one query.

Rules of this module:
- A `Body` is one SELECT. Its numbers are aggregates over it and its list is a COPY of it, in one snapshot: a
  number and its list cannot mean different things.
- PostgreSQL counts and sorts. Rows pass through as CSV bytes; only the group in front is looked at.
- Statements are put together of text that stands in this package; data is always a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

from psycopg import sql

from retention.database import Connection
from retention.reports.model import Figure, Listing, Packer, listing

HELD: LiteralString = "r.state < 3"  # kept, or still being destroyed; neither destroyed nor transferred
RECORDS: LiteralString = "records r JOIN classes c USING (class_key)"
NAMES: Mapping[str, LiteralString] = {"title": "described.title", "name": "described.name"}


def instant(column: LiteralString) -> LiteralString:
    """A time as lists write it: ISO 8601, UTC, whole seconds."""
    return "to_char(" + column + " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


@dataclass(frozen=True, slots=True)
class Body:
    """What a list holds: SQL by name of column, FROM, WHERE, the order of its rows. `group` says to which of
    several lists a row belongs; `subject` is whose title and name a copy for the eye shows."""

    columns: Mapping[str, LiteralString]
    source: LiteralString | sql.Composable
    order: LiteralString
    where: LiteralString = "true"
    group: LiteralString = "'all'"
    subject: LiteralString | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def select(self, names: bool) -> sql.Composed:
        shown = {**self.columns, **(NAMES if names and self.subject else {})}
        described: sql.Composable = sql.SQL("")
        if names and self.subject:
            described = sql.SQL(  # of what is restricted (GDPR art. 18) no name is shown
                " LEFT JOIN descriptions described ON described.subject_id = {subject} "
                "AND NOT EXISTS (SELECT FROM restrictions x WHERE x.record_id = {subject})"
            ).format(subject=sql.SQL(self.subject))
        return sql.SQL(
            "SELECT ({group})::text COLLATE {c} AS grp, {columns} FROM {source}{described} WHERE {where}"
        ).format(
            c=sql.Identifier("C"),
            group=sql.SQL(self.group),
            columns=sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(sql.SQL(value), sql.Identifier(name)) for name, value in shown.items()
            ),
            source=self.source if isinstance(self.source, sql.Composable) else sql.SQL(self.source),
            described=described,
            where=sql.SQL(self.where),
        )


@dataclass(slots=True)
class Collector:
    """Reads bodies within one snapshot and keeps every list that was made."""

    conn: Connection
    names: bool
    lists: list[Listing] = field(default_factory=list)

    def numbers(self, body: Body, *aggregates: LiteralString) -> list[tuple[Any, ...]]:
        """For each group: its name, how many rows, and the aggregates over its columns; in order of the name."""
        query = sql.SQL("SELECT {columns} FROM ({body}) AS rows GROUP BY grp ORDER BY grp").format(
            columns=sql.SQL(", ").join(map(sql.SQL, ("grp", "count(*)", *aggregates))), body=body.select(False)
        )
        return self.conn.execute(query, body.params or None).fetchall()

    def groups(self, prefix: str, title: str, body: Body) -> dict[str, Figure]:
        """A list for each group, called by `title` and the group, and how long it is."""
        query = sql.SQL("COPY (SELECT * FROM ({body}) AS rows ORDER BY grp, {order}) TO STDOUT (FORMAT csv)").format(
            body=body.select(self.names), order=sql.SQL(body.order)
        )
        packers: dict[bytes, Packer] = {}
        with self.conn.cursor() as cursor, cursor.copy(query, body.params or None) as rows:
            for row in rows:
                group, _, rest = bytes(row).partition(b",")
                packer = packers.get(group)
                if packer is None:
                    packer = packers[group] = Packer()
                packer.add(rest)
        named = self.names and body.subject is not None
        columns = (*body.columns, *(NAMES if named else ()))
        found: dict[str, Figure] = {}
        for group, packer in packers.items():
            name = group.decode()
            made = Listing(
                f"{prefix}-{name}" if prefix else name,
                f"{title} {name}" if prefix else title,
                columns,
                packer.count,
                packer.packed(),
                len(NAMES) if named else 0,
            )
            self.lists.append(made)
            found[name] = Figure(made.count, made.id)
        return found

    def one(self, id_: str, title: str, body: Body) -> Figure:
        """The list of a body without groups, also when it is empty."""
        whole = replace(body, group="%(list_id)s", params={**body.params, "list_id": id_})
        found = self.groups("", title, whole)
        return found[id_] if found else self.keep(listing(id_, title, tuple(body.columns), ()))

    def keep(self, made: Listing) -> Figure:
        """A list that was made elsewhere."""
        self.lists.append(made)
        return Figure(made.count, made.id)
