//! Where bytes lie: folders and object stores under one URL, with blocking calls.
//!
//! Owns how a URL is opened (`location`, `cloud`), and inputs that are read by path or URL at any place in them (`input`); also
//! how times are written (`time`).
//! It knows no formats.

mod cloud;
mod input;
mod location;
mod time;

pub use input::{Input, expand, local_path, stands_for};
pub use location::{Access, Location, absolute};
pub use time::rfc3339;
