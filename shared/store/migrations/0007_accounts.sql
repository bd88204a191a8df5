-- Who may do what: passwords and roles of users, and the tokens by which machines act for them.

ALTER TABLE users
    -- A PHC string. NULL: nobody can sign in with a password.
    ADD COLUMN password_hash text CHECK (password_hash <> ''),
    ADD COLUMN role          text NOT NULL DEFAULT 'customer' CHECK (role IN ('customer', 'staff', 'operator'));

CREATE TABLE api_tokens (
    id         uuid        PRIMARY KEY,
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    name       text        NOT NULL CHECK (name <> '' AND char_length(name) <= 200),
    -- SHA-256 of the token, which is random and long: nothing slower is needed, and the token itself is kept nowhere.
    digest     bytea       NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    scopes     text[]      NOT NULL CHECK (scopes <@ ARRAY['jobs:read', 'jobs:write'] AND cardinality(scopes) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    revoked_at timestamptz
);
CREATE INDEX api_tokens_of_user ON api_tokens (user_id, created_at);
