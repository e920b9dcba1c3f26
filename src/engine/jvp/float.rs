//! Rules of `FloatTensorOps`.

use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IndexingUpdateOp, IntTensor};
use burn_backend::{
    BoolDType, Distribution, ExecutionError, FloatDType, IntDType, Scalar, Shape, Slice, TensorData, TensorMetadata,
};

use super::rules::{
    bilinear, binary, bool_dtype, constant, int_dtype, joint, masked, plus, product, selected, slots, stop, sum, unary,
    with_tangents, zeros_like,
};
use super::types::{alike, all_alike, asked};
use super::{Jvp, kinks, scan, types};
use crate::engine::kernels::{Dual, Kernels};

/// Linear maps that are views, or may be: the tangents go through the same call.
macro_rules! linear_maps {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name(tensor: FloatTensor<Self>, $($argument: $kind),*) -> FloatTensor<Self> {
            tensor.map(|t| B::$name(t, $(Clone::clone(&$argument)),*))
        }
    )*};
}

/// Linear maps that take a pass over memory.
macro_rules! linear_passes {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name(tensor: FloatTensor<Self>, $($argument: $kind),*) -> FloatTensor<Self> {
            tensor.map_apart(|t| B::$name(t, $(Clone::clone(&$argument)),*))
        }
    )*};
}

/// Elementwise functions with their derivative in terms of x and y.
macro_rules! elementwise {
    ($($name:ident: |$x:pat_param, $y:pat_param| $slope:expr;)*) => {$(
        fn $name(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
            unary(tensor, B::$name, |$x, $y| $slope)
        }
    )*};
}

/// Operations that are constant wherever they have a derivative.
macro_rules! piecewise_constant {
    ($($name:ident)*) => {$(
        fn $name(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
            constant(tensor, B::$name)
        }
    )*};
}

/// Operations that make a constant.
macro_rules! sources {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name($($argument: $kind),*) -> FloatTensor<Self> {
            types::constant::<B>(B::$name($($argument),*))
        }
    )*};
}

/// What reads the primal alone.
macro_rules! of_the_primal {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {$(
        fn $name(tensor: FloatTensor<Self>, $($argument: $kind),*) -> $result {
            B::$name(tensor.primal, $($argument),*)
        }
    )*};
}

/// Comparisons read the primals; a branch may hang on them.
macro_rules! comparisons {
    ($($name:ident)*) => {$(
        fn $name(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, out_dtype: BoolDType) -> BoolTensor<Self> {
            let (lhs, rhs) = alike(lhs, rhs);
            kinks::sides::<B>(B::$name(lhs.primal, rhs.primal, out_dtype))
        }
    )*};
}

/// Comparisons with a number.
macro_rules! comparisons_with_a_number {
    ($($name:ident)*) => {$(
        fn $name(tensor: FloatTensor<Self>, rhs: Scalar, out_dtype: BoolDType) -> BoolTensor<Self> {
            kinks::sides::<B>(B::$name(tensor.primal, rhs, out_dtype))
        }
    )*};
}

/// Searches read the primal; what is selected hangs on them.
macro_rules! searches {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name(tensor: FloatTensor<Self>, $($argument: $kind,)* out_dtype: IntDType) -> IntTensor<Self> {
            kinks::positions::<B>(B::$name(tensor.primal, $($argument,)* out_dtype))
        }
    )*};
}

fn number(value: f64) -> Scalar {
    Scalar::Float(value)
}

/// 1 + sign * x^2.
fn one_plus_square<B: Kernels>(x: FloatTensor<B>, sign: f64) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x);
    B::float_add_scalar(B::float_mul_scalar(square, number(sign)), number(1.0))
}

/// 1 / sqrt(x).
fn inverse_root<B: Kernels>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_sqrt(x))
}

/// The slope of an extremum over everything is taken at one position of the flattened tensor.
fn flattened<B: Kernels>(x: Dual<B>) -> Dual<B> {
    let count = x.shape().num_elements();
    x.map(|t| B::float_reshape(t, Shape::from(vec![count])))
}

