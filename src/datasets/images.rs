//! `[data.images]`: images with labels, from IDX files (MNIST, Fashion-MNIST) or the binary files of CIFAR-10 and CIFAR-100.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{Dataset, Place, Samples, Unit};
use crate::data::{Cifar, CifarKind, Idx};
use crate::document::{Check, Each};
use crate::shown::Url;
use crate::storage::expand;
use crate::{Error, Result};

/// Largest value of a pixel.
const WHITE: f64 = 255.0;
/// Far beyond the padding of any image.
const MOST_PADDING: usize = 1024;

/// `[data.images]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFiles {
    /// IDX file of images, gzipped or not, by path or URL; or a file of CIFAR's binary version, or a glob for several
    /// (`data_batch_*.bin`), which are read one after the other, sorted by name.
    pub path: Url,
    /// IDX file of labels, as many as there are images. Absent for CIFAR, whose files hold the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Url>,
    /// Default: IDX if there are `labels`, else what the length of CIFAR's file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Subtracted from every pixel, which is between 0 and 1: a number, or a list with one for each channel. Default: 0.
    #[serde(default = "zero")]
    pub mean: Each,
    /// Divides every pixel afterwards, in the same way. Default: 1.
    #[serde(default = "one")]
    pub std: Each,
    /// So many black pixels (0 before `mean` and `std`) are added on each of the four sides: 2 makes 32 x 32 of 28 x 28. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pad: usize,
}

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// MNIST's format, images and labels in two files.
    Idx,
    /// The binary version of CIFAR-10.
    Cifar10,
    /// The binary version of CIFAR-100, with its hundred classes.
    Cifar100,
}

fn zero() -> Each {
    Each::Same(0.0)
}

fn one() -> Each {
    Each::Same(1.0)
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What a classifier of images asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// Which images it takes.
    pub size: ImageSize,
    /// Number of classes: all labels are below it.
    pub classes: usize,
}

/// Which images a network takes, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSize {
    /// Any with so many values, channels x height x width.
    Values(usize),
    /// Those of these channels, height and width.
    Exactly([usize; 3]),
    /// Any with so many channels whose height and width are `least` or more.
    Channels {
        /// Their number.
        channels: usize,
        /// The smallest height and width.
        least: usize,
        /// Height and width that plans assume where the files are not at hand.
        typical: [usize; 2],
    },
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
        for (key, value) in [("path", Some(&self.path)), ("labels", self.labels.as_ref())] {
            value.map_or(Ok(()), |value| check.place(key, value, value.refused_as_input()))?;
        }
        let labels = self.labels.as_ref().map_or(String::new(), |labels| format!("{labels:?}"));
        let inside = "CIFAR's files hold their labels; leave this out";
        check.that(self.labels.is_none() || self.is_idx(), "labels", labels, inside)?;
        let outside = "IDX files of images have their labels in another file; set data.images.labels";
        check.that(self.labels.is_some() || !self.is_idx(), "format", "idx", outside)?;
        let is_list_of = |each: &Each, holds: fn(f64) -> bool| {
            !each.numbers().is_empty() && each.numbers().iter().all(|number| number.is_finite() && holds(*number))
        };
        let (mean, std) =
            ("expected a number, or one for each channel", "expected a number above 0, or one for each channel");
        check.that(is_list_of(&self.mean, |_| true), "mean", &self.mean, mean)?;
        check.that(is_list_of(&self.std, |number| number > 0.0), "std", &self.std, std)?;
        check.that(self.pad <= MOST_PADDING, "pad", self.pad, format!("expected {MOST_PADDING} or less"))
    }

    fn open(&self, shape: &ImageShape) -> Result<Images> {
        let (pixels, labels, size) = if self.is_idx() { self.idx(shape)? } else { self.cifar(shape)? };
        if let Some(at) = labels.iter().position(|label| usize::from(*label) >= shape.classes) {
            return Err(Error::Config(format!(
                "{}: label {} of image {at}; the network has {} classes, from 0 on",
                self.labels.as_ref().unwrap_or(&self.path),
                labels[at],
                shape.classes
            )));
        }
        let each = |key: &str, each: &Each| {
            each.of(size[0]).ok_or_else(|| {
                let (path, channels) = (&self.path, channels(size[0]));
                Error::Config(format!(
                    "{path}: images of {channels}; data.images.{key} = {each}: expected one for each"
                ))
            })
        };
        let levels = levels(&each("mean", &self.mean)?, &each("std", &self.std)?);
        Ok(Images { pixels, labels, size, pad: self.pad, levels })
    }

    /// Of the size that the network fixes; else of that of the files, if they are here, or of the typical one.
    fn synthetic(&self, shape: &ImageShape) -> Result<Images> {
        let size = match shape.size {
            ImageSize::Values(values) => [1, 1, values],
            ImageSize::Exactly(size) => size,
            ImageSize::Channels { channels, least, typical } => {
                let [height, width] = self.size_at_hand().unwrap_or(typical);
                [channels, height.max(least), width.max(least)]
            }
        };
        let value = |at: usize| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize;
        let pixels = (0..SYNTHETIC * size.iter().product::<usize>()).map(|at| value(at) as u8).collect();
        let labels = (0..SYNTHETIC).map(|at| (value(at) % shape.classes.clamp(1, 256)) as u8).collect();
        let each = |each: &Each| each.of(size[0]).unwrap_or_else(|| vec![each.numbers()[0]; size[0]]);
        Ok(Images { pixels, labels, size, pad: 0, levels: levels(&each(&self.mean), &each(&self.std)) })
    }
}

