"""Reports as values, for looking at the page: a busy archive, an empty one, and one with many classes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from retention.reports.ceilings import CODES
from retention.reports.checks import Facts, check, long_date, summary
from retention.reports.model import (
    ClassDue,
    ClassHeld,
    CodeCount,
    ComplianceReport,
    Disposition,
    ExecutedPlan,
    Expectation,
    Figure,
    Intake,
    LedgerPart,
    Listing,
    OpenPlan,
    PlannedClass,
    RunStates,
    SchedulePart,
    Source,
    TriggerMissing,
    VaultPart,
    Written,
    listing,
)
from retention.rules import Action

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
TODAY = date(2026, 11, 22)
ROOT = "3f9c1d5e7b2a4860c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162738"

TITLES: tuple[tuple[str, str, str, int], ...] = (
    ("IL-FIN-010", "Books, invoices and receipts", "פנקסי חשבונות, חשבוניות וקבלות", 412),
    ("IL-MED-030", "X-ray", "צילום רנטגן", 268),
    ("unclassified", "", "", 173),
    ("IL-MED-010", "Hospital file", "תיק רפואי בבית חולים", 121),
    ("KM-010", "Lessons learned", "הפקת לקחים", 64),
    ("US-HR-020", "Personnel actions and applications for employment, with correspondence", "פעולות כוח אדם", 58),
    ("IL-SEC-010", "Access and security logs", "יומני גישה ואבטחה", 45),
    ("GEN-010", "General correspondence", "התכתבות כללית", 31),
    ("FR-MED-010", "Dossier patient", "תיק מטופל (צרפת)", 12),
)

MEANINGS: tuple[tuple[str, str, str, int], ...] = (
    ("PDF-ENCRYPTED", "quarantine", "A password is needed to read it. Ask for an open copy.", 9),
    ("TRUNCATED", "quarantine", "The file ends before its format says it does. Ask for a whole copy.", 6),
    ("EXPANSION-LIMIT", "quarantine", "Unpacks to more than its limit: perhaps an archive bomb.", 2),
    ("UNSAFE-XML", "quarantine", "The XML declares entities, which can read files or exhaust memory.", 1),
    ("MIME-MISMATCH", "warn", "The extension claims another format than the content is.", 3),
)


class Lists:
    """Makes lists with invented ids, the same every time."""

    def __init__(self) -> None:
        self.made: dict[str, Listing] = {}
        self._random = random.Random(7)

    def id(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def ids(self, id_: str, title: str, number: int, column: str = "record") -> Figure:
        start = date(2019, 1, 6)
        rows = [(self.id(), start + timedelta(3 * n), "", 20_000 + 517 * n, "") for n in range(number)]
        columns = (column, "received", "document_date", "bytes", "parent")
        self.made[id_] = listing(id_, title, columns, rows)
        return Figure(number, id_)

    def numbers(self, id_: str, title: str, **values: int) -> Figure:
        self.made[id_] = listing(id_, title, tuple(values), [tuple(values.values())])
        return Figure(next(iter(values.values())), id_, next(iter(values)))

    def bytes(self, figure: Figure) -> Figure:
        rows = self.made[figure.listing].rows()
        return Figure(sum(int(row[3]) for row in rows), figure.listing, "bytes")


def titles(english: str, hebrew: str) -> Mapping[str, str]:
    return {"en": english, "he": hebrew} if english else {}


def sample(classes: int = len(TITLES), *, red: bool = False, empty: bool = False) -> ComplianceReport:
    """A report with so many classes that hold records; `red` with things to mend, `empty` with nothing in it."""
    lists = Lists()
    held = () if empty else _held(lists, classes)
    due = () if empty else _due(lists)
    loose = sum(row.records.value for row in held if row.unscheduled)
    quarantined = lists.ids("quarantine", "Documents in quarantine", 0 if empty else 18, "document")
    days = (
        () if empty else tuple(_day(lists, TODAY - timedelta(back), 18 - back) for back in (17, 16, 12, 9, 5, 2, 1, 0))
    )
    intake = _total(lists, days)
    documents = {
        outcome: lists.ids(f"documents-{outcome}", f"Documents that were {outcome}", number, "document")
        for outcome, number in (
            ("admitted", intake.admitted.value),
            ("quarantined", intake.quarantined.value),
            ("rejected", intake.rejected.value),
        )
    }
    runs = RunStates(
        lists.ids("runs-interrupted", "Interrupted runs that no later run made good", int(red), "run"),
        Figure(0, "runs-interrupted"),
        lists.ids("runs-open", "Runs that have not ended", 0, "run"),
        None,
    )
    seen = () if empty else tuple(_source(lists, number) for number in (1, 2))
    written = tuple(
        Written(
            kind,
            (
                figure := lists.ids(
                    f"written-{kind}", f"{kind.capitalize()}, read back", 0 if empty else number, "object"
                )
            ),
            lists.bytes(figure),
            None if empty else NOW - timedelta(days=17),
            None if empty else NOW - timedelta(hours=1),
        )
        for kind, number in (("records", 1184), ("quarantine", 18), ("descriptors", 31))
    )
    objects = sum(part.objects.value for part in written)
    written_total = lists.numbers("written", "Objects written, by kind", objects=objects)
    schedule = None if empty else SchedulePart(
        3, ROOT[::-1], "Sample retention schedule", "Asia/Jerusalem", NOW - timedelta(days=40), 46, 61, 52
    )  # fmt: skip
    ledger = LedgerPart(
        lists.numbers("ledger", "Events of the ledger by type", events=0 if empty else 4211), ROOT, ROOT
    )
    defects = ("no-content", "no-key", "no-event", "altered-events", "undescribed")
    facts = Facts(
        now=NOW,
        schedule=schedule,
        held=held,
        due=due,
        due_total=lists.numbers("due", "Records due, by class", records=sum(row.records.value for row in due)),
        unscheduled_total=lists.numbers("unscheduled", "Records without a retention rule, by class", records=loose),
        quarantined=quarantined,
        intake=intake,
        documents=documents,
        sources=seen,
        runs=runs,
        never_ran=None,
        written=written,
        written_total=written_total,
        locks_waiting=lists.ids(
            "locks-waiting", "Locks that are required and not confirmed", 12 if red else 0, "object"
        ),
        locks_oldest=NOW - timedelta(hours=30) if red else None,
        locks_failed=12 if red else 0,
        unlocked=lists.ids("unlocked", "Records that must be locked and are not", 0),
        ledger=ledger,
        defects={name: lists.ids(name, f"Defects: {name}", 0) for name in defects},
        disagreeing=(),
        disposition=_disposition(lists, red=red, empty=empty),
    )
    number, size = sum(row.records.value for row in held), sum(row.bytes.value for row in held)
    records = lists.numbers("classes", "Records held, by class", records=number, bytes=size)
    return ComplianceReport(
        id=UUID("0199f0a2-0c1e-7d3a-9b1f-2f6a1c0d4e5f"),
        as_of=TODAY,
        made_at=NOW,
        timezone="Asia/Jerusalem",
        summary=summary(facts, long_date(TODAY)),
        checks=check(facts),
        records=records,
        bytes=Figure(size, "classes", "bytes"),
        due_total=facts.due_total,
        unscheduled_total=facts.unscheduled_total,
        held=held,
        due=due,
        waiting=() if empty else _waiting(lists),
        quarantined=quarantined,
        quarantine=() if empty else _codes(lists, "quarantine", MEANINGS),
        findings=() if empty else _codes(lists, "finding", _WARNINGS),
        turned_away=() if empty else _codes(lists, "rejected", _REJECTED),
        documents=documents,
        intake=intake,
        days=days,
        runs=runs,
        sources=seen,
        written=written,
        written_total=written_total,
        expectations=() if empty else _expectations(lists),
        schedule=schedule,
        ledger=ledger,
        vault=VaultPart("s3://muniment?endpoint=http://127.0.0.1:8333&region=us-east-1", True, _STATEMENT),
        disposition=facts.disposition,
        lists=tuple(lists.made.values()),
    )


_WARNINGS = (
    ("TEXT-EMPTY", "warn", "No text could be read: it cannot be found by its words.", 74),
    ("SCANNED", "warn", "Pages are pictures without text; it cannot be found by its words.", 41),
)
_REJECTED = (("EMPTY", "reject", "The file has no bytes. Ask its owner for the document.", 4),)
_STATEMENT = (
    "The object store embedded in this workspace. Its locks hold against everybody who comes over S3, and only "
    "against them: whoever administers the machine can delete locked objects through the store's own ports or its "
    "files. For locks that hold against administrators use an external store."
)


def _disposition(lists: Lists, *, red: bool, empty: bool) -> Disposition:
    """Two open plans and an executed one; with `red`, something of everything that can be owed."""
    number = 3 if red else 0
    findings = {code: lists.ids(f"engine-{code}", title, number) for code, title in CODES.items()}
    executed = () if empty else (_executed(lists),)
    outcomes = {
        code: lists.numbers(f"outcome-{code}", f"Plans by outcome {code}", records=figure.value)
        for plan in executed
        for code, figure in plan.outcomes.items()
    }
    return Disposition(
        open=lists.ids("plans-open", "Plans that wait", 0 if empty else 2, "plan"),
        waiting=() if empty else tuple(_open_plan(lists, state) for state in ("review", "signing")),
        not_advanced=lists.ids("plans-not-advanced", "Open plans whose term has passed", int(red), "plan"),
        not_executed=lists.ids("plans-not-executed", "Approved plans that nobody executes", int(red), "plan"),
        expired=lists.ids("plans-expired", "Plans that expired undecided in the last 90 days", int(red), "plan"),
        undecided=lists.ids("expired-undecided", "Records of expired plans that are not decided yet", number),
        executed=executed,
        executed_plans=lists.ids("plans-executed", "Plans executed in the last 90 days", len(executed), "plan"),
        outcomes=outcomes,
        broken_off=lists.ids("broken-off", "Records whose destruction was broken off", number),
        unplanned=lists.ids("unplanned", "Records that are due and in no plan", number),
        findings=findings,
    )


def _open_plan(lists: Lists, state: str) -> OpenPlan:
    plan_id = lists.id()
    classes = []
    for class_id, english, hebrew, held in TITLES[:2]:
        records = lists.ids(f"plan-{plan_id}-{class_id}", f"Records of plan and class {class_id}", held // 10)
        reviewing = state == "review"
        classes.append(
            PlannedClass(
                class_id=class_id,
                titles=titles(english, hebrew),
                actions=("destroy", "review"),
                records=records,
                bytes=lists.bytes(records),
                stage="head of the records office" if reviewing else "",
                number=1 if reviewing else 0,
                stages=2,
                reviewers=(),
                until=TODAY + timedelta(days=9) if reviewing else None,
                undecided=lists.ids(f"undecided-{plan_id}-{class_id}", "Undecided", 7) if reviewing else None,
                unverified=("il-xray",) if class_id == "IL-MED-030" else (),
            )
        )
    number, size = (sum(getattr(one, part).value for one in classes) for part in ("records", "bytes"))
    total = lists.numbers(f"plan-{plan_id}", f"Classes of plan {plan_id}", records=number, bytes=size)
    return OpenPlan(
        plan_id=plan_id,
        state=state,
        as_of=TODAY - timedelta(days=20),
        term=NOW + timedelta(days=70 if state == "review" else 12),
        near=state != "review",
        since=None,
        records=total,
        bytes=Figure(size, total.listing, "bytes"),
        signed=None if state == "review" else lists.ids(f"signed-{plan_id}", "Signatures under plan", 1, "person"),
        needed=3 if state == "signing" else 2,
        over_limit=("IL-FIN-010",) if state == "signing" else (),
        classes=tuple(classes),
    )


def _executed(lists: Lists) -> ExecutedPlan:
    plan_id = lists.id()
    counted = {"destroyed": 2310, "due-locked": 41, "held": 12, "unverified": 5}
    outcomes = {
        code: lists.ids(f"executed-{plan_id}-{code}", f"Records of plan, by outcome {code}", number)
        for code, number in counted.items()
    }
    return ExecutedPlan(plan_id, NOW - timedelta(days=3), lists.id(), outcomes)


def _held(lists: Lists, classes: int) -> tuple[ClassHeld, ...]:
    rows = [*TITLES[:classes]]
    rows += [(f"X-{n:03}", f"Class number {n}", f"סדרה מספר {n}", 12) for n in range(classes - len(rows))]
    found = []
    for class_id, english, hebrew, number in rows:
        figure = lists.ids(f"held-{class_id}", f"Records held in class {class_id}", number)
        why = {"unclassified": "no classification rule matched", "GEN-010": "the class has no retention rule"}
        named = titles(english, hebrew)
        days = (date(2019, 1, 6), date(2026, 11, 20))
        found.append(ClassHeld(class_id, named, figure, lists.bytes(figure), *days, why.get(class_id, "")))
    return tuple(found)


def _due(lists: Lists) -> tuple[ClassDue, ...]:
    books = lists.ids("due-IL-FIN-010", "Records due in class IL-FIN-010", 38)
    logs = lists.ids("due-IL-SEC-010", "Records due in class IL-SEC-010", 11)
    citation = "Income Tax Regulations (Bookkeeping) 1973, §25(c)"
    law = "תקנות הגנת הפרטיות (אבטחת מידע), תשע״ז-2017"
    return (
        ClassDue("IL-FIN-010", titles(*TITLES[0][1:3]), Action.REVIEW, (citation,), (), books, lists.bytes(books)),
        ClassDue("IL-SEC-010", titles(*TITLES[6][1:3]), Action.DESTROY, (law,), ("il-logs",), logs, lists.bytes(logs)),
    )


def _source(lists: Lists, number: int) -> Source:
    runs = lists.ids(f"source-{number}", f"Runs of source {number}", 4, "run")
    return Source(lists.id(), "", runs, NOW - timedelta(hours=number), "complete")


def _waiting(lists: Lists) -> tuple[TriggerMissing, ...]:
    rows = ((TITLES[1], "event:last_treatment", "il-xray", 268), (TITLES[4], "event:superseded", "km-superseded", 64))
    return tuple(
        TriggerMissing(
            row[0],
            titles(row[1], row[2]),
            trigger,
            (rule,),
            lists.ids(f"waiting-{row[0]}", f"{trigger}, {row[0]}", number),
        )
        for row, trigger, rule, number in rows
    )


def _codes(lists: Lists, prefix: str, rows: tuple[tuple[str, str, str, int], ...]) -> tuple[CodeCount, ...]:
    return tuple(
        CodeCount(code, severity, meaning, lists.ids(f"{prefix}-{code}", f"Finding {code}", number, "document"))
        for code, severity, meaning, number in rows
    )


_PARTS = (
    "runs",
    "discovered",
    "admitted",
    "quarantined",
    "rejected",
    "known",
    "children",
    "deferred",
    "missing",
    "bytes",
)


def _day(lists: Lists, day: date, weight: int) -> Intake:
    admitted, quarantined, rejected, known = 9 * weight + 7, weight // 6, weight // 9, 3 * weight
    discovered = admitted + quarantined + rejected + known
    values = (2, discovered, admitted, quarantined, rejected, known, weight, 0, 0, 73_000 * admitted)
    id_ = f"runs-{day}"
    lists.numbers(id_, f"Runs that began on {day}", **dict(zip(_PARTS, values, strict=True)))
    return Intake(day, *(Figure(n, id_, part) for part, n in zip(_PARTS, values, strict=True)))


def _total(lists: Lists, days: tuple[Intake, ...]) -> Intake:
    values = {part: sum(getattr(day, part).value for day in days) for part in _PARTS}
    lists.numbers("runs", "Runs of ingestion", **values)
    return Intake(None, *(Figure(n, "runs", part) for part, n in values.items()))


def _expectations(lists: Lists) -> tuple[Expectation, ...]:
    found = []
    for code, failed in (("TEXT-EMPTY", 74), ("DATE-IN-FUTURE", 0), ("MIME-MISMATCH", 3)):
        lists.numbers(f"validation-{code}", f"Validation by batch of {code}", evaluated=1240, failed=failed)
        parts = (Figure(1240, f"validation-{code}", "evaluated"), Figure(failed, f"validation-{code}", "failed"))
        found.append(Expectation(code, "warn", *parts))
    return tuple(found)
