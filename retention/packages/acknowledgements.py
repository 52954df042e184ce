"""What the receiver of a bag answers: which records it has taken over, and which not.

Rules of this module:
- An acknowledgement is a file of JSON: {"bag", "digest", "received_at", "receiver", "accepted": [id],
  "rejected": [{"id", "reason"}]}. `digest` is the SHA-256 of the tagmanifest-sha256.txt that the receiver has
  verified: whoever names it holds exactly our bytes.
- It counts for that bag and no other; it may name only records of it, each once. A record that it does not name
  is not acknowledged, and stays.
- The receiver and its reasons are words about people: they are sealed where they are kept, never logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from retention.errors import NotFound, Refused, UsageError
from retention.packages.bags import Bag

MAX_BYTES = 64 * 1024 * 1024  # more than a million records
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A receiver's answer, checked against the bag. `unanswered` are the records it said nothing of."""

    bag: str
    digest: bytes
    received_at: datetime
    receiver: str
    accepted: tuple[UUID, ...]
    rejected: Mapping[UUID, str]
    unanswered: tuple[UUID, ...]


class _Rejected(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: UUID
    reason: Text


class _Receipt(BaseModel):
    model_config = ConfigDict(extra="forbid")
    bag: Text
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")]
    received_at: AwareDatetime
    receiver: Text
    accepted: list[UUID] = []
    rejected: list[_Rejected] = []


def read_acknowledgement(path: Path, bag: Bag) -> Acknowledgement:
    """The receiver's answer to `bag`. Raises NotFound, UsageError for what is no acknowledgement, Refused for one
    of another bag or of records that are not in it."""
    return check(read(path), path, bag)


def check(content: bytes, path: Path, bag: Bag) -> Acknowledgement:
    """The same, of what was read from `path`."""
    receipt = _parsed(content, path)
    for what, expected, found in (
        ("the bag", bag.identifier, receipt.bag),
        ("the digest of tagmanifest-sha256.txt", bag.digest.hex(), receipt.digest.lower()),
    ):
        if expected != found:
            raise Refused(
                f"refusing to take {path} for the acknowledgement of {bag.path}: {what} is expected to be {expected}, "
                f"found {found}. Ask the receiver which bag it verified; nothing was changed here."
            )
    named = Counter([*receipt.accepted, *(one.id for one in receipt.rejected)])
    twice = [str(record) for record, times in named.items() if times > 1]
    foreign = [str(record) for record in named.keys() - set(bag.records)]
    for wrong, why in ((twice, "named more than once"), (foreign, "not in the bag")):
        if wrong:
            raise Refused(
                f"refusing to take {path} for the acknowledgement of {bag.path}: expected each record of the bag at "
                f"most once, found {len(wrong)} that are {why}, such as {min(wrong)}. Ask the receiver for another."
            )
    return Acknowledgement(
        bag=receipt.bag,
        digest=bag.digest,
        received_at=receipt.received_at,
        receiver=receipt.receiver,
        accepted=tuple(receipt.accepted),
        rejected={one.id: one.reason for one in receipt.rejected},
        unanswered=tuple(record for record in bag.records if record not in named),
    )


def accepted(content: bytes) -> frozenset[UUID]:
    """The records that an acknowledgement accepts which was checked before."""
    return frozenset(_Receipt.model_validate_json(content).accepted)


def read(path: Path) -> bytes:
    """Raises NotFound, UsageError for a file that is too large to be one."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"{path}: no acknowledgement is there. Expected the file that the receiver sent.") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path}: expected an acknowledgement of at most {MAX_BYTES} bytes, found more.")
    return content


def _parsed(content: bytes, path: Path) -> _Receipt:
    try:
        return _Receipt.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path}: no acknowledgement: {where}: {first['msg']}. Expected JSON of bag, digest, received_at (with its "
            "time zone), receiver, accepted and rejected."
        ) from None
