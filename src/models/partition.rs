//! How a network's parameters are cut into blocks.
//!
//! | partition | one block is | `kind` |
//! |---|---|---|
//! | `parameter` | a parameter; fused projections split (GPT-2: q, k, v out of `c_attn`) | its role |
//! | `head` | as `parameter`; q, k, v (columns) and the output projection (rows) cut by attention head | role + `/head` |
//! | `neuron` | as `parameter`; matrices of layers cut by output, where the structure knows the axis of these | role + `/neuron` |
//! | `token` | as `parameter`; embeddings of tokens cut by row, where the structure knows them | role + `/token` |
//! | `module` | weight and bias of one Linear, LayerNorm or Embedding | `module` |
//! | `layer` | everything of one numbered layer; outside of layers, a module | `layer` or `module` |
//!
//! A *role* is the shortest ending of the name, of at least two elements, that tells the parameter apart from the
//! others of its layer: `q.weight`, `c_fc.weight`, `mlp.c_proj.weight`. It is the same in every layer.
//! Every parameter entry belongs to exactly one block of a partition; blocks are in network order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::block::{Block, Layout, Parameter, Piece};
use crate::error::{Error, Result};

/// How parameters are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// One block per parameter (the paper's).
    Parameter,
    /// One block per layer.
    Layer,
    /// Attention cut by head, otherwise one block per parameter.
    Head,
    /// One block per Linear, LayerNorm, Embedding.
    Module,
    /// One block for each output of a layer's matrix, otherwise one per parameter.
    Neuron,
    /// One block for each row of an embedding of tokens, otherwise one per parameter.
    Token,
}

/// What a family of models has inside its parameters that names and shapes do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structure {
    /// Fused projections: (module, the parts that its axis of outputs, by default the last, holds side by side, equally wide).
    pub fused: &'static [(&'static str, &'static [&'static str])],
    /// Modules whose matrices have an axis that belongs to attention heads, beside fused ones: (module, axis). Biases belong to heads
    /// where the axis is that of the module's outputs.
    pub headed: &'static [(&'static str, usize)],
    /// Channels of one attention head; 0 where the model has none.
    pub head: usize,
    /// Modules whose matrices have an axis of outputs, one a neuron: (module, axis); an empty name is every module.
    pub outputs: &'static [(&'static str, usize)],
    /// Embeddings with a row for each token.
    pub embeddings: &'static [&'static str],
}

impl Structure {
    /// A model of which nothing is known: parameters, modules and numbered layers only.
    pub const UNKNOWN: Structure = Structure { fused: &[], headed: &[], head: 0, outputs: &[], embeddings: &[] };

    /// The axis of a matrix that holds its module's outputs, where that is known.
    pub(super) fn output_axis(&self, name: &str) -> Option<usize> {
        let of = |(module, _): &&(&str, usize)| module.is_empty() || is_module(name, module);
        self.outputs.iter().find(of).map(|(_, axis)| *axis)
    }
}

/// Whether a parameter belongs to a module whose path ends so.
fn is_module(name: &str, ending: &str) -> bool {
    module_of(name).strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// All blocks of a partition. Errors: [`Error::Config`] for `head`, `neuron` and `token` on a model of which these are not known.
pub fn partition(layout: &Layout, structure: &Structure, partition: Partition) -> Result<Vec<Block>> {
    let unknown = |kind: &str, what: &str| {
        let instead = "use \"parameter\", \"module\" or \"layer\"";
        Err(Error::Config(format!("blocks.partition = \"{kind}\": this model's {what} are not known; {instead}")))
    };
    Ok(match partition {
        Partition::Parameter => with_roles(split(layout, structure, None)?),
        Partition::Head if structure.head == 0 => return unknown("head", "attention heads"),
        Partition::Head => with_roles(split(layout, structure, Some(Finer::Head))?),
        Partition::Neuron if structure.outputs.is_empty() => return unknown("neuron", "axes of outputs"),
        Partition::Neuron => with_roles(split(layout, structure, Some(Finer::Neuron))?),
        Partition::Token if structure.embeddings.is_empty() => return unknown("token", "embeddings of tokens"),
        Partition::Token => with_roles(split(layout, structure, Some(Finer::Token))?),
        Partition::Module => grouped(layout, |name| (module_of(name), "module")),
        Partition::Layer => grouped(layout, |name| match layer_of(name) {
            Some((prefix, _)) => (prefix, "layer"),
            None => (module_of(name), "module"),
        }),
    })
}

/// The first numbered element of a name: its path up to and including the number, and the number.
pub fn layer_of(name: &str) -> Option<(&str, usize)> {
    let mut end = 0;
    for element in name.split('.') {
        end += element.len();
        if let Ok(number) = element.parse() {
            return Some((&name[..end], number));
        }
        end += 1;
    }
    None
}

fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// What parts of parameters are cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finer {
    Head,
    Neuron,
    Token,
}

