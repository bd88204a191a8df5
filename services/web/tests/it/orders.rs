//! Orders as they are shown, listed, cancelled and shipped. What the worker does to them is done by hand.

use backing::Proxy;
use chrono::{DateTime, TimeDelta, Utc};
use pipeline::topology::CONTROL;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use store::jobs::{JobEvent, JobEventType as Type, NewJob};
use store::orders::{Letters, NewLine, NewOrder, Placing};
use uuid::Uuid;

use crate::harness::{
    ALICE_ID, BOB, Behind, Member, Told, Web, cache, database, insert_token, no_redis, november, problem, vhost, wait,
};

const TEA: Uuid = Uuid::from_u128(1);
const POT: Uuid = Uuid::from_u128(2);

/// Five teas for 2.50 and a pot for 10.00.
async fn fill_the_shelves(web: &Web) {
    let insert = "INSERT INTO products (id, sku, name, category, price_minor, currency, stock)
        VALUES ($1, 'TEA', 'Tea', 'Pantry', 250, 'EUR', 5), ($2, 'POT', 'Pot', 'Kitchen', 1000, 'EUR', 1)";
    sqlx::query(insert).bind(TEA).bind(POT).execute(&web.pool).await.unwrap();
}

/// The teas and pots that are left.
async fn shelves(web: &Web) -> Vec<i64> {
    sqlx::query_scalar("SELECT stock FROM products ORDER BY id").fetch_all(&web.pool).await.unwrap()
}

fn lines(tea: u32, pots: u32) -> Vec<NewLine> {
    let line = |product_id, quantity| (quantity > 0).then_some(NewLine { product_id, quantity });
    [line(TEA, tea), line(POT, pots)].into_iter().flatten().collect()
}

/// What the worker does with a message, all at once.
async fn decide_at(web: &Web, id: Uuid, customer: Uuid, lines: Vec<NewLine>, at: DateTime<Utc>) -> Placing {
    let job = NewJob { id, kind: "order.place".to_owned(), owner: customer.to_string(), caused_by: None, at };
    let order = NewOrder { job, replays: 0, customer, lines };
    store::orders::place(&web.pool, &order, |_, _| Ok(Letters::default())).await.unwrap()
}

async fn decide(web: &Web, id: Uuid, customer: Uuid, lines: Vec<NewLine>) -> Placing {
    decide_at(web, id, customer, lines, Utc::now()).await
}

/// An order of a user's that was decided on; its id.
async fn decided(web: &Web, customer: Uuid, lines: Vec<NewLine>) -> Uuid {
    let id = Uuid::now_v7();
    assert!(matches!(decide(web, id, customer, lines).await, Placing::Decided(_)));
    id
}

