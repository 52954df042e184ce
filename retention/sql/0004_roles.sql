-- Who may do what (docs/operating.md). Three kinds of login: the owner migrates and nothing else; the application works
-- as a member of muniment_application; an auditor reads as a member of muniment_auditor.
--
-- There are no default privileges: a table of a later migration is nobody's until that migration says whose, and a
-- test fails until it does (tests/integration/test_roles.py).

-- Roles belong to the whole server: another database of it may have made them, or be making them at this moment.
DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['muniment_application', 'muniment_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;  -- the other one was faster
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'role % is missing, and % may not create roles', wanted, current_user
                        USING ERRCODE = 'insufficient_privilege',
                              HINT = 'CREATE ROLE muniment_application NOLOGIN; CREATE ROLE muniment_auditor NOLOGIN;';
            END;
        END IF;
    END LOOP;
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO muniment_application, muniment_auditor;

-- ---------------------------------------------------------------- the application

-- History, and what is entered once: nobody but the owner could change it.
GRANT SELECT, INSERT ON
    events, event_subjects, schedule_versions, signatures, ledger_keys, ledger_checkpoints,
    aggregations, aggregation_changes, belongs_to, class_changes, classes, descriptions_complete, extensions,
    hold_members_released, key_buckets, notices, plan_remains, pseudonyms, run_items, tombstones, trigger_kinds
    TO muniment_application;

-- What goes with the record, or when its term ends.
GRANT SELECT, INSERT, DELETE ON
    contents, current_triggers, descriptor_lines, descriptors, findings, hold_members, hold_quarantined, queries,
    restrictions, subject_keys, trigger_events
    TO muniment_application;

-- What has a state. None of it is ever deleted.
GRANT SELECT, INSERT, UPDATE ON
    approvers, holds, plan_items, plan_stages, plans, proposals, quarantine, records, requests, run_batches, runs,
    transfers
    TO muniment_application;

-- Both.
GRANT SELECT, INSERT, UPDATE, DELETE ON
    descriptions, hold_flags, object_locks, request_answers, sightings, suspensions
    TO muniment_application;

GRANT SELECT, UPDATE ON ledger_head TO muniment_application;
GRANT SELECT ON record_labels, schema_migrations TO muniment_application;

-- When its bytes were read last; the rest of it stays as it was captured.
GRANT UPDATE (verified_at) ON contents TO muniment_application;

-- PostgreSQL locks a row for those alone who may update a column of it. These two are locked and never changed.
GRANT UPDATE (aggregation_id) ON aggregations TO muniment_application;
GRANT UPDATE (subject_id) ON subject_keys TO muniment_application;

-- ---------------------------------------------------------------- the auditor

-- What tells of no single record, and history itself: a tree with holes cannot be checked, and a leaf names nobody.
GRANT SELECT ON
    events, event_subjects, ledger_head, ledger_keys, ledger_checkpoints, schedule_versions, schema_migrations,
    classes, trigger_kinds, approvers, signatures, key_buckets, holds, runs, run_batches, plans, plan_stages,
    plan_remains, transfers, descriptors
    TO muniment_auditor;
GRANT SELECT (pseudonym_id, kind, recorded_at) ON pseudonyms TO muniment_auditor;

-- A class whose records an auditor sees without asking: one that holds no personal data, by the schedule in force.
ALTER TABLE schedule_versions ADD COLUMN open_classes text[] NOT NULL DEFAULT '{}';

-- Any other, granted by the owner to one auditor, or to muniment_auditor for all of them.
CREATE TABLE auditor_classes (
    auditor    name NOT NULL,
    class_id   text NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (auditor, class_id)
);
GRANT SELECT ON auditor_classes TO muniment_application, muniment_auditor;

-- What tells of single records is read through views with the names of the tables. Row-level security on the tables
-- would do it too, but refuses COPY FROM to the application (capture and the ledger are COPY), and stands in each of
-- its plans. Views cost the auditor alone.
CREATE SCHEMA audit;
GRANT USAGE ON SCHEMA audit TO muniment_auditor;

-- Unknown means closed: a class that the schedule in force does not know is one of personal data.
CREATE VIEW audit.open_classes WITH (security_barrier) AS
    SELECT c.class_key, c.class_id FROM public.classes c
     WHERE c.class_id = ANY ((SELECT open_classes FROM public.schedule_versions ORDER BY version DESC LIMIT 1)::text[])
        OR EXISTS (SELECT FROM public.auditor_classes a
                    WHERE a.class_id = c.class_id AND a.auditor IN (current_user, 'muniment_auditor'));

-- All classes of a record must be open.
CREATE VIEW audit.records WITH (security_barrier) AS
    SELECT r.* FROM public.records r
     WHERE r.class_key IN (SELECT class_key FROM audit.open_classes)
       AND NOT EXISTS (SELECT FROM public.record_labels l WHERE l.record_id = r.record_id
                          AND l.class_key NOT IN (SELECT class_key FROM audit.open_classes));

-- All records of a case file must be.
CREATE VIEW audit.aggregations WITH (security_barrier) AS
    SELECT a.* FROM public.aggregations a
     WHERE EXISTS (SELECT FROM public.records r WHERE r.aggregation_id = a.aggregation_id)
       AND NOT EXISTS (SELECT FROM public.records r WHERE r.aggregation_id = a.aggregation_id
                          AND NOT EXISTS (SELECT FROM audit.records v WHERE v.record_id = r.record_id));

CREATE VIEW audit.subjects WITH (security_barrier) AS
    SELECT record_id AS subject_id FROM audit.records UNION ALL SELECT aggregation_id FROM audit.aggregations;

DO $$
DECLARE
    relation name;
BEGIN
    FOREACH relation IN ARRAY ARRAY['aggregation_changes', 'class_changes', 'contents', 'extensions', 'hold_members',
        'hold_members_released', 'notices', 'plan_items', 'quarantine', 'record_labels', 'request_answers',
        'restrictions', 'tombstones'] LOOP
        EXECUTE format('CREATE VIEW audit.%1$I WITH (security_barrier) AS SELECT t.* FROM public.%1$I t '
                       'WHERE EXISTS (SELECT FROM audit.records v WHERE v.record_id = t.record_id)', relation);
    END LOOP;
    FOREACH relation IN ARRAY ARRAY['current_triggers', 'descriptor_lines', 'findings', 'hold_flags', 'object_locks',
        'run_items', 'suspensions', 'trigger_events'] LOOP
        EXECUTE format('CREATE VIEW audit.%1$I WITH (security_barrier) AS SELECT t.* FROM public.%1$I t '
                       'WHERE EXISTS (SELECT FROM audit.subjects v WHERE v.subject_id = t.subject_id)', relation);
    END LOOP;
END $$;

-- What was signed, but not of single subjects: there the statement names a case file and a day.
CREATE VIEW audit.proposals WITH (security_barrier) AS
    SELECT * FROM public.proposals WHERE kind NOT IN ('trigger', 'retraction', 'resumption');

GRANT SELECT ON ALL TABLES IN SCHEMA audit TO muniment_auditor;

-- Nobody else than the application reads: descriptions, descriptions_complete, queries (words of people), sightings
-- (keyed digests of documents), subject_keys, requests (of persons), hold_quarantined, belongs_to.
