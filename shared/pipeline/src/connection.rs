//! A connection that is kept up: one supervisor each, which rebuilds connection, topology and channels after every loss, with
//! the next node of a cluster.
//!
//! lapin's own recovery is not used: it makes a publish wait silently. Here a publish fails at once while there is no link.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, ConnectionProperties, Event};
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::confirms::{Message, OPEN, publish_all};
use crate::nodes::{Node, Nodes};
use crate::topology::{DeclareError, Inspection, Inspections, Topology, declare};

/// A channel's set-up.
const CHANNEL_DEADLINE: Duration = Duration::from_secs(10);
/// A blocked connection never answers a close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How often a link that reports nothing is looked at.
const LOOK: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// A connection that is up, until `lost` is cancelled.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: lapin::Connection,
    /// To be published with confirms.
    pub(crate) messages: mpsc::Sender<Message>,
    /// Over which that is done.
    confirmed: Channel,
    /// Without: what goes out here may be lost.
    pub(crate) unconfirmed: Channel,
    /// Cancelled when the connection, or a channel that belongs to it, is no longer good. Whoever notices cancels it.
    pub(crate) lost: CancellationToken,
    pub(crate) since: Instant,
    blocked: watch::Sender<bool>,
}

impl Link {
    /// Whether the broker has stopped taking messages on it (memory or disk alarm).
    pub(crate) fn is_blocked(&self) -> bool {
        *self.blocked.borrow()
    }
}

/// What a connection is at.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    Down { reason: String },
    Up(Arc<Link>),
}

/// A kept-up connection.
#[derive(Debug)]
pub(crate) struct Supervised {
    state: watch::Receiver<LinkState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts the supervisor and returns at once, whether there is a broker or not.
    pub(crate) fn start(nodes: Nodes, name: String, topology: Topology, inspections: Option<Inspections>) -> Self {
        let (sender, state) = watch::channel(LinkState::Down { reason: "connecting".to_owned() });
        let stop = CancellationToken::new();
        let task = tokio::spawn(supervise(nodes, name, topology, inspections, sender, stop.clone()));
        Self { state, stop, task }
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Closes the connection and ends the supervisor.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a connection's supervisor failed");
        }
    }
}

