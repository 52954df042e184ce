"""What people decided and what was done of it, as the events of proposals and plans tell it: see
`retention.verification.tables`.

A text that stands in no event (statement, payload, signature, name of a stage) is compared by its SHA-256."""

from __future__ import annotations

from retention.verification.capture import GONE, VERSIONS
from retention.verification.tables import Projection

_PROPOSALS = """
SELECT p.subject AS proposal_id, p.detail ->> 'kind' AS kind, coalesce(e.detail ->> 'state', 'open') AS state,
       p.at AS proposed_at, coalesce(p.person, p.agent) AS proposed_by,
       p.at + make_interval(hours => 24 * (p.detail ->> 'days')::integer) AS expires_at,
       decode(coalesce(p.detail ->> 'statement_sha256', w.detail ->> 'statement_sha256'), 'hex') AS statement,
       decode(coalesce(p.detail ->> 'statement_sha256', w.detail ->> 'statement_sha256'), 'hex') AS digest,
       decode(p.detail ->> 'payload_sha256', 'hex') AS payload,
       coalesce((w.detail ->> 'needed')::smallint, 2::smallint) AS signers_needed,
       s.people[1] AS first_signer, s.people[2] AS second_signer, s.people[3] AS third_signer, e.at AS decided_at,
       coalesce(e.position, s.position, w.position, p.position) AS position
  FROM history p
  LEFT JOIN history w ON w.type = 'app' AND w.detail ? 'decisions_sha256' AND w.subject = p.subject
  LEFT JOIN (SELECT subject, array_agg((detail ->> 'signer')::uuid ORDER BY position) AS people,
                    max(position) AS position
               FROM history WHERE type = 'dig' AND detail ? 'signer' GROUP BY subject) AS s ON s.subject = p.subject
  LEFT JOIN history e ON e.type = 'poa' AND e.detail ? 'proposal' AND e.subject = p.subject
                     AND e.detail ->> 'state' IN ('approved', 'withdrawn', 'expired')
 WHERE p.type = 'poa' AND p.detail ? 'proposal' AND p.detail ->> 'state' = 'proposed'
"""
_PROPOSALS_FOUND = """
SELECT proposal_id, kind, state, proposed_at, proposed_by, expires_at, digest,
       sha256(convert_to(statement, 'UTF8')) AS statement, sha256(convert_to(payload, 'UTF8')) AS payload,
       signers_needed, first_signer, second_signer, third_signer, decided_at
  FROM proposals
"""

_SIGNATURES = """
SELECT subject AS proposal_id, (detail ->> 'signer')::uuid AS person_id,
       decode(detail ->> 'statement_sha256', 'hex') AS digest,
       decode(detail ->> 'signature_sha256', 'hex') AS signature, at AS signed_at, position
  FROM history WHERE type = 'dig' AND detail ? 'signer'
"""
_SIGNATURES_FOUND = "SELECT proposal_id, person_id, digest, sha256(signature) AS signature, signed_at FROM signatures"

_APPROVERS = """
SELECT e.subject AS person_id, e.detail ->> 'key' AS public_key, e.at AS enrolled_at,
       (e.detail ->> 'by')::uuid AS enrolled_by, r.at AS revoked_at, coalesce(r.position, e.position) AS position
  FROM history e
  LEFT JOIN history r ON r.type = 'poa' AND r.detail ? 'approver' AND r.detail ->> 'state' = 'revoked'
                     AND r.subject = e.subject
 WHERE e.type = 'poa' AND e.detail ? 'approver' AND e.detail ->> 'state' = 'enrolled'
"""
# The fingerprint of OpenSSH: of the key with its name before it, each with its length (RFC 4253, section 6.6).
_APPROVERS_FOUND = r"""
SELECT person_id, enrolled_at, enrolled_by, revoked_at,
       'SHA256:' || rtrim(encode(sha256(named || public_key), 'base64'), '=') AS public_key
  FROM approvers, (VALUES ('\x0000000b7373682d6564323535313900000020'::bytea)) AS x (named)
"""

