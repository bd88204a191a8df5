//! What handlers need besides the broker: whether it is there, asked of itself and never of a job.
//!
//! A run that says `Unavailable` has its word checked by a probe. If the dependency answers, the run has failed like any other;
//! if not, the service pauses until it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::run::panic_message;

/// A dependency that does not answer within this is away.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two probes of one that is away: doubling from the first to the last, multiplied by the time scale.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Runs that wait for the same probe; more than run at once there cannot be.
const WAITING: usize = 1024;

type Probing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
/// Asks a dependency for a sign of life.
pub(super) type Probe = Box<dyn Fn() -> Probing + Send + Sync>;

/// Makes a probe of a function.
pub(super) fn probe<F, Answer, E>(ask: F) -> Probe
where
    F: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    Box::new(move || {
        let answer = ask();
        Box::pin(async move { answer.await.map_err(|error| error.to_string()) })
    })
}

/// Asks whether dependencies are away. The tasks behind it end with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Dependencies {
    checks: BTreeMap<&'static str, mpsc::Sender<oneshot::Sender<bool>>>,
}

impl Dependencies {
    /// Starts to look after them. `away` has the names of those that are away.
    pub(super) fn start(
        probes: BTreeMap<&'static str, Probe>,
        away: &watch::Sender<BTreeSet<&'static str>>,
        time_scale: f64,
    ) -> Self {
        let checks = probes.into_iter().map(|(name, probe)| {
            let (sender, checks) = mpsc::channel(WAITING);
            tokio::spawn(Watch { name, probe, away: away.clone(), time_scale }.run(checks));
            (name, sender)
        });
        Self { checks: checks.collect() }
    }

    /// Whether `name` is away, as its own probe says.
    pub(super) async fn is_away(&self, name: &str) -> bool {
        let Some(checks) = self.checks.get(name) else {
            tracing::error!(
                dependency = name,
                "a handler named a dependency that has no probe: its job is tried again"
            );
            return false;
        };
        let (answer, answered) = oneshot::channel();
        checks.send(answer).await.is_ok() && answered.await.unwrap_or(false)
    }
}

/// One dependency.
struct Watch {
    name: &'static str,
    probe: Probe,
    away: watch::Sender<BTreeSet<&'static str>>,
    time_scale: f64,
}

impl Watch {
    async fn run(self, mut checks: mpsc::Receiver<oneshot::Sender<bool>>) {
        // Once at start, so that nothing is begun that cannot be done, and health knows.
        let mut asked = Vec::new();
        loop {
            let answer = self.ask().await;
            while let Ok(check) = checks.try_recv() {
                asked.push(check);
            }
            if let Err(reason) = &answer {
                // Before the answers, so that nothing is begun once a job was put back.
                tracing::warn!(dependency = self.name, reason, "paused: a dependency is away");
                self.away.send_modify(|away| {
                    away.insert(self.name);
                });
            }
            for check in asked.drain(..) {
                reply(check, answer.is_err());
            }
            if answer.is_err() {
                if !self.until_back(&mut checks).await {
                    return;
                }
                tracing::info!(dependency = self.name, "a dependency is back");
                self.away.send_modify(|away| {
                    away.remove(self.name);
                });
            }
            match checks.recv().await {
                Some(check) => asked.push(check),
                None => return,
            }
        }
    }

    /// Probes until there is an answer; `false` when nobody is left to wait for it.
    async fn until_back(&self, checks: &mut mpsc::Receiver<oneshot::Sender<bool>>) -> bool {
        let mut pause = FIRST_PAUSE.mul_f64(self.time_scale);
        loop {
            let rest = sleep(pause);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    () = &mut rest => break,
                    check = checks.recv() => match check {
                        Some(check) => reply(check, true),
                        None => return false,
                    },
                }
            }
            if self.ask().await.is_ok() {
                return true;
            }
            pause = (pause * 2).min(LAST_PAUSE.mul_f64(self.time_scale));
        }
    }

    async fn ask(&self) -> Result<(), String> {
        // A panic would end this task, and nobody would hear that the dependency is back.
        let asked = AssertUnwindSafe(async { (self.probe)().await }).catch_unwind();
        let answer = match timeout(PROBE_DEADLINE, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => {
                let panic = panic_message(&*panic);
                tracing::error!(dependency = self.name, panic, "a probe panicked: its dependency counts as away");
                Err(format!("the probe panicked: {panic}"))
            }
            Err(_) => Err(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
        };
        let outcome = if answer.is_ok() { "up" } else { "away" };
        metrics::counter!("dependency_probes_total", "dependency" => self.name, "outcome" => outcome).increment(1);
        metrics::gauge!("dependency_up", "dependency" => self.name).set(if answer.is_ok() { 1.0 } else { 0.0 });
        answer
    }
}

fn reply(check: oneshot::Sender<bool>, away: bool) {
    if check.send(away).is_err() {
        tracing::trace!("who asked has lost its connection meanwhile");
    }
}
