"""The whole flow of ingestion on one screen: begin -> work -> finish.

    begin   lists the source and cuts the list into batches, on disk
    work    each batch: spool -> extract (workers) -> classify -> validate -> admit -> capture (one transaction)
    finish  adds up what is committed, signs the account

Rules of this module:
- What is listed is accounted for: discovered = admitted + quarantined + rejected + known (invariant 1).
- Nothing is kept in memory but the batch that is read and the one that is stored meanwhile.
- A run that died is gone on with by running the same again: batches that committed are found committed, and
  documents of the others are found unknown. What the dead run left in the spool is removed.
- The spool and the list of a run hold names and content: they are deleted with the run, whatever its end.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path, PurePosixPath
from uuid import UUID

from ingest import admission, run_folder, sources, validation
from ingest.admission import Policy, Read
from ingest.extraction.workers import Workers
from ingest.model import Extraction, Finding, SourceFile, Spooled
from ingest.run_folder import PATIENCE, Run, alive
from ingest.run_folder import load as load_run
from ingest.sources import LeftOut, SourceConfig, Why
from ingest.spool import check_space, spool
from retention import capture, descriptors, locks, policy, quarantine, runs
from retention.archive import Archive
from retention.database import transaction
from retention.errors import NotFound, Refused
from retention.holds import flags
from retention.model import Batch, Committed, Detained, Sighting, Turned, Unit, new_id

Clock = Callable[[], datetime]
_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1  # malloc.h
LASTING = ("EMPTY", "TOO-LARGE", "UNREADABLE")  # rejected once: the same file would be rejected again


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a finished run answers."""

    run_id: UUID
    totals: runs.Totals
    seconds: float
    reconciliation: Path
    left_out: dict[str, int]


def ingest(
    archive: Archive,
    source: SourceConfig,
    clock: Clock = utc_now,
    say: Callable[[str, int, int], None] = lambda *_: None,
    workers: Workers | None = None,
) -> Ingested:
    """All of it in one process. `say(step, done, of)` is told of progress."""
    started = time.monotonic()
    run = begin(archive, source, clock)
    try:

        def progress(done: int) -> None:
            say("documents", done, run.discovered)

        work(archive, run, range(run.batches), clock, progress, workers)
        return finish(archive, run, clock, started)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell; the next run clears what this cannot
            abandon(archive, run.run_id, clock)
        raise


# ---------------------------------------------------------------- begin


def begin(archive: Archive, source: SourceConfig, clock: Clock = utc_now, *, scheduled: bool = False) -> Run:
    """List the source into batches on disk. Raises UsageError for a source that does not exist: no run then.

    `scheduled`: other processes will work on it, and between two of them the run is not dead; its scheduler
    runs a source once at a time, so an older run of the same source is."""
    clear_dead(archive, clock, source.name if scheduled else None)
    left_out: Counter[str] = Counter()

    def count(one: LeftOut) -> None:
        left_out[one.why.value] += 1

    listing = sources.discover(source, now=clock(), left_out=count, never=archive.settings.root)
    first = next(listing, None)  # a source that cannot be listed says so before a run is begun
    version = in_force(archive, clock)
    run_id = new_id(clock())
    folder = archive.settings.spool / str(run_id)
    folder.mkdir(parents=True, mode=0o700)
    with alive(folder):
        if scheduled:
            (folder / "scheduled").touch()
        runs.start(archive, run_id, source.name, version.version, clock())
        entries = () if first is None else chain((first,), listing)
        discovered, batches = run_folder.write_batches(archive.settings, folder, entries)
        deferred = left_out.pop(Why.UNSETTLED.value, 0)
        run = Run(run_id, folder, source, discovered, deferred, dict(left_out), batches)
        run_folder.save(run)
    return run


def in_force(archive: Archive, clock: Clock) -> policy.Version:
    """The schedule in force; the one that Muniment ships where none was loaded yet (it destroys nothing)."""
    with transaction(archive.connections) as conn:
        try:
            return policy.current(conn)
        except NotFound:
            pass
    return policy.load(archive, policy.sample(), "sample.yaml", clock())


