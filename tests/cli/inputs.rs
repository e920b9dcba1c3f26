//! Bad inputs: each with its exit code and a message that names the place, what was found and what to do.

use safetensors::tensor::Dtype;

use crate::folder::Folder;

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let folder = Folder::new();
    folder.configure("[checkpoint]\nevrey = \"1m\"");
    folder.hesspec("check tiny.toml").failed(2, &["tiny.toml:", "evrey", "every"]);
    folder.hesspec("check tiny.toml --set lanczos.stepz=3").failed(2, &["lanczos.stepz=3", "steps"]);
}

#[test]
fn a_wrong_type_or_value_is_named_with_what_is_expected() {
    let folder = Folder::new();
    folder.hesspec("plan tiny.toml --set lanczos.steps=many").failed(2, &["lanczos.steps=many"]);
    folder.hesspec("plan tiny.toml --set hessian.precision=\"f16\"").failed(2, &["f16", "f32", "f64"]);
    folder.hesspec("plan tiny.toml --set batch.tokens=31").failed(2, &["31", "30", "36"]);
}

#[test]
fn missing_files_are_named() {
    let folder = Folder::new();
    folder.hesspec("check none.toml").failed(2, &["none.toml", "cannot read the configuration"]);
    folder.hesspec("check tiny.toml --set data.tokens.path=none.bin").failed(2, &["none.bin", "data prepare"]);
    folder.hesspec("check tiny.toml --set model.gpt2.weights=none.safetensors").failed(2, &["none.safetensors"]);
    folder.hesspec("hvp tiny.toml --vectors none.safetensors --out hv.safetensors").failed(2, &["none.safetensors"]);
    folder.hesspec("report none").failed(2, &["none"]);
    assert!(!folder.path("hv.safetensors").exists() && !folder.path("hv.safetensors.part").exists());
}

#[test]
fn usage_errors_are_configuration_errors() {
    let folder = Folder::new();
    for arguments in ["", "frobnicate", "hvp tiny.toml", "hvp tiny.toml --vectors v", "data prepare --tokenizer char"] {
        let said = folder.hesspec(arguments);
        assert_eq!(said.code, Some(2), "`{arguments}`: {}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains("Usage"), "{}", said.stderr);
    }
}

#[test]
fn damaged_token_files_are_refused() {
    let folder = Folder::new();
    folder.write("odd.bin", &[1, 0, 2]);
    folder.hesspec("check tiny.toml --set data.tokens.path=odd.bin").failed(2, &["odd.bin", "3 bytes", "truncated"]);
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[20_240_520, 1, 100]);
    let mut shard: Vec<u8> = header.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    shard.extend([0; 2 * 99]);
    folder.write("shard.bin", &shard);
    folder.hesspec("check tiny.toml --set data.tokens.path=shard.bin").failed(2, &["shard.bin", "100 tokens", "198"]);
    folder.write("header.bin", &shard[..600]);
    folder.hesspec("check tiny.toml --set data.tokens.path=header.bin").failed(2, &["header.bin"]);
    folder.write("short.bin", &[1, 0, 2, 0]);
    folder.hesspec("check tiny.toml --set data.tokens.path=short.bin").failed(2, &["batch.tokens = 30"]);
}

#[test]
fn a_token_beyond_the_vocabulary_is_found_anywhere_in_the_batch() {
    let folder = Folder::new();
    let mut tokens = std::fs::read(folder.path("train.bin")).unwrap();
    tokens[2 * 30] = 11; // the last target of the last window
    folder.write("train.bin", &tokens);
    let parts = ["train.bin", "token 11 at position 30", "vocabulary of 11"];
    folder.hesspec("check tiny.toml").failed(2, &parts);
    folder.hesspec("run tiny.toml").failed(2, &parts);
}

#[test]
fn a_pattern_that_matches_nothing_is_refused() {
    let folder = Folder::new();
    let said = folder.hesspec("plan tiny.toml --set blocks.include=[\"*.h.7.*\"]");
    said.failed(2, &["blocks.include", "*.h.7.*"]);
    folder.hesspec("hvp tiny.toml --loss --block none").failed(2, &["none", "transformer.wte.weight"]);
}

