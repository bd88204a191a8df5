//! The composed system from outside. `compose/up` starts it; `tests/run` does both. One test at a time: some of them kill
//! services that the others use.

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]

mod absent;
mod bad_input;
mod chains;
mod copies;
mod faults;
mod harness;
mod main_job;
mod orders;
mod partner;
mod trace;
mod videos;
