//! The copies of one job, while it changes and is read, told late, in any order, or not at all.

use std::time::Duration;

use backing::Database;
use cache::{Cache, Redis, RedisError, RedisSettings, Role};
use chrono::DateTime;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use store::PgPool;
use store::jobs::{CausedJob, Chain, ChangedJob, Effect, JobEventRow, JobEventType, JobRow, JobState, NewJob};
use uuid::Uuid;

use super::{Job, JobStatus, Ticket};

/// Changes of a job in one life of it.
const CHANGES: usize = 8;

fn settings() -> RedisSettings {
    RedisSettings { url: backing::redis_url("cache").into(), prefix: format!("test-{}", Uuid::new_v4().simple()) }
}

async fn pool(database: &Database) -> PgPool {
    let pool = store::connect(&serde_json::from_value(json!({"url": database.url()})).unwrap()).unwrap();
    store::MIGRATOR.run(&pool).await.unwrap();
    pool
}

/// Copies with no database behind them.
fn alone(settings: RedisSettings) -> JobStatus {
    let pool = store::connect(&serde_json::from_value(json!({"url": "postgres://a:b@127.0.0.1:1/none"})).unwrap());
    JobStatus::new(Redis::new(&settings, Role::Cache).unwrap(), pool.unwrap())
}

fn new_job() -> NewJob {
    let at = DateTime::UNIX_EPOCH;
    NewJob { id: Uuid::new_v4(), kind: "noop.run".to_owned(), owner: "alice".to_owned(), caused_by: None, at }
}

fn event(number: usize) -> JobEventRow {
    JobEventRow {
        number: i64::try_from(number).unwrap(),
        event_id: Uuid::from_u128(number as u128),
        event_type: if number.is_multiple_of(3) { JobEventType::Progressed } else { JobEventType::Retrying },
        effect: Effect::Moved,
        run_id: None,
        replays: 0,
        attempt: 1,
        redeliveries: 0,
        sequence: 1,
        worker: None,
        at: DateTime::UNIX_EPOCH,
        data: json!({"number": number}),
    }
}

/// The job after so many changes.
fn after(new: &NewJob, changes: usize) -> Job {
    let last_progress = (1..=changes).rev().find(|number| number.is_multiple_of(3));
    let events = (1..=changes).map(event);
    let events = events
        .filter(|event| event.event_type != JobEventType::Progressed || Some(event.number as usize) == last_progress);
    let row = JobRow { last_number: changes as i64, error: (changes > 0).then(|| json!(changes)), ..JobRow::from(new) };
    Job { row, events: events.collect(), chain: Some(Chain::default()) }
}

/// The same once it has caused so many jobs.
fn having_caused(job: Job, caused: usize) -> Job {
    Job { chain: Some(Chain { caused_by: None, caused: (0..caused).map(effect).collect() }), ..job }
}

fn effect(number: usize) -> CausedJob {
    CausedJob {
        id: Uuid::from_u128(number as u128),
        kind: "noop.run".to_owned(),
        state: JobState::Queued,
        waits: false,
    }
}

/// An event of a job that this one caused.
fn change_of_effect(new: &NewJob) -> ChangedJob {
    let effect = NewJob { caused_by: Some(new.id), ..new_job() };
    change(&effect, 1)
}

fn change(new: &NewJob, number: usize) -> ChangedJob {
    ChangedJob { job: after(new, number).row, before: number as i64 - 1, lines: vec![event(number)] }
}

/// A process, a job, and what has happened so far.
struct Life {
    redis: Redis,
    status: JobStatus,
    new: NewJob,
    committed: usize,
    to_tell: Vec<usize>,
    /// The newest change that was told, or missed.
    told: usize,
    /// Jobs that it caused: all of them, and those that were told of.
    caused: usize,
    caused_told: usize,
    /// Who asked the database, and what it said.
    readers: Vec<(Ticket, usize, usize)>,
    copies_seen: usize,
    chains_seen: usize,
}

