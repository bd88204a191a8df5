//! The worker runtime: the life of a delivery from the queue to its settlement.

mod consume;
mod decide;
mod dependencies;
mod executor;
mod handler;
mod run;
mod running;
mod settle;

pub use consume::{Concurrency, WorkerSettings};
pub(crate) use consume::{Runtime, work};
pub use decide::FailureKind;
pub use handler::{Done, Failure, Handler, Handlers, JobContext, JobMark, OrFail};
