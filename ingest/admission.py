"""Admission: what becomes of a document that was read, validated and classified. Pure.

Rules of this module:
- A document and what is inside it are one unit: the worst finding decides, and all go the same way.
- A child belongs to its parent's class: an attachment is kept as long as its message.
- A class that must be locked takes no document while the vault cannot lock: quarantine, never a false promise.
- Unknown means retain: a date that is doubtful is left out, and what has no date is never due.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from ingest import classification
from ingest.model import Extraction, Finding, Severity, SourceFile, Spooled, finding
from ingest.validation import decide as worst
from retention import engine
from retention.locks import LONGEST, ROLLING
from retention.model import UNCLASSIFIED, Coded, Deposit, Description, Detained, Sighting, Turned, Unit, new_id
from retention.rules import RecordClass, Schedule, Worm
from retention.schedule.patterns import bounded

_COMPRESSION = 3  # text is compressed while hundreds of documents wait for their batch


@dataclass(frozen=True, slots=True)
class Read:
    """A document that was read and classified; its texts (and its children's) are compressed, by path."""

    spooled: Spooled
    sighting: Sighting
    extraction: Extraction  # without texts
    texts: Mapping[str, bytes]
    class_id: str
    rule: str
    documented: date | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a batch is admitted under."""

    schedule: Schedule
    now: datetime
    locks: bool  # whether the vault can lock
    arrived: datetime | None = None  # where that was before now: a document that waited in quarantine

    @property
    def received(self) -> date:
        """The civil date of receipt."""
        return engine.civil_date(self.arrived or self.now, self.schedule.timezone)


def read(spooled: Spooled, sighting: Sighting, extraction: Extraction, policy: Policy) -> Read:
    """Classify a document while its text is at hand, then keep the text compressed only."""
    file = spooled.file
    class_id, rule = classification.classify(extraction, file.source, file.place, policy.schedule)
    known = policy.schedule.record_class(class_id)
    zone = policy.schedule.timezone
    documented = classification.document_date(extraction.metadata, known, policy.received, zone) if known else None
    texts: dict[str, bytes] = {}
    return Read(spooled, sighting, _strip(extraction, texts), texts, class_id, rule, documented)


def admit(
    document: Read, validated: Extraction, findings: tuple[Finding, ...], policy: Policy
) -> Unit | Detained | Turned:
    """Decide one unit. `validated` is the extraction with each part's findings as the profile weighs them."""
    if refusal := unlockable(document, policy):
        findings = (*findings, refusal)
    match worst(findings):
        case Severity.REJECT:
            return Turned(new_id(policy.now), describe(document.spooled.file, validated, findings, document.texts))
        case Severity.QUARANTINE:
            spooled = document.spooled
            described = describe(spooled.file, validated, findings, document.texts)
            return Detained(new_id(policy.now), spooled.path, spooled.sha256, spooled.size, described)
        case _:
            return unit(document, validated, policy)


def unlockable(document: Read, policy: Policy) -> Finding | None:
    """The finding of a document whose class must be locked, where the vault cannot lock."""
    record_class = policy.schedule.record_class(document.class_id)
    if record_class is None or record_class.worm is Worm.NONE or policy.locks:
        return None
    said = f"Class {record_class.id} asks for a {record_class.worm} lock; this vault cannot lock."
    return finding("WORM-UNAVAILABLE", said)


def unit(document: Read, validated: Extraction, policy: Policy) -> Unit:
    """The document and what is inside it as records, whatever was found: what an officer releases, too."""
    record_class = policy.schedule.record_class(document.class_id)
    return Unit(document.sighting, tuple(_deposits(document, validated, record_class, policy)))


def turned(file: SourceFile, found: Finding, now: datetime) -> Turned:
    """A document whose bytes did not come."""
    coded = Coded(found.code, found.severity.value, found.message)
    name = PurePosixPath(file.place).name or file.place
    return Turned(new_id(now), Description(name=name, source=file.source, place=file.place, findings=(coded,)))


def destroyed_before(file: SourceFile, tombstone: UUID, now: datetime) -> Turned:
    """A document that was destroyed once, by a plan: what stays destroyed is not admitted again (invariant 9)."""
    said = (
        f"These very bytes were record {tombstone}, which was destroyed. The source still has them: remove them there."
    )
    return turned(file, finding("KNOWN-DESTROYED", said), now)


def describe(
    file: SourceFile,
    extraction: Extraction,
    findings: tuple[Finding, ...],
    texts: Mapping[str, bytes],
    inside: tuple[str, ...] = (),
) -> Description:
    """What the descriptor says of a document; `inside` names the way from the file to an embedded document."""
    metadata = {k: v for k, v in extraction.metadata.items() if k not in ("title", "author", "language")}
    return Description(
        name=extraction.name or file.place,
        source=file.source,
        place="!/".join((file.place, *inside)),
        title=_text(extraction, "title"),
        author=_text(extraction, "author") or _text(extraction, "from"),
        mime=extraction.identification.mime,
        puid=extraction.identification.puid,
        language=_text(extraction, "language"),
        sha256=extraction.sha256,
        modified=file.modified,
        metadata=metadata,
        findings=tuple(Coded(f.code, f.severity.value, f.message) for f in findings),
        text=texts.get(str(extraction.path), b""),
    )


def _text(extraction: Extraction, key: str) -> str | None:
    found = extraction.metadata.get(key)
    return found if isinstance(found, str) and found.strip() else None


def _strip(extraction: Extraction, texts: dict[str, bytes]) -> Extraction:
    """The same tree without texts, which go compressed into `texts`."""
    if extraction.text:
        texts[str(extraction.path)] = zlib.compress(extraction.text.encode(), _COMPRESSION)
    return Extraction(
        name=extraction.name,
        path=extraction.path,
        sha256=extraction.sha256,
        size=extraction.size,
        identification=extraction.identification,
        metadata=extraction.metadata,
        findings=extraction.findings,
        children=tuple(_strip(child, texts) for child in extraction.children),
        seconds=extraction.seconds,
    )


def _deposits(document: Read, validated: Extraction, record_class: RecordClass | None, policy: Policy) -> list[Deposit]:
    """The unit's records, parents before their children."""
    file = document.spooled.file
    modified = engine.civil_date(file.modified, policy.schedule.timezone) if file.modified else None
    lock = _wanted_lock(document, modified, record_class, policy)
    aggregation = _aggregation(file.place, validated, record_class)
    deposits: list[Deposit] = []
    waiting: list[tuple[Extraction, UUID | None, tuple[str, ...]]] = [(validated, None, ())]
    while waiting:
        part, parent, inside = waiting.pop(0)
        record_id = new_id(policy.now)
        deposits.append(
            Deposit(
                record_id=record_id,
                path=part.path,
                sha256=part.sha256,
                size=part.size,
                class_id=document.class_id,
                rule="parent" if parent else document.rule,
                description=describe(file, part, part.findings, document.texts, inside),
                received=policy.received,
                document_date=document.documented,
                modified=modified,
                parent_id=parent,
                steps=_steps(part),
                wanted_lock=lock,
                aggregation=aggregation,
            )
        )
        waiting += [(child, record_id, (*inside, child.name)) for child in part.children]
    return deposits


_pattern = lru_cache(maxsize=64)(bounded)


def _aggregation(place: str, part: Extraction, record_class: RecordClass | None) -> tuple[str, str] | None:
    """Kind and business id of the case file, from where the class says it stands; None where it does not."""
    source = record_class.aggregation if record_class else None
    if source is None:
        return None
    if source.field is not None:
        said = part.metadata.get(source.field)
        found = str(said) if isinstance(said, str | int) and not isinstance(said, bool) else ""
    else:
        matched = _pattern(source.path or "").search(place)
        found = (matched[1] or "") if matched else ""
    return (source.kind, found.strip()) if found.strip() else None


def _steps(part: Extraction) -> dict[str, Any]:
    found = part.identification
    return {"format": found.mime, "puid": found.puid, "libmagic": found.libmagic}


def _wanted_lock(
    document: Read, modified: date | None, record_class: RecordClass | None, policy: Policy
) -> tuple[str, datetime] | None:
    """Until retention ends where that is known, at most LONGEST; else a rolling lock (requirements: storage)."""
    if record_class is None or record_class.worm is Worm.NONE or document.class_id == UNCLASSIFIED:
        return None
    facts = engine.RecordFacts(
        class_ids=(record_class.id,), received=policy.received, document_date=document.documented, modified=modified
    )
    until = engine.decide(facts, policy.schedule, policy.received).retain_until
    if until is None:
        return record_class.worm.value, policy.now + ROLLING
    longest = policy.now + LONGEST
    end = min(longest, datetime.combine(until, time.max, ZoneInfo(policy.schedule.timezone)))
    return (record_class.worm.value, end) if end > policy.now else None
