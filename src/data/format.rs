//! How a file holds its tokens, told by its content.
//!
//! | format | content |
//! |---|---|
//! | nanoGPT `.bin` | nothing but little-endian uint16 |
//! | uint32 | nothing but little-endian uint32: only if `[data.tokens] dtype` says so, for nothing in the file does |
//! | llm.c shard | 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then uint16 |
//! | llm.c shard for Llama 3 | the same with magic 20240801 and version 7, then uint32 |
//! | NumPy `.npy` | a header, then uint16 or uint32: the shards of build-nanogpt |
//!
//! A file of raw numbers has nothing in it that says so. What begins like another kind of file, or like numbers of another width or
//! byte order, is refused, unless `[data.tokens] dtype` says that it is meant.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file_error;
use crate::{Result, file};

/// Bytes at the front of a file that tell what it is: llm.c's header.
pub(super) const HEADER_BYTES: usize = 256 * 4;
pub(super) const MAGIC: i32 = 20240520;
pub(super) const VERSION: i32 = 1;
/// llm.c's format for Llama 3: 32-bit tokens.
pub(super) const MAGIC_LLAMA: i32 = 20240801;
pub(super) const VERSION_LLAMA: i32 = 7;
const NUMPY: &[u8] = b"\x93NUMPY";
/// Numbers that must be there to judge a file by them.
const FEWEST: usize = 16;

/// Width of the numbers in a file without a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// Bytes: byte-level tokens, weights.
    Uint8,
    /// Little-endian, 16 bits.
    #[default]
    Uint16,
    /// Little-endian, 32 bits: vocabularies beyond 65,536.
    Uint32,
}

impl TokenType {
    /// Bytes of a number.
    pub fn width(self) -> usize {
        match self {
            Self::Uint8 => 1,
            Self::Uint16 => 2,
            Self::Uint32 => 4,
        }
    }

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
        }
    }

    /// The narrowest for tokens of a vocabulary.
    pub fn of_vocabulary(size: usize) -> Self {
        if size > 1 << 16 { Self::Uint32 } else { Self::Uint16 }
    }
}

impl std::str::FromStr for TokenType {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "uint8" => Ok(Self::Uint8),
            "uint16" => Ok(Self::Uint16),
            "uint32" => Ok(Self::Uint32),
            other => Err(format!("there is no type {other:?}; allowed: uint8, uint16, uint32")),
        }
    }
}

/// How a file holds its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Raw uint8.
    Bytes,
    /// Raw uint16.
    NanoGpt,
    /// Raw uint32.
    Uint32,
    /// A header, then uint16.
    LlmC,
    /// A header, then uint32.
    LlmCLlama,
    /// NumPy's header of so many bytes, then numbers of so many.
    Numpy {
        /// Bytes of the header.
        header: usize,
        /// Bytes of a number: 1, 2 or 4.
        width: usize,
    },
}

impl Format {
    /// Bytes in front of the first token.
    pub fn header(self) -> usize {
        match self {
            Self::Bytes | Self::NanoGpt | Self::Uint32 => 0,
            Self::LlmC | Self::LlmCLlama => HEADER_BYTES,
            Self::Numpy { header, .. } => header,
        }
    }

    /// Bytes of a token.
    pub fn width(self) -> usize {
        match self {
            Self::Bytes => 1,
            Self::NanoGpt | Self::LlmC => 2,
            Self::Uint32 | Self::LlmCLlama => 4,
            Self::Numpy { width, .. } => width,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "raw uint8",
            Self::NanoGpt => "nanoGPT uint16",
            Self::Uint32 => "raw uint32",
            Self::LlmC => "llm.c uint16, version 1",
            Self::LlmCLlama => "llm.c uint32, version 7",
            Self::Numpy { width: 1, .. } => "NumPy uint8",
            Self::Numpy { width: 2, .. } => "NumPy uint16",
            Self::Numpy { .. } => "NumPy uint32",
        }
    }
}

