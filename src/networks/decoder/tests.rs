use super::*;
use crate::models::{fill, initialise, parameters};
use crate::probe::{ProbeKind, probe};
use burn::tensor::{DType, Int, TensorData};

type Double = burn_ndarray::NdArray<f64>;
type Flex = burn_flex::Flex;

fn small() -> DecoderConfig {
    DecoderConfig {
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head: 4,
        embedding: 12,
        mlp: 10,
        context: 6,
        vocabulary: 11,
        ..DecoderConfig::nano()
    }
}

fn variants() -> Vec<DecoderConfig> {
    let scaling = Some(RopeScaling { factor: 8.0, low: 1.0, high: 4.0, original: 16.0 });
    vec![
        small(),
        DecoderConfig { tied: false, attention_bias: AttentionBias::All, mlp_bias: true, ..small() },
        DecoderConfig { attention_bias: AttentionBias::Qkv, activation: Activation::GeluTanh, ..small() },
        DecoderConfig { qk_norm: QkNorm::Head, activation: Activation::Gelu, kv_heads: 4, ..small() },
        DecoderConfig { qk_norm: QkNorm::All, norm: NormPlace::After, ..small() },
        DecoderConfig { rope: Rope { share: 0.5, scaling, ..Rope::default() }, kv_heads: 1, ..small() },
    ]
}

fn model<B: Backend>(config: &DecoderConfig, dtype: DType) -> Decoder<B> {
    let value = |name: &str, shape: &[usize]| {
        let values = probe(ProbeKind::Gaussian, 3, name, 0, 0..shape.iter().product());
        Ok(Some(TensorData::new(values.iter().map(|x| 0.5 * x).collect::<Vec<f64>>(), shape.to_vec())))
    };
    fill(config.module(&Default::default()), &NAMES, dtype, value).unwrap()
}

fn tokens<B: Backend>(ids: &[i64], shape: [usize; 2]) -> Tensor<B, 2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), shape), &Default::default())
}

fn logits<B: Backend>(model: &Decoder<B>, ids: &[i64], shape: [usize; 2]) -> Vec<f64> {
    model.logits(model.hidden(tokens(ids, shape))).into_data().iter::<f64>().collect()
}

#[test]
fn the_layout_is_what_the_module_holds() {
    for config in variants() {
        let module = config.module::<Flex>(&Default::default());
        assert_eq!(parameters(&module, &NAMES), DecoderConfig::layout(&config), "{config:?}");
    }
}

/// As the models' cards on Hugging Face say.
#[test]
fn sizes_of_the_presets_are_the_published_ones() {
    let count = |preset: &str| {
        let config: DecoderConfig = serde_json::from_value(serde_json::json!({ "preset": preset })).unwrap();
        config.layout().num_params()
    };
    assert_eq!(count("smollm2-135m"), 134_515_008);
    assert_eq!(count("llama-3.2-1b"), 1_235_814_400);
    assert_eq!(count("llama-3-8b"), 8_030_261_248);
    assert_eq!(count("qwen2.5-0.5b"), 494_032_768);
    assert_eq!(count("qwen3-0.6b"), 596_049_920);
    assert_eq!(count("olmo2-1b"), 1_484_916_736);
}

#[test]
fn no_position_sees_the_future_and_windows_do_not_mix() {
    for config in variants() {
        let model = model::<Double>(&config, DType::F64);
        let first = logits(&model, &[1, 2, 3, 4, 5, 6, 7, 8], [2, 4]);
        let other = logits(&model, &[1, 2, 3, 9, 5, 6, 7, 8], [2, 4]);
        let row = |logits: &[f64], at: usize| logits[at * 11..(at + 1) * 11].to_vec();
        for at in [0, 1, 2, 4, 5, 6, 7] {
            assert_eq!(row(&first, at), row(&other, at), "position {at}, {config:?}");
        }
        assert_ne!(row(&first, 3), row(&other, 3));
    }
}

