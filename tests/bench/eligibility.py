"""Eligibility at size: how long `retention.eligibility` takes beside a plain count of the same table.

    RECORDS=10000000 python -m tests.bench.eligibility

The catalog is generated on the shapes of the migrations: 80 classes with 120 rules, half of them triggered by
events and two classes guarded by conditions; one aggregation for ten records, with 75 % of the records in one;
10 % of the records held by 1,000 holds; 1 % suspended; 0.5 % with a label or an event of their own; about 5 %
due. It stands in a database of its own, on a PostgreSQL of its own in a temporary folder or on the server of
MUNIMENT_DATABASE_URL (whose role must be a superuser), and is dropped at the end.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from retention import eligibility, embedded
from retention.database import Connection, migrate
from retention.rules import Action, Authority, Condition, Period, RecordClass, Rule, Schedule, Trigger

AS_OF = date(2026, 1, 1)
KINDS = 4
BASELINE = "SELECT class_key, count(*), sum(bytes) FROM records GROUP BY 1"
# Trigger dates lie evenly in the twenty years before AS_OF, so that so many months leave about 5 % due.
DATED, EVENT = Period(months=220), Period(months=208)


def schedule() -> Schedule:
    """20 classes each of: one dated rule; one event rule; a dated and an event rule; 10 each of two of a kind."""
    shapes: list[tuple[str, ...]] = [("received",)] * 20 + [("received", "document_date")] * 10
    shapes += [("e",)] * 20 + [("e", "e")] * 10 + [("received", "e")] * 20
    classes = []
    for number, shape in enumerate(shapes):
        some = []
        for i, kind in enumerate(shape):
            event = kind == "e"
            trigger = Trigger(f"kind{(number + i) % KINDS}", True) if event else Trigger(kind)
            period = EVENT if event else DATED
            some.append(Rule(f"r{number}-{i}", trigger, period, Action.DESTROY, Authority("bench")))
        if number in {60, 61}:
            some[1] = replace(some[1], when=(Condition(Trigger("kind0", True)),))
        classes.append(RecordClass(f"CLASS-{number:03d}", {"en": "Bench"}, tuple(some)))
    return Schedule("bench", "Bench", "UTC", tuple(classes))


_AGGREGATE = "('01900000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
_RECORD = "('01910000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"

# A spread of numbers that is the same in each run, so that two runs measure the same rows.
_MIXED = "(hashint8({}) & 2147483647)"


def generate(conn: Connection, plan: Schedule, records: int) -> None:
    """Fill the catalog. Foreign keys are not checked row by row: what is written here refers rightly."""
    aggregations = max(records // 10, 1)
    names = {"n": records, "aggregations": aggregations, "classes": len(plan.classes), "kinds": KINDS}
    conn.execute("SET session_replication_role = replica")
    conn.execute("ALTER TABLE records DROP CONSTRAINT records_pkey CASCADE")
    conn.execute("DROP INDEX records_by_aggregation")
    conn.execute("INSERT INTO classes (class_id) SELECT unnest(%s::text[])", ([c.id for c in plan.classes],))
    conn.execute("INSERT INTO trigger_kinds (kind) SELECT 'kind' || g FROM generate_series(0, %s) g", (KINDS - 1,))
    first = (
        f"SELECT g, date '2006-01-01' + {_MIXED.format('g * 7 + 1')} %% 7305 AS day FROM generate_series(1, %(n)s) g"
    )
    conn.execute(
        f"""INSERT INTO records (record_id, aggregation_id, bytes, recorded_at, received, document_date, modified,
                                 class_key, special)
            SELECT {_RECORD.format("g")},
                   CASE WHEN g %% 4 > 0 THEN {_AGGREGATE.format(f"1 + {_MIXED.format('g')} %% %(aggregations)s")} END,
                   1000 + g %% 100000, day, day, day - g %% 30, day + g %% 30,
                   1 + {_MIXED.format("g * 13")} %% %(classes)s, g %% 200 < 3
              FROM ({first}) AS dated""",
        names,
    )
    conn.execute(
        f"INSERT INTO aggregations SELECT {_AGGREGATE.format('g')}, now(), 'case' "
        "FROM generate_series(1, %(aggregations)s) g",
        names,
    )
    conn.execute(
        f"""INSERT INTO current_triggers
            SELECT {_AGGREGATE.format("g")}, ARRAY(SELECT date '2006-01-01' + {_MIXED.format("g * 4 + k")} %% 7305
                                                     FROM generate_series(1, %(kinds)s) AS k)
              FROM generate_series(1, %(aggregations)s) g""",
        names,
    )
    everything = "FROM generate_series(1, %(n)s) g"
    conn.execute(
        f"INSERT INTO suspensions SELECT gen_random_uuid(), {_RECORD.format('g')}, '2020-01-01', NULL, now(), "
        f"gen_random_uuid(), 'litigation' {everything} WHERE g %% 200 < 2",
        names,
    )
    conn.execute(
        f"INSERT INTO record_labels SELECT {_RECORD.format('g')}, 1 + g %% 20, now() {everything} WHERE g %% 400 = 2",
        names,
    )
    conn.execute(
        f"INSERT INTO current_triggers SELECT {_RECORD.format('g')}, ARRAY['2007-01-01'::date] {everything} "
        "WHERE g %% 400 = 202",
        names,
    )
    conn.execute(
        "INSERT INTO holds (hold_id, recorded_at, recorded_by, mode, review_on) "
        "SELECT gen_random_uuid(), now(), gen_random_uuid(), 'static', current_date FROM generate_series(1, 1000)"
    )
    conn.execute(
        f"""INSERT INTO hold_members SELECT {_RECORD.format("g")}, h.hold_id, now()
              FROM (SELECT hold_id, row_number() OVER () - 1 AS n FROM holds) AS h
              JOIN generate_series(5, %(n)s, 10) g ON (g / 10) %% 1000 = h.n""",
        names,
    )
    conn.execute("ALTER TABLE records ADD CONSTRAINT records_pkey PRIMARY KEY (record_id)")
    conn.execute("CREATE INDEX records_by_aggregation ON records (aggregation_id) WHERE aggregation_id IS NOT NULL")
    conn.commit()
    conn.autocommit = True
    conn.execute("VACUUM ANALYZE")
    conn.autocommit = False


@contextmanager
def server() -> Iterator[str]:
    """URL of a superuser on a database of our own."""
    with tempfile.TemporaryDirectory(prefix="muniment-bench-") as folder:
        root = Path(folder) / "var"
        given = os.environ.get("MUNIMENT_DATABASE_URL")
        url = given or embedded.up(root, postgres=True, s3=False).superuser_url
        name = f"bench_{os.getpid()}"
        try:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                yield url.rsplit("/", 1)[0] + f"/{name}"
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        finally:
            if not given:
                embedded.down(root)


def seconds(run: Any, times: int = 3) -> float:
    """The median wall time of a few runs, after one to warm the caches."""
    run()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    records = int(os.environ.get("RECORDS", "1000000"))
    plan = schedule()
    with server() as url:
        migrate(url)
        began = time.perf_counter()
        with psycopg.connect(url) as conn:
            generate(conn, plan, records)
            print(f"{records:,} records generated in {time.perf_counter() - began:.0f} s", flush=True)
            rows = eligibility.due(conn, plan, AS_OF)
            due = sum(row.records for row in rows)
            baseline = seconds(lambda: conn.execute(BASELINE).fetchall())
            measured = seconds(lambda: eligibility.due(conn, plan, AS_OF))
            size = conn.execute("SELECT pg_size_pretty(pg_table_size('records'))").fetchone()
            print(f"records table {size[0] if size else '?'}; due {due:,} ({due / records:.1%}) in {len(rows)} classes")
            print(f"GROUP BY class, count, sum   {baseline:7.3f} s")
            print(f"eligibility                  {measured:7.3f} s")
            print(f"ratio                        {measured / baseline:7.2f}   (goal: at most 4)")
            if "--explain" in sys.argv:
                conn.execute("SET LOCAL parallel_tuple_cost = 0.001")  # as `due` does
                query = eligibility.statement(conn, plan, AS_OF)
                for text in (BASELINE, query + sql.SQL("SELECT class_key, count(*), sum(bytes) FROM due GROUP BY 1")):
                    asked = sql.SQL("EXPLAIN (ANALYZE, BUFFERS) ") + (sql.SQL(text) if isinstance(text, str) else text)
                    print("\n" + "\n".join(row[0] for row in conn.execute(asked)))


if __name__ == "__main__":
    main()
