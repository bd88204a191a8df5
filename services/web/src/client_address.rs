//! Where a request comes from: the other end of its connection, unless that is one of the proxies that the settings name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use serde::Deserialize;

use crate::App;
use crate::problem::Problem;

/// The one field that is read. Not `Forwarded` (RFC 7239) as well: a proxy that sets one passes a client's own other one on.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word is taken for who the client is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustedProxies(Vec<IpNet>);

/// A text that is neither an address nor a network.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is neither an address nor a network such as 10.0.0.0/8")]
pub struct InvalidProxies(String);

impl TryFrom<String> for TrustedProxies {
    type Error = InvalidProxies;

    /// Addresses and networks with commas between.
    fn try_from(text: String) -> Result<Self, InvalidProxies> {
        let parse = |item: &str| {
            let network = item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| InvalidProxies(item.to_owned()))
        };
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a connection from `peer`: each proxy adds whom it was asked by on the right, so that it is the rightmost that
    /// is no proxy of ours. What stands left of that anybody may have written.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all(X_FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default());
        let said = lines.flat_map(|line| line.split(',')).collect::<Vec<_>>();
        for text in said.into_iter().rev() {
            if !self.trusts(client) {
                break;
            }
            // Of one that says nonsense nothing further left can be known.
            let Some(before) = address(text) else { break };
            client = before;
        }
        client
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// Who is counted for a request without a caller: an address, of version 6 the network of a customer's line (/64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl ClientAddress {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self(v4),
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
        }
    }
}

impl FromRequestParts<App> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let ConnectInfo(peer) = peer.context("the server did not say who is connected").map_err(Problem::Internal)?;
        Ok(Self::of(app.rate_limits.proxies().client(peer.ip(), &parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::{ClientAddress, TrustedProxies};

    fn client(trusted: &str, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted = TrustedProxies::try_from(trusted.to_owned()).unwrap();
        trusted.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_but_a_trusted_proxy_is_believed() {
        for trusted in ["", "10.0.0.0/8", "203.0.113.6"] {
            assert_eq!(client(trusted, "203.0.113.7", &["198.51.100.1"]), "203.0.113.7", "{trusted}");
        }
        assert_eq!(client("203.0.113.7", "203.0.113.7", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("203.0.113.7", "::ffff:203.0.113.7", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn the_rightmost_that_is_no_proxy_is_the_client() {
        let trusted = "10.0.0.0/8, 2001:db8:1::/48";
        for (lines, is) in [
            (&["1.1.1.1, 198.51.100.1"][..], "198.51.100.1"),
            (&["1.1.1.1, 198.51.100.1, 10.9.9.9, 2001:db8:1::7"], "198.51.100.1"),
            (&["1.1.1.1", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
            (&["10.1.1.1,10.9.9.9"], "10.1.1.1"),
            (&["2001:db8:2::7"], "2001:db8:2::7"),
            (&["[2001:db8:2::7]:443"], "2001:db8:2::7"),
            (&["[2001:db8:2::7]"], "2001:db8:2::7"),
            (&["198.51.100.1:50123"], "198.51.100.1"),
            (&["::ffff:198.51.100.1"], "198.51.100.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(client(trusted, "10.0.0.1", lines), is, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_not_looked_behind() {
        for line in
            ["", "unknown", "198.51.100.1, _hidden", "198.51.100.1, ", "198.51.100.1, 999.1.1.1", "198.51.100.1, ä"]
        {
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[line]), "10.0.0.1", "{line}");
        }
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["198.51.100.1, rubbish, 10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn what_is_no_network_is_named() {
        for (text, named) in [("10.0.0.0/33", "10.0.0.0/33"), ("10.0.0.1,proxy.example", "proxy.example"), ("*", "*")] {
            let error = TrustedProxies::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{named}\"")), "{error}");
        }
        assert_eq!(TrustedProxies::try_from(" , ".to_owned()).unwrap(), TrustedProxies::default());
    }

    #[test]
    fn addresses_of_one_v6_network_are_one_client() {
        let of = |text: &str| ClientAddress::of(text.parse().unwrap()).0.to_string();
        assert_eq!(of("2001:db8:1:2:ffff:ffff:ffff:ffff"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:8000::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:198.51.100.1"), "198.51.100.1");
        assert_ne!(of("198.51.100.1"), of("198.51.100.2"));
    }
}
