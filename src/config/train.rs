//! `[train]`: how `hesspec train` changes a network's parameters. The samples that it draws from are those of `[batch]`.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, Order, as_toml};
use crate::datasets::Choice;
use crate::document::{Check, Each};
use crate::{Error, Result};

/// Times that the held-out samples are looked at, if nothing else is said.
const LOOKS: usize = 20;
/// PyTorch's defaults of Adam and AdamW.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;
/// PyTorch's default of AdamW.
const DECAY: f64 = 0.01;
/// More steps than any training has.
const MOST_STEPS: usize = 1 << 31;
/// Far beyond any batch; products of sizes stay far from overflow.
const MOST_BATCH: usize = 1 << 31;

/// `[train]`, every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Train {
    /// Number of updates.
    pub steps: usize,
    /// Samples of a step: windows, images, pairs.
    pub batch: usize,
    /// What an update is.
    pub optimizer: Optimizer,
    /// Length of an update in the optimizer's own units. A list: one training for each, called `NAME-lrX`.
    pub learning_rate: Each,
    /// For sgd: the share of the last update's direction that is kept. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// For sgd: whether Nesterov's variant is taken. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// For adam and adamw: the share of the first moment that is kept. Default: 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// For adam and adamw: the share of the second moment that is kept. Default: 0.999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// For adam and adamw: what is added to the root of the second moment. Default: 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// For adam and adamw: whether moments are divided by 1 - beta^t. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias_correction: Option<bool>,
    /// For adam and adamw: what the moments begin with. Default: zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
    /// Weight decay: decoupled from the gradient for adamw, added to it for the others. Default: 0.01 for adamw, else 0.
    pub weight_decay: f64,
    /// Largest norm of the gradient: a longer one is scaled down to it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// First steps, in which the learning rate grows linearly. Default: 0.
    pub warmup: usize,
    /// How the learning rate goes on after these. Default: constant.
    pub schedule: Schedule,
    /// For a cosine: the learning rate at the end, as a share of the largest. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_to: Option<f64>,
    /// Seed of the order of samples. Default: `run.seed`.
    pub seed: u64,
    /// Shares of the training after which weights and the optimizer's state are written. Default: 0 and 1.
    pub checkpoints: Vec<f64>,
    /// `[train.held_out]`: samples that are looked at and never trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
}

/// What an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Stochastic gradient descent, with momentum where that is above 0.
    Sgd,
    /// Adam (Kingma and Ba 2015, arXiv 1412.6980).
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
    AdamW,
}

/// What Adam's moments begin with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// 0, as in PyTorch.
    #[default]
    Zero,
    /// The first step's gradient and its square, as in the paper's Adam without bias correction (Zhang et al. 2024, arXiv
    /// 2402.16788).
    Gradient,
}

/// How the learning rate goes on after its warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// Half a period of a cosine, down to `decay_to`.
    Cosine,
}

