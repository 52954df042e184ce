"""The scope of a hold: what it says, and the predicate that it is in SQL.

Rules of this module:
- One predicate serves both moments: all records when a hold is placed, those of a batch when they arrive.
- Criteria are combined by AND, the entries of one criterion by OR. A scope without any criterion is refused: it
  would hit everything.
- What cannot be known counts as in scope. Where a scope asks for words or for a custodian, it also takes in what
  the other criteria name and nobody can search: without a description (being rebuilt), without text (encrypted,
  scanned), or read in part. The other criteria ask control tables only, which are never rebuilt.
- Words are asked as `muniment find` asks them. A phrase in a text whose order the index does not keep is met by
  its words.
- A class means itself and every class below it, also where a record has it as a label; a source is the one of
  the run that took the record in; the date is the document's, or of receipt where the document has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from retention import policy
from retention.database import Connection
from retention.descriptors import CUT, EMPTY, UNORDERED, searchable
from retention.errors import NotFound, UsageError
from retention.model import AgentKind
from retention.seal import Safe

# Findings which say that some of the text is not in the index, and the one which says so of metadata.
UNREAD = (
    *("CHILD-LIMIT", "DAMAGED", "ENCRYPTED", "ENCODING-UNSURE", "EXPANSION-LIMIT", "EXTRACTION-CRASHED"),
    *("FORMAT-UNKNOWN", "FORMAT-UNSUPPORTED", "MEMORY-LIMIT", "NESTING-LIMIT", "PAGE-LIMIT", "PDF-DAMAGED-REPAIRED"),
    *("PDF-ENCRYPTED", "SCANNED", "TEXT-EMPTY", "TEXT-LIMIT", "TIME-LIMIT", "TRUNCATED", "UNSAFE-XML"),
    "VALIDATION-FAILED",
)
AUTHOR_UNREAD = (*UNREAD, "METADATA-DAMAGED")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which records a hold is about. Words as a person wrote them: sealed, never in a control table."""

    records: tuple[UUID, ...] = ()
    classes: tuple[str, ...] = ()
    aggregations: tuple[str, ...] = ()  # kind:business-id
    sources: tuple[str, ...] = ()
    custodians: tuple[str, ...] = ()  # a part of the author's or sender's name, in any case
    since: date | None = None
    until: date | None = None
    text: str | None = None

    @property
    def searches(self) -> bool:
        """Whether it asks for what only descriptions can answer."""
        return bool(self.custodians or self.text is not None)


@dataclass(frozen=True, slots=True)
class Named:
    """The names of a scope as control tables know them."""

    classes: tuple[str, ...] = ()
    aggregations: tuple[UUID, ...] = ()
    sources: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicate:
    """SQL over a record `r`: what is in scope, and whether it was found rather than not searchable."""

    where: sql.Composable
    found: sql.Composable
    params: Mapping[str, Any]


def check(scope: Scope) -> None:
    """Raises UsageError for a scope without a criterion, or with one that could mean nothing."""
    if scope == Scope():
        raise UsageError(
            "a hold without a scope would hit everything: give at least one of --record, --class, --aggregation, "
            "--source, --custodian, --from, --to, --text."
        )
    for option, values in (("class", scope.classes), ("source", scope.sources), ("custodian", scope.custodians)):
        if not all(value.strip() for value in values):
            raise UsageError(f"--{option}: expected a name, found an empty one.")
    for value in scope.aggregations:
        kind, colon, business_id = value.partition(":")
        if not (kind and colon and business_id):
            raise UsageError(f"--aggregation: expected KIND:ID such as contract:4711, found {value!r}.")
    if scope.since and scope.until and scope.since > scope.until:
        raise UsageError(f"--from {scope.since} --to {scope.until}: no day lies between; expected the earlier first.")


def to_json(scope: Scope) -> dict[str, Any]:
    """The scope as the sealed line of its hold keeps it: what is not asked is left out."""
    return {
        key: value.isoformat() if isinstance(value, date) else value if isinstance(value, str) else [*map(str, value)]
        for key, value in asdict(scope).items()
        if value not in ((), None)
    }


