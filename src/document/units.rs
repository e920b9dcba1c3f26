//! Values with a unit: `"10m"`, `"8GB"`. Written back exactly as they were read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time: a whole number and `s`, `m` or `h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    text: String,
    seconds: u64,
}

impl Interval {
    /// So many minutes.
    pub fn minutes(minutes: u64) -> Self {
        Self { text: format!("{minutes}m"), seconds: 60 * minutes }
    }

    /// As a duration.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || "expected a whole number with s, m or h, like \"90s\" or \"10m\"".to_string();
        let (number, unit) = split_unit(text).ok_or_else(problem)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(problem()),
        };
        let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(problem)?;
        Ok(Self { text: text.into(), seconds })
    }
}

/// An amount of memory: a number and `MB`, `GB`, `TB` (powers of 1000) or `MiB`, `GiB`, `TiB` (of 1024).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes {
    text: String,
    bytes: u64,
}

impl Bytes {
    /// In bytes.
    pub fn get(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || "expected a size like \"8GB\", \"1.5GiB\" or \"512MB\"".to_string();
        let (number, unit) = split_unit(text).ok_or_else(problem)?;
        let unit: f64 = match unit {
            "B" => 1.0,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "MiB" => 1024f64.powi(2),
            "GiB" => 1024f64.powi(3),
            "TiB" => 1024f64.powi(4),
            _ => return Err(problem()),
        };
        let number: f64 = number.parse().map_err(|_| problem())?;
        Ok(Self { text: text.into(), bytes: (number * unit) as u64 })
    }
}

/// `"1.5 GB"` as `("1.5", "GB")`; no sign, no exponent.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    (end > 0).then(|| (&text[..end], text[end..].trim_start()))
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Interval);
as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!("10m".parse::<Interval>().unwrap().duration(), Duration::from_secs(600));
        assert_eq!("2h".parse::<Interval>().unwrap().duration(), Duration::from_secs(7200));
        assert_eq!("8GB".parse::<Bytes>().unwrap().get(), 8_000_000_000);
        assert_eq!("1.5 GiB".parse::<Bytes>().unwrap().get(), 1_610_612_736);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10", "m", "10 days", "-1s", "1.5m", "99999999999999999999h"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
        for text in ["", "8", "GB", "8gb", "8 parsec", "1.2.3GB", "-8GB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
