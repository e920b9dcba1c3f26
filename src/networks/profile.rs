//! What a network computes and keeps, so that a run can be planned without a pass.

use crate::block::{Layout, Parameter};

/// Work and memory of a network, per prediction (token, image).
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The matrix products of a forward pass, in network order; the last one is the head's.
    pub products: Vec<Product>,
    /// Parameters that take part below the first product, like embeddings: nothing is skipped for their blocks, whatever else
    /// they multiply with.
    pub bottom: Vec<String>,
    /// Numbers that a forward pass keeps, for each component (the primal, or the tangent of one slot).
    pub kept: f64,
    /// The numbers that a pass which computes its stages again keeps; `None` for a network without stages.
    pub recomputed: Option<Recomputed>,
    /// Numbers of the matrices that accelerators form where a processor works in tiles (attention's weights in one layer), for
    /// each component.
    pub scores: f64,
    /// Numbers that enter a stage; 0 for a network without stages.
    pub entry: f64,
    /// Numbers of the outputs (the logits), which Gauss-Newton products form as a whole; 0 where they are not known.
    pub outputs: f64,
}

impl Profile {
    /// A guess for a network of which only the parameters are known: every tensor of two axes or more is one product for each
    /// prediction, whose output is kept.
    pub fn of_layout(layout: &Layout) -> Self {
        let matrices = || layout.parameters().iter().filter(|parameter| parameter.shape.len() > 1);
        let product = |(at, parameter): (usize, &Parameter)| Product {
            parameter: Some(parameter.name.clone()),
            multiply_adds: parameter.num_params() as f64,
            branch: at,
        };
        let widths = matrices().map(|parameter| parameter.shape.iter().copied().max().unwrap_or(1) as f64);
        let mut products: Vec<Product> = matrices().enumerate().map(product).collect();
        if products.is_empty() {
            let multiply_adds = layout.num_params() as f64;
            products.push(Product { parameter: None, multiply_adds, branch: 0 });
        }
        Self {
            products,
            bottom: Vec::new(),
            kept: widths.sum(),
            recomputed: None,
            scores: 0.0,
            entry: 0.0,
            outputs: 0.0,
        }
    }
}

/// One matrix product of the forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Parameter that it multiplies with; `None` for a product of two activations, like attention's.
    pub parameter: Option<String>,
    /// Multiply-adds.
    pub multiply_adds: f64,
    /// Position of the first product that has to be computed again to reach this one, where the network is entered at the
    /// highest stage below it.
    pub branch: usize,
}

/// Memory of a pass that computes its stages again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recomputed {
    /// Numbers that are kept between the stages, for each component.
    pub kept: f64,
    /// Numbers of the one stage that is computed again, for each component whatever its block.
    pub at_once: f64,
}
