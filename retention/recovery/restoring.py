"""Restore: an archive that is gone, from a second vault alone: its catalog and its vault, on an empty machine.

Rules of this module: those of the package, and
- What is needed besides the second vault is the root key (and the ledger's key, to publish on): they are in no vault.
- The newest recovery point that is whole is taken; one that is not is passed over, and said. The point gives what the
  history does not tell; the ledger, published in the second vault up to its last event, gives the rest. So what was
  destroyed or held after the point stays destroyed and held.
- Objects are copied before the catalog commits, each by the digest that its event has. Cut off before that, the
  catalog is empty still; cut off after it, the catalog stands as the last of its events says. Either way the same is
  run again, copies what is not there yet, and ends as if nothing had been.
- A record whose content or key is in no copy is lost, and the history says so. What was destroyed is never copied.
- At the end everything is verified, but that a document whose digest was compared while it was copied is not read once
  more; a drill does that too. How long it took, what is lost and what came back that was destroyed is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from psycopg import sql

from retention import database, descriptors, ledger, locks, verification
from retention.archive import SOFTWARE, open_archive, pseudonym
from retention.backup import points
from retention.backup.points import Point
from retention.config import VERSION, Settings
from retention.database import Connection
from retention.errors import Damaged, MunimentError, NotFound, UsageError
from retention.history import publishing
from retention.holds import flags
from retention.ledger import Agent
from retention.model import AgentKind
from retention.private_files import write_private
from retention.recovery import history, staging, tables, telling
from retention.recovery.history import Published
from retention.recovery.rebuilding import Teller, catalog, copied, refuse_used
from retention.roots import read_root
from retention.seal import Bucket, Safe, open_safe, opens
from retention.tlog.note import Verifier
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault
from retention.vault.transfer import Wanted, missing, transfer
from retention.verification import Verification
from retention.verification.tables import tell_history, tell_more

_KINDS = {"records": "record", "quarantine": "quarantined"}  # what the objects of a folder are
_AT_ONCE = 500  # versions that are noted together

# Records that are kept and documents in quarantine of which the key is in no copy, or the object is not there. What the
# point had left out is in another vault, as its class asks (`backup.vaults`): it is not lost.
_DOCUMENT = "'records/' || r.record_id || '/' || encode(c.sealed_sha256, 'hex')"
_ELSEWHERE = """
EXISTS (SELECT FROM dumped_contents d WHERE d.record_id = r.record_id)
AND NOT EXISTS (SELECT FROM manifest m WHERE m.key = {document})
AND NOT EXISTS (SELECT FROM stood_documents d WHERE d.key = {document})
""".replace("{document}", _DOCUMENT)
_MISSING = """
SELECT 'record', r.record_id FROM records r JOIN contents c USING (record_id)
 WHERE r.state = 1 AND (
       NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = r.record_id)
       OR NOT EXISTS (SELECT FROM stood_documents d WHERE d.key = {document} AND d.size = c.sealed_bytes)
          AND NOT ({elsewhere}))
UNION ALL
SELECT 'quarantined', q.quarantine_id FROM quarantine q
 WHERE q.key_destroyed_at IS NULL AND (
       NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = q.quarantine_id)
       OR NOT EXISTS (SELECT FROM stood_documents d
                       WHERE d.key = 'quarantine/' || q.quarantine_id AND d.size = q.sealed_bytes))
""".replace("{document}", _DOCUMENT).replace("{elsewhere}", _ELSEWHERE)

# What the history has destroyed, and can be opened again: nothing, or the restore is a failure.
_RESURRECTED = """
SELECT count(*) FROM (
    SELECT unnest(subjects) AS subject FROM history
     WHERE type = 'dea' AND detail ->> 'state' IN ('key-destroyed', 'destroying') AND success
       AND (detail ->> 'state' = 'key-destroyed' OR detail ? 'proposal')) AS gone
 WHERE EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = gone.subject)
