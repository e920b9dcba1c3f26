use super::*;
use crate::models::{Partition, partition};
use crate::networks::gpt2::{Gpt2Config, structure};

const ALL: [CellKind; 4] = [CellKind::Part, CellKind::Row, CellKind::Neuron, CellKind::Head];

fn cells(layout: &Layout, head: usize, block: &Block) -> Cells {
    Cells::of(layout, &structure(head), block, &ALL).unwrap()
}

/// Number of entries and their sum in a cell, where entry i of the block has the value i.
fn sum(cells: &Cells, dim: usize, part: &str, kind: CellKind, index: usize) -> (usize, f64) {
    let at = cells.list().iter().position(|cell| cell.part == part && (cell.kind, cell.index) == (kind, index));
    let at = at.unwrap_or_else(|| panic!("{part} {kind:?} {index} is not in {:?}", cells.list()));
    (cells.list()[at].num_entries, cells.sums(0..dim, |i| i as f64)[at])
}

#[test]
fn rows_neurons_and_heads_of_a_fused_projection() {
    let config =
        Gpt2Config { layers: 1, heads: 2, embedding: 4, mlp: 3, context: 2, vocabulary: 5, ..Gpt2Config::nano() };
    let layout = config.layout();
    let blocks = partition(&layout, &structure(2), Partition::Parameter).unwrap();
    let key = blocks.iter().find(|block| block.name.ends_with("attn.k.weight")).unwrap();
    let of_key = cells(&layout, 2, key); // 4 x 4
    assert!(of_key.list().iter().all(|cell| cell.part == key.name));
    assert_eq!(sum(&of_key, 16, &key.name, CellKind::Part, 0), (16, 120.0));
    assert_eq!(sum(&of_key, 16, &key.name, CellKind::Row, 1), (4, 4.0 + 5.0 + 6.0 + 7.0));
    assert_eq!(sum(&of_key, 16, &key.name, CellKind::Neuron, 3), (4, 3.0 + 7.0 + 11.0 + 15.0));
    assert_eq!(sum(&of_key, 16, &key.name, CellKind::Head, 1), (8, 68.0), "columns 2 and 3");
    // the same cells of the whole network hold the same entries
    let full = layout.full();
    let of_full = cells(&layout, 2, &full);
    let place = |entry: usize| {
        let c_attn = &layout.parameters()[key.pieces[0].parameter];
        c_attn.offset + entry / 4 * 12 + 4 + entry % 4
    };
    let sums = of_full.sums(0..layout.num_params(), |i| i as f64);
    for cell in of_key.list() {
        let at = of_full.list().iter().position(|other| other == cell).unwrap();
        let inside = |entry: &usize| match cell.kind {
            CellKind::Part => true,
            CellKind::Row => entry / 4 == cell.index,
            CellKind::Neuron => entry % 4 == cell.index,
            CellKind::Head => entry % 4 / 2 == cell.index,
        };
        assert_eq!(sums[at], (0..16).filter(inside).map(place).sum::<usize>() as f64, "{cell:?}");
    }
    let out = "transformer.h.0.attn.c_proj.weight";
    let rows = of_full.list().iter().filter(|cell| cell.part == out && cell.kind == CellKind::Head);
    assert_eq!(rows.map(|cell| cell.num_entries).collect::<Vec<_>>(), [8, 8], "two rows each");
    let of_embedding = |cell: &&Cell| cell.part == "transformer.wte.weight" && cell.kind != CellKind::Part;
    assert!(of_full.list().iter().filter(of_embedding).all(|cell| cell.kind == CellKind::Row));
}

/// Any cut over ranks adds up to the whole, and each kind to its part.
#[test]
fn slices_add_up() {
    let config = Gpt2Config {
        bias: true,
        layers: 2,
        heads: 2,
        embedding: 4,
        mlp: 3,
        context: 2,
        vocabulary: 5,
        ..Gpt2Config::nano()
    };
    let layout = config.layout();
    let mut blocks = partition(&layout, &structure(2), Partition::Head).unwrap();
    blocks.extend(partition(&layout, &structure(2), Partition::Layer).unwrap());
    blocks.push(layout.full());
    for block in blocks {
        let (cells, dim) = (cells(&layout, 2, &block), block.num_params(&layout));
        let whole = cells.sums(0..dim, |i| (i * i) as f64);
        let cuts = [0, dim / 3, dim / 2, dim];
        let mut parts = vec![0.0; whole.len()];
        for cut in cuts.windows(2) {
            let of_cut = cells.sums(cut[0]..cut[1], |i| ((i + cut[0]) * (i + cut[0])) as f64);
            parts.iter_mut().zip(of_cut).for_each(|(sum, part)| *sum += part);
        }
        assert_eq!(parts, whole, "{}", block.name);
        let all: f64 = (0..dim).map(|i| (i * i) as f64).sum();
        let of_kind = |kind| cells.list().iter().zip(&whole).filter(move |(cell, _)| cell.kind == kind);
        assert_eq!(of_kind(CellKind::Part).map(|(_, sum)| sum).sum::<f64>(), all, "{}", block.name);
        for (cell, sum) in of_kind(CellKind::Part) {
            let rows = of_kind(CellKind::Row).filter(|(row, _)| row.part == cell.part).map(|(_, sum)| sum);
            let rows: Vec<f64> = rows.copied().collect();
            assert!(rows.is_empty() || rows.iter().sum::<f64>() == *sum, "{}: {}", block.name, cell.part);
        }
    }
}
