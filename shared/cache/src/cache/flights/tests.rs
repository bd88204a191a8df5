use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{Flights, Lost};

const LOAD: Duration = Duration::from_millis(200);

/// Flights whose results are numbers that go up by one, and how many there were.
#[derive(Clone, Default)]
struct Counted {
    flights: Arc<Flights<u32>>,
    begun: Arc<AtomicU32>,
    ended: Arc<AtomicU32>,
}

impl Counted {
    async fn ask(&self, name: &str) -> Result<u32, Lost> {
        let (begun, ended) = (self.begun.clone(), self.ended.clone());
        let arrived = self.flights.moment();
        let load = move |_| async move {
            let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
            sleep(LOAD).await;
            ended.fetch_add(1, Ordering::SeqCst);
            number
        };
        self.flights.join(name, arrived, load).await
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_once_share_two_flights_at_most() {
    let counted = Counted::default();
    let answers = join_all((0..1_000).map(|_| counted.ask("a"))).await;
    // The first asked before anybody flew. All others asked while it did, and share the next.
    assert_eq!(answers[0], Ok(1));
    assert!(answers[1..].iter().all(|answer| *answer == Ok(2)));
    assert_eq!(counted.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_began_before_one_asked_is_not_taken() {
    let counted = Counted::default();
    let early = tokio::spawn({
        let counted = counted.clone();
        async move { counted.ask("a").await }
    });
    sleep(LOAD / 2).await;
    let late = counted.ask("a").await;
    assert_eq!((early.await.unwrap(), late), (Ok(1), Ok(2)));
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_begins_anew_is_taken_by_all_who_came_until_then() {
    let counted = Counted::default();
    let ask = |delay| {
        let counted = counted.clone();
        async move {
            sleep(delay).await;
            let (arrived, begun) = (counted.flights.moment(), counted.begun.clone());
            let look_and_load = move |began: super::Began| async move {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                sleep(LOAD).await;
                began.anew();
                sleep(LOAD).await;
                number
            };
            counted.flights.join("a", arrived, look_and_load).await
        }
    };
    let (first, before, after) = tokio::join!(ask(Duration::ZERO), ask(LOAD / 2), ask(LOAD * 3 / 2));
    assert_eq!((first, before, after), (Ok(1), Ok(1), Ok(2)));
}

#[tokio::test(start_paused = true)]
async fn names_do_not_wait_for_each_other() {
    let counted = Counted::default();
    let begun = tokio::time::Instant::now();
    join_all(["a", "b", "c"].map(|name| counted.ask(name))).await;
    assert_eq!((begun.elapsed(), counted.begun()), (LOAD, 3));
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_ends_no_flight() {
    let counted = Counted::default();
    tokio::time::timeout(LOAD / 2, counted.ask("a")).await.unwrap_err();
    sleep(LOAD).await;
    assert_eq!(counted.ended.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_is_lost_is_told_and_leaves_no_trace() {
    let counted = Counted::default();
    let arrived = counted.flights.moment();
    let lost = counted.flights.join("a", arrived, |_| async { panic!("on purpose") }).await;
    assert_eq!(lost, Err(Lost));
    assert_eq!(counted.ask("a").await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_what_has_landed() {
    let counted = Counted::default();
    join_all((0..100).map(|number| {
        let counted = counted.clone();
        async move { counted.ask(&number.to_string()).await }
    }))
    .await;
    assert_eq!(counted.flights.lock().len(), 0);
}
