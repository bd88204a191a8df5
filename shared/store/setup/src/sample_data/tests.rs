//! The sample year is the same everywhere, and looks like a shop's year.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use chrono::{Datelike, NaiveDate, Timelike, Weekday};

use super::Shop;

static SHOP: LazyLock<Shop> = LazyLock::new(|| Shop::of_2025().unwrap());

fn days() -> HashMap<NaiveDate, usize> {
    let mut days = HashMap::new();
    for order in &SHOP.orders {
        *days.entry(order.placed_at.date_naive()).or_default() += 1;
    }
    days
}

/// Orders a day, on average over the days that are asked for.
fn mean(wanted: impl Fn(NaiveDate) -> bool) -> f64 {
    let counts: Vec<_> = days().into_iter().filter(|(day, _)| wanted(*day)).map(|(_, count)| count).collect();
    counts.iter().sum::<usize>() as f64 / counts.len() as f64
}

#[test]
fn the_sample_year_is_the_same_on_every_machine() {
    let mut checksum = 0_u64;
    let mut mix = |value: u64| checksum = checksum.rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ value;
    for customer in &SHOP.customers {
        customer.name.bytes().chain(customer.email.bytes()).for_each(|byte| mix(byte.into()));
        customer.id.as_bytes().iter().for_each(|byte| mix((*byte).into()));
    }
    for order in &SHOP.orders {
        mix(order.number.unsigned_abs());
        mix(order.placed_at.timestamp_millis().unsigned_abs());
        mix(order.customer as u64);
        order.status.bytes().for_each(|byte| mix(byte.into()));
        for item in &order.items {
            mix(item.product as u64);
            mix(item.quantity.unsigned_abs().into());
            mix(item.unit_price_minor.unsigned_abs());
        }
    }
    let revenue: i64 =
        SHOP.orders.iter().filter(|order| order.status != "cancelled").map(|order| order.total_minor()).sum();
    let lines: usize = SHOP.orders.iter().map(|order| order.items.len()).sum();
    assert_eq!((SHOP.products.len(), SHOP.customers.len(), SHOP.orders.len()), (200, 5_000, 50_000));
    assert_eq!((revenue, lines, checksum), (311_383_176, 105_377, 14_343_618_713_534_553_224));
}

#[test]
fn a_year_has_its_seasons() {
    let days = days();
    assert_eq!(days.len(), 365, "something is sold on every day");
    let all = mean(|_| true);
    let month = |wanted: u32| mean(move |day| day.month() == wanted);
    for busy in [11, 12] {
        assert!(month(busy) > 1.5 * all, "month {busy}: {} of {all}", month(busy));
    }
    for quiet in [7, 8] {
        assert!(month(quiet) < 0.8 * all, "month {quiet}: {} of {all}", month(quiet));
    }
    let busiest = days.iter().max_by_key(|(_, count)| **count).unwrap();
    assert_eq!(busiest.0.to_string(), "2025-11-28", "Black Friday");
    assert!(*busiest.1 as f64 > 4.0 * all);
    let quietest = days.iter().min_by_key(|(_, count)| **count).unwrap();
    assert_eq!(quietest.0.to_string(), "2025-12-25");
}

#[test]
fn a_week_has_its_weekdays_and_a_day_its_hours() {
    // The sale of four days would shift the weekdays that it falls on.
    let weekday = |wanted: Weekday| mean(move |day| day.weekday() == wanted && day.month() < 11);
    let others = [Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri].map(weekday);
    for other in others {
        assert!(weekday(Weekday::Sun) > other && weekday(Weekday::Mon) > other && weekday(Weekday::Sat) < other);
    }
    let hour = |wanted: u32| SHOP.orders.iter().filter(|order| order.placed_at.hour() == wanted).count();
    assert!(hour(19) > 4_500 && hour(3) < 200 && hour(10) > hour(8), "{:?}", (0..24).map(hour).collect::<Vec<_>>());
}

