//! JSON objects that end in the SHA-256 of themselves, so that no bit of what steers a continued run changes unseen.
//!
//! ```text
//! {
//!   "shape": ...,
//!   "sha256": "..."       of the text without this line and the comma before it
//! }
//! ```
//!
//! Versions before wrote no hash. What they wrote is still read, and its readers hold it against what they expect.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Key of the hash.
const KEY: &str = "sha256";
/// What the text of an object ends in.
const END: &str = "\n}";

/// The text of an object (something with keys), with its hash.
pub(super) fn seal(value: &impl Serialize) -> Result<String> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::Other(format!("cannot write JSON: {error}")))?;
    Ok(match text.strip_suffix(END) {
        Some(body) => format!("{body}{}", tail(&text)),
        None => text, // no object, or one without keys
    })
}

fn tail(text: &str) -> String {
    format!(",\n  \"{KEY}\": \"{:x}\"{END}", Sha256::digest(text))
}

/// What [`seal`] wrote, or what an earlier version wrote without a hash; else what is wrong.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let is_sealed = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.get(KEY).is_some()) // at any place
    };
    let body = match text.rsplit_once(&format!(",\n  \"{KEY}\": ")) {
        Some((body, _)) => {
            let body = format!("{body}{END}");
            let written = format!("{}{}", &body[..body.len() - END.len()], tail(&body));
            if written != text {
                return Err("its bytes are not those that were written (SHA-256)".into());
            }
            body
        }
        None if is_sealed(text) => return Err("its SHA-256 is not where it was written".into()),
        None => text.into(),
    };
    serde_json::from_str(&body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        rate: f64,
        names: Vec<String>,
    }

    fn note() -> Note {
        Note { rate: 0.1 + 0.2, names: vec!["a".into(), "b".into()] }
    }

    #[test]
    fn what_was_sealed_is_read_back_and_any_flipped_bit_is_seen() {
        let text = seal(&note()).unwrap();
        assert_eq!(unseal::<Note>(text.as_bytes()), Ok(note()));
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["sha256"].is_string(), "{text}");
        for bit in 0..8 * text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<Note>(&bytes).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read() {
        let text = serde_json::to_string_pretty(&note()).unwrap();
        assert_eq!(unseal::<Note>(text.as_bytes()), Ok(note()));
        assert!(unseal::<Note>(b"{").is_err());
    }
}
