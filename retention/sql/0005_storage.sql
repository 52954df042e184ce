-- Storage, backup and recovery.

-- ---------------------------------------------------------------- recovery

-- What is in no copy stays empty after a recovery, and `verify` names it: the name behind a pseudonym, the key of who
-- may sign, a signature. Each is there from the first on; only a recovery leaves one out.
ALTER TABLE pseudonyms ALTER COLUMN sealed_name DROP NOT NULL;
ALTER TABLE approvers ALTER COLUMN public_key DROP NOT NULL;
ALTER TABLE signatures ALTER COLUMN signature DROP NOT NULL;
GRANT UPDATE (kind, sealed_name) ON pseudonyms TO muniment_application;  -- a name that is used again is entered again

-- 5 lost: captured after the last recovery point, and its content or its key is in no copy.
ALTER TABLE records DROP CONSTRAINT records_state, ADD CONSTRAINT records_state CHECK (state BETWEEN 1 AND 5);
