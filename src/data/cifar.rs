//! CIFAR-10 and CIFAR-100 in their binary versions: records of labels and an image of 32 x 32, one after the other, with no header.
//!
//! A record of CIFAR-10 is a label and 3,072 pixels, red, green and blue planes in turn, each row by row; CIFAR-100 has two labels in front,
//! that of the superclass (0 to 19) and that of the class (0 to 99), which is the one that is read.
//! Source: A. Krizhevsky, *Learning multiple layers of features from tiny images*, 2009, and the page of the data set.

use std::io::Read;

use super::unpacked::unpacked;
use crate::shown::Url;
use crate::{Error, Result};

/// Bytes that fit into memory beside a run; far beyond CIFAR's 184 million.
const MOST_BYTES: u64 = 1 << 34;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CifarKind {
    /// Ten classes.
    Ten,
    /// A hundred classes in twenty superclasses.
    Hundred,
}

impl CifarKind {
    const ALL: [Self; 2] = [Self::Ten, Self::Hundred];

    /// As people write it.
    fn name(self) -> &'static str {
        match self {
            Self::Ten => "CIFAR-10",
            Self::Hundred => "CIFAR-100",
        }
    }

    /// Bytes in front of a record's pixels; the last one is the label of the class.
    fn num_labels(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn record(self) -> usize {
        self.num_labels() + Cifar::PIXELS
    }

    /// Number of classes, and of superclasses where there are some.
    fn classes(self) -> (u8, Option<u8>) {
        match self {
            Self::Ten => (10, None),
            Self::Hundred => (100, Some(20)),
        }
    }
}

/// Images with their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cifar {
    /// Red, green and blue planes of 32 x 32 of each image, row-major.
    pub pixels: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u8>,
}

impl Cifar {
    /// Channels, height and width.
    pub const SIZE: [usize; 3] = [3, 32, 32];
    /// Bytes of an image.
    const PIXELS: usize = 3 * 32 * 32;

    /// Appends the records of a file, gzipped or not, by path or URL, and says of which kind they are. `kind`: `None` if the
    /// file's length is to say which it is.
    ///
    /// # Errors
    /// [`Error::Config`] with the file's name: not there, no whole number of records, a label that the kind does not have, a
    /// length that is one of both kinds; [`Error::Storage`].
    pub fn append(&mut self, name: &Url, kind: Option<CifarKind>) -> Result<CifarKind> {
        let mut bytes = Vec::new();
        let wrong = |problem: String| Error::Config(format!("{name}: {problem}"));
        let mut reader = unpacked(name)?.take(MOST_BYTES + 1);
        let found = reader.read_to_end(&mut bytes).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        if found as u64 > MOST_BYTES {
            return Err(wrong(format!("has more than {MOST_BYTES} bytes: too many")));
        }
        let kind = kind_of(bytes.len(), kind).map_err(wrong)?;
        for (at, record) in bytes.chunks_exact(kind.record()).enumerate() {
            let (labels, pixels) = record.split_at(kind.num_labels());
            check_labels(kind, labels).map_err(|problem| wrong(format!("image {at}: {problem}")))?;
            self.labels.extend(labels.last());
            self.pixels.extend(pixels);
        }
        Ok(kind)
    }
}

