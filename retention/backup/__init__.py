"""Recovery points in second vaults: taken, listed, checked, pruned. Restoring them is retention.recovery.

Rules of this package (requirements: storage, *Backup and disaster recovery*):
- A second vault *joins* with its first point. From then on the published ledger stands there before anybody can see it
  (retention.history.publishing), and a hold or a destruction is not acknowledged before its event is there.
- A class names the vaults that its content goes to (`backup.vaults` in the schedule file); one that names none goes to
  every vault. The tables, the descriptions' sealed lines and the schedule go to each.
- Only what is missing is copied; classes that are marked `vital` come first.
- A point is signed last. Cut off before that, there is none, and what was copied is there for the next run.
- One at a time of those that write to a second vault (an advisory lock for each): a run and a prune never meet.
- What was done is an event (PREMIS `rep`), with the numbers of the point.
"""

from __future__ import annotations

import time as clocks
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from psycopg import sql

from retention import ledger, policy
from retention.archive import Archive
from retention.backup import points
from retention.database import Connection, transaction
from retention.errors import MunimentError, NotFound, Refused, UsageError
from retention.history import keys, publishing
from retention.ledger import Event
from retention.rules import Schedule
from retention.vault import ensure_vault
from retention.vault.base import Vault
from retention.vault.transfer import Wanted, transfer

Teller = Callable[[int, int], None]  # objects and bytes that were copied


@dataclass(slots=True)
class Taken:
    """What a run did. `problems`: objects that are in no copy, and why; a point with some of them is not whole."""

    point: points.Point | None = None
    vault: str = ""
    objects: int = 0
    copied: int = 0
    bytes: int = 0  # copied
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- second vaults


def second(archive: Archive, name: str) -> Vault:
    """Raises UsageError if MUNIMENT_BACKUPS does not name it."""
    if name not in archive.seconds:
        known = ", ".join(archive.seconds) or "none"
        raise UsageError(f"second vault {name!r}: expected one that MUNIMENT_BACKUPS names ({known}). Name it there.")
    return archive.seconds[name]


def join(archive: Archive, name: str, now: datetime) -> bool:
    """Make a second vault a part of this archive; False if it is. It is made where it is not there."""
    vault = second(archive, name)
    with transaction(archive.connections) as conn:
        if name in publishing.joined(conn, archive):
            vault.check()  # a disk that is not mounted is no empty vault
            return False
        keys.current(conn)
        of = next(one for one in archive.settings.backups if one.name == name)
        ensure_vault(of.url, lock=False, access_key=of.access_key, secret_key=of.secret_key)
        vault.check()
        _refuse_another(vault, keys.all_keys(conn), name)
        conn.execute(
            "INSERT INTO backup_vaults (name, joined_at) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET joined_at = EXCLUDED.joined_at, left_at = NULL",
            (name, now),
        )
        ledger.append(conn, [Event("poa", now, archive.agent, (), detail={"backup_vault": name, "joined": True})], now)
    return True


def leave(archive: Archive, name: str, now: datetime) -> None:
    """Let a second vault go: nothing more is written to it. What is there stays. Raises NotFound."""
    with transaction(archive.connections) as conn:
        left = conn.execute("UPDATE backup_vaults SET left_at = %s WHERE name = %s AND left_at IS NULL", (now, name))
        if not left.rowcount:
            raise NotFound(f"second vault {name!r}: it is no part of this archive.")
        ledger.append(conn, [Event("poa", now, archive.agent, (), detail={"backup_vault": name, "joined": False})], now)


def _refuse_another(vault: Vault, known: Sequence[keys.LogKey], name: str) -> None:
    """A vault with another archive's ledger would get two histories."""
    try:
        publishing.newest(vault, known)
    except MunimentError as error:
        raise Refused(
            f"refusing to take {vault.url} as second vault {name}: another ledger is published there ({error}). Name "
            "an empty folder, bucket or prefix."
        ) from None


@contextmanager
def alone(archive: Archive, name: str) -> Iterator[None]:
    """One run or prune of a second vault at a time. Raises Refused."""
    with transaction(archive.connections) as guard:
        if guard.execute("SELECT pg_try_advisory_xact_lock(hashtext(%s))", (f"backup {name}",)).fetchone() != (True,):
            raise Refused(f"refusing to write to second vault {name} twice at once: a run or a prune is at it. Wait.")
        # The tables and the safe of a point belong together: no bucket gets another key between (retention.rekeying).
        guard.execute("SELECT pg_advisory_xact_lock_shared(hashtext('key safe'))")
        yield


# ---------------------------------------------------------------- a point


