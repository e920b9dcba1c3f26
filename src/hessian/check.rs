//! Self-tests of the operator on the real model and data, before anything expensive: each is cheap.

use std::fmt;
use std::rc::Rc;

use super::error::{ProductError, errors_on, quietly, unit};
use super::operator::{BlockOperator, Kind};
use super::pass::Precision;
use super::passes::Passes;
use crate::Result;
use crate::engine::{Choices, Kernels, recorded};
use crate::krylov::Real;

/// Steps of the central difference, times the norm of the parameters' scale.
const STEPS: [f64; 4] = [1e-3, 1e-4, 1e-5, 1e-6];
/// Further ones in f64, where these say no: smaller than the way to the next kink of a network with kinks, mostly.
const FINE_STEPS: [f64; 3] = [1e-7, 1e-8, 1e-9];
/// Largest relative error of the central difference in f64, and in f32 (where the difference itself is no better).
const TOLERANCE: (f64, f64) = (1e-5, 2e-2);

/// A product this many times its own error is something to test.
const ABOVE_ERROR: f64 = 10.0;

/// How a self-test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Within its tolerance.
    Passed,
    /// Outside.
    Failed,
    /// Says nothing about this problem.
    NotApplicable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::NotApplicable => "not applicable",
        })
    }
}

/// One self-test with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was tested.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// The numbers, and what to do if it failed.
    pub detail: String,
}

fn check(name: &'static str, passed: bool, detail: String) -> Check {
    Check { name, outcome: if passed { Outcome::Passed } else { Outcome::Failed }, detail }
}

/// Repeatable, linear, symmetric, and equal to a difference quotient of the gradient: on the first micro-batch, for the
/// block of the first slot whose products are larger than their own error. Where all are smaller (keys' biases, say, have the
/// Hessian 0) that is a result: products must still be finite and repeatable, and the tests that compare them do not apply.
pub fn self_tests<K: Kernels, T: Precision>(operator: &BlockOperator<'_, K, T>, seed: u64) -> Result<Vec<Check>> {
    let reference = operator.passes.wide();
    for slot in 0..operator.slots.len() {
        let error = errors_on(operator, 0, &[slot], reference.as_ref(), seed)?[0];
        let v: Vec<T> = unit(operator.slots[slot], operator, seed.wrapping_add(1));
        let hv = operator.on_micro_batch(0, &[(slot, &v)])?.remove(0);
        let is_last = slot + 1 == operator.slots.len();
        if is_last || !is_zero(&hv, error.eta) {
            let checks = before_differences(operator, slot, seed, &error, (&v, &hv))?;
            let last = central_difference(operator, reference.as_ref(), slot, (&v, &hv), error.eta)?;
            return Ok(checks.into_iter().chain([last]).collect());
        }
    }
    Ok(Vec::new())
}

/// The tests of one slot, whose block has the product `hv` with `v`, but for the last. Their vectors, each as long as the
/// block, are gone before that one, which takes the most memory.
fn before_differences<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    slot: usize,
    seed: u64,
    error: &ProductError,
    (v, hv): (&[T], &[T]),
) -> Result<Vec<Check>> {
    let eta = error.eta;
    let apply = |v: &[T]| Ok::<_, crate::Error>(operator.on_micro_batch(0, &[(slot, v)])?.remove(0));
    let repeatable = repeatable(hv, &apply(v)?);
    let first = [noise(&operator.slots[slot].name, error), finite(hv), repeatable];
    if is_zero(hv, eta) {
        let not = ["linear", "symmetric"].map(|name| not_applicable(name, hv));
        return Ok(first.into_iter().chain(not).collect());
    }
    let u: Vec<T> = unit(operator.slots[slot], operator, seed);
    let hu = apply(&u)?;
    let symmetric = symmetric(&u, v, &hu, hv, eta);
    let sum: Vec<T> = u.iter().zip(v).map(|(u, v)| T::from_f64(2.0 * u.to_f64() - 3.0 * v.to_f64())).collect();
    drop(u);
    let linear = linear(&hu, hv, &apply(&sum)?, eta);
    Ok(first.into_iter().chain([linear, symmetric]).collect())
}

