//! The real binary, from the outside: answers, messages and exit codes. Every test has a folder of its own.

mod blocks;
mod checkpoints;
mod convergence;
mod corpus;
mod decoders;
mod dense;
mod derive;
mod eigenvectors;
mod folder;
mod hostile;
mod images;
mod inputs;
mod networks;
mod others;
mod pairs;
mod places;
mod plans;
mod products;
mod progress;
mod quadratic;
mod runs;
mod scripts;
mod secrets;
mod surroundings;
mod weighted;
mod weights;
