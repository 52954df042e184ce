"""Holds, what happened to records and case files, suspensions, requests: see `retention.verification.tables`."""

from __future__ import annotations

from retention.verification.tables import Projection

# A hold is placed once; placing it again takes in what came meanwhile.
_HOLDS = """
SELECT p.subject AS hold_id, p.at AS recorded_at, coalesce(p.person, p.agent) AS recorded_by, r.at AS released_at,
       p.detail ->> 'mode' AS mode, coalesce(v.review_on, (p.detail ->> 'review_on')::date) AS review_on,
       coalesce(r.person, r.agent) AS released_by, coalesce(r.position, v.position, p.position) AS position
  FROM (SELECT DISTINCT ON (subject) * FROM history WHERE type = 'poa' AND detail ? 'hold' AND detail ? 'mode'
         ORDER BY subject, position) AS p
  LEFT JOIN (SELECT DISTINCT ON (subject) subject, (detail ->> 'review_on')::date AS review_on, position FROM history
              WHERE type = 'poa' AND detail ? 'hold' AND detail ? 'was' ORDER BY subject, position DESC) AS v
         ON v.subject = p.subject
  LEFT JOIN history r ON r.type = 'poa' AND r.subject = p.subject AND r.detail ? 'hold' AND r.detail ? 'released'
"""

# Who came under a hold, and until when: its release, or the release from quarantine of a document, whose records the
# hold then has. A document in quarantine and a record differ by the event that they came in with.
_JOINED = """
SELECT j.hold_id, j.subject_id, j.at AS recorded_at, coalesce(u.at, r.at) AS released_at,
       q.subject IS NOT NULL AS apart, coalesce(u.position, r.position, j.position) AS position
  FROM (SELECT DISTINCT ON (hold_id, subject_id) hold_id, subject_id, at, position
          FROM (SELECT subject AS hold_id, unnest(subjects[2:]) AS subject_id, at, position FROM history
                 WHERE type = 'poa' AND success AND detail ? 'hold'
                   AND (detail ? 'arrived' OR detail ? 'held')) AS every
         ORDER BY hold_id, subject_id, position) AS j
  LEFT JOIN (SELECT subject, at, position FROM history
              WHERE type = 'poa' AND detail ? 'hold' AND detail ? 'released') AS r ON r.subject = j.hold_id
  LEFT JOIN (SELECT subject FROM history WHERE type = 'qua' AND detail ? 'sealed_sha256') AS q
         ON q.subject = j.subject_id
  LEFT JOIN (SELECT subject, at, position FROM history WHERE type = 'unq') AS u
         ON u.subject = j.subject_id AND (r.position IS NULL OR u.position < r.position)
"""


def _members(condition: str, subject: str) -> str:
    query = "SELECT hold_id, subject_id AS {s}, recorded_at, released_at, position FROM ({j}) AS j WHERE {c}"
    return query.replace("{s}", subject).replace("{j}", _JOINED).replace("{c}", condition)


# When a record or a case file went last: its events and suspensions went with it. A case file may be opened again, and
# what is said of it then stands.
_GONE = """
SELECT subject, max(position) AS position
  FROM (SELECT unnest(subjects) AS subject, position FROM history
         WHERE success AND ((type IN ('del', 'tra') AND detail ? 'rule')
                            OR (type = 'del' AND detail ->> 'aggregation' = 'empty'))) AS every
 GROUP BY subject"""

TRIGGER_EVENTS = """
SELECT (t.detail ->> 'trigger_event')::uuid AS trigger_event_id, t.subject AS subject_id, k.ordinal AS kind,
       t.at AS recorded_at, coalesce(t.person, t.agent) AS recorded_by, (t.detail ->> 'retracts')::uuid AS retracts,
       t.position
  FROM history t
  LEFT JOIN history o ON o.type = 'mem' AND o.detail ->> 'trigger_event' = t.detail ->> 'retracts'
  LEFT JOIN trigger_kinds k ON k.kind = coalesce(t.detail ->> 'kind', o.detail ->> 'kind')
  LEFT JOIN ({gone}) AS g ON g.subject = t.subject
 WHERE t.type = 'mem' AND t.detail ? 'trigger_event' AND (g.position IS NULL OR g.position < t.position)
""".replace("{gone}", _GONE)

