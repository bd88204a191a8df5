//! Who comes to the shop while a Redis is struck: people who look at what it sells, which is read through the cache, and people
//! who are signed in. What each is answered must be right and come soon, whatever is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::load;

/// Products that are looked at, beside what sells best.
const PRODUCTS: usize = 20;
/// Who is signed in, twice each.
const PEOPLE: [&str; 2] = ["Ada", "Grace"];
const PASSWORD: &str = "correct horse battery";
/// Between two who look at what is sold, and between two who are signed in.
const PAUSE: Duration = Duration::from_millis(25);
/// No answer may take longer. Redis is waited for a fifth or a quarter of a second, a few times in a row until it counts as away.
const LONGEST: Duration = Duration::from_secs(2);
/// Sessions end after twelve hours.
const SIGNED_IN_FOR: Duration = Duration::from_secs(6 * 3600);

/// Who comes.
#[derive(Clone, Debug)]
pub(crate) struct Visitors {
    client: Client,
    webs: [String; 2],
    /// What strangers look at.
    pages: Vec<String>,
    members: Vec<Member>,
    signed_in: Instant,
}

/// One session of somebody's.
#[derive(Clone, Debug)]
struct Member {
    name: &'static str,
    cookie: String,
}

/// What they saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How long each page of the shop took.
    pub(crate) pages: Vec<Duration>,
    /// How long each answer took to somebody who is signed in.
    pub(crate) own: Vec<Duration>,
    /// How many of these were told to come again.
    pub(crate) put_off: u64,
    /// What should not have been answered.
    pub(crate) wrong: Vec<String>,
}

enum Answer {
    /// As it should be.
    Good,
    /// It is not known at the moment who asks.
    PutOff,
}

impl Visitors {
    /// Has everybody register and sign in.
    pub(crate) async fn invite() -> anyhow::Result<Self> {
        let client = load::client()?;
        let mut visitors =
            Self { client, webs: load::webs(), pages: Vec::new(), members: Vec::new(), signed_in: Instant::now() };
        let listed = visitors.request(Method::GET, 0, &format!("/v1/products?limit={PRODUCTS}")).send().await?;
        let listed: Value = listed.error_for_status()?.json().await?;
        for product in listed["products"].as_array().context("no products")? {
            visitors.pages.push(format!("/v1/products/{}", product["id"].as_str().context("a product without an id")?));
        }
        visitors.pages.push("/v1/products/top".to_owned());
        for name in PEOPLE {
            let account = json!({"name": name, "email": address(name), "password": PASSWORD, "country": "DE"});
            let registered = visitors.request(Method::POST, 0, "/v1/register").json(&account).send().await?;
            ensure!(registered.status() == StatusCode::ACCEPTED, "{name} cannot register: {}", registered.status());
            let cookie = visitors.sign_in(0, name).await?;
            // By which an answer shows whom it is for.
            let token = json!({"name": name, "scopes": ["jobs:read"]});
            let made =
                visitors.request(Method::POST, 0, "/v1/tokens").header(COOKIE, cookie).json(&token).send().await?;
            ensure!(made.status() == StatusCode::CREATED, "{name} gets no token: {}", made.status());
        }
        visitors.sign_everybody_in().await?;
        Ok(visitors)
    }

    /// Signs everybody in again whose session would end by itself.
    pub(crate) async fn keep_signed_in(&mut self) -> anyhow::Result<()> {
        if self.signed_in.elapsed() > SIGNED_IN_FOR { self.sign_everybody_in().await } else { Ok(()) }
    }

    async fn sign_everybody_in(&mut self) -> anyhow::Result<()> {
        self.members.clear();
        self.signed_in = Instant::now();
        for name in PEOPLE {
            for web in 0..self.webs.len() {
                let cookie = self.sign_in(web, name).await?;
                self.members.push(Member { name, cookie });
            }
        }
        Ok(())
    }

    async fn sign_in(&self, web: usize, name: &str) -> anyhow::Result<String> {
        let credentials = json!({"email": address(name), "password": PASSWORD});
        let response = self.request(Method::POST, web, "/v1/login").json(&credentials).send().await?;
        ensure!(response.status() == StatusCode::OK, "{name} cannot sign in: {}", response.status());
        let cookie = response.headers().get(SET_COOKIE).context("a sign-in without a cookie")?.to_str()?;
        Ok(cookie.split(';').next().unwrap_or_default().to_owned())
    }

