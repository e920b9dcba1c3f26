//! The rows of eigenvectors.

use crate::block::{Block, Layout};
use crate::output::{EigenvectorMassRow, EigenvectorRow, Tables};
use crate::worker::Eigenvector;

/// Appends what is known of a group's eigenvectors.
pub fn push_eigenvectors(rows: &mut Tables, layout: &Layout, blocks: &[Block], found: &[Eigenvector]) {
    for vector in found {
        let (block, index) = (&blocks[vector.block].name, vector.index as i32);
        rows.eigenvectors.push(EigenvectorRow {
            block: block.clone(),
            index,
            eigenvalue: vector.eigenvalue,
            residual_bound: vector.residual_bound,
            angle: vector.angle,
            gradient_overlap: vector.gradient_overlap,
            file: vector.file.clone(),
        });
        rows.eigenvector_mass.extend(vector.mass.iter().map(|(parameter, mass)| EigenvectorMassRow {
            block: block.clone(),
            index,
            parameter: layout.parameters()[*parameter].name.clone(),
            mass: *mass,
        }));
    }
}