impl Finer {
    fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Neuron => "neuron",
            Self::Token => "token",
        }
    }

    /// The width of the ranges along its axis that a part is cut into; `None`: it stays whole.
    fn width(self, parameter: &Parameter, structure: &Structure, part: &Part) -> Option<usize> {
        let is_cut = match self {
            Self::Head => return part.headed.then_some(structure.head),
            Self::Neuron => structure.output_axis(&parameter.name) == Some(part.axis),
            Self::Token => structure.embeddings.iter().any(|embedding| is_module(&parameter.name, embedding)),
        };
        (is_cut && parameter.shape.len() > 1).then_some(1)
    }
}

/// One block per parameter, fused ones split, and cut finer on demand; `kind` still empty.
fn split(layout: &Layout, structure: &Structure, finer: Option<Finer>) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for (index, parameter) in layout.parameters().iter().enumerate() {
        for part in parts(parameter, structure)? {
            let part = match finer {
                Some(Finer::Neuron) => part.along_outputs(parameter, structure)?,
                _ => part,
            };
            let cut = finer.and_then(|finer| Some((finer, finer.width(parameter, structure, &part)?)));
            let Part { name, axis, range, .. } = part;
            let width = cut.map_or(range.len(), |(_, width)| width);
            let count = range.len() / width.max(1);
            if width * count != range.len() {
                return Err(Error::Config(format!(
                    "blocks.partition = \"head\": {} entries of {name} along axis {axis} do not divide into heads of {width} channels",
                    range.len()
                )));
            }
            for number in 0..count {
                let of_block = range.start + number * width..range.start + (number + 1) * width;
                let whole = of_block == (0..parameter.shape[axis]);
                blocks.push(Block {
                    name: cut.map_or(name.clone(), |(finer, _)| format!("{name}/{}.{number}", finer.name())),
                    kind: String::new(),
                    layer: layer_of(&name).map(|(_, number)| number),
                    pieces: vec![if whole { Piece::whole(index) } else { Piece::cut(index, axis, of_block) }],
                });
            }
        }
    }
    Ok(blocks)
}

/// A range of a parameter that is a block of its own.
pub(super) struct Part {
    pub name: String,
    pub axis: usize,
    pub range: Range<usize>,
    /// Its entries along `axis` belong to attention heads.
    pub headed: bool,
}

impl Part {
    /// The part with the axis of outputs as its own, so that it can be cut along that.
    fn along_outputs(self, parameter: &Parameter, structure: &Structure) -> Result<Self> {
        let Some(axis) = structure.output_axis(&parameter.name).filter(|axis| *axis < parameter.shape.len()) else {
            return Ok(self);
        };
        if axis == self.axis {
            return Ok(self);
        }
        if self.range != (0..parameter.shape[self.axis]) {
            let name = &self.name;
            return Err(Error::Config(format!(
                "blocks.partition = \"neuron\": {name} is fused along another axis than that of its outputs; use \"parameter\""
            )));
        }
        Ok(Self { axis, range: 0..parameter.shape[axis], ..self })
    }
}

