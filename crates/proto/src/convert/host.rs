//! Plain values to and from what leader and hosts say to each other.

use fleet_core as core;
use fleet_types::{AgentId, InvalidName};

use crate::host;

/// An agent's name as hosts write it.
pub fn agent_key(id: &AgentId) -> host::AgentKey {
    host::AgentKey { fleet: id.fleet.to_string(), agent: id.agent.to_string() }
}

/// Reads an agent's name.
///
/// # Errors
/// When a part is not a name.
pub fn parse_agent(fleet: &str, agent: &str) -> Result<AgentId, InvalidName> {
    Ok(AgentId { fleet: fleet.parse()?, agent: agent.parse()? })
}

/// What a host is told of an agent; none when it has no placement. `config` is the fleet's and the
/// agent's overlay, merged, and `token` the agent's gateway token.
pub fn assignment(agent: &core::Agent, config: String, token: String) -> Option<host::Assignment> {
    let placement = agent.placement.as_ref()?;
    let live = agent.lifecycle == core::Lifecycle::Live && !placement.evicting;
    let mut spec = super::api::agent_spec(&agent.spec);
    spec.config_json = config;
    Some(host::Assignment {
        fleet: agent.id.fleet.to_string(),
        agent: agent.id.agent.to_string(),
        generation: agent.generation.0,
        run: live && agent.desired == core::Desired::Running,
        restarts: agent.restarts,
        uid: agent.uid,
        block: Some(super::api::port_block(placement.block)),
        spec: Some(spec),
        token,
        revision: agent.revision.0,
    })
}
