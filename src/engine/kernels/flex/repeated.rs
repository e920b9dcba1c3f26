//! Operands whose numbers are repeated along some dimensions (broadcast), read piece by piece without a copy of the whole.

use std::ops::Range;

use burn_backend::Shape;
use burn_flex::{Flex, FlexTensor};

use super::element::Element;
use crate::engine::kernels::Dual;

/// A dual as an operand of an operation whose result has a shape that it broadcasts to.
pub(super) struct Repeated<T> {
    primal: Numbers<T>,
    tangents: Vec<Option<Numbers<T>>>,
}

impl<T: Element> Repeated<T> {
    pub(super) fn new(dual: &Dual<Flex>, shape: &Shape) -> Self {
        let numbers = |tensor| Numbers::new(tensor, shape);
        let tangents = dual.tangents.iter().map(|t| t.as_ref().map(numbers)).collect();
        Self { primal: numbers(&dual.primal), tangents }
    }

    /// A range of the primal's numbers, in the order of the result. `buffer` is used where they are repeated.
    pub(super) fn primal<'a>(&'a self, range: &Range<usize>, buffer: &'a mut Vec<T>) -> &'a [T] {
        self.primal.part(range, buffer)
    }

    /// A range of the tangent's numbers in a slot that has one.
    pub(super) fn tangent<'a>(&'a self, slot: usize, range: &Range<usize>, buffer: &'a mut Vec<T>) -> Option<&'a [T]> {
        Some(self.tangents.get(slot)?.as_ref()?.part(range, buffer))
    }
}

/// A tensor's numbers in the order of a shape that it broadcasts to: runs of equal length, one after the other.
struct Numbers<T> {
    tensor: FlexTensor,
    start: usize,
    run: usize,
    /// Whether a run is one number again and again, or as many that lie side by side.
    is_constant: bool,
    /// Lengths and strides of the dimensions before those of a run, the innermost first.
    outer: Vec<(usize, usize)>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Numbers<T> {
    fn new(tensor: &FlexTensor, shape: &Shape) -> Self {
        Self::seen(tensor, shape)
            .unwrap_or_else(|| Self::seen(&tensor.to_contiguous(), shape).expect("contiguous numbers lie in runs"))
    }

    /// `None` if the innermost numbers lie apart from each other.
    fn seen(tensor: &FlexTensor, shape: &Shape) -> Option<Self> {
        let layout = tensor.layout();
        let (own, strides) = (layout.shape(), layout.strides());
        let skipped = shape.num_dims() - own.num_dims();
        let mut outer: Vec<(usize, usize)> = Vec::with_capacity(shape.num_dims());
        for dim in (0..shape.num_dims()).rev().filter(|dim| shape[*dim] != 1) {
            let repeated = dim < skipped || own[dim - skipped] == 1;
            let stride = if repeated { 0 } else { usize::try_from(strides[dim - skipped]).ok()? };
            match outer.last_mut() {
                // both repeat one number, or the outer one goes on where the inner one ends
                Some((length, inner)) if stride == *inner * *length => *length *= shape[dim],
                _ => outer.push((shape[dim], stride)),
            }
        }
        let (run, stride) = if outer.is_empty() { (1, 1) } else { outer.remove(0) };
        let start = layout.start_offset();
        let numbers = |is_constant| Self {
            tensor: tensor.clone(),
            start,
            run,
            is_constant,
            outer,
            element: std::marker::PhantomData,
        };
        (stride <= 1).then(|| numbers(stride == 0))
    }

    fn part<'a>(&'a self, range: &Range<usize>, buffer: &'a mut Vec<T>) -> &'a [T] {
        let numbers: &[T] = self.tensor.storage();
        if self.outer.is_empty() && !self.is_constant {
            return &numbers[self.start + range.start..self.start + range.end];
        }
        buffer.clear();
        let mut at = range.start;
        while at < range.end {
            let (index, within) = (at / self.run, at % self.run);
            let count = (self.run - within).min(range.end - at);
            let from = self.start + self.offset(index);
            if self.is_constant {
                buffer.resize(buffer.len() + count, numbers[from]);
            } else {
                buffer.extend_from_slice(&numbers[from + within..from + within + count]);
            }
            at += count;
        }
        buffer
    }

    /// Where a run begins.
    fn offset(&self, mut index: usize) -> usize {
        let mut offset = 0;
        for (length, stride) in &self.outer {
            offset += index % length * stride;
            index /= length;
        }
        offset
    }
}

/// The shape that both broadcast to; `None` if they have different numbers of dimensions, or do not.
pub(super) fn common_shape(a: &Shape, b: &Shape) -> Option<Shape> {
    if a.num_dims() != b.num_dims() {
        return None;
    }
    let pairs = a.as_slice().iter().zip(b.as_slice());
    let sizes: Option<Vec<usize>> = pairs
        .map(|(&a, &b)| match (a, b) {
            (a, b) if a == b => Some(a),
            (1, other) | (other, 1) => Some(other),
            _ => None,
        })
        .collect();
    sizes.map(Shape::from)
}

#[cfg(test)]
mod tests {
    use burn_backend::ops::FloatTensorOps;

    use super::super::testing::{Case, numbers, strided};
    use super::*;

    /// Every part of every operand, of several lengths, against flex's own expansion.
    #[test]
    fn parts_are_those_of_the_expanded_tensor() {
        let shapes: [[usize; 4]; 9] = [
            [3, 4, 5, 2],
            [1, 4, 1, 1],
            [1, 1, 1, 1],
            [3, 1, 5, 1],
            [1, 4, 1, 2],
            [3, 4, 1, 1],
            [1, 1, 5, 2],
            [1, 4, 5, 1],
            [3, 1, 1, 2],
        ];
        let shape = Shape::from([3, 4, 5, 2]);
        for own in shapes {
            for case in Case::ALL {
                let plain = strided::<f64>(&own, 1, case);
                let expanded = Flex::float_expand(plain.clone(), shape.clone());
                let expected = numbers(&expanded);
                for tensor in [plain, expanded] {
                    let operand = Repeated::<f64>::new(&Dual::constant(tensor), &shape);
                    for length in [1, 7, 50, 120] {
                        for start in (0..120).step_by(length) {
                            let range = start..(start + length).min(120);
                            assert_eq!(
                                operand.primal(&range, &mut vec![f64::NAN; 3]),
                                &expected[range.clone()],
                                "{own:?} {case:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_broadcast_have_none_in_common() {
        let common = |a: &[usize], b: &[usize]| common_shape(&Shape::from(a.to_vec()), &Shape::from(b.to_vec()));
        assert_eq!(common(&[2, 1, 3], &[1, 5, 3]), Some(Shape::from([2, 5, 3])));
        assert_eq!(common(&[2, 4], &[3, 4]), None);
        assert_eq!(common(&[4], &[3, 4]), None);
    }
}
