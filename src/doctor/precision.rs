//! The real precision of the device's matrix products.
//!
//! A GPU library may quietly compute "f32" products from operands of 10 bits (TF32), a relative error of about 3e-4. So
//! products of random matrices are compared with f64 sums of the very same entries. Rows are sampled: a kernel that
//! rounds its operands does so everywhere.

use std::fmt;

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burn_backend::tensor::{Device, FloatTensor};
use rayon::prelude::*;
use serde::Serialize;

use super::Finding;
use crate::config::Config;
use crate::engine::{Arithmetic, Kernels};
use crate::hessian::Precision;
use crate::job::{On, Task, dispatch};
use crate::probe::{ProbeKind, probe};
use crate::{Error, Result};

/// Rows and columns of the result.
const SIZE: usize = 512;
/// Every so many-th row is compared.
const EVERY_ROW: usize = 8;
/// Inner dimension that every run measures.
pub const SHORT_PRODUCTS: usize = 512;
/// Inner dimension of the doctor's second measurement: rounding grows with it.
pub const LONG_PRODUCTS: usize = 4096;
/// Most that f32 products may be off; sums of 4096 terms in f32 stay below 3e-6, TF32 is at 3e-4.
const LIMIT_F32: f64 = 1e-5;
/// Most that products of rounded operands may be off, in roundings of an operand.
const ROUNDINGS: f64 = 2.0;
/// Most that f64 products may be off.
const LIMIT_F64: f64 = 1e-13;

/// Error of matrix products on a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatmulError {
    /// Type of the entries: `f32` or `f64`.
    pub precision: String,
    /// Inner dimension.
    pub inner: usize,
    /// |C - C_64| / |C_64| (Frobenius), the larger of a plain product and a sum of two.
    pub relative: f64,
    /// What a run accepts.
    pub limit: f64,
}

impl fmt::Display for MatmulError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { precision, inner, relative, .. } = self;
        write!(
            f,
            "matrix products in {precision}: relative error {relative:.2e} ({SIZE} x {SIZE} x {inner}, against f64)"
        )
    }
}

impl MatmulError {
    /// Refuses a device whose products are worse than their type promises; NaN is worse than anything.
    ///
    /// # Errors
    /// [`Error::Environment`]
    pub fn check(&self) -> Result<()> {
        if self.relative <= self.limit {
            return Ok(());
        }
        if !self.relative.is_finite() {
            return Err(Error::Environment(format!(
                "{self}: they are not finite. The library of matrix products fails on this device (the log says how), or its \
                 memory is full; another backend works, as in --set hessian.backend=flex"
            )));
        }
        Err(Error::Environment(format!(
            "{self}, at most {:.0e} is accepted: the library rounds the operands to fewer bits than they have (TF32 or half \
             precision?). On NVIDIA's devices cuBLAS does not (`hesspec doctor` says what multiplies); else take hessian.math = \
             \"3xtf32\", whose three products are near f32 there, or another backend, as in --set hessian.backend=flex",
            self.limit
        )))
    }
}

/// Measures products with an inner dimension of `inner` (even).
pub fn matmul_error<K: Kernels, T: Precision>(device: &Device<K>, inner: usize) -> Result<MatmulError> {
    let random = |name: &str| -> Vec<T> {
        let entries = probe(ProbeKind::Gaussian, 1, name, inner as u32, 0..SIZE * inner);
        entries.into_iter().map(T::from_f64).collect()
    };
    let (a, b) = (random("left"), random("right"));
    let half = inner / 2;
    let columns = |from: usize| -> Vec<T> { a.chunks(inner).flat_map(|row| row[from..from + half].to_vec()).collect() };
    let tensor = |values: Vec<T>, rows, columns| on_device::<K, T>(device, values, rows, columns);
    let plain = K::sum_of_products(vec![(tensor(a.clone(), SIZE, inner), tensor(b.clone(), inner, SIZE))]);
    let summed = K::sum_of_products(vec![
        (tensor(columns(0), SIZE, half), tensor(b[..half * SIZE].to_vec(), half, SIZE)),
        (tensor(columns(half), SIZE, half), tensor(b[half * SIZE..].to_vec(), half, SIZE)),
    ]);
    let reference = reference(&a, &b, inner);
    let relative = relative(&host::<K, T>(plain)?, &reference).max(relative(&host::<K, T>(summed)?, &reference));
    let is_double = size_of::<T>() == size_of::<f64>();
    let limit_f32 = LIMIT_F32.max(ROUNDINGS * Arithmetic::current().unit_roundoff());
    let (precision, limit) = if is_double { ("f64", LIMIT_F64) } else { ("f32", limit_f32) };
    Ok(MatmulError { precision: precision.into(), inner, relative, limit })
}

fn on_device<K: Kernels, T: Precision>(
    device: &Device<K>,
    values: Vec<T>,
    rows: usize,
    columns: usize,
) -> FloatTensor<K> {
    let data = TensorData::new(values, [rows, columns]);
    Tensor::<K, 2>::from_data(data, (device, T::DTYPE)).into_primitive().tensor()
}

