//! How long a segment takes: a run that is asked to stop does so at the end of one.

use serde::Serialize;

use super::{Plan, duration, scale};
use crate::config::Config;
use crate::data;

/// Saving, the way of a signal to all ranks, and what is not counted.
const RESERVE: f64 = 30.0;
/// A segment may take so many times what is predicted, or what the first one took.
const MARGIN: f64 = 1.5;

/// Time of a segment, and the notice of a stop that follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    /// Seconds of a segment of the most expensive group.
    pub seconds_per_segment: f64,
    /// Seconds before its time limit at which a job has to be asked to stop: N of Slurm's `--signal=B:USR1@N`.
    pub signal_seconds: u64,
}

impl Pace {
    /// The pace of segments that take so many seconds.
    pub fn of(seconds_per_segment: f64) -> Self {
        let wait = (MARGIN * seconds_per_segment - 1.0).max(0.0); // a second is in the reserve
        Self { seconds_per_segment, signal_seconds: (30.0 * (wait / 30.0).ceil() + RESERVE) as u64 }
    }

    /// The pace of a plan on ranks that together do so many FLOP/s; `None` where only the data knows the batch.
    pub fn planned(config: &Config, plan: &Plan, flops: f64) -> Option<Self> {
        let dearest = plan.groups.iter().map(|group| group.forward_passes).reduce(f64::max)?;
        let flop = 2.0 * plan.forward_multiply_adds * dearest * plan.tokens? as f64;
        Some(Self::of(flop / num_segments(config, plan) as f64 / flops))
    }
}

/// Segments of a plan's batch: as configured, or as many as there are by default.
pub fn num_segments(config: &Config, plan: &Plan) -> usize {
    let samples = plan.tokens.unwrap_or(usize::MAX) / plan.unit.predictions;
    let units = match config.cut() {
        data::Cut::Samples => samples,
        data::Cut::MicroBatches => samples.div_ceil(plan.micro_batch),
    };
    config.batch.segments.unwrap_or(scale::SEGMENTS.min(units)).max(1)
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds_per_segment, signal_seconds } = self;
        write!(f, "{}; a job needs --signal=B:USR1@{signal_seconds} or more", duration(*seconds_per_segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_covers_a_slow_segment_and_its_end() {
        let of = |seconds| Pace::of(seconds).signal_seconds;
        assert_eq!((of(0.1), of(45.0), of(178.0)), (30, 120, 300));
        assert!(Pace::of(178.0).to_string().contains("--signal=B:USR1@300"));
    }
}
