//! A network and data that hesspec has never heard of, as a program with all of its commands:
//!
//!     cargo run -- run own.toml          # or plan, check, hvp, lanczos, bench, report, doctor
//!
//! The network is a small state-space model: h_t = a * h_{t-1} + B x_t, whose last state says which symbol was read `delay` steps
//! before the end. The data are made-up sequences. Both are ordinary burn; nothing here knows of second derivatives, ranks or
//! tables.

use std::process::ExitCode;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, tanh};
use burn::tensor::{Int, Tensor, backend::Backend};
use hesspec::Result;
use hesspec::datasets::{Dataset, Place, Samples};
use hesspec::networks::Network;
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    hesspec::program("own_network").network::<Recall>().main()
}

/// `[model.recall]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recall {
    /// Number of distinct symbols.
    symbols: usize,
    /// Width of the state.
    state: usize,
}

impl Default for Recall {
    fn default() -> Self {
        Self { symbols: 4, state: 12 }
    }
}

/// h_t = a * h_{t-1} + B x_t, logits = C tanh(h_T).
#[derive(Module, Debug)]
struct StateSpace<B: Backend> {
    /// a: how much of each state is kept, (1, state).
    decay: Param<Tensor<B, 2>>,
    /// B: (symbols, state).
    input: Embedding<B>,
    /// C: (state, symbols).
    output: Linear<B>,
}

impl Network for Recall {
    const KIND: &'static str = "recall";
    type Data = Sequences;
    type Module<B: Backend> = StateSpace<B>;

    fn shape(&self) -> usize {
        self.symbols
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<StateSpace<B>> {
        let decay = (0..self.state).map(|at| 0.95 - 0.9 * at as f32 / self.state as f32).collect::<Vec<_>>();
        Ok(StateSpace {
            decay: Param::from_tensor(Tensor::<B, 1>::from_floats(decay.as_slice(), device).unsqueeze()),
            input: EmbeddingConfig::new(self.symbols, self.state).init(device),
            output: LinearConfig::new(self.state, self.symbols).init(device),
        })
    }

    fn outputs<B: Backend>(&self, model: &StateSpace<B>, batch: &Batch<B>) -> Tensor<B, 2> {
        let read = model.input.forward(batch.sequences.clone()); // (sequences, length, state)
        let [sequences, length, state] = read.dims();
        let step = |at: usize| read.clone().narrow(1, at, 1).reshape([sequences, state]);
        let last = (1..length).fold(step(0), |h, at| h * model.decay.val() + step(at));
        model.output.forward(tanh(last))
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &Batch<B>) -> Tensor<B, 1> {
        let [sequences] = batch.recalled.dims();
        log_softmax(outputs, 1).gather(1, batch.recalled.clone().reshape([sequences, 1])).mean().neg()
    }

    fn weight<B: Backend>(&self, batch: &Batch<B>) -> f64 {
        batch.recalled.dims()[0] as f64
    }
}

/// `[data.sequences]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sequences {
    /// How many there are.
    number: usize,
    /// Symbols of each.
    length: usize,
    /// Which one is to be recalled, counted from the end.
    delay: usize,
    #[serde(skip)]
    symbols: usize,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { number: 256, length: 16, delay: 3, symbols: 0 }
    }
}

/// Some sequences, and the symbol to recall of each.
#[derive(Debug, Clone)]
struct Batch<B: Backend> {
    sequences: Tensor<B, 2, Int>,
    recalled: Tensor<B, 1, Int>,
}

impl Dataset for Sequences {
    const KIND: &'static str = "sequences";
    /// Number of distinct symbols.
    type Shape = usize;
    type Samples = Self;

    fn check(&self, check: &hesspec::document::Check<'_>) -> Result<()> {
        check.at_least_one("number", Some(self.number))?;
        check.that(self.delay < self.length, "delay", self.delay, format!("expected less than length = {}", self.length))
    }

    fn open(&self, symbols: &usize) -> Result<Self> {
        Ok(Self { symbols: *symbols, ..self.clone() })
    }
}

impl Sequences {
    /// Symbol `at` of a sequence: made up, and always the same.
    fn symbol(&self, sequence: usize, at: usize) -> i32 {
        let bits = ((sequence * self.length + at) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((bits >> 33) % self.symbols as u64) as i32
    }
}

impl Samples for Sequences {
    type Batch<B: Backend> = Batch<B>;

    fn num_positions(&self) -> usize {
        self.number
    }

    fn batch<B: Backend>(&self, positions: &[usize], place: &Place<B>) -> Result<Batch<B>> {
        let sequence = |position: &usize| (0..self.length).map(|at| self.symbol(*position, at)).collect::<Vec<_>>();
        let recalled = |position: &usize| self.symbol(*position, self.length - 1 - self.delay);
        Ok(Batch {
            sequences: place.integers(positions.iter().flat_map(sequence).collect(), [positions.len(), self.length]),
            recalled: place.integers(positions.iter().map(recalled).collect(), [positions.len()]),
        })
    }
}