"""


@dataclass(slots=True)
class Restored:
    """What a restore did. `seconds` is the time that it took (the RTO as it was measured)."""

    point: UUID
    taken: datetime  # when the point was made
    size: int  # events of the ledger that was restored
    since: int  # of them, after the point
    records: int = 0
    objects: int = 0
    copied: int = 0  # of them, by this run: the others stood in the new vault
    bytes: int = 0
    left: int = 0  # documents of other classes, which were not asked for
    lost: list[UUID] = field(default_factory=list)
    resurrected: int = 0
    seconds: float = 0.0
    passed_over: list[str] = field(default_factory=list)  # points that are not whole, and why
    problems: list[str] = field(default_factory=list)  # of single objects
    verified: Verification = field(default_factory=Verification)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.resurrected or self.left) and self.verified.ok


def restore(
    settings: Settings,
    source: Vault,
    trusts: Sequence[Verifier],
    clock: Callable[[], datetime],
    point: UUID | None = None,
    only: str | None = None,
    tell: Teller | None = None,
    drill: bool = False,
) -> Restored:
    """Fill the empty catalog and the vault of `settings` from the second vault `source`. `only`: the documents of one
    class; the others come when fixity heals them. `drill`: nothing of it goes on, so nothing is published or locked.

    Raises Refused for a catalog in use or a ledger that is not whole, NotFound without a point that is, UsageError
    without the root key."""
    began = time.monotonic()

    def telling_of(what: str) -> Callable[[int, int], None]:
        return lambda done, of: tell(what, done, of) if tell else None

    threads = settings.vault_threads
    target = _target(settings)
    with copied(settings.root) as folder:
        published = history.fetch(source, folder, trusts, threads, telling_of("published entries"))
        chosen, passed_over = _choose(source, published, point)
        safe = _safe(settings, source, clock())
        with catalog(settings) as conn:
            found = Restored(chosen.id, chosen.time, published.size, published.size - chosen.size)
            found.passed_over = passed_over
            if not _stands(conn, target, found):
                refuse_used(conn)
                history.load(conn, published, telling_of("events"))
                staging.make(conn)
                staging.load(conn, source, chosen)
                found.problems += map(str, staging.look(conn, source, threads, telling_of("descriptor objects")))
                tell_history(conn, ())
                found.problems += map(str, staging.open_days(conn, source, safe))
                tables.fill(conn, safe, chosen.size, clock(), _former(source, chosen, safe))
                agent = _agent(conn, safe, settings, clock())
                _bring(conn, source, target, agent, found, threads, only, clock(), telling_of("objects"))
                _put_ledger(target, published, clock())
    with open_archive(settings, clock()) as archive:
        if not drill:
            locks.drain(archive, clock())
            flags.drain(archive, clock())
            try:
                publishing.publish(archive, clock())
            except MunimentError as error:  # the ledger's key, or a second vault, is not here yet
                found.problems.append(f"The ledger could not be published on: {error}")
        # What was copied now was compared with its digest on the way; what stood there already by its size alone.
        share = 1.0 if drill or found.copied < found.objects else 0.0
        found.verified = verification.verify(archive, trusts, share, tell, describe=True)
        found.problems += descriptors.rebuild(archive).failures  # says that they are complete, or what is missing
    found.seconds = time.monotonic() - began
    return found


def _target(settings: Settings) -> Vault:
    access, secret = settings.vault_access_key, settings.vault_secret_key
    ensure_vault(settings.vault_url, access_key=access, secret_key=secret)
    target = open_vault(settings.vault_url, access_key=access, secret_key=secret)
    target.check()
    return target


def _choose(source: Vault, published: Published, wanted: UUID | None) -> tuple[Point, list[str]]:
    """The newest point that is whole, or the one that is asked for; and what is wrong with newer ones."""
    there = points.listed(source)
    if wanted is not None:
        if wanted not in there:
            raise NotFound(
                f"{source.url}: no recovery point {wanted}. `muniment backup list` shows those that are there."
            )
        there = [wanted]
    passed_over: list[str] = []
    for one in reversed(there):
        try:
            point = points.read(source, one, published.verifiers)
            wrong = points.problem(source, point) or _unfit(point, published)
        except (Damaged, NotFound) as error:
            wrong = str(error)
        if wrong is None:
            return point, passed_over
        passed_over.append(f"recovery point {one} is passed over: {wrong}")
    listed = "".join(f"\n  {one}" for one in passed_over)
    raise NotFound(
        f"{source.url}: no recovery point that is whole.{listed}\nThe catalog can be rebuilt without one "
        "(`muniment rebuild`): then nothing opens until the rows of the keys come back."
    )


def _unfit(point: Point, published: Published) -> str | None:
    """Why a point that is whole is not of this ledger, or of another version."""
    if point.origin != published.origin or point.size > published.size:
        return (
            f"it is of {point.size:,} events of {point.origin}; published are {published.size:,} of {published.origin}."
        )
    ours = tuple((number, sha256(text.encode()).hexdigest()) for number, _, text in database.migrations())
    if point.index.migrations != ours:
        return "it is of another version of Muniment. Install that version, restore, and migrate then."
    return None


# What the last restore did, as its event says, if nothing has happened since.
_DONE = """
SELECT e.detail FROM (SELECT position, convert_from(entry, 'UTF8')::jsonb -> 'detail' AS detail FROM events
                       WHERE type = 'rec') AS e
 WHERE e.detail ? 'restored' AND NOT EXISTS (
       SELECT FROM events n WHERE n.position > e.position AND NOT (
              n.type = 'rec' AND convert_from(n.entry, 'UTF8')::jsonb -> 'detail' ? 'unrecovered'))
