//! What `email-worker` is told from outside. `defaults.toml` documents each.

use lettre::message::Mailbox;
use pipeline::jobs::{EmailAddress, PersonName};
use pipeline::{BrokerSettings, WorkerSettings};
use serde::Deserialize;
use service::{HealthSettings, LogSettings, ShutdownSettings};
use store::{DatabaseSettings, FilesSettings, LinkSettings};
use url::{Host, Url};

/// The values that need not be given.
pub const DEFAULTS: &str = include_str!("../defaults.toml");

/// Every setting of the service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How it logs.
    pub log: LogSettings,
    /// Where health and metrics are served.
    pub health: HealthSettings,
    /// How long it may take to end.
    pub shutdown: ShutdownSettings,
    /// Where the broker is.
    pub broker: BrokerSettings,
    /// How many mails it sends at once.
    pub worker: WorkerSettings,
    /// Where it notes what was sent.
    pub database: DatabaseSettings,
    /// Where the reports are.
    pub files: FilesSettings,
    /// How signed links are made.
    pub links: LinkSettings,
    /// Where mails go out.
    pub smtp: SmtpSettings,
    /// What stands on them.
    pub mail: MailSettings,
}

/// Where mails go out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// The relay.
    pub url: SmtpUrl,
}

/// What stands on every mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Whom it comes from.
    pub from: Sender,
}

/// `smtp://host:port`, and nothing that this service could not keep: no TLS, no password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SmtpUrl {
    /// A name or an address.
    pub host: String,
    /// 25 where none is given.
    pub port: u16,
}

/// Why a text is no [`SmtpUrl`]. The text itself is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSmtpUrl {
    /// `smtps://`, or a `tls` parameter.
    #[error("TLS to the relay is not supported: give smtp://host:port of a relay inside the own network")]
    Tls,
    /// `smtp://user:password@…`
    #[error("signing in to the relay is not supported: without TLS the password would travel in the open")]
    Password,
    /// Anything else.
    #[error("not of the form smtp://host:port")]
    Form,
}

impl TryFrom<String> for SmtpUrl {
    type Error = InvalidSmtpUrl;

    fn try_from(text: String) -> Result<Self, InvalidSmtpUrl> {
        let url: Url = text.parse().map_err(|_| InvalidSmtpUrl::Form)?;
        if url.scheme() == "smtps" || url.query_pairs().any(|(name, _)| name == "tls") {
            return Err(InvalidSmtpUrl::Tls);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidSmtpUrl::Password);
        }
        let plain = url.scheme() == "smtp"
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        match url.host() {
            Some(host) if plain => {
                let host = match host {
                    Host::Ipv6(address) => address.to_string(),
                    host => host.to_string(),
                };
                Ok(Self { host, port: url.port().unwrap_or(25) })
            }
            _ => Err(InvalidSmtpUrl::Form),
        }
    }
}

/// A name and an address, as strict as those that mail goes to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sender {
    /// The name that the reader sees.
    pub name: PersonName,
    /// The address, also of the envelope: where bounces go.
    pub address: EmailAddress,
}

/// A text is no [`Sender`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form Name <address>")]
pub struct InvalidSender;

impl TryFrom<String> for Sender {
    type Error = InvalidSender;

    fn try_from(text: String) -> Result<Self, InvalidSender> {
        let mailbox: Mailbox = text.parse().map_err(|_| InvalidSender)?;
        let name = mailbox.name.ok_or(InvalidSender)?;
        Ok(Self {
            name: name.try_into().map_err(|_| InvalidSender)?,
            address: mailbox.email.to_string().try_into().map_err(|_| InvalidSender)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use config::{Config, File, FileFormat};

    use super::{DEFAULTS, InvalidSmtpUrl, Sender, Settings, SmtpUrl};

    fn smtp(text: &str) -> Result<(String, u16), InvalidSmtpUrl> {
        SmtpUrl::try_from(text.to_owned()).map(|url| (url.host, url.port))
    }

    #[test]
    fn the_defaults_lack_just_the_three_values_that_they_name() {
        let given = "[broker]\nurl = \"amqp://a\"\n[database]\nurl = \"postgres://a\"\n[links]\nsecret = \"s\"\n";
        let config = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(given, FileFormat::Toml));
        let settings: Settings = config.build().unwrap().try_deserialize().unwrap();
        assert_eq!(settings.worker.concurrency.get(), 8);
        assert_eq!(settings.mail.from.address.as_str(), "postroom@shop.example");
    }

    #[test]
    fn a_relay_is_a_host_and_a_port() {
        assert_eq!(smtp("smtp://mail:1025"), Ok(("mail".to_owned(), 1025)));
        assert_eq!(smtp("smtp://relay.shop.example"), Ok(("relay.shop.example".to_owned(), 25)));
        assert_eq!(smtp("smtp://127.0.0.1:2525/"), Ok(("127.0.0.1".to_owned(), 2525)));
        assert_eq!(smtp("smtp://[::1]:2525"), Ok(("::1".to_owned(), 2525)));
    }

    #[test]
    fn a_relay_that_wants_tls_or_a_password_is_refused_at_start() {
        for tls in [
            "smtps://relay",
            "smtps://user:pass@relay",
            "smtp://relay:587?tls=required",
            "smtp://relay?tls=opportunistic",
        ] {
            assert_eq!(smtp(tls), Err(InvalidSmtpUrl::Tls), "{tls}");
        }
        for password in ["smtp://user:pass@relay", "smtp://user@relay"] {
            assert_eq!(smtp(password), Err(InvalidSmtpUrl::Password), "{password}");
        }
        for form in
            ["", "relay:25", "http://relay", "smtp://", "smtp://relay/ehlo", "smtp://relay?timeout=1", "smtp://relay#x"]
        {
            assert_eq!(smtp(form), Err(InvalidSmtpUrl::Form), "{form}");
        }
        let shown = smtp("smtp://user:pass@relay").unwrap_err().to_string();
        assert!(!shown.contains("pass@"), "{shown}");
    }

    #[test]
    fn a_sender_has_a_name_and_an_address() {
        let sender = Sender::try_from("The \"Post\" Room <post@shop.example>".to_owned());
        assert_eq!(sender.unwrap().address.as_str(), "post@shop.example");
        for bad in [
            "",
            "post@shop.example",
            "<post@shop.example>",
            "Post <post>",
            "Post\r\nBcc: a@b <a@b>",
            "Post <ä@shop.example>",
        ] {
            assert!(Sender::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
