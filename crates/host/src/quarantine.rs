//! Ports of this node that are kept from agents, and whether anything uses them still. The kernel
//! tells nobody when the last socket of a port is gone, so they are looked at now and then.

use std::{collections::BTreeMap, io, time::Duration};

use fleet_process::unused;
use fleet_proto::{host::AssignRequest, v1};
use fleet_types::PortBlock;
use tokio::sync::watch;

use crate::provision::port_block;

/// Pause between looks, while there is something to look at.
const LOOK: Duration = Duration::from_secs(1);

/// A handle to what looks. Dropping it ends that.
pub(crate) struct Quarantine {
    kept: watch::Sender<BTreeMap<u16, PortBlock>>,
    unused: watch::Receiver<Vec<PortBlock>>,
}

impl Quarantine {
    /// Starts looking.
    pub(crate) fn start() -> Self {
        let (kept, of) = watch::channel(BTreeMap::new());
        let (found, unused) = watch::channel(Vec::new());
        tokio::spawn(run(of, found));
        Self { kept, unused }
    }

    /// Takes in what the leader says of ports that are kept from agents.
    pub(crate) fn note(&self, said: &AssignRequest) {
        if said.quarantined.is_none() && said.kept.is_empty() && said.freed.is_empty() {
            return;
        }
        self.kept.send_modify(|kept| {
            if let Some(all) = &said.quarantined {
                *kept = blocks(&all.blocks).collect();
            }
            kept.extend(blocks(&said.kept));
            kept.retain(|first, _| !said.freed.contains(&u32::from(*first)));
        });
    }

    /// Those of them that nothing uses.
    pub(crate) fn unused(&self) -> watch::Receiver<Vec<PortBlock>> {
        self.unused.clone()
    }
}

/// By their first port.
fn blocks(said: &[v1::PortBlock]) -> impl Iterator<Item = (u16, PortBlock)> {
    said.iter().map(|block| port_block(*block)).map(|block| (block.base, block))
}

async fn run(
    mut kept: watch::Receiver<BTreeMap<u16, PortBlock>>,
    found: watch::Sender<Vec<PortBlock>>,
) {
    loop {
        let blocks: Vec<PortBlock> = kept.borrow_and_update().values().copied().collect();
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

#[cfg(test)]
mod tests {
    use fleet_proto::host::Quarantined;

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_said_once_and_then_what_is_kept_besides_or_no_more() {
        let quarantine = Quarantine::start();
        let says = |all: Option<&[(u16, u16)]>, kept: &[(u16, u16)], freed: &[u32]| {
            let block =
                |&(base, size): &(u16, u16)| v1::PortBlock { base: base.into(), size: size.into() };
            let blocks = |all: &[(u16, u16)]| all.iter().map(block).collect();
            let quarantined = all.map(|all| Quarantined { blocks: blocks(all) });
            let (kept, freed) = (blocks(kept), freed.to_vec());
            quarantine.note(&AssignRequest { quarantined, kept, freed, ..Default::default() });
            let kept = quarantine.kept.borrow();
            kept.values().map(|block| (block.base, block.size)).collect::<Vec<_>>()
        };
        assert_eq!(says(Some(&[(8, 8), (16, 8)]), &[], &[]), [(8, 8), (16, 8)]);
        assert_eq!(says(None, &[(32, 8)], &[8]), [(16, 8), (32, 8)]);
        assert_eq!(says(None, &[], &[]), [(16, 8), (32, 8)]);
        assert_eq!(says(None, &[(16, 16)], &[8]), [(16, 16), (32, 8)], "in a larger block");
        assert_eq!(says(Some(&[]), &[], &[]), []);
    }
}
