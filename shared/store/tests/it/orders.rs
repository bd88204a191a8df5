//! Orders: priced, decided once, never more pieces than there are, and cancelled or placed but not both.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::AssertSqlSafe;
use store::accounts::Letter;
use store::jobs::{CancelRequest, JobEvent, JobEventType, JobState, NewJob, find_job, request_cancel};
use store::orders::{
    Cancellation, Customer, Letters, NewLine, NewOrder, Order, OrderStatus, Outcome, Placed, Placing, Refused,
    Shipment, cancel, find, page, place, ship,
};
use store::outbox::{self, Carries, NewEventRow, NewOutboxRow, Put, take_due};
use store::products::{best_sellers, set_stock, stock};
use store::versions::Replaced;
use store::{PgPool, idempotency, retention};
use uuid::Uuid;

use crate::TestStore;
use crate::cache_invalidations::entries;
use crate::jobs::{apply, event, noon};

const LAMP: Uuid = Uuid::from_u128(1);
const MUG: Uuid = Uuid::from_u128(2);
const TEA: Uuid = Uuid::from_u128(3);
const ADA: Uuid = Uuid::from_u128(10);
const BOB: Uuid = Uuid::from_u128(11);

/// A lamp for 25.00 EUR of which there are 5, a mug for 8.00 EUR of which there are 2, tea in USD.
async fn shop() -> TestStore {
    let store = TestStore::create().await;
    for (id, sku, name, price, currency, stock) in [
        (LAMP, "LAMP", "Lamp", 2500, "EUR", 5),
        (MUG, "MUG", "Mug", 800, "EUR", 2),
        (TEA, "TEA", "Tea", 990, "USD", 100),
    ] {
        let insert = "INSERT INTO products (id, sku, name, category, price_minor, currency, stock) VALUES ($1, $2, $3, 'Home', $4, $5, $6)";
        let insert = sqlx::query(insert).bind(id).bind(sku).bind(name).bind(price).bind(currency).bind(stock);
        insert.execute(&store.pool).await.unwrap();
    }
    for (id, name, country) in [(ADA, "Ada", "DE"), (BOB, "Bob", "FR")] {
        let insert = "INSERT INTO users (id, name, email, country) VALUES ($1, $2, $2 || '@shop.example', $3)";
        sqlx::query(insert).bind(id).bind(name).bind(country).execute(&store.pool).await.unwrap();
    }
    store
}

fn new(customer: Uuid, lines: &[(Uuid, u32)]) -> NewOrder {
    let job = NewJob {
        id: Uuid::new_v4(),
        kind: "order.place".to_owned(),
        owner: customer.to_string(),
        caused_by: None,
        at: noon(),
    };
    let lines = lines.iter().map(|(product_id, quantity)| NewLine { product_id: *product_id, quantity: *quantity });
    NewOrder { job, replays: 0, customer, lines: lines.collect() }
}

/// A mail for every decision, an event for an order that stands.
fn letters(order: &Order, customer: Option<&Customer>) -> Result<Letters, serde_json::Error> {
    let mail = customer.map(|customer| {
        let id = Uuid::new_v5(&order.id, b"email.send");
        let job = NewJob {
            id,
            kind: "email.send".to_owned(),
            owner: order.customer.to_string(),
            caused_by: Some(order.id),
            at: noon(),
        };
        Letter { job, row: NewOutboxRow { message: json!({"to": customer.email}), due_at: None } }
    });
    let event = matches!(order.outcome, Outcome::Placed(_)).then(|| NewEventRow {
        id: Uuid::new_v5(&order.id, b"order.placed"),
        event_type: "order.placed".to_owned(),
        message: json!({}),
    });
    Ok(Letters { mail, event })
}

async fn placed_by(pool: &PgPool, order: &NewOrder) -> Placing {
    place(pool, order, letters).await.unwrap()
}

async fn decided(pool: &PgPool, order: &NewOrder) -> Order {
    match placed_by(pool, order).await {
        Placing::Decided(order) => order,
        Placing::Unwanted => panic!("nobody wants it no more"),
    }
}