/// Orders as somebody who is signed in; the order's id.
async fn order(web: &Web, who: &Member, tea: u32) -> Uuid {
    let body = json!({"items": [{"product_id": TEA, "quantity": tea}]});
    let response = web.with_sid(Method::POST, "/v1/orders", &who.sid).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

fn path(id: Uuid) -> String {
    format!("/v1/orders/{id}")
}

async fn ask(web: &Web, who: &Member, method: Method, path: &str) -> Response {
    web.with_sid(method, path, &who.sid).send().await.unwrap()
}

async fn answered(response: Response, status: u16) -> Value {
    let given = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!(given, status, "{body}");
    body
}

async fn show(web: &Web, who: &Member, id: Uuid) -> Value {
    answered(ask(web, who, Method::GET, &path(id)).await, 200).await
}

async fn cancel(web: &Web, who: &Member, id: Uuid) -> Response {
    ask(web, who, Method::DELETE, &path(id)).await
}

#[tokio::test]
async fn an_order_is_shown_as_it_was_decided_on_to_its_customer_and_to_the_staff_alone() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    let id = order(&web, &ada, 2).await;
    let queued = show(&web, &ada, id).await;
    let accepted_at: DateTime<Utc> = queued["accepted_at"].as_str().unwrap().parse().unwrap();
    let expected = json!({"id": id, "state": "queued", "cancelling": false, "perhaps_outdated": false, "number": null,
        "accepted_at": accepted_at, "placed_at": null, "country": null, "currency": null, "total_minor": null, "items": null,
        "refusal": null, "links": {"self": path(id), "job": format!("/v1/jobs/{id}")}});
    assert_eq!(queued, expected);

    decide_at(&web, id, ada.user, lines(2, 1), accepted_at).await;
    let placed = show(&web, &ada, id).await;
    let (number, placed_at) = (placed["number"].as_i64().unwrap(), placed["placed_at"].as_str().unwrap());
    assert!(placed_at.parse::<DateTime<Utc>>().unwrap() > accepted_at);
    let expected = json!({"id": id, "state": "placed", "cancelling": false, "perhaps_outdated": false, "number": number,
        "accepted_at": accepted_at, "placed_at": placed_at, "country": "DE", "currency": "EUR", "total_minor": 1500,
        "items": [
            {"product_id": TEA, "name": "Tea", "quantity": 2, "unit_price_minor": 250},
            {"product_id": POT, "name": "Pot", "quantity": 1, "unit_price_minor": 1000},
        ],
        "refusal": null, "links": {"self": path(id)}});
    assert_eq!(placed, expected);
    assert_eq!(answered(web.get(&path(id)).await, 200).await, placed, "to the staff");

    let refused = decided(&web, ada.user, lines(4, 0)).await;
    let shown = show(&web, &ada, refused).await;
    assert_eq!(
        (&shown["state"], &shown["number"], &shown["total_minor"]),
        (&json!("refused"), &json!(null), &json!(null))
    );
    let reason = "Of \"Tea\" there are only 3 left, and 4 were ordered.";
    assert_eq!(shown["refusal"], json!({"code": "out-of-stock", "reason": reason}));
    assert_eq!(shown["items"], json!([{"product_id": TEA, "quantity": 4}]));

    let waiting = order(&web, &ada, 1).await;
    answered(web.get(&path(waiting)).await, 200).await;
    for hidden in [id, refused, waiting, Uuid::now_v7()] {
        problem(ask(&web, &eve, Method::GET, &path(hidden)).await, 404, "not-found").await;
    }
    problem(web.get(&path(Uuid::now_v7())).await, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn what_is_no_order_is_none_here_and_stays_as_it_is() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let report: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = format!("/v1/orders/{}", report["id"].as_str().unwrap());
    problem(web.get(&path).await, 404, "not-found").await;
    problem(web.delete(&path).await, 404, "not-found").await;
    let sam = web.staff_member("sam@shop.example").await;
    let shipped = ask(&web, &sam, Method::PUT, &format!("{path}/shipment")).await;
    problem(shipped, 404, "not-found").await;
    let shown: Value = web.get(report["links"]["self"].as_str().unwrap()).await.json().await.unwrap();
    assert_eq!((&shown["state"], shown["links"].get("order")), (&json!("queued"), None));
    web.stop().await;
}

#[tokio::test]
async fn ones_orders_are_listed_by_the_moment_of_acceptance_page_by_page() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    let list =
        async |query: &str| answered(ask(&web, &ada, Method::GET, &format!("/v1/orders{query}")).await, 200).await;
    assert_eq!(list("").await, json!({"orders": [], "links": {}}));
    // Placed in another order than accepted; the second is refused, and the last two were accepted at the same instant.
    let now = Utc::now();
    let mut expected = Vec::new();
    for (place, ago) in [(3, 3), (0, 0), (1, 2), (4, 3), (2, 1)] {
        let (id, pieces) = (Uuid::from_u128(100 + place), if place == 0 { 9 } else { 1 });
        decide_at(&web, id, ada.user, lines(pieces, 0), now - TimeDelta::seconds(ago)).await;
        expected.push((ago, id));
    }
    expected.sort_by_key(|(ago, id)| (*ago, std::cmp::Reverse(*id)));
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| json!(id)).collect();
    let eves = decided(&web, eve.user, lines(1, 0)).await;
    decided(&web, ALICE_ID, lines(1, 0)).await;

    let (mut query, mut pages) = ("?limit=2".to_owned(), Vec::new());
    loop {
        let page = list(&query).await;
        let ids = page["orders"].as_array().unwrap().iter().map(|order| order["id"].clone());
        pages.push(ids.collect::<Vec<_>>());
        assert!(pages.len() <= 3, "{pages:?}");
        match page["links"].get("next") {
            Some(next) => query = next.as_str().unwrap().replace("/v1/orders", ""),
            None => break,
        }
    }
    assert_eq!(pages, [&expected[..2], &expected[2..4], &expected[4..]]);
    let all = list("?limit=5").await;
    assert_eq!(all["links"], json!({}), "a full last page has no next");
    assert_eq!(all["orders"][0]["state"], "refused");
    for order in all["orders"].as_array().unwrap() {
        assert_eq!(show(&web, &ada, order["id"].as_str().unwrap().parse().unwrap()).await, *order);
    }
    // Where somebody else's order stands among one's own is nobody's business.
    assert_eq!(list(&format!("?before={eves}")).await["orders"], json!([]));
    for wrong in ["?limit=0", "?limit=101", "?limit=x", "?before=x", "?before=", "?after=x", "?limit=1&limit=2"] {
        problem(ask(&web, &ada, Method::GET, &format!("/v1/orders{wrong}")).await, 400, "query-invalid").await;
    }
    web.stop().await;
}

