//! The program itself, against the real RabbitMQ and the real PostgreSQL: start those by `compose/up rabbitmq postgres`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod away;
mod fixture;
mod once;
mod whole;
