//! Families of keys, as data.

use std::time::Duration;

/// Keys of one kind: what they are called and how long what they hold is good for.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) times: Times,
}

/// How long things last in a family.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// So long a value is handed out as it is; a tenth more or less is drawn for each, so that those stored together do not end
    /// together.
    pub fresh: Duration,
    /// So long after that it is still handed out while somebody loads a new one, or fails to.
    pub grace: Duration,
    /// So long it is believed that there is nothing. Nothing has no grace.
    pub absent: Duration,
    /// So long others wait for a load before one of them does it instead. Longer than nearly every load. For a process that has died
    /// nobody waits.
    pub lease: Duration,
    /// So long a load may take.
    pub load: Duration,
}

impl Family {
    /// A family of a name that no other has. `version` goes up by one when the values change so much that a release cannot read
    /// those of the release before.
    ///
    /// # Panics
    /// When the name is empty or holds a colon, or a time but the grace is less than a millisecond; in a constant, the build fails.
    #[must_use]
    pub const fn new(name: &'static str, version: u32, times: Times) -> Self {
        assert!(!name.is_empty(), "a family has a name");
        let (bytes, mut position) = (name.as_bytes(), 0);
        while position < bytes.len() {
            assert!(bytes[position] != b':', "the name of a family has no colon");
            position += 1;
        }
        let Times { fresh, grace: _, absent, lease, load } = times;
        let shortest = [fresh, absent, lease, load];
        let mut position = 0;
        while position < shortest.len() {
            assert!(shortest[position].as_millis() > 0, "a time is a millisecond at least");
            position += 1;
        }
        Self { name, version, times }
    }

    /// The name of an entry, by which [`Cache::invalidate_entry`](crate::Cache::invalidate_entry) knows it.
    #[must_use]
    pub fn entry(&self, key: &str) -> String {
        entry(self.name, self.version, key)
    }
}

/// Name and version of the family, and the key, which may hold colons.
pub(crate) fn entry(family: &str, version: u32, key: &str) -> String {
    format!("{family}:{version}:{key}")
}

/// The entry under the version before, under its own and under the one after: while one release makes way for the next, a write
/// of either is to end what the other has stored.
pub(crate) fn neighbours(name: &str) -> Option<[String; 3]> {
    let (family, rest) = name.split_once(':')?;
    let (version, key) = rest.split_once(':')?;
    let version = version.parse::<u32>().ok().filter(|_| !family.is_empty())?;
    Some([version.saturating_sub(1), version, version.saturating_add(1)].map(|version| entry(family, version, key)))
}

#[cfg(test)]
mod tests {
    use super::{Family, Times, neighbours};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMES: Times = Times { fresh: SECOND, grace: SECOND, absent: SECOND, lease: SECOND, load: SECOND };

    #[test]
    fn the_name_of_an_entry_leads_to_those_of_the_neighbouring_releases() {
        let family = Family::new("user-profile", 3, TIMES);
        let expected = ["user-profile:2:a:b", "user-profile:3:a:b", "user-profile:4:a:b"];
        assert_eq!(neighbours(&family.entry("a:b")).unwrap(), expected);
    }

    #[test]
    fn what_is_not_the_name_of_an_entry_leads_nowhere() {
        for name in ["", "user-profile", "user-profile:3", "user-profile:three:a", ":3:a", "user-profile:-1:a"] {
            assert_eq!(neighbours(name), None, "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "no colon")]
    fn the_name_of_a_family_has_no_colon() {
        drop(Family::new("user:profile", 3, TIMES).entry("a"));
    }
}
