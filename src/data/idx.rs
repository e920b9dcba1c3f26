//! IDX, the format of MNIST and Fashion-MNIST: four bytes of magic (0, 0, type, number of axes), the size of each axis as a
//! big-endian u32, the entries in row-major order. Here entries are bytes (type 8); files may be gzipped.
//! Source: Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*.

use std::io::Read;

use super::unpacked::unpacked;
use crate::shown::Url;
use crate::{Error, Result};

/// Type of unsigned bytes.
const UNSIGNED_BYTE: u8 = 8;
/// Entries that fit into memory beside a run; far beyond MNIST's 47 million.
const MOST_ENTRIES: u64 = 1 << 34;

/// An array of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// Entries, row-major.
    pub entries: Vec<u8>,
}

impl Idx {
    /// Reads a file with `axes` axes, by path or URL. `fits` is asked with the size of each axis before any entry is read: a
    /// small file can stand for very many.
    ///
    /// # Errors
    /// [`Error::Config`] with the file's name: not there, not IDX, other entries than bytes, another number of axes, cut short or too
    /// long; [`Error::Storage`].
    pub fn read(name: &Url, axes: usize, fits: impl FnOnce(&[usize]) -> Result<()>) -> Result<Self> {
        Self::parse(name, unpacked(name)?, axes, fits)
    }

    /// The sizes of a file's axes, from its header alone.
    ///
    /// # Errors
    /// As [`Idx::read`].
    pub fn shape(name: &Url, axes: usize) -> Result<Vec<usize>> {
        Self::header(name, &mut unpacked(name)?, axes)
    }

    fn parse(
        name: &Url,
        mut reader: impl Read,
        axes: usize,
        fits: impl FnOnce(&[usize]) -> Result<()>,
    ) -> Result<Self> {
        let wrong = |problem: String| Error::Config(format!("{name}: {problem}"));
        let shape = Self::header(name, &mut reader, axes)?;
        let count = shape.iter().try_fold(1u64, |count, size| count.checked_mul(*size as u64));
        let Some(count) = count.filter(|count| *count <= MOST_ENTRIES) else {
            return Err(wrong(format!("says that it has {shape:?} entries: too many")));
        };
        fits(&shape)?;
        let mut entries = Vec::new(); // as many as there are, whatever the header says
        let found = reader
            .take(count + 1)
            .read_to_end(&mut entries)
            .map_err(|error| wrong(format!("cannot be read ({error})")))?;
        if found as u64 != count {
            let what = if (found as u64) < count { format!("{found}") } else { format!("more than {count}") };
            return Err(wrong(format!(
                "says that it has {shape:?} entries, {count} bytes, and has {what}: is it whole?"
            )));
        }
        Ok(Self { shape, entries })
    }

    fn header(name: &Url, reader: &mut impl Read, axes: usize) -> Result<Vec<usize>> {
        let wrong = |problem: String| Error::Config(format!("{name}: {problem}"));
        let mut magic = [0; 4];
        let short = |error: std::io::Error| {
            wrong(format!("ends within its header, or cannot be unpacked ({error}); {}", expected(axes)))
        };
        reader.read_exact(&mut magic).map_err(short)?;
        if magic[..2] != [0, 0] || magic[2] != UNSIGNED_BYTE {
            let hex: Vec<String> = magic.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(wrong(format!(
                "begins with {}, which is no IDX file of bytes; {}",
                hex.join(" "),
                expected(axes)
            )));
        }
        if usize::from(magic[3]) != axes {
            return Err(wrong(format!("is an IDX file with {} axes; {}", magic[3], expected(axes))));
        }
        let mut shape = Vec::with_capacity(axes);
        for _ in 0..axes {
            let mut size = [0; 4];
            reader.read_exact(&mut size).map_err(short)?;
            shape.push(u32::from_be_bytes(size) as usize);
        }
        Ok(shape)
    }
}

fn expected(axes: usize) -> String {
    let what = if axes == 1 { "labels (magic 00 00 08 01)" } else { "images (magic 00 00 08 03)" };
    format!("expected an IDX file of {what}, gzipped or not")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(shape: &[u32], entries: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, shape.len() as u8];
        shape.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(entries);
        bytes
    }

    fn refused(bytes: &[u8], axes: usize) -> String {
        Idx::parse(&"x.idx".into(), bytes, axes, |_| Ok(())).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let good = bytes(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let found = Idx::parse(&"x.idx".into(), good.as_slice(), 3, |_| Ok(())).unwrap();
        assert_eq!((found.shape.as_slice(), found.entries.as_slice()), (&[2, 1, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        assert!(refused(&good, 1).contains("x.idx: is an IDX file with 3 axes; expected an IDX file of labels"));
        assert!(refused(&good[..good.len() - 1], 3).contains("6 bytes, and has 5"));
        assert!(refused(&[good.clone(), vec![0]].concat(), 3).contains("has more than 6"));
        assert!(refused(&good[..9], 3).contains("within its header"));
        assert!(refused(b"<!DOCTYPE html>", 3).contains("begins with 3c 21 44 4f"));
        assert!(refused(&bytes(&[u32::MAX, u32::MAX, u32::MAX], &[]), 3).contains("too many"));
        assert!(
            refused(&bytes(&[1 << 16, 1 << 8, 1 << 8], &[0]), 3).contains("and has 1"),
            "no memory for what is not there"
        );
    }
}