/// Pixels and labels of all images, and the size of each: channels, height, width.
type Read = (Vec<u8>, Vec<u8>, [usize; 3]);

impl ImageFiles {
    fn is_idx(&self) -> bool {
        self.format.map_or(self.labels.is_some(), |format| format == ImageFormat::Idx)
    }

    fn idx(&self, shape: &ImageShape) -> Result<Read> {
        let Some(at_labels) = &self.labels else {
            return Err(Error::Config(format!(
                "{}: the labels are in another file; set data.images.labels",
                self.path
            )));
        };
        let images = Idx::read(&self.path, 3, |found| self.fits([1, found[1], found[2]], shape))?;
        let (count, size) = (images.shape[0], [1, images.shape[1], images.shape[2]]);
        let labels = Idx::read(at_labels, 1, |found| {
            let path = &self.path;
            let problem =
                format!("{at_labels}: {} labels for the {count} images of {path}; expected as many", found[0]);
            if found[0] == count { Ok(()) } else { Err(Error::Config(problem)) }
        })?;
        Ok((images.entries, labels.entries, size))
    }

    fn cifar(&self, shape: &ImageShape) -> Result<Read> {
        self.fits(Cifar::SIZE, shape)?;
        let mut kind = match self.format {
            Some(ImageFormat::Cifar10) => Some(CifarKind::Ten),
            Some(ImageFormat::Cifar100) => Some(CifarKind::Hundred),
            Some(ImageFormat::Idx) | None => None,
        };
        let mut cifar = Cifar::default();
        for name in expand(&self.path)? {
            kind = Some(cifar.append(&name, kind)?);
        }
        Ok((cifar.pixels, cifar.labels, Cifar::SIZE))
    }

    /// Height and width of the images, padding included, if that is known without asking a network.
    fn size_at_hand(&self) -> Option<[usize; 2]> {
        let [height, width] = if self.is_idx() {
            let shape = self.path.is_local().then(|| Idx::shape(&self.path, 3).ok()).flatten()?;
            [shape[1], shape[2]]
        } else {
            [Cifar::SIZE[1], Cifar::SIZE[2]]
        };
        Some([height + 2 * self.pad, width + 2 * self.pad])
    }

    /// Whether images of this size, (channels, height, width), are what a network takes.
    fn fits(&self, [of, height, width]: [usize; 3], shape: &ImageShape) -> Result<()> {
        let padded = [of, height + 2 * self.pad, width + 2 * self.pad];
        let values = padded.iter().map(|size| *size as u128).product::<u128>();
        let fits = match shape.size {
            ImageSize::Values(wanted) => values == wanted as u128,
            ImageSize::Exactly(wanted) => padded == wanted,
            ImageSize::Channels { channels, least, .. } => of == channels && padded[1].min(padded[2]) >= least,
        };
        if fits && height > 0 && width > 0 {
            return Ok(());
        }
        let is_size = match shape.size {
            ImageSize::Values(_) => false,
            ImageSize::Exactly([channels, ..]) | ImageSize::Channels { channels, .. } => channels == of,
        };
        let hint = if is_size { "\nHINT: data.images.pad adds black pixels on each side" } else { "" };
        let comma = if self.pad == 0 { "" } else { "," };
        let problem = match shape.size {
            ImageSize::Values(wanted) => format!("{comma} are {values} values, the network takes {wanted}"),
            ImageSize::Exactly([of, height, width]) => {
                format!("; the network takes images of {height} x {width} with {}{hint}", channels(of))
            }
            ImageSize::Channels { channels: of, least, .. } => {
                format!("; the network takes images of at least {least} x {least} with {}{hint}", channels(of))
            }
        };
        let of = if of == 1 && (is_size || matches!(shape.size, ImageSize::Values(_))) {
            String::new()
        } else {
            format!("{of} x ")
        };
        let padding = if self.pad == 0 { "" } else { &format!(", padded to {} x {}", padded[1], padded[2]) };
        Err(Error::Config(format!("{}: images of {of}{height} x {width}{padding}{problem}", self.path)))
    }
}

