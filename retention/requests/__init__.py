"""Requests of persons: to have their records erased, to have a copy of them, to have them restricted.

Rules of this module:
- Each record of the person is answered with a reason, a law and a date. Unknown means retain.
- *Erase* (GDPR art. 17): refused while a law still asks for the record (17(3)(b)), or a hold does (17(3)(e)). What is
  held past its maximum is restricted (art. 18: stored, nothing else). The rest goes into a disposition plan of its
  own, which two people decide like any other: no request destroys anything, and nobody has a shorter way.
- *Access* (GDPR art. 15; 45 CFR 164.524): a package of all that is kept of the person, native and readable, what is
  held or restricted too. Handing it out is a `dis` event of every record in it.
- *Restrict* (GDPR art. 18): no search, no showing, no transfer, no destruction; only requests like these, and
  productions under a hold (legal claims, art. 18(2)).
- A hit of words, or of a part of a name, is answered `check`: a person says whether it is about the subject.
- What is erased or restricted is told to those who have it (art. 19): recipients that the schedule names, and those to
  whom it was disclosed.
- A request is entered first, then answered; it may be run again, which answers for now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

from retention import catalog, eligibility, engine, holds, ledger, packages, policy
from retention.archive import Archive, pseudonym
from retention.database import Connection, transaction
from retention.disposition import proposing
from retention.engine import RecordFacts
from retention.errors import UsageError
from retention.model import AgentKind, RecordState
from retention.packages import Purpose
from retention.packages.bags import Bag
from retention.requests import answers as request_answers
from retention.requests import disclosures, register
from retention.requests import subjects as request_subjects
from retention.requests.answers import Answer, Given
from retention.requests.register import Asked, Ground, Kind, Request
from retention.requests.subjects import Found, Subject
from retention.rules import Schedule

LETTERS = {Ground.ACCURACY: "a", Ground.UNLAWFUL: "b", Ground.CLAIMS: "c", Ground.OBJECTION: "d"}
_GONE = {
    RecordState.DESTROYING: Given.ERASING,
    RecordState.DESTROYED: Given.ERASED,
    RecordState.TRANSFERRED: Given.TRANSFERRED,
    RecordState.LOST: Given.LOST,
}
_CHUNK = 5000  # records whose facts are read at a time


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands against erasing a record; `given` None is nothing."""

    given: Given | None
    reason: str
    citation: str
    until: date | None = None


@dataclass(frozen=True, slots=True)
class Recipients:
    """Who is to be told (art. 19): as the schedule says of the classes, and as the history says."""

    of_classes: tuple[str, ...]
    disclosed_to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Handled:
    """A request and its answer. `unsearched`: records that no search could see."""

    request: Request
    new: bool
    answers: tuple[Answer, ...]
    unsearched: int
    recipients: Recipients
    bag: Bag | None = None


# ---------------------------------------------------------------- the decision


def judge(facts: RecordFacts, schedule: Schedule, as_of: date) -> Verdict:
    """What stands against erasing one record, by itself. Pure."""
    decision = engine.decide(replace(facts, holds=()), schedule, as_of)
    if not decision.due:
        if facts.not_before is not None and judge(replace(facts, not_before=None), schedule, as_of).given is None:
            said = f"{decision.citation}; extended by a reviewer"
            return Verdict(Given.REFUSED, "extended", said, decision.retain_until)
        return _refused(decision.citation, decision.retain_until)
    if not facts.holds:
        reason = decision.action.value + ("-unverified" if "UNVERIFIED" in decision.findings else "")
        return Verdict(None, reason, decision.citation, decision.retain_until)
    if decision.ceiling is not None and as_of > decision.ceiling:
        said = f"{decision.citation}; GDPR art. 17(3)(e), 18"
        return Verdict(Given.RESTRICTED, "hold-past-ceiling", said, decision.ceiling)
    return Verdict(Given.REFUSED, "hold", "GDPR art. 17(3)(e)")


def _refused(citation: str, until: date | None) -> Verdict:
    if not citation:
        return Verdict(Given.REFUSED, "no-rule", "none: no rule says how long, so it is kept until somebody decides")
    return Verdict(Given.REFUSED, "floor" if until else "no-end", f"{citation}; GDPR art. 17(3)(b)", until)