/// With GELU: plain backends of burn's compute the sigmoid of SiLU in f32 whatever the type.
#[test]
fn backends_agree() {
    let ids: Vec<i64> = (0..12).map(|i| (i * 7 + 3) % 11).collect();
    for config in variants() {
        let config = DecoderConfig { activation: Activation::Gelu, ..config };
        let double = logits(&model::<Double>(&config, DType::F64), &ids, [2, 6]);
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
            let flex = logits(&model::<Flex>(&config, dtype), &ids, [2, 6]);
            for (a, b) in double.iter().zip(&flex) {
                assert!((a - b).abs() < tolerance, "{config:?}: {a} on NdArray f64, {b} on flex {dtype:?}");
            }
        }
    }
}

/// Positions turn queries and keys: what a key says depends on how far away it is only.
#[test]
fn shifted_positions_change_no_score() {
    let rotary = Rope { theta: 100.0, ..Rope::default() };
    let angles = rotary.frequencies(4);
    assert_eq!(angles, [1.0, 0.1]);
    let scaled = Rope { scaling: Some(RopeScaling { factor: 4.0, low: 1.0, high: 2.0, original: 62.9 }), ..rotary };
    // 62.9 positions turn the first pair by ten turns, the second by about one: the one stays, the other is stretched
    let [first, second] = scaled.frequencies(4)[..] else { panic!() };
    assert!(first == 1.0 && (second - 0.1 / 4.0).abs() < 1e-3 * 0.1, "{first} {second}");
}

/// A network entered at any stage is the network.
#[test]
fn every_stage_leads_to_the_same_loss() {
    type Second = SecondOrder<Flex>;
    let ids = |shift: i64| (0..12).map(|i| (i * 7 + shift) % 11).collect::<Vec<i64>>();
    for config in variants() {
        let model = model::<Second>(&config, DType::F64);
        let batch = TokenBatch::<Second> {
            inputs: tokens(&ids(3), [2, 6]),
            targets: Tensor::from_data(TensorData::new(ids(4), [12]), &Default::default()),
            counted: None,
        };
        let value = |loss: Tensor<Second, 1>| loss.into_data().iter::<f64>().next().unwrap();
        let whole = value(config.total_loss(&model, &batch));
        let stages: &StagesOf<DecoderConfig, Flex> = config.stages().unwrap();
        for stage in 1..=stages.num_stages(&model) {
            let entry = stages.advance(&model, 1..stage, stages.first(&model, &batch), &batch);
            assert_eq!(value(stages.total_loss_from(&model, stage, entry, &batch)), whole, "{stage}, {config:?}");
        }
        let of = |name: &str| stages.stage_of(&model, name);
        let behind_mlp = if config.norm == NormPlace::After { "post_feedforward" } else { "post_attention" };
        assert_eq!(of("model.layers.1.self_attn.k_proj.weight"), 3);
        assert_eq!(of(&format!("model.layers.1.{behind_mlp}_layernorm.weight")), 4);
        assert_eq!([of("model.embed_tokens.weight"), of("model.norm.weight")], [0, 5]);
    }
}

#[test]
fn initial_values_are_normal_but_for_norms_and_biases() {
    let config = &variants()[1];
    let layout = DecoderConfig::layout(config);
    let initial = |name: &str| layout.find(name).map(|at| config.initial(&layout.parameters()[at]));
    assert_eq!(initial("model.layers.0.mlp.up_proj.weight"), Some(Initial::Normal(0.02)));
    assert_eq!(initial("model.layers.0.mlp.up_proj.bias"), Some(Initial::Constant(0.0)));
    assert_eq!(initial("model.norm.weight"), Some(Initial::Constant(1.0)));
    let module = initialise(config.module::<Flex>(&Default::default()), &NAMES, 1, DType::F32, initial).unwrap();
    let loss = cross_entropy(
        module.logits(module.hidden(tokens(&[1, 2, 3, 4], [1, 4]))),
        &Tensor::from_data([2, 3, 4, 5], &Default::default()),
    );
    let loss: f32 = loss.into_scalar();
    assert!((loss - 11_f32.ln()).abs() < 0.1, "{loss}");
}
