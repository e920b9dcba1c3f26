//! The rate of products as `hesspec bench --calibration FILE` measured it on some machine, for plans made elsewhere.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::devices::Device;
use crate::config::{self, Backend, Precision};
use crate::engine::Arithmetic;
use crate::{Error, Result};

/// Version of the file.
const FORMAT: u32 = 1;
/// Rates (GFLOP/s) and memory (GB) of anything that there is: the largest machines reach 1e9 GFLOP/s.
const POSSIBLE: RangeInclusive<f64> = 1e-3..=1e10;

/// Where and how it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Processor.
    pub machine: String,
    /// Accelerator, as its driver names it; `None` for processors, where it was not known, and in older files.
    #[serde(default)]
    pub device: Option<String>,
    /// burn backend.
    pub backend: Backend,
    /// Floating-point type.
    pub precision: Precision,
    /// Arithmetic of matrix products.
    pub math: Arithmetic,
    /// Memory of the machine, GB.
    pub memory_gb: f64,
    /// Rate of one large product, GFLOP/s.
    pub sgemm_gflops: f64,
}

impl Conditions {
    /// Accelerator, or processor.
    pub fn measured_on(&self) -> &str {
        self.device.as_ref().unwrap_or(&self.machine)
    }
}

/// What was measured, one rank alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Version of this file.
    pub format: u32,
    /// Version of the program that measured.
    pub hesspec: String,
    /// Where and how.
    pub conditions: Conditions,
    /// Matrix work of the products below over their time, GFLOP/s: what plans go by.
    pub gflops: f64,
    /// Products H v at the largest number of slots that was timed.
    pub cases: Vec<CalibrationCase>,
}

/// One timed product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationCase {
    /// Block name or `full`.
    pub what: String,
    /// Slots of the sweep.
    pub slots: usize,
    /// Seconds of one slot.
    pub seconds_per_slot: f64,
    /// Matrix work of one slot, GFLOP.
    pub gflop_per_slot: f64,
}

impl Calibration {
    /// From what was timed; `cases` are products only.
    ///
    /// # Errors
    /// [`Error::Config`] without a case.
    pub fn new(conditions: Conditions, cases: Vec<CalibrationCase>) -> Result<Self> {
        let slots = cases.iter().map(|case| case.slots).max().unwrap_or(0);
        let cases: Vec<CalibrationCase> = cases.into_iter().filter(|case| case.slots == slots).collect();
        let work: f64 = cases.iter().map(|case| case.gflop_per_slot).sum();
        let seconds: f64 = cases.iter().map(|case| case.seconds_per_slot).sum();
        if seconds.is_nan() || seconds <= 0.0 {
            return Err(Error::Config(
                "--calibration: the configuration asks for no block, so no product was timed".into(),
            ));
        }
        let hesspec = env!("CARGO_PKG_VERSION").into();
        Ok(Self { format: FORMAT, hesspec, conditions, gflops: work / seconds, cases })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Other(format!("JSON: {error}")))?;
        std::fs::write(path, text + "\n")
            .map_err(|error| Error::Storage(format!("{}: cannot write the calibration: {error}", path.display())))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not there or not what [`Calibration::save`] writes.
    pub fn load(path: &Path) -> Result<Self> {
        let wrong = |problem: String| {
            let file = crate::storage::absolute(path);
            Error::Config(format!(
                "--calibration {file}: {problem}; expected what hesspec bench CONFIG --calibration FILE writes"
            ))
        };
        let text = crate::file::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let found: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if found.format != FORMAT {
            return Err(wrong(format!("format {}, this program reads {FORMAT}", found.format)));
        }
        let Conditions { memory_gb, sgemm_gflops, .. } = found.conditions;
        let values = [("gflops", found.gflops), ("memory_gb", memory_gb), ("sgemm_gflops", sgemm_gflops)];
        match values.into_iter().find(|(_, value)| !POSSIBLE.contains(value)) {
            Some((key, value)) => {
                let (least, most) = (POSSIBLE.start(), POSSIBLE.end());
                Err(wrong(format!("{key} = {value:?}, expected a number from {least:?} to {most:?}")))
            }
            None => Ok(found),
        }
    }