#[tokio::test]
async fn an_order_that_stands_is_cancelled_by_its_customer_alone_and_its_pieces_are_for_sale_again() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    let id = decided(&web, ada.user, lines(2, 1)).await;
    assert_eq!(shelves(&web).await, [3, 0]);
    sqlx::query("DELETE FROM cache_invalidations").execute(&web.pool).await.unwrap();
    problem(cancel(&web, &eve, id).await, 404, "not-found").await;
    problem(web.delete(&path(id)).await, 404, "not-found").await;
    assert_eq!(show(&web, &ada, id).await["state"], "placed");

    let mut expected = show(&web, &ada, id).await;
    expected["state"] = json!("cancelled");
    for _ in 0..3 {
        assert_eq!(answered(cancel(&web, &ada, id).await, 200).await, expected);
        assert_eq!(shelves(&web).await, [5, 1], "once");
        assert_eq!(web.left_to_end().await, ["best-sellers:2:all"]);
    }
    assert_eq!(show(&web, &ada, id).await, expected);
    // The message that comes again changes nothing.
    assert!(matches!(decide(&web, id, ada.user, lines(2, 1)).await, Placing::Decided(_)));
    assert_eq!((show(&web, &ada, id).await, shelves(&web).await), (expected, vec![5, 1]));

    let refused = decided(&web, ada.user, lines(9, 0)).await;
    assert_eq!(problem(cancel(&web, &ada, refused).await, 409, "order-state").await["detail"], "it is refused");
    problem(cancel(&web, &ada, Uuid::now_v7()).await, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn what_waits_in_the_outbox_is_cancelled_at_once_and_never_becomes_an_order() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    let id = order(&web, &ada, 1).await;
    problem(cancel(&web, &eve, id).await, 404, "not-found").await;
    problem(web.delete(&path(id)).await, 404, "not-found").await;
    for _ in 0..2 {
        let shown = answered(cancel(&web, &ada, id).await, 200).await;
        assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("cancelled"), &json!(false)));
        assert_eq!(show(&web, &ada, id).await, shown);
    }
    let left = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE job_id = $1").bind(id);
    assert_eq!(left.fetch_one(&web.pool).await.ok(), Some(0_i64));
    // It may have been on its way to the broker all the same.
    assert_eq!(decide(&web, id, ada.user, lines(1, 0)).await, Placing::Unwanted);
    assert_eq!((show(&web, &ada, id).await["state"].clone(), shelves(&web).await), (json!("cancelled"), vec![5, 1]));
    web.stop().await;
}