    /// Everybody once at every web, when nothing is away: nobody may be put off, and no session have ended.
    pub(crate) async fn all_are_served(&self) -> anyhow::Result<()> {
        for web in 0..self.webs.len() {
            for page in 0..self.pages.len() {
                self.look(web, page).await?;
            }
            for member in 0..self.members.len() {
                let answer = self.ask_for_own(web, member).await?;
                ensure!(matches!(answer, Answer::Good), "a session is put off although nothing is away");
            }
        }
        Ok(())
    }

    async fn look(&self, web: usize, page: usize) -> anyhow::Result<Answer> {
        let page = &self.pages[page % self.pages.len()];
        let response =
            self.request(Method::GET, web, page).send().await.with_context(|| format!("no answer to {page}"))?;
        ensure!(response.status() == StatusCode::OK, "{page} was answered {}", described(response).await);
        let _whole: Value = response.json().await.with_context(|| format!("{page} broke off"))?;
        Ok(Answer::Good)
    }

    async fn ask_for_own(&self, web: usize, member: usize) -> anyhow::Result<Answer> {
        let Member { name, cookie } = &self.members[member % self.members.len()];
        let request = self.request(Method::GET, web, "/v1/tokens").header(COOKIE, cookie);
        let response = request.send().await.with_context(|| format!("no answer to {name}"))?;
        match response.status() {
            StatusCode::SERVICE_UNAVAILABLE => Ok(Answer::PutOff),
            StatusCode::OK => {
                let own: Value = response.json().await.with_context(|| format!("the answer to {name} broke off"))?;
                ensure!(own["tokens"][0]["name"] == *name, "{name} was shown what is somebody else's: {own}");
                Ok(Answer::Good)
            }
            _ => anyhow::bail!("the session of {name} was answered {}", described(response).await),
        }
    }

    fn request(&self, method: Method, web: usize, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.webs[web % self.webs.len()]))
    }
}

/// People who come, until this is dropped.
#[derive(Debug)]
pub(crate) struct Visits {
    /// One task.
    steady: JoinSet<Seen>,
    enough: CancellationToken,
}

impl Visits {
    pub(crate) fn start(visitors: &Arc<Visitors>) -> Self {
        let (enough, mut steady) = (CancellationToken::new(), JoinSet::new());
        steady.spawn(come(Arc::clone(visitors), enough.clone()));
        Self { steady, enough }
    }

    /// Lets nobody in any more; what everybody saw.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Seen> {
        self.enough.cancel();
        Ok(self.steady.join_next().await.context("nobody comes")??)
    }
}

/// One after the other, whether or not those before have their answers.
async fn come(visitors: Arc<Visitors>, enough: CancellationToken) -> Seen {
    let (mut seen, mut looking, mut asking) = (Seen::default(), JoinSet::new(), JoinSet::new());
    let mut next = interval(PAUSE);
    next.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0.. {
        if enough.run_until_cancelled(next.tick()).await.is_none() {
            break;
        }
        // Each page and each session at either web in turn.
        let (web, which) = (number % 2, number / 2);
        let (one, other) = (Arc::clone(&visitors), Arc::clone(&visitors));
        looking.spawn(async move { timed(one.look(web, which)).await });
        asking.spawn(async move { timed(other.ask_for_own(web, which)).await });
    }
    for (answer, took) in looking.join_all().await {
        seen.pages.push(took);
        seen.note(answer);
    }
    for (answer, took) in asking.join_all().await {
        seen.own.push(took);
        seen.note(answer);
    }
    seen
}

async fn timed(answer: impl Future<Output = anyhow::Result<Answer>>) -> (anyhow::Result<Answer>, Duration) {
    let begun = Instant::now();
    (answer.await, begun.elapsed())
}

impl Seen {
    fn note(&mut self, answer: anyhow::Result<Answer>) {
        match answer {
            Ok(Answer::Good) => {}
            Ok(Answer::PutOff) => self.put_off += 1,
            Err(error) => self.wrong.push(format!("{error:#}")),
        }
    }

    /// The longest that anybody waited.
    pub(crate) fn slowest(&self) -> Duration {
        self.pages.iter().chain(&self.own).max().copied().unwrap_or_default()
    }

    /// Whether nobody waited too long.
    pub(crate) fn is_prompt(&self) -> bool {
        self.slowest() <= LONGEST
    }
}

fn address(name: &str) -> String {
    format!("{}@shop.example", name.to_lowercase())
}

async fn described(response: Response) -> String {
    let status = response.status();
    format!("{status}: {}", response.text().await.unwrap_or_default())
}