# ---------------------------------------------------------------- work


def work(
    archive: Archive,
    run: Run,
    numbers: Iterable[int],
    clock: Clock = utc_now,
    progress: Callable[[int], None] = lambda _: None,
    workers: Workers | None = None,
) -> list[Committed]:
    """Read and capture batches; while one is stored the next is read. Raises ServiceUnavailable: run it again."""
    _return_memory()
    with transaction(archive.connections) as conn:
        schedule = policy.of_version(conn, runs.schedule_of(conn, run.run_id)).schedule
    done: list[Committed] = []
    can_lock = archive.vault.locks()
    with alive(run.folder), _staff(workers) as staff, ThreadPoolExecutor(1, "store") as store:
        storing: Future[Committed] | None = None
        scratch: Path | None = None
        for number in numbers:
            with transaction(archive.connections) as conn:
                if runs.committed(conn, run.run_id, number):
                    continue
            # of this process alone: a scheduler may have given the batch to another one too
            scratch = Path(tempfile.mkdtemp(prefix=f"batch-{number:06d}-", dir=run.folder))
            reading = _read_batch(archive, run, number, Policy(schedule, clock(), can_lock), staff, scratch, progress)
            if storing is not None:
                done.append(storing.result())
            storing = store.submit(_store_batch, archive, run, reading, scratch, clock)
        if storing is not None:
            done.append(storing.result())
    return done


def _return_memory() -> None:
    """Have glibc give back what documents took: few arenas for the short-lived threads, and a fixed threshold
    for trimming, because the one that adapts keeps the largest buffers it ever saw.

    Measured in batches of 500: 320 MB growing to 435 in twelve without, 304 to 310 MB over nine with it."""
    with suppress(AttributeError, OSError):  # another C library has no such call, nor the need
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 1024)


@dataclass(slots=True)
class _Reading:
    """One batch, read: not yet validated, not yet stored."""

    number: int
    policy: Policy
    known: list[tuple[bytes, UUID]] = field(default_factory=list)
    turned: list[tuple[Sighting | None, Turned]] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)


def _read_batch(
    archive: Archive,
    run: Run,
    number: int,
    rules: Policy,
    staff: _Staff,
    scratch: Path,
    progress: Callable[[int], None],
) -> _Reading:
    files = run_folder.files(run, number)
    reading = _Reading(number, rules)
    check_space(scratch, sum(min(f.size, run.source.max_bytes) for f in files) * 2)  # the document, and it sealed
    spooled: dict[int, tuple[Spooled, Sighting]] = {}

    def to_read() -> Iterator[tuple[int, Path, str]]:
        for index, (file, sighting, copy) in enumerate(_spool_batch(archive, run, files, scratch)):
            if isinstance(copy, Finding):
                remembered = sighting if copy.code in LASTING else None
                reading.turned.append((remembered, admission.turned(file, copy, rules.now)))
            elif isinstance(copy, UUID):
                reading.known.append((sighting.place, copy))
            else:
                spooled[index] = (copy, sighting)
                yield index, copy.path, PurePosixPath(file.place).name or file.place

    def read() -> Iterator[tuple[int, Extraction]]:
        waiting = to_read()
        first = next(waiting, None)
        if first is not None:  # where all is known, no worker need ever start
            staff.preload()
            yield from staff.workers.extract_all(chain((first,), waiting), scratch)

    for index, extraction in read():
        copy, sighting = spooled.pop(index)
        reading.read.append(admission.read(copy, sighting, extraction, rules))
        progress(1)
    progress(len(reading.known) + len(reading.turned))
    return reading


