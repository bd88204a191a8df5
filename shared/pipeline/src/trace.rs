//! The trace that a request, its job and whatever that causes belong to: W3C Trace Context level 1, and Baggage. It is carried
//! and logged; nothing is exported.

use std::fmt;
use std::sync::Arc;

use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The header that holds the trace's id and the span that came before, in HTTP and in messages.
pub const TRACEPARENT: &str = "traceparent";
/// What other tracing systems want carried along.
pub const TRACESTATE: &str = "tracestate";
/// What the caller wants carried along.
pub const BAGGAGE: &str = "baggage";

/// The least that a carrier must be able to hold (Trace Context 3.3.1.5); whatever is longer is left behind.
const LONGEST_STATE: usize = 512;
/// The same for baggage (W3C Baggage 3.3.2).
const LONGEST_BAGGAGE: usize = 8192;
/// Version 00; later ones may append to it.
const PARENT_LENGTH: usize = 55;
const LONGEST_PARENT: usize = 256;
const MOST_MEMBERS: usize = 32;
const MOST_BAGGAGE_MEMBERS: usize = 64;

/// Where something stands in a trace. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Carried", into = "Carried")]
pub struct TraceContext {
    /// Not zero.
    trace: u128,
    /// Not zero.
    span: u64,
    sampled: bool,
    state: Option<Arc<str>>,
    baggage: Option<Arc<str>>,
}

