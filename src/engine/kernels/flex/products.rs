//! Sums of matrix products, accumulated in one buffer, of views with any strides.

use burn_backend::{Shape, TensorMetadata};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::dual_slices::{tensor, to_be_filled};
use super::element::Element;
use super::matrix::{Matrix, MatrixMut, Threads, Write, product};

/// Pairs of factors.
type Terms = Vec<(FlexTensor, FlexTensor)>;

/// `sum_i lhs_i @ rhs_i` over (batches of) matrices; batch dimensions broadcast. Terms and result share one shape.
pub(super) fn sum_of_products<T: Element>(terms: &[(FlexTensor, FlexTensor)]) -> FlexTensor {
    let sum = Sum::new(terms);
    let mut out = to_be_filled::<T>(sum.len());
    sum.fill(&mut out, Threads::All);
    tensor(out, sum.shape())
}

/// Several such sums. Equal ones go to one thread each, as many at a time as there are threads: threads that share a product
/// wait for each other and read its factors twice (measured on 2 threads: 3 to 17 % slower, `tests` hold the bits equal).
pub(super) fn sums_of_products<T: Element>(all: &[Terms]) -> Vec<FlexTensor> {
    let sums: Vec<Sum<'_>> = all.iter().map(|terms| Sum::new(terms)).collect();
    let mut out: Vec<Vec<T>> = sums.iter().map(|sum| to_be_filled(sum.len())).collect();
    let mut work: Vec<(&Sum<'_>, &mut Vec<T>)> = sums.iter().zip(&mut out).collect();
    work.sort_by_key(|(sum, _)| sum.multiply_adds());
    for equal in work.chunk_by_mut(|(a, _), (b, _)| a.multiply_adds() == b.multiply_adds()) {
        let apart = equal.len() - equal.len() % rayon::current_num_threads();
        let (apart, together) = equal.split_at_mut(apart);
        apart.par_iter_mut().with_max_len(1).for_each(|(sum, out)| sum.fill(out, Threads::This));
        together.iter_mut().for_each(|(sum, out)| sum.fill(out, Threads::All));
    }
    sums.iter().zip(out).map(|(sum, out)| tensor(out, sum.shape())).collect()
}

/// One sum of products: its terms and sizes.
struct Sum<'a> {
    terms: &'a [(FlexTensor, FlexTensor)],
    batch: Vec<usize>,
    rows: usize,
    cols: usize,
}

impl<'a> Sum<'a> {
    fn new(terms: &'a [(FlexTensor, FlexTensor)]) -> Self {
        let (rows, cols) = (dimension(&terms[0].0, 2), dimension(&terms[0].1, 1));
        Self { terms, batch: batch_shape(terms), rows, cols }
    }

    fn shape(&self) -> Shape {
        Shape::from([self.batch.as_slice(), &[self.rows, self.cols]].concat())
    }

    fn len(&self) -> usize {
        self.shape().num_elements()
    }

    fn multiply_adds(&self) -> usize {
        self.len() * self.terms.iter().map(|(lhs, _)| dimension(lhs, 1)).sum::<usize>()
    }

    fn fill<T: Element>(&self, out: &mut [T], threads: Threads) {
        let Self { terms, batch, rows, cols } = self;
        let matrices: usize = batch.iter().product();
        if folds_into_rows(terms, batch) {
            accumulate::<T>(out, [matrices * rows, *cols], terms, &[], 0, threads);
            return;
        }
        // Few matrices: threads within each product. Many: one product a task. Either way the same sums.
        let one = |(index, out): (usize, &mut [T]), threads| {
            accumulate(out, [*rows, *cols], terms, batch, index, threads);
        };
        let parts = (rows * cols).max(1);
        if threads == Threads::This || matrices < 4 {
            out.chunks_mut(parts).enumerate().for_each(|part| one(part, threads));
        } else {
            out.par_chunks_mut(parts).enumerate().for_each(|part| one(part, Threads::This));
        }
    }
}

/// Writes the sum for one index of the batch; an empty `batch` takes all rows of the left factors together.
fn accumulate<T: Element>(
    out: &mut [T],
    [rows, cols]: [usize; 2],
    terms: &[(FlexTensor, FlexTensor)],
    batch: &[usize],
    index: usize,
    threads: Threads,
) {
    let mut out = MatrixMut::dense(out, rows, cols);
    let mut write = Write::Replace;
    for (lhs, rhs) in terms {
        let depth = dimension(lhs, 1);
        let lhs = matrix(lhs, [rows, depth], batch, index);
        let rhs = matrix(rhs, [depth, cols], batch, index);
        product(&mut out, write.then_add(), T::ONE, lhs, rhs, threads);
    }
}

