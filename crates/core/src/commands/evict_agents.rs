//! Asks agents to leave their nodes. Each stops first; once its node has confirmed that nothing of
//! it runs, it is placed anew. One that has moved meanwhile is passed over.

use fleet_types::{AgentId, NodeId, Revision, Timestamp, limits::EVICTIONS_MAX};

use crate::{
    Outcome, Rejection, State,
    command::EvictAgents,
    event::{Cause, What},
    record::Lifecycle,
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &EvictAgents,
) -> Result<Outcome, Rejection> {
    if op.agents.len() > EVICTIONS_MAX {
        return Err(Rejection::LimitReached { what: "evictions", limit: EVICTIONS_MAX });
    }
    let now = Moment { at, revision };
    for eviction in &op.agents {
        let agent = state.agent(&eviction.agent);
        if agent.is_some_and(|agent| agent.generation == eviction.generation) {
            evict(state, &eviction.agent, eviction.to, op.cause, now);
        }
    }
    Ok(Outcome::Done(revision))
}

/// Asks one agent to leave, unless it does or is being deleted.
pub(crate) fn evict(
    state: &mut State,
    id: &AgentId,
    to: Option<NodeId>,
    cause: Cause,
    now: Moment,
) {
    let Some(mut agent) = state.agent(id).cloned() else { return };
    let Some(placement) = agent.placement.as_mut() else { return };
    if placement.evicting || agent.lifecycle != Lifecycle::Live {
        return;
    }
    let node = placement.node;
    (placement.evicting, placement.next) = (true, to);
    agent.revision = now.revision;
    state.put_agent(agent);
    state.tell(now, Some(node), Some(id.clone()), What::AgentEvicted { cause });
}

/// Lets an agent stay that was asked to leave.
pub(crate) fn keep(state: &mut State, id: &AgentId, now: Moment) {
    let Some(mut agent) = state.agent(id).cloned() else { return };
    let Some(placement) = agent.placement.as_mut().filter(|p| p.evicting) else { return };
    if agent.lifecycle != Lifecycle::Live {
        return;
    }
    let node = placement.node;
    (placement.evicting, placement.next, placement.taken_by) = (false, None, None);
    agent.revision = now.revision;
    state.put_agent(agent);
    state.tell(now, Some(node), Some(id.clone()), What::AgentKept);
}
