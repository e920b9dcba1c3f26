//! Strided matrices and their products by the gemm crate.
//!
//! The gemm crate divides rows and columns among threads, never the sum, so that its results do not depend on how many
//! there are. OpenBLAS was measured to be no faster (see [`LIBRARY`]).

use std::marker::PhantomData;
use std::ops::Range;

use super::element::Element;

/// The library behind matrix products.
///
/// On 2 cores with AVX-512 (AMD family 26), 2048^3 in f32: gemm 470 GFLOP/s; OpenBLAS 0.3.21 476 with
/// `OPENBLAS_CORETYPE=SkylakeX`, but half of that a thread as it comes (it takes the machine for a Haswell); MKL, which
/// also falls back to AVX2, 210.
pub(super) const LIBRARY: &str = "gemm 0.19";

/// A matrix inside a slice, with any strides.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: *const T,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
    lifetime: PhantomData<&'a [T]>,
}

// SAFETY: a shared view of numbers.
unsafe impl<T: Sync> Send for Matrix<'_, T> {}
unsafe impl<T: Sync> Sync for Matrix<'_, T> {}

impl<'a, T: Element> Matrix<'a, T> {
    /// The matrix that starts at `offset`. Panics if any entry lies outside of `data`.
    pub(super) fn new(data: &'a [T], offset: usize, [rows, cols]: [usize; 2], strides: [isize; 2]) -> Self {
        assert_inside(data.len(), offset, [rows, cols], strides);
        let [row_stride, col_stride] = strides;
        // `wrapping_add`: an empty matrix may start at the end of its slice.
        let data = data.as_ptr().wrapping_add(offset);
        Self { data, rows, cols, row_stride, col_stride, lifetime: PhantomData }
    }

    /// Row-major without gaps.
    pub(super) fn dense(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(data, 0, [rows, cols], [cols as isize, 1])
    }

    /// Some of the rows.
    pub(super) fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let data = self.data.wrapping_offset(range.start as isize * self.row_stride);
        Self { data, rows: range.len(), ..self }
    }

    /// The transpose.
    pub(super) fn transposed(self) -> Self {
        let (rows, cols, row_stride, col_stride) = (self.cols, self.rows, self.col_stride, self.row_stride);
        Self { rows, cols, row_stride, col_stride, ..self }
    }
}

/// A matrix that a product writes to.
pub(super) struct MatrixMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<'a, T: Element> MatrixMut<'a, T> {
    /// Row-major without gaps.
    pub(super) fn dense(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_inside(data.len(), 0, [rows, cols], [cols as isize, 1]);
        Self { data: data.as_mut_ptr(), rows, cols, row_stride: cols as isize, col_stride: 1, lifetime: PhantomData }
    }

    /// Some of the rows.
    pub(super) fn rows(&mut self, range: Range<usize>) -> MatrixMut<'_, T> {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let data = self.data.wrapping_offset(range.start as isize * self.row_stride);
        MatrixMut { data, rows: range.len(), lifetime: PhantomData, ..*self }
    }
}

fn assert_inside(len: usize, offset: usize, shape: [usize; 2], strides: [isize; 2]) {
    if shape.contains(&0) {
        return;
    }
    let reach = [0, 1].map(|d| (shape[d] - 1) as isize * strides[d]);
    let first = offset as isize + reach.iter().map(|&r| r.min(0)).sum::<isize>();
    let last = offset as isize + reach.iter().map(|&r| r.max(0)).sum::<isize>();
    assert!(first >= 0 && (last as usize) < len, "matrix {shape:?} with strides {strides:?} at {offset} leaves {len}");
}

/// Numbers that several tasks write to, each to entries of its own.
pub(super) struct SharedOutput<'a, T> {
    data: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: handed out only through unsafe functions, whose callers keep the tasks' entries apart.
unsafe impl<T: Send> Sync for SharedOutput<'_, T> {}

impl<'a, T: Element> SharedOutput<'a, T> {
    pub(super) fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// The matrix that starts at `offset`.
    ///
    /// # Safety
    /// No entry may be in use by another task at the same time.
    pub(super) unsafe fn matrix(
        &self,
        offset: usize,
        [rows, cols]: [usize; 2],
        strides: [isize; 2],
    ) -> MatrixMut<'_, T> {
        assert_inside(self.len, offset, [rows, cols], strides);
        let [row_stride, col_stride] = strides;
        let data = self.data.wrapping_add(offset);
        MatrixMut { data, rows, cols, row_stride, col_stride, lifetime: PhantomData }
    }

    /// Some of the numbers.
    ///
    /// # Safety
    /// None of them may be in use by another task at the same time.
    #[allow(clippy::mut_from_ref)] // the caller keeps the parts apart
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside, and nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// What a product does with the numbers that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Replace,
    Add,
}

impl Write {
    /// Replace at the first call of a sequence, add from then on.
    pub(super) fn then_add(&mut self) -> Self {
        std::mem::replace(self, Self::Add)
    }
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread: inside tasks.
    This,
    /// All, if the product is large enough.
    All,
}

/// Multiply-adds from which on a second thread pays (as in burn-flex).
const PARALLEL_FROM: usize = 192 * 192 * 192;

/// Terms that a product adds up in one go, before it adds them to the rest: rounding errors grow with the root of this
/// number, and a sum over rows in runs of a window's length hardly depends on how many windows a micro-batch has.
const RUN: usize = 256;

/// `out = factor lhs rhs`, or `out += factor lhs rhs`.
pub(super) fn product<T: Element>(
    out: &mut MatrixMut<'_, T>,
    write: Write,
    factor: T,
    lhs: Matrix<'_, T>,
    rhs: Matrix<'_, T>,
    threads: Threads,
) {
    let (m, n, k) = (out.rows, out.cols, lhs.cols);
    assert_eq!((lhs.rows, rhs.rows, rhs.cols), (m, k, n), "shapes of a product");
    let large = m.saturating_mul(n).saturating_mul(k) >= PARALLEL_FROM;
    let parallelism =
        if large && threads == Threads::All { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    let (mut start, mut write) = (0, write);
    loop {
        let run = (k - start).min(RUN);
        // SAFETY: constructors checked that every entry lies inside its slice; T is f32 or f64; gemm computes
        // `alpha out + beta lhs rhs`, reading `out` only if `write` says so.
        unsafe {
            gemm::gemm(
                m,
                n,
                run,
                out.data,
                out.col_stride,
                out.row_stride,
                write.then_add() == Write::Add,
                lhs.data.wrapping_offset(start as isize * lhs.col_stride),
                lhs.col_stride,
                lhs.row_stride,
                rhs.data.wrapping_offset(start as isize * rhs.row_stride),
                rhs.col_stride,
                rhs.row_stride,
                T::ONE,
                factor,
                false,
                false,
                false,
                parallelism,
            );
        }
        start += run;
        if start >= k {
            return;
        }
    }
}
