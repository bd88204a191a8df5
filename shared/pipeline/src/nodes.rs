//! The nodes of a broker, as `broker.url` names them, and which of them a connection tries next.

use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;
use rand::seq::SliceRandom;

/// TCP and login, where there is nobody else to ask.
const DEADLINE: Duration = Duration::from_secs(10);
/// The same in a round in which others have not been tried: one that is cut off says nothing, and must not hold up for long.
const SHORT_DEADLINE: Duration = Duration::from_secs(3);

/// Why `broker.url` cannot be used. No part of it is shown, because any may be a part of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidUrls {
    #[error("not of the form amqp://user:password@host:port/vhost")]
    Form,
    #[error("{0} is empty")]
    EmptyOf(Place),
    #[error("{0} is not of the form amqp://user:password@host:port/vhost (a comma in a password is written %2C)")]
    FormOf(Place),
    #[error("{0} has another user, password or virtual host than the first: several URLs are nodes of one cluster")]
    OtherThanFirst(Place),
}

/// Which of several URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    number: usize,
    of: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "URL {} of {}", self.number, self.of)
    }
}

/// One node.
#[derive(Clone)]
pub(crate) struct Node {
    /// With the password.
    pub(crate) uri: String,
    /// `host:port`.
    pub(crate) name: String,
}

/// The nodes of one broker: any of them will do.
#[derive(Clone)]
pub(crate) struct Nodes(Vec<Node>);

impl Nodes {
    /// From one AMQP URL, or several with commas between them.
    pub(crate) fn parse(urls: &str) -> Result<(Self, AMQPUri), InvalidUrls> {
        if !urls.contains(',') {
            let uri = urls.parse::<AMQPUri>().map_err(|_| InvalidUrls::Form)?;
            return Ok((Self(vec![Node::new(urls, &uri)]), uri));
        }
        let urls: Vec<&str> = urls.split(',').map(str::trim).collect();
        let (mut nodes, mut first) = (Vec::new(), None);
        for (index, url) in urls.iter().enumerate() {
            let place = Place { number: index + 1, of: urls.len() };
            if url.is_empty() {
                return Err(InvalidUrls::EmptyOf(place));
            }
            let uri = url.parse::<AMQPUri>().map_err(|_| InvalidUrls::FormOf(place))?;
            nodes.push(Node::new(url, &uri));
            let first = first.get_or_insert_with(|| uri.clone());
            if uri.authority.userinfo != first.authority.userinfo || uri.vhost != first.vhost {
                return Err(InvalidUrls::OtherThanFirst(place));
            }
        }
        Ok((Self(nodes), first.ok_or(InvalidUrls::Form)?))
    }

    /// Each in turn, in an order of their own, so that connections spread over the nodes.
    pub(crate) fn in_turn(mut self) -> Turns {
        self.0.shuffle(&mut rand::rng());
        Turns { nodes: self.0, tried: 0, in_first_round: true }
    }
}

impl Node {
    fn new(url: &str, uri: &AMQPUri) -> Self {
        let (host, port) = (&uri.authority.host, uri.authority.port);
        Self { uri: with_heartbeat(url, uri), name: format!("{host}:{port}") }
    }
}

/// 10 s notices a dead peer soon and stands a slow one; the broker's own 60 s is too long for people who wait.
fn with_heartbeat(url: &str, uri: &AMQPUri) -> String {
    if uri.query.heartbeat.is_some() {
        return url.to_owned();
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}heartbeat=10")
}

/// Who is tried when. A round is one attempt with each node.
pub(crate) struct Turns {
    nodes: Vec<Node>,
    /// In this round.
    tried: usize,
    in_first_round: bool,
}

impl Turns {
    /// The next one, and how long it may take to let us in.
    pub(crate) fn next(&mut self) -> (&Node, Duration) {
        let alone = self.nodes.len() == 1;
        let deadline = if self.in_first_round && !alone { SHORT_DEADLINE } else { DEADLINE };
        let node = &self.nodes[self.tried];
        self.tried += 1;
        (node, deadline)
    }

    /// The last one has let us in: what is tried after it is lost begins with another.
    pub(crate) fn succeeded(&mut self) {
        self.nodes.rotate_left(self.tried);
        (self.tried, self.in_first_round) = (0, true);
    }

