"""What a compliance report says, as values.

Rules of this module:
- Values only: frozen, no IO, no clock.
- No number without the list behind it: a `Figure` names its list, and is the list's length or the sum of one
  of its columns. What is counted is found in the list, row by row.
- A list is kept compressed: ten million rows take some hundred megabytes, not ten gigabytes.
- Ids, classes, codes, dates and digests only. Names are in a list's last columns, in a copy for the eye alone.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from retention.rules import Action

_CHUNK = 1 << 16  # bytes that are unpacked at a time


class Status(StrEnum):
    """Of a check, worst first. Red fails the command; amber waits for somebody's decision."""

    RED = "red"
    AMBER = "amber"
    GREEN = "green"


@dataclass(frozen=True, slots=True)
class Listing:
    """A list behind a number. `id` is its anchor on the page, its key in JSON and the name of its CSV file."""

    id: str
    title: str
    columns: tuple[str, ...]
    count: int
    packed: bytes = field(repr=False, default=b"")  # zlib over CSV rows
    names: int = 0  # how many of the last columns name what a person wrote or is

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Every row, as text; an unknown value is empty."""
        return (tuple(row) for row in csv.reader(_lines(self.packed)))

    @property
    def plain(self) -> tuple[str, ...]:
        """The columns that may be captured: without names."""
        return self.columns[: len(self.columns) - self.names]


def _lines(packed: bytes) -> Iterator[str]:
    """Lines of the unpacked text, with their ends, so that a quoted cell may hold one."""
    unpacker, rest = zlib.decompressobj(), b""
    for start in range(0, len(packed), _CHUNK):
        *lines, rest = (rest + unpacker.decompress(packed[start : start + _CHUNK])).split(b"\n")
        yield from (line.decode() + "\n" for line in lines)
    if rest:
        yield rest.decode()


class Packer:
    """Takes CSV rows as they come and gives the packed list; memory is what the list takes packed."""

    def __init__(self) -> None:
        self.count = 0
        self._deflate = zlib.compressobj(1)
        self._parts: list[bytes] = []

    def add(self, row: bytes) -> None:
        self.count += 1
        if part := self._deflate.compress(row):
            self._parts.append(part)

    def packed(self) -> bytes:
        return b"".join([*self._parts, self._deflate.flush()])


def listing(id_: str, title: str, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> Listing:
    """A list of rows that are at hand."""
    packer = Packer()
    for row in rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(["" if cell is None else str(cell) for cell in row])
        packer.add(text.getvalue().encode())
    return Listing(id_, title, columns, packer.count, packer.packed())


@dataclass(frozen=True, slots=True)
class Figure:
    """A number: the length of its list or, with `column`, the sum of that column."""

    value: int
    listing: str
    column: str | None = None


def figures(value: object) -> Iterator[Figure]:
    """Every number in a value of this module, however deep."""
    if isinstance(value, Figure):
        yield value
    elif is_dataclass(value) and not isinstance(value, Listing):
        for one in fields(value):
            yield from figures(getattr(value, one.name))
    elif isinstance(value, (tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from figures(inner)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. `found` is a sentence; `then` what to do, empty where there is nothing."""

    id: str
    status: Status
    title: str
    found: str
    then: str = ""
    figure: Figure | None = None

    def __str__(self) -> str:
        return f"{self.title}: {self.found}" + (f" {self.then}" if self.then else "")


@dataclass(frozen=True, slots=True)
class ClassHeld:
    """What is held of one class. `titles` is empty where the schedule in force does not know the class."""

    class_id: str
    titles: Mapping[str, str]
    records: Figure
    bytes: Figure
    oldest: date  # received
    newest: date
    unscheduled: str = ""  # why nothing ever makes it due; empty for a class with rules


@dataclass(frozen=True, slots=True)
class ClassDue:
    """What has outlived its retention in one class. Where a rule is not `verified` nothing is destroyed."""

    class_id: str
    titles: Mapping[str, str]
    action: Action
    citations: tuple[str, ...]
    unverified: tuple[str, ...]  # ids of rules
    records: Figure
    bytes: Figure


@dataclass(frozen=True, slots=True)
class TriggerMissing:
    """Records of a class that are kept because the date from which a rule counts is not known."""

    class_id: str
    titles: Mapping[str, str]
    trigger: str
    rules: tuple[str, ...]
    records: Figure


@dataclass(frozen=True, slots=True)
class CodeCount:
    """How many documents have a finding of one code, what the code means and what to do next."""

    code: str
    severity: str
    meaning: str
    documents: Figure


@dataclass(frozen=True, slots=True)
class Intake:
    """What came in: of one day, or in all. In documents; children (attachments) are counted apart."""

    day: date | None
    runs: Figure
    discovered: Figure
    admitted: Figure
    quarantined: Figure
    rejected: Figure
    known: Figure
    children: Figure
    deferred: Figure
    missing: Figure
    bytes: Figure


@dataclass(frozen=True, slots=True)
class RunStates:
    """Runs that need a look. `interrupted` are those that no later run of the same source made good."""

    interrupted: Figure
    missing: Figure  # documents that they discovered and did not account for
    running: Figure
    oldest_running: datetime | None


@dataclass(frozen=True, slots=True)
class Source:
    """The last run of one source; the source is known by its pseudonym."""

    source_id: UUID
    name: str  # empty in a copy to be kept
    runs: Figure
    last_started: datetime
    last_state: str


