//! Against the real RabbitMQ and PostgreSQL: start those by `compose/up rabbitmq postgres mail`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod fixture;
mod refusals;
mod schedules;
mod sending;
mod sweeping;
mod whole;
