//! A service's way to the broker: two connections kept up, what it publishes, what it consumes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connection::{LinkState, Supervised};
use crate::fullness::Fullness;
use crate::nodes::Nodes;
use crate::publisher::Publisher;
use crate::topology::{self, Inspector, Management, Scale, ServiceRow, Topology};
use crate::tracker::{self, TrackEvents};
use crate::worker::{Handlers, Runtime, WorkerSettings, work};

/// A worker settles with nothing else to do; what it cannot publish within this it tries again.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);

/// Where the broker is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSettings {
    /// `amqp://user:password@host:port/vhost`, or several of these with commas between: nodes of one cluster, of which any
    /// will do.
    pub url: SecretString,
    /// Multiplies every wait between attempts. 1 but in tests, which use a virtual host of their own: queues that stand keep
    /// the waits that they were declared with.
    pub time_scale: f64,
    /// Messages ready in a work queue before further ones are refused, 10 to 10,000,000. The queues keep it, too.
    pub queue_length: u32,
    /// `http://host:15672`, or several: where the broker's management API is, if what stands on the broker is to be compared with
    /// the topology. User and password are those of `url`; the user needs the tag `management`.
    #[serde(default)]
    pub management_url: Option<String>,
}

/// Why a broker cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL, or one of several, cannot be used. (None is shown: they hold a password.)
    #[error("broker.url: {0}")]
    Url(String),
    /// The time scale is not a positive number.
    #[error("broker.time_scale must be above 0, at most 1000")]
    TimeScale,
    /// The length of a queue is out of bounds.
    #[error("broker.queue_length must be 10 to 10,000,000")]
    QueueLength,
    /// The management URL cannot be used.
    #[error("broker.management_url: {0}")]
    ManagementUrl(String),
    /// The service has no row in the topology.
    #[error("the topology has no service \"{0}\"")]
    UnknownService(String),
}

/// What a connection is at, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// Up.
    Connected,
    /// Up, and taking deliveries.
    Consuming,
    /// Up, and nothing is taken on purpose, because these are away.
    Paused(Vec<&'static str>),
    /// Up, and the broker takes no messages.
    Blocked,
    /// Down, with the reason of the last failure.
    Disconnected(String),
}

/// The broker, as one service sees it. Publishing and consuming have connections of their own: a blocked publisher's
/// connection sends no acks either.
#[derive(Debug)]
pub struct Broker {
    service: &'static ServiceRow,
    publishing: Supervised,
    consuming: Supervised,
    inspector: Option<Inspector>,
    publisher: Publisher,
    time_scale: f64,
    queue_length: u32,
    consumes: watch::Sender<BTreeSet<String>>,
    away: watch::Sender<BTreeSet<&'static str>>,
}