/// `[train.held_out]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldOut {
    /// Number of samples. Default: all from `start` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Position of the first one. Default: 0.
    pub start: usize,
    /// Steps between two looks at them. Default: a twentieth of the training.
    pub every: usize,
    /// All keys of `[data.KIND]` as they are for these samples; those that are not given are as in `[data.KIND]`.
    pub data: Value,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainKeys {
    steps: usize,
    batch: usize,
    optimizer: Optimizer,
    learning_rate: Each,
    momentum: Option<f64>,
    nesterov: Option<bool>,
    beta1: Option<f64>,
    beta2: Option<f64>,
    epsilon: Option<f64>,
    bias_correction: Option<bool>,
    moments: Option<Moments>,
    weight_decay: Option<f64>,
    clip: Option<f64>,
    #[serde(default)]
    warmup: usize,
    #[serde(default)]
    schedule: Schedule,
    decay_to: Option<f64>,
    seed: Option<u64>,
    checkpoints: Option<Vec<f64>>,
    held_out: Option<HeldOutKeys>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HeldOutKeys {
    samples: Option<usize>,
    start: usize,
    every: Option<usize>,
    /// Read with the network's data.
    #[serde(rename = "data")]
    _data: Option<IgnoredAny>,
}

impl TrainKeys {
    /// Fills in what depends on other keys. `held_out_data`: every key of the held-out samples' data.
    pub fn resolved(self, seed: u64, held_out_data: Value) -> Train {
        let is_sgd = self.optimizer == Optimizer::Sgd;
        let (sgd, adam) = (is_sgd.then_some(0.0), BETAS.map(|beta| (!is_sgd).then_some(beta)));
        let every = self.steps.div_ceil(LOOKS).max(1);
        let held_out = self.held_out.map(|keys| HeldOut {
            samples: keys.samples,
            start: keys.start,
            every: keys.every.unwrap_or(every),
            data: held_out_data,
        });
        Train {
            steps: self.steps,
            batch: self.batch,
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            momentum: self.momentum.or(sgd),
            nesterov: self.nesterov.or(is_sgd.then_some(false)),
            beta1: self.beta1.or(adam[0]),
            beta2: self.beta2.or(adam[1]),
            epsilon: self.epsilon.or((!is_sgd).then_some(EPSILON)),
            bias_correction: self.bias_correction.or((!is_sgd).then_some(true)),
            moments: self.moments.or((!is_sgd).then_some(Moments::Zero)),
            weight_decay: self.weight_decay.unwrap_or(if self.optimizer == Optimizer::AdamW { DECAY } else { 0.0 }),
            clip: self.clip,
            warmup: self.warmup,
            schedule: self.schedule,
            decay_to: self.decay_to.or((self.schedule == Schedule::Cosine).then_some(0.0)),
            seed: self.seed.unwrap_or(seed),
            checkpoints: self.checkpoints.unwrap_or_else(|| vec![0.0, 1.0]),
            held_out,
        }
    }
}

impl Train {
    /// Steps after which weights are written, ascending.
    pub fn checkpoint_steps(&self) -> Vec<usize> {
        let mut steps: Vec<usize> =
            self.checkpoints.iter().map(|share| (share * self.steps as f64).round() as usize).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

impl Config {
    /// Which samples are held out of the training, if some are.
    pub fn held_out(&self) -> Option<Choice> {
        let held_out = self.train.as_ref()?.held_out.as_ref()?;
        let (key, order) = ("train.held_out.samples".into(), Order::Sequential);
        let (num_samples, start) = (held_out.samples, held_out.start);
        Some(Choice { key, num_samples, start, stride: self.batch.stride, order, seed: self.batch.seed })
    }

    /// `[train]`.
    ///
    /// # Errors
    /// [`Error::Config`] where the configuration has none.
    pub fn training(&self) -> Result<&Train> {
        self.train.as_ref().ok_or_else(|| {
            let least = "[train] with steps, batch, optimizer and learning_rate";
            Error::Config(format!("the table [train] is missing; a training needs {least}"))
        })
    }
}

/// What `[train]` must satisfy beyond its types.
pub(super) fn check(config: &Config, check: &Check<'_>) -> Result<()> {
    let Some(train) = &config.train else { return Ok(()) };
    check.that(
        config.convergence.is_none(),
        "train.steps",
        train.steps,
        "[train] and [convergence] are two runs; expected one of these tables",
    )?;
    let is_mean = config.hessian.reduction == super::Reduction::Mean;
    check.that(
        is_mean,
        "hessian.reduction",
        "\"sum\"",
        "training goes by the mean over predictions; expected \"mean\"",
    )?;
    check.size("train.steps", train.steps, MOST_STEPS)?;
    check.size("train.batch", train.batch, MOST_BATCH)?;
    let all = config.num_samples().unwrap_or(usize::MAX);
    let problem = format!("[batch] has only {all} samples to draw from");
    check.that(train.batch <= all, "train.batch", train.batch, problem)?;
    learning_rate(train, check)?;
    optimizer(train, check)?;
    shares(train, check)?;
    held_out(config, train, check)
}

fn learning_rate(train: &Train, check: &Check<'_>) -> Result<()> {
    let rates = train.learning_rate.numbers();
    let (key, shown) = ("train.learning_rate", &train.learning_rate);
    check.that(!rates.is_empty(), key, shown, "expected a number above 0, or a list of them")?;
    let are_rates = rates.iter().all(|rate| rate.is_finite() && *rate > 0.0);
    check.that(are_rates, key, shown, "expected a number above 0, or a list of them")?;
    let repeated = rates.iter().enumerate().any(|(at, rate)| rates[..at].contains(rate));
    check.that(!repeated, key, shown, "name each of them once")?;
    check.that(train.warmup < train.steps, "train.warmup", train.warmup, "expected less than train.steps")?;
    let Some(decay_to) = train.decay_to else { return Ok(()) };
    let is_cosine = train.schedule == Schedule::Cosine;
    check.that(is_cosine, "train.decay_to", decay_to, "is for schedule = \"cosine\"; leave it out")?;
    check.that((0.0..=1.0).contains(&decay_to), "train.decay_to", decay_to, "expected a share, from 0 to 1")
}

fn optimizer(train: &Train, check: &Check<'_>) -> Result<()> {
    let is_sgd = train.optimizer == Optimizer::Sgd;
    let name = as_toml(&train.optimizer);
    let only = |is_for: bool, key: &str, others: &str| {
        let problem = format!("is for {others}, and train.optimizer = {name}; leave it out");
        check.that(is_for || !check.is_given(key), key, "", problem)
    };
    for key in ["train.momentum", "train.nesterov"] {
        only(is_sgd, key, "\"sgd\"")?;
    }
    for key in ["train.beta1", "train.beta2", "train.epsilon", "train.bias_correction", "train.moments"] {
        only(!is_sgd, key, "\"adam\" and \"adamw\"")?;
    }
    let begins = train.moments == Some(Moments::Gradient);
    let problem = "corrects what moments = \"zero\" begins with; expected false with \"gradient\"";
    check.that(!(begins && train.bias_correction == Some(true)), "train.bias_correction", true, problem)?;
    let expected = "expected a number from 0 on, below 1";
    for (key, share) in [("train.momentum", train.momentum), ("train.beta1", train.beta1), ("train.beta2", train.beta2)]
    {
        let share = share.unwrap_or(0.0);
        let stays = share == 1.0 && begins && key == "train.beta2"; // a second moment that stays what it begins with
        check.that((0.0..1.0).contains(&share) || stays, key, share, expected)?;
    }
    let is_moving = train.momentum.is_some_and(|momentum| momentum > 0.0);
    let problem = "needs a train.momentum above 0";
    check.that(train.nesterov != Some(true) || is_moving, "train.nesterov", true, problem)?;
    let not_negative = |key: &str, value: f64| {
        check.that(value.is_finite() && value >= 0.0, key, value, "expected a number, 0 or larger")
    };
    not_negative("train.epsilon", train.epsilon.unwrap_or(0.0))?;
    not_negative("train.weight_decay", train.weight_decay)?;
    let clip = train.clip.unwrap_or(1.0);
    check.that(clip.is_finite() && clip > 0.0, "train.clip", clip, "expected a number above 0")
}

fn shares(train: &Train, check: &Check<'_>) -> Result<()> {
    let shown = format!("{:?}", train.checkpoints);
    let are_shares = train.checkpoints.iter().all(|share| (0.0..=1.0).contains(share));
    check.that(are_shares, "train.checkpoints", shown, "expected shares of the training, from 0 to 1")
}

fn held_out(config: &Config, train: &Train, check: &Check<'_>) -> Result<()> {
    let Some(held_out) = &train.held_out else { return Ok(()) };
    check.at_least_one("train.held_out.samples", held_out.samples)?;
    check.at_least_one("train.held_out.every", Some(held_out.every))?;
    if config.network.data_json()? != held_out.data {
        return Ok(());
    }
    // the same files: neither may begin before the other has ended
    let ends = |start: usize, samples: Option<usize>| {
        samples.map_or(usize::MAX, |samples| start.saturating_add(samples.saturating_mul(config.batch.stride)))
    };
    let trained = ends(config.batch.start, config.num_samples());
    let is_apart = held_out.start >= trained || ends(held_out.start, held_out.samples) <= config.batch.start;
    let (key, unit) = (config.network.unit().key(), config.network.unit().sample);
    let problem = format!(
        "these {unit}s are trained on as well; name other files in train.held_out.data, or keep them apart by {key} and \
         train.held_out.start"
    );
    let is_apart = is_apart && config.batch.order == Order::Sequential;
    check.that(is_apart, "train.held_out.start", held_out.start, problem)
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