# As retention.triggers.rows keeps it: what the events of each subject, which are compared too, make current.
_CURRENT = """
WITH live AS (
    SELECT e.subject_id, k.kind, max(e.effective) AS latest, min(e.effective) AS earliest
      FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
     WHERE e.retracts IS NULL AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
     GROUP BY 1, 2
), places AS (
    SELECT l.subject_id, k.ordinal, CASE WHEN k.kind = l.kind THEN l.latest ELSE l.earliest END AS day
      FROM live l JOIN trigger_kinds k ON k.kind IN (l.kind, l.kind || ':first')
)
SELECT s.subject_id, array_agg(p.day ORDER BY g.n) AS dates, NULL::bigint AS position
  FROM (SELECT subject_id, max(ordinal) AS most FROM places GROUP BY 1) AS s
 CROSS JOIN LATERAL generate_series(1, s.most) AS g (n)
  LEFT JOIN places p ON p.subject_id = s.subject_id AND p.ordinal = g.n
 GROUP BY 1
"""

_SUSPENSIONS = """
SELECT (s.detail ->> 'suspension')::uuid AS suspension_id, s.subject AS subject_id,
       (s.detail ->> 'starts')::date AS starts, (e.detail ->> 'ends')::date AS ends, s.at AS recorded_at,
       coalesce(s.person, s.agent) AS recorded_by, s.detail ->> 'reason' AS reason, e.at AS ended_recorded_at,
       coalesce(e.person, e.agent) AS ended_by, coalesce(e.position, s.position) AS position
  FROM history s
  LEFT JOIN history e ON e.type = 'mem' AND e.detail ->> 'suspension' = s.detail ->> 'suspension' AND e.detail ? 'ends'
  LEFT JOIN ({gone}) AS g ON g.subject = s.subject
 WHERE s.type = 'mem' AND s.detail ? 'suspension' AND s.detail ? 'starts'
   AND (g.position IS NULL OR g.position < s.position)
""".replace("{gone}", _GONE)

_REQUESTS = """
SELECT q.subject AS request_id, q.detail ->> 'kind' AS kind, q.detail ->> 'finds' AS finds,
       q.subjects[2] AS subject_id, q.detail ->> 'ground' AS ground, (q.detail ->> 'received')::date AS received,
       q.at AS recorded_at, coalesce(q.person, q.agent) AS recorded_by,
       coalesce((x.detail ->> 'due_on')::date, (q.detail ->> 'due_on')::date) AS due_on, x.at AS extended_at,
       x.detail ->> 'reason' AS extension, coalesce(a.at, l.at) AS answered_at, l.at AS lifted_at,
       coalesce(l.position, a.position, x.position, q.position) AS position
  FROM history q
  LEFT JOIN history x ON x.type = 'poa' AND x.subject = q.subject AND x.detail ? 'request' AND x.detail ? 'reason'
  LEFT JOIN history a ON a.type = 'poa' AND a.subject = q.subject AND a.detail ? 'request' AND a.detail ? 'answered'
  LEFT JOIN history l ON l.type = 'poa' AND l.subject = q.subject AND l.detail ? 'request' AND l.detail ? 'lifted'
 WHERE q.type = 'poa' AND q.detail ? 'request' AND q.detail ? 'finds'
"""

# What was said last of each record; `day`: the keyed code of the day, which PostgreSQL cannot reckon (sealed).
ANSWERED = """
SELECT request_id, record_id, answer, reason, citation, about, day, position
  FROM (SELECT DISTINCT ON (request_id, record_id) *
          FROM (SELECT subject AS request_id, unnest(subjects[2:]) AS record_id, detail ->> 'answer' AS answer,
                       detail ->> 'reason' AS reason, detail ->> 'citation' AS citation,
                       (detail ->> 'about')::boolean AS about,
                       jsonb_array_elements_text(coalesce(detail -> 'until', '[]')) AS day, position
                  FROM history
                 WHERE type = 'app' AND detail ? 'request' AND (detail ? 'answer' OR detail ? 'withdrawn')) AS every
         ORDER BY request_id, record_id, position DESC) AS newest
 WHERE answer IS NOT NULL
"""

_RESTRICTIONS = """
SELECT record_id, request_id, at AS recorded_at, position
  FROM (SELECT DISTINCT ON (record_id, request_id) *
          FROM (SELECT unnest(subjects[2:]) AS record_id, (detail ->> 'request')::uuid AS request_id, at, position,
                       (detail ->> 'restricted')::boolean AS restricted
                  FROM history WHERE type = 'poa' AND detail ? 'request' AND detail ? 'restricted') AS every
         ORDER BY record_id, request_id, position DESC) AS newest
 WHERE restricted
"""

