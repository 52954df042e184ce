-- Retention beyond dates: aggregations by kind, suspensions, holds, approvals by two people, disposition.
-- All of it are control tables: ids, classes, codes, dates, keyed HMACs. What a person wrote (the matter of a hold,
-- a reason in words, the scope of a text query) is a sealed descriptor line under a key of its own.

-- ---------------------------------------------------------------- aggregations, triggers, suspensions

-- kind is a word of the schedule (patient, contract, employee); the id is the pseudonym of kind and business id.
ALTER TABLE aggregations ADD COLUMN kind text NOT NULL
    CONSTRAINT aggregations_kind CHECK (kind ~ '^[a-z][a-z0-9_]{0,63}$');

-- An event is retracted once, by a row of its own on the same subject and kind; nothing is deleted.
CREATE UNIQUE INDEX trigger_events_retracted_once ON trigger_events (retracts) WHERE retracts IS NOT NULL;

-- A resumption closes the suspension; when it became known stands beside it (bitemporal).
ALTER TABLE suspensions
    ADD COLUMN reason text NOT NULL CONSTRAINT suspensions_reason CHECK (reason ~ '^[a-z][a-z-]{1,39}$'),
    ADD COLUMN ended_recorded_at timestamptz,
    ADD COLUMN ended_by uuid,
    ADD CONSTRAINT suspensions_ended CHECK ((ends IS NULL) = (ended_recorded_at IS NULL));

-- Keyed HMAC of the document's bytes, for the tombstone: the sighting of its place moves on to the next version. NULL
-- for what came inside another document, which is known by that one.
ALTER TABLE contents ADD COLUMN content bytea CONSTRAINT contents_content CHECK (octet_length(content) = 32);

-- A rejected document loses its key by the signature of two people, a released one with the record that it became. Its
-- bytes follow; then it is destroyed.
ALTER TABLE quarantine
    ADD COLUMN key_destroyed_at timestamptz,
    ADD COLUMN destroyed_at     timestamptz,
    ADD CONSTRAINT quarantine_destroyed CHECK (destroyed_at IS NULL OR key_destroyed_at IS NOT NULL);
CREATE INDEX quarantine_rejected ON quarantine (decided_at) WHERE state = 'rejected' AND destroyed_at IS NULL;

-- Every class that a record ever had before its present one.
CREATE TABLE class_changes (
    record_id   uuid NOT NULL CONSTRAINT class_changes_record REFERENCES records,
    recorded_at timestamptz NOT NULL,
    from_class  smallint NOT NULL CONSTRAINT class_changes_from REFERENCES classes,
    to_class    smallint NOT NULL CONSTRAINT class_changes_to REFERENCES classes,
    recorded_by uuid NOT NULL,
    plan_id     uuid,
    PRIMARY KEY (record_id, recorded_at),
    CONSTRAINT class_changes_changes CHECK (from_class <> to_class)
);

-- Not due before that day, whatever the rules say: a reviewer's extension (at most a year ahead). The latest row
-- counts.
CREATE TABLE extensions (
    record_id   uuid NOT NULL CONSTRAINT extensions_record REFERENCES records,
    recorded_at timestamptz NOT NULL,
    not_before  date NOT NULL,
    reason      text NOT NULL CONSTRAINT extensions_reason CHECK (reason ~ '^[a-z][a-z-]{1,39}$'),
    recorded_by uuid NOT NULL,
    plan_id     uuid,
    PRIMARY KEY (record_id, recorded_at)
);

-- ---------------------------------------------------------------- holds

-- Matter, authority in words and the scope are in the sealed line of subject hold_id.
ALTER TABLE holds
    ADD COLUMN mode text NOT NULL CONSTRAINT holds_mode CHECK (mode IN ('static', 'dynamic')),
    ADD COLUMN review_on date NOT NULL,
    ADD COLUMN released_by uuid,
    ADD CONSTRAINT holds_released CHECK ((released_at IS NULL) = (released_by IS NULL));

-- A membership that ended; hold_members has those that are in force.
CREATE TABLE hold_members_released (
    record_id   uuid NOT NULL,
    hold_id     uuid NOT NULL CONSTRAINT hold_members_released_hold REFERENCES holds,
    recorded_at timestamptz NOT NULL,
    released_at timestamptz NOT NULL,
    PRIMARY KEY (record_id, hold_id)
);
CREATE INDEX hold_members_by_hold ON hold_members (hold_id);

