"""Restore drill: a recovery point restored where nobody works, verified, timed, and thrown away.

Rules of this module (requirements: storage, *Drill*):
- What is drilled is `restore` itself, into a scratch database and vault, from the second vault alone; of the workspace
  it gets the root key and nothing else: a copy that people keep, where one is given, and the event says so.
- It is judged by what the schedule asks: each class that names a recovery time (rto) or the age that a point may have
  (rpo). A record that came after the point is lost in the drill as it would be; one that is older is a failure.
- What came out is an event (PREMIS rec) and a row; the report is red where a drill failed, or did not run in time.
- Nothing of it goes on: it publishes nothing, and locks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from retention import backup, ledger, policy
from retention.archive import Archive
from retention.config import Settings
from retention.database import transaction
from retention.errors import Refused
from retention.history import keys
from retention.ledger import Event
from retention.model import new_id
from retention.private_files import write_private
from retention.recovery.rebuilding import Teller
from retention.recovery.restoring import Restored, restore
from retention.roots import FILE, Root
from retention.rules import Schedule


@dataclass(frozen=True, slots=True)
class Late:
    """A class that could not be recovered as its policy asks: `what` is rto or rpo."""

    class_id: str
    what: str
    asked: timedelta
    found: timedelta

    def __str__(self) -> str:
        return f"class {self.class_id}: {self.what} {self.found}, its policy asks for {self.asked}"


@dataclass(frozen=True, slots=True)
class Escrowed:
    """A root that people keep: `how`, as shares or as a file."""

    root: Root
    how: str


@dataclass(slots=True)
class Drilled:
    """What came out. `rpo`: how old the point was; `older`: lost records that came before it; `escrowed`: where
    the copy of the root was used that people keep."""

    id: UUID
    vault: str
    restored: Restored
    rpo: timedelta
    late: list[Late] = field(default_factory=list)
    older: int = 0
    escrowed: Escrowed | None = None

    @property
    def ok(self) -> bool:
        found = self.restored
        return not (self.late or self.older or found.resurrected or found.passed_over) and found.verified.ok


@contextmanager
def alone(archive: Archive) -> Iterator[None]:
    """One drill at a time. Raises Refused."""
    with transaction(archive.connections) as guard:
        if guard.execute("SELECT pg_try_advisory_xact_lock(hashtext('muniment drill'))").fetchone() != (True,):
            raise Refused("refusing to begin a drill: another one runs. Wait for it.")
        yield


def drill(
    archive: Archive,
    name: str,
    scratch: Settings,
    clock: Callable[[], datetime],
    escrowed: Escrowed | None = None,
    point: UUID | None = None,
    tell: Teller | None = None,
) -> Drilled:
    """Restore from the second vault `name` into `scratch`, which is empty and is the caller's to throw away.

    Raises what `restore` raises: then the drill is no evidence, and the event says that it failed."""
    began, drill_id = clock(), new_id(clock())
    second = backup.second(archive, name)
    with transaction(archive.connections) as conn:
        schedule = policy.current(conn).schedule
        trusts = [key.verifier for key in keys.all_keys(conn)]
    scratch.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(scratch.keys / FILE, (escrowed.root if escrowed else archive.safe.root).file)
    try:
        restored = restore(scratch, second, trusts, clock, point, tell=tell, drill=True)
    except Exception:
        _enter_failure(archive, drill_id, name, clock(), escrowed)
        raise
    found = Drilled(drill_id, name, restored, began - restored.taken, escrowed=escrowed)
    found.late = [*_late(schedule, name, found)]
    found.older = _older(archive, restored)
    _enter(archive, found, clock())
    return found


def _late(schedule: Schedule, name: str, found: Drilled) -> Iterator[Late]:
    took = timedelta(seconds=found.restored.seconds)
    for known in schedule.classes:
        asked = known.backup
        if asked.vaults and name not in asked.vaults:
            continue
        if asked.rto is not None and took > asked.rto:
            yield Late(known.id, "rto", asked.rto, took)
        if asked.rpo is not None and found.rpo > asked.rpo:
            yield Late(known.id, "rpo", asked.rpo, found.rpo)


def _older(archive: Archive, restored: Restored) -> int:
    """How many that were there when the point was taken are lost."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT count(*) FROM events WHERE position < %s AND type IN ('ing', 'qua') AND position IN "
            "(SELECT position FROM event_subjects WHERE subject_id = ANY(%s))",
            (restored.size - restored.since, restored.lost),
        ).fetchone()
    return int(row[0]) if row else 0


# ---------------------------------------------------------------- the evidence


def _enter(archive: Archive, found: Drilled, now: datetime) -> None:
    one = found.restored
    numbers = {
        "milliseconds": round(one.seconds * 1000),
        "records": one.records,
        "objects": one.objects,
        "lost": len(one.lost),
        "resurrected": one.resurrected,
        "problems": len(one.verified.problems) + one.verified.more + len(one.passed_over) + found.older,
        "late": len(found.late),
    }
    detail = {"drill": str(found.id), "backup_vault": found.vault, "point": str(one.point), **numbers}
    detail |= _how(found.escrowed)
    told = [Event("rec", now, archive.agent, (), "success" if found.ok else "failure", detail)]
    if found.escrowed:  # whatever else came out: it opened the archive
        of_root = {"drill": str(found.id), **_how(found.escrowed)}
        told.append(Event("dec", now, archive.agent, (found.escrowed.root.id,), detail=of_root))
    with transaction(archive.connections) as conn:
        conn.execute(
            """INSERT INTO drills (drill_id, vault, point_id, ended_at, milliseconds, records, objects, lost,
                                   resurrected, problems, late, ok)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            (found.id, found.vault, one.point, now, *numbers.values(), found.ok),
        )
        ledger.append(conn, told, now)


def _how(escrowed: Escrowed | None) -> dict[str, str]:
    return {"escrowed": escrowed.how} if escrowed else {}


def _enter_failure(
    archive: Archive, drill_id: UUID, name: str, now: datetime, escrowed: Escrowed | None = None
) -> None:
    """One that came to no end."""
    detail = {"drill": str(drill_id), "backup_vault": name, **_how(escrowed)}
    with transaction(archive.connections) as conn:
        conn.execute(
            "INSERT INTO drills (drill_id, vault, ended_at, ok) VALUES (%s, %s, %s, false)", (drill_id, name, now)
        )
        ledger.append(conn, [Event("rec", now, archive.agent, (), "failure", detail)], now)
