//! Contiguous slices of duals, and their filling by disjoint pieces in parallel.

use std::marker::PhantomData;
use std::ops::Range;

use burn_backend::{Shape, TensorData, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::element::Element;
use crate::engine::kernels::{Dual, Mask};

/// Numbers in one piece of work: small enough for the first cache levels, large enough to hide a task's cost.
pub(super) const PIECE: usize = 4096;

/// A dual whose primal and tangents lie contiguously.
pub(super) struct Operand<T> {
    primal: FlexTensor,
    tangents: Vec<Option<FlexTensor>>,
    element: PhantomData<T>,
}

impl<T: Element> Operand<T> {
    /// Views, or copies of what does not lie contiguously.
    pub(super) fn new(dual: &Dual<Flex>) -> Self {
        let tangents = dual.tangents.iter().map(|t| t.as_ref().map(contiguous)).collect();
        Self { primal: contiguous(&dual.primal), tangents, element: PhantomData }
    }

    /// The primal's numbers.
    pub(super) fn primal(&self) -> &[T] {
        slice(&self.primal)
    }

    /// The tangent's numbers in a slot that has one.
    pub(super) fn tangent(&self, slot: usize) -> Option<&[T]> {
        self.tangents.get(slot)?.as_ref().map(slice)
    }

    /// A part of the tangent in a slot that has one.
    pub(super) fn part(&self, slot: usize, range: &Range<usize>) -> Option<&[T]> {
        self.tangent(slot).map(|t| &t[range.clone()])
    }
}

/// The tensor itself if its numbers lie in one run of its storage, at whatever offset; else a copy.
fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor.clone() } else { tensor.to_contiguous() }
}

/// The numbers of a contiguous tensor.
fn slice<T: Element>(tensor: &FlexTensor) -> &[T] {
    tensor.as_slice().expect("operands are contiguous and of one dtype")
}

/// The slots in which any of the duals has a tangent.
pub(super) fn active_slots(duals: &[&Dual<Flex>]) -> Mask {
    let slots = duals.iter().map(|d| d.num_slots()).max().unwrap_or(0);
    (0..slots).map(|s| duals.iter().any(|d| d.tangent(s).is_some())).collect()
}

/// A buffer that the caller overwrites from end to end before anyone reads it.
#[allow(clippy::uninit_vec)] // zeroing first would cost a pass over memory, which is what these kernels wait for
pub(super) fn to_be_filled<T: Element>(len: usize) -> Vec<T> {
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is there, and any bits are a number of a Pod type; they are written before they are read.
    unsafe { buffer.set_len(len) };
    buffer
}

/// A tensor that owns the numbers.
pub(super) fn tensor<T: Element>(numbers: Vec<T>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

/// Part of the result: a range of the primal and of each active slot's tangent.
pub(super) struct Piece<'a, T> {
    /// Which numbers of the result.
    pub(super) range: Range<usize>,
    /// The primal's part.
    pub(super) primal: &'a mut [T],
    /// The active slots with their tangents' parts.
    pub(super) tangents: Vec<(usize, &'a mut [T])>,
}

impl<T> Piece<'_, T> {
    /// Where a range of the piece lies in the whole result.
    #[inline(always)]
    pub(super) fn whole(&self, inside: &Range<usize>) -> Range<usize> {
        self.range.start + inside.start..self.range.start + inside.end
    }
}

/// A dual of the given shape whose pieces of `piece_len` numbers are written by `fill`, in parallel. Every number of
/// a piece must be written. The partition depends on the shape only.
pub(super) fn fill_dual<T: Element>(
    shape: Shape,
    active: &Mask,
    piece_len: usize,
    fill: impl Fn(Piece<'_, T>) + Sync,
) -> Dual<Flex> {
    let len = shape.num_elements();
    let mut primal = to_be_filled(len);
    let mut tangents: Vec<Option<Vec<T>>> = active.iter().map(|&is| is.then(|| to_be_filled(len))).collect();
    let mut pieces = split(&mut primal, &mut tangents, piece_len.max(1));
    if pieces.len() == 1 {
        pieces.drain(..).for_each(&fill);
    } else {
        pieces.into_par_iter().for_each(&fill);
    }
    let tangents = tangents.into_iter().map(|t| t.map(|t| tensor(t, shape.clone()))).collect();
    Dual::new(tensor(primal, shape), tangents)
}

fn split<'a, T>(primal: &'a mut [T], tangents: &'a mut [Option<Vec<T>>], piece_len: usize) -> Vec<Piece<'a, T>> {
    let mut pieces: Vec<Piece<'a, T>> = Vec::with_capacity(primal.len().div_ceil(piece_len));
    for (index, part) in primal.chunks_mut(piece_len).enumerate() {
        let start = index * piece_len;
        pieces.push(Piece { range: start..start + part.len(), primal: part, tangents: Vec::new() });
    }
    for (slot, tangent) in tangents.iter_mut().enumerate() {
        for (piece, part) in pieces.iter_mut().zip(tangent.iter_mut().flat_map(|t| t.chunks_mut(piece_len))) {
            piece.tangents.push((slot, part));
        }
    }
    pieces
}

/// Rows of `width` numbers that make up about one piece of work, as a number of elements.
pub(super) fn rows_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1) * width
}

/// Length of the last dimension.
pub(super) fn last_dimension(tensor: &FlexTensor) -> usize {
    tensor.shape().as_slice().last().copied().unwrap_or(1)
}
