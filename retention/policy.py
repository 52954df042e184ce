"""Which schedule is in force: versions of the schedule file as they were loaded.

Rules of this module:
- Loading stores the file's bytes, its digest, who and when, and appends a policy assignment event, together. The file
  stands in the vault too, and in each second one, as `schedules/<digest>`, before that: the event has its digest alone,
  and a catalog that is rebuilt from vault and ledger must know the rules.
- A version is never changed or removed: the past stays explainable. The same file again is the same version.
- The version loaded last is in force. A run of ingestion keeps the version it began with.
- A load that would shorten a regulatory class is refused (rule 13): no person can approve it. What else could make
  something due earlier, or let it go with less care, needs two people (rule 14): it is proposed, and loaded by the
  second signature. The two schedules alone decide that (retention.schedule.comparison), not what is kept today: a
  load before the records that it is meant for is a load of one person too.
- Only a class that no version ever had, and no record, advances nothing: there is no date in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from uuid import UUID

from retention import approvals, engine, ledger, schedule
from retention.approvals import Kind, Proposal
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused
from retention.ledger import Event
from retention.model import new_id
from retention.rules import Schedule
from retention.schedule import comparison
from retention.schedule.comparison import Advance

_LOADING = 0x73636865  # an advisory lock of our own, "sche": who may not update a table may not lock it
_TOLD = 40  # of what a load advances, in the statement that is signed


@dataclass(frozen=True, slots=True)
class Version:
    """One loaded version of the schedule."""

    version: int
    schedule: Schedule
    loaded_at: datetime
    new: bool = False


def sample() -> str:
    """The text of the schedule that Muniment ships; every law in it needs local legal sign-off."""
    return (resources.files("retention.schedule") / "sample.yaml").read_text("utf-8")


def load(archive: Archive, text: str, name: str, now: datetime) -> Version:
    """Put a schedule in force. Raises ScheduleError with every mistake by line; Refused where it would shorten a
    regulatory class, or could make something due earlier, which two people must sign. Then nothing is stored."""
    parsed = schedule.load(text, name)
    with transaction(archive.connections) as conn:
        current = _locked(conn)
        if current is not None:
            if current.schedule.digest == parsed.digest:
                return current
            _refuse_lowered(current, parsed, name, now)
            if earlier := advances(conn, parsed, now):
                listed = "\n".join(f"  {one}" for one in earlier)
                raise Refused(
                    f"refusing to load {name} alone: records could be due earlier, or go with less care.\n{listed}\n"
                    "That needs two people: the same with --propose asks for it, then both sign "
                    "(`muniment approval list`). `muniment schedule diff` shows what it would change."
                )
        version, event = _put_in_force(conn, archive, parsed, text, now)
        ledger.append(conn, [event], now)
    return Version(version, parsed, now, new=True)


def propose(archive: Archive, text: str, name: str, now: datetime) -> Proposal:
    """The proposal that two people sign to put a schedule in force that makes something due earlier; the open one,
    if there is one. Raises as `load` does, and Refused if it needs no second person."""
    parsed = schedule.load(text, name)
    with transaction(archive.connections) as conn:
        current = _locked(conn)
        earlier = advances(conn, parsed, now)
        if current is None or not earlier:
            raise Refused(
                "refusing to propose it: it makes nothing due earlier, so it needs no second person. Load it."
            )
        _refuse_lowered(current, parsed, name, now)
        payload = json.dumps({"over": current.version, "text": text})
        for waiting in approvals.listed(conn):
            if waiting.kind is Kind.SCHEDULE and waiting.payload == payload and waiting.expires_at > now:
                return waiting
        lines = [f"load      schedule SHA-256 {parsed.digest}, in place of version {current.version}"]
        lines += [f"earlier   {one}" for one in earlier[:_TOLD]]
        if len(earlier) > _TOLD:
            lines.append(f"earlier   and {len(earlier) - _TOLD} more; `muniment schedule diff` shows all")
        found, event = approvals.propose(conn, archive, Kind.SCHEDULE, lines, payload, now)
        ledger.append(conn, [event], now)
        return approvals.show(conn, found.id)


def take_effect(conn: Connection, archive: Archive, proposal: Proposal, now: datetime) -> list[Event]:
    """What an approved proposal of kind schedule does (retention.approvals.Effect). Raises Refused if another
    version came in force meanwhile."""
    asked = proposal.content
    current = _locked(conn)
    if current is None or current.version != asked["over"]:
        raise Refused(
            f"refusing to load what was proposed in place of version {asked['over']}: version "
            f"{current.version if current else 0} is in force now. Propose it anew."
        )
    parsed = schedule.load(asked["text"], "the proposed schedule")
    _refuse_lowered(current, parsed, "the proposed schedule", now)
    return [_put_in_force(conn, archive, parsed, asked["text"], now)[1]]


def _locked(conn: Connection) -> Version | None:
    """The version in force; two loads at once would both find that theirs is new."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOADING,))
    return _newest(conn)


