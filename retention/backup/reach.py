"""Reach: that the destruction of a plan reached the recovery points, shown and certified (requirements: storage).

Rules of this module:
- Asked once the term of the key safe's copies is over, reckoned from the night in which the last bucket that the plan
  took rows from lost its key. Before that an old copy of the safe may open an old row, and the answer is a refusal.
- Keys that can be had are those of this workspace's safe and of every copy of it in every second vault. Rows of a
  destroyed record's key are looked for in every recovery point of every second vault (pages that points share are read
  once); not one may be wrapped under a key that can be had. Of a stated number of them that is tried besides, with
  every key, whatever the row says that it was wrapped under.
- The method is shown to work on something that must open: a record that lives is opened, from a second vault that has
  content of the plan, by its row in a point there and the keys that can be had. Where nothing lives there any more the
  certificate says so.
- What opens is named, and there is no certificate. One is made once, signed as the execution certificate is, and kept
  as a record of its own; its event has its record and the plan.
- What it is: cryptographic erase in the sense of NIST SP 800-88, self-assessed, with no validated (FIPS 140) module. A
  copy of the safe, or of the catalog and the root, that somebody made elsewhere is beyond it, and it says so.
- Memory is that of the plan's ids and of their rows in the points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from retention import ledger
from retention.archive import Archive
from retention.backup import points
from retention.backup.points import Page, Point
from retention.backup.pruning import SAFE_TERM
from retention.database import Connection, transaction
from retention.disposition import certificate, evidence
from retention.disposition.plans import show
from retention.errors import Damaged, MunimentError, Refused
from retention.history import keys, publishing
from retention.ledger import Event
from retention.seal import Bucket
from retention.tlog.note import Verifier
from retention.vault.base import Vault

FORMAT = "muniment-reach-certificate-1"
TRIED = 1_000  # rows that every key is tried on
_CONTROLS = 100  # records that live of which one must open

# What was destroyed or handed on with a plan. Its keys are gone everywhere, or this says where they are not.
_GONE = "SELECT record_id FROM tombstones WHERE plan_id = %s"

# Plans that can be proved now: of every bucket that lost rows the key is gone, for long enough.
_DUE = """
SELECT p.plan_id FROM plans p
 WHERE p.certificate_id IS NOT NULL
   AND EXISTS (SELECT FROM tombstones t WHERE t.plan_id = p.plan_id)
   AND NOT EXISTS (SELECT FROM plan_remains m LEFT JOIN replaced_buckets r ON r.bucket_id = m.remains_id
                    WHERE m.plan_id = p.plan_id AND m.kind = 'bucket'
                      AND (r.dropped_at IS NULL OR r.dropped_at > %(before)s))
   AND NOT EXISTS (SELECT FROM event_subjects s JOIN events e USING (position)
                    WHERE s.subject_id = p.plan_id AND e.type = 'val')
 ORDER BY p.plan_id
