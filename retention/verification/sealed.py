"""What is sealed, opened: keys, descriptions, and whatever else is reckoned from them, against the sealed lines.

Rules of this module:
- A descriptor object is what its row says, each line stands where its row says, and some event has its digest.
- Every key opens what it is the key of: a line, a name, the words of a search. A key of which nothing is opened, and a
  subject that is kept and has no key, are problems: a record without its key is lost.
- What the description tables hold is what the newest line of each subject gives, made once more by the same code.
- What documents and places are known by (keyed HMACs) is what the line gives. The event of a capture has a commitment
  to the document under its key: it ties line, key and event.
- One descriptor object at a time, read by several threads; nothing that was opened is in a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

from psycopg import sql

from retention import descriptors
from retention.archive import Archive
from retention.database import Connection
from retention.errors import Damaged, MunimentError
from retention.history.offline import Problem
from retention.model import Description
from retention.parallel import in_order
from retention.requests.answers import day_code
from retention.seal import RecordKey
from retention.vault.base import Vault
from retention.verification.facts import ANSWERED

Teller = Callable[[int, int], None]

_SCRATCH = "told_descriptions"


def check(conn: Connection, archive: Archive, tell: Teller | None = None, *, describe: bool) -> Iterator[Problem]:
    """In the transaction that has `history`. `describe`: the description tables are empty, and get what is opened."""
    conn.execute(
        sql.SQL("CREATE TEMP TABLE {} (LIKE descriptions INCLUDING INDEXES) ON COMMIT DROP").format(
            sql.Identifier(_SCRATCH)
        )
    )
    conn.execute("CREATE TEMP TABLE opened_keys (subject_id uuid PRIMARY KEY) ON COMMIT DROP")
    yield from _check_descriptors(conn, archive, describe, tell)
    yield from _check_names(conn, archive)
    yield from _check_queries(conn, archive)
    yield from _check_answers(conn, archive)
    yield from _check_buckets(conn, archive)
    for said, query in _QUESTIONS.items():
        for table, row in conn.execute(query):
            yield Problem(f"table {table}, row {row}", said)


# ---------------------------------------------------------------- descriptor objects and their lines


def _check_descriptors(conn: Connection, archive: Archive, describe: bool, tell: Teller | None) -> Iterator[Problem]:
    (count,) = conn.execute("SELECT count(*) FROM descriptors").fetchone() or (0,)
    threads = min(archive.settings.vault_threads, archive.vault.threads)
    with ThreadPoolExecutor(threads, "verify") as pool, conn.cursor(name="descriptors") as cursor:
        cursor.execute("SELECT descriptor_id, sha256, bytes, version FROM descriptors ORDER BY descriptor_id")
        for done, (row, content) in enumerate(in_order(pool, partial(_read, archive.vault), cursor, threads), 1):
            yield from _check_object(conn, archive, row, content, describe)
            if tell:
                tell(done, count)


def _read(vault: Vault, row: Any) -> tuple[Any, bytes | MunimentError]:
    try:
        with vault.open(f"descriptors/{row[0]}", row[3]) as stream:
            return row, stream.read()
    except MunimentError as error:
        return row, error


def _check_object(
    conn: Connection, archive: Archive, row: Any, content: bytes | MunimentError, describe: bool
) -> Iterator[Problem]:
    descriptor_id, digest, size, _ = row
    where = f"vault descriptors/{descriptor_id}"
    try:
        if isinstance(content, MunimentError):
            raise content
        found = {
            (subject, revision): (offset, len(line), sha256(line).digest(), line)
            for subject, revision, offset, line in _lines(content)
        }
    except MunimentError as error:
        yield Problem(where, str(error))
        return
    if sha256(content).digest() != bytes(digest) or len(content) != size:
        yield Problem(
            where,
            f"it has {len(content):,} bytes with SHA-256 {sha256(content).hexdigest()}; table descriptors says "
            f"{size:,} bytes with {bytes(digest).hex()}. One of them was changed.",
        )
    rows = conn.execute(
        """SELECT l.subject_id, l.revision, l.byte_offset, l.byte_length, l.sha256, k.bucket_id, k.wrapped,
                  t.trigger_event_id IS NULL AND NOT EXISTS (SELECT FROM tombstones n WHERE n.annex_id = l.subject_id)
                  AND l.revision = (SELECT max(m.revision) FROM descriptor_lines m WHERE m.subject_id = l.subject_id),
                  t.effective
             FROM descriptor_lines l
             LEFT JOIN trigger_events t ON t.trigger_event_id = l.subject_id
             LEFT JOIN subject_keys k ON k.subject_id = coalesce(t.subject_id, l.subject_id)
            WHERE l.descriptor_id = %s ORDER BY 1, 2""",
        (descriptor_id,),
    ).fetchall()
    opened: list[_Opened] = []
    newest: list[tuple[UUID, int, str, Description]] = []
    for subject, revision, offset, length, line_digest, bucket, wrapped, described, effective in rows:
        here = f"table descriptor_lines, row subject_id {subject}, revision {revision}"
        line = found.get((subject, revision))
        if line is None or line[:3] != (offset, length, bytes(line_digest)):
            yield Problem(here, f"descriptors/{descriptor_id} has no such line where the row says.")
        if line is None or wrapped is None:
            continue
        try:
            key = _key(archive, bucket, wrapped)
            kind, description = descriptors.decode(key.open(line[3]))
        except MunimentError as error:
            yield Problem(f"table subject_keys, row {subject}", f"its key does not open its line: {error}")
            continue
        said = description.metadata.get("effective")  # of a retraction: none
        if kind == "trigger" and said is not None and (effective is None or effective.isoformat() != said):
            yield Problem(f"table trigger_events, row {subject}", "effective: not the day in its sealed line.")
        opened.append(_Opened(subject, key, kind, description))
        if described:
            newest.append((subject, revision, kind, description))
    _remember(conn, [one.subject for one in opened])
    yield from _check_known(conn, archive, [one for one in opened if one.kind in ("record", "quarantined", "rejected")])
    if describe:
        descriptors.describe(conn, newest)
    else:
        yield from _check_descriptions(conn, newest)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A line that its key opened."""

    subject: UUID
    key: RecordKey
    kind: str
    description: Description


