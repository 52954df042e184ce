"""What a retention schedule says, as values: classes, rules, triggers, cutoffs, periods.

Rules of this module:
- Values only: frozen, no IO, no clock, no YAML. `retention.schedule` makes them out of a file and has
  checked every reference; `retention.engine` computes with them.
- A period is calendar arithmetic, never a number of days standing in for months or years.
- `None` as a period means permanent; `None` as a date means unknown. The two are never mixed.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

PERMANENT = "permanent"


class Action(StrEnum):
    """What happens after retention, weakest first: of several, the strongest is done."""

    DESTROY = "destroy"
    REVIEW = "review"
    TRANSFER = "transfer"
    PERMANENT = "permanent"


STRENGTH: Mapping[Action, int] = {action: rank for rank, action in enumerate(Action)}


class Combine(StrEnum):
    """How the rules of one class meet: all satisfied (the longest wins), or one suffices."""

    ALL = "all"
    ANY = "any"


class Occurrence(StrEnum):
    """Which of several unretracted events of one kind counts."""

    LATEST = "latest"
    FIRST = "first"


class LaterRecords(StrEnum):
    """Whether an event of an aggregation is about records of it that are dated later than the event."""

    STALE = "stale"  # not known: kept, with the finding TRIGGER-STALE
    COVERED = "covered"  # such records are usual: a birth, the day of hire


class Unit(StrEnum):
    """What goes as a whole: a record, or the aggregation when all its members are eligible."""

    RECORD = "record"
    AGGREGATION = "aggregation"


class Worm(StrEnum):
    """The lock its content gets in the vault (SEC 17a-4 words, as S3 Object Lock has them)."""

    NONE = "none"
    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


class Tombstone(StrEnum):
    """What stays of a destroyed record: nothing that names it, or a sealed description."""

    OPAQUE = "opaque"
    DESCRIPTIVE = "descriptive"


DATED = ("received", "document_date", "modified", "tagged")


@dataclass(frozen=True, slots=True, order=True)
class Trigger:
    """The date from which a period runs: one of `DATED`, or the date of an event of a kind."""

    name: str  # one of DATED, or the kind of the event
    event: bool = False
    occurrence: Occurrence = Occurrence.LATEST

    @property
    def key(self) -> str:
        """For an event, its name in `trigger_kinds`: the first occurrence has a place of its own."""
        return self.name if self.occurrence is Occurrence.LATEST else f"{self.name}:first"

    def __str__(self) -> str:
        if not self.event:
            return self.name
        return f"event:{self.name}" + ("" if self.occurrence is Occurrence.LATEST else " (first)")


_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


def parse_trigger(text: str, occurrence: Occurrence = Occurrence.LATEST) -> Trigger:
    """`received`, `document_date`, `modified`, `tagged` or `event:<kind>`. Raises ValueError."""
    if text in DATED:
        return Trigger(text)
    kind = text.removeprefix("event:")
    if kind != text and _KIND.fullmatch(kind):
        return Trigger(kind, event=True, occurrence=occurrence)
    raise ValueError(f"expected {', '.join(DATED)} or event:<kind> such as event:contract_end")


@dataclass(frozen=True, slots=True)
class Period:
    """A calendar period: months first (clamped to the month's end), then days."""

    months: int = 0
    days: int = 0

    def after(self, day: date) -> date:
        """`day` + this period; 31 January + P1M is the last day of February. Past the calendar: date.max."""
        year, month = divmod(day.year * 12 + day.month - 1 + self.months, 12)
        if year > date.max.year:
            return date.max
        moved = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
        return date.max if self.days > (date.max - moved).days else moved + timedelta(self.days)

    def __str__(self) -> str:
        years, months = divmod(self.months, 12)
        parts = [f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (self.days, "D")) if n]
        return "P" + ("".join(parts) or "0D")


_PERIOD = re.compile(r"P(?=\d)(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,6})D)?")


def parse_period(text: str) -> Period:
    """ISO 8601 date durations such as P7Y, P18M, P90D, P1Y6M, P2W. Raises ValueError."""
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ValueError("expected ISO 8601 such as P7Y, P18M, P90D or P1Y6M")
    years, months, weeks, days = (int(part or 0) for part in found.groups())
    return Period(12 * years + months, 7 * weeks + days)