-- Read in each transaction that captures.
CREATE INDEX holds_dynamic ON holds (hold_id) WHERE mode = 'dynamic' AND released_at IS NULL;

-- Holds reach quarantine: what is released from there under a hold is its member, as the record that it becomes.
CREATE TABLE hold_quarantined (
    quarantine_id uuid NOT NULL CONSTRAINT hold_quarantined_document REFERENCES quarantine,
    hold_id       uuid NOT NULL CONSTRAINT hold_quarantined_hold REFERENCES holds,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (quarantine_id, hold_id)
);
CREATE INDEX hold_quarantined_by_hold ON hold_quarantined (hold_id);

-- The vault's legal-hold flag of each object of a record or a quarantined document: wanted exactly while a hold has
-- it. A queue that may run twice sets it and reads it back (retention/hold_flags.py). actual NULL: not known.
CREATE TABLE hold_flags (
    subject_id   uuid PRIMARY KEY,
    wanted       boolean NOT NULL,
    actual       boolean DEFAULT false,
    queued_at    timestamptz NOT NULL,
    read_back_at timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    error        text
);
CREATE INDEX hold_flags_waiting ON hold_flags (queued_at, subject_id) WHERE wanted IS DISTINCT FROM actual;

-- ---------------------------------------------------------------- approvals: two people

-- Who may sign: a person (pseudonym) with the Ed25519 public key of an SSH key that only she has.
CREATE TABLE approvers (
    person_id   uuid PRIMARY KEY CONSTRAINT approvers_person REFERENCES pseudonyms,
    public_key  bytea NOT NULL CONSTRAINT approvers_key_once UNIQUE
                CONSTRAINT approvers_key CHECK (octet_length(public_key) = 32),
    enrolled_at timestamptz NOT NULL,
    enrolled_by uuid CONSTRAINT approvers_enrolled_by REFERENCES approvers,   -- NULL: the first of all
    revoked_at  timestamptz,
    CONSTRAINT approvers_not_by_herself CHECK (enrolled_by <> person_id)
);

-- What needs two people, as text that they sign; statement holds ids, codes, dates, digests.
CREATE TABLE proposals (
    proposal_id   uuid PRIMARY KEY,
    kind          text NOT NULL CONSTRAINT proposals_kind CHECK (kind IN
                  ('disposition', 'schedule', 'trigger', 'retraction', 'resumption', 'hold-release', 'rejected', 'enrolment',
                   'revocation')),
    state         text NOT NULL DEFAULT 'open'
                  CONSTRAINT proposals_state CHECK (state IN ('open', 'approved', 'withdrawn', 'expired')),
    proposed_at   timestamptz NOT NULL,
    proposed_by   uuid NOT NULL,
    expires_at    timestamptz NOT NULL,
    statement     text,                 -- NULL while a plan is still under review
    digest        bytea,                -- SHA-256 of the statement
    payload       text,                 -- what is done once it is approved: JSON, or a schedule file
    signers_needed smallint NOT NULL DEFAULT 2 CONSTRAINT proposals_two CHECK (signers_needed BETWEEN 2 AND 3),
    first_signer  uuid,
    second_signer uuid,
    third_signer  uuid,
    decided_at    timestamptz,
    CONSTRAINT proposals_digest CHECK (digest = sha256(convert_to(statement, 'UTF8'))),
    -- Invariant 6. Two different people, each with a signature of this very statement (foreign keys below).
    CONSTRAINT proposals_two_people CHECK (state <> 'approved' OR
        (digest IS NOT NULL AND first_signer IS NOT NULL AND second_signer IS NOT NULL
         AND first_signer <> second_signer)),
    CONSTRAINT proposals_override CHECK (state <> 'approved' OR signers_needed = 2 OR
        (third_signer IS NOT NULL AND third_signer NOT IN (first_signer, second_signer))),
    CONSTRAINT proposals_decided CHECK ((state = 'open') = (decided_at IS NULL))
);
CREATE INDEX proposals_open ON proposals (expires_at) WHERE state = 'open';

