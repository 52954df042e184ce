"""The tables of the catalog, made of the history by the projections that `verify` compares them with.

Rules of this module:
- A row is there because an event made it. What the events tell is taken from them, whatever a dump says; what they do
  not tell (`elsewhere`, and texts of which an event has the digest alone) comes from a dump, from the vault, or from a
  sealed line. A text is taken only if it has the digest.
- So a dump that is older than the history is brought to the newest event by the same statements, and the catalog can
  be made with no dump at all. What is in no source stays empty, and `verify` names it.
- Tables are empty before, and each row is written once: nothing that refuses a change of history is switched off. One
  transaction, as the owner of the tables.
- A day that nothing tells any more is no day: such an event of a case file is left out, and its records are kept
  (unknown means retain).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from uuid import UUID

from psycopg import sql

from retention import triggers
from retention.backup import points
from retention.backup.points import NOT_DUMPED
from retention.database import Connection
from retention.errors import Refused
from retention.requests.answers import day_code
from retention.seal import Bucket, Safe
from retention.verification.facts import ANSWERED
from retention.verification.projections import PROJECTIONS
from retention.verification.tables import Projection

# As foreign keys, and what one projection reads of another table, ask for it. All that the events tell, each once.
ORDER = (
    *("schedule_versions", "aggregations", "runs", "records", "aggregation_changes", "contents", "quarantine"),
    *("run_items", "findings", "proposals", "approvers", "signatures", "plans", "plan_items", "plan_stages"),
    *("plan_remains", "transfers", "tombstones", "class_changes", "extensions", "notices", "object_locks"),
    *("holds", "hold_members", "hold_quarantined", "hold_members_released", "hold_flags", "trigger_events"),
    *("current_triggers", "suspensions", "requests", "request_answers", "restrictions", "ledger_keys"),
    *("key_objects", "event_subjects", "record_labels"),
)
# Written by a statement of their own below.
APART = {
    *("classes", "trigger_kinds", "pseudonyms", "belongs_to", "key_buckets", "descriptors", "descriptor_lines"),
    *("subject_keys", "sightings", "queries"),
}

NOW = "now"  # the time of the recovery
_QUEUED = {"queued_at": NOW, "actual_until": "NULL", "read_back_at": "NULL", "attempts": "0", "error": "NULL"}
_TEXT = "CASE WHEN sha256(convert_to(d.{c}, 'UTF8')) = t.{c} THEN d.{c} END"

# What stands in a column that the events do not tell, or tell by a digest. t: what they tell; d: the row of a dump.
# What is not named here is d's.
_VALUES: Mapping[str, Mapping[str, str]] = {
    "schedule_versions": {
        "document": "(SELECT s.document FROM stood_schedules s WHERE s.digest = t.digest)",
        "open_classes": "(SELECT s.open_classes FROM stood_schedules s WHERE s.digest = t.digest)",
    },
    "records": {"special": "false"},  # marked at the end
    "proposals": {  # what was signed and decided follows its signatures
        "statement": _TEXT.replace("{c}", "statement"),
        "payload": _TEXT.replace("{c}", "payload"),
        "state": "'open'",
        "first_signer": "NULL",
        "second_signer": "NULL",
        "third_signer": "NULL",
        "decided_at": "NULL",
    },
    "approvers": {
        "public_key": r"""CASE WHEN 'SHA256:' || rtrim(encode(sha256(
            '\x0000000b7373682d6564323535313900000020'::bytea || d.public_key), 'base64'), '=') = t.public_key
            THEN d.public_key END"""
    },
    "signatures": {"signature": "CASE WHEN sha256(d.signature) = t.signature THEN d.signature END"},
    "plan_stages": {
        "name": _TEXT.replace("{c}", "name").replace(
            "END", "ELSE (SELECT n.name FROM stage_names n WHERE n.digest = t.name LIMIT 1) END"
        )
    },
    "tombstones": {
        "content": "coalesce(d.content, (SELECT c.content FROM dumped_contents c WHERE c.record_id = t.record_id))"
    },
    "object_locks": _QUEUED,
    "key_objects": {"locked_at": "NULL"},  # of the vault that was; the next run makes what is not in this one
    "hold_flags": {**_QUEUED, "wanted": "true", "actual": "NULL"},
    "trigger_events": {
        "effective": "coalesce(d.effective, (SELECT o.effective FROM dumped_trigger_events o "
        "WHERE o.trigger_event_id = t.retracts))"
    },
    "ledger_keys": {"kept_in": "coalesce(d.kept_in, 'file:ledger-' || split_part(t.vkey, '+', 2) || '.key')"},
}
_ONLY = {"trigger_events": _VALUES["trigger_events"]["effective"] + " IS NOT NULL"}

# Signers and what was decided, of proposals that are all open yet.
_DECIDED = """
UPDATE proposals p SET state = t.state, first_signer = t.first_signer, second_signer = t.second_signer,
                       third_signer = t.third_signer, decided_at = t.decided_at
  FROM ({told}) AS t
 WHERE t.proposal_id = p.proposal_id AND (t.state <> 'open' OR t.first_signer IS NOT NULL)
