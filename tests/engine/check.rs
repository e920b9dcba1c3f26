//! The generic checks: forward mode and second order against differences, slot by slot.
//!
//! Central differences over a ladder of steps h with one Richardson extrapolation, (4 D(h/2) - D(h)) / 3: truncation
//! O(h^4), rounding about 2^-52 |f| / h. At h = 1e-3 and |f| of order one both are below 1e-11; [`RELATIVE`] = 1e-7 of
//! the largest derivative leaves room for higher derivatives of size 1e4, [`ABSOLUTE`] = 1e-9 |f| for rounding.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn_autodiff::Autodiff;
use burn_backend::{AutodiffBackend, Backend};
use hesspec::engine::{Jvp, Kernels, SecondOrder};

use crate::cases::{self, Case, F, Reference};
use crate::run::{Function, Slot, Tangents, coefficients, joined, loss, push, same, second_order, slots};
use crate::values::{Values, get, put};

const LADDER: [f64; 3] = [4e-3, 1e-3, 2.5e-4];
const RELATIVE: f64 = 1e-7;
const ABSOLUTE: f64 = 1e-9;

/// One row of the table on the plain backend and under its decorators.
pub struct Row<B: Kernels> {
    plain: Case<B>,
    forward: Case<Jvp<B>>,
    reverse: Case<Autodiff<B>>,
    second: Case<SecondOrder<B>>,
}

/// The whole table for a backend.
pub fn rows<B: Kernels>() -> Vec<Row<B>> {
    let decorated = cases::all::<Jvp<B>>().into_iter().zip(cases::all::<Autodiff<B>>());
    let pairs = cases::all::<B>().into_iter().zip(cases::all::<SecondOrder<B>>());
    pairs.zip(decorated).map(|((plain, second), (forward, reverse))| Row { plain, forward, reverse, second }).collect()
}

