//! A value as it stands in Redis: one byte that tells the form, then JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte of "there is nothing", in this form.
const ABSENT: u8 = 0x10;
/// The first byte of a value, in this form; its JSON follows.
const PRESENT: u8 = 0x11;

pub(crate) fn encode<T: Serialize>(value: Option<&T>) -> Result<Vec<u8>, serde_json::Error> {
    let Some(value) = value else {
        return Ok(vec![ABSENT]);
    };
    let mut bytes = vec![PRESENT];
    serde_json::to_writer(&mut bytes, value)?;
    Ok(bytes)
}

/// `None` when it is of another form or shape: then it is as if nothing were stored.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<Option<T>> {
    match bytes.split_first()? {
        (&ABSENT, []) => Some(None),
        // Looked at as a whole, which is quicker than string by string.
        (&PRESENT, json) => serde_json::from_str(str::from_utf8(json).ok()?).ok().map(Some),
        _ => None,
    }
}

pub(crate) fn is_absent(bytes: &[u8]) -> bool {
    bytes == [ABSENT]
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for value in [Some(vec![1, 2]), Some(vec![]), None] {
            assert_eq!(decode::<Vec<u8>>(&encode(value.as_ref()).unwrap()), Some(value));
        }
    }

    #[test]
    fn a_value_that_is_null_is_not_absent() {
        assert_eq!(decode::<Option<u8>>(&encode(Some(&None::<u8>)).unwrap()), Some(Some(None)));
        assert_eq!(decode::<Option<u8>>(&encode(None::<&Option<u8>>).unwrap()), Some(None));
    }

    #[test]
    fn what_cannot_be_decoded_is_nothing() {
        for bytes in [&b""[..], b"{", b"\x11", b"\x11\"text\"", b"\x11[1", b"\x10[1]", b"\x12[1]"] {
            assert_eq!(decode::<Vec<u8>>(bytes), None, "{bytes:?}");
        }
    }
}
