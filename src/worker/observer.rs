//! Who watches a group of slots while it runs.

use crate::Result;
use crate::metrics::StepMetrics;

/// Hears how far a group is, on every rank. `()` watches nothing.
pub trait Observer {
    /// So many of the group's micro-batches are done.
    fn advance(&self, _done: u64) {}

    /// So many of the group's micro-batches an earlier call had done.
    fn skip(&self, _count: u64) {}

    /// A segment took so many seconds.
    fn segment(&self, _seconds: f64) {}

    /// A step is done.
    fn measured(&self, _step: &StepMetrics) {}

    /// A line worth keeping.
    fn log(&self, _line: &str) {}

    /// Asked at the end of each segment: an error ends the run.
    ///
    /// # Errors
    /// The observer's own.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Asked at the end of each segment: why all ranks are to save and to end, on whichever rank the reason is.
    fn stop(&self) -> Option<String> {
        None
    }
}

impl Observer for () {}

/// Who hears how far the run is.
pub trait Progress {
    /// The run has this many micro-batches to go through.
    fn begin(&self, total: u64);
    /// So many of the next group's were done before, by a run that was stopped: no work of this one.
    fn skip(&self, count: u64);
    /// So many are done; `message` says at what.
    fn advance(&self, message: &str, done: u64);
    /// A line worth keeping.
    fn log(&self, line: &str);
}