fn host<K: Kernels, T: Precision>(tensor: FloatTensor<K>) -> Result<Vec<T>> {
    let data = Tensor::<K, 2>::from_primitive(TensorPrimitive::Float(tensor)).into_data();
    data.into_vec::<T>().map_err(|error| Error::Environment(format!("reading a matrix from the device: {error:?}")))
}

/// The sampled rows of the product, summed in f64.
fn reference<T: Precision>(a: &[T], b: &[T], inner: usize) -> Vec<f64> {
    let b: Vec<f64> = b.iter().map(|x| x.to_f64()).collect();
    let rows: Vec<&[T]> = a.chunks(inner).step_by(EVERY_ROW).collect();
    let row = |row: &&[T]| {
        let mut sums = vec![0.0; SIZE];
        for (x, b) in row.iter().zip(b.chunks(SIZE)) {
            let x = x.to_f64();
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
        }
        sums
    };
    rows.par_iter().flat_map_iter(row).collect()
}

fn relative<T: Precision>(found: &[T], reference: &[f64]) -> f64 {
    let sampled = found.chunks(SIZE).step_by(EVERY_ROW).flatten();
    let (mut difference, mut norm) = (0.0, 0.0);
    for (x, y) in sampled.zip(reference) {
        difference += (x.to_f64() - y).powi(2);
        norm += y * y;
    }
    // f64::max drops a NaN, and a product that is NaN must not pass
    let ratio = (difference / norm).sqrt();
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// The configured backend's products, short and long.
pub fn products(config: &Config) -> Vec<Finding> {
    [SHORT_PRODUCTS, LONG_PRODUCTS].map(|inner| finding(config, inner)).into()
}

fn finding(config: &Config, inner: usize) -> Finding {
    let what = format!("products, inner dimension {inner}");
    match dispatch(config, Products(inner)).and_then(|(error, by)| error.check().map(|()| (error, by))) {
        Ok((error, by)) => Finding::ok(&what, format!("{error}, by {by}")),
        Err(error) => Finding::of(&what, &error),
    }
}

struct Products(usize);

impl Task for Products {
    type Output = (MatmulError, String);

    fn run<K: Kernels, T: Precision>(self, _: &Config, on: On<'_, K, T>) -> Result<Self::Output> {
        Ok((matmul_error::<K, T>(&on.device, self.0)?, K::product_library()))
    }
}

#[cfg(test)]
mod tests {
    use burn_backend::ops::FloatTensorOps;

    use super::*;

    type K = burn_flex::Flex;

    /// Operands cut to 10 bits of fraction, as TF32 units do.
    fn cut(values: &[f32]) -> Vec<f32> {
        values.iter().map(|x| f32::from_bits((x.to_bits() + 0x1000) & !0x1FFF)).collect()
    }

    #[test]
    fn f32_and_f64_products_are_what_they_say() {
        let device = Default::default();
        let single = matmul_error::<K, f32>(&device, SHORT_PRODUCTS).unwrap();
        // at least one rounding of the result (2^-25 on average), at most all roundings in the same direction
        assert!(single.relative > 1e-8 && single.relative < 3e-6, "{single}");
        single.check().unwrap();
        let double = matmul_error::<K, f64>(&device, SHORT_PRODUCTS).unwrap();
        assert!(double.relative < 1e-14, "{double}");
        double.check().unwrap();
    }

    #[test]
    fn tf32_and_nan_are_refused() {
        let inner = 64;
        let random = |name: &str| -> Vec<f32> {
            let entries = probe(ProbeKind::Gaussian, 2, name, 0, 0..SIZE * inner);
            entries.into_iter().map(|x| x as f32).collect()
        };
        let (a, b) = (random("a"), random("b"));
        let device = Default::default();
        let product = |a: &[f32], b: &[f32]| {
            let left = on_device::<K, f32>(&device, a.to_vec(), SIZE, inner);
            let right = on_device::<K, f32>(&device, b.to_vec(), inner, SIZE);
            host::<K, f32>(K::float_matmul(left, right)).unwrap()
        };
        let exact = reference(&a, &b, inner);
        let with = |relative| MatmulError { precision: "f32".into(), inner, relative, limit: LIMIT_F32 };
        with(relative(&product(&a, &b), &exact)).check().unwrap();
        let found = relative(&product(&cut(&a), &cut(&b)), &exact);
        assert!((1e-4..1e-3).contains(&found), "{found}"); // 2^-11 / sqrt(3) of either operand
        assert_eq!(with(found).check().unwrap_err().exit_code(), 3);
        let mut spoilt = product(&a, &b);
        spoilt[0] = f32::NAN;
        assert_eq!(with(relative(&spoilt, &exact)).check().unwrap_err().exit_code(), 3);
    }
}
