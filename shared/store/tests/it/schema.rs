//! What the schema itself refuses, whichever program writes.

use sqlx::AssertSqlSafe;
use store::{MIGRATOR, PgPool};

use crate::TestStore;

const USER: &str = "INSERT INTO users (id, name, email, country) VALUES
    ('00000000-0000-0000-0000-00000000000a', 'Ada', 'ada@shop.example', 'DE')";
const PRODUCT: &str = "INSERT INTO products (id, sku, name, category, price_minor, currency) VALUES
    ('00000000-0000-0000-0000-00000000000b', 'TEA-001', 'Tea', 'Pantry', 990, 'EUR')";
const ORDER: &str = "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor) VALUES
    ('00000000-0000-0000-0000-00000000000c', '00000000-0000-0000-0000-00000000000a', 'paid', now(), 'DE', 'EUR', 990)";
const ITEM: &str = "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor) VALUES
    ('00000000-0000-0000-0000-00000000000c', 1, '00000000-0000-0000-0000-00000000000b', 1, 990)";
const JOB: &str =
    "INSERT INTO jobs (id, kind, state, replays, attempt, redeliveries, sequence, created_at, updated_at) VALUES
    ('00000000-0000-0000-0000-00000000000d', 'noop.run', 'queued', 0, 0, 0, -1, now(), now())";
const JOB_EVENT: &str = "INSERT INTO job_events
    (job_id, number, event_id, event_type, effect, replays, attempt, redeliveries, sequence, at, data) VALUES
    ('00000000-0000-0000-0000-00000000000d', 1, '00000000-0000-0000-0000-00000000000e', 'job.started', 'moved', 0, 1, 0, 1, now(), '{}')";
const SENT_MAIL: &str =
    "INSERT INTO sent_mails (job_id, held_until) VALUES ('00000000-0000-0000-0000-00000000000f', now())";
const OUTBOX_ROW: &str = "INSERT INTO outbox (job_id, kind, message, due_at, next_try_at, attempts) VALUES
    ('00000000-0000-0000-0000-00000000000d', 'noop.run', '{}', '2026-01-01Z', '2026-01-01Z', 0)";
const SCHEDULE: &str = "INSERT INTO schedules (id, owner, kind, name, cron, time_zone, template) VALUES
    ('00000000-0000-0000-0000-0000000000aa', 'alice', 'noop.run', 'Mondays', '0 8 * * 1', 'UTC', '{}')";
const FIRING: &str = "INSERT INTO schedule_firings (schedule_id, due_at, outcome, job_id) VALUES
    ('00000000-0000-0000-0000-0000000000aa', '2026-01-01Z', 'fired', '00000000-0000-0000-0000-00000000000d')";

const REFUSAL: &str = "INSERT INTO order_refusals (id, user_id, code, reason, lines, accepted_at, refused_at) VALUES
    ('00000000-0000-0000-0000-0000000000ac', '00000000-0000-0000-0000-00000000000a', 'out-of-stock', 'None left.', '[]', now(), now())";

const TOKEN: &str = "INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at) VALUES
    ('00000000-0000-0000-0000-0000000000ab', '00000000-0000-0000-0000-00000000000a', 'a machine', decode(repeat('00', 32), 'hex'),
     '{jobs:read}', now() + interval '1 day')";

async fn run(pool: &PgPool, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await.map(|_| ())
}

