//! How a library of matrix products sees tensors: batches of matrices that lie in memory with strides.

/// A batch of matrices as an operand of gemm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strided {
    /// Columns lie in one piece, not rows.
    pub transposed: bool,
    /// Numbers from one row (column, if transposed) to the next.
    pub leading: usize,
    /// Numbers from one matrix to the next; 0 if it is the same for all.
    pub step: usize,
}

/// A tensor of this shape and these strides as `batch` (its dimensions before the last two, after broadcasting) matrices;
/// `None` if it does not lie in memory as gemm can read it.
pub(super) fn strided(shape: &[usize], strides: &[usize], batch: &[usize]) -> Option<Strided> {
    let rank = shape.len();
    let (rows, columns) = (shape[rank - 2], shape[rank - 1]);
    let (down, across) = (strides[rank - 2], strides[rank - 1]);
    let step = uniform_step(&shape[..rank - 2], &strides[..rank - 2], batch)?;
    // the stride of a dimension of length 1 means nothing
    if (columns == 1 || across == 1) && (rows == 1 || down >= columns) {
        return Some(Strided { transposed: false, leading: if rows == 1 { columns } else { down }, step });
    }
    if (rows == 1 || down == 1) && (columns == 1 || across >= rows) {
        return Some(Strided { transposed: true, leading: if columns == 1 { rows } else { across }, step });
    }
    None
}

/// The one stride that goes through all dimensions, if there is.
fn uniform_step(shape: &[usize], strides: &[usize], batch: &[usize]) -> Option<usize> {
    let mut found: Option<(usize, usize)> = None; // stride, and how often
    for ((&length, &stride), &repeated) in shape.iter().zip(strides).zip(batch).rev() {
        if repeated == 1 {
            continue;
        }
        let stride = if length == 1 { 0 } else { stride };
        found = match found {
            None => Some((stride, repeated)),
            Some((step, count)) if stride == step * count => Some((step, count * repeated)),
            Some(_) => return None,
        };
    }
    Some(found.map_or(0, |(step, _)| step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(shape: &[usize], strides: &[usize], batch: &[usize]) -> Option<(bool, usize, usize)> {
        strided(shape, strides, batch).map(|seen| (seen.transposed, seen.leading, seen.step))
    }

    #[test]
    fn rows_and_columns() {
        assert_eq!(seen(&[3, 5], &[5, 1], &[]), Some((false, 5, 0)));
        assert_eq!(seen(&[3, 5], &[8, 1], &[]), Some((false, 8, 0)), "a slice, or padded rows");
        assert_eq!(seen(&[3, 5], &[1, 3], &[]), Some((true, 3, 0)));
        assert_eq!(seen(&[3, 5], &[1, 7], &[]), Some((true, 7, 0)));
        assert_eq!(seen(&[3, 5], &[10, 2], &[]), None, "every other column");
        assert_eq!(seen(&[3, 5], &[0, 1], &[]), None, "one row, repeated");
        assert_eq!(seen(&[3, 5], &[2, 1], &[]), None, "rows that overlap");
    }

    #[test]
    fn strides_of_single_rows_and_columns_mean_nothing() {
        assert_eq!(seen(&[1, 5], &[99, 1], &[]), Some((false, 5, 0)));
        assert_eq!(seen(&[1, 5], &[1, 3], &[]), Some((true, 3, 0)), "a row out of a transposed matrix");
        assert_eq!(seen(&[3, 1], &[4, 99], &[]), Some((false, 4, 0)), "a column of a matrix");
        assert_eq!(seen(&[3, 1], &[0, 0], &[]), None);
        assert_eq!(seen(&[1, 1], &[0, 0], &[]), Some((false, 1, 0)));
    }

    #[test]
    fn batches() {
        assert_eq!(seen(&[4, 3, 5], &[15, 5, 1], &[4]), Some((false, 5, 15)));
        assert_eq!(seen(&[2, 4, 3, 5], &[60, 15, 5, 1], &[2, 4]), Some((false, 5, 15)));
        assert_eq!(seen(&[2, 4, 3, 5], &[60, 5, 20, 1], &[2, 4]), None, "heads that lie inside of a token");
        assert_eq!(seen(&[1, 4, 3, 5], &[60, 5, 20, 1], &[1, 4]), Some((false, 20, 5)), "of one window");
        assert_eq!(seen(&[2, 1, 3, 5], &[15, 15, 5, 1], &[2, 1]), Some((false, 5, 15)));
    }

    #[test]
    fn what_is_broadcast_has_no_step() {
        assert_eq!(seen(&[1, 3, 5], &[15, 5, 1], &[4]), Some((false, 5, 0)));
        assert_eq!(seen(&[1, 1, 3, 5], &[15, 15, 5, 1], &[2, 4]), Some((false, 5, 0)));
        assert_eq!(seen(&[2, 1, 3, 5], &[15, 15, 5, 1], &[2, 4]), None, "some of it");
    }
}