#[test]
fn weights_are_complete_finite_and_of_the_right_shape() {
    let folder = Folder::new();
    let weights = folder.vector(3);
    let refuse = |name: &str, change: &dyn Fn(&mut crate::folder::Tensors), code: i32, parts: &[&str]| {
        let mut weights = weights.clone();
        change(&mut weights);
        folder.save(name, &weights, Dtype::F64);
        folder.hesspec(&format!("check tiny.toml --set model.gpt2.weights={name}")).failed(code, parts);
    };
    const NAME: &str = "transformer.h.1.mlp.c_fc.weight";
    let nan = |weights: &mut crate::folder::Tensors| weights.get_mut(NAME).unwrap().1[5] = f64::NAN;
    refuse("nan.safetensors", &nan, 2, &["nan.safetensors", NAME, "not finite at index 5"]);
    refuse("missing.safetensors", &|weights| drop(weights.remove(NAME)), 2, &["missing", NAME, "[8, 12]"]);
    refuse("shape.safetensors", &|weights| weights.get_mut(NAME).unwrap().0 = vec![12, 8], 2, &[NAME, "[12, 8]"]);
    let surplus = |weights: &mut crate::folder::Tensors| drop(weights.insert("extra".into(), (vec![1], vec![1.0])));
    refuse("surplus.safetensors", &surplus, 2, &["extra"]);
    let whole = std::fs::read(folder.path("surplus.safetensors")).unwrap();
    folder.write("cut.safetensors", &whole[..whole.len() - 8]);
    folder.hesspec("check tiny.toml --set model.gpt2.weights=cut.safetensors").failed(2, &["cut.safetensors"]);
}

/// Finite weights whose products overflow: a numerical error, not a wrong answer.
#[test]
fn an_overflow_is_a_numerical_error() {
    let folder = Folder::new();
    let mut weights = folder.vector(3);
    weights.values_mut().for_each(|(_, values)| values.iter_mut().for_each(|x| *x *= 1e200));
    folder.save("huge.safetensors", &weights, Dtype::F64);
    folder.save("v.safetensors", &folder.vector(1), Dtype::F64);
    let huge = "--set model.gpt2.weights=huge.safetensors";
    folder.hesspec(&format!("check tiny.toml {huge}")).failed(4, &["self-tests"]);
    let hvp = format!("hvp tiny.toml --vectors v.safetensors --out hv.safetensors {huge}");
    folder.hesspec(&hvp).failed(4, &["Hessian-vector product"]);
    assert!(!folder.path("hv.safetensors").exists());
}

#[test]
fn vectors_are_checked_before_anything_is_computed() {
    let folder = Folder::new();
    let vector = folder.vector(1);
    let refuse = |change: &dyn Fn(&mut crate::folder::Tensors), dtype: Dtype, parts: &[&str]| {
        let mut vector = vector.clone();
        change(&mut vector);
        folder.save("v.safetensors", &vector, dtype);
        folder.hesspec("hvp tiny.toml --vectors v.safetensors --out hv.safetensors").failed(2, parts);
    };
    const NAME: &str = "transformer.wte.weight";
    let insert = |name: &'static str, shape: Vec<usize>| {
        move |vector: &mut crate::folder::Tensors| {
            let values = vec![0.0; shape.iter().product()];
            vector.insert(name.into(), (shape.clone(), values));
        }
    };
    refuse(&insert("transformer.h.0.attn.q.weight", vec![8, 8]), Dtype::F64, &["attn.q.weight", "attn.c_attn.weight"]);
    refuse(&insert(NAME, vec![8, 11]), Dtype::F64, &[NAME, "[8, 11]", "[11, 8]"]);
    refuse(&|_| {}, Dtype::F32, &["F32", "F64", "hessian.precision"]);
    refuse(&insert("transformer.wte.weight@1", vec![11, 8]), Dtype::F64, &["number"]);
    refuse(&insert("transformer.wte.weight@x", vec![11, 8]), Dtype::F64, &["@x", "@0"]);
    refuse(&|vector| vector.clear(), Dtype::F64, &["no tensor"]);
    refuse(&|vector| vector.get_mut(NAME).unwrap().1[7] = f64::INFINITY, Dtype::F64, &["inf", "finite"]);
}