#[tokio::test]
async fn rows_that_cannot_be_true_are_refused() {
    let store = TestStore::create().await;
    // Each statement in its good form, and what makes it a bad one. Good ones stay, so that later rows can refer to them.
    let cases: [(&str, &[(&str, &str)]); 12] = [
        (USER, &[("'Ada'", "''"), ("'ada@shop.example'", "'nowhere'"), ("'DE'", "'de'"), ("'DE'", "'D'")]),
        (PRODUCT, &[("990", "-1"), ("'EUR'", "'eur'"), ("'TEA-001'", "'tea 1'"), ("'Tea'", "''")]),
        (ORDER, &[("'paid'", "'lost'"), ("990", "-1"), ("00000a'", "00000b'"), ("'EUR'", "'€'")]),
        (
            ITEM,
            &[("1, 990", "0, 990"), ("990", "-1"), ("00000b'", "00000a'"), ("00000c'", "00000a'"), ("1, '", "0, '")],
        ),
        (JOB, &[("'queued'", "'lost'"), ("'queued'", "'dead'"), ("-1", "-2")]),
        (
            JOB_EVENT,
            &[("'job.started'", "'job.lost'"), ("'moved'", "'lost'"), ("00000d'", "00000e'"), ("1, '", "0, '")],
        ),
        (REFUSAL, &[("'out-of-stock'", "''"), ("'None left.'", "''")]),
        (SENT_MAIL, &[("held_until", "sent_at")]),
        (OUTBOX_ROW, &[(", 0)", ", -1)"), ("2026-01-01Z", "2026-01-02Z")]),
        (SCHEDULE, &[("'Mondays'", "''"), ("'alice'", "''"), ("'0 8 * * 1'", "''"), ("'UTC'", "''")]),
        (FIRING, &[("'fired'", "'lost'"), ("'fired'", "'missed'"), ("'fired'", "'failed'"), ("0000aa'", "0000ab'")]),
        (
            TOKEN,
            &[
                ("'a machine'", "''"),
                ("32)", "31)"),
                ("{jobs:read}", "{}"),
                ("{jobs:read}", "{all}"),
                ("+ interval", "- interval"),
            ],
        ),
    ];
    for (good, mistakes) in cases {
        for (right, wrong) in mistakes {
            assert!(good.contains(right), "{right} is not in {good}");
            let error = run(&store.pool, &good.replacen(right, wrong, 1)).await.expect_err(wrong);
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            // Check, foreign key, too long for its type.
            assert!(["23514", "23503", "22001"].contains(&code.as_str()), "{wrong}: {error}");
        }
        run(&store.pool, good).await.expect(good);
        let again = run(&store.pool, good).await.expect_err("a second time");
        assert!(again.as_database_error().is_some_and(|error| error.is_unique_violation()), "{again}");
    }
    for too_much in [
        OUTBOX_ROW.replace("{}", &format!("\"{}\"", "a".repeat(1_048_576))).replace("00000d'", "00000e'"),
        OUTBOX_ROW
            .replace("00000d'", "00000e'")
            .replace("attempts)", "attempts, sent_at, set_aside_at)")
            .replace(", 0)", ", 0, now(), now())"),
        OUTBOX_ROW
            .replace("00000d'", "00000e'")
            .replace("attempts)", "attempts, carries)")
            .replace(", 0)", ", 0, 'news')"),
        "UPDATE products SET stock = -1".to_owned(),
        "UPDATE jobs SET decided = 'dead'".to_owned(),
        format!("INSERT INTO cache_invalidations (entry) VALUES ('product:1:{}')", "a".repeat(1024)),
        "INSERT INTO cache_invalidations (entry) VALUES ('product:one:a')".to_owned(),
        "INSERT INTO cache_invalidations (entry) VALUES ('product')".to_owned(),
    ] {
        let error = run(&store.pool, &too_much).await.unwrap_err();
        assert!(error.as_database_error().is_some_and(|error| error.is_check_violation()), "{error}");
    }
    let shouting = USER.replace("ada@", "ADA@").replace("00000a'", "0000aa'");
    assert!(run(&store.pool, &shouting).await.unwrap_err().as_database_error().unwrap().is_unique_violation());
    run(&store.pool, "DELETE FROM users").await.expect_err("a customer with orders stays");
}

#[tokio::test]
async fn migrations_may_run_twice_and_side_by_side() {
    let store = TestStore::empty().await;
    let (one, other) = tokio::join!(MIGRATOR.run(&store.pool), MIGRATOR.run(&store.pool));
    one.unwrap();
    other.unwrap();
    MIGRATOR.run(&store.pool).await.unwrap();
}
