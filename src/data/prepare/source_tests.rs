//! Compressed and packed sources, URLs, shards, and preparations that are interrupted.

use std::fs::{read, read_dir, write};
use std::io::Write;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::data::{Tokens, inspect};
use crate::storage::{Access, Location};

fn request(folder: &TempDir, inputs: &[String], shard_tokens: Option<u64>) -> Preparation {
    let (tokenizer, text_field, output) = (Tokenizer::Gpt2, "text".into(), folder.path().join("out"));
    let (inputs, format, on_error) = (inputs.iter().map(Url::from).collect(), None, OnError::Stop);
    Preparation {
        inputs,
        format,
        on_error,
        output,
        tokenizer,
        tokenizer_file: None,
        separator: None,
        text_field,
        shard_tokens,
    }
}

fn run(request: &Preparation) -> Result<Meta> {
    prepare(request, &mut |_| Ok(())).map(|prepared| prepared.meta)
}

/// The same into another folder.
fn into(request: &Preparation, name: &str) -> Preparation {
    Preparation { output: request.output.with_file_name(name), ..request.clone() }
}

fn tokens_of(request: &Preparation, pattern: &str) -> Vec<u16> {
    let tokens = Tokens::open(request.output.join(pattern).to_str().unwrap(), 0, None).unwrap();
    tokens.read(0..tokens.len()).unwrap().into_iter().map(|token| u16::try_from(token).unwrap()).collect()
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
        let inputs = [folder.path().join(name).display().to_string(), format!("memory://prepare/corpus/{name}")];
        for (number, input) in inputs.into_iter().enumerate() {
            let request = into(&request(&folder, &[input], None), &format!("out-{name}-{number}"));
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
    let mut damaged = archived(&[("x.txt", b"a")]);
    damaged[148..156].copy_from_slice(b"\x1b[\xff\0\x07zz\0"); // the header's checksum
    let said = refused("f.tar", &damaged);
    let is_plain = said.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{fffd}'));
    assert!(said.contains("cannot be read: numeric field") && is_plain && said.len() < 300, "{said:?}");
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
    let single_file = into(&request(&folder, &inputs, None), "single");
    let single = run(&single_file).unwrap();
    let whole = tokens_of(&single_file, "train.bin");
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
    let shards = request.output.join("train_*.bin").display().to_string();
    let path = request.output.join("train_000001.bin");
    let bytes = read(&path).unwrap();
    write(&path, &bytes[..bytes.len() - 2]).unwrap();
    let error = Tokens::open(&shards, 0, None).unwrap_err().to_string();
    assert!(error.contains("train_000001.bin: has 7000 tokens, but meta.json beside it says 7001"), "{error}");
    write(&path, &bytes).unwrap();
    assert_eq!(inspect(&shards, None).unwrap().num_verified, meta.shards.len());
}

#[test]
fn missing_unlisted_and_exchanged_shards_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = corpus(&folder);
    let request = request(&folder, &inputs, Some(29_000));
    let meta = run(&request).unwrap();
    let at = |name: &str| request.output.join(name).display().to_string();
    let refused = |pattern: &str, parts: &[&str]| {
        let error = Tokens::open(at(pattern), 0, None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in ["meta.json"].iter().chain(parts) {
            assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
        }
    };
    // some of them may be asked for
    assert_eq!(Tokens::open(at("train_00000[0-1].bin"), 0, None).unwrap().len(), 58_000);
    fs::rename(at("train_000001.bin"), at("away")).unwrap();
    let missing = format!("1 of its {} files are missing: train_000001.bin", meta.shards.len());
    refused("train_*.bin", &[&missing]);
    refused("*", &[&missing]);
    refused("train_00000[0-1].bin", &["train_000001.bin"]);
    assert!(run(&request).unwrap_err().to_string().contains("train_000001.bin: is missing"));
    assert_eq!(Tokens::open(at("train_000002.bin"), 0, None).unwrap().len(), 29_000);
    // equal in size, the wrong way round: only the hash can tell
    fs::rename(at("train_000000.bin"), at("train_000001.bin")).unwrap();
    fs::rename(at("away"), at("train_000000.bin")).unwrap();
    assert!(Tokens::open(at("train_*.bin"), 0, None).is_ok());
    let error = inspect(at("train_*.bin"), None).unwrap_err().to_string();
    assert!(error.contains("train_000000.bin: its SHA-256 is"), "{error}");
    fs::copy(at("train_000002.bin"), at("train_000099.bin")).unwrap();
    refused("train_*.bin", &["train_000099.bin is not in it"]);
    fs::remove_file(at("train_000099.bin")).unwrap();
    let turned = Meta { shards: meta.shards.iter().rev().cloned().collect(), ..meta };
    write(at("meta.json"), serde_json::to_string(&turned).unwrap()).unwrap();
    refused("train_*.bin", &["another order"]);
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
    let written = fs::metadata(&last).unwrap().modified().unwrap();
    let replace = |content: &[u8]| {
        write(&last, content).unwrap();
        fs::File::options().write(true).open(&last).unwrap().set_modified(written).unwrap();
    };
    replace(b"go\xffd"); // as many bytes, but not UTF-8
    assert!(run(&stopped).unwrap_err().to_string().contains("d.txt: not UTF-8"));
    let left = read_dir(&stopped.output).unwrap().count();
    assert_eq!(left, expected.shards.len(), "all whole shards and the record");
    let error = Tokens::open(stopped.output.join("train_*.bin").to_str().unwrap(), 0, None).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("unfinished preparation"), "{error}");

    let other = Preparation { shard_tokens: Some(7002), ..stopped.clone() };
    let error = run(&other).unwrap_err().to_string();
    assert!(error.contains("--shard-tokens 7001, now 7002") && error.contains("choose another --output"), "{error}");
    write(&last, "good").unwrap(); // as many bytes, at another time
    let file = fs::File::options().write(true).open(&last).unwrap();
    file.set_modified(written + std::time::Duration::from_millis(5)).unwrap();
    let error = run(&stopped).unwrap_err().to_string();
    assert!(error.contains("d.txt (4 bytes, written") && error.contains(", now "), "{error}");
    replace(b"better");
    assert!(run(&stopped).unwrap_err().to_string().contains("d.txt (6 bytes"));
    replace(b"good");
    let shard = stopped.output.join("train_000002.bin");
    let bytes = read(&shard).unwrap();
    write(&shard, &bytes[..100]).unwrap();
    assert!(run(&stopped).unwrap_err().to_string().contains("train_000002.bin: has 100 bytes, expected 14002"));
    write(&shard, bytes).unwrap();

    let mut last = None;
    let meta = prepare(&stopped, &mut |advance| {
        last = Some(*advance);
        Ok(())
    })
    .unwrap()
    .meta;
    assert_eq!((&meta.shards, meta.num_documents), (&expected.shards, expected.num_documents));
    let Advance { new_tokens, old_tokens, .. } = last.unwrap();
    assert!(new_tokens < 7001, "{new_tokens} tokens were made again");
    assert_eq!((old_tokens % 7001, old_tokens + new_tokens), (0, meta.num_tokens));
}

