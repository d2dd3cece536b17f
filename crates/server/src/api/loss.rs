//! What the loss of a node would mean for its agents, in words.

use std::{cmp::Reverse, collections::BTreeMap};

use fleet_core::{
    Agent, Lack, State,
    explain::{self, Obstacle, Verdict},
};
use fleet_proto::{convert::api::duration, resource, v1::AgentLoss};
use fleet_types::{LeaseTiming, NodeId};

use crate::{leader::Pace, leases::wait_ms};

/// Of how many agents that a loss leaves without a place it is said why: each node is looked at for
/// each.
const EXPLAINED_MAX: u32 = 10;

/// What is said of the others.
const NOWHERE: &str = "no other node suits it and has room";

/// Why an agent fits nowhere without `lost`: what the other nodes are, most of them first.
fn nowhere(state: &State, agent: &Agent, lost: NodeId) -> String {
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, verdict) in explain::explain(state, agent).iter().filter(|(id, _)| *id != lost) {
        let first = match verdict {
            Verdict::Hindered(obstacles) => obstacles.first().map_or("", |first| word(*first)),
            Verdict::Here { .. } | Verdict::Suits { .. } => "taken by those placed before it",
        };
        *others.entry(first).or_default() += 1;
    }
    let mut others: Vec<_> = others.into_iter().map(|(what, nodes)| (nodes, what)).collect();
    others.sort_unstable_by_key(|(nodes, _)| Reverse(*nodes));
    let said: Vec<_> = others.iter().map(|(nodes, what)| format!("{nodes} {what}")).collect();
    if said.is_empty() {
        return "there is no other node".into();
    }
    format!("{NOWHERE}; of the others {}", said.join(", "))
}

/// What a node with an obstacle is.
fn word(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NotUp(_) => "not up",
        Obstacle::NotOpen(_) => "cordoned or drained",
        Obstacle::NoRuntime => "without its runtime",
        Obstacle::NoLabels => "without its labels",
        Obstacle::OldRuntime => "with an older version of its runtime",
        Obstacle::Unfit => "unfit for strict agents",
        Obstacle::NotApart => "with another of its fleet, from which it stands apart",
        Obstacle::NoRoom(Lack::Memory(_)) => "without the memory",
        Obstacle::NoRoom(Lack::Cpu(_)) => "without the processor time",
        Obstacle::NoRoom(Lack::Ports(_)) => "without the ports",
    }
}

/// What would become of the agents of `node`, for people. `pace` says how agents start on a node.
pub(super) fn losses(
    state: &State,
    node: NodeId,
    pace: impl Fn(NodeId) -> Option<Pace>,
) -> Vec<AgentLoss> {
    let (mut before, mut left_out) = (BTreeMap::<NodeId, u64>::new(), 0);
    let timing = LeaseTiming::of(state.cluster().map(|c| c.profile).unwrap_or_default());
    let shown = |loss: explain::Loss| {
        let to = loss.to.and_then(|to| state.nodes().get(&to));
        let lost = state.nodes().get(&node);
        let after = lost.and_then(|lost| wait_ms(loss.class, lost, &timing));
        let ready_after = to.zip(after).and_then(|(to, after)| {
            let Pace { at_once, start_ms } = pace(to.id)?;
            if !loss.starts {
                return None;
            }
            let place = before.entry(to.id).or_default();
            *place += 1;
            Some(duration(after + place.div_ceil(at_once as u64) * start_ms))
        });
        let message = match (to, after) {
            (Some(_), _) => String::new(),
            (None, Some(_)) => {
                left_out += 1;
                let agent = state.agent(&loss.agent).filter(|_| left_out <= EXPLAINED_MAX);
                agent.map_or_else(|| NOWHERE.into(), |agent| nowhere(state, agent, node))
            }
            (None, None) => "pinned: it stays, and waits for its node".into(),
        };
        AgentLoss {
            agent: resource::agent(&loss.agent),
            node: to.map(|to| format!("nodes/{}", to.id)).unwrap_or_default(),
            node_display_name: to.map(|to| to.name.to_string()).unwrap_or_default(),
            after: after.map(duration),
            message,
            ready_after,
        }
    };
    explain::loss(state, node).into_iter().map(shown).collect()
}
