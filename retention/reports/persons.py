"""Requests of persons that wait for an answer, and records that are restricted at somebody's request.

Rules of this module:
- It reads within the snapshot of its collector and changes nothing. Requests are named by id; who asked is sealed.
- The clock is that of GDPR art. 12(3): `due_on`, the last day on which an answer is in time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from retention.reports.lists import HELD, RECORDS, Body, Collector
from retention.reports.model import PersonRequests

_OPEN = Body(
    columns={
        "request": "q.request_id",
        "kind": "q.kind",
        "received": "q.received",
        "due_on": "q.due_on",
        "extension": "q.extension",
        "records": "(SELECT count(*) FROM request_answers a WHERE a.request_id = q.request_id)",
    },
    source="requests q",
    where="q.answered_at IS NULL",
    order="due_on, request",
)
_RESTRICTED = Body(
    columns={"record": "r.record_id", "class": "c.class_id", "bytes": "r.bytes"},
    source=RECORDS,
    where=HELD + " AND EXISTS (SELECT FROM restrictions x WHERE x.record_id = r.record_id)",
    order="class, record",
)


def requests(collect: Collector, today: date) -> PersonRequests:
    """What is owed to persons on the civil day `today`."""
    late = replace(_OPEN, where="q.answered_at IS NULL AND q.due_on < %(today)s", params={"today": today})
    return PersonRequests(
        open=collect.one("requests-open", "Requests of persons that are not answered", _OPEN),
        overdue=collect.one("requests-overdue", "Requests of persons whose answer is overdue", late),
        restricted=collect.one("restricted", "Records that are restricted", _RESTRICTED),
    )
