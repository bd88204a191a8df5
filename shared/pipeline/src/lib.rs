//! The wire: message contracts, topology as data, the publisher, the worker runtime with retries and dead letters.
//! It knows no database, no cache, and of HTTP only the broker's management API.

mod broker;
mod confirms;
mod connection;
mod consumer;
#[cfg(test)]
mod contract_tests;
mod control;
pub mod events;
mod fullness;
pub mod jobs;
pub mod message;
mod nodes;
pub mod policy;
mod publisher;
pub mod topology;
pub mod trace;
mod tracker;
pub mod worker;

pub use broker::{Broker, BrokerSettings, BrokerState};
pub use control::Control;
pub use events::{DeadLetter, Event, EventBody, SealedEvent};
pub use fullness::Fullness;
pub use jobs::Job;
pub use message::{OutgoingJob, SealedJob};
pub use publisher::{PublishError, Publisher};
pub use trace::TraceContext;
pub use tracker::{News, TrackError, TrackEvents};
pub use worker::{Concurrency, Done, Failure, Handler, Handlers, JobContext, JobMark, OrFail, WorkerSettings};
