//! Adding to columns of a matrix, in place.

use std::ops::Range;

use burn_backend::{Slice, TensorMetadata};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::element::{Element, vectorized};
use super::lanes::update;

/// Numbers of the matrix in one task.
const TASK: usize = 1 << 16;

/// `total[.., columns] += part` for a total that [`columns`] accepts.
pub(super) fn add_to_columns<T: Element>(
    mut total: FlexTensor,
    columns: &Range<usize>,
    part: &FlexTensor,
) -> FlexTensor {
    let width = total.shape()[1];
    let part = part.to_contiguous();
    let added: &[T] = part.as_slice().expect("contiguous");
    let rows = (TASK / width).max(1);
    total.storage_mut::<T>().par_chunks_mut(rows * width).zip(added.par_chunks(rows * columns.len())).for_each(
        |(total, part)| {
            vectorized(
                #[inline(always)]
                || {
                    for (total, part) in total.chunks_exact_mut(width).zip(part.chunks_exact(columns.len())) {
                        update(&mut total[columns.clone()], part, |sum, x| sum + x);
                    }
                },
            )
        },
    );
    total
}

/// The columns that slices of a matrix of one's own are, if they are all rows of a range of them.
pub(super) fn columns(total: &FlexTensor, slices: &[Slice], part: &FlexTensor) -> Option<Range<usize>> {
    let (shape, part_shape) = (total.shape(), part.shape());
    let ([rows, width], [part_rows, part_width]) = (shape.as_slice(), part_shape.as_slice()) else { return None };
    let range = |at: usize, size: usize| {
        let slice = slices.get(at).filter(|slice| slice.step == 1);
        slices.get(at).map_or(Some(0..size), |_| slice.map(|slice| slice.to_range(size)))
    };
    let (all, columns) = (range(0, *rows)?, range(1, *width)?);
    let owned = total.is_contiguous() && total.is_unique() && total.layout().start_offset() == 0;
    let fits = all == (0..*rows) && part_rows == rows && columns.len() == *part_width && !columns.is_empty();
    (owned && fits).then_some(columns)
}

#[cfg(test)]
mod tests {
    use burn_backend::ops::FloatTensorOps;
    use burn_flex::Flex;

    use super::super::testing::{Case, numbers, strided};
    use super::*;
    use crate::engine::kernels::Kernels;

    fn composed(total: FlexTensor, slices: &[Slice], part: FlexTensor) -> FlexTensor {
        let old = Flex::float_slice(total.clone(), slices);
        Flex::float_slice_assign(total, slices, Flex::float_add(old, part))
    }

    #[test]
    fn any_slice_of_any_layout_is_added_to() {
        let range = |start: isize, end: isize| Slice::new(start, Some(end), 1);
        let cases: [(&[usize], Vec<Slice>, &[usize]); 5] = [
            (&[700, 300], vec![range(0, 700), range(100, 200)], &[700, 100]),
            (&[5, 7], vec![range(0, 5)], &[5, 7]),
            (&[5, 7], vec![range(1, 3), range(2, 7)], &[2, 5]),
            (&[5, 8], vec![range(0, 5), Slice::new(0, Some(8), 2)], &[5, 4]),
            (&[2, 3, 4], vec![range(0, 2), range(0, 3), range(1, 3)], &[2, 3, 2]),
        ];
        for (shape, slices, part_shape) in cases {
            for case in Case::ALL {
                let total = || strided::<f64>(shape, 1, case);
                let part = || strided::<f64>(part_shape, 2, case);
                let expected = numbers(&composed(total(), &slices, part()));
                assert_eq!(numbers(&Flex::add_to_slice(total(), &slices, part())), expected, "{shape:?}");
                let shared = total();
                let kept = numbers(&shared);
                assert_eq!(numbers(&Flex::add_to_slice(shared.clone(), &slices, part())), expected, "{shape:?}");
                assert_eq!(numbers(&shared), kept, "what somebody else holds stays as it is");
            }
        }
    }
}
