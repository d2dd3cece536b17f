//! How even a cluster is after a thousand random joins, losses, creates and deletes, before and
//! after a rebalance; the state machine and the planner alone.

use anyhow::{Result, ensure};
use fleet_core::{
    Cause, ConfirmStopped, DeleteAgent, Evidence, FULL, Load, NodeStatus, Operation, PlaceAgents,
    RegisterNode, ReleasePorts, audit,
    plan::{self, Planner},
    rebalance::{self, COST_PERCENT},
};
use fleet_types::{AgentClass, AgentId, NodeId};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::growth::{Grown, fleet, report, spec};

/// Nodes of the runs; each begins with a hundred agents a node.
const SIZES: [u64; 3] = [10, 100, 1_000];
const AGENTS_A_NODE: usize = 100;
const CHANGES: usize = 1_000;
/// One in so many losses is a join instead.
const JOINS: u32 = 10;
const SEED: u64 = 1;
/// Moves of one plan.
const MOVES: usize = 1_000;

fn status(grown: &Grown, node: NodeId) -> NodeStatus {
    grown.state.nodes()[&node].status
}

fn stopped(grown: &mut Grown, agent: AgentId, next: Option<NodeId>) -> Result<()> {
    let of = &grown.state.agents()[&agent];
    let Some(placement) = &of.placement else { return Ok(()) };
    let (node, generation) = (placement.node, of.generation);
    let epoch = grown.state.nodes()[&node].epoch;
    grown.apply(Operation::ConfirmStopped(ConfirmStopped { agent, generation, node, epoch, next }))
}

fn register(grown: &mut Grown, node: NodeId) -> Result<()> {
    let storage = grown.state.nodes()[&node].storage.clone();
    let report = report(usize::try_from(node.0)? - 1)?;
    grown.apply(Operation::RegisterNode(RegisterNode { node, storage, held: None, report }))
}

/// One change: a node more, a node lost, a node back, an agent made, an agent deleted.
fn change(grown: &mut Grown, made: usize, random: &mut StdRng) -> Result<()> {
    let nodes: Vec<NodeId> = grown.state.nodes().keys().copied().collect();
    let node = *nodes.choose(random).expect("there are nodes");
    let up = nodes.iter().filter(|node| status(grown, **node) == NodeStatus::Active).count();
    match (random.random_range(0..10), status(grown, node)) {
        (0, NodeStatus::Active) if random.random_ratio(1, JOINS) => {
            grown.admit(u64::try_from(made)?)?;
            let (last, _) = grown.state.nodes().last_key_value().expect("there are nodes");
            register(grown, *last)?;
        }
        (0, NodeStatus::Active) if up > 2 => {
            let epoch = grown.state.nodes()[&node].epoch;
            let evidence = Evidence::ConfirmedEmpty;
            let fence = plan::fence(&grown.state, node, epoch, evidence, AgentClass::Strict, 0);
            grown.apply(Operation::FenceNode(fence))?;
        }
        (0 | 1, NodeStatus::Fenced) => register(grown, node)?,
        (0..=5, _) => {
            let to = Planner::new(&grown.state).choose(&fleet(), &spec());
            grown.create(made, vec![to])?;
        }
        _ => {
            let all: Vec<&AgentId> = grown.state.agents().keys().collect();
            let Some(agent) = all.choose(random).map(|id| (*id).clone()) else { return Ok(()) };
            grown.apply(Operation::DeleteAgent(DeleteAgent { agent: agent.clone() }))?;
            if grown.state.agents().contains_key(&agent) {
                stopped(grown, agent, None)?;
            }
        }
    }
    let moves = plan::placements(&grown.state, MOVES, 0);
    if !moves.is_empty() {
        grown.apply(Operation::PlaceAgents(PlaceAgents { moves }))?;
    }
    Ok(())
}

/// Makes all moves that are worth their price: how many.
fn level(grown: &mut Grown) -> Result<usize> {
    let mut all = 0;
    loop {
        let moves = rebalance::moves(&grown.state, MOVES);
        if moves.is_empty() {
            return Ok(all);
        }
        all += moves.len();
        let evict = rebalance::carry_out(&grown.state, &moves, Cause::Rebalance);
        grown.apply(Operation::EvictAgents(evict))?;
        for it in moves {
            stopped(grown, it.agent, Some(it.to))?;
        }
    }
}

/// What two nodes may differ by: two agents' shares, or the price of a move if that is more.
fn bound(grown: &Grown) -> Load {
    let up = grown.state.nodes().values().filter(|node| node.status == NodeStatus::Active);
    let load = |node: NodeId| grown.state.room(node).map_or(0, |room| room.load());
    let (mut sum, mut agents, mut nodes) = (0, 0, 0);
    for node in up {
        (sum, nodes) = (sum + load(node.id), nodes + 1);
        agents += grown.state.placed_on(node.id).len() as Load;
    }
    let (mean, share) = (sum / nodes, sum.div_ceil(agents));
    (2 * share).max(mean * COST_PERCENT / 100) + 2
}

/// Prints the table.
pub(crate) fn run() -> Result<()> {
    println!("\nhow even {CHANGES} random changes leave nodes, in hundredths of a node\n");
    println!("| nodes | agents | apart before | moves | apart after | bound |");
    println!("|---|---|---|---|---|---|");
    let percent = |load: Load| load as f64 * 100.0 / FULL as f64;
    for count in SIZES {
        let mut grown = Grown::with_nodes(count)?;
        for n in 0..usize::try_from(count)? {
            let mut planner = Planner::new(&grown.state);
            let to = (0..AGENTS_A_NODE).map(|_| planner.choose(&fleet(), &spec())).collect();
            grown.create(n * AGENTS_A_NODE, to)?;
        }
        let (first, mut random) = (grown.state.agents().len(), StdRng::seed_from_u64(SEED));
        for n in 0..CHANGES {
            change(&mut grown, first + n, &mut random)?;
        }
        let nodes: Vec<NodeId> = grown.state.nodes().keys().copied().collect();
        for node in &nodes {
            let blocks = grown.state.quarantined(*node).map(|kept| kept.block).collect();
            let epoch = grown.state.nodes()[node].epoch;
            grown.apply(Operation::ReleasePorts(ReleasePorts { node: *node, epoch, blocks }))?;
        }
        let before = rebalance::imbalance(&grown.state);
        let moves = level(&mut grown)?;
        let (after, bound) = (rebalance::imbalance(&grown.state), bound(&grown));
        ensure!(after <= bound, "{after} is more than {bound}");
        ensure!(audit(&grown.state).is_empty(), "the state is not sound");
        println!(
            "| {} | {} | {:.1} | {moves} | {:.1} | {:.1} |",
            nodes.len(),
            grown.state.agents().len(),
            percent(before),
            percent(after),
            percent(bound),
        );
    }
    Ok(())
}
