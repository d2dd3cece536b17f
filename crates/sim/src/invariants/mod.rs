//! What must hold after every step, one promise a file.

pub mod agents_run_once;
pub mod ports_are_disjoint;
pub mod replicas_agree;
pub mod tokens_only_rise;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which promise.
    pub promise: &'static str,
    /// What was seen.
    pub seen: String,
}
