"""Records handed out as files: the document as it was captured, or the sealed object with the key that opens it.

Rules of this module:
- The event (dis: of each record, with who, why and, where it is said, to whom) is committed before anything is opened.
  What then could not be handed out gets a second one that says so; if the process is killed between the two, the
  history says that more was handed out than was, never less. It is entered for records of every class: a file that
  left is beyond holds, restrictions and destruction.
- What gets its name was compared with the digests of its capture, is durable, and has mode 600. Nothing is overwritten,
  unless that is asked for. Memory does not grow with a document.
- What is restricted (GDPR art. 18) is not handed out here: a production under a hold and the answer to the person
  herself are the ways that the law leaves. What is being destroyed is not either.
- A sealed object with its key is opened by any age tool, without us. Destroying the record's key here does not reach
  that copy, which its event says (`export`: key).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from uuid import UUID

from retention import catalog, ledger
from retention.age_text import age_text
from retention.archive import Archive, pseudonym
from retention.database import Connection, transaction
from retention.descriptors import decode, printable
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.ledger import Event
from retention.model import AgentKind, RecordState
from retention.packages import record_files
from retention.packages.bags import File, Finding, safe_name, sync
from retention.packages.record_files import Source
from retention.reading import Reader

_AT_ONCE = 1_000  # ids in an event, which holds 65,535 bytes
_PRIVATE = stat.S_IRUSR | stat.S_IWUSR


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files go. `keys`: a file for the keys, and then what is handed out stays sealed."""

    target: Path
    keys: Path | None = None
    overwrite: bool = False

    @property
    def what(self) -> str:
        return "document" if self.keys is None else "key"


