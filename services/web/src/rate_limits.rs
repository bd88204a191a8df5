//! How much one may ask for: which limits there are, who is counted, and what answers say of it. `cache` keeps them, over all
//! processes; what a route costs stands in the table of routes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cache::{Charge, Limit, Limiter, Redis, Standing, Verdict};
use sha2::{Digest, Sha256};

use crate::App;
use crate::caller::user_of;
use crate::client_address::{ClientAddress, TrustedProxies};
use crate::problem::Problem;
use crate::settings::LimitSettings;

const MINUTE: Duration = Duration::from_secs(60);
/// The most that a limit of a minute can say: a unit each microsecond.
const MOST_PER_MINUTE: u32 = 60_000_000;
/// Tries to sign in with one account from one address. A person who mistypes is not stopped; who guesses gets 60 an hour.
const SIGN_IN: Limit = Limit::new("sign-in", 10, Duration::from_secs(600));
/// Tries with one account, from wherever: 4,300 a day for all who guess together. Three times what one address may, so that one
/// alone cannot shut an account. Three together can, for as long as they go on: between that and more guesses one has to choose.
const SIGN_IN_ACCOUNT: Limit = Limit::new("sign-in-account", 30, Duration::from_secs(600));
/// Tries from one address, with whatever account. Behind one there may be an office.
const SIGN_IN_ADDRESS: Limit = Limit::new("sign-in-address", 60, Duration::from_secs(600));

/// Tokens from one address that turn out to be nobody's, after the database was asked.
const UNKNOWN_TOKENS: Limit = Limit::new("unknown-tokens", 60, MINUTE);

/// draft-ietf-httpapi-ratelimit-headers-11: which limits hold, and how the client stands with them.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Who may ask for how much.
#[derive(Clone)]
pub struct RateLimits {
    limiter: Limiter,
    requests: Limit,
    proxies: TrustedProxies,
}

/// More was asked for than a limit gives. Nothing was done, and nothing was taken from any limit.
#[derive(Clone, Debug)]
pub struct TooMany {
    retry_after: Duration,
    standings: Vec<Standing>,
}

impl RateLimits {
    /// Keeps the limits of `settings` in the durable Redis.
    ///
    /// # Errors
    /// The settings name a limit that cannot be kept.
    pub fn new(durable: Redis, settings: &LimitSettings, proxies: TrustedProxies) -> anyhow::Result<Self> {
        let requests = settings.requests_per_minute;
        ensure!(
            (1..=MOST_PER_MINUTE).contains(&requests),
            "settings, at `limits.requests_per_minute`: {requests} is not 1 to {MOST_PER_MINUTE}"
        );
        Ok(Self { limiter: Limiter::new(durable), requests: Limit::new("requests", requests, MINUTE), proxies })
    }

    pub(crate) fn proxies(&self) -> &TrustedProxies {
        &self.proxies
    }

    /// Counts a try to sign in, to register or to change a password, before anything is looked up or hashed: by the account, however
    /// it is written and whether or not there is one, by the client's address, and by both. A try that one of them refuses costs the
    /// others nothing, so that one address alone cannot shut an account to others; three can.
    ///
    /// # Errors
    /// There were too many. That tells nobody whether there is such an account.
    pub async fn check_sign_in(&self, account: &str, address: IpAddr) -> Result<(), TooMany> {
        let account = account_subject(account);
        let address = ClientAddress::of(address).0.to_string();
        let both = format!("{account}-{address}");
        let charges = [
            Charge { limit: SIGN_IN, subject: &both, cost: 1 },
            Charge { limit: SIGN_IN_ADDRESS, subject: &address, cost: 1 },
            Charge { limit: SIGN_IN_ACCOUNT, subject: &account, cost: 1 },
        ];
        self.take(&charges).await.map(drop)
    }

    /// Whether the database may be asked for a token: one that Redis does not know, or any while Redis is away. Of a good one, which
    /// many may use at once for the first time, nothing is counted.
    ///
    /// # Errors
    /// There were too many from the address that were nobody's.
    pub(crate) async fn check_stranger(&self, address: IpAddr) -> Result<(), TooMany> {
        let standings = self.strangers(address, 0).await?;
        if standings.iter().all(|standing| standing.remaining > 0) {
            return Ok(());
        }
        Err(TooMany { retry_after: MINUTE / UNKNOWN_TOKENS.quota(), standings })
    }