_PLANS = """
SELECT p.subject AS plan_id, (p.detail ->> 'as_of')::date AS as_of, (p.detail ->> 'schedule')::integer AS
       schedule_version, (p.detail ->> 'items')::bigint AS items, (p.detail ->> 'bytes')::bigint AS bytes,
       decode(p.detail ->> 'list_sha256', 'hex') AS digest,
       ARRAY(SELECT jsonb_array_elements_text(coalesce(w.detail, p.detail) -> 'over_limit')) AS over_limit,
       s.at AS started_at, e.at AS ended_at, (e.detail ->> 'certificate')::uuid AS certificate_id,
       coalesce(e.position, s.position, w.position, p.position) AS position
  FROM history p
  LEFT JOIN history w ON w.type = 'app' AND w.detail ? 'decisions_sha256' AND w.subject = p.subject
  LEFT JOIN history s ON s.type = 'poa' AND s.detail ->> 'state' = 'executing' AND s.subject = p.subject
  LEFT JOIN history e ON e.type = 'poa' AND e.detail ->> 'state' = 'executed' AND e.subject = p.subject
 WHERE p.type = 'app' AND p.detail ? 'list_sha256'
"""

# The items of plans as they were proposed; `unit_id` where it is not the record itself. Lists are unnested in what is
# selected, side by side: as LATERAL, the planner would join each event's by itself. OFFSET 0: each detail is read once,
# not for each of its items.
_PROPOSED = """
SELECT plan_id, unnest(records) AS record_id, jsonb_array_elements_text(units)::uuid AS unit_id, class_id, action,
       rule_id, retain_until, position
  FROM (SELECT (detail ->> 'plan')::uuid AS plan_id, subjects[2:] AS records, detail -> 'units' AS units,
               detail ->> 'class' AS class_id, detail ->> 'action' AS action, detail ->> 'rule' AS rule_id,
               (detail ->> 'retain_until')::date AS retain_until, position
          FROM history WHERE type = 'app' AND detail ? 'retain_until' OFFSET 0) AS h
"""

# The last decision on each.
_DECIDED = """
SELECT DISTINCT ON (plan_id, record_id) plan_id, record_id, decision, reason, not_before, to_class, stage, at, by,
       position
  FROM (SELECT subjects[1] AS plan_id, unnest(subjects[2:]) AS record_id, detail ->> 'decision' AS decision,
               detail ->> 'reason' AS reason, (detail ->> 'not_before')::date AS not_before,
               detail ->> 'to_class' AS to_class, (detail ->> 'stage')::smallint AS stage, at,
               coalesce(person, agent) AS by, position
          FROM history WHERE type = 'app' AND detail ? 'decision') AS d
 ORDER BY plan_id, record_id, position DESC
"""

# How plans ended that were not executed, or that they were approved.
_ENDED = """
SELECT subject AS plan_id, detail ->> 'state' AS state, at, coalesce(person, agent) AS by, position
  FROM history WHERE type = 'poa' AND detail ? 'proposal' AND detail ->> 'state' IN ('approved', 'withdrawn', 'expired')
"""

