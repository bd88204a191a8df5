//! A pool of pre-warmed `pdf-engine` children, each of which makes one document and ends.
//!
//! A template runs in a process of its own because nothing inside Typst can stop it: the child has limits on memory and
//! processor time, the parent holds the clock and kills.

mod child;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use self::child::Child;
use crate::protocol::{Diagnostic, Request};

/// What one child may take. How large its document may become stands in the [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address space, of which a waiting engine takes 50 MiB.
    pub memory_bytes: u64,
    /// Processor time, in whole seconds.
    pub cpu: Duration,
    /// Time from the request to the end of the process.
    pub wall: Duration,
}

impl Default for Limits {
    /// 1 GiB, 60 s of processor time, 75 s by the clock: a report of 5,000 rows takes half of the memory and 3 s.
    fn default() -> Self {
        Self { memory_bytes: 1024 * 1024 * 1024, cpu: Duration::from_secs(60), wall: Duration::from_secs(75) }
    }
}

/// A finished document.
#[derive(Clone)]
pub struct Rendered {
    /// The file.
    pub pdf: Bytes,
    /// How many pages it has.
    pub pages: u32,
}

impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rendered {{ {} bytes, {} pages }}", self.pdf.len(), self.pages)
    }
}

/// How far a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A child took the request and lays out the pages.
    Started,
    /// All pages are laid out, the file is being written.
    LaidOut {
        /// How many.
        pages: u32,
    },
}

/// Which of the request's limits the document went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Too many pages.
    Pages {
        /// How many there were.
        pages: u32,
        /// How many there may be.
        limit: u32,
    },
    /// Too many bytes.
    Bytes {
        /// How many there were.
        bytes: u64,
        /// How many there may be.
        limit: u32,
    },
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pages { pages, limit } => write!(f, "{pages} pages where {limit} are allowed"),
            Self::Bytes { bytes, limit } => write!(f, "{bytes} bytes where {limit} are allowed"),
        }
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template, or what it was given, is wrong: it will be wrong again.
    #[error("template: {}", list(.diagnostics))]
    Template {
        /// What is wrong and where, at least one.
        diagnostics: Vec<Diagnostic>,
    },
    /// The document is larger than the request allows.
    #[error("document too large: {0}")]
    TooLarge(Excess),
    /// The child wanted more memory than [`Limits::memory_bytes`].
    #[error("out of memory: more than {limit_bytes} bytes of address space")]
    OutOfMemory {
        /// What it may have.
        limit_bytes: u64,
    },
    /// The child took longer than [`Limits::wall`], or more processor time than [`Limits::cpu`].
    #[error("not done within {limit:?} of {clock} time")]
    TimedOut {
        /// `wall` or `cpu`.
        clock: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The child died of something else: a bug, or somebody killed it.
    #[error("engine ended with {status}: {stderr}")]
    Crashed {
        /// How it ended.
        status: String,
        /// The beginning of what it wrote to its standard error.
        stderr: String,
    },
    /// No child could be started, or it died before it took the request.
    #[error("start the engine")]
    Unavailable(#[source] std::io::Error),
}

/// The diagnostics in one line, a bounded number of them.
fn list(diagnostics: &[Diagnostic]) -> String {
    let shown: Vec<_> = diagnostics.iter().take(5).map(ToString::to_string).collect();
    shown.join("; ")
}

/// Makes PDF documents, each in a child process of its own. Children die with the renderer.
///
/// Must be made and used inside a Tokio runtime whose worker threads live as long as it does: the kernel kills a child
/// when the *thread* that started it ends.
#[derive(Debug)]
pub struct Renderer {
    engine: PathBuf,
    limits: Limits,
    warm: usize,
    idle: Arc<Mutex<VecDeque<Child>>>,
    /// Starts of children that nobody waits for; aborted with the renderer.
    starting: Mutex<JoinSet<()>>,
}

impl Renderer {
    /// A renderer that keeps `warm` booted children waiting. Where none can be started now, each render tries again.
    #[must_use]
    pub fn new(engine: impl Into<PathBuf>, warm: usize, limits: Limits) -> Self {
        let renderer = Self { engine: engine.into(), limits, warm, idle: Arc::default(), starting: Mutex::default() };
        renderer.refill();
        renderer
    }

    /// Whether a child can be started at all. One that is slow on a busy machine is no reason to end.
    ///
    /// # Errors
    /// When it cannot, or ends before it is ready.
    pub async fn check(&self) -> std::io::Result<()> {
        match Child::start(&self.engine, &self.limits).await {
            Err(error) if error.kind() != std::io::ErrorKind::TimedOut => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes one document. Dropping the future kills the child.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub async fn render(
        &self,
        request: &Request,
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Rendered, RenderError> {
        let child = match self.take_idle() {
            Some(child) => child,
            None => Child::start(&self.engine, &self.limits).await.map_err(RenderError::Unavailable)?,
        };
        self.refill();
        on_progress(Progress::Started);
        child.render(request, &self.limits, on_progress).await
    }

    /// How many booted children wait for a request.
    #[must_use]
    pub fn idle(&self) -> usize {
        locked(&self.idle).len()
    }

    /// A waiting child that is still alive.
    fn take_idle(&self) -> Option<Child> {
        let mut idle = locked(&self.idle);
        while let Some(mut child) = idle.pop_front() {
            if child.is_alive() {
                return Some(child);
            }
            tracing::warn!("an idle engine died");
        }
        None
    }

    /// Starts what is missing to `warm` idle children, without waiting for it.
    fn refill(&self) {
        let mut starting = locked(&self.starting);
        while starting.try_join_next().is_some() {}
        let missing = self.warm.saturating_sub(self.idle() + starting.len());
        for _ in 0..missing {
            let (engine, limits, idle) = (self.engine.clone(), self.limits, Arc::clone(&self.idle));
            starting.spawn(async move {
                match Child::start(&engine, &limits).await {
                    Ok(child) => locked(&idle).push_back(child),
                    Err(error) => tracing::warn!(%error, "start an engine ahead of its request"),
                }
            });
        }
    }
}

/// The lock is held for a push or a pop, neither of which can leave the list half changed.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
