-- Which cached copies a change has made worthless. A row is written in the transaction of the change and goes once Redis has said
-- that the copy is gone: also for a writer that died after its commit, or found Redis away.

CREATE TABLE cache_invalidations (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    -- Family, version and key of a cache entry. The same may stand in any number of rows.
    entry      text        NOT NULL CHECK (entry ~ '^[^:]+:[0-9]{1,9}:' AND octet_length(entry) <= 1024),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Which state of a row somebody has seen, so that a change can be made to that state and no other.
ALTER TABLE users ADD COLUMN version bigint NOT NULL DEFAULT 1;
ALTER TABLE products ADD COLUMN version bigint NOT NULL DEFAULT 1;

-- By triggers, because roles are also changed by hand: a version that stood still would call the change unchanged.
CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;
CREATE TRIGGER users_version BEFORE UPDATE OF name, email, country, role ON users
    FOR EACH ROW EXECUTE FUNCTION next_version();
CREATE TRIGGER products_version BEFORE UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION next_version();
