//! How far a computation is: a bar with rate and ETA on a terminal, one line a minute elsewhere.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::duration;
use crate::worker::Progress;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
const TEMPLATE: &str = "{elapsed_precise} [{bar:30}] {msg}";

/// Progress on stderr.
pub struct Meter {
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    begin: Instant,
    last_line: Instant,
    total: u64,
    /// Of what is done, what an earlier call had done.
    skipped: u64,
}

impl State {
    fn begun(total: u64) -> Self {
        let now = Instant::now();
        Self { begin: now, last_line: now, total, skipped: 0 }
    }
}

impl Meter {
    /// Nothing is shown before [`Progress::begin`].
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self { bar, state: Mutex::new(State::begun(0)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Meter {
    fn begin(&self, total: u64) {
        *self.state() = State::begun(total);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            self.bar.set_style(style);
        }
        self.bar.set_length(total);
        self.bar.reset();
    }

    fn skip(&self, count: u64) {
        self.state().skipped += count;
    }

    fn advance(&self, message: &str, done: u64) {
        let mut state = self.state();
        let text = || line(message, done, state.total, state.skipped, state.begin.elapsed());
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
            self.bar.set_position(done);
        } else if state.last_line.elapsed() >= LINE_EVERY {
            tracing::info!("{}", text());
            state.last_line = Instant::now();
        }
    }

    fn log(&self, line: &str) {
        self.bar.suspend(|| tracing::info!("{line}"));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Work without a known end: a line that changes on a terminal, one line a minute elsewhere.
pub struct Counter {
    bar: ProgressBar,
    begin: Instant,
    last_line: Mutex<Instant>,
}

impl Counter {
    /// Begins now.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        Self { bar, begin: Instant::now(), last_line: Mutex::new(Instant::now()) }
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// How far it is.
    pub fn show(&self, message: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(message.to_string());
            self.bar.tick();
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            tracing::info!("{message}");
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `120/4000 micro-batches (3.0 %), 2.10/s, ETA 30 min: message`. The rate is that of what this call has done: `skipped` of
/// `done` were done before.
fn line(message: &str, done: u64, total: u64, skipped: u64, elapsed: Duration) -> String {
    let rate = done.saturating_sub(skipped) as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = duration(total.saturating_sub(done) as f64 / rate.max(1e-9));
    let percent = 100.0 * done as f64 / total.max(1) as f64;
    format!("{done}/{total} micro-batches ({percent:.1} %), {rate:.2}/s, ETA {left}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_and_time_left() {
        let text = line("wte", 120, 4000, 0, Duration::from_secs(60));
        assert_eq!(text, "120/4000 micro-batches (3.0 %), 2.00/s, ETA 32 min: wte");
    }

    /// What was done before a resume is no work of this call.
    #[test]
    fn a_resumed_run_goes_by_its_own_rate() {
        let text = line("wte", 3400, 4000, 3250, Duration::from_secs(10));
        assert_eq!(text, "3400/4000 micro-batches (85.0 %), 15.00/s, ETA 40 s: wte");
        let meter = Meter::new();
        meter.begin(4000);
        meter.skip(3000);
        meter.advance("wte", 3010);
        meter.skip(40);
        assert_eq!(meter.state().skipped, 3040);
        meter.begin(10);
        assert_eq!(meter.state().skipped, 0);
    }
}