/// The matrix at a flat index of the (broadcast) batch.
fn matrix<'a, T: Element>(x: &'a FlexTensor, shape: [usize; 2], batch: &[usize], index: usize) -> Matrix<'a, T> {
    let layout = x.layout();
    let (dims, strides) = (layout.shape().as_slice(), layout.strides());
    let rank = dims.len();
    let (mut rest, mut offset) = (index, layout.start_offset() as isize);
    for back in 1..=batch.len() {
        let size = batch[batch.len() - back];
        let position = (rest % size) as isize;
        rest /= size;
        if rank >= 2 + back && dims[rank - 2 - back] > 1 {
            offset += position * strides[rank - 2 - back];
        }
    }
    Matrix::new(x.storage(), offset as usize, shape, [strides[rank - 2], strides[rank - 1]])
}

/// Size of the dimension that is `back`-th from the end.
fn dimension(x: &FlexTensor, back: usize) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - back]
}

/// Batch dimensions that all factors broadcast to.
fn batch_shape(terms: &[(FlexTensor, FlexTensor)]) -> Vec<usize> {
    let factors = || terms.iter().flat_map(|(lhs, rhs)| [lhs, rhs]);
    let rank = factors().map(|x| x.shape().num_dims()).max().unwrap_or(2);
    let mut batch = vec![1; rank - 2];
    for factor in factors() {
        let shape = factor.shape();
        let skipped = rank - shape.num_dims();
        for (size, &own) in batch[skipped..].iter_mut().zip(shape.as_slice()) {
            assert!(own == *size || own == 1 || *size == 1, "batch dimensions {own} and {size} do not broadcast");
            *size = if own == 1 { *size } else { own };
        }
    }
    batch
}

/// Whether all terms are (batch, rows, depth) @ (1, depth, cols) with the batch's rows at one stride, so that one large
/// product does (activations times a weight).
fn folds_into_rows(terms: &[(FlexTensor, FlexTensor)], batch: &[usize]) -> bool {
    terms.iter().all(|(lhs, rhs)| {
        let (lhs, rhs_shape) = (lhs.layout(), rhs.shape());
        let (dims, strides) = (lhs.shape().as_slice(), lhs.strides());
        let rank = dims.len();
        rhs_shape.as_slice()[..rhs_shape.num_dims() - 2].iter().all(|&d| d == 1)
            && dims[..rank - 2] == *batch
            && (1..=rank - 2).all(|d| strides[d - 1] == strides[d] * dims[d] as isize)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, close, numbers, strided};
    use super::*;
    use burn_backend::ops::FloatTensorOps;
    use burn_flex::Flex;

    fn composed(terms: &[(FlexTensor, FlexTensor)]) -> FlexTensor {
        let products = terms.iter().map(|(lhs, rhs)| Flex::float_matmul(lhs.clone(), rhs.clone()));
        products.reduce(Flex::float_add).unwrap()
    }

    fn terms<T: Element>(lhs: &[usize], rhs: &[usize], count: u64, case: Case) -> Vec<(FlexTensor, FlexTensor)> {
        (0..count).map(|i| (strided::<T>(lhs, 2 * i, case), strided::<T>(rhs, 2 * i + 1, case))).collect()
    }

    #[test]
    fn equals_the_sum_of_separate_products() {
        let shapes: [(&[usize], &[usize]); 7] = [
            (&[5, 7], &[7, 3]),
            (&[1, 9], &[9, 11]),
            (&[33, 1], &[1, 17]),
            (&[3, 5, 7], &[3, 7, 2]),
            (&[5, 4, 7], &[1, 7, 6]),
            (&[1, 4, 7], &[5, 7, 6]),
            (&[2, 3, 5, 4], &[2, 1, 4, 9]),
        ];
        for (lhs, rhs) in shapes {
            for case in Case::ALL {
                for count in 1..=3 {
                    let f64s = terms::<f64>(lhs, rhs, count, case);
                    close(&sum_of_products::<f64>(&f64s), &composed(&f64s), 1e-14);
                    let f32s = terms::<f32>(lhs, rhs, count, case);
                    close(&sum_of_products::<f32>(&f32s), &composed(&f64s), 1e-6);
                }
            }
        }
    }

    /// Sums of different sizes and numbers of terms, on fewer and on more threads than there are.
    #[test]
    fn several_sums_have_the_bits_of_each_alone() {
        let shape = |i: usize| if i < 5 { ([70, 300], [300, 90]) } else { ([40, 9], [9, 11]) };
        let sums: Vec<Terms> = (0..8)
            .map(|i| terms::<f32>(&shape(i).0, &shape(i).1, 1 + i as u64 % 2, Case::ALL[i % Case::ALL.len()]))
            .collect();
        let alone: Vec<Vec<f64>> = sums.iter().map(|terms| numbers(&sum_of_products::<f32>(terms))).collect();
        for threads in [1, 2, 3, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let together = pool.install(|| sums_of_products::<f32>(&sums));
            assert_eq!(together.iter().map(numbers).collect::<Vec<_>>(), alone, "{threads} threads");
        }
    }

    #[test]
    fn one_thread_and_three_give_the_same_bits() {
        let terms = terms::<f32>(&[300, 250], &[250, 310], 2, Case::Dense);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            numbers(&pool.install(|| sum_of_products::<f32>(&terms)))
        };
        assert_eq!(with(1), with(3));
    }
}
