"""What must hold, and whether it does: red, amber or green, in words.

Rules of this module:
- Pure: values in, checks out; `now` is a parameter.
- Silence is failure (docs/design.md, invariant 7): what did not run, or skipped something, is red.
- Red is broken or overdue, and fails the command. Amber waits for a decision that a person owes, or for work
  that is under way. A check that found nothing to do still says what it looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from retention.reports import continuity, opening, store
from retention.reports.continuity import Continuity
from retention.reports.model import (
    Assured,
    Check,
    ClassDue,
    ClassHeld,
    Disposition,
    Figure,
    Frozen,
    Intake,
    LedgerPart,
    PersonRequests,
    RunStates,
    SchedulePart,
    Source,
    Status,
    Written,
)
from retention.reports.opening import Opening
from retention.reports.store import Store

BACKLOG = timedelta(hours=24)  # requirements: a queue of locks older than this is red
OPEN_RUN = timedelta(hours=24)  # a run that is still open after this will not end by itself
NIGHT = timedelta(hours=26)  # a nightly task that did not run for longer is red
FIXITY_PERIOD = timedelta(days=90)  # every object is read at least once in this period

RED, AMBER, GREEN = Status.RED, Status.AMBER, Status.GREEN


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at."""

    now: datetime
    schedule: SchedulePart | None
    held: Sequence[ClassHeld]
    due: Sequence[ClassDue]
    due_total: Figure
    unscheduled_total: Figure
    quarantined: Figure
    intake: Intake
    documents: Mapping[str, Figure]  # outcome -> list
    sources: Sequence[Source]
    runs: RunStates
    never_ran: Figure | None  # None where no source file was given to compare with
    written: Sequence[Written]
    written_total: Figure
    locks_waiting: Figure
    locks_oldest: datetime | None
    locks_failed: int
    unlocked: Figure
    ledger: LedgerPart
    defects: Mapping[str, Figure]
    disagreeing: Sequence[str]  # lists whose length is not the number that they stand behind
    frozen: Frozen | None = None
    requests: PersonRequests | None = None
    disposition: Disposition | None = None
    assured: Assured | None = None
    continuity: Continuity | None = None
    store: Store | None = None
    opening: Opening | None = None


def check(facts: Facts) -> tuple[Check, ...]:
    """Every check, worst first; within a colour in a fixed order."""
    every = (
        _schedule,
        _ingestion,
        _never_ran,
        _interrupted,
        _open_runs,
        _accounts,
        _fixity,
        _contents,
        _locks,
        _unlocked,
        _holds,
        _hold_flags,
        _requests,
        _plans,
        _expired,
        _not_executed,
        _broken_off,
        _unplanned,
        *_CEILINGS,
        _assured,
        _found_bad,
        _ledger,
        _entries,
        _events,
        _keys,
        _lists,
        _quarantine,
        _due,
        _unscheduled,
        _deferred,
        _descriptions,
    )
    order = list(Status)
    found = [made for one in every if (made := one(facts)) is not None]
    found += continuity.checks(facts.continuity, facts.now) if facts.continuity else []
    if facts.store and (kept := store.check(facts.store, facts.now)):
        found.append(kept)
    if facts.opening:
        found += opening.checks(facts.opening, facts.now)
    return tuple(sorted(found, key=lambda made: order.index(made.status)))


