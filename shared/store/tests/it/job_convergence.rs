//! Whatever order a job's events arrive in, and however often, its state is the one that they tell in order.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::PgPool;
use store::jobs::{
    ChangedJob, JobEvent, JobEventRow, JobEventType, JobRow, JobState, apply_events_unannounced, events_after,
};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{event, job, new_job, record_queued};

/// Not every event says what caused the job.
const CAUSE: Uuid = Uuid::from_u128(6);

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The worker dies; the broker delivers again.
    Crash,
    Retry,
    Final(JobEventType),
}

#[derive(Clone, Debug)]
struct Run {
    progress: u32,
    end: End,
}

/// What happens between two replays.
#[derive(Clone, Debug)]
struct Era {
    failed_runs: Vec<Run>,
    last_run: Run,
    /// A delivery whose ack was lost runs once more after the end, and does not get far.
    ghost: bool,
}

fn run(end: impl Strategy<Value = End>) -> impl Strategy<Value = Run> {
    (0..3_u32, end).prop_map(|(progress, end)| Run { progress, end })
}

fn era(last: impl Strategy<Value = End>) -> impl Strategy<Value = Era> {
    let failed = prop::collection::vec(run(prop_oneof![Just(End::Crash), Just(End::Retry)]), 0..3);
    (failed, run(last), any::<bool>()).prop_map(|(failed_runs, last_run, ghost)| Era { failed_runs, last_run, ghost })
}

fn final_end() -> impl Strategy<Value = End> {
    prop::sample::select(vec![
        End::Final(JobEventType::Succeeded),
        End::Final(JobEventType::Refused),
        End::Final(JobEventType::Cancelled),
        End::Final(JobEventType::Dead),
    ])
}

/// Eras that ended, and one that may still be going on.
fn history() -> impl Strategy<Value = Vec<Era>> {
    let going_on = prop_oneof![Just(End::Crash), Just(End::Retry), final_end()];
    (prop::collection::vec(era(final_end()), 0..2), era(going_on)).prop_map(|(mut eras, last)| {
        eras.push(last);
        eras
    })
}

/// The events of a history, in order.
fn events(job_id: Uuid, eras: &[Era]) -> Vec<JobEvent> {
    let mut events = Vec::new();
    for (replays, era) in (0_u32..).zip(eras) {
        let (mut attempt, mut redeliveries) = (1, 0);
        events.push(JobEvent { replays, attempt: 0, run_id: None, ..event(job_id, JobEventType::Queued, 0) });
        let ghost = Run { progress: 1, end: End::Crash };
        let ended = matches!(era.last_run.end, End::Final(_));
        let ghost = (era.ghost && ended).then_some(&ghost);
        for run in era.failed_runs.iter().chain([&era.last_run]).chain(ghost) {
            let mut sequence = 0;
            let mut tell = |event_type| {
                sequence += 1;
                let caused_by = (sequence % 2 == 1).then_some(CAUSE);
                events.push(JobEvent {
                    replays,
                    attempt,
                    redeliveries,
                    caused_by,
                    ..event(job_id, event_type, sequence)
                });
            };
            tell(JobEventType::Started);
            (0..run.progress).for_each(|_| tell(JobEventType::Progressed));
            match run.end {
                End::Crash => redeliveries += 1,
                End::Retry => {
                    tell(JobEventType::Retrying);
                    (attempt, redeliveries) = (attempt + 1, 0);
                }
                End::Final(event_type) => {
                    tell(event_type);
                    redeliveries += 1;
                }
            }
        }
    }
    events
}

/// A history, and a delivery of it: places in the history, some more than once, in any order, cut into batches.
fn deliveries() -> impl Strategy<Value = (Vec<Era>, Vec<usize>, Vec<usize>, usize)> {
    history().prop_flat_map(|eras| {
        let count = events(Uuid::nil(), &eras).len();
        let order = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        let again = prop::collection::vec(0..count, 0..6);
        (Just(eras), order, again, 1..5_usize)
    })
}

async fn deliver(pool: &PgPool, id: Uuid, events: &[JobEvent], batch: usize, recorded_before: usize) -> JobRow {
    let mut timeline = Vec::new();
    for (place, events) in events.chunks(batch).enumerate() {
        if place == recorded_before {
            record_queued(pool, &new_job(id)).await;
        }
        let (changed, _) = apply_events_unannounced(pool, events).await.unwrap();
        for ChangedJob { job: changed, before, lines } in changed {
            assert!(before < changed.last_number);
            append(&mut timeline, lines);
            assert_eq!((&changed, &timeline), (&job(pool, id).await, &events_after(pool, id, 0).await.unwrap()));
        }
    }
    record_queued(pool, &new_job(id)).await;
    job(pool, id).await
}

/// What a copy of the timeline does with new lines.
fn append(timeline: &mut Vec<JobEventRow>, lines: Vec<JobEventRow>) {
    if lines.iter().any(|line| line.event_type == JobEventType::Progressed) {
        timeline.retain(|line| line.event_type != JobEventType::Progressed);
    }
    timeline.extend(lines);
}

#[test]
fn every_order_and_repetition_of_a_jobs_events_ends_in_the_same_state() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(TestStore::create());
    // No file of past failures: a failing case is printed, and belongs into a test of its own.
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&deliveries(), |(eras, order, again, batch)| {
        runtime.block_on(async {
            let in_order = events(Uuid::new_v4(), &eras);
            let expected = deliver(&store.pool, in_order[0].job_id, &in_order, 1, 0).await;

            let id = Uuid::new_v4();
            let shuffled =
                in_order.iter().map(|event| JobEvent { event_id: Uuid::new_v4(), job_id: id, ..event.clone() });
            let shuffled: Vec<_> = shuffled.collect();
            let arriving: Vec<_> = order.iter().chain(&again).map(|&place| shuffled[place].clone()).collect();
            let actual = deliver(&store.pool, id, &arriving, batch, again.len()).await;
            // Outdated progress takes no number, so the count may differ; nothing else may.
            prop_assert_eq!(&actual, &JobRow { id, last_number: actual.last_number, ..expected.clone() });

            // And in order, the state is what was said last, unless the job had ended.
            let era = eras.last().unwrap();
            let state = match era.last_run.end {
                End::Crash => JobState::Running,
                End::Retry => JobState::Retrying,
                End::Final(event_type) => event_type.state(),
            };
            prop_assert_eq!((expected.state, expected.replays as usize), (state, eras.len() - 1));
            prop_assert_eq!(expected.caused_by, Some(CAUSE));

            // The timeline has each event once but for progress, and numbers without a gap but for progress.
            let lines = events_after(&store.pool, id, 0).await.unwrap();
            let kept = lines.iter().filter(|line| line.event_type != JobEventType::Progressed).count();
            let told = shuffled.iter().filter(|event| event.event_type != JobEventType::Progressed).count();
            prop_assert_eq!(kept, told);
            prop_assert_eq!(lines.last().unwrap().number <= actual.last_number, true);
            Ok(())
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
