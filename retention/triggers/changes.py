"""A change as somebody states it: events, retractions, suspensions, membership; and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from retention.errors import UsageError

EARLIEST = date(1800, 1, 1)
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REASON = re.compile(r"[a-z][a-z-]{1,39}")


@dataclass(frozen=True, slots=True)
class Given:
    """One event as somebody states it. `note` is evidence in words; it is sealed."""

    subject: UUID
    kind: str
    effective: date
    note: str = ""


@dataclass(frozen=True, slots=True)
class Retraction:
    """That an event was wrong."""

    event: UUID
    note: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed together, or not at all."""

    events: tuple[Given, ...] = ()
    retractions: tuple[Retraction, ...] = ()
    suspensions: tuple[tuple[UUID, date, str], ...] = ()  # subject, first day, reason (a code)
    resumptions: tuple[tuple[UUID, date], ...] = ()  # suspension, last day
    members: tuple[tuple[UUID, UUID], ...] = ()  # record, aggregation


@dataclass(frozen=True, slots=True)
class Done:
    """What a change did. `ids` are those of new trigger events, in the order in which they were given."""

    ids: tuple[UUID, ...]
    known: int  # given, and recorded before
    warnings: tuple[str, ...] = ()


def check(wanted: Change) -> None:
    for given in wanted.events:
        if problem := mistake(given.kind, given.effective):
            raise UsageError(problem)
    for _, starts, reason in wanted.suspensions:
        if not _REASON.fullmatch(reason):
            raise UsageError(f"--reason: expected a code such as litigation or tax-audit, found {reason!r}.")
        if starts < EARLIEST:
            raise UsageError(f"expected a day from {EARLIEST} on, found {starts}.")


def mistake(kind: str, effective: date) -> str | None:
    """What is wrong with kind or date of an event, in words; None if nothing is."""
    if not _KIND.fullmatch(kind):
        return f"expected a kind such as contract_end (small letters, digits, _), found {kind!r}."
    if effective < EARLIEST:
        return f"{kind}: expected a day from {EARLIEST} on, found {effective}."
    return None
