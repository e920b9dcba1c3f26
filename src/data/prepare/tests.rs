use std::fs::{read, read_dir, write};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, LargeStringArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::data::{Tokens, inspect};

/// Writes the inputs and prepares them into `out`.
fn prepare_in(folder: &TempDir, inputs: &[(&str, &[u8])], tokenizer: Tokenizer) -> Result<Meta> {
    for (name, content) in inputs {
        write(folder.path().join(name), content).unwrap();
    }
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    prepare(&request(folder, &names, tokenizer), &mut |_| Ok(())).map(|prepared| prepared.meta)
}

/// These files of the folder into its `out`, as one file.
fn request(folder: &TempDir, names: &[&str], tokenizer: Tokenizer) -> Preparation {
    let inputs = names.iter().map(|name| folder.path().join(name).display().to_string().into()).collect();
    let output = folder.path().join("out");
    let (format, on_error) = (None, OnError::Stop);
    Preparation {
        inputs,
        format,
        on_error,
        output,
        tokenizer,
        tokenizer_file: None,
        separator: None,
        text_field: "text".into(),
        shard_tokens: None,
    }
}

fn tokens_in(folder: &TempDir) -> Vec<u32> {
    let tokens = Tokens::open(folder.path().join("out/train.bin").to_str().unwrap(), 0, None).unwrap();
    tokens.read(0..tokens.len()).unwrap()
}

fn prepared(inputs: &[(&str, &[u8])], tokenizer: Tokenizer) -> (Meta, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let meta = prepare_in(&folder, inputs, tokenizer).unwrap();
    (meta, tokens_in(&folder))
}

fn refusal(inputs: &[(&str, &[u8])], tokenizer: Tokenizer) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = prepare_in(&folder, inputs, tokenizer).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let left = read_dir(folder.path().join("out")).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "a failed preparation leaves nothing behind");
    error.to_string()
}

fn names(text: &str) -> Option<Vec<String>> {
    Some(text.chars().map(String::from).collect())
}

#[test]
fn characters_are_numbered_in_order_as_nanogpt_does() {
    let (meta, tokens) = prepared(&[("a.txt", "hello\nwörld".as_bytes())], Tokenizer::Char);
    assert_eq!(meta.vocabulary, names("\ndehlorwö"));
    assert_eq!(tokens, [3, 2, 4, 4, 5, 0, 7, 8, 6, 4, 1]);
    assert_eq!((meta.vocabulary_size, meta.num_tokens, meta.num_documents), (9, 11, 1));
    assert_eq!(meta.decode(&tokens).unwrap(), "hello\nwörld");
    assert_eq!(meta.decode(&[3, 100]).unwrap(), "h\u{fffd}");
    assert_eq!(prepared(&[("a.txt", b"ba")], Tokenizer::Char).0.vocabulary, names("ab"));
}

#[test]
fn documents_are_separated() {
    let inputs: &[(&str, &[u8])] = &[("a.txt", b"a"), ("b.txt", b"b\n"), ("c.txt", b"c")];
    let (meta, tokens) = prepared(inputs, Tokenizer::Byte);
    assert_eq!(tokens, b"a\nb\nc".map(u32::from));
    assert_eq!((meta.vocabulary_size, meta.num_documents, meta.vocabulary), (256, 3, None));
    assert_eq!(prepared(inputs, Tokenizer::Char).1, [1, 0, 2, 0, 3]);
    let (meta, tokens) = prepared(&[("a.txt", b"Hello world"), ("b.txt", b"Hello")], Tokenizer::Gpt2);
    assert_eq!(tokens, [15496, 995, 50256, 15496]);
    assert_eq!(meta.vocabulary_size, 50257);
    assert_eq!(meta.decode(&tokens).unwrap(), "Hello world<|endoftext|>Hello");
    assert_eq!(meta.decode(&[50300]).unwrap(), "\u{fffd}");
}