_PLAN_ITEMS = (
    """
SELECT p.plan_id, p.record_id, coalesce(p.unit_id, p.record_id) AS unit_id, k.class_key,
       (i.detail ->> 'bytes')::bigint AS bytes, p.action, p.rule_id, p.retain_until,
       coalesce(d.stage, 0::smallint) AS stage, d.decision, d.reason, d.not_before,
       t.class_key AS to_class, d.at AS decided_at, d.by AS decided_by,
       coalesce(x.at, e.at) IS NULL AS open,
       CASE WHEN x.outcome IS NOT NULL THEN x.outcome WHEN e.state <> 'approved' THEN 'plan-' || e.state
            WHEN e.state IS NULL THEN NULL WHEN d.decision = 'extend' THEN 'extended'
            WHEN d.decision = 'hold' THEN 'held' ELSE 'relabelled' END AS outcome,
       coalesce(x.at, e.at) AS ended_at, coalesce(x.position, e.position, d.position, p.position) AS position
  FROM ({proposed}) AS p
  LEFT JOIN history i ON i.type = 'ing' AND i.success AND i.subject = p.record_id
  LEFT JOIN ({decided}) AS d ON d.plan_id = p.plan_id AND d.record_id = p.record_id
  LEFT JOIN (SELECT (detail ->> 'plan')::uuid AS plan_id, unnest(subjects) AS record_id,
                    coalesce(detail ->> 'kept', detail ->> 'outcome') AS outcome, at, position
               FROM history
              WHERE (type = 'app' AND detail ? 'plan' AND detail ? 'kept')
                 OR (type IN ('del', 'tra') AND detail ? 'plan' AND detail ? 'outcome')) AS x
         ON x.plan_id = p.plan_id AND x.record_id = p.record_id
  LEFT JOIN ({ended}) AS e ON e.plan_id = p.plan_id AND (e.state <> 'approved' OR d.decision <> 'approve')
  LEFT JOIN classes k ON k.class_id = p.class_id
  LEFT JOIN classes t ON t.class_id = d.to_class
""".replace("{proposed}", _PROPOSED)
    .replace("{decided}", _DECIDED)
    .replace("{ended}", _ENDED)
)

_PLAN_STAGES = """
SELECT b.subject AS plan_id, k.class_key, (b.detail ->> 'stage')::smallint AS stage,
       decode(b.detail ->> 'name_sha256', 'hex') AS name, b.at AS began_at, e.at AS ended_at,
       coalesce((e.detail ->> 'lapsed')::boolean, false) AS lapsed, coalesce(e.position, b.position) AS position
  FROM history b
  LEFT JOIN history e ON e.type = 'app' AND e.detail ? 'lapsed' AND e.subject = b.subject
                     AND e.detail ->> 'class' = b.detail ->> 'class' AND e.detail ->> 'stage' = b.detail ->> 'stage'
  LEFT JOIN classes k ON k.class_id = b.detail ->> 'class'
 WHERE b.type = 'app' AND b.detail ? 'name_sha256'
"""
_PLAN_STAGES_FOUND = """
SELECT plan_id, class_key, stage, sha256(convert_to(name, 'UTF8')) AS name, began_at, ended_at, lapsed FROM plan_stages
"""

_PLAN_REMAINS = """
SELECT subjects[1] AS plan_id, detail ->> 'remains' AS kind, unnest(subjects[2:]) AS remains_id, position
  FROM history WHERE type = 'dea' AND detail ? 'remains'
"""

_TRANSFERS = """
SELECT b.plan_id, b.bag_digest, b.at AS written_at, decode(a.detail ->> 'acknowledgement_sha256', 'hex') AS
       acknowledgement, a.at AS acknowledged_at, (a.detail ->> 'acknowledgement')::uuid AS receipt_id,
       g.at AS given_up_at, coalesce(g.position, a.position, b.position) AS position
  FROM (SELECT DISTINCT ON (plan_id) right(detail ->> 'package', 36)::uuid AS plan_id,
               decode(detail ->> 'digest', 'hex') AS bag_digest, at, position
          FROM history WHERE type = 'ipc' AND detail ->> 'package' LIKE 'muniment-transfer-%'
         ORDER BY plan_id, position) AS b
  LEFT JOIN history a ON a.type = 'tra' AND a.detail ? 'acknowledgement_sha256' AND a.subject = b.plan_id
  LEFT JOIN history g ON g.type = 'poa' AND g.detail ->> 'transfer' = 'given-up' AND g.subject = b.plan_id
"""

