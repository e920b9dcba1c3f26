//! Where bytes lie: folders and object stores under one URL, with blocking calls.
//!
//! Owns how a URL is opened (`location`, `cloud`) and what of a server's answer may be repeated (`answer`), inputs that are read by
//! path or URL at any place in them (`input`), the names that a glob (`glob`) and the paths that a name (`path`) stands for, and how times are written (`time`).
//! It knows no formats.

mod answer;
mod cloud;
mod glob;
mod input;
mod location;
mod path;
mod time;

pub(crate) use answer::is_refusal;
pub use glob::{expand, stands_for};
pub use input::Input;
pub use location::{Access, Location};
pub use path::{absolute, local_path};
pub use time::rfc3339;
