//! The scripts, in every order in which two readers, a writer and the end of a lease can meet.

use std::sync::atomic::{AtomicU32, Ordering};

use cache::{Redis, Role};
use futures_util::{StreamExt, stream};
use redis::Script;

use crate::{own_keys, without_token_check};

const LOOK: &str = include_str!("../../src/cache/look.lua");
const FILL: &str = include_str!("../../src/cache/fill.lua");
const AGE: &str = include_str!("../../src/cache/age.lua");
/// Runs at a time; each has a key of its own.
const AT_A_TIME: usize = 64;
const OLD: &str = "old";
const NEW: &str = "new";

/// What each of them does next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Actor {
    /// Looks; reads the database if the lease is its own; fills.
    Reader(usize),
    /// Commits; invalidates.
    Writer,
    /// Ends whatever lease there is.
    Time,
}

/// What stands in Redis before.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Fresh,
    Stale,
}

const BEFORE: [Before; 3] = [Before::Nothing, Before::Fresh, Before::Stale];

/// How many steps each has.
const STEPS: [(Actor, usize); 4] = [(Actor::Reader(0), 3), (Actor::Reader(1), 3), (Actor::Writer, 2), (Actor::Time, 1)];

/// Every order of all steps.
fn orders() -> Vec<Vec<Actor>> {
    fn extend(order: &[Actor], left: [(Actor, usize); 4], orders: &mut Vec<Vec<Actor>>) {
        if left.iter().all(|(_, steps)| *steps == 0) {
            orders.push(order.to_vec());
        }
        for number in 0..left.len() {
            if left[number].1 > 0 {
                let mut left = left;
                left[number].1 -= 1;
                extend(&[order, &[left[number].0]].concat(), left, orders);
            }
        }
    }
    let mut orders = Vec::new();
    extend(&[], STEPS, &mut orders);
    orders
}

/// The scripts, and how an invalidation is done.
struct Rules {
    /// What comes after a reader's number in its token.
    holder: &'static str,
    look: Script,
    fill: Script,
    /// How value and lease are ended.
    invalidation: Script,
}

/// A reader under way.
#[derive(Clone, Copy, Default)]
struct Reader {
    steps: u32,
    leads: bool,
    loaded: Option<&'static str>,
}

struct Run<'a> {
    redis: &'a Redis,
    rules: &'a Rules,
    value: String,
    lease: String,
    database: &'static str,
    invalidated: bool,
    writes: u32,
    readers: [Reader; 2],
}

impl Run<'_> {
    /// Takes one step; false when a reader who began after the invalidation is given what was before it, as if it were fresh.
    async fn step(&mut self, actor: Actor) -> bool {
        match actor {
            Actor::Reader(number) => return self.read(number).await,
            Actor::Writer if self.writes == 0 => self.database = NEW,
            Actor::Writer => {
                let mut end = self.rules.invalidation.key(&self.value);
                self.redis.invoke::<()>("end", end.key(&self.lease)).await.unwrap();
                self.invalidated = true;
            }
            Actor::Time => self.ask::<()>(redis::cmd("DEL").arg(&self.lease)).await,
        }
        self.writes += u32::from(actor == Actor::Writer);
        true
    }

    async fn read(&mut self, number: usize) -> bool {
        let mut reader = self.readers[number];
        reader.steps += 1;
        let mut sound = true;
        match reader.steps {
            1 => {
                let (leads, given) = self.look(number).await;
                reader.leads = leads;
                sound = !(self.invalidated && given.is_some_and(|given| is_old(&given)));
            }
            2 if reader.leads => reader.loaded = Some(self.database),
            3 => {
                if let Some(loaded) = reader.loaded {
                    let mut fill = self.rules.fill.key(&self.value);
                    fill.key(&self.lease).arg(self.token(number)).arg(loaded).arg(60_000).arg(120_000).arg(1);
                    self.redis.invoke::<bool>("fill", &fill).await.unwrap();
                }
            }
            _ => {}
        }
        self.readers[number] = reader;
        sound
    }

    fn token(&self, number: usize) -> String {
        format!("{number}{}", self.rules.holder)
    }

    async fn look(&self, number: usize) -> (bool, Option<String>) {
        let mut look = self.rules.look.key(&self.value);
        look.key(&self.lease).arg(self.token(number)).arg(60_000).arg(0).arg("");
        let (task, _, given): (String, u64, Option<String>) = self.redis.invoke("look", &look).await.unwrap();
        (task == "load" || task == "refresh", given)
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        self.redis.query("ask", command).await.unwrap()
    }
}

