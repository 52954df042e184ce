"""What came in, as the events of runs and captures tell it: see `retention.verification.tables`."""

from __future__ import annotations

from retention.runs import BATCHES
from retention.verification.tables import Projection

_LINE = "a sealed line that opens (sealed)"

# A record's class and case file are what the latest event of its kind says; destroying it begins with `dea` and ends
# with `del` or `tra`. What was let go on after `dea` (a hold came in between) is not: only those that ended count.
# What was in no copy when the archive was restored is lost (`rec`).
_RECORDS = """
SELECT i.subject AS record_id, coalesce(a.case_file, (i.detail ->> 'aggregation')::uuid) AS aggregation_id,
       (i.detail ->> 'bytes')::bigint AS bytes, i.at AS recorded_at,
       (i.detail ->> 'received')::date AS received, (i.detail ->> 'document_date')::date AS document_date,
       (i.detail ->> 'modified')::date AS modified, NULL::date AS tagged,
       k.class_key, coalesce(g.state, 1)::smallint AS state, (i.detail ->> 'parent')::uuid AS parent_id, i.position
  FROM history i
  LEFT JOIN (SELECT DISTINCT ON (subjects[1]) subjects[1] AS record_id, (detail ->> 'to')::uuid AS case_file
               FROM history WHERE type = 'mem' AND detail ->> 'aggregation' = 'assigned'
              ORDER BY subjects[1], position DESC) AS a ON a.record_id = i.subject
  LEFT JOIN (SELECT DISTINCT ON (s.record_id) s.record_id, detail ->> 'class' AS class_id
               FROM history, unnest(subjects) AS s (record_id)
              WHERE type = 'mem' AND detail ? 'plan' AND detail ? 'class'
              ORDER BY s.record_id, position DESC) AS c ON c.record_id = i.subject
  LEFT JOIN (SELECT s.record_id, max(CASE type WHEN 'dea' THEN 2 WHEN 'del' THEN 3 WHEN 'rec' THEN 5 ELSE 4 END)
                    AS state
               FROM history, unnest(subjects) AS s (record_id)
              WHERE success AND ((type = 'dea' AND detail ? 'plan') OR (type IN ('del', 'tra') AND detail ? 'rule'))
                 OR (type = 'rec' AND detail ? 'lost')
              GROUP BY s.record_id) AS g ON g.record_id = i.subject
  LEFT JOIN classes k ON k.class_id = coalesce(c.class_id, i.detail ->> 'class')
 WHERE i.type = 'ing' AND i.success
"""

# Of what is left: the rows of a record that was destroyed, or was lost, go with it.
GONE = """
SELECT unnest(subjects) AS subject FROM history
 WHERE (success AND type IN ('del', 'tra') AND detail ? 'rule') OR (type = 'rec' AND detail ? 'lost')"""

# Which version of its object holds each: a restored or a healed one is another.
VERSIONS = """
SELECT DISTINCT ON (subject_id) subject_id, version
  FROM (SELECT unnest(subjects) AS subject_id, jsonb_array_elements_text(detail -> 'versions') AS version, position
          FROM (SELECT subjects, detail, position FROM history WHERE type = 'rec' AND detail ? 'versions' OFFSET 0) AS h
       ) AS every
 ORDER BY subject_id, position DESC"""

# When the bytes of each were last read and found whole.
_READ = """
SELECT s.subject_id, max(at) AS at, max(position) AS position FROM history, unnest(subjects) AS s (subject_id)
 WHERE type = 'fix' AND success GROUP BY s.subject_id"""

_CONTENTS = (
    """
SELECT i.subject AS record_id, decode(i.detail ->> 'sealed_sha256', 'hex') AS sealed_sha256,
       (i.detail ->> 'sealed_bytes')::bigint AS sealed_bytes, coalesce(v.version, i.detail ->> 'version') AS version,
       decode(i.detail ->> 'document', 'hex') AS commitment, coalesce(f.at, i.at) AS verified_at,
       (i.detail ->> 'run')::uuid AS run_id, (i.detail ->> 'supersedes')::uuid AS supersedes,
       coalesce(f.position, i.position) AS position
  FROM history i LEFT JOIN ({read}) AS f ON f.subject_id = i.subject
  LEFT JOIN ({versions}) AS v ON v.subject_id = i.subject
 WHERE i.type = 'ing' AND i.success AND NOT EXISTS (SELECT FROM ({gone}) AS g WHERE g.subject = i.subject)
""".replace("{gone}", GONE)
    .replace("{read}", _READ)
    .replace("{versions}", VERSIONS)
)

