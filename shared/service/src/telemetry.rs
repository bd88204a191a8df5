//! Logs on standard output, and the metrics registry that `/metrics` shows.

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt};

/// How a service logs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// `json` (a line an event) or `pretty` (for a person at a terminal).
    pub format: LogFormat,
    /// A `tracing` filter, for example `info` or `info,lapin=debug`.
    pub filter: String,
}

/// The two forms of a log line.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Coloured text.
    Pretty,
}

/// Seconds: from a no-op to the longest render.
const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Installs the log subscriber, the panic hook that logs, and the metrics recorder. Call it once, first in `main`.
///
/// # Errors
/// The filter cannot be parsed, or one of the three is installed already.
pub fn start(settings: &LogSettings) -> anyhow::Result<PrometheusHandle> {
    let filter =
        EnvFilter::try_new(&settings.filter).with_context(|| format!("parse log.filter \"{}\"", settings.filter))?;
    let builder = fmt().with_env_filter(filter);
    match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Pretty => builder.try_init(),
    }
    .map_err(|error| anyhow::anyhow!("install the log subscriber: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(panic.message = panic.payload_as_str(), panic.place = place, "a task panicked");
    }));
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)
        .context("set the histogram buckets")?
        .install_recorder()
        .context("install the metrics recorder")
}
