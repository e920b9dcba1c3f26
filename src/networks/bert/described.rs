//! The keys of `[model.bert]` that Hugging Face's `config.json` says. What the configuration leaves out is taken from there; what
//! contradicts it is refused, and so is what this network cannot be.

use serde_json::Value;

use super::BertConfig;
use crate::document::Check;
use crate::models::weights::{Description, describe};
use crate::networks::described::{agree, agree_as_toml, check_sizes, of_another_family, place_positions, size};
use crate::networks::gpt2::Gelu;
use crate::shown::quoted;
use crate::{Error, Result};

/// Keys that are sizes where they are there.
const SIZES: [&str; 7] = [
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
];
/// Keys that must have these values where they are there: this network has no other.
const REQUIRED: [(&str, bool); 3] =
    [("is_decoder", false), ("add_cross_attention", false), ("tie_word_embeddings", true)];

/// The configuration, with the keys that it leaves out as the weights have them.
///
/// # Errors
/// [`Error::Config`] with the place of a key that has another value there, and for a network that is no BERT.
pub(super) fn completed(mut config: BertConfig, check: &Check<'_>) -> Result<BertConfig> {
    let Some(url) = config.weights.as_ref().filter(|url| !url.is_empty() && url.refused_as_input().is_none()) else {
        return Ok(config); // a place that cannot be is refused with all other keys
    };
    let Some(description) = describe(url)? else { return Ok(config) };
    let gelu = activation(&description)?;
    let said = |key: &str| size(&description, key);
    place_positions(check, &description, &mut config.context, &mut config.positions, said("max_position_embeddings"))?;
    let BertConfig { layers, heads, embedding, mlp, vocabulary, types, .. } = &mut config;
    let sizes = [
        ("layers", layers, said("num_hidden_layers")),
        ("heads", heads, said("num_attention_heads")),
        ("embedding", embedding, said("hidden_size")),
        ("mlp", mlp, said("intermediate_size")),
        ("vocabulary", vocabulary, said("vocab_size")),
        ("types", types, said("type_vocab_size")),
    ];
    for (key, ours, theirs) in sizes {
        agree(check, &description, key, ours, theirs)?;
    }
    let epsilon = description.keys.get("layer_norm_eps").and_then(Value::as_f64);
    agree(check, &description, "norm_epsilon", &mut config.norm_epsilon, epsilon)?;
    agree_as_toml(check, &description, "gelu", &mut config.gelu, gelu)?;
    Ok(config)
}

/// The activation of a BERT of Hugging Face that is one like ours.
fn activation(description: &Description) -> Result<Gelu> {
    let refused = |problem: String| Err(Error::Config(format!("{}: {problem}", description.place)));
    if description.family() != Some("bert") {
        return Err(of_another_family(description, "bert", "`bert`"));
    }
    check_sizes(description, &SIZES)?;
    for (key, expected) in REQUIRED {
        if description.keys.get(key).and_then(Value::as_bool).is_some_and(|value| value != expected) {
            return refused(format!("{key} = {}; [model.bert] has {expected} only", !expected));
        }
    }
    let text = |key: &str| description.keys.get(key).and_then(Value::as_str);
    if let Some(other) = text("position_embedding_type").filter(|kind| *kind != "absolute") {
        return refused(format!("position_embedding_type = `{}`; [model.bert] has absolute only", quoted(other)));
    }
    match text("hidden_act").unwrap_or("gelu") {
        "gelu" | "gelu_python" => Ok(Gelu::Erf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Gelu::Tanh),
        other => refused(format!("hidden_act = `{}`; [model.bert] has gelu (erf) and gelu_new (tanh)", quoted(other))),
    }
}