impl<B: Kernels> FloatTensorOps<Self> for Jvp<B> {
    sources! {
        float_from_data(data: TensorData, device: &Device<Self>);
        float_random(shape: Shape, distribution: Distribution, device: &Device<Self>, dtype: FloatDType);
        float_zeros(shape: Shape, device: &Device<Self>, dtype: FloatDType);
        float_ones(shape: Shape, device: &Device<Self>, dtype: FloatDType);
        float_empty(shape: Shape, device: &Device<Self>, dtype: FloatDType);
    }

    /// In the type that is asked for from the start: the number may have more digits than f32.
    fn float_full(shape: Shape, fill_value: Scalar, device: &Device<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        Dual::constant(B::float_full(shape, fill_value, device, asked(dtype)))
    }

    fn float_cast(tensor: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        let dtype = asked(dtype);
        tensor.map(|t| B::float_cast(t, dtype))
    }

    linear_maps! {
        float_to_device(device: &Device<Self>);
        float_transpose();
        float_swap_dims(dim1: usize, dim2: usize);
        float_permute(axes: &[usize]);
        float_flip(axes: &[usize]);
        float_reshape(shape: Shape);
        float_slice(slices: &[Slice]);
        float_expand(shape: Shape);
        float_unfold(dim: usize, size: usize, step: usize);
    }

    linear_passes! {
        float_repeat_dim(dim: usize, times: usize);
        float_mul_scalar(rhs: Scalar);
        float_div_scalar(rhs: Scalar);
        float_neg();
        float_gather_nd(indices: IntTensor<Self>);
        float_select(dim: usize, indices: IntTensor<Self>);
        float_sum();
        float_sum_dim(dim: usize);
        float_mean();
        float_mean_dim(dim: usize);
        float_cumsum(dim: usize);
    }

    elementwise! {
        float_exp: |_, y| y;
        float_log: |x, _| B::float_recip(x);
        float_log1p: |x, _| B::float_recip(B::float_add_scalar(x, number(1.0)));
        float_recip: |_, y| B::float_neg(B::float_mul(y.clone(), y));
        float_sqrt: |_, y| B::float_mul_scalar(B::float_recip(y), number(0.5));
        float_cos: |x, _| B::float_neg(B::float_sin(x));
        float_sin: |x, _| B::float_cos(x);
        float_tan: |_, y| one_plus_square::<B>(y, 1.0);
        float_cosh: |x, _| B::float_sinh(x);
        float_sinh: |x, _| B::float_cosh(x);
        float_tanh: |_, y| one_plus_square::<B>(y, -1.0);
        float_acos: |x, _| B::float_neg(inverse_root::<B>(one_plus_square::<B>(x, -1.0)));
        float_acosh: |x, _| inverse_root::<B>(B::float_neg(one_plus_square::<B>(x, -1.0)));
        float_asin: |x, _| inverse_root::<B>(one_plus_square::<B>(x, -1.0));
        float_asinh: |x, _| inverse_root::<B>(one_plus_square::<B>(x, 1.0));
        float_atan: |x, _| B::float_recip(one_plus_square::<B>(x, 1.0));
        float_atanh: |x, _| B::float_recip(one_plus_square::<B>(x, -1.0));
        float_erf: |x, _| {
            let bell = B::float_exp(B::float_neg(B::float_mul(x.clone(), x)));
            B::float_mul_scalar(bell, number(std::f64::consts::FRAC_2_SQRT_PI))
        };
    }

    fn float_abs(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        if kinks::is_recording() {
            kinks::sides::<B>(B::float_lower_elem(tensor.primal.clone(), number(0.0), bool_dtype::<B>(&tensor.primal)));
        }
        unary(tensor, B::float_abs, |x, _| B::float_sign(x))
    }

    piecewise_constant! { float_round float_floor float_ceil float_trunc float_sign }

    comparisons! {
        float_equal float_not_equal float_greater float_greater_equal float_lower float_lower_equal
    }

    comparisons_with_a_number! {
        float_equal_elem float_not_equal_elem float_greater_elem float_greater_equal_elem float_lower_elem
        float_lower_equal_elem
    }

    searches! {
        float_argmax(dim: usize);
        float_argmin(dim: usize);
        float_argtopk(dim: usize, k: usize);
        float_argsort(dim: usize, descending: bool);
    }

