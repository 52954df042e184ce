"""Whatever breaks while a request of a person is answered: ask again, and it is answered as if nothing had broken.

Every transaction is broken before and after its commit, every write to the vault before and after it persisted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from retention import catalog, holds, requests
from retention.archive import Archive
from retention.database import transaction
from retention.holds import Matter
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.packages.check import verify_bag
from retention.requests import answers, register, subjects
from retention.requests.register import Asked, Ground
from retention.requests.subjects import Subject
from tests.archive_builder import Document, capture_all, load
from tests.breaking import Broken, at, breaks

Clock = Callable[[], datetime]
Flow = Callable[[Archive, Asked, Path, Clock], object]


def erase(archive: Archive, asked: Asked, _: Path, clock: Clock) -> object:
    return requests.erase(archive, asked, clock())


def restrict(archive: Archive, asked: Asked, _: Path, clock: Clock) -> object:
    return requests.restrict(archive, asked, clock())


def restrict_and_lift(archive: Archive, asked: Asked, _: Path, clock: Clock) -> object:
    """Asked again after a crash, a person looks first whether it was lifted."""
    subject_id = subjects.identity(archive.safe, asked.subject)
    with transaction(archive.connections) as conn:
        lifted = [one for one in register.listed(conn, answered=True) if one.subject_id == subject_id and one.lifted_at]
    found = lifted[0] if lifted else requests.restrict(archive, asked, clock()).request
    return register.lift(archive, found.id, clock())


def access(archive: Archive, asked: Asked, target: Path, clock: Clock) -> object:
    return requests.access(archive, asked, target, "Noa Bar", clock)


def told(archive: Archive, asked: Asked, names: dict[UUID, str]) -> dict[str, Any]:
    """All that the catalog says of the request, without the ids in which two requests differ."""
    subject_id = subjects.identity(archive.safe, asked.subject)
    with transaction(archive.connections) as conn:
        (request,) = [one for one in register.listed(conn, answered=True) if one.subject_id == subject_id]
        said = {(names[a.record_id], a.given, a.reason, a.plan_id is None) for a in answers.answers(conn, request.id)}
        events = [
            (e["type"], e["outcome"], sorted(e["detail"]), len(e["subjects"]))
            for e in catalog.history(conn, archive, request.id)
        ]
        restricted = {names[record] for record in answers.restricted(conn, request.id)}
        planned = conn.execute(
            "SELECT count(*), count(DISTINCT plan_id) FROM plan_items WHERE record_id = ANY(%s)", (list(names),)
        ).fetchone()
        assert register.said(archive, conn, request.id)[1] == "Noa Bar"
    return {
        "request": (request.kind, request.lifted_at is None, request.answered_at is None),
        "said": said,
        "events": sorted(events),
        "restricted": restricted,
        "planned": planned,
    }


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize(
    ("flow", "what"),
    [
        (erase, "connections"),
        (erase, "vault"),
        (restrict, "connections"),
        (restrict_and_lift, "connections"),
        (access, "connections"),
    ],
)
def test_every_write_of_an_answer(
    archive: Archive, clock: Clock, tmp_path: Path, flow: Flow, what: str, persisted: bool
) -> None:
    load(archive, clock)
    found = []
    for nth in itertools.count(1):
        case = ("patient", str(nth))
        kinds = ("SHORT", "LONG", "LAW")
        days = {"LAW": date(2010, 5, 5)}  # past its ceiling, and held
        documents = [Document(kind, f"{kind} {nth}", days.get(kind, date(2020, 1, 1)), case=case) for kind in kinds]
        records = capture_all(archive, documents, clock, tmp_path / f"in{nth}")
        matter = Matter("Levi v. Cohen", "court order", date(2099, 1, 1))
        holds.place(archive, Scope(records=(records[2],)), Mode.STATIC, matter, clock())
        asked = Asked(Subject(f"patient:{nth}"), by="Noa Bar", ground=Ground.ACCURACY)
        target = tmp_path / f"bag{nth}"
        writes = at(nth, persisted=persisted)
        try:
            flow(replace(archive, **{what: breaks(archive, what, writes)}), asked, target, clock)
        except Broken:
            flow(archive, asked, target, clock)
        names = dict(zip(records, kinds, strict=True))
        found.append(told(archive, asked, names))
        flow(archive, asked, target, clock)
        assert told(archive, asked, names) == found[-1]  # again changes nothing
        if flow is access:
            assert verify_bag(target) == ()
        if not writes.broke:
            break
    assert found == [found[-1]] * nth  # the last one was not broken
    assert nth > (1 if what == "vault" else 2)
