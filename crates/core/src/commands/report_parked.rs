//! Keeps for good that agents are not started again by themselves, and why: once, until they or
//! their node's epoch change.

use alloc::boxed::Box;

use fleet_types::{NodeId, Revision, Timestamp, limits::PARKED_MAX};

use crate::{
    Outcome, Rejection, State, command::ReportParked, event::What, record::Agent, state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &ReportParked,
) -> Result<Outcome, Rejection> {
    state.require_epoch(op.node, op.epoch)?;
    if op.agents.len() > PARKED_MAX {
        return Err(Rejection::LimitReached { what: "parked agents", limit: PARKED_MAX });
    }
    for parked in &op.agents {
        let agent = state.agent(&parked.agent);
        let Some(agent) = agent.filter(|it| is_news(state, it, op.node, parked.revision)) else {
            continue;
        };
        let mut agent = agent.clone();
        if let Some(placement) = &mut agent.placement {
            placement.parked = Some(Box::new((agent.revision, op.epoch)));
        }
        state.put_agent(agent);
        let what = What::AgentParked { start: parked.start, why: parked.why.clone() };
        state.tell(Moment { at, revision }, Some(op.node), Some(parked.agent.clone()), what);
    }
    Ok(Outcome::Done(revision))
}

/// Whether a node tells something new by saying that an agent is parked, as it is since a revision.
pub(crate) fn is_news(state: &State, agent: &Agent, node: NodeId, since: Revision) -> bool {
    let here = agent.placement.as_ref().filter(|placement| placement.node == node);
    let told = state.nodes().get(&node).map(|node| (since, node.epoch));
    agent.revision == since
        && here.is_some_and(|placement| placement.parked.as_deref() != told.as_ref())
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec, vec::Vec};

    use super::*;
    use crate::{
        Admission, Operation, Parked, RestartAgent, apply,
        placement_tests::{PLAIN, Size, asking, cluster, create, register, sized},
        property_tests::{command, fleet},
    };

    #[test]
    fn a_parked_agent_is_told_of_once_until_it_changes() {
        let size = Size { ports: 300, memory_gib: 4, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&[size, size]);
        create(
            &mut state,
            2_000,
            fleet(0),
            "a",
            Some(nodes[0]),
            asking(PLAIN),
            Admission::Unchecked,
        )
        .unwrap();
        let (id, agent) = state.agents().first_key_value().unwrap();
        let (id, first) = (id.clone(), agent.revision);
        let say = |state: &mut State, index, node, since, why: &str| {
            let epoch = state.nodes()[&node].epoch;
            let (agent, why) = (id.clone(), why.to_string());
            let agents = vec![Parked { agent, revision: since, start: 3, why }];
            let report = ReportParked { node, epoch, agents };
            apply(state, index, &command(Operation::ReportParked(report))).unwrap();
        };
        say(&mut state, 2_001, nodes[1], first, "by a node it is not on");
        say(&mut state, 2_002, nodes[0], first, "first");
        say(&mut state, 2_003, nodes[0], first, "again");
        let restart = Operation::RestartAgent(RestartAgent { agent: id.clone() });
        apply(&mut state, 2_004, &command(restart)).unwrap();
        say(&mut state, 2_005, nodes[0], first, "late");
        say(&mut state, 2_005, nodes[0], Revision(1), "of before");
        let second = state.agents()[&id].revision;
        say(&mut state, 2_006, nodes[0], second, "second");
        // Its machine was started anew, say.
        register(&mut state, nodes[0], sized(size));
        say(&mut state, 2_007, nodes[0], second, "third");
        say(&mut state, 2_008, nodes[0], second, "again");
        let told = state.events().values().filter_map(|event| match &event.what {
            What::AgentParked { start: 3, why } => Some(why.as_str()),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), ["first", "second", "third"]);
    }
}
