//! What a Lanczos step exchanges and what a rank holds, counted and not timed, on up to 64 thread ranks: the formulas of
//! ARCHITECTURE.md, "What a step exchanges".

use std::cell::RefCell;

use hesspec::cluster::{Comm, Traffic, threads};
use hesspec::config::{self, Config, Diagonal};
use hesspec::hessian::{Settings, Sharded, Slice};
use hesspec::job::{Job, On};
use hesspec::krylov::{self, Lanczos, Reorthogonalize, Step};
use hesspec::metrics::StepMetrics;
use hesspec::networks::Registry;
use hesspec::worker::{Context, Observer, Wanted, run_group};
use hesspec::{Error, Result};

type Flex = burn_flex::Flex;

const STEPS: usize = 4;
const SEGMENTS: usize = 3;
/// Windows, of one micro-batch each: more than ranks, and no multiple of them or of the segments.
const WINDOWS: usize = 70;
const CONTEXT: usize = 4;
/// Bytes of a vector's entry (f32), and of a sum's (f64).
const ENTRY: usize = 4;
const SUM: usize = 8;

fn config(folder: &tempfile::TempDir) -> Config {
    let path = folder.path().join("tokens.bin");
    let tokens = (0..WINDOWS as u16 * CONTEXT as u16 + 1).flat_map(|at| (at * at % 7).to_le_bytes());
    std::fs::write(&path, tokens.collect::<Vec<u8>>()).unwrap();
    let path = path.display();
    let text = format!(
        "[model.gpt2]\nlayers = 1\nheads = 1\nembedding = 6\nmlp = 10\ncontext = {CONTEXT}\nvocabulary = 7\n\
         [data.tokens]\npath = \"{path}\"\n[batch]\nmicro_batch = 1\nsegments = {SEGMENTS}\n"
    );
    config::parse(&text, "test", "test", &[], &Registry::built_in()).unwrap()
}

/// What had been exchanged at the end of each step.
struct Seen<'a> {
    comm: &'a Comm,
    traffic: RefCell<Vec<Traffic>>,
}

impl Observer for Seen<'_> {
    fn measured(&self, _: &StepMetrics) {
        self.traffic.borrow_mut().push(self.comm.traffic());
    }
}

/// Exchange of each step of a group of all blocks, and the dimension of each block.
fn steps(config: &Config, comm: &Comm) -> Result<(Vec<Traffic>, Vec<usize>)> {
    let on = On::<Flex, f32> { network: &*config.network.0, device: Default::default() };
    let job = Job::open(config, &on, 1)?;
    assert_eq!((job.data().num_micro_batches(), job.data().num_segments()), (WINDOWS, SEGMENTS));
    let settings = Settings { steps: STEPS, ..Settings::default() };
    let pairs: Vec<(usize, u32)> = (0..job.blocks.len()).map(|at| (at, 0)).collect();
    let seen = Seen { comm, traffic: RefCell::new(Vec::new()) };
    let etas = vec![0.0; job.blocks.len()];
    let context = Context::new(&etas, 1.0, &seen);
    // the start vectors' norms, one scalar each, come before the first step
    let before = comm.traffic();
    let found = run_group(&job.work(comm, &settings), "group", &pairs, &context)?;
    assert!(found.slots.iter().all(|slot| slot.tridiagonal.steps() == STEPS), "a slot ended early");
    let first = Traffic {
        collectives: before.collectives + pairs.len() as u64,
        bytes: before.bytes + (pairs.len() * SUM) as u64,
    };
    let ends = [vec![first], seen.traffic.into_inner()].concat();
    let difference = |pair: &[Traffic]| Traffic {
        collectives: pair[1].collectives - pair[0].collectives,
        bytes: pair[1].bytes - pair[0].bytes,
    };
    let dims = job.blocks.iter().map(|block| block.num_params(&job.layout)).collect();
    Ok((ends.windows(2).map(difference).collect(), dims))
}

#[test]
fn a_step_exchanges_what_the_formulas_say_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    for ranks in [2, 7, 64] {
        let all = threads::run(ranks, |comm| steps(&config, &comm)).unwrap();
        for (rank, (found, dims)) in all.iter().enumerate() {
            let (k, s) = (dims.len(), SEGMENTS);
            assert_eq!(found.len(), STEPS);
            for (at, traffic) in found.iter().enumerate() {
                let j = at + 1; // columns of the basis
                let collectives = k * (2 * s + 4) + s;
                let padded: usize = dims.iter().map(|n| ranks * n.div_ceil(ranks)).sum();
                let vectors = padded * (ENTRY + s * SUM);
                let scalars = SUM * (k * (s * j + 2 * j + 1) + 2 * s);
                let expected = Traffic { collectives: collectives as u64, bytes: (vectors + scalars) as u64 };
                assert_eq!(*traffic, expected, "rank {rank} of {ranks}, step {j}");
            }
        }
    }
}