"""

# Words that events say of classes, in the order in which they first did.
_CLASSES = """
INSERT INTO classes (class_id)
SELECT word FROM (
    SELECT detail ->> 'class' AS word, position FROM history
     WHERE type IN ('ing', 'mem', 'app', 'del', 'tra') AND detail ? 'class' AND success
    UNION ALL
    SELECT detail ->> 'to_class', position FROM history WHERE type = 'app' AND detail ? 'to_class') AS said
 WHERE word NOT IN (SELECT class_id FROM classes)
 GROUP BY word ORDER BY min(position), word
"""

# Who is named by pseudonym: those that a row refers to. The names are sealed, and in a dump alone.
_PSEUDONYMS = """
INSERT INTO pseudonyms (pseudonym_id, kind, sealed_name, recorded_at)
SELECT DISTINCT ON (coalesce(d.pseudonym_id, s.id)) coalesce(d.pseudonym_id, s.id), coalesce(d.kind, s.kind),
       d.sealed_name, coalesce(d.recorded_at, s.at)
  FROM (SELECT agent AS id, 'software' AS kind, at FROM history
        UNION ALL SELECT person, 'person', at FROM history
        UNION ALL SELECT subject, 'person', at FROM history WHERE type = 'poa' AND detail ? 'approver'
        UNION ALL SELECT (detail ->> 'source')::uuid, 'source', at FROM history WHERE type = 'ins') AS s
  FULL JOIN dumped_pseudonyms d ON d.pseudonym_id = s.id
 WHERE coalesce(d.pseudonym_id, s.id) IS NOT NULL
 ORDER BY coalesce(d.pseudonym_id, s.id), s.at
"""

# A suspension, an event of its own or a label makes a record special (verification.check_marks).
_MARKS = """
UPDATE records SET special = true WHERE record_id IN (
    SELECT subject_id FROM suspensions UNION SELECT subject_id FROM trigger_events
    UNION SELECT record_id FROM record_labels
    UNION SELECT r.record_id FROM suspensions s JOIN records r ON r.aggregation_id = s.subject_id
    UNION SELECT record_id FROM dumped_records WHERE special)
