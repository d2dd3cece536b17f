//! Closed-loop load: each client makes its next write when the last is answered.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;

/// What was measured.
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} | {:.2} | {:.2}", self.rate, self.p50_ms, self.p99_ms)
    }
}

/// The measurement of middling rate.
pub(crate) fn median(all: &[Figures]) -> &Figures {
    let mut all: Vec<&Figures> = all.iter().collect();
    all.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    all[all.len() / 2]
}

/// One client: makes one write a call, with a number never given before.
pub(crate) trait Write: Send + 'static {
    fn write(&mut self, number: u64) -> impl Future<Output = Result<()>> + Send;
}

/// Runs `clients` for `seconds`. A write that fails ends the measurement: a figure with errors in
/// it is none.
pub(crate) async fn run<W: Write>(
    clients: usize,
    seconds: u64,
    make: impl Fn(usize) -> W,
) -> Result<Figures> {
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let mut writer = make(client);
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let before = Instant::now();
                    writer.write(took.len() as u64).await?;
                    took.push(before.elapsed().as_secs_f64() * 1_000.0);
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    let at = |permille: usize| took.get(took.len() * permille / 1_000).copied().unwrap_or(f64::NAN);
    Ok(Figures { rate: took.len() as f64 / elapsed, p50_ms: at(500), p99_ms: at(990) })
}
