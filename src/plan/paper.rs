//! What the paper's runs took, to be set beside a plan (arXiv 2402.16788, Appendix C.1).

use serde::Serialize;

use super::cost::{Cost, Kept};
use super::scale::Target;
use super::{Facts, Plan};
use crate::networks::Registry;
use crate::{Result, config};

/// The paper's setting, as this project has it.
const PAPER: &str = include_str!("../../configs/gpt2_paper.toml");
/// Its run: "7 days" on one A100.
const RUN_GPU_DAYS: f64 = 7.0;
/// One product with the whole network over all of OpenWebText: "9 GPU days on eight A100", read as 9 in all.
const PRODUCT_GPU_DAYS: f64 = 9.0;
/// Tokens of OpenWebText.
const OPENWEBTEXT: f64 = 9e9;

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Beside {
    /// What is computed, and where.
    pub what: String,
    /// Predicted tokens of the batch.
    pub tokens: f64,
    /// Products H v, each over the whole batch.
    pub products: f64,
    /// Days of one accelerator.
    pub gpu_days: f64,
    /// Tokens times products, per second of one accelerator.
    pub tokens_per_second: f64,
}

impl Beside {
    /// One line.
    pub fn new(what: impl Into<String>, tokens: f64, products: f64, gpu_days: f64) -> Self {
        Self {
            what: what.into(),
            tokens,
            products,
            gpu_days,
            tokens_per_second: tokens * products / (gpu_days * 86_400.0),
        }
    }
}

/// The paper's run and its one product, there and on the target.
pub fn beside(target: &Target) -> Result<Vec<Beside>> {
    let paper = config::parse(PAPER, "configs/gpt2_paper.toml", "gpt2_paper", &[], &Registry::built_in())?;
    let plan = Plan::new(&paper, &[], target.resources(&paper))?;
    let (tokens, products) = (plan.tokens.unwrap_or(0) as f64, plan.num_products as f64);
    let cost = Cost::of(&Facts::of(&paper)?.profile);
    let one = 2.0 * cost.forward() * cost.sweep(&[(cost.whole(), true)], Kept::default()) * OPENWEBTEXT;
    let days = |flop: f64| flop / (target.gflops * 1e9) / 86_400.0;
    let here = &target.name;
    Ok(vec![
        Beside::new("the paper's run, one A100", tokens, products, RUN_GPU_DAYS),
        Beside::new(format!("the paper's run, {here}"), tokens, products, days(plan.flop.unwrap_or(0.0))),
        Beside::new("one H v of GPT-2 over OpenWebText, the paper's A100", OPENWEBTEXT, 1.0, PRODUCT_GPU_DAYS),
        Beside::new(format!("one H v of GPT-2 over OpenWebText, {here}"), OPENWEBTEXT, 1.0, days(one)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::devices::Device;

    /// 9 forward passes a product with double backward, 9e9 tokens in 9 A100 days: a plausible share of the tf32 peak that
    /// the paper's code had switched on.
    #[test]
    fn the_papers_figures_are_plausible() {
        let paper = config::parse(PAPER, "x", "x", &[], &Registry::built_in()).unwrap();
        let cost = Cost::of(&Facts::of(&paper).unwrap().profile);
        let rate = 2.0 * cost.forward() * 9.0 * OPENWEBTEXT / (PRODUCT_GPU_DAYS * 86_400.0);
        let share = rate / 1e12 / Device::named("a100").unwrap().tf32.unwrap();
        assert!((share - 0.18).abs() < 0.01, "{share}");
    }

    /// The arithmetic: one product over 9e9 tokens is about 1.7e19 FLOP (k = 8; one slot alone is a little more).
    #[test]
    fn one_product_over_openwebtext() {
        let paper = config::parse(PAPER, "x", "x", &[], &Registry::built_in()).unwrap();
        let cost = Cost::of(&Facts::of(&paper).unwrap().profile);
        let flop = |slots: usize| {
            2.0 * cost.forward() * cost.sweep(&vec![(cost.whole(), true); slots], Kept::default()) / slots as f64
                * OPENWEBTEXT
        };
        assert!((flop(8) / 1.5e19 - 1.0).abs() < 0.05, "{}", flop(8));
        assert!((flop(1) / 1.93e19 - 1.0).abs() < 0.02, "{}", flop(1));
    }
}
