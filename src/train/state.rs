//! Where a training stands, on the output's storage: what a stopped one has to do again is at most `[checkpoint] every`.
//!
//! ```text
//! _runs/<run>/training/state.bin      safetensors: parameters, vectors of the optimizer, rows of the table; then a SHA-256
//! ```
//!
//! It is one object, which is replaced as a whole, and belongs to all ranks: any number of them can go on from it. The hash is of the
//! run's identity and of what is before it, so that a changed bit is seen, and a state of another run. It goes when the table is
//! written.

use bytemuck::Pod;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::optimizer::Rule;
use super::rows::{self, WIDTH};
use crate::cluster::{Comm, told};
use crate::hessian::Precision;
use crate::output::{Access, Location, TrainingRow};
use crate::shown::Url;
use crate::{Error, Result};

/// Bytes of a hash.
const HASH: usize = 32;
const PARAMETERS: &str = "parameters";
const ROWS: &str = "rows";

/// Where a training stands after some of its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct State<T> {
    /// In the layout's flat order.
    pub parameters: Vec<T>,
    /// As [`Rule::vectors`] names them, in the same order.
    pub vectors: Vec<Vec<T>>,
    /// One for each step.
    pub rows: Vec<TrainingRow>,
}

impl<T: Precision> State<T> {
    /// Before the first step.
    pub fn first(rule: &Rule, parameters: Vec<T>) -> Self {
        let vectors = rule.vectors().iter().map(|_| vec![T::default(); parameters.len()]).collect();
        Self { parameters, vectors, rows: Vec::new() }
    }

    /// Rank 0's, on every rank; all have one of the same rule and network.
    ///
    /// # Errors
    /// Those of the exchange.
    pub fn shared(mut self, comm: &Comm) -> Result<Self> {
        comm.broadcast(0, &mut self.parameters)?;
        self.vectors.iter_mut().try_for_each(|vector| comm.broadcast(0, vector))?;
        let num_rows = told(comm, Some(self.rows.len()))?;
        let mut numbers: Vec<f64> = self.rows.iter().flat_map(rows::to_numbers).collect();
        numbers.resize(num_rows * WIDTH, 0.0);
        comm.broadcast(0, &mut numbers)?;
        self.rows = of_numbers(&numbers);
        Ok(self)
    }
}

/// Rows, one after the other.
fn of_numbers(numbers: &[f64]) -> Vec<TrainingRow> {
    numbers.as_chunks().0.iter().map(rows::of_numbers).collect()
}

/// The place of a run's state.
pub struct States {
    location: Location,
    path: String,
    identity: String,
}

impl States {
    /// The state of a run below an output URL. `identity`: what tells it from other runs of its name
    /// ([`RunStore::identity`](crate::output::RunStore::identity)).
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn open(url: &Url, run: &str, identity: &str) -> Result<Self> {
        let location = Location::open(url, Access::Write)?;
        Ok(Self { location, path: format!("_runs/{run}/training/state.bin"), identity: identity.into() })
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn save<T: Precision>(
        &self,
        rule: &Rule,
        parameters: &[T],
        vectors: &[&[T]],
        rows: &[TrainingRow],
    ) -> Result<()> {
        let numbers: Vec<f64> = rows.iter().flat_map(rows::to_numbers).collect();
        let mut tensors = vec![(PARAMETERS, view(dtype::<T>(), vec![parameters.len()], parameters)?)];
        for (name, vector) in rule.vectors().iter().zip(vectors) {
            tensors.push((*name, view(dtype::<T>(), vec![vector.len()], vector)?));
        }
        tensors.push((ROWS, view(Dtype::F64, vec![rows.len(), WIDTH], &numbers)?));
        let mut bytes = safetensors::serialize(tensors, None).map_err(|error| Error::Other(error.to_string()))?;
        let hash = self.hash(&bytes);
        bytes.extend_from_slice(&hash);
        self.location.put(&self.path, bytes)
    }

    /// The state, if there is one, of a training of so many parameters by this rule.
    ///
    /// # Errors
    /// [`Error::Storage`] for what is damaged, or was written by another run.
    pub fn load<T: Precision>(&self, rule: &Rule, num_params: usize) -> Result<Option<State<T>>> {
        let Some(bytes) = self.location.get(&self.path)? else { return Ok(None) };
        let (body, found) = bytes.split_last_chunk::<HASH>().ok_or_else(|| self.damaged("it is too short"))?;
        if self.hash(body) != *found {
            return Err(self.damaged("its hash is wrong: it was changed, or another run wrote it"));
        }
        let file = SafeTensors::deserialize(body).map_err(|error| self.damaged(&error.to_string()))?;
        let vector = |name: &str| -> Result<Vec<T>> { self.numbers(&file, name, dtype::<T>(), Some(num_params)) };
        let numbers: Vec<f64> = self.numbers(&file, ROWS, Dtype::F64, None)?;
        Ok(Some(State {
            parameters: vector(PARAMETERS)?,
            vectors: rule.vectors().iter().map(|name| vector(name)).collect::<Result<_>>()?,
            rows: of_numbers(&numbers),
        }))
    }

    /// Forgets the state.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn delete(&self) -> Result<()> {
        self.location.delete(&self.path)
    }

