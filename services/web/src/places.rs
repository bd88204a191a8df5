//! Places for what takes long, of which one caller gets a few only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// So many at once, and so many of them one caller's.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    each: usize,
    callers: Arc<Mutex<HashMap<Uuid, Weak<Semaphore>>>>,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_the_callers: OwnedSemaphorePermit,
    /// Known as long as one of its permits is held.
    _caller: Arc<Semaphore>,
}

impl Places {
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, callers: Arc::default() }
    }

    /// How many are free, if not for everybody.
    pub(crate) fn left(&self) -> usize {
        self.all.available_permits()
    }

    /// A place for a caller, if there is one.
    pub(crate) fn take(&self, caller: Uuid) -> Option<Place> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|_, caller| caller.strong_count() > 0);
        let known = callers.get(&caller).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| Arc::new(Semaphore::new(self.each)));
        callers.insert(caller, Arc::downgrade(&own));
        let of_the_callers = Arc::clone(&own).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_the_callers: of_the_callers, _caller: own })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::Places;

    #[test]
    fn a_caller_gets_a_few_of_all_places_and_gives_them_back() {
        let places = Places::new(3, 2);
        let [alice, bob, eve] = [1, 2, 3].map(Uuid::from_u128);
        let (first, second) = (places.take(alice).unwrap(), places.take(alice).unwrap());
        assert!(places.take(alice).is_none(), "no more than her own");
        let other = places.take(bob).unwrap();
        assert!(places.take(eve).is_none(), "no more than there are");
        drop(first);
        let again = places.take(alice).unwrap();
        assert!(places.take(alice).is_none());
        drop((second, other, again));
        assert!(places.take(eve).is_some() && places.take(eve).is_some());
        assert!(places.callers.lock().unwrap().len() <= 2, "who has none is not known any more");
    }
}
