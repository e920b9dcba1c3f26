//! Files that may be gzipped, read from their beginning.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use crate::Result;
use crate::shown::Url;
use crate::storage::Input;

/// What gzip files begin with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The bytes of a file by path or URL, unpacked if it begins as gzip files do.
///
/// # Errors
/// Those of [`Input::open`].
pub(super) fn unpacked(name: &Url) -> Result<Box<dyn Read + Send>> {
    let input = Input::open(name)?;
    let mut start = Vec::with_capacity(GZIP.len());
    input.reader(0)?.take(GZIP.len() as u64).read_to_end(&mut start).map_err(|error| input.error(error))?;
    let reader = input.reader(0)?;
    Ok(if start == GZIP { Box::new(MultiGzDecoder::new(reader)) } else { reader })
}
