//! The learning rate of each step: a linear warm-up, then constant or half a period of a cosine.

use std::f64::consts::PI;

use crate::config::{Schedule, Train};

/// Learning rate of step `step`, from 0, in a training whose largest is `rate`.
///
/// In the warm-up of W steps it is rate (step + 1) / (W + 1); then, of the N - W steps that are left, the k-th has
/// rate (f + (1 - f) (1 + cos(pi k / (N - W))) / 2), which falls towards f = `decay_to`. This is nanoGPT's `get_lr` with its
/// `lr_decay_iters` = N.
pub fn learning_rate(train: &Train, rate: f64, step: usize) -> f64 {
    let Train { steps, warmup, schedule, .. } = *train;
    if step < warmup {
        return rate * (step + 1) as f64 / (warmup + 1) as f64;
    }
    match schedule {
        Schedule::Constant => rate,
        Schedule::Cosine => {
            let passed = (step - warmup) as f64 / (steps - warmup) as f64;
            let end = train.decay_to.unwrap_or(0.0);
            rate * (end + (1.0 - end) * 0.5 * (1.0 + (PI * passed).cos()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::networks::Registry;

    fn rates(more: &str) -> Vec<f64> {
        let text = format!(
            "[model.gpt2]\n[data.tokens]\npath = \"x\"\n[train]\nsteps = 8\nbatch = 1\noptimizer = \"sgd\"\nlearning_rate = 1.0\n{more}"
        );
        let train = parse(&text, "test", "test", &[], &Registry::built_in()).unwrap().train.unwrap();
        (0..8).map(|step| learning_rate(&train, 2.0, step)).collect()
    }

    #[test]
    fn it_grows_stays_and_falls() {
        assert_eq!(rates(""), [2.0; 8]);
        assert_eq!(rates("warmup = 3\n"), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]);
        let cosine = rates("warmup = 4\nschedule = \"cosine\"\ndecay_to = 0.1\n");
        // 0.2 + 1.8 (1 + cos(k pi / 4)) / 2
        let half = 0.5f64.sqrt();
        let expected = [0.4, 0.8, 1.2, 1.6, 2.0, 1.1 + 0.9 * half, 1.1, 1.1 - 0.9 * half];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{cosine:?}");
    }
}