# The case file is the one that it was put into last: what is being destroyed is put into none.
_TOMBSTONES = """
SELECT t.record_id, k.class_key, coalesce(a.case_file, (i.detail ->> 'aggregation')::uuid) AS aggregation_id,
       (i.detail ->> 'received')::date AS received, decode(i.detail ->> 'sealed_sha256', 'hex') AS sealed_sha256,
       (i.detail ->> 'sealed_bytes')::bigint AS sealed_bytes, p.rule_id, p.retain_until,
       CASE p.action WHEN 'transfer' THEN 'transferred' ELSE 'destroyed' END AS outcome, t.plan_id, t.at AS ended_at,
       t.annex_id, t.position
  FROM (SELECT plan_id, unnest(records) AS record_id, jsonb_array_elements_text(annexes)::uuid AS annex_id, at, position
          FROM (SELECT (detail ->> 'plan')::uuid AS plan_id, subjects AS records, detail -> 'annexes' AS annexes, at,
                       position
                  FROM history WHERE type = 'dea' AND detail ->> 'state' = 'key-destroyed' OFFSET 0) AS h) AS t
  LEFT JOIN history i ON i.type = 'ing' AND i.success AND i.subject = t.record_id
  LEFT JOIN (SELECT DISTINCT ON (subjects[1]) subjects[1] AS record_id, (detail ->> 'to')::uuid AS case_file
               FROM history WHERE type = 'mem' AND detail ->> 'aggregation' = 'assigned'
              ORDER BY subjects[1], position DESC) AS a ON a.record_id = t.record_id
  LEFT JOIN ({proposed}) AS p ON p.plan_id = t.plan_id AND p.record_id = t.record_id
  LEFT JOIN classes k ON k.class_id = p.class_id
""".replace("{proposed}", _PROPOSED)

# Of what was decided to be relabelled, that which was not in that class already.
_CLASS_CHANGES = """
SELECT record_id, recorded_at, f.class_key AS from_class, t.class_key AS to_class, recorded_by, plan_id, position
  FROM (SELECT c.record_id, c.at AS recorded_at,
               lag(c.class_id, 1, i.detail ->> 'class') OVER (PARTITION BY c.record_id ORDER BY c.position) AS from_id,
               c.class_id AS to_id, c.by AS recorded_by, c.plan_id, c.position
          FROM (SELECT unnest(subjects) AS record_id, at, detail ->> 'class' AS class_id,
                       (detail ->> 'plan')::uuid AS plan_id, coalesce(person, agent) AS by, position
                  FROM history WHERE type = 'mem' AND detail ? 'plan' AND detail ? 'class') AS c
          LEFT JOIN history i ON i.type = 'ing' AND i.success AND i.subject = c.record_id) AS x
  LEFT JOIN classes f ON f.class_id = from_id
  LEFT JOIN classes t ON t.class_id = to_id
 WHERE from_id IS DISTINCT FROM to_id
"""

_EXTENSIONS = """
SELECT d.record_id, e.at AS recorded_at, d.not_before, d.reason, e.by AS recorded_by, d.plan_id, e.position
  FROM ({decided}) AS d JOIN ({ended}) AS e USING (plan_id)
 WHERE d.decision = 'extend' AND e.state = 'approved'
""".replace("{decided}", _DECIDED).replace("{ended}", _ENDED)

_NOTICES = """
SELECT unnest(subjects) AS record_id, (detail ->> 'retain_until')::date AS retain_until, at AS notified_at, position
  FROM history WHERE type = 'poa' AND detail ? 'notice'
"""

