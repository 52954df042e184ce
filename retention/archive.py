"""An open archive: catalog, vault and key safe of one workspace, and in whose name things are done.

Rules of this module:
- Opening checks what must hold before anything is written: the services answer, the catalog has the current
  shape, the database's role cannot rewrite history, the key safe belongs to the catalog (a catalog with keys never
  gets a new safe).
- Names of people, organisations and sources stand in the catalog only sealed, each under a key of its own;
  everything else refers to them by pseudonym.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from psycopg_pool import ConnectionPool

from retention import database
from retention.config import VERSION, Settings
from retention.database import Connection, transaction
from retention.errors import NotFound, UsageError
from retention.ledger import Agent
from retention.model import AgentKind
from retention.seal import Bucket, RecordKey, Safe, new_record_key, open_safe
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault

SOFTWARE = f"muniment {VERSION}"
_CONNECTIONS = 8  # of one thread at most five at a time: a backup's lock, its snapshot, and publishing with three


@dataclass(frozen=True, slots=True)
class Archive:
    """Everything a use case needs; safe for use by many threads."""

    settings: Settings
    connections: ConnectionPool[Connection]
    vault: Vault
    safe: Safe
    agent: Agent
    seconds: Mapping[str, Vault] = field(default_factory=dict)  # the second vaults, by name; not looked at yet


@contextmanager
def open_archive(settings: Settings, now: datetime) -> Iterator[Archive]:
    """Open, migrate if needed, and close at the end of the block.

    Raises ServiceUnavailable if a service does not answer, UsageError if the key safe is missing, Refused if the
    database's role could rewrite history."""
    database.prepare(settings.database_url, settings.database_owner_url)
    connections = database.pool(settings.database_url, size=_CONNECTIONS)
    try:
        access, secret = settings.vault_access_key, settings.vault_secret_key
        with transaction(connections) as conn:
            # Nothing is entered before vault and safe are there: what fails here may be mended and tried again.
            first = conn.execute("SELECT NOT EXISTS (SELECT FROM key_buckets)").fetchone() == (True,)
            safe = open_safe(settings.keys, now, may_create=first)
            _belong(conn, safe)
            if first:  # later a vault that is missing is a disk that is not mounted, never an empty vault
                with suppress(UsageError):  # a bucket that cannot lock will do, but for classes that ask for it
                    ensure_vault(settings.vault_url, access_key=access, secret_key=secret)
            vault = open_vault(settings.vault_url, access_key=access, secret_key=secret)
            vault.check()
            person = pseudonym(conn, safe, AgentKind.PERSON, settings.agent, now)
            software = pseudonym(conn, safe, AgentKind.SOFTWARE, SOFTWARE, now)
        seconds = {
            one.name: open_vault(one.url, access_key=one.access_key, secret_key=one.secret_key)
            for one in settings.backups
        }
        yield Archive(settings, connections, vault, safe, Agent(software, person, VERSION), seconds)
    finally:
        connections.close()


def _belong(conn: Connection, safe: Safe) -> None:
    """Bind the catalog to the first safe it is opened with. Raises UsageError for any other."""
    conn.execute("INSERT INTO belongs_to (safe) VALUES (%s) ON CONFLICT DO NOTHING", (safe.tag,))
    row = conn.execute("SELECT safe FROM belongs_to").fetchone()
    if row is None or bytes(row[0]) != safe.tag:
        raise UsageError(
            f"key safe {safe.folder}: refusing to use it with this catalog, which belongs to another safe. Nothing "
            "could be read with this one. Use the workspace of the catalog, or restore its keys."
        )


def pseudonym(conn: Connection, safe: Safe, kind: AgentKind, name: str, now: datetime) -> UUID:
    """The pseudonym of a name, entered (sealed) if it is new, or was in no copy when the catalog was recovered."""
    found = safe.pseudonym(kind, name)
    known = "SELECT FROM pseudonyms WHERE pseudonym_id = %s AND sealed_name IS NOT NULL"
    if conn.execute(known, (found,)).fetchone() is None:
        key = new_record_key()
        sealed = key.seal(name.encode("utf-8", "surrogateescape"))
        inserted = conn.execute(
            "INSERT INTO pseudonyms (pseudonym_id, kind, sealed_name, recorded_at) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (pseudonym_id) DO UPDATE SET kind = EXCLUDED.kind, sealed_name = EXCLUDED.sealed_name "
            "WHERE pseudonyms.sealed_name IS NULL RETURNING 1",
            (found, kind.value, sealed, now),
        ).fetchone()
        if inserted:
            store_keys(conn, safe, {found: (key, "pseudonyms")}, now)
    return found


