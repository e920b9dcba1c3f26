use super::*;
use crate::networks::gpt2::{Gpt2Config, structure};

fn small(layers: usize, bias: bool, tied: bool, layer_norm: bool) -> Gpt2Config {
    let sizes = Gpt2Config { heads: 3, embedding: 6, mlp: 10, context: 4, vocabulary: 7, ..Gpt2Config::nano() };
    Gpt2Config { layers, bias, tied, layer_norm, ..sizes }
}

fn names(blocks: &[Block]) -> Vec<&str> {
    blocks.iter().map(|block| block.name.as_str()).collect()
}

fn find<'a>(blocks: &'a [Block], name: &str) -> &'a Block {
    blocks.iter().find(|block| block.name == name).unwrap_or_else(|| panic!("{name} not in {:?}", names(blocks)))
}

const ALL: [Partition; 6] =
    [Partition::Parameter, Partition::Layer, Partition::Head, Partition::Module, Partition::Neuron, Partition::Token];

/// Every entry of the network lies in exactly one block; names are unique; blocks come in network order.
fn assert_partition(layout: &Layout, blocks: &[Block]) {
    let mut owners = vec![0; layout.num_params()];
    for block in blocks {
        for piece in &block.pieces {
            let offset = layout.parameters()[piece.parameter].offset;
            piece.runs(layout, |start, len| {
                owners[offset + start..offset + start + len].iter_mut().for_each(|n| *n += 1)
            });
        }
        assert!(!block.kind.is_empty(), "{}", block.name);
    }
    assert!(owners.iter().all(|count| *count == 1));
    let unique: std::collections::BTreeSet<&str> = names(blocks).into_iter().collect();
    assert_eq!(unique.len(), blocks.len());
    let offsets: Vec<usize> = blocks.iter().map(|block| block.offset(layout)).collect();
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
}

#[test]
fn every_entry_belongs_to_exactly_one_block() {
    for layers in [1, 2, 12] {
        for flags in 0..8 {
            let config = small(layers, flags & 1 > 0, flags & 2 > 0, flags & 4 > 0);
            for kind in ALL {
                let blocks = partition(&config.layout(), &structure(config.embedding / config.heads), kind).unwrap();
                assert_partition(&config.layout(), &blocks);
            }
        }
    }
}

#[test]
fn queries_keys_and_values_are_column_ranges() {
    let layout = small(2, true, true, true).layout();
    let blocks = partition(&layout, &structure(2), Partition::Parameter).unwrap();
    let c_attn = layout.find("transformer.h.1.attn.c_attn.weight").unwrap();
    let key = find(&blocks, "transformer.h.1.attn.k.weight");
    assert_eq!(key.pieces, [Piece::cut(c_attn, 1, 6..12)]);
    assert_eq!((key.kind.as_str(), key.layer), ("k.weight", Some(1)));
    assert_eq!(find(&blocks, "transformer.h.1.attn.v.bias").pieces, [Piece::cut(c_attn + 1, 0, 12..18)]);
    let found = names(&blocks);
    let layer_0 = found[2..18].iter().map(|name| name.strip_prefix("transformer.h.0.").unwrap());
    assert_eq!(
        layer_0.collect::<Vec<_>>(),
        [
            "ln_1.weight",
            "ln_1.bias",
            "attn.q.weight",
            "attn.k.weight",
            "attn.v.weight",
            "attn.q.bias",
            "attn.k.bias",
            "attn.v.bias",
            "attn.c_proj.weight",
            "attn.c_proj.bias",
            "ln_2.weight",
            "ln_2.bias",
            "mlp.c_fc.weight",
            "mlp.c_fc.bias",
            "mlp.c_proj.weight",
            "mlp.c_proj.bias",
        ]
    );
    let kind = |name: &str| find(&blocks, &format!("transformer.h.0.{name}")).kind.clone();
    assert_eq!(kind("mlp.c_fc.weight"), "c_fc.weight");
    assert_eq!(kind("mlp.c_proj.weight"), "mlp.c_proj.weight");
    assert_eq!(kind("attn.c_proj.bias"), "attn.c_proj.bias");
    assert_eq!(find(&blocks, "transformer.wte.weight").kind, "wte.weight");
    assert_eq!(find(&blocks, "transformer.wte.weight").layer, None);
    assert_eq!(blocks.last().unwrap().name, "transformer.ln_f.bias");
}

