//! What became of the jobs that a fault met: what the callers were promised against what the database, the broker and the mail
//! relay hold once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mail_parser::MessageParser;
use sqlx::{FromRow, PgConnection};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::fault::{Fault, SESSIONS};
use crate::followers::{Followed, SOON};
use crate::load::{Accepted, Kind};
use crate::phases::Phases;
use crate::system::{self, System};
use crate::visits::Seen;

/// How long after the last job was accepted all of them may take to end, and the queues to empty.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// What a fault did, in numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) accepted: u64,
    /// Of these: asked for more than once, because the first time had no answer, or was refused.
    pub(crate) asked_again: u64,
    /// Of these (and the mails that follow from them): in one final state, reached once.
    pub(crate) ended_once: u64,
    /// Without an end, or a mail that was noted as sent and did not arrive.
    pub(crate) lost: u64,
    /// Runs of an attempt that had one already, deliveries of a job that was known to be done, and second dead letters: they came
    /// again, and changed nothing.
    pub(crate) duplicates: u64,
    /// Mails of which a sender ended without knowing whether they went out.
    pub(crate) maybe_sent: u64,
    /// Mails that arrived more than once, under the same `Message-ID`.
    pub(crate) mails_twice: u64,
    /// Of those asked for again: known to the system when it was done so, because the broker had them all the while.
    pub(crate) known_before: u64,
    /// From the end of the fault until every job that was accepted before that had ended; where a node of several is struck,
    /// the longest time in which no no-op ended.
    pub(crate) recovered_after: Duration,
    /// Jobs that ended as dead letters.
    pub(crate) dead: u64,
    /// Attempts that were put off, because something was away or full.
    pub(crate) retried: u64,
    /// Queues that still held something; dead letters are not counted.
    pub(crate) unfinished: BTreeMap<String, u64>,
    /// What people saw who came meanwhile, if any did.
    pub(crate) seen: Option<Seen>,
    /// How long after the end of a report that was followed each who waited heard of it.
    pub(crate) heard_after: Vec<Duration>,
    /// What was read from the database meanwhile that the cache might have had.
    pub(crate) past_the_cache: u64,
    /// What else was not as it should be, in words.
    pub(crate) wrong: Vec<String>,
}

#[derive(Debug, FromRow)]
struct JobRow {
    id: Uuid,
    state: String,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// Final events that decided the state.
    ends: i64,
    /// Final events that say otherwise.
    denials: i64,
    /// Runs beyond the first of each attempt.
    repeated: i64,
    /// Attempts that were put off.
    retried: i64,
    maybe_sent: bool,
}

const JOBS: &str = "
    SELECT jobs.id, jobs.state, jobs.created_at, jobs.finished_at,
           count(*) FILTER (WHERE event.effect = 'moved'
               AND event.event_type IN ('job.succeeded', 'job.refused', 'job.cancelled', 'job.dead')) AS ends,
           count(*) FILTER (WHERE event.effect = 'duplicate' AND event.event_type <> 'job.' || jobs.state
               AND event.event_type IN ('job.succeeded', 'job.refused', 'job.cancelled', 'job.dead')) AS denials,
           count(DISTINCT event.run_id) - count(DISTINCT (event.replays, event.attempt)) FILTER (WHERE event.run_id IS NOT NULL)
               AS repeated,
           count(*) FILTER (WHERE event.event_type = 'job.retrying') AS retried,
           coalesce(bool_or(mail.maybe_sent), false) AS maybe_sent
    FROM jobs
    LEFT JOIN job_events AS event ON event.job_id = jobs.id
    LEFT JOIN sent_mails AS mail ON mail.job_id = jobs.id
    WHERE jobs.id = ANY($1)
    GROUP BY jobs.id";

