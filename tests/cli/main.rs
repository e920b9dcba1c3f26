//! The real binary, from the outside: answers, messages and exit codes. Every test has a folder of its own.

mod checkpoints;
mod convergence;
mod corpus;
mod folder;
mod inputs;
mod others;
mod places;
mod plans;
mod products;
mod progress;
mod runs;
mod surroundings;
mod weights;
