"""The execution certificate: what was done with every item of a plan, signed, kept as a record of its own.

Rules of this module (requirements: retention, *Disposition*):
- It is issued once, when nothing of the plan is open any more, and names every item with its outcome: what was
  destroyed or transferred, and what was kept, with the code that says why.
- It holds ids, classes, rules, citations, dates and digests of sealed bytes; the statement that was signed, with both
  signatures and keys, so that `ssh-keygen -Y verify` checks them; and what outlives the records for a while.
- Signed with Ed25519 over its canonical JSON (sorted keys, no spaces), by the key of the workspace's key safe. It is
  kept as a record of its own (retention.disposition.evidence); its digest is in the ledger.
- Destruction is cryptographic erase in the sense of NIST SP 800-88, self-assessed: the keys are gone from the catalog
  with this certificate, and from old copies of it once the buckets named here have new keys and the term of the key
  safe's history has passed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from retention import ledger, policy, signatures
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.disposition import evidence
from retention.disposition.plans import Plan, show, stream
from retention.errors import Damaged, NotFound
from retention.ledger import Event
from retention.seal import signing_key

FORMAT = "muniment-execution-certificate-1"


def issue(archive: Archive, plan_id: UUID, clock: Callable[[], datetime]) -> UUID:
    """Make, sign and capture the certificate, and end the plan; returns its record. Running it again finds it."""
    place = str(plan_id)
    record_id = evidence.find(archive, place)
    if record_id is None:  # what is signed states the time, so it is made once
        content = _signed(archive, plan_id, clock())
        record_id = evidence.keep(archive, place, f"execution certificate {plan_id}", content, clock)
    now = clock()
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id, lock=True)
        if plan.certificate_id is None:
            conn.execute(
                "UPDATE plans SET ended_at = %s, certificate_id = %s WHERE plan_id = %s", (now, record_id, plan_id)
            )
            detail = {"plan": str(plan_id), "state": "executed", "certificate": str(record_id)}
            ledger.append(conn, [Event("poa", now, archive.agent, (plan_id, record_id), detail=detail)], now)
    return record_id


def read(archive: Archive, plan_id: UUID) -> bytes:
    """The certificate of a plan, from the vault. Raises NotFound for a plan that is not executed, Damaged."""
    with transaction(archive.connections) as conn:
        record_id = show(conn, plan_id).certificate_id
        if record_id is None:
            raise NotFound(f"plan {plan_id} has no certificate: it is not executed to its end.")
    return evidence.read(archive, record_id)


def verify(content: bytes) -> dict[str, Any]:
    """What a certificate says, if it is what was signed. Raises Damaged."""
    try:
        found = json.loads(content)
        stated: dict[str, Any] = found["certificate"]
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(found["public_key"]))
        key.verify(base64.b64decode(found["signature"]), _canonical(stated))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"expected a signed certificate, found something else ({error}).") from None
    except InvalidSignature:
        raise Damaged("the signature does not belong to this certificate: it was changed.") from None
    return stated


def _canonical(stated: dict[str, Any]) -> bytes:
    return json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


# ---------------------------------------------------------------- what it says


def _signed(archive: Archive, plan_id: UUID, now: datetime) -> bytes:
    with transaction(archive.connections) as conn:
        plan = show(conn, plan_id)
        return signed(archive, _stated(conn, archive, plan, now))


def signed(archive: Archive, stated: dict[str, Any]) -> bytes:
    """A certificate that says this, signed by the key of the workspace's key safe; `verify` reads it."""
    key = signing_key(archive.settings.keys)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    whole = {
        "certificate": stated,
        "algorithm": "Ed25519 over the certificate as JSON with sorted keys and no spaces",
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(key.sign(_canonical(stated))).decode(),
    }
    return json.dumps(whole, indent=1, ensure_ascii=True).encode()


def _stated(conn: Connection, archive: Archive, plan: Plan, now: datetime) -> dict[str, Any]:
    version = policy.of_version(conn, plan.schedule_version)
    citations = {(c.id, r.id): r.authority.citation for c in version.schedule.classes for r in c.rules}
    signed = conn.execute(
        "SELECT person_id, coalesce(public_key, ''), coalesce(signature, ''), signed_at "
        "FROM signatures JOIN approvers USING (person_id) "
        "WHERE proposal_id = %s ORDER BY signed_at",
        (plan.id,),
    ).fetchall()
    remains = conn.execute(
        """SELECT kind, remains_id FROM plan_remains LEFT JOIN descriptors ON descriptor_id = remains_id
            WHERE plan_id = %s AND (kind = 'bucket' OR descriptor_id IS NOT NULL) ORDER BY 1, 2""",
        (plan.id,),
    ).fetchall()
    return {
        "format": FORMAT,
        "archive": archive.safe.tag.hex(),
        "plan": str(plan.id),
        "as_of": plan.as_of.isoformat(),
        "schedule": {"version": plan.schedule_version, "sha256": version.schedule.digest},
        "list_sha256": plan.digest.hex(),
        "proposed": _time(plan.proposal.proposed_at),
        "started": _time(plan.started_at),
        "ended": _time(now),
        "statement": plan.proposal.statement,
        "signatures": [
            {
                "person": str(person),
                "key": signatures.public_line(bytes(key)),
                "signature": bytes(signature).decode("ascii"),
                "signed": _time(at),
            }
            for person, key, signature, at in signed
        ],
        "method": "the record's own key destroyed (cryptographic erase, NIST SP 800-88, self-assessed); every version "
        "of its sealed bytes removed from the vault, which was listed again",
        "items": [_item(row, citations) for row in stream(conn, _ITEMS, (plan.id,))],
        "remains": {
            "shared descriptor objects, line unreadable": [str(i) for kind, i in remains if kind == "descriptor"],
            "buckets of keys that lost keys": [str(i) for kind, i in remains if kind == "bucket"],
        },
    }


_ITEMS = """SELECT i.record_id, c.class_id, i.action, i.decision, i.rule_id, i.retain_until, i.outcome, i.ended_at,
                   t.sealed_sha256, t.annex_id
              FROM plan_items i JOIN classes c USING (class_key)
              LEFT JOIN tombstones t ON t.record_id = i.record_id AND t.plan_id = i.plan_id
             WHERE i.plan_id = %s ORDER BY 1"""


def _item(row: tuple[Any, ...], citations: dict[tuple[str, str], str]) -> dict[str, Any]:
    record, class_id, action, decision, rule, until, outcome, ended, digest_, annex = row
    item = {
        "record": str(record),
        "class": class_id,
        "action": action,
        "decision": decision,
        "rule": rule,
        "citation": citations.get((class_id, rule), ""),
        "retain_until": until.isoformat(),
        "outcome": outcome,
        "ended": _time(ended),
    }
    if digest_ is not None:
        item["sealed_sha256"] = bytes(digest_).hex()
    if annex is not None:
        item["annex"] = str(annex)
    return item


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")
