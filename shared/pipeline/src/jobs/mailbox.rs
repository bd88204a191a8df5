//! To whom mail goes: a name and an address that cannot carry a header into a mail.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A person with an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// How the mail greets.
    pub name: PersonName,
    /// Where the mail goes.
    pub address: EmailAddress,
}

/// An e-mail address: `local@domain`, printable ASCII without spaces, quotes or brackets, at most 254 bytes (RFC 5321).
/// Narrower than the RFC on purpose: what it lets through needs no quoting anywhere.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(#[schemars(email, length(max = 254))] String);

/// A person's name: 1 to 100 characters without control characters, so that no line break can enter a mail's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct PersonName(#[schemars(length(min = 1, max = 100))] String);

/// Why a text is no address or no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMailbox {
    /// Not of the form `local@domain`, or with characters that are not taken.
    #[error("not an e-mail address")]
    Address,
    /// Empty, too long, or with control characters.
    #[error("a name has 1 to 100 characters and no control characters")]
    Name,
}

impl EmailAddress {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PersonName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows the domain only: an address is personal data and must not reach a log.
impl fmt::Debug for EmailAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = self.0.split_once('@').map_or("", |(_, domain)| domain);
        write!(formatter, "EmailAddress(…@{domain})")
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidMailbox;

    fn try_from(text: String) -> Result<Self, InvalidMailbox> {
        let (local, domain) = text.split_once('@').ok_or(InvalidMailbox::Address)?;
        let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
        let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
        let local_good = (1..=64).contains(&local.len()) && local.bytes().all(atom) && dots(local);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let domain_good = domain.split('.').all(label);
        if local_good && domain_good && text.len() <= 254 { Ok(Self(text)) } else { Err(InvalidMailbox::Address) }
    }
}

impl TryFrom<String> for PersonName {
    type Error = InvalidMailbox;

    fn try_from(text: String) -> Result<Self, InvalidMailbox> {
        let good = (1..=100).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if good && !text.trim().is_empty() { Ok(Self(text)) } else { Err(InvalidMailbox::Name) }
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.0
    }
}

impl From<PersonName> for String {
    fn from(name: PersonName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::{EmailAddress, PersonName};

    #[test]
    fn addresses_that_people_have_are_taken() {
        for good in ["a@b", "alice@shop.example", "o'neil+orders@sub.domain.example", "x_y-z.1@a-b.example"] {
            assert!(EmailAddress::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_could_break_out_of_a_header_is_no_address() {
        let long = format!("{}@b.example", "a".repeat(65));
        let bad = [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b c",
            "a@b\r\nBcc: x@y",
            "<a@b>",
            "\"a b\"@c",
            "a..b@c",
            ".a@b",
            "a@-b",
            "a@b..c",
            "a,b@c",
            "a@b>",
            "ä@b",
            long.as_str(),
        ];
        for bad in bad {
            assert!(EmailAddress::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_holds_no_line_break() {
        assert!(PersonName::try_from("Zoë Müller-Łoś".to_owned()).is_ok());
        for bad in ["", "  ", "A\r\nBcc: x@y", "A\0", &"x".repeat(101)] {
            assert!(PersonName::try_from((*bad).to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_shows_only_its_domain_in_a_log() {
        let address = EmailAddress::try_from("alice@shop.example".to_owned()).unwrap();
        assert_eq!(format!("{address:?}"), "EmailAddress(…@shop.example)");
    }
}