"""


@dataclass(slots=True)
class Looked:
    """What was seen in one second vault."""

    name: str
    points: int = 0
    holding: int = 0  # of them, with content of the plan
    oldest: tuple[UUID, datetime] | None = None  # of those
    copies: dict[UUID, int] = field(default_factory=dict)  # objects of destroyed records that points name
    rows: dict[tuple[UUID, UUID], bytes] = field(default_factory=dict)  # record and bucket -> wrapped key
    living: dict[UUID, tuple[UUID, bytes]] = field(default_factory=dict)  # some that may serve as control
    safes: int = 0  # copies of the key safe


@dataclass(slots=True)
class Reach:
    """What came out. `problems`: what opens what was destroyed or cannot be looked at; then there is no certificate."""

    plan_id: UUID
    certificate_id: UUID | None = None
    records: int = 0
    vaults: list[Looked] = field(default_factory=list)
    keys: int = 0  # bucket keys that can be had
    tried: int = 0  # rows that each of them was tried on
    control: UUID | None = None  # the record that did open
    problems: list[str] = field(default_factory=list)


def due(archive: Archive, now: datetime) -> list[UUID]:
    """The plans that can be proved now and are not yet."""
    with transaction(archive.connections) as conn:
        return [row[0] for row in conn.execute(_DUE.encode(), {"before": now - SAFE_TERM})]


def prove(archive: Archive, plan_id: UUID, clock: Callable[[], datetime]) -> Reach:
    """Look whether anything opens what the plan destroyed, and certify that nothing does. Again: the same certificate.

    Raises NotFound, Refused before the term, UsageError for a second vault that is not configured any more,
    ServiceUnavailable for one that is away."""
    found = Reach(plan_id, evidence.find(archive, _place(plan_id)))
    if found.certificate_id is not None:
        _enter(archive, found, clock())
        return found
    with transaction(archive.connections) as conn:
        executed = show(conn, plan_id).certificate_id
        if executed is None:
            raise Refused(f"refusing to prove plan {plan_id}: it is not executed to its end.")
        dropped = _refuse_early(conn, plan_id, clock())
        gone = {row[0] for row in conn.execute(_GONE, (plan_id,))}
        known = keys.all_keys(conn)
        vaults = publishing.joined(conn, archive)
    if not gone:
        raise Refused(f"refusing to prove plan {plan_id}: nothing of it was destroyed or handed on.")
    found.records = len(gone)
    had = _keys(archive, vaults, found)
    for one in found.vaults:
        _look(one, vaults[one.name], [key.verifier for key in known], gone, had, found.problems)
    _try(found, had)
    if not found.problems:
        _control(archive, found, vaults, had)
    if found.problems:
        return found
    stated = _stated(archive, found, executed, dropped, vaults, clock())
    content = certificate.signed(archive, stated)
    found.certificate_id = evidence.keep(archive, _place(plan_id), f"reach certificate {plan_id}", content, clock)
    _enter(archive, found, clock())
    return found


def _place(plan_id: UUID) -> str:
    return f"reach {plan_id}"


def _refuse_early(conn: Connection, plan_id: UUID, now: datetime) -> datetime | None:
    """When the last key of a bucket that lost rows was dropped. Raises Refused before the term after it."""
    rows = conn.execute(
        """SELECT m.remains_id, r.dropped_at
             FROM plan_remains m LEFT JOIN replaced_buckets r ON r.bucket_id = m.remains_id
            WHERE m.plan_id = %s AND m.kind = 'bucket' ORDER BY 1""",
        (plan_id,),
    ).fetchall()
    if waiting := [bucket for bucket, at in rows if at is None]:
        raise Refused(
            f"refusing to prove plan {plan_id}: bucket {waiting[0]} still has the key that its records had. It is "
            "replaced nightly, or now: muniment key rekey."
        )
    last = max((at for _, at in rows), default=None)
    if last is not None and now < last + SAFE_TERM:
        raise Refused(
            f"refusing to prove plan {plan_id} before {(last + SAFE_TERM).astimezone(UTC):%Y-%m-%d %H:%M} UTC: until "
            "then copies of the key safe may be there that open old copies of the catalog."
        )
    return last


# ---------------------------------------------------------------- what can be had, and what is there


def _keys(archive: Archive, vaults: Mapping[str, Vault], found: Reach) -> dict[UUID, tuple[Bucket, str]]:
    """Every key of a bucket that is anywhere, and where."""
    had: dict[UUID, tuple[Bucket, str]] = {}
    for name, vault in vaults.items():
        looked = Looked(name)
        found.vaults.append(looked)
        for stored in vault.list(points.SAFE):
            with vault.open(stored.key) as file:
                content = file.read()
            looked.safes += 1
            where = f"{stored.key} in second vault {name}"
            try:
                had |= {bucket.id: (bucket, where) for bucket in archive.safe.buckets_of(content, where).values()}
            except Damaged as error:
                found.problems.append(f"{error} What it holds cannot be looked at.")
    had |= {bucket.id: (bucket, "the key safe of this workspace") for bucket in archive.safe.buckets()}
    found.keys = len(had)
    return had


def _look(
    looked: Looked,
    vault: Vault,
    verifiers: Sequence[Verifier],
    gone: set[UUID],
    had: Mapping[UUID, object],
    problems: list[str],
) -> None:
    """Rows and objects of what is gone, in every point of one vault."""
    holding: dict[str, frozenset[str]] = {}  # objects of destroyed records, by page
    seen: set[str] = set()
    named: set[str] = set()
    for point_id in points.listed(vault):
        try:
            point = points.read(vault, point_id, verifiers)
            for subject, bucket, wrapped in _new_rows(vault, point, seen):
                if subject in gone:
                    looked.rows[subject, bucket] = wrapped
                elif len(looked.living) < _CONTROLS and bucket in had:
                    looked.living[subject] = bucket, wrapped
            for page in point.index.objects:
                if page.sha256 not in holding:
                    holding[page.sha256] = frozenset(_of(vault, page, gone))
        except MunimentError as error:
            problems.append(f"recovery point {point_id} in second vault {looked.name}: {error}")
            continue
        looked.points += 1
        there = frozenset[str]().union(*(holding[page.sha256] for page in point.index.objects))
        if there:
            looked.holding += 1
            looked.oldest = looked.oldest or (point.id, point.time)
            named |= there
    for key in named:
        record = UUID(key.split("/")[1])
        looked.copies[record] = looked.copies.get(record, 0) + 1


def _new_rows(vault: Vault, point: Point, seen: set[str]) -> Iterator[tuple[UUID, UUID, bytes]]:
    """Record, bucket and wrapped key of the rows in pages that were not read yet."""
    for table in point.index.tables:
        if table.name != "subject_keys":
            continue
        places = [table.columns.index(name) for name in ("subject_id", "bucket_id", "wrapped")]
        for page in table.pages:
            if page.sha256 in seen:
                continue
            seen.add(page.sha256)
            for line in points.unpacked(vault, page.sha256).splitlines():
                cells = line.split(b"\t")
                subject, bucket, wrapped = (cells[place].decode() for place in places)
                yield UUID(subject), UUID(bucket), bytes.fromhex(wrapped.removeprefix("\\\\x"))  # as COPY escapes it


def _of(vault: Vault, page: Page, gone: set[UUID]) -> Iterator[str]:
    """The keys of objects of destroyed records in one page."""
    for line in points.unpacked(vault, page.sha256).splitlines():
        key = line.split(b"\t")[0].decode()
        folder, _, rest = key.partition("/")
        if folder == "records" and UUID(rest[:36]) in gone:
            yield key


# ---------------------------------------------------------------- what opens


def _try(found: Reach, had: Mapping[UUID, tuple[Bucket, str]]) -> None:
    """Nothing that can be had may unwrap a row of what is gone; where it does, it is named."""
    for one in found.vaults:
        for (record, bucket_id), wrapped in one.rows.items():
            if bucket_id in had and _unwraps(had[bucket_id][0], wrapped):
                found.problems.append(
                    f"record {record}: its key, as recovery points in second vault {one.name} have it, opens with "
                    f"bucket {bucket_id}, which is in {had[bucket_id][1]}. Take that away, and prove it again."
                )
        for wrapped in islice(one.rows.values(), TRIED):
            found.tried += 1
            if any(_unwraps(bucket, wrapped) for bucket, _ in had.values()) and not found.problems:
                found.problems.append(f"second vault {one.name}: a row opens with another bucket's key than it names.")


def _unwraps(bucket: Bucket, wrapped: bytes) -> bool:
    try:
        bucket.unwrap(wrapped)
    except Damaged:
        return False
    return True


def _control(
    archive: Archive, found: Reach, vaults: Mapping[str, Vault], had: Mapping[UUID, tuple[Bucket, str]]
) -> None:
    """That what lives does open, the same way, from the same vault: otherwise nothing is shown."""
    lives = False
    for one in found.vaults:
        if one.oldest is None:
            continue
        with transaction(archive.connections) as conn:
            rows = conn.execute(
                "SELECT record_id, sealed_sha256 FROM contents JOIN records USING (record_id) "
                "WHERE record_id = ANY(%s) AND state = 1 ORDER BY 1",
                (list(one.living),),
            ).fetchall()
        for record, digest in rows:
            lives = True
            bucket_id, wrapped = one.living[record]
            try:
                with (
                    vaults[one.name].open(f"records/{record}/{bytes(digest).hex()}") as stream,
                    Path(os.devnull).open("wb") as nowhere,
                ):
                    had[bucket_id][0].unwrap(wrapped).open_file(stream, nowhere)
            except MunimentError:
                continue
            found.control = record
            return
    if lives:
        found.problems.append(
            "no record that lives opens from a second vault either: then that nothing of the plan opens shows nothing. "
            "Look what is wrong: muniment backup check --read-data 100%."
        )


# ---------------------------------------------------------------- the certificate


def _stated(
    archive: Archive,
    found: Reach,
    executed: UUID,
    dropped: datetime | None,
    vaults: Mapping[str, Vault],
    now: datetime,
) -> dict[str, Any]:
    with transaction(archive.connections) as conn:
        left = [row[0] for row in conn.execute("SELECT name FROM backup_vaults WHERE left_at IS NOT NULL ORDER BY 1")]
    copies: dict[UUID, int] = {}
    for one in found.vaults:
        for record, number in one.copies.items():
            copies[record] = copies.get(record, 0) + number
    return {
        "format": FORMAT,
        "archive": archive.safe.tag.hex(),
        "plan": str(found.plan_id),
        "execution_certificate": {
            "record": str(executed),
            "sha256": sha256(evidence.read(archive, executed)).hexdigest(),
        },
        "proved": _time(now),
        "keys_dropped": _time(dropped),
        "term_days": SAFE_TERM.days,
        "records": found.records,
        "second_vaults": [
            {
                "name": one.name,
                "url": vaults[one.name].url,
                "points": one.points,
                "points_with_content": one.holding,
                "oldest_with_content": one.oldest and {"point": str(one.oldest[0]), "time": _time(one.oldest[1])},
                "copies_of_the_key_safe": one.safes,
                "rows_of_keys_found": len(one.rows),
            }
            for one in found.vaults
        ],
        "second_vaults_let_go_not_looked_at": left,
        "sealed_copies_left": {str(record): number for record, number in sorted(copies.items())},
        "bucket_keys_that_can_be_had": found.keys,
        "rows_that_each_was_tried_on": found.tried,
        "control": found.control and str(found.control),
        "control_said": "this record lives, and opened from a second vault by the same keys"
        if found.control
        else "nothing that lives is in a point with content of the plan: there was nothing to open",
        "places_of_keys": [
            "the catalog's table subject_keys, and its copies in recovery points, dumps, write-ahead log: wrapped",
            "the key safe of the workspace: bucket keys, sealed to the root",
            "copies of the key safe in second vaults, for the term stated here",
            "memory of the processes that used them",
        ],
        "method": "every row of a destroyed record's key in every recovery point is wrapped under a key that is in no "
        "key safe and in no copy of one (cryptographic erase in the sense of NIST SP 800-88, self-assessed; no module "
        "validated under FIPS 140). A copy of the key safe that was made elsewhere is not covered.",
    }


def _enter(archive: Archive, found: Reach, now: datetime) -> None:
    """That it was proved, into the history; once."""
    assert found.certificate_id is not None
    with transaction(archive.connections) as conn:
        show(conn, found.plan_id, lock=True)
        there = conn.execute(
            "SELECT FROM event_subjects s JOIN events e USING (position) "
            "WHERE s.subject_id = %s AND e.type = 'val' LIMIT 1",
            (found.plan_id,),
        )
        if there.rowcount == 0:
            detail = {"plan": str(found.plan_id), "reach_certificate": str(found.certificate_id)}
            both = (found.plan_id, found.certificate_id)
            ledger.append(conn, [Event("val", now, archive.agent, both, detail=detail)], now)


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")
