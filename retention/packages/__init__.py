"""Packages: records handed out of the archive as a bag, for a transfer to another archive or a production.

Rules of this module:
- What goes out is what came in: a document leaves only if the sealed bytes are those of its digest and open to
  the bytes that were captured (its commitment). A record that fails is named, with a code, in the bag and in the
  result, and stops no other; it never goes silently missing.
- Memory does not grow with a document: it is opened from the vault's stream to the bag's file, in chunks.
- Everything of a record stands in its own folder, `data/records/<record id>/`, so that two names never meet:
  the document as `<name>`, and in a production and for the person whom it is about its text as `<name>.txt` and what
  is known of it as `<name>.json` (SEC 17a-4(f)(2)(iv), GDPR art. 15(3): native and readable).
- What is restricted (GDPR art. 18) leaves for legal claims and for the person whom it is about, not in a transfer.
- `metadata/`: `premis.xml`; `nara.psv`, a line for every file of the payload (NARA Bulletin 2015-04: the minimum
  elements, delimited by pipes); `audit-trail.jsonl`, the events of the records as the ledger holds them.
- A bag of the same records under the same identifier that stands, and is whole, is not written again: the receiver
  may hold its digest already. Any other thing at that place is refused, but for a bag of that identifier that is
  incomplete or damaged, which is replaced.
- Nothing is recorded here: whoever hands out appends `handed_out` in the transaction that says so.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from retention import catalog, ledger, policy
from retention.archive import SOFTWARE, Archive, names
from retention.database import Connection, transaction
from retention.descriptors import decode, printable
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.ledger import Agent, Event
from retention.model import AgentKind, Description
from retention.packages import finding_aid, premis, record_files
from retention.packages.bags import (
    ALGORITHMS,
    RECORDS,
    Bag,
    File,
    Finding,
    manifest_line,
    read_bag,
    safe_name,
    seal_tags,
    staged,
    sync,
    write,
)
from retention.packages.check import profile, profile_file, verify_bag
from retention.packages.record_files import Source
from retention.rules import Rule, Schedule

CHUNK_OF_RECORDS = 500  # asked of the catalog at once
EVENT_SUBJECTS = 1_000  # an entry of the ledger holds 65,535 bytes, an id takes 39 of them


class Purpose(StrEnum):
    """Why records are handed out."""

    TRANSFER = "transfer"
    PRODUCTION = "production"
    ACCESS = "access"  # to the person whom they are about


@dataclass(frozen=True, slots=True)
class _Written:
    """One record as it stands in the bag; `roles` goes with `files`: native, text, metadata."""

    source: Source
    description: Description  # without its text
    files: tuple[File, ...]
    roles: tuple[str, ...]


# ---------------------------------------------------------------- the package


def write_bag(
    archive: Archive,
    records: Iterable[UUID],
    target: Path,
    *,
    purpose: Purpose,
    identifier: str,
    clock: Callable[[], datetime],
    organization: str | None = None,
    decided_by: Mapping[UUID, str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Bag:
    """A bag of `records` at `target`, whole or not at all; records that cannot be in it are its findings.

    `identifier` names the plan or hold it is for, `organization` who hands out (default: the agent's name),
    `decided_by` the rule that decided on a record, where one did (default: all rules of its classes).
    `progress` is told of each record, in or not.
    Raises UsageError for no records, Refused for another thing at `target` or if no record could be read,
    ServiceUnavailable (then nothing is left at `target` that was not there; run it again)."""
    wanted = sorted(set(records))
    if not wanted:
        raise UsageError(f"{target}: no records to hand out. Expected at least one.")
    if stands := _standing(archive, target, identifier, wanted):
        return stands
    with staged(target) as folder:
        work = _Work(archive, folder, purpose, _schedule(archive), decided_by or {})
        written, findings = work.write(wanted, progress)
        if not written:
            raise Refused(
                f"refusing to write {target}: none of {len(wanted)} records could be read, {findings[0].message} "
                "(the first). Heal the vault from a replica and run it again."
            )
        now = clock()
        info = [
            ("BagIt-Profile-Identifier", profile()["BagIt-Profile-Info"]["BagIt-Profile-Identifier"]),
            ("Source-Organization", printable(organization or archive.settings.agent)),
            ("Bagging-Date", now.astimezone(UTC).date().isoformat()),
            ("Bag-Software-Agent", SOFTWARE),
            ("External-Identifier", identifier),
            ("Payload-Oxum", f"{work.octets}.{work.count}"),
            ("Package-Purpose", purpose.value),
            ("Records", str(len(written))),
            ("Records-Not-Included", str(len(findings))),
            ("Ledger-Size", str(work.head[0])),
            ("Ledger-Root", work.head[1].hex()),
        ]
        digest = seal_tags(folder, info)
        count, octets = work.count, work.octets
    return Bag(target, identifier, digest, tuple(written), count, octets, tuple(findings))


def handed_out(bag: Bag, purpose: Purpose, agent: Agent, now: datetime) -> list[Event]:
    """The events that say so, of every record in the bag: creation of a package, or exporting (17a-4, GDPR 15)."""
    kind = "ipc" if purpose is Purpose.TRANSFER else "exp"
    detail = {
        "package": bag.identifier,
        "digest": bag.digest.hex(),
        "purpose": purpose.value,
        "records": len(bag.records),
        "files": bag.files,
        "bytes": bag.bytes,
    }
    at = range(0, len(bag.records), EVENT_SUBJECTS)
    return [Event(kind, now, agent, bag.records[i : i + EVENT_SUBJECTS], detail=detail) for i in at]


def _standing(archive: Archive, target: Path, identifier: str, wanted: Sequence[UUID]) -> Bag | None:
    """The bag that stands at `target`, if it is the one asked for and whole; None if one is to be written."""
    if not os.path.lexists(target):
        return None
    try:
        if target.is_symlink():
            raise NotFound("a symbolic link")
        found = read_bag(target)
    except (NotFound, Damaged):
        raise Refused(
            f"refusing to replace {target}: expected nothing there, or the bag {identifier}, found something else. "
            "Move it away, or name another place."
        ) from None
    if found.identifier != identifier:
        raise Refused(
            f"refusing to replace {target}: expected the bag {identifier} or nothing there, found the bag "
            f"{found.identifier}. Name another place."
        )
    same = not found.findings and list(found.records) == list(wanted)
    return found if same and not verify_bag(target, archive.settings.vault_threads) else None


def _schedule(archive: Archive) -> Schedule | None:
    with transaction(archive.connections) as conn:
        try:
            return policy.current(conn).schedule
        except NotFound:
            return None  # records of a catalog without a schedule have no rule to cite


class _Work:
    """The writing of one bag: the open files of its metadata, and what is known when they are closed."""

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        purpose: Purpose,
        schedule: Schedule | None,
        decided_by: Mapping[UUID, str],
    ) -> None:
        self.archive, self.folder, self.purpose = archive, folder, purpose
        self.schedule, self.decided_by = schedule, decided_by
        self.classes = {known.id: known for known in schedule.classes} if schedule else {}
        self.count = self.octets = 0
        self.head = (0, b"")
        self.rules: dict[str, Rule] = {}
        self.aggregations: set[UUID] = set()
        self.included: list[UUID] = []

    def write(self, wanted: Sequence[UUID], progress: Callable[[int], None]) -> tuple[list[UUID], list[Finding]]:
        """Everything but the tag files at the top. Returns the records that are in it, and why others are not."""
        for name in ("metadata", "data", RECORDS):
            (self.folder / name).mkdir(mode=0o700)
        findings: list[Finding] = []
        with ExitStack() as stack:
            manifests = {a: stack.enter_context(_text(self.folder / f"manifest-{a}.txt")) for a in ALGORITHMS}
            listing = csv.writer(
                stack.enter_context(_text(self.folder / "metadata/nara.psv")), delimiter="|", lineterminator="\n"
            )
            listing.writerow(finding_aid.COLUMNS)
            xml = stack.enter_context(
                premis.document(stack.enter_context(record_files.durable(self.folder / "metadata/premis.xml")))
            )
            for one in self._records(wanted):
                progress(1)
                if isinstance(one, Finding):
                    findings.append(one)
                    continue
                self._enter(one, manifests, listing, xml)
            for aggregation in sorted(self.aggregations):
                xml.write(premis.intellectual_entity(premis.Identifier("UUID", str(aggregation))))
            with _text(self.folder / "metadata/audit-trail.jsonl") as trail:
                self._history(wanted, trail, xml)
            for rule_id in sorted(self.rules):
                xml.write(premis.rights(self._rights(self.rules[rule_id])))
        write(self.folder / "metadata/bagit-profile.json", profile_file())
        if findings:
            lines = ({"record_id": str(f.record_id), "code": f.code, "message": f.message} for f in findings)
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write(self.folder / "metadata/not-included.jsonl", content.encode())
        for name in (RECORDS, "data", "metadata"):
            sync(self.folder / name)
        return self.included, findings

    # ------------------------------------------------------------ records

    def _records(self, wanted: Sequence[UUID]) -> Iterator[_Written | Finding]:
        """Each record, written or with the reason why not, in order of their ids."""
        with ThreadPoolExecutor(self.archive.settings.vault_threads, thread_name_prefix="package") as pool:
            try:
                for start in range(0, len(wanted), CHUNK_OF_RECORDS):
                    chunk = wanted[start : start + CHUNK_OF_RECORDS]
                    kept = self._restricted(chunk)
                    sources, reasons = record_files.sources(self.archive, [one for one in chunk if one not in kept])
                    done: dict[UUID, _Written | Finding] = {**reasons, **kept}
                    for wave in record_files.waves(sources):
                        lines = record_files.lines(self.archive, wave)
                        results = pool.map(lambda source, lines=lines: self._one(source, lines), wave)
                        done |= {source.record_id: result for source, result in zip(wave, results, strict=True)}
                    yield from (done[record_id] for record_id in chunk)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _restricted(self, chunk: Sequence[UUID]) -> dict[UUID, Finding]:
        if self.purpose is not Purpose.TRANSFER:
            return {}
        with transaction(self.archive.connections) as conn:
            found = catalog.restricted(conn, chunk)
        told = "restricted (GDPR art. 18): stored, and not handed on"
        return {one: Finding("RECORD-RESTRICTED", f"record {one}: {told}", one) for one in found}

    def _one(self, source: Source, lines: Mapping[UUID, bytes | Finding]) -> _Written | Finding:
        line = lines[source.record_id]
        if isinstance(line, Finding):
            return line
        folder = self.folder / RECORDS / str(source.record_id)
        folder.mkdir(mode=0o700)
        try:
            description = decode(source.key.open(line))[1]
            written = self._files(folder, source, description)
            sync(folder)
            return written
        except (Damaged, NotFound) as error:
            shutil.rmtree(folder)
            return record_files.failed(source.record_id, error)

    def _files(self, folder: Path, source: Source, description: Description) -> _Written:
        name = safe_name(description.name)
        path = f"{RECORDS}/{source.record_id}/{name}"
        files, roles = [record_files.native(self.archive, source, folder / name, path)], ["native"]
        if self.purpose is not Purpose.TRANSFER:
            if description.text:
                files.append(
                    record_files.put(folder / f"{name}.txt", f"{path}.txt", record_files.inflated(description.text))
                )
                roles.append("text")
            known = (
                json.dumps(finding_aid.known(source, description), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
            )
            files.append(record_files.put(folder / f"{name}.json", f"{path}.json", [known.encode()]))
            roles.append("metadata")
        return _Written(source, replace(description, text=b""), tuple(files), tuple(roles))

    # ------------------------------------------------------------ metadata

    def _enter(self, one: _Written, manifests: Mapping[str, IO[str]], listing: Any, xml: Any) -> None:
        source = one.source
        rules = self._rules(source)
        self.rules |= {rule.id: rule for rule in rules}
        self.included.append(source.record_id)
        if source.aggregation_id:
            self.aggregations.add(source.aggregation_id)
        known = self.classes.get(source.class_id)
        for file, role in zip(one.files, one.roles, strict=True):
            self.count += 1
            self.octets += file.size
            for algorithm, manifest in manifests.items():
                manifest.write(manifest_line(algorithm, file))
            listing.writerow(finding_aid.row(file, role, source, one.description, known, rules))
            if role != "metadata":
                xml.write(premis.file_object(_object(one, file, role, [rule.id for rule in rules])))

    def _rules(self, source: Source) -> list[Rule]:
        """The rule that decided on the record, or all rules of its classes; each once, in the schedule's order."""
        known = [self.classes[c] for c in (source.class_id, *source.labels) if c in self.classes]
        rules = {rule.id: rule for one in known for rule in one.rules}
        decided = self.decided_by.get(source.record_id)
        return [rules[decided]] if decided in rules else list(rules.values())

    def _rights(self, rule: Rule) -> premis.Rights:
        digest = self.schedule.digest if self.schedule else ""
        period = "permanent" if rule.period is None else str(rule.period)
        note = f"{rule.trigger}, {rule.cutoff}, {period}, {rule.action}; schedule {digest}"
        return premis.Rights(rule.id, rule.authority, note)

    def _history(self, wanted: Sequence[UUID], trail: IO[str], xml: Any) -> None:
        """The events of the records, of their aggregations and of their time in quarantine, as they are stored."""
        linked = {str(record) for record in (*self.included, *self.aggregations)}
        agents: dict[str, str | None] = {}
        with transaction(self.archive.connections) as conn:
            self.head = ledger.head(conn)
            known = conn.execute("SELECT pseudonym_id::text, kind FROM pseudonyms WHERE kind <> 'source'")
            kinds = {pseudonym: AgentKind(kind) for pseudonym, kind in known}
            for position, recorded_at, leaf, content in _events(conn, wanted, self.head[0]):
                text = bytes(content).decode()
                entry = json.loads(text)
                line = {"position": position, "recorded_at": recorded_at.isoformat(), "leaf_hash": leaf.hex()}
                trail.write(json.dumps(line | {"entry": text}, ensure_ascii=False) + "\n")
                detail = json.dumps(entry["detail"], ensure_ascii=False, sort_keys=True)
                xml.write(premis.event(position, entry, detail, kinds, [s for s in entry["subjects"] if s in linked]))
                agents[entry["agent"]["id"]] = entry["agent"].get("version")
                if behalf := entry["agent"].get("for"):
                    agents.setdefault(behalf, None)
            # Whom a record is about has no right to know which employees handled it (CJEU C-579/21).
            known_by = () if self.purpose is Purpose.ACCESS else map(UUID, agents)
            called = names(conn, self.archive.safe, known_by)
        for pseudonym, version in sorted(agents.items()):
            name = called.get(UUID(pseudonym))
            xml.write(premis.agent(pseudonym, kinds.get(pseudonym), name and printable(name), version))


def _object(one: _Written, file: File, role: str, rules: Sequence[str]) -> premis.FileObject:
    """The document under the record's id; its text under its path, derived from the document."""
    source, native = one.source, premis.Identifier("UUID", str(one.source.record_id))
    related: list[premis.Relationship] = []
    if role == "native":
        for whole in (source.parent_id, source.aggregation_id):
            if whole is not None:
                related.append(premis.Relationship("structural", "is part of", premis.Identifier("UUID", str(whole))))
    else:
        related.append(premis.Relationship("derivation", "has source", native))
    return premis.FileObject(
        identifier=native if role == "native" else premis.Identifier("bag path", file.path),
        fixity={"SHA-256": file.sha256, "SHA-512": file.sha512},
        size=file.size,
        location=file.path,
        mime=one.description.mime if role == "native" else "text/plain",
        puid=one.description.puid if role == "native" else None,
        original_name=one.description.name if role == "native" else None,
        relationships=related,
        rights=rules,
    )


def _events(conn: Connection, wanted: Sequence[UUID], size: int) -> Iterator[tuple[int, datetime, bytes, bytes]]:
    with conn.cursor("audit_trail") as cursor:
        cursor.itersize = 1_000
        cursor.execute(
            """WITH subjects AS (
                   SELECT unnest(%(wanted)s::uuid[]) AS subject_id
                   UNION SELECT aggregation_id FROM records
                          WHERE record_id = ANY(%(wanted)s) AND aggregation_id IS NOT NULL
                   UNION SELECT quarantine_id FROM quarantine WHERE record_id = ANY(%(wanted)s))
               SELECT e.position, e.recorded_at, e.leaf_hash, e.entry FROM events e
                WHERE e.position < %(size)s
                  AND e.position IN (SELECT s.position FROM event_subjects s JOIN subjects USING (subject_id))
                ORDER BY e.position""",
            {"wanted": list(wanted), "size": size},
        )
        yield from cursor


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with record_files.durable(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()  # flushes, and leaves the file open to be made durable
