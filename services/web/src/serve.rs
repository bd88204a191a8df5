//! Serves the API, and ends.

use service::http;
use tokio::net::TcpListener;

use crate::App;
use crate::routes::router;

/// Serves until the app drains, then waits for the answers that have begun; a client that does not take its answer is not
/// waited for longer than [`crate::Limits::last_wait`]. `recording` came with the app, and runs as long.
pub async fn serve(
    listener: TcpListener,
    app: App,
    recording: impl Future<Output = ()> + Send,
    connections: http::Limits,
) {
    let (drain, last_wait) = (app.drain.clone(), app.limits.last_wait);
    let too_long = async {
        drain.cancelled().await;
        tokio::time::sleep(last_wait).await;
    };
    let recording = async {
        recording.await;
        // It ends with the last of those for whom it writes.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = http::serve(listener, router(app), connections, drain.clone()) => {}
        () = recording => {}
        () = too_long => tracing::warn!("some answers were cut off: their clients did not take them"),
    }
}