/// Format and number of tokens of a file of `bytes` bytes, the first of which are `header`. `asked`: what `[data.tokens] dtype` says.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for a file that is something else, or cut short.
pub(super) fn recognise(path: &Path, header: &[u8], bytes: u64, asked: Option<TokenType>) -> Result<(Format, usize)> {
    // what says itself what it is
    let own = match (header_entry(header, 0), header_entry(header, 1)) {
        _ if header.starts_with(NUMPY) => Some(numpy(path, header, bytes)?),
        (Some(MAGIC), Some(VERSION)) => Some((Format::LlmC, shard_len(path, header, bytes, 2)?)),
        (Some(MAGIC_LLAMA), Some(VERSION_LLAMA)) => Some((Format::LlmCLlama, shard_len(path, header, bytes, 4)?)),
        _ => None,
    };
    if let Some((format, len)) = own {
        return match asked.filter(|asked| asked.width() != format.width()) {
            None => Ok((format, len)),
            Some(asked) => Err(file_error(
                path,
                format!(
                    "its header says {}, and {} are asked for\nHINT: leave data.tokens.dtype out; weights are uint8",
                    format.name(),
                    asked.name()
                ),
            )),
        };
    }
    if asked == Some(TokenType::Uint8)
        && let Some(what) = file::kind(header)
    {
        return Err(file_error(path, format!("{what}; expected one uint8 for each token, raw or as NumPy's .npy")));
    }
    let format = match (asked, header_entry(header, 0), header_entry(header, 1)) {
        (Some(TokenType::Uint8), ..) => Format::Bytes,
        (Some(TokenType::Uint16), ..) => Format::NanoGpt,
        (Some(TokenType::Uint32), ..) => Format::Uint32,
        (None, Some(magic @ (MAGIC | MAGIC_LLAMA)), Some(version)) => {
            return Err(file_error(
                path,
                format!(
                    "an llm.c shard with magic {magic} and version {version}; expected magic {MAGIC} and version {VERSION} (uint16), \
                     or magic {MAGIC_LLAMA} and version {VERSION_LLAMA} (uint32)\n\
                     HINT: write the shards again with llm.c's dev/data scripts"
                ),
            ));
        }
        (None, ..) => {
            if let Some(what) = file::kind(header).or_else(|| safetensors(header)).or_else(|| other_numbers(header)) {
                return Err(file_error(
                    path,
                    format!(
                        "{what}; expected tokens: nanoGPT's raw uint16, llm.c's shards, or NumPy's .npy of uint16 or uint32\n\
                         HINT: make tokens of text with `hesspec data prepare`; if these are raw numbers nevertheless, say \
                         data.tokens.dtype = \"uint16\" or \"uint32\""
                    ),
                ));
            }
            Format::NanoGpt
        }
    };
    Ok((format, raw_len(path, bytes, format.width())?))
}

/// Entry `index` of llm.c's header, where the file is long enough to have one.
fn header_entry(header: &[u8], index: usize) -> Option<i32> {
    let bytes = header.get(..HEADER_BYTES)?.get(4 * index..4 * index + 4)?;
    bytes.try_into().ok().map(i32::from_le_bytes)
}

/// Whether it begins with a length of eight bytes and JSON, as weights do.
fn safetensors(header: &[u8]) -> Option<&'static str> {
    let is_one = header.len() > 16 && header[3..8] == [0; 5] && header[8..10] == *b"{\"";
    is_one.then_some("it is a safetensors file")
}

/// What numbers of another width or byte order look like, read as little-endian uint16.
fn other_numbers(header: &[u8]) -> Option<&'static str> {
    let numbers: Vec<u16> = header.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let (low, high): (Vec<u16>, Vec<u16>) = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    if low.len() < FEWEST {
        return None;
    }
    if numbers.iter().all(|number| *number == 0) {
        return Some("it begins with nothing but zeros, like a file that was not downloaded whole");
    }
    if numbers.iter().all(|number| *number == numbers[0]) {
        return None;
    }
    let is_high = |number: &u16| *number <= 3 || *number == u16::MAX; // of a negative number, too
    let (varies, is_high_half) = (low.iter().any(|number| *number > 3), high.iter().all(is_high));
    if varies && high.chunks_exact(2).all(|pair| pair == [0, 0]) && low.chunks_exact(2).all(|pair| pair[1] == 0) {
        return Some("three of four of its uint16 are 0, as in a file of int64");
    }
    if varies && is_high_half && (high.iter().all(|number| *number == 0) || low.iter().any(|number| *number > 255)) {
        return Some("every other of its uint16 is 0 or next to it, as in a file of uint32 or int32");
    }
    let is_swapped = numbers.iter().all(|number| number.is_multiple_of(256));
    is_swapped.then_some("all of its uint16 are multiples of 256, as in a file of big-endian numbers")
}

