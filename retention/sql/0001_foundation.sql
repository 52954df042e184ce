-- The catalog. Two kinds of tables (docs/design.md, *Two kinds of tables*):
--   control tables hold ids, classes, sealed digests, dates, states, codes: they can be dumped and kept for years;
--   description tables (UNLOGGED, at the end) hold what a person wrote or is: never dumped, rebuilt from the
--   sealed descriptors in the vault.
-- Before adding a column, decide where it stands in requirements' *Residue* table.
-- Every effective date has the time when we came to know it beside it (recorded_at): bitemporal.

-- Which key safe this catalog belongs to: an HMAC under the safe's index key. Another safe would find nothing
-- known and could open nothing, so it is refused.
CREATE TABLE belongs_to (
    single   boolean PRIMARY KEY DEFAULT true CONSTRAINT belongs_to_one CHECK (single),
    safe     bytea NOT NULL
);

-- ---------------------------------------------------------------- schedule and classes

CREATE TABLE schedule_versions (
    version     integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    digest      bytea NOT NULL,
    document    text NOT NULL,
    loaded_at   timestamptz NOT NULL,
    loaded_by   uuid NOT NULL,
    CONSTRAINT schedule_versions_digest_is_sha256 CHECK (octet_length(digest) = 32)
);

-- A class has a small number, so that ten million records stay narrow. Rows are never removed.
CREATE TABLE classes (
    class_key   smallint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (START WITH 1),
    class_id    text NOT NULL CONSTRAINT classes_once UNIQUE
);

-- Trigger kinds (event:<kind>) have an ordinal: the place of their date in current_triggers.dates.
CREATE TABLE trigger_kinds (
    ordinal     smallint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (START WITH 1),
    kind        text NOT NULL CONSTRAINT trigger_kinds_once UNIQUE
);

-- ---------------------------------------------------------------- who, under a pseudonym

-- Names of agents and sources, sealed with a key of their own (subject_keys): control tables name nobody.
CREATE TABLE pseudonyms (
    pseudonym_id uuid PRIMARY KEY,
    kind         text NOT NULL CONSTRAINT pseudonyms_kind CHECK (kind IN ('person', 'organization', 'software', 'source')),
    sealed_name  bytea NOT NULL,
    recorded_at  timestamptz NOT NULL
);

-- ---------------------------------------------------------------- keys

CREATE TABLE key_buckets (
    bucket_id   uuid PRIMARY KEY,
    scope       text NOT NULL,          -- a class id, or quarantine, rejected, pseudonyms
    month       date NOT NULL,          -- first day of the month of capture
    generation  integer NOT NULL,
    recorded_at timestamptz NOT NULL
);

-- A record's secret, wrapped (AES key wrap, RFC 3394) under its bucket key, which is in the key safe, not here.
CREATE TABLE subject_keys (
    subject_id  uuid PRIMARY KEY,
    bucket_id   uuid NOT NULL CONSTRAINT subject_keys_bucket REFERENCES key_buckets,
    wrapped     bytea NOT NULL CONSTRAINT subject_keys_is_rfc3394 CHECK (octet_length(wrapped) = 40)
);
CREATE INDEX subject_keys_by_bucket ON subject_keys (bucket_id);

-- ---------------------------------------------------------------- records

CREATE TABLE aggregations (
    aggregation_id uuid PRIMARY KEY,
    recorded_at    timestamptz NOT NULL
);

