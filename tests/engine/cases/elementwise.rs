//! Functions of one or two numbers, applied elementwise with broadcasting; activations.

use burn_backend::{Backend, Scalar};

use super::{Table, bools, ints};
use crate::values::{Values, given, positive, real, spread, unit};

macro_rules! unary {
    ($table:ident: $($name:ident($input:expr);)*) => {$(
        $table.one(stringify!($name), $input, |x| B::$name(x));
    )*};
}

/// An operation of two tensors over equal shapes and broadcasting on either side, on both, and against one number.
macro_rules! broadcasting {
    ($table:ident: $($name:ident($make:ident);)*) => {$(
        $table.two(stringify!($name), [$make([2, 3]), $make([2, 3])], |a, b| B::$name(a, b));
        $table.two(concat!(stringify!($name), " (2,3)x(1,3)"), [$make([2, 3]), $make([1, 3])], |a, b| B::$name(a, b));
        $table.two(concat!(stringify!($name), " (2,1)x(2,3)"), [$make([2, 1]), $make([2, 3])], |a, b| B::$name(a, b));
        $table.two(concat!(stringify!($name), " (2,1,4)x(1,3,1)"), [$make([2, 1, 4]), $make([1, 3, 1])], |a, b| B::$name(a, b));
        $table.two(concat!(stringify!($name), " (2,2)x(1,1)"), [$make([2, 2]), $make([1, 1])], |a, b| B::$name(a, b));
    )*};
}

pub fn cases<B: Backend>(t: &mut Table<B>) {
    unary! { t:
        float_exp(real([2, 3]));
        float_log(positive([2, 3]));
        float_log1p(unit([2, 3]));
        float_recip(positive([2, 3]));
        float_sqrt(positive([2, 3]));
        float_abs(real([2, 3]));
        float_cos(real([3, 2, 2]));
        float_sin(real([3, 2, 2]));
        float_tan(unit([4]));
        float_cosh(real([4]));
        float_sinh(real([4]));
        float_tanh(real([4]));
        float_acos(unit([4]));
        float_acosh(spread(&[4], 1.3, 2.5));
        float_asin(unit([4]));
        float_asinh(real([4]));
        float_atan(real([4]));
        float_atanh(unit([4]));
        float_erf(real([4]));
        float_neg(real([2, 3]));
        relu(real([2, 4]));
        log_sigmoid(real([2, 4]));
    }
    scalars(t);
    broadcasting! { t:
        float_add(real);
        float_sub(real);
        float_mul(real);
        float_div(positive);
    }
    one_sided(t);
    powers(t);
    activations(t);
    masks(t);
}

/// ndarray does not broadcast both sides of these.
fn one_sided<B: Backend>(t: &mut Table<B>) {
    t.two("float_atan2", [positive([2, 3]), positive([2, 3])], |a, b| B::float_atan2(a, b));
    t.two("float_atan2 (2,3)x(1,3)", [positive([2, 3]), positive([1, 3])], |a, b| B::float_atan2(a, b));
    t.two("float_atan2 both", [positive([2, 1, 4]), positive([1, 3, 1])], |a, b| B::float_atan2(a, b));
    t.missing_on("ndarray");
    t.two("float_powf", [positive([2, 3]), positive([2, 3])], |a, b| B::float_powf(a, b));
    t.two("float_powf (2,3)x(1,3)", [positive([2, 3]), positive([1, 3])], |a, b| B::float_powf(a, b));
    t.two("float_powf (2,1)x(2,3)", [positive([2, 1]), positive([2, 3])], |a, b| B::float_powf(a, b));
    t.two("float_powf both", [positive([2, 1, 4]), positive([1, 3, 1])], |a, b| B::float_powf(a, b));
    t.missing_on("ndarray");
}

fn scalars<B: Backend>(t: &mut Table<B>) {
    t.one("float_add_scalar", real([2, 3]), |x| B::float_add_scalar(x, Scalar::Float(0.7)));
    t.one("float_sub_scalar", real([2, 3]), |x| B::float_sub_scalar(x, Scalar::Float(0.7)));
    t.one("float_mul_scalar", real([2, 3]), |x| B::float_mul_scalar(x, Scalar::Float(-1.7)));
    t.one("float_div_scalar", real([2, 3]), |x| B::float_div_scalar(x, Scalar::Float(3.0)));
    t.own("rounds 1 / c to f32");
    t.one("float_clamp_min", real([2, 4]), |x| B::float_clamp_min(x, Scalar::Float(0.0)));
    t.one("float_clamp_max", real([2, 4]), |x| B::float_clamp_max(x, Scalar::Float(0.0)));
    t.one("float_clamp", real([2, 4]), |x| B::float_clamp(x, Scalar::Float(-1.0), Scalar::Float(1.0)));
    t.one("float_remainder_scalar", spread(&[4], 0.1, 1.9), |x| B::float_remainder_scalar(x, Scalar::Float(2.0)));
    let numerators = || given([2, 2], &[0.7, 2.6, -0.4, 5.3]);
    let denominators = || given([2, 2], &[1.5, 1.1, 0.9, 2.2]);
    t.two("float_remainder", [numerators(), denominators()], |a, b| B::float_remainder(a, b));
    t.two("float_remainder broadcast", [numerators(), given([1, 2], &[1.5, 1.1])], |a, b| B::float_remainder(a, b));
    t.missing_on("ndarray");
}