def judge_unit(members: Mapping[UUID, RecordFacts], schedule: Schedule, as_of: date) -> Verdict:
    """What stands against erasing the first of `members`, which goes only together with the others. Pure."""
    free = {record: replace(facts, holds=()) for record, facts in members.items()}
    whole = engine.decide_unit(free, schedule, as_of)
    if whole.due:
        return Verdict(Given.REFUSED, "unit-held", "GDPR art. 17(3)(e)")
    return replace(_refused(whole.citation, whole.retain_until), reason="unit")


# ---------------------------------------------------------------- erase


def erase(archive: Archive, asked: Asked, now: datetime) -> Handled:
    """Answer a request for erasure. Raises UsageError, NotFound for a subject that was never here."""
    _refuse_unknown(archive, asked.subject)
    request_id, new = register.enter(archive, Kind.ERASE, asked, now)
    return _erase(archive, request_id, asked.subject, now, new)


def _erase(archive: Archive, request_id: UUID, subject: Subject, now: datetime, new: bool) -> Handled:
    with transaction(archive.connections) as conn:
        theirs = _find(conn, archive, request_id, subject)
        schedule = policy.current(conn).schedule
        verdicts = _verdicts(conn, schedule, theirs.undecided, engine.today(schedule, now))
    erasable = [record for record, verdict in verdicts.items() if verdict.given is None]
    proposed = proposing.propose(archive, now, only=erasable) if erasable else proposing.Proposed(None)
    with transaction(archive.connections) as conn:
        holds.exclusive(conn)
        request = register.open_one(conn, request_id)
        planned, restricted = _planned(conn, erasable), _restricted(conn, erasable)
        for record in erasable:
            if record in planned:
                verdicts[record] = replace(verdicts[record], given=Given.PROPOSED)
            else:
                why = (
                    "restricted" if record in restricted else "disagreed" if record in proposed.disagreed else "notice"
                )
                verdicts[record] = replace(verdicts[record], given=Given.WAITING, reason=why)
        answers = theirs.answered(verdicts)
        # What was restricted while it was held stays so until it is erased, or a longer rule keeps it.
        kept = request_answers.restricted(conn, request_id)
        ends = (Given.PROPOSED, Given.WAITING, Given.ERASING)
        stored = [
            a.record_id for a in answers if a.given is Given.RESTRICTED or (a.given in ends and a.record_id in kept)
        ]
        events = request_answers.give(conn, archive, request_id, request.kind, answers, now)
        ledger.append(conn, events + request_answers.restrict(conn, archive, request_id, stored, now), now)
    return _handled(archive, request_id, new, theirs.found.unsearched)


def _verdicts(conn: Connection, schedule: Schedule, ids: Sequence[UUID], today: date) -> dict[UUID, Verdict]:
    """Of each record, by itself, and then with those that it goes with."""
    verdicts: dict[UUID, Verdict] = {}
    for part in _parts(ids):
        verdicts |= {r: judge(facts, schedule, today) for r, facts in catalog.facts_of(conn, part).items()}
    free = [record for record, verdict in verdicts.items() if verdict.given is None]
    due = {one.record_id for one in eligibility.due_records(conn, schedule, today, free)} if free else set()
    bound = [record for record in free if record not in due]
    while bound:
        members = eligibility.unit_members(conn, schedule, bound[:1])
        facts = catalog.facts_of(conn, sorted(members, key=lambda one: one != bound[0]))
        verdict = judge_unit(facts, schedule, today)
        verdicts |= {record: verdict for record in bound if record in facts}
        bound = [record for record in bound if record not in facts]
    return verdicts


