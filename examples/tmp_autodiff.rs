//! Temporary: the engine's gradient beside plain Autodiff's.
use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use hesspec::cluster::solo;
use hesspec::datasets::{ImageBatch, TokenBatch};
use hesspec::engine::SecondOrder;
use hesspec::hessian::{BlockOperator, Listed};
use hesspec::networks::{BatchOf, Network};
use hesspec::networks::gpt2::Gpt2Config;
use hesspec::networks::mlp::MlpConfig;
use std::time::Instant;

type Plain = Autodiff<Flex>;
type Second = SecondOrder<Flex>;

fn images<B: Backend>(n: usize) -> ImageBatch<B> {
    let d = Default::default();
    let v: Vec<f32> = (0..n * 784).map(|i| ((i * 7919) % 255) as f32 / 255.0).collect();
    let l: Vec<i32> = (0..n).map(|i| (i % 10) as i32).collect();
    ImageBatch { images: Tensor::from_data(TensorData::new(v, [n, 1, 28, 28]), &d), labels: Tensor::<B, 1, Int>::from_data(TensorData::new(l, [n]), &d) }
}
fn tokens<B: Backend>(n: usize, c: usize) -> TokenBatch<B> {
    let d = Default::default();
    let v: Vec<i32> = (0..n * c).map(|i| ((i * 7919) % 65) as i32).collect();
    TokenBatch { inputs: Tensor::from_data(TensorData::new(v.clone(), [n, c]), &d), targets: Tensor::from_data(TensorData::new(v, [n * c]), &d), counted: None }
}
fn time(what: &str, mut f: impl FnMut()) {
    f();
    let mut t: Vec<f64> = (0..7).map(|_| { let b = Instant::now(); f(); b.elapsed().as_secs_f64() }).collect();
    t.sort_by(f64::total_cmp);
    println!("{what}: median {:.2} ms, least {:.2} ms", 1e3 * t[3], 1e3 * t[0]);
}
fn both<N: Network>(name: &str, n: &N, plain: BatchOf<N, Plain>, second: BatchOf<N, Second>) where BatchOf<N, Second>: Clone {
    let d = Default::default();
    let layout = n.layout().unwrap();
    let model = hesspec::models::initialise(n.module::<Plain>(&d).unwrap(), n.names(), 1, burn::tensor::DType::F32, |name| layout.find(name).map(|at| n.initial(&layout.parameters()[at]))).unwrap();
    time(&format!("{name}, plain Autodiff"), || {
        let loss = n.loss(n.outputs(&model, &plain), &plain);
        let grads = loss.backward();
        let g = burn::optim_free(&model, &grads);
        std::hint::black_box(g);
    });
    let model = hesspec::models::initialise(n.module::<Second>(&d).unwrap(), n.names(), 1, burn::tensor::DType::F32, |name| layout.find(name).map(|at| n.initial(&layout.parameters()[at]))).unwrap();
    let data = Listed::new(vec![second], |b: &BatchOf<N, Second>| Network::weight(n, b));
    let comm = solo::comm();
    let op = BlockOperator::<Flex, f32>::new(n, &model, &layout, &data, &comm);
    let full = layout.full();
    time(&format!("{name}, the engine"), || { std::hint::black_box(op.gradient(&full).unwrap()); });
}
mod burn {
    pub use ::burn::*;
    use super::*;
    pub fn optim_free<B: AutodiffBackend, M: Module<B>>(m: &M, g: &B::Gradients) -> Vec<f32> {
        struct V<'a, B: AutodiffBackend>(&'a B::Gradients, Vec<f32>);
        impl<B: AutodiffBackend> ::burn::module::ModuleVisitor<B> for V<'_, B> {
            fn visit_float<const D: usize>(&mut self, p: &::burn::module::Param<Tensor<B, D>>) {
                if let Some(t) = p.val().grad(self.0) { self.1.extend(t.into_data().iter::<f32>()); }
            }
        }
        let mut v = V::<B>(g, Vec::new());
        m.visit(&mut v);
        v.1
    }
}
fn main() {
    let mlp = MlpConfig::default();
    both("mlp, 128 images", &mlp, images::<Plain>(128), images::<Second>(128));
    let gpt = Gpt2Config::nano();
    both("gpt2-nano, 4 x 256 tokens", &gpt, tokens::<Plain>(4, 256), tokens::<Second>(4, 256));
}
