//! What a decoder computes and keeps, per token.

use super::{DecoderConfig, QkNorm};
use crate::networks::profile::{Product, Profile, Recomputed};

/// Products and activations of the network, in network order.
pub(super) fn profile(sizes: &DecoderConfig) -> Profile {
    let (width, mlp) = (sizes.embedding as f64, sizes.mlp as f64);
    let (queries, keys) = ((sizes.heads * sizes.head) as f64, (sizes.kv_heads * sizes.head) as f64);
    let product = |name: String, multiply_adds, branch| Product { parameter: Some(name), multiply_adds, branch };
    let mut products = Vec::new();
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}_proj.weight");
        let attention = products.len();
        products.push(product(name("self_attn.q"), queries * width, attention));
        products.push(product(name("self_attn.k"), keys * width, attention));
        products.push(product(name("self_attn.v"), keys * width, attention));
        // Q K' and P V, each as wide as the queries, times (context + 1) / 2 on average
        let between = queries * (sizes.context as f64 + 1.0);
        products.push(Product { parameter: None, multiply_adds: between, branch: attention });
        products.push(product(name("self_attn.o"), queries * width, attention));
        let transform = products.len();
        for part in ["mlp.gate", "mlp.up", "mlp.down"] {
            products.push(product(name(part), width * mlp, transform));
        }
    }
    let (head, branch) = (if sizes.tied { "model.embed_tokens.weight" } else { "lm_head.weight" }, products.len());
    products.push(product(head.into(), width * sizes.vocabulary as f64, branch));

    // what is kept of a layer, as measured (tests/memory): a norm's square, scaled row and result
    let norm = 3.0 * width;
    let qk_norm = if sizes.qk_norm == QkNorm::None { 0.0 } else { 3.0 * (queries + keys) };
    // what enters the branch and leaves it; q and k before, during and behind their rotation, v, what attention puts out
    let attention = 2.0 * width + norm + qk_norm + 3.0 * (queries + keys) + keys + 2.0 * queries;
    // gate and its activation, up
    let transform = 2.0 * width + norm + 3.0 * mlp;
    Profile {
        products,
        bottom: vec!["model.embed_tokens.weight".into()],
        kept: sizes.layers as f64 * (attention + transform) + 2.0 * width + norm,
        recomputed: Some(Recomputed {
            kept: 2.0 * sizes.layers as f64 * width,
            at_once: attention.max(transform) + 4.0 * width,
        }),
        scores: (sizes.heads * sizes.context) as f64,
        entry: width,
        outputs: sizes.vocabulary as f64,
    }
}
