//! How many deliveries are handled at once, in all lanes together, with one place kept for what is urgent.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for deliveries. Lanes that wait take turns, so that none starves another.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    /// A place that nobody else takes, where there is one.
    kept: Option<Arc<Semaphore>>,
    shared: Arc<Semaphore>,
    /// Whoever has it gets the next shared place. By the places alone one lane could take all that come free at once.
    turn: Arc<Semaphore>,
}

/// A place, given back when dropped.
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Permits {
    /// So many places; one of two or more is kept for whoever has these.
    pub(crate) fn new(count: u16) -> Self {
        Self {
            kept: (count > 1).then(|| Arc::new(Semaphore::new(1))),
            shared: Arc::new(Semaphore::new(usize::from(shared_places(count)))),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The same places without the one that is kept.
    pub(crate) fn but_one(&self) -> Self {
        Self { kept: None, ..self.clone() }
    }

    pub(crate) async fn acquire(&self) -> Permit {
        let place = match &self.kept {
            Some(kept) => tokio::select! {
                biased;
                place = take(kept) => place,
                place = self.share() => place,
            },
            None => self.share().await,
        };
        Permit { _place: place }
    }

    async fn share(&self) -> OwnedSemaphorePermit {
        let _turn = take(&self.turn).await;
        take(&self.shared).await
    }
}

/// How many of so many places are for every lane.
pub(crate) fn shared_places(count: u16) -> u16 {
    count.saturating_sub(1).max(1)
}

async fn take(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Permits;

    #[tokio::test]
    async fn one_place_is_kept_where_there_are_two_or_more() {
        for (count, of_others) in [(1, 1), (2, 1), (8, 7)] {
            let urgent = Permits::new(count);
            let (normal, others) = (urgent.but_one(), of_others);
            let taken: Vec<_> = std::iter::from_fn(|| normal.acquire().now_or_never()).collect();
            assert_eq!(taken.len(), others, "of {count}");
            assert_eq!(urgent.acquire().now_or_never().is_some(), count > 1);
        }
    }

    #[tokio::test]
    async fn what_is_urgent_may_take_every_place() {
        for count in [1, 2, 8] {
            let urgent = Permits::new(count);
            let taken: Vec<_> = std::iter::from_fn(|| urgent.acquire().now_or_never()).collect();
            assert_eq!(taken.len(), usize::from(count));
            assert!(urgent.but_one().acquire().now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn a_lane_that_waits_is_served_before_the_next_of_a_busy_one() {
        let urgent = Permits::new(2);
        let bulk = urgent.but_one();
        let (_kept, shared) = (urgent.acquire().await, urgent.acquire().await);
        let mut waiting = Box::pin(bulk.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut third = Box::pin(urgent.acquire());
        assert!(third.as_mut().now_or_never().is_none());
        drop(shared);
        assert!(third.as_mut().now_or_never().is_none(), "urgent has come later");
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn places_that_come_free_at_once_are_taken_in_turn() {
        let one = Permits::new(9).but_one();
        let other = one.clone();
        let taken: Vec<_> = std::iter::from_fn(|| one.acquire().now_or_never()).collect();
        let (mut first, mut second) = (Box::pin(one.acquire()), Box::pin(other.acquire()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(taken);
        let _first = first.now_or_never().expect("it was the first to wait");
        assert!(one.acquire().now_or_never().is_none(), "the other is next");
        assert!(second.now_or_never().is_some());
    }
}
