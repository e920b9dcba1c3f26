//! What an analysis has found, as the tables of a run.

use std::time::SystemTime;

use serde_json::json;

use super::Curvature;
use super::curvature::distances;
use crate::block::Block;
use crate::models::VectorObject;
use crate::output::{RunRow, RunStore, Tables, rfc3339};
use crate::shown::Url;
use crate::spectrum::{BlockSpectrum, METRICS};
use crate::worker::Eigenvector;
use crate::{Error, Result, tables};

/// The one group of a run that is an analysis.
const GROUP: &str = "analysis";

impl Curvature {
    /// Writes the tables of a run (`hesspec tables` says what they hold), eigenvectors among them, below a folder or the URL of an object
    /// store, under a name of its own: `hesspec report` draws them, DuckDB, Polars and pandas read them. To be called on one rank.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that no partition can have, and one that is taken; [`Error::Storage`].
    pub fn save(&self, url: impl Into<Url>, name: &str) -> Result<()> {
        crate::config::check_run_name("Curvature::save", name)?;
        let url = url.into();
        let provenance = tables::provenance_of(json!({ "analysis": format!("{:?}", self.settings) }).to_string())?;
        let taken = || Error::Config(format!("Curvature::save: `{url}` has a run `{name}`; choose another name"));
        let mut store = RunStore::open(&url, name, &provenance, tables::differing)?;
        if store.is_done() || !store.finished_groups().is_empty() {
            return Err(taken());
        }
        store.begin()?;
        let blocks: Vec<Block> = self.blocks.iter().map(|found| found.block.clone()).collect();
        store.write_group(GROUP, &self.computed(&store, &blocks)?)?;
        let spectra: Vec<BlockSpectrum> = self.blocks.iter().map(|found| found.spectrum.clone()).collect();
        let matrices: Vec<_> = self.blocks.iter().map(|found| found.tridiagonals.clone()).collect();
        let rows = tables::tables_of_spectra(&self.layout, &blocks, spectra, &matrices, &distances(METRICS.to_vec()))?;
        store.finish(&Tables { runs: vec![self.run_row(&provenance.config, provenance.versions_json())], ..rows })
    }

    /// What took products: Jacobi matrices and eigenvectors.
    fn computed(&self, store: &RunStore, blocks: &[Block]) -> Result<Tables> {
        let mut rows = Tables::default();
        for (at, found) in self.blocks.iter().enumerate() {
            for (probe, t) in found.tridiagonals.iter().enumerate() {
                tables::push_tridiagonal(&mut rows, &found.block.name, probe as u32, t, &[]);
            }
            if found.eigenvectors.is_empty() {
                continue;
            }
            let mut object = VectorObject::new::<f64>(&self.layout, &found.block, found.eigenvectors.len());
            found.eigenvectors.iter().for_each(|pair| object.push(&pair.vector));
            let name = crate::plan::group_name((at, 0));
            let file = store.write_vectors(&name, found.eigenvectors.len(), object.into_bytes())?;
            let of_pair = |(index, pair): (usize, &super::Eigenpair)| Eigenvector {
                block: at,
                index,
                eigenvalue: pair.eigenvalue,
                residual_bound: pair.residual_bound,
                angle: pair.angle,
                gradient_overlap: pair.gradient_overlap,
                mass: pair.mass.iter().filter_map(|(name, mass)| Some((self.layout.find(name)?, *mass))).collect(),
                file: file.clone(),
            };
            let vectors: Vec<Eigenvector> = found.eigenvectors.iter().enumerate().map(of_pair).collect();
            tables::push_eigenvectors(&mut rows, &self.layout, blocks, &vectors);
        }
        Ok(rows)
    }

    fn run_row(&self, config: &str, versions: String) -> RunRow {
        let finished = SystemTime::now();
        RunRow {
            config: config.into(),
            versions,
            world: self.ranks as i32,
            hardware: tables::processor(),
            matmul_precision: "not measured: an analysis by the library".into(),
            started: rfc3339(finished - self.took),
            finished: rfc3339(finished),
            seconds: self.took.as_secs_f64(),
            status: "done".into(),
        }
    }
}
