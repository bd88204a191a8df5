//! Wakes whoever waits for a job to change. Web processes tell each other by Redis, the dispatcher tells them by PostgreSQL's
//! `NOTIFY`; and everybody looks by himself now and then, more often while Redis is not heard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::Heard as Told;
use service::health::PartState;
use store::PgPool;
use store::jobs::CHANGED_CHANNEL;
use store::notices::{self, Heard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::JobStatus;
use crate::job_status::ALL;

/// How often one looks at a job while Redis tells of changes: a notice may be lost when a connection dies silently.
const LOOK_LIVE: Duration = Duration::from_secs(10);
/// How often one looks while it does not.
const LOOK_DEAF: Duration = Duration::from_secs(1);

/// Where changes of jobs are told and waited for. Clones share it.
#[derive(Clone, Debug)]
pub struct Changes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The jobs that somebody waits for. Bounded by who may wait.
    waited_for: Mutex<HashMap<Uuid, watch::Sender<()>>>,
    /// Whether the database is heard.
    live: watch::Sender<bool>,
    /// Whether Redis is heard.
    told: watch::Sender<bool>,
}

/// A job that is waited for, as long as this lives.
#[derive(Debug)]
pub(crate) struct Watched {
    id: Uuid,
    changed: watch::Receiver<()>,
    shared: Arc<Shared>,
}

impl Default for Changes {
    fn default() -> Self {
        let shared =
            Shared { waited_for: Mutex::default(), live: watch::channel(false).0, told: watch::channel(false).0 };
        Self { shared: Arc::new(shared) }
    }
}

impl Changes {
    /// Starts to wait for changes of a job. Call it before looking at the job, so that none is missed in between.
    pub(crate) fn watch(&self, id: Uuid) -> Watched {
        let mut waited_for = self.shared.lock();
        let changed = waited_for.entry(id).or_insert_with(|| watch::channel(()).0).subscribe();
        Watched { id, changed, shared: Arc::clone(&self.shared) }
    }

    /// Whether the database's notices come: then it answers.
    pub(crate) fn is_live(&self) -> bool {
        *self.shared.live.borrow()
    }

    /// For `/readyz`: the database, seen by whether notices come from it.
    pub fn readiness(&self) -> impl Fn() -> PartState + Send + Sync + 'static {
        let live = self.shared.live.subscribe();
        move || if *live.borrow() { Ok("listening".to_owned()) } else { Err("reconnecting".to_owned()) }
    }

    /// Whether Redis tells of changes.
    #[must_use]
    pub fn is_told(&self) -> bool {
        *self.shared.told.borrow()
    }

    /// Listens to the database until `drain`, through every loss of it.
    pub async fn listen(self, pool: PgPool, drain: CancellationToken) {
        notices::listen(&pool, CHANGED_CHANNEL, &self.shared.live, &drain, |heard| match heard {
            Heard::Notice(payload) => self.shared.wake_named(payload),
            Heard::Begun | Heard::Interrupted => self.shared.wake_all(),
        })
        .await;
    }

    /// Listens to Redis until `drain`, through every loss of it.
    pub async fn listen_to_redis(self, status: JobStatus, drain: CancellationToken) {
        let listening = status.redis().listen(status.channel(), &self.shared.told, &drain, |heard| match heard {
            Told::Notice(ALL) => self.shared.wake_all(),
            Told::Notice(payload) => self.shared.wake_named(payload),
            // What was told meanwhile was told to nobody; and who waits is to look more often from now on.
            Told::Begun | Told::Interrupted => self.shared.wake_all(),
        });
        listening.await;
    }
}

impl Watched {
    /// Ends when the job may have changed since the last call; else after a while, for one may look in any case.
    pub(crate) async fn changed(&mut self) {
        let told = *self.shared.told.borrow();
        let look = tokio::time::sleep(if told { LOOK_LIVE } else { LOOK_DEAF });
        tokio::select! {
            changed = self.changed.changed() => debug_assert!(changed.is_ok(), "the sender lives as long as its watchers"),
            () = look => {}
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut waited_for = self.shared.lock();
        // Given up under the lock, so that of two that end at once the later one finds nobody left.
        self.changed = watch::channel(()).1;
        if waited_for.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            waited_for.remove(&self.id);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_named(&self, id: &str) {
        match id.parse() {
            Ok(id) => self.wake(id),
            Err(_) => tracing::warn!("a notice that names no job"),
        }
    }

    fn wake(&self, id: Uuid) {
        if let Some(sender) = self.lock().get(&id) {
            sender.send_replace(());
        }
    }

    fn wake_all(&self) {
        for sender in self.lock().values() {
            sender.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::{Changes, Watched};

    const JOB: Uuid = Uuid::from_u128(1);

    fn woken(watched: &mut Watched) -> bool {
        watched.changed().now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_change_wakes_those_who_wait_for_that_job() {
        let changes = Changes::default();
        let (mut one, mut two) = (changes.watch(JOB), changes.watch(JOB));
        let mut other = changes.watch(Uuid::from_u128(2));
        assert!(!woken(&mut one));
        changes.shared.wake(JOB);
        assert!(woken(&mut one) && woken(&mut two));
        assert!(!woken(&mut one) && !woken(&mut other));
    }

    #[tokio::test]
    async fn everybody_is_woken_when_notices_may_have_been_lost() {
        let changes = Changes::default();
        let (mut one, mut other) = (changes.watch(JOB), changes.watch(Uuid::from_u128(2)));
        changes.shared.wake_all();
        assert!(woken(&mut one) && woken(&mut other));
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_forgotten() {
        let changes = Changes::default();
        let (one, two) = (changes.watch(JOB), changes.watch(JOB));
        drop(one);
        assert_eq!(changes.shared.lock().len(), 1);
        drop(two);
        assert_eq!(changes.shared.lock().len(), 0);
    }

    #[test]
    fn a_job_is_forgotten_also_when_its_watchers_end_at_once() {
        let changes = Changes::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| drop(changes.watch(JOB))));
            }
        });
        assert_eq!(changes.shared.lock().len(), 0);
    }
}