def _put_in_force(conn: Connection, archive: Archive, parsed: Schedule, text: str, now: datetime) -> tuple[int, Event]:
    content = text.encode()
    joined = conn.execute("SELECT name FROM backup_vaults WHERE left_at IS NULL").fetchall()
    for vault in (archive.vault, *(archive.seconds[name] for (name,) in joined if name in archive.seconds)):
        vault.put(f"schedules/{parsed.digest}", content, sha256=sha256(content).digest(), size=len(content))
    row = conn.execute(
        "INSERT INTO schedule_versions (digest, document, loaded_at, loaded_by, open_classes) "
        "VALUES (%s, %s, %s, %s, %s) RETURNING version",
        (
            bytes.fromhex(parsed.digest),
            text,
            now,
            archive.agent.on_behalf_of,
            open_classes(parsed),
        ),
    ).fetchone()
    assert row is not None
    detail = {"schedule": row[0], "digest": parsed.digest, "classes": len(parsed.classes)}
    return row[0], Event("poa", now, archive.agent, (new_id(now),), detail=detail)


def open_classes(schedule: Schedule) -> list[str]:
    """The classes whose records an auditor sees without asking: those without personal data."""
    return [known.id for known in schedule.classes if known.personal_data is None]


def _refuse_lowered(current: Version, new: Schedule, name: str, now: datetime) -> None:
    lowered = comparison.lowered(current.schedule, new, first_day(current.schedule, new, now))
    if lowered:
        listed = "\n".join(f"  {one}" for one in lowered)
        raise Refused(
            f"refusing to load {name}: it would shorten what is regulatory in version {current.version}, which can "
            f"only be lengthened.\n{listed}\nMend these rules, or file such records in another class from now on."
        )


def first_day(old: Schedule, new: Schedule, now: datetime) -> date:
    """The first day on which `new` can decide, if it is loaded at `now`."""
    return min(engine.today(old, now), engine.today(new, now))


def advances(conn: Connection, new: Schedule, now: datetime) -> tuple[Advance, ...]:
    """What `new` could make due earlier than the version in force, if it is loaded at `now` (rule 14): empty if
    nothing, or if none is in force. Such a load needs two people."""
    found = _newest(conn)
    if found is None:
        return ()
    used = used_classes(conn, new)
    return comparison.advances(found.schedule, new, first_day(found.schedule, new, now), used)


def used_classes(conn: Connection, new: Schedule) -> frozenset[str]:
    """Ids of the classes of `new` that a version ever had, or in which a record is or was."""
    wanted = [known.id for known in new.classes]
    found = {row[0] for row in conn.execute("SELECT class_id FROM classes WHERE class_id = ANY(%s)", (wanted,))}
    rows = conn.execute("SELECT document FROM schedule_versions ORDER BY version DESC")
    for (document,) in rows:
        if missing := [class_id for class_id in wanted if class_id not in found and class_id in document]:
            parsed = _parse(document)  # the id may stand in a title alone
            found.update(class_id for class_id in missing if parsed.record_class(class_id))
    return frozenset(found)


def current(conn: Connection) -> Version:
    """The version in force. Raises NotFound if none was ever loaded."""
    found = _newest(conn)
    if found is None:
        raise NotFound(
            "no schedule is loaded. Run `muniment schedule load FILE` (a sample: `muniment schedule sample`)."
        )
    return found


def at(conn: Connection, instant: datetime) -> Version:
    """The version that was in force at an instant. Raises NotFound if none had been loaded."""
    row = conn.execute(
        "SELECT version, document, loaded_at FROM schedule_versions WHERE loaded_at <= %s "
        "ORDER BY version DESC LIMIT 1",
        (instant,),
    ).fetchone()
    if row is None:
        raise NotFound(f"no schedule was loaded at {instant.isoformat()}.")
    return Version(row[0], _parse(row[1]), row[2])


def today(conn: Connection, now: datetime) -> date:
    """The civil date of the schedule in force; of UTC where none is loaded."""
    found = _newest(conn)
    return engine.today(found.schedule, now) if found else now.astimezone(UTC).date()


def of_version(conn: Connection, version: int) -> Version:
    """A version as it was loaded. Raises NotFound."""
    row = conn.execute(
        "SELECT version, document, loaded_at FROM schedule_versions WHERE version = %s", (version,)
    ).fetchone()
    if row is None:
        raise NotFound(f"no schedule version {version}. `muniment schedule versions` lists them.")
    return Version(row[0], _parse(row[1]), row[2])


def text_of(conn: Connection, version: int) -> str:
    """The file of a version, as it was loaded. Raises NotFound."""
    row = conn.execute("SELECT document FROM schedule_versions WHERE version = %s", (version,)).fetchone()
    if row is None:
        raise NotFound(f"no schedule version {version}. `muniment schedule versions` lists them.")
    return str(row[0])


@dataclass(frozen=True, slots=True)
class Loaded:
    """When a version was loaded, and for whom (a pseudonym)."""

    version: int
    digest: str
    loaded_at: datetime
    loaded_by: UUID


def versions(conn: Connection) -> list[Loaded]:
    """Every version, the one in force last."""
    rows = conn.execute("SELECT version, digest, loaded_at, loaded_by FROM schedule_versions ORDER BY version")
    return [Loaded(version, bytes(digest).hex(), at, by) for version, digest, at, by in rows]


def _newest(conn: Connection) -> Version | None:
    row = conn.execute(
        "SELECT version, document, loaded_at FROM schedule_versions ORDER BY version DESC LIMIT 1"
    ).fetchone()
    return None if row is None else Version(row[0], _parse(row[1]), row[2])


@lru_cache(maxsize=8)
def _parse(text: str) -> Schedule:
    return schedule.load(text, "the loaded schedule")