"""

# A line that an event has the digest of, of a subject that is still described: of one revision the one that was
# written last (a case file that was emptied, and opened again, begins anew).
_LINES = """
CREATE TEMP TABLE lines ON COMMIT DROP AS
SELECT DISTINCT ON (l.subject_id, l.revision) l.*
  FROM stood_lines l
  JOIN (SELECT decode(detail ->> 'descriptor_sha256', 'hex') AS sha256, position FROM history
         WHERE detail ? 'descriptor_sha256'
        UNION ALL
        SELECT decode(jsonb_array_elements_text(detail -> 'annexes_sha256'), 'hex'), position FROM history
         WHERE detail ? 'annexes_sha256') AS h USING (sha256)
 WHERE NOT EXISTS (SELECT FROM records r WHERE r.record_id = l.subject_id AND r.state > 2)
   AND NOT EXISTS (SELECT FROM quarantine q WHERE q.quarantine_id = l.subject_id AND q.key_destroyed_at IS NOT NULL)
   AND NOT EXISTS (SELECT FROM emptied e WHERE e.aggregation_id = l.subject_id AND e.position > h.position)
   AND (EXISTS (SELECT FROM ({trigger_events}) AS t WHERE t.trigger_event_id = l.subject_id)
        OR NOT EXISTS (SELECT FROM history t WHERE t.type = 'mem' AND t.detail ? 'trigger_event'
                          AND t.detail ->> 'trigger_event' = l.subject_id::text))
 ORDER BY l.subject_id, l.revision, h.position DESC
"""

# An object of which a line is left, or that the history names (its bytes are to be erased).
_DESCRIPTORS = """
INSERT INTO descriptors (descriptor_id, sha256, bytes, version, recorded_at)
SELECT descriptor_id, sha256, bytes, version, uuid_extract_timestamp(descriptor_id) FROM stood_objects o
 WHERE EXISTS (SELECT FROM lines l WHERE l.descriptor_id = o.descriptor_id)
    OR EXISTS (SELECT FROM history h WHERE h.detail ->> 'descriptor' = o.descriptor_id::text)
"""

# When each case file lost its last record, and with it its key.
_EMPTIED = """
CREATE TEMP TABLE emptied ON COMMIT DROP AS
SELECT unnest(subjects) AS aggregation_id, max(position) AS position FROM history
 WHERE type = 'del' AND detail ->> 'aggregation' = 'empty' GROUP BY 1
"""

# Keys of what is still to be read. What the history has destroyed since the dump stays destroyed.
_KEYS = """
CREATE TEMP TABLE kept_keys ON COMMIT DROP AS
SELECT d.subject_id, d.bucket_id, d.wrapped FROM dumped_subject_keys d
 WHERE NOT EXISTS (SELECT FROM tombstones t WHERE t.record_id = d.subject_id)
   AND NOT EXISTS (SELECT FROM records r WHERE r.record_id = d.subject_id AND r.state > 2)
   AND NOT EXISTS (SELECT FROM quarantine q WHERE q.quarantine_id = d.subject_id AND q.key_destroyed_at IS NOT NULL)
   AND NOT EXISTS (SELECT FROM emptied e WHERE e.aggregation_id = d.subject_id AND e.position >= %(since)s)
   AND NOT EXISTS (SELECT FROM history h WHERE h.type = 'del' AND h.detail ? 'queries'
                      AND d.subject_id = ANY (h.subjects))
"""

_SIGHTINGS = """
INSERT INTO sightings SELECT * FROM dumped_sightings s
 WHERE NOT EXISTS (SELECT FROM records r WHERE r.record_id = s.subject_id AND r.state > 2)
   AND NOT EXISTS (SELECT FROM quarantine q JOIN records r USING (record_id)
                    WHERE q.quarantine_id = s.subject_id AND r.state > 2)
"""

_QUERIES = """
INSERT INTO queries SELECT * FROM dumped_queries q
 WHERE EXISTS (SELECT FROM subject_keys k WHERE k.subject_id = q.query_id)
