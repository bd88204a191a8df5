//! Flights: what many ask for at once is fetched once. A flight is a task of its own, which ends whoever gives up waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What is in flight, by name. Nothing else is kept.
#[derive(Debug)]
pub(crate) struct Flights<T> {
    moments: Arc<AtomicU64>,
    in_flight: Mutex<HashMap<String, Flight<T>>>,
}

#[derive(Clone, Debug)]
struct Flight<T> {
    began: Began,
    landed: watch::Receiver<Option<T>>,
}

/// When a request arrived or a flight began, in the order of this process.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Moment(u64);

/// When a flight began, and from what moment on what it brings was looked for.
#[derive(Clone, Debug)]
pub(crate) struct Began {
    moments: Arc<AtomicU64>,
    at: Arc<AtomicU64>,
}

impl Began {
    fn now(moments: &Arc<AtomicU64>) -> Self {
        Self { moments: Arc::clone(moments), at: Arc::new(AtomicU64::new(next(moments).0)) }
    }

    /// The flight begins once more: it will bring only what it looks for from now on, so that whoever has arrived until now may
    /// have that too.
    pub(crate) fn anew(&self) {
        self.at.store(next(&self.moments).0, Ordering::SeqCst);
    }

    fn is_after(&self, arrived: Moment) -> bool {
        Moment(self.at.load(Ordering::SeqCst)) > arrived
    }
}

fn next(moments: &AtomicU64) -> Moment {
    Moment(moments.fetch_add(1, Ordering::SeqCst))
}

/// A flight did not come to its end: its task panicked, or the process ends.
#[derive(Debug, PartialEq)]
pub(crate) struct Lost;

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { moments: Arc::default(), in_flight: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Now.
    pub(crate) fn moment(&self) -> Moment {
        next(&self.moments)
    }

    /// The result of a flight that began after `arrived`: one that somebody else has begun, else one's own. What began before
    /// may have looked before a change that the request was sent after, so its result is not taken; the next one's is.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        name: &str,
        arrived: Moment,
        begin: impl FnOnce(Began) -> F,
    ) -> Result<T, Lost>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut begin = Some(begin);
        loop {
            let Flight { began, mut landed } = match self.find(name) {
                Place::Taken(flight) => flight,
                Place::Free(place, flight) => {
                    tokio::spawn(place.fly(begin.take().ok_or(Lost)?(flight.began.clone())));
                    flight
                }
            };
            let result = landed.wait_for(Option::is_some).await.map(|result| result.clone());
            // Only now: it may have begun anew.
            if began.is_after(arrived) {
                return result.ok().flatten().ok_or(Lost);
            }
        }
    }

    /// The flight of a name, else the place for one.
    fn find(self: &Arc<Self>, name: &str) -> Place<T> {
        let mut in_flight = self.lock();
        if let Some(flight) = in_flight.get(name) {
            return Place::Taken(flight.clone());
        }
        let land = watch::Sender::new(None);
        let flight = Flight { began: Began::now(&self.moments), landed: land.subscribe() };
        in_flight.insert(name.to_owned(), flight.clone());
        Place::Free(Own { flights: Arc::clone(self), name: name.to_owned(), land }, flight)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Flight<T>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Place<T: Clone + Send + Sync + 'static> {
    Taken(Flight<T>),
    Free(Own<T>, Flight<T>),
}

/// A place among those in flight, until this is dropped.
struct Own<T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<T>>,
    name: String,
    land: watch::Sender<Option<T>>,
}

impl<T: Clone + Send + Sync + 'static> Own<T> {
    async fn fly(self, work: impl Future<Output = T>) {
        let result = work.await;
        let land = self.land.clone();
        // Whoever hears of the end finds no trace of the flight.
        drop(self);
        land.send_replace(Some(result));
    }
}

impl<T: Clone + Send + Sync + 'static> Drop for Own<T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests;
