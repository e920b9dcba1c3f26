//! `[data.images]`: images with labels, from IDX files (MNIST, Fashion-MNIST).

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{Dataset, Place, Samples, Unit};
use crate::data::Idx;
use crate::document::Check;
use crate::shown::Url;
use crate::{Error, Result};

/// Largest value of a pixel.
const WHITE: f64 = 255.0;

/// `[data.images]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFiles {
    /// IDX file of images, gzipped or not; path or URL.
    pub path: Url,
    /// IDX file of labels, as many as there are images.
    pub labels: Url,
    /// Subtracted from every pixel, which is between 0 and 1. Default: 0.
    #[serde(default)]
    pub mean: f64,
    /// Divides every pixel afterwards. Default: 1.
    #[serde(default = "one")]
    pub std: f64,
}

fn one() -> f64 {
    1.0
}

/// What a classifier of images asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Values of an image: channels x height x width.
    pub pixels: usize,
    /// Number of classes: all labels are below it.
    pub classes: usize,
}

/// Some images and their labels.
#[derive(Debug, Clone)]
pub struct ImageBatch<B: Backend> {
    /// (images, channels, height, width).
    pub images: Tensor<B, 4>,
    /// (images).
    pub labels: Tensor<B, 1, Int>,
}

impl Dataset for ImageFiles {
    const KIND: &'static str = "images";
    type Shape = ImageShape;
    type Samples = Images;

    fn unit(_: &ImageShape) -> Unit {
        Unit { sample: "image", ..Unit::SAMPLE }
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        for (key, value) in [("path", &self.path), ("labels", &self.labels)] {
            check.place(key, value, value.refused_as_input())?;
        }
        check.that(self.mean.is_finite(), "mean", self.mean, "expected a number")?;
        check.that(self.std.is_finite() && self.std > 0.0, "std", self.std, "expected a number above 0")
    }

    fn open(&self, shape: &ImageShape) -> Result<Images> {
        let images = Idx::read(&self.path, 3, |found| self.fits(found, shape))?;
        let (count, size) = (images.shape[0], [images.shape[1], images.shape[2]]);
        let labels = Idx::read(&self.labels, 1, |found| {
            let Self { path, labels, .. } = self;
            let problem = format!("{labels}: {} labels for the {count} images of {path}; expected as many", found[0]);
            if found[0] == count { Ok(()) } else { Err(Error::Config(problem)) }
        })?;
        if let Some(at) = labels.entries.iter().position(|label| usize::from(*label) >= shape.classes) {
            return Err(Error::Config(format!(
                "{}: label {} of image {at}; the network has {} classes, from 0 on",
                self.labels, labels.entries[at], shape.classes
            )));
        }
        let Self { mean, std, .. } = *self;
        Ok(Images { pixels: images.entries, labels: labels.entries, size, mean, std })
    }

    fn synthetic(&self, shape: &ImageShape) -> Result<Images> {
        let value = |at: usize| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize;
        let pixels = (0..SYNTHETIC * shape.pixels).map(|at| value(at) as u8).collect();
        let labels = (0..SYNTHETIC).map(|at| (value(at) % shape.classes.clamp(1, 256)) as u8).collect();
        let Self { mean, std, .. } = *self;
        Ok(Images { pixels, labels, size: [1, shape.pixels], mean, std })
    }
}

impl ImageFiles {
    /// Whether images of these sizes, (images, height, width), are what a network takes.
    fn fits(&self, found: &[usize], shape: &ImageShape) -> Result<()> {
        let (height, width) = (found[1], found[2]);
        if height.checked_mul(width) == Some(shape.pixels) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: images of {height} x {width} are {} values, the network takes {}",
            self.path,
            height as u128 * width as u128,
            shape.pixels
        )))
    }
}

/// Made-up images, over again where more are asked for.
const SYNTHETIC: usize = 64;

/// Images in memory, a byte a pixel.
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    size: [usize; 2],
    mean: f64,
    std: f64,
}

impl Images {
    fn pixels(&self, position: usize) -> &[u8] {
        let size = self.size[0] * self.size[1];
        &self.pixels[position * size..(position + 1) * size]
    }
}

impl Samples for Images {
    type Batch<B: Backend> = ImageBatch<B>;

    fn num_positions(&self) -> usize {
        self.labels.len()
    }

    fn size(&self) -> String {
        format!("{} images", self.labels.len())
    }

    fn batch<B: Backend>(&self, positions: &[usize], place: &Place<B>) -> Result<ImageBatch<B>> {
        let value = |pixel: &u8| (f64::from(*pixel) / WHITE - self.mean) / self.std;
        let values: Vec<f64> = positions.iter().flat_map(|at| self.pixels(*at).iter().map(value)).collect();
        let labels: Vec<i32> = positions.iter().map(|at| i32::from(self.labels[*at])).collect();
        let shape = [positions.len(), 1, self.size[0], self.size[1]];
        Ok(ImageBatch { images: place.floats(values, shape), labels: place.integers(labels, [positions.len()]) })
    }

    /// The pixels of each image and its label, as bytes.
    fn content(&self, positions: &[usize]) -> Result<Option<Vec<u8>>> {
        Ok(Some(positions.iter().flat_map(|at| self.pixels(*at).iter().chain([&self.labels[*at]])).copied().collect()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    type Plain = burn_flex::Flex;

    fn idx(shape: &[u32], entries: &[u8]) -> Vec<u8> {
        let sizes = shape.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(sizes).chain(entries.iter().copied()).collect()
    }

    fn files(folder: &std::path::Path, labels: &[u8]) -> ImageFiles {
        let pixels: Vec<u8> = (0..3 * 4).map(|at| at * 20).collect();
        std::fs::write(folder.join("images"), idx(&[3, 2, 2], &pixels)).unwrap();
        std::fs::write(folder.join("labels"), idx(&[labels.len() as u32], labels)).unwrap();
        let path = |name: &str| Url::from(folder.join(name).display().to_string().as_str());
        ImageFiles { path: path("images"), labels: path("labels"), mean: 0.5, std: 2.0 }
    }

    #[test]
    fn pixels_are_scaled_and_stay_with_their_labels() {
        let folder = tempfile::tempdir().unwrap();
        let images = files(folder.path(), &[2, 0, 1]).open(&ImageShape { pixels: 4, classes: 3 }).unwrap();
        let batch = images.batch::<Plain>(&[2, 0], &Place::new(Default::default(), DType::F32)).unwrap();
        assert_eq!(batch.images.dims(), [2, 1, 2, 2]);
        assert_eq!(batch.labels.into_data().iter::<i64>().collect::<Vec<_>>(), [1, 2]);
        let values: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
        let expected = |pixel: f64| ((pixel / 255.0 - 0.5) / 2.0) as f32;
        assert_eq!(values, [160.0, 180.0, 200.0, 220.0, 0.0, 20.0, 40.0, 60.0].map(expected));
        assert_eq!(images.content(&[1]).unwrap().unwrap(), [80, 100, 120, 140, 0]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |labels: &[u8], pixels, classes| {
            let error = files(folder.path(), labels).open(&ImageShape { pixels, classes }).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(refused(&[0, 1], 4, 3).contains("labels: 2 labels for the 3 images"));
        assert!(refused(&[0, 1, 2], 9, 3).contains("images of 2 x 2 are 4 values, the network takes 9"));
        assert!(refused(&[0, 1, 7], 4, 3).contains("labels: label 7 of image 2; the network has 3 classes"));
    }
}
