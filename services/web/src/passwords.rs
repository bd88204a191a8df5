//! Passwords: what one is, its hash, and how many are hashed at once. A hash takes a core and 19 MiB for about 26 ms, on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::problem::Problem;

/// In characters. A longer one would be no safer, only dearer to hash.
const LEAST: usize = 8;
const MOST: usize = 128;
/// Hashes at once, however many cores there are: each takes 19 MiB of what the process may have.
const MOST_PLACES: usize = 4;
/// What OWASP asks for at least: 19 MiB, twice over, by one thread.
const PARAMS: Result<Params, argon2::Error> = Params::new(19_456, 2, 1, None);
/// Nobody's. What is compared with it takes as long as anything.
const DUMMY: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZWJvZHkncyBzYWx0IQ$b1Vqz1YhVmzN8wC3oFzSxBhXQ1nqk0lZ6m3m8VYVJ2U";

/// A password that somebody chooses.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SecretString")]
pub(crate) struct NewPassword(SecretString);

impl TryFrom<SecretString> for NewPassword {
    type Error = String;

    fn try_from(password: SecretString) -> Result<Self, String> {
        let good = (LEAST..=MOST).contains(&password.expose_secret().chars().count());
        good.then_some(Self(password)).ok_or_else(|| format!("a password has {LEAST} to {MOST} characters"))
    }
}

/// A password that somebody says to have: also one from a time with other rules, but none that is only there to be hashed.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SecretString")]
pub(crate) struct GivenPassword(SecretString);

impl TryFrom<SecretString> for GivenPassword {
    type Error = String;

    fn try_from(password: SecretString) -> Result<Self, String> {
        let good = password.expose_secret().chars().count() <= MOST;
        good.then_some(Self(password)).ok_or_else(|| format!("a password has at most {MOST} characters"))
    }
}

/// What became of a password that was checked.
#[derive(Debug)]
pub(crate) enum Checked {
    /// It is another one, or there is none.
    Wrong,
    /// It is the one.
    Right {
        /// Its hash as one would make it today, where the one that is kept is of an older kind.
        renewed: Option<String>,
    },
}

/// Hashes passwords, as many at once as there are cores, and few. Clones share the places.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    wait: Duration,
    hashes: Hashes,
}

/// How many hashes were made, by whichever way. Clones count the same.
#[derive(Clone, Debug, Default)]
struct Hashes(Arc<AtomicU64>);

impl Hashes {
    /// What makes one hash, which is counted.
    fn one(&self) -> anyhow::Result<Argon2<'static>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS?))
    }
}

impl Passwords {
    /// Whoever finds no place within `wait` is told to come back.
    pub(crate) fn new(wait: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_PLACES);
        Self { places: Arc::new(Semaphore::new(cores)), wait, hashes: Hashes::default() }
    }

    /// The hash of a password, as a PHC string.
    pub(crate) async fn hash(&self, NewPassword(password): NewPassword) -> Result<String, Problem> {
        self.work(move |hashes| hash(password.expose_secret(), hashes)).await
    }

    /// Compares a password with a hash; takes as long where there is none.
    pub(crate) async fn check(
        &self,
        GivenPassword(password): GivenPassword,
        kept: Option<String>,
    ) -> Result<Checked, Problem> {
        self.work(move |hashes| check(password.expose_secret(), kept.as_deref(), hashes)).await
    }

    /// How many hashes were made.
    pub(crate) fn made(&self) -> u64 {
        self.hashes.0.load(Ordering::Relaxed)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Hashes) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await.map_err(|_| Problem::Busy)?;
        // The place goes along: a request that is given up does not stop the work.
        let hashes = self.hashes.clone();
        let working = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&hashes)
        });
        let done = working.await.context("hash a password").and_then(|done| done);
        done.map_err(Problem::Internal)
    }
}

fn hash(password: &str, hashes: &Hashes) -> anyhow::Result<String> {
    let hash: PasswordHash = hashes.one()?.hash_password(password.as_bytes()).context("hash a password")?;
    Ok(hash.to_string())
}