impl Life {
    async fn step(&mut self, random: &mut StdRng) {
        match random.random_range(0..11) {
            0 | 1 if self.committed < CHANGES => {
                self.committed += 1;
                self.to_tell.push(self.committed);
            }
            2 | 3 if !self.to_tell.is_empty() => {
                let number = self.to_tell.swap_remove(random.random_range(0..self.to_tell.len()));
                match random.random_range(0..10) {
                    0 => self.status.miss(RedisError::Away { action: "tell" }).await.unwrap(),
                    1 => self.status.tell(&[], &[self.new.id]).await.unwrap(),
                    _ => self.status.tell(&[change(&self.new, number)], &[]).await.unwrap(),
                }
                self.told = self.told.max(number);
            }
            4 if !self.readers.is_empty() => {
                let (ticket, read, caused) = self.readers.swap_remove(random.random_range(0..self.readers.len()));
                self.status.fill(&ticket, &having_caused(after(&self.new, read), caused)).await.unwrap();
            }
            // Whoever accepts a job knows that it has caused nothing.
            5 if self.caused == 0 && random.random_ratio(1, 4) => self.status.accept(&self.new).await.unwrap(),
            6 if random.random_ratio(1, 4) => {
                let key = self.status.key(self.new.id);
                let () = self.redis.query("evict", redis::cmd("DEL").arg(key)).await.unwrap();
            }
            7 if random.random() => self.caused += 1,
            8 if self.caused_told < self.caused => {
                self.status.tell(&[change_of_effect(&self.new)], &[]).await.unwrap();
                self.caused_told = self.caused;
            }
            _ => self.look().await,
        }
    }

    async fn look(&mut self) {
        let look = self.status.look(self.new.id).await.unwrap();
        let known = look.copy.as_ref().is_some_and(|copy| copy.job.chain.is_some());
        if !known {
            self.readers.push((look.ticket, self.committed, self.caused));
        }
        let Some(copy) = look.copy else { return };
        self.copies_seen += 1;
        let number = usize::try_from(copy.job.row.last_number).unwrap();
        let expected = after(&self.new, number);
        assert_eq!((&copy.job.row, &copy.job.events), (&expected.row, &expected.events));
        // What was begun at the acceptance is believed for three seconds.
        let in_time = (self.told..=self.committed).contains(&number);
        assert!(in_time || number == 0, "{number} after {} was told", self.told);
        assert!(known || !copy.fresh, "a copy that lacks something is asked for");
        if let Some(chain) = copy.job.chain {
            self.chains_seen += usize::from(!chain.caused.is_empty());
            assert!((self.caused_told..=self.caused).contains(&chain.caused.len()), "{chain:?}");
        }
    }
}

#[tokio::test]
async fn no_copy_is_older_than_what_was_told_or_missed_and_each_is_what_the_database_said() {
    let redis = Redis::new(&settings(), Role::Cache).unwrap();
    let database = Database::create().await;
    let pool = pool(&database).await;
    let (mut copies_seen, mut chains_seen) = (0, 0);
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let status = JobStatus::new(redis.clone(), pool.clone());
        let mut life = Life {
            redis: redis.clone(),
            status,
            new: new_job(),
            committed: 0,
            to_tell: Vec::new(),
            told: 0,
            caused: 0,
            caused_told: 0,
            readers: Vec::new(),
            copies_seen: 0,
            chains_seen: 0,
        };
        if random.random() {
            life.status.accept(&life.new).await.unwrap();
        }
        for _ in 0..60 {
            life.step(&mut random).await;
        }
        copies_seen += life.copies_seen;
        chains_seen += life.chains_seen;
    }
    // Or nothing has been shown.
    assert!(copies_seen > 300 && chains_seen > 100, "{copies_seen} {chains_seen}");
}

#[tokio::test]
async fn what_a_process_could_not_tell_before_it_ended_the_dispatcher_tells() {
    let (settings, database) = (settings(), Database::create().await);
    let pool = pool(&database).await;
    let redis = Redis::new(&settings, Role::Cache).unwrap();
    let lives = JobStatus::new(redis.clone(), pool.clone());
    let away = RedisSettings { url: "redis://127.0.0.1:1".into(), ..settings };
    let dies = JobStatus::new(Redis::new(&away, Role::Cache).unwrap(), pool.clone());
    let new = new_job();
    let ticket = lives.look(new.id).await.unwrap().ticket;
    lives.fill(&ticket, &after(&new, 1)).await.unwrap();
    dies.tell(&[change(&new, 2)], &[]).await.unwrap();
    drop(dies);
    let batch = store::cache_invalidations::take(&pool, 10).await.unwrap().unwrap();
    for row in batch.rows() {
        Cache::new(redis.clone(), 1).invalidate_entry(&row.entry).await.unwrap();
    }
    assert!(lives.look(new.id).await.unwrap().copy.is_none());
    let nowhere = alone(away);
    nowhere.tell(&[change(&new, 3)], &[]).await.unwrap_err();
}