def names(conn: Connection, safe: Safe, pseudonyms: Iterable[UUID]) -> dict[UUID, str]:
    """Who the pseudonyms are, for somebody who looks now. A name whose key is gone is left out."""
    rows = conn.execute(
        "SELECT p.pseudonym_id, p.sealed_name, k.bucket_id, k.wrapped FROM pseudonyms p "
        "JOIN subject_keys k ON k.subject_id = p.pseudonym_id WHERE p.pseudonym_id = ANY(%s)",
        (list(pseudonyms),),
    ).fetchall()
    return {row[0]: safe.bucket(row[2]).unwrap(row[3]).open(row[1]).decode("utf-8", "surrogateescape") for row in rows}


def store_keys(conn: Connection, safe: Safe, keys: Mapping[UUID, tuple[RecordKey, str]], now: datetime) -> None:
    """Write record keys, wrapped under the bucket of their scope and this month. The safe is durable first."""
    buckets = _buckets(conn, safe, {scope for _, scope in keys.values()}, now)
    with conn.cursor().copy("COPY subject_keys (subject_id, bucket_id, wrapped) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["uuid", "uuid", "bytea"])
        for subject, (key, scope) in keys.items():
            copy.write_row((subject, buckets[scope].id, buckets[scope].wrap(key)))


def _buckets(conn: Connection, safe: Safe, scopes: Iterable[str], now: datetime) -> dict[str, Bucket]:
    """The bucket of each scope, with its row in the catalog. Until the transaction ends none of them is replaced
    (retention.rekeying): a key that was wrapped under one whose key is dropped could never be read."""
    month = now.astimezone(UTC).date().replace(day=1)
    replaced: set[UUID] = set()
    while True:
        buckets = {scope: safe.current(scope, month, now, replaced) for scope in scopes}
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO key_buckets (bucket_id, scope, month, generation, recorded_at) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (bucket_id) DO NOTHING",
                # in one order everywhere, so that two writers wait and never deadlock
                sorted((b.id, b.scope, b.month, b.generation, now) for b in buckets.values()),
            )
        ids = sorted(b.id for b in buckets.values())
        conn.execute("SELECT FROM key_buckets WHERE bucket_id = ANY(%s) ORDER BY bucket_id FOR KEY SHARE", (ids,))
        found = conn.execute("SELECT bucket_id FROM replaced_buckets WHERE bucket_id = ANY(%s)", (ids,)).fetchall()
        if not found:
            return buckets
        replaced |= {row[0] for row in found}  # by another process, since this one read the safe


def load_keys(conn: Connection, safe: Safe, subjects: Iterable[UUID]) -> dict[UUID, RecordKey]:
    """The keys of subjects; one whose row is gone is left out. Raises NotFound if a bucket key is gone."""
    asked = [*subjects]
    for again in (True, False):  # between the row and the safe a bucket may have got another key
        rows = conn.execute(
            "SELECT subject_id, bucket_id, wrapped FROM subject_keys WHERE subject_id = ANY(%s)", (asked,)
        ).fetchall()
        try:
            return {subject: safe.bucket(bucket).unwrap(bytes(wrapped)) for subject, bucket, wrapped in rows}
        except NotFound:
            if not again:
                raise
    raise AssertionError("unreachable")


def load_key(conn: Connection, safe: Safe, subject: UUID) -> RecordKey:
    """The key of one subject. Raises NotFound if it was destroyed or never was."""
    found = load_keys(conn, safe, [subject])
    if subject not in found:
        raise NotFound(f"{subject}: no key in the catalog. It was destroyed, or no such record was ever captured.")
    return found[subject]
