//! The two number types that cross ranks, and how a generic call reaches an object-safe transport.

use std::fmt::Debug;
use std::ops::AddAssign;

/// f32 or f64.
pub trait Element: bytemuck::Pod + Default + PartialEq + AddAssign + Debug + sealed::Sealed {
    /// Name for messages.
    const NAME: &'static str;

    /// Wraps a send and a receive buffer.
    fn pair<'a>(send: &'a [Self], receive: &'a mut [Self]) -> Pair<'a>;

    /// The number, rounded.
    fn from_number(value: f64) -> Self;
}

/// What a reduction reads and writes.
#[derive(Debug)]
pub enum Pair<'a> {
    /// Single precision: send, receive.
    F32(&'a [f32], &'a mut [f32]),
    /// Double precision: send, receive.
    F64(&'a [f64], &'a mut [f64]),
}

impl Element for f32 {
    const NAME: &'static str = "f32";

    fn pair<'a>(send: &'a [f32], receive: &'a mut [f32]) -> Pair<'a> {
        Pair::F32(send, receive)
    }

    fn from_number(value: f64) -> f32 {
        value as f32
    }
}

impl Element for f64 {
    const NAME: &'static str = "f64";

    fn pair<'a>(send: &'a [f64], receive: &'a mut [f64]) -> Pair<'a> {
        Pair::F64(send, receive)
    }

    fn from_number(value: f64) -> f64 {
        value
    }
}

mod sealed {
    /// Transports know exactly these types.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}