impl Verdict {
    /// Waits until everything has come to rest, or has had time to.
    pub(crate) async fn of(
        system: &System,
        fault: Fault,
        accepted: &[Accepted],
        begun: DateTime<Utc>,
        over: DateTime<Utc>,
        phases: &mut Phases,
    ) -> anyhow::Result<Self> {
        let mut database = system::database().await?;
        let expected = expectations(fault, accepted);
        let ids: Vec<Uuid> = expected.keys().copied().collect();
        let asked_again = accepted.iter().filter(|job| job.in_vain > 0).count() as u64;
        let mut verdict = Self { accepted: accepted.len() as u64, asked_again, ..Self::default() };
        all_ended(&mut database, &ids).await?;
        phases.end("last jobs");
        verdict.unfinished = system.rest(PATIENCE).await?;
        phases.end("queues");

        let rows: Vec<JobRow> = sqlx::query_as(JOBS).bind(&ids).fetch_all(&mut database).await?;
        let rows: HashMap<Uuid, JobRow> = rows.into_iter().map(|row| (row.id, row)).collect();
        let mails = verdict.arrived(system);
        for (id, expected) in &expected {
            verdict.judge(*id, *expected, rows.get(id), mails.get(id).copied().unwrap_or_default());
        }
        for id in mails.keys().filter(|id| !expected.contains_key(id)) {
            verdict.wrong.push(format!("nobody asked for the mail {id}"));
        }
        let unasked: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM jobs WHERE created_at >= $1 AND id <> ALL($2)")
            .bind(begun)
            .bind(&ids)
            .fetch_all(&mut database)
            .await?;
        verdict.wrong.extend(unasked.iter().map(|id| format!("nobody asked for the job {id}")));
        for report in accepted.iter().filter(|job| job.kind == Kind::Report) {
            if !system.ways.web.has_file(report.id).await? {
                verdict.wrong.push(format!("the file of {} is not there, or not whole", report.id));
            }
        }
        for video in accepted.iter().filter(|job| job.kind == Kind::Video) {
            if !system.ways.web.has_video(video.id).await? {
                verdict.wrong.push(format!("the files of the video {} are not there, or not whole", video.id));
            }
        }
        let known =
            |job: &&Accepted| job.in_vain > 0 && rows.get(&job.id).is_some_and(|row| row.created_at + PAUSE < job.at);
        verdict.known_before = accepted.iter().filter(known).count() as u64;
        verdict.recovered_after = match fault.needs_cluster() {
            true => longest_gap(accepted, &rows),
            false => backlog(accepted, &rows, over),
        };
        let dead = rows.values().filter(|row| row.state == "dead").map(|row| row.id).collect();
        verdict.judge_dead_letters(&dead, &system.take_dead_letters().await?);
        phases.end("verdict");
        Ok(verdict)
    }

    /// Each dead job has a dead letter, and no other job has. It has two where its worker was killed when one was written and
    /// its message not acked yet.
    fn judge_dead_letters(&mut self, dead: &BTreeSet<Uuid>, letters: &BTreeMap<Uuid, u64>) {
        self.dead = dead.len() as u64;
        self.duplicates += letters.values().map(|count| count - 1).sum::<u64>();
        for id in dead.iter().filter(|id| !letters.contains_key(id)) {
            self.wrong.push(format!("{id} is dead and has no dead letter"));
        }
        for id in letters.keys().filter(|id| !dead.contains(id)) {
            self.wrong.push(format!("there is a dead letter of {id}, which is not dead"));
        }
    }

    /// Nobody may be answered wrong or late, or be put off while what knows the sessions is there.
    pub(crate) fn judge_visits(&mut self, fault: Fault, seen: Seen) {
        self.wrong.extend_from_slice(&seen.wrong);
        if !seen.is_prompt() {
            self.wrong.push(format!("somebody waited {:.1} s for an answer", seen.slowest().as_secs_f64()));
        }
        if seen.put_off > 0 && fault.redis() != Some(SESSIONS) {
            self.wrong.push(format!("who is signed in was put off {} times", seen.put_off));
        }
        self.seen = Some(seen);
    }