fn check(password: &str, kept: Option<&str>, hashes: &Hashes) -> anyhow::Result<Checked> {
    let hash = PasswordHash::new(kept.unwrap_or(DUMMY)).context("read the hash of a password")?;
    let right = hashes.one()?.verify_password(password.as_bytes(), &hash).is_ok();
    if kept.is_none() || !right {
        return Ok(Checked::Wrong);
    }
    let renewed = if is_of_today(&hash)? { None } else { Some(self::hash(password, hashes)?) };
    Ok(Checked::Right { renewed })
}

/// Whether a hash was made as they are made now.
fn is_of_today(hash: &PasswordHash) -> anyhow::Result<bool> {
    let today = PARAMS?;
    let same = Params::try_from(hash).is_ok_and(|params| {
        (params.m_cost(), params.t_cost(), params.p_cost()) == (today.m_cost(), today.t_cost(), today.p_cost())
    });
    Ok(same && hash.algorithm.as_str() == "argon2id" && hash.version == Some(Version::V0x13.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argon2::password_hash::PasswordHasher;
    use argon2::password_hash::phc::PasswordHash;
    use argon2::{Algorithm, Argon2, Params, Version};

    use super::{Checked, DUMMY, GivenPassword, Hashes, NewPassword, Passwords, check, hash, is_of_today};
    use crate::problem::Problem;

    #[test]
    fn a_password_is_known_by_its_hash_and_no_other_is() {
        let hashes = Hashes::default();
        let kept = hash("correct horse", &hashes).unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(matches!(check("correct horse", Some(&kept), &hashes).unwrap(), Checked::Right { renewed: None }));
        assert!(matches!(check("correct horsf", Some(&kept), &hashes).unwrap(), Checked::Wrong));
        assert!(matches!(check("correct horse", None, &hashes).unwrap(), Checked::Wrong));
        assert_ne!(hash("correct horse", &hashes).unwrap(), kept, "each has a salt of its own");
    }

    #[test]
    fn where_there_is_no_hash_the_work_is_the_same() {
        let dummy = PasswordHash::new(DUMMY).unwrap();
        assert!(is_of_today(&dummy).unwrap() && dummy.salt.is_some() && dummy.hash.is_some());
        let real = PasswordHash::new(&hash("correct horse", &Hashes::default()).unwrap()).unwrap();
        assert_eq!(dummy.hash.unwrap().len(), real.hash.unwrap().len());
        assert_eq!(dummy.salt.unwrap().len(), real.salt.unwrap().len());
    }

    #[test]
    fn a_hash_of_another_kind_is_renewed() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8192, 1, 1, None).unwrap());
        let kept: PasswordHash = weak.hash_password(b"correct horse").unwrap();
        let Checked::Right { renewed: Some(renewed) } =
            check("correct horse", Some(&kept.to_string()), &Hashes::default()).unwrap()
        else {
            panic!("not renewed");
        };
        assert!(is_of_today(&PasswordHash::new(&renewed).unwrap()).unwrap());
    }

    #[test]
    fn a_password_has_8_to_128_characters() {
        let taken = |text: &str| NewPassword::try_from(secrecy::SecretString::from(text)).is_ok();
        assert!(taken("12345678") && taken(&"ä".repeat(128)));
        assert!(!taken("1234567") && !taken(&"a".repeat(129)));
        assert!(GivenPassword::try_from(secrecy::SecretString::from("a".repeat(129))).is_err());
    }

    #[tokio::test]
    async fn who_finds_no_place_in_time_is_told_to_come_back() {
        let passwords = Passwords::new(Duration::ZERO);
        let places = passwords.places.available_permits().try_into().unwrap();
        let _all = passwords.places.acquire_many(places).await.unwrap();
        let given = GivenPassword::try_from(secrecy::SecretString::from("correct horse")).unwrap();
        assert!(matches!(passwords.check(given, None).await, Err(Problem::Busy)));
    }
}
