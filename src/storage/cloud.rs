//! Object stores in a cloud (features `s3`, `gs`, `az`) and web servers (`http`): how they are opened, how hard a request
//! is tried.
//!
//! Credentials come from the provider's standard environment variables and from nowhere else: a URL that carries a user or a
//! password is refused (by [`Url`]), because URLs end up in shell histories; so is an endpoint in the environment. A request that fails is repeated by
//! object_store after growing pauses; `AWS_MAX_ATTEMPTS`, the standard variable, changes how often.

use std::sync::Arc;
#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
use std::time::Duration;

use object_store::ObjectStore;
#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
use object_store::{BackoffConfig, RetryConfig};

use crate::shown::Url;
use crate::{Error, Result};

/// Attempts of a request: with pauses of 0.1 s that double up to 15 s, about two minutes of outage are survived.
#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
const ATTEMPTS: usize = 14;
/// No attempt begins later than this after the first.
#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
const GIVE_UP: Duration = Duration::from_secs(300);
/// Silence on a connection that counts as failure, and the most that one request may last.
#[cfg(feature = "s3")]
const TIMEOUTS: [(&str, &str); 2] = [("READ_TIMEOUT", "30 seconds"), ("TIMEOUT", "600 seconds")];

/// Opens a cloud URL.
///
/// # Errors
/// [`Error::Config`] for an unknown scheme or an endpoint with credentials, [`Error::Environment`] where the feature is not
/// built, [`Error::Storage`] where the provider's variables do not make sense.
pub(super) fn open(url: &Url, scheme: &str) -> Result<Arc<dyn ObjectStore>> {
    let feature = match scheme {
        "s3" | "s3a" => "s3",
        "gs" => "gs",
        "az" | "abfs" | "abfss" => "az",
        "http" | "https" => "http",
        _ => {
            return Err(Error::Config(format!(
                "`{scheme}://...`: unknown scheme `{scheme}`. Expected a plain path, file://, memory://, s3://, gs://, az:// or, to read from, https://"
            )));
        }
    };
    match feature {
        #[cfg(feature = "s3")]
        "s3" => s3(url),
        #[cfg(feature = "gs")]
        "gs" => {
            check_endpoints(environment())?;
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env();
            built(url, builder.with_url(url.exposed()).with_retry(retries(None)?).build())
        }
        #[cfg(feature = "az")]
        "az" => {
            check_endpoints(environment())?;
            let builder = object_store::azure::MicrosoftAzureBuilder::from_env();
            built(url, builder.with_url(url.exposed()).with_retry(retries(None)?).build())
        }
        #[cfg(feature = "http")]
        "http" => http(url),
        _ => Err(Error::Environment(format!(
            "`{url}`: this program was built without {scheme}:// storage. Build it with `cargo build --features {feature}`, or use a plain path"
        ))),
    }
}

/// Whether a scheme is a web server's.
pub(super) fn is_web(scheme: &str) -> bool {
    matches!(scheme, "http" | "https")
}

/// Endpoints come from the environment, and end up in messages as URLs do.
#[cfg(any(feature = "s3", feature = "gs", feature = "az", test))]
fn check_endpoints(variables: impl Iterator<Item = (String, String)>) -> Result<()> {
    let is_endpoint = |name: &str| {
        name.contains("ENDPOINT") && ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|provider| name.starts_with(provider))
    };
    for (name, value) in variables.filter(|(name, _)| is_endpoint(name)) {
        let url = Url::from(value);
        if let Some(problem) = url.refused() {
            return Err(Error::Config(format!("{name}={url}: {problem}")));
        }
    }
    Ok(())
}

