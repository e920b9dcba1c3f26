//! The keys of `[model.decoder]` that Hugging Face's `config.json` says. What the configuration leaves out is taken from there; what
//! contradicts it is refused, and so is what this network cannot be.

use serde_json::Value;

use super::config::{Activation, AttentionBias, CONTEXT, DecoderConfig, NormPlace, QkNorm, Rope, RopeScaling};
use crate::document::Check;
use crate::models::weights::{Description, describe};
use crate::networks::described::{DECODERS, agree, agree_as_toml, check_sizes, of_another_family, size};
use crate::shown::quoted;
use crate::{Error, Result};

/// Keys that are sizes where they are there.
const SIZES: [&str; 9] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
];

/// The configuration, with the keys that it leaves out as the weights have them.
///
/// # Errors
/// [`Error::Config`] with the place of a key that has another value there, and for a network that is none of these.
pub(super) fn completed(mut config: DecoderConfig, check: &Check<'_>) -> Result<DecoderConfig> {
    let Some(url) = config.weights.as_ref().filter(|url| !url.is_empty() && url.refused_as_input().is_none()) else {
        return Ok(config); // a place that cannot be is refused with all other keys
    };
    let Some(description) = describe(url)? else { return Ok(config) };
    let said = Said::of(&description)?;
    let DecoderConfig { layers, heads, kv_heads, head, embedding, mlp, vocabulary, .. } = &mut config;
    let sizes = [
        ("layers", layers, said.layers),
        ("heads", heads, said.heads),
        ("kv_heads", kv_heads, said.kv_heads),
        ("head", head, said.head),
        ("embedding", embedding, said.embedding),
        ("mlp", mlp, said.mlp),
        ("vocabulary", vocabulary, said.vocabulary),
    ];
    for (key, ours, theirs) in sizes {
        agree(check, &description, key, ours, theirs)?;
    }
    agree(check, &description, "tied", &mut config.tied, Some(said.tied))?;
    agree(check, &description, "mlp_bias", &mut config.mlp_bias, Some(said.mlp_bias))?;
    agree(check, &description, "norm_epsilon", &mut config.norm_epsilon, said.norm_epsilon)?;
    agree(check, &description, "rope.theta", &mut config.rope.theta, Some(said.rope.theta))?;
    agree(check, &description, "rope.share", &mut config.rope.share, Some(said.rope.share))?;
    agree_as_toml(check, &description, "rope.scaling", &mut config.rope.scaling, said.rope.scaling)?;
    agree_as_toml(check, &description, "norm", &mut config.norm, said.norm)?;
    agree_as_toml(check, &description, "qk_norm", &mut config.qk_norm, said.qk_norm)?;
    agree_as_toml(check, &description, "attention_bias", &mut config.attention_bias, said.attention_bias)?;
    agree_as_toml(check, &description, "activation", &mut config.activation, said.activation)?;
    place_context(check, &description, &mut config, &said)?;
    Ok(config)
}

/// Windows may be no longer than the positions that the weights were trained on, nor than a sliding window reaches.
fn place_context(check: &Check<'_>, description: &Description, config: &mut DecoderConfig, said: &Said) -> Result<()> {
    let limits = [(said.positions, "positions"), (said.window, "tokens that its sliding window reaches")];
    for (most, what) in limits.into_iter().filter_map(|(most, what)| Some((most?, what))) {
        let long = format!("the weights have {most} {what} ({}); expected no more", description.place);
        check.that(!check.is_given("context") || config.context <= most, "context", config.context, long)?;
        config.context = config.context.min(most);
    }
    if !check.is_given("context") {
        config.context = said.positions.into_iter().chain(said.window).fold(CONTEXT, usize::min);
    }
    Ok(())
}

