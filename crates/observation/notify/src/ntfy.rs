//! The ntfy server: cards are published as JSON, with a sequence id by which a later one replaces an earlier one.
//!
//! It refuses redirects, answers nothing of what a server says in its body, and speaks without TLS to this machine only.
//! Invariant: the token and the topic are in no error.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use mirror_paths::Home;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;

use crate::notify::{Content, Urgency};

/// Longest time of one call, from the name's look-up to the answer's head.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest token, in bytes.
const TOKEN_BYTES: u64 = 256;
/// Most characters of a cause that is repeated.
const CAUSE_CHARS: usize = 160;

/// A topic of a server.
#[derive(Clone)]
pub(crate) struct Place {
    url: Url,
    topic: String,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Place {
    /// Checks the address of a server and a topic; the error begins with the key.
    pub(crate) fn parse(url: &str, topic: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "ntfy.url must be https://HOST[:PORT] without a path or a password";
        let url: Url = url.parse().map_err(|_| WRONG)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !plain || url.fragment().is_some() || url.path() != "/" || url.host_str().is_none() {
            return Err(WRONG);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_this_machine(&url) => {}
            "http" => {
                return Err("ntfy.url must be https, since a token must not cross a network in clear text");
            }
            _ => return Err(WRONG),
        }
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if topic.len() > 64 || !topic.bytes().all(known) {
            return Err("ntfy.topic must be 1 to 64 of [A-Za-z0-9_-]");
        }
        Ok(Self { url, topic: topic.to_owned() })
    }
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Why a server did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may later; it may have said after how long.
    Later { after: Option<Duration>, why: String },
    /// It may when a person has mended something.
    Person(String),
    /// It never takes this card.
    Never(String),
}

/// One server.
#[derive(Debug)]
pub(crate) struct Ntfy {
    place: Place,
    token: PathBuf,
    origin: String,
    /// Kept while there is something to send: the trusted roots alone take a megabyte.
    client: Option<Client>,
}

#[derive(Serialize)]
struct Message<'a> {
    topic: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    title: &'a str,
    priority: u8,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [&'a str],
    sequence_id: String,
}

impl Ntfy {
    pub(crate) fn new(place: Place, home: &Home, origin: &str) -> Self {
        Self { place, token: home.keys().join("ntfy.token"), origin: origin.to_owned(), client: None }
    }

    /// Lets go of what is only needed to send.
    pub(crate) fn rest(&mut self) {
        self.client = None;
    }

    /// Publishes a card; it takes the place of the one before of its subject.
    pub(crate) async fn publish(&mut self, subject: &str, content: &Content) -> Result<(), Failure> {
        // A message without a text would be shown as "triggered".
        let (title, message) = match content.body.as_str() {
            "" => ("", content.title.as_str()),
            body => (content.title.as_str(), body),
        };
        let (priority, tags): (u8, &[&str]) = match content.urgency {
            Urgency::Min => (1, &[]),
            Urgency::Low => (2, &[]),
            Urgency::Default => (3, &[]),
            Urgency::High => (4, &["warning"]),
            Urgency::Urgent => (5, &["rotating_light"]),
        };
        let sequence_id = self.sequence(subject);
        let message = Message { topic: &self.place.topic, message, title, priority, tags, sequence_id };
        let body = serde_json::to_vec(&message).map_err(|e| Failure::Never(e.to_string()))?;
        let status = self.call(Method::POST, self.place.url.clone(), Some(body)).await?;
        match status {
            StatusCode::NOT_FOUND => Err(Failure::Person(told(status, "it is no ntfy server"))),
            _ if status.is_success() => Ok(()),
            _ => Err(Failure::Never(told(status, "the server refuses the card"))),
        }
    }

    /// Takes the card of a subject back; a server that is too old to do that leaves it.
    pub(crate) async fn delete(&mut self, subject: &str) -> Result<(), Failure> {
        let mut url = self.place.url.clone();
        url.set_path(&format!("/{}/{}", self.place.topic, self.sequence(subject)));
        self.call(Method::DELETE, url, None).await.map(drop)
    }

    /// Returns the id of a subject's cards: other devices may share the topic, and a subject's dots are not allowed.
    fn sequence(&self, subject: &str) -> String {
        let hash = blake3::hash(format!("{}\n{subject}", self.origin).as_bytes());
        format!("mirror-{}", hash.to_hex().get(..32).unwrap_or_default())
    }

