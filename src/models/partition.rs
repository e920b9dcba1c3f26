//! How a network's parameters are cut into blocks.
//!
//! | partition | one block is | `kind` |
//! |---|---|---|
//! | `parameter` | a parameter; fused projections split (GPT-2: q, k, v out of `c_attn`) | its role |
//! | `head` | as `parameter`; q, k, v (columns) and the output projection (rows) cut by attention head | role + `/head` |
//! | `module` | weight and bias of one Linear, LayerNorm or Embedding | `module` |
//! | `layer` | everything of one numbered layer; outside of layers, a module | `layer` or `module` |
//!
//! A *role* is the shortest ending of the name, of at least two elements, that tells the parameter apart from the
//! others of its layer: `q.weight`, `c_fc.weight`, `mlp.c_proj.weight`. It is the same in every layer.
//! Every parameter entry belongs to exactly one block of a partition; blocks are in network order.

use std::ops::Range;

use crate::block::{Block, Layout, Parameter, Piece};
use crate::error::{Error, Result};

/// How parameters are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// One block per parameter (the paper's).
    Parameter,
    /// One block per layer.
    Layer,
    /// Attention cut by head, otherwise one block per parameter.
    Head,
    /// One block per Linear, LayerNorm, Embedding.
    Module,
}

/// What a family of models has inside its parameters that names and shapes do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structure {
    /// Fused projections: (module, the parts its last axis holds side by side, equally wide).
    pub fused: &'static [(&'static str, &'static [&'static str])],
    /// The attention's output projection, whose *rows* belong to heads.
    pub head_rows: &'static [&'static str],
    /// Attention heads; 0 where the model has none.
    pub heads: usize,
}

impl Structure {
    /// A model of which nothing is known: parameters, modules and numbered layers only.
    pub const UNKNOWN: Structure = Structure { fused: &[], head_rows: &[], heads: 0 };
}

/// All blocks of a partition. Errors: [`Error::Config`] for `head` on a model without known heads.
pub fn partition(layout: &Layout, structure: &Structure, partition: Partition) -> Result<Vec<Block>> {
    Ok(match partition {
        Partition::Parameter => with_roles(split(layout, structure, false)?),
        Partition::Head if structure.heads == 0 => {
            return Err(Error::Config(
                "blocks.partition = \"head\": this model's attention heads are not known; use \"parameter\", \"module\" or \"layer\"".into(),
            ));
        }
        Partition::Head => with_roles(split(layout, structure, true)?),
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

/// One block per parameter, fused ones split, heads cut apart on demand; `kind` still empty.
fn split(layout: &Layout, structure: &Structure, by_head: bool) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for (index, parameter) in layout.parameters().iter().enumerate() {
        for Part { name, axis, range, headed } in parts(parameter, structure)? {
            let by_head = by_head && headed;
            let heads = if by_head { structure.heads } else { 1 };
            let width = range.len() / heads;
            if width * heads != range.len() {
                return Err(Error::Config(format!(
                    "blocks.partition = \"head\": {} entries of {name} along axis {axis} do not divide into {heads} heads",
                    range.len()
                )));
            }
            for head in 0..heads {
                let cut = range.start + head * width..range.start + (head + 1) * width;
                let whole = cut == (0..parameter.shape[axis]);
                blocks.push(Block {
                    name: if by_head { format!("{name}/head.{head}") } else { name.clone() },
                    kind: String::new(),
                    layer: layer_of(&name).map(|(_, number)| number),
                    pieces: vec![if whole { Piece::whole(index) } else { Piece::cut(index, axis, cut) }],
                });
            }
        }
    }
    Ok(blocks)
}

/// A range of a parameter that is a block of its own.
struct Part {
    name: String,
    axis: usize,
    range: Range<usize>,
    /// Its entries along `axis` belong to attention heads.
    headed: bool,
}

/// The parts of a parameter: one, or those of a fused projection.
fn parts(parameter: &Parameter, structure: &Structure) -> Result<Vec<Part>> {
    let module = module_of(&parameter.name);
    let ends_with =
        |ending: &str| module.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if let Some((fused, names)) = structure.fused.iter().find(|(fused, _)| ends_with(fused)) {
        let axis = parameter.shape.len() - 1;
        let width = parameter.shape[axis] / names.len();
        if width * names.len() != parameter.shape[axis] {
            return Err(Error::Config(format!(
                "{} {:?}: its last axis does not divide into {} parts ({})",
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
            headed: structure.heads > 0,
        };
        return Ok(names.iter().enumerate().map(part).collect());
    }
    // The output projection's bias belongs to no head.
    let headed = parameter.shape.len() == 2 && structure.head_rows.iter().any(|rows| ends_with(rows));
    let rows = parameter.shape.first().copied().unwrap_or(1);
    Ok(vec![Part { name: parameter.name.clone(), axis: 0, range: 0..rows, headed }])
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
    let inside: Vec<(String, String)> = blocks.iter().map(|block| place(&block.name)).collect();
    for (block, (layer, rest)) in blocks.iter_mut().zip(&inside) {
        let rivals: Vec<&str> =
            inside.iter().filter(|(l, r)| l == layer && r != rest).map(|(_, r)| r.as_str()).collect();
        block.kind = role(rest, &rivals);
        if block.name.contains("/head.") {
            block.kind.push_str("/head");
        }
    }
    blocks
}

/// (layer's path or nothing, name below it), a head's number left aside.
fn place(name: &str) -> (String, String) {
    let name = name.split("/head.").next().unwrap_or(name);
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
