//! How many deliveries are handled at once, in all lanes together, with one place kept for what is urgent.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for deliveries. Who waits is served in the order of coming, so that no lane starves another.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    /// A place is taken here first, where there is one.
    own: Option<Arc<Semaphore>>,
    all: Arc<Semaphore>,
}

/// A place, given back when dropped.
pub(crate) struct Permit {
    _own: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Permits {
    /// So many places, for everybody.
    pub(crate) fn new(count: u16) -> Self {
        Self { own: None, all: Arc::new(Semaphore::new(usize::from(count))) }
    }

    /// The same places but one, where there are two or more: what takes places here leaves one for the others.
    pub(crate) fn but_one(&self) -> Self {
        let count = self.all.available_permits();
        Self { own: Some(Arc::new(Semaphore::new(count.saturating_sub(1).max(1)))), all: Arc::clone(&self.all) }
    }

    pub(crate) async fn acquire(&self) -> Permit {
        let never_closed = "the semaphore is never closed";
        let own = match &self.own {
            Some(own) => Some(Arc::clone(own).acquire_owned().await.expect(never_closed)),
            None => None,
        };
        Permit { _own: own, _all: Arc::clone(&self.all).acquire_owned().await.expect(never_closed) }
    }
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
    async fn a_lane_that_waits_is_served_before_the_next_of_a_busy_one() {
        let urgent = Permits::new(2);
        let bulk = urgent.but_one();
        let (first, _second) = (urgent.acquire().await, urgent.acquire().await);
        let mut waiting = Box::pin(bulk.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut third = Box::pin(urgent.acquire());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "urgent has come later");
        assert!(waiting.now_or_never().is_some());
    }
}