#[test]
fn text_longer_than_the_pieces_is_whole() {
    // 3-byte characters: 65,536 is no multiple of 3, so pieces end within one
    let text = "日本語 ".repeat(40_000);
    let (meta, tokens) = prepared(&[("a.txt", text.as_bytes())], Tokenizer::Char);
    assert_eq!(tokens.len(), 160_000);
    assert_eq!(meta.decode(&tokens).unwrap(), text);
    let (meta, tokens) = prepared(&[("a.txt", text.as_bytes())], Tokenizer::Byte);
    assert_eq!(meta.decode(&tokens).unwrap(), text);
}

#[test]
fn json_lines_are_documents() {
    let lines = b"{\"text\": \"a\\u00e9\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"b\"}";
    let (meta, tokens) = prepared(&[("a.jsonl", lines)], Tokenizer::Char);
    assert_eq!(meta.decode(&tokens).unwrap(), "aé\nb");
    assert_eq!(meta.num_documents, 2);
    let bad =
        |line: &str| refusal(&[("a.jsonl", format!("{{\"text\": \"a\"}}\n{line}\n").as_bytes())], Tokenizer::Byte);
    assert!(bad("{\"txt\": \"a\"}").contains("a.jsonl:2: there is no field `text`; there are txt"));
    assert!(bad("{\"text\": 3}").contains("a.jsonl:2: the field `text` is 3; expected a text"));
    assert!(bad("{\"text\": ").contains("a.jsonl:2: not JSON"));
    assert!(bad("[1]").contains("a.jsonl:2: there is no field `text`; the line is no object"));
}

fn parquet_file(column: ArrayRef, compression: Compression) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..column.len() as i64));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", column)]).unwrap();
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn a_parquet_column_is_documents() {
    let texts: Vec<String> = (0..1000).map(|row| format!("row {row}")).collect();
    let columns: [ArrayRef; 2] =
        [Arc::new(StringArray::from_iter_values(&texts)), Arc::new(LargeStringArray::from_iter_values(&texts))];
    for column in columns {
        for compression in [Compression::UNCOMPRESSED, Compression::ZSTD(ZstdLevel::default())] {
            let (meta, tokens) =
                prepared(&[("a.parquet", &parquet_file(column.clone(), compression))], Tokenizer::Byte);
            assert_eq!(meta.decode(&tokens).unwrap(), texts.join("\n"));
            assert_eq!(meta.num_documents, 1000);
        }
    }
    let refused = |bytes: &[u8]| refusal(&[("a.parquet", bytes)], Tokenizer::Byte);
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    assert!(
        refused(&parquet_file(nulls, Compression::UNCOMPRESSED)).contains("a.parquet row 1: the column `text` is null")
    );
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert!(refused(&parquet_file(numbers, Compression::UNCOMPRESSED)).contains("has type Int64"));
    assert!(refused(b"no parquet").contains("cannot be read as Parquet"));
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("b.parquet");
    let column: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    write(&input, parquet_file(column, Compression::UNCOMPRESSED)).unwrap();
    let request = Preparation { text_field: "body".into(), ..request(&folder, &["b.parquet"], Tokenizer::Byte) };
    assert!(
        prepare(&request, &mut |_| Ok(())).unwrap_err().to_string().contains("no column `body`; there are id, text")
    );
}

