//! How files call a family's parameters and lay them out: one table a naming, used in both directions.

use super::names::Names;
use crate::block::Parameter;

/// One way to call and lay out the parameters. Names that no rule mentions are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    /// As the command line has it.
    pub name: &'static str,
    /// Endings of names that differ, in name or layout.
    pub rules: &'static [Rule],
}

/// A parameter whose name ends in `ours` is these tensors side by side: blocks of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Ending of our name.
    pub ours: &'static str,
    /// Endings of the file's names, from the left column to the right.
    pub theirs: &'static [&'static str],
    /// Whether the file holds them as (out, in), PyTorch's `Linear`; ours are (in, out).
    pub transposed: bool,
}

const fn rule(ours: &'static str, theirs: &'static [&'static str], transposed: bool) -> Rule {
    Rule { ours, theirs, transposed }
}

impl Naming {
    /// Our own names.
    pub const PLAIN: Naming = Naming { name: "plain", rules: &[] };

    /// Hugging Face's GPT-2: `Conv1D`, (in, out), q, k, v in one. Our own names.
    pub const HUGGING_FACE: Naming = Naming { name: "huggingface", rules: &[] };

    /// nanoGPT's model.py: the same names, `Linear`.
    pub const NANO_GPT: Naming = Naming {
        name: "nanogpt",
        rules: &[
            rule("attn.c_attn.weight", &["attn.c_attn.weight"], true),
            rule("attn.c_proj.weight", &["attn.c_proj.weight"], true),
            rule("mlp.c_fc.weight", &["mlp.c_fc.weight"], true),
            rule("mlp.c_proj.weight", &["mlp.c_proj.weight"], true),
        ],
    };

    /// The paper's model.py (Hessian spectra, Adam-mini): nanoGPT with q, k, v and output projection of their own.
    pub const PAPER: Naming = Naming {
        name: "paper",
        rules: &[
            rule("attn.c_attn.weight", &["attn.wq.weight", "attn.wk.weight", "attn.wv.weight"], true),
            rule("attn.c_attn.bias", &["attn.wq.bias", "attn.wk.bias", "attn.wv.bias"], false),
            rule("attn.c_proj.weight", &["attn.wo.weight"], true),
            rule("attn.c_proj.bias", &["attn.wo.bias"], false),
            rule("mlp.c_fc.weight", &["mlp.c_fc.weight"], true),
            rule("mlp.c_proj.weight", &["mlp.c_proj.weight"], true),
        ],
    };

    /// Files of BERT from before 2019, whose norms have `gamma` and `beta`.
    pub const GAMMA_BETA: Naming = Naming {
        name: "gamma-beta",
        rules: &[
            rule("LayerNorm.weight", &["LayerNorm.gamma"], false),
            rule("LayerNorm.bias", &["LayerNorm.beta"], false),
        ],
    };

    /// The tensors of a file that make up a parameter.
    pub fn parts(&self, parameter: &Parameter) -> Vec<Part> {
        let Parameter { name, shape, .. } = parameter;
        let Some(rule) = self.rules.iter().find(|rule| name.ends_with(rule.ours)) else {
            return vec![Part { name: name.clone(), shape: shape.clone(), first_column: 0, transposed: false }];
        };
        let stem = &name[..name.len() - rule.ours.len()];
        let width = shape.last().copied().unwrap_or(1) / rule.theirs.len(); // columns of a part
        let part = |(index, theirs): (usize, &&str)| {
            let mut shape = shape.clone();
            if let Some(last) = shape.last_mut() {
                *last = width;
            }
            if rule.transposed {
                shape.reverse();
            }
            Part { name: format!("{stem}{theirs}"), shape, first_column: index * width, transposed: rule.transposed }
        };
        rule.theirs.iter().enumerate().map(part).collect()
    }
}

/// A tensor of a file, as a part of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file's name.
    pub name: String,
    /// The file's shape.
    pub shape: Vec<usize>,
    /// The parameter's column that it begins at.
    pub first_column: usize,
    /// Whether its rows are the parameter's columns.
    pub transposed: bool,
}