def run(archive: Archive, name: str, clock: Callable[[], datetime], tell: Teller | None = None) -> Taken:
    """Take a recovery point in the second vault `name`.

    Raises NotFound before the ledger has a key, ServiceUnavailable, Refused."""
    begun = clocks.monotonic()
    with alone(archive, name):
        join(archive, name, clock())
        vault = second(archive, name)
        done = Taken(vault=name)
        with transaction(archive.connections) as conn:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            size, root = ledger.head(conn)
            key = keys.current(conn)
            publishing.through(archive, clock(), size - 1)
            schedule = policy.current(conn).schedule
            left_out = elsewhere(schedule, name)
            vital = [known.id for known in schedule.classes if known.vital and known.id not in left_out]
            for some in [vital, None] if vital else [None]:
                _copy(conn, archive, vault, some, left_out, done, tell)
            safe = copy_safe(archive, vault, clock())
            signer = keys.signer(archive, key)
            head = (key.origin, size, root)
            written = points.write(
                conn, vault, head, safe, signer, clock(), archive.settings.vault_threads, left_out=left_out
            )
        done.point = written.point
        _enter(archive, done, clock())
    done.seconds = clocks.monotonic() - begun
    return done


def elsewhere(schedule: Schedule, name: str) -> list[str]:
    """The classes that name vaults, and not this one."""
    return [known.id for known in schedule.classes if known.backup.vaults and name not in known.backup.vaults]


def _copy(
    conn: Connection,
    archive: Archive,
    vault: Vault,
    only: Sequence[str] | None,
    left_out: Sequence[str],
    done: Taken,
    tell: Teller | None,
) -> None:
    """What is missing, of some classes alone or of all."""
    count, amount = done.copied, done.bytes

    def wanted() -> Iterator[Wanted]:
        with conn.cursor(name="wanted") as cursor:
            cursor.itersize = 10_000
            cursor.execute(
                sql.SQL("SELECT key, version, bytes, sha256 FROM ({}) AS o ORDER BY key").format(
                    sql.SQL(points.OBJECTS)
                ),
                {"left_out": list(left_out), "only": None if only is None else list(only)},
            )
            for key, version, size, digest in cursor:
                yield Wanted(key, version, size, bytes(digest))

    problems, objects = [], 0
    threads = archive.settings.vault_threads
    for one in transfer(
        archive.vault,
        vault,
        wanted(),
        threads=threads,
        tell=lambda n, size: tell(count + n, amount + size) if tell else None,
    ):
        objects += 1
        if one.copied:
            done.copied, done.bytes = done.copied + 1, done.bytes + one.wanted.size
        if one.problem:
            problems.append((one.wanted.key, one.problem))
    if only is None:
        done.objects, done.problems = objects, _still_kept(archive, problems)


def _still_kept(archive: Archive, problems: Sequence[tuple[str, str]]) -> list[str]:
    """Without those of records that were destroyed while they were copied."""
    with transaction(archive.connections) as conn:
        gone = {
            row[0]
            for row in conn.execute(
                "SELECT k FROM unnest(%s::text[]) AS k JOIN records r ON r.record_id::text = split_part(k, '/', 2) "
                "WHERE k LIKE 'records/%%' AND r.state > 1",
                ([key for key, _ in problems],),
            )
        }
    return [said for key, said in problems if key not in gone]


def copy_safe(archive: Archive, vault: Vault, now: datetime) -> str:
    """The key safe as it is, sealed to its root, in the second vault; the key of the copy. Once for the same bytes."""
    content = (archive.settings.keys / "safe.age").read_bytes()
    digest = sha256(content)
    for stored in vault.list(points.SAFE):
        if stored.key.endswith(f"-{digest.hexdigest()}"):
            return stored.key
    key = f"{points.SAFE}/{now:%Y%m%dT%H%M%S%fZ}-{digest.hexdigest()}"
    vault.put(key, content, sha256=digest.digest(), size=len(content))
    return key


def _enter(archive: Archive, done: Taken, now: datetime) -> None:
    assert done.point is not None
    point = done.point
    row = (point.id, done.vault, point.time, point.size, point.index.count, point.index.bytes)
    detail = {
        "backup_vault": done.vault,
        "point": str(point.id),
        "taken": point.time.isoformat(),
        "size": point.size,
        "objects": point.index.count,
        "bytes": point.index.bytes,
        "copied": done.copied,
        "problems": len(done.problems),
    }
    with transaction(archive.connections) as conn:
        conn.execute(
            "INSERT INTO recovery_points (point_id, vault, taken_at, size, objects, bytes) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            row,
        )
        outcome = "failure" if done.problems else "success"
        ledger.append(conn, [Event("rep", now, archive.agent, (), outcome, detail)], now)


# ---------------------------------------------------------------- what there is


@dataclass(frozen=True, slots=True)
class Listed:
    """A point as the catalog knows it."""

    id: UUID
    vault: str
    taken_at: datetime
    size: int
    objects: int
    bytes: int
    checked_at: datetime | None
    whole: bool | None


def listed(archive: Archive, name: str | None = None) -> list[Listed]:
    """The points that were taken and not pruned, newest first."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT point_id, vault, taken_at, size, objects, bytes, checked_at, whole FROM recovery_points "
            "WHERE pruned_at IS NULL AND (%(vault)s::text IS NULL OR vault = %(vault)s) "
            "ORDER BY taken_at DESC, point_id",
            {"vault": name},
        )
        return [Listed(*row) for row in rows]
