//! What stands on a broker, as its management API tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::uri::AMQPUri;
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use url::Url;

/// All four answers together.
const DEADLINE: Duration = Duration::from_secs(4);
/// The same where another node can be asked.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);
/// One answer; a virtual host that is shared with thousands of foreign queues has no more.
const LARGEST: usize = 8 * 1024 * 1024;

/// A virtual host, as far as the comparison needs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(super) exchanges: BTreeMap<String, LiveExchange>,
    pub(super) queues: BTreeMap<String, LiveQueue>,
    pub(super) bindings: Vec<LiveBinding>,
    /// What each policy sets, by its name.
    pub(super) policies: BTreeMap<String, Map<String, Value>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LiveExchange {
    name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    #[serde(default, deserialize_with = "object")]
    pub(super) arguments: Map<String, Value>,
    #[serde(default)]
    pub(super) policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LiveQueue {
    name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) exclusive: bool,
    #[serde(default, deserialize_with = "object")]
    pub(super) arguments: Map<String, Value>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    operator_policy: Option<String>,
    /// What the two together set. The broker tells it some seconds after the queue or the policy was made.
    #[serde(default, deserialize_with = "object")]
    pub(super) effective_policy_definition: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LiveBinding {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) destination_type: String,
    pub(super) routing_key: String,
}

#[derive(Deserialize)]
struct LivePolicy {
    name: String,
    #[serde(default, deserialize_with = "object")]
    definition: Map<String, Value>,
}

impl LiveQueue {
    /// The policies in force, as a person would look for them.
    pub(super) fn policies(&self) -> String {
        let named = [("policy", &self.policy), ("operator policy", &self.operator_policy)]
            .map(|(kind, name)| name.as_ref().filter(|name| !name.is_empty()).map(|name| format!("{kind} \"{name}\"")));
        let named: Vec<String> = named.into_iter().flatten().collect();
        if named.is_empty() { "a policy".to_owned() } else { named.join(" with ") }
    }
}

/// An empty object comes as an empty list at times.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(object) => object,
        _ => Map::new(),
    })
}

impl Live {
    /// From the API's four lists.
    fn new(
        exchanges: Vec<LiveExchange>,
        queues: Vec<LiveQueue>,
        bindings: Vec<LiveBinding>,
        policies: Vec<LivePolicy>,
    ) -> Self {
        Self {
            exchanges: exchanges.into_iter().map(|exchange| (exchange.name.clone(), exchange)).collect(),
            queues: queues.into_iter().map(|queue| (queue.name.clone(), queue)).collect(),
            bindings,
            policies: policies.into_iter().map(|policy| (policy.name, policy.definition)).collect(),
        }
    }

    /// The same from what an API once answered.
    #[cfg(test)]
    pub(super) fn recorded(answers: &Value) -> Self {
        fn list<T: DeserializeOwned>(answer: &Value) -> Vec<T> {
            serde_json::from_value(answer.clone()).unwrap()
        }
        Self::new(
            list(&answers["exchanges"]),
            list(&answers["queues"]),
            list(&answers["bindings"]),
            list(&answers["policies"]),
        )
    }
}

/// A management URL that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidManagementUrl {
    #[error("user and password are those of broker.url: leave them out here")]
    Credentials,
    #[error("not of the form http://host:port, or several of these with commas between")]
    Form,
}

/// Why a broker could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unseen {
    #[error("ask the management API")]
    Http(#[from] reqwest::Error),
    #[error("the management API does not let user \"{user}\" look: give it the tag \"management\"")]
    Forbidden { user: String },
    #[error("the management API answered {status} for its {what}")]
    Status { what: &'static str, status: u16 },
    #[error("the management API answered more than {} MiB for its {what}", LARGEST / 1024 / 1024)]
    TooLarge { what: &'static str },
    #[error("the management API answered with other {what} than expected")]
    Form {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("no answer from the management API in {} s", .0.as_secs())]
    Late(Duration),
}

/// A broker's management API, asked as the service's own user about its own virtual host.
#[derive(Debug)]
pub(crate) struct Management {
    client: Client,
    /// Of nodes that all tell the same; the one that answered last is asked first.
    urls: Vec<Url>,
    vhost: String,
    user: String,
    password: SecretString,
}

impl Management {
    /// `urls` are the API's, without a path of its own, with commas between; who asks about what stands in the broker's URL.
    pub(crate) fn new(urls: &str, broker: &AMQPUri) -> Result<Self, InvalidManagementUrl> {
        // A redirect or a proxy would be handed the password.
        let client = Client::builder().no_proxy().redirect(Policy::none()).build();
        Ok(Self {
            client: client.map_err(|_| InvalidManagementUrl::Form)?,
            urls: urls.split(',').map(|url| plain(url.trim())).collect::<Result<_, _>>()?,
            vhost: broker.vhost.clone(),
            user: broker.authority.userinfo.username.clone(),
            password: broker.authority.userinfo.password.clone().into(),
        })
    }

    /// Looks at the virtual host, by the first node that answers.
    pub(crate) async fn look(&mut self) -> Result<Live, Unseen> {
        let deadline = if self.urls.len() == 1 { DEADLINE } else { SHORT_DEADLINE };
        let mut looked = Err(Unseen::Late(deadline));
        for _ in 0..self.urls.len() {
            let late = |_| Err(Unseen::Late(deadline));
            looked = tokio::time::timeout(deadline, self.look_at(&self.urls[0])).await.unwrap_or_else(late);
            if looked.is_ok() {
                break;
            }
            self.urls.rotate_left(1);
        }
        looked
    }

    async fn look_at(&self, node: &Url) -> Result<Live, Unseen> {
        let queue_columns =
            "name,type,durable,auto_delete,exclusive,arguments,policy,operator_policy,effective_policy_definition";
        let (exchanges, queues, bindings, policies) = tokio::try_join!(
            self.list(node, "exchanges", "name,type,durable,auto_delete,internal,arguments,policy"),
            self.list(node, "queues", queue_columns),
            self.list(node, "bindings", "source,destination,destination_type,routing_key"),
            self.list(node, "policies", "name,definition"),
        )?;
        Ok(Live::new(exchanges, queues, bindings, policies))
    }

    async fn list<T: DeserializeOwned>(&self, node: &Url, what: &'static str, columns: &str) -> Result<Vec<T>, Unseen> {
        let mut url = node.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", what, &self.vhost]);
        }
        url.set_query(Some(&format!("columns={columns}")));
        let request = self.client.get(url).basic_auth(&self.user, Some(self.password.expose_secret()));
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(Unseen::Forbidden { user: self.user.clone() }),
            status => return Err(Unseen::Status { what, status }),
        }
        let body = bounded(response, what).await?;
        serde_json::from_slice(&body).map_err(|source| Unseen::Form { what, source })
    }
}

fn plain(url: &str) -> Result<Url, InvalidManagementUrl> {
    let url = Url::parse(url).map_err(|_| InvalidManagementUrl::Form)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidManagementUrl::Credentials);
    }
    let plain = url.scheme() == "http" && url.has_host() && url.query().is_none() && url.fragment().is_none();
    if plain { Ok(url) } else { Err(InvalidManagementUrl::Form) }
}

async fn bounded(mut response: Response, what: &'static str) -> Result<Vec<u8>, Unseen> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > LARGEST {
            return Err(Unseen::TooLarge { what });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