#[tokio::test]
async fn of_a_job_that_may_have_no_row_yet_the_copy_outlives_its_epoch_as_an_old_one() {
    let status = alone(settings());
    let new = new_job();
    status.accept(&new).await.unwrap();
    assert!(status.look(new.id).await.unwrap().copy.unwrap().fresh);
    status.miss(RedisError::Away { action: "tell" }).await.unwrap_err();
    let look = status.look(new.id).await.unwrap();
    let copy = look.copy.unwrap();
    assert_eq!((copy.job.row, copy.fresh), (JobRow::from(&new), false));
    status.fill(&look.ticket, &after(&new, 1)).await.unwrap();
    assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, after(&new, 1).row);
    status.miss(RedisError::Away { action: "tell" }).await.unwrap_err();
    assert!(status.look(new.id).await.unwrap().copy.is_none());
}

#[tokio::test]
async fn a_copy_is_believed_for_minutes_and_one_that_nothing_followed_for_seconds() {
    let status = alone(settings());
    let new = new_job();
    let fresh_at = async |age: Duration| {
        let left = super::millis(super::KEPT - age);
        let grow_old = redis::cmd("PEXPIRE").arg(status.key(new.id)).arg(left).to_owned();
        let _done: i64 = status.redis.query("have a copy grow old", &grow_old).await.unwrap();
        status.look(new.id).await.unwrap().copy.unwrap().fresh
    };
    let (moments, minutes) = (Duration::from_secs(4), Duration::from_secs(301));
    status.accept(&new).await.unwrap();
    assert!(fresh_at(Duration::ZERO).await && !fresh_at(moments).await);
    status.tell(&[change(&new, 1)], &[]).await.unwrap();
    assert!(fresh_at(moments).await && !fresh_at(minutes).await);
}

#[tokio::test]
async fn a_change_by_nobody_known_or_of_another_shape_leaves_no_copy() {
    let status = alone(settings());
    let new = new_job();
    status.accept(&new).await.unwrap();
    let mut nobodys = change(&new, 1);
    nobodys.job.owner = None;
    status.tell(&[nobodys], &[]).await.unwrap();
    let look = status.look(new.id).await.unwrap();
    assert!(look.copy.is_none());
    status.fill(&look.ticket, &after(&new, 1)).await.unwrap();
    let garble = redis::cmd("HSET").arg(status.key(new.id)).arg("job").arg("{}").to_owned();
    let _none: i64 = status.redis.query("garble a copy", &garble).await.unwrap();
    let look = status.look(new.id).await.unwrap();
    assert!(look.copy.is_none());
    status.fill(&look.ticket, &after(&new, 1)).await.unwrap();
    assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, after(&new, 1).row);
}

#[tokio::test]
async fn what_waits_in_the_outbox_has_no_copy() {
    let status = alone(settings());
    let new = new_job();
    let waits = |number| {
        let mut changed = change(&new, number);
        changed.job.due_at = Some(DateTime::UNIX_EPOCH);
        changed
    };
    let ticket = status.look(new.id).await.unwrap().ticket;
    status.fill(&ticket, &Job { events: vec![event(1)], ..Job::accepted(waits(1).job) }).await.unwrap();
    assert!(status.look(new.id).await.unwrap().copy.is_none());
    let ticket = status.look(new.id).await.unwrap().ticket;
    status.fill(&ticket, &after(&new, 1)).await.unwrap();
    assert!(status.look(new.id).await.unwrap().copy.is_some());
    status.tell(&[waits(2)], &[]).await.unwrap();
    assert!(status.look(new.id).await.unwrap().copy.is_none());
}

