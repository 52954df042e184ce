"""To whom a person's records were disclosed: the accounting of disclosures (45 CFR 164.528; GDPR art. 15(1)(c), 19).

Rules of this module:
- It comes out of the history alone: packages created, exports, disseminations and transfers (ipc, exp, dis, tra) of
  the person's records and case file. So it answers also when the records are gone.
- Date, to whom, what and why stand in each line (164.528(b)(2)), six years back unless asked otherwise
  (164.528(a)(1)).
- What is looked at inside the house (retention.reading: an event with `read`) went to nobody else, and is none.
- A transfer is one disclosure: that each record left with it is not told again.
- To whom: the pseudonym in the event, resolved for whoever looks now; of a production, the matter and authority of
  its hold; of a transfer, the receiver that acknowledged it. What cannot be said is None, never guessed.
- A record that was exported as a file is listed with its reason: where nobody said to whom, nobody knows how far it
  went. What could not be handed out went to nobody.
- What was given to the person herself is listed and marked as exempt (164.528(a)(1)(ii)).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from retention.archive import Archive, names
from retention.database import Connection
from retention.rules import Period
from retention.schedule.spreadsheet import as_csv

YEARS = 6
TO_HERSELF = "45 CFR 164.528(a)(1)(ii)"
COLUMNS = ("date", "recipient", "purpose", "what", "records", "package", "event", "position", "exempt")
_BAG = "muniment-transfer-"
_PURPOSES = {"ipc": "transfer", "tra": "transfer", "exp": "export", "dis": "dissemination"}


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One disclosure of records of one person."""

    position: int  # of the event in the ledger
    at: datetime
    event: str  # its PREMIS code
    recipient: str | None
    purpose: str
    package: str | None
    records: tuple[UUID, ...]  # the person's, of all that were disclosed
    classes: tuple[str, ...]
    exempt: str | None


def since(today: date, years: int = YEARS) -> date:
    """The first day of an accounting that is asked for today."""
    return Period(months=-12 * years).after(today)


def accounting(conn: Connection, archive: Archive, subjects: Sequence[UUID], first: date | None) -> list[Disclosure]:
    """Disclosures of these records and case files from day `first` (UTC) on, in order; None is since ever."""
    rows = conn.execute(
        """SELECT e.position, e.recorded_at, e.type, e.entry,
                  array_agg(r.record_id ORDER BY r.record_id) FILTER (WHERE r.record_id IS NOT NULL),
                  array_agg(DISTINCT c.class_id ORDER BY c.class_id) FILTER (WHERE c.class_id IS NOT NULL)
             FROM event_subjects s JOIN events e USING (position)
             LEFT JOIN records r ON r.record_id = s.subject_id LEFT JOIN classes c USING (class_key)
            WHERE s.subject_id = ANY(%(ids)s) AND e.type IN ('dis', 'exp', 'tra', 'ipc')
              AND (%(first)s::date IS NULL OR e.recorded_at >= %(first)s::date)
            GROUP BY e.position ORDER BY e.position""",
        {"ids": list(subjects), "first": first},
    ).fetchall()
    entries = [(row, json.loads(bytes(row[3]))) for row in rows]
    events = [
        (*row[:3], entry["detail"], row[4] or (), row[5] or ())
        for row, entry in entries
        if "read" not in entry["detail"] and entry["outcome"] == "success"
    ]
    told = {_plan(detail) for _, _, kind, detail, *_ in events if kind == "ipc"}
    events = [one for one in events if one[2] != "tra" or _plan(one[3]) not in told]
    whom = _recipients(conn, archive, [detail for _, _, _, detail, *_ in events])
    return [
        Disclosure(
            position=position,
            at=at,
            event=kind,
            recipient=whom.get(_key(detail)),
            purpose=detail.get("purpose") or detail.get("why") or _PURPOSES[kind],
            package=detail.get("package"),
            records=tuple(records),
            classes=tuple(classes),
            exempt=TO_HERSELF if detail.get("purpose") == "access" else None,
        )
        for position, at, kind, detail, records, classes in events
    ]


def _plan(detail: dict[str, Any]) -> str | None:
    package = str(detail.get("package", ""))
    plan = detail.get("plan") or (package.removeprefix(_BAG) if package.startswith(_BAG) else None)
    return None if plan is None else str(plan)


def _key(detail: dict[str, Any]) -> str:
    """What of an event says to whom: the recipient, the plan of a transfer, the hold of a production."""
    return str(detail.get("recipient") or _plan(detail) or detail.get("package", ""))


def _recipients(conn: Connection, archive: Archive, details: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Whom the keys of these events mean."""
    ids = {UUID(key) for detail in details if _is_id(key := _key(detail))}
    found = {str(one): name for one, name in names(conn, archive.safe, ids).items()}
    for hold, matter, authority in conn.execute(
        """SELECT h.hold_id::text, d.title, d.metadata->>'authority' FROM holds h
             LEFT JOIN descriptions d ON d.subject_id = h.hold_id WHERE h.hold_id = ANY(%s)""",
        (list(ids),),
    ):
        found[hold] = f"under hold {hold}" + (f": {matter}, {authority}" if matter else "")
    receivers = {
        str(plan): json.loads(bytes(entry))["detail"].get("recipient")
        for plan, entry in conn.execute(
            """SELECT s.subject_id, e.entry FROM event_subjects s JOIN events e USING (position)
                 JOIN transfers t ON t.plan_id = s.subject_id
                WHERE s.subject_id = ANY(%s) AND e.type = 'tra' ORDER BY e.position""",
            (list(ids),),
        )
    }
    known = names(conn, archive.safe, {UUID(one) for one in receivers.values() if one})
    return found | {plan: known[UUID(one)] for plan, one in receivers.items() if one and UUID(one) in known}


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def csv_of(found: Sequence[Disclosure]) -> str:
    """The accounting as a table for spreadsheets, with the columns of COLUMNS."""
    return as_csv(
        COLUMNS,
        (
            (
                *(one.at.date().isoformat(), one.recipient or "", one.purpose, "; ".join(one.classes)),
                *(" ".join(map(str, one.records)), one.package or "", one.event, str(one.position), one.exempt or ""),
            )
            for one in found
        ),
    )