/// Whether it is what was before the write, and not known to be past its time by that.
fn is_old(stored: &str) -> bool {
    stored.ends_with(OLD) && !stored.starts_with("0 ")
}

/// The orders in which somebody is given what is too old, or it is there in the end, and how often somebody loaded.
async fn bad_orders(rules: &Rules, before: Before) -> (Vec<Vec<Actor>>, u32) {
    let redis = own_keys(Role::Cache);
    let loads = AtomicU32::new(0);
    let runs = stream::iter(orders().into_iter().enumerate()).map(|(number, order)| {
        let (redis, loads) = (&redis, &loads);
        async move {
            let [value, lease] = ["value", "lease"].map(|what| redis.key(&[what, &number.to_string()]));
            let mut run = Run {
                redis,
                rules,
                value,
                lease,
                database: OLD,
                invalidated: false,
                writes: 0,
                readers: [Reader::default(); 2],
            };
            let expiry = match before {
                Before::Nothing => None,
                Before::Fresh => Some("99999999999999"),
                Before::Stale => Some("1"),
            };
            if let Some(expiry) = expiry {
                run.ask::<()>(redis::cmd("SET").arg(&run.value).arg(format!("{expiry} 1 {OLD}"))).await;
            }
            let mut sound = true;
            for actor in &order {
                sound &= run.step(*actor).await;
            }
            let left: Option<String> = run.ask(redis::cmd("GET").arg(&run.value)).await;
            sound &= left.is_none_or(|left| !is_old(&left));
            run.ask::<()>(redis::cmd("DEL").arg(&run.value).arg(&run.lease)).await;
            loads.fetch_add(run.readers.iter().filter(|reader| reader.leads).count() as u32, Ordering::SeqCst);
            (!sound).then_some(order)
        }
    });
    let bad = runs.buffer_unordered(AT_A_TIME).filter_map(async |bad| bad).collect().await;
    (bad, loads.into_inner())
}

fn rules() -> Rules {
    Rules {
        holder: "",
        look: Script::new(LOOK),
        fill: Script::new(FILL),
        invalidation: Script::new("return redis.call('DEL', KEYS[1], KEYS[2])"),
    }
}

/// Where each holder is taken for dead: nobody listens on its channel.
fn dying() -> Rules {
    Rules { holder: " nobody", ..rules() }
}

/// Those of what is given on while somebody loads it anew.
fn aging() -> Rules {
    Rules { invalidation: Script::new(AGE), ..rules() }
}

#[tokio::test]
async fn in_no_order_is_anybody_given_what_is_older_than_an_invalidation() {
    assert_eq!(orders().len(), 5_040);
    for (rules, before) in [rules(), aging(), dying()].iter().flat_map(|rules| BEFORE.map(|before| (rules, before))) {
        let (bad, loads) = bad_orders(rules, before).await;
        assert!(bad.is_empty(), "{before:?}: {} orders, such as {:?}", bad.len(), bad[0]);
        // A value that is fresh is loaded by those alone who come after the invalidation.
        assert!(loads >= 500, "{before:?}: {loads} loads in all: nothing was tried");
    }
}

#[tokio::test]
async fn a_fill_that_asks_for_no_token_is_found_out() {
    let rules = Rules { fill: Script::new(&without_token_check()), ..rules() };
    assert!(!bad_orders(&rules, Before::Nothing).await.0.is_empty());
}

#[tokio::test]
async fn who_was_taken_for_dead_fills_nothing_or_is_found_out() {
    let rules = Rules { fill: Script::new(&without_token_check()), ..dying() };
    assert!(!bad_orders(&rules, Before::Nothing).await.0.is_empty());
}

#[tokio::test]
async fn an_invalidation_that_leaves_the_lease_is_found_out() {
    let rules = Rules { invalidation: Script::new("return redis.call('DEL', KEYS[1])"), ..rules() };
    assert!(!bad_orders(&rules, Before::Nothing).await.0.is_empty());
}

#[tokio::test]
async fn an_aging_that_leaves_the_lease_is_found_out() {
    let rest = AGE.replace("redis.call('DEL', KEYS[number + 1])", "");
    assert_ne!(rest, AGE, "the script has changed");
    let rules = Rules { invalidation: Script::new(&rest), ..rules() };
    assert!(!bad_orders(&rules, Before::Stale).await.0.is_empty());
}