#[test]
fn bad_inputs_are_refused_and_leave_nothing() {
    assert!(refusal(&[("a.txt", b"ab\xffcd")], Tokenizer::Char).contains("a.txt: not UTF-8 at byte 2"));
    assert!(refusal(&[("a.txt", b"ab\xffcd")], Tokenizer::Gpt2).contains("use --tokenizer byte"));
    assert!(refusal(&[("a.txt", b"")], Tokenizer::Byte).contains("no text at all"));
    assert_eq!(prepared(&[("a.txt", b"ab\xff")], Tokenizer::Byte).1, [97, 98, 255]);
    let folder = tempfile::tempdir().unwrap();
    let fails = |request: Preparation| prepare(&request, &mut |_| Ok(())).unwrap_err();
    let missing = fails(request(&folder, &["none.txt"], Tokenizer::Char));
    let path = folder.path().join("none.txt");
    assert!(missing.exit_code() == 2 && missing.to_string().contains(path.to_str().unwrap()), "{missing}");
    assert_eq!(fails(request(&folder, &[], Tokenizer::Char)).exit_code(), 2);
    assert!(fails(request(&folder, &[""], Tokenizer::Char)).to_string().contains("is a folder"));
    assert!(fails(request(&folder, &["*.txt"], Tokenizer::Char)).to_string().contains("no file matches"));
    assert_eq!(
        ["char", "byte", "gpt2"].map(|name| name.parse()),
        [Tokenizer::Char, Tokenizer::Byte, Tokenizer::Gpt2].map(Ok)
    );
    assert!("bpe".parse::<Tokenizer>().unwrap_err().contains("char, byte, gpt2"));
    let input = folder.path().join("a.txt");
    write(&input, "a").unwrap();
    // a file where the folder should be
    assert_eq!(fails(Preparation { output: input, ..request(&folder, &["a.txt"], Tokenizer::Char) }).exit_code(), 5);
}

/// Names, content and times of everything in the output folder.
fn listing(folder: &TempDir) -> Vec<(std::ffi::OsString, Vec<u8>, std::time::SystemTime)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name(), read(entry.path()).unwrap(), entry.metadata().unwrap().modified().unwrap())
    };
    let mut found: Vec<_> = read_dir(folder.path().join("out")).unwrap().map(entry).collect();
    found.sort();
    found
}

#[test]
fn finished_tokens_are_described_found_again_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let inputs: &[(&str, &[u8])] = &[("a.txt", b"first"), ("bad.txt", b"ok\xff")];
    let meta = prepare_in(&folder, &inputs[..1], Tokenizer::Char).unwrap();
    let before = listing(&folder);
    let names: Vec<_> = before.iter().map(|(name, ..)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["meta.json", "train.bin"]);
    let path = folder.path().join("out/train.bin");
    assert_eq!(Meta::beside(&path).unwrap(), Some(meta.clone()));
    assert_eq!(meta.sha256, Some(format!("{:x}", Sha256::digest(read(&path).unwrap()))));

    let mut advances = 0;
    let same = request(&folder, &["a.txt"], Tokenizer::Char);
    let again = prepare(&same, &mut |_| {
        advances += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((again, advances), (Prepared { meta, was_done: true }, 0));
    // another one is refused, also one that would have failed
    write(folder.path().join("bad.txt"), b"ok\xff").unwrap();
    let refused = |request: &Preparation, parts: &[&str]| {
        let error = prepare(request, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let out = folder.path().join("out");
        for part in [out.to_str().unwrap(), "choose another --output"].iter().chain(parts) {
            assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
        }
        assert_eq!(listing(&folder), before);
    };
    refused(&request(&folder, &["a.txt"], Tokenizer::Byte), &["--tokenizer char, now byte"]);
    refused(&request(&folder, &["bad.txt"], Tokenizer::Char), &["source", "a.txt (5 bytes", "bad.txt (3 bytes"]);
    refused(&Preparation { shard_tokens: Some(2), ..same.clone() }, &["--shard-tokens none, now 2"]);
    refused(&Preparation { text_field: "body".into(), ..same.clone() }, &["--text-field text, now body"]);
    write(folder.path().join("a.txt"), b"later").unwrap(); // as many bytes
    let file = fs::File::options().write(true).open(folder.path().join("a.txt")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    refused(&same, &["a.txt (5 bytes, written 1970-01-01T00:00:00.000000000Z)"]);
}

/// Also in the first pass of `char`, which makes no tokens.
#[test]
fn whoever_hears_how_far_it_is_can_end_a_preparation() {
    for tokenizer in [Tokenizer::Byte, Tokenizer::Char] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("a.txt"), b"text").unwrap();
        let request = request(&folder, &["a.txt"], tokenizer);
        let mut heard = Vec::new();
        let stopped = prepare(&request, &mut |advance| {
            heard.push(advance.text_bytes);
            Err(Error::Interrupted("stopped".into()))
        });
        assert_eq!(stopped.unwrap_err().exit_code(), 75);
        assert_eq!(heard, [if tokenizer == Tokenizer::Char { 0 } else { 4 }]);
        assert!(!folder.path().join("out/meta.json").exists());
        assert!(!prepare(&request, &mut |_| Ok(())).unwrap().was_done);
    }
}

#[test]
fn tokens_of_which_nothing_is_known_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("a.txt"), b"text").unwrap();
    let out = folder.path().join("out");
    let refused = |part: &str| {
        let before = listing(&folder);
        let error = prepare(&request(&folder, &["a.txt"], Tokenizer::Byte), &mut |_| Ok(())).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
        assert_eq!(listing(&folder), before);
    };
    fs::create_dir(&out).unwrap();
    write(out.join("train_000007.bin"), b"mine").unwrap();
    refused("holds train_000007.bin, and neither meta.json nor progress.json says what it is");
    fs::rename(out.join("train_000007.bin"), out.join("train.bin")).unwrap();
    refused("holds train.bin");
    let mut meta = prepared(&[("a.txt", b"text")], Tokenizer::Byte).0;
    meta.settings = None;
    write(out.join("meta.json"), serde_json::to_string(&meta).unwrap()).unwrap();
    refused("an earlier version wrote it");
    for text in ["", "{}"] {
        write(out.join("meta.json"), text).unwrap();
        refused("meta.json: not a description of tokens");
    }
    // other files may be there
    fs::remove_file(out.join("meta.json")).unwrap();
    fs::rename(out.join("train.bin"), out.join("val.bin")).unwrap();
    assert!(!prepare(&request(&folder, &["a.txt"], Tokenizer::Byte), &mut |_| Ok(())).unwrap().was_done);
    // one that lost its end is not taken for done
    write(out.join("train.bin"), b"ab").unwrap();
    refused("train.bin: has 2 bytes, expected 8 of 4 tokens");
}