#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(feature = "s3")]
fn s3(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    let variable = |name: &str| std::env::var(name).ok();
    check_endpoints(environment())?;
    check_credentials(&variable)?;
    let mut builder = AmazonS3Builder::from_env()
        .with_url(url.exposed())
        .with_retry(retries(variable("AWS_MAX_ATTEMPTS").as_deref())?);
    for (name, value) in TIMEOUTS {
        let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
        if let (None, Ok(key)) = (variable(&format!("AWS_{name}")), key) {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(variable);
    let allowed = variable("AWS_ALLOW_HTTP").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if let Some(host) = endpoint.as_deref().and_then(|endpoint| endpoint.strip_prefix("http://")) {
        if !allowed && !is_loopback(host) {
            return Err(Error::Config(
                "the S3 endpoint in AWS_ENDPOINT_URL is http:// on another machine: data and signatures would travel in \
                 the clear. Use https://, or set AWS_ALLOW_HTTP=true"
                    .into(),
            ));
        }
        builder = builder.with_allow_http(true);
    }
    built(url, builder.build())
}

/// A web server, to read from: the URL's host is the store, the rest a prefix in it; a URL with a query is all of it the store,
/// as it was given, because a signature is of exactly this.
#[cfg(feature = "http")]
fn http(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let (scheme, rest) = url.exposed().split_once("://").unwrap_or(("https", url.exposed()));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let in_the_clear = scheme.eq_ignore_ascii_case("http");
    if in_the_clear && !is_loopback(host) {
        return Err(Error::Config(format!("`{url}`: http:// to another machine is refused; use https://")));
    }
    let store = if url.has_query() { url.exposed().to_owned() } else { format!("{scheme}://{host}") };
    let options = object_store::ClientOptions::new().with_allow_http(in_the_clear);
    let builder = object_store::http::HttpBuilder::new().with_url(store);
    built(url, builder.with_client_options(options).with_retry(retries(None)?).build())
}

/// What can say who we are, without asking the machine's metadata service.
#[cfg(any(feature = "s3", test))]
const IDENTITIES: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// Without credentials object_store asks the metadata service of a cloud machine; AWS_EC2_METADATA_DISABLED=true, the
/// standard variable, forbids it.
#[cfg(any(feature = "s3", test))]
fn check_credentials(variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let forbidden = variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !forbidden || IDENTITIES.iter().any(|name| variable(name).is_some()) {
        return Ok(());
    }
    Err(Error::Environment(
        "no credentials for s3://: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (the metadata service may not be asked: \
         AWS_EC2_METADATA_DISABLED=true)"
            .into(),
    ))
}

/// Whether `host[:port][/path]` is this machine.
#[cfg(any(feature = "s3", feature = "http", test))]
fn is_loopback(host: &str) -> bool {
    let host = host.split('/').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How often a request is tried.
#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
fn retries(max_attempts: Option<&str>) -> Result<RetryConfig> {
    let attempts = match max_attempts {
        None => ATTEMPTS,
        Some(text) => text.parse().ok().filter(|attempts| *attempts > 0).ok_or_else(|| {
            Error::Config(format!("AWS_MAX_ATTEMPTS={text}: expected a whole number of at least 1; set or unset it"))
        })?,
    };
    Ok(RetryConfig { backoff: BackoffConfig::default(), max_retries: attempts - 1, retry_timeout: GIVE_UP })
}

#[cfg(any(feature = "s3", feature = "gs", feature = "az", feature = "http"))]
fn built(url: &Url, store: object_store::Result<impl ObjectStore>) -> Result<Arc<dyn ObjectStore>> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Error::Storage(format!("cannot open the output `{url}`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_credentials_is_refused_without_repeating_them() {
        let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter();
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "http://id:hunter2@127.0.0.1:9000"),
            ("AWS_ENDPOINT_URL_S3", "https://host?token=hunter2"),
            ("AZURE_STORAGE_ENDPOINT", "https://hunter2@host"),
            ("AWS_ENDPOINT", "id:hunter2@host"),
        ] {
            let error = check_endpoints(set(name, value)).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().starts_with(name), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(check_endpoints(set("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")).is_ok());
        assert!(check_endpoints(set("HOME", "http://id:hunter2@127.0.0.1:9000")).is_ok());
    }

    #[test]
    fn the_metadata_service_is_not_asked_where_that_is_forbidden() {
        let among = |set: &'static [&str]| move |name: &str| set.contains(&name).then(|| "true".to_owned());
        assert_eq!(check_credentials(&among(&["AWS_EC2_METADATA_DISABLED"])).unwrap_err().exit_code(), 3);
        assert!(check_credentials(&among(&["AWS_EC2_METADATA_DISABLED", "AWS_ACCESS_KEY_ID"])).is_ok());
        assert!(check_credentials(&among(&[])).is_ok());
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost:9000", "127.0.0.1", "127.0.0.1:1/x", "[::1]:9000", "127.8.8.8"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:9000", "[2001:db8::1]:9000", "", "0x7f000001"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
