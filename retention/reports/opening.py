"""Keys: whether those of what is kept were tried, whether those of what is locked stand beside it, and whether those
of what was destroyed are gone from the safe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retention import locked_keys, rekeying, unwrapping
from retention.reports.lists import Body, Collector, instant
from retention.reports.model import Check, Figure, Status

PERIOD = timedelta(days=90)  # every key is unwrapped at least once in this period
NIGHT = timedelta(hours=26)  # buckets that lost keys get a new one each night

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
_WAITING = Body(
    columns={"bucket": "waiting.bucket_id", "since": instant("waiting.since"), "plan": "waiting.plan_id"},
    source=rekeying.WAITING,
    order="since, bucket, plan",
)
_BESIDE = Body(
    columns={"record": "beside.record_id", "since": instant("beside.since")},
    source=locked_keys.WAITING,
    order="since, record",
)


@dataclass(frozen=True, slots=True)
class Opening:
    """Buckets that have keys, by list; keys in them, the test that is longest ago, and buckets that failed theirs.
    Those whose key opens in old copies what was destroyed, by list, and since when the first of them does. Records
    that a lock keeps without their key beside them, by list, and since when."""

    buckets: Figure
    keys: Figure
    oldest: datetime | None
    failed: int
    waiting: Figure
    since: datetime | None
    beside: Figure
    alone: datetime | None


def opening(collect: Collector, now: datetime) -> Opening:
    """What the catalog knows of keys."""
    buckets = collect.one("keys-tested", "Buckets of keys, by when they were tested", _BUCKETS)
    rows = collect.numbers(
        _BUCKETS, "sum(keys)", "min(tested)::timestamptz", "count(*) FILTER (WHERE outcome = 'failure')"
    )
    keys, oldest, failed = rows[0][2:] if rows else (0, None, 0)
    waiting = collect.one("keys-waiting", "Buckets that wait for a new key", _WAITING)
    waits = collect.numbers(_WAITING, "min(since)::timestamptz")
    since = waits[0][2] if waits else None
    at = replace(_BESIDE, params={"now": now})
    beside = collect.one("keys-beside", "Locked records without their key beside them", at)
    alone = collect.numbers(at, "min(since)::timestamptz")
    tested = Figure(int(keys), buckets.listing, "keys")
    return Opening(buckets, tested, oldest, failed, waiting, since, beside, alone[0][2] if alone else None)


def checks(found: Opening, now: datetime) -> list[Check]:
    """What must hold of it. Pure."""
    return [_tested(found, now), _gone(found, now), _kept(found, now)]


def _kept(found: Opening, now: datetime) -> Check:
    id_, title = "keys-beside", "Keys of what is locked"
    if found.alone is None:
        said = "Each stands in the vault beside what it opens, under the same lock."
        return Check(id_, Status.GREEN, title, said, figure=found.beside)
    first = f"{found.alone:%Y-%m-%d %H:%M} UTC"
    said = f"{found.beside.value:,} locked records have none beside them, the first since {first}."
    if now - found.alone > NIGHT:
        then = "Whoever loses the key safe loses what the vault keeps. See what muniment key rekey says."
        return Check(id_, Status.RED, title, said, then, found.beside)
    return Check(id_, Status.AMBER, title, said, "muniment key rekey, which the DAG runs each night.", found.beside)


def _gone(found: Opening, now: datetime) -> Check:
    id_, title = "keys-waiting", "Keys of what was destroyed"
    if found.since is None:
        return Check(id_, Status.GREEN, title, "None is in the key safe any more.", figure=found.waiting)
    first = f"{found.since:%Y-%m-%d %H:%M} UTC"
    said = f"{found.waiting.value:,} buckets lost keys, the first on {first}, and wait for a new one."
    if now - found.since > NIGHT:
        then = "Until then old copies of the catalog open what was destroyed. See what muniment key rekey says."
        return Check(id_, Status.RED, title, said, then, found.waiting)
    return Check(id_, Status.AMBER, title, said, "muniment key rekey, which the DAG runs each night.", found.waiting)


def _tested(found: Opening, now: datetime) -> Check:
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