/// What a description says, in our keys.
struct Said {
    layers: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head: Option<usize>,
    embedding: Option<usize>,
    mlp: Option<usize>,
    vocabulary: Option<usize>,
    positions: Option<usize>,
    /// Keys that a query sees, itself among them.
    window: Option<usize>,
    tied: bool,
    norm: NormPlace,
    norm_epsilon: Option<f64>,
    qk_norm: QkNorm,
    attention_bias: AttentionBias,
    mlp_bias: bool,
    activation: Activation,
    rope: Rope,
}

impl Said {
    fn of(description: &Description) -> Result<Self> {
        let family = description.family().unwrap_or_default();
        if !DECODERS.contains(&family) {
            return Err(of_another_family(description, "decoder", &format!("one of {}", DECODERS.join(", "))));
        }
        check_sizes(description, &SIZES)?;
        let is = |key: &str| description.keys.get(key).and_then(Value::as_bool).unwrap_or(false);
        let size = |key: &str| size(description, key);
        let (heads, embedding) = (size("num_attention_heads"), size("hidden_size"));
        let equal_share = heads.zip(embedding).map(|(heads, embedding)| embedding / heads);
        Ok(Self {
            layers: size("num_hidden_layers"),
            heads,
            kv_heads: size("num_key_value_heads").or(heads),
            head: size("head_dim").or(equal_share),
            embedding,
            mlp: size("intermediate_size"),
            vocabulary: size("vocab_size"),
            positions: size("max_position_embeddings"),
            window: window(description, family),
            tied: is("tie_word_embeddings"),
            norm: if family == "olmo2" { NormPlace::After } else { NormPlace::Before },
            norm_epsilon: description.keys.get("rms_norm_eps").and_then(Value::as_f64),
            qk_norm: match family {
                "qwen3" => QkNorm::Head,
                "olmo2" => QkNorm::All,
                _ => QkNorm::None,
            },
            attention_bias: match family {
                "qwen2" => AttentionBias::Qkv,
                _ if is("attention_bias") => AttentionBias::All,
                _ => AttentionBias::None,
            },
            mlp_bias: is("mlp_bias"),
            activation: activation(description)?,
            rope: rotary(description)?,
        })
    }
}

fn refused(description: &Description, problem: String) -> Error {
    Error::Config(format!("{}: {problem}", description.place))
}

/// The sliding window of the layers that have one.
fn window(description: &Description, family: &str) -> Option<usize> {
    let is_on = description.keys.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(family == "mistral");
    size(description, "sliding_window").filter(|_| is_on)
}

fn activation(description: &Description) -> Result<Activation> {
    match description.keys.get("hidden_act").and_then(Value::as_str).unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(refused(
            description,
            format!("hidden_act = `{}`; [model.decoder] has silu, gelu and gelu_pytorch_tanh", quoted(other)),
        )),
    }
}

/// Rope positions, from `rope_theta` and `rope_scaling`, or from `rope_parameters` (transformers 5).
fn rotary(description: &Description) -> Result<Rope> {
    let keys = &description.keys;
    let table = ["rope_parameters", "rope_scaling"].iter().find_map(|key| keys.get(*key).and_then(Value::as_object));
    let number = |key: &str| table.and_then(|table| table.get(key)).or(keys.get(key)).and_then(Value::as_f64);
    let in_table = |key: &str| table.and_then(|table| table.get(key));
    let kind = in_table("rope_type").or(in_table("type")).and_then(Value::as_str).unwrap_or("default");
    let scaling = match kind {
        "default" => None,
        "llama3" => {
            let needed = |key: &str| {
                number(key)
                    .ok_or_else(|| refused(description, format!("{key}: a number is missing for rope_type = llama3")))
            };
            Some(RopeScaling {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: needed("original_max_position_embeddings")?,
            })
        }
        other => {
            let known = "[model.decoder] has default and llama3";
            return Err(refused(description, format!("rope_type = `{}`; {known}", quoted(other))));
        }
    };
    let Rope { theta, share, .. } = Rope::default();
    Ok(Rope {
        theta: number("rope_theta").unwrap_or(theta),
        share: number("partial_rotary_factor").unwrap_or(share),
        scaling,
    })
}
