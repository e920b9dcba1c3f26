//! Files that are not what their names say, and lines that have no text.

use std::fs::{read_to_string, write};
use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int32Type};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::source::BYTE_ORDER_MARK;
use super::*;
use crate::data::Tokens;

fn request(folder: &TempDir, name: &str) -> Preparation {
    Preparation {
        inputs: vec![folder.path().join(name).display().to_string().into()],
        format: None,
        on_error: OnError::Stop,
        output: folder.path().join("out"),
        tokenizer: Tokenizer::Char,
        tokenizer_file: None,
        separator: None,
        text_field: "text".into(),
        shard_tokens: None,
    }
}

fn made(request: &Preparation) -> Result<(Meta, String)> {
    let meta = prepare(request, &mut |_| Ok(()))?.meta;
    let tokens = Tokens::open(request.output.join("train.bin").to_str().unwrap(), 0, None)?;
    let text = meta.decode(&tokens.read(0..tokens.len())?).unwrap();
    Ok((meta, text))
}

/// The text of a file of this name and content.
fn text_of(name: &str, content: &[u8]) -> Result<String> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join(name), content).unwrap();
    made(&request(&folder, name)).map(|(_, text)| text)
}

const LINES: &[u8] = b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n";

#[test]
fn json_lines_are_found_under_their_other_names() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(LINES).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(LINES).unwrap();
    let xz = xz.finish().unwrap();
    let marked = [BYTE_ORDER_MARK, LINES].concat();
    for (name, content) in [
        ("a.json", LINES),
        ("a.jsonlines", LINES),
        ("a.json.gz", &gzip),
        ("a.jsonl.xz", &xz),
        ("a.jsonl", &marked),
        ("a.json", &marked),
    ] {
        assert_eq!(text_of(name, content).unwrap(), "one\ntwo", "{name}");
    }
    assert_eq!(text_of("a.txt", &[BYTE_ORDER_MARK, b"x"].concat()).unwrap(), "x");
    assert_eq!(text_of("a.txt", b"x").unwrap(), "x");
}