async fn stands(pool: &PgPool, order: &NewOrder) -> Placed {
    match decided(pool, order).await.outcome {
        Outcome::Placed(placed) => placed,
        Outcome::Refused(refused) => panic!("{refused:?}"),
    }
}

async fn refused(pool: &PgPool, order: &NewOrder) -> Refused {
    match decided(pool, order).await.outcome {
        Outcome::Refused(refused) => refused,
        Outcome::Placed(placed) => panic!("{placed:?}"),
    }
}

async fn left(pool: &PgPool, product: Uuid) -> i64 {
    stock(pool, product).await.unwrap().unwrap()
}

async fn count(pool: &PgPool, table: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}"))).fetch_one(pool).await.unwrap()
}

/// Waits until so many connections to the database wait for a lock.
async fn wait_for_locks(pool: &PgPool, wanted: i64) {
    let waiting = async {
        loop {
            let question =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let found: i64 = sqlx::query_scalar(question).fetch_one(pool).await.unwrap();
            if found >= wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("somebody waits for a lock");
}

#[tokio::test]
async fn an_order_stands_with_everything_that_follows_from_it() {
    let store = shop().await;
    let new = new(ADA, &[(MUG, 2), (LAMP, 3)]);
    let before: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&store.pool).await.unwrap();
    let order = decided(&store.pool, &new).await;
    assert_eq!((order.id, order.customer, order.accepted_at), (new.job.id, ADA, noon()));
    let Outcome::Placed(placed) = &order.outcome else { panic!("{order:?}") };
    assert_eq!((placed.status, placed.currency.as_str(), placed.total_minor), (OrderStatus::Placed, "EUR", 9100));
    assert_eq!((placed.country.as_str(), placed.number), ("DE", 1));
    assert!(placed.placed_at > before && placed.placed_at > order.accepted_at);
    let lines: Vec<_> =
        placed.lines.iter().map(|line| (line.name.as_str(), line.quantity, line.unit_price_minor)).collect();
    assert_eq!(lines, [("Mug", 2, 800), ("Lamp", 3, 2500)]);
    assert_eq!(find(&store.pool, order.id).await.unwrap(), Some(order.clone()), "it is kept as it was told");
    assert_eq!((left(&store.pool, MUG).await, left(&store.pool, LAMP).await), (0, 2));
    assert_eq!(entries(&store.pool).await, ["best-sellers:2:all"]);
    assert_eq!(best_sellers(&store.pool, 10).await.unwrap()[0].product.id, LAMP);

    let batch = take_due(&store.pool, 10).await.unwrap().unwrap();
    let mut rows: Vec<_> = batch.rows().iter().map(|row| (row.kind.as_str(), row.carries, row.job_id)).collect();
    rows.sort_unstable_by_key(|(kind, ..)| *kind);
    let (mail, fact) = (Uuid::new_v5(&order.id, b"email.send"), Uuid::new_v5(&order.id, b"order.placed"));
    assert_eq!(rows, [("email.send", Carries::Job, mail), ("order.placed", Carries::Event, fact)]);
    let sent: Vec<_> = batch.rows().iter().map(|row| (row.job_id, outbox::Outcome::Sent)).collect();
    batch.finish(&sent).await.unwrap();
    let ada = ADA.to_string();
    assert_eq!(find_job(&store.pool, mail, &ada).await.unwrap().unwrap().last_number, 1, "job.queued");
    assert_eq!(count(&store.pool, "jobs").await, 2, "the order's and the mail's: an event is no job");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_placed_once_however_often_it_comes() {
    let store = shop().await;
    let new = new(ADA, &[(LAMP, 1)]);
    let together = join_all((0..8).map(|_| placed_by(&store.pool, &new))).await;
    let first = decided(&store.pool, &new).await;
    assert!(together.iter().all(|placing| *placing == Placing::Decided(first.clone())), "{together:?}");
    assert_eq!(left(&store.pool, LAMP).await, 4);
    assert_eq!((count(&store.pool, "orders").await, count(&store.pool, "order_items").await), (1, 1));
    assert_eq!((count(&store.pool, "outbox").await, count(&store.pool, "cache_invalidations").await), (2, 1));

    // Also under another number of replays, with other lines, and when the job was forgotten.
    sqlx::query("DELETE FROM jobs").execute(&store.pool).await.unwrap();
    let other = NewOrder { replays: 3, lines: vec![NewLine { product_id: MUG, quantity: 1 }], ..new };
    assert_eq!(decided(&store.pool, &other).await, first);
    assert_eq!(left(&store.pool, MUG).await, 2);
    let ada = ADA.to_string();
    let asked = request_cancel(&store.pool, first.id, &ada).await.unwrap();
    assert_eq!(asked, CancelRequest::Final(JobState::Succeeded), "the order stands");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_piece_is_sold_twice_and_orders_that_cross_do_not_wait_for_each_other() {
    let store = shop().await;
    let pool = &store.pool;
    for (product, pieces) in [(LAMP, 20), (MUG, 15)] {
        assert_eq!(set_stock(pool, product, pieces, None).await.unwrap(), Replaced::Done(pieces));
    }
    // Asked for in either order, which is how two of them would lock what the other needs.
    let orders: Vec<_> = (0..40)
        .map(|place| if place % 2 == 0 { new(ADA, &[(LAMP, 1), (MUG, 1)]) } else { new(BOB, &[(MUG, 1), (LAMP, 1)]) })
        .collect();
    let decided = join_all(orders.iter().map(|order| decided(pool, order))).await;
    let standing = decided.iter().filter(|order| matches!(order.outcome, Outcome::Placed(_))).count();
    assert_eq!(standing, 15, "as many as there are mugs");
    assert_eq!((left(pool, LAMP).await, left(pool, MUG).await), (5, 0), "all lines of an order or none");
    assert_eq!((count(pool, "orders").await, count(pool, "order_refusals").await), (15, 25));
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
}

#[tokio::test]
async fn of_two_orders_for_the_last_pieces_one_is_refused() {
    let store = shop().await;
    let pool = &store.pool;
    let (one, other) = (new(ADA, &[(MUG, 2)]), new(BOB, &[(MUG, 1)]));
    // Both come to the shelf before either may take anything.
    let mut shelf = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM products WHERE id = $1 FOR UPDATE").bind(MUG).execute(&mut *shelf).await.unwrap();
    let (one, other, ()) = tokio::join!(decided(pool, &one), decided(pool, &other), async {
        wait_for_locks(pool, 2).await;
        shelf.commit().await.unwrap();
    });
    let first_won = matches!(one.outcome, Outcome::Placed(_));
    assert_ne!(first_won, matches!(other.outcome, Outcome::Placed(_)));
    assert_eq!(left(pool, MUG).await, if first_won { 0 } else { 1 });
}

#[tokio::test]
async fn an_order_that_cannot_be_is_refused_for_good_and_its_customer_told() {
    let store = shop().await;
    let pool = &store.pool;
    let nothing = Uuid::from_u128(99);
    let cases = [
        (new(ADA, &[(LAMP, 1), (nothing, 1)]), "unknown-product", format!("There is no product {nothing}.")),
        (
            new(ADA, &[(LAMP, 1), (MUG, 3)]),
            "out-of-stock",
            "Of \"Mug\" there are only 2 left, and 3 were ordered.".to_owned(),
        ),
        (
            new(ADA, &[(LAMP, 1), (TEA, 1)]),
            "several-currencies",
            "\"Lamp\" is sold in EUR, \"Tea\" in USD: an order has one currency.".to_owned(),
        ),
    ];
    for (new, code, reason) in &cases {
        let said = refused(pool, new).await;
        assert_eq!((said.code.as_str(), &said.reason), (*code, reason));
        assert_eq!(said.lines, new.lines);
        assert_eq!(decided(pool, new).await, find(pool, new.job.id).await.unwrap().unwrap());
        let asked = request_cancel(pool, new.job.id, &ADA.to_string()).await.unwrap();
        assert_eq!(asked, CancelRequest::Final(JobState::Refused));
    }
    assert_eq!((left(pool, LAMP).await, left(pool, MUG).await, left(pool, TEA).await), (5, 2, 100));
    assert_eq!(entries(pool).await, [""; 0], "what sells best is what it was");
    let mails = take_due(pool, 10).await.unwrap().unwrap();
    assert_eq!(mails.rows().iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["email.send"; 3]);
    drop(mails);

    // The shelves are filled: what was said holds.
    set_stock(pool, MUG, 50, None).await.unwrap();
    assert_eq!(refused(pool, &cases[1].0).await.code, "out-of-stock");
    assert_eq!((count(pool, "orders").await, count(pool, "outbox").await), (0, 3));

    let stranger = new(Uuid::from_u128(77), &[(LAMP, 1)]);
    assert_eq!(refused(pool, &stranger).await.code, "unknown-customer");
    assert_eq!(count(pool, "outbox").await, 3, "there is nobody to write to");
}

#[tokio::test]
async fn an_order_costs_what_its_products_cost_at_the_moment_at_which_it_is_placed() {
    let store = shop().await;
    let pool = &store.pool;
    let new = new(ADA, &[(LAMP, 1)]);
    let mut change = pool.begin().await.unwrap();
    sqlx::query("UPDATE products SET price_minor = 3000 WHERE id = $1").bind(LAMP).execute(&mut *change).await.unwrap();
    let (placed, changed_at) = tokio::join!(stands(pool, &new), async {
        wait_for_locks(pool, 1).await;
        let at: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *change).await.unwrap();
        change.commit().await.unwrap();
        at
    });
    assert_eq!(placed.total_minor, 3000);
    assert!(placed.placed_at > changed_at, "{} is before the price was {changed_at}", placed.placed_at);
    sqlx::query("UPDATE products SET price_minor = 1").execute(pool).await.unwrap();
    assert_eq!(stands(pool, &new).await, placed);
}

#[tokio::test]
async fn nothing_is_kept_of_an_order_whose_mail_cannot_be_written() {
    let store = shop().await;
    let new = new(ADA, &[(LAMP, 1)]);
    let broken = |_: &Order, _: Option<&Customer>| Err(serde::ser::Error::custom("no such template"));
    place(&store.pool, &new, broken).await.unwrap_err();
    assert_eq!(find(&store.pool, new.job.id).await.unwrap(), None);
    for table in ["jobs", "orders", "order_items", "outbox", "cache_invalidations"] {
        assert_eq!(count(&store.pool, table).await, 0, "{table}");
    }
    assert_eq!(left(&store.pool, LAMP).await, 5);
    stands(&store.pool, &new).await;
}

#[tokio::test]
async fn an_order_whose_job_is_cancelled_first_never_stands() {
    let store = shop().await;
    let (pool, ada) = (&store.pool, ADA.to_string());
    let (marked, taken_out, over) = (new(ADA, &[(LAMP, 1)]), new(ADA, &[(LAMP, 1)]), new(ADA, &[(LAMP, 1)]));
    store::jobs::record_queued(pool, &marked.job).await.unwrap();
    assert_eq!(request_cancel(pool, marked.job.id, &ada).await.unwrap(), CancelRequest::Marked);

    // Taken out of the outbox, from which it had reached the broker all the same.
    let row = NewOutboxRow { message: json!({}), due_at: None };
    assert_eq!(outbox::put(pool, &taken_out.job, &row).await.unwrap(), Put::Stored);
    assert!(outbox::cancel(pool, taken_out.job.id, &ada).await.unwrap());

    crate::jobs::apply(pool, &event(over.job.id, JobEventType::Cancelled, 1)).await;
    for order in [&marked, &taken_out, &over] {
        assert_eq!(placed_by(pool, order).await, Placing::Unwanted);
        assert_eq!(placed_by(pool, order).await, Placing::Unwanted);
        assert_eq!(find(pool, order.job.id).await.unwrap(), None);
        assert_eq!(cancel(pool, order.job.id, ADA).await.unwrap(), Cancellation::NotFound);
    }
    assert_eq!((left(pool, LAMP).await, count(pool, "outbox").await), (5, 0));
    // What an operator replays is wanted again.
    stands(pool, &NewOrder { replays: 1, ..marked }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_a_job_waits_for_whoever_decides_on_its_order_and_hears_that_it_stands() {
    let store = shop().await;
    let (pool, ada) = (&store.pool, ADA.to_string());
    // In the outbox, and at the worker all the same: its confirm was lost. The other one has no row yet.
    let (known, unknown) = (new(ADA, &[(LAMP, 1)]), new(ADA, &[(LAMP, 1)]));
    let row = NewOutboxRow { message: json!({}), due_at: None };
    assert_eq!(outbox::put(pool, &known.job, &row).await.unwrap(), Put::Stored);

    for order in [&known, &unknown] {
        let mut shelf = pool.begin().await.unwrap();
        sqlx::query("SELECT FROM products WHERE id = $1 FOR UPDATE").bind(LAMP).execute(&mut *shelf).await.unwrap();
        let id = order.job.id;
        let (_, taken_out, asked, ()) = tokio::join!(
            stands(pool, order),
            async {
                wait_for_locks(pool, 1).await;
                outbox::cancel(pool, id, &ada).await.unwrap()
            },
            async {
                wait_for_locks(pool, 1).await;
                // As web does where there is no row yet; it waits here already.
                store::jobs::record_queued(pool, &order.job).await.unwrap();
                request_cancel(pool, id, &ada).await.unwrap()
            },
            async {
                let both = if id == known.job.id { 3 } else { 2 };
                wait_for_locks(pool, both).await;
                shelf.commit().await.unwrap();
            }
        );
        assert!(!taken_out, "its order stands");
        assert_eq!(asked, CancelRequest::Final(JobState::Succeeded));
        let row = find_job(pool, id, &ada).await.unwrap().unwrap();
        assert_eq!((row.state, row.cancel_requested_at), (JobState::Queued, None), "its worker says how it ends");
        assert!(matches!(cancel(pool, id, ADA).await.unwrap(), Cancellation::Cancelled(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_cancelled_or_its_order_stands_whoever_comes_first() {
    let store = shop().await;
    let (pool, ada) = (&store.pool, ADA.to_string());
    set_stock(pool, LAMP, 100, None).await.unwrap();
    let (mut standing, mut unwanted) = (0, 0);
    for _ in 0..40 {
        let order = new(ADA, &[(LAMP, 1)]);
        let row = NewOutboxRow { message: json!({}), due_at: None };
        outbox::put(pool, &order.job, &row).await.unwrap();
        let cancelling = async {
            if outbox::cancel(pool, order.job.id, &ada).await.unwrap() {
                return true;
            }
            request_cancel(pool, order.job.id, &ada).await.unwrap() == CancelRequest::Marked
        };
        let (placing, cancelled) = tokio::join!(placed_by(pool, &order), cancelling);
        assert_eq!(placing == Placing::Unwanted, cancelled, "{placing:?}");
        assert_eq!(find(pool, order.job.id).await.unwrap().is_none(), cancelled);
        *(if cancelled { &mut unwanted } else { &mut standing }) += 1;
    }
    assert_eq!(left(pool, LAMP).await, 100 - standing, "{unwanted} were cancelled");
}

#[tokio::test]
async fn a_cancelled_order_gives_its_pieces_back_once() {
    let store = shop().await;
    let pool = &store.pool;
    let new = new(ADA, &[(LAMP, 2), (MUG, 1)]);
    stands(pool, &new).await;
    assert_eq!(cancel(pool, new.job.id, BOB).await.unwrap(), Cancellation::NotFound, "it is not his");
    assert_eq!(left(pool, LAMP).await, 3);

    let Cancellation::Cancelled(order) = cancel(pool, new.job.id, ADA).await.unwrap() else { panic!("it stood") };
    let Outcome::Placed(placed) = &order.outcome else { panic!("{order:?}") };
    assert_eq!(placed.status, OrderStatus::Cancelled);
    assert_eq!(find(pool, order.id).await.unwrap(), Some(order.clone()));
    for _ in 0..2 {
        assert_eq!((left(pool, LAMP).await, left(pool, MUG).await), (5, 2));
        assert_eq!(entries(pool).await, ["best-sellers:2:all"; 2], "once for the order, once for its end");
        assert_eq!(cancel(pool, order.id, ADA).await.unwrap(), Cancellation::Cancelled(order.clone()));
    }
    assert_eq!(ship(pool, order.id).await.unwrap(), Shipment::NotStanding(order.clone()));
    assert_eq!(decided(pool, &new).await, order, "a repeat of its message changes nothing");
    assert_eq!(left(pool, LAMP).await, 5);
    assert_eq!(best_sellers(pool, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_shipped_order_stays() {
    let store = shop().await;
    let pool = &store.pool;
    let new_one = new(ADA, &[(LAMP, 2)]);
    assert_eq!(ship(pool, new_one.job.id).await.unwrap(), Shipment::NotFound);
    stands(pool, &new_one).await;
    let Shipment::Shipped(order) = ship(pool, new_one.job.id).await.unwrap() else { panic!("it stood") };
    let Outcome::Placed(placed) = &order.outcome else { panic!("{order:?}") };
    assert_eq!(placed.status, OrderStatus::Shipped);
    assert_eq!(ship(pool, order.id).await.unwrap(), Shipment::Shipped(order.clone()));
    assert_eq!(cancel(pool, order.id, ADA).await.unwrap(), Cancellation::TooLate(OrderStatus::Shipped));
    assert_eq!(find(pool, order.id).await.unwrap(), Some(order));
    assert_eq!(left(pool, LAMP).await, 3);

    let impossible = new(ADA, &[(MUG, 9)]);
    let order = decided(pool, &impossible).await;
    assert_eq!(cancel(pool, order.id, ADA).await.unwrap(), Cancellation::Refused);
    assert_eq!(ship(pool, order.id).await.unwrap(), Shipment::NotStanding(order));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_shipped_or_cancelled_but_not_both() {
    let store = shop().await;
    let pool = &store.pool;
    set_stock(pool, LAMP, 100, None).await.unwrap();
    for _ in 0..20 {
        let new = new(ADA, &[(LAMP, 1)]);
        stands(pool, &new).await;
        let before = left(pool, LAMP).await;
        let (shipped, cancelled, again) =
            tokio::join!(ship(pool, new.job.id), cancel(pool, new.job.id, ADA), cancel(pool, new.job.id, ADA));
        let shipped = matches!(shipped.unwrap(), Shipment::Shipped(_));
        for cancelled in [cancelled.unwrap(), again.unwrap()] {
            assert_eq!(shipped, cancelled == Cancellation::TooLate(OrderStatus::Shipped), "{cancelled:?}");
        }
        assert_eq!(left(pool, LAMP).await, if shipped { before } else { before + 1 });
    }
}

#[tokio::test]
async fn a_customers_orders_come_page_by_page_the_latest_accepted_first() {
    let store = shop().await;
    let pool = &store.pool;
    // Placed in another order than accepted, two of them accepted at the same moment, every second one refused.
    let minutes = [3, 1, 4, 1, 5];
    let mut wanted = Vec::new();
    for (place, minute) in minutes.into_iter().enumerate() {
        let pieces = if place % 2 == 0 { 1 } else { 1000 };
        let mut order = new(ADA, &[(LAMP, pieces)]);
        order.job.at = noon() + TimeDelta::minutes(minute);
        wanted.push((order.job.at, order.job.id));
        decided(pool, &order).await;
    }
    stands(pool, &new(BOB, &[(MUG, 1)])).await;
    wanted.sort_unstable_by(|one, other| other.cmp(one));
    let wanted: Vec<Uuid> = wanted.into_iter().map(|(_, id)| id).collect();
    let ids = |orders: Vec<Order>| orders.into_iter().map(|order| order.id).collect::<Vec<_>>();
    let all = page(pool, ADA, None, 100).await.unwrap();
    for order in &all {
        assert_eq!(find(pool, order.id).await.unwrap().as_ref(), Some(order));
    }
    assert_eq!(ids(all), wanted);
    assert_eq!(ids(page(pool, ADA, None, 2).await.unwrap()), wanted[..2]);
    assert_eq!(ids(page(pool, ADA, Some(wanted[1]), 2).await.unwrap()), wanted[2..4]);
    assert_eq!(ids(page(pool, ADA, Some(wanted[3]), 2).await.unwrap()), wanted[4..]);
    assert_eq!(page(pool, ADA, Some(wanted[4]), 2).await.unwrap(), []);
    assert_eq!(page(pool, BOB, Some(wanted[1]), 2).await.unwrap(), [], "it is not his");
    assert_eq!(page(pool, ADA, Some(Uuid::nil()), 2).await.unwrap(), []);
}

#[tokio::test]
async fn the_stock_is_changed_as_it_was_seen_and_is_no_change_of_the_product() {
    let store = shop().await;
    let pool = &store.pool;
    let seen = store::products::find(pool, LAMP).await.unwrap().unwrap();
    assert_eq!(set_stock(pool, LAMP, 9, Some(&[4, 5])).await.unwrap(), Replaced::Done(9));
    assert_eq!(set_stock(pool, LAMP, 7, Some(&[4, 5])).await.unwrap(), Replaced::Differs);
    assert_eq!(set_stock(pool, Uuid::nil(), 7, None).await.unwrap(), Replaced::Missing);
    assert_eq!((left(pool, LAMP).await, stock(pool, Uuid::nil()).await.unwrap()), (9, None));
    stands(pool, &new(ADA, &[(LAMP, 2)])).await;
    assert_eq!(store::products::find(pool, LAMP).await.unwrap(), Some(seen.clone()), "an order is no change either");
    sqlx::query("UPDATE products SET name = 'Desk lamp' WHERE id = $1").bind(LAMP).execute(pool).await.unwrap();
    assert_eq!(store::products::find(pool, LAMP).await.unwrap().unwrap().version, seen.version + 1);
}

#[tokio::test]
async fn an_older_order_was_accepted_when_it_was_placed() {
    let store = TestStore::empty().await;
    let pool = &store.pool;
    store::MIGRATOR.run_to(8, pool).await.unwrap();
    for statement in [
        "INSERT INTO users (id, name, email, country) VALUES (gen_random_uuid(), 'Ada', 'ada@shop.example', 'DE')",
        "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor)
         SELECT gen_random_uuid(), id, 'paid', '2025-01-01Z', 'DE', 'EUR', 1 FROM users",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
    store::MIGRATOR.run(pool).await.unwrap();
    let same: bool =
        sqlx::query_scalar("SELECT bool_and(accepted_at = placed_at) FROM orders").fetch_one(pool).await.unwrap();
    assert!(same);
}

#[tokio::test]
async fn the_job_of_an_order_and_its_key_stay_as_long_as_the_order() {
    let store = shop().await;
    let [standing, refusal, unwanted] = [new(ADA, &[(LAMP, 1)]), new(ADA, &[(LAMP, 1000)]), new(ADA, &[(LAMP, 1)])];
    stands(&store.pool, &standing).await;
    refused(&store.pool, &refusal).await;
    for (order, end) in
        [(&standing, JobEventType::Succeeded), (&refusal, JobEventType::Refused), (&unwanted, JobEventType::Cancelled)]
    {
        let event = JobEvent { job_kind: order.job.kind.clone(), ..event(order.job.id, end, 1) };
        apply(&store.pool, &event).await;
        idempotency::claim(&store.pool, order.job.id, "hash").await.unwrap();
    }
    let long_after = Utc::now() + TimeDelta::days(1000);
    let mut sweep = retention::begin(&store.pool).await.unwrap().unwrap();
    let old = sweep.old_jobs(long_after, 10).await.unwrap();
    let old: Vec<Uuid> = old.into_iter().map(|job| job.id).collect();
    assert_eq!(old, [unwanted.job.id]);
    sweep.delete_jobs(&old, long_after).await.unwrap();
    // Those that stay are passed by, and not looked at again.
    assert_eq!(sweep.idempotency_keys(long_after, 10).await.unwrap(), 3);
    assert_eq!(sweep.idempotency_keys(long_after, 10).await.unwrap(), 0);
    for order in [&standing, &refusal] {
        let claim = idempotency::claim(&store.pool, order.job.id, "another hash").await.unwrap();
        assert_eq!(claim, idempotency::Claim::Other);
    }
    sweep.finish().await.unwrap();
}