#[tokio::test]
async fn what_a_job_caused_is_asked_for_once_it_has_ended_and_whenever_one_of_those_has_changed() {
    let status = alone(settings());
    let new = new_job();
    let chain = async || {
        let copy = status.look(new.id).await.unwrap().copy.expect("the copy stays");
        assert_eq!(copy.fresh, copy.job.chain.is_some());
        copy.job.chain.map(|chain| chain.caused.len())
    };
    status.accept(&new).await.unwrap();
    status.tell(&[change(&new, 1)], &[]).await.unwrap();
    assert_eq!(chain().await, Some(0));
    let mut end = change(&new, 2);
    end.job.state = JobState::Succeeded;
    status.tell(&[end.clone()], &[]).await.unwrap();
    assert_eq!(chain().await, None);
    let ended = |caused| Job { row: end.job.clone(), ..having_caused(after(&new, 2), caused) };

    let ticket = status.look(new.id).await.unwrap().ticket;
    status.fill(&ticket, &ended(1)).await.unwrap();
    assert_eq!(chain().await, Some(1));
    status.tell(&[change_of_effect(&new)], &[]).await.unwrap();
    assert_eq!(chain().await, None);
    // Who asked before may have been told what was before.
    status.fill(&ticket, &ended(1)).await.unwrap();
    assert_eq!(chain().await, None);

    // The dispatcher, which sends it, does not tell.
    let ticket = status.look(new.id).await.unwrap().ticket;
    let mut waiting = ended(1);
    waiting.chain.as_mut().unwrap().caused[0].waits = true;
    status.fill(&ticket, &ended(1)).await.unwrap();
    status.fill(&ticket, &waiting).await.unwrap();
    assert_eq!(chain().await, None);

    // A report of progress changes nothing that is shown.
    status.fill(&ticket, &ended(1)).await.unwrap();
    let mut progress = change_of_effect(&new);
    progress.lines[0].event_type = JobEventType::Progressed;
    status.tell(&[progress], &[]).await.unwrap();
    assert_eq!(chain().await, Some(1));
}

#[tokio::test]
async fn a_job_that_is_told_to_stop_is_newer_than_it_was() {
    let status = alone(settings());
    let new = new_job();
    let ticket = status.look(new.id).await.unwrap().ticket;
    let job = after(&new, 2);
    let stopping =
        Job { row: JobRow { cancel_requested_at: Some(DateTime::UNIX_EPOCH), ..job.row.clone() }, ..job.clone() };
    for (told, shown) in [(&job, &job), (&stopping, &stopping), (&job, &stopping)] {
        status.fill(&ticket, told).await.unwrap();
        assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, shown.row);
    }
    status.tell(&[change(&new, 3)], &[]).await.unwrap();
    assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, after(&new, 3).row);
}

#[tokio::test]
async fn an_accepted_job_takes_nothing_back() {
    let status = alone(settings());
    let new = new_job();
    // Somebody who repeats a request has looked before.
    assert!(status.look(new.id).await.unwrap().copy.is_none());
    status.accept(&new).await.unwrap();
    assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, JobRow::from(&new));
    status.tell(&[change(&new, 1)], &[]).await.unwrap();
    status.accept(&new).await.unwrap();
    assert_eq!(status.look(new.id).await.unwrap().copy.unwrap().job.row, after(&new, 1).row);
}

#[test]
fn what_an_older_release_kept_can_still_be_read() {
    let kept = json!({
        "id": "01935a7c-1c00-7000-8000-000000000001", "kind": "noop.run", "owner": "alice", "state": "running", "attempt": 1,
        "replays": 0, "redeliveries": 0, "progress": {"phase": "rows", "done": 1, "total": 2}, "result": null, "error": null,
        "created_at": "2026-11-23T00:00:00Z", "updated_at": "2026-11-23T00:00:01Z", "finished_at": null, "last_number": 2,
        "cancel_requested_at": null, "due_at": null
    });
    let line = json!({
        "number": 2, "event_id": "01935a7c-1c00-7000-8000-000000000002", "event_type": "job.progressed", "effect": "moved",
        "run_id": null, "replays": 0, "attempt": 1, "redeliveries": 0, "sequence": 2, "worker": "noop@host:1",
        "at": "2026-11-23T00:00:01Z", "data": {"progress": {"phase": "rows", "done": 1, "total": 2}}
    });
    let fields = [("job", &kept), ("progress", &line)].map(|(name, value)| (name.to_owned(), value.to_string()));
    let job = super::read(fields.into_iter().collect()).unwrap();
    let mut written = serde_json::to_value(&job.row).unwrap();
    assert_eq!(written.as_object_mut().unwrap().remove("caused_by"), Some(json!(null)));
    assert_eq!((written, job.chain), (kept.clone(), None));
    assert_eq!(serde_json::to_value(&job.events[0]).unwrap(), line);
    let broken = [("job".to_owned(), kept.to_string()), ("event 1".to_owned(), "{}".to_owned())];
    assert!(super::read(broken.into_iter().collect()).is_none(), "a copy without all its lines is none");
}
