"""The shape of the schedule file: what a records officer may write, field by field.

Rules of this module:
- pydantic at the edge only: these models check one value at a time and turn text into the values of
  `retention.rules`; what one value says about another is `retention.schedule`'s.
- A field that is not known is refused: a misspelt `ceilling` must not be a rule without a ceiling.
- The published JSON Schema (schema.json) is what `muniment schedule schema` prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from retention import rules
from retention.rules import PERMANENT, Action, Combine, Comparison, LaterRecords, Occurrence, Tombstone, Unit, Worm
from retention.schedule.patterns import bounded


def _accepted(parse: Callable[[str], object]) -> AfterValidator:
    """A check that `parse` takes the text; the text is kept, so that a model shows what was written."""

    def check(value: str) -> str:
        parse(value)
        return value

    return AfterValidator(check)


def _shape(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # a zone not found is a KeyError
        raise ValueError("expected an IANA time zone such as Asia/Jerusalem") from error


def _period_or_permanent(text: str) -> rules.Period | None:
    return None if text == PERMANENT else rules.parse_period(text)


def _day(value: object) -> object:
    """Only YYYY-MM-DD: pydantic would also take a number, as seconds since 1970."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"expected a day of the calendar ({error})") from error
    if isinstance(value, date):
        return value
    raise ValueError("expected a date such as 2026-01-31")


def _duration(value: object) -> object:
    if isinstance(value, timedelta) or (isinstance(value, str) and value.startswith("P")):
        return value
    raise ValueError("expected ISO 8601 such as P1D or PT4H")


def _event(text: str) -> rules.Trigger:
    if text in rules.DATED:
        raise ValueError("expected event:<kind> such as event:assessment_final")
    return rules.parse_trigger(text)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected printable text on one line")
    return text


_DURATION = r"P(?=\d)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?"
_EVENT = r"event:[a-z][a-z0-9_]{0,63}"
_CUTOFFS = r"none|month_end|quarter_end|year_end|fiscal_year_end\(\d\d-\d\d\)"
_TRIGGERS = "|".join((*rules.DATED, _EVENT))

Day = Annotated[date, BeforeValidator(_day)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
PeriodText = Annotated[str, _accepted(rules.parse_period), _shape(f"^{_DURATION}$", "P7Y")]
RetentionText = Annotated[str, _accepted(_period_or_permanent), _shape(f"^(permanent|{_DURATION})$", "P7Y")]
CutoffText = Annotated[str, _accepted(rules.parse_cutoff), _shape(f"^({_CUTOFFS})$", "fiscal_year_end(03-31)")]
TriggerText = Annotated[str, _accepted(rules.parse_trigger), _shape(f"^({_TRIGGERS})$", "event:contract_end")]
EventText = Annotated[str, _accepted(_event), _shape(f"^{_EVENT}$", "event:assessment_final")]
ZoneText = Annotated[str, _accepted(_zone), _shape("^[A-Za-z0-9_+/-]+$", "Asia/Jerusalem")]
PatternText = Annotated[str, _accepted(bounded), _shape(".", r"invoice\s{1,3}no")]
ClassId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["FIN-010"])]
RuleId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._()-]{0,79}$", examples=["il-25c-filing"])]
Line = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=2000)]
Lines = Annotated[list[Line], Field(min_length=1)]
Titles = dict[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], Line]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AuthorityFile(Strict):
    """The law or policy that the rule rests on."""

    citation: Line
    jurisdiction: Line = "any"
    url: str = ""
    verified_on: Day | None = None
    verified_by: str = ""


class ConditionFile(Strict):
    """`present: event:death`, or `date: … before|on_or_before|after|on_or_after: … plus: P10Y`."""

    present: EventText | None = None
    date: TriggerText | None = None
    before: TriggerText | None = None
    on_or_before: TriggerText | None = None
    after: TriggerText | None = None
    on_or_after: TriggerText | None = None
    plus: PeriodText | None = None
    """Added to the second date before they are compared."""

    def comparisons(self) -> list[tuple[Comparison, str]]:
        given = [(kind, getattr(self, kind.value)) for kind in Comparison]
        return [(kind, text) for kind, text in given if text is not None]


