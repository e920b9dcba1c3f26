//! The Hessian of any burn model as a linear operator.
//!
//! Owns the meaning of "H v": which parameters a block has, what one micro-batch contributes, how micro-batches and
//! segments add up, the Gauss-Newton product, the self-tests, and the error of a product. Sees models only through
//! [`Problem`] and data only through [`MicroBatches`]. burn's types end here: what leaves is flat vectors.

mod check;
mod complement;
mod descent;
mod error;
mod gradients;
mod operator;
mod pass;
mod passes;
mod placed;
mod prefix;
mod problem;
mod recompute;
mod seed;
mod settings;
mod sharded;

pub use check::{Check, Outcome, self_tests};
pub use descent::{Descent, Slope};
pub use error::{ProductError, product_errors};
pub use operator::{BlockOperator, Gradient, Kind, Reduction, Sweep, add_slice, rounded};
pub use pass::Precision;
pub use passes::{Evaluation, OnData, Passes};
#[cfg(feature = "program")]
pub(crate) use placed::with_values;
pub use prefix::{Prefix, PrefixBudget};
pub use problem::{Listed, MicroBatches, Problem, Stages};
pub use seed::cast;
pub(crate) use seed::parameter_of_other_type;
pub use settings::{Pair, Settings, complement, slot_settings, start};
pub use sharded::{Sharded, ShardedBasis, Slice};
