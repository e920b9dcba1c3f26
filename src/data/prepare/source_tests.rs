//! Compressed and packed sources, URLs, shards, and preparations that are interrupted.

use std::fs::{read, read_dir, write};
use std::io::Write;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::data::Tokens;
use crate::storage::{Access, Location};

fn request(folder: &TempDir, inputs: &[String], shard_tokens: Option<u64>) -> Preparation {
    let (tokenizer, text_field, output) = (Tokenizer::Gpt2, "text".into(), folder.path().join("out"));
    Preparation { inputs: inputs.to_vec(), output, tokenizer, text_field, shard_tokens }
}

fn run(request: &Preparation) -> Result<Meta> {
    prepare(request, &mut |_| {})
}

fn tokens_of(request: &Preparation, pattern: &str) -> Vec<u16> {
    let tokens = Tokens::open(request.output.join(pattern).to_str().unwrap(), 0).unwrap();
    tokens.read(0..tokens.len()).unwrap()
}

/// Text that differs with the seed.
fn text(words: usize, seed: u64) -> String {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ["the ", "spectrum", " of\n", "Hessian ", "ünter ", "12.5", "'s "][(state >> 40) as usize % 7]
    };
    (0..words).map(|_| word()).collect()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn archived(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn packed_sources_are_the_same_documents_from_files_and_urls() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (text(3000, 1), text(5, 2));
    let lines = format!("{}\n{}\n", serde_json::json!({ "text": a }), serde_json::json!({ "text": b, "id": 3 }));
    let archive = archived(&[("x/a.txt", a.as_bytes()), ("x/b.txt", b.as_bytes())]);
    let inside = archived(&[("c.jsonl", lines.as_bytes())]);
    let two_members = [gzipped(&lines.as_bytes()[..100]), gzipped(&lines.as_bytes()[100..])].concat();
    let sources: Vec<(&str, Vec<u8>)> = vec![
        ("p.jsonl", lines.clone().into_bytes()),
        ("q.jsonl.gz", two_members),
        ("r.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        ("s.tar", archive.clone()),
        ("t.tar.zst", zstd::encode_all(&archive[..], 3).unwrap()),
        ("u.tgz", gzipped(&inside)),
    ];
    let location = Location::open("memory://prepare/corpus", Access::Write).unwrap();
    let mut expected = None;
    for (name, bytes) in sources {
        write(folder.path().join(name), &bytes).unwrap();
        location.put(name, bytes).unwrap();
        for input in [folder.path().join(name).display().to_string(), format!("memory://prepare/corpus/{name}")] {
            let request = request(&folder, &[input], None);
            let meta = run(&request).unwrap();
            assert_eq!(meta.num_documents, 2);
            let tokens = tokens_of(&request, "train.bin");
            assert_eq!(*expected.get_or_insert(tokens.clone()), tokens, "{name}");
        }
    }
    // token for token what tiktoken itself gives, end-of-text in between
    let encode = |text: &str| tiktoken_rs::r50k_base_singleton().encode_ordinary(text);
    let direct: Vec<u32> = encode(&a).into_iter().chain([50256]).chain(encode(&b)).collect();
    assert_eq!(expected.unwrap().into_iter().map(u32::from).collect::<Vec<_>>(), direct);

    let all = run(&request(&folder, &["memory://prepare/corpus/*.tar*".into()], None)).unwrap();
    assert_eq!((all.num_documents, all.sources.len()), (4, 2));
}

#[test]
fn damaged_packages_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        write(folder.path().join(name), bytes).unwrap();
        let error = run(&request(&folder, &[folder.path().join(name).display().to_string()], None)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(name), "{error}");
        error.to_string()
    };
    let whole = gzipped(text(5000, 1).as_bytes());
    assert!(refused("a.txt.gz", &whole[..whole.len() / 2]).contains("cut short"));
    let whole = zstd::encode_all(text(5000, 1).as_bytes(), 3).unwrap();
    assert!(refused("a.txt.zst", &whole[..whole.len() / 2]).contains("cut short"));
    assert!(refused("b.tar", &archived(&[("x.txt", &[b'a'; 2000])])[..1000]).contains("cut short"));
    assert!(refused("c.tar", &archived(&[("x.parquet", b"")])).contains("c.tar: x.parquet: only texts"));
    assert!(refused("d.parquet.gz", b"").contains("compressed inside"));
    assert!(refused("e.tar", &archived(&[("x.jsonl", b"{}")])).contains("e.tar: x.jsonl:1: there is no field"));
}

/// Sources of several pieces each; one of a single document, one of many.
fn corpus(folder: &TempDir) -> Vec<String> {
    let lines: String = (0..400).map(|n| format!("{}\n", serde_json::json!({ "text": text(40, n) }))).collect();
    let files = [("a.txt", text(60_000, 7)), ("b.jsonl", lines), ("c.txt", text(3000, 8))];
    files
        .into_iter()
        .map(|(name, text)| {
            write(folder.path().join(name), text).unwrap();
            folder.path().join(name).display().to_string()
        })
        .collect()
}

