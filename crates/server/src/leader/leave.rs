//! Asking agents to leave their nodes: for drains, at their pace, and for balance, once the cluster
//! has been calm for a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fleet_core::{
    Agent, EvictAgents, Evidence, Operation, Schedulable, State, open,
    rebalance::{self, Arriving},
};
use fleet_proto::v1::agent::State as Seen;
use fleet_runtime::clock;
use fleet_types::{AgentId, NodeId};

use super::{Leader, Observed, RETRY};

/// Longest pause between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest pause between looks, and how much longer than a look it is: looking holds up applying.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_OF_LOOK: u32 = 100;
/// How long no node may have come or gone before agents are moved for balance: one that flaps
/// is not worth a move.
const CALM: Duration = Duration::from_secs(60);

/// How long an agent that was moved counts as on its way, at most: one that never gets ready must
/// not hold up the others for good.
const ARRIVING_MAX: Duration = Duration::from_secs(600);

/// The agents that were asked to leave a node, since when, until they are up elsewhere.
struct Moved(BTreeMap<AgentId, (NodeId, Instant)>);

impl Moved {
    /// What a leader before may have begun: the agents that leave nodes that are drained, or left
    /// them of late or for no place yet. Those that are up are forgotten once their nodes say so.
    fn found(state: &State) -> Self {
        let now = Instant::now();
        let drained = |id: &NodeId| {
            let node = state.nodes().get(id);
            node.is_some_and(|node| node.schedulable == Schedulable::Draining)
        };
        let late = u64::try_from(ARRIVING_MAX.as_millis()).unwrap_or(u64::MAX);
        let moved = state.agents().values().filter_map(|agent| {
            let placement = agent.placement.as_ref();
            if let Some(leaving) = placement.filter(|it| it.evicting && drained(&it.node)) {
                return Some((agent.id.clone(), (leaving.node, now)));
            }
            let (node, _) = agent.former.filter(|(node, _)| drained(node))?;
            let evidence = placement.map_or(&agent.evidence, |it| &it.evidence);
            let arrives = placement.is_none_or(|it| it.placed.plus_ms(late) > clock::now());
            let left = arrives && *evidence == Evidence::ConfirmedEmpty;
            left.then(|| (agent.id.clone(), (node, now)))
        });
        Self(moved.collect())
    }

    fn note(&mut self, state: &State, evict: &EvictAgents) {
        let agents = evict.agents.iter().filter_map(|eviction| state.agent(&eviction.agent));
        self.0.extend(agents.filter_map(leaves_now));
    }

    /// Notes whom others asked to leave: an operator does.
    fn see(&mut self, state: &State) {
        for (agent, leaves) in state.on_the_move().filter_map(leaves_now) {
            self.0.entry(agent).or_insert(leaves);
        }
    }

    /// Those that left each node and are not up elsewhere; the others are forgotten, but for those
    /// that have not left yet.
    fn arriving(&mut self, state: &State, observed: &Observed) -> Arriving {
        let mut arriving = Arriving::new();
        self.0.retain(|id, (from, since)| {
            let agent = state.agent(id).filter(|_| since.elapsed() < ARRIVING_MAX);
            let Some(agent) = agent else { return false };
            let leaving = |agent: &Agent| agent.placement.as_ref().is_some_and(|p| p.evicting);
            let underway = !leaving(agent) && !is_up(observed.state(agent));
            if underway {
                *arriving.entry(*from).or_default() += 1;
            }
            underway || leaving(agent)
        });
        arriving
    }
}

fn leaves_now(agent: &Agent) -> Option<(AgentId, (NodeId, Instant))> {
    Some((agent.id.clone(), (agent.placement.as_ref()?.node, Instant::now())))
}

/// How many agents are on the move: leave their nodes, or left them of late for others where they are
/// not up yet.
pub(crate) fn moving(state: &State, observed: &Observed) -> usize {
    let late = u64::try_from(ARRIVING_MAX.as_millis()).unwrap_or(u64::MAX);
    let now = clock::now();
    let arrives = |agent: &&Agent| {
        let moved = agent.placement.as_ref().is_some_and(|it| {
            it.evidence == Evidence::ConfirmedEmpty && !it.evicting && it.placed.plus_ms(late) > now
        });
        moved && !is_up(observed.state(agent))
    };
    let arriving = state.agents().values().map(Box::as_ref).filter(arrives).count();
    state.on_the_move().count() + arriving
}

/// Whether an agent runs, or will not by waiting.
fn is_up(state: Seen) -> bool {
    matches!(state, Seen::Ready | Seen::CrashLooping | Seen::Stopped)
}