    /// Counts a token that is nobody's.
    pub(crate) async fn count_stranger(&self, address: IpAddr) {
        // Where there were too many already, no more can be counted.
        drop(self.strangers(address, 1).await);
    }

    async fn strangers(&self, address: IpAddr, cost: u32) -> Result<Vec<Standing>, TooMany> {
        let address = address.to_string();
        self.take(&[Charge { limit: UNKNOWN_TOKENS, subject: &address, cost }]).await
    }

    async fn take(&self, charges: &[Charge<'_>]) -> Result<Vec<Standing>, TooMany> {
        match self.limiter.take(charges).await {
            Verdict::Allowed(standings) => Ok(standings),
            Verdict::Refused { retry_after, standings } => Err(TooMany { retry_after, standings }),
        }
    }
}

/// An account as a subject: the same however it is written, short however long, and nobody's address in a key.
fn account_subject(account: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(account.trim().to_lowercase().as_bytes()).into();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TooMany {
    /// As `Retry-After` has it: whole seconds, after which it is certainly possible.
    pub(crate) fn retry_after_seconds(&self) -> u64 {
        whole_seconds(self.retry_after)
    }

    /// Says in an answer how things stand.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        tell(&self.standings, headers);
    }
}

/// Lets a request through for what it costs its caller or, without one, its address.
pub(crate) async fn charge(State((app, cost)): State<(App, u32)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let subject = match user_of(&mut parts, &app).await {
        Some(user) => format!("caller-{user}"),
        None => match ClientAddress::from_request_parts(&mut parts, &app).await {
            Ok(ClientAddress(address)) => format!("address-{address}"),
            Err(problem) => return problem.into_response(),
        },
    };
    let limits = &app.rate_limits;
    match limits.take(&[Charge { limit: limits.requests, subject: &subject, cost }]).await {
        Err(too_many) => Problem::from(too_many).into_response(),
        Ok(standings) => {
            let mut response = next.run(Request::from_parts(parts, body)).await;
            tell(&standings, response.headers_mut());
            response
        }
    }
}

fn tell(standings: &[Standing], headers: &mut HeaderMap) {
    for Standing { limit, remaining, whole_in } in standings {
        let name = limit.name();
        let policy = format!("\"{name}\";q={};w={}", limit.quota(), whole_seconds(limit.window()));
        let standing = format!("\"{name}\";r={remaining};t={}", whole_seconds(*whole_in));
        for (field, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, standing)] {
            // A limit's name is one of ours.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(field, value);
            }
        }
    }
}

/// Rounded up, and at least one.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderMap;
    use cache::{Limit, Standing};

    use super::{account_subject, tell, whole_seconds};

    #[test]
    fn fields_are_lists_of_named_policies() {
        let minute = Limit::new("requests", 100, Duration::from_secs(60));
        let hour = Limit::new("sign-in", 5, Duration::from_secs(3600));
        let standings = [
            Standing { limit: minute, remaining: 99, whole_in: Duration::from_millis(600) },
            Standing { limit: hour, remaining: 0, whole_in: Duration::from_secs(3600) },
        ];
        let mut headers = HeaderMap::new();
        tell(&standings, &mut headers);
        let values = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(values("ratelimit-policy"), [r#""requests";q=100;w=60"#, r#""sign-in";q=5;w=3600"#]);
        assert_eq!(values("ratelimit"), [r#""requests";r=99;t=1"#, r#""sign-in";r=0;t=3600"#]);
    }

    #[test]
    fn seconds_are_rounded_up() {
        let rows = [(0, 1), (1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2), (59_000_000_001, 60)];
        for (nanos, seconds) in rows {
            assert_eq!(whole_seconds(Duration::from_nanos(nanos)), seconds, "{nanos}");
        }
    }

    #[test]
    fn an_account_is_one_subject_however_it_is_written() {
        let subject = account_subject("ann@shop.example");
        assert_eq!(account_subject(" Ann@SHOP.example\t"), subject);
        assert_ne!(account_subject("anne@shop.example"), subject);
        assert_eq!((subject.len(), subject.contains("ann")), (32, false));
        assert_eq!(account_subject(&"x".repeat(100_000)).len(), 32);
    }
}