/// Whether a product with a unit vector is no larger than its error.
fn is_zero<T: Real>(hv: &[T], eta: f64) -> bool {
    dot(hv, hv).sqrt() <= ABOVE_ERROR * eta
}

fn not_applicable<T: Real>(name: &'static str, hv: &[T]) -> Check {
    let detail = format!("the product, {:.2e}, is no larger than its error", dot(hv, hv).sqrt());
    Check { name, outcome: Outcome::NotApplicable, detail }
}

fn noise(block: &str, error: &ProductError) -> Check {
    let detail = format!("block `{block}`: eta = {:.2e} (against {})", error.eta, error.reference);
    check("product error", error.eta.is_finite(), detail)
}

fn finite<T: Real>(hv: &[T]) -> Check {
    let bad = hv.iter().filter(|x| !x.to_f64().is_finite()).count();
    let advice = if bad > 0 { "; look for NaN in weights and data" } else { "" };
    check("finite", bad == 0, format!("{bad} of {} entries are NaN or infinite{advice}", hv.len()))
}

fn repeatable<T: Real>(first: &[T], second: &[T]) -> Check {
    let differing = first.iter().zip(second).filter(|(a, b)| a != b).count();
    let advice = if differing > 0 { "; is there dropout, shuffling or augmentation in the problem?" } else { "" };
    check(
        "repeatable",
        differing == 0,
        format!("{differing} of {} entries differ between two products{advice}", first.len()),
    )
}

fn linear<T: Real>(hu: &[T], hv: &[T], hsum: &[T], eta: f64) -> Check {
    let residual = |((u, v), s): ((&T, &T), &T)| (2.0 * u.to_f64() - 3.0 * v.to_f64() - s.to_f64()).powi(2);
    let error = hu.iter().zip(hv).zip(hsum).map(residual).sum::<f64>().sqrt();
    let bound = 10.0 * eta.max(T::default().to_f64()) * 13f64.sqrt() + rounding(hu, hv);
    check("linear", error <= bound, format!("|H(2u - 3v) - 2Hu + 3Hv| = {error:.2e}, bound {bound:.2e}"))
}

fn symmetric<T: Real>(u: &[T], v: &[T], hu: &[T], hv: &[T], eta: f64) -> Check {
    let defect = (dot(u, hv) - dot(v, hu)).abs();
    let bound = 10.0 * eta + rounding(hu, hv);
    check("symmetric", defect <= bound, format!("|u.Hv - v.Hu| = {defect:.2e}, bound {bound:.2e}"))
}

/// A few roundings of the products themselves, where eta is measured as zero.
fn rounding<T: Real>(hu: &[T], hv: &[T]) -> f64 {
    16.0 * unit_roundoff::<T>() * (dot(hu, hu).sqrt() + dot(hv, hv).sqrt())
}

fn unit_roundoff<T>() -> f64 {
    if std::mem::size_of::<T>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

/// (g(theta + h v) - g(theta - h v)) / 2h against H v, in f64 where the model can be run in it. `reference`: [`Passes::wide`].
fn central_difference<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    reference: Option<&Rc<dyn Passes<K, f64> + '_>>,
    slot: usize,
    (v, hv): (&[T], &[T]),
    eta: f64,
) -> Result<Check> {
    const NAME: &str = "central difference";
    if operator.kind == Kind::GaussNewton {
        let detail = "a Gauss-Newton matrix is no derivative of a gradient".into();
        return Ok(Check { name: NAME, outcome: Outcome::NotApplicable, detail });
    }
    if is_zero(hv, eta) {
        return Ok(not_applicable(NAME, hv));
    }
    let in_f64 = reference.and_then(|passes| {
        quietly(|| {
            let wide = operator.on(passes);
            let v: Vec<f64> = v.iter().map(|x| x.to_f64()).collect();
            let hv = wide.on_micro_batch(0, &[(slot, &v)])?.remove(0);
            differences(&wide, slot, &v, &hv)
        })
    });
    let Differences { error, noise, precision, tolerance, kinks } = match in_f64 {
        Some(found) => found?,
        None => differences(operator, slot, v, hv)?,
    };
    if noise > 1.0 {
        let detail =
            format!("the product, {:.2e}, is below the rounding of a difference of gradients", dot(hv, hv).sqrt());
        return Ok(Check { name: NAME, outcome: Outcome::NotApplicable, detail });
    }
    let detail = format!("relative error {error:.2e} in {precision}, tolerance {tolerance:.0e}");
    let not_applicable = |why: String| {
        let detail = format!("{detail}; {why}");
        Ok(Check { name: NAME, outcome: Outcome::NotApplicable, detail })
    };
    match kinks {
        _ if error <= tolerance => Ok(check(NAME, true, detail)),
        Some(kinks) => not_applicable(format!("at every step the network's kinks are crossed, {kinks} at the least")),
        None if operator.passes.has_kinks() => not_applicable("the loss has kinks".into()),
        None => {
            let advice = "if the loss has kinks that are not seen here, say so in Problem::has_kinks";
            Ok(check(NAME, false, format!("{detail}, at a step that crosses no kink; {advice}")))
        }
    }
}