class CutoffUnit(StrEnum):
    NONE = "none"
    MONTH_END = "month_end"
    QUARTER_END = "quarter_end"
    YEAR_END = "year_end"
    FISCAL_YEAR_END = "fiscal_year_end"


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The end of the unit to which a trigger date moves before the period runs."""

    unit: CutoffUnit = CutoffUnit.NONE
    month: int = 12  # of the fiscal year's last day
    day: int = 31  # 29 February means the last day of February

    def of(self, day: date) -> date:
        """The last day of the unit in which `day` lies."""
        year, month = day.year, day.month
        match self.unit:
            case CutoffUnit.NONE:
                return day
            case CutoffUnit.MONTH_END:
                pass
            case CutoffUnit.QUARTER_END:
                month = (month + 2) // 3 * 3
            case CutoffUnit.YEAR_END:
                month = 12
            case CutoffUnit.FISCAL_YEAR_END:
                end = self._fiscal_end(year)
                return end if day <= end else date.max if year == date.max.year else self._fiscal_end(year + 1)
        return date(year, month, monthrange(year, month)[1])

    def _fiscal_end(self, year: int) -> date:
        return date(year, self.month, min(self.day, monthrange(year, self.month)[1]))

    def __str__(self) -> str:
        if self.unit is CutoffUnit.FISCAL_YEAR_END:
            return f"{self.unit}({self.month:02d}-{self.day:02d})"
        return str(self.unit)


_FISCAL = re.compile(r"fiscal_year_end\((\d\d)-(\d\d)\)")
_LAST_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_cutoff(text: str) -> Cutoff:
    """`none`, `month_end`, `quarter_end`, `year_end` or `fiscal_year_end(MM-DD)`. Raises ValueError."""
    if text != CutoffUnit.FISCAL_YEAR_END and text in set(CutoffUnit):
        return Cutoff(CutoffUnit(text))
    found = _FISCAL.fullmatch(text)
    if found:
        month, day = int(found[1]), int(found[2])
        if 1 <= month <= 12 and 1 <= day <= _LAST_DAYS[month - 1]:
            return Cutoff(CutoffUnit.FISCAL_YEAR_END, month, day)
    raise ValueError("expected none, month_end, quarter_end, year_end or fiscal_year_end(MM-DD)")


class Comparison(StrEnum):
    """How a date stands to another one."""

    BEFORE = "before"
    ON_OR_BEFORE = "on_or_before"
    AFTER = "after"
    ON_OR_AFTER = "on_or_after"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operand of `when`: an event is present, or two trigger dates are compared.

    With `than` unset it asks whether `left` is there, which is yes or no. Otherwise it says
    `left <comparison> than + plus`, and is unknown while either date is.
    """

    left: Trigger
    comparison: Comparison | None = None
    than: Trigger | None = None
    plus: Period = Period()

    def __str__(self) -> str:
        if self.comparison is None or self.than is None:
            return f"{self.left} present"
        shifted = "" if self.plus == Period() else f" + {self.plus}"
        return f"{self.left} {self.comparison} {self.than}{shifted}"


@dataclass(frozen=True, slots=True)
class Authority:
    """The law or policy a rule rests on, and who checked it."""

    citation: str
    jurisdiction: str = ""
    url: str = ""
    verified_on: date | None = None
    verified_by: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One retention rule. `period` None is permanent. `verified` False proposes and never executes."""

    id: str
    trigger: Trigger
    period: Period | None
    action: Action
    authority: Authority
    cutoff: Cutoff = Cutoff()
    ceiling: Period | None = None  # the maximum, from the same cutoff date; None is no maximum
    effective_from: date | None = None  # governs decisions made from that day
    triggers_from: date | None = None  # first and last trigger date that it governs
    triggers_until: date | None = None
    when: tuple[Condition, ...] = ()  # all must be true
    replaces: tuple[str, ...] = ()  # rules of the same class, while `when` is true
    not_before: Trigger | None = None  # an event that must be there
    verified: bool = False
    notify_before: Period | None = None
    time_zone: str | None = None  # IANA; None is the schedule's
    later_records: LaterRecords = LaterRecords.STALE

    @property
    def plain(self) -> bool:
        """True if nothing but its trigger date decides whether it applies."""
        return not (self.when or self.replaces or self.triggers_from or self.triggers_until)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a review. After `lapse` undecided it passes to the next stage; None never lapses."""

    name: str
    reviewers: tuple[str, ...] = ()
    lapse: Period | None = None


