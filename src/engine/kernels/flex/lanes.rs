//! Loops over slices of equal length, and sums in a fixed order.
//!
//! Sums run in 16 partial sums whatever the width of the machine's vectors, so that their bits are the same everywhere.

use super::element::Element;

const LANES: usize = 16;

/// `out_i = f(a_i)`.
#[inline(always)]
pub(super) fn map<T: Element>(out: &mut [T], a: &[T], f: impl Fn(T) -> T) {
    let a = &a[..out.len()];
    for i in 0..out.len() {
        out[i] = f(a[i]);
    }
}

/// `out_i = f(out_i, a_i)`.
#[inline(always)]
pub(super) fn update<T: Element>(out: &mut [T], a: &[T], f: impl Fn(T, T) -> T) {
    let a = &a[..out.len()];
    for i in 0..out.len() {
        out[i] = f(out[i], a[i]);
    }
}

/// `out_i = f(out_i, a_i, b_i)`.
#[inline(always)]
pub(super) fn update2<T: Element>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T, T) -> T) {
    let (a, b) = (&a[..out.len()], &b[..out.len()]);
    for i in 0..out.len() {
        out[i] = f(out[i], a[i], b[i]);
    }
}

/// `out_i = f(out_i, a_i, b_i, c_i)`.
#[inline(always)]
pub(super) fn update3<T: Element>(out: &mut [T], a: &[T], b: &[T], c: &[T], f: impl Fn(T, T, T, T) -> T) {
    let (a, b, c) = (&a[..out.len()], &b[..out.len()], &c[..out.len()]);
    for i in 0..out.len() {
        out[i] = f(out[i], a[i], b[i], c[i]);
    }
}

/// `sum_i f(i)` over `0..len`: 16 partial sums, then the rest one by one. (Indexing the partial sums by anything but
/// constants would keep them out of registers.)
#[inline(always)]
fn sum_of<T: Element>(len: usize, f: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let whole = len - len % LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
        start += LANES;
    }
    let mut rest = T::ZERO;
    for i in whole..len {
        rest += f(i);
    }
    sum_of_lanes(&lanes) + rest
}

/// Kept out of line: inlined, its pairwise shape makes LLVM split the loop before it into pairs too (measured: 4 times
/// slower).
#[inline(never)]
fn sum_of_lanes<T: Element>(lanes: &[T; LANES]) -> T {
    let eight: [T; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [T; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `sum_i a_i`.
#[inline(always)]
pub(super) fn sum<T: Element>(a: &[T]) -> T {
    // SAFETY of the unchecked reads here and below: every index is smaller than the slices' common length.
    sum_of(a.len(), |i| unsafe { *a.get_unchecked(i) })
}

/// `sum_i a_i b_i`.
#[inline(always)]
pub(super) fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let b = &b[..a.len()];
    sum_of(a.len(), |i| unsafe { *a.get_unchecked(i) * *b.get_unchecked(i) })
}

/// `sum_i a_i b_i + c_i d_i`.
#[inline(always)]
pub(super) fn dot2<T: Element>(a: &[T], b: &[T], c: &[T], d: &[T]) -> T {
    let (b, c, d) = (&b[..a.len()], &c[..a.len()], &d[..a.len()]);
    sum_of(a.len(), |i| unsafe {
        *a.get_unchecked(i) * *b.get_unchecked(i) + *c.get_unchecked(i) * *d.get_unchecked(i)
    })
}

/// The largest entry, `-inf` if there is none.
#[inline(always)]
pub(super) fn max<T: Element>(a: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let mut chunks = a.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    let rest = chunks.remainder().iter().chain(&lanes);
    rest.fold(T::NEG_INFINITY, |largest, &x| largest.larger(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_cover_every_entry_once_at_any_length() {
        for len in [0usize, 1, 15, 16, 17, 40, 67] {
            let a: Vec<f64> = (1..=len).map(|i| i as f64).collect();
            let ones = vec![1.0; len];
            let n = len as f64;
            assert_eq!(sum(&a), n * (n + 1.0) / 2.0);
            assert_eq!(dot(&a, &a), n * (n + 1.0) * (2.0 * n + 1.0) / 6.0);
            assert_eq!(dot2(&a, &ones, &ones, &ones), sum(&a) + n);
        }
    }

    #[test]
    fn max_finds_the_largest_wherever_it_stands() {
        assert_eq!(max::<f64>(&[]), f64::NEG_INFINITY);
        for place in 0..37 {
            let mut a = vec![-3.0f32; 37];
            a[place] = 2.0;
            assert_eq!(max(&a), 2.0);
        }
    }
}
