//! What hosts report of their agents. In memory only: a new leader asks again.

use std::{collections::BTreeMap, sync::Mutex};

use fleet_core::{Agent, Desired};
use fleet_proto::{
    convert::{api::agent_state, host::parse_agent},
    host::Observation,
    v1::{self, agent::State},
};
use fleet_types::{AgentId, NodeId};

/// The last report on each agent, with the node it came from.
#[derive(Default)]
pub struct Observed {
    agents: Mutex<BTreeMap<AgentId, (NodeId, Observation)>>,
    paces: Mutex<BTreeMap<NodeId, Pace>>,
}

/// How agents start on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many at once.
    pub at_once: usize,
    /// How long one took of late, in milliseconds.
    pub start_ms: u64,
}

/// Whether what a host says is about an agent's placement of now, and not about one before, or an
/// agent that had its name.
pub(super) fn is_of(observation: &Observation, agent: &Agent) -> bool {
    let same = observation.uid == 0 || observation.uid == agent.uid;
    same && observation.generation == agent.generation.0
}

/// Whether a host says that it did as it was told last, and that nothing of an agent runs. What had
/// stopped before may have been started since.
pub(super) fn is_stopped(observation: &Observation, agent: &Agent) -> bool {
    let told = observation.revision == 0 || observation.revision == agent.revision.0;
    observation.gone && told && is_of(observation, agent)
}

impl Observed {
    /// Forgets everything.
    pub fn clear(&self) {
        self.agents.lock().expect("no holder panics").clear();
    }

    /// Forgets what was reported of an agent that is no more.
    pub fn forget_agent(&self, id: &AgentId) {
        self.agents.lock().expect("no holder panics").remove(id);
    }

    /// Forgets what a node reported.
    pub fn forget_node(&self, node: NodeId) {
        self.agents.lock().expect("no holder panics").retain(|_, (from, _)| *from != node);
    }

    /// Notes how agents start on a node.
    pub fn note_pace(&self, node: NodeId, pace: Pace) {
        self.paces.lock().expect("no holder panics").insert(node, pace);
    }

    /// How agents start on a node, if one was seen to.
    pub fn pace(&self, node: NodeId) -> Option<Pace> {
        self.paces.lock().expect("no holder panics").get(&node).copied()
    }

    /// Takes reports in.
    pub fn report(&self, node: NodeId, observations: &[Observation]) {
        let mut agents = self.agents.lock().expect("no holder panics");
        for observation in observations {
            if let Ok(id) = parse_agent(&observation.fleet, &observation.agent) {
                agents.insert(id, (node, observation.clone()));
            }
        }
    }

    /// Looks at the report on an agent's current placement, if there is one.
    pub fn look<T>(&self, agent: &Agent, look: impl FnOnce(&Observation) -> T) -> Option<T> {
        let placement = agent.placement.as_ref()?;
        let agents = self.agents.lock().expect("no holder panics");
        let (node, observation) = agents.get(&agent.id)?;
        (*node == placement.node && is_of(observation, agent)).then(|| look(observation))
    }

    /// The report on an agent's current placement, if there is one.
    pub fn of(&self, agent: &Agent) -> Option<Observation> {
        self.look(agent, Observation::clone)
    }

    /// The state an agent is in, as far as is known.
    pub fn state(&self, agent: &Agent) -> State {
        // Hosts are not told of agents that were never to run.
        let idle = agent.placement.is_some() && agent.desired == Desired::Stopped;
        let unseen = || if idle { State::Stopped } else { agent_state(agent) };
        self.look(agent, Observation::state).unwrap_or_else(unseen)
    }

    /// Fills in what is observed.
    pub fn complete(&self, agent: &Agent, shown: &mut v1::Agent) {
        let Some(observation) = self.of(agent) else {
            shown.state = self.state(agent).into();
            if shown.state() == State::Stopped {
                shown.state_message.clear();
            }
            return;
        };
        shown.state = observation.state;
        shown.state_message = observation.message;
        shown.pid = observation.pid;
        shown.starts = observation.starts;
        shown.double_run = observation.double_run;
    }
}

#[cfg(test)]
mod tests {
    use fleet_types::Revision;

    use super::*;
    use crate::testing::agent;

    #[test]
    fn a_stop_is_confirmed_only_by_who_was_told_of_it() {
        let agent = Agent { revision: Revision(7), ..agent(0) };
        let (uid, generation) = (agent.uid, agent.generation.0);
        let said = Observation { gone: true, uid, generation, revision: 7, ..Default::default() };
        assert!(is_stopped(&said, &agent));
        let of_before = Observation { uid: 0, revision: 0, ..said.clone() };
        assert!(is_stopped(&of_before, &agent), "a host of before the two were said");
        for other in [
            Observation { gone: false, ..said.clone() },
            Observation { revision: 6, ..said.clone() },
            Observation { uid: uid - 1, ..said.clone() },
            Observation { generation: generation + 1, ..said },
        ] {
            assert!(!is_stopped(&other, &agent), "{other:?}");
        }
    }
}