"""


def fill(conn: Connection, safe: Safe, since: int, now: datetime, former: Mapping[UUID, Bucket] | None = None) -> None:
    """Every table but those of the ledger. `since`: how many events the dump has seen, 0 without one; `former`: the
    buckets that the key safe had then.

    In the transaction that has `history` and the tables of retention.recovery.staging."""
    told = {one.table: one for one in PROJECTIONS}
    _refuse_unknown_rules(conn, told["schedule_versions"].told)
    _fill_words(conn)
    conn.execute(_PSEUDONYMS)
    conn.execute("INSERT INTO belongs_to (safe) VALUES (%s)", (safe.tag,))
    _fill_buckets(conn, safe, now)
    conn.execute("SET LOCAL enable_nestloop = off")  # as retention.verification.tables.compare says
    # What is told after these refers to them alone. Of the batches of a run one digest is told: their rows are in a
    # dump, or nowhere, as is what nothing tells.
    others = [table for table in told if table not in ORDER and table != "run_batches"]
    for table in (*ORDER, *others):
        _insert(conn, told[table], now)
        if table == "signatures":
            conn.execute(sql.SQL(_DECIDED).format(told=sql.SQL(told["proposals"].told)))
    conn.execute("SET LOCAL enable_nestloop = on")
    for table in points.tables(conn):
        if table not in APART and table not in (*ORDER, *others):
            _copy(conn, table)
    conn.execute(_EMPTIED)
    conn.execute(sql.SQL(_LINES).format(trigger_events=sql.SQL(told["trigger_events"].told)))
    conn.execute(_DESCRIPTORS)
    conn.execute("INSERT INTO descriptor_lines SELECT * FROM lines")
    conn.execute(_KEYS, {"since": since})
    _fill_keys(conn, safe, former or {}, now)
    conn.execute(_SIGHTINGS)
    conn.execute(_QUERIES)
    conn.execute(_MARKS)
    conn.execute("DELETE FROM descriptions_complete")
    _fill_days(conn, safe)
    _set_sequences(conn)


def _refuse_unknown_rules(conn: Connection, versions: str) -> None:
    """Without its text nobody knows what a version of the schedule asked for. Raises Refused."""
    row = conn.execute(
        sql.SQL(
            "SELECT version, encode(digest, 'hex') FROM ({}) AS t WHERE NOT EXISTS (SELECT FROM stood_schedules s "
            "WHERE s.digest = t.digest) ORDER BY version DESC LIMIT 1"
        ).format(sql.SQL(versions))
    ).fetchone()
    if row is not None:
        raise Refused(
            f"refusing to recover without version {row[0]} of the schedule: its text is in no copy. Find the file with "
            f"SHA-256 {row[1]}, put it into the vault as schedules/{row[1]}, and run the same again."
        )


def _insert(conn: Connection, one: Projection, now: datetime) -> None:
    columns, told = _columns(conn, one.table), {*one.key, *one.columns}
    values = _VALUES.get(one.table, {})
    sources = []
    for column in columns:
        value = values.get(column, f"{'t' if column in told else 'd'}.{column}")
        sources.append(sql.Literal(now) if value == NOW else sql.SQL(value))
    # what is never dumped is told whole: beside it stands nothing
    dumped = sql.SQL("(SELECT)" if one.table in NOT_DUMPED else f"dumped_{one.table}")
    keys = () if one.table in NOT_DUMPED else one.key
    same = [sql.SQL("true"), *(sql.SQL("d.{0} = t.{0}").format(sql.Identifier(c)) for c in keys)]
    conn.execute(
        sql.SQL(
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {sources} FROM ({told}) AS t "
            "LEFT JOIN {dumped} AS d ON {same} WHERE {only}"
        ).format(
            table=sql.Identifier(one.table),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            sources=sql.SQL(", ").join(sources),
            told=sql.SQL(one.told),
            dumped=dumped,
            same=sql.SQL(" AND ").join(same),
            only=sql.SQL(_ONLY.get(one.table, "true")),
        )
    )


def _copy(conn: Connection, table: str) -> None:
    conn.execute(
        sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE SELECT * FROM {}").format(
            sql.Identifier(table), sql.Identifier(f"dumped_{table}")
        )
    )


def _columns(conn: Connection, table: str) -> list[str]:
    rows = conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum",
        (f"public.{table}",),
    )
    return [row[0] for row in rows]


def _fill_words(conn: Connection) -> None:
    """Numbers of classes and kinds of events: a dump's stay as they are, what is new gets the next."""
    for table in ("classes", "trigger_kinds"):
        _copy(conn, table)
    _set_sequences(conn)
    conn.execute(_CLASSES)
    rows = conn.execute(
        "SELECT DISTINCT detail ->> 'kind' FROM history WHERE type = 'mem' AND detail ? 'trigger_event' "
        "AND detail ? 'kind'"
    ).fetchall()
    triggers.make_kinds(conn, [kind + suffix for (kind,) in rows for suffix in ("", ":first")])


