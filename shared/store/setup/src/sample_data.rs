//! A shop's year to try everything on: 200 products, 5,000 customers, and the 50,000 orders of 2025. The same on every
//! machine; nothing in it is anybody's.

use std::collections::BTreeMap;

use anyhow::Context;
use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

mod calendar;
mod catalogue;
mod load;
mod people;
#[cfg(test)]
mod tests;

pub use load::{Loaded, load};

/// The currency of every price.
pub const CURRENCY: &str = "EUR";

const SEED: u64 = 2025;
const CUSTOMERS: usize = 5_000;
/// Those who had an account when the year began; the others come with their first order.
const EARLIER_CUSTOMERS: usize = 2_700;
const ORDERS: usize = 50_000;
const FIRST_ORDER_NUMBER: i64 = 100_001;
const CANCELLED_SHARE: f64 = 0.03;
/// In a thousand: orders of one line, of two, and so on.
const LINES: [u32; 6] = [430, 270, 150, 80, 45, 25];
/// What nobody can buy, what soon nobody can, and how much there is of all else.
const SOLD_OUT: &str = "Pasta machine";
const NEARLY_SOLD_OUT: (&str, i64) = ("Music box", 3);
const PLENTY: i64 = 1_000_000;
/// In a hundred: one piece of a product, two, and so on.
const QUANTITIES: [u32; 4] = [82, 13, 4, 1];

/// Everything that the sample shop has.
#[derive(Debug)]
pub struct Shop {
    /// What it sells.
    pub products: Vec<Product>,
    /// Who has an account, in the order in which they made it.
    pub customers: Vec<Customer>,
    /// What was ordered, in the order in which it was.
    pub orders: Vec<Order>,
}

/// Something to buy.
#[derive(Debug)]
pub struct Product {
    /// Its id.
    pub id: Uuid,
    /// Its stock keeping unit.
    pub sku: String,
    /// Its name.
    pub name: &'static str,
    /// Its category.
    pub category: &'static str,
    /// Its price in cents.
    pub price_minor: i64,
    /// How many pieces there are.
    pub stock: i64,
}

/// Somebody with an account.
#[derive(Debug)]
pub struct Customer {
    /// The id.
    pub id: Uuid,
    /// First and last name.
    pub name: String,
    /// An address below `.example`.
    pub email: String,
    /// ISO 3166 alpha-2.
    pub country: &'static str,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
}

/// What somebody ordered at once.
#[derive(Debug)]
pub struct Order {
    /// Its id.
    pub id: Uuid,
    /// The number on the invoice.
    pub number: i64,
    /// Whose it is, as a place in [`Shop::customers`].
    pub customer: usize,
    /// `placed`, `paid`, `shipped`, `delivered` or `cancelled`.
    pub status: &'static str,
    /// When.
    pub placed_at: DateTime<Utc>,
    /// Its lines, one a product.
    pub items: Vec<Item>,
}

/// A line of an order.
#[derive(Debug)]
pub struct Item {
    /// The product, as a place in [`Shop::products`].
    pub product: usize,
    /// How many pieces.
    pub quantity: i32,
    /// What each cost on that day, in cents.
    pub unit_price_minor: i64,
}

impl Order {
    /// What it cost, in cents.
    #[must_use]
    pub fn total_minor(&self) -> i64 {
        self.items.iter().map(|item| i64::from(item.quantity) * item.unit_price_minor).sum()
    }
}

impl Shop {
    /// Makes the shop's year.
    ///
    /// # Errors
    /// None in practice: 2025 has the days that it has.
    pub fn of_2025() -> anyhow::Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let year = NaiveDate::from_ymd_opt(2025, 1, 1).context("2025 begins")?;
        let products = products(&mut random, start_of(year) - TimeDelta::days(5 * 365));
        let times = order_times(&mut random, year);
        let customers = customers(&mut random, &times, year);
        let shelves = Shelves::new(&mut random);
        let end = start_of(year + Days::new(365));

        let crowd = Crowd::new(&mut random, customers.len());
        let mut orders = Vec::with_capacity(times.len());
        let (mut known, mut number) = (EARLIER_CUSTOMERS, FIRST_ORDER_NUMBER);
        for placed_at in times {
            // A new account is made minutes before its first order; any other order comes from who was there already.
            let customer = match customers.get(known) {
                Some(new) if new.created_at <= placed_at => {
                    known += 1;
                    known - 1
                }
                _ => crowd.pick(&mut random, known),
            };
            orders.push(Order {
                id: id(&mut random, placed_at),
                number,
                customer,
                status: status(&mut random, end - placed_at),
                placed_at,
                items: shelves.fill_basket(&mut random, &products, placed_at.date_naive()),
            });
            number += 1;
        }
        Ok(Self { products, customers, orders })
    }
}

fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

/// A version 7 UUID of that moment.
fn id(random: &mut ChaCha8Rng, at: DateTime<Utc>) -> Uuid {
    let milliseconds = at.timestamp_millis().unsigned_abs();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &random.random()).into_uuid()
}

/// A place in `weights`, more often where they are larger.
fn weighted(random: &mut ChaCha8Rng, weights: &[u32]) -> usize {
    let mut rest = random.random_range(0..weights.iter().sum());
    let place = weights.iter().position(|weight| {
        let here = rest < *weight;
        rest = rest.saturating_sub(*weight);
        here
    });
    place.unwrap_or(0)
}

fn products(random: &mut ChaCha8Rng, since: DateTime<Utc>) -> Vec<Product> {
    let in_category =
        |category: &'static catalogue::Category| category.products.iter().zip(1..).map(move |(p, n)| (category, p, n));
    let products = catalogue::CATEGORIES.iter().flat_map(in_category);
    products
        .map(|(category, (name, price_minor), number)| Product {
            id: id(random, since),
            sku: format!("{}-{number:03}", category.code),
            name,
            category: category.name,
            price_minor: *price_minor,
            stock: stock(name),
        })
        .collect()
}

