//! Links that let whoever holds them fetch one report, or the files of one video, until a moment in time, and nothing else.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use url::Url;
use uuid::Uuid;

/// Shorter secrets are refused: the signature is no stronger than its key.
const LEAST_SECRET_BYTES: usize = 32;
/// What a link is for stands first in the signed text, so that no signature ever fits another kind of link.
const REPORT: &str = "postroom report-pdf v1";
const VIDEO: &str = "postroom video-files v1";

/// What links are made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// The address under which customers reach `web`.
    pub base_url: Url,
    /// Signs the links; at least 32 bytes, the same in every service that makes or checks them.
    pub secret: SecretString,
}

/// Why links cannot be made, or why one does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The settings hold a secret that is too short.
    #[error("links.secret is shorter than {LEAST_SECRET_BYTES} bytes")]
    ShortSecret,
    /// The settings hold an address on which no path can be built.
    #[error("links.base_url is not an http or https address")]
    BaseUrl,
    /// The signature was not made by this secret for this thing and this moment.
    #[error("the link's signature is wrong")]
    WrongSignature,
    /// The signature is right, but its time is over.
    #[error("the link has expired")]
    Expired,
}

/// Makes and checks signed links.
#[derive(Clone)]
pub struct SignedLinks {
    base_url: Url,
    key: Hmac<Sha256>,
}

impl SignedLinks {
    /// # Errors
    /// [`LinkError::ShortSecret`] or [`LinkError::BaseUrl`]: the settings are not usable.
    pub fn new(settings: &LinkSettings) -> Result<Self, LinkError> {
        let secret = settings.secret.expose_secret().as_bytes();
        if secret.len() < LEAST_SECRET_BYTES {
            return Err(LinkError::ShortSecret);
        }
        if !matches!(settings.base_url.scheme(), "http" | "https") {
            return Err(LinkError::BaseUrl);
        }
        let key = Hmac::new_from_slice(secret).map_err(|_| LinkError::ShortSecret)?;
        Ok(Self { base_url: settings.base_url.clone(), key })
    }

    /// `{base}/v1/reports/{id}/pdf?expires=<unix seconds>&signature=<hex>`, good until `expires_at`.
    #[must_use]
    pub fn url_for_report(&self, report_id: Uuid, expires_at: DateTime<Utc>) -> Url {
        self.url(&["reports", &report_id.to_string(), "pdf"], REPORT, report_id, expires_at)
    }

    /// `{base}/v1/videos/{id}/files/{file}?expires=<unix seconds>&signature=<hex>`, good until `expires_at`. What it brings opens
    /// every file of the video: a player fetches a list, and then what stands in it.
    #[must_use]
    pub fn url_for_video(&self, video_id: Uuid, file: &str, expires_at: DateTime<Utc>) -> Url {
        self.url(&["videos", &video_id.to_string(), "files", file], VIDEO, video_id, expires_at)
    }

    /// Checks what a request brought: `expires` in unix seconds and the signature in lower-case hex. Takes the same time
    /// for every wrong signature of the right length.
    ///
    /// # Errors
    /// [`LinkError::WrongSignature`], or [`LinkError::Expired`] for a good signature at or after its moment.
    pub fn verify(&self, report_id: Uuid, expires: i64, signature: &str, now: DateTime<Utc>) -> Result<(), LinkError> {
        self.verify_for(REPORT, report_id, expires, signature, now)
    }

    /// The same for a file of a video, whichever it is.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_video(
        &self,
        video_id: Uuid,
        expires: i64,
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LinkError> {
        self.verify_for(VIDEO, video_id, expires, signature, now)
    }

    fn url(&self, path: &[&str], purpose: &str, id: Uuid, expires_at: DateTime<Utc>) -> Url {
        let expires = expires_at.timestamp();
        let mut url = self.base_url.clone();
        // An http address always has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url.set_fragment(None);
        url.query_pairs_mut()
            .clear()
            .append_pair("expires", &expires.to_string())
            .append_pair("signature", &self.signature(purpose, id, expires));
        url
    }

    fn verify_for(
        &self,
        purpose: &str,
        id: Uuid,
        expires: i64,
        signature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LinkError> {
        let expected = self.signature(purpose, id, expires);
        if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
            return Err(LinkError::WrongSignature);
        }
        if now.timestamp() >= expires {
            return Err(LinkError::Expired);
        }
        Ok(())
    }

