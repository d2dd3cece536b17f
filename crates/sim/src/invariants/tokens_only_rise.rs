//! Epochs and generations never go back: a fencing token that does is none.

use std::collections::BTreeMap;

use fleet_core::State;
use fleet_types::{Epoch, Generation, NodeId};

use crate::invariants::Broken;

/// The highest tokens seen. Agents are told apart by uid, which is never reused.
#[derive(Default)]
pub(crate) struct Highest {
    epochs: BTreeMap<NodeId, Epoch>,
    generations: BTreeMap<u32, Generation>,
}

impl Highest {
    pub(crate) fn check(&mut self, state: &State) -> Result<(), Broken> {
        let broken = |seen| Err(Broken { promise: "tokens only rise", seen });
        for node in state.nodes().values() {
            let highest = self.epochs.entry(node.id).or_default();
            if node.epoch < *highest {
                return broken(format!("epoch of node {} fell to {}", node.id, node.epoch));
            }
            *highest = node.epoch;
        }
        for agent in state.agents().values() {
            let highest = self.generations.entry(agent.uid).or_default();
            if agent.generation < *highest {
                return broken(format!("generation of {} fell to {}", agent.id, agent.generation));
            }
            *highest = agent.generation;
        }
        Ok(())
    }
}