#[tokio::test]
async fn what_is_on_its_queue_is_told_to_stop_and_never_becomes_an_order() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    fill_the_shelves(&web).await;
    let ada = web.member("ada@shop.example").await;
    let mut orders = vhost.listen(CONTROL, "").await;
    // Nobody writes a timeline, nor the row of a job.
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_events IN EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
    let id = order(&web, &ada, 1).await;
    for _ in 0..2 {
        let shown = answered(cancel(&web, &ada, id).await, 202).await;
        assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("queued"), &json!(true)));
        let told: Value = serde_json::from_slice(&orders.next().await.data).unwrap();
        assert_eq!(told, json!({"type": "job.cancel", "job": id}));
        assert_eq!(show(&web, &ada, id).await, shown);
    }
    holding.rollback().await.unwrap();
    assert_eq!(decide(&web, id, ada.user, lines(1, 0)).await, Placing::Unwanted);
    assert_eq!(shelves(&web).await, [5, 1]);
    // Ada's; and the worker says so.
    let mut job = Told::queued_as(&web, "order.place").await;
    let alices = job.id;
    assert_eq!(answered(web.delete(&path(alices)).await, 202).await["cancelling"], true);
    assert_eq!(decide(&web, alices, ALICE_ID, lines(1, 0)).await, Placing::Unwanted);
    job.tell(Type::Cancelled, json!({})).await;
    for _ in 0..2 {
        let shown = answered(web.delete(&path(alices)).await, 200).await;
        assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("cancelled"), &json!(false)));
    }
    web.stop().await;
    vhost.finish(&[("order.normal", 1)]).await;
}

#[tokio::test]
async fn an_order_that_is_placed_while_it_is_being_cancelled_is_cancelled() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let ada = web.member("ada@shop.example").await;
    let id = order(&web, &ada, 2).await;
    // The worker has begun, and waits for the tea.
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM products WHERE id = $1 FOR UPDATE").bind(TEA).execute(&mut *holding).await.unwrap();
    let waiting = async |count: i64| {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait("so many wait", async || {
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&web.pool).await.unwrap() == count
        })
        .await;
    };
    let cancelling = async {
        waiting(1).await;
        cancel(&web, &ada, id).await
    };
    let releasing = async {
        waiting(2).await;
        holding.rollback().await.unwrap();
    };
    let (placing, cancelled, ()) = tokio::join!(decide(&web, id, ada.user, lines(2, 0)), cancelling, releasing);
    assert!(matches!(placing, Placing::Decided(_)), "{placing:?}");
    let shown = answered(cancelled, 200).await;
    assert_eq!((&shown["state"], &shown["total_minor"]), (&json!("cancelled"), &json!(500)));
    assert_eq!(shelves(&web).await, [5, 1]);
    web.stop().await;
}