def from_json(value: Mapping[str, Any]) -> Scope:
    """The other way."""
    many = {name: tuple(value.get(name, ())) for name in ("classes", "aggregations", "sources", "custodians")}
    days = {name: date.fromisoformat(value[name]) if name in value else None for name in ("since", "until")}
    return Scope(
        records=tuple(map(UUID, value.get("records", ()))),
        classes=many["classes"],
        aggregations=many["aggregations"],
        sources=many["sources"],
        custodians=many["custodians"],
        since=days["since"],
        until=days["until"],
        text=value.get("text"),
    )


# ---------------------------------------------------------------- in words of the catalog


def resolve(conn: Connection, safe: Safe, scope: Scope) -> Named:
    """Classes with all below them in the schedule in force, and pseudonyms. Names that nothing has yet are kept."""
    return Named(
        tuple(sorted(_with_those_below(conn, scope.classes))),
        tuple(safe.pseudonym("aggregation", name) for name in scope.aggregations),
        tuple(safe.pseudonym(AgentKind.SOURCE, name) for name in scope.sources),
    )


def _with_those_below(conn: Connection, classes: Sequence[str]) -> set[str]:
    found, size = set(classes), 0
    parents = _parents(conn) if found else {}
    while size != len(found):
        size = len(found)
        found |= {class_id for class_id, parent in parents.items() if parent in found}
    return found


def _parents(conn: Connection) -> dict[str, str | None]:
    """The classes of the schedule in force, if there is one."""
    try:
        return {known.id: known.parent for known in policy.current(conn).schedule.classes}
    except NotFound:
        return {}


def refuse_unknown(conn: Connection, scope: Scope, named: Named, *, dynamic: bool) -> None:
    """A name that nothing has is a mistake of the keyboard, which would hold nothing and look as if it held.

    Raises NotFound for records, always; for classes, aggregations and sources unless the hold is dynamic, since
    they may come later. Raises UsageError for a text without a word."""
    missing = conn.execute(
        "SELECT n FROM unnest(%s::uuid[]) AS n WHERE NOT EXISTS (SELECT FROM records r WHERE r.record_id = n) "
        "AND NOT EXISTS (SELECT FROM quarantine q WHERE q.quarantine_id = n)",
        (list(scope.records),),
    ).fetchone()
    if missing:
        raise NotFound(f"no record {missing[0]}. `muniment find WORDS` looks for one by its text. Nothing was held.")
    if scope.text is not None:
        words = conn.execute("SELECT numnode(websearch_to_tsquery('simple', %s))", (searchable(scope.text),)).fetchone()
        if words == (0,):
            raise UsageError(f"--text {scope.text!r}: expected words to look for, found none.")
    if dynamic:
        return
    classes = {row[0] for row in conn.execute("SELECT class_id FROM classes")} | _parents(conn).keys()
    for class_id in scope.classes:
        if class_id not in classes:
            raise NotFound(f"--class {class_id}: no record has it, nor does the schedule know it. Nothing was held.")
    queries: tuple[tuple[str, LiteralString, tuple[str, ...], tuple[UUID, ...]], ...] = (
        ("aggregation", _AGGREGATIONS, scope.aggregations, named.aggregations),
        ("source", _SOURCES, scope.sources, named.sources),
    )
    for option, query, names, ids in queries:
        known = {row[0] for row in conn.execute(query, (list(ids),))}
        for name, one in zip(names, ids, strict=True):
            if one not in known:
                raise NotFound(
                    f"--{option} {name}: not known. Look how it is spelled, or place a dynamic hold if its records "
                    "are still to come. Nothing was held."
                )


_AGGREGATIONS: LiteralString = "SELECT aggregation_id FROM aggregations WHERE aggregation_id = ANY(%s)"
_SOURCES: LiteralString = "SELECT source_id FROM runs WHERE source_id = ANY(%s)"


# ---------------------------------------------------------------- the predicate


def predicate(scope: Scope, named: Named) -> Predicate:
    """The scope over a record `r` of `records`. Pure."""
    where: list[LiteralString] = []
    if scope.records:
        where.append("r.record_id = ANY(%(records)s)")
    if scope.classes:
        where.append(_OF_CLASS)
    if scope.aggregations:
        where.append("r.aggregation_id = ANY(%(aggregations)s)")
    if scope.sources:
        where.append(_OF_SOURCE)
    if scope.since:
        where.append("coalesce(r.document_date, r.received) >= %(since)s")
    if scope.until:
        where.append("coalesce(r.document_date, r.received) <= %(until)s")
    return _predicate(scope, named, where)