#[test]
fn heads_are_columns_of_q_k_v_and_rows_of_the_output_projection() {
    let layout = small(1, true, true, true).layout();
    let blocks = partition(&layout, &structure(2), Partition::Head).unwrap();
    let at = |name: &str| layout.find(&format!("transformer.h.0.attn.{name}")).unwrap();
    let pieces = |name: &str| find(&blocks, &format!("transformer.h.0.attn.{name}")).pieces.clone();
    assert_eq!(pieces("v.weight/head.2"), [Piece::cut(at("c_attn.weight"), 1, 16..18)]);
    assert_eq!(pieces("k.bias/head.0"), [Piece::cut(at("c_attn.bias"), 0, 6..8)]);
    assert_eq!(pieces("c_proj.weight/head.1"), [Piece::cut(at("c_proj.weight"), 0, 2..4)]);
    assert_eq!(pieces("c_proj.bias"), [Piece::whole(at("c_proj.bias"))]);
    assert_eq!(find(&blocks, "transformer.h.0.attn.q.weight/head.1").kind, "q.weight/head");
    assert_eq!(find(&blocks, "transformer.h.0.attn.c_proj.weight/head.1").kind, "attn.c_proj.weight/head");
    find(&blocks, "transformer.h.0.mlp.c_proj.weight"); // the MLP's projection has no heads
    let one = partition(&layout, &structure(6), Partition::Head).unwrap();
    find(&one, "transformer.h.0.attn.q.weight/head.0");
}