    /// Each order must stand once, with the time at which it was taken, and have taken its piece off the shelf.
    pub(crate) async fn judge_orders(
        &mut self,
        accepted: &[Accepted],
        begun: DateTime<Utc>,
        stock: i64,
    ) -> anyhow::Result<()> {
        let orders: HashMap<Uuid, DateTime<Utc>> =
            accepted.iter().filter(|job| job.kind == Kind::Order).map(|order| (order.id, order.at)).collect();
        let ids: Vec<Uuid> = orders.keys().copied().collect();
        let query = "SELECT id, accepted_at FROM orders WHERE id = ANY($1) OR placed_at >= $2";
        let mut database = system::database().await?;
        let placed: Vec<(Uuid, DateTime<Utc>)> =
            sqlx::query_as(query).bind(ids).bind(begun).fetch_all(&mut database).await?;
        let placed: HashMap<Uuid, DateTime<Utc>> = placed.into_iter().collect();
        self.lost += orders.keys().filter(|id| !placed.contains_key(id)).count() as u64;
        for (id, accepted_at) in &placed {
            match orders.get(id) {
                Some(answered_at) if begun <= *accepted_at && accepted_at <= answered_at => {}
                Some(answered_at) => {
                    self.wrong.push(format!("the order {id} was taken by {answered_at}, and says {accepted_at}"));
                }
                None => self.wrong.push(format!("nobody asked for the order {id}")),
            }
        }
        let taken = stock - system::stock().await?;
        if usize::try_from(taken) != Ok(placed.len()) {
            self.wrong.push(format!("{} orders of a piece each took {taken} off the shelves", placed.len()));
        }
        Ok(())
    }

    /// Whoever waits for a report must hear of its end soon.
    pub(crate) async fn judge_followed(&mut self, followed: Vec<Followed>) -> anyhow::Result<()> {
        let ids: Vec<Uuid> = followed.iter().map(|followed| followed.accepted.id).collect();
        let query = "SELECT id, finished_at FROM jobs WHERE id = ANY($1) AND finished_at IS NOT NULL";
        let ended: Vec<(Uuid, DateTime<Utc>)> =
            sqlx::query_as(query).bind(ids).fetch_all(&mut system::database().await?).await?;
        let ended: HashMap<Uuid, DateTime<Utc>> = ended.into_iter().collect();
        for Followed { accepted, heard, wrong } in followed {
            self.wrong.extend(wrong);
            // Without an end it is counted as lost.
            let Some(end) = ended.get(&accepted.id) else { continue };
            for heard in heard {
                let after = (heard - *end).to_std().unwrap_or_default();
                if after > SOON {
                    let seconds = after.as_secs_f64();
                    self.wrong.push(format!("the end of {} was heard of {seconds:.1} s after it", accepted.id));
                }
                self.heard_after.push(after);
            }
        }
        Ok(())
    }

    /// The longest after its end that anybody heard of a report.
    pub(crate) fn heard_last(&self) -> Duration {
        self.heard_after.iter().max().copied().unwrap_or_default()
    }

    /// Of a strike that could not be judged.
    pub(crate) fn failed(error: &anyhow::Error) -> Self {
        Self { wrong: vec![format!("{error:#}")], ..Self::default() }
    }

    /// How often each mail arrived, by the id of its job.
    fn arrived(&mut self, system: &System) -> HashMap<Uuid, u64> {
        let mut count = HashMap::new();
        for mail in system.relay.take_mails() {
            let mail = MessageParser::default().parse_headers(&mail);
            match mail.as_ref().and_then(|mail| mail.message_id()?.split('@').next()?.parse().ok()) {
                Some(id) => *count.entry(id).or_default() += 1,
                None => self.wrong.push("a mail arrived that is no job's".to_owned()),
            }
        }
        count
    }

