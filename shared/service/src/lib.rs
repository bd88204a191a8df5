//! What every `main.rs` needs: settings, telemetry, health and metrics, a bounded HTTP server, shutdown.
//! It knows neither the broker, nor the database, nor any job.

pub mod health;
pub mod http;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use health::{Health, HealthSettings};
pub use shutdown::{Shutdown, ShutdownSettings, Tasks};
pub use telemetry::LogSettings;