#[test]
fn what_this_build_cannot_do_is_an_environment_error() {
    let folder = Folder::new();
    folder.hesspec("check tiny.toml --set hessian.math=\"tf32\"").failed(3, &["hessian.math"]);
    if cfg!(not(feature = "mpi")) {
        // started as one of several ranks, each would do the whole job
        let mut several = folder.command(&["run", "tiny.toml"]);
        several.envs([
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ]);
        let output = several.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stderr).contains("without MPI"));
        assert!(!folder.path("results").exists(), "nothing was begun");
    }
    if cfg!(not(feature = "cuda")) {
        folder.hesspec("check tiny.toml --set hessian.backend=\"cuda\"").failed(3, &["cuda", "--features"]);
    }
}

#[test]
fn too_little_memory_is_said_before_the_start() {
    let folder = Folder::new();
    for command in ["plan", "run"] {
        let said = folder.hesspec(&format!("{command} tiny.toml --set hessian.memory=\"1MB\""));
        said.failed(3, &["MB", "hessian.memory"]);
    }
}

/// A configuration of very many keys, on lines of their own or on one, is refused at its first wrong one, at once and in few
/// words; and so is a file that is no configuration.
#[test]
fn a_configuration_of_very_many_keys_is_refused_at_once() {
    let folder = Folder::new();
    let keys = |between: &str| (0..100_000).map(|i| format!("key_{i} = {i}{between}")).collect::<String>();
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    for (name, more, place) in [
        ("lines.toml", format!("[rows]\n{}", keys("\n")), "lines.toml:32:"),
        ("many.toml", format!("[output]\n{}", keys("\n")), "many.toml:33:1: output.key_0 = 0: unknown key"),
        ("one.toml", format!("[output]\nurl = {{ {} }}", keys(", ").trim_end_matches(", ")), "one.toml:33:"),
        ("accents.toml", format!("[output]\nurl = [\"{}\"]", "\u{e9}".repeat(1 << 20)), "accents.toml:33:"),
    ] {
        folder.write(name, format!("{text}\n{more}").as_bytes());
        let begin = std::time::Instant::now();
        let said = folder.hesspec(&format!("plan {name} --no-timing"));
        let seconds = begin.elapsed().as_secs_f64();
        assert!(seconds < 4.0, "{name}: {seconds} s");
        assert!(said.stderr.len() < 4000, "{name}: a message of {} bytes", said.stderr.len());
        said.failed(2, &[place]);
    }
    folder.write("huge.toml", "#\n".repeat((8 << 20) + 1).as_bytes());
    folder.hesspec("plan huge.toml --no-timing").failed(2, &["huge.toml", "at most 16777216 bytes"]);
    folder.hesspec("plan /dev/zero --no-timing").failed(2, &["/dev/zero", "it is a device"]);
}

/// A secret under a key that there is not, as somebody would try who does not know where it goes.
#[test]
fn the_value_of_an_unknown_key_is_not_repeated() {
    let folder = Folder::new();
    for set in ["output.secret_access_key=hunter2", "output.token=\"hunter2\"", "hessian.passwords=[\"hunter2\"]"] {
        let said = folder.hesspec(&format!("plan tiny.toml --no-timing --set {set}"));
        assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
        said.failed(2, &["unknown key", set.split('=').next().unwrap()]);
    }
    folder.configure("[output]\nsecret = \"hunter2\"");
    let said = folder.hesspec("plan tiny.toml --no-timing");
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
    said.failed(2, &["tiny.toml:", "output.secret: unknown key"]);
    let folder = Folder::new();
    let said = folder.hesspec("plan tiny.toml --no-timing --set blocks.exclude=[\"s3://id:hunter2@bucket\"]");
    said.failed(2, &["blocks.exclude", "no URLs"]);
}

/// What is written does not take the place of what is read.
#[test]
fn products_do_not_replace_what_they_were_made_of() {
    let folder = Folder::new();
    folder.save("v.safetensors", &folder.vector(1), safetensors::Dtype::F64);
    let before = std::fs::read(folder.path("tiny.toml")).unwrap();
    for (options, named) in [
        ("--out tiny.toml", "--out tiny.toml: that is the file of the configuration"),
        ("--out ./v.safetensors", "that is the file of --vectors"),
        ("--out x.safetensors --gradient x.safetensors", "--gradient x.safetensors: that is the file of --out"),
    ] {
        folder.hesspec(&format!("hvp tiny.toml --vectors v.safetensors {options}")).failed(2, &[named]);
    }
    assert_eq!(std::fs::read(folder.path("tiny.toml")).unwrap(), before);
}

