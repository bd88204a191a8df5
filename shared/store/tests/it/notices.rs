use std::time::Duration;

use store::notices::{Heard, listen};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::TestStore;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_listener_hears_of_each_gap_between_the_notices() {
    let store = TestStore::empty().await;
    let (told, mut hears) = mpsc::channel(16);
    let (live, drain) = (watch::Sender::new(false), CancellationToken::new());
    let listening = listen(&store.pool, "news", &live, &drain, |heard| {
        let text = match heard {
            Heard::Begun => "begun",
            Heard::Notice(payload) => payload,
            Heard::Interrupted => "interrupted",
        };
        told.try_send((text.to_owned(), *live.borrow())).unwrap();
    });
    let telling = async {
        let mut next = async || timeout(DEADLINE, hears.recv()).await.expect("it hears nothing").unwrap();
        let run = async |statement: &'static str| {
            sqlx::raw_sql(statement).execute(&store.pool).await.unwrap();
        };
        assert_eq!(next().await, ("begun".to_owned(), true));
        run("NOTIFY news, 'one'").await;
        assert_eq!(next().await, ("one".to_owned(), true));
        run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND query LIKE 'LISTEN%'")
        .await;
        assert_eq!(next().await, ("interrupted".to_owned(), false));
        assert_eq!(next().await, ("begun".to_owned(), true));
        run("NOTIFY news, 'two'").await;
        assert_eq!(next().await, ("two".to_owned(), true));
        drain.cancel();
    };
    tokio::join!(listening, telling);
}
