"""Which classes of personal data an auditor's role of the database may read: opened and closed, with an event.

Rules of this module (docs/operating.md, *What an auditor sees*):
- The owner of the database does it, and the application's role cannot: whoever works with the records opens them to
  nobody.
- Row and event commit together. A row that was written by hand has no event, and `check` names it.
- In the event the role stands by a pseudonym: it may have the name of a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg

from retention import database, ledger
from retention.archive import Archive, names, pseudonym
from retention.database import Connection, transaction
from retention.errors import UsageError
from retention.ledger import Event
from retention.model import AgentKind

EVERY = "muniment_auditor"  # the group: what is open to it is open to each auditor


def open_class(archive: Archive, role: str, class_id: str, now: datetime) -> bool:
    """Open a class to a role; False if it was open. Raises UsageError without the owner, for a role that is no
    auditor's and for a class that never was."""
    with _owner(archive) as conn:
        if conn.execute("SELECT FROM classes WHERE class_id = %s", (class_id,)).fetchone() is None:
            raise UsageError(f"class {class_id!r}: no record ever had it. `muniment schedule show` lists the classes.")
        found = conn.execute(
            "SELECT pg_has_role(oid, %s, 'MEMBER') FROM pg_roles WHERE rolname = %s", (EVERY, role)
        ).fetchone()
        if found != (True,):
            raise UsageError(
                f"role {role!r}: expected {EVERY} or a member of it, found "
                f"{'another role' if found else 'none of that name'}. docs/operating.md says how an auditor is made."
            )
        added = conn.execute(
            "INSERT INTO auditor_classes (auditor, class_id, granted_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (role, class_id, now),
        ).rowcount
        if added:
            _enter(conn, archive, role, class_id, True, now)
    return bool(added)


def close_class(archive: Archive, role: str, class_id: str, now: datetime) -> bool:
    """Close it again; False if it was not open. Raises UsageError without the owner."""
    with _owner(archive) as conn:
        taken = conn.execute(
            "DELETE FROM auditor_classes WHERE auditor = %s AND class_id = %s", (role, class_id)
        ).rowcount
        if taken:
            _enter(conn, archive, role, class_id, False, now)
    return bool(taken)


def opened(archive: Archive) -> list[tuple[str, str, datetime]]:
    """Role, class, since when."""
    with transaction(archive.connections) as conn:
        return conn.execute("SELECT auditor, class_id, granted_at FROM auditor_classes ORDER BY 1, 2").fetchall()


def check(conn: Connection, archive: Archive) -> Iterator[tuple[str, str]]:
    """Row and problem of each class that is open, or is not, other than the events say. Wants `history`
    (retention.verification)."""
    told = conn.execute(
        """SELECT subject, class_id, at FROM (
               SELECT DISTINCT ON (subject, detail ->> 'class') subject, detail ->> 'class' AS class_id, at,
                      (detail ->> 'open')::boolean AS open
                 FROM history WHERE type = 'poa' AND detail ? 'auditor' ORDER BY 1, 2, position DESC) AS newest
            WHERE open"""
    ).fetchall()
    called = names(conn, archive.safe, {row[0] for row in told})
    should = {(called.get(row[0], str(row[0])), row[1]): row[2] for row in told}
    rows = conn.execute("SELECT auditor, class_id, granted_at FROM auditor_classes").fetchall()
    there = {(role, class_id): at for role, class_id, at in rows}
    for one in sorted(should.keys() | there.keys()):
        where = f"auditor {one[0]}, class_id {one[1]}"
        if one not in there:
            yield where, "missing: an event opened the class, and none closed it."
        elif one not in should:
            yield where, "no event opened it: somebody wrote it past the history."
        elif there[one] != should[one]:
            yield where, f"granted_at is {there[one]}, its event says {should[one]}."


def _enter(conn: Connection, archive: Archive, role: str, class_id: str, open_: bool, now: datetime) -> None:
    who = pseudonym(conn, archive.safe, AgentKind.PERSON, role, now)
    detail = {"auditor": str(who), "class": class_id, "open": open_}
    ledger.append(conn, [Event("poa", now, archive.agent, (who,), detail=detail)], now)


@contextmanager
def _owner(archive: Archive) -> Iterator[Connection]:
    """One transaction of the owner's."""
    url = archive.settings.database_owner_url
    if url is None:
        raise UsageError(
            f"{database.OWNER}: the owner of the database opens classes to auditors, found none set. Set it for this "
            "command (docs/operating.md). Nothing was changed."
        )
    try:
        with psycopg.connect(url, connect_timeout=5, options="-c timezone=UTC") as conn:
            yield conn
    except psycopg.Error as error:
        raise database.in_words(url, error, database.OWNER) or error from error