# A document that was released lives as long as the record that it became. One that was lost is decided by that.
_QUARANTINE = """
SELECT q.subject AS quarantine_id, (q.detail ->> 'run')::uuid AS run_id,
       CASE WHEN u.position IS NOT NULL THEN 'released' WHEN r.position IS NOT NULL OR l.position IS NOT NULL
            THEN 'rejected' ELSE 'held' END AS state,
       (q.detail ->> 'bytes')::bigint AS bytes, decode(q.detail ->> 'sealed_sha256', 'hex') AS sealed_sha256,
       (q.detail ->> 'sealed_bytes')::bigint AS sealed_bytes, coalesce(v.version, q.detail ->> 'version') AS version,
       decode(q.detail ->> 'document', 'hex') AS commitment, coalesce(f.at, q.at) AS verified_at, q.at AS recorded_at,
       coalesce(u.at, r.at, l.at) AS decided_at, coalesce(u.person, r.person, l.person) AS decided_by,
       coalesce(d.at, k.at, l.at) AS key_destroyed_at, coalesce(e.at, g.at, l.at) AS destroyed_at,
       CASE WHEN r.position IS NOT NULL THEN r.detail ->> 'reason'
            WHEN l.position IS NOT NULL AND u.position IS NULL THEN 'lost' END AS reason,
       u.subjects[2] AS record_id, (q.detail ->> 'supersedes')::uuid AS supersedes,
       coalesce(l.position, u.position, r.position, q.position) AS position
  FROM history q
  LEFT JOIN history l ON l.type = 'rec' AND l.subject = q.subject AND l.detail ->> 'lost' = 'quarantined'
  LEFT JOIN ({versions}) AS v ON v.subject_id = q.subject
  LEFT JOIN history u ON u.type = 'unq' AND u.subject = q.subject
  LEFT JOIN history r ON r.type = 'qua' AND r.subject = q.subject AND r.detail ->> 'decision' = 'reject'
  LEFT JOIN ({read}) AS f ON f.subject_id = q.subject
  LEFT JOIN (SELECT unnest(subjects) AS subject, at FROM history
              WHERE type = 'dea' AND detail ? 'proposal' AND detail ->> 'state' = 'destroying') AS d
         ON d.subject = q.subject
  LEFT JOIN (SELECT unnest(subjects) AS subject, at FROM history
              WHERE type = 'del' AND detail ->> 'document' = 'rejected') AS e ON e.subject = q.subject
  LEFT JOIN (SELECT unnest(subjects) AS subject, at FROM history
              WHERE type = 'dea' AND detail ->> 'state' = 'key-destroyed') AS k ON k.subject = u.subjects[2]
  LEFT JOIN (SELECT subject, at FROM history
              WHERE success AND type IN ('del', 'tra') AND detail ? 'rule') AS g ON g.subject = u.subjects[2]
 WHERE q.type = 'qua' AND q.detail ? 'sealed_sha256'
""".replace("{read}", _READ).replace("{versions}", VERSIONS)

_RUN_ITEMS = """
SELECT (detail ->> 'run')::uuid AS run_id, (detail ->> 'batch')::integer AS batch, (detail ->> 'item')::integer AS item,
       CASE WHEN type = 'qua' THEN 'quarantined' WHEN success THEN 'admitted' ELSE 'rejected' END AS outcome,
       subject AS subject_id, position
  FROM history WHERE type IN ('ing', 'qua') AND detail ? 'item'
"""

_FINDINGS = """
SELECT h.subject AS subject_id, f.code, f.severity, h.position
  FROM history h, jsonb_each_text(h.detail -> 'findings') AS f (code, severity)
 WHERE h.type IN ('ing', 'qua') AND h.detail ? 'findings'
   AND NOT EXISTS (SELECT FROM ({gone}) AS g WHERE g.subject = h.subject)
   AND NOT EXISTS (SELECT FROM quarantine q WHERE q.quarantine_id = h.subject AND q.key_destroyed_at IS NOT NULL)
""".replace("{gone}", GONE)

_RUNS = """
SELECT s.subject AS run_id, (s.detail ->> 'source')::uuid AS source_id,
       (s.detail ->> 'schedule')::integer AS schedule_version, s.at AS started_at, e.at AS ended_at,
       CASE WHEN e.position IS NULL THEN 'running' WHEN e.success THEN 'complete' ELSE 'interrupted' END AS state,
       (e.detail ->> 'discovered')::bigint AS discovered, (e.detail ->> 'admitted')::bigint AS admitted,
       (e.detail ->> 'quarantined')::bigint AS quarantined, (e.detail ->> 'rejected')::bigint AS rejected,
       (e.detail ->> 'known')::bigint AS known, (e.detail ->> 'children')::bigint AS children,
       (e.detail ->> 'deferred')::bigint AS deferred, (e.detail ->> 'bytes')::bigint AS bytes,
       decode(e.detail ->> 'reconciliation', 'hex') AS reconciliation, coalesce(e.position, s.position) AS position
  FROM history s LEFT JOIN history e ON e.type = 'ine' AND e.subject = s.subject AND e.detail ? 'run'
 WHERE s.type = 'ins'
"""

