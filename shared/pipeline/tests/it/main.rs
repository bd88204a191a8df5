//! The pipeline against a real RabbitMQ: `compose/up rabbitmq` starts it.

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]

mod cancel;
mod causation;
mod death;
mod faults;
mod fullness;
mod harness;
mod lanes;
mod long;
mod nodes;
mod permissions;
mod publishing;
mod retries;
mod shutdown;
mod suspect;
mod trace;
mod unavailable;
mod verify;
