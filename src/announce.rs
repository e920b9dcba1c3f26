//! What a run says of itself: at its start what it is going to do, and after its first segment how long that takes.

use crate::config::Config;
use crate::plan::pace::{Pace, num_segments};
use crate::plan::shape::Choice;
use crate::plan::{Plan, duration};

/// Seconds between a request to stop and the end of the job, where whoever starts the job says so (slurm/job.sh does).
pub const NOTICE: &str = "HESSPEC_NOTICE";

/// Network, blocks, products, hours, and where the tables are; `found`: groups that are there already, `ranks` share the work.
pub fn opening(config: &Config, plan: &Plan, choice: &Choice, found: usize, ranks: usize) -> Vec<String> {
    let Plan { num_params, num_products, blocks, groups, .. } = plan;
    let tokens = plan.tokens.map_or(String::new(), |tokens| format!(" of {tokens} {}s", plan.unit.prediction));
    let (run, url) = (&config.run.name, config.output.url.to_string());
    let url = url.trim_end_matches('/');
    let trial = choice.trials.iter().find(|trial| trial.shape == choice.shape);
    let time = match trial {
        Some(trial) => format!("about {} for all of it at the rate of this shape", duration(trial.seconds)),
        None => "the first segment tells how long it takes".into(),
    };
    let there = if found > 0 { format!(" ({found} are there)") } else { String::new() };
    let mut lines = vec![
        format!(
            "run `{run}`: {}, {num_params} parameters; {} blocks, {num_products} products H v in {} sweeps{tokens}, {} groups{there}; {time}",
            config.network.network_kind(),
            blocks.len(),
            plan.num_sweeps(),
            groups.len(),
        ),
        format!("tables: {url}/TABLE/run={run}; checkpoints and records: {url}/_runs/{run}"),
    ];
    let pace = trial.and_then(|trial| Pace::planned(config, plan, 1e9 * trial.gflops * ranks as f64));
    lines.extend(pace.zip(std::env::var(NOTICE).ok()).and_then(|(pace, notice)| too_late(pace, &notice)));
    lines
}

/// After the first segment, of the first of `groups` (names and sweeps): how long one takes, how long all of them will, and
/// whether a request to stop comes early enough.
pub fn pace(config: &Config, plan: &Plan, groups: &[(&str, u64)], seconds: f64) -> Vec<String> {
    let dearest = plan.groups.iter().map(|group| group.forward_passes).fold(0.0, f64::max);
    let passes = |name: &str| {
        let group = plan.groups.iter().find(|group| group.name == name);
        group.map_or(dearest, |group| group.forward_passes).max(f64::MIN_POSITIVE)
    };
    let Some(here) = groups.first().map(|(name, _)| passes(name)) else { return Vec::new() };
    let sweeps: f64 = groups.iter().map(|(name, sweeps)| *sweeps as f64 * passes(name) / here).sum();
    let pace = Pace::of(seconds * dearest.max(here) / here);
    let mut lines = vec![format!(
        "the first segment took {}: what is to be computed takes about {}. A stop is heeded at the end of a segment (at most {pace})",
        duration(seconds),
        duration(seconds * num_segments(config, plan) as f64 * sweeps)
    )];
    lines.extend(std::env::var(NOTICE).ok().and_then(|notice| too_late(pace, &notice)));
    lines
}

/// The warning for a job that is asked to stop too late.
fn too_late(pace: Pace, notice: &str) -> Option<String> {
    let Ok(seconds) = notice.trim().parse::<f64>() else {
        return Some(format!(
            "{NOTICE}={notice}: expected seconds, as in --signal=B:USR1@SECONDS; nothing is known of the notice"
        ));
    };
    let Pace { seconds_per_segment, signal_seconds } = pace;
    (seconds < signal_seconds as f64).then(|| {
        let certainly = if seconds < seconds_per_segment { "is killed" } else { "may be killed" };
        format!(
            "WARNING: a segment takes {}, and this job is asked to stop {seconds} s before its end: it {certainly} before it has saved, \
             and loses what was done since its last checkpoint. Ask earlier (--signal=B:USR1@{signal_seconds}) or raise batch.segments",
            duration(seconds_per_segment)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_asked_too_late_is_warned() {
        let warned = |seconds, notice| too_late(Pace::of(seconds), notice);
        assert_eq!(warned(10.0, "120"), None);
        assert!(warned(70.0, "120").unwrap().contains("may be killed"));
        let text = warned(178.0, "120").unwrap();
        assert!(text.contains("is killed") && text.contains("--signal=B:USR1@300"), "{text}");
        assert!(warned(1.0, "soon").unwrap().contains("HESSPEC_NOTICE=soon"));
    }
}