impl Broker {
    /// Starts to connect and returns at once, whether there is a broker or not.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn start(settings: &BrokerSettings, service: &str) -> Result<Self, SettingsError> {
        let row = topology::service(service).ok_or_else(|| SettingsError::UnknownService(service.to_owned()))?;
        if !(settings.time_scale > 0.0 && settings.time_scale <= 1000.0) {
            return Err(SettingsError::TimeScale);
        }
        if !(10..=10_000_000).contains(&settings.queue_length) {
            return Err(SettingsError::QueueLength);
        }
        let (nodes, uri) =
            Nodes::parse(settings.url.expose_secret()).map_err(|error| SettingsError::Url(error.to_string()))?;
        let scale = Scale { time: settings.time_scale, queue_length: settings.queue_length };
        let topology = Topology::of(row, scale);
        let inspector = inspector(settings, &uri, &topology, scale)?;
        let inspections = || inspector.as_ref().map(Inspector::inspections);
        let publishing =
            Supervised::start(nodes.clone(), format!("{service} publishing"), topology.clone(), inspections());
        let consuming = Supervised::start(nodes, format!("{service} consuming"), topology, inspections());
        let publisher = Publisher::new(publishing.state(), service, PUBLISH_DEADLINE);
        let (consumes, _) = watch::channel(BTreeSet::new());
        let (away, _) = watch::channel(BTreeSet::new());
        let BrokerSettings { time_scale, queue_length, .. } = *settings;
        Ok(Self { service: row, publishing, consuming, inspector, publisher, time_scale, queue_length, consumes, away })
    }

    /// The publisher.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// What the publishing connection is at; call the function whenever you want to know.
    pub fn publishing_state(&self) -> impl Fn() -> BrokerState + Send + Sync + 'static {
        state_of(self.publishing.state())
    }

    /// What the consuming connection is at, and whether each of the service's queues has its consumer on it; call the function
    /// whenever you want to know.
    pub fn consuming_state(&self) -> impl Fn() -> BrokerState + Send + Sync + 'static {
        let (link, consumes, away) =
            (state_of(self.consuming.state()), self.consumes.subscribe(), self.away.subscribe());
        let queues = self.service.queues();
        move || match link() {
            BrokerState::Connected if !away.borrow().is_empty() => {
                BrokerState::Paused(away.borrow().iter().copied().collect())
            }
            BrokerState::Connected if consumes.borrow().len() == queues => BrokerState::Consuming,
            state => state,
        }
    }

    /// For `/readyz`: whether publishing can work right now, and what it is at.
    pub fn publishing_readiness(&self) -> impl Fn() -> Result<String, String> + Send + Sync + 'static {
        let state = self.publishing_state();
        move || readiness(&state(), &BrokerState::Connected)
    }

    /// For `/readyz`: whether deliveries are being taken right now, and what the connection is at.
    pub fn consuming_readiness(&self) -> impl Fn() -> Result<String, String> + Send + Sync + 'static {
        let state = self.consuming_state();
        move || readiness(&state(), &BrokerState::Consuming)
    }

    /// For `/readyz`: whether what stands on the broker is what the topology says, as far as anybody has looked.
    pub fn topology_readiness(&self) -> impl Fn() -> Result<String, String> + Send + Sync + 'static {
        let inspections = self.inspector.as_ref().map(Inspector::inspections);
        move || match &inspections {
            Some(inspections) => inspections.latest().readiness(),
            None => Ok("not compared: broker.management_url is not set".to_owned()),
        }
    }

    /// Consumes the queues of the service's workers until `drain`, then finishes what has begun, gives back what has not, and
    /// ends; at `abort` it ends at once.
    ///
    /// # Panics
    /// When a kind of these workers has no handler, or a handler no queue: such a service would bury good jobs. When deliveries
    /// would wait here for longer than the broker bears: see [`topology::WorkerRow::longest_hold`].
    pub fn work(
        &self,
        handlers: Handlers,
        settings: &WorkerSettings,
        drain: CancellationToken,
        abort: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut wanted: Vec<&str> = self
            .service
            .works
            .iter()
            .filter_map(|name| topology::worker(name))
            .flat_map(|row| row.kinds)
            .copied()
            .collect();
        wanted.sort_unstable();
        assert!(
            handlers.kinds().eq(wanted.iter().copied()),
            "handlers for {handlers:?}, but the topology says {wanted:?}"
        );
        for row in self.service.works.iter().filter_map(|name| topology::worker(name)) {
            let hold = row.longest_hold(settings.concurrency.get(), self.time_scale);
            let most = row.consumer_timeout(self.time_scale);
            assert!(
                hold <= most,
                "a delivery of \"{}\" may be held for {} s, and the broker bears {} s: lower its timeout or broker.time_scale",
                row.name,
                hold.as_secs(),
                most.as_secs()
            );
        }
        let runtime = Runtime {
            service: self.service,
            handlers,
            publisher: self.publisher.clone(),
            link: self.consuming.state(),
            settings: settings.clone(),
            time_scale: self.time_scale,
            consuming: self.consumes.clone(),
            away: self.away.clone(),
            drain,
            abort,
        };
        work(runtime)
    }

    /// Consumes the tracker's queues until `drain`.
    pub fn track<T: TrackEvents>(
        &self,
        tracker: T,
        drain: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        tracker::track(self.consuming.state(), tracker, self.consumes.clone(), drain)
    }

    /// Which of the queues that the service publishes to are nearly full. It knows nothing until its `watch` runs.
    #[must_use]
    pub fn fullness(&self) -> Fullness {
        Fullness::new(self.service, self.consuming.state(), self.queue_length)
    }

    /// Closes both connections. Call it last.
    pub async fn close(self) {
        if let Some(inspector) = self.inspector {
            inspector.close().await;
        }
        self.consuming.close().await;
        self.publishing.close().await;
    }
}

fn inspector(
    settings: &BrokerSettings,
    broker: &AMQPUri,
    own: &Topology,
    scale: Scale,
) -> Result<Option<Inspector>, SettingsError> {
    let Some(urls) = &settings.management_url else { return Ok(None) };
    let management = Management::new(urls, broker).map_err(|error| SettingsError::ManagementUrl(error.to_string()))?;
    Ok(Some(Inspector::start(management, own.clone(), Topology::all(scale), scale.time)))
}

fn readiness(state: &BrokerState, ready: &BrokerState) -> Result<String, String> {
    if state == ready { Ok(state.to_string()) } else { Err(state.to_string()) }
}

impl fmt::Display for BrokerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => formatter.write_str("connected"),
            Self::Consuming => formatter.write_str("consuming"),
            Self::Paused(away) => write!(formatter, "paused: {}", away.join(", ")),
            Self::Blocked => formatter.write_str("blocked by the broker"),
            Self::Disconnected(reason) => write!(formatter, "reconnecting: {reason}"),
        }
    }
}

fn state_of(link: watch::Receiver<LinkState>) -> impl Fn() -> BrokerState + Send + Sync + 'static {
    move || match &*link.borrow() {
        LinkState::Up(link) if link.is_blocked() => BrokerState::Blocked,
        LinkState::Up(_) => BrokerState::Connected,
        LinkState::Down { reason } => BrokerState::Disconnected(reason.clone()),
    }
}
