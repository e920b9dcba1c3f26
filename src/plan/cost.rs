//! What a sweep costs: multiply-adds in units of one forward pass.
//!
//! Per prediction, a forward pass has its multiply-adds in products with weights (share w) and between activations
//! (attention, share a; a causal row of length T meets T / 2 keys on average). For a block, f_w and f_a are those
//! shares from the block up; where the network can be entered at the block's branch (the prefix cache), e is the share
//! of the forward pass from there up, else 1. Reference: the table in ARCHITECTURE.md, "What a product costs".

use crate::block::{Block, Layout};
use crate::networks::{Product, Profile};

/// Multiply-adds of a network, per prediction.
pub struct Cost {
    products: Vec<Product>,
    bottom: Vec<String>,
}

/// Shares of the forward pass from a block up.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Shares {
    /// In products with weights, of all multiply-adds.
    pub weights: f64,
    /// Between activations, of all multiply-adds.
    pub attention: f64,
    /// The whole forward pass from the block's branch up.
    pub from_entry: f64,
}

/// What is kept of the activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Those below the blocks, between sweeps: in every sweep of a group but the first.
    pub prefix: bool,
    /// Inside a pass only those that enter a stage; the others are computed again.
    pub recompute: bool,
}

impl Cost {
    /// The cost of a network's products.
    pub fn of(profile: &Profile) -> Self {
        Self { products: profile.products.clone(), bottom: profile.bottom.clone() }
    }

    /// Multiply-adds of a forward pass, per prediction.
    pub fn forward(&self) -> f64 {
        self.products.iter().map(|p| p.multiply_adds).sum()
    }

    /// w and a.
    pub fn whole(&self) -> Shares {
        self.shares_from(0)
    }

    /// f_w and f_a of a block: everything from its first product up (from the bottom, for embeddings; a LayerNorm
    /// counts from the next product).
    pub fn block(&self, layout: &Layout, block: &Block) -> Shares {
        if block.is_full() {
            return self.whole();
        }
        let first = block.pieces.iter().map(|piece| piece.parameter).min().unwrap_or(0);
        let names: Vec<&str> = layout.parameters()[first..].iter().map(|p| p.name.as_str()).collect();
        let next = names.iter().find_map(|name| {
            let weight = name.strip_suffix(".bias").map_or((*name).to_owned(), |module| format!("{module}.weight"));
            self.products.iter().position(|p| p.parameter.as_deref() == Some(weight.as_str()))
        });
        let at_the_bottom = names.first().is_some_and(|name| self.bottom.iter().any(|bottom| bottom == name));
        self.shares_from(if at_the_bottom { 0 } else { next.unwrap_or(self.products.len() - 1) })
    }

    fn shares_from(&self, first: usize) -> Shares {
        let sum = |from: usize, attention: bool| {
            let above = self.products[from..].iter().filter(|p| p.parameter.is_none() == attention);
            above.map(|p| p.multiply_adds).sum::<f64>() / self.forward()
        };
        let entry = self.products[first].branch;
        Shares {
            weights: sum(first, false),
            attention: sum(first, true),
            from_entry: sum(entry, false) + sum(entry, true),
        }
    }

    /// Forward passes of one sweep over the data for slots with these shares: H v of the whole network costs
    /// 6 + (2 + a) / k a slot, a block 2 f_w + 6 f_a + (e + f_w + 2 f_a) / k. Recomputation adds a forward pass from the
    /// lowest block's branch up, primal and tangents: 2 + 1 / k, or f_w + 2 f_a + e / k.
    pub fn sweep(&self, slots: &[(Shares, bool)], kept: Kept) -> f64 {
        let again = if kept.recompute { self.forward_with_tangents(slots) } else { 0.0 };
        let below = |f: &Shares| if kept.prefix { f.from_entry } else { 1.0 };
        let whole = self.whole();
        let tangents: f64 =
            slots.iter().map(|(f, is_full)| if *is_full { 6.0 } else { 2.0 * f.weights + 6.0 * f.attention }).sum();
        let primal = slots
            .iter()
            .map(|(f, is_full)| if *is_full { 2.0 + whole.attention } else { below(f) + f.weights + 2.0 * f.attention })
            .fold(0.0, f64::max);
        tangents + primal + again
    }

    /// One forward pass from the lowest of the blocks' branches up.
    fn forward_with_tangents(&self, slots: &[(Shares, bool)]) -> f64 {
        let tangents = |(f, is_full): &(Shares, bool)| if *is_full { 2.0 } else { f.weights + 2.0 * f.attention };
        let primal = |(f, _): &(Shares, bool)| f.from_entry;
        slots.iter().map(tangents).sum::<f64>() + slots.iter().map(primal).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Network;
    use crate::networks::gpt2::Gpt2Config;

    fn cost(sizes: &Gpt2Config) -> Cost {
        Cost::of(&sizes.profile().unwrap())
    }

    #[test]
    fn the_forward_pass_of_gpt2_is_its_matrices_and_attention() {
        let sizes = Gpt2Config::gpt2_124m();
        let cost = cost(&sizes);
        let matrices = 12.0 * 12.0 * 768.0 * 768.0 + 768.0 * 50304.0;
        assert_eq!(cost.forward(), matrices + 12.0 * 768.0 * 1025.0);
        let whole = cost.whole();
        assert!((whole.weights + whole.attention - 1.0).abs() < 1e-15);
    }

    #[test]
    fn blocks_cost_less_the_higher_they_are() {
        let sizes = Gpt2Config::nano();
        let (cost, layout) = (cost(&sizes), sizes.layout());
        let share = |name: &str| {
            let block = Block {
                name: name.into(),
                kind: name.into(),
                layer: None,
                pieces: vec![crate::block::Piece::whole(layout.find(name).unwrap())],
            };
            cost.block(&layout, &block)
        };
        let names = [
            "transformer.wte.weight",
            "transformer.h.0.attn.c_attn.weight",
            "transformer.h.3.mlp.c_fc.weight",
            "transformer.h.5.mlp.c_proj.weight",
            "transformer.ln_f.weight",
        ];
        let costs: Vec<f64> =
            names.iter().map(|name| cost.sweep(&[(share(name), false); 4], Kept::default())).collect();
        assert_eq!(costs[0], costs[1]);
        assert!(costs[1..].windows(2).all(|pair| pair[0] > pair[1]), "{costs:?}");
        let last = share(names[3]);
        let expected = (384.0 * 1536.0 + 384.0 * 65.0) / cost.forward();
        assert!((last.weights - expected).abs() < 1e-15 && last.attention == 0.0);
        let entry = (2.0 * 384.0 * 1536.0 + 384.0 * 65.0) / cost.forward(); // from c_fc up
        assert!((last.from_entry - entry).abs() < 1e-15 && share(names[0]).from_entry == 1.0);
        let saved = cost.sweep(&[(last, false)], Kept::default())
            - cost.sweep(&[(last, false)], Kept { prefix: true, ..Kept::default() });
        assert!((saved - (1.0 - entry)).abs() < 1e-14);
        let again = Kept { recompute: true, ..Kept::default() };
        let added = |slots: &[(Shares, bool)]| cost.sweep(slots, again) - cost.sweep(slots, Kept::default());
        assert!((added(&[(cost.whole(), true); 4]) - 9.0).abs() < 1e-12, "2 + 1 / k a slot");
        assert!((added(&[(last, false); 2]) - 2.0 * expected - entry).abs() < 1e-12);
    }
}