#[test]
fn shards_are_the_same_tokens_in_equal_parts() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = corpus(&folder);
    let single = run(&request(&folder, &inputs, None)).unwrap();
    let whole = tokens_of(&request(&folder, &inputs, None), "train.bin");
    let request = request(&folder, &inputs, Some(7001));
    let meta = run(&request).unwrap();
    assert_eq!((meta.num_tokens, meta.num_documents), (single.num_tokens, single.num_documents));
    assert_eq!(tokens_of(&request, &meta.file), whole);
    assert_eq!(meta.shards.len(), whole.len().div_ceil(7001));
    for shard in &meta.shards {
        let bytes = read(request.output.join(&shard.file)).unwrap();
        assert_eq!(
            (bytes.len() as u64, format!("{:x}", Sha256::digest(&bytes))),
            (2 * shard.num_tokens, shard.sha256.clone())
        );
    }
    assert!(meta.shards.iter().rev().skip(1).all(|shard| shard.num_tokens == 7001));
    assert!(!request.output.join("train.bin").exists() && !request.output.join("progress.json").exists());

    // a shard that lost its end is found, though its number of bytes is even
    let path = request.output.join("train_000001.bin");
    let bytes = read(&path).unwrap();
    write(&path, &bytes[..bytes.len() - 2]).unwrap();
    let error = Tokens::open(request.output.join("train_*.bin").to_str().unwrap(), 0).unwrap_err().to_string();
    assert!(error.contains("train_000001.bin: has 7000 tokens, but meta.json beside it says 7001"), "{error}");

    // fewer shards leave no old ones behind, one file none at all
    let fewer = run(&Preparation { shard_tokens: Some(50_000), ..request.clone() }).unwrap();
    assert_eq!(tokens_of(&request, "train_*.bin").len() as u64, fewer.num_tokens);
    run(&Preparation { shard_tokens: None, ..request.clone() }).unwrap();
    assert_eq!(tokens_of(&request, "*.bin"), whole);
}

#[test]
fn an_interrupted_preparation_keeps_its_shards_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut inputs = corpus(&folder);
    let last = folder.path().join("d.txt");
    inputs.push(last.display().to_string());
    write(&last, "good").unwrap();
    let reference = Preparation { output: folder.path().join("reference"), ..request(&folder, &inputs, Some(7001)) };
    let expected = run(&reference).unwrap();
    let stopped = request(&folder, &inputs, Some(7001));
    write(&last, b"go\xffd").unwrap(); // as many bytes, but not UTF-8
    assert!(run(&stopped).unwrap_err().to_string().contains("d.txt: not UTF-8"));
    let left = read_dir(&stopped.output).unwrap().count();
    assert_eq!(left, expected.shards.len(), "all whole shards and the record");

    let other = Preparation { shard_tokens: Some(7002), ..stopped.clone() };
    let error = run(&other).unwrap_err().to_string();
    assert!(error.contains("--shard-tokens Some(7001), now Some(7002)") && error.contains("remove"), "{error}");
    write(&last, "better").unwrap();
    assert!(run(&stopped).unwrap_err().to_string().contains("d.txt of 4 bytes, now"));
    write(&last, "good").unwrap();
    let shard = stopped.output.join("train_000002.bin");
    let bytes = read(&shard).unwrap();
    write(&shard, &bytes[..100]).unwrap();
    assert!(run(&stopped).unwrap_err().to_string().contains("train_000002.bin: has 100 bytes, expected 14002"));
    write(&shard, bytes).unwrap();

    let mut made = 0;
    let meta = prepare(&stopped, &mut |advance| made = advance.new_tokens).unwrap();
    assert_eq!(meta, expected);
    assert!(made < 7001, "{made} tokens were made again");
}

#[test]
fn every_place_to_stop_at_is_one_to_go_on_from() {
    for tokenizer in [Tokenizer::Gpt2, Tokenizer::Char, Tokenizer::Byte] {
        let folder = tempfile::tempdir().unwrap();
        let inputs = corpus(&folder);
        let reference = Preparation { tokenizer, ..request(&folder, &inputs, Some(29_000)) };
        let expected = run(&reference).unwrap();
        let again = Preparation { output: folder.path().join("again"), ..reference.clone() };
        let records = records(&again);
        assert!(records.len() > 3 && records.iter().any(|record| record.position.done > 0), "{}", records.len());
        for record in &records {
            for shard in expected.shards.iter().filter(|shard| !record.shards.contains(shard)) {
                super::write::remove(&again.output.join(&shard.file)).unwrap();
            }
            record.save(&again.output).unwrap();
            assert_eq!(run(&again).unwrap(), expected);
            for shard in &expected.shards {
                let [a, b] = [&reference, &again].map(|request| read(request.output.join(&shard.file)).unwrap());
                assert!(a == b, "{}", shard.file);
            }
        }
    }
}

/// What a killed process leaves, at every place where it can: taken while one runs through.
fn records(request: &Preparation) -> Vec<Record> {
    let sources = sources(&request.inputs).unwrap();
    let settings = Settings::new(request.tokenizer, "text", request.shard_tokens, &sources);
    let (encoder, vocabulary) = encoder(request, &sources, None).unwrap();
    fs::create_dir_all(&request.output).unwrap();
    let record = Record { settings: settings.clone(), vocabulary, shards: Vec::new(), position: Position::default() };
    let mut shards = Shards::new(&request.output, &encoder, record);
    let mut records = Vec::new();
    each_batch(&sources, "text", &encoder, Default::default(), |batch| {
        for (piece, tokens) in batch {
            shards.push(piece, tokens)?;
            records.extend(Record::load(&request.output, &settings)?);
        }
        Ok(())
    })
    .unwrap();
    records.dedup();
    records
}
