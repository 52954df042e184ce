"""The schedule as a flat table, a row for each rule of each class, for people who read it in a spreadsheet.

Rules of this module:
- Pure. Values are written as the schedule file has them; what is not said is empty.
- A class without a rule has a row of its own: that it is kept for good is said by an empty rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from retention.rules import RecordClass, Rule, Schedule

COLUMNS = (
    *("class_id", "title", "parent", "combine", "unit", "worm", "regulatory", "vital", "personal_data", "tombstone"),
    *("review", "rule_id", "trigger", "cutoff", "period", "action", "ceiling", "not_before", "when", "replaces"),
    *("effective_from", "triggers_from", "triggers_until", "later_records", "notify_before", "time_zone", "verified"),
    *("citation", "jurisdiction", "url", "verified_on", "verified_by"),
)


def rows(plan: Schedule, language: str = "en") -> Iterator[tuple[str, ...]]:
    """Text in the order of COLUMNS; titles in `language` where the schedule has them."""
    for known in plan.classes:
        for rule in known.rules or (None,):
            values = _of_class(known, language) | (_of_rule(rule) if rule else {})
            yield tuple(values.get(name, "") for name in COLUMNS)


def _of_class(known: RecordClass, language: str) -> dict[str, str]:
    return {
        "class_id": known.id,
        "title": known.title(language),
        "parent": known.parent or "",
        "combine": known.combine.value,
        "unit": known.unit.value,
        "worm": known.worm.value,
        "regulatory": _yes(known.regulatory),
        "vital": _yes(known.vital),
        "personal_data": _yes(known.personal_data is not None),
        "tombstone": known.tombstone.value,
        "review": "; ".join(f"{s.name} ({s.lapse})" if s.lapse else s.name for s in known.review),
    }


def _of_rule(rule: Rule) -> dict[str, str]:
    return {
        "rule_id": rule.id,
        "trigger": str(rule.trigger),
        "cutoff": str(rule.cutoff),
        "period": str(rule.period or "permanent"),
        "action": rule.action.value,
        "ceiling": str(rule.ceiling or ""),
        "not_before": str(rule.not_before or ""),
        "when": " and ".join(str(condition) for condition in rule.when),
        "replaces": " ".join(rule.replaces),
        "effective_from": str(rule.effective_from or ""),
        "triggers_from": str(rule.triggers_from or ""),
        "triggers_until": str(rule.triggers_until or ""),
        "later_records": rule.later_records.value if rule.trigger.event else "",
        "notify_before": str(rule.notify_before or ""),
        "time_zone": rule.time_zone or "",
        "verified": _yes(rule.verified),
        "citation": rule.authority.citation,
        "jurisdiction": rule.authority.jurisdiction,
        "url": rule.authority.url,
        "verified_on": str(rule.authority.verified_on or ""),
        "verified_by": rule.authority.verified_by,
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