fn raw_len(path: &Path, bytes: u64, width: usize) -> Result<usize> {
    if bytes == 0 {
        return Err(file_error(path, "is empty\nHINT: make it again with `hesspec data prepare`"));
    }
    if !bytes.is_multiple_of(width as u64) {
        return Err(file_error(
            path,
            format!(
                "has {bytes} bytes, which is no whole number of uint{} tokens\n\
                 HINT: the file is truncated or no nanoGPT .bin; make it again with `hesspec data prepare`",
                8 * width
            ),
        ));
    }
    Ok((bytes / width as u64) as usize)
}

fn shard_len(path: &Path, header: &[u8], bytes: u64, width: usize) -> Result<usize> {
    let declared = header_entry(header, 2).unwrap_or_default();
    let found = bytes - HEADER_BYTES as u64;
    let len = usize::try_from(declared).unwrap_or_default();
    if len == 0 || found != (width * len) as u64 {
        return Err(file_error(
            path,
            format!(
                "the header says {declared} tokens ({} bytes), after it there are {found} bytes\n\
                 HINT: the shard is truncated or was still being written; fetch or write it again",
                width as i64 * i64::from(declared)
            ),
        ));
    }
    Ok(len)
}

/// NumPy's format 1.0 to 3.0: magic, version, length of the description, `{'descr': '<u2', 'fortran_order': False, 'shape': (n,), }`.
fn numpy(path: &Path, header: &[u8], bytes: u64) -> Result<(Format, usize)> {
    let refused = |problem: String| {
        file_error(
            path,
            format!(
                "a NumPy file: {problem}; expected one dimension of uint8, or of little-endian uint16 or uint32\n\
                 HINT: numpy.save(path, tokens.astype(\"<u2\")), or \"<u4\" for tokens beyond 65535"
            ),
        )
    };
    let long = header.get(6).is_some_and(|version| *version > 1);
    let (from, len): (usize, usize) = match header {
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] if long => (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        [_, _, _, _, _, _, _, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        _ => return Err(refused("its header is cut short".into())),
    };
    let text = header.get(from..from.saturating_add(len)).and_then(|text| std::str::from_utf8(text).ok());
    let text =
        text.ok_or_else(|| refused("its header is cut short, or longer than that of a list of numbers".into()))?;
    let value = |key: &str| Some(text.split_once(key)?.1.trim_start_matches(['\'', '"', ':', ' ']));
    let descr = value("descr").and_then(|rest| rest.split(['\'', '"']).next()).unwrap_or_default();
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).unwrap_or_default();
    let width = match descr {
        "|u1" => 1,
        "<u2" => 2,
        "<u4" => 4,
        other => return Err(refused(format!("its numbers are `{}`", crate::shown::quoted(other)))),
    };
    let header = from + len;
    let len = shape.trim_end_matches([',', ' ']).parse::<usize>();
    let len = len.map_err(|_| refused(format!("its shape is ({})", crate::shown::quoted(shape))))?;
    let expected = (len as u64).checked_mul(width as u64).and_then(|numbers| numbers.checked_add(header as u64));
    if len == 0 || expected != Some(bytes) {
        return Err(refused(format!("its header says {len} numbers, and the file has {bytes} bytes")));
    }
    Ok((Format::Numpy { header, width }, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(numbers: impl IntoIterator<Item = u32>, bytes: impl Fn(u32) -> [u8; N]) -> Vec<u8> {
        numbers.into_iter().flat_map(bytes).collect()
    }

    fn found(content: &[u8], asked: Option<TokenType>) -> Result<(Format, usize)> {
        recognise(Path::new("x.bin"), &content[..content.len().min(HEADER_BYTES)], content.len() as u64, asked)
    }

    /// Tokens of GPT-2, of 65 characters, of two, of one.
    #[test]
    fn tokens_are_tokens() {
        for vocabulary in [50257, 200, 65, 11, 2] {
            for len in [1, 15, 16, 40, 600] {
                let tokens = (0..len).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 12) % vocabulary);
                let content = bytes(tokens, |token| (token as u16).to_le_bytes());
                assert_eq!(found(&content, None).unwrap(), (Format::NanoGpt, len as usize), "{vocabulary} {len}");
            }
        }
    }

    #[test]
    fn what_is_something_else_is_refused_and_can_be_forced() {
        let tokens = || (0..300).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 12) % 50257);
        let cases: [(Vec<u8>, &str); 9] = [
            (bytes(tokens(), u32::to_le_bytes), "uint32"),
            (bytes(tokens().map(|token| token + 65_536), u32::to_le_bytes), "uint32"),
            (bytes(tokens(), |token| u64::from(token).to_le_bytes()), "int64"),
            (bytes(tokens().map(|token| token % 65), |token| (token as u16).to_be_bytes()), "big-endian"),
            ([b"\x1f\x8b\x08\x00".to_vec(), vec![7; 60]].concat(), "gzip"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n".to_vec(), "Git LFS"),
            (b"  <!DOCTYPE html>\n<html><body>404, not found here</body></html>".to_vec(), "web page"),
            (b"{\"text\": \"many words of a document\"}\n".to_vec(), "JSON"),
            ("Où est la bibliothèque? Elle est là. ".repeat(40).into_bytes(), "it is text"),
        ];
        for (content, why) in cases {
            let error = found(&content, None).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("x.bin") && error.contains("data.tokens.dtype"), "{error}");
            let even = &content[..content.len() / 4 * 4];
            assert_eq!(found(even, Some(TokenType::Uint16)).unwrap(), (Format::NanoGpt, even.len() / 2));
            assert_eq!(found(even, Some(TokenType::Uint32)).unwrap(), (Format::Uint32, even.len() / 4));
        }
    }

    #[test]
    fn weights_are_bytes_and_no_text() {
        let weights: Vec<u8> = (0..80).map(|at| at % 3).collect();
        assert_eq!(found(&weights, Some(TokenType::Uint8)).unwrap(), (Format::Bytes, 80));
        let text = "1 0 ".repeat(20);
        assert!(found(text.as_bytes(), Some(TokenType::Uint8)).unwrap_err().to_string().contains("it is text"));
        for (magic, version, asked) in
            [(MAGIC, VERSION, TokenType::Uint32), (MAGIC_LLAMA, VERSION_LLAMA, TokenType::Uint16)]
        {
            let mut header = [0i32; 256];
            header[..3].copy_from_slice(&[magic, version, 8]);
            let content = [
                header.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
                vec![1; if magic == MAGIC { 16 } else { 32 }],
            ]
            .concat();
            assert_eq!(found(&content, None).unwrap().1, 8);
            let error = found(&content, Some(asked)).unwrap_err().to_string();
            assert!(error.contains("its header says llm.c") && error.contains(asked.name()), "{error}");
        }
        assert!(found(&[0; 64], None).unwrap_err().to_string().contains("nothing but zeros"));
    }

    #[test]
    fn numpy_files_say_what_they_hold() {
        let file = |descr: &str, shape: &str, numbers: &[u8]| {
            let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
            let text = format!("{text:<117}\n");
            let len = (text.len() as u16).to_le_bytes();
            [NUMPY, &[1, 0], &len, text.as_bytes(), numbers].concat()
        };
        assert_eq!(found(&file("<u2", "(3,)", &[1, 0, 2, 0, 3, 0]), None).unwrap().1, 3);
        let (format, len) = found(&file("<u4", "(1,)", &[1, 0, 2, 0]), None).unwrap();
        assert_eq!((format.header(), format.width(), len), (128, 4, 1));
        for (content, why) in [
            (file("<i8", "(1,)", &[0; 8]), "`<i8`"),
            (file(">u2", "(1,)", &[0; 2]), "`>u2`"),
            (file("<u2", "(1, 2)", &[0; 4]), "(1, 2)"),
            (file("<u2", "(3,)", &[0; 4]), "says 3 numbers"),
            (file("<u2", "(0,)", &[]), "says 0 numbers"),
            (b"\x93NUMPY\x01".to_vec(), "cut short"),
        ] {
            let error = found(&content, None).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("astype"), "{error}");
        }
    }
}
