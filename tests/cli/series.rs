//! `[series]`: checkpoints of one run, or seeds, as ordinary runs, and the tables that compare them.

use hesspec::output::{Results, RunResults, SeriesDistanceRow, SeriesPairRow, SeriesRow, SummaryRow};

use crate::folder::Folder;

const BLOCKS: &str =
    "--set blocks.include=[\"*.c_fc.weight\",\"*.wte.weight\"] --set distance.metrics=[\"wasserstein1\",\"js\"]";

fn run(folder: &Folder, url: &str, name: &str) -> RunResults {
    Results::open(folder.path(url).to_str().unwrap()).unwrap().run(Some(name)).unwrap()
}

#[test]
fn checkpoints_are_runs_in_the_order_of_their_steps() {
    let folder = Folder::new();
    for (file, seed) in [("ckpt-100.safetensors", 1), ("ckpt-20.safetensors", 2), ("step_3/model.safetensors", 3)] {
        std::fs::create_dir_all(folder.path(file).parent().unwrap()).unwrap();
        folder.hesspec(&format!("weights export tiny.toml {file} --set run.seed={seed}")).ok();
    }
    let study = format!(
        "run tiny.toml --output out {BLOCKS} --set series.checkpoints=[\"ckpt-*.safetensors\",\"step_*/model.safetensors\"]"
    );
    let said = folder.hesspec(&study).ok();
    assert!(said.stderr.contains("member 3 of 3: step 100"), "{}", said.stderr);
    let done = run(&folder, "out", "tiny");
    let rows: Vec<SeriesRow> = done.read().unwrap();
    let blocks = 4; // two c_fc, wte, and the whole network
    assert_eq!(rows.len(), 3 * blocks);
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [[3; 4], [20; 4], [100; 4]].concat());
    for row in &rows {
        assert_eq!(
            (row.label.clone(), row.member.clone()),
            (format!("step {}", row.number), format!("tiny-{}", row.number))
        );
        let own: Vec<SummaryRow> = run(&folder, "out", &row.member).read().unwrap();
        let own = own.iter().find(|own| own.block == row.block).unwrap();
        assert_eq!((own.trace, own.lambda_max, own.negative_energy), (row.trace, row.lambda_max, row.negative_energy));
    }
    // each beside the next and beside the last
    let distances: Vec<SeriesDistanceRow> = done.read().unwrap();
    let mut pairs: Vec<(i64, i64)> = distances.iter().map(|row| (row.number_a, row.number_b)).collect();
    pairs.dedup();
    assert_eq!(pairs, [(3, 20), (3, 100), (20, 100)]);
    let w1 = distances.iter().filter(|row| row.metric == "wasserstein1");
    assert!(w1.clone().count() == 3 * blocks && w1.clone().all(|row| row.value.unwrap() > 0.0 && row.error.is_some()));
    let heterogeneity: Vec<SeriesPairRow> = done.read().unwrap();
    let of_w1: Vec<_> = heterogeneity.iter().filter(|row| row.metric == "wasserstein1").collect();
    assert!(of_w1.len() == 3 && of_w1.iter().all(|row| row.num_pairs == 3 && row.largest >= row.mean), "{of_w1:?}");
    // the study has the spectra of its last member, and is not computed again
    assert_eq!(done.read::<SummaryRow>().unwrap(), run(&folder, "out", "tiny-100").read::<SummaryRow>().unwrap());
    let again = folder.hesspec(&format!("{study} --json")).ok();
    assert_eq!(again.json()["num_products"], 0);
    // other weights under the name of a member that is there
    folder.hesspec("weights export tiny.toml ckpt-7.safetensors --set run.seed=7").ok();
    folder.hesspec(&study).ok(); // done is done
    folder.hesspec(&study.replace("step_*/model.safetensors", "other/*.pt")).failed(2, &["series.checkpoints"]);
}

#[test]
fn seeds_are_members_and_contradictions_are_refused() {
    let folder = Folder::new();
    let study = format!("run tiny.toml --output out {BLOCKS} --set series.seeds=[4,2]");
    folder.hesspec(&study).ok();
    let rows: Vec<SeriesRow> = run(&folder, "out", "tiny").read().unwrap();
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [[4; 4], [2; 4]].concat());
    folder.hesspec(&format!("run tiny.toml --output alone {BLOCKS} --set run.seed=2 --set run.name=tiny-seed2")).ok();
    let alone: Vec<SummaryRow> = run(&folder, "alone", "tiny-seed2").read().unwrap();
    assert_eq!(alone, run(&folder, "out", "tiny-seed2").read::<SummaryRow>().unwrap());
    let with = |series: &str| folder.hesspec(&format!("run tiny.toml --output new --set series.{series}"));
    with("checkpoints=[\"none-*.pt\"]").failed(2, &["none-*.pt", "no file matches"]);
    with("checkpoints=[\"a.pt\"]").failed(2, &["series.checkpoints", "found 1", "two or more"]);
    with("checkpoints=[\"x/a.pt\",\"y/b.pt\"]").failed(2, &["x/a.pt", "y/b.pt", "same number", "step in the name"]);
    with("seeds=[1,1]").failed(2, &["series.seeds", "each seed once"]);
}