def count(number: int, one: str, many: str = "") -> str:
    """'1 record', '1,234 records'."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def long_date(day: date) -> str:
    """22 November 2026."""
    return f"{day.day} {day:%B %Y}"


def instant(when: datetime) -> str:
    """22 November 2026, 09:30 UTC."""
    return f"{long_date(when.astimezone(UTC))}, {when.astimezone(UTC):%H:%M} UTC"


# ---------------------------------------------------------------- one check each


def _schedule(facts: Facts) -> Check:
    found = facts.schedule
    if found is None:
        said = "No schedule was ever loaded, so nothing can become due."
        return Check("schedule", RED, "Retention schedule", said, "Load one: muniment schedule load FILE.")
    said = (
        f"Version {found.version} is in force, loaded {instant(found.loaded_at)}: "
        f"{count(found.classes, 'class', 'classes')}, {count(found.rules, 'rule')}."
    )
    if not found.unverified:
        return Check("schedule", GREEN, "Retention schedule", said)
    said += f" {count(found.unverified, 'rule')} not verified: they propose and never destroy."
    return Check(
        "schedule", AMBER, "Retention schedule", said, "Have counsel check the citations, then say so in the schedule."
    )


def _ingestion(facts: Facts) -> Check:
    title = "Ingestion"
    if not facts.sources:
        figure = Figure(facts.intake.runs.value, facts.intake.runs.listing)
        return Check("ingestion", RED, title, "No run of ingestion is on record.", "Run muniment ingest.", figure)
    last = max(source.last_started for source in facts.sources)
    runs, of = count(facts.intake.runs.value, "run"), count(len(facts.sources), "source")
    said = f"{runs} of {of}; the last began {instant(last)}."
    return Check("ingestion", GREEN, title, said, figure=facts.intake.runs)


def _never_ran(facts: Facts) -> Check | None:
    title, figure = "Sources that never ran", facts.never_ran
    if figure is None:
        return None
    if figure.value:
        said = f"{count(figure.value, 'source')} of the source file never ran."
        return Check("never-ran", RED, title, said, "Run them: muniment ingest --source NAME.", figure)
    return Check("never-ran", GREEN, title, "None: every source of the source file has run.", figure=figure)


def _interrupted(facts: Facts) -> Check:
    title, figure = "Interrupted runs", facts.runs.interrupted
    if figure.value:
        said = f"{count(figure.value, 'run')} ended before the end, and no later run of the same source was whole."
        return Check("interrupted", RED, title, said, "Run the same source again: it goes on where it stopped.", figure)
    return Check("interrupted", GREEN, title, "None, or made good by a later run of the same source.", figure=figure)


def _open_runs(facts: Facts) -> Check:
    title, figure, oldest = "Runs still open", facts.runs.running, facts.runs.oldest_running
    if oldest is None:
        return Check("open-runs", GREEN, title, "None.", figure=figure)
    said = f"{count(figure.value, 'run')} not ended; the oldest began {instant(oldest)}."
    if facts.now - oldest > OPEN_RUN:
        then = "It will not end by itself. Run its source again: that closes it and goes on."
        return Check("open-runs", RED, title, said, then, figure)
    return Check("open-runs", AMBER, title, said, "Make the report again when it has ended.", figure)


def _accounts(facts: Facts) -> Check:
    title, intake = "Every document accounted for", facts.intake
    listed = {outcome: facts.documents[outcome].value for outcome in ("admitted", "quarantined", "rejected")}
    counted = {
        "admitted": intake.admitted.value,
        "quarantined": intake.quarantined.value,
        "rejected": intake.rejected.value,
    }
    if facts.runs.missing.value:
        said = f"{count(facts.runs.missing.value, 'document')} discovered by interrupted runs and in no list."
        return Check("accounts", RED, title, said, "Run their sources again.", facts.runs.missing)
    if wrong := [outcome for outcome in listed if listed[outcome] != counted[outcome]]:
        said = "; ".join(
            f"{outcome}: runs say {counted[outcome]:,}, lists hold {listed[outcome]:,}" for outcome in wrong
        )
        return Check(
            "accounts", RED, title, f"{said}.", "Compare with the signed reconciliations.", facts.documents[wrong[0]]
        )
    said = (
        f"{intake.discovered.value:,} discovered = {intake.admitted.value:,} admitted + "
        f"{intake.quarantined.value:,} quarantined + {intake.rejected.value:,} rejected + "
        f"{intake.known.value:,} already known."
    )
    if intake.missing.value:
        said += f" {count(intake.missing.value, 'document')} missing from interrupted runs came in with later ones."
    return Check("accounts", GREEN, title, said, figure=intake.discovered)


def _fixity(facts: Facts) -> Check:
    title, total = "Fixity of what was written", facts.written_total
    oldest = min(
        (part for part in facts.written if part.oldest), key=lambda part: part.oldest or facts.now, default=None
    )
    if oldest is None or oldest.oldest is None:
        return Check("fixity", GREEN, title, "Nothing was written yet.", figure=total)
    said = f"{count(total.value, 'object')} written, each read back; the oldest reading is of {instant(oldest.oldest)}."
    if facts.now - oldest.oldest > FIXITY_PERIOD:
        then = f"Every object must be read again within {FIXITY_PERIOD.days} days: muniment fixity run."
        return Check("fixity", RED, title, said, then, oldest.objects)
    return Check("fixity", GREEN, title, said, figure=total)


def _contents(facts: Facts) -> Check:
    figure, title = facts.defects["no-content"], "Content of every record"
    if figure.value:
        said = f"{count(figure.value, 'record')} without an object in the vault."
        return Check("contents", RED, title, said, "Heal from a replica or a recovery point.", figure)
    return Check("contents", GREEN, title, "Every record that is held has its object in the vault.", figure=figure)


def _locks(facts: Facts) -> Check:
    title, waiting = "Locks that policy requires", facts.locks_waiting
    if facts.locks_oldest is None:
        return Check("locks", GREEN, title, "None waits: every lock was set and read back.", figure=waiting)
    said = f"{count(waiting.value, 'lock')} not confirmed by the vault, the oldest since {instant(facts.locks_oldest)}."
    if facts.locks_failed:
        said += f" {facts.locks_failed:,} failed when last tried."
    if facts.now - facts.locks_oldest > BACKLOG:
        then = "The queue is older than 24 hours. See that the vault answers; the next run sets them."
        return Check("locks", RED, title, said, then, waiting)
    return Check("locks", AMBER, title, said, "The next run of ingestion sets them.", waiting)


def _unlocked(facts: Facts) -> Check:
    title, figure = "Classes that must be locked", facts.unlocked
    if figure.value:
        said = f"{count(figure.value, 'record')} of such classes for which no lock was ever asked."
        return Check("unlocked", RED, title, said, "Their class became a locked one later: have the locks set.", figure)
    return Check("unlocked", GREEN, title, "Every record of such a class has its lock, or waits for it.", figure=figure)


def _holds(facts: Facts) -> Check | None:
    title, found = "Holds", facts.frozen
    if found is None:
        return None
    if found.overdue.value:
        said = f"{count(found.overdue.value, 'hold')} past the day on which somebody was to ask if it still must be."
        then = "Ask. Then muniment hold review ID --on DATE, or muniment hold release ID."
        return Check("holds", RED, title, said, then, found.overdue)
    if not found.holds.value:
        return Check("holds", GREEN, title, "None is in force.", figure=found.holds)
    said = (
        f"{count(found.holds.value, 'hold')} in force over {count(found.records.value, 'record')}; no review is owed."
    )
    return Check("holds", GREEN, title, said, figure=found.holds)


def _hold_flags(facts: Facts) -> Check | None:
    title, found = "Flags of holds in the vault", facts.frozen
    if found is None:
        return None
    if found.flags_oldest is None:
        return Check("hold-flags", GREEN, title, "None waits: every flag was set and read back.", figure=found.flags)
    oldest = instant(found.flags_oldest)
    said = f"{count(found.flags.value, 'flag')} not confirmed by the vault, the oldest since {oldest}."
    if found.flags_failed:
        said += f" {found.flags_failed:,} failed when last tried."
    if facts.now - found.flags_oldest > BACKLOG:
        then = "The holds are in force; their flags are older than 24 hours. See that the vault answers and can hold."
        return Check("hold-flags", RED, title, said, then, found.flags)
    return Check("hold-flags", AMBER, title, said, "The holds are in force; the next run sets the flags.", found.flags)


def _plans(facts: Facts) -> Check | None:
    title, found = "Disposition plans", facts.disposition
    if found is None:
        return None
    if found.not_advanced.value:
        said = f"{count(found.not_advanced.value, 'plan')} past the end of the term, and still open."
        then = "The nightly run did not end them. See that disposition_cycle runs, or: muniment disposition advance."
        return Check("plans", RED, title, said, then, found.not_advanced)
    waiting = [plan for plan in found.waiting if plan.state in ("review", "signing")]
    if not waiting:
        return Check("plans", GREEN, title, "None waits for people.", figure=found.open)
    states = (("review", "under review"), ("signing", "waiting for signatures"))
    parts = [f"{n:,} {words}" for state, words in states if (n := sum(plan.state == state for plan in waiting))]
    said = f"{count(len(waiting), 'plan')}: {', '.join(parts)}."
    if near := [plan.term for plan in waiting if plan.near and plan.term is not None]:
        said += f" {count(len(near), 'plan')} must be decided soon, the first before {instant(min(near))}."
    then = "Review with muniment disposition review, sign with muniment disposition approve. Undecided, it expires."
    return Check("plans", AMBER, title, said, then, found.open)


def _expired(facts: Facts) -> Check | None:
    title, found = "Plans that nobody decided", facts.disposition
    if found is None:
        return None
    if found.undecided.value:
        said = f"{count(found.undecided.value, 'record')} of expired plans: due, and not decided since."
        return Check("expired", RED, title, said, "Decide the plan that proposes them again.", found.undecided)
    if found.expired.value:
        said = f"{count(found.expired.value, 'plan')} expired in the last 90 days; what was in it was decided since."
        return Check("expired", GREEN, title, said, figure=found.expired)
    return Check("expired", GREEN, title, "None expired in the last 90 days.", figure=found.expired)


def _not_executed(facts: Facts) -> Check | None:
    title, found = "Approved plans", facts.disposition
    if found is None:
        return None
    if found.not_executed.value:
        said = f"{count(found.not_executed.value, 'plan')} approved more than 24 hours ago, and not executed."
        then = "See that disposition_execution runs and is green, or: muniment disposition execute PLAN."
        return Check("not-executed", RED, title, said, then, found.not_executed)
    states = [plan.state for plan in found.waiting if plan.state not in ("review", "signing")]
    if states:
        said = f"{count(len(states), 'plan')} approved and not ended: {', '.join(sorted(set(states)))}."
        then = "The next run of disposition_execution goes on."
        if set(states) == {"with its receiver"}:
            then = "Enter what the receiver answers: muniment disposition acknowledge PLAN RECEIPT. Or: give-up PLAN."
        return Check("not-executed", AMBER, title, said, then, found.open)
    said = f"None waits; {count(found.executed_plans.value, 'plan')} executed in the last 90 days."
    return Check("not-executed", GREEN, title, said, figure=found.executed_plans)


def _broken_off(facts: Facts) -> Check | None:
    title, found = "Destruction that was broken off", facts.disposition
    if found is None:
        return None
    if found.broken_off.value:
        said = f"{count(found.broken_off.value, 'record')} marked as destroying, and no execution is at work."
        then = "Their destruction is final and not complete: muniment disposition resume PLAN."
        return Check("broken-off", RED, title, said, then, found.broken_off)
    said = "None: whatever was begun was ended, or is at work."
    return Check("broken-off", GREEN, title, said, figure=found.broken_off)


def _unplanned(facts: Facts) -> Check | None:
    title, found = "Due and in no plan", facts.disposition
    if found is None or facts.schedule is None:
        return None
    if found.unplanned.value:
        said = f"{count(found.unplanned.value, 'record')} due and in no open plan."
        then = "The nightly run proposes them, once the notice that their rule asks for was given."
        return Check("unplanned", AMBER, title, said, then, found.unplanned)
    return Check("unplanned", GREEN, title, "None: whatever is due is proposed.", figure=found.unplanned)


def _finding(code: str, bad: Status, title: str, said: str, then: str) -> Callable[[Facts], Check | None]:
    def made(facts: Facts) -> Check | None:
        if facts.disposition is None or facts.schedule is None:
            return None
        figure = facts.disposition.findings[code]
        if not figure.value:
            return Check(code.lower(), GREEN, title, "None.", figure=figure)
        return Check(code.lower(), bad, title, f"{count(figure.value, 'record')} {said}", then, figure)

    return made


_CEILINGS = (
    _finding(
        "KEPT-TOO-LONG", RED, "Kept too long", "past the longest that the law allows, and held by nothing.",
        "Decide the plan that proposes them, or find out what keeps them: muniment explain RECORD.",
    ),
    _finding(
        "RESTRICTED", AMBER, "Restricted", "past the longest that the law allows, and held (GDPR art. 18).",
        "They are stored and nothing else. The necessity of the hold is renewed every year.",
    ),
    _finding(
        "CONTRADICTION", AMBER, "Rules that contradict", "that one rule keeps for longer than another allows.",
        "They are kept. Have counsel decide which rule gives way, and say so in the schedule.",
    ),
    _finding(
        "TRIGGER-STALE", AMBER, "Events older than their records",
        "dated after the event from which their retention counts.",
        "They are kept. Was it the last visit? Record the later event, or say `later_records: covered` in the rule.",
    ),
)  # fmt: skip


def _requests(facts: Facts) -> Check | None:
    title, found = "Requests of persons", facts.requests
    if found is None:
        return None
    if found.overdue.value:
        said = f"{count(found.overdue.value, 'request')} past the day on which the answer was owed (GDPR art. 12(3))."
        then = "Answer now: muniment request show ID, then muniment request close ID."
        return Check("requests", RED, title, said, then, found.overdue)
    if found.open.value:
        said = f"{count(found.open.value, 'request')} to be answered, each within its month."
        then = "See muniment request list; close each when the person was told."
        return Check("requests", AMBER, title, said, then, found.open)
    said = f"None waits for an answer; {count(found.restricted.value, 'record')} restricted."
    return Check("requests", GREEN, title, said, figure=found.restricted)


def _entries(facts: Facts) -> Check:
    title, figure = "Entries of the history", facts.defects["altered-events"]
    if figure.value:
        said = f"{count(figure.value, 'event')} whose bytes do not give their leaf hash."
        return Check("entries", RED, title, said, _REWRITTEN, figure)
    return Check("entries", GREEN, title, "The bytes of every event give its leaf hash.", figure=figure)


_REWRITTEN = "The history was rewritten. Keep the database as it is and compare with the last checkpoint."


_ASSURANCE = {
    "publish": "publishing the ledger (muniment ledger publish)",
    "verify": "verifying the archive (muniment verify --enter)",
    "fixity": "reading documents again (muniment fixity run)",
    "reconcile": "comparing locks with the vault (muniment vault reconcile)",
}


def _assured(facts: Facts) -> Check | None:
    title, found = "Assurance by night", facts.assured
    if found is None or found.began is None:
        return None
    late = [name for name, at in found.ran.items() if at is None or facts.now - at > NIGHT]
    if not late:
        return Check("assurance", GREEN, title, "The ledger was published, the archive verified, documents read again.")
    if facts.now - found.began <= NIGHT:
        return Check("assurance", GREEN, title, "The archive is younger than a day: its first night is to come.")
    said = "Not done within a day: " + "; ".join(_ASSURANCE[name] for name in late) + "."
    return Check("assurance", RED, title, said, "See that the DAG assurance runs, and what its log says.")


def _found_bad(facts: Facts) -> Check | None:
    if facts.assured is None or not facts.assured.bad:
        return None
    said = "The last time something was found by " + "; ".join(_ASSURANCE[name] for name in facts.assured.bad) + "."
    then = "Run it again by hand, which names it. Keep everything as it is until it is clear why."
    return Check("assurance-found", RED, "Found by night", said, then)


def _ledger(facts: Facts) -> Check:
    title, ledger = "Root of the history", facts.ledger
    if ledger.root != ledger.recomputed:
        said = f"Its root is {ledger.root[:16]}…, and its leaves give {ledger.recomputed[:16]}…."
        return Check("ledger", RED, title, said, _REWRITTEN, ledger.size)
    said = f"{count(ledger.size.value, 'event')}, hashed again, give the root that stands: {ledger.root[:16]}…"
    return Check("ledger", GREEN, title, said, figure=ledger.size)


def _events(facts: Facts) -> Check:
    figure, title = facts.defects["no-event"], "An event for everything captured"
    if figure.value:
        said = f"{figure.value:,} records or documents without an event in the ledger."
        return Check("events", RED, title, said, "They did not come in through Muniment. Find out how.", figure)
    return Check("events", GREEN, title, "Every record and quarantined document has one.", figure=figure)


def _keys(facts: Facts) -> Check:
    figure, title = facts.defects["no-key"], "A key for everything captured"
    if figure.value:
        said = f"{figure.value:,} records or documents cannot be opened: their key is gone."
        return Check("keys", RED, title, said, "Restore the catalog from before they were lost.", figure)
    return Check("keys", GREEN, title, "Every record and quarantined document has one.", figure=figure)


def _lists(facts: Facts) -> Check:
    title = "Numbers and their lists"
    if facts.disagreeing:
        said = f"Other than the number that they stand behind: {', '.join(facts.disagreeing)}."
        return Check("lists", RED, title, said, "Do not rely on these numbers; report the defect.")
    return Check("lists", GREEN, title, "Every count of this report was compared with the length of its list.")


def _quarantine(facts: Facts) -> Check:
    figure, title = facts.quarantined, "Quarantine"
    if not figure.value:
        return Check("quarantine", GREEN, title, "Empty.", figure=figure)
    said = f"{count(figure.value, 'document')} waiting for a decision."
    return Check(
        "quarantine", AMBER, title, said, "Look with muniment quarantine show ID, then release or reject.", figure
    )


def _due(facts: Facts) -> Check:
    title, figure = "Due for disposition", facts.due_total
    if facts.schedule is None:
        return Check("due", RED, title, "Not decided: there is no schedule.", "Load one first.", figure)
    if not figure.value:
        return Check("due", GREEN, title, "Nothing is due.", figure=figure)
    said = f"{count(figure.value, 'record')} in {count(len(facts.due), 'class', 'classes')}."
    if unverified := [row for row in facts.due if row.unverified]:
        said += f" In {count(len(unverified), 'class', 'classes')} a rule is not verified: nothing there is destroyed."
    return Check("due", AMBER, title, said, "Review them; nothing is destroyed by this report.", figure)


def _unscheduled(facts: Facts) -> Check:
    title, figure = "Records without a retention rule", facts.unscheduled_total
    if not figure.value:
        return Check("unscheduled", GREEN, title, "None.", figure=figure)
    classes = count(sum(bool(row.unscheduled) for row in facts.held), "class", "classes")
    said = f"{count(figure.value, 'record')} in {classes}, kept for ever until one is given."
    return Check("unscheduled", AMBER, title, said, "Give them a class, or the class a rule.", figure)


def _deferred(facts: Facts) -> Check:
    title, figure = "Documents left for the next run", facts.intake.deferred
    if not figure.value:
        return Check("deferred", GREEN, title, "None.", figure=figure)
    said = f"{count(figure.value, 'document')} still being written when their source was listed, over all runs."
    return Check("deferred", AMBER, title, said, "The next run takes them when they are complete.", figure)


def _descriptions(facts: Facts) -> Check:
    figure, title = facts.defects["undescribed"], "Descriptions"
    if not figure.value:
        return Check("descriptions", GREEN, title, "Everything captured can be found by title and text.", figure=figure)
    said = f"{figure.value:,} records or documents cannot be found by title or text just now."
    then = "They are rebuilt from the vault when Muniment is next opened; content is not affected."
    return Check("descriptions", AMBER, title, said, then, figure)


def summary(facts: Facts, as_of: str) -> str:
    """The state of the archive in one breath."""
    records = sum(row.records.value for row in facts.held)
    parts = [
        f"{count(records, 'record')} in {count(len(facts.held), 'class', 'classes')}",
        f"{facts.due_total.value:,} due",
        f"{facts.quarantined.value:,} in quarantine",
    ]
    if facts.unscheduled_total.value:
        parts.append(f"{facts.unscheduled_total.value:,} without a retention rule")
    return f"As of {as_of}: {'; '.join(parts)}."
