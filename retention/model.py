"""The dictionary of retention: the words of ISO 15489, PREMIS 3 and OAIS as values.

Rules of this module:
- Values only: frozen, no IO, no clock.
- An identifier is a random UUID (RFC 9562 version 7, so that rows of one time lie together); it never says
  anything about a person.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

UNCLASSIFIED = "unclassified"

# The event type vocabulary of PREMIS (id.loc.gov/vocabulary/preservation/eventType).
EVENT_TYPES: Mapping[str, str] = {
    "acc": "accession",
    "app": "appraisal",
    "cap": "capture",
    "cre": "creation",
    "dea": "deaccession",
    "dec": "decompression",
    "del": "deletion",
    "der": "decryption",
    "dig": "digital signature validation",
    "dis": "dissemination",
    "dsg": "digital signature generation",
    "enc": "encryption",
    "exp": "exporting",
    "ext": "extraction",
    "fil": "filename change",
    "fix": "fixity check",
    "for": "format identification",
    "ine": "ingestion end",
    "ing": "ingestion",
    "ins": "ingestion start",
    "ipc": "information package creation",
    "mee": "metadata extraction",
    "mem": "metadata modification",
    "mes": "message digest calculation",
    "mig": "migration",
    "mod": "modification",
    "nor": "normalization",
    "poa": "policy assignment",
    "qua": "quarantine",
    "rec": "recovery",
    "red": "redaction",
    "rep": "replication",
    "tra": "transfer",
    "unp": "unpacking",
    "unq": "unquarantine",
    "val": "validation",
    "vir": "virus check",
}


def new_id(now: datetime) -> UUID:
    """A version 7 UUID: 48 bits of Unix milliseconds, 74 random bits (RFC 9562 §5.7)."""
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    return UUID(int=value & ~(3 << 62) | 2 << 62)


class RecordState(IntEnum):
    """`records.state`."""

    KEPT = 1
    DESTROYING = 2
    DESTROYED = 3
    TRANSFERRED = 4
    LOST = 5  # its content or its key was in no copy when the archive was restored


class AgentKind(StrEnum):
    """PREMIS agent types; `source` names a place that documents come from, under the same pseudonymity."""

    PERSON = "person"
    ORGANIZATION = "organization"
    SOFTWARE = "software"
    SOURCE = "source"


class Outcome(StrEnum):
    """What became of a discovered document. The four add up to what was discovered (invariant 1)."""

    ADMITTED = "admitted"
    QUARANTINED = "quarantined"
    REJECTED = "rejected"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Coded:
    """A finding as the catalog keeps it; the message goes into the sealed descriptor only."""

    code: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a person wrote or is: goes into the sealed descriptor and the description tables, nowhere else.

    `place` and `name` are as the source gave them (surrogateescape for bytes that are not UTF-8)."""

    name: str
    source: str
    place: str
    title: str | None = None
    author: str | None = None
    mime: str | None = None
    puid: str | None = None
    language: str | None = None
    sha256: bytes | None = None
    modified: datetime | None = None  # as the source listed it, UTC
    metadata: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Coded, ...] = ()
    text: bytes = field(default=b"", repr=False)  # zlib-compressed UTF-8: a batch holds hundreds of them


@dataclass(frozen=True, slots=True)
class Deposit:
    """One document to be captured as a record: its bytes on disk, its class, its dates, its description."""

    record_id: UUID
    path: Path
    sha256: bytes
    size: int
    class_id: str
    rule: str  # the classification rule that matched, for the event
    description: Description
    received: date  # civil date of receipt in the schedule's time zone
    document_date: date | None = None
    modified: date | None = None
    parent_id: UUID | None = None
    steps: Mapping[str, Any] = field(default_factory=dict)  # format and tool versions, for the ingestion event
    wanted_lock: tuple[str, datetime] | None = None  # mode and end that policy requires
    aggregation: tuple[str, str] | None = None  # kind and business id of the case file that it belongs to


@dataclass(frozen=True, slots=True)
class Detained:
    """One document to be quarantined: its bytes and every finding are kept."""

    quarantine_id: UUID
    path: Path
    sha256: bytes
    size: int
    description: Description


@dataclass(frozen=True, slots=True)
class Turned:
    """One document that was rejected: there are no bytes to keep, only what was found."""

    item_id: UUID
    description: Description


@dataclass(frozen=True, slots=True)
class Sighting:
    """That a source showed these bytes at this place. HMACs under the key safe's index key, never names."""

    place: bytes
    content: bytes
    revision: bytes | None = None
    replaces: bytes | None = None  # the content that was known at this place before, if any


@dataclass(frozen=True, slots=True)
class Unit:
    """A document and what came inside it (attachments): captured together or not at all. The parent is first."""

    sighting: Sighting
    deposits: tuple[Deposit, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of a run, decided: what is to be captured, kept apart, turned away; `known` only counts."""

    run_id: UUID
    number: int
    admitted: tuple[Unit, ...] = ()
    quarantined: tuple[tuple[Sighting, Detained], ...] = ()
    rejected: tuple[tuple[Sighting | None, Turned], ...] = ()  # remembered, unless another try may go better
    known: tuple[tuple[bytes, UUID], ...] = ()  # places seen again with the same bytes, and what these became
    expectations: tuple[Mapping[str, Any], ...] = ()  # per code: evaluated, failed


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a reconciliation: what became of one discovered document. Ids and codes, no names."""

    outcome: Outcome
    subject_id: UUID
    children: int = 0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch as it stands in the catalog."""

    items: tuple[Item, ...]
    bytes: int
    again: bool = False  # true when it had been committed before, and nothing was done now

    def count(self, outcome: Outcome) -> int:
        return sum(1 for item in self.items if item.outcome is outcome)

    @property
    def children(self) -> int:
        return sum(item.children for item in self.items)