/// A trace's id: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceContext {
    /// A trace that begins here.
    #[must_use]
    pub fn root() -> Self {
        // Sampled, so that whoever records what follows does.
        Self { trace: not_zero(rand::random), span: not_zero(rand::random), sampled: true, state: None, baggage: None }
    }

    /// The trace of a job that came without one: the same in every attempt, since it derives from the job's id.
    #[must_use]
    pub fn of_job(id: Uuid) -> Self {
        let (high, low) = id.as_u64_pair();
        Self { trace: id.as_u128().max(1), span: (high ^ low).max(1), ..Self::root() }
    }

    /// Reads the values of a `traceparent` and a `tracestate`; `None` for a `traceparent` that is not one. A `tracestate` that is
    /// not one, or too long, is left behind.
    #[must_use]
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let (trace, span, sampled) = parse_parent(parent)?;
        let state = state.filter(|state| is_state(state)).map(Arc::from);
        Some(Self { trace, span, sampled, state, baggage: None })
    }

    /// The same with the value of a `baggage` header, unless it is not one, or too long.
    #[must_use]
    pub fn with_baggage(self, baggage: Option<&str>) -> Self {
        Self { baggage: baggage.filter(|baggage| is_baggage(baggage)).map(Arc::from), ..self }
    }

    /// A step within the same trace: a request, or a run of a job.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: not_zero(rand::random), ..self.clone() }
    }

    /// The trace's id.
    #[must_use]
    pub fn id(&self) -> TraceId {
        TraceId(self.trace)
    }

    /// The value of a `traceparent` header.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// The value of a `tracestate` header.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The value of a `baggage` header.
    #[must_use]
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }

    /// Writes it into a message's headers.
    pub(crate) fn write(&self, headers: &mut FieldTable) {
        headers.insert(TRACEPARENT.into(), AMQPValue::LongString(self.traceparent().into()));
        for (name, value) in [(TRACESTATE, self.tracestate()), (BAGGAGE, self.baggage())] {
            if let Some(value) = value {
                headers.insert(name.into(), AMQPValue::LongString(value.into()));
            }
        }
    }

    /// Reads it from the headers of the message of a job, whoever wrote them; without one the job has its own.
    pub(crate) fn read(headers: Option<&FieldTable>, job: Uuid) -> Self {
        let (mut parent, mut state, mut baggage) = (None, None, None);
        for (name, value) in headers.into_iter().flat_map(FieldTable::inner) {
            match name.as_str() {
                TRACEPARENT => parent = text(value),
                TRACESTATE => state = text(value),
                BAGGAGE => baggage = text(value),
                _ => {}
            }
        }
        let read = parent.and_then(|parent| Self::parse(parent, state));
        read.unwrap_or_else(|| Self::of_job(job)).with_baggage(baggage)
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// As JSON, in an outbox: the three headers.
#[derive(Serialize, Deserialize)]
struct Carried {
    traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baggage: Option<String>,
}

impl From<TraceContext> for Carried {
    fn from(trace: TraceContext) -> Self {
        let [tracestate, baggage] = [trace.tracestate(), trace.baggage()].map(|text| text.map(ToOwned::to_owned));
        Self { traceparent: trace.traceparent(), tracestate, baggage }
    }
}

impl From<Carried> for TraceContext {
    /// What cannot be read begins anew: a trace is no reason to lose a job.
    fn from(carried: Carried) -> Self {
        let read = Self::parse(&carried.traceparent, carried.tracestate.as_deref());
        read.unwrap_or_else(Self::root).with_baggage(carried.baggage.as_deref())
    }
}

fn not_zero<T: Default + PartialEq>(mut random: impl FnMut() -> T) -> T {
    loop {
        let number = random();
        if number != T::default() {
            return number;
        }
    }
}

/// Trace Context 3.2: `00-<32 hex>-<16 hex>-<2 hex>`, lower case; later versions may append, after another `-`.
fn parse_parent(text: &str) -> Option<(u128, u64, bool)> {
    let bytes = text.as_bytes();
    if !(PARENT_LENGTH..=LONGEST_PARENT).contains(&bytes.len()) || !text.is_ascii() {
        return None;
    }
    let version = hex(&text[..2])?;
    let shaped = bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
    let ended = match version {
        0 => bytes.len() == PARENT_LENGTH,
        0xff => false,
        _ => bytes.get(PARENT_LENGTH).is_none_or(|byte| *byte == b'-'),
    };
    if !shaped || !ended {
        return None;
    }
    let (trace, span, flags) = (hex(&text[3..35])?, hex(&text[36..52])?, hex(&text[53..55])?);
    let span = u64::try_from(span).ok()?;
    // Of the flags, level 1 knows the lowest alone.
    (trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

fn hex(text: &str) -> Option<u128> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if lower { u128::from_str_radix(text, 16).ok() } else { None }
}

/// Trace Context 3.3: up to 32 members `key=value`, each key once.
fn is_state(text: &str) -> bool {
    if text.len() > LONGEST_STATE {
        return false;
    }
    let mut keys: [&str; MOST_MEMBERS] = [""; MOST_MEMBERS];
    let mut count = 0;
    for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
        let Some((key, value)) = member.split_once('=') else { return false };
        let fine = is_state_key(key) && is_state_value(value);
        if !fine || count == MOST_MEMBERS || keys[..count].contains(&key) {
            return false;
        }
        keys[count] = key;
        count += 1;
    }
    count > 0
}

/// Trace Context 3.3.1.3.1: `vendor`, or `tenant@vendor`.
fn is_state_key(key: &str) -> bool {
    let rest =
        |text: &str| text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let letter = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
    match key.split_once('@') {
        None => letter(key) && key.len() <= 256 && rest(key),
        Some((tenant, vendor)) => {
            let begun = letter(tenant) || tenant.starts_with(|first: char| first.is_ascii_digit());
            begun && tenant.len() <= 241 && rest(tenant) && letter(vendor) && vendor.len() <= 14 && rest(vendor)
        }
    }
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=' && byte != b',')
}

/// W3C Baggage 3.3.1: members `key=value;property`, of visible ASCII.
fn is_baggage(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = |byte: u8| matches!(byte, b'!'..=b'~' | b' ' | b'\t') && byte != b'"' && byte != b'\\';
    if text.len() > LONGEST_BAGGAGE || text.split(',').count() > MOST_BAGGAGE_MEMBERS {
        return false;
    }
    text.split(',').all(|member| {
        member.split_once('=').is_some_and(|(key, rest)| {
            let key = key.trim_matches([' ', '\t']);
            !key.is_empty() && key.bytes().all(token) && rest.bytes().all(value)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_the_standard_says() {
        let trace = TraceContext::parse(PARENT, Some("rojo=00f067aa0ba902b7, 1a@congo=t61rcWkgMzE")).unwrap();
        assert_eq!(trace.traceparent(), PARENT);
        assert_eq!(trace.id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.tracestate(), Some("rojo=00f067aa0ba902b7, 1a@congo=t61rcWkgMzE"));
        // Flags that level 1 does not know are not passed on.
        let flags = |flags: &str| {
            TraceContext::parse(&format!("{}{flags}", &PARENT[..53]), None)
                .map(|trace| trace.traceparent().split_off(53))
        };
        assert_eq!(["00", "01", "02", "ff"].map(flags), ["00", "01", "00", "01"].map(|flags| Some(flags.to_owned())));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let taken = |text: &str| TraceContext::parse(text, None).is_some();
        for later in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
        ] {
            assert!(taken(later), "{later}");
        }
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47ä-00f067aa0ba902b7-01",
            "0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            &format!("01-{}-00f067aa0ba902b7-01-{}", "a".repeat(32), "b".repeat(300)),
        ] {
            assert!(!taken(bad), "{bad}");
        }
    }

    #[test]
    fn a_tracestate_that_is_not_one_is_left_behind_and_the_trace_goes_on() {
        let kept = |state: &str| TraceContext::parse(PARENT, Some(state)).unwrap().tracestate().is_some();
        let many = |count: usize| (0..count).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join(",");
        for good in ["a=1", " a=1 ,, b=2 ", "a@b=1", "1a@b=x y", "a_-*/=!", &many(32)] {
            assert!(kept(good), "{good}");
        }
        let long = format!("a={}", "x".repeat(600));
        for bad in [
            "",
            ",",
            "a",
            "a=",
            "=1",
            "A=1",
            "1=1",
            "a=1,a=2",
            "a@1=1",
            "@b=1",
            "a@b@c=1",
            "a=ä",
            "a=1\n",
            "a=b=c",
            &many(33),
            &long,
        ] {
            assert!(!kept(bad), "{bad}");
        }
    }

    #[test]
    fn baggage_that_is_not_one_is_left_behind() {
        let kept = |baggage: &str| TraceContext::root().with_baggage(Some(baggage)).baggage().is_some();
        let many = |count: usize| (0..count).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join(",");
        for good in ["userId=alice", "a=1,b=2;secret", " a = %20 ; p=1 , b=", &many(64)] {
            assert!(kept(good), "{good}");
        }
        for bad in
            ["", "a", "=1", "ä=1", "a b=1", "a=\u{7f}", "a=1\r\nb: c", &many(65), &format!("a={}", "x".repeat(8192))]
        {
            assert!(!kept(bad), "{bad}");
        }
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace_with_all_that_is_carried() {
        let parent = TraceContext::parse(PARENT, Some("a=1")).unwrap().with_baggage(Some("b=2"));
        let child = parent.child();
        assert_eq!((child.id(), child.tracestate(), child.baggage()), (parent.id(), Some("a=1"), Some("b=2")));
        assert_ne!(child.traceparent(), parent.traceparent());
        assert_ne!(TraceContext::root().id(), TraceContext::root().id());
    }

    #[test]
    fn a_message_carries_it_whole_and_a_job_without_one_has_its_own() {
        let trace = TraceContext::parse(PARENT, Some("a=1")).unwrap().with_baggage(Some("b=2"));
        let mut headers = FieldTable::default();
        trace.write(&mut headers);
        let job = Uuid::now_v7();
        assert_eq!(TraceContext::read(Some(&headers), job), trace);
        headers.insert(TRACEPARENT.into(), AMQPValue::LongString("00-ab-cd-01".into()));
        for without in [None, Some(&headers)] {
            assert_eq!(TraceContext::read(without, job).id().to_string(), job.simple().to_string());
        }
        assert!(TraceContext::parse(&TraceContext::of_job(Uuid::nil()).traceparent(), None).is_some());
    }

    #[test]
    fn an_outbox_keeps_it_and_what_it_cannot_read_begins_anew() {
        let trace = TraceContext::parse(PARENT, Some("a=1")).unwrap().with_baggage(Some("b=2"));
        let json = serde_json::to_string(&trace).unwrap();
        assert_eq!(json, format!(r#"{{"traceparent":"{PARENT}","tracestate":"a=1","baggage":"b=2"}}"#));
        assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), trace);
        assert!(serde_json::from_str::<TraceContext>(r#"{"traceparent":"no"}"#).is_ok());
    }
}
