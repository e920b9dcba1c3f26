//! Products of duals.

use burn_backend::tensor::FloatTensor;

use super::{Dual, Kernels, Mask};

/// a @ b, its tangents in the slots of `keep` only, and another primal if `primal` gives one.
pub(crate) fn product_in<B: Kernels>(
    a: &Dual<B>,
    b: &Dual<B>,
    keep: &Mask,
    primal: impl FnOnce() -> Option<FloatTensor<B>>,
) -> Dual<B> {
    let terms = |slot: usize| {
        let left = a.tangent(slot).map(|da| (da.clone(), b.primal.clone()));
        let right = b.tangent(slot).map(|db| (a.primal.clone(), db.clone()));
        left.into_iter().chain(right).collect::<Vec<_>>()
    };
    let num_slots = a.num_slots().max(b.num_slots());
    let kept = (0..num_slots).filter(|slot| keep.get(*slot).copied().unwrap_or(false));
    let (slots, mut sums): (Vec<usize>, Vec<_>) =
        kept.map(|slot| (slot, terms(slot))).filter(|(_, terms)| !terms.is_empty()).unzip();
    let primal = primal();
    if primal.is_none() {
        sums.push(vec![(a.primal.clone(), b.primal.clone())]);
    }
    let mut products = B::sums_of_products(sums);
    let primal = primal.or_else(|| products.pop()).expect("the last sum is the primal's");
    let mut tangents = vec![None; num_slots];
    slots.into_iter().zip(products).for_each(|(slot, tangent)| tangents[slot] = Some(tangent));
    Dual::new(primal, tangents)
}