-- An SSHSIG (PROTOCOL.sshsig) of the statement, verified before it is written.
CREATE TABLE signatures (
    proposal_id uuid NOT NULL CONSTRAINT signatures_proposal REFERENCES proposals,
    person_id   uuid NOT NULL CONSTRAINT signatures_person REFERENCES approvers,
    digest      bytea NOT NULL,
    signature   bytea NOT NULL,
    signed_at   timestamptz NOT NULL,
    PRIMARY KEY (proposal_id, person_id, digest)
);
ALTER TABLE proposals
    ADD CONSTRAINT proposals_first FOREIGN KEY (proposal_id, first_signer, digest) REFERENCES signatures,
    ADD CONSTRAINT proposals_second FOREIGN KEY (proposal_id, second_signer, digest) REFERENCES signatures,
    ADD CONSTRAINT proposals_third FOREIGN KEY (proposal_id, third_signer, digest) REFERENCES signatures;
CREATE TRIGGER signatures_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON signatures
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();

-- What was proposed stays as it was, what people read stays as they read it (a plan is worded when its review is
-- over), who signed stays, and what is decided is decided once. (TRUNCATE would take signatures along, and is refused.)
CREATE FUNCTION proposals_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE'
       OR (NEW.proposal_id, NEW.kind, NEW.proposed_at, NEW.proposed_by, NEW.expires_at, NEW.payload) IS DISTINCT FROM
          (OLD.proposal_id, OLD.kind, OLD.proposed_at, OLD.proposed_by, OLD.expires_at, OLD.payload)
       OR (OLD.statement IS NOT NULL AND (NEW.statement, NEW.digest, NEW.signers_needed) IS DISTINCT FROM
                                         (OLD.statement, OLD.digest, OLD.signers_needed))
       OR coalesce(OLD.first_signer <> NEW.first_signer, OLD.first_signer IS NOT NULL AND NEW.first_signer IS NULL)
       OR coalesce(OLD.second_signer <> NEW.second_signer, OLD.second_signer IS NOT NULL AND NEW.second_signer IS NULL)
       OR (OLD.state <> 'open' AND NEW IS DISTINCT FROM OLD) THEN
        RAISE EXCEPTION 'refusing to % proposal %: what people sign stays as it is', lower(TG_OP), OLD.proposal_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'proposals_stay_as_signed';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER proposals_stay_as_signed AFTER UPDATE OR DELETE ON proposals
    FOR EACH ROW EXECUTE FUNCTION proposals_stay();

-- ---------------------------------------------------------------- disposition

-- A plan is a proposal of kind 'disposition'. Its items never change but for what was decided and what became of them.
CREATE TABLE plans (
    plan_id          uuid PRIMARY KEY CONSTRAINT plans_proposal REFERENCES proposals,
    as_of            date NOT NULL,
    schedule_version integer NOT NULL CONSTRAINT plans_schedule REFERENCES schedule_versions,
    items            bigint NOT NULL CONSTRAINT plans_not_empty CHECK (items > 0),
    bytes            bigint NOT NULL,
    digest           bytea NOT NULL CONSTRAINT plans_digest CHECK (octet_length(digest) = 32),  -- of the list of items
    over_limit       text[] NOT NULL,   -- classes (or '*') above a limit: a further approver must sign
    started_at       timestamptz,
    ended_at         timestamptz,
    certificate_id   uuid CONSTRAINT plans_certificate REFERENCES records,
    CONSTRAINT plans_end CHECK (ended_at IS NULL OR started_at IS NOT NULL),
    CONSTRAINT plans_certified CHECK (certificate_id IS NULL OR ended_at IS NOT NULL)
);

