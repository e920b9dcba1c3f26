//! Parts of blocks, and what lies between them.

use super::shares::{Part, parts, shares};
use crate::block::{Block, Layout, Piece};

fn block(name: &str, pieces: Vec<Piece>) -> Block {
    Block { name: name.into(), kind: name.into(), layer: None, pieces }
}

/// A 2 x 6 matrix cut by columns into two, and a bias; the block takes the first row of the matrix and the bias.
#[test]
fn parts_follow_the_partition_and_the_blocks_own_order() {
    let layout = Layout::new([("a".into(), vec![2, 6]), ("b".into(), vec![3])]);
    let partition = [
        block("left", vec![Piece::cut(0, 1, 0..2)]),
        block("right", vec![Piece::cut(0, 1, 2..6)]),
        block("b", vec![Piece::whole(1)]),
    ];
    let part = |name: &str, ranges: &[std::ops::Range<usize>]| Part { name: name.into(), ranges: ranges.to_vec() };
    let found = parts(&layout, &layout.full(), &partition).unwrap();
    let expected =
        [part("left", &[0..2, 6..8]), part("right", &[2..6, 8..12]), part("b", std::slice::from_ref(&(12..15)))];
    assert_eq!(found, expected);
    let row = block("row", vec![Piece::cut(0, 0, 1..2), Piece::whole(1)]);
    let found = parts(&layout, &row, &partition).unwrap();
    assert!(found.iter().all(|part| part.ranges.len() == 1));
    assert_eq!(found.iter().map(|part| part.ranges[0].clone()).collect::<Vec<_>>(), [0..2, 2..6, 6..9]);
}

#[test]
fn shares_add_up_to_the_squared_norm() {
    let parts = [
        Part { name: "a".into(), ranges: vec![0..1, 2..3] },
        Part { name: "b".into(), ranges: std::slice::from_ref(&(1..2)).to_vec() },
    ];
    let matrix = [vec![1.0, 2.0, 3.0], vec![2.0, 4.0, 5.0], vec![3.0, 5.0, 6.0]];
    let found = shares(&parts, &matrix);
    // a with a: 1, 3, 3, 6; a with b: 2, 5, twice; b with b: 4
    let squares: Vec<f64> = found.iter().map(|share| share.frobenius_squared).collect();
    assert_eq!(squares, [1.0 + 9.0 + 9.0 + 36.0, 2.0 * (4.0 + 25.0), 16.0]);
    assert_eq!(found.iter().map(|share| share.num_entries).collect::<Vec<_>>(), [4, 4, 1]);
    assert!((found.iter().filter_map(|share| share.share).sum::<f64>() - 1.0).abs() < 1e-15);
    assert_eq!(shares(&parts, &[vec![0.0; 3], vec![0.0; 3], vec![0.0; 3]])[0].share, None);
}
