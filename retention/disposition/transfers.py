"""Records handed on to another archive: the bag, its receiver's acknowledgement, and a transfer that is given up.

Rules of this module (requirements: retention, *Disposition*):
- Nothing that was handed out is destroyed here before its receiver acknowledged it, and then only what it accepted.
- The bag holds records in clear: it stands in the workspace from the moment it is written until it is acknowledged or
  given up, and is removed then. Until it is removed its plan has no certificate.
- The acknowledgement is evidence, and names people: it is kept as a record of its own (retention.disposition.evidence);
  what counts is its digest in the catalog and in the ledger.
- A transfer that nobody acknowledges may be given up: what was handed out stays here, as `transfer-not-acknowledged`,
  and is proposed again. One person may: it destroys nothing, and keeps more than two people signed for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from retention import ledger, packages
from retention.archive import Archive, pseudonym
from retention.database import Connection, transaction
from retention.disposition import evidence
from retention.disposition.plans import cut
from retention.errors import Damaged, NotFound, Refused, ServiceUnavailable, UsageError
from retention.ledger import Event
from retention.model import AgentKind, RecordState
from retention.packages import Purpose, acknowledgements, bags
from retention.packages.acknowledgements import Acknowledgement
from retention.packages.bags import Bag
from retention.packages.check import verify_bag

GIVEN_UP = "transfer-not-acknowledged"


def bag_folder(archive: Archive, plan_id: UUID) -> Path:
    """Where the bag of a transfer stands."""
    return archive.settings.root / "transfers" / str(plan_id)


def _identifier(plan_id: UUID) -> str:
    return f"muniment-transfer-{plan_id}"


def hand_out(archive: Archive, plan_id: UUID, ids: Sequence[UUID], clock: Callable[[], datetime]) -> None:
    """Write the bag of these records, and say that it went out. Raises what `packages.write_bag` does, Damaged."""
    bag = packages.write_bag(
        archive,
        ids,
        bag_folder(archive, plan_id),
        purpose=Purpose.TRANSFER,
        identifier=_identifier(plan_id),
        clock=clock,
    )
    if wrong := verify_bag(bag.path, archive.settings.vault_threads):
        raise Damaged(
            f"bag {bag.path} is not what was written: {wrong[0].code} {wrong[0].message} Nothing was handed out; "
            "look at the disk, move the bag away, then execute the plan again."
        )
    now = clock()
    with transaction(archive.connections) as conn:
        conn.execute(
            "INSERT INTO transfers (plan_id, bag_digest, written_at) VALUES (%s, %s, %s)", (plan_id, bag.digest, now)
        )
        ledger.append(conn, packages.handed_out(bag, Purpose.TRANSFER, archive.agent, now), now)


# ---------------------------------------------------------------- acknowledged


def acknowledge(archive: Archive, plan_id: UUID, receipt: Path, now: datetime) -> Acknowledgement:
    """Enter the receiver's acknowledgement of a bag, and remove the bag; the same again changes nothing.

    Raises UsageError (no bag was handed out, no acknowledgement), NotFound, Refused (of another bag, a second one, of
    a transfer that was given up), ServiceUnavailable if the bag cannot be removed: enter it again then."""
    content = acknowledgements.read(receipt)
    digest = sha256(content).digest()
    with transaction(archive.connections) as conn:
        bag = _bag(archive, conn, plan_id, receipt, digest)
    found = acknowledgements.check(content, receipt, bag)
    title = f"acknowledgement of transfer {plan_id}"
    record_id = evidence.keep(archive, f"{plan_id}/{digest.hex()}", title, content, lambda: now)
    with transaction(archive.connections) as conn:
        _bag(archive, conn, plan_id, receipt, digest)  # nobody was faster
        new = conn.execute(
            "UPDATE transfers SET acknowledgement = %s, acknowledged_at = %s, receipt_id = %s "
            "WHERE plan_id = %s AND acknowledgement IS NULL RETURNING 1",
            (digest, now, record_id, plan_id),
        ).fetchone()
        if new is not None:
            detail = {
                "plan": str(plan_id),
                "recipient": str(pseudonym(conn, archive.safe, AgentKind.ORGANIZATION, found.receiver, now)),
                "acknowledgement": str(record_id),
                "acknowledgement_sha256": digest.hex(),
                "accepted": len(found.accepted),
                "rejected": len(found.rejected),
            }
            ledger.append(conn, [Event("tra", now, archive.agent, (plan_id,), detail=detail)], now)
    remove_bag(archive, plan_id)
    return found


def _bag(archive: Archive, conn: Connection, plan_id: UUID, receipt: Path, digest: bytes) -> Bag:
    """The bag that was handed out, if it waits for this acknowledgement or has it. Raises UsageError, Refused."""
    row = conn.execute(
        "SELECT bag_digest, written_at, acknowledgement, given_up_at FROM transfers WHERE plan_id = %s FOR UPDATE",
        (plan_id,),
    ).fetchone()
    if row is None:
        raise UsageError(f"plan {plan_id}: no bag was handed out. Execute it first.")
    expected, written_at, known, given_up_at = row
    if given_up_at is not None:
        raise Refused(
            f"refusing {receipt}: the transfer of plan {plan_id} was given up {given_up_at:%Y-%m-%d}, and its records "
            "are kept here. They are proposed again; hand them out then."
        )
    if known is None:
        found = bags.read_bag(bag_folder(archive, plan_id))
        if found.digest != bytes(expected):
            raise Refused(
                f"refusing {receipt}: the bag at {found.path} is not the one that was handed out (expected digest "
                f"{bytes(expected).hex()}, found {found.digest.hex()}). Put that one back."
            )
        return found
    if bytes(known) != digest:
        raise Refused(f"refusing another acknowledgement of plan {plan_id}: one was entered before.")
    handed = conn.execute(  # the bag is gone by now
        """SELECT record_id FROM plan_items WHERE plan_id = %s AND decision = 'approve' AND action = 'transfer'
              AND (ended_at IS NULL OR ended_at >= %s) ORDER BY 1""",
        (plan_id, written_at),
    ).fetchall()
    path, records = bag_folder(archive, plan_id), tuple(row[0] for row in handed)
    return Bag(path, _identifier(plan_id), bytes(expected), records, files=0, bytes=0, findings=())


def accepted(archive: Archive, plan_id: UUID) -> frozenset[UUID]:
    """What the receiver accepted. Raises NotFound, Damaged if the acknowledgement is not the one that was entered."""
    with transaction(archive.connections) as conn:
        row = conn.execute(
            "SELECT receipt_id, acknowledgement FROM transfers WHERE plan_id = %s AND acknowledgement IS NOT NULL",
            (plan_id,),
        ).fetchone()
    if row is None:
        raise NotFound(f"plan {plan_id}: no acknowledgement was entered.")
    content = evidence.read(archive, row[0])
    if sha256(content).digest() != bytes(row[1]):
        raise Damaged(
            f"plan {plan_id}: record {row[0]} is not the acknowledgement that was entered. Nothing was destroyed; look "
            "who wrote to transfers."
        )
    return acknowledgements.accepted(content)


# ---------------------------------------------------------------- given up


def give_up(archive: Archive, plan_id: UUID, now: datetime) -> int:
    """What waits for its receiver stays here; returns how many records. Whoever calls it is alone at the plan.

    Raises Refused where nothing waits, or the receiver has acknowledged it."""
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT acknowledged_at FROM transfers WHERE plan_id = %s FOR UPDATE", (plan_id,)).fetchone()
        if row is not None and row[0] is not None:
            raise Refused(
                f"refusing to give up the transfer of plan {plan_id}: its receiver acknowledged it {row[0]:%Y-%m-%d}. "
                "Execute the plan; what was not accepted stays."
            )
        staying = [
            one[0]
            for one in conn.execute(
                """UPDATE plan_items i SET open = false, outcome = %s, ended_at = %s FROM records r
                    WHERE i.plan_id = %s AND i.open AND i.decision = 'approve' AND i.action = 'transfer'
                      AND r.record_id = i.record_id AND r.state = %s
                RETURNING i.record_id""",
                (GIVEN_UP, now, plan_id, RecordState.KEPT),
            )
        ]
        if not staying:
            raise Refused(f"refusing to give up the transfer of plan {plan_id}: nothing of it waits for a receiver.")
        conn.execute("UPDATE transfers SET given_up_at = %s WHERE plan_id = %s", (now, plan_id))
        detail = {"plan": str(plan_id), "kept": GIVEN_UP}
        kept = [Event("app", now, archive.agent, part, "failure", detail) for part in cut(sorted(staying))]
        detail = {"plan": str(plan_id), "transfer": "given-up"}
        ledger.append(conn, [*kept, Event("poa", now, archive.agent, (plan_id,), "failure", detail)], now)
    remove_bag(archive, plan_id)
    return len(staying)


def remove_bag(archive: Archive, plan_id: UUID) -> None:
    """What of a bag, whole or half written, stands in the workspace. Raises ServiceUnavailable if it cannot go."""
    bag = bag_folder(archive, plan_id)
    for left in filter(Path.is_dir, bag.parent.glob(f"{bag.name}*")):
        try:
            shutil.rmtree(left)
        except OSError as error:
            raise ServiceUnavailable(
                f"{left}: expected to remove the bag, which holds records in clear, found {error}. Until it is gone "
                f"plan {plan_id} has no certificate. Mend the disk or its permissions, and run the same again."
            ) from error
