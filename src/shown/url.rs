//! A path or URL as the user gave it.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Schemes of places, also where what follows them is mistyped.
const SCHEMES: [&str; 9] = ["s3a", "s3", "gs", "az", "abfss", "abfs", "https", "http", "file"];

/// A path or URL that cannot be printed, logged or stored with its secrets: Display, Debug and serde give it without user,
/// password and the values of its query. Only whoever opens the place asks for all of it, by [`Url::exposed`].
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "String")]
pub struct Url(String);

impl Url {
    /// All of it, secrets included: to open the place, and for nothing else.
    pub fn exposed(&self) -> &str {
        &self.0
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The scheme of `scheme://...`, in lower case; `None` for a path.
    pub fn scheme(&self) -> Option<String> {
        self.0.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())
    }

    /// Whether it is a path, or a `file://` URL: `?` is a wildcard there, and begins a query everywhere else.
    pub fn is_local(&self) -> bool {
        self.scheme().is_none_or(|scheme| scheme == "file")
    }

    /// Everything in front of the query.
    pub fn without_query(&self) -> &str {
        if self.is_local() { &self.0 } else { split_query(&self.0, false).0 }
    }

    /// Whether it has a query, as presigned URLs have.
    pub fn has_query(&self) -> bool {
        self.without_query().len() < self.0.len()
    }

    /// Whether it stands for several files: `*` and `[`, in paths also `?`.
    pub fn is_glob(&self) -> bool {
        let place = self.without_query();
        if self.is_local() {
            return place.contains(['*', '?', '[']);
        }
        let path = place.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        path.is_some_and(|(_, path)| path.contains(['*', '[']))
    }

    /// The folder of a URL, and the name in it.
    pub fn split(&self) -> (Self, &str) {
        let place = self.without_query();
        place.rsplit_once('/').map_or((self.clone(), ""), |(parent, name)| (parent.into(), name))
    }

    /// Why this cannot be a place to write to or to list; `None` where it can.
    pub fn refused(&self) -> Option<&'static str> {
        self.refused_as_input().or_else(|| {
            self.has_query().then_some(
                "a query (`?` or `#` and what follows) belongs to https:// files that are read only; expected \
                 scheme://bucket/prefix, and credentials in the environment",
            )
        })
    }

    /// Why this cannot be a file to read; `None` where it can. A web server's files may have a query, which may be a signature.
    pub fn refused_as_input(&self) -> Option<&'static str> {
        let scheme = self.scheme();
        let Some(scheme) = scheme.as_deref() else { return self.refused_as_path() };
        let place = self.without_query().split_once("://").map_or("", |(_, rest)| rest);
        let authority = place.split('/').next().unwrap_or_default();
        let is_whole = scheme == "file" || !authority.is_empty();
        if scheme.is_empty() || !scheme.chars().all(is_of_scheme) || !is_whole {
            return Some("this is no URL: expected a path, or scheme://bucket/prefix");
        }
        if has_user(scheme, authority) {
            return Some(
                "the URL carries a user or a password; expected scheme://bucket/prefix, and credentials in the environment \
                 (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the provider's own)",
            );
        }
        let may_have_query = matches!(scheme, "http" | "https");
        let has_query = self.has_query() || (scheme == "file" && redacted(&self.0) != self.0);
        (has_query && !may_have_query).then_some(
            "`?` and `#` begin a query, which only https:// URLs of files to read may have; for several files use * or [...]",
        )
    }

    /// A mistyped URL must not become the name of a folder: its secrets would be stored.
    fn refused_as_path(&self) -> Option<&'static str> {
        let is_mistyped = mistyped_scheme(&self.0).is_some() || redacted(&self.0) != self.0;
        is_mistyped.then_some(
            "this looks like a mistyped URL; expected scheme://bucket/prefix without credentials, or a path (./NAME for a file \
             of such a name)",
        )
    }
}