# The longest that was wanted of each, in the mode that was wanted first; it goes with the record.
_OBJECT_LOCKS = """
SELECT 'records/' || w.record_id || '/' || (i.detail ->> 'sealed_sha256') AS object_key,
       coalesce(v.version, i.detail ->> 'version') AS version, w.record_id AS subject_id, w.mode, w.wanted_until,
       w.position
  FROM (SELECT record_id, (array_agg(mode ORDER BY position))[1] AS mode, max(until) AS wanted_until,
               max(position) AS position
          FROM (SELECT unnest(subjects) AS record_id, detail ->> 'lock' AS mode,
                       (detail ->> 'locked_until')::timestamptz AS until, position
                  FROM history WHERE type IN ('ing', 'mem') AND detail ? 'lock') AS l
         GROUP BY record_id) AS w
  JOIN history i ON i.type = 'ing' AND i.success AND i.subject = w.record_id
  LEFT JOIN ({versions}) AS v ON v.subject_id = w.record_id
 WHERE NOT EXISTS (SELECT FROM ({gone}) AS g WHERE g.subject = w.record_id)
""".replace("{versions}", VERSIONS).replace("{gone}", GONE)
_LOCK = "what the queue of locks notes for itself: the vault is asked for the lock"


def _columns(names: str) -> tuple[str, ...]:
    return tuple(names.split())


PROJECTIONS = (
    Projection(
        "proposals",
        ("proposal_id",),
        _columns(
            "kind state proposed_at proposed_by expires_at statement digest payload signers_needed first_signer "
            "second_signer third_signer decided_at"
        ),
        _PROPOSALS,
        found=_PROPOSALS_FOUND,
    ),
    Projection(
        "signatures",
        ("proposal_id", "person_id", "digest"),
        _columns("signature signed_at"),
        _SIGNATURES,
        found=_SIGNATURES_FOUND,
    ),
    Projection(
        "approvers",
        ("person_id",),
        _columns("public_key enrolled_at enrolled_by revoked_at"),
        _APPROVERS,
        found=_APPROVERS_FOUND,
    ),
    Projection(
        "plans",
        ("plan_id",),
        _columns("as_of schedule_version items bytes digest over_limit started_at ended_at certificate_id"),
        _PLANS,
    ),
    Projection(
        "plan_items",
        ("plan_id", "record_id"),
        _columns(
            "unit_id class_key bytes action rule_id retain_until stage decision reason not_before to_class decided_at "
            "decided_by open outcome ended_at"
        ),
        _PLAN_ITEMS,
    ),
    Projection(
        "plan_stages",
        ("plan_id", "class_key", "stage"),
        _columns("name began_at ended_at lapsed"),
        _PLAN_STAGES,
        found=_PLAN_STAGES_FOUND,
    ),
    Projection("plan_remains", ("plan_id", "kind", "remains_id"), (), _PLAN_REMAINS),
    Projection(
        "transfers",
        ("plan_id",),
        _columns("bag_digest written_at acknowledgement acknowledged_at receipt_id given_up_at"),
        _TRANSFERS,
    ),
    Projection(
        "tombstones",
        ("record_id",),
        _columns(
            "class_key aggregation_id received sealed_sha256 sealed_bytes rule_id retain_until outcome plan_id "
            "ended_at annex_id"
        ),
        _TOMBSTONES,
        elsewhere={
            "content": "nothing: a keyed HMAC of bytes that are gone. In an event it would tell for good, and to "
            "whoever comes by the key, which documents these were; changed, it finds nothing when asked"
        },
    ),
    Projection(
        "class_changes",
        ("record_id", "recorded_at"),
        _columns("from_class to_class recorded_by plan_id"),
        _CLASS_CHANGES,
    ),
    Projection(
        "extensions", ("record_id", "recorded_at"), _columns("not_before reason recorded_by plan_id"), _EXTENSIONS
    ),
    Projection("notices", ("record_id", "retain_until"), ("notified_at",), _NOTICES),
    Projection(
        "object_locks",
        ("object_key",),
        _columns("version subject_id mode wanted_until"),
        _OBJECT_LOCKS,
        elsewhere=dict.fromkeys(("actual_until", "queued_at", "read_back_at", "attempts", "error"), _LOCK),
    ),
)