/// The parts of a parameter: one, or those of a fused projection.
pub(super) fn parts(parameter: &Parameter, structure: &Structure) -> Result<Vec<Part>> {
    let module = module_of(&parameter.name);
    let ends_with = |ending: &str| is_module(&parameter.name, ending);
    if let Some((fused, names)) = structure.fused.iter().find(|(fused, _)| ends_with(fused)) {
        let last_axis = parameter.shape.len() - 1;
        let axis = structure.output_axis(&parameter.name).filter(|axis| *axis <= last_axis).unwrap_or(last_axis);
        let width = parameter.shape[axis] / names.len();
        if width * names.len() != parameter.shape[axis] {
            return Err(Error::Config(format!(
                "{} {:?}: axis {axis} does not divide into {} parts ({})",
                parameter.name,
                parameter.shape,
                names.len(),
                names.join(", ")
            )));
        }
        let parent = &module[..module.len() - fused.rsplit('.').next().map_or(0, str::len)];
        let last = &parameter.name[module.len()..]; // ".weight" or ".bias"
        let part = |(at, part): (usize, &&str)| Part {
            name: format!("{parent}{part}{last}"),
            axis,
            range: at * width..(at + 1) * width,
            headed: structure.head > 0,
        };
        return Ok(names.iter().enumerate().map(part).collect());
    }
    let of_head =
        structure.headed.iter().find(|(module, _)| structure.head > 0 && ends_with(module)).map(|(_, axis)| *axis);
    let axis = match parameter.shape.len() {
        2 => of_head,
        // a bias goes with the outputs
        1 => of_head.filter(|axis| structure.output_axis(&parameter.name) == Some(*axis)).map(|_| 0),
        _ => None,
    };
    let (headed, axis) = (axis.is_some(), axis.unwrap_or(0));
    let range = 0..parameter.shape.get(axis).copied().unwrap_or(1);
    Ok(vec![Part { name: parameter.name.clone(), axis, range, headed }])
}

/// Whole parameters collected by a key of their names: (block name, kind). Equal keys form one block.
fn grouped<'a>(layout: &'a Layout, key: impl Fn(&'a str) -> (&'a str, &'static str)) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (index, parameter) in layout.parameters().iter().enumerate() {
        let (name, kind) = key(&parameter.name);
        match blocks.iter_mut().find(|block| block.name == name) {
            Some(block) => block.pieces.push(Piece::whole(index)),
            None => blocks.push(Block {
                name: name.into(),
                kind: kind.into(),
                layer: layer_of(name).map(|(_, number)| number),
                pieces: vec![Piece::whole(index)],
            }),
        }
    }
    blocks
}

/// Fills in `kind`, the role, for single-parameter blocks.
fn with_roles(mut blocks: Vec<Block>) -> Vec<Block> {
    let places: BTreeSet<(String, String)> = blocks.iter().map(|block| place(&block.name)).collect();
    let of = |(layer, rest): &(String, String)| {
        let rivals: Vec<&str> =
            places.iter().filter(|(l, r)| l == layer && r != rest).map(|(_, r)| r.as_str()).collect();
        role(rest, &rivals)
    };
    let roles: BTreeMap<&(String, String), String> = places.iter().map(|place| (place, of(place))).collect();
    for block in &mut blocks {
        block.kind = roles[&place(&block.name)].clone();
        if let Some((_, finer)) = block.name.split_once('/') {
            let finer = finer.split('.').next().unwrap_or(finer);
            block.kind.push_str(&format!("/{finer}"));
        }
    }
    blocks
}

/// (layer's path or nothing, name below it), the number of a head, neuron or token left aside.
fn place(name: &str) -> (String, String) {
    let name = name.split('/').next().unwrap_or(name);
    match layer_of(name) {
        Some((prefix, _)) => (prefix.into(), name[prefix.len()..].trim_start_matches('.').into()),
        None => (String::new(), name.into()),
    }
}

/// The shortest ending of at least two elements that no rival has.
fn role(name: &str, rivals: &[&str]) -> String {
    let starts: Vec<usize> = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1)).collect();
    let candidates = starts.iter().rev().skip(1).map(|start| &name[*start..]);
    let shared = |ending: &str| {
        rivals.iter().any(|rival| rival.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    };
    candidates.into_iter().find(|ending| !shared(ending)).unwrap_or(name).into()
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