/// What difference quotients of the gradient say.
struct Differences {
    /// Relative error of the best.
    error: f64,
    /// The rounding of the gradients in their difference, relative to the product as well, where it is smallest.
    noise: f64,
    precision: &'static str,
    tolerance: f64,
    /// How many kinks every step crosses at least; `None` if there is a step that crosses none.
    kinks: Option<usize>,
}

/// Over a ladder of step sizes: large ones truncate, small ones round.
fn differences<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    slot: usize,
    v: &[T],
    hv: &[T],
) -> Result<Differences> {
    let block = operator.slots[slot];
    let scale = (v.len() as f64).sqrt(); // a unit vector's entries are 1 / sqrt(d)
    let norm = dot(hv, hv).sqrt().max(f64::MIN_POSITIVE);
    let gradient = |step: f64| {
        let shifted = operator.passes.shifted(block, v, step);
        let (gradient, choices) = recorded(|| operator.gradient_on(&*shifted, 0, block));
        Ok::<_, crate::Error>((gradient?.2, choices))
    };
    let mut here = None; // what is chosen where the network stands, once it is needed
    let mut crossed = |side: &Choices| -> Result<usize> {
        if side.is_empty() {
            return Ok(0);
        }
        let here = match &here {
            Some(choices) => choices,
            None => here.insert(gradient(0.0)?.1),
        };
        Ok(here.changes(side))
    };
    let mut difference = |step: f64| {
        let ((plus, above), (minus, below)) = (gradient(step)?, gradient(-step)?);
        let quotient = |(a, b): (&T, &T)| (a.to_f64() - b.to_f64()) / (2.0 * step);
        let residual = plus.iter().zip(&minus).map(quotient).zip(hv).map(|(q, h)| (q - h.to_f64()).powi(2));
        let rounding = unit_roundoff::<T>() * (dot(&plus, &plus).sqrt() + dot(&minus, &minus).sqrt()) / (2.0 * step);
        let found = (residual.sum::<f64>().sqrt() / norm, rounding / norm);
        Ok::<_, crate::Error>((found, crossed(&above)? + crossed(&below)?))
    };
    let is_wide = T::DTYPE == f64::DTYPE;
    let (precision, tolerance) = if is_wide { ("f64", TOLERANCE.0) } else { ("f32", TOLERANCE.1) };
    let (mut error, mut noise, mut kinks) = (f64::INFINITY, f64::INFINITY, usize::MAX);
    for (at, step) in STEPS.into_iter().chain(FINE_STEPS).enumerate() {
        if at >= STEPS.len() && (error <= tolerance || !is_wide) {
            break;
        }
        let (found, crossed) = difference(step * scale)?;
        (error, noise, kinks) = (error.min(found.0), noise.min(found.1), kinks.min(crossed));
    }
    Ok(Differences { error, noise, precision, tolerance, kinks: (kinks > 0).then_some(kinks) })
}