/// What must not have changed for the cluster to be calm: which nodes take agents, since when.
fn scene(state: &State) -> Vec<(u64, u64)> {
    state.nodes().values().filter(|node| open(node)).map(|node| (node.id.0, node.epoch.0)).collect()
}

pub(super) async fn run(leader: Leader) {
    let mut index = leader.raft.applied_index();
    let mut moved = leader.raft.read(Moved::found);
    let (mut seen, mut since) = (leader.raft.read(scene), Instant::now());
    loop {
        index.mark_unchanged();
        let now = leader.raft.read(scene);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let calm = since.elapsed() >= CALM;
        let looking = Instant::now();
        let asked = leader.raft.read(|state| {
            moved.see(state);
            let arriving = moved.arriving(state, &leader.observed);
            let mut asked = rebalance::drains(state, clock::now(), &arriving);
            // Each knows nothing of the room that the other counts on.
            if calm && asked.is_empty() {
                asked.extend(rebalance::automatic(state, &arriving));
            }
            asked.iter().for_each(|evict| moved.note(state, evict));
            asked
        });
        let pause = PAUSE.max(looking.elapsed() * PAUSE_OF_LOOK);
        for evict in asked {
            let (agents, cause) = (evict.agents.len(), evict.cause);
            match leader.proposer.submit(Operation::EvictAgents(evict)).await {
                Ok(_) => tracing::info!(agents, ?cause, "agents asked to leave"),
                Err(status) => {
                    tracing::warn!(%status, "asking agents to leave failed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        tokio::time::sleep(pause).await;
        leader.applied(&mut index, LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_core::{
        Command, InitCluster, Node, NodeAddress, NodeStatus, Placement, Record, SetSchedulable,
        apply, rebalance::Arriving,
    };
    use fleet_types::{Generation, LeaseProfile, PortBlock, Timestamp};

    use super::*;
    use crate::testing::agent;

    #[test]
    fn a_new_leader_counts_what_the_last_one_moved() {
        let (node, at) = (NodeId(1), String::new);
        let init = InitCluster {
            cluster: "00112233445566aa".parse().unwrap(),
            profile: LeaseProfile::Fast,
            node,
            name: "n1".parse().unwrap(),
            address: NodeAddress { api: at(), peer: at(), lease: at() },
            storage: at(),
        };
        let drain = SetSchedulable { node, schedulable: Schedulable::Draining, drain: None };
        let mut state = State::default();
        let operations = [Operation::InitCluster(init), Operation::SetSchedulable(drain)];
        for (index, operation) in (1..).zip(operations) {
            let command = Command { at: Timestamp(1), request: None, operation };
            apply(&mut state, index, &command).unwrap();
        }
        let left = |number, evidence, from| Agent {
            former: Some((NodeId(from), Generation(1))),
            evidence,
            ..agent(number)
        };
        let at = |number, on, evicting, from, placed| {
            let (evidence, block) = (Evidence::ConfirmedEmpty, PortBlock { base: 10_240, size: 1 });
            let (node, next, taken_by, parked) = (NodeId(on), None, None, None);
            let placement =
                Some(Placement { node, block, evicting, next, taken_by, parked, evidence, placed });
            Agent { placement, pending: None, ..left(number, Evidence::First, from) }
        };
        let agents = [
            left(1, Evidence::ConfirmedEmpty, 1),
            left(2, Evidence::LeaseExpired { waited_ms: 1 }, 1),
            left(3, Evidence::ConfirmedEmpty, 2),
            agent(4),
            at(5, 1, true, 2, Timestamp(1)),
            at(6, 1, false, 2, Timestamp(1)),
            at(7, 2, false, 1, clock::now()),
            at(8, 2, false, 1, Timestamp(1)),
        ];
        let up = |record| match record {
            Record::Node(node) => Record::Node(Node { status: NodeStatus::Active, ..node }),
            record => record,
        };
        let records: Vec<Record> = state.records().map(up).collect();
        let state =
            State::restore(records.into_iter().chain(agents.map(Box::new).map(Record::Agent)));
        let observed = Arc::new(Observed::default());
        let mut moved = Moved::found(&state);
        let found: Vec<String> = moved.0.keys().map(|id| id.agent.to_string()).collect();
        assert_eq!(found, ["a1", "a5", "a7"]);
        let arriving = moved.arriving(&state, &observed);
        assert_eq!(arriving, Arriving::from([(node, 2)]), "one has not left yet");
        let mut seen = Moved(BTreeMap::new());
        seen.see(&state);
        let leaving: Vec<_> = state.on_the_move().map(|agent| &agent.id).collect();
        assert_eq!(seen.0.keys().collect::<Vec<_>>(), leaving);
        assert_eq!((leaving.len(), moving(&state, &observed)), (1, 2));
    }
}
