//! The threads that handlers run on: a Tokio runtime of their own, so that a handler that hogs its thread delays no
//! heartbeat, no ack and no drain. The one place that uses tokio-executor-trait.

use std::pin::Pin;
use std::sync::Arc;

use executor_trait::Executor;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_executor_trait::Tokio;

/// Cheap to clone; the threads end with the last clone, without waiting for a handler that does not end.
#[derive(Clone, Debug)]
pub(super) struct HandlerThreads {
    executor: Tokio,
    handle: Handle,
    _runtime: Arc<Background>,
}

#[derive(Debug)]
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl HandlerThreads {
    /// As many threads as the machine has cores.
    pub(super) fn start(service: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .thread_name(format!("{service} handlers"))
            .enable_all()
            .build()
            .expect("the system gives threads at start");
        Self {
            executor: Tokio::default(),
            handle: runtime.handle().clone(),
            _runtime: Arc::new(Background(Some(runtime))),
        }
    }

    /// Runs `task` to its end. A panic must be caught inside.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        // The executor prefers the runtime that it is called in to any that it was given (3.1: `handle()` asks
        // `Handle::try_current()` first), so it is called inside the right one.
        let _inside = self.handle.enter();
        // Dropping the handle lets the task run on: what it answers comes by a channel.
        drop(self.executor.spawn(task));
    }
}