@dataclass(slots=True)
class Exported:
    """Which file each record became, and which record could not be read."""

    files: dict[UUID, File] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def export(
    archive: Archive,
    records: Sequence[UUID],
    place: Place,
    reader: Reader,
    recipient: str | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Exported:
    """Hand out `records`: one as the file `place.target`, several, or one for a folder that stands, into that folder.

    Raises NotFound for what is not kept, Refused for what is restricted and where a file stands, UsageError for a
    folder that is not there; what is damaged is a finding."""
    wanted = sorted(set(records))
    if not wanted:
        raise UsageError("expected at least one record to export.")
    into = len(wanted) > 1 or place.target.is_dir()
    _refuse_places(place, into)
    sources, reasons = record_files.sources(archive, wanted)
    for finding in (reasons[one] for one in sorted({*wanted} - {source.record_id for source in sources})):
        raise (Damaged if finding.code == "RECORD-DAMAGED" else NotFound)(finding.message)
    _enter(archive, wanted, place.what, reader, recipient)
    done = Exported()
    try:
        if into:
            place.target.mkdir(mode=0o700, exist_ok=True)
        _hand_out(archive, sources, _names(archive, sources, place) if into else {}, place, done, tell)
    finally:
        if left := [one for one in wanted if one not in done.files]:
            _append(archive, left, {"export": place.what}, reader, "failure")
    return done


def _hand_out(
    archive: Archive,
    sources: Sequence[Source],
    names: dict[UUID, str],
    place: Place,
    done: Exported,
    tell: Callable[[int, int], None] | None,
) -> None:
    targets = {one.record_id: place.target / names[one.record_id] if names else place.target for one in sources}
    for target in targets.values():
        _refuse_taken(target, place)
    write = record_files.native if place.keys is None else record_files.sealed
    if place.keys is not None:  # first: a sealed file without its key is of no use to anybody
        identities = "".join(f"# record {one.record_id}\n{age_text(one.key.secret)}\n" for one in sources)
        with TemporaryDirectory(prefix=".muniment-", dir=place.keys.parent) as folder:
            record_files.put(Path(folder) / "keys", place.keys.name, [identities.encode()])
            _give_name(Path(folder) / "keys", place.keys, place)
    parent = place.target if names else place.target.parent
    with TemporaryDirectory(prefix=".muniment-", dir=parent) as folder:  # of mode 700
        for source in sources:
            target, staged = targets[source.record_id], Path(folder) / str(source.record_id)
            try:
                file = write(archive, source, staged, str(target))
            except (Damaged, NotFound) as error:
                done.findings.append(record_files.failed(source.record_id, error))
            else:
                _give_name(staged, target, place)
                done.files[source.record_id] = file
            staged.unlink(missing_ok=True)
            if tell:
                tell(len(done.files) + len(done.findings), len(sources))


def _names(archive: Archive, sources: Sequence[Source], place: Place) -> dict[UUID, str]:
    """A file name for each record, of its title; where two would meet, or it cannot be read, with the record's id."""
    found: dict[UUID, str] = {}
    for wave in record_files.waves(sources):
        lines = record_files.lines(archive, wave)
        for source in wave:
            line = lines[source.record_id]
            try:
                if isinstance(line, Finding):
                    raise Damaged(line.message)
                said = decode(source.key.open(line))[1]
                suffix = PurePath(said.name).suffix
                title = (said.title or said.name).removesuffix(suffix)
                found[source.record_id] = safe_name(printable(title + suffix))
            except Damaged:
                found[source.record_id] = str(source.record_id)  # what describes it is no reason to keep it back
    folded = [name.casefold() for name in found.values()]
    for record_id, name in found.items():
        if folded.count(name.casefold()) > 1:
            found[record_id] = f"{PurePath(name).stem} {record_id}{PurePath(name).suffix}"
    return found if place.keys is None else {record_id: f"{name}.age" for record_id, name in found.items()}


# ---------------------------------------------------------------- where it goes


def _refuse_places(place: Place, into: bool) -> None:
    for path in (place.target, *([place.keys] if place.keys else [])):
        if not path.parent.is_dir():
            raise UsageError(f"{path}: expected a folder {path.parent}, found none. Make it first.")
    if into:
        if place.target.exists() and not place.target.is_dir():
            raise UsageError(f"{place.target}: expected a folder for several records, found a file.")
    else:
        _refuse_taken(place.target, place)
    if place.keys is not None:
        if place.keys.absolute() == place.target.absolute() or place.keys.is_dir():
            raise UsageError(f"--key {place.keys}: expected a file of its own.")
        _refuse_taken(place.keys, place)


def _refuse_taken(target: Path, place: Place) -> None:
    if os.path.lexists(target) and not place.overwrite:
        raise _taken(target)


def _taken(target: Path) -> Refused:
    return Refused(f"refusing to overwrite {target}. Name another place, or say --force.")


def _give_name(staged: Path, target: Path, place: Place) -> None:
    """A link fails where something stands, at whatever moment it came there; a rename would replace it."""
    staged.chmod(_PRIVATE)
    if place.overwrite:
        staged.replace(target)
    else:
        try:
            target.hardlink_to(staged)
        except FileExistsError:
            raise _taken(target) from None
    sync(target.parent)


# ---------------------------------------------------------------- the event


def _enter(archive: Archive, wanted: Sequence[UUID], what: str, reader: Reader, recipient: str | None) -> None:
    """What may not be handed out is looked for in the transaction that says that the rest is."""
    with transaction(archive.connections) as conn:
        _refuse(conn, wanted)
        detail = {"export": what, "why": reader.why}
        if recipient is not None:
            detail["recipient"] = str(pseudonym(conn, archive.safe, AgentKind.PERSON, recipient, reader.now))
        ledger.append(conn, _events(archive, wanted, detail, reader, "success"), reader.now)


def _refuse(conn: Connection, wanted: Sequence[UUID]) -> None:
    for record_id, since in catalog.restricted(conn, wanted).items():
        raise Refused(
            f"refusing to export record {record_id}: it is restricted since {since:%Y-%m-%d} (GDPR art. 18). "
            "`muniment hold produce` hands it out for legal claims, `muniment request access` to the person."
        )
    query = "SELECT record_id FROM records WHERE record_id = ANY(%s) AND state <> %s"
    for (record_id,) in conn.execute(query, (list(wanted), RecordState.KEPT)):
        raise Refused(f"refusing to export record {record_id}: it is being destroyed.")


def _append(archive: Archive, left: Sequence[UUID], detail: dict[str, str], reader: Reader, outcome: str) -> None:
    with transaction(archive.connections) as conn:
        ledger.append(conn, _events(archive, left, detail, reader, outcome), reader.now)


def _events(
    archive: Archive, subjects: Sequence[UUID], detail: dict[str, str], reader: Reader, outcome: str
) -> list[Event]:
    parts = [tuple(subjects[start : start + _AT_ONCE]) for start in range(0, len(subjects), _AT_ONCE)]
    said = {**detail, "records": len(subjects)}
    return [Event("dis", reader.now, archive.agent, part, outcome, said) for part in parts]
