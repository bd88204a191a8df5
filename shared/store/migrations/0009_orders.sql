-- Orders that customers place: what is on the shelves, what was refused, and events beside jobs in the outbox.

ALTER TABLE products ADD COLUMN stock bigint NOT NULL DEFAULT 0 CHECK (stock >= 0);
-- A product that is sold has not changed for whoever has seen it.
DROP TRIGGER products_version ON products;
CREATE TRIGGER products_version BEFORE UPDATE OF sku, name, category, price_minor, currency, created_at ON products
    FOR EACH ROW EXECUTE FUNCTION next_version();

-- When the shop took the order; it was priced and written down at `placed_at`, which may be long after.
ALTER TABLE orders ADD COLUMN accepted_at timestamptz NOT NULL DEFAULT now();
UPDATE orders SET accepted_at = placed_at;
CREATE INDEX orders_by_acceptance ON orders (user_id, accepted_at, id);

-- Orders that cannot be. They stand apart, so that nothing that counts orders counts them.
CREATE TABLE order_refusals (
    id          uuid        PRIMARY KEY,
    -- No reference: a customer who does not exist is a reason.
    user_id     uuid        NOT NULL,
    code        text        NOT NULL CHECK (code <> ''),
    -- For the customer.
    reason      text        NOT NULL CHECK (reason <> ''),
    -- What was asked for: product_id and quantity of each line.
    lines       json        NOT NULL,
    accepted_at timestamptz NOT NULL,
    refused_at  timestamptz NOT NULL
);
CREATE INDEX order_refusals_by_acceptance ON order_refusals (user_id, accepted_at, id);

-- How the job will end, where what it was to bring about stands already and its last event is on the way: too late to cancel.
ALTER TABLE jobs ADD COLUMN decided text CHECK (decided IN ('succeeded', 'refused'));

-- What a row of the outbox carries. An event has no row in `jobs`; its `job_id` is its own id.
ALTER TABLE outbox ADD COLUMN carries text NOT NULL DEFAULT 'job' CHECK (carries IN ('job', 'event'));
