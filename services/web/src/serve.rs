//! Serves the API, and ends.

use service::http;
use tokio::net::TcpListener;

use crate::App;
use crate::routes::router;

/// Serves until the app drains, then waits for the answers that have begun; a client that does not take its answer is not
/// waited for longer than [`crate::Limits::last_wait`].
pub async fn serve(listener: TcpListener, app: App, connections: http::Limits) {
    let (drain, last_wait) = (app.drain.clone(), app.limits.last_wait);
    let too_long = async {
        drain.cancelled().await;
        tokio::time::sleep(last_wait).await;
    };
    tokio::select! {
        () = http::serve(listener, router(app), connections, drain.clone()) => {}
        () = too_long => tracing::warn!("some answers were cut off: their clients did not take them"),
    }
}
