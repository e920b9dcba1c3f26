//! What a GPT-2 computes and keeps, per token.

use super::Gpt2Config;
use crate::networks::profile::{Product, Profile, Recomputed};

/// Products and activations of the network, in network order.
pub(super) fn profile(sizes: &Gpt2Config) -> Profile {
    let (width, mlp) = (sizes.embedding as f64, sizes.mlp as f64);
    let product = |name: String, multiply_adds, branch| Product { parameter: Some(name), multiply_adds, branch };
    let mut products = Vec::new();
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("transformer.h.{layer}.{part}.weight");
        let (attention, transform) = (products.len(), products.len() + 3);
        products.push(product(name("attn.c_attn"), 3.0 * width * width, attention));
        // Q K' and P V, each embedding x (context + 1) / 2 on average
        let between = width * (sizes.context as f64 + 1.0);
        products.push(Product { parameter: None, multiply_adds: between, branch: attention });
        products.push(product(name("attn.c_proj"), width * width, attention));
        products.push(product(name("mlp.c_fc"), width * mlp, transform));
        products.push(product(name("mlp.c_proj"), width * mlp, transform));
    }
    let (head, branch) = (if sizes.tied { "transformer.wte.weight" } else { "lm_head.weight" }, products.len());
    products.push(product(head.into(), width * sizes.vocabulary as f64, branch));

    let (norm, norms) = if sizes.layer_norm { (width, 2.0 * width) } else { (0.0, 0.0) };
    // per layer: what enters both branches and their norms; q, k, v and attention's output; the MLP's two hidden rows
    let per_layer = 6.0 * width + norms + 2.0 * mlp;
    // the MLP's two hidden rows and the adjoint of one, or q, k, v, the output of attention, and their adjoints
    let branch = norm + (3.0 * mlp).max(8.0 * width) + width;
    Profile {
        products,
        bottom: vec!["transformer.wte.weight".into(), "transformer.wpe.weight".into()],
        kept: sizes.layers as f64 * per_layer + 4.0 * width,
        recomputed: Some(Recomputed { kept: 2.0 * sizes.layers as f64 * width, at_once: branch + 4.0 * width }),
        scores: (sizes.heads * sizes.context) as f64,
        entry: width,
        outputs: sizes.vocabulary as f64,
    }
}
