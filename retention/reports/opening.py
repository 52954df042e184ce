"""Whether the keys of what is kept were tried: each bucket of them, when, and with what outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from retention import unwrapping
from retention.reports.lists import Body, Collector, instant
from retention.reports.model import Check, Figure, Status

PERIOD = timedelta(days=90)  # every key is unwrapped at least once in this period

_BUCKETS = Body(
    columns={
        "bucket": "tested.bucket_id",
        "class": "tested.scope",
        "month": "tested.month",
        "keys": "tested.keys",
        "tested": instant("tested.tested"),
        "outcome": "CASE WHEN tested.bad THEN 'failure' ELSE 'success' END",
    },
    source=unwrapping.BUCKETS,
    order="tested, bucket",
)


@dataclass(frozen=True, slots=True)
class Opening:
    """Buckets that have keys, by list; keys in them, the test that is longest ago, and buckets that failed theirs."""

    buckets: Figure
    keys: Figure
    oldest: datetime | None
    failed: int


def opening(collect: Collector) -> Opening:
    """What events tell of the tests of keys."""
    buckets = collect.one("keys-tested", "Buckets of keys, by when they were tested", _BUCKETS)
    rows = collect.numbers(
        _BUCKETS, "sum(keys)", "min(tested)::timestamptz", "count(*) FILTER (WHERE outcome = 'failure')"
    )
    keys, oldest, failed = rows[0][2:] if rows else (0, None, 0)
    return Opening(buckets, Figure(int(keys), buckets.listing, "keys"), oldest, failed)


def check(found: Opening, now: datetime) -> Check:
    """What must hold of it. Pure."""
    id_, title, figure = "keys-tested", "Keys that open what is kept", found.keys
    if found.oldest is None:
        return Check(id_, Status.GREEN, title, "There is no key yet.", figure=figure)
    said = f"{figure.value:,} keys in {found.buckets.value:,} buckets; the oldest test is of {found.oldest:%Y-%m-%d}."
    if found.failed:
        said = f"In {found.failed:,} of {found.buckets.value:,} buckets a key does not unwrap any more."
        then = "muniment fixity run --share 100 names each. Keep the key safe as it is; restore one that has its key."
        return Check(id_, Status.RED, title, said, then, found.buckets)
    if now - found.oldest > PERIOD:
        then = f"Every key must be tested within {PERIOD.days} days: muniment fixity run."
        return Check(id_, Status.RED, title, said, then, found.buckets)
    return Check(id_, Status.GREEN, title, said, figure=figure)