    of_the_primal! {
        float_into_data() -> impl Future<Output = Result<TensorData, ExecutionError>> + Send;
        float_into_int(out_dtype: IntDType) -> IntTensor<Self>;
        float_any(out_dtype: BoolDType) -> BoolTensor<Self>;
        float_any_dim(dim: usize, out_dtype: BoolDType) -> BoolTensor<Self>;
        float_all(out_dtype: BoolDType) -> BoolTensor<Self>;
        float_all_dim(dim: usize, out_dtype: BoolDType) -> BoolTensor<Self>;
        float_is_nan(out_dtype: BoolDType) -> BoolTensor<Self>;
        float_is_inf(out_dtype: BoolDType) -> BoolTensor<Self>;
    }

    fn float_device(tensor: &FloatTensor<Self>) -> Device<Self> {
        B::float_device(&tensor.primal)
    }

    /// A stop-gradient clears the tangents too (burn's `Autodiff` alone would keep them).
    fn float_detach(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Dual::constant(B::float_detach(tensor.primal))
    }

    fn float_gather(dim: usize, tensor: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        selected(tensor, dim, &indices)
    }

    fn float_add(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        sum(lhs, rhs, false)
    }

    fn float_sub(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        sum(lhs, rhs, true)
    }

    fn float_add_scalar(lhs: FloatTensor<Self>, rhs: Scalar) -> FloatTensor<Self> {
        let y = B::float_add_scalar(lhs.primal.clone(), rhs);
        with_tangents(lhs, y, |t| t)
    }

    fn float_sub_scalar(lhs: FloatTensor<Self>, rhs: Scalar) -> FloatTensor<Self> {
        let y = B::float_sub_scalar(lhs.primal.clone(), rhs);
        with_tangents(lhs, y, |t| t)
    }