    fn signature(&self, purpose: &str, id: Uuid, expires: i64) -> String {
        let mut mac = self.key.clone();
        mac.update(format!("{purpose}\n{id}\n{expires}").as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use url::Url;
    use uuid::Uuid;

    use super::{LinkError, LinkSettings, SignedLinks};

    const REPORT: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
    const VIDEO: Uuid = REPORT;
    const SECRET: &str = "an example secret of 32 bytes ok";

    fn links(base: &str, secret: &str) -> SignedLinks {
        SignedLinks::new(&LinkSettings { base_url: base.parse().unwrap(), secret: secret.into() }).unwrap()
    }

    fn noon() -> DateTime<Utc> {
        "2026-01-15T12:00:00Z".parse().unwrap()
    }

    fn parts(url: &Url) -> (i64, String) {
        let find = |name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
        (find("expires").parse().unwrap(), find("signature"))
    }

    #[test]
    fn a_link_opens_its_report_until_it_expires() {
        let links = links("http://127.0.0.1:8080", SECRET);
        let (expires, signature) = parts(&links.url_for_report(REPORT, noon()));
        let check = |now| links.verify(REPORT, expires, &signature, now);
        assert_eq!(check(noon() - TimeDelta::seconds(1)), Ok(()));
        assert_eq!(check(noon()), Err(LinkError::Expired));
        assert_eq!(check(noon() + TimeDelta::days(400)), Err(LinkError::Expired));
    }

    #[test]
    fn every_changed_character_of_a_signature_is_noticed() {
        let links = links("http://127.0.0.1:8080", SECRET);
        let (expires, signature) = parts(&links.url_for_report(REPORT, noon()));
        let now = noon() - TimeDelta::hours(1);
        for place in 0..signature.len() {
            let mut forged = signature.clone().into_bytes();
            forged[place] = if forged[place] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(links.verify(REPORT, expires, &forged, now), Err(LinkError::WrongSignature), "place {place}");
        }
        for forged in ["", "00", &signature[..63], &format!("{signature}0"), &signature.to_uppercase()] {
            assert_eq!(links.verify(REPORT, expires, forged, now), Err(LinkError::WrongSignature), "{forged}");
        }
    }

    #[test]
    fn a_signature_fits_one_report_one_moment_and_one_secret() {
        let ours = links("http://127.0.0.1:8080", SECRET);
        let (expires, signature) = parts(&ours.url_for_report(REPORT, noon()));
        let now = noon() - TimeDelta::hours(1);
        let other_report = Uuid::from_u128(REPORT.as_u128() + 1);
        assert_eq!(ours.verify(other_report, expires, &signature, now), Err(LinkError::WrongSignature));
        assert_eq!(ours.verify(REPORT, expires + 3600, &signature, now), Err(LinkError::WrongSignature));
        let theirs = links("http://127.0.0.1:8080", "another secret that has 32 bytes");
        assert_eq!(theirs.verify(REPORT, expires, &signature, now), Err(LinkError::WrongSignature));
    }

    #[test]
    fn a_link_of_a_video_opens_it_until_it_expires_and_no_other() {
        let links = links("http://127.0.0.1:8080", SECRET);
        let (expires, signature) = parts(&links.url_for_video(VIDEO, "720p.mp4", noon()));
        let before = noon() - TimeDelta::seconds(1);
        assert_eq!(links.verify_video(VIDEO, expires, &signature, before), Ok(()));
        assert_eq!(links.verify_video(VIDEO, expires, &signature, noon()), Err(LinkError::Expired));
        let other = Uuid::from_u128(VIDEO.as_u128() + 1);
        for (video, expires) in [(other, expires), (VIDEO, expires + 1)] {
            assert_eq!(links.verify_video(video, expires, &signature, before), Err(LinkError::WrongSignature));
        }
        // The list that a player fetches, and what stands in it.
        assert_eq!(parts(&links.url_for_video(VIDEO, "playlist.m3u8", noon())), (expires, signature));
    }

    #[test]
    fn a_link_of_a_video_never_opens_a_report_nor_the_other_way_round() {
        let links = links("http://127.0.0.1:8080", SECRET);
        let now = noon() - TimeDelta::hours(1);
        let (expires, signature) = parts(&links.url_for_video(VIDEO, "720p.mp4", noon()));
        assert_eq!(links.verify(VIDEO, expires, &signature, now), Err(LinkError::WrongSignature));
        let (expires, signature) = parts(&links.url_for_report(VIDEO, noon()));
        assert_eq!(links.verify_video(VIDEO, expires, &signature, now), Err(LinkError::WrongSignature));
    }

    #[test]
    fn a_link_of_a_video_has_the_published_form_whatever_the_file_is_called() {
        for (file, written) in
            [("720p.mp4", "720p.mp4"), ("../../../a?b=c#d", "..%2F..%2F..%2Fa%3Fb=c%23d"), ("a b\r\n", "a%20b")]
        {
            let url = links("https://shop.example/post/", SECRET).url_for_video(VIDEO, file, noon()).to_string();
            let expected =
                format!("https://shop.example/post/v1/videos/{VIDEO}/files/{written}?expires=1768478400&signature=");
            assert_eq!(url.split_at(expected.len()).0, expected);
            assert_eq!(url.len(), expected.len() + 64);
        }
    }

    #[test]
    fn a_link_has_the_published_form_also_below_a_path() {
        for (base, start) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/reports/"),
            ("https://shop.example/post/", "https://shop.example/post/v1/reports/"),
            ("https://shop.example/post?a=b#c", "https://shop.example/post/v1/reports/"),
        ] {
            let url = links(base, SECRET).url_for_report(REPORT, noon()).to_string();
            let expected = format!("{start}{REPORT}/pdf?expires=1768478400&signature=");
            assert_eq!(url.split_at(expected.len()).0, expected);
            assert_eq!(url.len(), expected.len() + 64);
        }
    }

    #[test]
    fn settings_that_would_make_weak_or_dead_links_are_refused() {
        let new = |base: &str, secret: &str| {
            SignedLinks::new(&LinkSettings { base_url: base.parse().unwrap(), secret: secret.into() }).err()
        };
        assert_eq!(new("http://127.0.0.1", &"x".repeat(31)), Some(LinkError::ShortSecret));
        assert_eq!(new("mailto:web@shop.example", SECRET), Some(LinkError::BaseUrl));
        assert_eq!(new("http://127.0.0.1", SECRET), None);
    }
}
