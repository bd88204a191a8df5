//! The broker's refusal of a declaration (406), in our words.

use super::{Difference, Thing};

/// Reads `PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'email.normal' in vhost 'postroom': received the value
/// '200000' of type 'signedint' but current is none`, in the forms of RabbitMQ 3.10 to 4.x; `None` for what it does not know.
pub(crate) fn refusal(text: &str) -> Option<Difference> {
    let (property, rest) = text.split_once("inequivalent arg '")?.1.split_once("' for ")?;
    let (kind, rest) = rest.split_once(" '")?;
    let (name, rest) = rest.split_once("' in vhost '")?;
    let (wanted, found) = rest.split_once("received ")?.1.split_once(" but current is ")?;
    let thing = match kind {
        "queue" => Thing::Queue(name.to_owned()),
        "exchange" => Thing::Exchange(name.to_owned()),
        _ => return None,
    };
    Some(Difference::Fixed { thing, property: property.to_owned(), wanted: value(wanted)?, found: value(found)? })
}

/// `none`, `'10'` or `the value '10' of type 'signedint'`; the outer `None` when it is none of them.
fn value(text: &str) -> Option<Option<String>> {
    if text == "none" {
        return Some(None);
    }
    let quoted = text.strip_prefix("the value ").unwrap_or(text).strip_prefix('\'')?;
    let (value, _) = quoted.split_once('\'')?;
    Some(Some(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Difference, Thing, refusal};

    fn text(difference: &str) -> Option<(String, Option<String>, Option<String>)> {
        match refusal(&format!("PRECONDITION_FAILED - inequivalent arg {difference}"))? {
            Difference::Fixed { thing: Thing::Queue(name) | Thing::Exchange(name), property, wanted, found } => {
                Some((format!("{name} {property}"), wanted, found))
            }
            other => panic!("{other:?}"),
        }
    }

    /// As RabbitMQ 3.10.8 and 4.0.5 write them, both alike.
    #[test]
    fn a_refusal_says_which_argument_of_what_is_there_and_what_is_wanted() {
        let table = [
            (
                "'x-max-length' for queue 'noop.normal' in vhost 'v': received '10' but current is '20'",
                ("noop.normal x-max-length", Some("10"), Some("20")),
            ),
            (
                "'x-overflow' for queue 'noop.normal' in vhost 'v': received the value 'reject-publish' of type 'longstr' but current is none",
                ("noop.normal x-overflow", Some("reject-publish"), None),
            ),
            (
                "'x-expires' for queue 'noop.dead' in vhost 'v': received none but current is the value '60000' of type 'signedint'",
                ("noop.dead x-expires", None, Some("60000")),
            ),
            (
                "'durable' for queue 'noop.dead' in vhost 'v': received 'true' but current is 'false'",
                ("noop.dead durable", Some("true"), Some("false")),
            ),
            (
                "'type' for exchange 'postroom.events' in vhost 'v': received 'direct' but current is 'topic'",
                ("postroom.events type", Some("direct"), Some("topic")),
            ),
        ];
        for (given, (what, wanted, found)) in table {
            let wanted = (what.to_owned(), wanted.map(str::to_owned), found.map(str::to_owned));
            assert_eq!(text(given), Some(wanted), "{given}");
        }
    }

    #[test]
    fn what_it_does_not_know_it_leaves_as_it_is() {
        for foreign in
            ["", "PRECONDITION_FAILED - fast reply consumer does not exist", "inequivalent arg 'a' for queue"]
        {
            assert_eq!(refusal(foreign), None, "{foreign}");
        }
    }
}
