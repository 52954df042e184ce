"""What-if at size: how long `retention.whatif` takes beside `retention.eligibility` on the same catalog.

    RECORDS=10000000 python -m tests.bench.whatif

The catalog is that of tests.bench.eligibility (and its settings). Schedules are compared with the one in force: four
of its 80 classes a year longer, one of each kind; a quarter of them; and every class. The goal is at most three times
the time of `eligibility.due`; a schedule that moves every class is measured, and has none (docs/adr/0003-what-if.md).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from retention import eligibility, whatif
from retention.database import Connection
from retention.rules import Period, Schedule
from tests.bench import eligibility as catalog

GOAL = 3
FEW = (0, 25, 35, 65)  # a dated rule; two dated ones; an event; a date and an event


def longer(plan: Schedule, classes: tuple[int, ...]) -> Schedule:
    """The same with a year more in these classes."""
    changed = list(plan.classes)
    for number in classes:
        rules = (replace(r, period=r.period and Period(r.period.months + 12)) for r in changed[number].rules)
        changed[number] = replace(changed[number], rules=tuple(rules))
    return replace(plan, classes=tuple(changed))


def measure(conn: Connection, plan: Schedule, new: Schedule, times: int) -> tuple[float, whatif.WhatIf]:
    """The wall time of a comparison, and what it found; each is rolled back."""
    found = []

    def run() -> None:
        found.append(whatif.compare(conn, plan, new, catalog.AS_OF))
        conn.rollback()

    return catalog.seconds(run, times), found[-1]


def main() -> None:
    records = int(os.environ.get("RECORDS", "1000000"))
    times = 3 if records < 10_000_000 else 1
    plan = catalog.schedule()
    with catalog.server() as (url, kept), catalog.catalog(url, plan, records, kept) as conn:
        with catalog.Memory(conn) as memory:
            due = catalog.seconds(lambda: eligibility.due(conn, plan, catalog.AS_OF), times)
        conn.rollback()
        print(f"{records:,} records; eligibility.due {due:.2f} s, {memory.peak / 2**20:.0f} MiB", flush=True)
        missed = False
        every = tuple(range(80))
        for name, classes in (("no class", ()), ("4 classes", FEW), ("20 classes", every[::4]), ("80 classes", every)):
            began = time.perf_counter()
            with catalog.Memory(conn) as memory:
                taken, found = measure(conn, plan, longer(plan, classes), times)
            missed = missed or (taken > GOAL * due and classes != every)
            print(
                f"{name} changed: {taken:.2f} s, {taken / due:.2f} times, {memory.peak / 2**20:.0f} MiB; "
                f"{found.total.extended.records:,} longer, {found.total.ceases_due.records:,} cease to be due "
                f"({time.perf_counter() - began:.0f} s in all)",
                flush=True,
            )
    if missed:
        print(f"MISSED: at most {GOAL} times", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