/// Vectors go by parameter: a block's name is told apart from a typing error, with what to give instead.
#[test]
fn a_vector_under_a_block_s_name_is_answered_with_its_parameter() {
    let folder = Folder::new();
    let block = "transformer.h.0.attn.q.weight";
    folder.save("v.safetensors", &[(block.to_string(), (vec![8, 8], vec![1.0; 64]))].into(), Dtype::F64);
    let parts =
        [block, "by parameter", "`transformer.h.0.attn.c_attn.weight` [8, 24]", "--block transformer.h.0.attn.q"];
    folder.hesspec("hvp tiny.toml --vectors v.safetensors --out hv.safetensors").failed(2, &parts);
    folder.hesspec("lanczos tiny.toml --start v.safetensors --block full --steps 2").failed(2, &parts);
}

/// What a message names is spelled as in the file that it is about.
#[test]
fn messages_name_values_as_the_configuration_does() {
    let folder = Folder::new();
    for backend in ["cuda", "wgpu", "ndarray"] {
        let asked = format!("check tiny.toml --set hessian.backend={backend} --set hessian.precision=f32");
        let said = folder.hesspec(&asked);
        if said.code != Some(0) {
            said.failed(3, &[&format!("hessian.backend = \"{backend}\""), &format!("--features {backend}")]);
        }
    }
    for partition in ["parameter", "head", "module", "layer"] {
        let asked = format!("check tiny.toml --block none --set blocks.partition={partition}");
        folder.hesspec(&asked).failed(2, &["--block none", &format!("blocks.partition = \"{partition}\"")]);
    }
}

/// Tokens of the tiny network in every format, and what only looks like tokens.
#[test]
fn tokens_are_told_by_their_content_or_by_what_is_said_of_them() {
    let folder = Folder::new();
    let tokens: Vec<u16> = std::fs::read(folder.path("train.bin"))
        .unwrap()
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let loss = |more: &str| folder.hesspec(&format!("hvp tiny.toml --loss --json {more}")).ok().json()["loss"].as_f64();
    let expected = loss("");
    let wide: Vec<u8> = tokens.iter().flat_map(|token| u32::from(*token).to_le_bytes()).collect();
    let numpy = |descr: &str, numbers: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({},), }}", tokens.len());
        let text = format!("{text:<117}\n");
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), numbers].concat()
    };
    let narrow = std::fs::read(folder.path("train.bin")).unwrap();
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[20_240_801, 7, tokens.len() as i32]);
    let llama = [header.iter().flat_map(|entry| entry.to_le_bytes()).collect(), wide.clone()].concat();
    for (name, content, more) in [
        ("wide.bin", wide.clone(), "--set data.tokens.dtype=uint32"),
        ("narrow.npy", numpy("<u2", &narrow), ""),
        ("wide.npy", numpy("<u4", &wide), ""),
        ("llama.bin", llama, ""),
    ] {
        folder.write(name, &content);
        assert_eq!(loss(&format!("--set data.tokens.path={name} {more}")), expected, "{name}");
    }
    let doubled: Vec<u8> = tokens.iter().flat_map(|token| i64::from(*token).to_le_bytes()).collect();
    let swapped: Vec<u8> = tokens.iter().flat_map(|token| token.to_be_bytes()).collect();
    let text = "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer\n".repeat(20);
    for (name, content, why) in [
        ("wide.bin", wide, "uint32"),
        ("doubled.bin", doubled, "int64"),
        ("swapped.bin", swapped, "big-endian"),
        ("text.txt", text.clone().into_bytes(), "it is text"),
        ("lines.jsonl", format!("{{\"text\": {text:?}}}\n").into_bytes(), "it is JSON"),
        ("long.npy", numpy("<i8", &narrow), "`<i8`"),
    ] {
        folder.write(name, &content);
        for command in ["check tiny.toml --set data.tokens.path=", "data inspect "] {
            folder.hesspec(&format!("{command}{name}")).failed(2, &[name, why, "HINT"]);
        }
    }
    let said = folder.hesspec("data inspect wide.bin --dtype uint32").ok().stdout;
    assert!(said.contains("raw uint32") && said.contains("tokens       80"), "{said}");
}