/// A kill just before the description of a single file, and one just after it: what is left says what it is.
#[test]
fn a_kill_at_the_end_leaves_what_the_same_command_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = corpus(&folder);
    let request = request(&folder, &inputs, None);
    let meta = run(&request).unwrap();
    let sources = sources(&request.inputs).unwrap();
    let settings = settings(&request, &Given::default(), &sources);
    let (shards, position, skipped) = (Vec::new(), Position::default(), Default::default());
    let record = Record { settings, vocabulary: None, shards, position, skipped };
    let path = request.output.join("train.bin");
    for is_described in [true, false] {
        record.save(&request.output).unwrap();
        if !is_described {
            fs::remove_file(request.output.join("meta.json")).unwrap();
        }
        let error = Tokens::open(path.to_str().unwrap(), 0, None).unwrap_err().to_string();
        assert!(error.contains("progress.json") && error.contains("unfinished"), "{error}");
        let again = prepare(&request, &mut |_| Ok(())).unwrap();
        assert_eq!(again, Prepared { meta: meta.clone(), was_done: is_described });
        assert!(Tokens::open(path.to_str().unwrap(), 0, None).is_ok());
    }
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
            super::write::remove(&again.output.join(FILE_NAME)).unwrap();
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
    let settings = settings(request, &Given::default(), &sources);
    let (encoder, vocabulary) = encoder(request, &sources, None, &mut |_| Ok(())).unwrap();
    fs::create_dir_all(&request.output).unwrap();
    let (shards, position) = (Vec::new(), Position::default());
    let record = Record { settings: settings.clone(), vocabulary, shards, position, skipped: Default::default() };
    let skipped = Skipped::default();
    let mut shards = Shards::new(&request.output, &encoder, &skipped, record);
    let mut records = Vec::new();
    each_batch(&sources, request.reading(), None, &encoder, Default::default(), |batch| {
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

/// Whatever a look at the beginning of a file cuts in two: here the characters lie at even or at odd positions.
#[test]
fn text_of_long_characters_is_text() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("even.txt", "é".repeat(5000)), ("odd.txt", format!("x{}", "é".repeat(5000)))] {
        let path = folder.path().join(name);
        write(&path, &text).unwrap();
        let request = request(&folder, &[path.to_str().unwrap().to_string()], None);
        let meta = run(&into(&request, &format!("tokens-{name}"))).unwrap();
        assert!(meta.num_tokens > 1000, "{name}: {}", meta.num_tokens);
    }
}
