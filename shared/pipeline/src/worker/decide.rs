//! What becomes of a job after a run: pure, and shown as a table by its tests.

use crate::events::{FailureReport, Refusal};
use crate::message::{FAILURE_BYTES, clip};
use crate::policy::{RetryPolicy, Tier};

use super::handler::{Done, Failure};

/// How an attempt failed, as it stands in headers and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The handler said so.
    Error,
    /// The run took longer than its kind may.
    TimedOut,
    /// The handler panicked.
    Panicked,
    /// The handler gave up for good.
    Rejected,
    /// The handler said that something is away.
    Unavailable,
    /// The body or the properties are not those of a job.
    Undecodable,
    /// No handler does this kind.
    UnknownKind,
}

impl FailureKind {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Undecodable => "undecodable",
            Self::UnknownKind => "unknown_kind",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Answered(Result<Done, Failure>),
    TimedOut {
        seconds: f64,
    },
    Panicked {
        message: String,
    },
    NotStarted {
        kind: FailureKind,
        reason: String,
    },
    /// What the run needed is away, as its own probe says.
    Away {
        dependency: &'static str,
        reason: String,
    },
    /// Its owner wants it no more.
    Cancelled,
    /// It had ended before.
    Repeated,
    /// It was delivered so often before that it may be what kills its workers; it was not begun.
    Suspicious,
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Succeed(Done),
    Refuse(Refusal),
    Cancel,
    /// Nothing but the ack.
    Skip,
    /// To the queue where jobs run one at a time.
    SetApart,
    /// Again soon, and this attempt does not count.
    PutBack {
        failure: FailureReport,
    },
    Retry {
        tier: Tier,
        failure: FailureReport,
    },
    Bury {
        failure: FailureReport,
    },
}