#[test]
fn what_contradicts_its_name_is_refused_and_can_be_forced() {
    for (name, content, why) in [
        ("a.txt", LINES, "looks like JSON lines"),
        ("a", LINES, "looks like JSON lines"),
        ("a.json", b"[{\"text\": \"one\"}]", "one list of JSON"),
        ("a.csv", b"id,text\n1,one\n", "a table is no text"),
        ("a.txt", b"PAR1\x15\x04\x15\xff\xff\xfe", "Parquet"),
        ("a.txt", b"\x1f\x8b\x08\0\xff\xfe\0", "gzip"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS"),
    ] {
        let error = text_of(name, content).unwrap_err();
        let text = error.to_string();
        assert!(error.exit_code() == 2 && text.contains(why) && text.contains("--format"), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("a.txt"), LINES).unwrap();
    let as_lines = Preparation { format: Some(TextFormat::JsonLines), ..request(&folder, "a.txt") };
    assert_eq!(made(&as_lines).unwrap().1, "one\ntwo");
    let as_text = Preparation { format: Some(TextFormat::Text), output: folder.path().join("text"), ..as_lines };
    assert_eq!(made(&as_text).unwrap().1.as_bytes(), LINES);
    assert!(
        prepare(&Preparation { format: None, ..as_text }, &mut |_| Ok(()))
            .unwrap_err()
            .to_string()
            .contains("--format text")
    );
}

#[test]
fn lines_without_a_text_are_counted_listed_and_passed_over() {
    let long = format!("{{\"text\": \"{}\"}}\n", "x".repeat(2 << 20)); // beyond the tests' longest line
    let content = [
        "{\"text\": \"one\"}\n",
        "{\"text\": null}\n",
        "{\"txt\": \"x\"}\n",
        "{\"text\": \"\\ud800\"}\n",
        "{\"text\": \n",
        &long,
        "\n",
        "{\"text\": \"two\"}",
    ];
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("a.jsonl"), content.concat()).unwrap();
    let stop = request(&folder, "a.jsonl");
    assert!(prepare(&stop, &mut |_| Ok(())).unwrap_err().to_string().contains("a.jsonl:2: the field `text` is null"));
    for tokenizer in [Tokenizer::Char, Tokenizer::Gpt2] {
        let output = folder.path().join(tokenizer.to_string());
        let skip = Preparation { on_error: OnError::Skip, tokenizer, output: output.clone(), ..stop.clone() };
        let (meta, text) = made(&skip).unwrap();
        assert_eq!((meta.num_skipped, meta.num_documents), (5, 2));
        assert!(text.starts_with("one") && text.ends_with("two"), "{text}");
        let list = read_to_string(output.join("skipped.txt")).unwrap();
        let numbers: Vec<&str> =
            list.lines().map(|line| line.split("a.jsonl:").nth(1).unwrap().split(':').next().unwrap()).collect();
        assert_eq!(numbers, ["2", "3", "4", "5", "6"], "{list}");
    }
}

/// Killed after each shard, with sources that have bad lines before and after the kill: the same list as at one go.
#[test]
fn the_list_of_what_was_passed_over_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let line = |at: usize| {
            if at % 7 == number { "{}\n".into() } else { format!("{{\"text\": \"{number} {at} word\"}}\n") }
        };
        write(folder.path().join(format!("{number}.jsonl")), (0..40).map(line).collect::<String>()).unwrap();
    }
    let whole = Preparation {
        on_error: OnError::Skip,
        shard_tokens: Some(100),
        tokenizer: Tokenizer::Byte,
        ..request(&folder, "*.jsonl")
    };
    let meta = prepare(&whole, &mut |_| Ok(())).unwrap().meta;
    let list = |request: &Preparation| read_to_string(request.output.join("skipped.txt")).unwrap();
    assert_eq!(meta.num_skipped, 6 + 6 + 6);
    let killed = Preparation { output: folder.path().join("killed"), ..whole.clone() };
    let mut kills = 0;
    let again = loop {
        match prepare(&killed, &mut |state| {
            if state.new_tokens > 300 { Err(Error::Other("killed".into())) } else { Ok(()) }
        }) {
            Ok(done) => break done.meta,
            Err(_) => kills += 1,
        }
        if kills > 50 {
            break prepare(&killed, &mut |_| Ok(())).unwrap().meta;
        }
    };
    assert!(kills > 0 && again.num_skipped == meta.num_skipped && list(&killed) == list(&whole), "{kills}");
}

#[test]
fn columns_may_be_dictionaries_or_lie_inside_others() {
    let words: DictionaryArray<Int32Type> = ["one", "two", "one"].into_iter().collect();
    let inside = StringArray::from(vec![Some("one"), None, Some("three")]);
    let field = Arc::new(Field::new("b", DataType::Utf8, true));
    let nested = StructArray::from(vec![(field, Arc::new(inside) as ArrayRef)]);
    let columns: [(&str, ArrayRef); 2] = [("text", Arc::new(words)), ("a", Arc::new(nested))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("a.parquet"), &bytes).unwrap();
    assert_eq!(made(&request(&folder, "a.parquet")).unwrap().1, "one\ntwo\none");
    let inside = |field: &str| Preparation {
        text_field: field.into(),
        output: folder.path().join(field),
        ..request(&folder, "a.parquet")
    };
    let error = made(&inside("a.b")).unwrap_err().to_string();
    assert!(error.contains("a.parquet row 1: the column `a.b` is null"), "{error}");
    let skip = Preparation { on_error: OnError::Skip, ..inside("a.b") };
    assert_eq!(made(&skip).unwrap().1, "one\nthree");
    assert!(made(&inside("a.c")).unwrap_err().to_string().contains("has no field `c`; there are b"));
    assert!(made(&inside("a")).unwrap_err().to_string().contains("expected texts"));
}