    fn judge(&mut self, id: Uuid, expected: Expected, row: Option<&JobRow>, arrived: u64) {
        let Some(row) = row.filter(|row| row.finished_at.is_some()) else {
            self.lost += 1;
            return;
        };
        self.duplicates += u64::try_from(row.repeated).unwrap_or_default();
        self.retried += u64::try_from(row.retried).unwrap_or_default();
        self.maybe_sent += u64::from(row.maybe_sent);
        self.mails_twice += u64::from(arrived > 1);
        if row.ends == 1 {
            self.ended_once += u64::from(expected.counts);
        } else {
            self.wrong.push(format!("{id} ended {} times", row.ends));
        }
        if row.denials > 0 {
            self.wrong.push(format!("{id} is {}, and told otherwise as well", row.state));
        }
        if !(row.state == "succeeded" && expected.may_succeed || row.state == "dead" && expected.may_die) {
            self.wrong.push(format!("{id} is {}", row.state));
        }
        if expected.is_mail {
            self.lost += u64::from(row.state == "succeeded" && arrived == 0);
            if arrived > 1 && !row.maybe_sent {
                self.wrong.push(format!("the mail {id} arrived {arrived} times, and nobody knows why"));
            }
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.lost == 0 && self.ended_once == self.accepted && self.unfinished.is_empty() && self.wrong.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} accepted, {} of them asked for again, {} ended once, {} lost, {} duplicates absorbed, {} mails maybe sent, {} arrived twice, recovered after {:.1} s",
            self.accepted,
            self.asked_again,
            self.ended_once,
            self.lost,
            self.duplicates,
            self.maybe_sent,
            self.mails_twice,
            self.recovered_after.as_secs_f64()
        )?;
        if let Some(seen) = &self.seen {
            write!(
                formatter,
                "\n        {} pages and {} answers to who is signed in, {} of them put off, the slowest after {:.2} s; {} reads past the cache; {} times the end of a job heard of, the last {:.2} s after it",
                seen.pages.len(),
                seen.own.len(),
                seen.put_off,
                seen.slowest().as_secs_f64(),
                self.past_the_cache,
                self.heard_after.len(),
                self.heard_last().as_secs_f64()
            )?;
        }
        for (queue, messages) in &self.unfinished {
            write!(formatter, "\n        {messages} left in {queue}")?;
        }
        for wrong in self.wrong.iter().take(10) {
            write!(formatter, "\n        {wrong}")?;
        }
        Ok(())
    }
}

/// How a job may end.
#[derive(Clone, Copy, Debug)]
struct Expected {
    may_succeed: bool,
    may_die: bool,
    is_mail: bool,
    /// Whether somebody was promised it: the mail of a report, an order or a video is not counted beside that.
    counts: bool,
}

fn expectations(fault: Fault, accepted: &[Accepted]) -> BTreeMap<Uuid, Expected> {
    let mut expected = BTreeMap::new();
    for job in accepted {
        let is_mail = job.kind == Kind::Mail;
        let is_poison = job.kind == Kind::Poison;
        let may_die = is_poison || is_mail && fault.kills_mails();
        expected.insert(job.id, Expected { may_succeed: !is_poison, may_die, is_mail, counts: true });
        if let (Kind::Report | Kind::Order | Kind::Video, Some(mail)) = (job.kind, job.mail()) {
            let may_die = fault.kills_mails();
            expected.insert(mail, Expected { may_succeed: true, may_die, is_mail: true, counts: false });
        }
    }
    expected
}

/// From the end of a fault until every job that was accepted before that had ended.
fn backlog(accepted: &[Accepted], rows: &HashMap<Uuid, JobRow>, over: DateTime<Utc>) -> Duration {
    let before = accepted.iter().filter(|job| job.at <= over).flat_map(|job| [Some(job.id), job.mail()]).flatten();
    let last = before.filter_map(|id| rows.get(&id)?.finished_at).max();
    last.and_then(|last| (last - over).to_std().ok()).unwrap_or_default()
}

/// The longest time in which no no-op ended; they are handed in all the time.
fn longest_gap(accepted: &[Accepted], rows: &HashMap<Uuid, JobRow>) -> Duration {
    let noops = accepted.iter().filter(|job| job.kind == Kind::Noop);
    let mut ends: Vec<DateTime<Utc>> = noops.filter_map(|job| rows.get(&job.id)?.finished_at).collect();
    ends.sort_unstable();
    let gaps = ends.windows(2).filter_map(|pair| (pair[1] - pair[0]).to_std().ok());
    gaps.max().unwrap_or_default()
}

async fn all_ended(database: &mut PgConnection, ids: &[Uuid]) -> anyhow::Result<()> {
    let query = "SELECT count(*) FROM jobs WHERE id = ANY($1) AND finished_at IS NOT NULL";
    let end = Instant::now() + PATIENCE;
    loop {
        let ended: i64 = sqlx::query_scalar(query).bind(ids).fetch_one(&mut *database).await?;
        if usize::try_from(ended).is_ok_and(|ended| ended == ids.len()) || Instant::now() > end {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}
