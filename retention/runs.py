"""Runs of ingestion: what was discovered, what became of each document, and the signed account of it.

Rules of this module:
- discovered = admitted + quarantined + rejected + already known, for each run, by list (invariant 1). The
  database refuses a complete run that does not add up.
- A run that died is closed as `interrupted` by the next run of its source that finds it dead; what it had
  committed stands, and what it had not is discovered again.
- The reconciliation is a JSON file of ids, outcomes and codes, signed with Ed25519; it names no file and no
  person. Its SHA-256 is in the catalog and in the event that ends the run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psycopg import sql

from retention import ledger
from retention.archive import Archive, pseudonym
from retention.database import Connection, transaction
from retention.errors import Damaged, NotFound, Refused
from retention.ledger import Event
from retention.model import AgentKind, Batch, Committed, Outcome
from retention.private_files import write_private
from retention.seal import signing_key


@dataclass(frozen=True, slots=True)
class Totals:
    """The account of a run, in documents; `children` are counted apart, `deferred` were still being written."""

    discovered: int
    admitted: int
    quarantined: int
    rejected: int
    known: int
    children: int
    deferred: int
    bytes: int  # of documents

    @property
    def missing(self) -> int:
        """Documents that were discovered and are in no list: anything but 0 is a defect, and red."""
        return self.discovered - self.admitted - self.quarantined - self.rejected - self.known


def start(archive: Archive, run_id: UUID, source: str, schedule_version: int, now: datetime) -> None:
    """Begin a run of a source. Concurrent runs of one source are allowed: capture settles who admits what."""
    with transaction(archive.connections) as conn:
        source_id = pseudonym(conn, archive.safe, AgentKind.SOURCE, source, now)
        conn.execute(
            "INSERT INTO runs (run_id, source_id, schedule_version, started_at) VALUES (%s, %s, %s, %s)",
            (run_id, source_id, schedule_version, now),
        )
        detail = {"run": str(run_id), "source": str(source_id), "schedule": schedule_version}
        ledger.append(conn, [Event("ins", now, archive.agent, (run_id,), detail=detail)], now)


def schedule_of(conn: Connection, run_id: UUID) -> int:
    """The schedule version that a run began with: all its batches are classified under one schedule."""
    row = conn.execute("SELECT schedule_version FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    if row is None:
        raise NotFound(f"no run {run_id} in the catalog. `muniment ingest` starts one.")
    return int(row[0])


def hold_open(conn: Connection, run_id: UUID, batch: int) -> None:
    """Keep the run from being closed, and the batch from being captured by another, until this transaction ends.

    Raises Refused for a run that has ended: its account is signed, and what comes late is found by the next run."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))", (str(run_id), batch))
    row = conn.execute("SELECT state FROM runs WHERE run_id = %s FOR SHARE", (run_id,)).fetchone()
    if row is None or row[0] != "running":
        state = row[0] if row else "not in the catalog"
        raise Refused(f"refusing to add to run {run_id}: it is {state}. Run the source again; nothing was lost.")


def committed(conn: Connection, run_id: UUID, batch: int) -> bool:
    """True if this batch has been committed before: running it again changes nothing."""
    row = conn.execute("SELECT 1 FROM run_batches WHERE run_id = %s AND batch = %s", (run_id, batch)).fetchone()
    return row is not None