/// What puts its name in front of a module inside a model: `torch.compile`, FSDP, activation checkpoints.
const INNER_WRAPPERS: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// What puts its name in front of all names: DDP, Lightning and others, Opacus, PEFT.
const WRAPPERS: [&str; 4] = ["module.", "model.", "_module.", "base_model."];

impl Names {
    /// The name that a file's tensor has without what wraps the model or modules inside it, and with the prefix that a file may
    /// leave out. Nothing is taken off a name that is known.
    pub fn unwrapped(&self, name: &str, is_known: impl Fn(&str) -> bool) -> String {
        let known = |name: &str| {
            let prefixed = format!("{}{name}", self.optional_prefix);
            [name.to_owned(), prefixed].into_iter().find(|name| is_known(name))
        };
        if let Some(name) = known(name) {
            return name;
        }
        let inner = INNER_WRAPPERS.iter().fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""));
        let mut bare = inner.as_str();
        loop {
            if let Some(name) = known(bare) {
                return name;
            }
            match WRAPPERS.iter().find_map(|wrapper| bare.strip_prefix(wrapper)) {
                Some(rest) => bare = rest,
                None => return bare.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRAPPED: Names = Names { optional_prefix: "transformer.", ..Names::BURN };

    fn parameter(name: &str, shape: &[usize]) -> Parameter {
        let layout = crate::block::Layout::new([(name.to_string(), shape.to_vec())]);
        layout.parameters()[0].clone()
    }

    #[test]
    fn parts_are_columns_side_by_side() {
        let qkv = parameter("transformer.h.3.attn.c_attn.weight", &[4, 12]);
        let parts = Naming::PAPER.parts(&qkv);
        let expected: Vec<(String, Vec<usize>, usize)> = ["wq", "wk", "wv"]
            .iter()
            .enumerate()
            .map(|(at, w)| (format!("transformer.h.3.attn.{w}.weight"), vec![4, 4], 4 * at))
            .collect();
        assert_eq!(parts.into_iter().map(|p| (p.name, p.shape, p.first_column)).collect::<Vec<_>>(), expected);
        assert_eq!(Naming::NANO_GPT.parts(&qkv)[0].shape, [12, 4]);
        assert_eq!(Naming::HUGGING_FACE.parts(&qkv)[0].shape, [4, 12]);
        let bias = Naming::PAPER.parts(&parameter("h.0.attn.c_attn.bias", &[12]));
        assert_eq!(
            (bias[2].name.as_str(), bias[2].shape.as_slice(), bias[2].first_column),
            ("h.0.attn.wv.bias", &[4][..], 8)
        );
        assert_eq!(Naming::PAPER.parts(&parameter("transformer.wte.weight", &[5, 4]))[0].shape, [5, 4]);
    }

    #[test]
    fn wrappers_come_off_and_the_prefix_goes_on() {
        let known = |name: &str| name == "transformer.wte.weight" || name == "lm_head.weight";
        for name in [
            "_orig_mod.module.transformer.wte.weight",
            "module._orig_mod.wte.weight",
            "wte.weight",
            "base_model.model.transformer.wte.weight",
            "_module.transformer.wte.weight",
            "model._fsdp_wrapped_module.transformer._checkpoint_wrapped_module.wte.weight",
        ] {
            assert_eq!(WRAPPED.unwrapped(name, known), "transformer.wte.weight");
        }
        assert_eq!(WRAPPED.unwrapped("module.lm_head.weight", known), "lm_head.weight");
        assert_eq!(WRAPPED.unwrapped("module.x", known), "x");
        assert_eq!(Names::BURN.unwrapped("model.x", |name| name == "model.x"), "model.x", "a network's own name");
    }
}
