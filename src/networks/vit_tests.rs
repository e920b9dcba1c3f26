use burn::tensor::{DType, Int, TensorData};

use super::*;
use crate::engine::SecondOrder;
use crate::models::{Partition, fill, parameters, partition};
use crate::probe::{ProbeKind, probe};

type Second = SecondOrder<burn_flex::Flex>;

fn small() -> VitConfig {
    VitConfig {
        image: [4, 6],
        patch: 2,
        channels: 2,
        embedding: 6,
        layers: 2,
        heads: 3,
        mlp: 5,
        classes: 3,
        ..VitConfig::default()
    }
}

#[test]
fn the_layout_is_what_the_module_holds() {
    let module = small().module::<burn_flex::Flex>(&Default::default()).unwrap();
    assert_eq!(parameters(&module, &NAMES), Network::layout(&small()).unwrap());
    // timm's vit_base_patch16_224, vit_small and vit_tiny, with ImageNet's 1000 classes
    for (preset, published) in [("base", 86_567_656), ("small", 22_050_664), ("tiny", 5_717_416)] {
        let keys = serde_json::json!({ "preset": preset, "classes": 1000 });
        let config: VitConfig = serde_json::from_value(keys).unwrap();
        assert_eq!(Network::layout(&config).unwrap().num_params(), published, "{preset}");
    }
}

#[test]
fn queries_keys_and_values_are_rows_of_their_projection() {
    let layout = Network::layout(&small()).unwrap();
    let blocks = partition(&layout, &small().structure(), Partition::Head).unwrap();
    let count = |ending: &str| blocks.iter().filter(|block| block.name.contains(ending)).count();
    assert_eq!(
        [count(".1.attn.k.weight/head."), count(".1.attn.k.bias/head."), count(".1.attn.proj.weight/head.")],
        [3; 3]
    );
    let key = blocks.iter().find(|block| block.name == "blocks.1.attn.k.weight/head.2").unwrap();
    let qkv = layout.find("blocks.1.attn.qkv.weight").unwrap();
    assert_eq!(key.pieces, [crate::block::Piece::cut(qkv, 0, 10..12)]);
    assert_eq!(blocks.iter().map(|block| block.num_params(&layout)).sum::<usize>(), layout.num_params());
}

/// A network entered at any stage is the network.
#[test]
fn every_stage_leads_to_the_same_loss() {
    let config = small();
    let value = |name: &str, shape: &[usize]| {
        let values = probe(ProbeKind::Gaussian, 3, name, 0, 0..shape.iter().product());
        Ok(Some(TensorData::new(values.iter().map(|x| 0.5 * x).collect::<Vec<f64>>(), shape.to_vec())))
    };
    let model: Vit<Second> = fill(config.module(&Default::default()).unwrap(), &NAMES, DType::F64, value).unwrap();
    let pixels = probe(ProbeKind::Gaussian, 4, "pixels", 0, 0..2 * 48);
    let batch = ImageBatch::<Second> {
        images: Tensor::from_data(TensorData::new(pixels, [2, 2, 4, 6]), (&Default::default(), DType::F64)),
        labels: Tensor::<Second, 1, Int>::from_data([2, 0], &Default::default()),
    };
    let number = |loss: Tensor<Second, 1>| loss.into_data().iter::<f64>().next().unwrap();
    let whole = number(Network::total_loss(&config, &model, &batch));
    let stages: &StagesOf<VitConfig, burn_flex::Flex> = Network::stages(&config).unwrap();
    for stage in 1..=stages.num_stages(&model) {
        let entry = stages.advance(&model, 1..stage, stages.first(&model, &batch), &batch);
        assert_eq!(number(stages.total_loss_from(&model, stage, entry, &batch)), whole, "{stage}");
    }
    let of = |name: &str| stages.stage_of(&model, name);
    assert_eq!(
        [of("pos_embed"), of("blocks.1.attn.qkv.bias"), of("blocks.1.norm2.weight"), of("head.bias")],
        [0, 3, 4, 5]
    );
}

#[test]
fn initial_values_are_those_of_timm() {
    let (config, layout) = (small(), Network::layout(&small()).unwrap());
    let initial = |name: &str| config.initial(&layout.parameters()[layout.find(name).unwrap()]);
    assert_eq!(initial("patch_embed.proj.weight"), Initial::Uniform(1.0 / 8f64.sqrt()));
    assert_eq!(initial("cls_token"), Initial::Normal(1e-6));
    assert_eq!(initial("pos_embed"), Initial::Normal(0.02));
    assert_eq!(initial("blocks.0.norm1.weight"), Initial::Constant(1.0));
    assert_eq!(initial("blocks.0.mlp.fc1.bias"), Initial::Constant(0.0));
    assert_eq!(initial("head.weight"), Initial::Normal(0.02));
}