def _lines(content: bytes) -> Iterator[tuple[UUID, int, int, bytes]]:
    at = len(descriptors.HEADER)
    for subject, revision, line in descriptors.frames(content):
        at += descriptors.FRAME.size
        yield subject, revision, at, line
        at += len(line)


def _check_descriptions(conn: Connection, opened: Iterable[tuple[UUID, int, str, Description]]) -> Iterator[Problem]:
    """The rows as the lines give them, beside those that are there."""
    conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(_SCRATCH)))
    descriptors.describe(conn, opened, _SCRATCH)
    columns = [row[0] for row in conn.execute(_COLUMNS)]
    differs = sql.SQL(", ").join(
        sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
            sql.Identifier("t", name), sql.Identifier("d", name), name
        )
        for name in columns
    )
    query = sql.SQL(
        "SELECT t.subject_id, d.subject_id IS NULL, array_remove(ARRAY[{}], NULL) FROM {} t "
        "LEFT JOIN descriptions d USING (subject_id) ORDER BY 1"
    ).format(differs, sql.Identifier(_SCRATCH))
    for subject, missing, wrong in conn.execute(query):
        where = f"table descriptions, row {subject}"
        if missing:
            yield Problem(where, "missing: its sealed line opens.")
        elif wrong:
            yield Problem(where, f"{', '.join(wrong)}: not what its sealed line gives.")


_COLUMNS = """
SELECT attname::text FROM pg_attribute
 WHERE attrelid = 'descriptions'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'subject_id'
 ORDER BY attnum"""


