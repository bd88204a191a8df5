//! The API over real connections, against a real RabbitMQ, PostgreSQL and Redis: `compose/up rabbitmq postgres redis-cache redis-durable`
//! starts them.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, and does not see that these are their helpers"
)]

mod accept;
mod accounts;
mod binary;
mod broker_faults;
mod cancel;
mod chain;
mod download;
mod full_queue;
mod harness;
mod idempotency;
mod job_copies;
mod limits;
mod openapi;
mod order_requests;
mod orders;
mod outbox;
mod product_changes;
mod products;
mod profiles;
mod rate_limits;
mod schedules;
mod sessions;
mod status;
mod stock;
mod strangers;
mod stream;
mod tokens;
mod trace;
mod tracking;
mod videos;