-- unit: records that go together (an aggregation, a parent with its children). stage counts the stages that are done.
CREATE TABLE plan_items (
    plan_id      uuid NOT NULL CONSTRAINT plan_items_plan REFERENCES plans,
    record_id    uuid NOT NULL CONSTRAINT plan_items_record REFERENCES records,
    unit_id      uuid NOT NULL,
    class_key    smallint NOT NULL CONSTRAINT plan_items_class REFERENCES classes,
    bytes        bigint NOT NULL,
    action       text NOT NULL CONSTRAINT plan_items_action CHECK (action IN ('destroy', 'review', 'transfer')),
    rule_id      text NOT NULL,
    retain_until date NOT NULL,
    stage        smallint NOT NULL DEFAULT 0,
    decision     text CONSTRAINT plan_items_decision CHECK (decision IN ('approve', 'extend', 'relabel', 'hold')),
    reason       text CONSTRAINT plan_items_reason CHECK (reason ~ '^[a-z][a-z-]{1,39}$'),
    not_before   date,
    to_class     smallint CONSTRAINT plan_items_to_class REFERENCES classes,
    decided_at   timestamptz,
    decided_by   uuid,
    open         boolean NOT NULL DEFAULT true,   -- until it is executed, kept, or its plan ends
    outcome      text,                            -- destroyed, transferred, or a code that says why it was kept
    ended_at     timestamptz,
    PRIMARY KEY (plan_id, record_id),
    CONSTRAINT plan_items_decided CHECK ((decision IS NULL) = (decided_at IS NULL)),
    CONSTRAINT plan_items_extend CHECK ((decision = 'extend') = (not_before IS NOT NULL)),
    CONSTRAINT plan_items_relabel CHECK ((decision = 'relabel') = (to_class IS NOT NULL)),
    CONSTRAINT plan_items_ended CHECK (open OR ended_at IS NOT NULL)
);
-- A record is in one open plan at most: it is decided once.
CREATE UNIQUE INDEX plan_items_in_one_plan ON plan_items (record_id) WHERE open;
CREATE INDEX plan_items_by_unit ON plan_items (plan_id, unit_id);

-- When each stage of a class's review began: it lapses into the next after its term.
CREATE TABLE plan_stages (
    plan_id   uuid NOT NULL CONSTRAINT plan_stages_plan REFERENCES plans,
    class_key smallint NOT NULL CONSTRAINT plan_stages_class REFERENCES classes,
    stage     smallint NOT NULL CONSTRAINT plan_stages_number CHECK (stage BETWEEN 1 AND 5),
    name      text NOT NULL,
    began_at  timestamptz NOT NULL,
    ended_at  timestamptz,
    lapsed    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (plan_id, class_key, stage)
);

-- That a record would come due was announced, as its rule asks (notify_before).
CREATE TABLE notices (
    record_id    uuid NOT NULL CONSTRAINT notices_record REFERENCES records,
    retain_until date NOT NULL,
    notified_at  timestamptz NOT NULL,
    PRIMARY KEY (record_id, retain_until)
);

-- A bag that went out, and what its receiver acknowledged: nothing of it is destroyed here before. Or it was given up,
-- and everything of it stays. The acknowledgement itself, which names people, is a record.
CREATE TABLE transfers (
    plan_id         uuid PRIMARY KEY CONSTRAINT transfers_plan REFERENCES plans,
    bag_digest      bytea NOT NULL CONSTRAINT transfers_digest CHECK (octet_length(bag_digest) = 32),
    written_at      timestamptz NOT NULL,
    acknowledgement bytea,             -- SHA-256 of the receiver's acknowledgement
    acknowledged_at timestamptz,
    receipt_id      uuid CONSTRAINT transfers_receipt REFERENCES records,
    given_up_at     timestamptz,
    CONSTRAINT transfers_acknowledged CHECK (num_nulls(acknowledgement, acknowledged_at, receipt_id) IN (0, 3)),
    CONSTRAINT transfers_one_end CHECK (acknowledged_at IS NULL OR given_up_at IS NULL)
);

-- What outlives a plan's records for a while, for its certificate: descriptor objects that still hold lines of
-- others (what was destroyed is unreadable in them), and buckets of keys that lost rows and get a new key.
CREATE TABLE plan_remains (
    plan_id    uuid NOT NULL CONSTRAINT plan_remains_plan REFERENCES proposals,  -- a plan, or of kind 'rejected'
    kind       text NOT NULL CONSTRAINT plan_remains_kind CHECK (kind IN ('descriptor', 'bucket')),
    remains_id uuid NOT NULL,
    PRIMARY KEY (plan_id, kind, remains_id)
);

