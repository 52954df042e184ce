"""The register of processing that comes out of the schedule (GDPR art. 30(1)).

Rules of this module:
- Pure. One entry for each class that holds personal data, in the order of the schedule; what art. 30(1) asks for
  and the schedule does not say is `missing`, by name, and never guessed.
- The time limit for erasure (art. 30(1)(f)) is the rules in words; a class without a rule has none.
- The controller, its officer and security measures (a, g) are the same for every entry and stand outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from retention.rules import Combine, RecordClass, Schedule
from retention.schedule.comparison import terms

COLUMNS = (
    *("class_id", "title", "purpose", "subjects", "categories", "recipients", "time_limit", "ceiling"),
    *("legal_basis", "citations", "missing"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One processing activity: the records of a class."""

    class_id: str
    title: str
    purpose: str  # art. 30(1)(b)
    subjects: tuple[str, ...]  # (c)
    categories: tuple[str, ...]  # (c)
    recipients: tuple[str, ...]  # (d)
    time_limit: str  # (f)
    ceiling: str  # the maximum, where a rule has one (art. 5(1)(e))
    legal_basis: str
    citations: tuple[str, ...]
    missing: tuple[str, ...]


def entries(plan: Schedule, language: str = "en") -> tuple[Entry, ...]:
    """The register; titles in `language` where the schedule has them."""
    return tuple(_entry(known, language) for known in plan.classes if known.personal_data is not None)


def _entry(known: RecordClass, language: str) -> Entry:
    data = known.personal_data
    assert data is not None
    said = {
        "purpose": data.purpose,
        "subjects": data.subjects,
        "categories": data.categories,
        "recipients": data.recipients,
        "time_limit": _limit(known),
        "legal_basis": data.basis,
    }
    return Entry(
        class_id=known.id,
        title=known.title(language),
        purpose=data.purpose,
        subjects=data.subjects,
        categories=data.categories,
        recipients=data.recipients,
        time_limit=_limit(known),
        ceiling="; ".join(f"{rule.ceiling} from {rule.trigger}" for rule in known.rules if rule.ceiling),
        legal_basis=data.basis,
        citations=tuple(dict.fromkeys(rule.authority.citation for rule in known.rules)),
        missing=tuple(name for name, value in said.items() if not value),
    )


def _limit(known: RecordClass) -> str:
    between = "; or, if sooner, " if known.combine is Combine.ANY else "; and at least "
    return between.join(terms(rule) for rule in known.rules)


# ---------------------------------------------------------------- as files


def rows(found: Sequence[Entry]) -> Iterator[tuple[str, ...]]:
    """The entries as text in the order of COLUMNS; lists between semicolons."""
    for entry in found:
        values = asdict(entry)
        yield tuple("; ".join(v) if isinstance(v := values[name], tuple | list) else v for name in COLUMNS)


def markdown(found: Sequence[Entry], plan: Schedule) -> str:
    """The register as a table for people."""
    lines = [f"# Register of processing: {plan.title}", "", f"From the retention schedule {plan.digest[:12]}.", ""]
    lines += ["| " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows(found)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that stays within its cell, and is no markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\|<>*_`[]#" else c for c in flat)
