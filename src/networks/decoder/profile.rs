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

    // a norm: its input, the square, the scaled row, the result
    let norm = 4.0 * width;
    let qk_norm = if sizes.qk_norm == QkNorm::None { 0.0 } else { 3.0 * (queries + keys) };
    // q and k before and behind the rotation with its four products, v, the keys and values that heads share, the output
    let attention = 2.0 * width + norm + qk_norm + 4.0 * (queries + keys) + keys + 3.0 * queries;
    // gate, its activation, up, their product
    let transform = 2.0 * width + norm + 4.0 * mlp;
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