#[test]
fn orders_add_up_and_some_are_cancelled() {
    let mut of_lines = [0; 7];
    for order in &SHOP.orders {
        assert!(order.total_minor() > 0 && order.items.iter().all(|item| (1..=4).contains(&item.quantity)));
        let products: HashSet<_> = order.items.iter().map(|item| item.product).collect();
        assert_eq!(products.len(), order.items.len(), "a line a product");
        of_lines[order.items.len()] += 1;
    }
    assert!(of_lines[0] == 0 && of_lines[1..].is_sorted_by(|more, less| more > less), "{of_lines:?}");
    let cancelled = SHOP.orders.iter().filter(|order| order.status == "cancelled").count();
    assert!((1_350..1_650).contains(&cancelled), "{cancelled}");
    let statuses: HashSet<_> = SHOP.orders.iter().map(|order| order.status).collect();
    assert_eq!(statuses.len(), 5, "{statuses:?}");
    let numbers: Vec<_> = SHOP.orders.iter().map(|order| order.number).collect();
    assert!(numbers.is_sorted_by(|one, next| one + 1 == *next));
    assert!(SHOP.orders.is_sorted_by_key(|order| order.placed_at));
}

#[test]
fn some_products_and_customers_count_for_many() {
    let mut pieces = vec![0; SHOP.products.len()];
    let mut orders = vec![0; SHOP.customers.len()];
    for order in &SHOP.orders {
        orders[order.customer] += 1;
        order.items.iter().for_each(|item| pieces[item.product] += item.quantity);
    }
    assert!(pieces.iter().all(|&pieces| pieces > 0), "every product is bought");
    pieces.sort_unstable_by(|a, b| b.cmp(a));
    let (top, all) = (pieces[..20].iter().sum::<i32>(), pieces.iter().sum::<i32>());
    assert!(top * 10 > all * 4, "20 products of 200 are {top} of {all} pieces");
    assert!(orders.iter().filter(|&&orders| orders > 0).count() > 4_900);
    assert!(*orders.iter().max().unwrap() > 40 && orders.iter().filter(|&&orders| orders < 5).count() > 1_000);
}

#[test]
fn customers_are_plausible_and_nobody_can_be_written_to() {
    let mut addresses = HashSet::new();
    for customer in &SHOP.customers {
        let (local, host) = customer.email.split_once('@').unwrap();
        assert!(host.ends_with(".example") && customer.email.is_ascii() && local.contains('.'), "{}", customer.email);
        assert!(!local.starts_with('.') && !local.ends_with('.') && !local.contains(' '), "{}", customer.email);
        assert!(addresses.insert(&customer.email), "{} occurs twice", customer.email);
        // As many letters as the name has, so that none was lost on the way to plain ones.
        let letters = customer.name.chars().filter(|letter| letter.is_alphabetic()).count();
        assert!(local.chars().filter(|letter| letter.is_alphabetic()).count() >= letters, "{} {local}", customer.name);
        assert!(!customer.name.chars().any(char::is_control));
    }
    let countries: HashSet<_> = SHOP.customers.iter().map(|customer| customer.country).collect();
    assert_eq!(countries.len(), 16);
    for order in &SHOP.orders {
        assert!(
            SHOP.customers[order.customer].created_at < order.placed_at,
            "order {} is older than its customer",
            order.number
        );
    }
}

#[test]
fn nothing_shares_an_id_or_a_name_in_the_catalogue() {
    let ids = SHOP.products.iter().map(|product| product.id);
    let ids =
        ids.chain(SHOP.customers.iter().map(|customer| customer.id)).chain(SHOP.orders.iter().map(|order| order.id));
    assert_eq!(ids.collect::<HashSet<_>>().len(), 55_200);
    assert_eq!(SHOP.products.iter().map(|product| &product.sku).collect::<HashSet<_>>().len(), 200);
    assert_eq!(SHOP.products.iter().map(|product| product.name).collect::<HashSet<_>>().len(), 200);
    assert_eq!(SHOP.products.iter().map(|product| product.category).collect::<HashSet<_>>().len(), 12);
}

#[test]
fn there_is_plenty_of_all_products_but_two() {
    let stock = |name| SHOP.products.iter().find(|product| product.name == name).map(|product| product.stock);
    assert_eq!((stock("Pasta machine"), stock("Music box")), (Some(0), Some(3)));
    assert_eq!(SHOP.products.iter().filter(|product| product.stock >= 1_000_000).count(), 198);
}
