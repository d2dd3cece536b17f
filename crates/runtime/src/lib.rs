//! What every process of the product needs from its surroundings: configuration, clocks, logging.
#![forbid(unsafe_code)]

pub mod clock;
mod config;
pub mod priority;
pub mod telemetry;

pub use config::{Config, ConfigError, OnShutdown};

/// The version this binary was built as.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
