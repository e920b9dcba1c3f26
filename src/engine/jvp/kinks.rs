//! Which way a computation went at its kinks: signs at a ReLU, sides of a comparison, positions of a maximum.
//!
//! Between two points where all of these are the same, a network of smooth pieces is smooth, so that a finite difference
//! of its gradient says something about its Hessian.

use std::cell::RefCell;

use burn::tensor::{Bool, Int, Tensor};
use burn_backend::tensor::{BoolTensor, IntTensor};
use burn_backend::{Shape, TensorMetadata};

use crate::engine::kernels::Kernels;

thread_local! {
    static SEEN: RefCell<Option<Vec<Vec<u8>>>> = const { RefCell::new(None) };
}

/// What was chosen at every kink, in the order of the computation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices(Vec<Vec<u8>>);

impl Choices {
    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In how many bytes of what was recorded two computations differ: an activation's sign is one. All of it where they do not
    /// even have the same steps.
    pub fn changes(&self, other: &Self) -> usize {
        let of_pair = |(a, b): (&Vec<u8>, &Vec<u8>)| match a.len() == b.len() {
            true => a.iter().zip(b).filter(|(a, b)| a != b).count(),
            false => a.len().max(b.len()),
        };
        let beyond = self.0.len().abs_diff(other.0.len());
        beyond + self.0.iter().zip(&other.0).map(of_pair).sum::<usize>()
    }
}

/// Runs `f` on this thread and records its choices. (Not within another recording.)
pub fn recorded<T>(f: impl FnOnce() -> T) -> (T, Choices) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            SEEN.with_borrow_mut(|seen| *seen = None);
        }
    }
    SEEN.with_borrow_mut(|seen| *seen = Some(Vec::new()));
    let _end = End;
    let result = f();
    (result, Choices(SEEN.with_borrow_mut(|seen| seen.take().unwrap_or_default())))
}

/// Whether anybody wants to know.
pub(super) fn is_recording() -> bool {
    SEEN.with_borrow(Option::is_some)
}

fn push(bytes: Vec<u8>) {
    SEEN.with_borrow_mut(|seen| seen.iter_mut().for_each(|seen| seen.push(bytes.clone())));
}

/// The sides of a comparison of floating-point numbers.
pub(super) fn sides<B: Kernels>(mask: BoolTensor<B>) -> BoolTensor<B> {
    if is_recording() {
        let flat = Shape::from(vec![mask.shape().num_elements()]);
        let values = Tensor::<B, 1, Bool>::from_primitive(B::bool_reshape(mask.clone(), flat)).into_data();
        push(values.iter::<bool>().map(u8::from).collect());
    }
    mask
}

/// Positions that were found in floating-point numbers.
pub(super) fn positions<B: Kernels>(found: IntTensor<B>) -> IntTensor<B> {
    if is_recording() {
        let flat = Shape::from(vec![found.shape().num_elements()]);
        let values = Tensor::<B, 1, Int>::from_primitive(B::int_reshape(found.clone(), flat)).into_data();
        push(values.iter::<i64>().flat_map(|at| at.to_le_bytes()).collect());
    }
    found
}