def record_batch(conn: Connection, batch: Batch, result: Committed, now: datetime) -> None:
    """The lists of one batch, inside its capture transaction."""
    with conn.cursor() as cursor:
        cursor.execute(
            "INSERT INTO run_batches (run_id, batch, committed_at, admitted, quarantined, rejected, known, children, "
            "bytes, expectations, known_ids) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                batch.run_id,
                batch.number,
                now,
                *(result.count(o) for o in (Outcome.ADMITTED, Outcome.QUARANTINED, Outcome.REJECTED, Outcome.KNOWN)),
                result.children,
                result.bytes,
                json.dumps([dict(e) for e in batch.expectations]),
                [item.subject_id for item in result.items if item.outcome is Outcome.KNOWN],
            ),
        )
        with cursor.copy(
            "COPY run_items (run_id, batch, item, outcome, subject_id) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["uuid", "int4", "int4", "text", "uuid"])
            for number, item in enumerate(result.items):
                if item.outcome is not Outcome.KNOWN:
                    copy.write_row((batch.run_id, batch.number, number, item.outcome.value, item.subject_id))


def close(archive: Archive, run_id: UUID, discovered: int, deferred: int, now: datetime) -> Totals:
    """End a run: add up what is committed, write and sign the account, append the event. Twice is fine.

    A run that does not add up is closed as interrupted, so that what is missing shows and is looked for."""
    folder = archive.settings.runs / str(run_id)
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT state, started_at FROM runs WHERE run_id = %s FOR UPDATE", (run_id,)).fetchone()
        if row is None:
            raise NotFound(f"no run {run_id} in the catalog.")
        if row[0] != "running":
            return totals(conn, run_id)
        found = _sums(conn, run_id, discovered, deferred)
        content = _account(conn, run_id, found, row[1], now)
        digest = sha256(content).digest()
        state = "complete" if found.missing == 0 else "interrupted"
        sums = asdict(found)
        conn.execute(
            """UPDATE runs SET ended_at = %(now)s, state = %(state)s, reconciliation = %(digest)s,
                      discovered = %(discovered)s, admitted = %(admitted)s, quarantined = %(quarantined)s,
                      rejected = %(rejected)s, known = %(known)s, children = %(children)s,
                      deferred = %(deferred)s, bytes = %(bytes)s
                WHERE run_id = %(run)s""",
            {"now": now, "state": state, "digest": digest, "run": run_id, **sums},
        )
        conn.execute("UPDATE run_batches SET known_ids = NULL WHERE run_id = %s", (run_id,))
        _write(archive, folder, content)
        outcome = "success" if state == "complete" else "failure"
        detail = {"run": str(run_id), "reconciliation": digest.hex(), "batches": _batches(conn, run_id), **sums}
        ledger.append(conn, [Event("ine", now, archive.agent, (run_id,), outcome, detail)], now)
    return found


def interrupt(archive: Archive, run_id: UUID, now: datetime) -> None:
    """Close a run whose process is gone; what it committed stands."""
    with transaction(archive.connections) as conn:
        changed = conn.execute(
            "UPDATE runs SET state = 'interrupted', ended_at = %s WHERE run_id = %s AND state = 'running' RETURNING 1",
            (now, run_id),
        ).fetchone()
        if changed:
            conn.execute("UPDATE run_batches SET known_ids = NULL WHERE run_id = %s", (run_id,))
            detail = {"run": str(run_id), "batches": _batches(conn, run_id)}
            ledger.append(conn, [Event("ine", now, archive.agent, (run_id,), "failure", detail)], now)


# SHA-256 of all that the batches of run `r` say, once it has ended: no event has each.
BATCHES = """sha256(convert_to(coalesce((
    SELECT jsonb_agg(jsonb_build_array(b.batch, extract(epoch FROM b.committed_at), b.admitted, b.quarantined,
                                       b.rejected, b.known, b.children, b.bytes, b.expectations, b.known_ids)
                     ORDER BY b.batch)::text
      FROM run_batches b WHERE b.run_id = r.run_id), ''), 'UTF8'))"""


def _batches(conn: Connection, run_id: UUID) -> str:
    query = sql.SQL("SELECT {} FROM runs r WHERE run_id = {}").format(sql.SQL(BATCHES), run_id)
    row = conn.execute(query).fetchone()
    assert row is not None
    return bytes(row[0]).hex()


def observe(archive: Archive, dag: str, dag_run: str, success: bool, now: datetime) -> None:
    """Enter the end of a scheduler's run, good or bad: silence is failure. A DAG is named after its source."""
    with transaction(archive.connections) as conn:
        scheduler = pseudonym(conn, archive.safe, AgentKind.SOFTWARE, dag, now)
        # Airflow lets people type the id of a run: it could be a name.
        run = pseudonym(conn, archive.safe, AgentKind.SOFTWARE, f"{dag} {dag_run}", now)
        detail = {"dag": str(scheduler), "dag_run": str(run)}
        outcome = "success" if success else "failure"
        ledger.append(conn, [Event("ine", now, archive.agent, (scheduler,), outcome, detail)], now)


def running(conn: Connection) -> list[tuple[UUID, datetime]]:
    """Runs that have begun and not ended: at work, or dead."""
    return conn.execute("SELECT run_id, started_at FROM runs WHERE state = 'running' ORDER BY started_at").fetchall()


def ended(conn: Connection, run_id: UUID) -> bool:
    """True if the run was closed: closing it again changes nothing."""
    row = conn.execute("SELECT 1 FROM runs WHERE run_id = %s AND state <> 'running'", (run_id,)).fetchone()
    return row is not None


def totals(conn: Connection, run_id: UUID) -> Totals:
    row = conn.execute(
        "SELECT coalesce(discovered, 0), coalesce(admitted, 0), coalesce(quarantined, 0), coalesce(rejected, 0), "
        "coalesce(known, 0), coalesce(children, 0), coalesce(deferred, 0), coalesce(bytes, 0) "
        "FROM runs WHERE run_id = %s",
        (run_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"no run {run_id} in the catalog.")
    return Totals(*row)


def verify_account(path: Path, archive: Archive) -> dict[str, Any]:
    """Read a reconciliation back; raises Damaged if it is not what was signed."""
    signed = json.loads(path.read_text("ascii"))
    content = base64.b64decode(signed["account"])
    key = signing_key(archive.settings.keys).public_key()
    try:
        key.verify(base64.b64decode(signed["signature"]), content)
    except Exception as error:  # cryptography raises InvalidSignature, which has no common base with ValueError
        raise Damaged(
            f"{path}: the signature does not belong to this account and key ({type(error).__name__})."
        ) from None
    account: dict[str, Any] = json.loads(content)
    return account


def _sums(conn: Connection, run_id: UUID, discovered: int, deferred: int) -> Totals:
    row = conn.execute(
        "SELECT coalesce(sum(admitted), 0), coalesce(sum(quarantined), 0), coalesce(sum(rejected), 0), "
        "coalesce(sum(known), 0), coalesce(sum(children), 0), coalesce(sum(bytes), 0) "
        "FROM run_batches WHERE run_id = %s",
        (run_id,),
    ).fetchone()
    admitted, quarantined, rejected, known, children, size = (int(n) for n in row or (0,) * 6)
    return Totals(discovered, admitted, quarantined, rejected, known, children, deferred, size)


def _account(conn: Connection, run_id: UUID, found: Totals, started_at: datetime, now: datetime) -> bytes:
    def items() -> Iterator[dict[str, Any]]:
        rows = conn.execute(
            "SELECT i.outcome, i.subject_id, array_remove(array_agg(f.code ORDER BY f.code), NULL) "
            "FROM run_items i LEFT JOIN findings f USING (subject_id) WHERE i.run_id = %s "
            "GROUP BY i.batch, i.item, i.outcome, i.subject_id ORDER BY i.batch, i.item",
            (run_id,),
        )
        for outcome, subject, codes in rows:
            yield {"outcome": outcome, "id": str(subject), "codes": codes}
        known = conn.execute("SELECT unnest(known_ids) FROM run_batches WHERE run_id = %s ORDER BY batch", (run_id,))
        for (place,) in known:
            yield {"outcome": Outcome.KNOWN.value, "id": str(place), "codes": []}

    account = {
        "run": str(run_id),
        "started": started_at.isoformat(),
        "ended": now.isoformat(),
        **asdict(found),
        "missing": found.missing,
        "items": list(items()),
    }
    return json.dumps(account, sort_keys=True, separators=(",", ":")).encode("ascii")


def _write(archive: Archive, folder: Path, account: bytes) -> None:
    key = signing_key(archive.settings.keys)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signed = {
        "account": base64.b64encode(account).decode(),
        "algorithm": "Ed25519",
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(key.sign(account)).decode(),
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in (
        ("reconciliation.json", account),
        ("reconciliation.signed.json", json.dumps(signed).encode()),
    ):
        write_private(folder / name, content)