def _check_known(conn: Connection, archive: Archive, opened: Sequence[_Opened]) -> Iterator[Problem]:
    """What is reckoned from a document's line: commitment, HMAC of its bytes, HMAC of its place."""
    ids = [one.subject for one in opened]
    kept = conn.execute(
        """SELECT c.record_id, c.commitment, c.content, r.parent_id IS NOT NULL FROM contents c JOIN records r
           USING (record_id) WHERE c.record_id = ANY(%(ids)s)
           UNION ALL
           SELECT quarantine_id, commitment, NULL, false FROM quarantine WHERE quarantine_id = ANY(%(ids)s)""",
        {"ids": ids},
    ).fetchall()
    rows = {subject: rest for subject, *rest in kept}
    seen: dict[UUID, list[tuple[bytes, bytes]]] = {}
    for subject, place, content in conn.execute(
        "SELECT subject_id, place, content FROM sightings WHERE subject_id = ANY(%s) ORDER BY place", (ids,)
    ):
        seen.setdefault(subject, []).append((bytes(place), bytes(content)))
    for one in opened:
        digest = one.description.sha256
        known = archive.safe.content(digest) if digest is not None else None
        if one.subject in rows and digest is not None:
            commitment, content, inside = rows[one.subject]
            if one.key.commitment(digest) != bytes(commitment):
                said = "the digest in its sealed line is not what its event committed to."
                yield Problem(f"record {one.subject}", said)
            if one.kind == "record" and (bytes(content) if content is not None else None) != (
                None if inside else known
            ):
                yield Problem(f"table contents, row {one.subject}", "content: not the HMAC of its document.")
        for place, content in seen.get(one.subject, ()):
            where = f"table sightings, row {place.hex()}"
            if place != archive.safe.place(one.description.source, one.description.place):
                yield Problem(where, "place: not where its document came from.")
            if known is not None and content != known:
                yield Problem(where, "content: not the HMAC of its document.")


# ---------------------------------------------------------------- keys


def _key(archive: Archive, bucket: UUID | None, wrapped: bytes | None) -> RecordKey:
    """Raises Damaged or NotFound for one that is gone, or was changed."""
    if bucket is None or wrapped is None:
        raise Damaged("its key is missing in table subject_keys.")
    return archive.safe.bucket(bucket).unwrap(bytes(wrapped))


def _remember(conn: Connection, subjects: Sequence[UUID]) -> None:
    """That their keys open what they are the keys of."""
    conn.execute("INSERT INTO opened_keys SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING", (list(subjects),))


# ---------------------------------------------------------------- names, words of searches, buckets


def _check_names(conn: Connection, archive: Archive) -> Iterator[Problem]:
    rows = conn.execute(
        "SELECT p.pseudonym_id, p.kind, p.sealed_name, k.bucket_id, k.wrapped FROM pseudonyms p "
        "LEFT JOIN subject_keys k ON k.subject_id = p.pseudonym_id WHERE NOT (sealed_name IS NULL "  # told by an event
        "AND ARRAY[pseudonym_id::text]::text IN (SELECT key FROM unrecovered WHERE table_name = 'pseudonyms')) "
        "ORDER BY 1"
    ).fetchall()
    for pseudonym, kind, sealed, bucket, wrapped in rows:
        where = f"table pseudonyms, row {pseudonym}"
        try:
            name = _key(archive, bucket, wrapped).open(bytes(sealed))
        except MunimentError as error:
            yield Problem(where, f"sealed_name does not open: {error}")
            continue
        _remember(conn, [pseudonym])
        if archive.safe.pseudonym(kind, name.decode("utf-8", "surrogateescape")) != pseudonym:
            yield Problem(where, "it is not the pseudonym of its name and kind.")


