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

impl Observed {
    /// Forgets everything.
    pub fn clear(&self) {
        self.agents.lock().expect("no holder panics").clear();
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
        let current = *node == placement.node && observation.generation == agent.generation.0;
        current.then(|| look(observation))
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
