"""Changes to the catalog past the application, for tests that they are found: as one who may do everything."""

from __future__ import annotations

import random

from psycopg import sql

from retention.database import Connection


def without_checks(conn: Connection) -> None:
    """Drop what would refuse another value: what is tampered with here is what an owner could change."""
    checks = conn.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype IN ('c', 'u', 'n') "
        "AND connamespace = 'public'::regnamespace AND (contype <> 'n' OR NOT conkey && (SELECT array_agg(a) FROM "
        "pg_constraint p, unnest(p.conkey) AS a WHERE p.contype = 'p' AND p.conrelid = pg_constraint.conrelid))"
    ).fetchall()
    for table, constraint in checks:
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
        conn.execute(drop.format(sql.Identifier(table), sql.Identifier(constraint)))
    unique = conn.execute(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)"
    ).fetchall()
    for (index,) in unique:
        conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(index)))
    identities = conn.execute(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND a.attidentity <> ''"
    ).fetchall()
    for table, column in identities:
        alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP IDENTITY")
        conn.execute(alter.format(sql.Identifier(table), sql.Identifier(column)))


def column_types(conn: Connection) -> dict[tuple[str, str], str]:
    rows = conn.execute(
        "SELECT attrelid::regclass::text, attname, atttypid::regtype::text FROM pg_attribute "
        "WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (SELECT oid FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')"
    )
    return {(table, column): kind for table, column, kind in rows}


# Another value of the same type, made of the present one.
OTHER = {
    "uuid": "gen_random_uuid()",
    "bigint": "coalesce({c}, 0) + 1000000",  # no other row has it
    "integer": "coalesce({c}, 0) + 1000",  # no other row has it
    "smallint": "(coalesce({c}, 0) + 1000)::smallint",
    "boolean": "{c} IS NOT TRUE",
    "text": "coalesce({c}, '') || 'x'",
    "date": "coalesce({c}, date '2000-01-01') + 1",
    "timestamp with time zone": "coalesce({c}, timestamptz '2000-01-01 00:00Z') + interval '1 microsecond'",
    "bytea": "CASE WHEN length({c}) > 0 THEN set_bit({c}, 0, 1 - get_bit({c}, 0)) ELSE '\\x00'::bytea END",
    "tsvector": "coalesce({c}, ''::tsvector) || 'x'::tsvector",
    "jsonb": "coalesce({c}, '{{}}'::jsonb) || '[1]'::jsonb",
    "date[]": "coalesce({c}, '{{}}'::date[]) || date '2001-01-01'",
    "text[]": "coalesce({c}, '{{}}'::text[]) || 'x'::text",
    "uuid[]": "coalesce({c}, '{{}}'::uuid[]) || gen_random_uuid()",
    "bytea[]": "coalesce({c}, '{{}}'::bytea[]) || '\\x00'::bytea",
}


def other(kind: str, column: str) -> sql.Composed:
    return sql.SQL(OTHER[kind].replace("{c}", "{0}")).format(sql.Identifier(column))


def columns_of(conn: Connection, table: str) -> list[str]:
    """In their order."""
    return [
        row[0]
        for row in conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
            "ORDER BY attnum",
            (table,),
        )
    ]


def some_row(conn: Connection, table: str, chance: random.Random) -> str | None:
    """The address of one."""
    rows = conn.execute(sql.SQL("SELECT ctid::text FROM {} ORDER BY ctid").format(sql.Identifier(table))).fetchall()
    return str(chance.choice(rows)[0]) if rows else None


def flipped(conn: Connection, table: str, column: str, kind: str, chance: random.Random) -> None:
    ctid = some_row(conn, table, chance)
    changed = conn.execute(
        sql.SQL("UPDATE {} SET {} = {} WHERE ctid = {}::tid").format(
            sql.Identifier(table), sql.Identifier(column), other(kind, column), ctid
        )
    )
    assert changed.rowcount == 1


def deleted(conn: Connection, table: str, chance: random.Random) -> None:
    ctid = some_row(conn, table, chance)
    query = sql.SQL("DELETE FROM {} WHERE ctid = {}::tid").format(sql.Identifier(table), ctid)
    assert conn.execute(query).rowcount == 1
