//! The storage type of vectors. Storage may be f32; every scalar of the recursion is f64.

use std::fmt::Debug;

/// A floating-point type that vectors are stored in.
pub trait Real: Copy + Default + PartialEq + Debug + Send + Sync + 'static {
    /// Unit roundoff: largest relative error of storing a number.
    const UNIT_ROUNDOFF: f64;
    /// Exact widening.
    fn to_f64(self) -> f64;
    /// Nearest storable number.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}
