//! What every network's derivatives and stages are tried with.

use burn::tensor::{DType, Tensor, TensorData};

use super::{BatchOf, Network};
use crate::block::Block;
use crate::engine::SecondOrder;
use crate::hessian::{BlockOperator, Listed, Outcome, self_tests};
use crate::models::{Partition, fill, partition};
use crate::probe::{ProbeKind, probe};

type Plain = burn_flex::Flex;
type B = SecondOrder<Plain>;

/// Numbers that depend on the name alone.
pub(super) fn gaussian(name: &str, count: usize) -> Vec<f64> {
    probe(ProbeKind::Gaussian, 3, name, 0, 0..count)
}

/// Far from the initial network, with running statistics of their own.
pub(super) fn random<N: Network>(network: &N) -> N::Module<B> {
    let module = network.module::<B>(&Default::default()).unwrap();
    fill(module, network.names(), DType::F64, |name, shape| {
        let values = gaussian(name, shape.iter().product()).into_iter();
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        let values: Vec<f64> = match name {
            _ if name.ends_with("running_var") => values.map(|value| 0.5 + value * value).collect(),
            _ if is_norm => values.map(|value| 1.0 + 0.3 * value).collect(),
            _ => values.map(|value| 0.4 * value).collect(),
        };
        Ok(Some(TensorData::new(values, shape.to_vec())))
    })
    .unwrap()
}

/// The dense Hessian of the whole is symmetric and a derivative of the gradient, and those of all blocks are its parts.
pub(super) fn check_dense<N: Network>(name: &str, network: &N, model: &N::Module<B>, batches: Vec<BatchOf<N, B>>)
where
    BatchOf<N, B>: Clone,
{
    let layout = network.layout().unwrap();
    let data = Listed::new(batches, |batch: &BatchOf<N, B>| Network::weight(network, batch));
    let comm = crate::cluster::solo::comm();
    let full = layout.full();
    let matrix = |block: &Block| {
        let dim = block.num_params(&layout);
        let units: Vec<Vec<f64>> = (0..dim).map(|i| (0..dim).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        let product = |chunk: &[Vec<f64>]| {
            let mut operator = BlockOperator::<Plain, f64>::new(network, model, &layout, &data, &comm);
            operator.slots = vec![block; chunk.len()];
            operator.products(chunk).unwrap()
        };
        units.chunks(32).flat_map(product).collect::<Vec<Vec<f64>>>()
    };
    let h = matrix(&full);
    let scale = h.iter().flatten().fold(0f64, |most, value| most.max(value.abs()));
    assert!(scale > 1e-3, "{name}: H is {scale:e}");
    let transposed = |i: usize, j: usize| h[j][i];
    let asymmetry = h.iter().enumerate().flat_map(|(i, row)| row.iter().enumerate().map(move |(j, x)| (i, j, *x)));
    let asymmetry = asymmetry.map(|(i, j, x)| (x - transposed(i, j)).abs()).fold(0.0, f64::max);
    assert!(asymmetry < 1e-12 * scale, "{name}: {asymmetry:e} of {scale:e}");
    let mut operator = BlockOperator::<Plain, f64>::new(network, model, &layout, &data, &comm);
    operator.slots = vec![&full];
    for check in self_tests(&operator, 1).unwrap() {
        assert_eq!(check.outcome, Outcome::Passed, "{name}: {check:?}");
    }
    for block in partition(&layout, &network.structure(), Partition::Parameter).unwrap() {
        let whole = |parameter: usize| {
            let p = &layout.parameters()[parameter];
            Some((p.offset..p.offset + p.num_params()).collect::<Vec<usize>>())
        };
        let indices = block.gather(&layout, whole, 0);
        for (i, row) in matrix(&block).iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                let expected = h[indices[i]][indices[j]];
                assert!((value - expected).abs() < 1e-12 * scale, "{name}, {}: {value} {expected}", block.name);
            }
        }
    }
}

/// From every stage the outputs are the same to the last bit, and a parameter's stage is the highest that it does not change.
pub(super) fn check_stages<N: Network>(network: &N, model: &N::Module<B>, batch: &BatchOf<N, B>) {
    let names = network.names();
    let stages = Network::stages::<Plain>(network).expect("it can be entered");
    let values = |tensor: Tensor<B, 2>| tensor.into_data().iter::<f64>().collect::<Vec<f64>>();
    let whole = values(Network::outputs(network, model, batch));
    let highest = stages.num_stages(model);
    for stage in 1..=highest {
        let entry = stages.entry(model, batch, stage);
        assert_eq!(values(stages.outputs_from(model, stage, entry, batch)), whole, "stage {stage}");
    }
    let mut reached = vec![false; highest + 1];
    for parameter in network.layout().unwrap().parameters() {
        let stage = stages.stage_of(model, &parameter.name);
        reached[stage] = true;
        let changed = fill(model.clone(), names, DType::F64, |name, shape| {
            let values =
                || gaussian("other", shape.iter().product()).iter().map(|value| 1.5 + value).collect::<Vec<_>>();
            Ok((name == parameter.name).then(|| TensorData::new(values(), shape.to_vec())))
        })
        .unwrap();
        let entries = |stage: usize| [model, &changed].map(|model| values(stages.entry(model, batch, stage)));
        if stage > 0 {
            let [before, after] = entries(stage);
            assert_eq!(before, after, "{} changes the entry of its stage {stage}", parameter.name);
        }
        if stage < highest {
            let [before, after] = entries(stage + 1);
            assert_ne!(before, after, "{} does not change the entry of stage {}", parameter.name, stage + 1);
        }
    }
    assert!(reached.iter().all(|reached| *reached), "{reached:?}");
}
