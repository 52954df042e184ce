"""Eligibility at size: how long `retention.eligibility` takes beside a plain count of the same table.

    make bench-retention RECORDS=10000000            from 100,000 records on, ten times as many each time
    python -m tests.bench.eligibility --explain      and the plans

The catalog is generated on the shapes of the migrations: 80 classes with 120 rules, half of them triggered by
events and two classes guarded by conditions; one aggregation for ten records, with 75 % of the records in one;
10 % of the records held by 1,000 holds; 1 % suspended, half of them still; 0.5 % with a label or an event of their
own; 0.1 % extended; about 5 % due. It stands in a database of its own, on a PostgreSQL of its own in a temporary
folder, in the workspace BENCH_WORKSPACE (then the databases are kept, and used again), or on the server of
MUNIMENT_DATABASE_URL (whose role must be a superuser).
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from retention import eligibility, embedded
from retention.database import Connection, migrate
from retention.rules import Action, Authority, Condition, LaterRecords, Period, RecordClass, Rule, Schedule, Trigger

AS_OF = date(2026, 1, 1)
KINDS = 4
GOAL = 4  # times the baseline
BASELINE = "SELECT class_key, count(*), sum(bytes) FROM records GROUP BY 1"
# Trigger dates lie evenly in the twenty years before AS_OF, so that so many months leave about 5 % due.
DATED, EVENT = Period(months=220), Period(months=204)


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
            rule = Rule(f"r{number}-{i}", trigger, period, Action.DESTROY, Authority("bench"))
            # A record lies in an aggregation by chance here, so that most events came before some of its records.
            later = LaterRecords.STALE if trigger.name == "kind3" else LaterRecords.COVERED
            some.append(replace(rule, later_records=later))
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
        "INSERT INTO suspensions (suspension_id, subject_id, starts, ends, recorded_at, recorded_by, reason, "
        f"ended_recorded_at) SELECT gen_random_uuid(), {_RECORD.format('g')}, date '2019-01-01' + (g %% 300)::integer, "
        "CASE WHEN g %% 200 = 0 THEN date '2020-01-01' + (g %% 700)::integer END, now(), gen_random_uuid(), "
        f"'litigation', CASE WHEN g %% 200 = 0 THEN now() END {everything} WHERE g %% 200 < 2",
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
    conn.execute(
        f"INSERT INTO extensions SELECT {_RECORD.format('g')}, now(), date '2026-06-01', 'audit', gen_random_uuid() "
        f"{everything} WHERE g %% 1000 = 7",
        names,
    )
    conn.execute("ALTER TABLE records ADD CONSTRAINT records_pkey PRIMARY KEY (record_id)")
    conn.execute("CREATE INDEX records_by_aggregation ON records (aggregation_id) WHERE aggregation_id IS NOT NULL")
    conn.commit()
    conn.autocommit = True
    conn.execute("VACUUM ANALYZE")
    conn.autocommit = False


@contextmanager
def server() -> Iterator[tuple[str, bool]]:
    """URL of a superuser, and whether the databases are kept."""
    given, kept = os.environ.get("MUNIMENT_DATABASE_URL"), os.environ.get("BENCH_WORKSPACE")
    with tempfile.TemporaryDirectory(prefix="muniment-bench-") as folder:
        root = Path(kept or Path(folder) / "var")
        try:
            yield given or embedded.up(root, postgres=True, s3=False).superuser_url, kept is not None
        finally:
            if not given:
                embedded.down(root)


@contextmanager
def catalog(server_url: str, plan: Schedule, records: int, kept: bool) -> Iterator[Connection]:
    """A connection to a catalog of so many records."""
    name = f"bench_eligibility_{records}"
    identifier = sql.Identifier(name)
    url = server_url.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        there = conn.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None
        if not (there and kept):
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
            migrate(url)
            began = time.perf_counter()
            with psycopg.connect(url) as filling:
                generate(filling, plan, records)
            print(
                f"# {records:,} records generated in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True
            )
        with psycopg.connect(url) as found:
            yield found
        if not kept:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


class Memory:
    """The most memory that one process of the server had while the block ran, without shared buffers; bytes.

    0 where the server is another machine's."""

    def __init__(self, conn: Connection) -> None:
        self.peak = 0
        self._done = threading.Event()
        row = conn.execute("SELECT pg_backend_pid()").fetchone()
        self._backend = row[0] if row else 0

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            with contextlib.suppress(psutil.Error):
                server = psutil.Process(self._backend).parent()
                for process in server.children() if server else ():  # workers are siblings of the backend
                    with contextlib.suppress(psutil.Error):
                        found = process.memory_info()
                        self.peak = max(self.peak, found.rss - found.shared)


def seconds(run: Any, times: int) -> float:
    """The median wall time of a few runs, after one to warm the caches."""
    run()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(conn: Connection, plan: Schedule, records: int) -> tuple[str, ...]:
    times = 5 if records < 10_000_000 else 3
    baseline = seconds(lambda: conn.execute(BASELINE).fetchall(), times)
    with Memory(conn) as memory:
        measured = seconds(lambda: eligibility.due(conn, plan, AS_OF), times)
    due = sum(row.records for row in eligibility.due(conn, plan, AS_OF))
    ratio, mine = measured / baseline, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"{records:,}", f"{due / records:.1%}", f"{baseline:.3f} s", f"{measured:.3f} s", f"{ratio:.2f}",
        f"{max(memory.peak, mine) / 2**20:.0f} MiB", "ok" if ratio <= GOAL else "MISSED",
    )  # fmt: skip


def explain(conn: Connection, plan: Schedule) -> None:
    conn.execute("SET LOCAL parallel_tuple_cost = 0.001")  # as `due` does
    due = eligibility.statement(conn, plan, AS_OF)
    for query in (sql.SQL(BASELINE), due + sql.SQL("SELECT class_key, count(*), sum(bytes) FROM due GROUP BY 1")):
        rows = conn.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS) ") + query)
        print("\n" + "\n".join(row[0] for row in rows), flush=True)


def main() -> None:
    most = int(os.environ.get("RECORDS", "1000000"))
    sizes = [n for n in (10**5, 10**6, 10**7) if n < most] + [most]
    plan = schedule()
    rows: list[tuple[str, ...]] = [("records", "due", "GROUP BY", "eligibility", "ratio", "memory", f"at most {GOAL}")]
    with server() as (url, kept):
        for records in sizes if "--only" not in sys.argv else [most]:
            with catalog(url, plan, records, kept) as conn:
                rows.append(measure(conn, plan, records))
                if "--explain" in sys.argv:
                    explain(conn, plan)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if any(row[-1] == "MISSED" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