#[test]
fn an_inspection_shows_what_was_prepared() {
    let folder = tempfile::tempdir().unwrap();
    prepare_in(&folder, &[("a.txt", b"abca\nab")], Tokenizer::Char).unwrap();
    let path = folder.path().join("out/train.bin");
    let seen = inspect(path.to_str().unwrap(), None).unwrap();
    assert_eq!((seen.num_tokens, seen.max_token, seen.num_distinct), (7, 3, 4));
    assert_eq!((seen.tokenizer, seen.vocabulary_size), (Some(Tokenizer::Char), Some(4)));
    assert_eq!(seen.excerpt.as_deref(), Some("abca\nab"));
    let head: Vec<_> = seen.most_frequent.iter().map(|f| (f.token, f.text.as_deref().unwrap(), f.count)).collect();
    assert_eq!(head, [(1, "a", 3), (2, "b", 2), (0, "\n", 1), (3, "c", 1)]);
    assert_eq!(seen.formats[0].1, "nanoGPT uint16");

    assert_eq!(seen.num_verified, 1);

    let bytes = read(&path).unwrap();
    let swapped = [&bytes[2..4], &bytes[..2], &bytes[4..]].concat();
    write(&path, swapped).unwrap();
    let error = inspect(path.to_str().unwrap(), None).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("train.bin: its SHA-256 is"), "{error}");
    write(&path, [0u8; 6]).unwrap();
    let error = inspect(path.to_str().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("has 3 tokens, but meta.json beside it says 7"), "{error}");
    write(folder.path().join("out/meta.json"), "{}").unwrap();
    assert!(inspect(path.to_str().unwrap(), None).unwrap_err().to_string().contains("not a description of tokens"));
    std::fs::remove_file(folder.path().join("out/meta.json")).unwrap();
    let bare = inspect(path.to_str().unwrap(), None).unwrap();
    assert_eq!((bare.excerpt, bare.tokenizer, bare.max_token, bare.num_verified), (None, None, 0, 0));
}
