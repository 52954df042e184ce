"""Whether the archive would survive the loss of its place: recovery points against the policy of each class.

Rules of this module:
- A class says how old the newest recovery point may be (`rpo`) and in which vaults; without it, a point a day in every
  second vault.
- Silence is failure: a vault that is named and never joined, a point that is late, one that was not looked at within a
  week, and a week without a drill, are red. An archive without any second vault waits for the decision of a person.
- Without its root key an archive opens nothing. Shares of a root that was replaced are red; a root of which nobody has
  shares, and a copy of it that was not tried in a drill for a year, wait for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from retention.database import Connection
from retention.reports.model import Check, Status
from retention.rules import Schedule

DAILY = timedelta(hours=26)  # where no class says how old a point may be
LOOKED = timedelta(days=8)  # a check of the points every week
DRILLED = timedelta(days=8)  # a drill every week
TRIED = timedelta(days=366)  # the copy of the root key that people keep
PROVED = timedelta(days=10)  # that a destruction reached the points: seven days, and some nights to do it in
THROUGH = timedelta(hours=1)  # a hold or a destruction of which no second vault knows

_NO_VAULT = "Set MUNIMENT_BACKUPS, and run muniment backup run (docs/backup.md)."
_WAITS = """
SELECT recorded_at FROM events
 WHERE position >= coalesce((SELECT max(size) FROM ledger_checkpoints), 0) AND type IN ('poa', 'dea')
   AND (type = 'dea' OR convert_from(entry, 'UTF8')::jsonb -> 'detail' ? 'hold')
 ORDER BY position LIMIT 1"""
_UNPROVED = """
SELECT count(*) FROM plans p
 WHERE p.certificate_id IS NOT NULL AND EXISTS (SELECT FROM tombstones t WHERE t.plan_id = p.plan_id)
   AND NOT EXISTS (SELECT FROM plan_remains m LEFT JOIN replaced_buckets r ON r.bucket_id = m.remains_id
                    WHERE m.plan_id = p.plan_id AND m.kind = 'bucket'
                      AND (r.dropped_at IS NULL OR r.dropped_at > %s))
   AND NOT EXISTS (SELECT FROM event_subjects s JOIN events e USING (position)
                    WHERE s.subject_id = p.plan_id AND e.type = 'val')"""
_OF_ROOT = """
SELECT e.recorded_at, e.type, convert_from(e.entry, 'UTF8')::jsonb -> 'detail'
  FROM event_subjects s JOIN events e USING (position)
 WHERE s.subject_id = %s AND e.type IN ('enc', 'rep', 'dec') ORDER BY e.position"""


@dataclass(frozen=True, slots=True)
class Vault:
    """A second vault that has joined, with its newest point and when its points were last looked at."""

    name: str
    joined_at: datetime
    taken_at: datetime | None
    checked_at: datetime | None
    broken: int  # points in which the last check found something
    drilled_at: datetime | None  # the last drill, whatever came out
    drill_ok: bool | None


@dataclass(frozen=True, slots=True)
class Escrow:
    """Who keeps the root key besides this machine, by the events of the root.

    `shared_at`: when shares were made, for so many `holders`, of whom `threshold` are needed; `stale`: they are of one
    before this root; `tried_at`: when a drill used shares or a copy of this root; `since`: when it came into use."""

    shared_at: datetime | None = None
    holders: int = 0
    threshold: int = 0
    stale: bool = False
    tried_at: datetime | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Continuity:
    """What is known of the second vaults; `waits`: since when an event waits that should be there."""

    vaults: Sequence[Vault]
    asked: Mapping[str, tuple[timedelta, tuple[str, ...]]]  # vault -> the shortest rpo, and the classes that ask for it
    named: frozenset[str]  # by classes
    waits: datetime | None
    escrow: Escrow = Escrow()
    unproved: int = 0  # plans of which nobody showed, though the term is over, that they reached the points


def escrow_of(conn: Connection, root_id: UUID) -> Escrow:
    """What the history tells of a root, and of the shares of those before it."""
    tried_at = since = None
    asked: UUID | None = root_id
    while asked is not None:
        before: UUID | None = None
        shared: tuple[datetime, dict[str, int]] | None = None
        for at, kind, detail in conn.execute(_OF_ROOT, (asked,)).fetchall():
            if kind == "enc" and detail["root"] == str(asked):
                before = UUID(detail["replaces"])
                since = since if asked != root_id else at
            elif kind == "rep":
                shared = at, detail
            elif kind == "dec" and asked == root_id:
                tried_at = at
        if shared is not None:
            at, detail = shared
            return Escrow(at, detail["holders"], detail["threshold"], asked != root_id, tried_at, since)
        asked = before
    return Escrow(tried_at=tried_at, since=since)


def continuity(conn: Connection, schedule: Schedule | None, root_id: UUID, now: datetime) -> Continuity:
    """What the catalog knows of it; `root_id`: of the root key."""
    rows = conn.execute(
        """SELECT v.name, v.joined_at, max(p.taken_at), max(p.checked_at),
                  count(*) FILTER (WHERE NOT p.whole AND p.pruned_at IS NULL), d.ended_at, d.ok
             FROM backup_vaults v LEFT JOIN recovery_points p ON p.vault = v.name
             LEFT JOIN (SELECT DISTINCT ON (vault) vault, ended_at, ok FROM drills
                         ORDER BY vault, ended_at DESC, drill_id DESC) AS d ON d.vault = v.name
            WHERE v.left_at IS NULL GROUP BY v.name, v.joined_at, d.ended_at, d.ok ORDER BY 1"""
    )
    vaults = [Vault(*row) for row in rows]
    waits = conn.execute(_WAITS).fetchone() if vaults else None
    known = schedule.classes if schedule else ()
    named = frozenset(name for one in known for name in one.backup.vaults)
    asked = {}
    for vault in vaults:
        terms = [
            (c.backup.rpo, c.id) for c in known if c.backup.rpo and vault.name in (c.backup.vaults or [vault.name])
        ]
        shortest = min((rpo for rpo, _ in terms), default=DAILY)
        asked[vault.name] = shortest, tuple(class_id for rpo, class_id in terms if rpo == shortest)
    (unproved,) = conn.execute(_UNPROVED, (now - PROVED,)).fetchone() or (0,)
    since = waits[0] if waits else None
    return Continuity(vaults, asked, named, since, escrow_of(conn, root_id), unproved if vaults else 0)


def checks(found: Continuity, now: datetime) -> list[Check]:
    """What must hold of it. Pure."""
    made = []
    joined = {vault.name for vault in found.vaults}
    if missing := sorted(found.named - joined):
        said = f"The schedule sends classes to {', '.join(missing)}, where no recovery point was ever taken."
        made.append(Check("backup-missing", Status.RED, "Second vaults", said, _NO_VAULT))
    if not joined and not found.named:
        said = "There is none: with this vault or this database everything would be lost."
        made.append(Check("backup", Status.AMBER, "Second vaults", said, _NO_VAULT))
    for vault in found.vaults:
        made += _of(vault, *found.asked[vault.name], now)
    if found.waits is not None and now - found.waits > THROUGH:
        said = f"A hold or a destruction of {found.waits:%Y-%m-%d %H:%M} UTC is known to no second vault yet."
        then = "See that the vault answers, then: muniment ledger publish."
        made.append(Check("backup-through", Status.RED, "Written through", said, then))
    if found.unproved:
        said = f"Of {found.unproved:,} executed plans nobody has shown that recovery points do not open what they took."
        then = "muniment disposition prove says what opens; it runs in the DAG continuity."
        made.append(Check("reach", Status.RED, "Destruction in recovery points", said, then))
    return [*made, _escrowed(found.escrow, now)]


def _of(vault: Vault, rpo: timedelta, classes: Sequence[str], now: datetime) -> list[Check]:
    title = f"Recovery points in {vault.name}"
    since = vault.taken_at or vault.joined_at
    asks = f", asked for by {', '.join(classes[:5])}" if classes else ""
    made = []
    if now - since > rpo:
        said = f"The newest is {_age(now - since)} old, at most {_age(rpo)} is allowed{asks}."
        then = "See that the DAG continuity runs, and what its log says; by hand: muniment backup run."
        made.append(Check(f"backup-{vault.name}", Status.RED, title, said, then))
    looked = vault.checked_at or vault.joined_at
    if vault.broken:
        said = f"In {vault.broken:,} of them the last check found something missing or changed."
        then = "muniment backup check names it; take a new point: muniment backup run."
        made.append(Check(f"backup-broken-{vault.name}", Status.RED, title, said, then))
    elif now - looked > LOOKED:
        said = f"They were not looked at for {_age(now - looked)}: nobody knows whether they could be restored."
        made.append(Check(f"backup-unchecked-{vault.name}", Status.RED, title, said, "muniment backup check"))
    if not made:
        said = f"The newest is {_age(now - since)} old, at most {_age(rpo)} is allowed{asks}; none is broken."
        made.append(Check(f"backup-{vault.name}", Status.GREEN, title, said))
    return [*made, _drilled(vault, now)]


def _escrowed(found: Escrow, now: datetime) -> Check:
    title, make = "Escrow of the root key", "muniment key escrow (docs/keys.md)."
    if found.stale:
        said = f"It was replaced {_on(found.since)}; the shares, made {_on(found.shared_at)}, are of one before it."
        return Check("escrow", Status.RED, title, said, f"Make shares of this one: {make}")
    if found.shared_at is None and found.tried_at is None:
        said = "Nobody has shares of it: who loses this machine's folder of keys loses everything."
        return Check("escrow", Status.AMBER, title, said, make)
    known = max(filter(None, (found.shared_at, found.tried_at)))
    said = "A copy of it was used in a drill."
    if found.shared_at is not None:
        said = (
            f"{found.holders} people have a share, made {_on(found.shared_at)}; of them {found.threshold} are needed."
        )
    if now - known > TRIED:
        then = "Restore with it, with those who keep it: muniment drill --shares DIR."
        return Check("escrow", Status.AMBER, title, f"{said} It was not tried for a year.", then)
    return Check("escrow", Status.GREEN, title, said)


def _on(day: datetime | None) -> str:
    return f"on {day:%Y-%m-%d}" if day else "at an unknown time"


def _drilled(vault: Vault, now: datetime) -> Check:
    id_, title = f"drill-{vault.name}", f"Restore drill from {vault.name}"
    if vault.drill_ok is False:
        said = f"The drill of {vault.drilled_at:%Y-%m-%d %H:%M} UTC did not restore what it should, or too late."
        return Check(id_, Status.RED, title, said, "Run it again, which names it: muniment drill. Then mend that.")
    term = now - (vault.drilled_at or vault.joined_at)
    if term > DRILLED:
        said = f"None for {_age(term)}: nobody knows whether a point restores, nor how long it takes."
        then = "See that the DAG continuity_drill runs, and what its log says; by hand: muniment drill."
        return Check(id_, Status.RED, title, said, then)
    if vault.drilled_at is None:
        return Check(id_, Status.GREEN, title, "The vault joined within a week: its first drill is to come.")
    return Check(id_, Status.GREEN, title, f"The drill of {vault.drilled_at:%Y-%m-%d} restored everything in time.")


def _age(term: timedelta) -> str:
    """Days from two days on, else hours."""
    if term >= timedelta(days=2):
        return f"{term.days:,} days"
    hours = int(term.total_seconds() // 3600)
    return f"{hours:,} hour" if hours == 1 else f"{hours:,} hours"