    fn float_mul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let (lhs, rhs) = alike(lhs, rhs);
        B::mul(&lhs, &rhs).unwrap_or_else(|| bilinear(lhs, rhs, B::float_mul))
    }

    /// y = a / b: dy = da / b - (y / b) db.
    fn float_div(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let (lhs, rhs) = alike(lhs, rhs);
        let y = B::float_div(lhs.primal.clone(), rhs.primal.clone());
        let tangents = slots(&lhs, &rhs, |da, db| {
            let left = da.map(|da| B::float_div(da, rhs.primal.clone()));
            let right = db.map(|db| B::float_neg(B::float_mul(y.clone(), B::float_div(db, rhs.primal.clone()))));
            plus::<B>(left, right)
        });
        Dual::new(y, tangents)
    }

    /// a - floor(a / b) b: slopes 1 and -floor(a / b).
    fn float_remainder(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let (lhs, rhs) = alike(lhs, rhs);
        let slope = B::float_neg(B::float_floor(B::float_div(lhs.primal.clone(), rhs.primal.clone())));
        let whole = bilinear(Dual::constant(slope), rhs.clone(), B::float_mul);
        let y = B::float_remainder(lhs.primal.clone(), rhs.primal);
        Dual::new(y, sum(lhs, whole, false).tangents)
    }

    fn float_remainder_scalar(lhs: FloatTensor<Self>, rhs: Scalar) -> FloatTensor<Self> {
        let y = B::float_remainder_scalar(lhs.primal.clone(), rhs);
        with_tangents(lhs, y, |t| t)
    }

    fn float_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        product(lhs, rhs)
    }

    fn float_cross(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        bilinear(lhs, rhs, |a, b| B::float_cross(a, b, dim))
    }

    fn float_clamp_min(tensor: FloatTensor<Self>, min: Scalar) -> FloatTensor<Self> {
        let below = kinks::sides::<B>(B::float_lower_elem(tensor.primal.clone(), min, bool_dtype::<B>(&tensor.primal)));
        let y = B::float_clamp_min(tensor.primal.clone(), min);
        with_tangents(tensor, y, |t| masked::<B>(t, &below))
    }

    fn float_clamp_max(tensor: FloatTensor<Self>, max: Scalar) -> FloatTensor<Self> {
        let above =
            kinks::sides::<B>(B::float_greater_elem(tensor.primal.clone(), max, bool_dtype::<B>(&tensor.primal)));
        let y = B::float_clamp_max(tensor.primal.clone(), max);
        with_tangents(tensor, y, |t| masked::<B>(t, &above))
    }

    fn float_clamp(tensor: FloatTensor<Self>, min: Scalar, max: Scalar) -> FloatTensor<Self> {
        Self::float_clamp_max(Self::float_clamp_min(tensor, min), max)
    }

    fn float_scatter_add(
        dim: usize,
        tensor: FloatTensor<Self>,
        indices: IntTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        joint(tensor, value, |t, v| B::float_scatter_add(dim, t, indices.clone(), v))
    }

    fn float_scatter_nd(
        data: FloatTensor<Self>,
        indices: IntTensor<Self>,
        values: FloatTensor<Self>,
        reduction: IndexingUpdateOp,
    ) -> FloatTensor<Self> {
        match reduction {
            IndexingUpdateOp::Assign | IndexingUpdateOp::Add => {
                joint(data, values, |d, v| B::float_scatter_nd(d, indices.clone(), v, reduction))
            }
            _ => {
                let (data, values) = (stop("float_scatter_nd", data), stop("float_scatter_nd", values));
                Dual::constant(B::float_scatter_nd(data, indices, values, reduction))
            }
        }
    }

    fn float_select_add(
        tensor: FloatTensor<Self>,
        dim: usize,
        indices: IntTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        joint(tensor, value, |t, v| B::float_select_add(t, dim, indices.clone(), v))
    }

    fn float_slice_assign(tensor: FloatTensor<Self>, slices: &[Slice], value: FloatTensor<Self>) -> FloatTensor<Self> {
        joint(tensor, value, |t, v| B::float_slice_assign(t, slices, v))
    }

    fn float_mask_where(
        tensor: FloatTensor<Self>,
        mask: BoolTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        joint(tensor, value, |t, v| B::float_mask_where(t, mask.clone(), v))
    }

    fn float_mask_fill(tensor: FloatTensor<Self>, mask: BoolTensor<Self>, value: Scalar) -> FloatTensor<Self> {
        let y = B::float_mask_fill(tensor.primal.clone(), mask.clone(), value);
        with_tangents(tensor, y, |t| masked::<B>(t, &mask))
    }

    fn float_prod(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        scan::product::<Self>(flattened(tensor), 0)
    }

    fn float_prod_dim(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::product::<Self>(tensor, dim)
    }

    fn float_cumprod(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_product::<Self>(tensor, dim)
    }

    fn float_cummin(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_minimum::<Self>(tensor, dim)
    }

    fn float_cummax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_maximum::<Self>(tensor, dim)
    }

    /// y = a^b: slopes b a^(b-1) (0 where b = 0) and y ln a (0 where a = 0).
    fn float_powf(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let zero = |x: &FloatTensor<B>| B::float_equal_elem(x.clone(), number(0.0), bool_dtype::<B>(x));
        let in_base = |a: FloatTensor<B>, b: FloatTensor<B>, y: FloatTensor<B>| {
            let constant = zero(&B::float_add(b.clone(), zeros_like::<B>(&y)));
            let slope = B::float_mul(B::float_powf(a, B::float_sub_scalar(b.clone(), number(1.0))), b);
            masked::<B>(slope, &constant)
        };
        let in_exponent = |a: FloatTensor<B>, _, y: FloatTensor<B>| {
            let a = B::float_add(a, zeros_like::<B>(&y));
            let origin = zero(&a);
            masked::<B>(B::float_mul(y, B::float_log(a)), &origin)
        };
        binary(lhs, rhs, B::float_powf, in_base, in_exponent)
    }

    fn float_powf_scalar_impl(tensor: FloatTensor<Self>, value: Scalar) -> FloatTensor<Self> {
        let power = |x| B::float_powf_scalar_impl(x, value);
        unary(tensor, power, |x, _| scan::power_slope::<B>(x, value.elem::<f64>()))
    }

    /// By repeated squaring: a device's own power may refuse a negative base (seen on Vulkan, for x^-3).
    fn float_powi_scalar_impl(lhs: FloatTensor<Self>, rhs: Scalar) -> FloatTensor<Self> {
        let exponent = rhs.elem::<i64>();
        let (mut square, mut left) = (lhs, exponent.unsigned_abs());
        let mut power = None;
        while left > 0 {
            if left % 2 == 1 {
                power = Some(power.map_or_else(|| square.clone(), |power| Self::float_mul(power, square.clone())));
            }
            left /= 2;
            square = if left > 0 { Self::float_mul(square.clone(), square) } else { square };
        }
        match power {
            None => Self::float_ones(square.shape(), &Self::float_device(&square), square.dtype().into()),
            Some(power) if exponent < 0 => Self::float_recip(power),
            Some(power) => power,
        }
    }

    /// atan2(a, b): slopes b / (a^2 + b^2) and -a / (a^2 + b^2).
    fn float_atan2(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let square = |a: &FloatTensor<B>, b: &FloatTensor<B>| {
            B::float_add(B::float_mul(a.clone(), a.clone()), B::float_mul(b.clone(), b.clone()))
        };
        binary(
            lhs,
            rhs,
            B::float_atan2,
            |a, b, _| B::float_div(b.clone(), square(&a, &b)),
            |a, b, _| B::float_neg(B::float_div(a.clone(), square(&a, &b))),
        )
    }

    fn float_cat(tensors: Vec<FloatTensor<Self>>, dim: usize) -> FloatTensor<Self> {
        let tensors = all_alike(tensors);
        let num_slots = tensors.iter().map(Dual::num_slots).max().unwrap_or(0);
        let tangent = |slot: usize| {
            tensors.iter().any(|x| x.tangent(slot).is_some()).then(|| {
                let parts =
                    tensors.iter().map(|x| x.tangent(slot).cloned().unwrap_or_else(|| zeros_like::<B>(&x.primal)));
                B::float_cat(parts.collect(), dim)
            })
        };
        let tangents = (0..num_slots).map(tangent).collect();
        Dual::new(B::float_cat(tensors.into_iter().map(|x| x.primal).collect(), dim), tangents)
    }

    fn float_topk(tensor: FloatTensor<Self>, dim: usize, k: usize) -> FloatTensor<Self> {
        scan::largest::<Self>(tensor, dim, k)
    }

    fn float_max(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_max_dim(flattened(tensor), 0)
    }

    fn float_max_dim(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        let positions = Self::float_argmax(Dual::constant(tensor.primal.clone()), dim, int_dtype::<B>(&tensor.primal));
        selected(tensor, dim, &positions)
    }

    fn float_max_dim_with_indices(
        tensor: FloatTensor<Self>,
        dim: usize,
        indices_dtype: IntDType,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let positions = Self::float_argmax(Dual::constant(tensor.primal.clone()), dim, indices_dtype);
        (selected(tensor, dim, &positions), positions)
    }

    fn float_min(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_min_dim(flattened(tensor), 0)
    }

    fn float_min_dim(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        let positions = Self::float_argmin(Dual::constant(tensor.primal.clone()), dim, int_dtype::<B>(&tensor.primal));
        selected(tensor, dim, &positions)
    }

    fn float_min_dim_with_indices(
        tensor: FloatTensor<Self>,
        dim: usize,
        indices_dtype: IntDType,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let positions = Self::float_argmin(Dual::constant(tensor.primal.clone()), dim, indices_dtype);
        (selected(tensor, dim, &positions), positions)
    }

    fn float_sort(tensor: FloatTensor<Self>, dim: usize, descending: bool) -> FloatTensor<Self> {
        let dtype = int_dtype::<B>(&tensor.primal);
        Self::float_sort_with_indices(tensor, dim, descending, dtype).0
    }

    fn float_sort_with_indices(
        tensor: FloatTensor<Self>,
        dim: usize,
        descending: bool,
        indices_dtype: IntDType,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let positions = Self::float_argsort(Dual::constant(tensor.primal.clone()), dim, descending, indices_dtype);
        (selected(tensor, dim, &positions), positions)
    }
}