#[tokio::test]
async fn however_cancelling_and_placing_meet_no_order_stands_that_was_cancelled_and_no_piece_is_lost() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    fill_the_shelves(&web).await;
    let ada = web.member("ada@shop.example").await;
    for _ in 0..40 {
        let id = order(&web, &ada, 2).await;
        let (placing, cancelled) = tokio::join!(decide(&web, id, ada.user, lines(2, 0)), cancel(&web, &ada, id));
        let (status, again) = (cancelled.status().as_u16(), cancel(&web, &ada, id).await);
        match placing {
            Placing::Decided(_) => {
                assert_eq!((status, answered(again, 200).await["state"].clone()), (200, json!("cancelled")));
            }
            Placing::Unwanted => assert_eq!((status, again.status().as_u16()), (202, 202)),
        }
        assert_eq!(shelves(&web).await, [5, 1]);
    }
    web.stop().await;
    vhost.purge("order.normal").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn the_staff_says_that_an_order_is_shipped_and_then_it_is_not_cancelled() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    fill_the_shelves(&web).await;
    let (ada, sam) = (web.member("ada@shop.example").await, web.staff_member("sam@shop.example").await);
    let shipment = |id: Uuid| format!("{}/shipment", path(id));
    let ship = async |id: Uuid| ask(&web, &sam, Method::PUT, &shipment(id)).await;
    let id = decided(&web, ada.user, lines(2, 0)).await;
    problem(ask(&web, &ada, Method::PUT, &shipment(id)).await, 403, "role-missing").await;
    insert_token(&web.pool, sam.user, "a-token-of-the-staffs").await;
    let by_token = web.client.put(web.url(&shipment(id))).bearer_auth("a-token-of-the-staffs").send().await.unwrap();
    assert_eq!(by_token.status(), StatusCode::FORBIDDEN);
    assert_eq!(show(&web, &ada, id).await["state"], "placed");

    for _ in 0..2 {
        let shipped = answered(ship(id).await, 200).await;
        assert_eq!(shipped["state"], "shipped");
        assert_eq!(show(&web, &ada, id).await, shipped);
    }
    assert_eq!(problem(cancel(&web, &ada, id).await, 409, "order-state").await["detail"], "it is shipped");
    assert_eq!((show(&web, &ada, id).await["state"].clone(), shelves(&web).await), (json!("shipped"), vec![3, 1]));

    let waiting = order(&web, &ada, 1).await;
    assert_eq!(problem(ship(waiting).await, 409, "order-state").await["detail"], "it is queued");
    let refused = decided(&web, ada.user, lines(9, 0)).await;
    assert_eq!(problem(ship(refused).await, 409, "order-state").await["detail"], "it is refused");
    let cancelled = decided(&web, ada.user, lines(1, 0)).await;
    answered(cancel(&web, &ada, cancelled).await, 200).await;
    assert_eq!(problem(ship(cancelled).await, 409, "order-state").await["detail"], "it is cancelled");
    problem(ship(Uuid::now_v7()).await, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn while_the_database_is_away_an_order_is_shown_as_its_job_left_it() {
    let database = database().await;
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { database_url: proxy.url.clone(), ..Behind::database(&database) };
    let (web, other) = tokio::join!(Web::start(behind()), Web::start(behind()));
    fill_the_shelves(&web).await;
    let sam = web.staff_member("sam@shop.example").await;
    let mut jobs = Vec::new();
    for (pieces, end, data, state) in [
        (1, Type::Succeeded, json!({"result": {"number": 7, "currency": "EUR", "total_minor": 250}}), "placed"),
        (9, Type::Refused, json!({"refusal": {"code": "out-of-stock", "reason": "There is none."}}), "refused"),
        (0, Type::Cancelled, json!({}), "cancelled"),
        (0, Type::Dead, json!({"failure": {"kind": "error", "reason": "connect to 10.0.0.3"}}), "failed"),
        (0, Type::Started, json!({}), "queued"),
    ] {
        let mut job = Told::queued_as(&web, "order.place").await;
        if pieces > 0 {
            decide(&web, job.id, ALICE_ID, lines(pieces, 0)).await;
        }
        job.tell(end, data).await;
        let shown = answered(other.get(&path(job.id)).await, 200).await;
        assert_eq!((&shown["state"], &shown["perhaps_outdated"]), (&json!(state), &json!(false)));
        // Its page is looked at, which keeps a copy.
        assert_eq!(web.get(&job.path()).await.status(), StatusCode::OK);
        jobs.push((job.id, state));
    }
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    for (id, state) in &jobs {
        for web in [&web, &other] {
            let shown = answered(web.get(&path(*id)).await, 200).await;
            assert_eq!((&shown["state"], &shown["perhaps_outdated"]), (&json!(state), &json!(*state == "placed")));
            assert_eq!(
                shown["refusal"]["reason"],
                if *state == "refused" { json!("There is none.") } else { json!(null) }
            );
            assert_eq!(shown["total_minor"], if *state == "placed" { json!(250) } else { json!(null) });
            assert!(!shown.to_string().contains("10.0.0.3"));
        }
    }
    problem(web.get(&path(Uuid::now_v7())).await, 503, "store-unavailable").await;
    for (method, path) in [
        (Method::DELETE, path(jobs[0].0)),
        (Method::GET, "/v1/orders".to_owned()),
        (Method::GET, format!("/v1/products/{TEA}/stock")),
    ] {
        let away = web.client.request(method, web.url(&path)).bearer_auth(BOB).send().await.unwrap();
        problem(away, 503, "store-unavailable").await;
    }
    let shipped = ask(&web, &sam, Method::PUT, &format!("{}/shipment", path(jobs[0].0))).await;
    problem(shipped, 503, "store-unavailable").await;
    web.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn without_redis_the_database_tells_of_a_job_and_one_that_is_dead_cancels_nothing() {
    let database = database().await;
    let web = Web::start(Behind { cache: no_redis(), ..Behind::database(&database) }).await;
    let mut job = Told::queued_as(&web, "order.place").await;
    job.tell(Type::Dead, json!({"failure": {"kind": "error", "reason": "a defect"}})).await;
    assert_eq!(answered(web.get(&path(job.id)).await, 200).await["state"], "failed");
    assert_eq!(problem(web.delete(&path(job.id)).await, 409, "order-state").await["detail"], "it is failed");
    web.stop().await;
}

#[tokio::test]
async fn an_order_that_the_staff_sees_before_its_customer_is_known_is_not_hidden_from_its_customer() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let (id, now) = (Uuid::now_v7(), Utc::now());
    let queued = JobEvent {
        event_id: Uuid::now_v7(),
        job_id: id,
        job_kind: "order.place".to_owned(),
        owner: None,
        caused_by: None,
        event_type: Type::Queued,
        run_id: None,
        replays: 0,
        attempt: 0,
        redeliveries: 0,
        sequence: 0,
        worker: None,
        at: now,
        data: json!({}),
    };
    store::jobs::apply_events_unannounced(&web.pool, &[queued]).await.unwrap();
    answered(web.get(&path(id)).await, 200).await;
    problem(ask(&web, &ada, Method::GET, &path(id)).await, 404, "not-found").await;
    let job = NewJob { id, kind: "order.place".to_owned(), owner: ada.user.to_string(), caused_by: None, at: now };
    store::jobs::record_queued(&web.pool, &job).await.unwrap();
    assert_eq!(show(&web, &ada, id).await["state"], "queued");
    web.stop().await;
}

#[tokio::test]
async fn an_order_that_is_shown_as_placed_says_what_it_costs() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    fill_the_shelves(&web).await;
    for _ in 0..30 {
        let mut job = Told::queued_as(&web, "order.place").await;
        let id = job.id;
        let placing = async {
            decide(&web, id, ALICE_ID, lines(1, 0)).await;
            job.tell(Type::Succeeded, json!({"result": null})).await;
        };
        let look = || shown_as_placed(&web, id);
        let (one, two, three, ()) = tokio::join!(look(), look(), look(), placing);
        for shown in [one, two, three] {
            assert_eq!(shown["total_minor"], 250, "{shown}");
        }
        answered(web.delete(&path(id)).await, 200).await;
    }
    web.stop().await;
}

/// Looks until it is shown as placed, and as what.
async fn shown_as_placed(web: &Web, id: Uuid) -> Value {
    loop {
        let shown = answered(web.get(&path(id)).await, 200).await;
        if shown["state"] == "placed" {
            break shown;
        }
    }
}
