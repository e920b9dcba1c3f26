//! Sources to tokens: one thread reads, unpacks and cuts, all cores encode. Batches are bounded, and at most
//! [`AHEAD`] of them wait, so that memory does not grow with the corpus.

use std::sync::mpsc::{SyncSender, sync_channel};

use rayon::prelude::*;

use super::cut::{Cut, Cutter, PIECE_BYTES, Piece, Place};
use super::encode::Encoder;
use super::skipped::Skipped;
use super::source::{Reading, Sink, each_document};
use crate::storage::Input;
use crate::{Error, Result};

/// Bytes of text that are encoded at a time.
const BATCH_BYTES: usize = 8 << 20;
/// Pieces that are encoded at a time: short documents weigh more than their text.
const BATCH_PIECES: usize = 1 << 15;
/// Batches that are read ahead.
const AHEAD: usize = 1;

/// Pieces with their tokens.
pub(super) type Encoded = Vec<(Piece, Vec<u32>)>;

/// Hands the pieces from `from` on to `consume`, in order, with their tokens.
pub(super) fn each_batch(
    sources: &[Input],
    reading: Reading<'_>,
    skipped: Option<&Skipped>,
    encoder: &Encoder,
    from: Place,
    mut consume: impl FnMut(&Encoded) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        let how = encoder.cut();
        let reader = scope.spawn(move || read(sources, reading, skipped, how, from, sender));
        for batch in &receiver {
            let encode = |piece: Piece| encoder.encode(&piece.text).map(|tokens| (piece, tokens));
            let encoded: Encoded = batch.into_par_iter().map(encode).collect::<Result<_>>()?;
            consume(&encoded)?;
        }
        reader.join().unwrap_or_else(|_| Err(Error::Other("the thread that reads the sources panicked".into())))
    })
}

fn read(
    sources: &[Input],
    reading: Reading<'_>,
    skipped: Option<&Skipped>,
    how: Cut,
    from: Place,
    sender: SyncSender<Vec<Piece>>,
) -> Result<()> {
    let mut batch = Batch { pieces: Vec::new(), bytes: 0, sender };
    for (number, source) in sources.iter().enumerate().skip(from.source) {
        let take = |piece: Piece| if piece.place < from { Ok(()) } else { batch.push(piece) };
        let mut cutter = Cutter::new(how, PIECE_BYTES, number, take).skipping(skipped);
        if let Err(error) = each_document(source, reading, &mut cutter as &mut dyn Sink) {
            batch.send()?; // what comes before it is good
            return Err(error);
        }
    }
    batch.send()
}

struct Batch {
    pieces: Vec<Piece>,
    bytes: usize,
    sender: SyncSender<Vec<Piece>>,
}

impl Batch {
    fn push(&mut self, piece: Piece) -> Result<()> {
        self.bytes += piece.text.len();
        self.pieces.push(piece);
        if self.bytes >= BATCH_BYTES || self.pieces.len() >= BATCH_PIECES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        self.bytes = 0;
        let sent = self.sender.send(std::mem::take(&mut self.pieces));
        // nobody sees this error: whoever stopped taking batches has one of its own
        sent.map_err(|_| Error::Other("the preparation has ended".into()))
    }
}
