"""Which recovery points are kept, and the others taken away with what nothing else needs.

Rules of this module:
- Grandfather, father, son: of the newest points of the last so many days, weeks (ISO 8601), months and years that have
  one, the newest of each is kept. Days are those of the schedule's time zone. Every point that is kept has a reason, as
  restic's `forget` gives it.
- What the classes that go to a vault ask for together: the most of each number. Where none asks, 7 daily, 4 weekly, 12
  monthly, 7 yearly.
- The newest point is kept, whatever the numbers say, and so is the newest that is whole.
- A point goes before what it names: cut off anywhere, what is left is read as it was, and the next prune goes on.
- Objects and pages go that no point names any more. What a lock or a hold keeps stays, and is counted.
- What a run that was cut off had begun to write, which is no object, goes with them after a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from retention import backup, ledger, policy
from retention.archive import Archive
from retention.backup import points
from retention.backup.checking import merged
from retention.backup.points import Point
from retention.database import transaction
from retention.errors import Damaged, NotFound, Refused
from retention.history import keys
from retention.ledger import Event
from retention.rules import Schedule
from retention.vault.base import Vault

DEFAULT: Mapping[str, int] = {"daily": 7, "weekly": 4, "monthly": 12, "yearly": 7}
SAFE_TERM = timedelta(days=7)  # a copy of the key safe that is older opens what was destroyed since
_UNFINISHED = timedelta(days=1)  # nobody writes one object for longer
_AT_ONCE = 500  # objects that are erased at a time
_OURS = ("descriptors", "keys", "quarantine", "records", "schedules")

_PERIODS: Mapping[str, Callable[[date], object]] = {
    "daily": lambda day: day,
    "weekly": lambda day: day.isocalendar()[:2],
    "monthly": lambda day: (day.year, day.month),
    "yearly": lambda day: day.year,
}


@dataclass(slots=True)
class Pruned:
    """What went, and why the rest stays: reasons of each point that is kept."""

    kept: dict[UUID, tuple[str, ...]] = field(default_factory=dict)
    points: list[UUID] = field(default_factory=list)
    objects: int = 0
    pages: int = 0
    safes: int = 0
    uploads: int = 0  # that were cut off
    refused: int = 0  # objects that a lock or a hold keeps


def decide(taken: Iterable[tuple[UUID, date]], numbers: Mapping[str, int]) -> dict[UUID, tuple[str, ...]]:
    """Which of `taken` (in the order in which they were taken) are kept, with reasons. Pure."""
    newest_first = list(taken)[::-1]
    reasons: dict[UUID, list[str]] = {}
    if newest_first:
        reasons[newest_first[0][0]] = ["newest"]
    for period, of in _PERIODS.items():
        seen: set[object] = set()
        for point_id, day in newest_first:
            if len(seen) == numbers.get(period, 0):
                break
            if of(day) not in seen:
                seen.add(of(day))
                reasons.setdefault(point_id, []).append(period)
    return {point_id: tuple(why) for point_id, why in reasons.items()}


def numbers(schedule: Schedule, name: str) -> dict[str, int]:
    """What the classes that go to this vault ask for."""
    out = backup.elsewhere(schedule, name)
    asked = [known.backup.keep for known in schedule.classes if known.backup.keep and known.id not in out]
    if not asked:
        return dict(DEFAULT)
    return {period: max(keep.get(period, 0) for keep in asked) for period in DEFAULT}


def prune(archive: Archive, name: str, now: datetime, *, only_say: bool = False, drop_broken: bool = False) -> Pruned:
    """Take away what is not kept; `only_say` decides and changes nothing; with `drop_broken` points go that cannot be
    read any more, if another one is whole.

    Raises Damaged for such a point without that: nobody knows what it needs. UsageError, ServiceUnavailable."""
    vault = backup.second(archive, name)
    with backup.alone(archive, name):
        vault.check()
        with transaction(archive.connections) as conn:
            schedule = policy.current(conn).schedule
            verifiers = [key.verifier for key in keys.all_keys(conn)]
        zone = ZoneInfo(schedule.timezone)
        read: list[Point] = []
        broken: list[UUID] = []
        for point_id in points.listed(vault):
            try:
                read.append(points.read(vault, point_id, verifiers))
            except (Damaged, NotFound) as error:
                if not drop_broken:
                    raise Damaged(
                        f"{error} Nothing is taken away beside a point that cannot be read. `muniment backup check` "
                        "names what is wrong; `muniment backup prune --drop-broken` takes such points away."
                    ) from None
                broken.append(point_id)
        read.sort(key=lambda point: point.time)
        done = Pruned(decide([(p.id, p.time.astimezone(zone).date()) for p in read], numbers(schedule, name)))
        whole = next((p for p in reversed(read) if points.problem(vault, p) is None), None)
        if whole is not None:
            done.kept[whole.id] = ("newest that is whole", *done.kept.get(whole.id, ()))
        if broken and whole is None:
            raise Refused(
                f"refusing to take away what is left in {name}: no point there is whole. Take one first "
                "(`muniment backup run`), then this again."
            )
        done.points = [*broken, *(point.id for point in read if point.id not in done.kept)]
        if only_say:
            return done
        for point_id in done.points:
            vault.erase(f"{points.POINTS}/{point_id}")
        stays = [point for point in read if point.id in done.kept]
        _prune_objects(vault, stays, done)
        _prune_pages(vault, stays, done)
        _prune_safes(vault, stays, now, done)
        done.uploads = vault.sweep(now - _UNFINISHED)
        _enter(archive, name, done, now)
    return done


def _prune_objects(vault: Vault, stays: Sequence[Point], done: Pruned) -> None:
    """The listing beside what the points name, both in the order of keys."""
    of_page = {page.sha256: {""} for point in stays for page in point.index.objects}
    begins = sorted((points.unpacked(vault, digest).partition(b"\t")[0], digest) for digest in of_page)
    named = (one.key for one in merged(vault, begins, of_page))
    wanted = next(named, None)
    going: list[str] = []
    for folder in _OURS:
        for stored in vault.list(folder):
            while wanted is not None and wanted < stored.key:
                wanted = next(named, None)
            if wanted != stored.key:
                going.append(stored.key)
            if len(going) == _AT_ONCE:
                _erase(vault, going, done)
    _erase(vault, going, done)


def _erase(vault: Vault, going: list[str], done: Pruned) -> None:
    for key in going:
        try:
            done.objects += bool(vault.erase(key))
        except Refused:
            done.refused += 1
    going.clear()


def _prune_pages(vault: Vault, stays: Sequence[Point], done: Pruned) -> None:
    needed = {page.sha256 for point in stays for page in points.pages_of(point)} | {p.index_sha256 for p in stays}
    for key in [stored.key for stored in vault.list(points.PAGES)]:
        if key.rpartition("/")[2] not in needed:
            done.pages += bool(vault.erase(key))


def _prune_safes(vault: Vault, stays: Sequence[Point], now: datetime, done: Pruned) -> None:
    """Those that are older than the term; never the newest, nor the one that the newest point names."""
    copies = [stored.key for stored in vault.list(points.SAFE)]
    needed = {*copies[-1:], *(point.index.safe for point in stays[-1:])}
    for key in copies:
        if key in needed:
            continue
        taken = key.rpartition("/")[2].partition("-")[0]
        if datetime.strptime(taken, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC) < now - SAFE_TERM:
            done.safes += bool(vault.erase(key))


def _enter(archive: Archive, name: str, done: Pruned, now: datetime) -> None:
    detail = {
        "backup_vault": name,
        "pruned": [str(one) for one in done.points],
        "objects": done.objects,
        "pages": done.pages,
        "safes": done.safes,
    }
    with transaction(archive.connections) as conn:
        conn.execute(
            "UPDATE recovery_points SET pruned_at = %s WHERE vault = %s AND point_id = ANY(%s) AND pruned_at IS NULL",
            (now, name, done.points),
        )
        ledger.append(conn, [Event("poa", now, archive.agent, (), detail=detail)], now)