/// The kind that a file of so many bytes is of, which must be `wanted` where that is said.
fn kind_of(len: usize, wanted: Option<CifarKind>) -> std::result::Result<CifarKind, String> {
    let is_whole = |kind: &CifarKind| len > 0 && len.is_multiple_of(kind.record());
    let possible: Vec<CifarKind> = CifarKind::ALL.into_iter().filter(is_whole).collect();
    let asked = |kind: CifarKind| wanted.is_none_or(|wanted| wanted == kind);
    match possible.iter().copied().filter(|kind| asked(*kind)).collect::<Vec<_>>()[..] {
        [kind] => Ok(kind),
        [] => {
            let wanted = CifarKind::ALL.into_iter().filter(|kind| asked(*kind));
            let wanted: Vec<String> =
                wanted.map(|kind| format!("{} bytes an image ({})", kind.record(), kind.name())).collect();
            let other =
                possible.first().map_or(String::new(), |kind| format!("; it is as long as one of {}", kind.name()));
            Err(format!(
                "has {len} bytes; expected the binary version, a whole number of images of {}{other}\nHINT: is it whole, \
                 and not the Python version? IDX files need data.images.labels",
                wanted.join(" or ")
            ))
        }
        _ => Err(format!(
            "has {len} bytes, as many as images of either kind; set data.images.format to \"cifar10\" or \"cifar100\""
        )),
    }
}

fn check_labels(kind: CifarKind, labels: &[u8]) -> std::result::Result<(), String> {
    let (classes, superclasses) = kind.classes();
    let limits = superclasses.map(|most| ("superclass", most)).into_iter().chain([("class", classes)]);
    match labels.iter().zip(limits).find(|(label, (_, most))| *label >= most) {
        None => Ok(()),
        Some((label, (what, most))) => Err(format!(
            "the label of its {what} is {label}; {} has {most}, from 0 on: is it such a file?",
            kind.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], first: u8) -> Vec<u8> {
        let pixels = (0..Cifar::PIXELS).map(|at| (at as u8).wrapping_mul(7).wrapping_add(first));
        labels.iter().copied().chain(pixels).collect()
    }

    fn read(bytes: &[u8], kind: Option<CifarKind>) -> Result<Cifar> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("batch.bin");
        std::fs::write(&path, bytes).unwrap();
        let mut cifar = Cifar::default();
        cifar.append(&path.display().to_string().as_str().into(), kind).map(|_| cifar)
    }

    #[test]
    fn records_of_both_kinds_are_told_by_their_length() {
        let ten = read(&[record(&[9], 3), record(&[0], 4)].concat(), None).unwrap();
        assert_eq!((ten.labels.as_slice(), ten.pixels.len()), (&[9, 0][..], 2 * 3072));
        assert_eq!((ten.pixels[0], ten.pixels[3072], ten.pixels[3073]), (3, 4, 11));
        let hundred = read(&record(&[19, 99], 5), None).unwrap();
        assert_eq!((hundred.labels.as_slice(), hundred.pixels[0], hundred.pixels.len()), (&[99][..], 5, 3072));
        let packed = {
            use std::io::Write;
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(&record(&[19, 99], 5)).unwrap();
            packer.finish().unwrap()
        };
        assert_eq!(read(&packed, Some(CifarKind::Hundred)).unwrap(), hundred);
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_its_name() {
        let refused = |bytes: &[u8], kind, parts: &[&str]| {
            let error = read(bytes, kind).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in parts.iter().chain(&["batch.bin: "]) {
                assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
            }
        };
        let good = record(&[1], 0);
        refused(&good[..3000], None, &["has 3000 bytes", "3073 bytes an image (CIFAR-10) or 3074", "is it whole"]);
        refused(&[], None, &["has 0 bytes"]);
        refused(&good, Some(CifarKind::Hundred), &["3073 bytes; expected", "3074", "as long as one of CIFAR-10"]);
        refused(
            &[good.clone(), record(&[10], 0)].concat(),
            None,
            &["image 1: the label of its class is 10; CIFAR-10 has 10"],
        );
        refused(&record(&[20, 5], 0), None, &["image 0: the label of its superclass is 20; CIFAR-100 has 20"]);
        refused(&record(&[0, 100], 0), None, &["the label of its class is 100; CIFAR-100 has 100"]);
        let both = record(&[0, 0], 0).repeat(3073);
        refused(&both, None, &["either kind; set data.images.format"]);
        assert_eq!(read(&both, Some(CifarKind::Hundred)).unwrap().labels.len(), 3073);
    }
}
