//! Any tokenizer of Hugging Face's: a `tokenizer.json`, by the crate that the format comes from.

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

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
        let input = Input::open(source)?;
        let bytes = input.read()?;
        let refused = |error: tokenizers::Error| {
            let hint = "expected a tokenizer.json of Hugging Face's, as save_pretrained writes it";
            input.error(format!("it is no tokenizer: {}\nHINT: {hint}", quoted(&error.to_string())))
        };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(refused)?;
        // documents are as long as they are, and text cannot forge a token that ends one
        tokenizer.with_padding(None).with_truncation(None).map_err(refused)?;
        tokenizer.set_encode_special_tokens(true);
        let wanted = separator.map_or(SEPARATORS.to_vec(), |token| vec![token]);
        let found = wanted.iter().find_map(|token| Some(((*token).to_owned(), tokenizer.token_to_id(token)?)));
        let separator = found.ok_or_else(|| {
            let tried = quoted(&wanted.join(", "));
            input.error(format!(
                "it has no token {tried}\nHINT: name the token that goes between documents by --separator TOKEN"
            ))
        })?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        Ok(Self { tokenizer, separator, vocabulary_size: largest as usize + 1, sha256 })
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

#[cfg(test)]
mod tests {
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
}