def _spool_batch(
    archive: Archive, run: Run, files: Sequence[SourceFile], scratch: Path
) -> Iterator[tuple[SourceFile, Sighting, Spooled | Finding | UUID]]:
    """Each file with its copy, the finding that stands for it, or what the same bytes became before."""
    safe = archive.safe
    places = [safe.place(file.source, file.place) for file in files]
    before = capture.known(archive, places)

    def one(file: SourceFile, place: bytes) -> tuple[SourceFile, Sighting, Spooled | Finding | UUID]:
        content, revision, subject = before.get(place, (None, None, None))
        seen = safe.revision(file.revision) if file.revision else None
        if subject is not None and revision is not None and revision == seen:
            return file, Sighting(place, content or b"", seen), subject
        copy = spool(lambda: sources.open(run.source, file), file, scratch, run.source.max_bytes)
        if isinstance(copy, Finding):
            # No bytes to know it by: what the source lists of it stands for them.
            found = safe.content(f"{copy.code} {file.size} {file.modified}".encode())
        else:
            found = safe.content(copy.sha256)
        sighting = Sighting(place, found, seen, replaces=content)
        if subject is None or found != content:
            return file, sighting, copy
        if isinstance(copy, Spooled):
            copy.path.unlink()
        return file, sighting, subject

    with ThreadPoolExecutor(4, "spool") as threads:
        yield from threads.map(one, files, places)


def _store_batch(archive: Archive, run: Run, reading: _Reading, scratch: Path, clock: Clock) -> Committed:
    units: list[Unit] = []
    detained: list[tuple[Sighting, Detained]] = []
    turned = list(reading.turned)
    validated = (
        validation.validate(
            [(index, one.extraction, reading.policy.now) for index, one in enumerate(reading.read)], run.source.profile
        )
        if reading.read
        else None
    )
    gone = capture.destroyed(archive, [one.sighting.content for one in reading.read])
    for index, one in enumerate(reading.read):
        assert validated is not None
        if (tombstone := gone.get(one.sighting.content)) is not None:
            turned.append((one.sighting, admission.destroyed_before(one.spooled.file, tombstone, reading.policy.now)))
            continue
        match admission.admit(one, validated.documents[index], validated.findings[index], reading.policy):
            case Unit() as unit:
                units.append(unit)
            case Detained() as kept:
                detained.append((one.sighting, kept))
            case Turned() as away:
                turned.append((one.sighting, away))
    batch = Batch(
        run_id=run.run_id,
        number=reading.number,
        admitted=tuple(units),
        quarantined=tuple(detained),
        rejected=tuple(turned),
        known=tuple(reading.known),
        expectations=tuple(dict(s) for s in validated.statistics) if validated else (),
    )
    committed = capture.capture(archive, batch, clock)
    shutil.rmtree(scratch, ignore_errors=True)
    return committed


class _Staff:
    """Worker processes and the slow import of validation, both started when the first document needs them."""

    def __init__(self, workers: Workers | None) -> None:
        self._given = workers
        self._own: Workers | None = None
        self._loading: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "preload")

    @property
    def workers(self) -> Workers:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = Workers().__enter__()
        return self._own

    def preload(self) -> None:
        if self._loading is None:
            self._loading = self._thread.submit(validation.preload)

    def close(self) -> None:
        self._thread.shutdown()
        if self._own is not None:
            self._own.__exit__(None, None, None)


@contextmanager
def _staff(workers: Workers | None) -> Iterator[_Staff]:
    staff = _Staff(workers)
    try:
        yield staff
    finally:
        staff.close()


# ---------------------------------------------------------------- finish


def finish(archive: Archive, run: Run, clock: Clock = utc_now, started: float | None = None) -> Ingested:
    """Account for the run, set the locks that policy requires and the flags of holds, delete the spool."""
    totals = runs.close(archive, run.run_id, run.discovered, run.deferred, clock())
    locks.drain(archive, clock())
    flags.drain(archive, clock())
    shutil.rmtree(run.folder, ignore_errors=True)
    seconds = time.monotonic() - started if started is not None else 0.0
    return Ingested(
        run.run_id,
        totals,
        round(seconds, 3),
        archive.settings.runs / str(run.run_id) / "reconciliation.json",
        run.left_out,
    )


def finish_again(archive: Archive, run_id: UUID, clock: Clock = utc_now) -> Ingested:
    """`finish` for a scheduler, whose answer may have been lost: a run that has ended answers as it did."""
    try:
        return finish(archive, load_run(archive.settings, run_id), clock)
    except NotFound:
        with transaction(archive.connections) as conn:
            if not runs.ended(conn, run_id):
                raise
            totals = runs.totals(conn, run_id)
        return Ingested(run_id, totals, 0.0, archive.settings.runs / str(run_id) / "reconciliation.json", {})