def _planned(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    rows = conn.execute("SELECT record_id FROM plan_items WHERE open AND record_id = ANY(%s)", (list(ids),))
    return {row[0] for row in rows}


def _restricted(conn: Connection, ids: Sequence[UUID]) -> set[UUID]:
    rows = conn.execute(
        "SELECT record_id FROM restrictions JOIN requests USING (request_id) "
        "WHERE kind = 'restrict' AND record_id = ANY(%s)",
        (list(ids),),
    )
    return {row[0] for row in rows}


# ---------------------------------------------------------------- access


def access(
    archive: Archive, asked: Asked, target: Path, recipient: str | None, clock: Callable[[], datetime]
) -> Handled:
    """Write the person's records to a bag at `target`, for `recipient` (default: who asks, or the subject).

    Where nothing is kept of the person there is no bag, which is an answer. Raises what `packages.write_bag` does."""
    _refuse_unknown(archive, asked.subject)
    request_id, new = register.enter(archive, Kind.ACCESS, asked, clock())
    with transaction(archive.connections) as conn:
        theirs = _find(conn, archive, request_id, asked.subject)
        schedule = policy.current(conn).schedule
        today = engine.today(schedule, clock())
        decisions = {
            record: engine.decide(facts, schedule, today)
            for part in _parts(theirs.undecided)
            for record, facts in catalog.facts_of(conn, part).items()
        }
    bag = None
    if decisions:
        bag = packages.write_bag(
            archive, decisions, target, purpose=Purpose.ACCESS, identifier=str(request_id), clock=clock
        )
    now = clock()
    with transaction(archive.connections) as conn:
        request = register.open_one(conn, request_id)
        missing = {finding.record_id for finding in bag.findings} if bag else set()
        verdicts = {}
        for record, decision in decisions.items():  # the period for which it will be stored: art. 15(1)(d)
            given, reason = (Given.UNREADABLE, "not-read") if record in missing else (Given.INCLUDED, "copy")
            verdicts[record] = Verdict(given, reason, decision.citation, decision.retain_until)
        events = request_answers.give(conn, archive, request_id, request.kind, theirs.answered(verdicts), now)
        if bag is not None and not _recorded(conn, request_id, bag):
            whom = recipient or register.said(archive, conn, request_id)[1]
            detail = {"recipient": str(pseudonym(conn, archive.safe, AgentKind.PERSON, whom, now))}
            for event in packages.handed_out(bag, Purpose.ACCESS, archive.agent, now):
                subjects = (request_id, request.subject_id, *event.subjects)
                events.append(replace(event, type="dis", subjects=subjects, detail={**event.detail, **detail}))
        ledger.append(conn, events, now)
    return replace(_handled(archive, request_id, new, theirs.found.unsearched), bag=bag)


def _recorded(conn: Connection, request_id: UUID, bag: Bag) -> bool:
    rows = conn.execute(
        "SELECT e.entry FROM event_subjects s JOIN events e USING (position) "
        "WHERE s.subject_id = %s AND e.type = 'dis'",
        (request_id,),
    )
    return any(json.loads(bytes(row[0]))["detail"]["digest"] == bag.digest.hex() for row in rows)


# ---------------------------------------------------------------- restrict


def restrict(archive: Archive, asked: Asked, now: datetime) -> Handled:
    """Restrict the person's records until the request is lifted. Raises UsageError without a ground."""
    if asked.ground is None:
        raise UsageError(f"--ground: expected one of {', '.join(Ground)} (GDPR art. 18(1)(a) to (d)).")
    _refuse_unknown(archive, asked.subject)
    request_id, new = register.enter(archive, Kind.RESTRICT, asked, now)
    return _restrict(archive, request_id, asked.subject, now, new)


def _restrict(archive: Archive, request_id: UUID, subject: Subject, now: datetime, new: bool) -> Handled:
    with transaction(archive.connections) as conn:
        holds.exclusive(conn)
        request = register.open_one(conn, request_id)
        assert request.ground is not None
        theirs = _find(conn, archive, request_id, subject)
        citation = f"GDPR art. 18(1)({LETTERS[request.ground]})"
        verdict = Verdict(Given.RESTRICTED, request.ground.value, citation)
        answers = theirs.answered(dict.fromkeys(theirs.undecided, verdict))
        events = request_answers.give(conn, archive, request_id, request.kind, answers, now)
        ledger.append(conn, events + request_answers.restrict(conn, archive, request_id, theirs.undecided, now), now)
    return _handled(archive, request_id, new, theirs.found.unsearched)


# ---------------------------------------------------------------- what a person looked at


def check(
    archive: Archive, request_id: UUID, about: Sequence[UUID], not_about: Sequence[UUID], now: datetime
) -> Handled:
    """Enter what a person said of hits, and answer the request again; a package is written by asking for it again.

    Raises UsageError for a record that is no hit of the request, Refused for a request that was answered."""
    with transaction(archive.connections) as conn:
        request = register.open_one(conn, request_id)
        hits = {a.record_id: a for a in request_answers.answers(conn, request_id)}
        for record in (*about, *not_about):
            if record not in hits or (hits[record].given is not Given.CHECK and hits[record].about is None):
                raise UsageError(f"{record}: expected a hit to be checked of request {request_id}, found none.")
        for record in (*about, *not_about):
            given = Given.WAITING if record in about else Given.NOT_ABOUT
            hits[record] = replace(hits[record], given=given, reason="looked-at", about=record in about)
        events = request_answers.give(conn, archive, request_id, request.kind, list(hits.values()), now)
        ledger.append(conn, events, now)
        subject, _ = register.said(archive, conn, request_id)
    if request.kind is Kind.ERASE:
        return _erase(archive, request_id, subject, now, new=False)
    if request.kind is Kind.RESTRICT:
        return _restrict(archive, request_id, subject, now, new=False)
    return _handled(archive, request_id, new=False, unsearched=0)


# ---------------------------------------------------------------- what all of them share


def _refuse_unknown(archive: Archive, subject: Subject) -> None:
    with transaction(archive.connections) as conn:
        request_subjects.refuse_unknown(conn, archive.safe, subject)


@dataclass(frozen=True, slots=True)
class _Theirs:
    """What was found of a subject. `told`: answers that need no decision, hits to check or checked, and what is gone
    or going; `confirmed`: hits of which a person said that they are about the subject."""

    found: Found
    told: Mapping[UUID, Answer]
    confirmed: frozenset[UUID]

    @property
    def undecided(self) -> list[UUID]:
        return [record for record in self.found.sure if record not in self.told]

    def answered(self, verdicts: Mapping[UUID, Verdict]) -> list[Answer]:
        answers = list(self.told.values())
        for record, verdict in verdicts.items():
            assert verdict.given is not None
            about = True if record in self.confirmed else None
            answers.append(Answer(record, verdict.given, verdict.reason, verdict.citation, verdict.until, about))
        return answers


def _find(conn: Connection, archive: Archive, request_id: UUID, subject: Subject) -> _Theirs:
    before = {answer.record_id: answer for answer in request_answers.answers(conn, request_id)}
    confirmed = frozenset(record for record, answer in before.items() if answer.about)
    found = request_subjects.find(conn, archive.safe, subject, sorted(confirmed))
    told = {hit: before[hit] for hit in found.hits if hit in before and before[hit].about is False}
    cited = Answer(request_id, Given.CHECK, "hit", "to be checked by a person")
    told |= {hit: replace(cited, record_id=hit) for hit in found.hits if hit not in told}
    before = {record: answer for record, answer in before.items() if record not in found.hits}
    rows = conn.execute(
        """SELECT r.record_id, r.state, t.retain_until FROM records r LEFT JOIN tombstones t USING (record_id)
            WHERE r.record_id = ANY(%s) AND r.state > 1""",
        ([*found.sure, *(record for record, a in before.items() if a.given is not Given.NOT_ABOUT)],),
    )
    for record, state, until in rows:
        was = before.get(record, replace(cited, record_id=record, citation="disposition"))
        given = _GONE[RecordState(state)]
        told[record] = replace(was, given=given, reason="disposition", until=until or was.until, plan_id=None)
    return _Theirs(found, told, confirmed)


def _parts(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _handled(archive: Archive, request_id: UUID, new: bool, unsearched: int) -> Handled:
    with transaction(archive.connections) as conn:
        request = register.one(conn, request_id)
        answers = tuple(request_answers.answers(conn, request_id))
        theirs = [a.record_id for a in answers if a.given not in (Given.CHECK, Given.NOT_ABOUT)]
        return Handled(request, new, answers, unsearched, recipients(conn, archive, theirs))


def recipients(conn: Connection, archive: Archive, records: Sequence[UUID]) -> Recipients:
    """Who has data of these records, as far as schedule and history say."""
    schedule = policy.current(conn).schedule
    classes = conn.execute(
        """SELECT class_id FROM classes WHERE class_key IN (
               SELECT class_key FROM records WHERE record_id = ANY(%(ids)s)
               UNION SELECT class_key FROM record_labels WHERE record_id = ANY(%(ids)s)) ORDER BY 1""",
        {"ids": list(records)},
    )
    known = [found.personal_data for row in classes if (found := schedule.record_class(row[0])) is not None]
    named = dict.fromkeys(name for data in known if data is not None for name in data.recipients)
    told = disclosures.accounting(conn, archive, records, None)
    to = dict.fromkeys(
        one.recipient or f"not recorded: {one.package or one.purpose}" for one in told if one.exempt is None
    )
    return Recipients(tuple(named), tuple(to))
