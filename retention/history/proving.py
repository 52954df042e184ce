"""The events of one record, each with the proof that it is in the published ledger, in one file.

Rules of this module (requirements: history, *Proof for one record*):
- The file is JSON: `record`, `checkpoint` (the signed note), and `events`, each with its `position`, its `entry` in
  base64 and its `proof`, a whole c2sp.org/tlog-proof@v1 of the same checkpoint, which other clients read.
- The hashes come from the published tiles, the entries from the catalog; each proof is verified before it is handed
  out, so an event that was changed in either place is found here.
- What a file proves: each of these events was logged, at its position, before the checkpoint was signed. That there
  are no others is shown by the entries of the whole ledger alone.
- A check needs the file and a key of the log: no server, no network. It names every event that is not proven.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from retention import merkle
from retention.errors import Damaged, MunimentError, NotFound
from retention.tlog import checkpoint, proof, tiles
from retention.tlog.canonical import decode_base64, encode_base64
from retention.tlog.note import Verifier
from retention.tlog.proof import Proof

if TYPE_CHECKING:
    from retention.archive import Archive


@dataclass(frozen=True, slots=True)
class Proven:
    """One event: its position, its entry as it was logged, and the proof file of it."""

    position: int
    entry: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class History:
    """The published events of one record, and how many more are not published yet."""

    record: UUID
    origin: str
    size: int
    checkpoint: bytes
    events: tuple[Proven, ...]
    unpublished: int

    def encode(self) -> bytes:
        value = {
            "record": str(self.record),
            "checkpoint": self.checkpoint.decode(),
            "events": [
                {"position": one.position, "entry": encode_base64(one.entry), "proof": one.proof.decode()}
                for one in self.events
            ],
        }
        return json.dumps(value, indent=1).encode() + b"\n"


@dataclass(slots=True)
class Checked:
    """What the check of a file found; `problems` are in words, each with the event that it is about."""

    record: str
    origin: str
    size: int = 0
    root: bytes = merkle.EMPTY
    signed_by: tuple[Verifier, ...] = ()
    events: list[dict[str, Any]] = field(default_factory=list)  # those that are proven, decoded, with `position`
    problems: list[tuple[str, str]] = field(default_factory=list)  # place, what is wrong


def prove(archive: Archive, record: UUID) -> History:
    """Raises NotFound for a record without events or with no published ones, Damaged for one that is not as logged."""
    from retention.database import transaction
    from retention.history import keys, publishing

    with transaction(archive.connections) as conn:
        known = keys.all_keys(conn)
        rows = conn.execute(
            "SELECT position, entry FROM event_subjects JOIN events USING (position) WHERE subject_id = %s "
            "ORDER BY position",
            (record,),
        ).fetchall()
    if not rows:
        raise NotFound(f"no event of {record} in the ledger. `muniment find WORDS` says which records there are.")
    newest = publishing.newest_signed(archive.vault, known) if known else None
    size = newest.checkpoint.size if newest else 0
    events = [(position, bytes(entry)) for position, entry in rows if position < size]
    if newest is None or not events:
        raise NotFound(
            f"{len(rows):,} events of {record}, none of them published yet, so nothing proves them. "
            "Publish them: `muniment ledger publish`, then this again."
        )
    signed = newest.note.encode()
    node = tiles.node_reader(size, lambda tile: publishing.read_tile(archive.vault, tile))
    proven = []
    for position, entry in events:
        made = Proof(position, tuple(merkle.inclusion_proof(position, size, node)), signed)
        verifiers = [key.verifier for key in known]
        what = f"event {position:,}, as the catalog has it"
        proof.verify(made, merkle.leaf_hash(entry), newest.checkpoint.origin, verifiers, what=what)
        proven.append(Proven(position, entry, made.encode()))
    return History(record, newest.checkpoint.origin, size, signed, tuple(proven), len(rows) - len(events))


def check(data: bytes, trusts: Sequence[Verifier], what: str = "proof") -> Checked:
    """Check a file with nothing but the keys. Raises Damaged for what is no such file at all."""
    value = _parsed(data, what)
    found = Checked(value["record"], trusts[0].name)
    signed = value["checkpoint"].encode()
    try:
        opened = checkpoint.open_signed(signed, found.origin, trusts, what="checkpoint")
    except MunimentError as error:
        found.problems.append(("checkpoint", str(error).removeprefix("checkpoint: ")))
        return found
    found.size, found.root, found.signed_by = opened.checkpoint.size, opened.checkpoint.root, opened.signed_by
    before = -1
    for event in value["events"]:
        place = f"event {event['position']:,}"
        try:
            found.events.append(_checked(event, place, found.record, signed, before, trusts))
        except Damaged as damaged:
            found.problems.append((place, str(damaged).removeprefix(f"{place}: ")))
        before = event["position"]
    return found


def _checked(
    event: dict[str, Any], place: str, record: str, signed: bytes, before: int, trusts: Sequence[Verifier]
) -> dict[str, Any]:
    """The event as it was logged. Raises Damaged if the file does not prove it."""
    try:
        entry = decode_base64(event["entry"])
    except ValueError as error:
        raise Damaged(f"{place}: expected its entry in base64 ({error}).") from None
    made = proof.parse(event["proof"].encode(), place)
    if made.index != event["position"] or made.index <= before:
        raise Damaged(f"{place}: expected positions that rise, each with its own proof, found one of {made.index:,}.")
    if made.checkpoint != signed:
        raise Damaged(f"{place}: its proof leads to another checkpoint than that of the file.")
    proof.verify(made, merkle.leaf_hash(entry), trusts[0].name, trusts, what=place)
    logged = json.loads(entry)  # what the log's key signed is what Muniment wrote
    if record not in logged["subjects"]:
        raise Damaged(f"{place}: it is in the ledger, but is none of {record}.")
    return {"position": made.index, **logged}


def _parsed(data: bytes, what: str) -> dict[str, Any]:
    """The file as it stands. Raises Damaged unless it has the form that `History.encode` gives it."""
    try:
        value = json.loads(data)
        record, signed, events = value["record"], value["checkpoint"], value["events"]
        if str(UUID(record)) != record or not isinstance(signed, str) or not events or len(value) != 3:
            raise ValueError("other members")
        for event in events:
            if [type(event[name]) for name in ("position", "entry", "proof")] != [int, str, str] or len(event) != 3:
                raise ValueError("an event of another form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(
            f"{what}: expected JSON with `record`, `checkpoint` and `events` as `muniment proof RECORD -o FILE` writes "
            f"it, found something else ({type(error).__name__}: {str(error)[:80]})."
        ) from None
    return dict(value)


def split(history: History, folder: Path) -> None:
    """Write the same for other clients: `<position>.json`, the entry, and `<position>.tlog-proof`."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in history.events:
        (folder / f"{one.position}.json").write_bytes(one.entry)
        (folder / f"{one.position}{proof.SUFFIX}").write_bytes(one.proof)
