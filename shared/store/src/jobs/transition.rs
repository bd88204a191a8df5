//! How an event moves a job: pure, so that every order of delivery can be tried.
//!
//! The events of a job arrive twice, late, and out of order (progress has a queue of its own). Where there is one final
//! event a replay, every order leads to the same state; of several, the first to arrive stays, as its owner has seen it.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Effect, JobEvent, JobEventType, JobState};

/// A place in the order of a job's events; the fields compare in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) replays: i64,
    pub(super) attempt: i64,
    pub(super) redeliveries: i64,
    pub(super) sequence: i64,
}

impl Position {
    /// Before every event.
    const START: Self = Self { replays: 0, attempt: 0, redeliveries: 0, sequence: -1 };

    fn of(event: &JobEvent) -> Self {
        Self {
            replays: event.replays.into(),
            attempt: event.attempt.into(),
            redeliveries: event.redeliveries.into(),
            sequence: event.sequence.into(),
        }
    }
}

/// What is known of a job; all of it follows from the one event that decided the state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub(super) state: JobState,
    pub(super) position: Position,
    pub(super) progress: Option<Value>,
    pub(super) result: Option<Value>,
    pub(super) error: Option<Value>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) finished_at: Option<DateTime<Utc>>,
}

impl Standing {
    /// A job of which no event has been seen.
    pub(super) fn unseen(at: DateTime<Utc>) -> Self {
        Self {
            state: JobState::Queued,
            position: Position::START,
            progress: None,
            result: None,
            error: None,
            updated_at: at,
            finished_at: None,
        }
    }

    fn after(event: &JobEvent) -> Self {
        let state = event.event_type.state();
        let part = |name: &str| event.data.get(name).filter(|value| !value.is_null()).cloned();
        Self {
            state,
            position: Position::of(event),
            progress: part("progress").filter(|_| event.event_type == JobEventType::Progressed),
            result: part("result").filter(|_| event.event_type == JobEventType::Succeeded),
            error: match event.event_type {
                JobEventType::Refused => part("refusal"),
                JobEventType::Retrying | JobEventType::Dead => part("failure"),
                _ => None,
            },
            updated_at: event.at,
            finished_at: state.is_final().then_some(event.at),
        }
    }

    /// Lets the event act, and says what it did.
    pub(super) fn apply(&mut self, event: &JobEvent) -> Effect {
        let next = Self::after(event);
        let effect = self.effect_of(&next);
        if effect == Effect::Moved {
            *self = next;
        }
        effect
    }

    fn effect_of(&self, next: &Self) -> Effect {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match next.position.replays.cmp(&self.position.replays) {
            // Only a replay leads out of a final state, and what came before the replay is history.
            Greater => return Effect::Moved,
            Less => return Effect::Late,
            Equal => {}
        }
        match (self.state.is_final(), next.state.is_final()) {
            (true, true) => Effect::Duplicate,
            (true, false) => Effect::Late,
            // Also from an earlier place: a run that ended before its delivery was settled is delivered, and starts, again.
            (false, true) => Effect::Moved,
            (false, false) if (next.position, next.state) > (self.position, self.state) => Effect::Moved,
            (false, false) => Effect::Late,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::{Position, Standing};
    use crate::jobs::{Effect, JobEvent, JobEventType, JobState};

    fn event(event_type: JobEventType, [replays, attempt, redeliveries, sequence]: [u32; 4], data: Value) -> JobEvent {
        JobEvent {
            event_id: Uuid::nil(),
            job_id: Uuid::nil(),
            job_kind: "noop.run".to_owned(),
            owner: None,
            caused_by: None,
            event_type,
            run_id: None,
            replays,
            attempt,
            redeliveries,
            sequence,
            worker: None,
            at: DateTime::UNIX_EPOCH,
            data,
        }
    }

    /// Calls `check` with every order of `events`.
    fn permute(events: &mut [JobEvent], fixed: usize, check: &mut impl FnMut(&[JobEvent])) {
        if fixed == events.len() {
            return check(events);
        }
        for place in fixed..events.len() {
            events.swap(fixed, place);
            permute(events, fixed + 1, check);
            events.swap(fixed, place);
        }
    }

    #[test]
    fn every_order_of_a_replayed_job_ends_in_its_last_success() {
        let failure = json!({"failure": {"kind": "error", "reason": "no"}});
        let mut events = [
            event(JobEventType::Started, [0, 1, 0, 1], json!({})),
            event(JobEventType::Retrying, [0, 1, 0, 2], failure.clone()),
            event(JobEventType::Dead, [0, 2, 0, 2], failure),
            event(JobEventType::Queued, [1, 0, 0, 0], json!({})),
            event(JobEventType::Progressed, [1, 1, 0, 2], json!({"progress": {"done": 1}})),
            event(JobEventType::Succeeded, [1, 1, 0, 3], json!({"result": "done"})),
            // The ack was lost, and the job begins again.
            event(JobEventType::Started, [1, 1, 1, 1], json!({})),
        ];
        let mut orders = 0;
        permute(&mut events, 0, &mut |events| {
            let mut standing = Standing::unseen(DateTime::UNIX_EPOCH);
            for event in events {
                standing.apply(event);
            }
            let expected = Standing {
                state: JobState::Succeeded,
                position: Position { replays: 1, attempt: 1, redeliveries: 0, sequence: 3 },
                result: Some(json!("done")),
                finished_at: Some(DateTime::UNIX_EPOCH),
                ..Standing::unseen(DateTime::UNIX_EPOCH)
            };
            assert_eq!(standing, expected, "{events:?}");
            orders += 1;
        });
        assert_eq!(orders, 5_040);
    }

    #[test]
    fn of_two_events_at_the_same_place_the_one_further_on_counts() {
        // A worker in another language may number its events carelessly.
        let place = [0, 1, 0, 0];
        let events = [event(JobEventType::Queued, place, json!({})), event(JobEventType::Retrying, place, json!({}))];
        let started = event(JobEventType::Started, place, json!({}));
        let mut standing = Standing::unseen(DateTime::UNIX_EPOCH);
        assert_eq!(standing.apply(&started), Effect::Moved);
        assert_eq!(standing.apply(&events[0]), Effect::Late);
        assert_eq!(standing.apply(&events[1]), Effect::Moved);
        assert_eq!(standing.apply(&started), Effect::Late);
    }
}
