//! Which part of a file is asked for (RFC 9110, 14).

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{IF_RANGE, RANGE};

/// What is to be sent of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// These bytes of it, and not all.
    Bytes(Range<u64>),
    /// What was asked for lies outside.
    Outside,
}

/// The part of a file of so many bytes that a request asks for. What cannot be read, several ranges, and a range of another state of
/// the file than `etag` are answered with the whole, as the RFC allows.
pub(super) fn part(headers: &HeaderMap, bytes: u64, etag: &str) -> Part {
    let mut ranges = headers.get_all(RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Part::Whole };
    // A date is no tag that is known here, and so another state.
    if headers.get(IF_RANGE).is_some_and(|known| known.as_bytes() != etag.as_bytes()) {
        return Part::Whole;
    }
    let wanted = range.to_str().ok().and_then(|text| text.trim().strip_prefix("bytes=")).and_then(parse);
    match wanted {
        None => Part::Whole,
        Some(Wanted::Last(0)) => Part::Outside,
        Some(Wanted::Last(_)) if bytes == 0 => Part::Outside,
        Some(Wanted::Last(count)) => Part::Bytes(bytes.saturating_sub(count)..bytes),
        Some(Wanted::From(first, _)) if first >= bytes => Part::Outside,
        Some(Wanted::From(first, last)) => {
            Part::Bytes(first..last.map_or(bytes, |last| last.saturating_add(1).min(bytes)))
        }
    }
}

enum Wanted {
    /// From the first byte to the last, or to the end.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

fn parse(range: &str) -> Option<Wanted> {
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    match (first, last) {
        (None, None) => None,
        (None, Some(count)) => Some(Wanted::Last(count)),
        (Some(first), last) if last.is_none_or(|last| first <= last) => Some(Wanted::From(first, last)),
        _ => None,
    }
}

/// Digits and nothing else, or nothing. A number that is too large is as far as one can count.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use axum::http::header::{IF_RANGE, RANGE};
    use axum::http::{HeaderMap, HeaderValue};

    use super::{Part, part};

    const TAG: &str = "\"100-a\"";

    fn asked(range: &'static str) -> Part {
        part(&HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]), 100, TAG)
    }

    #[test]
    fn a_range_is_the_bytes_that_were_asked_for_as_far_as_there_are_any() {
        for (range, bytes) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..100),
            ("bytes=10-19", 10..20),
            ("bytes=90-1000", 90..100),
            ("bytes=99-99999999999999999999999", 99..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
        ] {
            assert_eq!(asked(range), Part::Bytes(bytes), "{range}");
        }
        for outside in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(asked(outside), Part::Outside, "{outside}");
        }
    }

    #[test]
    fn what_is_no_range_is_the_whole() {
        for range in ["", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=+1-2", "lines=0-1", "bytes=0-1,3-4"] {
            assert_eq!(asked(range), Part::Whole, "{range}");
        }
        assert_eq!(part(&HeaderMap::new(), 100, TAG), Part::Whole);
        assert_eq!(part(&HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=-5"))]), 0, TAG), Part::Outside);
    }

    #[test]
    fn a_range_of_another_state_is_the_whole() {
        let ask = |known: &'static str| {
            let range = HeaderValue::from_static("bytes=0-9");
            part(&HeaderMap::from_iter([(RANGE, range), (IF_RANGE, HeaderValue::from_static(known))]), 100, TAG)
        };
        assert_eq!(ask("\"100-a\""), Part::Bytes(0..10));
        for other in ["\"100-b\"", "W/\"100-a\"", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert_eq!(ask(other), Part::Whole, "{other}");
        }
    }
}
