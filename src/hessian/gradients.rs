//! Gradients of several blocks over the whole batch, segment by segment, shared by the ranks like products.

use super::operator::{BlockOperator, Kind};
use super::pass::Precision;
use super::passes::Pass;
use super::seed::Seeds;
use super::sharded::Slice;
use crate::Result;
use crate::block::Block;
use crate::engine::Kernels;

impl<K: Kernels, T: Precision> BlockOperator<'_, K, T> {
    /// This rank's slices of what one segment adds to the gradients of these blocks: one pass for all of them, and one
    /// reduce-scatter over each.
    ///
    /// # Errors
    /// Those of the data, and of the exchange.
    pub fn gradients_of_segment(&self, segment: usize, blocks: &[&Block]) -> Result<Vec<Slice<f64>>> {
        let layout = self.passes.layout();
        let seeded = self.passes.seeded(&Seeds::gradient(blocks));
        let mut sums: Vec<Vec<f64>> = blocks.iter().map(|block| vec![0.0; block.num_params(layout)]).collect();
        self.in_turn(segment, |index| {
            let Pass { weight, adjoints, .. } = seeded.pass(index, &self.way(Kind::Hessian, blocks))?;
            let (factor, _) = self.factor_and_divisor(weight);
            if factor == 0.0 {
                return Ok(());
            }
            for (sum, block) in sums.iter_mut().zip(blocks) {
                let gradient: Vec<T> = adjoints.gradient(layout, block);
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += factor * g.to_f64());
            }
            Ok(())
        })?;
        self.reduced(sums)
    }
}