"""
_LOST = """
SELECT DISTINCT unnest(subjects) FROM history
 WHERE type = 'rec' AND detail ->> 'lost' IN ('record', 'quarantined') AND position >= %s ORDER BY 1
"""


def _stands(conn: Connection, target: Vault, found: Restored) -> bool:
    """Whether the catalog is what a restore from this very point has made of it, and nobody has worked in it since:
    then it was cut off after that, and goes on. What it did is in `found` then."""
    row = conn.execute(_DONE).fetchone()
    if row is None or row[0]["point"] != str(found.point):
        return False
    done, before = row[0], found.size - found.since
    found.size, found.since, found.records = done["restored"], done["restored"] - before, done["records"]
    tell_history(conn, ())
    found.lost = [one[0] for one in conn.execute(_LOST, (found.size,))]
    (found.resurrected,) = conn.execute(_RESURRECTED).fetchone() or (0,)
    every = sql.SQL("SELECT key, version, bytes, sha256 FROM ({}) AS o ORDER BY key").format(sql.SQL(points.OBJECTS))
    with conn.cursor(name="every") as cursor:
        cursor.execute(every, {"left_out": [], "only": None})
        for one, there in missing(target, (Wanted(*row) for row in cursor)):
            if there is None:
                found.left += 1
            else:
                found.objects, found.bytes = found.objects + 1, found.bytes + one.size
    return True


# ---------------------------------------------------------------- keys


def _safe(settings: Settings, source: Vault, now: datetime) -> Safe:
    """The key safe: the one that is there, or the newest copy. Raises UsageError without its root."""
    path = settings.keys / "safe.age"
    if not path.exists():
        copies = [stored.key for stored in source.list(points.SAFE)]
        if not copies:
            raise UsageError(
                f"{source.url}: no copy of the key safe, and none in {settings.keys}. Nothing could be read. Put "
                "safe.age and root.key there from where they are kept."
            )
        if not (settings.keys / "root.key").exists():
            raise UsageError(
                f"{settings.keys}: root.key is missing. Expected the root of the key safe, which is in no vault: put "
                "it there from where it is kept, with mode 600."
            )
        newest, root = max(copies), read_root(settings.keys / "root.key")
        with source.open(newest) as file:
            content = file.read()
        if not opens(root.secret, content):
            raise Damaged(
                f"{source.url}: {newest}, the newest copy of the key safe, does not open with root key {root.id}. It "
                "is sealed to a later one (shares and copies grow stale), to an earlier one where no backup ran since, "
                f"or of another archive. Put the one that belongs to it into {settings.keys}/root.key."
            )
        write_private(path, content)
    return open_safe(settings.keys, now, may_create=False)


def _former(source: Vault, point: Point, safe: Safe) -> dict[UUID, Bucket]:
    """The buckets as the copy of the safe has them that the point names; none where it is gone, after its term."""
    if point.index.safe is None:
        return {}
    try:
        with source.open(point.index.safe) as file:
            return safe.buckets_of(file.read(), point.index.safe)
    except NotFound:
        return {}


def _agent(conn: Connection, safe: Safe, settings: Settings, now: datetime) -> Agent:
    person = pseudonym(conn, safe, AgentKind.PERSON, settings.agent, now)
    return Agent(pseudonym(conn, safe, AgentKind.SOFTWARE, SOFTWARE, now), person, VERSION)


# ---------------------------------------------------------------- objects


def _bring(
    conn: Connection,
    source: Vault,
    target: Vault,
    agent: Agent,
    found: Restored,
    threads: int,
    only: str | None,
    now: datetime,
    tell: Callable[[int, int], None],
) -> None:
    """Copy what the catalog says is in the vault; what cannot be is lost; all of it told."""
    missing: dict[str, list[UUID]] = {"record": [], "quarantined": []}
    for kind, subject in conn.execute(_MISSING).fetchall():
        missing[kind].append(subject)
    _lose(conn, agent, found, missing, now)
    (found.left,) = conn.execute(_LEFT, {"class": only}).fetchone() or (0,)
    failed: dict[str, list[UUID]] = {"record": [], "quarantined": []}
    versions: dict[UUID, str] = {}
    before: dict[str, str] = {}  # of what is under way
    for done in transfer(source, target, _wanted(conn, only, before), threads=threads, tell=tell):
        folder, _, rest = done.wanted.key.partition("/")
        former = before.pop(done.wanted.key)
        if done.problem is not None:
            found.problems.append(done.problem)
            if folder in _KINDS:
                failed[_KINDS[folder]].append(UUID(rest[:36]))
            continue
        found.objects += 1
        found.bytes += done.wanted.size
        version = done.version if done.copied else target.stat(done.wanted.key).version
        found.copied += done.copied
        if folder == "descriptors":
            conn.execute("UPDATE descriptors SET version = %s WHERE descriptor_id = %s", (version, UUID(rest)))
        elif folder in _KINDS and version != former:
            versions[UUID(rest[:36])] = version
        if len(versions) == _AT_ONCE:
            _note(conn, agent, versions, now)
            versions.clear()
    _note(conn, agent, versions, now)
    _lose(conn, agent, found, failed, now)
    (found.records,) = conn.execute("SELECT count(*) FROM records").fetchone() or (0,)
    told = telling.restored(agent, found.point, found.size, found.records, len(found.lost), found.objects, now)
    ledger.append(conn, [told], now)
    tell_more(conn, found.size)
    ledger.append(conn, [*telling.unrecovered(conn, agent, now)], now)
    (found.resurrected,) = conn.execute(_RESURRECTED).fetchone() or (0,)


def _lose(conn: Connection, agent: Agent, found: Restored, ids: dict[str, list[UUID]], now: datetime) -> None:
    ledger.append(conn, telling.lose(conn, agent, ids["record"], ids["quarantined"], now), now)
    found.lost += sorted([*ids["record"], *ids["quarantined"]])


def _note(conn: Connection, agent: Agent, versions: dict[UUID, str], now: datetime) -> None:
    """The versions that objects have in the new vault."""
    given = ([*versions], [*versions.values()])
    for table, subject in (("contents", "record_id"), ("quarantine", "quarantine_id"), ("object_locks", "subject_id")):
        conn.execute(
            sql.SQL(
                "UPDATE {} AS t SET version = n.version FROM unnest(%s::uuid[], %s::text[]) AS n (id, version) "
                "WHERE t.{} = n.id"
            ).format(sql.Identifier(table), sql.Identifier(subject)),
            given,
        )
    ledger.append(conn, [*telling.moved(agent, versions, now)], now)


_LEFT = """
SELECT count(*) FROM contents c JOIN records r USING (record_id) JOIN classes USING (class_key)
 WHERE (%(class)s::text IS NOT NULL AND class_id <> %(class)s) OR ({elsewhere})""".replace("{elsewhere}", _ELSEWHERE)


def _wanted(conn: Connection, only: str | None, versions: dict[str, str]) -> Iterator[Wanted]:
    """Every object of the catalog, in the order of keys; of documents those of one class where it is asked. Which
    version each had in the vault that is gone goes into `versions`: the second vault has one of its own."""
    query = sql.SQL(
        """SELECT key, version, bytes, sha256 FROM ({}) AS o
            WHERE NOT starts_with(key, 'records/') OR substr(key, 9, 36)::uuid IN (
                  SELECT r.record_id FROM records r JOIN contents c USING (record_id) JOIN classes USING (class_key)
                   WHERE (%(class)s::text IS NULL OR class_id = %(class)s) AND NOT ({}))
            ORDER BY key"""
    ).format(sql.SQL(points.OBJECTS), sql.SQL(_ELSEWHERE))
    asked: dict[str, Any] = {"class": only, "left_out": [], "only": None}
    with conn.cursor(name="wanted") as cursor:
        cursor.execute(query, asked)
        for key, version, size, digest in cursor:
            versions[key] = version
            yield Wanted(key, "", size, bytes(digest))


# ---------------------------------------------------------------- the ledger


def _put_ledger(target: Vault, published: Published, now: datetime) -> None:
    """The published ledger as it was verified, into the new vault; the newest checkpoint last."""
    held = publishing.lock(target, now)
    for path in sorted(published.folder.rglob("*")):
        name = str(path.relative_to(published.folder))
        if path.is_file() and name != "checkpoint":
            content = path.read_bytes()
            kept = held if name.startswith("checkpoints/") else None
            target.put(
                f"{publishing.FOLDER}/{name}", content, sha256=sha256(content).digest(), size=len(content), lock=kept
            )
    target.replace(publishing.CHECKPOINT, (published.folder / "checkpoint").read_bytes())
