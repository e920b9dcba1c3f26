//! Floating-point types of operands: f32 and f64 may meet.
//!
//! burn's modules make constants in burn's default float type, which is one for the whole process (zeros of an Lstm's first
//! state, `pad`, the angles of a RotaryEncoding), or go through f32 on purpose (RmsNorm). Where such a value meets one of the
//! other type, it takes the type of what it meets; and within [`in_f64`] what would be made in f32 is made in f64. A network of
//! burn's modules then runs in f64 to f64's accuracy, whatever the default is. Constants that a module made in f32 when it was
//! built keep these values.

use std::cell::Cell;

use burn_backend::tensor::FloatTensor;
use burn_backend::{DType, FloatDType, TensorMetadata};

use crate::engine::kernels::{Dual, Kernels};

thread_local! {
    static F64: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which nothing is narrowed to f32: constants and casts that ask for f32 give f64. Belongs to the calling thread.
pub fn in_f64<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            F64.set(self.0);
        }
    }
    let _restore = Restore(F64.replace(true));
    f()
}

/// The type that a constant or a cast really gets.
pub(super) fn asked(dtype: FloatDType) -> FloatDType {
    if F64.get() && dtype == FloatDType::F32 { FloatDType::F64 } else { dtype }
}

/// A new constant in that type.
pub(super) fn constant<B: Kernels>(x: FloatTensor<B>) -> Dual<B> {
    let x = if F64.get() && x.dtype() == DType::F32 { B::float_cast(x, FloatDType::F64) } else { x };
    Dual::constant(x)
}

/// Two operands in one type: that of the one with tangents, else the wider. Only f32 and f64 are made alike.
pub(crate) fn alike<B: Kernels>(a: Dual<B>, b: Dual<B>) -> (Dual<B>, Dual<B>) {
    let types = (a.dtype(), b.dtype());
    if !matches!(types, (DType::F32, DType::F64) | (DType::F64, DType::F32)) {
        return (a, b);
    }
    let wanted = match (a.is_active(), b.is_active()) {
        (true, false) => types.0,
        (false, true) => types.1,
        _ => DType::F64,
    };
    (cast(a, wanted), cast(b, wanted))
}

/// As [`alike`], for any number of operands.
pub(super) fn all_alike<B: Kernels>(operands: Vec<Dual<B>>) -> Vec<Dual<B>> {
    let (active, any) = (operands.iter().filter(|x| x.is_active()).map(Dual::dtype), operands.iter().map(Dual::dtype));
    let widest = |types: &mut dyn Iterator<Item = DType>| types.max_by_key(|dtype| *dtype == DType::F64);
    let Some(wanted) = widest(&mut active.into_iter()).or_else(|| widest(&mut any.into_iter())) else {
        return operands;
    };
    let is_mixed = |x: &Dual<B>| matches!((x.dtype(), wanted), (DType::F32, DType::F64) | (DType::F64, DType::F32));
    operands.into_iter().map(|x| if is_mixed(&x) { cast(x, wanted) } else { x }).collect()
}

fn cast<B: Kernels>(x: Dual<B>, dtype: DType) -> Dual<B> {
    if x.dtype() == dtype { x } else { x.map(|t| B::float_cast(t, dtype.into())) }
}
