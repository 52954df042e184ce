"""What is under holds: by hold, with the review that is owed and the flags that the vault has not confirmed.

Rules of this module:
- Every function reads within the snapshot of its collector and changes nothing.
- A hold is named by its id: its matter is what a person wrote, and is shown by `muniment hold show`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from retention.reports.lists import RECORDS, Body, Collector, instant
from retention.reports.model import Figure, Frozen, HoldLine, listing

_MEMBERS = Body(
    columns={
        "record": "r.record_id",
        "class": "c.class_id",
        "held_since": instant("m.recorded_at"),
        "bytes": "r.bytes",
    },
    source="hold_members m JOIN " + RECORDS + " ON r.record_id = m.record_id",
    order="class, record",
    group="m.hold_id",
    subject="r.record_id",
)
_HOLDS = Body(
    columns={
        "hold": "h.hold_id",
        "mode": "h.mode",
        "placed": instant("h.recorded_at"),
        "review_on": "h.review_on",
        "records": "(SELECT count(*) FROM hold_members m WHERE m.hold_id = h.hold_id)",
    },
    source="holds h",
    where="h.released_at IS NULL",
    order="review_on, hold",
)
_FLAGS = Body(
    columns={
        "subject": "f.subject_id",
        "wanted": "f.wanted",
        "queued": instant("f.queued_at"),
        "attempts": "f.attempts",
        "error": "f.error",
    },
    source="hold_flags f",
    where="f.wanted IS DISTINCT FROM f.actual",
    order="queued, subject",
)


def frozen(collect: Collector, today: date) -> Frozen:
    """Every hold in force, the review that comes first at the top."""
    numbers = {name: int(size) for name, _, size in collect.numbers(_MEMBERS, "sum(bytes)")}
    figures = collect.groups("held-by", "Records under hold", _MEMBERS)
    rows = collect.conn.execute(
        "SELECT hold_id, mode, recorded_at, review_on FROM holds WHERE released_at IS NULL ORDER BY review_on, hold_id"
    ).fetchall()
    overdue = replace(
        _HOLDS,
        where="h.released_at IS NULL AND h.review_on <= %(today)s",
        params={"today": today},
    )
    records = replace(
        _MEMBERS,
        columns={"record": "r.record_id", "class": "c.class_id", "bytes": "r.bytes"},
        source=RECORDS,
        where="EXISTS (SELECT FROM hold_members m WHERE m.record_id = r.record_id)",
    )
    queue = collect.conn.execute(
        "SELECT min(queued_at), count(error) FROM hold_flags WHERE wanted IS DISTINCT FROM actual"
    ).fetchone()
    oldest, failed = queue or (None, 0)
    return Frozen(
        lines=tuple(_line(collect, row, figures.get(str(row[0])), numbers.get(str(row[0]), 0)) for row in rows),
        holds=collect.one("holds", "Holds in force", _HOLDS),
        records=collect.one("frozen", "Records under a hold", records),
        overdue=collect.one("holds-overdue", "Holds past their review date", overdue),
        flags=collect.one("flags-waiting", "Flags of holds that the vault has not confirmed", _FLAGS),
        flags_oldest=oldest,
        flags_failed=failed,
    )


def _line(collect: Collector, row: tuple[Any, ...], members: Figure | None, size: int) -> HoldLine:
    if members is None:
        name = f"held-by-{row[0]}"
        members = collect.keep(listing(name, f"Records under hold {row[0]}", tuple(_MEMBERS.columns), ()))
    return HoldLine(row[0], row[1], row[2], row[3], members, Figure(size, members.listing, "bytes"))
