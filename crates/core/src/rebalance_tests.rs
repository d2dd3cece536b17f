//! What a rebalance promises of fleets that are spread and agents that stand apart.

use std::collections::BTreeMap;

use fleet_types::NodeId;
use proptest::prelude::*;

use crate::{
    placement_tests::{
        Ask, PLAIN, Size, asking, carry_out, cluster, create, lose, rack_of, register, sized,
    },
    plan::Planner,
    property_tests::{command, fleet},
    *,
};

/// How many agents a fleet has in each rack that takes agents.
fn racks(state: &State, name: u8) -> BTreeMap<String, usize> {
    let open = state.nodes().values().filter(|node| node.status == NodeStatus::Active);
    let mut racks: BTreeMap<String, usize> =
        open.filter_map(|node| Some((rack_of(state, node.id)?, 0))).collect();
    for agent in state.fleet_agents(&fleet(name)) {
        let placement = agent.placement.as_ref();
        if let Some(rack) = placement.and_then(|placement| rack_of(state, placement.node)) {
            *racks.entry(rack).or_default() += 1;
        }
    }
    racks
}

fn squares(state: &State, name: u8) -> usize {
    // One that waits for a place makes its fleet no fleet that is spread yet.
    let is_spread =
        |agent: &Agent| agent.spec.wants.spread_by.is_some() && agent.placement.is_some();
    let spread = state.fleet_agents(&fleet(name)).any(is_spread);
    racks(state, name).values().map(|count| count * count).sum::<usize>() * usize::from(spread)
}

fn add(state: &mut State, n: usize, ask: Ask, to: Option<NodeId>) {
    let spec = asking(ask);
    let (index, name) = (2_000 + n as u64, format!("a{n}"));
    create(state, index, fleet(ask.fleet), &name, to, spec, Admission::Unchecked).unwrap();
}