def quarantined(scope: Scope, named: Named) -> Predicate:
    """The scope over a quarantined document, as `r` with its id, run and day of receipt. Pure.

    It has no class and no aggregation yet, and nobody has read its date: these criteria are open."""
    where: list[LiteralString] = []
    if scope.records:
        where.append("r.record_id = ANY(%(records)s)")
    if scope.sources:
        where.append("EXISTS (SELECT FROM runs u WHERE u.run_id = r.run_id AND u.source_id = ANY(%(sources)s))")
    if scope.since:  # a document is not younger than its receipt
        where.append("r.received >= %(since)s")
    return _predicate(scope, named, where)


def _predicate(scope: Scope, named: Named, where: Sequence[LiteralString]) -> Predicate:
    asked = [one for one, wanted in ((_TEXT, scope.text is not None), (_CUSTODIAN, bool(scope.custodians))) if wanted]
    wanted = [*where, *(f"({found} OR {unknown})" for found, unknown in asked)]
    return Predicate(
        sql.SQL(" AND ").join(map(sql.SQL, wanted or ["true"])),
        sql.SQL(" AND ").join(map(sql.SQL, [found for found, _ in asked] or ["true"])),
        {
            "records": list(scope.records),
            "classes": list(named.classes),
            "aggregations": list(named.aggregations),
            "sources": list(named.sources),
            "since": scope.since,
            "until": scope.until,
            "custodians": list(scope.custodians),
            "text": searchable(scope.text or ""),
            "loose": _loosened(searchable(scope.text or "")),
            "unordered": f"'{UNORDERED}'",
            "unread": f"'{EMPTY}' | '{CUT}'",
            "text_codes": list(UNREAD),
            "author_codes": list(AUTHOR_UNREAD),
        },
    )


def _loosened(text: str) -> str:
    """Words for texts of which the index keeps words alone: compounds (an address, a-b) in their parts."""
    parts = re.sub(r'(?<=\w)(?:[^\w\s"]|_)+(?=\w)', " ", text)
    return re.sub(r"(?<!\w)\w(?!\w)", " ", parts)  # words of one letter are not kept


_OF_CLASS: LiteralString = """(
    r.class_key IN (SELECT c.class_key FROM classes c WHERE c.class_id = ANY(%(classes)s))
    OR EXISTS (SELECT FROM record_labels l JOIN classes c USING (class_key)
                WHERE l.record_id = r.record_id AND c.class_id = ANY(%(classes)s)))"""
_OF_SOURCE: LiteralString = """EXISTS (
    SELECT FROM contents t JOIN runs u USING (run_id)
     WHERE t.record_id = r.record_id AND u.source_id = ANY(%(sources)s))"""

# Found, and not searchable. The query in parentheses is of values alone: PostgreSQL makes it once.
_TEXT: tuple[LiteralString, LiteralString] = (
    """EXISTS (SELECT FROM descriptions d WHERE d.subject_id = r.record_id AND d.search @@ (
        websearch_to_tsquery('simple', %(text)s) || (%(unordered)s::tsquery && regexp_replace(
            websearch_to_tsquery('simple', %(loose)s)::text, '<(-|[0-9]+)>', '&', 'g')::tsquery)))""",
    """(NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = r.record_id)
        OR EXISTS (SELECT FROM descriptions d WHERE d.subject_id = r.record_id AND d.search @@ %(unread)s::tsquery)
        OR EXISTS (SELECT FROM findings f WHERE f.subject_id = r.record_id AND f.code = ANY(%(text_codes)s)))""",
)  # fmt: skip
_CUSTODIAN: tuple[LiteralString, LiteralString] = (
    """EXISTS (SELECT FROM descriptions d JOIN unnest(%(custodians)s::text[]) AS wanted(name)
                    ON position(lower(wanted.name) IN lower(d.author)) > 0
             WHERE d.subject_id = r.record_id)""",
    """(NOT EXISTS (SELECT FROM descriptions d WHERE d.subject_id = r.record_id)
        OR EXISTS (SELECT FROM descriptions d
                    WHERE d.subject_id = r.record_id AND d.author IS NULL
                      AND (d.search @@ %(unread)s::tsquery
                           OR EXISTS (SELECT FROM findings f
                                       WHERE f.subject_id = r.record_id AND f.code = ANY(%(author_codes)s)))))""",
)  # fmt: skip