# Its batches, all of them: the end of a run has their digest; empty where it had none.
_BATCHES = """
SELECT subject AS run_id, nullif(decode(detail ->> 'batches', 'hex'), sha256('')) AS batches, position
  FROM history WHERE type = 'ine' AND detail ? 'run'
"""
_BATCHES_FOUND = "SELECT r.run_id, nullif({b}, sha256('')) AS batches FROM runs r WHERE r.state <> 'running'".replace(
    "{b}", BATCHES
)

# One that was emptied, and lost its key, is opened again when a record comes into it: its row stays the first.
_AGGREGATIONS = """
SELECT DISTINCT ON (subject) subject AS aggregation_id, at AS recorded_at, detail ->> 'aggregation' AS kind, position
  FROM history WHERE type = 'cre' AND detail ? 'aggregation'
 ORDER BY subject, position
"""

_AGGREGATION_CHANGES = """
SELECT a.subjects[1] AS record_id, a.at AS recorded_at,
       lag((a.detail ->> 'to')::uuid, 1, (i.detail ->> 'aggregation')::uuid)
           OVER (PARTITION BY a.subjects[1] ORDER BY a.position) AS from_aggregation,
       (a.detail ->> 'to')::uuid AS to_aggregation, coalesce(a.person, a.agent) AS recorded_by, a.position
  FROM history a JOIN history i ON i.type = 'ing' AND i.success AND i.subject = a.subjects[1]
 WHERE a.type = 'mem' AND a.detail ->> 'aggregation' = 'assigned'
"""

_SCHEDULES = """
SELECT (detail ->> 'schedule')::integer AS version, decode(detail ->> 'digest', 'hex') AS digest,
       at AS loaded_at, person AS loaded_by, decode(detail ->> 'digest', 'hex') AS of_document, position
  FROM history WHERE type = 'poa' AND detail ? 'schedule' AND detail ? 'digest' AND detail ? 'classes'
"""


def _columns(names: str) -> tuple[str, ...]:
    return tuple(names.split())


_SUBJECTS = """
SELECT DISTINCT s.subject_id, h.position FROM history h, unnest(h.subjects) AS s (subject_id)
"""

PROJECTIONS = (
    Projection("event_subjects", ("subject_id", "position"), (), _SUBJECTS),
    Projection(
        "records",
        ("record_id",),
        _columns("aggregation_id bytes recorded_at received document_date modified tagged class_key state parent_id"),
        _RECORDS,
        elsewhere={"special": "what makes a record special must find it marked: verification.check_marks"},
    ),
    Projection(
        "contents",
        ("record_id",),
        _columns("sealed_sha256 sealed_bytes version commitment verified_at run_id supersedes"),
        _CONTENTS,
        elsewhere={"content": _LINE},
    ),
    Projection(
        "quarantine",
        ("quarantine_id",),
        _columns(
            "run_id state bytes sealed_sha256 sealed_bytes version commitment verified_at recorded_at decided_at "
            "decided_by reason record_id supersedes key_destroyed_at destroyed_at"
        ),
        _QUARANTINE,
    ),
    Projection("run_items", ("run_id", "batch", "item"), _columns("outcome subject_id"), _RUN_ITEMS),
    Projection("findings", ("subject_id", "code"), _columns("severity"), _FINDINGS),
    Projection(
        "runs",
        ("run_id",),
        _columns(
            "source_id schedule_version started_at ended_at state discovered admitted quarantined rejected known "
            "children deferred bytes reconciliation"
        ),
        _RUNS,
    ),
    Projection(
        "run_batches",
        ("run_id",),
        ("batches",),
        _BATCHES,
        found=_BATCHES_FOUND,
        elsewhere=dict.fromkeys(
            _columns("batch committed_at admitted quarantined rejected known children bytes expectations known_ids"),
            "the digest of all batches of a run, once it has ended",
        ),
    ),
    Projection("aggregations", ("aggregation_id",), _columns("recorded_at kind"), _AGGREGATIONS),
    Projection(
        "aggregation_changes",
        ("record_id", "recorded_at"),
        _columns("from_aggregation to_aggregation recorded_by"),
        _AGGREGATION_CHANGES,
    ),
    Projection(
        "schedule_versions",
        ("version",),
        _columns("digest loaded_at loaded_by of_document"),
        _SCHEDULES,
        found="SELECT *, sha256(convert_to(document, 'UTF8')) AS of_document FROM schedule_versions",
        elsewhere={
            "document": "its digest, of_document",
            "open_classes": "the document once more: verification.check_open_classes",
        },
    ),
)
