//! What a BERT computes and keeps, per pair of the longest that it takes.

use super::BertConfig;
use crate::networks::profile::{Product, Profile, Recomputed};

/// Share of a pair's tokens that is predicted, as BERT is trained: the data may have another one.
const PREDICTED: f64 = 0.15;

/// Products and activations of the network, in network order.
pub(super) fn profile(sizes: &BertConfig) -> Profile {
    let (width, mlp, tokens) = (sizes.embedding as f64, sizes.mlp as f64, sizes.context as f64);
    let (predicted, vocabulary) = ((PREDICTED * tokens).round().max(1.0), sizes.vocabulary as f64);
    let product = |name: &str, multiply_adds, branch| Product {
        parameter: Some(format!("{name}.weight")),
        multiply_adds,
        branch,
    };
    let mut products = Vec::new();
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("bert.encoder.layer.{layer}.{part}");
        let attention = products.len();
        for part in ["query", "key", "value"] {
            products.push(product(&name(&format!("attention.self.{part}")), tokens * width * width, attention));
        }
        products.push(Product { parameter: None, multiply_adds: 2.0 * width * tokens * tokens, branch: attention });
        products.push(product(&name("attention.output.dense"), tokens * width * width, attention));
        let transform = products.len();
        products.push(product(&name("intermediate.dense"), tokens * width * mlp, transform));
        products.push(product(&name("output.dense"), tokens * width * mlp, transform));
    }
    let top = products.len();
    if sizes.predicts_next() {
        products.push(product("bert.pooler.dense", width * width, top));
    }
    products.push(product("cls.predictions.transform.dense", predicted * width * width, top));
    if sizes.predicts_next() {
        products.push(product("cls.seq_relationship", 2.0 * width, top));
    }
    products.push(product("bert.embeddings.word_embeddings", predicted * width * vocabulary, top));

    let next = if sizes.predicts_next() { 2.0 * vocabulary } else { 0.0 };
    let embedding = |name: &str| format!("bert.embeddings.{name}");
    let bottom = ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"];
    let norm = ["LayerNorm.weight", "LayerNorm.bias"];
    // per token and layer: what enters the branches and what their norms make of it; q, k, v and attention's output; the MLP's hidden rows
    let per_layer = 8.0 * width + 2.0 * mlp;
    let branch = width + (3.0 * mlp).max(8.0 * width) + width;
    // of each predicted token the rows of its transform, its logits and their logarithms
    let head = predicted * (4.0 * width + 2.0 * vocabulary);
    Profile {
        products,
        bottom: bottom.iter().chain(&norm).map(|name| embedding(name)).collect(),
        kept: tokens * (sizes.layers as f64 * per_layer + 2.0 * width) + head,
        recomputed: Some(Recomputed {
            kept: 2.0 * sizes.layers as f64 * tokens * width,
            at_once: (tokens * (branch + 4.0 * width)).max(head),
        }),
        scores: sizes.heads as f64 * tokens * tokens,
        entry: tokens * width,
        outputs: predicted * vocabulary + next / 2.0,
    }
}
