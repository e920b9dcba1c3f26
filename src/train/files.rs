//! Weights at chosen steps of a training, as files, and the optimizer's vectors beside them.
//!
//! ```text
//! checkpoints/run=<run>/step-<step>/model.safetensors        under the network's own names: weights of a configuration
//! checkpoints/run=<run>/step-<step>/optimizer.safetensors    tensors `exp_avg_sq.<parameter>` and so on; the step in its metadata
//! ```

use std::collections::HashMap;

use super::optimizer::Optimizer;
use super::state::{dtype, view};
use crate::block::Layout;
use crate::hessian::Precision;
use crate::output::{Access, Location};
use crate::shown::Url;
use crate::{Error, Result};

/// The folder of a step's files, below the output's URL.
pub fn folder(run: &str, step: usize) -> String {
    format!("checkpoints/run={run}/step-{step:07}")
}

/// Writes a step's files.
///
/// # Errors
/// [`Error::Storage`]
pub fn write<T: Precision>(
    url: &Url,
    run: &str,
    step: usize,
    model: Vec<u8>,
    optimizer: &Optimizer<T>,
    layout: &Layout,
) -> Result<()> {
    let (location, folder) = (Location::open(url, Access::Write)?, folder(run, step));
    location.put(&format!("{folder}/optimizer.safetensors"), encoded(step, optimizer, layout)?)?;
    location.put(&format!("{folder}/model.safetensors"), model)
}

/// The optimizer's vectors by parameter name, in the parameter's shape, called as PyTorch does.
fn encoded<T: Precision>(step: usize, optimizer: &Optimizer<T>, layout: &Layout) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (name, vector) in optimizer.vectors() {
        for parameter in layout.parameters() {
            let values = &vector[parameter.offset..parameter.offset + parameter.num_params()];
            tensors.push((format!("{name}.{}", parameter.name), view(dtype::<T>(), parameter.shape.clone(), values)?));
        }
    }
    let metadata = HashMap::from([("step".to_owned(), step.to_string())]);
    let failed = |error| Error::Storage(format!("cannot write the optimizer's state: {error}"));
    safetensors::serialize(tensors, Some(metadata)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::train::optimizer::Rule;

    #[test]
    fn vectors_are_written_by_parameter() {
        let layout = Layout::new([("a".into(), vec![2, 2]), ("b".into(), vec![1])]);
        let rule = Rule::Sgd { momentum: 0.5, nesterov: false, weight_decay: 0.0 };
        let mut optimizer = Optimizer::<f64>::new(rule, 5);
        optimizer.update(&mut [0.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0], 0.1);
        let bytes = encoded(7, &optimizer, &layout).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("momentum_buffer.a").unwrap().shape(), [2, 2]);
        assert_eq!(file.tensor("momentum_buffer.b").unwrap().data(), 5.0f64.to_le_bytes());
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["step"], "7");
        assert_eq!(folder("r", 100), "checkpoints/run=r/step-0000100");
    }
}
