//! Logging: to standard error, in text for people or JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` (a `tracing` filter, e.g. `info` or `info,openraft=error`). Text on a
/// terminal, JSON lines elsewhere. A filter that does not parse means `info`.
pub fn start(level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
