//! What tests need of the composed backing services: a virtual host of their own on RabbitMQ, a database of their own on
//! PostgreSQL, the two Redis. Started by `compose/up rabbitmq postgres mail redis-cache redis-durable`; where they are and how to sign in stands in `compose/.env`.

pub mod containers;
mod database;
mod directory;
pub mod logs;
mod own_rabbit;
mod own_redis;
mod proxy;
pub mod relay;
pub mod samples;
mod vhost;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use database::{Database, database_url};
pub use directory::Directory;
pub use lapin::message::Delivery;
pub use own_rabbit::OwnRabbit;
pub use own_redis::OwnRedis;
pub use proxy::Proxy;
pub use vhost::{Listener, Vhost, ask_management, broker_url, connect, replay};

/// A value of the environment, else of `compose/.env`.
///
/// # Panics
/// When the file or the name is missing: the backing services were never started.
#[must_use]
pub fn composed(name: &str) -> &'static str {
    static ENVIRONMENT: OnceLock<HashMap<String, String>> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "compose lets the environment win over its file, and so must its tests"
    )]
    if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
        return Box::leak(value.into_boxed_str());
    }
    let environment = ENVIRONMENT.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/.env");
        let text = std::fs::read_to_string(path)
            .expect("compose/.env is missing: start the backing services with `compose/up rabbitmq postgres mail`");
        let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned())).collect()
    });
    environment
        .get(name)
        .unwrap_or_else(|| panic!("compose/.env has no {name}: run `compose/up rabbitmq postgres mail`"))
}

/// The password of a broker user, by the user's name: `email-worker`.
#[must_use]
pub fn broker_password(user: &str) -> &'static str {
    composed(&format!("POSTROOM_BROKER_PASSWORD_{}", user.to_uppercase().replace('-', "_")))
}

/// Where a Redis server is, `cache` or `durable`.
#[must_use]
pub fn redis_url(server: &str) -> String {
    let server = server.to_uppercase();
    let password = composed(&format!("POSTROOM_REDIS_PASSWORD_{server}"));
    format!("redis://postroom:{password}@127.0.0.1:{}", composed(&format!("POSTROOM_REDIS_{server}_PORT")))
}

/// Runs a future to its end from a `Drop`, which cannot await.
fn run_to_end<F: Future<Output = ()> + Send>(future: F) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(future);
        });
    });
}