/// `1 channel`, `3 channels`.
fn channels(number: usize) -> String {
    format!("{number} channel{}", if number == 1 { "" } else { "s" })
}

/// What each value of a pixel is for the network, channel by channel.
fn levels(mean: &[f64], std: &[f64]) -> Vec<Vec<f64>> {
    let level = |pixel: u8, mean: f64, std: f64| (f64::from(pixel) / WHITE - mean) / std;
    mean.iter().zip(std).map(|(mean, std)| (0..=u8::MAX).map(|pixel| level(pixel, *mean, *std)).collect()).collect()
}

/// Made-up images, over again where more are asked for.
const SYNTHETIC: usize = 64;

/// Images in memory, a byte a pixel.
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    /// Channels, height, width.
    size: [usize; 3],
    /// Black pixels on each side.
    pad: usize,
    /// By channel and pixel.
    levels: Vec<Vec<f64>>,
}

impl Images {
    fn pixels(&self, position: usize) -> &[u8] {
        let size = self.size.iter().product::<usize>();
        &self.pixels[position * size..(position + 1) * size]
    }

    /// Appends what the network sees of an image: channels x height x width, padded.
    fn append(&self, position: usize, values: &mut Vec<f64>) {
        let ([_, height, width], pad) = (self.size, self.pad);
        for (plane, levels) in self.pixels(position).chunks(height * width).zip(&self.levels) {
            let black = |rows: usize| std::iter::repeat_n(levels[0], rows * (width + 2 * pad));
            values.extend(black(pad));
            for row in plane.chunks(width) {
                values.extend(std::iter::repeat_n(levels[0], pad));
                values.extend(row.iter().map(|pixel| levels[usize::from(*pixel)]));
                values.extend(std::iter::repeat_n(levels[0], pad));
            }
            values.extend(black(pad));
        }
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
        let [channels, height, width] = self.size;
        let shape = [positions.len(), channels, height + 2 * self.pad, width + 2 * self.pad];
        let mut values = Vec::with_capacity(shape.iter().product());
        positions.iter().for_each(|at| self.append(*at, &mut values));
        let labels: Vec<i32> = positions.iter().map(|at| i32::from(self.labels[*at])).collect();
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

    fn url(path: &std::path::Path) -> Url {
        Url::from(path.display().to_string().as_str())
    }

    fn files(folder: &std::path::Path, labels: &[u8]) -> ImageFiles {
        let pixels: Vec<u8> = (0..3 * 4).map(|at| at * 20).collect();
        std::fs::write(folder.join("images"), idx(&[3, 2, 2], &pixels)).unwrap();
        std::fs::write(folder.join("labels"), idx(&[labels.len() as u32], labels)).unwrap();
        let labels = Some(url(&folder.join("labels")));
        ImageFiles {
            path: url(&folder.join("images")),
            labels,
            format: None,
            mean: 0.5.into(),
            std: 2.0.into(),
            pad: 0,
        }
    }

    fn values(images: &Images, positions: &[usize]) -> (Vec<f32>, [usize; 4], Vec<i64>) {
        let batch = images.batch::<Plain>(positions, &Place::new(Default::default(), DType::F32)).unwrap();
        let dims = batch.images.dims();
        (batch.images.into_data().iter().collect(), dims, batch.labels.into_data().iter().collect())
    }

    const FOUR: ImageShape = ImageShape { size: ImageSize::Values(4), classes: 3 };

    #[test]
    fn pixels_are_scaled_and_stay_with_their_labels() {
        let folder = tempfile::tempdir().unwrap();
        let images = files(folder.path(), &[2, 0, 1]).open(&FOUR).unwrap();
        let (found, dims, labels) = values(&images, &[2, 0]);
        assert_eq!((dims, labels.as_slice()), ([2, 1, 2, 2], &[1, 2][..]));
        let expected = |pixel: f64| ((pixel / 255.0 - 0.5) / 2.0) as f32;
        assert_eq!(found, [160.0, 180.0, 200.0, 220.0, 0.0, 20.0, 40.0, 60.0].map(expected));
        assert_eq!(images.content(&[1]).unwrap().unwrap(), [80, 100, 120, 140, 0]);
    }

    #[test]
    fn padding_is_black_and_counts_for_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let padded = ImageFiles { pad: 1, ..files(folder.path(), &[2, 0, 1]) };
        let size = ImageSize::Exactly([1, 4, 4]);
        let images = padded.open(&ImageShape { size, ..FOUR }).unwrap();
        let (found, dims, _) = values(&images, &[1]);
        assert_eq!(dims, [1, 1, 4, 4]);
        let expected = |pixel: f64| ((pixel / 255.0 - 0.5) / 2.0) as f32;
        let pixels = [0, 0, 0, 0, 0, 80, 100, 0, 0, 120, 140, 0, 0, 0, 0, 0];
        assert_eq!(found, pixels.map(|pixel| expected(f64::from(pixel))));
        assert_eq!(images.content(&[1]).unwrap().unwrap(), [80, 100, 120, 140, 0], "what the files hold");
        assert_eq!(padded.size_at_hand(), Some([4, 4]));
        let text = padded.open(&FOUR).err().unwrap().to_string();
        assert!(text.contains("images of 2 x 2, padded to 4 x 4, are 16 values, the network takes 4"), "{text}");
    }

