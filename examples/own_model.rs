//! The block spectra of a burn model that hesspec has never seen: a gated recurrent network that adds up marked numbers.
//!
//!     cargo run --example own_model
//!
//! Everything between the two lines is ordinary burn; the curvature is one expression in `main`.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use hesspec::Analysis;
use hesspec::engine::SecondOrder;
use hesspec::hessian::{Listed, Problem};
use hesspec::spectrum::{Divergence, Metric};

// ------------------------------------------------------------------------------------------------------------------

/// h' = (1 - z) h + z tanh(W [x, r h]) with gates z and r: a gated recurrent unit, unrolled over time.
#[derive(Module, Debug)]
struct Gated<B: Backend> {
    update: Linear<B>,
    reset: Linear<B>,
    candidate: Linear<B>,
    readout: Linear<B>,
}

impl<B: Backend> Gated<B> {
    fn new(inputs: usize, hidden: usize, device: &B::Device) -> Self {
        let gate = || LinearConfig::new(inputs + hidden, hidden).init(device);
        Self { update: gate(), reset: gate(), candidate: gate(), readout: LinearConfig::new(hidden, 1).init(device) }
    }

    /// (batch, time, inputs) to (batch, 1).
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let [batch, time, inputs] = x.dims();
        let [_, hidden] = self.readout.weight.val().transpose().dims();
        let mut h = Tensor::zeros([batch, hidden], (&x.device(), x.dtype()));
        for t in 0..time {
            let now = x.clone().narrow(1, t, 1).reshape([batch, inputs]);
            let seen = Tensor::cat(vec![now.clone(), h.clone()], 1);
            let update = sigmoid(self.update.forward(seen.clone()));
            let reset = sigmoid(self.reset.forward(seen));
            let candidate = self.candidate.forward(Tensor::cat(vec![now, reset * h.clone()], 1)).tanh();
            h = h.clone() + update * (candidate - h);
        }
        self.readout.forward(h)
    }
}

/// Mean squared error of the sum of the marked numbers.
struct Adding;

impl<B: Backend> Problem<B> for Adding {
    type Model = Gated<B>;
    type Batch = (Tensor<B, 3>, Tensor<B, 2>);

    fn outputs(&self, model: &Gated<B>, (x, _): &Self::Batch) -> Tensor<B, 2> {
        model.forward(x.clone())
    }

    fn loss(&self, outputs: Tensor<B, 2>, (_, y): &Self::Batch) -> Tensor<B, 1> {
        (outputs - y.clone()).powi_scalar(2).mean()
    }

    fn weight(&self, (x, _): &Self::Batch) -> f64 {
        x.dims()[0] as f64
    }
}

/// Sequences of (number, mark): two of the numbers are marked, the target is their sum.
fn sequences<B: Backend>(count: usize, time: usize, device: &B::Device) -> (Tensor<B, 3>, Tensor<B, 2>) {
    let number = |sample: usize, t: usize| ((sample * 37 + t * 101 + 17) * 7919 % 1000) as f32 / 1000.0;
    let marked = |sample: usize, t: usize| t == sample % (time / 2) || t == time / 2 + sample * 7 % (time / 2);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for sample in 0..count {
        x.extend((0..time).flat_map(|t| [number(sample, t), f32::from(marked(sample, t))]));
        y.push((0..time).filter(|&t| marked(sample, t)).map(|t| number(sample, t)).sum::<f32>());
    }
    let x = Tensor::from_data(TensorData::new(x, [count, time, 2]), device);
    (x, Tensor::from_data(TensorData::new(y, [count, 1]), device))
}

// ------------------------------------------------------------------------------------------------------------------

fn main() -> hesspec::Result<()> {
    type B = SecondOrder<burn_flex::Flex>;
    let device = Default::default();
    B::seed(&device, 1);
    let model = Gated::<B>::new(2, 24, &device);
    let batches = (0..4).map(|_| sequences::<B>(64, 12, &device)).collect();
    let data = Listed::new(batches, |batch| Problem::<B>::weight(&Adding, batch));

    let curvature = Analysis::new(&Adding, &model, &data).steps(40).run()?;
    println!("{curvature}");
    println!("the largest eigenvalue of the whole network: {:.3}", curvature["full"].moments().lambda_max);

    println!("\nDistance between where the blocks' squared Frobenius norms lie, in decades of |eigenvalue|");
    let is_pair = |row: &&Divergence| row.metric == "wasserstein1_energy" && row.block_a != row.block_b;
    for row in curvature.distances(Metric::named("wasserstein1_energy")?)?.iter().filter(is_pair) {
        let (value, error) = (row.value.unwrap_or(f64::NAN), row.error.unwrap_or(f64::NAN));
        println!("{:<18} {:<18} {value:.3} +- {error:.3}", row.block_a, row.block_b);
    }
    Ok(())
}
