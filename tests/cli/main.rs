//! The real binary, from the outside: answers, messages and exit codes. Every test has a folder of its own.

mod folder;
mod inputs;
mod others;
mod places;
mod products;
mod runs;