/// Carries out what is planned, one by one, until nothing is.
fn settle(state: &mut State) -> Result<usize, TestCaseError> {
    let mut made = 0;
    while let Some(it) = rebalance::moves(state, 1).pop() {
        let before = [0, 1].map(|name| squares(state, name));
        carry_out(state, &it);
        let after = [0, 1].map(|name| squares(state, name));
        prop_assert!(after[0] <= before[0] && after[1] <= before[1], "less spread than before");
        let now = state.agents()[&it.agent].placement.as_ref().map(|p| p.node);
        prop_assert_eq!(now, Some(it.to), "it could not go where it was sent");
        made += 1;
        prop_assert!(made < 1_000, "it does not end");
    }
    Ok(made)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_rebalance_ends_spreads_and_brings_none_together(
        racks_of in proptest::collection::vec(0_u8..3, 3..8),
        asks in proptest::collection::vec(
            (0_u8..2, 0_u32..3, proptest::bool::weighted(0.1), any::<bool>()), 1..60),
        lost in proptest::collection::vec(any::<usize>(), 1..4),
    ) {
        let sized_in = |rack| Size { ports: 2_000, memory_gib: 64, rack, version: 1 };
        let (mut state, nodes) =
            cluster(&racks_of.iter().copied().map(sized_in).collect::<Vec<_>>());
        for (n, (name, order, apart, spread)) in asks.into_iter().enumerate() {
            let spread = spread.then_some("rack");
            let ask = Ask { fleet: name, order, apart, spread, ..PLAIN };
            let to = Planner::new(&state).choose(&fleet(name), &asking(ask));
            add(&mut state, n, ask, to);
        }
        for pick in lost {
            let at = pick % nodes.len();
            if state.nodes()[&nodes[at]].status == NodeStatus::Active {
                lose(&mut state, nodes[at]);
            } else {
                register(&mut state, nodes[at], sized(sized_in(racks_of[at])));
            }
        }
        settle(&mut state)?;
        for name in 0..2 {
            let counts = racks(&state, name);
            let least = counts.values().min().copied().unwrap_or(0);
            for agent in state.fleet_agents(&fleet(name)) {
                let free = agent.spec.wants.spread_by.is_some() && !agent.spec.wants.apart;
                let rack = agent.placement.as_ref().and_then(|p| rack_of(&state, p.node));
                let count = rack.filter(|_| free).map_or(0, |rack| counts[&rack]);
                prop_assert!(count <= least + 1, "{}: {counts:?}", agent.id);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_move_could_be_left_out(agents in proptest::collection::vec(0_usize..40, 2..7)) {
        let size = |_: &usize| Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
        let (mut state, nodes) = cluster(&agents.iter().map(size).collect::<Vec<_>>());
        let places = agents.iter().zip(&nodes).flat_map(|(n, node)| vec![*node; *n]);
        for (n, node) in places.enumerate() {
            add(&mut state, n, PLAIN, Some(node));
        }
        let loads = nodes.iter().map(|node| state.room(*node).unwrap().load());
        let price = loads.sum::<u64>() / nodes.len() as u64 / 10;
        let (moves, left) = rebalance::plan(&state, 1_000);
        for it in &moves {
            let takes = moves.iter().any(|other| other.to == it.from);
            prop_assert!(!takes, "{} gives and takes", it.from);
            prop_assert!(rebalance::imbalance(&state) > price, "all were even enough");
            carry_out(&mut state, it);
        }
        prop_assert_eq!(rebalance::imbalance(&state), left);
    }
}

#[test]
fn a_fleet_spreads_again_when_a_rack_is_back() {
    let in_rack = |rack| Size { ports: 399, memory_gib: 64, rack, version: 1 };
    let (mut state, nodes) = cluster(&[in_rack(0), in_rack(1), in_rack(2)]);
    for n in 0..9 {
        let ask = Ask { spread: Some("rack"), ..PLAIN };
        let to = Planner::new(&state).choose(&fleet(0), &asking(ask));
        add(&mut state, n, ask, to);
    }
    let even = |state: &State| racks(state, 0).into_values().collect::<Vec<_>>();
    assert_eq!(even(&state), [3, 3, 3]);
    lose(&mut state, nodes[2]);
    assert_eq!(even(&state), [5, 4]);
    assert_eq!(rebalance::moves(&state, 10), [], "as spread as it can be");
    register(&mut state, nodes[2], sized(in_rack(2)));
    assert_eq!(settle(&mut state).unwrap(), 3, "no more than are needed");
    assert_eq!(even(&state), [3, 3, 3]);
}

#[test]
fn nothing_is_moved_off_a_node_that_is_cordoned() {
    let in_rack = |rack| Size { ports: 399, memory_gib: 64, rack, version: 1 };
    let (mut state, nodes) = cluster(&[in_rack(0), in_rack(1)]);
    for n in 0..6 {
        add(&mut state, n, Ask { spread: Some("rack"), ..PLAIN }, Some(nodes[0]));
    }
    assert_eq!(rebalance::moves(&state, 10).len(), 3);
    let set = SetSchedulable { node: nodes[0], schedulable: Schedulable::Cordoned, drain: None };
    apply(&mut state, 3_000, &command(Operation::SetSchedulable(set))).unwrap();
    assert_eq!(rebalance::moves(&state, 10), []);
}

#[test]
fn what_is_on_the_move_counts_where_it_goes() {
    let same = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[same, same]);
    for n in 0..14 {
        add(&mut state, n, PLAIN, Some(nodes[usize::from(n >= 10)]));
    }
    let moves = rebalance::moves(&state, 10);
    assert_eq!(moves.len(), 3);
    let evict = rebalance::carry_out(&state, &moves, Cause::Rebalance);
    apply(&mut state, 3_000, &command(Operation::EvictAgents(evict))).unwrap();
    assert_eq!(rebalance::moves(&state, 10), []);
}

#[test]
fn agents_that_stand_apart_go_to_nodes_that_have_none_of_theirs() {
    let same = Size { ports: 399, memory_gib: 64, rack: 0, version: 1 };
    let (mut state, nodes) = cluster(&[same, same, same]);
    let apart = Ask { apart: true, order: 4, ..PLAIN };
    add(&mut state, 0, apart, Some(nodes[0]));
    add(&mut state, 1, apart, Some(nodes[1]));
    add(&mut state, 2, Ask { order: 4, fleet: 1, ..apart }, Some(nodes[0]));
    let moves = rebalance::moves(&state, 10);
    let [it] = &moves[..] else { panic!("{moves:?}") };
    assert_eq!((it.from, it.to), (nodes[0], nodes[2]));
}
