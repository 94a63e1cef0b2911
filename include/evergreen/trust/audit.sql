-- The table of the audit log, in a database of its own. Run by its owner, as often as wanted: what exists is kept.
-- The steps' role needs no more than: CONNECT on the database, SELECT and INSERT on the table.
CREATE TABLE IF NOT EXISTS audit_log (
    model text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    at timestamptz NOT NULL,
    event text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    signature text,
    PRIMARY KEY (model, number)
);

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
