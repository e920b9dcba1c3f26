//! Logs: on stderr, filtered by HESSPEC_LOG, else RUST_LOG, else `info` for commands with
//! progress and `warn` for the rest.

use tracing_subscriber::EnvFilter;

/// Starts logging.
pub fn start(shows_progress: bool) {
    let default = if shows_progress { "hesspec=info,warn" } else { "warn" };
    let asked = ["HESSPEC_LOG", "RUST_LOG"].iter().find_map(|name| std::env::var(name).ok());
    let filter = EnvFilter::builder().parse_lossy(asked.as_deref().unwrap_or(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