-- Narrow on purpose: eligibility reads all of it. state: 1 kept, 2 destroying, 3 destroyed, 4 transferred.
-- special: has suspensions (its own or its aggregation's), events of its own or several classes, and takes the
-- second branch of eligibility.
CREATE TABLE records (
    record_id      uuid PRIMARY KEY,
    aggregation_id uuid CONSTRAINT records_aggregation REFERENCES aggregations,
    bytes          bigint NOT NULL CONSTRAINT records_bytes CHECK (bytes >= 0),
    recorded_at    timestamptz NOT NULL,
    received       date NOT NULL,
    document_date  date,
    modified       date,
    tagged         date,
    class_key      smallint NOT NULL CONSTRAINT records_class REFERENCES classes,
    state          smallint NOT NULL DEFAULT 1 CONSTRAINT records_state CHECK (state BETWEEN 1 AND 4),
    special        boolean NOT NULL DEFAULT false,
    parent_id      uuid CONSTRAINT records_parent REFERENCES records
);
CREATE INDEX records_by_parent ON records (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX records_by_aggregation ON records (aggregation_id) WHERE aggregation_id IS NOT NULL;

-- Every aggregation that a record ever was in, or none, before its present one.
CREATE TABLE aggregation_changes (
    record_id        uuid NOT NULL CONSTRAINT aggregation_changes_record REFERENCES records,
    recorded_at      timestamptz NOT NULL,
    from_aggregation uuid CONSTRAINT aggregation_changes_from REFERENCES aggregations,
    to_aggregation   uuid NOT NULL CONSTRAINT aggregation_changes_to REFERENCES aggregations,
    recorded_by      uuid NOT NULL,
    PRIMARY KEY (record_id, recorded_at),
    CONSTRAINT aggregation_changes_changes CHECK (from_aggregation <> to_aggregation)
);

-- Where a record's bytes are and what they are, sealed. The document's own digest of a guessable document is
-- personal data: here it is only a commitment, HMAC-SHA-256 under a salt that goes with the record's key.
CREATE TABLE contents (
    record_id     uuid PRIMARY KEY CONSTRAINT contents_record REFERENCES records,
    sealed_sha256 bytea NOT NULL CONSTRAINT contents_digest CHECK (octet_length(sealed_sha256) = 32),
    sealed_bytes  bigint NOT NULL,
    version       text NOT NULL,
    commitment    bytea NOT NULL CONSTRAINT contents_commitment CHECK (octet_length(commitment) = 32),
    verified_at   timestamptz NOT NULL,
    run_id        uuid,
    supersedes    uuid
);

CREATE TABLE record_labels (
    record_id   uuid NOT NULL CONSTRAINT record_labels_record REFERENCES records,
    class_key   smallint NOT NULL CONSTRAINT record_labels_class REFERENCES classes,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (record_id, class_key)
);

-- ---------------------------------------------------------------- triggers, suspensions, holds

CREATE TABLE trigger_events (
    trigger_event_id uuid PRIMARY KEY,
    subject_id       uuid NOT NULL,      -- a record or an aggregation; an event with no subject cannot be written
    kind             smallint NOT NULL CONSTRAINT trigger_events_kind REFERENCES trigger_kinds,
    effective        date NOT NULL,
    recorded_at      timestamptz NOT NULL,
    recorded_by      uuid NOT NULL,
    retracts         uuid CONSTRAINT trigger_events_retracts REFERENCES trigger_events
);
CREATE INDEX trigger_events_by_subject ON trigger_events (subject_id);

-- One maintained row per subject: dates[ordinal of the kind] is the current effective date, NULL if missing.
CREATE TABLE current_triggers (
    subject_id  uuid PRIMARY KEY,
    dates       date[] NOT NULL
);

CREATE TABLE suspensions (
    suspension_id uuid PRIMARY KEY,
    subject_id    uuid NOT NULL,
    starts        date NOT NULL,
    ends          date,
    recorded_at   timestamptz NOT NULL,
    recorded_by   uuid NOT NULL,
    CONSTRAINT suspensions_order CHECK (ends >= starts)
);
CREATE INDEX suspensions_by_subject ON suspensions (subject_id);

CREATE TABLE holds (
    hold_id     uuid PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    recorded_by uuid NOT NULL,
    released_at timestamptz
);

-- Materialised: which records are frozen now, and by which holds.
CREATE TABLE hold_members (
    record_id   uuid NOT NULL CONSTRAINT hold_members_record REFERENCES records,
    hold_id     uuid NOT NULL CONSTRAINT hold_members_hold REFERENCES holds,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (record_id, hold_id)
);

-- ---------------------------------------------------------------- descriptors

CREATE TABLE descriptors (
    descriptor_id uuid PRIMARY KEY,
    sha256        bytea NOT NULL CONSTRAINT descriptors_digest CHECK (octet_length(sha256) = 32),
    bytes         bigint NOT NULL,
    version       text NOT NULL,
    recorded_at   timestamptz NOT NULL
);

-- subject_id: a record, a quarantined document or a rejected one. The highest revision wins.
CREATE TABLE descriptor_lines (
    subject_id    uuid NOT NULL,
    revision      integer NOT NULL,
    descriptor_id uuid NOT NULL CONSTRAINT descriptor_lines_descriptor REFERENCES descriptors,
    byte_offset   bigint NOT NULL,
    byte_length   bigint NOT NULL,
    sha256        bytea NOT NULL CONSTRAINT descriptor_lines_digest CHECK (octet_length(sha256) = 32),
    PRIMARY KEY (subject_id, revision)
);
CREATE INDEX descriptor_lines_by_descriptor ON descriptor_lines (descriptor_id);

-- ---------------------------------------------------------------- runs, quarantine, findings

CREATE TABLE runs (
    run_id           uuid PRIMARY KEY,
    source_id        uuid NOT NULL CONSTRAINT runs_source REFERENCES pseudonyms,
    schedule_version integer NOT NULL CONSTRAINT runs_schedule REFERENCES schedule_versions,
    started_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    state            text NOT NULL DEFAULT 'running'
                     CONSTRAINT runs_state CHECK (state IN ('running', 'complete', 'interrupted')),
    discovered       bigint,
    admitted         bigint,
    quarantined      bigint,
    rejected         bigint,
    known            bigint,
    children         bigint,
    deferred         bigint,
    bytes            bigint,
    reconciliation   bytea,              -- SHA-256 of the signed reconciliation file
    -- Invariant 1: nothing disappears.
    CONSTRAINT runs_reconcile CHECK (state <> 'complete' OR discovered = admitted + quarantined + rejected + known)
);
CREATE INDEX runs_by_start ON runs (started_at);

-- What a run did, one row a document that came in (a document already known is listed in the reconciliation).
-- item numbers a document within its batch; outcome 'admitted', 'quarantined', 'rejected'.
CREATE TABLE run_items (
    run_id     uuid NOT NULL CONSTRAINT run_items_run REFERENCES runs,
    batch      integer NOT NULL,
    item       integer NOT NULL,
    outcome    text NOT NULL CONSTRAINT run_items_outcome CHECK (outcome IN ('admitted', 'quarantined', 'rejected')),
    subject_id uuid NOT NULL,
    PRIMARY KEY (run_id, batch, item)
);
CREATE INDEX run_items_by_subject ON run_items (subject_id);

-- A batch commits once: running it again finds this row and changes nothing.
CREATE TABLE run_batches (
    run_id       uuid NOT NULL CONSTRAINT run_batches_run REFERENCES runs,
    batch        integer NOT NULL,
    committed_at timestamptz NOT NULL,
    admitted     integer NOT NULL,
    quarantined  integer NOT NULL,
    rejected     integer NOT NULL,
    known        integer NOT NULL,
    children     integer NOT NULL,
    bytes        bigint NOT NULL,
    expectations jsonb NOT NULL,        -- per code: evaluated and failed, counts only
    known_ids    uuid[],                -- until the run is closed, for its account
    PRIMARY KEY (run_id, batch)
);

CREATE TABLE quarantine (
    quarantine_id uuid PRIMARY KEY,
    run_id        uuid NOT NULL CONSTRAINT quarantine_run REFERENCES runs,
    state         text NOT NULL DEFAULT 'held'
                  CONSTRAINT quarantine_state CHECK (state IN ('held', 'released', 'rejected')),
    bytes         bigint NOT NULL,
    sealed_sha256 bytea NOT NULL CONSTRAINT quarantine_digest CHECK (octet_length(sealed_sha256) = 32),
    sealed_bytes  bigint NOT NULL,
    version       text NOT NULL,
    commitment    bytea NOT NULL,
    verified_at   timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL,
    decided_at    timestamptz,
    decided_by    uuid,
    reason        text CONSTRAINT quarantine_reason_is_a_code CHECK (reason ~ '^[a-z][a-z-]{1,39}$'),
    record_id     uuid CONSTRAINT quarantine_record REFERENCES records,
    supersedes    uuid,                 -- the record that stood at its place before
    CONSTRAINT quarantine_decided CHECK ((state = 'held') = (decided_at IS NULL)),
    CONSTRAINT quarantine_released_as CHECK ((state = 'released') = (record_id IS NOT NULL))
);
CREATE INDEX quarantine_held ON quarantine (recorded_at) WHERE state = 'held';

-- Codes only; the message that goes with a code may name people and stands in the sealed descriptor.
CREATE TABLE findings (
    subject_id uuid NOT NULL,
    code       text NOT NULL,
    severity   text NOT NULL CONSTRAINT findings_severity CHECK (severity IN ('warn', 'quarantine', 'reject')),
    PRIMARY KEY (subject_id, code)
);
CREATE INDEX findings_by_code ON findings (code);

-- "Already known": keyed HMACs of the place and of the bytes. Gone with the record.
CREATE TABLE sightings (
    place       bytea PRIMARY KEY,
    content     bytea NOT NULL,
    revision    bytea,
    subject_id  uuid NOT NULL,          -- the record, or the quarantined document, that these bytes became
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    CONSTRAINT sightings_hmac CHECK (octet_length(place) = 32 AND octet_length(content) = 32)
);
CREATE INDEX sightings_by_subject ON sightings (subject_id);

-- ---------------------------------------------------------------- locks that policy requires

-- A lock is set and read back after the commit, by a queue that may run twice (retention/locks.py).
CREATE TABLE object_locks (
    object_key   text PRIMARY KEY,
    version      text NOT NULL,
    subject_id   uuid NOT NULL,
    mode         text NOT NULL CONSTRAINT object_locks_mode CHECK (mode IN ('governance', 'compliance')),
    wanted_until timestamptz NOT NULL,
    actual_until timestamptz,
    queued_at    timestamptz NOT NULL,
    read_back_at timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    error        text
);
CREATE INDEX object_locks_waiting ON object_locks (queued_at)
    WHERE actual_until IS NULL OR actual_until < wanted_until;

-- ---------------------------------------------------------------- the ledger

-- The canonical bytes of each PREMIS event and its RFC 6962 leaf hash. The position is the leaf's index.
CREATE TABLE events (
    position    bigint PRIMARY KEY CONSTRAINT events_position CHECK (position >= 0),
    recorded_at timestamptz NOT NULL,
    type        text NOT NULL CONSTRAINT events_type CHECK (type ~ '^[a-z]{3}$'),
    leaf_hash   bytea NOT NULL CONSTRAINT events_leaf CHECK (octet_length(leaf_hash) = 32),
    entry       bytea NOT NULL CONSTRAINT events_entry CHECK (octet_length(entry) <= 65535)
);

-- Which events a subject has: only written by what writes the entries, which name the subjects too. No foreign key: it
-- would read and lock each new event's row once more, a sixth of an append; `verify` compares all rows with the entries.
CREATE TABLE event_subjects (
    subject_id uuid NOT NULL,
    position   bigint NOT NULL,
    PRIMARY KEY (subject_id, position)
);

-- The only home of the frontier (the roots of the perfect subtrees, largest first). Locked last before commit.
CREATE TABLE ledger_head (
    single   boolean PRIMARY KEY DEFAULT true CONSTRAINT ledger_head_one CHECK (single),
    size     bigint NOT NULL,
    frontier bytea[] NOT NULL
);
INSERT INTO ledger_head (size, frontier) VALUES (0, '{}');

-- Invariant 3: history is never updated or deleted. The owner could drop this; whoever does is found by `verify`.
CREATE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refusing to % %: history is append-only', lower(TG_OP), TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();
CREATE TRIGGER event_subjects_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_subjects
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();
CREATE TRIGGER schedule_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON schedule_versions
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();

-- ---------------------------------------------------------------- description tables

-- Its row says that no description is missing. UNLOGGED like them: a crash takes it away with them.
CREATE UNLOGGED TABLE descriptions_complete (
    single boolean PRIMARY KEY DEFAULT true CONSTRAINT descriptions_complete_one CHECK (single)
);
INSERT INTO descriptions_complete DEFAULT VALUES;

-- What people wrote or are. In no base backup, WAL or dump; empty after a crash, then rebuilt from descriptors.
-- The text itself stays in the sealed descriptor; here is only its index.
CREATE UNLOGGED TABLE descriptions (
    subject_id uuid PRIMARY KEY,
    revision   integer NOT NULL,
    kind       text NOT NULL CONSTRAINT descriptions_kind CHECK (kind IN ('record', 'quarantined', 'rejected',
                                                                            'hold', 'aggregation', 'request')),
    title      text,
    name       text NOT NULL,
    source     text NOT NULL,
    place      text NOT NULL,
    mime       text,
    puid       text,
    language   text,
    author     text,
    sha256     bytea,
    metadata   jsonb NOT NULL,
    messages   jsonb NOT NULL,          -- [{code, severity, message}]
    search     tsvector NOT NULL
);
CREATE INDEX descriptions_search ON descriptions USING gin (search);