    /// Returns the status of an answer that is about the request and not about the server.
    async fn call(&mut self, method: Method, url: Url, body: Option<Vec<u8>>) -> Result<StatusCode, Failure> {
        let token = self.token()?;
        let mut request = self.client()?.request(method, url);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        // The body of the answer is never read: it goes with the connection.
        let answer = request.send().await.map_err(unreachable)?;
        judge(&answer)
    }

    fn client(&mut self) -> Result<&Client, Failure> {
        if self.client.is_none() {
            // An error means that the process has a provider already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let built = Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(0)
                .timeout(DEADLINE)
                .user_agent("mirror-notify")
                .build();
            let why = |e| Failure::Person(format!("no client can be made: {}", cause(&e)));
            self.client = Some(built.map_err(why)?);
        }
        self.client.as_ref().ok_or_else(|| Failure::Person("no client can be made".to_owned()))
    }

    /// Returns the header that proves who sends, where there is a token.
    fn token(&self) -> Result<Option<HeaderValue>, Failure> {
        let refuse = |why: &str| Failure::Person(format!("keys/ntfy.token {why}"));
        let file = match File::open(&self.token) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(refuse(&format!("cannot be read: {e}"))),
        };
        let meta = file.metadata().map_err(|e| refuse(&format!("cannot be read: {e}")))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(refuse("may be read by others; chmod 600 it"));
        }
        let mut text = String::new();
        file.take(TOKEN_BYTES + 1).read_to_string(&mut text).map_err(|_| refuse("is not text"))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) || text.len() as u64 > TOKEN_BYTES
        {
            return Err(refuse("must hold one token of at most 256 bytes, or be removed"));
        }
        let mut value =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| refuse("holds no token"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Sorts an answer.
fn judge(answer: &Response) -> Result<StatusCode, Failure> {
    let status = answer.status();
    let seconds = || answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    let after = || seconds().map(Duration::from_secs);
    match status.as_u16() {
        401 | 403 => Err(Failure::Person(told(status, "the server refuses the token or the topic"))),
        300..=399 => {
            Err(Failure::Person(told(status, "the server is elsewhere; set ntfy.url to that address")))
        }
        429 => {
            Err(Failure::Later { after: after(), why: told(status, "the server has had too many messages") })
        }
        408 | 500..=599 => {
            Err(Failure::Later { after: after(), why: told(status, "the server is in trouble") })
        }
        _ => Ok(status),
    }
}

fn told(status: StatusCode, why: &str) -> String {
    format!("{why} (HTTP {})", status.as_u16())
}

fn unreachable(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let why = if error.is_timeout() {
        "the server did not answer within 10 seconds".to_owned()
    } else {
        format!("the server cannot be reached: {}", cause(&error))
    };
    Failure::Later { after: None, why }
}

/// Returns the innermost cause of an error, which names neither the address nor a header.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string().chars().filter(|c| !c.is_control()).take(CAUSE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ntfy(dir: &tempfile::TempDir) -> Ntfy {
        let home = Home::at(dir.path().join("m")).unwrap();
        home.prepare().unwrap();
        Ntfy::new(Place::parse("http://127.0.0.1:1", "t").unwrap(), &home, "0123456789abcdef.1")
    }

    #[test]
    fn a_token_is_private_or_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let ntfy = ntfy(&dir);
        assert_eq!(ntfy.token().unwrap(), None);
        mirror_paths::write_atomic(&ntfy.token, b"tk_secret\n").unwrap();
        let header = ntfy.token().unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer tk_secret");
        assert!(!format!("{header:?}").contains("tk_secret"));
        let refused = || match ntfy.token() {
            Err(Failure::Person(why)) => why,
            other => panic!("{other:?}"),
        };
        std::fs::set_permissions(&ntfy.token, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(refused().contains("chmod 600"));
        let long = "x".repeat(257);
        for bad in ["", "\n", "two words", "tk_\u{e9}", &long] {
            mirror_paths::write_atomic(&ntfy.token, bad.as_bytes()).unwrap();
            assert!(refused().contains("one token"), "{bad:?}");
        }
        mirror_paths::write_atomic(&ntfy.token, &[0xff]).unwrap();
        assert!(refused().contains("not text"));
    }

    #[test]
    fn a_sequence_is_one_of_the_device_and_the_subject() {
        let dir = tempfile::tempdir().unwrap();
        let mut ntfy = ntfy(&dir);
        let first = ntfy.sequence("pulse.bus");
        assert!(first.len() <= 64 && first.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        assert_eq!(ntfy.sequence("pulse.bus"), first);
        assert_ne!(ntfy.sequence("pulse.blobs"), first);
        ntfy.origin = "fedcba9876543210.1".into();
        assert_ne!(ntfy.sequence("pulse.bus"), first);
    }
}