fn powers<B: Backend>(t: &mut Table<B>) {
    fn ends() -> Values {
        given([2, 3], &[-1.3, -0.4, 0.3, 0.8, 1.2, 1.9])
    }
    t.one("float_powf_scalar 2.5", positive([4]), |x| B::float_powf_scalar(x, Scalar::Float(2.5)));
    t.one("float_powf_scalar -1.5", positive([4]), |x| B::float_powf_scalar(x, Scalar::Float(-1.5)));
    t.one("float_powf_scalar 0.5", positive([4]), |x| B::float_powf_scalar(x, Scalar::Float(0.5)));
    t.one("float_powf_scalar_impl 1.7", positive([4]), |x| B::float_powf_scalar_impl(x, Scalar::Float(1.7)));
    t.one("float_powf_scalar 3 of negatives", ends(), |x| B::float_powf_scalar(x, Scalar::Float(3.0)));
    t.one("float_powf_scalar 2 at zero", given([3], &[0.0, -1.0, 2.0]), |x| {
        B::float_powf_scalar(x, Scalar::Float(2.0))
    });
    t.one("float_powi_scalar 0", ends(), |x| B::float_powi_scalar(x, Scalar::Int(0)));
    t.one("float_powi_scalar 1", ends(), |x| B::float_powi_scalar(x, Scalar::Int(1)));
    t.one("float_powi_scalar 2", ends(), |x| B::float_powi_scalar(x, Scalar::Int(2)));
    t.one("float_powi_scalar 3", ends(), |x| B::float_powi_scalar(x, Scalar::Int(3)));
    t.one("float_powi_scalar 5", ends(), |x| B::float_powi_scalar(x, Scalar::Int(5)));
    t.one("float_powi_scalar -1", ends(), |x| B::float_powi_scalar(x, Scalar::Int(-1)));
    t.one("float_powi_scalar -3", ends(), |x| B::float_powi_scalar(x, Scalar::Int(-3)));
    t.one("float_powi_scalar_impl 4", ends(), |x| B::float_powi_scalar_impl(x, Scalar::Int(4)));
    t.one("float_powi", positive([2, 3]), |x| B::float_powi(x, ints::<B, 2>([2, 3], &[0, 1, 2, 3, -1, 4])));
}

fn activations<B: Backend>(t: &mut Table<B>) {
    t.one("gelu", real([2, 4]), |x| B::gelu(x));
    t.own("ndarray's gelu_backward is the derivative of the tanh form");
    t.one("sigmoid", real([2, 4]), |x| B::sigmoid(x));
    t.plain_is_wrong("ndarray goes through f32");
    t.one("leaky_relu", real([2, 4]), |x| B::leaky_relu(x, Scalar::Float(0.1)));
    t.two("prelu", [real([2, 4]), spread(&[2, 4], 0.1, 0.9)], |x, alpha| B::prelu(x, alpha));
    t.one("hard_sigmoid", real([2, 4]), |x| B::hard_sigmoid(x, Scalar::Float(0.2), Scalar::Float(0.5)));
    t.plain_is_wrong("goes through f32");
    t.one("softmax last", real([2, 4]), |x| B::softmax(x, 1));
    t.one("softmax first", real([3, 2]), |x| B::softmax(x, 0));
    t.one("softmax middle", real([2, 3, 2]), |x| B::softmax(x, 1));
    t.one("softmax last, rank 4", real([2, 1, 2, 3]), |x| B::softmax(x, 3));
    t.one("log_softmax last", real([2, 4]), |x| B::log_softmax(x, 1));
    t.one("log_softmax first", real([3, 2]), |x| B::log_softmax(x, 0));
    t.one("softmin", real([2, 4]), |x| B::softmin(x, 1));
    // The adjoints, as functions of both arguments: what forward mode differentiates under reverse mode.
    t.two("gelu_backward", [real([2, 4]), unit([2, 4])], |x, g| B::gelu_backward(x, g));
    t.plain_is_wrong("ndarray's is the derivative of the tanh form");
    t.two("sigmoid_backward", [unit([2, 4]), real([2, 4])], |y, g| B::sigmoid_backward(y, g));
    t.two("log_sigmoid_backward", [real([2, 4]), unit([2, 4])], |x, g| B::log_sigmoid_backward(x, g));
    t.two("relu_backward", [real([2, 4]), unit([2, 4])], |y, g| B::relu_backward(y, g));
}

fn masks<B: Backend>(t: &mut Table<B>) {
    t.two("float_mask_where", [real([2, 3]), unit([2, 3])], |x, y| {
        B::float_mask_where(x, bools::<B, 2>([2, 3], &[1, 0, 1, 0, 0, 1]), y)
    });
    t.one("float_mask_fill", real([2, 3]), |x| {
        B::float_mask_fill(x, bools::<B, 2>([2, 3], &[1, 0, 1, 0, 0, 1]), Scalar::Float(0.3))
    });
    t.one("float_cast", real([2, 3]), |x| {
        let dtype = burn_backend::get_device_settings::<B>(&B::float_device(&x)).float_dtype;
        B::float_cast(x, dtype)
    });
    t.one("float_to_device", real([2, 3]), |x| B::float_to_device(x, &B::Device::default()));
    t.one("x used twice", real([2, 3]), |x| B::float_mul(B::float_sin(x.clone()), B::float_exp(x)));
}
