//! The networks that a program has, found by the name of their table.

use std::sync::Arc;

use super::Network;
use super::bert::BertConfig;
use super::decoder::DecoderConfig;
use super::gpt2::Gpt2Config;
use super::mlp::MlpConfig;
use super::resnet::ResNetConfig;
use super::setup::{Pair, Setup};
use super::vgg::VggConfig;
use super::vit::VitConfig;
use crate::datasets::Dataset;
use crate::document::{Check, Entry, Node, nearest, overlaid, read_table};
use crate::{Error, Result};

/// The kinds of network that a configuration may name.
#[derive(Debug, Clone)]
pub struct Registry {
    kinds: Vec<Kind>,
    is_complete: bool,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    network: &'static str,
    data: &'static str,
    /// `true`: nothing is left out that stands beside the weights.
    read: fn(&Node, bool) -> Result<Arc<dyn Setup>>,
}

impl Registry {
    /// The networks of this project.
    pub fn built_in() -> Self {
        let empty = Self { kinds: Vec::new(), is_complete: false };
        let on_tokens = empty.with::<Gpt2Config>().with::<DecoderConfig>();
        on_tokens
            .with::<MlpConfig>()
            .with::<ResNetConfig>()
            .with::<VggConfig>()
            .with::<VitConfig>()
            .with::<BertConfig>()
    }

    /// With one more, in place of one with the same name.
    pub fn with<N: Network>(mut self) -> Self {
        self.kinds.retain(|kind| kind.network != N::KIND);
        self.kinds.push(Kind { network: N::KIND, data: <N::Data as Dataset>::KIND, read: read_pair::<N> });
        self
    }

    /// For what was resolved before, like a run's record: every key is there, so that nothing is looked up beside the weights, which
    /// may be gone.
    pub fn for_records(&self) -> Self {
        Self { is_complete: true, ..self.clone() }
    }

    /// Reads `[model.*]` and `[data.*]` of a document.
    ///
    /// # Errors
    /// [`Error::Config`] with the place: another number of tables than one, a kind that there is not, data that the network does
    /// not read, and everything that is wrong with a key.
    pub fn read(&self, root: &Node) -> Result<Arc<dyn Setup>> {
        let networks: Vec<&str> = self.kinds.iter().map(|kind| kind.network).collect();
        let entry = the_one(root, "model", &networks)?;
        let Some(kind) = self.kinds.iter().find(|kind| kind.network == entry.key) else {
            return Err(unknown("model", entry, &networks));
        };
        let data = the_one(root, "data", &[kind.data])?;
        if data.key != kind.data {
            let known = self.kinds.iter().any(|kind| kind.data == data.key);
            return Err(if known { not_its_data(kind, data) } else { unknown("data", data, &[kind.data]) });
        }
        (kind.read)(root, self.is_complete)
    }
}

/// Keys of `[data.KIND]` that are others for what a training does not see.
const HELD_OUT: &str = "train.held_out.data";

fn read_pair<N: Network>(root: &Node, is_complete: bool) -> Result<Arc<dyn Setup>> {
    let mut network: N = read_table(root, &["model", N::KIND])?;
    let data: N::Data = read_table(root, &["data", <N::Data as Dataset>::KIND])?;
    let prefix = format!("model.{}.", N::KIND);
    if !is_complete {
        network = network.completed(&Check::table(root, &prefix))?;
    }
    network.check(&Check::table(root, &prefix))?;
    data.check(&Check::table(root, &format!("data.{}.", <N::Data as Dataset>::KIND)))?;
    let held_out = held_out::<N::Data>(root)?;
    Ok(Arc::new(Pair { network, data, held_out }))
}

/// `[data.KIND]` with the keys that are others for what a training does not see, where there are such.
fn held_out<D: Dataset>(root: &Node) -> Result<Option<D>> {
    let Some(keys) = root.find(HELD_OUT) else { return Ok(None) };
    let path = ["data", D::KIND];
    let root = overlaid(root, &path, keys);
    let data: D = read_table(&root, &path)?;
    data.check(&Check::table(&root, &format!("data.{}.", D::KIND)))?;
    Ok(Some(data))
}

/// The only entry of a table of tables.
fn the_one<'a>(root: &'a Node, table: &str, allowed: &[&str]) -> Result<&'a Entry> {
    let entries = root.find(table).map_or(&[][..], Node::entries);
    match entries {
        [entry] => Ok(entry),
        _ => {
            let origin = root.find(table).map_or(&root.origin, |node| &node.origin);
            let found = root.find(table).map_or("{}".into(), Node::to_string);
            Err(Error::Config(format!("{origin}: {table} = {found}: expected exactly one of {}", allowed.join(", "))))
        }
    }
}

fn unknown(table: &str, entry: &Entry, allowed: &[&str]) -> Error {
    let (origin, found) = (&entry.key_origin, entry.key.as_str());
    let nearest = nearest(found, allowed).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    let joint = if nearest.is_empty() { ";" } else { "" };
    Error::Config(format!(
        "{origin}: {table}.{found} = {}: not an allowed value{nearest}{joint} allowed: {}",
        entry.node,
        allowed.join(", ")
    ))
}

fn not_its_data(kind: &Kind, data: &Entry) -> Error {
    let Kind { network, data: wanted, .. } = kind;
    Error::Config(format!(
        "{}: [data.{}]: [model.{network}] reads [data.{wanted}]; use that, or another network",
        data.key_origin, data.key
    ))
}