_BACKUP_VAULTS = """
SELECT j.name, j.at AS joined_at, l.at AS left_at, coalesce(l.position, j.position) AS position
  FROM (SELECT DISTINCT ON (name) name, at, position
          FROM (SELECT detail ->> 'backup_vault' AS name, at, position FROM history
                 WHERE type = 'poa' AND detail ? 'joined' AND (detail ->> 'joined')::boolean) AS every
         ORDER BY name, position DESC) AS j
  LEFT JOIN (SELECT detail ->> 'backup_vault' AS name, at, position FROM history
              WHERE type = 'poa' AND detail ? 'joined' AND NOT (detail ->> 'joined')::boolean) AS l
         ON l.name = j.name AND l.position > j.position
"""

_RECOVERY_POINTS = """
SELECT (t.detail ->> 'point')::uuid AS point_id, t.detail ->> 'backup_vault' AS vault,
       (t.detail ->> 'taken')::timestamptz AS taken_at, (t.detail ->> 'size')::bigint AS size,
       (t.detail ->> 'objects')::bigint AS objects, (t.detail ->> 'bytes')::bigint AS bytes, c.at AS checked_at,
       c.whole, p.at AS pruned_at, coalesce(p.position, c.position, t.position) AS position
  FROM history t
  LEFT JOIN (SELECT DISTINCT ON (point_id) point_id, whole, at, position
               FROM (SELECT jsonb_array_elements_text(detail -> 'whole') AS point_id, true AS whole, at, position
                       FROM history WHERE type = 'fix' AND detail ? 'backup_vault'
                      UNION ALL
                     SELECT jsonb_array_elements_text(detail -> 'broken'), false, at, position
                       FROM history WHERE type = 'fix' AND detail ? 'backup_vault') AS every
              ORDER BY point_id, position DESC) AS c ON c.point_id = t.detail ->> 'point'
  LEFT JOIN (SELECT DISTINCT ON (point_id) point_id, at, position
               FROM (SELECT jsonb_array_elements_text(detail -> 'pruned') AS point_id, at, position
                       FROM history WHERE type = 'poa' AND detail ? 'backup_vault' AND detail ? 'pruned') AS every
              ORDER BY point_id, position) AS p ON p.point_id = t.detail ->> 'point'
 WHERE t.type = 'rep' AND t.detail ? 'point'
"""

_DRILLS = """
SELECT (detail ->> 'drill')::uuid AS drill_id, detail ->> 'backup_vault' AS vault,
       (detail ->> 'point')::uuid AS point_id, at AS ended_at, (detail ->> 'milliseconds')::bigint AS milliseconds,
       (detail ->> 'records')::bigint AS records, (detail ->> 'objects')::bigint AS objects,
       (detail ->> 'lost')::bigint AS lost, (detail ->> 'resurrected')::bigint AS resurrected,
       (detail ->> 'problems')::bigint AS problems, (detail ->> 'late')::bigint AS late, success AS ok, position
  FROM history WHERE type = 'rec' AND detail ? 'drill'
"""

_REPLACED_BUCKETS = """
SELECT r.bucket_id, (r.detail ->> 'by')::uuid AS replaced_by, (r.detail ->> 'keys')::bigint AS keys,
       r.at AS replaced_at, d.at AS dropped_at, coalesce(d.position, r.position) AS position
  FROM (SELECT DISTINCT ON (subject) subject AS bucket_id, detail, at, position FROM history
         WHERE type = 'enc' AND detail ? 'keys' ORDER BY subject, position DESC) AS r
  LEFT JOIN (SELECT DISTINCT ON (bucket_id) bucket_id, at, position
               FROM (SELECT unnest(subjects) AS bucket_id, at, position FROM history
                      WHERE type = 'del' AND detail ? 'bucket_keys') AS every
              ORDER BY bucket_id, position DESC) AS d ON d.bucket_id = r.bucket_id AND d.position > r.position
"""

_KEY_OBJECTS = """
SELECT r.detail ->> 'key_object' AS object_key, r.subjects, decode(r.detail ->> 'sha256', 'hex') AS sha256,
       r.detail ->> 'mode' AS mode, (r.detail ->> 'until')::timestamptz AS until, r.at AS made_at, r.position
  FROM history r
 WHERE r.type = 'rep' AND r.detail ? 'key_object'
   AND NOT EXISTS (SELECT FROM history d
                    WHERE d.type = 'del' AND d.detail ->> 'key_object' = r.detail ->> 'key_object')
"""