    /// The last one has not let us in; whether the round is over.
    pub(crate) fn failed(&mut self) -> bool {
        let over = self.tried == self.nodes.len();
        if over {
            (self.tried, self.in_first_round) = (0, false);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::{DEADLINE, InvalidUrls, Nodes, Place, SHORT_DEADLINE, Turns};

    const THREE: &str = "amqp://web:secret@one:1/postroom,
        amqp://web:secret@two/postroom?heartbeat=3, amqp://web:secret@three:3/postroom?frame_max=8192";

    fn nodes(urls: &str) -> Nodes {
        Nodes::parse(urls).unwrap().0
    }

    fn next(turns: &mut Turns) -> String {
        turns.next().0.name.clone()
    }

    #[test]
    fn one_url_is_one_node_and_several_are_several() {
        assert_eq!(nodes("amqp://web:secret@one/postroom").0[0].uri, "amqp://web:secret@one/postroom?heartbeat=10");
        let Nodes(three) = nodes(THREE);
        let of = |what: fn(&super::Node) -> &String| three.iter().map(|node| what(node).as_str()).collect::<Vec<_>>();
        assert_eq!(of(|node| &node.name), ["one:1", "two:5672", "three:3"]);
        assert_eq!(
            of(|node| &node.uri),
            [
                "amqp://web:secret@one:1/postroom?heartbeat=10",
                "amqp://web:secret@two/postroom?heartbeat=3",
                "amqp://web:secret@three:3/postroom?frame_max=8192&heartbeat=10",
            ]
        );
    }

    #[test]
    fn urls_that_cannot_be_used_are_told_apart_and_never_shown() {
        let second = Place { number: 2, of: 2 };
        for (urls, wanted) in [
            ("", InvalidUrls::Form),
            ("secret", InvalidUrls::Form),
            ("amqp:web:secret@one", InvalidUrls::Form),
            ("http://web:secret@one/postroom", InvalidUrls::Form),
            ("amqp://web:secret@one:secret/postroom", InvalidUrls::Form),
            (",", InvalidUrls::EmptyOf(Place { number: 1, of: 2 })),
            ("amqp://web:secret@one/postroom,", InvalidUrls::EmptyOf(second)),
            (
                "amqp://web:secret@one/postroom, ,amqp://web:secret@two/postroom",
                InvalidUrls::EmptyOf(Place { number: 2, of: 3 }),
            ),
            ("amqp://web:se,cret:secret@one/postroom", InvalidUrls::FormOf(Place { number: 1, of: 2 })),
            ("amqp://web:secret@one/postroom,secret://web@two/postroom", InvalidUrls::FormOf(second)),
            ("amqp://web:secret@one/postroom,amqp://web:secret@two/other", InvalidUrls::OtherThanFirst(second)),
            ("amqp://web:secret@one/postroom,amqp://web:secret@two", InvalidUrls::OtherThanFirst(second)),
            ("amqp://web:secret@one/postroom,amqp://web:secret2@two/postroom", InvalidUrls::OtherThanFirst(second)),
            ("amqp://web:secret@one/postroom,amqp://mail:secret@two/postroom", InvalidUrls::OtherThanFirst(second)),
        ] {
            let refused = Nodes::parse(urls).map(|_| ()).unwrap_err();
            assert_eq!(refused, wanted, "{urls}");
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }

    #[test]
    fn each_is_tried_once_in_a_round_and_the_lost_one_last() {
        let mut turns = nodes(THREE).in_turn();
        let round = [next(&mut turns), next(&mut turns), next(&mut turns)];
        let mut sorted = round.clone();
        sorted.sort();
        assert_eq!(sorted, ["one:1", "three:3", "two:5672"]);
        assert!(turns.failed());
        assert_eq!(next(&mut turns), round[0]);
        assert!(!turns.failed());
        assert_eq!(next(&mut turns), round[1]);
        turns.succeeded();
        assert_eq!([next(&mut turns), next(&mut turns), next(&mut turns)], [&round[2][..], &round[0], &round[1]]);
    }

    #[test]
    fn connections_begin_with_any_of_them() {
        let first: std::collections::BTreeSet<_> = (0..200).map(|_| next(&mut nodes(THREE).in_turn())).collect();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn only_while_another_is_untried_has_one_little_time() {
        let deadline = |turns: &mut Turns| turns.next().1;
        let mut alone = nodes("amqp://web:secret@one/postroom").in_turn();
        assert_eq!(deadline(&mut alone), DEADLINE);
        let mut turns = nodes(THREE).in_turn();
        for _ in 0..3 {
            assert_eq!(deadline(&mut turns), SHORT_DEADLINE);
            turns.failed();
        }
        // Whoever is slow, but there, is let in at last.
        assert_eq!(deadline(&mut turns), DEADLINE);
        turns.succeeded();
        assert_eq!(deadline(&mut turns), SHORT_DEADLINE);
    }
}