def _check_queries(conn: Connection, archive: Archive) -> Iterator[Problem]:
    rows = conn.execute(
        """SELECT q.query_id, q.sealed, k.bucket_id, k.wrapped, h.commitment
             FROM queries q LEFT JOIN subject_keys k ON k.subject_id = q.query_id
             LEFT JOIN (SELECT detail ->> 'query' AS query, min(detail ->> 'query_commitment') AS commitment
                          FROM history WHERE type = 'dis' AND detail ? 'query' GROUP BY 1) AS h
                    ON h.query = q.query_id::text
            ORDER BY 1"""
    ).fetchall()
    for query, sealed, bucket, wrapped, commitment in rows:
        where = f"table queries, row {query}"
        try:
            key = _key(archive, bucket, wrapped)
            said = key.commitment(sha256(key.open(bytes(sealed))).digest()).hex()
        except MunimentError as error:
            yield Problem(where, f"sealed does not open: {error}")
            continue
        _remember(conn, [query])
        if said != commitment:
            yield Problem(where, "sealed: not the words that its event committed to.")


def _check_answers(conn: Connection, archive: Archive) -> Iterator[Problem]:
    """The days until which records are kept, as persons were answered."""
    rows = conn.execute(
        sql.SQL(
            "SELECT a.request_id, a.record_id, a.until, t.day FROM request_answers a JOIN ({}) AS t "
            "USING (request_id, record_id) ORDER BY 1, 2"
        ).format(sql.SQL(ANSWERED))
    )
    for request, record, until, code in rows:
        if day_code(archive.safe, request, record, until) != code:
            where = f"table request_answers, row request_id {request}, record_id {record}"
            yield Problem(where, "until: not the day that its event has the code of.")


def _check_buckets(conn: Connection, archive: Archive) -> Iterator[Problem]:
    """What a bucket is of: as the key safe says, or the event that replaced it."""
    rows = conn.execute(
        """SELECT b.bucket_id, b.scope, b.month, b.generation, t.scope, t.month, t.generation
             FROM key_buckets b
             LEFT JOIN replaced_buckets r ON r.bucket_id = b.bucket_id AND r.dropped_at IS NOT NULL
             LEFT JOIN (SELECT DISTINCT ON (subject) subject, detail ->> 'scope' AS scope,
                               (detail ->> 'month')::date AS month, (detail ->> 'generation')::integer AS generation
                          FROM history WHERE type = 'enc' AND detail ? 'generation'
                         ORDER BY subject, position DESC) AS t ON t.subject = r.bucket_id
            ORDER BY 1"""
    )
    for bucket_id, *said in rows.fetchall():
        where, told, of = f"table key_buckets, row {bucket_id}", tuple(said[3:]), "its event"
        if told[0] is None:
            try:
                bucket = archive.safe.bucket(bucket_id)
            except MunimentError as error:
                yield Problem(where, str(error))
                continue
            told, of = (bucket.scope, bucket.month, bucket.generation), "the key safe"
        for name, is_, should in zip(("scope", "month", "generation"), said, told, strict=False):
            if is_ != should:
                yield Problem(where, f"{name} is {is_}, {of} says {should}.")