/// `time_scale` is what every wait of the policy is multiplied by, see [`crate::BrokerSettings`].
pub(crate) fn decide(attempt: u32, outcome: Outcome, policy: &RetryPolicy, time_scale: f64) -> Decision {
    let report = |kind: FailureKind, reason: String| FailureReport {
        kind: kind.as_str().to_owned(),
        reason: clip(&reason, FAILURE_BYTES).to_owned(),
    };
    let (failure, at_least) = match outcome {
        Outcome::Answered(Ok(done)) => return Decision::Succeed(done),
        Outcome::Answered(Err(Failure::Refused { code, reason })) => return Decision::Refuse(Refusal { code, reason }),
        Outcome::Answered(Err(Failure::Reject { reason })) => {
            return Decision::Bury { failure: report(FailureKind::Rejected, reason) };
        }
        Outcome::Cancelled | Outcome::Answered(Err(Failure::Cancelled)) => return Decision::Cancel,
        Outcome::Repeated => return Decision::Skip,
        Outcome::Suspicious => return Decision::SetApart,
        Outcome::Away { dependency, reason } => {
            return Decision::PutBack { failure: report(FailureKind::Unavailable, format!("{dependency}: {reason}")) };
        }
        Outcome::NotStarted { kind, reason } => return Decision::Bury { failure: report(kind, reason) },
        Outcome::Answered(Err(Failure::Unavailable { dependency, reason })) => {
            (report(FailureKind::Unavailable, format!("{dependency}, which answers: {reason}")), None)
        }
        Outcome::Answered(Err(Failure::Retry { reason })) => (report(FailureKind::Error, reason), None),
        Outcome::Answered(Err(Failure::RetryAfter { after, reason })) => {
            (report(FailureKind::Error, reason), Some(after))
        }
        Outcome::TimedOut { seconds } => {
            (report(FailureKind::TimedOut, format!("still running after {seconds} s")), None)
        }
        Outcome::Panicked { message } => (report(FailureKind::Panicked, message), None),
    };
    // The policy alone ends the attempts; a wait that was asked for only chooses among its tiers.
    let tier = policy
        .wait_after(attempt)
        .map(|next| at_least.and_then(|wait| policy.at_least(wait.div_f64(time_scale))).unwrap_or(next));
    match tier {
        Some(tier) => Decision::Retry { tier, failure },
        None => Decision::Bury { failure },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{M2, M10, RENDERING, S5, S30};

    fn retried(tier: Tier, kind: &str, reason: &str) -> Decision {
        Decision::Retry { tier, failure: FailureReport { kind: kind.to_owned(), reason: reason.to_owned() } }
    }

    fn buried(kind: &str, reason: &str) -> Decision {
        Decision::Bury { failure: FailureReport { kind: kind.to_owned(), reason: reason.to_owned() } }
    }

    #[test]
    fn the_table_of_attempt_and_answer() {
        let retry = || Outcome::Answered(Err(Failure::retry("busy")));
        let after = |seconds| {
            Outcome::Answered(Err(Failure::RetryAfter {
                after: Duration::from_secs(seconds),
                reason: "busy".to_owned(),
            }))
        };
        let unavailable =
            || Outcome::Answered(Err(Failure::Unavailable { dependency: "smtp", reason: "refused".to_owned() }));
        let away = || Outcome::Away { dependency: "smtp", reason: "refused".to_owned() };
        let put_back = |reason: &str| Decision::PutBack {
            failure: FailureReport { kind: "unavailable".to_owned(), reason: reason.to_owned() },
        };
        let table = [
            (1, Outcome::Answered(Ok(Done::empty())), Decision::Succeed(Done::empty())),
            (5, Outcome::Answered(Ok(Done::empty())), Decision::Succeed(Done::empty())),
            (
                1,
                Outcome::Answered(Err(Failure::refused("gone", "sold out"))),
                Decision::Refuse(Refusal { code: "gone".to_owned(), reason: "sold out".to_owned() }),
            ),
            (1, retry(), retried(S5, "error", "busy")),
            (3, retry(), retried(M2, "error", "busy")),
            (5, retry(), buried("error", "busy")),
            (6, retry(), buried("error", "busy")),
            (1, after(100), retried(M2, "error", "busy")),
            (1, after(100_000), retried(M10, "error", "busy")),
            (5, after(1), buried("error", "busy")),
            (1, Outcome::Answered(Err(Failure::reject("broken"))), buried("rejected", "broken")),
            (1, Outcome::TimedOut { seconds: 1.5 }, retried(S5, "timed_out", "still running after 1.5 s")),
            (1, Outcome::Panicked { message: "boom".to_owned() }, retried(S5, "panicked", "boom")),
            (5, Outcome::Panicked { message: "boom".to_owned() }, buried("panicked", "boom")),
            (
                1,
                Outcome::NotStarted { kind: FailureKind::Undecodable, reason: "no JSON".to_owned() },
                buried("undecodable", "no JSON"),
            ),
            (1, unavailable(), retried(S5, "unavailable", "smtp, which answers: refused")),
            (5, unavailable(), buried("unavailable", "smtp, which answers: refused")),
            (5, away(), put_back("smtp: refused")),
            (500, away(), put_back("smtp: refused")),
            (1, Outcome::Cancelled, Decision::Cancel),
            (5, Outcome::Answered(Err(Failure::Cancelled)), Decision::Cancel),
            (1, Outcome::Repeated, Decision::Skip),
            (1, Outcome::Suspicious, Decision::SetApart),
        ];
        for (attempt, outcome, wanted) in table {
            assert_eq!(decide(attempt, outcome.clone(), &RENDERING, 1.0), wanted, "attempt {attempt}, {outcome:?}");
        }
    }

    #[test]
    fn a_reason_as_long_as_a_body_is_cut_before_it_goes_into_an_event() {
        let endless = Outcome::NotStarted { kind: FailureKind::Undecodable, reason: "a".repeat(3000) };
        let Decision::Bury { failure } = decide(1, endless, &RENDERING, 1.0) else {
            panic!("what is no job is buried")
        };
        assert_eq!(failure.reason.len(), FAILURE_BYTES);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_at_any_time_scale() {
        let busy = Failure::RetryAfter { after: Duration::from_secs(1), reason: "busy".to_owned() };
        // Where 5 s last 0.25 s, the wait of a second is the next longer one, 30 s that last 1.5 s.
        assert_eq!(decide(1, Outcome::Answered(Err(busy)), &RENDERING, 0.05), retried(S30, "error", "busy"));
    }
}