/// Collectives of what comes behind the last step of a group of all blocks, and how many blocks and eigenvectors there are.
fn ending(config: &Config, comm: &Comm) -> Result<(u64, usize, usize)> {
    let on = On::<Flex, f32> { network: &*config.network.0, device: Default::default() };
    let job = Job::open(config, &on, 1)?;
    let settings = Settings { steps: 12, ..Settings::default() };
    let pairs: Vec<(usize, u32)> = (0..job.blocks.len()).map(|at| (at, 0)).collect();
    let seen = Seen { comm, traffic: RefCell::new(Vec::new()) };
    let write = |_, _, _| Ok(String::new());
    let etas = vec![0.0; job.blocks.len()];
    let structure = config.network.structure();
    let context = Context {
        eigenvectors: Some(Wanted { count: 5, write: &write }),
        diagonal: config.diagonal.as_ref().map(|diagonal| (diagonal.by.as_slice(), structure)),
        ..Context::new(&etas, 1.0, &seen)
    };
    let found = run_group(&job.work(comm, &settings), "group", &pairs, &context)?;
    let last = seen.traffic.borrow().last().map_or(0, |traffic| traffic.collectives);
    let collectives = comm.traffic().collectives - last;
    Ok((collectives, pairs.len(), found.eigenvectors.len()))
}

#[test]
fn what_is_formed_from_bases_takes_as_many_collectives_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    for diagonal in [None, Some(Diagonal::default())] {
        config.diagonal = diagonal;
        let scalars = if config.diagonal.is_some() { 1 } else { 0 };
        for ranks in [1, 2, 7] {
            let all = threads::run(ranks, |comm| ending(&config, &comm)).unwrap();
            let (_, k, vectors) = all[0]; // known on rank 0
            assert!(vectors > k, "{vectors} of {k} blocks");
            let moved = if ranks == 1 { 0 } else { k * SEGMENTS + vectors }; // one rank holds whole vectors
            let expected = moved + SEGMENTS + 1 + 2 * k + scalars * k;
            assert!(
                all.iter().all(|(found, ..)| *found == expected as u64),
                "{ranks} ranks: {all:?}, expected {expected}"
            );
        }
    }
}

/// Bytes that each rank holds of the basis, and T, after m steps on diag(0 ... n - 1).
fn diagonal(comm: &Comm, len: usize, steps: usize) -> Result<(usize, Vec<f64>)> {
    let range = comm.shard(len).range();
    let start = Slice { values: range.clone().map(|i| 1.0 + (i % 7) as f64).collect(), len };
    let settings = krylov::Settings {
        label: "diagonal".into(),
        steps,
        reorthogonalize: Reorthogonalize::Full,
        eta: 1e-16,
        segments: 0,
    };
    let mut lanczos = Lanczos::new(Sharded::<f64>::new(comm), start, settings)?;
    while lanczos.step() == Step::Continue {
        let v = lanczos.vector().ok_or_else(|| Error::Other("no vector".into()))?;
        let values = v.values.iter().zip(range.clone()).map(|(x, i)| x * i as f64).collect();
        lanczos.advance(Slice { values, len }, Vec::new())?;
    }
    Ok((lanczos.basis().num_bytes(), lanczos.tridiagonal().alpha.clone()))
}

#[test]
fn a_rank_holds_its_share_of_the_basis() {
    let (len, steps) = (1000, 20);
    let whole = len * steps * size_of::<f64>();
    let alone = threads::run(1, |comm| diagonal(&comm, len, steps)).unwrap().swap_remove(0);
    assert_eq!(alone.0, whole);
    for ranks in [2, 5, 64] {
        let all = threads::run(ranks, |comm| diagonal(&comm, len, steps)).unwrap();
        assert_eq!(all.iter().map(|(bytes, _)| bytes).sum::<usize>(), whole, "nothing twice, nothing missing");
        let most = all.iter().map(|(bytes, _)| *bytes).max().unwrap();
        assert_eq!(most, len.div_ceil(ranks) * steps * size_of::<f64>(), "{ranks} ranks");
        for (alpha, expected) in all[ranks - 1].1.iter().zip(&alone.1) {
            assert!((alpha - expected).abs() < 1e-12 * len as f64, "{ranks} ranks: {alpha} and {expected}");
        }
    }
}
