"""Whom a request is about, and which records are about that person.

Rules of this module:
- A subject is an aggregation (`patient:123`), the name or e-mail address of an author, or words.
- A record is the person's without doubt where it is in the aggregation, or where the author's field, or one of the
  names in it, is the name or address as it was given. What came inside such a record goes with it.
- A name that is a part of another one, and words in a text, prove nothing: such hits are for a person to check.
- Records that a search cannot see (scanned, encrypted, not described) are counted, so that nobody takes an answer
  for complete that is not.
- Who asks, and about whom, is personal data: control tables and events hold the keyed pseudonym of the subject.
- Aggregations are remembered by records that are gone too; for authors and words, earlier requests remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from retention import aggregations
from retention.database import Connection
from retention.descriptors import printable, searchable
from retention.errors import NotFound, UsageError
from retention.holds.scopes import Named, Predicate, Scope, predicate
from retention.seal import Safe


class Finds(StrEnum):
    """How the records of a subject are found."""

    AGGREGATION = "aggregation"
    AUTHOR = "author"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Subject:
    """A person, as whoever asks names them. Personal data: sealed wherever it is kept."""

    text: str
    finds: Finds = Finds.AGGREGATION


@dataclass(frozen=True, slots=True)
class Found:
    """Records that are kept. `sure` are the person's; `hits` are for somebody to check; `unsearched` were not seen."""

    sure: tuple[UUID, ...]
    hits: tuple[UUID, ...] = ()
    unsearched: int = 0


def subject(text: str, finds: Finds = Finds.AGGREGATION) -> Subject:
    """A subject as it was typed. Raises UsageError."""
    words = " ".join(printable(text).split())
    if finds is Finds.AGGREGATION:
        return Subject(str(aggregations.parse(words)))
    if not words:
        raise UsageError("--subject: expected a name, an address or words, found nothing.")
    return Subject(words, finds)


def identity(safe: Safe, asked: Subject) -> UUID:
    """The pseudonym of a subject; that of an aggregation is the one that its records carry."""
    if asked.finds is Finds.AGGREGATION:
        return aggregations.identity(safe, aggregations.parse(asked.text))
    return safe.pseudonym(f"request {asked.finds}", asked.text.lower())


def refuse_unknown(conn: Connection, safe: Safe, asked: Subject) -> None:
    """A mistake of the keyboard would be answered as if the archive knew nothing. Raises NotFound, UsageError."""
    if asked.finds is Finds.AGGREGATION:
        known = conn.execute("SELECT FROM aggregations WHERE aggregation_id = %s", (identity(safe, asked),)).fetchone()
        if known is None:
            raise NotFound(
                f"--subject {asked.text}: no such aggregation was ever here. Look how it is spelled "
                "(`muniment aggregation list`), or look for a name with --author or --text. Nothing was answered."
            )
    elif asked.finds is Finds.TEXT:
        words = conn.execute("SELECT numnode(websearch_to_tsquery('simple', %s))", (searchable(asked.text),)).fetchone()
        if words == (0,):
            raise UsageError(f"--subject {asked.text!r} --text: expected words to look for, found none.")


def find(conn: Connection, safe: Safe, asked: Subject, checked: Sequence[UUID] = ()) -> Found:
    """The records of a subject that are kept; `checked` are hits of which a person said that they are, too."""
    scope, sure = _predicate(safe, asked)
    query = sql.SQL(_FIND).format(where=scope.where, found=scope.found, sure=sql.SQL(sure))
    row = conn.execute(
        query, {**scope.params, "name": asked.text, "subject": identity(safe, asked), "checked": list(checked)}
    ).fetchone()
    assert row is not None
    return Found(tuple(row[0] or ()), tuple(row[1] or ()), row[2])


def _predicate(safe: Safe, asked: Subject) -> tuple[Predicate, LiteralString]:
    match asked.finds:
        case Finds.AGGREGATION:
            return predicate(Scope(aggregations=(asked.text,)), Named(aggregations=(identity(safe, asked),))), _FILED
        case Finds.AUTHOR:
            return predicate(Scope(custodians=(asked.text,)), Named()), _AUTHOR
        case Finds.TEXT:
            return predicate(Scope(text=asked.text), Named()), "false"


_FILED: LiteralString = "r.aggregation_id = %(subject)s"

# The whole field, or one of several names (which are separated by semicolons): the name, the address, or both.
_AUTHOR: LiteralString = r"""EXISTS (
    SELECT FROM descriptions d,
           LATERAL (SELECT d.author UNION ALL SELECT regexp_split_to_table(d.author, ';')) AS whole(author),
           LATERAL (SELECT lower(regexp_replace(btrim(whole.author), '\s+', ' ', 'g'))) AS one(author)
     WHERE d.subject_id = r.record_id AND position(lower(split_part(%(name)s, ' ', 1)) IN lower(d.author)) > 0
       AND lower(%(name)s) IN (one.author, btrim(regexp_replace(one.author, '<[^<>]*>$', ''), ' "'),
                               btrim(substring(one.author FROM '<([^<>]*)>$'))))"""

_FIND: LiteralString = """
    WITH RECURSIVE hit AS MATERIALIZED (
        SELECT r.record_id, ({sure}) AS sure, ({found}) AS found FROM records r
         WHERE r.state < 3 AND (({where}) OR ({sure}))),
    theirs AS (SELECT record_id FROM hit WHERE sure
                UNION SELECT record_id FROM records WHERE record_id = ANY(%(checked)s) AND state < 3
                UNION SELECT c.record_id FROM theirs t JOIN records c ON c.parent_id = t.record_id WHERE c.state < 3)
    SELECT (SELECT array_agg(record_id ORDER BY record_id) FROM theirs),
           (SELECT array_agg(record_id ORDER BY record_id) FROM hit
             WHERE found AND record_id NOT IN (SELECT record_id FROM theirs)),
           (SELECT count(*) FROM hit WHERE NOT found AND record_id NOT IN (SELECT record_id FROM theirs))"""


def ever(conn: Connection, subject_id: UUID) -> list[UUID]:
    """Every record that is or was the subject's, also those that are gone: by its aggregation, by earlier requests."""
    rows = conn.execute(
        """WITH RECURSIVE theirs AS (
               SELECT record_id FROM records WHERE aggregation_id = %(id)s OR record_id = %(id)s
               UNION SELECT record_id FROM aggregation_changes WHERE from_aggregation = %(id)s
               UNION SELECT a.record_id FROM request_answers a JOIN requests q USING (request_id)
                      WHERE q.subject_id = %(id)s AND a.answer NOT IN ('check', 'not-about')
               UNION SELECT c.record_id FROM theirs t JOIN records c ON c.parent_id = t.record_id)
           SELECT record_id FROM theirs ORDER BY 1""",
        {"id": subject_id},
    )
    return [row[0] for row in rows]
