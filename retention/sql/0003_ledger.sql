-- The published ledger: who signs it, and what was signed.

-- Keys of the log, newest last: each but the first is handed over to by the one before it. Public halves only.
CREATE TABLE ledger_keys (
    number      integer PRIMARY KEY CONSTRAINT ledger_keys_number CHECK (number > 0),
    origin      text NOT NULL CONSTRAINT ledger_keys_origin CHECK (origin ~ '^[^[:space:]+]{1,255}$'),
    vkey        text NOT NULL CONSTRAINT ledger_keys_once UNIQUE,
    kept_in     text NOT NULL CONSTRAINT ledger_keys_kept_in CHECK (kept_in ~ '^(file|kms):'),
    recorded_at timestamptz NOT NULL
);

-- Every checkpoint that was signed, as it was signed: written before it is published.
CREATE TABLE ledger_checkpoints (
    size        bigint PRIMARY KEY CONSTRAINT ledger_checkpoints_size CHECK (size > 0),
    root        bytea NOT NULL CONSTRAINT ledger_checkpoints_root CHECK (octet_length(root) = 32),
    note        bytea NOT NULL,
    recorded_at timestamptz NOT NULL
);

CREATE TRIGGER ledger_keys_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_keys
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();
CREATE TRIGGER ledger_checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only();

-- What was searched for, sealed with a key of its own (subject_keys): an event of a reading has the id and a commitment
-- of it. A row goes with its key when its term ends (retention.reading).
CREATE TABLE queries (
    query_id    uuid PRIMARY KEY,
    sealed      bytea NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX queries_by_age ON queries (recorded_at);