# ---------------------------------------------------------------- out of quarantine


def release(archive: Archive, quarantine_id: UUID, clock: Clock = utc_now) -> UUID:
    """Read a quarantined document again and capture it, findings and all; returns its record. A run of its own.

    Raises NotFound, Refused (decided before; its class must be locked and cannot be), ServiceUnavailable."""
    with transaction(archive.connections) as conn:
        kept = quarantine.show(conn, quarantine_id)
        if kept.state != "held":
            raise Refused(f"refusing to release {quarantine_id}: it was {kept.state} before.")
        told = descriptors.read_line(archive, conn, quarantine_id)
    rules = in_force(archive, clock)
    run_id = new_id(clock())
    folder = archive.settings.spool / str(run_id)
    folder.mkdir(parents=True, mode=0o700)
    try:
        with alive(folder):
            path = folder / "document"
            quarantine.open_bytes(archive, quarantine_id, path)
            with Workers(count=1) as workers:
                ((_, extraction),) = workers.extract_all([(0, path, told.name)], folder)
            file = SourceFile(told.source, told.place, kept.size, told.modified)
            decided = Policy(rules.schedule, clock(), archive.vault.locks(), arrived=kept.recorded_at)
            copy = Spooled(file, path, extraction.sha256, extraction.size)
            document = admission.read(copy, Sighting(b"", b""), extraction, decided)
            if refusal := admission.unlockable(document, decided):
                raise Refused(f"refusing to release {quarantine_id}: {refusal.message}")
            runs.start(archive, run_id, file.source, rules.version, clock())
            batch = Batch(run_id, 0, admitted=(admission.unit(document, document.extraction, decided),))
            capture.capture(archive, batch, clock, releasing=quarantine_id)
            runs.close(archive, run_id, 1, 0, clock())
    except BaseException:
        with suppress(Exception):
            abandon(archive, run_id, clock)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    locks.drain(archive, clock())
    flags.drain(archive, clock())
    return batch.admitted[0].deposits[0].record_id


# ---------------------------------------------------------------- runs that died


def clear_dead(archive: Archive, clock: Clock, superseded: str | None = None) -> list[UUID]:
    """Close the runs whose processes are gone, and remove what they left in the spool. Safe at any time.

    `superseded` names a source whose scheduler begins a new run: what it rested on is over."""
    archive.settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    with transaction(archive.connections) as conn:
        open_runs = runs.running(conn)
    closed = []
    for run_id, started_at in open_runs:
        folder = archive.settings.spool / str(run_id)
        if folder.is_dir() and run_folder.dead(folder, clock(), _is_of(archive, run_id, superseded)):
            abandon(archive, run_id, clock)
            closed.append(run_id)
        elif clock() - started_at > PATIENCE and not folder.is_dir():  # begun where we cannot see it, long ago
            runs.interrupt(archive, run_id, clock())
            closed.append(run_id)
    known = {str(run_id) for run_id, _ in open_runs}
    for folder in archive.settings.spool.iterdir():
        if folder.name not in known and folder.is_dir() and run_folder.dead(folder, clock(), superseded=True):
            shutil.rmtree(folder, ignore_errors=True)
    return closed


def _is_of(archive: Archive, run_id: UUID, source: str | None) -> bool:
    try:
        return source is not None and load_run(archive.settings, run_id).source.name == source
    except NotFound:
        return False


def abandon(archive: Archive, run_id: UUID, clock: Clock) -> None:
    """End a run that cannot go on: what it committed stands and is accounted for, the rest is `missing`."""
    folder = archive.settings.spool / str(run_id)
    try:
        run = load_run(archive.settings, run_id)
        runs.close(archive, run_id, run.discovered, run.deferred, clock())
    except NotFound:  # it died while it listed its source
        runs.interrupt(archive, run_id, clock())
    shutil.rmtree(folder, ignore_errors=True)
