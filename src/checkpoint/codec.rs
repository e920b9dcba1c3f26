//! Numbers to bytes and back: what a step adds to each slot's Jacobi matrix, and its times.

use crate::krylov::Tridiagonal;
use crate::metrics::{Split, StepMetrics};

/// Appends numbers.
pub(super) fn push(bytes: &mut Vec<u8>, numbers: &[f64]) {
    numbers.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
}

/// Reads what [`push`] wrote.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub fn count(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    pub fn numbers(&mut self, count: usize) -> Option<Vec<f64>> {
        let bytes = self.take(count.checked_mul(8)?)?;
        bytes.chunks_exact(8).map(|chunk| Some(f64::from_le_bytes(chunk.try_into().ok()?))).collect()
    }
}

/// Adds one step to a slot's Jacobi matrix: whether it took part, if this is what a plan of `segments` segments writes.
pub(super) fn append(t: &mut Tridiagonal, step: usize, segments: usize, reader: &mut Reader<'_>) -> Option<bool> {
    match reader.take(1)? {
        [0] => return Some(false),
        [1] if t.steps() + 1 == step => {}
        _ => return None, // a slot that is done stays so
    }
    let scalars = reader.numbers(3)?;
    t.alpha.push(scalars[0]);
    t.beta.push(scalars[1]);
    t.orthogonality_loss.push(scalars[2]);
    let count = reader.count().filter(|count| *count == 0 || *count == segments)?;
    t.segments.resize(count.max(t.segments.len()), Vec::new());
    for segment in t.segments.iter_mut().take(count) {
        segment.extend(reader.numbers(step)?);
    }
    Some(true)
}

/// Numbers of [`times`].
pub(super) const TIMES: usize = 7;

/// What [`metrics_of`] reads.
pub(super) fn times(metrics: &StepMetrics) -> [f64; TIMES] {
    let StepMetrics { tokens, share, seconds, split, .. } = *metrics;
    [tokens, share, seconds, split.products, split.reduction, split.reorthogonalization, split.io]
}

pub(super) fn metrics_of(step: usize, slots: usize, times: &[f64]) -> StepMetrics {
    let split = Split { products: times[3], reduction: times[4], reorthogonalization: times[5], io: times[6] };
    StepMetrics { step, slots, tokens: times[0], share: times[1], seconds: times[2], split }
}