-- What stays of a record that is gone. content: keyed HMAC of the document's bytes, so that the same document
-- coming in again is known; aggregation_id: the pseudonym of its case file, so that `destroyed --id` can answer.
CREATE TABLE tombstones (
    record_id      uuid PRIMARY KEY CONSTRAINT tombstones_record REFERENCES records,
    class_key      smallint NOT NULL CONSTRAINT tombstones_class REFERENCES classes,
    aggregation_id uuid,
    received       date NOT NULL,
    sealed_sha256  bytea NOT NULL,
    sealed_bytes   bigint NOT NULL,
    rule_id        text NOT NULL,
    retain_until   date NOT NULL,
    outcome        text NOT NULL CONSTRAINT tombstones_outcome CHECK (outcome IN ('destroyed', 'transferred')),
    plan_id        uuid NOT NULL CONSTRAINT tombstones_plan REFERENCES plans,
    ended_at       timestamptz NOT NULL,
    content        bytea,
    annex_id       uuid               -- descriptive: the sealed line that describes it, under a key of its own
);
CREATE INDEX tombstones_by_content ON tombstones (content) WHERE content IS NOT NULL;
CREATE INDEX tombstones_by_annex ON tombstones (annex_id) WHERE annex_id IS NOT NULL;
CREATE INDEX tombstones_by_aggregation ON tombstones (aggregation_id) WHERE aggregation_id IS NOT NULL;

-- ---------------------------------------------------------------- requests of persons (GDPR 12, 15-19)

-- subject_id: the pseudonym of whom it is about; who asked, in which words, is the sealed line of subject request_id.
-- due_on: one month after receipt, and at most two more (GDPR art. 12(3)). answered_at: the person was told.
CREATE TABLE requests (
    request_id  uuid PRIMARY KEY,
    kind        text NOT NULL CONSTRAINT requests_kind CHECK (kind IN ('erase', 'access', 'restrict')),
    finds       text NOT NULL CONSTRAINT requests_finds CHECK (finds IN ('aggregation', 'author', 'text')),
    subject_id  uuid NOT NULL,
    ground      text CONSTRAINT requests_ground CHECK (ground IN ('accuracy', 'unlawful', 'claims', 'objection')),
    received    date NOT NULL,
    recorded_at timestamptz NOT NULL,
    recorded_by uuid NOT NULL,
    due_on      date NOT NULL,
    extended_at timestamptz,
    extension   text CONSTRAINT requests_extension CHECK (extension IN ('complexity', 'number')),
    answered_at timestamptz,
    lifted_at   timestamptz,
    CONSTRAINT requests_why_restricted CHECK ((kind = 'restrict') = (ground IS NOT NULL)),
    CONSTRAINT requests_extended CHECK ((extended_at IS NULL) = (extension IS NULL)),
    CONSTRAINT requests_lifted CHECK (lifted_at IS NULL OR kind = 'restrict')
);
-- The same request again, while it is open, is the same request.
CREATE UNIQUE INDEX requests_open_once ON requests (kind, subject_id) WHERE answered_at IS NULL;
CREATE INDEX requests_by_subject ON requests (subject_id);

-- What was decided on each record. about: what a person said of a hit that only words found; NULL: nobody needed to.
CREATE TABLE request_answers (
    request_id uuid NOT NULL CONSTRAINT request_answers_request REFERENCES requests,
    record_id  uuid NOT NULL CONSTRAINT request_answers_record REFERENCES records,
    answer     text NOT NULL CONSTRAINT request_answers_answer CHECK (answer ~ '^[a-z][a-z-]{1,39}$'),
    reason     text NOT NULL CONSTRAINT request_answers_reason CHECK (reason ~ '^[a-z][a-z-]{1,39}$'),
    citation   text NOT NULL,
    until      date,
    about      boolean,
    PRIMARY KEY (request_id, record_id)
);
CREATE INDEX request_answers_by_record ON request_answers (record_id);

-- Stored and nothing else (GDPR art. 18): neither opened, searched, exported nor destroyed while a row stands. Each
-- request has a row of its own; without a request it is one that the schedule asks for (past a ceiling, and held).
CREATE TABLE restrictions (
    record_id   uuid NOT NULL CONSTRAINT restrictions_record REFERENCES records,
    request_id  uuid CONSTRAINT restrictions_request REFERENCES requests,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT restrictions_once UNIQUE NULLS NOT DISTINCT (record_id, request_id)
);
CREATE INDEX restrictions_by_request ON restrictions (request_id);
