//! Whether a file's tensors are exactly a module's parameters, and under which naming.

use std::collections::BTreeMap;

use super::tensor::FileTensor;
use crate::block::Layout;
use crate::models::names::Names;
use crate::models::{Naming, Part};
use crate::shown::quoted;
use crate::{Error, Result};

/// At most so many names are listed in an error.
const LISTED: usize = 8;

/// Tensors by the names of `naming`, every part of every parameter among them in its shape.
pub(super) struct Matched<'a> {
    pub naming: Naming,
    pub tensors: BTreeMap<String, FileTensor<'a>>,
    /// (copy, original, the copy's tensor): what the file repeats of them.
    copies: Vec<(&'static str, &'static str, FileTensor<'a>)>,
}

impl<'a> Matched<'a> {
    /// # Errors
    /// [`Error::Config`] with what is missing, left over, or of the wrong shape.
    pub fn new(file: BTreeMap<String, FileTensor<'a>>, layout: &Layout, names: &Names, source: &str) -> Result<Self> {
        let (naming, parts) = names
            .namings
            .iter()
            .map(|naming| (*naming, layout.parameters().iter().flat_map(|p| naming.parts(p)).collect::<Vec<_>>()))
            .rev() // of equals, the last is the maximum: the first naming
            .max_by_key(|(_, parts)| agreement(&file, parts, names))
            .unwrap_or((Naming::PLAIN, Vec::new()));
        let wanted: BTreeMap<&str, &Part> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
        let mut tensors = BTreeMap::new();
        let mut surplus = Named::default();
        let mut copies = Vec::new();
        for (name, tensor) in file {
            let is_copy = |name: &str| names.copies.iter().any(|(copy, _)| *copy == name);
            let bare = names.unwrapped(&name, |candidate| wanted.contains_key(candidate) || is_copy(candidate));
            if wanted.contains_key(bare.as_str()) {
                if tensors.insert(bare.clone(), tensor).is_some() {
                    return Err(Error::Config(format!("{source}: {bare} is there twice, with and without a prefix")));
                }
            } else if let Some((copy, original)) = names.copies.iter().find(|(copy, _)| *copy == bare) {
                copies.push((*copy, *original, tensor));
            } else if !names.is_buffer(&bare) {
                surplus.add(|| format!("{} {:?}", quoted(&name), tensor.shape));
            }
        }
        // save_model of safetensors keeps one of tied tensors, which may be the copy
        for (_, original, tensor) in &copies {
            if wanted.contains_key(original) && !tensors.contains_key(*original) {
                tensors.insert((*original).to_owned(), tensor.clone());
            }
        }
        let problems = problems(&tensors, &parts, surplus);
        if problems.is_empty() {
            return Ok(Self { naming, tensors, copies });
        }
        Err(Error::Config(format!(
            "{source}: the weights ({}) do not fit the model: {}. {}",
            naming.name,
            problems.join("; "),
            hint(&tensors, &parts, names)
        )))
    }

    /// A copy of a tied parameter is left aside, but only where it *is* a copy.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn check_copies(&self, source: &str) -> Result<()> {
        let differs =
            |original: &str, copy: &FileTensor<'_>| self.tensors.get(original).is_some_and(|it| !it.is_same(copy));
        match self.copies.iter().find(|(_, original, tensor)| differs(original, tensor)) {
            None => Ok(()),
            Some((copy, original, _)) => Err(Error::Config(format!(
                "{source}: {copy} differs from {original}, but the model ties them; set tied = false"
            ))),
        }
    }
}

/// How many names are there, and how many of them in their shape.
fn agreement(file: &BTreeMap<String, FileTensor<'_>>, parts: &[Part], names: &Names) -> (usize, usize) {
    let wanted: BTreeMap<&str, &Part> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
    let found = file.iter().filter_map(|(name, tensor)| {
        let bare = names.unwrapped(name, |candidate| wanted.contains_key(candidate));
        wanted.get(bare.as_str()).map(|part| part.shape == tensor.shape)
    });
    found.fold((0, 0), |(names, shapes), fits| (names + 1, shapes + usize::from(fits)))
}

fn problems(tensors: &BTreeMap<String, FileTensor<'_>>, parts: &[Part], surplus: Named) -> Vec<String> {
    let missing = parts.iter().filter(|part| !tensors.contains_key(&part.name));
    let missing = missing.fold(Named::default(), |all, part| all.with(|| format!("{} {:?}", part.name, part.shape)));
    let misshapen = parts.iter().filter_map(|part| {
        let found = &tensors.get(&part.name)?.shape;
        (*found != part.shape).then_some((part, found))
    });
    let misshapen = misshapen.fold(Named::default(), |all, (part, found)| {
        all.with(|| format!("{} is {found:?}, expected {:?}", part.name, part.shape))
    });
    [("missing", missing), ("wrong shape", misshapen), ("not in the model", surplus)]
        .into_iter()
        .filter_map(|(what, found)| found.list(what))
        .collect()
}

/// Things of a kind, the first few of them by name: a file may have any number.
#[derive(Default)]
struct Named {
    names: Vec<String>,
    count: usize,
}

impl Named {
    fn add(&mut self, name: impl Fn() -> String) {
        self.count += 1;
        self.names.extend((self.count <= LISTED).then(name));
    }

    fn with(mut self, name: impl Fn() -> String) -> Self {
        self.add(name);
        self
    }

    fn list(self, what: &str) -> Option<String> {
        let Self { names, count } = self;
        let more = if count > LISTED { format!(" and {} more", count - LISTED) } else { String::new() };
        (count > 0).then(|| format!("{count} {what}: {}{more}", names.join(", ")))
    }
}

/// What to do. A table with other rows is the commonest case: GPT-2 has 50257 tokens, and training often pads them to 50304.
fn hint(tensors: &BTreeMap<String, FileTensor<'_>>, parts: &[Part], names: &Names) -> String {
    let rows = names.rows.iter().find_map(|(ending, key)| {
        let part = parts.iter().find(|part| part.name.ends_with(ending))?;
        match (tensors.get(&part.name)?.shape.as_slice(), part.shape.as_slice()) {
            ([found, width], [expected, columns]) if width == columns && found != expected => Some((key, *found)),
            _ => None,
        }
    });
    match rows {
        Some((key, found)) => format!(
            "The file's {} is {found}: set {key} = {found} (padding rows would change the loss, so that none \
             are added or left out)",
            key.rsplit('.').next().unwrap_or(key)
        ),
        None => {
            "Make the sizes and variants of the configuration ([model.*]: bias, tied, layer_norm ...) those of the file"
                .into()
        }
    }
}
