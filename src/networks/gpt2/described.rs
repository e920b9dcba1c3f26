//! The keys of `[model.gpt2]` that what stands beside the weights says: Hugging Face's `config.json`, nanoGPT's `model_args`. What
//! the configuration leaves out is taken from there; what contradicts it is refused.

use serde_json::Value;

use super::config::{Gelu, Gpt2Config, LAYER_NORM_EPSILON};
use crate::document::Check;
use crate::models::weights::{Description, describe};
use crate::networks::described::{agree, agree_as_toml, check_sizes, of_another_family, place_positions, size};
use crate::{Error, Result};

/// Keys of a `config.json` that must have these values where they are there: this network has no other.
const REQUIRED: [(&str, bool); 3] =
    [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)];

/// The configuration, with the keys that it leaves out as the weights have them.
///
/// # Errors
/// [`Error::Config`] with the place of a key that has another value there, and for a network that is no GPT-2.
pub(super) fn completed(mut config: Gpt2Config, check: &Check<'_>) -> Result<Gpt2Config> {
    let Some(url) = config.weights.as_ref().filter(|url| !url.is_empty() && url.refused_as_input().is_none()) else {
        return Ok(config); // a place that cannot be is refused with all other keys
    };
    let Some(description) = describe(url)? else { return Ok(config) };
    let said = Said::of(&description)?;
    place_positions(check, &description, &mut config.context, &mut config.positions, said.positions)?;
    let Gpt2Config { layers, heads, embedding, mlp, vocabulary, .. } = &mut config;
    let sizes = [
        ("layers", layers, said.layers),
        ("heads", heads, said.heads),
        ("embedding", embedding, said.embedding),
        ("mlp", mlp, said.mlp),
        ("vocabulary", vocabulary, said.vocabulary),
    ];
    for (key, ours, theirs) in sizes {
        agree(check, &description, key, ours, theirs)?;
    }
    agree(check, &description, "bias", &mut config.bias, said.bias)?;
    agree(check, &description, "tied", &mut config.tied, said.tied)?;
    let gelu = said.gelu.unwrap_or(config.gelu);
    agree_as_toml(check, &description, "gelu", &mut config.gelu, gelu)?;
    Ok(config)
}

/// What a description says, in our keys.
#[derive(Debug, Default, PartialEq)]
struct Said {
    layers: Option<usize>,
    heads: Option<usize>,
    embedding: Option<usize>,
    mlp: Option<usize>,
    positions: Option<usize>,
    vocabulary: Option<usize>,
    bias: Option<bool>,
    tied: Option<bool>,
    gelu: Option<Gelu>,
}

impl Said {
    fn of(description: &Description) -> Result<Self> {
        check_sizes(
            description,
            &["n_layer", "n_head", "n_embd", "n_inner", "n_positions", "n_ctx", "vocab_size", "block_size"],
        )?;
        let size = |key: &str| size(description, key);
        let is = |key: &str| description.keys.get(key).and_then(Value::as_bool);
        let wide = size("n_embd").map(|width| 4 * width);
        let sizes = Self {
            layers: size("n_layer"),
            heads: size("n_head"),
            embedding: size("n_embd"),
            vocabulary: size("vocab_size"),
            ..Self::default()
        };
        if description.family().is_none() {
            let (positions, bias) = (size("block_size"), is("bias"));
            return Ok(Self { positions, bias, mlp: wide, tied: Some(true), gelu: Some(Gelu::Erf), ..sizes });
        }
        let gelu = Some(hugging_face(description)?);
        let (positions, tied) = (size("n_positions").or(size("n_ctx")), is("tie_word_embeddings").or(Some(true)));
        Ok(Self { positions, tied, gelu, mlp: size("n_inner").or(wide), bias: Some(true), ..sizes })
    }
}

/// The activation of a GPT-2 of Hugging Face that is one like ours.
fn hugging_face(description: &Description) -> Result<Gelu> {
    let refused = |problem: String| Err(Error::Config(format!("{}: {problem}", description.place)));
    if description.family() != Some("gpt2") {
        return Err(of_another_family(description, "gpt2", "`gpt2`"));
    }
    for (key, expected) in REQUIRED {
        if description.keys.get(key).and_then(Value::as_bool).is_some_and(|value| value != expected) {
            return refused(format!("{key} = {}; [model.gpt2] has {expected} only", !expected));
        }
    }
    let epsilon = description.keys.get("layer_norm_epsilon").and_then(Value::as_f64);
    if let Some(epsilon) = epsilon.filter(|epsilon| *epsilon != LAYER_NORM_EPSILON) {
        return refused(format!("layer_norm_epsilon = {epsilon:e}; [model.gpt2] has {LAYER_NORM_EPSILON:e} only"));
    }
    match description.keys.get("activation_function").and_then(Value::as_str).unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Gelu::Tanh),
        "gelu" | "gelu_python" => Ok(Gelu::Erf),
        other => refused(format!(
            "activation_function = `{}`; [model.gpt2] has gelu_new (tanh) and gelu (erf)",
            crate::shown::quoted(other)
        )),
    }
}
