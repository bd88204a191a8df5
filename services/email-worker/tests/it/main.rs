//! Against a relay that misbehaves, the real PostgreSQL, the real SMTP server and the real RabbitMQ: start those by
//! `compose/up rabbitmq postgres mail`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod fixture;
mod once;
mod outage;
mod sorting;
mod whole;