@dataclass(frozen=True, slots=True)
class PersonalData:
    """What the register of processing needs (GDPR art. 30)."""

    subjects: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    purpose: str = ""
    basis: str = ""
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backup:
    """Recovery policy of a class: where to, how old and how slow a recovery may be, what is kept."""

    vaults: tuple[str, ...] = ()
    rpo: timedelta | None = None
    rto: timedelta | None = None
    keep: Mapping[str, int] = field(default_factory=dict)  # daily, weekly, monthly, yearly


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """A condition on one metadata field; exactly one of the three is set."""

    field: str
    equals: str | None = None
    contains: str | None = None
    regex: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """One classification rule: every condition that is given must hold; of a list, one entry suffices.

    Globs are of whole values and ignore case. Phrases are whole words, ignoring case, niqqud and spacing.
    """

    id: str
    source: tuple[str, ...] = ()  # globs
    path: tuple[str, ...] = ()  # globs; "*" also matches "/"
    mime: tuple[str, ...] = ()  # globs
    extension: tuple[str, ...] = ()  # without the dot
    sender: tuple[str, ...] = ()  # globs
    language: tuple[str, ...] = ()  # ISO 639-1
    metadata: tuple[FieldMatch, ...] = ()
    heading: tuple[str, ...] = ()  # phrases in the title, the file name or the first lines
    text: tuple[str, ...] = ()  # phrases
    text_all: tuple[str, ...] = ()  # phrases, every one
    text_none: tuple[str, ...] = ()  # phrases, not one
    regex: str | None = None  # bounded (retention.schedule.patterns)


@dataclass(frozen=True, slots=True)
class DocumentDate:
    """Where the date of a document may be read, in order of trust, and from when it is believed."""

    fields: tuple[str, ...] = ()
    earliest: date = date(1900, 1, 1)


@dataclass(frozen=True, slots=True)
class AggregationSource:
    """Where a document says which case file it belongs to: a metadata field, or the first group of a pattern that
    is found in its place. Exactly one of the two is set."""

    kind: str  # patient, contract
    field: str | None = None
    path: str | None = None  # bounded (retention.schedule.patterns)


@dataclass(frozen=True, slots=True)
class RecordClass:
    """One class of the file plan. It has the rules that it names; nothing is inherited from its parent."""

    id: str
    titles: Mapping[str, str]  # language -> title; "und" where the file did not say
    rules: tuple[Rule, ...] = ()
    parent: str | None = None
    combine: Combine = Combine.ALL
    action: Action = Action.REVIEW
    review: tuple[Stage, ...] = ()
    worm: Worm = Worm.NONE
    personal_data: PersonalData | None = None
    regulatory: bool = False
    vital: bool = False
    match: tuple[Match, ...] = ()
    document_date: DocumentDate = DocumentDate()
    unit: Unit = Unit.RECORD
    aggregation: AggregationSource | None = None
    tombstone: Tombstone = Tombstone.OPAQUE
    backup: Backup = Backup()
    comment: str = ""

    def title(self, language: str = "en") -> str:
        """Its title in `language`, else in English, else the first one given."""
        return self.titles.get(language) or self.titles.get("en") or next(iter(self.titles.values()))


@dataclass(frozen=True, slots=True)
class Disposition:
    """What a disposition plan may do. Above a limit of a class a further approver must sign."""

    limit_records: int = 1000
    limit_percent: int = 10  # of the records of a class that are kept; counts from FEW records on
    term: Period = Period(months=3)  # a plan that is not decided within it expires
    certificates: str = "SYS-CERT"  # the class of execution certificates


FEW = 25


@dataclass(frozen=True, slots=True)
class Schedule:
    """One version of the schedule file, complete and checked."""

    digest: str  # SHA-256 of the file's bytes, hexadecimal
    title: str
    timezone: str  # IANA
    classes: tuple[RecordClass, ...]  # in the order of the file, which is the order of classification
    disposition: Disposition = Disposition()

    def record_class(self, class_id: str) -> RecordClass | None:
        """The class of that id, or None: an unknown class has no rule, and is kept."""
        return next((known for known in self.classes if known.id == class_id), None)

    def zone(self, rule: Rule) -> str:
        """The zone in which the dates of `rule` are civil dates."""
        return rule.time_zone or self.timezone