def _fill_buckets(conn: Connection, safe: Safe, now: datetime) -> None:
    """Buckets of keys: what the safe has, and those of a dump whose key is gone for good."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO key_buckets (bucket_id, scope, month, generation, recorded_at) VALUES (%s, %s, %s, %s, "
            "coalesce((SELECT recorded_at FROM dumped_key_buckets d WHERE d.bucket_id = %s), %s)) "
            "ON CONFLICT DO NOTHING",
            [(b.id, b.scope, b.month, b.generation, b.id, now) for b in safe.buckets()],
        )


def _fill_keys(conn: Connection, safe: Safe, former: Mapping[UUID, Bucket], now: datetime) -> None:
    """Keys that are wrapped under a bucket of the safe; one whose bucket has got a new key since the dump is wrapped
    under that."""
    conn.execute(
        "INSERT INTO subject_keys SELECT k.* FROM kept_keys k JOIN key_buckets USING (bucket_id)",
    )
    rows = conn.execute(
        "SELECT subject_id, bucket_id, wrapped FROM kept_keys k "
        "WHERE NOT EXISTS (SELECT FROM key_buckets b WHERE b.bucket_id = k.bucket_id)"
    ).fetchall()
    again: dict[UUID, tuple[UUID, bytes]] = {}
    for subject, bucket_id, wrapped in rows:
        if (before := former.get(bucket_id)) is not None:
            bucket = safe.current(before.scope, before.month, now)
            again[subject] = bucket.id, bucket.wrap(before.unwrap(bytes(wrapped)))
    if again:
        _fill_buckets(conn, safe, now)  # one may be new
    with conn.cursor().copy("COPY subject_keys (subject_id, bucket_id, wrapped) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["uuid", "uuid", "bytea"])
        for subject, row in again.items():
            copy.write_row((subject, *row))


def _fill_days(conn: Connection, safe: Safe) -> None:
    """The day until which a record is kept, as a person was told: its event has a keyed code of it alone."""
    rows = conn.execute(
        sql.SQL(
            "SELECT a.request_id, a.record_id, a.until, t.day FROM request_answers a JOIN ({}) AS t "
            "USING (request_id, record_id)"
        ).format(sql.SQL(ANSWERED))
    ).fetchall()
    for request, record, until, code in rows:
        if day_code(safe, request, record, until) != code:
            day = next((day for day in _days() if day_code(safe, request, record, day) == code), None) if code else None
            conn.execute(
                "UPDATE request_answers SET until = %s WHERE request_id = %s AND record_id = %s",
                (day, request, record),
            )


def _days() -> Iterator[date]:
    """Every day that an answer can say: a third of a second for all of them."""
    day = date(1990, 1, 1)
    while day.year < 2300:
        yield day
        day += timedelta(days=1)


def _set_sequences(conn: Connection) -> None:
    """The next number of each table that numbers its rows."""
    rows = conn.execute(
        "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attidentity <> ''"
    ).fetchall()
    for table, column in rows:
        conn.execute(
            sql.SQL(
                "SELECT setval(pg_get_serial_sequence({0}, {1}), max({2})) FROM {3} HAVING max({2}) IS NOT NULL"
            ).format(table, column, sql.Identifier(column), sql.Identifier(table))
        )
