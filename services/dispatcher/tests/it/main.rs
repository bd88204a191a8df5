//! Against the real RabbitMQ, PostgreSQL and Redis: start those by `compose/up rabbitmq postgres redis-cache redis-durable mail`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod fixture;
mod invalidating;
mod refusals;
mod schedules;
mod sending;
mod sweeping;
mod whole;