/// Waits for a link that is up; `None` when the supervisor has ended.
pub(crate) async fn up(state: &mut watch::Receiver<LinkState>) -> Option<Arc<Link>> {
    loop {
        if let LinkState::Up(link) = &*state.borrow_and_update() {
            return Some(Arc::clone(link));
        }
        state.changed().await.ok()?;
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("connect to the broker")]
    Broker(#[from] lapin::Error),
    #[error("no answer from the broker in {} s", .0.as_secs())]
    Silent(Duration),
    #[error("no answer from the broker in {} s", CHANNEL_DEADLINE.as_secs())]
    Late(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Declare(#[from] DeclareError),
    #[error("{0}")]
    Differs(String),
}

impl ConnectError {
    /// Whether trying again will do only after somebody has changed something.
    fn needs_a_person(&self) -> bool {
        match self {
            Self::Declare(error) => error.differs(),
            Self::Differs(_) => true,
            Self::Broker(_) | Self::Silent(_) | Self::Late(_) => false,
        }
    }
}

async fn supervise(
    nodes: Nodes,
    name: String,
    topology: Topology,
    mut inspections: Option<Inspections>,
    state: watch::Sender<LinkState>,
    stop: CancellationToken,
) {
    let mut nodes = nodes.in_turn();
    let (mut failures, mut told) = (0, None);
    while !stop.is_cancelled() {
        let (node, deadline) = nodes.next();
        let node_name = node.name.clone();
        match stop.run_until_cancelled(connect(node, deadline, &name, &topology, inspections.as_mut())).await {
            None => break,
            Some(Ok(link)) => {
                (failures, told) = (0, None);
                nodes.succeeded();
                metrics::gauge!("broker_connected", "connection" => name.clone()).set(1.0);
                tracing::info!(connection = name, node = node_name, "connected to the broker");
                let link = Arc::new(link);
                state.send_replace(LinkState::Up(Arc::clone(&link)));
                let reason = watch_over(&link, &topology, inspections.as_mut(), &stop).await;
                metrics::gauge!("broker_connected", "connection" => name.clone()).set(0.0);
                state.send_replace(LinkState::Down { reason: reason.clone() });
                link.lost.cancel();
                if !stop.is_cancelled() {
                    tracing::warn!(connection = name, node = node_name, reason, "lost the connection to the broker");
                }
                close(&link).await;
            }
            Some(Err(error)) => {
                let reason = reason(&error);
                // A broker that stays away is said once a minute, not five times a second.
                if error.needs_a_person() && told.as_ref() != Some(&reason) {
                    told = Some(reason.clone());
                    tracing::error!(
                        connection = name,
                        node = node_name,
                        reason,
                        "the broker is not as the topology says"
                    );
                } else if failures % 12 == 0 {
                    tracing::warn!(connection = name, node = node_name, reason, "no connection to the broker yet");
                }
                state.send_replace(LinkState::Down { reason });
                if !nodes.failed() {
                    continue; // The next node may be well: nobody waits before all were tried.
                }
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff(failures))).await;
        failures = failures.saturating_add(1);
    }
}

async fn connect(
    node: &Node,
    deadline: Duration,
    name: &str,
    topology: &Topology,
    inspections: Option<&mut Inspections>,
) -> Result<Link, ConnectError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connected = timeout(deadline, lapin::Connection::connect(&node.uri, properties)).await;
    let connection = connected.map_err(|_| ConnectError::Silent(deadline))??;
    match set_up(&connection, topology, inspections).await {
        Ok((confirmed, unconfirmed)) => {
            let ((blocked, _), lost) = (watch::channel(false), CancellationToken::new());
            let (messages, handed_in) = mpsc::channel(OPEN);
            tokio::spawn(publish_all(confirmed.clone(), handed_in, lost.clone()));
            Ok(Link { connection, messages, confirmed, unconfirmed, lost, since: Instant::now(), blocked })
        }
        Err(error) => {
            // Dropping a connection that is half set up is not the same as closing it.
            close_connection(&connection).await;
            Err(error)
        }
    }
}

async fn set_up(
    connection: &lapin::Connection,
    topology: &Topology,
    inspections: Option<&mut Inspections>,
) -> Result<(Channel, Channel), ConnectError> {
    // Before anything is declared: a declaration mends what was missing, and nobody would hear of it.
    let inspection = match inspections {
        Some(inspections) => inspections.fresh().await,
        None => Inspection::default(),
    };
    declare_all(connection, topology).await.map_err(|error| match (&error, inspection.refused()) {
        // The broker names the first difference only.
        (ConnectError::Declare(refusal), Some(differences)) if refusal.differs() => ConnectError::Differs(differences),
        _ => error,
    })?;
    let confirmed = timeout(CHANNEL_DEADLINE, connection.create_channel()).await??;
    timeout(CHANNEL_DEADLINE, confirmed.confirm_select(ConfirmSelectOptions::default())).await??;
    let unconfirmed = timeout(CHANNEL_DEADLINE, connection.create_channel()).await??;
    Ok((confirmed, unconfirmed))
}

async fn declare_all(connection: &lapin::Connection, topology: &Topology) -> Result<(), ConnectError> {
    let declaring = timeout(CHANNEL_DEADLINE, connection.create_channel()).await??;
    declare(&declaring, topology).await?;
    timeout(CHANNEL_DEADLINE, declaring.close(200, "declared".into())).await??;
    Ok(())
}

/// Returns, with the reason, when the link is no longer good or the supervisor is to stop.
async fn watch_over(
    link: &Link,
    topology: &Topology,
    mut inspections: Option<&mut Inspections>,
    stop: &CancellationToken,
) -> String {
    let mut events = Box::pin(link.connection.events_listener());
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return "closing".to_owned(),
            () = link.lost.cancelled() => return "a channel was closed".to_owned(),
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker has blocked this connection");
                    link.blocked.send_replace(true);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes messages again");
                    link.blocked.send_replace(false);
                }
                Some(Event::Error(error)) if !link.connection.status().connected() => return error.to_string(),
                Some(_) => {}
                None => return "the connection's events ended".to_owned(),
            },
            () = mendable(&mut inspections) => {
                if let Err(error) = declare_all(&link.connection, topology).await {
                    return reason(&error);
                }
                tracing::info!("declared the topology anew");
            }
            _ = look.tick() => {
                let channels = link.confirmed.status().connected() && link.unconfirmed.status().connected();
                if !link.connection.status().connected() || !channels {
                    return "the connection or a channel was closed".to_owned();
                }
            }
        }
    }
}

async fn mendable(inspections: &mut Option<&mut Inspections>) {
    match inspections {
        Some(inspections) => inspections.mendable().await,
        None => std::future::pending().await,
    }
}

async fn close(link: &Link) {
    if link.connection.status().connected() && !link.is_blocked() {
        close_connection(&link.connection).await;
    }
}

async fn close_connection(connection: &lapin::Connection) {
    match timeout(CLOSE_DEADLINE, connection.close(200, "closing".into())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "close the connection to the broker"),
        Err(_) => tracing::warn!("the broker did not answer the close of a connection"),
    }
}

/// Doubling from [`BACKOFF_FIRST`] to [`BACKOFF_LAST`], with full jitter in its upper half, so that the services of a restarted
/// broker do not all come at once.
fn backoff(failures: u32) -> Duration {
    let longest = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(BACKOFF_LAST);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// An error with its sources.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BACKOFF_LAST, backoff};

    #[test]
    fn the_wait_between_attempts_grows_and_stays_bounded() {
        for _ in 0..100 {
            assert!(backoff(0) < backoff(3));
            assert!(backoff(u32::MAX) <= BACKOFF_LAST);
        }
    }
}