@dataclass(frozen=True, slots=True)
class Written:
    """Objects of one kind that were written to the vault and read back."""

    kind: str
    objects: Figure
    bytes: Figure  # sealed
    oldest: datetime | None  # reading back
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What validation evaluated for one code, over all batches."""

    code: str
    severity: str
    evaluated: Figure
    failed: Figure


@dataclass(frozen=True, slots=True)
class HoldLine:
    """A hold in force."""

    hold_id: UUID
    mode: str
    placed_at: datetime
    review_on: date
    records: Figure
    bytes: Figure


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is under holds, and what of it is owed."""

    lines: tuple[HoldLine, ...]
    holds: Figure
    records: Figure  # each once, however many holds it has
    overdue: Figure  # holds past their review date
    flags: Figure  # of objects, that the vault has not confirmed
    flags_oldest: datetime | None
    flags_failed: int


@dataclass(frozen=True, slots=True)
class PersonRequests:
    """What persons asked for and wait for (GDPR art. 12(3)), and what is restricted (art. 18)."""

    open: Figure
    overdue: Figure
    restricted: Figure  # records


@dataclass(frozen=True, slots=True)
class PlannedClass:
    """What an open plan has of one class. `stage` is empty when its review is over."""

    class_id: str
    titles: Mapping[str, str]
    actions: tuple[str, ...]
    records: Figure
    bytes: Figure
    stage: str  # the name of who decides now
    number: int  # of the stage, from 1
    stages: int
    reviewers: tuple[str, ...]  # empty in a copy to be kept
    until: date | None  # when this stage lapses
    undecided: Figure | None  # in this stage; None where nothing is
    unverified: tuple[str, ...]  # ids of rules that propose and never execute

    @property
    def last(self) -> bool:
        """Whether a lapse of this stage expires the plan."""
        return self.number == self.stages


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """A plan that is neither executed nor given up."""

    plan_id: UUID
    state: str  # review, signing, approved, at work, broken off, with its receiver
    as_of: date
    term: datetime | None  # when it expires; None once it is approved
    near: bool  # that is soon
    since: datetime | None  # approved
    records: Figure
    bytes: Figure
    signed: Figure | None  # signatures; None where there is none
    needed: int
    over_limit: tuple[str, ...]
    classes: tuple[PlannedClass, ...]


@dataclass(frozen=True, slots=True)
class ExecutedPlan:
    """A plan that was executed, and what became of its records: destroyed, transferred, or why kept."""

    plan_id: UUID
    ended_at: datetime
    certificate_id: UUID | None
    outcomes: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Disposition:
    """Plans, and what of the law they leave open."""

    open: Figure
    waiting: tuple[OpenPlan, ...]
    not_advanced: Figure
    not_executed: Figure
    expired: Figure
    undecided: Figure  # records of expired plans
    executed: tuple[ExecutedPlan, ...]
    executed_plans: Figure
    outcomes: Mapping[str, Figure]
    broken_off: Figure
    unplanned: Figure
    findings: Mapping[str, Figure]  # code of the engine -> records


@dataclass(frozen=True, slots=True)
class SchedulePart:
    """The schedule in force."""

    version: int
    digest: str
    title: str
    timezone: str
    loaded_at: datetime
    classes: int
    rules: int
    unverified: int


@dataclass(frozen=True, slots=True)
class LedgerPart:
    """The head of the history, and the root that its leaves give when they are hashed again."""

    size: Figure
    root: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class Assured:
    """When each part of `assurance` last ran, whatever it found (None: not in the last days), and what it found bad."""

    began: datetime | None  # the first event of the history
    ran: Mapping[str, datetime | None]  # publish, verify, fixity, reconcile
    bad: tuple[str, ...]  # those whose last run found something


@dataclass(frozen=True, slots=True)
class VaultPart:
    """Where the content is, and what its locks are worth there."""

    url: str  # without credentials
    locks: bool
    statement: str


@dataclass(frozen=True, slots=True)
class ComplianceReport:
    """The whole report. `as_of` is the day for which dates are decided; the rest is the catalog at `made_at`."""

    id: UUID
    as_of: date
    made_at: datetime
    timezone: str
    summary: str
    checks: tuple[Check, ...]  # worst first
    records: Figure
    bytes: Figure
    due_total: Figure
    unscheduled_total: Figure
    held: tuple[ClassHeld, ...]
    due: tuple[ClassDue, ...]
    waiting: tuple[TriggerMissing, ...]
    quarantined: Figure
    quarantine: tuple[CodeCount, ...]
    findings: tuple[CodeCount, ...]  # on records that are held
    turned_away: tuple[CodeCount, ...]
    documents: Mapping[str, Figure]  # outcome -> the documents themselves
    intake: Intake
    days: tuple[Intake, ...]
    runs: RunStates
    sources: tuple[Source, ...]
    written: tuple[Written, ...]
    written_total: Figure
    expectations: tuple[Expectation, ...]
    schedule: SchedulePart | None
    ledger: LedgerPart
    vault: VaultPart
    lists: tuple[Listing, ...]
    frozen: Frozen | None = None
    requests: PersonRequests | None = None
    disposition: Disposition | None = None
    names: bool = False  # a copy for the eye, with titles and names: not to be kept

    @property
    def red(self) -> tuple[Check, ...]:
        """What must be mended; anything here is exit code 1."""
        return tuple(check for check in self.checks if check.status is Status.RED)

    def behind(self, figure: Figure) -> Listing:
        """The list behind a number."""
        return next(one for one in self.lists if one.id == figure.listing)
