//! Ports of this node that are kept from agents, and whether anything uses them still. The kernel
//! tells nobody when the last socket of a port is gone, so they are looked at now and then.

use std::{io, time::Duration};

use fleet_process::unused;
use fleet_types::PortBlock;
use tokio::sync::watch;

/// Pause between looks, while there is something to look at.
const LOOK: Duration = Duration::from_secs(1);

/// A handle to what looks. Dropping it ends that.
pub(crate) struct Quarantine {
    kept: watch::Sender<Vec<PortBlock>>,
    unused: watch::Receiver<Vec<PortBlock>>,
}

impl Quarantine {
    /// Starts looking.
    pub(crate) fn start() -> Self {
        let (kept, of) = watch::channel(Vec::new());
        let (found, unused) = watch::channel(Vec::new());
        tokio::spawn(run(of, found));
        Self { kept, unused }
    }

    /// Takes in what is kept from agents.
    pub(crate) fn keep(&self, blocks: Vec<PortBlock>) {
        self.kept.send_replace(blocks);
    }

    /// Those of them that nothing uses.
    pub(crate) fn unused(&self) -> watch::Receiver<Vec<PortBlock>> {
        self.unused.clone()
    }
}

async fn run(mut kept: watch::Receiver<Vec<PortBlock>>, found: watch::Sender<Vec<PortBlock>>) {
    loop {
        let blocks = kept.borrow_and_update().clone();
        let none = blocks.is_empty();
        let looked = tokio::task::spawn_blocking(move || unused(&blocks)).await;
        let free = looked.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::warn!(%error, "which ports are in use cannot be told; they are kept");
            Vec::new()
        });
        found.send_if_modified(|before| {
            let news = *before != free;
            *before = free;
            news
        });
        let changed = if none {
            kept.changed().await
        } else {
            tokio::time::timeout(LOOK, kept.changed()).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}