impl From<String> for Url {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<&String> for Url {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<&Url> for Url {
    fn from(url: &Url) -> Self {
        url.clone()
    }
}

impl FromStr for Url {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&redacted(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&redacted(&self.0))
    }
}

/// A text that is, holds, or was meant to be a URL, without user, password and the values of a query. When in doubt it hides too
/// much. What was redacted before stays as it is.
pub(crate) fn redacted(text: &str) -> String {
    let (head, scheme, rest) = split_scheme(text);
    let name = scheme.trim_end_matches([':', '/']).to_ascii_lowercase();
    let (place, query) = split_query(rest, name.is_empty() || name == "file");
    let (place, mistyped) = split_mistyped_query(place, name.is_empty() || name == "file");
    let query = &format!("{mistyped}{query}");
    let user = if name.is_empty() { without_user_of_path(place) } else { without_user(&name, place) };
    format!("{}{scheme}{user}{}", without_user_of_path(head), without_values(query))
}

fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// What stands in front of a scheme, `scheme://`, and the rest; a text without a scheme is all rest.
fn split_scheme(text: &str) -> (&str, &str, &str) {
    if let Some(at) = text.find("://") {
        let start = text[..at].rfind(|c| !is_of_scheme(c)).map_or(0, |before| text.ceil_char_boundary(before + 1));
        if start < at {
            return (&text[..start], &text[start..at + 3], &text[at + 3..]);
        }
    }
    let Some((start, end)) = mistyped_scheme(text) else { return ("", "", text) };
    (&text[..start], &text[start..end], &text[end..])
}

/// Where `s3:`, `s3:/` or the like stands in front of what was meant to be a URL.
fn mistyped_scheme(text: &str) -> Option<(usize, usize)> {
    let start =
        text.len() - text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '[')).len();
    let lower = text[start..].to_ascii_lowercase();
    let scheme =
        SCHEMES.iter().find(|scheme| lower.strip_prefix(**scheme).is_some_and(|rest| rest.starts_with(':')))?;
    let rest = &text[start + scheme.len() + 1..];
    Some((start, text.len() - rest.trim_start_matches('/').len()))
}

/// A place and its query with the `?` or `#` in front. In a path these are characters like others, unless `key=` follows.
fn split_query(text: &str, is_path: bool) -> (&str, &str) {
    let begins = |at: &usize| !is_path || begins_with_key(&text[at + 1..]);
    let at = text.match_indices(['?', '#']).map(|(at, _)| at).find(begins).unwrap_or(text.len());
    text.split_at(at)
}

/// A place and what was meant to be its query: behind an escaped `?`, or a `&` or `;` in front of `key=`.
fn split_mistyped_query(place: &str, is_path: bool) -> (&str, &str) {
    let begins = |at: &usize| {
        let rest = &place[*at..];
        let escaped = ["%3f", "%3F", "\u{ff1f}"].iter().any(|mark| rest.starts_with(mark));
        escaped || (rest.starts_with(['&', ';']) && begins_with_key(&rest[1..]))
    };
    let at = if is_path { None } else { place.char_indices().map(|(at, _)| at).find(begins) };
    place.split_at(at.unwrap_or(place.len()))
}

fn begins_with_key(text: &str) -> bool {
    let key = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_.~%-".contains(c))).unwrap_or(text.len());
    key > 0 && text[key..].starts_with('=')
}

/// `?key=***&other=***`
fn without_values(query: &str) -> String {
    let delimiters = ['?', '#', '&', ';'];
    let mut shown = String::new();
    for part in query.split_inclusive(delimiters) {
        let (content, delimiter) = match part.strip_suffix(delimiters) {
            Some(content) => (content, &part[content.len()..]),
            None => (part, ""),
        };
        match content.split_once('=') {
            Some((key, _)) => shown += &format!("{key}={HIDDEN}"),
            None if content.is_empty() => {}
            None => shown += HIDDEN,
        }
        shown += delimiter;
    }
    shown
}

/// The place in `user:password@place`.
fn without_user_of_path(path: &str) -> String {
    let is_path = path.trim_start_matches(['(', '[']).starts_with(['/', '.']) && !path.starts_with("//");
    match path.rfind('@') {
        Some(at) if !is_path && path[..at].contains(':') => format!("{HIDDEN}{}", &path[at..]),
        _ => path.into(),
    }
}

/// What follows the scheme, without a user. A password may have slashes, so that all up to the last `@` may belong to it.
fn without_user(scheme: &str, place: &str) -> String {
    let authority = place.split('/').next().unwrap_or_default();
    let is_user = has_user(scheme, authority);
    let may_be_user = |at: usize| is_user || (scheme != "file" && place[..at].contains(':'));
    match place.rfind('@') {
        Some(at) if may_be_user(at) => format!("{HIDDEN}{}", &place[at..]),
        _ if is_user => format!("{HIDDEN}{}", &place[authority.len()..]),
        _ => place.into(),
    }
}

/// Whether what stands where a host or a bucket should be has a user or a password in it. `abfss://container@account` is how
/// Azure writes a place, and only hosts have ports.
fn has_user(scheme: &str, authority: &str) -> bool {
    let has_ports = matches!(scheme, "http" | "https");
    let is_azure = scheme.starts_with("abfs");
    let encoded = authority.to_ascii_lowercase();
    if encoded.contains("%40") || encoded.contains("%3a") || (authority.contains('@') && !is_azure) {
        return true;
    }
    authority.contains(':') && !(has_ports && is_host_and_port(authority))
}

fn is_host_and_port(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(']') {
        Some((v6, port)) => (v6.strip_prefix('[').unwrap_or(":@"), port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host = authority.starts_with('[') || !host.contains([':', '@']);
    is_host && port.is_none_or(|port| port.len() <= 5 && port.bytes().all(|digit| digit.is_ascii_digit()))
}
