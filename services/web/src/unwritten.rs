//! Jobs that were accepted while nothing could be written down, noted in the Redis that forgets nothing before its time: the page of
//! a `202` is there also when the other one has lost its copies, or is away too.

use std::time::Duration;

use cache::{Redis, RedisError};
use chrono::{DateTime, Utc};
use redis::Script;
use store::jobs::NewJob;
use uuid::Uuid;

/// So long one hash is written to; it is read for as long again.
const PERIOD: Duration = Duration::from_secs(6 * 3600);
/// Jobs in one hash, of some 250 bytes each: sessions and limits need the rest of the memory. Whatever comes after these has no
/// page while database and copies are gone.
const MOST: u32 = 50_000;

/// Notes a job; whether there was room.
pub(crate) async fn note(redis: &Redis, job: &NewJob) -> Result<bool, RedisError> {
    note_among(redis, job, MOST).await
}

async fn note_among(redis: &Redis, job: &NewJob, most: u32) -> Result<bool, RedisError> {
    let script = Script::new(include_str!("unwritten/note.lua"));
    // Two texts and a moment can always be written as JSON.
    let text = serde_json::to_string(&(&job.kind, &job.owner, job.at)).unwrap_or_default();
    let mut note = script.key(redis.key(&["unwritten-jobs"]));
    note.arg(PERIOD.as_secs()).arg(most).arg(job.id.to_string()).arg(text);
    redis.invoke("note an accepted job", &note).await
}

/// The job, if it was noted.
pub(crate) async fn find(redis: &Redis, id: Uuid) -> Result<Option<NewJob>, RedisError> {
    let script = Script::new(include_str!("unwritten/find.lua"));
    let mut find = script.key(redis.key(&["unwritten-jobs"]));
    find.arg(PERIOD.as_secs()).arg(id.to_string());
    let text: Option<String> = redis.invoke("look for an accepted job", &find).await?;
    Ok(text.and_then(|text| {
        let (kind, owner, at): (String, String, DateTime<Utc>) = serde_json::from_str(&text).ok()?;
        Some(NewJob { id, kind, owner, caused_by: None, at })
    }))
}

#[cfg(test)]
mod tests {
    use cache::{Redis, RedisSettings, Role};
    use chrono::DateTime;
    use store::jobs::NewJob;
    use uuid::Uuid;

    use super::{find, note_among};

    #[tokio::test]
    async fn so_many_are_noted_and_no_more() {
        let prefix = format!("test-{}", Uuid::new_v4().simple());
        let redis =
            Redis::new(&RedisSettings { url: backing::redis_url("durable").into(), prefix }, Role::Durable).unwrap();
        for number in 1..=3 {
            let at = DateTime::UNIX_EPOCH;
            let job = NewJob {
                id: Uuid::from_u128(number),
                kind: "noop.run".into(),
                owner: "alice".into(),
                caused_by: None,
                at,
            };
            assert_eq!(note_among(&redis, &job, 2).await.unwrap(), number <= 2);
            assert_eq!(find(&redis, job.id).await.unwrap().is_some(), number <= 2);
        }
    }
}
