"""The schedule as a Microsoft Purview file plan (CSV), and a file plan as a schedule.

Rules of this module (Microsoft Learn, *Use file plan to create and manage retention labels*, import template):
- Pure: text in, text out. One row is one retention label, of one class.
- A label says less than a class. Whatever cannot be said is named, row by row, and the label is chosen so that
  Purview never deletes earlier than this schedule would: days are the most that the period can have, of several
  rules the longest is said, and where a person must decide first and no reviewer is named the label only keeps.
- What the schedule says is read back where the label can hold it; what an import cannot keep it names.
- No cell is a formula (retention.schedule.spreadsheet); the quote before it is taken off again when it is read.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import yaml

from retention import schedule
from retention.errors import UsageError
from retention.rules import (
    Action,
    Combine,
    CutoffUnit,
    LaterRecords,
    Occurrence,
    RecordClass,
    Rule,
    Schedule,
    Worm,
)
from retention.schedule.spreadsheet import as_csv, dangerous, unquoted

COLUMNS = (
    *("LabelName", "Comment", "Notes", "IsRecordLabel", "RetentionAction", "RetentionDuration", "RetentionType"),
    *("ReviewerEmail", "ReferenceId", "DepartmentName", "Category", "SubCategory", "AuthorityType", "CitationName"),
    *("CitationUrl", "CitationJurisdiction", "Regulatory", "EventType", "IsRecordUnlockedAsDefault"),
    "ComplianceTagForNextStage",
)
LONGEST_NAME = 64  # characters of a label's name
LONGEST = 36_525  # days of a label
UNLIMITED = "Unlimited"

_TYPES = {"received": "CreationAgeInDays", "modified": "ModificationAgeInDays", "tagged": "TaggedAgeInDays"}
_EVENT = "EventAgeInDays"
_EMAIL = re.compile(r"[^@\s;,]+@[^@\s;,]+\.[^@\s;,]+")
_CLASS_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Warned:
    """What one row cannot say. `row` counts from 1, the header is not counted."""

    row: int
    label: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.label}: {self.message}"


# ---------------------------------------------------------------- out


def export(plan: Schedule) -> tuple[str, tuple[Warned, ...]]:
    """The file plan of a schedule as CSV, and what it cannot say of each class."""
    warned: list[Warned] = []
    rows: list[list[str]] = []
    names: set[str] = set()
    for number, known in enumerate(plan.classes, 1):
        cells, messages = _label(known, plan, names)
        names.add(cells["LabelName"])
        rows.append([cells.get(column, "") for column in COLUMNS])
        if any(dangerous(cell) for cell in rows[-1]):
            messages.append("a cell begins as a formula does; it has a quote before it")
        warned += [Warned(number, cells["LabelName"], message) for message in messages]
    return as_csv(COLUMNS, rows), tuple(warned)


def _label(known: RecordClass, plan: Schedule, names: set[str]) -> tuple[dict[str, str], list[str]]:
    warned: list[str] = []
    name = _one_line(f"{known.id} {known.title()}")
    if len(name) > LONGEST_NAME:
        warned.append(f"the label's name is cut to {LONGEST_NAME} characters")
        name = name[:LONGEST_NAME].rstrip()
    if name in names:
        name = known.id
        warned.append("the label's name is the id alone, as two names would be the same")
    cells = {
        "LabelName": name,
        "Comment": _one_line(known.comment),
        "IsRecordLabel": _flag(known.worm is not Worm.NONE or known.regulatory),
        "Regulatory": _flag(known.regulatory),
        "IsRecordUnlockedAsDefault": _flag(False),
        "ReferenceId": known.id,
    }
    parent = plan.record_class(known.parent) if known.parent else None
    if parent is not None:
        cells["Category"] = _one_line(parent.title())
    warned += _of_class(known)
    if not known.rules:
        kept = {"RetentionAction": "Keep", "RetentionDuration": UNLIMITED, "RetentionType": _TYPES["received"]}
        return cells | kept, [*warned, "it has no rule; the label keeps for ever"]
    days = {rule.id: _most_days(rule) for rule in known.rules}
    rule = max(known.rules, key=lambda one: (days[one.id] is None, days[one.id] or 0))
    if len(known.rules) > 1:
        said = "any of several rules" if known.combine is Combine.ANY else "several rules at once"
        warned.append(f"{said} cannot be said; the label has the longest, {rule.id}")
    cells |= _counting(rule, days[rule.id], warned) | _ending(known, rule, days[rule.id], warned)
    warned += _of_rule(rule)
    cells["Notes"] = _one_line(f"{rule.trigger}, {rule.cutoff}, {rule.period or 'permanent'}")
    cells |= {
        "AuthorityType": "Legal" if rule.authority.jurisdiction not in {"", "any"} else "Business",
        "CitationName": _one_line(rule.authority.citation),
        "CitationUrl": _one_line(rule.authority.url),
        "CitationJurisdiction": _one_line(rule.authority.jurisdiction),
    }
    return cells, warned


def _counting(rule: Rule, days: int | None, warned: list[str]) -> dict[str, str]:
    cells = {"RetentionDuration": UNLIMITED if days is None or days > LONGEST else str(days)}
    if days is not None and days > LONGEST:
        warned.append(f"{rule.period} can be {days} days, more than the {LONGEST} of a label; the label keeps for ever")
    elif rule.period is not None and (rule.period.months or rule.cutoff.unit is not CutoffUnit.NONE):
        cutoff = "" if rule.cutoff.unit is CutoffUnit.NONE else f" from {rule.cutoff}"
        warned.append(f"{rule.period}{cutoff} is no number of days; the label has the most that it can be, {days}")
    if rule.trigger.event:
        cells |= {"RetentionType": _EVENT, "EventType": rule.trigger.name}
    elif rule.trigger.name in _TYPES:
        cells["RetentionType"] = _TYPES[rule.trigger.name]
    else:
        cells["RetentionType"] = _TYPES["received"]
        warned.append(f"{rule.trigger} is not known to a label; it counts from creation in Microsoft 365")
    return cells


def _ending(known: RecordClass, rule: Rule, days: int | None, warned: list[str]) -> dict[str, str]:
    reviewers = [one for stage in known.review for one in stage.reviewers]
    emails = [one for one in reviewers if _EMAIL.fullmatch(one)]
    if days is None or days > LONGEST or rule.action is Action.PERMANENT:
        return {"RetentionAction": "Keep"}
    if rule.action is Action.TRANSFER:
        warned.append("a transfer cannot be said; the label keeps, and deletes nothing")
        return {"RetentionAction": "Keep"}
    if rule.action is Action.DESTROY and not known.review:
        warned.append("a label deletes without the two people that a disposition needs here")
        return {"RetentionAction": "KeepAndDelete"}
    if not emails:
        warned.append(
            "a person must decide, and no reviewer has an e-mail address; the label keeps, and deletes nothing"
        )
        return {"RetentionAction": "Keep"}
    if len(known.review) > 1 or any(stage.lapse for stage in known.review) or len(emails) < len(reviewers):
        warned.append(
            "stages of review, their lapse and reviewers without an address cannot be said; one stage has all"
        )
    return {"RetentionAction": "KeepAndDelete", "ReviewerEmail": ";".join(emails)}


def _of_class(known: RecordClass) -> Iterator[str]:
    if known.unit.value != "record":
        yield "an aggregation that goes as a whole cannot be said; each item goes alone"
    if known.regulatory and known.worm is Worm.NONE:
        yield "a regulatory label locks its items; here only the schedule is bound"
    elif known.worm is Worm.GOVERNANCE or (known.worm is Worm.COMPLIANCE and not known.regulatory):
        yield f"the lock ({known.worm}) is said as a record label"


def _of_rule(rule: Rule) -> Iterator[str]:
    if rule.ceiling is not None:
        yield f"the ceiling {rule.ceiling} cannot be said; nothing ends the label's hold on time"
    if rule.not_before is not None:
        yield f"a label cannot wait for {rule.not_before}"
    if rule.when or rule.replaces:
        yield "conditions and what they replace cannot be said"
    if rule.effective_from or rule.triggers_from or rule.triggers_until:
        yield "the days from which, or the triggers for which, the rule is meant cannot be said"
    if rule.trigger.event and rule.trigger.occurrence is Occurrence.FIRST:
        yield "the first of several events cannot be said"
    if rule.trigger.event and rule.later_records is LaterRecords.STALE:
        yield "items dated after the event are taken along; here they would be kept, and found"
    if rule.notify_before is not None:
        yield "the notice before the end cannot be said"
    if not rule.verified:
        yield "the rule is not verified: here it proposes and never destroys, and a label does not know that"


def _most_days(rule: Rule) -> int | None:
    """The most days from a trigger date to the last day of retention, over a cycle of leap years; None: for ever."""
    if rule.period is None:
        return None
    cycle = (date(2000, 1, 1) + timedelta(n) for n in range(1461))
    return max((rule.period.after(rule.cutoff.of(day)) - day).days for day in cycle)


def _flag(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- in


def schedule_of(text: str, title: str, timezone: str) -> tuple[str, tuple[Warned, ...]]:
    """A schedule file (YAML) that says what a file plan says, and what of it could not be kept.

    Raises UsageError with every mistake of the file plan, by row."""
    rows = _read(text)
    mistakes: list[str] = []
    warned: list[Warned] = []
    classes: list[dict[str, Any]] = []
    ids: set[str] = set()
    for number, cells in enumerate(rows, 1):
        found, wrong, messages = _class_of(cells, ids)
        label = cells["LabelName"] or "a label without a name"
        mistakes += [f"row {number}, {label}: {one}" for one in wrong]
        warned += [Warned(number, label, one) for one in messages]
        ids.add(found["id"])
        classes.append(found)
    if not rows:
        mistakes.append("expected at least one label below the header, found none")
    if mistakes:
        raise UsageError("the file plan cannot be read:\n" + "\n".join(f"  {one}" for one in mistakes))
    head = [
        "# From a Microsoft Purview file plan. Every rule needs the sign-off of local counsel.",
        *map(_noted, warned),
    ]
    plan = {"version": 1, "title": title, "timezone": timezone, "classes": classes}
    document = "\n".join(head) + "\n" + yaml.safe_dump(plan, sort_keys=False, allow_unicode=True, width=100)
    if problems := schedule.check(document):
        listed = "\n".join(f"  {problem.message}" for problem in problems)
        raise UsageError(f"the file plan makes no schedule:\n{listed}")
    return document, tuple(warned)


def _noted(one: Warned) -> str:
    return "# " + "".join(c if c.isprintable() else " " for c in str(one))


def _read(text: str) -> list[dict[str, str]]:
    try:
        table = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise UsageError(f"the file plan is not CSV ({error}). Export it from Purview again, as CSV.") from error
    if not table:
        raise UsageError("the file plan is empty: expected a header with LabelName, RetentionAction and the others.")
    header = [cell.strip() for cell in table[0]]
    missing = [column for column in COLUMNS[:7] if column not in header]
    unknown = [column for column in header if column not in COLUMNS]
    if missing or unknown or len(set(header)) < len(header):
        said = [f"{column} is missing" for column in missing] + [f"{column!r} is not one of it" for column in unknown]
        raise UsageError(f"the file plan's header: {', '.join(said) or 'a column is there twice'}.")
    rows = []
    for number, row in enumerate(table[1:], 1):
        if len(row) > len(header):
            raise UsageError(f"the file plan, row {number}: expected {len(header)} cells, found {len(row)}.")
        if any(cell.strip() for cell in row):
            given = dict(zip(header, row, strict=False))
            rows.append({column: unquoted(given.get(column, "")).strip() for column in COLUMNS})
    return rows


def _class_of(cells: Mapping[str, str], ids: set[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    wrong: list[str] = []
    warned: list[str] = []
    known = _identity(cells, ids, wrong, warned)
    rule = _rule_of(cells, known["id"], wrong, warned)
    action = rule.pop("action")
    known["action"] = action
    reviewers = [one.strip() for one in cells["ReviewerEmail"].split(";") if one.strip()]
    if reviewers:
        known |= {"action": "review", "review": [{"name": "reviewers", "reviewers": reviewers}]}
        wrong += [f"ReviewerEmail: expected addresses between semicolons, found {one!r}" for one in reviewers
                  if not _EMAIL.fullmatch(one)]  # fmt: skip
    if _truth(cells, "Regulatory", wrong):
        known |= {"regulatory": True, "worm": "compliance"}
    elif _truth(cells, "IsRecordLabel", wrong):
        known["worm"] = "governance"
        warned.append("a record label is taken as worm: governance; its vault must enforce it")
    if _truth(cells, "IsRecordUnlockedAsDefault", wrong):
        warned.append("a record that starts unlocked cannot be said")
    if cells["ComplianceTagForNextStage"]:
        warned.append(f"the next label, {cells['ComplianceTagForNextStage']}, cannot be said")
    notes = [(name, cells[name]) for name in ("DepartmentName", "Category", "SubCategory") if cells[name]]
    comment = "; ".join([*([cells["Comment"]] if cells["Comment"] else []), *(f"{n}: {text}" for n, text in notes)])
    if comment:
        known["comment"] = _one_line(comment)
    if cells["Notes"]:
        warned.append("the notes for users are not kept")
    known["rules"] = [rule]
    return known, wrong, warned


def _identity(cells: Mapping[str, str], ids: set[str], wrong: list[str], warned: list[str]) -> dict[str, Any]:
    name = _printable(cells["LabelName"])
    if not 1 <= len(name) <= LONGEST_NAME:
        wrong.append(f"LabelName: expected 1 to {LONGEST_NAME} characters, found {len(name)}")
    found = cells["ReferenceId"]
    if not _CLASS_ID.fullmatch(found) or found in ids:
        if found:
            warned.append(f"the reference id {found!r} is no class id, or is taken; the id comes from the name")
        found = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "LABEL"
        stem, number = found, 1
        while found in ids:
            number += 1
            found = f"{stem[:56]}-{number}"
    return {"id": found, "title": name.removeprefix(f"{found} ") or found}


def _rule_of(cells: Mapping[str, str], class_id: str, wrong: list[str], warned: list[str]) -> dict[str, Any]:
    kind, duration, action = cells["RetentionType"], cells["RetentionDuration"], cells["RetentionAction"]
    triggers = {of: name for name, of in _TYPES.items()}
    trigger = triggers.get(kind, "received")
    if kind == _EVENT:
        trigger = f"event:{_kind(cells['EventType'], wrong, warned)}"
    elif kind not in triggers:
        wrong.append(f"RetentionType: expected {', '.join((*triggers, _EVENT))}, found {kind!r}")
    period = "permanent"
    if duration.isascii() and duration.isdigit() and int(duration) <= LONGEST:
        period = f"P{int(duration)}D"
    elif duration.casefold() != UNLIMITED.casefold():
        wrong.append(f"RetentionDuration: expected days up to {LONGEST}, or {UNLIMITED}, found {duration!r}")
    if action not in {"Delete", "Keep", "KeepAndDelete"}:
        wrong.append(f"RetentionAction: expected Delete, Keep or KeepAndDelete, found {action!r}")
    if action == "Delete":
        warned.append("a label that only deletes is taken as one that keeps until then")
    if action == "Keep" and period != "permanent":
        warned.append("a label that only keeps says nothing of afterwards; a person decides (review)")
    does = "permanent" if period == "permanent" else "review" if action == "Keep" else "destroy"
    citation = _printable(cells["CitationName"])
    if not citation:
        warned.append("no citation is given")
    authority = {"citation": citation or "Microsoft Purview file plan, without a citation"}
    if cells["CitationJurisdiction"]:
        authority["jurisdiction"] = _printable(cells["CitationJurisdiction"])
    if cells["CitationUrl"]:
        authority["url"] = _printable(cells["CitationUrl"])
    return {
        "id": f"{class_id}-label"[:80],
        "trigger": trigger,
        "period": period,
        "authority": authority,
        "action": does,
    }


def _kind(text: str, wrong: list[str], warned: list[str]) -> str:
    """The kind of event that an event type is: `Employee departure` is employee_departure."""
    found = re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")[:64]
    if not found or not found[0].isalpha():
        wrong.append(f"EventType: expected a name that begins with a letter, found {text!r}")
        return "unknown"
    if found != text:
        warned.append(f"the event type {text!r} is event:{found}")
    return found


def _truth(cells: Mapping[str, str], column: str, wrong: list[str]) -> bool:
    given = cells[column].casefold()
    if given not in {"true", "false", ""}:
        wrong.append(f"{column}: expected TRUE or FALSE, found {cells[column]!r}")
    return given == "true"


def _printable(text: str) -> str:
    return _one_line("".join(c if c.isprintable() else " " for c in text))