fn stock(name: &str) -> i64 {
    match (name, NEARLY_SOLD_OUT) {
        (SOLD_OUT, _) => 0,
        (name, (few, left)) if name == few => left,
        _ => PLENTY,
    }
}

/// The moments at which the orders were placed, in order; each day has its share, give or take a little.
fn order_times(random: &mut ChaCha8Rng, year: NaiveDate) -> Vec<DateTime<Utc>> {
    let days: Vec<NaiveDate> = year.iter_days().take(365).collect();
    let shares: Vec<f64> = days
        .iter()
        .zip(0..)
        .map(|(&day, number)| {
            // The shop grows by a tenth within the year.
            let growth = 1.0 + 0.1 * f64::from(number) / 365.0;
            calendar::demand(day) * growth * random.random_range(0.92..1.08)
        })
        .collect();
    let all: f64 = shares.iter().sum();
    let mut times = Vec::with_capacity(ORDERS);
    let (mut passed, mut placed) = (0.0, 0);
    for (day, share) in days.into_iter().zip(shares) {
        // What is rounded off one day is made up for on the next.
        passed += share;
        let until = (passed / all * ORDERS as f64).round() as usize;
        for _ in placed..until {
            let second = weighted(random, &calendar::HOURS) as i64 * 3600 + random.random_range(0..3600);
            times.push(start_of(day) + TimeDelta::milliseconds(second * 1000 + random.random_range(0..1000)));
        }
        placed = until;
    }
    times.sort_unstable();
    times
}

fn customers(random: &mut ChaCha8Rng, times: &[DateTime<Utc>], year: NaiveDate) -> Vec<Customer> {
    // The shop opened four years before.
    let before = 4 * 365 * 86_400;
    let mut since: Vec<_> =
        (0..EARLIER_CUSTOMERS).map(|_| start_of(year) - TimeDelta::seconds(random.random_range(1..before))).collect();
    // The others each come some minutes before one of the orders, which will be theirs; the first not before all others.
    let mut firsts = rand::seq::index::sample(random, times.len() - 1, CUSTOMERS - EARLIER_CUSTOMERS).into_vec();
    firsts.sort_unstable();
    since.extend(firsts.into_iter().map(|first| times[first] - TimeDelta::seconds(random.random_range(60..600))));
    since.sort_unstable();
    let mut people = people::People::new();
    since
        .into_iter()
        .map(|created_at| {
            let person = people.next(random);
            Customer {
                id: id(random, created_at),
                name: person.name,
                email: person.email,
                country: person.country,
                created_at,
            }
        })
        .collect()
}

/// Customers by how often they buy: a few very often, most now and then.
struct Crowd {
    /// Running sums of their weights.
    sums: Vec<f64>,
}

impl Crowd {
    fn new(random: &mut ChaCha8Rng, customers: usize) -> Self {
        let mut sum = 0.0;
        let sums = (0..customers).map(|_| {
            sum += 1.0 / random.random_range(0.08..1.0);
            sum
        });
        Self { sums: sums.collect() }
    }

    /// One of the first `known` customers.
    fn pick(&self, random: &mut ChaCha8Rng, known: usize) -> usize {
        let place = random.random_range(0.0..self.sums[known - 1]);
        self.sums[..known].partition_point(|sum| *sum <= place)
    }
}

/// Products by how often they are bought: in proportion to 1 / (rank + 4), dear ones less, and by the season of their
/// category.
struct Shelves {
    /// Running sums of their weights, by month.
    sums: BTreeMap<u32, Vec<f64>>,
}

impl Shelves {
    fn new(random: &mut ChaCha8Rng) -> Self {
        let products = catalogue::CATEGORIES
            .iter()
            .flat_map(|category| category.products.iter().map(move |(_, price)| (category, *price)));
        let products: Vec<_> = products.collect();
        let ranks = rand::seq::index::sample(random, products.len(), products.len()).into_vec();
        let sums = (0..12_u8).map(|month| {
            let mut sum = 0.0;
            let sums = ranks.iter().zip(&products).map(|(&rank, (category, price))| {
                let demand = category.season[usize::from(month)] / (*price + 1_500) as f64;
                sum += demand / (rank as f64 + 4.0);
                sum
            });
            (u32::from(month), sums.collect())
        });
        Self { sums: sums.collect() }
    }

    fn fill_basket(&self, random: &mut ChaCha8Rng, products: &[Product], day: NaiveDate) -> Vec<Item> {
        let sums = &self.sums[&day.month0()];
        let all = sums.last().copied().unwrap_or_default();
        let lines = weighted(random, &LINES) + 1;
        let mut items: Vec<Item> = Vec::with_capacity(lines);
        while items.len() < lines {
            let place = random.random_range(0.0..all);
            let product = sums.partition_point(|sum| *sum <= place);
            if items.iter().any(|item| item.product == product) {
                continue;
            }
            let price = products[product].price_minor;
            let unit_price_minor = if calendar::is_sale(day) { (price * 4 + 2) / 5 } else { price };
            items.push(Item { product, quantity: weighted(random, &QUANTITIES) as i32 + 1, unit_price_minor });
        }
        items
    }
}

/// What became of an order of that age.
fn status(random: &mut ChaCha8Rng, age: TimeDelta) -> &'static str {
    if random.random_bool(CANCELLED_SHARE) {
        return "cancelled";
    }
    match age.num_hours() {
        ..7 => "placed",
        7..37 => "paid",
        37..121 => "shipped",
        _ => "delivered",
    }
}
