-- Storage, backup and recovery.

-- ---------------------------------------------------------------- recovery

-- What is in no copy stays empty after a recovery, and `verify` names it: the name behind a pseudonym, the key of who
-- may sign, a signature. Each is there from the first on; only a recovery leaves one out.
ALTER TABLE pseudonyms ALTER COLUMN sealed_name DROP NOT NULL;
ALTER TABLE approvers ALTER COLUMN public_key DROP NOT NULL;
ALTER TABLE signatures ALTER COLUMN signature DROP NOT NULL;
GRANT UPDATE (kind, sealed_name) ON pseudonyms TO muniment_application;  -- a name that is used again is entered again

-- Of an object that was healed the whole version is another one.
GRANT UPDATE (version) ON contents, descriptors TO muniment_application;

-- 5 lost: captured after the last recovery point, and its content or its key is in no copy.
ALTER TABLE records DROP CONSTRAINT records_state, ADD CONSTRAINT records_state CHECK (state BETWEEN 1 AND 5);

-- ---------------------------------------------------------------- recovery points

-- Second vaults that are a part of this archive (MUNIMENT_BACKUPS says where each is). What is published stands there
-- before anybody can see it.
CREATE TABLE backup_vaults (
    name      text PRIMARY KEY CONSTRAINT backup_vaults_name CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$'),
    joined_at timestamptz NOT NULL,
    left_at   timestamptz
);

-- The points that were taken. size: of the ledger; objects, bytes: of the vault at that moment.
CREATE TABLE recovery_points (
    point_id   uuid PRIMARY KEY,
    vault      text NOT NULL CONSTRAINT recovery_points_vault REFERENCES backup_vaults,
    taken_at   timestamptz NOT NULL,
    size       bigint NOT NULL,
    objects    bigint NOT NULL,
    bytes      bigint NOT NULL,
    checked_at timestamptz,
    whole      boolean,
    pruned_at  timestamptz,
    CONSTRAINT recovery_points_checked CHECK ((checked_at IS NULL) = (whole IS NULL))
);
CREATE INDEX recovery_points_by_vault ON recovery_points (vault, taken_at);

GRANT SELECT, INSERT, UPDATE ON backup_vaults, recovery_points TO muniment_application;
GRANT SELECT ON backup_vaults, recovery_points TO muniment_auditor;

-- ---------------------------------------------------------------- drills

-- A restore that was tried. Numbers are NULL for one that came to no end.
CREATE TABLE drills (
    drill_id     uuid PRIMARY KEY,
    vault        text NOT NULL CONSTRAINT drills_vault REFERENCES backup_vaults,
    point_id     uuid,                 -- the second vault may have one that the catalog has not
    ended_at     timestamptz NOT NULL,
    milliseconds bigint,
    records      bigint,
    objects      bigint,
    lost         bigint,
    resurrected  bigint,
    problems     bigint,
    late         bigint,               -- classes that were slower, or whose point was older, than policy asks
    ok           boolean NOT NULL
);
CREATE INDEX drills_by_time ON drills (ended_at);

GRANT SELECT, INSERT ON drills TO muniment_application;
GRANT SELECT ON drills TO muniment_auditor;

-- ---------------------------------------------------------------- keys

-- Buckets that lost rows, and whose other rows were wrapped anew; when the key of each left the key safe. replaced_by:
-- NULL where no row was left.
CREATE TABLE replaced_buckets (
    bucket_id   uuid PRIMARY KEY,
    replaced_by uuid,
    keys        bigint NOT NULL,      -- how many were wrapped anew
    replaced_at timestamptz NOT NULL,
    dropped_at  timestamptz
);

GRANT SELECT, INSERT, UPDATE ON replaced_buckets TO muniment_application;
GRANT SELECT ON replaced_buckets TO muniment_auditor;
GRANT UPDATE (bucket_id) ON key_buckets TO muniment_application;     -- rows are locked, and never changed
GRANT UPDATE (bucket_id, wrapped) ON subject_keys TO muniment_application;
GRANT MAINTAIN ON descriptions TO muniment_application;              -- its files are written anew

-- ---------------------------------------------------------------- keys of locked content

-- Objects of the vault that have the keys of records which a lock keeps (retention/locked_keys.py). locked_at: when its
-- lock was first read back.
CREATE TABLE key_objects (
    object_key text PRIMARY KEY,
    subjects   uuid[] NOT NULL,
    sha256     bytea NOT NULL CONSTRAINT key_objects_sha256 CHECK (octet_length(sha256) = 32),
    mode       text NOT NULL CONSTRAINT key_objects_mode CHECK (mode IN ('governance', 'compliance')),
    until      timestamptz NOT NULL,
    made_at    timestamptz NOT NULL,
    locked_at  timestamptz
);
CREATE INDEX key_objects_by_subject ON key_objects USING gin (subjects);

GRANT SELECT, INSERT, UPDATE, DELETE ON key_objects TO muniment_application;
GRANT SELECT ON key_objects TO muniment_auditor;
