//! Blocks at different depths in one pass: each slot's products equal those of a pass of its own, bit for bit.

use burn::module::Module;
use burn_backend::AutodiffBackend;
use hesspec::engine::{Kernels, SecondOrder};

use crate::transformer::{Activate, Seen, Transformer};
use crate::values::{Random, Values, get};

const BLOCKS: [&str; 4] = ["layers.0.qkv.weight", "layers.1.norm_2.gamma", "layers.2.fc.weight", "head.weight"];

/// H v of each block named, one slot per block.
fn products<B: Kernels>(blocks: &[&str], tangents_only: bool) -> Vec<Values> {
    let tangents = |seen: &Seen| {
        let mine = |block: &&str| (**block == *seen.path).then(|| Random::new(3).values(&seen.shape));
        blocks.contains(&seen.path.as_str()).then(|| blocks.iter().map(mine).collect())
    };
    let mut activate = Activate::<B>::new(&tangents, tangents_only);
    let model = Transformer::<SecondOrder<B>>::new().map(&mut activate);
    assert_eq!(activate.leaves.len(), blocks.len());
    let gradients = model.loss().backward();
    let product = |(slot, block): (usize, &&str)| {
        let (_, leaf) = activate.leaves.iter().find(|(path, _)| path == block).expect("the block exists");
        let adjoint = SecondOrder::<B>::grad(leaf, &gradients).expect("the loss depends on it");
        get::<B>(adjoint.tangent(slot).expect("its own slot").clone())
    };
    blocks.iter().enumerate().map(product).collect()
}

/// In one pass, with and without gradients, and each alone.
pub fn equal_separate_passes<B: Kernels>() {
    let together = products::<B>(&BLOCKS, true);
    let with_gradients = products::<B>(&BLOCKS, false);
    for (at, block) in BLOCKS.iter().enumerate() {
        let alone = &products::<B>(&[block], true)[0];
        assert!(alone.largest() > 0.0, "{block}: H v is zero");
        assert!(together[at].same_bits(alone), "{block}: one pass and its own differ");
        assert!(with_gradients[at].same_bits(alone), "{block}: tangents_only changes H v");
    }
}