    fn numbers<N: Pod>(&self, file: &SafeTensors<'_>, name: &str, dtype: Dtype, len: Option<usize>) -> Result<Vec<N>> {
        let tensor = file.tensor(name).map_err(|error| self.damaged(&error.to_string()))?;
        let mut numbers = vec![N::zeroed(); tensor.data().len() / size_of::<N>()];
        if tensor.dtype() == dtype && len.is_none_or(|len| numbers.len() == len) {
            bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(tensor.data());
            return Ok(numbers);
        }
        Err(self.damaged(&format!("{name} is {:?} of {:?}", tensor.dtype(), tensor.shape())))
    }

    fn hash(&self, body: &[u8]) -> [u8; HASH] {
        let mut hasher = Sha256::new();
        hasher.update(self.identity.as_bytes());
        hasher.update(body);
        hasher.finalize().into()
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Storage(format!(
            "`{}` under `{}` is damaged: {why}. Restore it, or delete it to begin the training anew",
            self.path, self.location.url
        ))
    }
}

/// safetensors' name of a precision.
pub(super) fn dtype<T: Precision>() -> Dtype {
    if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 }
}

/// Numbers as a tensor of a file.
pub(super) fn view<N: Pod>(dtype: Dtype, shape: Vec<usize>, numbers: &[N]) -> Result<TensorView<'_>> {
    let failed = |error| Error::Other(format!("a file of vectors: {error}"));
    TensorView::new(dtype, shape, bytemuck::cast_slice(numbers)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::threads;

    const RULE: Rule = Rule::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };

    #[test]
    fn all_ranks_go_on_from_rank_0s() {
        let row = |step: f64| rows::of_numbers(&[step, 8.0, 0.1, 2.5, 0.3, 1.0, 0.5, f64::NAN, 0.2]);
        let saved =
            State { parameters: vec![1.0f32, 2.0], vectors: vec![vec![3.0, 4.0]], rows: vec![row(1.0), row(2.0)] };
        let all = threads::run(3, |comm| {
            let state = if comm.is_root() { saved.clone() } else { State::first(&RULE, vec![0.0; 2]) };
            state.shared(&comm)
        });
        assert!(all.unwrap().iter().all(|state| *state == saved));
    }

    #[test]
    fn a_state_comes_back_and_any_changed_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from(folder.path().to_str().unwrap());
        let states = States::open(&url, "r", "identity").unwrap();
        assert_eq!(states.load::<f32>(&RULE, 3).unwrap(), None);
        let row = rows::of_numbers(&[1.0, 8.0, 0.1, 2.5, 0.3, 1.0, f64::NAN, f64::NAN, 0.2]);
        let state =
            State { parameters: vec![1.5f32, -2.0, 0.1], vectors: vec![vec![0.25, 3.0, -1.0]], rows: vec![row] };
        states.save(&RULE, &state.parameters, &[&state.vectors[0]], &state.rows).unwrap();
        assert_eq!(states.load::<f32>(&RULE, 3).unwrap().as_ref(), Some(&state));
        let refused = |states: &States, num_params: usize| {
            let error = states.load::<f32>(&RULE, num_params).unwrap_err();
            assert!(error.exit_code() == 5 && error.to_string().contains("training/state.bin"), "{error}");
        };
        refused(&states, 4);
        refused(&States::open(&url, "r", "another").unwrap(), 3);
        let path = folder.path().join(&states.path);
        let bytes = std::fs::read(&path).unwrap();
        for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).unwrap();
            refused(&states, 3);
        }
        states.delete().unwrap();
        assert_eq!(states.load::<f32>(&RULE, 3).unwrap(), None);
    }
}
