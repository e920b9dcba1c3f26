//! Any tokenizer of Hugging Face's: a `tokenizer.json`, by the crate that the format comes from.

use sha2::{Digest, Sha256};
use tokenizers::{Tokenizer, TruncationParams};

use crate::shown::{Url, quoted};
use crate::storage::Input;
use crate::{Error, Result};

/// What ends a document in the tokenizers that there are, the first that is there.
const SEPARATORS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]", "<|eos|>"];

/// See the module.
pub(in super::super) struct HuggingFace {
    tokenizer: Tokenizer,
    /// The token between documents, as text and as number.
    pub separator: (String, u32),
    /// Tokens are below this.
    pub vocabulary_size: usize,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl HuggingFace {
    /// Reads a tokenizer by path or URL; `separator`: the token between documents, if it is not to be one of those that are common.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is no tokenizer, or has not the token; [`Error::Storage`].
    pub fn open(source: &Url, separator: Option<&str>) -> Result<Self> {
        // documents are as long as they are
        let (input, tokenizer, sha256) = read(source, None)?;
        let wanted = separator.map_or(SEPARATORS.to_vec(), |token| vec![token]);
        let found = wanted.iter().find_map(|token| Some(((*token).to_owned(), tokenizer.token_to_id(token)?)));
        let separator = found.ok_or_else(|| {
            let tried = quoted(&wanted.join(", "));
            input.error(format!(
                "it has no token {tried}\nHINT: name the token that goes between documents by --separator TOKEN"
            ))
        })?;
        let vocabulary_size = vocabulary_size(&tokenizer);
        Ok(Self { tokenizer, separator, vocabulary_size, sha256 })
    }

    /// The tokens of a document, without any that the tokenizer puts around it.
    ///
    /// # Errors
    /// [`Error::Config`] for a text that it refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode_fast(text, false);
        let encoded = encoded.map_err(|error| Error::Config(format!("the tokenizer refuses a text: {error}")))?;
        Ok(encoded.get_ids().to_vec())
    }
}

/// A tokenizer that puts its own tokens around two sentences.
pub(super) struct ForPairs {
    tokenizer: Tokenizer,
    /// Tokens are below this.
    pub vocabulary_size: usize,
    /// The token that others are hidden behind, if it has one.
    pub mask: Option<u32>,
    /// Its other special tokens, in order.
    pub special: Vec<u32>,
}

impl ForPairs {
    /// Reads a tokenizer by path or URL; pairs are cut to `context` tokens, at the end of the longer sentence.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that is no tokenizer, or one that puts nothing around sentences; [`Error::Storage`].
    pub fn open(source: &Url, context: usize) -> Result<Self> {
        let cut = TruncationParams { max_length: context, ..TruncationParams::default() };
        let (input, tokenizer, _) = read(source, Some(cut))?;
        if tokenizer.get_post_processor().is_none() {
            return Err(input.error(
                "it puts no tokens around sentences; expected a tokenizer of BERT's, which has [CLS] and [SEP]",
            ));
        }
        let mask = ["[MASK]", "<mask>"].iter().find_map(|token| tokenizer.token_to_id(token));
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(id, token)| token.special && Some(*id) != mask);
        let mut special: Vec<u32> = special.map(|(id, _)| id).collect();
        special.sort_unstable();
        Ok(Self { vocabulary_size: vocabulary_size(&tokenizer), mask, special, tokenizer })
    }

    /// Tokens of two sentences with those around them, and which sentence each belongs to.
    ///
    /// # Errors
    /// [`Error::Config`] for a text that it refuses.
    pub fn encode(&self, first: &str, second: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let encoded = self.tokenizer.encode_fast((first, second), true);
        let encoded = encoded.map_err(|error| Error::Config(format!("the tokenizer refuses a text: {error}")))?;
        Ok((encoded.get_ids().to_vec(), encoded.get_type_ids().to_vec()))
    }
}

/// A tokenizer that cuts what is too long, if anything is; its file, and the SHA-256 of that. Text cannot forge its special tokens.
fn read(source: &Url, cut: Option<TruncationParams>) -> Result<(Input, Tokenizer, String)> {
    let input = Input::open(source)?;
    let bytes = input.read()?;
    let refused = |error: tokenizers::Error| {
        let hint = "expected a tokenizer.json of Hugging Face's, as save_pretrained writes it";
        input.error(format!("it is no tokenizer: {}\nHINT: {hint}", quoted(&error.to_string())))
    };
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(refused)?;
    tokenizer.with_padding(None).with_truncation(cut).map_err(refused)?;
    tokenizer.set_encode_special_tokens(true);
    Ok((input, tokenizer, format!("{:x}", Sha256::digest(&bytes))))
}

fn vocabulary_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize + 1
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A byte-level BPE with merges of its own.
    const TOKENIZER: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "added_tokens": [{"id": 7, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"a": 0, "b": 1, "<": 2, "/": 3, "s": 4, ">": 5, "ab": 6}, "merges": [["a", "b"]]}}"#;

    #[test]
    fn text_cannot_forge_a_separator_and_is_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, TOKENIZER).unwrap();
        let url = Url::from(path.to_str().unwrap());
        let found = HuggingFace::open(&url, None).unwrap();
        assert_eq!((found.separator.clone(), found.vocabulary_size), (("</s>".into(), 7), 8));
        assert_eq!(found.encode("abba").unwrap(), [6, 1, 0]);
        assert_eq!(found.encode("ab</s>").unwrap(), [6, 2, 3, 4, 5]);
        let error = HuggingFace::open(&url, Some("<end>")).err().unwrap().to_string();
        assert!(error.contains("no token <end>") && error.contains("--separator"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        assert!(HuggingFace::open(&url, None).err().unwrap().to_string().contains("it is no tokenizer"));
    }

    /// WordPiece with BERT's tokens around sentences.
    pub(in crate::data::prepare) const WORD_PIECE: &str = r###"{"version": "1.0", "truncation": null, "padding": null,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "added_tokens": [
            {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 4, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": null,
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "they": 5, "do": 6, "##es": 7, "not": 8, "!": 9, ".": 10}}}"###;

    #[test]
    fn sentences_stand_between_the_tokens_of_bert() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, WORD_PIECE).unwrap();
        let url = Url::from(path.to_str().unwrap());
        let found = ForPairs::open(&url, 8).unwrap();
        assert_eq!((found.mask, found.special.as_slice(), found.vocabulary_size), (Some(4), &[0, 1, 2, 3][..], 11));
        let (tokens, types) = found.encode("They does", "not!").unwrap();
        assert_eq!((tokens, types), (vec![2, 5, 6, 7, 3, 8, 9, 3], vec![0, 0, 0, 0, 0, 1, 1, 1]));
        let (tokens, _) = found.encode("They does not", "not!").unwrap();
        assert_eq!(tokens, [2, 5, 6, 7, 3, 8, 9, 3], "the longer one is cut");
        std::fs::write(&path, TOKENIZER).unwrap();
        assert!(ForPairs::open(&url, 8).err().unwrap().to_string().contains("puts no tokens around sentences"));
    }
}
