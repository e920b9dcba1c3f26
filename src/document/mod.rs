//! TOML whose values know where they stand, so that every error names file, line and column.
//!
//! ```text
//! text -tree-> nodes with origins -(--set)-> nodes -reader-> any serde type -check-> what must hold beyond its type
//! ```
//!
//! Owns the syntax and the errors; knows no key. The keys are those of the types that are read: of the tables that every run
//! has (`config`), of networks (`networks`) and of data sets (`datasets`).

mod check;
mod each;
mod reader;
mod tree;
mod units;

pub use check::Check;
pub use each::Each;
pub use reader::{nearest, read, read_table};
pub use tree::{Entry, Node, Origin, Value, overlaid, parse, set};
pub use units::{Bytes, Interval};