# What is asked of the tables when all that opens was opened; each answers table and row.
_QUESTIONS = {
    "nothing that it is the key of is there: somebody wrote it, or removed what it opens.": """
SELECT 'subject_keys', k.subject_id::text FROM subject_keys k
 WHERE NOT EXISTS (SELECT FROM opened_keys o WHERE o.subject_id = k.subject_id)""",
    "its key is missing in table subject_keys: it cannot be opened any more.": """
SELECT 'contents', c.record_id::text FROM contents c JOIN records r USING (record_id)
 WHERE r.state = 1 AND NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = c.record_id)
UNION ALL
SELECT 'quarantine', q.quarantine_id::text FROM quarantine q
 WHERE q.key_destroyed_at IS NULL AND NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = q.quarantine_id)
UNION ALL
SELECT 'aggregations', a.aggregation_id::text FROM aggregations a
 WHERE NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = a.aggregation_id)
   AND EXISTS (SELECT FROM records r WHERE r.aggregation_id = a.aggregation_id AND r.state < 3)""",
    "its sealed line is missing in table descriptor_lines.": """
SELECT 'contents', c.record_id::text FROM contents c JOIN records r USING (record_id)
 WHERE r.state = 1 AND NOT EXISTS (SELECT FROM descriptor_lines l WHERE l.subject_id = c.record_id)""",
    "the bucket of its key has no row in table key_buckets.": """
SELECT 'subject_keys', k.subject_id::text FROM subject_keys k
 WHERE NOT EXISTS (SELECT FROM key_buckets b WHERE b.bucket_id = k.bucket_id)
UNION ALL
SELECT 'plan_remains', r.plan_id::text FROM plan_remains r
 WHERE r.kind = 'bucket' AND NOT EXISTS (SELECT FROM key_buckets b WHERE b.bucket_id = r.remains_id)
   AND NOT EXISTS (SELECT FROM replaced_buckets b WHERE b.bucket_id = r.remains_id)
   AND ARRAY[r.remains_id::text]::text NOT IN (SELECT key FROM unrecovered WHERE table_name = 'key_buckets')""",
    "the object that it stands in has no row in table descriptors.": """
SELECT 'descriptor_lines', 'subject_id ' || l.subject_id || ', revision ' || l.revision FROM descriptor_lines l
 WHERE NOT EXISTS (SELECT FROM descriptors d WHERE d.descriptor_id = l.descriptor_id)""",
    "no event has the digest of this line.": """
SELECT 'descriptor_lines', 'subject_id ' || l.subject_id || ', revision ' || l.revision
  FROM descriptor_lines l
  LEFT JOIN (SELECT detail ->> 'descriptor_sha256' AS digest FROM history WHERE detail ? 'descriptor_sha256'
              UNION
             SELECT jsonb_array_elements_text(detail -> 'annexes_sha256') FROM history
              WHERE detail ? 'annexes_sha256') AS h ON h.digest = encode(l.sha256, 'hex')
 WHERE h.digest IS NULL""",
    "no line of it is left, and none ever was.": """
SELECT 'descriptors', d.descriptor_id::text FROM descriptors d
 WHERE NOT EXISTS (SELECT FROM descriptor_lines l WHERE l.descriptor_id = d.descriptor_id)
   AND NOT EXISTS (SELECT FROM history h WHERE h.detail ->> 'descriptor' = d.descriptor_id::text)""",
    "nothing describes it: its line is gone, or somebody wrote it.": """
SELECT 'descriptions', d.subject_id::text FROM descriptions d
 WHERE NOT EXISTS (SELECT FROM descriptor_lines l JOIN subject_keys k USING (subject_id)
                    WHERE l.subject_id = d.subject_id)""",
    "its row in table sightings is missing: what it was would come in again as new.": """
SELECT 'contents', c.record_id::text FROM contents c JOIN records r USING (record_id)
 WHERE r.state = 1 AND r.parent_id IS NULL
   AND NOT EXISTS (SELECT FROM sightings s WHERE s.subject_id = c.record_id)
   AND NOT EXISTS (SELECT FROM contents n WHERE n.supersedes = c.record_id)
   AND NOT EXISTS (SELECT FROM quarantine q WHERE q.supersedes = c.record_id)
   AND NOT EXISTS (SELECT FROM history h WHERE h.type = 'ing' AND h.detail ->> 'supersedes' = c.record_id::text)
UNION ALL
SELECT 'quarantine', q.quarantine_id::text FROM quarantine q
 WHERE q.state <> 'released' AND NOT EXISTS (SELECT FROM sightings s WHERE s.subject_id = q.quarantine_id)
   AND NOT EXISTS (SELECT FROM history h WHERE h.type = 'rec' AND h.detail ->> 'lost' = 'quarantined'
                      AND h.subject = q.quarantine_id)
   AND NOT EXISTS (SELECT FROM history h WHERE h.type IN ('ing', 'qua')
                      AND h.detail ->> 'supersedes' = q.quarantine_id::text)""",
    "nothing that came in is known by it.": """
SELECT 'sightings', encode(s.place, 'hex') FROM sightings s
 WHERE NOT EXISTS (SELECT FROM event_subjects e JOIN history h USING (position)
                    WHERE e.subject_id = s.subject_id AND h.type IN ('ing', 'qua', 'unq'))""",
}
