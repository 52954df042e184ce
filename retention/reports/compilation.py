"""The report, compiled out of one snapshot of the catalog.

Rules of this module:
- One REPEATABLE READ transaction: every number and list is of the same moment.
- The same catalog, day and instant give the same report, but for its id.
- What is due is decided for `as_of`; everything else is the catalog as it stands.
- Without a schedule, without records, without a single run there is still a report, and it says so.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from urllib.parse import parse_qs, urlsplit

from retention import policy
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import NotFound
from retention.model import new_id
from retention.reports import ceilings, continuity, evidence, frozen, holdings, incoming, opening, persons, plans, store
from retention.reports.checks import Facts, check, long_date, summary
from retention.reports.lists import Collector
from retention.reports.model import (
    ClassDue,
    ClassHeld,
    ComplianceReport,
    Figure,
    Listing,
    SchedulePart,
    VaultPart,
    Written,
    figures,
    listing,
)
from retention.vault.base import Vault


def compile_report(
    archive: Archive,
    as_of: date,
    now: datetime,
    *,
    meanings: incoming.Meanings | None = None,
    names: bool = False,
    sources: Collection[str] = (),
) -> ComplianceReport:
    """Compile the report; changes nothing.

    `meanings` explains finding codes (code -> severity, what it means and what to do next); `sources` are the
    names of sources that must have run. `names` makes a copy for the eye, with titles and file names.
    Raises ServiceUnavailable if PostgreSQL does not answer."""
    meanings = meanings or {}
    with transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        version = _version(conn)
        schedule = version.schedule if version else None
        timezone = schedule.timezone if schedule else "UTC"
        collect = Collector(conn, names)
        held = holdings.held(collect, schedule)
        due = holdings.due(collect, schedule, as_of)
        loose = [row for row in held if row.unscheduled]
        records, size = _totals(collect, "classes", "Records held, by class", held)
        unscheduled_total, _ = _totals(collect, "unscheduled", "Records without a retention rule, by class", loose)
        due_total, _ = _totals(collect, "due", "Records due, by class", due)
        waiting = holdings.waiting(collect, schedule)
        quarantined, quarantine = incoming.quarantined(collect, meanings)
        findings = incoming.findings(collect, meanings)
        turned_away = incoming.turned_away(collect, meanings)
        intake, days = incoming.intake(collect, timezone, now)
        documents = incoming.documents(collect)
        runs = incoming.run_states(collect)
        seen = incoming.sources(collect, archive.safe)
        written = evidence.written(collect)
        written_total = _written_total(collect, written)
        expectations = incoming.expectations(collect)
        history = evidence.history(collect)
        locks_waiting, locks_oldest, locks_failed = evidence.lock_queue(collect)
        part = _schedule_part(version)
        under_hold = frozen.frozen(collect, as_of)
        asked = persons.requests(collect, policy.today(conn, now))
        past = ceilings.findings(collect, schedule, as_of)
        disposition = plans.disposition(collect, now, past)
        sections = (
            held, due, waiting, quarantined, quarantine, findings, turned_away, documents, runs, seen, written,
            under_hold, disposition,
        )  # fmt: skip
        facts = Facts(
            now=now,
            schedule=part,
            held=held,
            due=due,
            due_total=due_total,
            unscheduled_total=unscheduled_total,
            quarantined=quarantined,
            intake=intake,
            documents=documents,
            sources=seen,
            runs=runs,
            never_ran=incoming.never_ran(collect, archive.safe, sources) if sources else None,
            written=written,
            written_total=written_total,
            locks_waiting=locks_waiting,
            locks_oldest=locks_oldest,
            locks_failed=locks_failed,
            unlocked=evidence.unlocked(collect, schedule),
            ledger=history,
            assured=evidence.assured(collect.conn, now),
            continuity=continuity.continuity(collect.conn, schedule, archive.safe.root.id, now),
            store=store.store(collect.conn, archive.vault),
            opening=opening.opening(collect, now),
            defects=evidence.defects(collect),
            disagreeing=_disagreeing(sections, collect.lists),
            frozen=under_hold,
            requests=asked,
            disposition=disposition,
        )
    return ComplianceReport(
        id=new_id(now),
        as_of=as_of,
        made_at=now,
        timezone=timezone,
        summary=summary(facts, long_date(as_of)),
        checks=check(facts),
        records=records,
        bytes=size,
        due_total=due_total,
        unscheduled_total=unscheduled_total,
        held=held,
        due=due,
        waiting=waiting,
        quarantined=quarantined,
        quarantine=quarantine,
        findings=findings,
        turned_away=turned_away,
        documents=documents,
        intake=intake,
        days=days,
        runs=runs,
        sources=seen,
        written=written,
        written_total=written_total,
        expectations=expectations,
        schedule=part,
        ledger=history,
        vault=_vault_part(archive.vault),
        lists=tuple(collect.lists),
        frozen=under_hold,
        requests=asked,
        disposition=disposition,
        names=names,
    )


def _version(conn: Connection) -> policy.Version | None:
    try:
        return policy.current(conn)
    except NotFound:
        return None


def _schedule_part(version: policy.Version | None) -> SchedulePart | None:
    if version is None:
        return None
    rules = {rule.id: rule for known in version.schedule.classes for rule in known.rules}
    return SchedulePart(
        version.version,
        version.schedule.digest,
        version.schedule.title,
        version.schedule.timezone,
        version.loaded_at,
        len(version.schedule.classes),
        len(rules),
        sum(not rule.verified for rule in rules.values()),
    )


def _totals(
    collect: Collector, id_: str, title: str, rows: Collection[ClassHeld] | Collection[ClassDue]
) -> tuple[Figure, Figure]:
    """Records and bytes of all these classes; the list behind them has one row a class."""
    lines = [(row.class_id, row.records.value, row.bytes.value) for row in rows]
    collect.keep(listing(id_, title, ("class", "records", "bytes"), lines))
    return Figure(sum(line[1] for line in lines), id_, "records"), Figure(sum(line[2] for line in lines), id_, "bytes")


def _written_total(collect: Collector, written: Collection[Written]) -> Figure:
    rows = [(part.kind, part.objects.value, part.bytes.value) for part in written]
    collect.keep(listing("written", "Objects written, by kind", ("kind", "objects", "sealed_bytes"), rows))
    return Figure(sum(row[1] for row in rows), "written", "objects")


def _disagreeing(sections: object, lists: Collection[Listing]) -> tuple[str, ...]:
    """Lists whose length is not the number that they stand behind."""
    lengths = {one.id: one.count for one in lists}
    return tuple(
        sorted({f.listing for f in figures(sections) if f.column is None and lengths.get(f.listing) != f.value})
    )


def _vault_part(vault: Vault) -> VaultPart:
    locks = vault.locks()
    return VaultPart(vault.url, locks, _statement(vault.url, locks))


def _statement(url: str, locks: bool) -> str:
    """What a lock is worth in this vault: believe what was measured, not the brand."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return (
            "A folder: it cannot lock. Whoever administers the machine can delete what is in it, and records of "
            "classes that must be locked are not admitted."
        )
    if not locks:
        return "An S3 bucket without Object Lock: it cannot lock, and classes that must be locked are not admitted."
    endpoint = urlsplit(parse_qs(parts.query).get("endpoint", [""])[0]).hostname
    if endpoint in ("127.0.0.1", "localhost", "::1"):
        return (
            "The object store embedded in this workspace. Its locks hold against everybody who comes over S3, and "
            "only against them: whoever administers the machine can delete locked objects through the store's own "
            "ports or its files. For locks that hold against administrators use an external store."
        )
    return (
        "An S3 bucket with Object Lock. Locks are read back from the store after they are set; whether the store "
        "enforces them is a matter of its operator."
    )