    /// Refuses a configuration in another arithmetic than was measured.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn check(&self, hessian: &config::Hessian) -> Result<()> {
        let text = |precision: Precision, math: Arithmetic| {
            format!("precision = {}, math = {}", config::as_toml(&precision), config::as_toml(&math))
        };
        let (theirs, ours) =
            (text(self.conditions.precision, self.conditions.math), text(hessian.precision, hessian.math));
        if theirs == ours {
            return Ok(());
        }
        Err(Error::Config(format!(
            "--calibration: it was measured in {theirs}, the configuration has {ours}; measure again with the same settings"
        )))
    }

    /// Refuses an accelerator where a processor or another model was measured.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn check_device(&self, device: &Device) -> Result<()> {
        let Conditions { backend, machine, device: measured, .. } = &self.conditions;
        let on = match measured {
            _ if backend.is_cpu() => format!("a processor ({machine}, hessian.backend = {})", config::as_toml(backend)),
            Some(name) if !device.is_called(name) => name.clone(),
            Some(_) => return Ok(()),
            None => {
                tracing::warn!(
                    "the calibration does not say on which device it was measured; it is taken for {}",
                    device.name
                );
                return Ok(());
            }
        };
        Err(Error::Config(format!(
            "--device {}: the calibration was measured on {on}; leave --device out, or measure such a device ({}) with \
             hesspec bench CONFIG --calibration FILE",
            device.name, device.product
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions {
            machine: "a machine".into(),
            device: None,
            backend: Backend::Flex,
            precision: Precision::F32,
            math: Arithmetic::F32,
            memory_gb: 24.0,
            sgemm_gflops: 200.0,
        }
    }

    fn case(slots: usize, seconds_per_slot: f64, gflop_per_slot: f64) -> CalibrationCase {
        CalibrationCase { what: "full".into(), slots, seconds_per_slot, gflop_per_slot }
    }

    #[test]
    fn the_rate_is_all_work_over_all_time_at_the_most_slots() {
        let cases = vec![case(1, 9.0, 1.0), case(4, 1.0, 100.0), case(4, 3.0, 200.0)];
        let found = Calibration::new(conditions(), cases).unwrap();
        assert_eq!((found.gflops, found.cases.len()), (75.0, 2));
        assert!(Calibration::new(conditions(), vec![]).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("here.json");
        found.save(&path).unwrap();
        assert_eq!(Calibration::load(&path).unwrap(), found);
        let hessian = config::Hessian { math: Arithmetic::Tf32, ..config::Hessian::default() };
        assert!(found.check(&config::Hessian::default()).is_ok());
        let differs = found.check(&hessian).unwrap_err().to_string();
        assert!(differs.contains("precision = \"f32\", math = \"tf32\""), "{differs}");
        let device = Device::named("h100").unwrap();
        let other = found.check_device(&device).unwrap_err();
        assert!(other.exit_code() == 2 && other.to_string().contains("hessian.backend = \"flex\""), "{other}");
        let on_cuda = Conditions { backend: Backend::Cuda, ..conditions() };
        assert!(Calibration { conditions: on_cuda, ..found.clone() }.check_device(&device).is_ok());
        let on = |name: &str| {
            let on_device = Conditions { backend: Backend::Cuda, device: Some(name.into()), ..conditions() };
            Calibration { conditions: on_device, ..found.clone() }.check_device(&device)
        };
        assert!(on("NVIDIA H100 80GB HBM3").is_ok());
        let other = on("NVIDIA A100-SXM4-80GB").unwrap_err();
        assert!(other.exit_code() == 2 && other.to_string().contains("measured on NVIDIA A100-SXM4-80GB"), "{other}");
        for value in [1e300, -1.0, 0.0, 1e-300] {
            let of = |memory_gb| Conditions { memory_gb, ..conditions() };
            for (absurd, key) in [
                (Calibration { gflops: value, ..found.clone() }, "gflops = "),
                (Calibration { conditions: of(value), ..found.clone() }, "memory_gb = "),
            ] {
                absurd.save(&path).unwrap();
                let text = Calibration::load(&path).unwrap_err().to_string();
                assert!(text.contains(&format!("{key}{value:?}, expected a number from 0.001 to ")), "{text}");
            }
        }
        for text in ["", "{}", "{\"format\": 1}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Calibration::load(&path).unwrap_err().exit_code(), 2, "{text}");
        }
        assert_eq!(Calibration::load(&folder.path().join("none")).unwrap_err().exit_code(), 2);
    }
}
