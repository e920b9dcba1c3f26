//! Rearranging, indexing and joining.

use burn_backend::tensor::IndexingUpdateOp;
use burn_backend::{Backend, Slice};

use super::{Table, ints, shape};
use crate::values::{real, unit};

pub fn cases<B: Backend>(t: &mut Table<B>) {
    t.one("float_reshape", real([2, 3, 2]), |x| B::float_reshape(x, shape([4, 3])));
    t.one("float_transpose", real([2, 3]), |x| B::float_transpose(x));
    t.one("float_swap_dims", real([2, 3, 2]), |x| B::float_swap_dims(x, 0, 1));
    t.one("float_permute", real([2, 3, 4]), |x| B::float_permute(x, &[2, 0, 1]));
    t.one("float_flip", real([2, 3]), |x| B::float_flip(x, &[0, 1]));
    t.one("float_repeat_dim", real([2, 3]), |x| B::float_repeat_dim(x, 1, 3));
    t.own("burn sums neighbours instead of copies");
    t.one("float_repeat_dim of one", real([1, 3]), |x| B::float_repeat_dim(x, 0, 3));
    t.one("float_expand", real([2, 1]), |x| B::float_expand(x, shape([2, 4])));
    t.one("float_expand to a higher rank", real([3]), |x| B::float_expand(x, shape([2, 3])));
    t.one("float_unfold", real([2, 7]), |x| B::float_unfold(x, 1, 3, 2));
    t.two("float_cat", [real([2, 3]), unit([2, 2])], |a, b| B::float_cat(vec![a, b], 1));
    t.three("float_cat of three", [real([1, 2]), unit([2, 2]), real([3, 2])], |a, b, c| B::float_cat(vec![a, b, c], 0));
    slices(t);
    indexing(t);
}

fn slices<B: Backend>(t: &mut Table<B>) {
    t.one("float_slice", real([3, 4]), |x| B::float_slice(x, &[Slice::from(1..3), Slice::from(0..2)]));
    t.one("float_slice with a step", real([3, 5]), |x| {
        B::float_slice(x, &[Slice::from(0..3), Slice::new(0, Some(5), 2)])
    });
    t.two("float_slice_assign", [real([3, 4]), unit([2, 2])], |x, v| {
        B::float_slice_assign(x, &[Slice::from(1..3), Slice::from(0..2)], v)
    });
}

fn indexing<B: Backend>(t: &mut Table<B>) {
    t.one("float_gather", real([2, 3]), |x| B::float_gather(1, x, ints::<B, 2>([2, 2], &[2, 0, 1, 1])));
    t.one("float_gather first", real([3, 2]), |x| B::float_gather(0, x, ints::<B, 2>([2, 2], &[2, 0, 1, 1])));
    t.two("float_scatter_add", [real([2, 3]), unit([2, 2])], |x, v| {
        B::float_scatter_add(1, x, ints::<B, 2>([2, 2], &[2, 2, 0, 1]), v)
    });
    t.one("float_select", real([3, 2]), |x| B::float_select(x, 0, ints::<B, 1>([4], &[2, 0, 2, 1])));
    t.two("float_select_add", [real([3, 2]), unit([4, 2])], |x, v| {
        B::float_select_add(x, 0, ints::<B, 1>([4], &[2, 0, 2, 1]), v)
    });
    t.one("float_gather_nd", real([3, 2]), |x| B::float_gather_nd(x, ints::<B, 2>([2, 2], &[2, 0, 1, 1])));
    t.two("float_scatter_nd add", [real([3, 2]), unit([2])], |x, v| {
        B::float_scatter_nd(x, ints::<B, 2>([2, 2], &[2, 0, 1, 1]), v, IndexingUpdateOp::Add)
    });
    t.two("float_scatter_nd assign", [real([3, 2]), unit([2])], |x, v| {
        B::float_scatter_nd(x, ints::<B, 2>([2, 2], &[2, 0, 1, 1]), v, IndexingUpdateOp::Assign)
    });
}