_LEDGER_KEYS = """
SELECT row_number() OVER (ORDER BY position)::integer AS number, split_part(detail ->> 'vkey', '+', 1) AS origin,
       detail ->> 'vkey' AS vkey, at AS recorded_at, position
  FROM history WHERE type = 'dsg' AND detail ->> 'what' = 'ledger-key'
"""

# A record's own class is in `records`; nothing gives it another one beside yet.
_NOTHING = (
    "SELECT NULL::uuid AS record_id, NULL::smallint AS class_key, NULL::timestamptz AS recorded_at, 0 AS position"
)


def _columns(names: str) -> tuple[str, ...]:
    return tuple(names.split())


PROJECTIONS = (
    Projection(
        "holds",
        ("hold_id",),
        _columns("recorded_at recorded_by released_at mode review_on released_by"),
        _HOLDS,
    ),
    Projection(
        "hold_members",
        ("record_id", "hold_id"),
        ("recorded_at",),
        _members("released_at IS NULL AND NOT apart", "record_id"),
    ),
    Projection(
        "hold_quarantined",
        ("quarantine_id", "hold_id"),
        ("recorded_at",),
        _members("released_at IS NULL AND apart", "quarantine_id"),
    ),
    Projection(
        "hold_members_released",
        ("record_id", "hold_id"),
        _columns("recorded_at released_at"),
        _members("released_at IS NOT NULL", "record_id"),
    ),
    Projection(
        "hold_flags",
        ("subject_id",),
        (),
        "SELECT subject_id, max(position) AS position FROM ({joined}) AS j WHERE released_at IS NULL AND NOT EXISTS "
        "(SELECT FROM history l WHERE l.type = 'rec' AND l.detail ? 'lost' AND j.subject_id = ANY (l.subjects)) "
        "GROUP BY 1".replace("{joined}", _JOINED),
        found="SELECT subject_id FROM hold_flags WHERE wanted",
        elsewhere=dict.fromkeys(
            _columns("wanted actual queued_at read_back_at attempts error"),
            "a flag is wanted or its row is missing; what the vault has: vault reconcile",
        ),
    ),
    Projection(
        "trigger_events",
        ("trigger_event_id",),
        _columns("subject_id kind recorded_at recorded_by retracts"),
        TRIGGER_EVENTS,
        elsewhere={"effective": "the sealed line (sealed): a birth is a date, and no event has it"},
    ),
    Projection("current_triggers", ("subject_id",), ("dates",), _CURRENT),
    Projection(
        "suspensions",
        ("suspension_id",),
        _columns("subject_id starts ends recorded_at recorded_by reason ended_recorded_at ended_by"),
        _SUSPENSIONS,
    ),
    Projection(
        "requests",
        ("request_id",),
        _columns(
            "kind finds subject_id ground received recorded_at recorded_by due_on extended_at extension answered_at "
            "lifted_at"
        ),
        _REQUESTS,
    ),
    Projection(
        "request_answers",
        ("request_id", "record_id"),
        _columns("answer reason citation about"),
        ANSWERED,
        elsewhere={"until": "the keyed code in the event (sealed): it may tell a day of birth"},
    ),
    Projection("restrictions", ("record_id", "request_id"), ("recorded_at",), _RESTRICTIONS),
    Projection("backup_vaults", ("name",), _columns("joined_at left_at"), _BACKUP_VAULTS),
    Projection(
        "recovery_points",
        ("point_id",),
        _columns("vault taken_at size objects bytes checked_at whole pruned_at"),
        _RECOVERY_POINTS,
    ),
    Projection(
        "drills",
        ("drill_id",),
        _columns("vault point_id ended_at milliseconds records objects lost resurrected problems late ok"),
        _DRILLS,
    ),
    Projection(
        "replaced_buckets", ("bucket_id",), _columns("replaced_by keys replaced_at dropped_at"), _REPLACED_BUCKETS
    ),
    Projection(
        "key_objects",
        ("object_key",),
        _columns("subjects sha256 mode until made_at"),
        _KEY_OBJECTS,
        elsewhere={"locked_at": "what the nightly run notes for itself: the vault is asked for the lock"},
    ),
    Projection(
        "ledger_keys",
        ("number",),
        _columns("origin vkey recorded_at"),
        _LEDGER_KEYS,
        elsewhere={"kept_in": "where the private half is: a path of this workspace"},
    ),
    Projection("record_labels", ("record_id", "class_key"), ("recorded_at",), f"{_NOTHING} LIMIT 0"),
)
