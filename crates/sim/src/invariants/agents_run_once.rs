//! At most one copy of an agent executes at any moment, on all machines together. The product's
//! first promise.

use std::collections::BTreeMap;

use crate::{invariants::Broken, node::Machine};

pub(crate) fn check(machines: &[Machine]) -> Result<(), Broken> {
    let mut running = BTreeMap::new();
    for machine in machines {
        for (id, process) in machine.processes.iter().filter(|(_, p)| p.executes) {
            if let Some((other, generation)) = running.insert(id, (machine.id, process.generation))
            {
                let seen = format!(
                    "agent {id} executes on node {other} (generation {generation}) and on node {} \
                     (generation {})",
                    machine.id, process.generation
                );
                return Err(Broken { promise: "agents run once", seen });
            }
        }
    }
    Ok(())
}
