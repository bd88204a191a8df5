//! `/livez`, `/readyz` and `/metrics` on a port of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http;

/// Where health and metrics are served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// Address and port, for example `0.0.0.0:9090`. Not for the public.
    pub listen: SocketAddr,
}

/// The state of one part of a service: `Ok("consuming")`, or `Err("reconnecting")` while it cannot do its work.
pub type PartState = Result<String, String>;

type Check = Arc<dyn Fn() -> PartState + Send + Sync>;

/// Serves `/livez` (the process runs), `/readyz` (200 when every part can work, else 503; both tell by part) and `/metrics`.
pub struct Health {
    listen: SocketAddr,
    metrics: PrometheusHandle,
    parts: BTreeMap<&'static str, Check>,
}

impl Health {
    /// A server with no parts yet; `metrics` is what [`crate::telemetry::start`] returned.
    #[must_use]
    pub fn new(settings: &HealthSettings, metrics: PrometheusHandle) -> Self {
        Self { listen: settings.listen, metrics, parts: BTreeMap::new() }
    }

    /// Adds a part to `/readyz`. `check` is called at each request and must only look, not ask.
    #[must_use]
    pub fn part(mut self, name: &'static str, check: impl Fn() -> PartState + Send + Sync + 'static) -> Self {
        self.parts.insert(name, Arc::new(check));
        self
    }

    /// Serves until `stop` is cancelled.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let listener =
            TcpListener::bind(self.listen).await.with_context(|| format!("listen on {} for health", self.listen))?;
        let upkeep = tokio::spawn(keep_up(self.metrics.clone(), stop.clone()));
        let router = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz).with_state(self.parts))
            .route(
                "/metrics",
                get(|State(metrics): State<PrometheusHandle>| async move { metrics.render() }).with_state(self.metrics),
            );
        http::serve(listener, router, http::Limits { connections: 64, ..http::Limits::default() }, stop).await;
        upkeep.await.context("run the metrics upkeep")
    }
}

async fn readyz(
    State(parts): State<BTreeMap<&'static str, Check>>,
) -> (StatusCode, Json<BTreeMap<&'static str, String>>) {
    let mut status = StatusCode::OK;
    let states = parts.iter().map(|(name, check)| match check() {
        Ok(state) => (*name, state),
        Err(state) => {
            status = StatusCode::SERVICE_UNAVAILABLE;
            (*name, state)
        }
    });
    let states = states.collect();
    (status, Json(states))
}

/// The recorder keeps histogram samples until they are drained; without a scrape they would pile up.
async fn keep_up(metrics: PrometheusHandle, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}
