//! Sums, products, extrema and scans along a dimension.

use burn_backend::{Backend, get_device_settings};

use super::Table;
use crate::values::{given, real, unit};

pub fn cases<B: Backend>(t: &mut Table<B>) {
    t.one("float_sum", real([2, 3]), |x| B::float_sum(x));
    t.one("float_sum_dim 0", real([2, 3]), |x| B::float_sum_dim(x, 0));
    t.one("float_sum_dim 1", real([2, 3, 2]), |x| B::float_sum_dim(x, 1));
    t.one("float_mean", real([2, 3]), |x| B::float_mean(x));
    t.one("float_mean_dim 0", real([2, 3]), |x| B::float_mean_dim(x, 0));
    t.one("float_mean_dim 2", real([2, 3, 2]), |x| B::float_mean_dim(x, 2));
    products(t);
    extrema(t);
    scans(t);
    orders(t);
}

fn products<B: Backend>(t: &mut Table<B>) {
    const WHY: &str = "exp(sum(log)): wrong for zeros and negatives";
    t.one("float_prod", real([2, 3]), |x| B::float_prod(x));
    t.own(WHY);
    t.one("float_prod of one zero", given([4], &[1.5, 0.0, -2.0, 0.5]), |x| B::float_prod(x));
    t.own(WHY);
    t.one("float_prod of two zeros", given([5], &[1.5, 0.0, -2.0, 0.0, 0.7]), |x| B::float_prod(x));
    t.own(WHY);
    t.one("float_prod of one number", given([1], &[1.5]), |x| B::float_prod(x));
    t.own(WHY);
    t.one("float_prod_dim 0", real([3, 2]), |x| B::float_prod_dim(x, 0));
    t.own(WHY);
    t.one("float_prod_dim 1", given([2, 3], &[0.0, -1.2, 0.7, 0.4, 0.0, 0.0]), |x| B::float_prod_dim(x, 1));
    t.own(WHY);
    t.one("float_cumprod", real([2, 3]), |x| B::float_cumprod(x, 1));
    t.own("divides by x");
    t.one("float_cumprod of zeros", given([2, 4], &[0.0, -1.2, 0.7, 0.4, 0.3, 0.0, 0.0, 2.0]), |x| {
        B::float_cumprod(x, 1)
    });
    t.own("divides by x");
    t.one("float_cumprod first", real([5, 2]), |x| B::float_cumprod(x, 0));
    t.own("divides by x");
}

fn extrema<B: Backend>(t: &mut Table<B>) {
    t.one("float_max", real([2, 3]), |x| B::float_max(x));
    t.one("float_min", real([2, 3]), |x| B::float_min(x));
    t.one("float_max_dim 0", real([3, 4]), |x| B::float_max_dim(x, 0));
    t.one("float_max_dim 1", real([3, 4]), |x| B::float_max_dim(x, 1));
    t.one("float_min_dim 1", real([3, 4]), |x| B::float_min_dim(x, 1));
    t.one("float_max_dim_with_indices", real([3, 4]), |x| {
        let dtype = get_device_settings::<B>(&B::float_device(&x)).int_dtype;
        B::float_max_dim_with_indices(x, 1, dtype).0
    });
    t.one("float_min_dim_with_indices", real([3, 4]), |x| {
        let dtype = get_device_settings::<B>(&B::float_device(&x)).int_dtype;
        B::float_min_dim_with_indices(x, 0, dtype).0
    });
    t.one("float_max_abs", real([2, 3]), |x| B::float_max_abs(x));
    t.one("float_max_abs_dim", real([2, 3]), |x| B::float_max_abs_dim(x, 1));
}

fn scans<B: Backend>(t: &mut Table<B>) {
    t.one("float_cumsum 0", real([3, 2]), |x| B::float_cumsum(x, 0));
    t.one("float_cumsum 1", real([2, 3, 2]), |x| B::float_cumsum(x, 1));
    t.one("float_cummax", real([2, 5]), |x| B::float_cummax(x, 1));
    t.one("float_cummax first", real([5, 2]), |x| B::float_cummax(x, 0));
    t.one("float_cummin", real([2, 5]), |x| B::float_cummin(x, 1));
}

fn orders<B: Backend>(t: &mut Table<B>) {
    t.one("float_sort", real([2, 4]), |x| B::float_sort(x, 1, false));
    t.one("float_sort descending, first", real([4, 2]), |x| B::float_sort(x, 0, true));
    t.one("float_sort_with_indices", unit([2, 4]), |x| {
        let dtype = get_device_settings::<B>(&B::float_device(&x)).int_dtype;
        B::float_sort_with_indices(x, 1, false, dtype).0
    });
}
