//! Scripts that many run at once, which go to the server together.

use std::time::Duration;

use backing::{OwnRedis, Proxy};
use cache::{Redis, RedisError, Role};
use futures_util::future::join_all;
use redis::Script;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{PATIENCE, at, own_keys, until};

/// Of scripts, under way at once.
const PIECES: usize = 8;
/// So that each call makes a piece of its own.
const APART: Duration = Duration::from_millis(50);

#[tokio::test]
async fn everybody_has_the_answer_to_their_own_question() {
    let redis = own_keys(Role::Cache);
    // Texts that the server has not met, and a refusal in each piece.
    let scripts = ["ARGV[1]", "ARGV[1] .. '!'"].map(|answer| {
        let refuse = "if ARGV[1] % 7 == 0 then return redis.error_reply('NO ' .. ARGV[1]) end";
        Script::new(&format!("-- {}\n{refuse}\nreturn {answer}", Uuid::new_v4()))
    });
    let answers = join_all((0..500).map(async |number: usize| {
        let script = &scripts[number % 2];
        redis.invoke::<String>("ask", script.prepare_invoke().arg(number)).await
    }));
    for (number, answer) in answers.await.into_iter().enumerate() {
        match answer {
            Ok(answer) => {
                assert_ne!(number % 7, 0, "{answer}");
                assert_eq!(answer, format!("{number}{}", ["", "!"][number % 2]));
            }
            Err(RedisError::Failed { source, .. }) => {
                assert_eq!((number % 7, source.detail()), (0, Some(number.to_string().as_str())));
            }
            Err(error) => panic!("{number}: {error}"),
        }
    }
}

#[tokio::test]
async fn one_that_is_slow_holds_up_no_other() {
    let proxy = Proxy::start(&backing::redis_url("cache")).await;
    let (redis, direct) = (at(&proxy.url, Role::Cache).with_deadline(PATIENCE), own_keys(Role::Cache));
    let (script, key) = (Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])"), direct.key(&["sum"]));
    let add = |redis: &Redis, number: usize| {
        let (redis, script, key) = (redis.clone(), script.clone(), key.clone());
        async move { redis.invoke::<usize>("add", script.key(key).arg(number)).await }
    };
    let sum = async || add(&direct, 0).await.unwrap();
    assert_eq!(add(&redis, 1).await.unwrap(), 1);
    proxy.hold_answers(true);
    let first = tokio::spawn(add(&redis, 10));
    until("the first is done", async || sum().await == 11).await;
    let second = tokio::spawn(add(&redis, 100));
    until("the second is done", async || sum().await == 111).await;
    assert!(!first.is_finished(), "it waits for its answer");
    proxy.hold_answers(false);
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (11, 111));
}

#[tokio::test]
async fn what_its_caller_gave_up_before_it_was_sent_is_not() {
    let server = OwnRedis::start();
    let patient = at(&server.url(), Role::Cache).with_deadline(Duration::from_secs(5));
    let hasty = patient.clone().with_deadline(Duration::from_millis(300));
    let (script, key) = (Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])"), patient.key(&["sum"]));
    let add = async |redis: &Redis, number: usize| redis.invoke::<usize>("add", script.key(&key).arg(number)).await;
    assert_eq!(add(&patient, 1).await.unwrap(), 1);
    server.freeze();
    // As many pieces as may be under way, then two that are the next, of which one is given up before.
    let mut calls = JoinSet::new();
    for number in 0..PIECES + 2 {
        let (redis, amount) = if number == PIECES { (hasty.clone(), 1000) } else { (patient.clone(), 1) };
        let (script, key) = (script.clone(), key.clone());
        calls.spawn(async move { redis.invoke::<usize>("add", script.key(key).arg(amount)).await });
        sleep(APART).await;
    }
    for late in calls.join_all().await {
        assert!(matches!(late, Err(RedisError::Deadline { .. })), "{late:?}");
    }
    server.thaw();
    // What came by one connection is done in one go.
    let another = at(&server.url(), Role::Cache).with_deadline(PATIENCE);
    until("the others are done", async || add(&another, 0).await.unwrap() > 1).await;
    let sum = add(&another, 0).await.unwrap();
    assert!(sum < 1000, "{sum}");
}