class RuleFile(Strict):
    """One retention rule."""

    id: RuleId
    trigger: TriggerText
    period: RetentionText
    authority: AuthorityFile
    action: Action | None = None
    """The class's own action where not given."""
    cutoff: CutoffText = "none"
    ceiling: PeriodText | None = None
    """The maximum (GDPR art. 5(1)(e)), from the same date as the period."""
    effective_from: Day | None = None
    triggers_from: Day | None = None
    triggers_until: Day | None = None
    when: list[ConditionFile] = []
    """All must be true. An unknown operand takes the longer branch."""
    replaces: list[RuleId] = []
    not_before: EventText | None = None
    occurrence: Occurrence = Occurrence.LATEST
    verified: bool = False
    notify_before: PeriodText | None = None
    time_zone: ZoneText | None = None
    later_records: LaterRecords = LaterRecords.STALE
    """Of an event of an aggregation: whether records dated after it are covered, or make it stale (not eligible)."""


class StageFile(Strict):
    """One stage of review."""

    name: Line
    reviewers: list[Line] = []
    lapse: PeriodText | None = None


class PersonalDataFile(Strict):
    """What the register of processing says (GDPR art. 30)."""

    subjects: list[Line] = []
    categories: list[Line] = []
    purpose: str = ""
    basis: str = ""
    recipients: list[Line] = []


class KeepFile(Strict):
    """How many recovery points are kept."""

    daily: Annotated[int, Field(ge=0)] = 0
    weekly: Annotated[int, Field(ge=0)] = 0
    monthly: Annotated[int, Field(ge=0)] = 0
    yearly: Annotated[int, Field(ge=0)] = 0


class BackupFile(Strict):
    """Which vaults, how old a recovery point may be (RPO), restored within (RTO), how many are kept."""

    vaults: list[Line] = []
    rpo: Duration | None = None
    rto: Duration | None = None
    keep: KeepFile | None = None


class FieldMatchFile(Strict):
    """A condition on one metadata field: one of the three."""

    equals: str | None = None
    contains: str | None = None
    regex: PatternText | None = None


class MatchFile(Strict):
    """A classification rule: every condition given must hold; of a list, one entry suffices."""

    id: RuleId
    source: Lines | None = None
    path: Lines | None = None
    mime: Lines | None = None
    extension: Lines | None = None
    sender: Lines | None = None
    language: Lines | None = None
    metadata: dict[str, FieldMatchFile] = {}
    heading: Lines | None = None
    """Phrases in the title, the file name or the first lines of the text."""
    text: Lines | None = None
    text_all: Lines | None = None
    text_none: Lines | None = None
    regex: PatternText | None = None


def _one_group(text: str) -> object:
    found = bounded(text)
    if found.groups != 1:
        raise ValueError(f"expected a pattern with one group, the business id, found {found.groups}")
    return found


class AggregationFile(Strict):
    """Which case file a document belongs to: `field` of its metadata, or the one group of `path`."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", examples=["patient"])]
    field: Line | None = None
    path: Annotated[str, _accepted(_one_group), _shape(".", r"patients/(\d{1,9})/")] | None = None

    @model_validator(mode="after")
    def _either(self) -> AggregationFile:
        if (self.field is None) == (self.path is None):
            raise ValueError("expected one of field and path")
        return self


class DocumentDateFile(Strict):
    """The metadata fields that may date a document, in order of trust, and from when they are believed."""

    fields: Lines
    earliest: Day = date(1900, 1, 1)


def _kind_of_reference(value: Any) -> str:
    return "rule" if isinstance(value, dict | RuleFile) else "name"


RuleReference = Annotated[
    Annotated[RuleFile, Tag("rule")] | Annotated[RuleId, Tag("name")], Discriminator(_kind_of_reference)
]


class ClassFile(Strict):
    """One record class."""

    id: ClassId
    title: Line | Titles
    rules: list[RuleReference]
    """Rules, or ids of rules in the list `rules` of the file. An empty list: never destroyed by machine."""
    parent: ClassId | None = None
    """Where not given: the longest other class id that this one begins with, before a '-' or '.'."""
    combine: Combine = Combine.ALL
    action: Action = Action.REVIEW
    review: Annotated[list[StageFile], Field(max_length=5)] = []
    worm: Worm = Worm.NONE
    personal_data: bool | PersonalDataFile = False
    regulatory: bool = False
    """May only be lengthened."""
    vital: bool = False
    match: list[MatchFile] = []
    document_date: DocumentDateFile | None = None
    unit: Unit = Unit.RECORD
    aggregation: AggregationFile | None = None
    """Records of the class are put into this aggregation when they are captured."""
    tombstone: Tombstone = Tombstone.OPAQUE
    backup: BackupFile | None = None
    comment: str = ""


class DispositionFile(Strict):
    """What a disposition plan may do. Above a limit of a class a further approver must sign it."""

    limit_records: Annotated[int, Field(ge=1)] = 1000
    limit_percent: Annotated[int, Field(ge=1, le=100)] = 10
    """Of the records of a class that are kept; it counts from 25 records on."""
    term: PeriodText = "P3M"
    """A plan that is not decided within it expires."""
    certificates: ClassId = "SYS-CERT"
    """The class of execution certificates; where the schedule has none of that id they are unclassified, and kept."""


class HeaderFile(Strict):
    """What the file says about itself."""

    version: Literal[1]
    """Of this format, not of the schedule."""
    title: Line
    timezone: ZoneText
    """The dates of the schedule are civil dates of this zone."""
    disposition: DispositionFile = DispositionFile()


class ScheduleFile(HeaderFile):
    """A retention schedule for Muniment."""

    rules: list[RuleFile] = []
    """Rules that several classes name."""
    classes: Annotated[list[ClassFile], Field(min_length=1)]
    """In order: the first classification rule that matches decides."""
    anchors: Any = None
    """A place for YAML anchors; nothing reads it."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    schema = ScheduleFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# ---- from the file's models to the values the engine uses