/// Runs a check on every row and reports all failures together.
pub fn every<B: Kernels>(check: impl Fn(&Row<B>) -> Result<(), String>) {
    let mut failures = Vec::new();
    for row in rows::<B>() {
        let name = row.plain.name;
        if row.plain.missing_on.is_some_and(|backend| B::name(&B::Device::default()).starts_with(backend)) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(|| check(&row))) {
            Ok(Ok(())) => {}
            Ok(Err(message)) => failures.push(format!("{name}: {message}")),
            Err(panic) => failures.push(format!("{name}: panicked: {}", text(&*panic))),
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

fn moved(inputs: &[Values], step: f64, direction: &Slot) -> Vec<Values> {
    let one = |(x, v): (&Values, &Option<Values>)| v.as_ref().map_or(x.clone(), |v| x.plus(step, v));
    inputs.iter().zip(direction).map(one).collect()
}

/// Smallest error over the ladder of `exact` against differences of f along the direction, in units of the tolerance.
pub fn against_differences(
    f: &dyn Fn(&[Values]) -> Values,
    inputs: &[Values],
    direction: &Slot,
    exact: &Values,
) -> f64 {
    let size = f(inputs).largest();
    let central = |h: f64| {
        let (up, down) = (f(&moved(inputs, h, direction)), f(&moved(inputs, -h, direction)));
        let data = up.data.iter().zip(&down.data).map(|(u, d)| (u - d) / (2.0 * h)).collect();
        Values { shape: up.shape, data }
    };
    let error = |h: f64| {
        let (coarse, fine) = (central(h), central(h / 2.0));
        let estimate = fine.plus(1.0 / 3.0, &fine.plus(-1.0, &coarse));
        assert!(estimate.data.iter().all(|x| x.is_finite()), "a difference is not finite");
        exact.distance(&estimate) / (RELATIVE * estimate.largest() + ABSOLUTE * (1.0 + size))
    };
    LADDER.into_iter().map(error).fold(f64::INFINITY, f64::min)
}

pub fn value<B: Backend>(case: &Case<B>, inputs: &[Values]) -> Values {
    get::<B>(case.apply(inputs.iter().map(put::<B>).collect()))
}

/// The value that is differenced.
fn trusted<B: Kernels>(row: &Row<B>, inputs: &[Values]) -> Values {
    match row.plain.reference {
        Reference::PlainIsWrong(_) => push(&row.forward, inputs, &[]).0,
        _ => value(&row.plain, inputs),
    }
}

/// Check (a): tangents against central differences; absent slots stay absent; k = 1 equals its slot of k = 3.
pub fn forward<B: Kernels>(row: &Row<B>) -> Result<(), String> {
    let inputs = &row.plain.inputs;
    let f = |x: &[Values]| trusted(row, x);
    let expected = f(inputs);
    for odd in [false, true] {
        let slots = slots(inputs, odd);
        let (y, tangents) = push(&row.forward, inputs, &slots);
        let error = y.distance(&expected) / (1e-12 * (1.0 + expected.largest()));
        ensure(error <= 1.0, || format!("value off by {error:.1e} of 1e-12"))?;
        ensure(tangents[1].is_none(), || "a slot that no input has is present".into())?;
        for slot in [0, 2] {
            let zero = || Values { data: vec![0.0; expected.data.len()], ..expected.clone() };
            let exact = tangents[slot].clone().unwrap_or_else(zero);
            let error = against_differences(&f, inputs, &slots[slot], &exact);
            ensure(error <= 1.0, || format!("tangent in slot {slot} off by {error:.1e} tolerances"))?;
            let (_, alone) = push(&row.forward, inputs, &slots[slot..=slot]);
            ensure(same(&alone[0], &tangents[slot]), || format!("k = 1 differs from slot {slot} of k = 3"))?;
        }
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

/// Gradient of the loss in burn's reverse mode, or in ours (its primal).
pub fn gradient<A: AutodiffBackend>(f: Function<A>, inputs: &[Values], c: &Values) -> Vec<Values> {
    let leaves: Vec<F<A>> = inputs.iter().map(|x| A::float_set_require_grad(put::<A>(x), true)).collect();
    let grads = A::backward(loss::<A>(f(leaves.clone()), c));
    let read = |(leaf, x): (&F<A>, &Values)| match A::grad(leaf, &grads) {
        Some(gradient) => get::<A::InnerBackend>(gradient),
        None => Values { shape: x.shape.clone(), data: vec![0.0; x.data.len()] },
    };
    leaves.iter().zip(inputs).map(read).collect()
}

/// Check (b): gradients against differences of the value and against burn's, H v against differences of gradients.
pub fn second<B: Kernels>(row: &Row<B>) -> Result<(), String> {
    if let Reference::ForwardOnly(_) = row.plain.reference {
        return Ok(());
    }
    let inputs = &row.plain.inputs;
    let c = coefficients(&value(&row.plain, inputs).shape);
    let own = |x: &[Values]| joined(&gradient::<SecondOrder<B>>(&|x| row.second.apply(x), x, &c));
    let burn = |x: &[Values]| joined(&gradient::<Autodiff<B>>(&|x| row.reverse.apply(x), x, &c));
    let exact = own(inputs);
    check_gradient(row, &c, &exact)?;
    let reference: &dyn Fn(&[Values]) -> Values = match row.plain.reference {
        Reference::Autodiff => {
            let error = exact.distance(&burn(inputs)) / (1e-12 * (1.0 + exact.largest()));
            ensure(error <= 1.0, || format!("gradient differs from Autodiff's by {error:.1e} of 1e-12"))?;
            &burn
        }
        _ => &own,
    };
    for odd in [false, true] {
        let slots = slots(inputs, odd);
        let adjoints = second_order(&|x| row.second.apply(x), inputs, &slots, &c, false);
        for (slot, direction) in slots.iter().enumerate() {
            check_products(reference, inputs, direction, &adjoints, slot)?;
            let alone = second_order(&|x| row.second.apply(x), inputs, &slots[slot..=slot], &c, false);
            let equal = alone.iter().zip(&adjoints).all(|(one, all)| same(&one.1[0], &all.1[slot]));
            ensure(equal, || format!("k = 1 differs from slot {slot} of k = 3"))?;
        }
        check_tangents_only(row, &slots, &c, &adjoints)?;
    }
    Ok(())
}

/// Entry by entry against differences of the plain backend's value.
fn check_gradient<B: Kernels>(row: &Row<B>, c: &Values, exact: &Values) -> Result<(), String> {
    let inputs = &row.plain.inputs;
    let f = |x: &[Values]| get::<B>(loss::<B>(put::<B>(&trusted(row, x)), c));
    let mut at = 0;
    for (input, x) in inputs.iter().enumerate() {
        for entry in 0..x.data.len() {
            let mut direction: Slot = vec![None; inputs.len()];
            let mut unit = Values { shape: x.shape.clone(), data: vec![0.0; x.data.len()] };
            unit.data[entry] = 1.0;
            direction[input] = Some(unit);
            let slope = Values { shape: f(inputs).shape, data: vec![exact.data[at]] };
            let error = against_differences(&f, inputs, &direction, &slope);
            ensure(error <= 1.0, || format!("gradient of input {input} at {entry} off by {error:.1e} tolerances"))?;
            at += 1;
        }
    }
    Ok(())
}

/// H v of the inputs that have a tangent in this slot (of others the adjoint's tangent is never read).
fn check_products(
    reference: &dyn Fn(&[Values]) -> Values,
    inputs: &[Values],
    direction: &Slot,
    adjoints: &[(Values, Tangents)],
    slot: usize,
) -> Result<(), String> {
    let zero = |x: &Values| Values { shape: x.shape.clone(), data: vec![0.0; x.data.len()] };
    let parts = |whole: &Values| {
        let mut rest = whole.data.as_slice();
        let mut kept = Vec::new();
        for (x, tangent) in inputs.iter().zip(direction) {
            let (part, tail) = rest.split_at(x.data.len());
            if tangent.is_some() {
                kept.extend_from_slice(part);
            }
            rest = tail;
        }
        Values { shape: vec![kept.len()], data: kept }
    };
    let f = |x: &[Values]| parts(&reference(x));
    let all: Vec<Values> =
        adjoints.iter().zip(inputs).map(|((_, hv), x)| hv[slot].clone().unwrap_or_else(|| zero(x))).collect();
    let error = against_differences(&f, inputs, direction, &parts(&joined(&all)));
    ensure(error <= 1.0, || format!("H v in slot {slot} off by {error:.1e} tolerances"))
}

/// With `tangents_only` leaves: the same tangents, bit for bit; a primal is the gradient or NaN.
fn check_tangents_only<B: Kernels>(
    row: &Row<B>,
    slots: &[Slot],
    c: &Values,
    full: &[(Values, Tangents)],
) -> Result<(), String> {
    let lean = second_order(&|x| row.second.apply(x), &row.plain.inputs, slots, c, true);
    for (input, ((primal, hv), (full_primal, full_hv))) in lean.iter().zip(full).enumerate() {
        for (slot, direction) in slots.iter().enumerate() {
            let read = direction[input].is_some();
            ensure(!read || same(&hv[slot], &full_hv[slot]), || {
                format!("tangents_only changes H v of input {input} in slot {slot}")
            })?;
        }
        let honest = primal.same_bits(full_primal) || primal.data.iter().all(|x| x.is_nan());
        ensure(honest, || format!("tangents_only: the primal of input {input} is neither the gradient nor NaN"))?;
    }
    Ok(())
}