#[test]
fn neurons_are_outputs_and_tokens_are_rows_of_the_embedding() {
    let layout = small(1, true, true, true).layout();
    let at = |name: &str| layout.find(&format!("transformer.{name}")).unwrap();
    let neurons = partition(&layout, &structure(2), Partition::Neuron).unwrap();
    let of = |name: &str| find(&neurons, &format!("transformer.h.0.{name}"));
    assert_eq!(of("attn.v.weight/neuron.2").pieces, [Piece::cut(at("h.0.attn.c_attn.weight"), 1, 14..15)]);
    assert_eq!(of("mlp.c_fc.weight/neuron.9").pieces, [Piece::cut(at("h.0.mlp.c_fc.weight"), 1, 9..10)]);
    assert_eq!(of("mlp.c_fc.weight/neuron.9").kind, "c_fc.weight/neuron");
    assert_eq!(of("mlp.c_fc.bias").pieces, [Piece::whole(at("h.0.mlp.c_fc.bias"))]);
    find(&neurons, "transformer.wte.weight"); // an embedding has none
    let tokens = partition(&layout, &structure(2), Partition::Token).unwrap();
    assert_eq!(find(&tokens, "transformer.wte.weight/token.6").pieces, [Piece::cut(at("wte.weight"), 0, 6..7)]);
    assert_eq!(find(&tokens, "transformer.wte.weight/token.6").kind, "wte.weight/token");
    find(&tokens, "transformer.wpe.weight");
    // matrices of [out, in]
    let layout = Layout::new([("layers.0.weight".into(), vec![2, 3]), ("layers.0.bias".into(), vec![2])]);
    let rows = Structure { outputs: &[("", 0)], ..Structure::UNKNOWN };
    let neurons = partition(&layout, &rows, Partition::Neuron).unwrap();
    assert_eq!(names(&neurons), ["layers.0.weight/neuron.0", "layers.0.weight/neuron.1", "layers.0.bias"]);
    for kind in [Partition::Neuron, Partition::Token] {
        assert_eq!(partition(&layout, &Structure::UNKNOWN, kind).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn modules_and_layers() {
    let layout = small(2, true, false, true).layout();
    let modules = partition(&layout, &structure(2), Partition::Module).unwrap();
    let c_fc = find(&modules, "transformer.h.0.mlp.c_fc");
    assert_eq!((c_fc.pieces.len(), c_fc.kind.as_str(), c_fc.layer), (2, "module", Some(0)));
    assert_eq!(c_fc.num_params(&layout), 6 * 10 + 10);
    find(&modules, "transformer.h.1.attn.c_attn");
    let layers = partition(&layout, &structure(2), Partition::Layer).unwrap();
    let expected =
        ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f", "lm_head"];
    assert_eq!(names(&layers), expected);
    assert_eq!(
        layers.iter().map(|b| b.kind.as_str()).collect::<Vec<_>>(),
        ["module", "module", "layer", "layer", "module", "module"]
    );
    assert_eq!(layers[3].layer, Some(1));
}

#[test]
fn an_unknown_model_is_cut_by_its_paths() {
    let shapes = [
        ("scale", vec![1]),
        ("cells.10.gate.weight", vec![2, 3]),
        ("cells.10.gate.bias", vec![3]),
        ("cells.10.out.weight", vec![3, 1]),
    ];
    let layout = Layout::new(shapes.map(|(name, shape)| (name.to_owned(), shape)));
    for kind in [Partition::Parameter, Partition::Module, Partition::Layer] {
        assert_partition(&layout, &partition(&layout, &Structure::UNKNOWN, kind).unwrap());
    }
    let modules = partition(&layout, &Structure::UNKNOWN, Partition::Module).unwrap();
    assert_eq!(names(&modules), ["scale", "cells.10.gate", "cells.10.out"]);
    let error = partition(&layout, &Structure::UNKNOWN, Partition::Head).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn roles_are_the_shortest_endings_that_tell_apart() {
    assert_eq!(role("attn.c_proj.weight", &["mlp.c_proj.weight", "attn.c_proj.bias"]), "attn.c_proj.weight");
    assert_eq!(role("attn.q.weight", &["mlp.c_proj.weight"]), "q.weight");
    assert_eq!(role("a.b.c.d", &["x.b.c.d"]), "a.b.c.d");
    assert_eq!(role("b.c.d", &["a.b.c.d"]), "b.c.d"); // nothing longer to choose
    assert_eq!(role("a.xb.c", &["a.b.c"]), "xb.c"); // an ending is whole elements
    assert_eq!(role("scale", &[]), "scale");
}

#[test]
fn layers_are_the_first_number_of_a_name() {
    assert_eq!(layer_of("transformer.h.11.attn.q"), Some(("transformer.h.11", 11)));
    assert_eq!(layer_of("a.b1.c"), None);
    assert_eq!(layer_of("3"), Some(("3", 3)));
}

/// Queries have more heads than keys and values; the output's columns belong to heads.
#[test]
fn heads_of_a_decoder_are_rows_and_columns() {
    use crate::networks::decoder::{AttentionBias, DecoderConfig, structure};
    let layout = {
        let sizes = DecoderConfig { layers: 1, heads: 4, kv_heads: 2, head: 3, embedding: 5, ..DecoderConfig::nano() };
        crate::networks::Network::layout(&DecoderConfig { attention_bias: AttentionBias::All, ..sizes }).unwrap()
    };
    for kind in ALL {
        assert_partition(&layout, &partition(&layout, &structure(3), kind).unwrap());
    }
    let blocks = partition(&layout, &structure(3), Partition::Head).unwrap();
    let of = |part: &str| -> Vec<Piece> {
        let name = format!("model.layers.0.self_attn.{part}/head.");
        blocks.iter().filter(|block| block.name.starts_with(&name)).flat_map(|block| block.pieces.clone()).collect()
    };
    let cuts = |part: &str, axis: usize, count: usize| -> Vec<Piece> {
        let at = layout.find(&format!("model.layers.0.self_attn.{part}")).unwrap();
        (0..count).map(|head| Piece::cut(at, axis, 3 * head..3 * head + 3)).collect()
    };
    assert_eq!(of("q_proj.weight"), cuts("q_proj.weight", 0, 4));
    assert_eq!(of("q_proj.bias"), cuts("q_proj.bias", 0, 4));
    assert_eq!(of("k_proj.weight"), cuts("k_proj.weight", 0, 2));
    assert_eq!(of("o_proj.weight"), cuts("o_proj.weight", 1, 4));
    assert!(of("o_proj.bias").is_empty());
}
