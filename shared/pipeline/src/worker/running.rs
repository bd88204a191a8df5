//! The jobs that run in this process, and the orders about them that come over `postroom.control`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::connection::{Link, LinkState, up};
use crate::control::Control;
use crate::topology::CONTROL;

const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to listen over a link that is up.
const PAUSE: Duration = Duration::from_secs(1);
/// Orders that wait; the oldest go first. What an order says stands in the mark as well, which every run asks for.
const WAITING: i64 = 10_000;

/// The jobs that run here.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    runs: Arc<Mutex<HashMap<Uuid, Run>>>,
}

#[derive(Debug)]
struct Run {
    job: Uuid,
    stop: CancellationToken,
}

/// A run that is known here, until this is dropped.
pub(super) struct Entry {
    running: Running,
    run: Uuid,
    /// Cancelled when the job is not wanted any more.
    pub(super) stop: CancellationToken,
}

impl Running {
    /// Makes a run known.
    pub(super) fn enter(&self, run: Uuid, job: Uuid) -> Entry {
        let stop = CancellationToken::new();
        self.lock().insert(run, Run { job, stop: stop.clone() });
        Entry { running: self.clone(), run, stop }
    }

    fn obey(&self, control: &Control) {
        match control {
            Control::Cancel { job } => {
                for run in self.lock().values().filter(|run| run.job == *job) {
                    tracing::info!(job.id = %job, "told to stop a job");
                    run.stop.cancel();
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().remove(&self.run);
    }
}

/// Listens for orders until `stop`, over a queue of this process alone.
pub(super) async fn listen(
    running: Running,
    service: &'static str,
    mut link: watch::Receiver<LinkState>,
    stop: CancellationToken,
) {
    while let Some(Some(up)) = stop.run_until_cancelled(up(&mut link)).await {
        let heard = stop.run_until_cancelled(session(&running, service, &up)).await;
        if let Some(Err(error)) = heard {
            tracing::warn!(error, "listen for orders: jobs that run are stopped later until this works again");
        }
        stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
}

async fn session(running: &Running, service: &str, link: &Link) -> Result<(), String> {
    let channel = within(link.connection.create_channel()).await?;
    let heard = hear(running, service, &channel, link).await;
    if channel.status().connected() {
        within(channel.close(200, "done".into())).await?;
    }
    heard
}

async fn hear(running: &Running, service: &str, channel: &Channel, link: &Link) -> Result<(), String> {
    let name = format!("control.{service}.{}", Uuid::new_v4().simple());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(WAITING));
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    within(channel.queue_declare(name.as_str().into(), options, arguments)).await?;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    within(channel.queue_bind(name.as_str().into(), CONTROL.into(), "".into(), options, none)).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consume = channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default());
    let mut orders = within(consume).await?;
    while let Some(Some(order)) = link.lost.run_until_cancelled(orders.next()).await {
        let order = order.map_err(|error| error.to_string())?;
        match serde_json::from_slice(&order.data) {
            Ok(control) => running.obey(&control),
            // A newer service may know more orders.
            Err(error) => tracing::debug!(%error, "an order that is not known here"),
        }
    }
    Ok(())
}

async fn within<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer from the broker in {} s", CALL_DEADLINE.as_secs())),
    }
}
