//! What data sheets say of accelerators: dense peak rates of matrix products, and memory.
//!
//! Data sheets quote tensor cores with 2:4 sparsity; the figures here are dense, half of that. Of their share that a pass
//! reaches, one device was measured ([`assumed_efficiency`]).

use serde::Serialize;

use crate::engine::Arithmetic;
use crate::{Error, Result};

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Device {
    /// As `--device` names it.
    pub name: &'static str,
    /// What it is.
    pub product: &'static str,
    /// Memory, GB.
    pub memory_gb: f64,
    /// Dense peak of f32 without tensor cores, TFLOP/s.
    pub f32: f64,
    /// Dense peak of tf32 tensor cores, TFLOP/s; `None` where there are none.
    pub tf32: Option<f64>,
    /// Dense peak of bf16 tensor cores with f32 accumulation, TFLOP/s; `None` where there are none.
    pub bf16: Option<f64>,
}

const fn device(
    name: &'static str,
    product: &'static str,
    memory_gb: f64,
    f32: f64,
    tf32: Option<f64>,
    bf16: Option<f64>,
) -> Device {
    Device { name, product, memory_gb, f32, tf32, bf16 }
}

/// Source of each line: NVIDIA's data sheet of that product.
pub const DEVICES: [Device; 13] = [
    device("v100", "Tesla V100 SXM2 32 GB", 32.0, 15.7, None, None),
    device("t4", "T4 16 GB", 16.0, 8.1, None, None),
    device("a100", "A100 SXM4 80 GB", 80.0, 19.5, Some(156.0), Some(312.0)),
    device("a100-40gb", "A100 SXM4 40 GB", 40.0, 19.5, Some(156.0), Some(312.0)),
    device("a10", "A10 24 GB", 24.0, 31.2, Some(62.5), Some(125.0)),
    device("a40", "A40 48 GB", 48.0, 37.4, Some(74.8), Some(149.7)),
    device("l4", "L4 24 GB", 24.0, 30.3, Some(60.0), Some(121.0)),
    device("l40", "L40 48 GB", 48.0, 90.5, Some(90.5), Some(181.0)),
    device("l40s", "L40S 48 GB", 48.0, 91.6, Some(183.0), Some(362.0)),
    device("h100", "H100 SXM5 80 GB", 80.0, 67.0, Some(494.7), Some(989.4)),
    device("h100-pcie", "H100 PCIe 80 GB", 80.0, 51.0, Some(378.0), Some(756.0)),
    device("h200", "H200 SXM 141 GB", 141.0, 67.0, Some(494.7), Some(989.4)),
    device("b200", "B200 SXM 180 GB", 180.0, 75.0, Some(1125.0), Some(2250.0)),
];

/// All modes, the most accurate first.
pub const MODES: [Arithmetic; 4] = [Arithmetic::F32, Arithmetic::Tf32x3, Arithmetic::Tf32, Arithmetic::Bf16];

impl Device {
    /// A device by its name.
    ///
    /// # Errors
    /// [`Error::Config`] with the names there are.
    pub fn named(name: &str) -> Result<Self> {
        let found = DEVICES.iter().find(|device| device.name.eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = DEVICES.iter().map(|device| device.name).collect();
            Error::Config(format!(
                "--device {name}: not in the table; expected one of {}. For any other, measure it: hesspec bench CONFIG \
                 --calibration FILE there, then plan --calibration FILE",
                names.join(", ")
            ))
        })
    }

    /// Whether a driver's name ("NVIDIA A100-SXM4-80GB", "Tesla T4") is that of this model, whatever its form and memory.
    pub fn is_called(&self, name: &str) -> bool {
        let model = self.product.split(' ').find(|word| *word != "Tesla");
        name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| Some(word) == model)
    }

    /// Dense peak in a mode, TFLOP/s; 3xtf32 is three tf32 products.
    pub fn peak(&self, math: Arithmetic) -> Option<f64> {
        match math {
            Arithmetic::F32 => Some(self.f32),
            Arithmetic::Tf32x3 => self.tf32.map(|peak| peak / 3.0),
            Arithmetic::Tf32 => self.tf32,
            Arithmetic::Bf16 => self.bf16,
        }
    }
}

/// Share of the peak that a plan assumes where nothing was measured: the faster the products, the more the rest of a pass
/// weighs. GPT-2 124M, 4 windows and 4 slots, reached 0.53 in f32 and 0.18 in tf32 on an H100 SXM; the other two are reckoned
/// from that, and other devices may differ. The paper's figures amount to 0.18 of an A100's tf32 peak (`paper.rs`).
pub fn assumed_efficiency(math: Arithmetic) -> f64 {
    match math {
        Arithmetic::F32 => 0.5,
        Arithmetic::Tf32x3 => 0.3,
        Arithmetic::Tf32 => 0.18,
        Arithmetic::Bf16 => 0.1,
    }
}

/// Relative rounding error of an operand in a mode: half a unit in the last of 24, 21, 11 and 8 bits.
pub fn rounding(math: Arithmetic) -> f64 {
    let bits = match math {
        Arithmetic::F32 => 24,
        Arithmetic::Tf32x3 => 21,
        Arithmetic::Tf32 => 11,
        Arithmetic::Bf16 => 8,
    };
    0.5f64.powi(bits)
}

/// A mode as the configuration writes it.
pub fn mode_name(math: Arithmetic) -> &'static str {
    match math {
        Arithmetic::F32 => "f32",
        Arithmetic::Tf32x3 => "3xtf32",
        Arithmetic::Tf32 => "tf32",
        Arithmetic::Bf16 => "bf16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_plausible_peaks() {
        for device in DEVICES {
            assert_eq!(Device::named(&device.name.to_uppercase()).unwrap(), device);
            let peaks: Vec<f64> =
                [Arithmetic::F32, Arithmetic::Tf32, Arithmetic::Bf16].iter().filter_map(|m| device.peak(*m)).collect();
            assert!(peaks.windows(2).all(|pair| pair[0] <= pair[1]), "{device:?}");
            if let (Some(tf32), Some(bf16)) = (device.tf32, device.bf16) {
                // every generation doubles from tf32 to bf16
                assert!((bf16 / tf32 - 2.0).abs() < 0.05, "{device:?}");
                assert_eq!(device.peak(Arithmetic::Tf32x3), Some(tf32 / 3.0));
            }
        }
        let called = |device: &str, name: &str| Device::named(device).unwrap().is_called(name);
        for (device, name) in [
            ("t4", "Tesla T4"),
            ("v100", "Tesla V100-SXM2-32GB"),
            ("a100", "NVIDIA A100-SXM4-80GB"),
            ("l40s", "NVIDIA L40S"),
        ] {
            assert!(called(device, name), "{device}: {name}");
        }
        assert!(
            !called("l40", "NVIDIA L40S")
                && !called("a10", "NVIDIA A100-SXM4-80GB")
                && !called("h200", "NVIDIA H100 80GB HBM3")
        );
        let message = Device::named("h1000").unwrap_err().to_string();
        assert!(message.contains("h100, h100-pcie") && message.contains("--calibration"), "{message}");
        assert!(Device::named("v100").unwrap().peak(Arithmetic::Bf16).is_none());
    }
}