def _period(text: str | None) -> rules.Period | None:
    return None if text is None or text == PERMANENT else rules.parse_period(text)


def _condition(given: ConditionFile) -> rules.Condition:
    if given.present is not None:
        return rules.Condition(rules.parse_trigger(given.present))
    comparison, than = given.comparisons()[0]
    plus = _period(given.plus) or rules.Period()
    assert given.date is not None
    return rules.Condition(rules.parse_trigger(given.date), comparison, rules.parse_trigger(than), plus)


def _rule(given: RuleFile, default: Action) -> rules.Rule:
    permanent = given.period == PERMANENT
    return rules.Rule(
        id=given.id,
        trigger=rules.parse_trigger(given.trigger, given.occurrence),
        period=_period(given.period),
        action=Action.PERMANENT if permanent else given.action or default,
        authority=rules.Authority(**given.authority.model_dump()),
        cutoff=rules.parse_cutoff(given.cutoff),
        ceiling=_period(given.ceiling),
        effective_from=given.effective_from,
        triggers_from=given.triggers_from,
        triggers_until=given.triggers_until,
        when=tuple(_condition(condition) for condition in given.when),
        replaces=tuple(given.replaces),
        not_before=rules.parse_trigger(given.not_before) if given.not_before else None,
        verified=given.verified,
        notify_before=_period(given.notify_before),
        time_zone=given.time_zone,
        later_records=given.later_records,
    )


def _match(given: MatchFile) -> rules.Match:
    lists = {
        name: tuple(value)
        for name, value in given
        if isinstance(value, list) and name not in {"id", "metadata", "regex"}
    }
    fields = tuple(rules.FieldMatch(name, **value.model_dump()) for name, value in given.metadata.items())
    return rules.Match(id=given.id, metadata=fields, regex=given.regex, **lists)


def record_class(given: ClassFile, found: list[RuleFile], parent: str | None) -> rules.RecordClass:
    """The value of a checked class with its resolved rules; nothing can fail any more."""
    personal = given.personal_data
    backup = given.backup
    dated = given.document_date
    return rules.RecordClass(
        id=given.id,
        titles={"und": given.title} if isinstance(given.title, str) else dict(given.title),
        rules=tuple(_rule(rule, given.action) for rule in found),
        parent=parent,
        combine=given.combine,
        action=given.action,
        review=tuple(rules.Stage(s.name, tuple(s.reviewers), _period(s.lapse)) for s in given.review),
        worm=given.worm,
        personal_data=_personal_data(personal),
        regulatory=given.regulatory,
        vital=given.vital,
        match=tuple(_match(match) for match in given.match),
        document_date=rules.DocumentDate(tuple(dated.fields), dated.earliest)
        if dated
        else rules.DocumentDate((), date(1900, 1, 1)),
        unit=given.unit,
        aggregation=rules.AggregationSource(**given.aggregation.model_dump()) if given.aggregation else None,
        tombstone=given.tombstone,
        backup=rules.Backup(
            tuple(backup.vaults), backup.rpo, backup.rto, backup.keep.model_dump() if backup.keep else {}
        )
        if backup
        else rules.Backup(),
        comment=given.comment,
    )


def disposition(given: DispositionFile) -> rules.Disposition:
    return rules.Disposition(
        given.limit_records, given.limit_percent, _period(given.term) or rules.Disposition().term, given.certificates
    )


def _personal_data(given: bool | PersonalDataFile) -> rules.PersonalData | None:
    if isinstance(given, bool):
        return rules.PersonalData() if given else None
    return rules.PersonalData(
        tuple(given.subjects), tuple(given.categories), given.purpose, given.basis, tuple(given.recipients)
    )