    #[test]
    fn the_files_of_cifar_are_read_in_order_channel_by_channel() {
        let folder = tempfile::tempdir().unwrap();
        let record = |label: u8, planes: [u8; 3]| {
            [label].into_iter().chain(planes.into_iter().flat_map(|plane| vec![plane; 1024])).collect::<Vec<u8>>()
        };
        std::fs::write(folder.path().join("batch_2.bin"), record(7, [51, 102, 255])).unwrap();
        std::fs::write(folder.path().join("batch_1.bin"), record(3, [0, 51, 102])).unwrap();
        let each = |numbers: &[f64]| Each::List(numbers.to_vec());
        let files = ImageFiles {
            path: url(&folder.path().join("batch_*.bin")),
            labels: None,
            format: None,
            mean: each(&[0.0, 0.2, 0.4]),
            std: each(&[1.0, 0.5, 0.2]),
            pad: 0,
        };
        let shape = ImageShape { size: ImageSize::Exactly([3, 32, 32]), classes: 10 };
        let images = files.open(&shape).unwrap();
        let (found, dims, labels) = values(&images, &[0, 1]);
        assert_eq!((dims, labels.as_slice()), ([2, 3, 32, 32], &[3, 7][..]));
        let plane = |at: usize| found[at * 1024];
        assert!(found.chunks(1024).all(|plane| plane.iter().all(|value| *value == plane[0])));
        for (at, expected) in [0.0, 0.0, 0.0, 0.2, 0.4, 3.0].into_iter().enumerate() {
            assert!((plane(at) - expected).abs() < 1e-6, "plane {at}: {}", plane(at));
        }
        let refused = |files: &ImageFiles, shape: &ImageShape, part: &str| {
            let error = files.open(shape).err().unwrap();
            assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
        };
        refused(
            &files,
            &ImageShape { classes: 4, ..shape },
            "batch_*.bin: label 7 of image 1; the network has 4 classes",
        );
        refused(
            &ImageFiles { mean: each(&[0.0, 1.0]), ..files.clone() },
            &shape,
            "3 channels; data.images.mean = [0.0, 1.0]",
        );
        let grey = ImageSize::Channels { channels: 1, least: 8, typical: [28, 28] };
        refused(
            &files,
            &ImageShape { size: grey, ..shape },
            "images of 3 x 32 x 32; the network takes images of at least 8 x 8 with 1 channel",
        );
        let hundred = ImageFiles { format: Some(ImageFormat::Cifar100), ..files.clone() };
        refused(&hundred, &shape, "batch_1.bin: has 3073 bytes");
    }

    #[test]
    fn made_up_images_have_the_size_of_the_files_where_the_network_takes_any() {
        let folder = tempfile::tempdir().unwrap();
        let files = ImageFiles { pad: 2, ..files(folder.path(), &[0, 0, 0]) };
        let size = ImageSize::Channels { channels: 1, least: 1, typical: [9, 9] };
        let dims = |files: &ImageFiles| values(&files.synthetic(&ImageShape { size, classes: 3 }).unwrap(), &[0]).1;
        assert_eq!(dims(&files), [1, 1, 6, 6]);
        assert_eq!(dims(&ImageFiles { path: "/nowhere".into(), ..files.clone() }), [1, 1, 9, 9]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |labels: &[u8], pixels, classes| {
            let shape = ImageShape { size: ImageSize::Values(pixels), classes };
            let error = files(folder.path(), labels).open(&shape).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(refused(&[0, 1], 4, 3).contains("labels: 2 labels for the 3 images"));
        assert!(refused(&[0, 1, 2], 9, 3).contains("images of 2 x 2 are 4 values, the network takes 9"));
        assert!(refused(&[0, 1, 7], 4, 3).contains("labels: label 7 of image 2; the network has 3 classes"));
    }
}
