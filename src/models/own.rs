//! A block of a user's own choice: pieces of a network's parameters in the network's order, none of them twice.

use crate::block::{Block, Layout, Piece};
use crate::error::{Error, Result};

/// `kind` of such blocks.
pub const OWN: &str = "own";

/// The block of these pieces, in any order.
///
/// # Errors
/// [`Error::Config`] for none, and for two that share an entry.
pub fn own(layout: &Layout, name: &str, mut pieces: Vec<Piece>) -> Result<Block> {
    let refused = |problem: String| Error::Config(format!("blocks.own: block `{name}` {problem}"));
    let first = |piece: &Piece| {
        let mut first = None;
        piece.runs(layout, |start, _| first = first.or(Some(start)));
        (piece.parameter, first)
    };
    pieces.sort_by_key(first);
    pieces.dedup(); // two globs may name the same
    let parameter = |piece: &Piece| &layout.parameters()[piece.parameter].name;
    for (at, piece) in pieces.iter().enumerate() {
        if let Some(other) = pieces[..at].iter().find(|other| overlap(other, piece)) {
            return Err(refused(format!(
                "has entries of `{}` twice: {} and {}",
                parameter(piece),
                shown(other),
                shown(piece)
            )));
        }
    }
    if pieces.is_empty() {
        return Err(refused("has no entries; name some by include or ranges".into()));
    }
    Ok(Block { name: name.into(), kind: OWN.into(), layer: None, pieces })
}

/// Whether two pieces share an entry; cuts along different axes cross.
fn overlap(a: &Piece, b: &Piece) -> bool {
    let apart = match (&a.cut, &b.cut) {
        (Some((axis, range)), Some((other_axis, other))) => {
            axis == other_axis && (range.end <= other.start || other.end <= range.start)
        }
        _ => false,
    };
    a.parameter == b.parameter && !apart
}

fn shown(piece: &Piece) -> String {
    piece.cut.as_ref().map_or("all of it".into(), |(axis, range)| format!("{range:?} of axis {axis}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_none_twice() {
        let layout = Layout::new([("a".into(), vec![4, 6]), ("b".into(), vec![3])]);
        let columns = |range| Piece::cut(0, 1, range);
        let block = own(&layout, "mine", vec![Piece::whole(1), columns(4..6), columns(0..2), Piece::whole(1)]).unwrap();
        assert_eq!(block.pieces, [columns(0..2), columns(4..6), Piece::whole(1)]);
        assert_eq!((block.num_params(&layout), block.kind.as_str()), (4 * 2 + 4 * 2 + 3, "own"));
        let refused = |pieces: Vec<Piece>, part: &str| {
            let error = own(&layout, "mine", pieces).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
        };
        refused(vec![columns(0..3), columns(2..4)], "entries of `a` twice: 0..3 of axis 1 and 2..4 of axis 1");
        refused(vec![columns(0..3), Piece::cut(0, 0, 1..2)], "twice");
        refused(vec![columns(0..3), Piece::whole(0)], "all of it");
        refused(Vec::new(), "no entries");
    }

    /// Gathered and scattered through two cuts of one parameter.
    #[test]
    fn two_cuts_of_a_parameter_are_one_vector() {
        let layout = Layout::new([("a".into(), vec![2, 4])]);
        let block = own(&layout, "mine", vec![Piece::cut(0, 1, 3..4), Piece::cut(0, 1, 0..1)]).unwrap();
        let flat = block.gather(&layout, |_| Some((0..8).collect::<Vec<i32>>()), 0);
        assert_eq!(flat, [0, 4, 3, 7]);
        assert_eq!(block.scatter(&layout, &flat, 9), [(0, vec![0, 9, 9, 3, 4, 9, 9, 7])]);
    }
}
